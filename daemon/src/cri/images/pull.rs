//! PullImage: with the credentials of the request, for the snapshotter of the handler, under all names that the image gets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::{Instant, interval};

use super::*;
use crate::images::operations::Kind as Operation;
use crate::images::registry::auth::{Asker, Credentials, Secret};
use crate::images::registry::client::Purpose;
use crate::images::registry::hosts::address_of;
use crate::images::{Door, RegistryAccess};
use crate::meta::images::ImageUpdate;

/// The annotation that names the handler where the field for it is empty.
const HANDLER_ANNOTATION: &str = "io.containerd.cri.runtime-handler";

/// How often progress is looked at.
const LOOK: Duration = Duration::from_secs(1);

impl Cri {
    pub(in crate::cri) async fn pull_image(
        &self,
        request: wire::PullImageRequest,
    ) -> Result<wire::PullImageResponse, Failure> {
        let wire::PullImageRequest { image, auth, sandbox_config: _ } = request;
        let image = image.unwrap_or_default();
        let handler = match image.annotations.get(HANDLER_ANNOTATION) {
            Some(annotated) if image.runtime_handler.is_empty() => annotated.clone(),
            _ => image.runtime_handler.clone(),
        };
        self.handler(&handler)?;
        let snapshotter = self.inner.settings.snapshotter_of(&handler).to_owned();
        let pinned = self
            .inner
            .settings
            .sandbox_image
            .as_deref()
            .is_some_and(|name| names::normalized(name) == names::normalized(&image.image));
        let pulled = self.pull(&image.image, auth.unwrap_or_default(), &snapshotter, pinned).await?;
        Ok(wire::PullImageResponse { image_ref: pulled.id().to_owned() })
    }

    /// Pulls an image that kubelets must leave alone.
    pub(in crate::cri) async fn pull_pinned(&self, name: &str) -> Result<KnownImage, Failure> {
        let snapshotter = self.inner.settings.snapshotter.clone();
        self.pull(name, wire::AuthConfig::default(), &snapshotter, true).await
    }

