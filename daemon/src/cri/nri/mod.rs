//! NRI: plugins that hear of pods and containers, and may adjust containers before they are made.

use super::{Cri, Settings};

/// Serves plugins.
#[derive(Debug)]
pub struct Nri {}

impl Nri {
    /// No plugins yet.
    pub fn new(_settings: &Settings) -> Self {
        Self {}
    }
}

impl Cri {
    /// Starts plugins and listens for others. Called once, before clients are served.
    pub(super) async fn start_nri(&self) {}
}
