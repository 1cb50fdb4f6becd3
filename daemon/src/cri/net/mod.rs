//! Networks of pods.

use super::Settings;

/// The networks there are.
#[derive(Debug)]
pub struct Networks {}

impl Networks {
    /// Those of the configuration.
    pub fn new(_settings: &Settings) -> Self {
        Self {}
    }
}
