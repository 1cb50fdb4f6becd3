//! A pull, told from the top.
//!
//! ```text
//!   lease ─► resolve ─► documents ─► configs and layers, a few at a time ─┐
//!                                        │ each one as it arrives          ├─► labels ─► image ─► lease dropped
//!                                        └─► unpack, the lowest first ─────┘
//! ```
//!
//! The image is recorded last: until then it is what it was before. Dropping the future stops everything; what was not finished is an
//! upload to resume or a snapshot that removes itself, and layers that were fetched are kept for a while, for the next try.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream;
use model::reference::Reference;
use model::{Descriptor, Digest, Labels};
use tracing::info;

use super::arrivals::Arrivals;
use super::document::is_layer;
use super::fetch::{Fetch, source_label};
use super::progress::Reporter;
use super::registry::Registry;
use super::resolve::{self, Resolved, resolve};
use super::tree::{Choice, Tree, Walk};
use super::{Images, TransferError, Wanted, lease, names};
use crate::api::Scope;
use crate::meta::images::{ImageError, ImageUpdate};

impl Images {
    /// Pulls `reference` from its registry, and gives what it stands for the wanted names.
    ///
    /// # Errors
    /// The registry, the image or the store is not as it should be. No name is given then.
    ///
    /// # Cancel safety
    /// When this is dropped, what was fetched of a blob stays for the next pull, and nothing else does.
    pub async fn pull(
        &self,
        scope: Scope,
        registry: &impl Registry,
        reference: &Reference,
        wanted: &Wanted,
        reporter: &Reporter,
    ) -> Result<Descriptor, TransferError> {
        let namespace = scope.namespace.clone();
        let name = if wanted.name.is_empty() { reference.to_string() } else { wanted.name.clone() };
        let held = lease::Held::new(&self.meta, scope).await?.keeping_for(&name);
        self.pulls.begun.fetch_add(1, Ordering::Relaxed);
        let pulled = self.pull_under(&held, registry, reference, &name, wanted, reporter).await;
        if pulled.is_err() {
            self.pulls.failed.fetch_add(1, Ordering::Relaxed);
        }
        let root = match pulled {
            Ok(root) => root,
            Err(error) => {
                if !error.may_pass() {
                    held.keep_nothing();
                }
                return Err(error);
            }
        };
        held.release().await?;
        lease::forget_kept(&self.meta, &namespace, &name).await;
        info!(ns = %namespace, image = name, digest = %root.digest, "image pulled");
        Ok(root)
    }

    async fn pull_under(
        &self,
        held: &lease::Held,
        registry: &impl Registry,
        reference: &Reference,
        name: &str,
        wanted: &Wanted,
        reporter: &Reporter,
    ) -> Result<Descriptor, TransferError> {
        reporter.say(format!("Resolving from OCI Registry ({reference})"));
        let resolved = resolve(registry, reference).await?;
        let root = resolved.descriptor.clone();
        self.settings.verifiers.judge(name, &root).await?;
        reporter.say(format!("Pulling from OCI Registry ({reference})"));
        reporter.about(name, "fetching image content", Some(&root));
        let tree = self.documents(held, registry, name, resolved, wanted, reporter).await?;
        let elsewhere =
            self.layers_elsewhere(held.scope(), registry, &reference.to_string(), &tree, &wanted.unpacks).await?;
        self.blobs(held, registry, &tree, wanted, &elsewhere, reporter).await?;
        self.keep(held.scope(), &tree).await?;
        for one in names::of_whole(name, &root.digest, &wanted.references) {
            self.record(held.scope(), &one, &wanted.labels, &root).await?;
            reporter.about(&one, "saved", Some(&root));
        }
        Ok(root)
    }

    /// Gets the documents of the wanted platforms.
    async fn documents(
        &self,
        held: &lease::Held,
        registry: &impl Registry,
        name: &str,
        resolved: Resolved,
        wanted: &Wanted,
        reporter: &Reporter,
    ) -> Result<Tree, TransferError> {
        let (scope, root) = (held.scope(), resolved.descriptor.digest.clone());
        let mut first = Some(resolved.bytes);
        let choice =
            Choice { platforms: &wanted.platforms, all_metadata: wanted.all_metadata, limit: wanted.manifest_limit };
        let mut walk = Walk::new(name, resolved.descriptor, choice);
        while let Some((descriptor, parents)) = walk.next()? {
            let item = reporter.blob(&descriptor, &parents);
            held.hold(std::iter::once(&descriptor.digest)).await?;
            let here = self.has(&scope.namespace, &descriptor.digest)?;
            let bytes = match first.take_if(|_| descriptor.digest == root) {
                Some(bytes) => bytes,
                None if here => self.read(&scope.namespace, &descriptor.digest).await?,
                None => resolve::child(registry, &descriptor).await?,
            };
            walk.found(&bytes)?;
            if !here {
                self.write(scope, &descriptor, bytes, source_label(registry)).await?;
            }
            self.note_source(scope, &descriptor.digest, registry).await?;
            item.done(if here { "already exists" } else { "complete" });
        }
        Ok(walk.finish())
    }

