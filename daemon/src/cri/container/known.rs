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
