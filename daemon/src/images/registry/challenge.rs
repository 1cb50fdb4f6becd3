//! What a registry says when it wants to know who asks, and what can be said to that. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_auth::parser::ChallengeParser;
use oci_distribution::secrets::RegistryAuth;
use serde::Deserialize;

use super::auth::Secret;

/// Where tokens come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct TokenService {
    /// Its address.
    pub(super) realm: String,
    /// What it calls the registry.
    pub(super) service: Option<String>,
    /// What the registry wants to be allowed.
    pub(super) scope: Option<String>,
}

/// The token services that challenges name.
pub(super) fn token_services(challenges: &[String]) -> Vec<TokenService> {
    let parsed = challenges.iter().flat_map(|challenge| ChallengeParser::new(challenge).filter_map(Result::ok));
    let bearer = parsed.filter(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"));
    let services = bearer.map(|challenge| {
        let mut service = TokenService::default();
        for (name, value) in challenge.params {
            let value = value.to_unescaped();
            match name.to_ascii_lowercase().as_str() {
                "realm" => service.realm = value,
                "service" => service.service = Some(value),
                "scope" => service.scope = Some(value),
                _ => {}
            }
        }
        service
    });
    services.filter(|service| !service.realm.is_empty()).collect()
}

/// The token in the answer of a token service.
pub(super) fn token(answer: &[u8]) -> Option<Secret> {
    #[derive(Deserialize)]
    struct Answer {
        access_token: Option<String>,
        token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    answer.access_token.or(answer.token).filter(|token| !token.is_empty()).map(Secret::new)
}

/// What the value of an `Authorization` header says.
pub(super) fn from_header(value: &Secret) -> Option<RegistryAuth> {
    let (scheme, rest) = value.expose().split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(RegistryAuth::Bearer(rest.trim().to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(RegistryAuth::Basic(user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_taken_apart() {
        let read = |value: &str| from_header(&Secret::new(value));
        assert_eq!(read("Bearer abc"), Some(RegistryAuth::Bearer("abc".into())));
        assert_eq!(read("basic dXNlcjpwYTpzcw=="), Some(RegistryAuth::Basic("user".into(), "pa:ss".into())));
        assert_eq!(read("Digest x"), None);
        assert_eq!(read("Basic !"), None);
    }

    #[test]
    fn token_services_are_found_among_other_challenges() {
        let challenges = [
            r#"Basic realm="x""#.to_owned(),
            r#"Bearer realm="https://t.example/token",service="s",scope="repository:a:pull""#.to_owned(),
            "Bearer".to_owned(),
            "nonsense \"".to_owned(),
        ];
        let service = TokenService {
            realm: "https://t.example/token".into(),
            service: Some("s".into()),
            scope: Some("repository:a:pull".into()),
        };
        assert_eq!(token_services(&challenges), [service]);
    }

    #[test]
    fn a_token_has_one_of_two_names() {
        let read = |answer: &str| token(answer.as_bytes()).map(|token| token.expose().to_owned());
        assert_eq!(read(r#"{"token":"a"}"#).as_deref(), Some("a"));
        assert_eq!(read(r#"{"access_token":"a","token":"b","expires_in":300}"#).as_deref(), Some("a"));
        assert_eq!(read(r#"{"token":""}"#), None);
        assert_eq!(read("<html>"), None);
    }
}