    /// Fetches configs and layers, and unpacks each as soon as it is there.
    async fn blobs(
        &self,
        held: &lease::Held,
        registry: &impl Registry,
        tree: &Tree,
        wanted: &Wanted,
        elsewhere: &HashSet<Digest>,
        reporter: &Reporter,
    ) -> Result<(), TransferError> {
        let (blobs, urls) = (tree.blobs(), &tree.urls());
        held.hold(blobs.iter().map(|(blob, _)| &blob.digest)).await?;
        let (scope, uploads) = (held.scope(), &held.upload_scope());
        let mut arrivals = Arrivals::default();
        for (blob, parents) in &blobs {
            arrivals.expect(&blob.digest, reporter.blob(blob, parents));
        }
        let arrivals = &arrivals;
        let fetching = async {
            let one = |(blob, _): (Descriptor, Vec<String>)| async move {
                if elsewhere.contains(&blob.digest) {
                    arrivals.arrived(&blob.digest);
                    return Ok(());
                }
                if let Some(item) = arrivals.item(&blob.digest) {
                    let urls = urls.get(&blob.digest).map(Vec::as_slice).unwrap_or_default();
                    let follower = arrivals.arriving(&blob.digest).filter(|_| is_layer(&blob.media_type));
                    let fetch = Fetch { blob: &blob, urls, item: &item, follower };
                    if self.fetch(uploads, registry, fetch).await? && is_layer(&blob.media_type) {
                        held.fetched(&blob.digest);
                    }
                }
                self.note_source(scope, &blob.digest, registry).await?;
                arrivals.arrived(&blob.digest);
                Ok::<_, TransferError>(())
            };
            let mut all = stream::iter(blobs).map(one).buffer_unordered(self.settings.downloads.max(1));
            while let Some(fetched) = all.next().await {
                fetched?;
            }
            Ok(())
        };
        tokio::try_join!(fetching, self.unpack_all(scope, tree, wanted, arrivals))?;
        Ok(())
    }

    /// Unpacks what is to be unpacked, as blobs arrive.
    pub(super) async fn unpack_all(
        &self,
        scope: &Scope,
        tree: &Tree,
        wanted: &Wanted,
        arrivals: &Arrivals,
    ) -> Result<(), TransferError> {
        let images: Vec<_> = tree.images().collect();
        let each = images.iter().flat_map(|image| wanted.unpacks.iter().map(move |unpack| (image, unpack)));
        try_join_all(each.map(|(image, unpack)| self.unpack(scope, image, unpack, arrivals))).await?;
        Ok(())
    }

    /// Labels every document with what it keeps, from the leaves up.
    pub(super) async fn keep(&self, scope: &Scope, tree: &Tree) -> Result<(), TransferError> {
        let is_here = |digest: &_| self.has(&scope.namespace, digest).unwrap_or(false);
        for (digest, labels) in tree.references(is_here) {
            self.label(&scope.namespace, &digest, labels).await?;
        }
        Ok(())
    }

    /// Gives `target` a name, whatever had it before.
    pub(super) async fn record(
        &self,
        scope: &Scope,
        name: &str,
        labels: &Labels,
        target: &Descriptor,
    ) -> Result<(), TransferError> {
        let update = ImageUpdate {
            name: name.to_owned(),
            labels: labels.clone(),
            target: Some(target.clone()),
            annotations: Labels::new(),
            paths: None,
            time: None,
        };
        loop {
            match self.meta.update_image(scope.clone(), update.clone()).await {
                Err(ImageError::NotFound { .. }) => {}
                outcome => return Ok(outcome.map(drop)?),
            }
            let created =
                self.meta.create_image(scope.clone(), name.to_owned(), labels.clone(), target.clone(), None).await;
            match created {
                // Made by somebody else in between.
                Err(ImageError::AlreadyExists { .. }) => {}
                outcome => return Ok(outcome.map(drop)?),
            }
        }
    }
}