    /// An image by its whole name alone, which costs less than looking through all.
    pub(in crate::cri) async fn image_named(&self, name: &str) -> Result<Option<KnownImage>, Failure> {
        let (meta, namespace, whole) = (self.inner.meta.clone(), self.inner.namespace.clone(), names::normalized(name));
        let record = match blocking::run(move || meta.image(&namespace, &whole)).await {
            Ok(image) => image,
            Err(ImageError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(fact) = self.fact(&record.name, &record.record.target).await else { return Ok(None) };
        let pinned = record.record.labels.get(PINNED_LABEL).is_some_and(|value| value == PINNED);
        Ok(Some(KnownImage {
            fact,
            target: record.record.target,
            tags: vec![record.name.clone()],
            digests: Vec::new(),
            names: vec![record.name],
            pinned,
        }))
    }

    async fn pull(
        &self,
        name: &str,
        auth: wire::AuthConfig,
        snapshotter: &str,
        pinned: bool,
    ) -> Result<KnownImage, Failure> {
        let whole = names::normalized(name);
        let reference: Reference = whole.parse().map_err(|error: model::reference::ReferenceError| {
            CriError::Invalid(format!("cannot parse the image reference {name:?}: {error}"))
        })?;
        // A digest says more than a tag.
        let own_name = match reference.digest() {
            Some(digest) => format!("{}@{digest}", reference.locator()),
            None => reference.to_string(),
        };
        let access =
            RegistryAccess { asker: asker(&auth, reference.host())?, door: Door::Cri, ..RegistryAccess::default() };
        let remote = self.inner.images.remote(reference.clone(), Purpose::Pull, access).await?;
        let by_digest = names::Naming {
            name: reference.locator(),
            is_prefix: false,
            allow_overwrite: true,
            add_digest: true,
            skip_named_digest: false,
        };
        let wanted = Wanted {
            name: own_name.clone(),
            labels: labels(pinned),
            platforms: vec![Platform::host()],
            references: vec![by_digest],
            unpacks: vec![Unpack { platform: Platform::host(), snapshotter: snapshotter.to_owned() }],
            ..Wanted::default()
        };
        let operation = self.inner.images.operations().begin(Operation::Pull, &self.inner.namespace, &own_name);
        let limit = self.inner.settings.pull_progress;
        let images = &self.inner.images;
        let work = async |reporter: crate::images::progress::Reporter| {
            let pulling = images.pull(self.scope(), &remote, &reference, &wanted, &reporter);
            tokio::pin!(pulling);
            let (mut seen, mut since, mut look) = (0, Instant::now(), interval(LOOK));
            loop {
                tokio::select! {
                    outcome = &mut pulling => return outcome.map(Some),
                    _ = look.tick(), if !limit.is_zero() => {
                        let now = reporter.seen();
                        // Each thing that is done counts, and so does each byte.
                        let progress = now.done_bytes + now.parts.iter().filter(|part| part.phase != "waiting").count() as u64;
                        if progress != seen {
                            (seen, since) = (progress, Instant::now());
                        } else if since.elapsed() > limit {
                            return Ok(None);
                        }
                    }
                }
            }
        };
        let target = operation.run(None, work, |_| Vec::new()).await?;
        let target = target.ok_or_else(|| {
            CriError::Deadline(format!("pulling {own_name} made no progress for {limit:?}, it was cancelled"))
        })?;
        let fact = self.fact(&own_name, &target).await;
        let fact = fact.ok_or_else(|| CriError::Failed(format!("{own_name} is not an image for this machine")))?;
        // By its id, too, so that it stays when a tag moves on.
        self.name_image(fact.id.clone(), target.clone(), labels(pinned)).await?;
        info!(image = own_name, id = fact.id, "image pulled");
        let found = self.find_image(&fact.id).await?;
        Ok(found.ok_or(CriError::Missing { what: "image", id: own_name })?)
    }

    /// Gives a target a name, whatever had it before.
    async fn name_image(&self, name: String, target: Descriptor, labels: Labels) -> Result<(), Failure> {
        let update = ImageUpdate {
            name: name.clone(),
            labels: labels.clone(),
            target: Some(target.clone()),
            annotations: Labels::new(),
            paths: None,
            time: None,
        };
        loop {
            match self.inner.meta.update_image(self.scope(), update.clone()).await {
                Err(ImageError::NotFound { .. }) => {}
                outcome => return Ok(outcome.map(drop)?),
            }
            match self.inner.meta.create_image(self.scope(), name.clone(), labels.clone(), target.clone(), None).await {
                // Made by somebody else in between.
                Err(ImageError::AlreadyExists { .. }) => {}
                outcome => return Ok(outcome.map(drop)?),
            }
        }
    }
}

/// Who we are at a registry, as the request says.
fn asker(auth: &wire::AuthConfig, host: &str) -> Result<Asker, CriError> {
    let wire::AuthConfig { username, password, auth, server_address, identity_token, registry_token } = auth;
    let credentials = if !username.is_empty() {
        Credentials::Password { user: username.clone(), password: Secret::new(password.as_str()) }
    } else if !identity_token.is_empty() {
        Credentials::Refresh(Secret::new(identity_token.as_str()))
    } else if !auth.is_empty() {
        let wrong = || CriError::Invalid("the field auth is not a user and a password in base64".into());
        let decoded = STANDARD.decode(auth).map_err(|_| wrong())?;
        let text = String::from_utf8(decoded).map_err(|_| wrong())?;
        let (user, password) = text.split_once(':').ok_or_else(wrong)?;
        // Some tools pad it.
        Credentials::Password { user: user.to_owned(), password: Secret::new(password.trim_matches('\0')) }
    } else if !registry_token.is_empty() {
        Credentials::Header(Secret::new(format!("Bearer {registry_token}")))
    } else {
        return Ok(Asker::default());
    };
    if server_address.is_empty() {
        return Ok(Asker::knowing(credentials, None));
    }
    let address = server_address.split_once("://").map_or(server_address.as_str(), |(_, rest)| rest);
    let address = address.split('/').next().unwrap_or_default();
    let address = if address == "index.docker.io" { "docker.io" } else { address };
    // For another registry than this one they are not meant, and not sent.
    if address_of(address) != address_of(host) {
        return Ok(Asker::default());
    }
    Ok(Asker::knowing(credentials, Some(host.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(auth: wire::AuthConfig, host: &str) -> Result<Credentials, CriError> {
        let answer = asker(&auth, "r.example:5000")?.ask(host, "a", &[]).await;
        Ok(answer.unwrap())
    }

    #[tokio::test]
    async fn credentials_in_their_order_and_for_whom_they_are_meant() {
        let password =
            |user: &str, secret: &str| Credentials::Password { user: user.into(), password: Secret::new(secret) };
        let host = "r.example:5000";
        let auth = |text: &str| wire::AuthConfig { auth: STANDARD.encode(text), ..Default::default() };
        let named = wire::AuthConfig { username: "u".into(), password: "p".into(), ..auth("other:one") };
        assert_eq!(asked(named.clone(), host).await.unwrap(), password("u", "p"));
        assert_eq!(asked(auth("a:b:c\0\0"), host).await.unwrap(), password("a", "b:c"));
        let token = wire::AuthConfig { identity_token: "t".into(), ..auth("a:b") };
        assert_eq!(asked(token, host).await.unwrap(), Credentials::Refresh(Secret::new("t")));
        let header = wire::AuthConfig { registry_token: "t".into(), ..Default::default() };
        assert_eq!(asked(header, host).await.unwrap(), Credentials::Header(Secret::new("Bearer t")));
        assert_eq!(asked(wire::AuthConfig::default(), host).await.unwrap(), Credentials::Anonymous);
        for (address, meant) in
            [("https://r.example:5000/v2", true), ("r.example:5000", true), ("other.example", false)]
        {
            let limited = wire::AuthConfig { server_address: address.into(), ..named.clone() };
            let got = asked(limited.clone(), host).await.unwrap();
            assert_eq!(got == password("u", "p"), meant, "{address}");
            assert_eq!(asked(limited, "mirror.example").await.unwrap(), Credentials::Anonymous);
        }
        for wrong in [wire::AuthConfig { auth: "!".into(), ..Default::default() }, auth("no colon")] {
            assert!(asked(wrong, host).await.is_err());
        }
    }
}
