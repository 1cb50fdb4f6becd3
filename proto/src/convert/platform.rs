//! Platforms.

use crate::types;

impl From<model::platform::Platform> for types::Platform {
    fn from(platform: model::platform::Platform) -> Self {
        let model::platform::Platform { os, architecture, variant } = platform;
        Self { os, architecture, variant, ..Self::default() }
    }
}

impl From<types::Platform> for model::platform::Platform {
    /// Versions and features of an operating system tell Windows images apart and mean nothing here.
    fn from(platform: types::Platform) -> Self {
        let types::Platform { os, architecture, variant, os_version: _, os_features: _ } = platform;
        Self { os, architecture, variant }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_comes_back_as_it_was() {
        let platform =
            model::platform::Platform { os: "linux".into(), architecture: "arm64".into(), variant: "v8".into() };
        assert_eq!(model::platform::Platform::from(types::Platform::from(platform.clone())), platform);
    }
}
