//! The lease under which a transfer works: collection spares everything made under it until the image is on record.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::try_join_all;
use model::{Digest, Labels, Namespace};

use crate::api::Scope;
use crate::gc::labels::EXPIRE;
use crate::meta::Meta;
use crate::meta::leases::{LeaseError, Resource, nanoseconds, random_text};

/// How long a transfer is protected if the daemon dies in the middle of it.
const LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// Marks the leases of transfers. A daemon that begins has none under way.
const LABEL_TRANSFER: &str = "gantry.io/transfer";

/// Removes the leases of transfers that an earlier daemon did not come to end, so that what they held is collected; how many.
pub(super) async fn settle(meta: &Meta, namespace: &Namespace) -> Result<usize, LeaseError> {
    let left = meta.leases(namespace, &[format!("labels.{LABEL_TRANSFER:?}==true")])?;
    for lease in &left {
        meta.delete_lease(namespace.clone(), lease.id.clone()).await?;
    }
    Ok(left.len())
}

/// How long what a failed pull has fetched is kept for the next try.
const KEPT_LIFE: Duration = Duration::from_secs(15 * 60);

/// Says for which image a lease keeps what a failed pull has fetched.
const LABEL_KEPT: &str = "gantry.io/kept-for";

/// Keeps blobs for the next pull of `image`, for a while.
async fn keep(meta: &Meta, namespace: &Namespace, image: &str, blobs: Vec<Digest>) -> Result<(), LeaseError> {
    let labels = Labels::from([
        (EXPIRE.to_owned(), rfc3339(SystemTime::now() + KEPT_LIFE)),
        (LABEL_KEPT.to_owned(), image.to_owned()),
    ]);
    let id = format!("{}-{}", nanoseconds(), random_text(8));
    meta.create_lease(namespace.clone(), id.clone(), labels).await?;
    for blob in blobs {
        meta.add_lease_resource(namespace.clone(), id.clone(), Resource::Content(blob)).await?;
    }
    Ok(())
}

/// Lets go of what failed pulls of `image` left: it is on record now.
pub(super) async fn forget_kept(meta: &Meta, namespace: &Namespace, image: &str) {
    let kept = meta.leases(namespace, &[format!("labels.{LABEL_KEPT:?}=={image:?}")]).unwrap_or_default();
    for lease in kept {
        if let Err(error) = meta.delete_lease(namespace.clone(), lease.id.clone()).await {
            tracing::debug!(ns = %namespace, lease = lease.id, %error, "lease of a failed pull not removed; it expires");
        }
    }
}

/// A scope with a lease. A lease of ours is removed with it; one of the client's stays.
#[derive(Debug)]
pub(super) struct Held {
    meta: Meta,
    scope: Scope,
    ours: bool,
    /// The image for which layers are kept should its pull fail.
    image: Option<String>,
    fetched: Mutex<Vec<Digest>>,
}

impl Held {
    /// The scope as it came if it has a lease, else with a new one.
    pub(super) async fn new(meta: &Meta, scope: Scope) -> Result<Self, LeaseError> {
        if scope.lease.is_some() {
            return Ok(Self { meta: meta.clone(), scope, ours: false, image: None, fetched: Mutex::default() });
        }
        let labels = Labels::from([
            (EXPIRE.to_owned(), rfc3339(SystemTime::now() + LIFE)),
            (LABEL_TRANSFER.to_owned(), "true".to_owned()),
        ]);
        let id = format!("{}-{}", nanoseconds(), random_text(8));
        // Before it is made: if nobody waits for that any more, it is made all the same, and has to go again.
        let scope = Scope { lease: Some(id.clone()), ..scope };
        let held = Self { meta: meta.clone(), scope, ours: true, image: None, fetched: Mutex::default() };
        meta.create_lease(held.scope.namespace.clone(), id, labels).await?;
        Ok(held)
    }

    /// The same; should it be dropped, what was fetched is kept for the next pull of `image`.
    pub(super) fn keeping_for(mut self, image: &str) -> Self {
        self.image = Some(image.to_owned());
        self
    }

    /// Notes a blob that is worth keeping should the transfer fail.
    pub(super) fn fetched(&self, digest: &Digest) {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).push(digest.clone());
    }

    /// Another try would not end better: nothing is kept for it.
    pub(super) fn keep_nothing(&self) {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Lets the lease hold blobs, whether or not they are here.
    pub(super) async fn hold<'a>(&self, blobs: impl Iterator<Item = &'a Digest>) -> Result<(), LeaseError> {
        let Some(lease) = &self.scope.lease else { return Ok(()) };
        let one = |digest: &Digest| {
            let resource = Resource::Content(digest.clone());
            self.meta.add_lease_resource(self.scope.namespace.clone(), lease.clone(), resource)
        };
        try_join_all(blobs.map(one)).await?;
        Ok(())
    }

    /// The scope for uploads: they outlive a transfer that fails, for the next one to go on with. Their blobs have to be held
    /// beforehand.
    pub(super) fn upload_scope(&self) -> Scope {
        Scope { lease: None, ..self.scope.clone() }
    }

    /// The scope to work in.
    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Lets go; returns when that is on disk.
    pub(super) async fn release(mut self) -> Result<(), LeaseError> {
        match self.take() {
            Some(lease) => self.meta.delete_lease(self.scope.namespace.clone(), lease).await,
            None => Ok(()),
        }
    }

    fn take(&mut self) -> Option<String> {
        if std::mem::take(&mut self.ours) { self.scope.lease.take() } else { None }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The transfer failed or its client is gone.
        let Some(lease) = self.take() else { return };
        let (meta, namespace) = (self.meta.clone(), self.scope.namespace.clone());
        let fetched = std::mem::take(self.fetched.get_mut().unwrap_or_else(PoisonError::into_inner));
        let image = self.image.take().filter(|_| !fetched.is_empty());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Some(image) = image
                    && let Err(error) = keep(&meta, &namespace, &image, fetched).await
                {
                    tracing::debug!(ns = %namespace, image, %error, "layers of a failed pull not kept");
                }
                match meta.delete_lease(namespace.clone(), lease.clone()).await {
                    Ok(()) | Err(LeaseError::NotFound { .. }) => {}
                    Err(error) => {
                        tracing::warn!(ns = %namespace, lease, %error, "lease of a transfer not removed; it expires")
                    }
                }
            });
        }
    }
}

/// A time as labels have it, `2026-01-02T03:04:05Z`.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that a leap day is the last one.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The day of a time, `2026-01-02`.
pub(super) fn day(time: SystemTime) -> String {
    rfc3339(time).chars().take("2026-01-02".len()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_labels_have_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
