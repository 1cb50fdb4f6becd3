//! What is found out once and kept: facts about the machine, user files of images.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::super::spec::{Accounts, Host};

/// The most images whose user files are kept; then all are forgotten, and read again.
const MAX_IMAGES: usize = 256;
/// Larger files are read each time.
const MAX_KEPT_BYTES: usize = 64 << 10;

/// What is known.
#[derive(Debug, Default)]
pub struct Known {
    host: OnceLock<Host>,
    accounts: Mutex<HashMap<String, Arc<Accounts>>>,
    /// Folders of image volumes that containers in the making use, and how many.
    volumes: Arc<Mutex<HashMap<String, usize>>>,
}

/// An image volume that stays as long as this.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub(super) struct InUse {
    volumes: Arc<Mutex<HashMap<String, usize>>>,
    folder: String,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(users) = volumes.get_mut(&self.folder) {
            *users -= 1;
            if *users == 0 {
                volumes.remove(&self.folder);
            }
        }
    }
}

impl Known {
    /// Facts about the machine. Reads a few files the first time.
    pub(in super::super) fn host(&self) -> &Host {
        self.host.get_or_init(Host::probe)
    }

    /// The user files of an image, if they were read before. An image never changes.
    pub(super) fn accounts(&self, image: &str) -> Option<Arc<Accounts>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).get(image).cloned()
    }

    /// Keeps an image volume for a container that is not on record yet.
    pub(super) fn use_volume(&self, folder: &str) -> InUse {
        *self.volumes.lock().unwrap_or_else(PoisonError::into_inner).entry(folder.to_owned()).or_default() += 1;
        InUse { volumes: Arc::clone(&self.volumes), folder: folder.to_owned() }
    }

    /// Whether a container in the making uses an image volume.
    pub(super) fn uses_volume(&self, folder: &str) -> bool {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner).contains_key(folder)
    }

    /// Keeps them.
    pub(super) fn keep(&self, image: &str, accounts: &Arc<Accounts>) {
        if accounts.passwd.len() + accounts.group.len() > MAX_KEPT_BYTES {
            return;
        }
        let mut all = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_IMAGES {
            all.clear();
        }
        all.insert(image.to_owned(), Arc::clone(accounts));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_used_until_the_last_one_lets_go() {
        let known = Known::default();
        let (one, other) = (known.use_volume("/v"), known.use_volume("/v"));
        drop(one);
        assert!(known.uses_volume("/v") && !known.uses_volume("/w"));
        drop(other);
        assert!(!known.uses_volume("/v"));
    }

    #[test]
    fn user_files_are_kept_within_bounds() {
        let known = Known::default();
        let small = Arc::new(Accounts { passwd: "x".into(), group: String::new() });
        for number in 0..=MAX_IMAGES {
            known.keep(&number.to_string(), &small);
        }
        assert!(known.accounts("0").is_none() && known.accounts(&MAX_IMAGES.to_string()).is_some());
        known.keep("large", &Arc::new(Accounts { passwd: "x".repeat(MAX_KEPT_BYTES + 1), group: String::new() }));
        assert!(known.accounts("large").is_none());
    }
}
