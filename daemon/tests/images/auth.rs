//! Registries that want to know who asks.

use std::sync::{Arc, Mutex};

use proto::types::transfer::{AuthResponse, AuthType, OciRegistry, RegistryResolver};
use tonic::Code;

use crate::client::{Left, image_names, nothing_left, pull, pull_as, store, transfer};
use crate::fake::{Answer, Fake, serve_made};
use crate::fixtures::{Compress, Image, Made, layer, root};
use crate::server::{Server, refused};

const PASSWORD: &str = "correct-horse";
/// `user:correct-horse`.
const BASIC: &str = "Basic dXNlcjpjb3JyZWN0LWhvcnNl";
const TOKEN: &str = "token-that-nobody-may-see";

fn made() -> (Made, Image) {
    let mut made = Made::default();
    let image = made.image("amd64", &[layer(&[("a", b"a")])], Compress::Gzip);
    (made, image)
}

fn challenge(header: &str) -> Answer {
    let words = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
    Answer::new(401, words).with("WWW-Authenticate", header)
}

fn password(user: &str, secret: &str) -> AuthResponse {
    AuthResponse {
        auth_type: AuthType::Credentials as i32,
        username: user.into(),
        secret: secret.into(),
        ..Default::default()
    }
}

async fn basic(made: &Made, image: &Image) -> Fake {
    let (made, root) = (made.clone(), image.manifest.clone());
    Fake::start(move |asked, _| match asked.headers.get("authorization").map(String::as_str) {
        Some(BASIC) => serve_made(&made, &root, asked),
        _ => challenge(r#"Basic realm="here""#),
    })
    .await
}

/// A registry whose tokens come from itself.
async fn bearer(made: &Made, image: &Image, realm: impl Fn(&str) -> String) -> Fake {
    let (made, root) = (made.clone(), image.manifest.clone());
    let address = Arc::new(Mutex::new(String::new()));
    let realm_of = Arc::clone(&address);
    let fake = Fake::start(move |asked, _| {
        let authorization = asked.headers.get("authorization").map(String::as_str);
        if asked.path.starts_with("/token") {
            return match authorization {
                None if asked.body.contains("refresh_token=refresh%26me") => {
                    Answer::new(200, format!(r#"{{"access_token":"{TOKEN}"}}"#))
                }
                Some(BASIC) => Answer::new(200, format!(r#"{{"token":"{TOKEN}","expires_in":300}}"#)),
                _ => Answer::new(401, r#"{"details":"incorrect username or password"}"#),
            };
        }
        if authorization == Some(&format!("Bearer {TOKEN}")) {
            return serve_made(&made, &root, asked);
        }
        challenge(&format!(r#"Bearer realm="{}",service="s",scope="repository:a:pull""#, realm_of.lock().unwrap()))
    })
    .await;
    *address.lock().unwrap() = realm(&fake.host);
    fake
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_opens_the_registry_it_is_for() {
    if !root() {
        return;
    }
    let (made, image) = made();
    let (server, fake) = (Server::start().await, basic(&made, &image).await);
    let (name, mut asked) = (fake.name("a:t"), Vec::new());
    pull_as(&server, &name, |request| {
        asked.push(request);
        password("user", PASSWORD)
    })
    .await
    .unwrap();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].host.as_str(), asked[0].reference.as_str()), (fake.host.as_str(), name.as_str()));
    assert_eq!(asked[0].wwwauthenticate, [r#"Basic realm="here""#]);
    assert_eq!(image_names(&server).await, [name]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_exchanged_for_a_token() {
    if !root() {
        return;
    }
    let (made, image) = made();
    let server = Server::start().await;
    let fake = bearer(&made, &image, |host| format!("http://{host}/token")).await;
    pull_as(&server, &fake.name("a:t"), |_| password("user", PASSWORD)).await.unwrap();
    let asked = fake.asked();
    let token = asked.iter().find(|asked| asked.path.starts_with("/token")).unwrap();
    assert!(token.path.contains("scope=repository%3Aa%3Apull") && token.path.contains("service=s"), "{token:?}");
    // The password goes to the token service only.
    let basic = asked.iter().filter(|asked| asked.headers.get("authorization").is_some_and(|value| value == BASIC));
    assert!(basic.clone().count() > 0 && basic.clone().all(|asked| asked.path.starts_with("/token")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_is_used_as_it_is() {
    if !root() {
        return;
    }
    let (made, image) = made();
    let server = Server::start().await;
    let fake = bearer(&made, &image, |host| format!("http://{host}/token")).await;
    let header =
        |value: &str| AuthResponse { auth_type: AuthType::Header as i32, secret: value.into(), ..Default::default() };
    pull_as(&server, &fake.name("a:t"), |_| header(&format!("Bearer {TOKEN}"))).await.unwrap();
    let other = basic(&made, &image).await;
    pull_as(&server, &other.name("a:t"), |_| header(BASIC)).await.unwrap();
    let error = pull_as(&server, &other.name("b:t"), |_| header("Digest x")).await;
    refused(error, Code::PermissionDenied, "Basic or Bearer");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_denied_and_repeated_nowhere() {
    let (made, image) = made();
    let server = Server::start().await;
    for fake in [basic(&made, &image).await, bearer(&made, &image, |host| format!("http://{host}/token")).await] {
        for (user, secret) in [("user", "wrong-secret"), ("", "wrong-secret")] {
            let error = pull_as(&server, &fake.name("a:t"), |_| password(user, secret)).await.unwrap_err();
            assert_eq!(error.code(), Code::PermissionDenied, "{error:?}");
            assert!(error.message().contains(&fake.host), "{error:?}");
            assert!(!error.message().contains(secret) && !error.message().contains(TOKEN), "{error:?}");
        }
        // Without anybody to ask it is denied as well, in the words of the registry.
        let error = pull(&server, &fake.name("a:t")).await.unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{error:?}");
    }
    nothing_left(Left::of(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_exchanged() {
    if !root() {
        return;
    }
    let (made, image) = made();
    let server = Server::start().await;
    let refresh = |secret: &str| AuthResponse {
        auth_type: AuthType::Refresh as i32,
        secret: secret.into(),
        ..Default::default()
    };
    let fake = bearer(&made, &image, |host| format!("http://{host}/token")).await;
    pull_as(&server, &fake.name("a:t"), |_| refresh("refresh&me")).await.unwrap();
    let asked = fake.asked();
    let token = asked.iter().find(|asked| asked.path.starts_with("/token")).unwrap();
    assert_eq!(token.method, "POST");
    for pair in ["grant_type=refresh_token", "refresh_token=refresh%26me", "scope=repository%3Aa%3Apull", "service=s"] {
        assert!(token.body.split('&').any(|one| one == pair), "{pair} in {}", token.body);
    }
    let error = pull_as(&server, &fake.name("b:t"), |_| refresh("wrong")).await;
    refused(error, Code::PermissionDenied, "incorrect");
    let basic = basic(&made, &image).await;
    let error = pull_as(&server, &basic.name("a:t"), |_| refresh("r")).await;
    refused(error, Code::PermissionDenied, "takes no refresh token");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_never_sees_the_credentials() {
    if !root() {
        return;
    }
    let (made, image) = made();
    let server = Server::start().await;
    // Blobs are elsewhere, as they are with registries that keep them in a cloud.
    let elsewhere = Fake::of(&made, &image.manifest).await;
    // The same address by another name is another host.
    let port = elsewhere.host.split_once(':').unwrap().1.to_owned();
    let fake = {
        let (made, root) = (made.clone(), image.manifest.clone());
        Fake::start(move |asked, _| match asked.headers.get("authorization").map(String::as_str) {
            Some(BASIC) if asked.path.contains("/blobs/") => {
                Answer::new(307, "").with("Location", format!("http://localhost:{port}{}", asked.path))
            }
            Some(BASIC) => serve_made(&made, &root, asked),
            _ => challenge(r#"Basic realm="here""#),
        })
        .await
    };
    pull_as(&server, &fake.name("a:t"), |_| password("user", PASSWORD)).await.unwrap();
    let asked = elsewhere.asked();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|asked| !asked.headers.contains_key("authorization")), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_schemes_that_are_none_are_refused() {
    let server = Server::start().await;
    let name = "127.0.0.1:1/a:t";
    let resolver = RegistryResolver { default_scheme: "ftp".into(), ..Default::default() };
    let from = OciRegistry { reference: name.into(), resolver: Some(resolver) };
    refused(transfer(&server, &from, &store(name)).await, Code::InvalidArgument, "ftp");
    for reference in ["busybox", "127.0.0.1:1/UPPER:t", "127.0.0.1:1/a"] {
        let from = OciRegistry { reference: reference.into(), resolver: None };
        refused(transfer(&server, &from, &store(reference)).await, Code::InvalidArgument, reference);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_over_is_replaced_and_anybody_may_have_one() {
    if !root() {
        return;
    }
    let (made, image) = made();
    let (root, address) = (image.manifest.clone(), Arc::new(Mutex::new(String::new())));
    let realm = Arc::clone(&address);
    let fake = Fake::start(move |asked, before| {
        if asked.path.starts_with("/token") {
            assert!(!asked.headers.contains_key("authorization"));
            return Answer::new(200, format!(r#"{{"access_token":"token-{before}"}}"#));
        }
        // The first token is over when it comes to blobs.
        let wanted = if asked.path.contains("/blobs/") { "Bearer token-1" } else { "Bearer token-0" };
        match asked.headers.get("authorization") {
            Some(token) if token == wanted => serve_made(&made, &root, asked),
            _ => challenge(&format!(r#"Bearer realm="http://{}/token",service="s""#, realm.lock().unwrap())),
        }
    })
    .await;
    (*address.lock().unwrap()).clone_from(&fake.host);
    let server = Server::start().await;
    pull(&server, &fake.name("a:t")).await.unwrap();
    let tokens = fake.asked().iter().filter(|asked| asked.path.starts_with("/token")).count();
    assert_eq!(tokens, 2);
}
