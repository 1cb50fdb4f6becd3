//! Platforms: which of several images fits a machine.

/// An operating system and a processor, as images name them (OCI image spec, image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Platform {
    /// The operating system, `linux` here.
    pub os: String,
    /// The processor, in Go's names: `amd64`, `arm64`.
    pub architecture: String,
    /// The variant of the processor, `v8` for one; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            other => (other, ""),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    /// This platform with the names that mean the same brought to one form: `x86_64` is `amd64`, `arm64/v8` is `arm64`.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let os = if self.os.is_empty() { "linux".to_owned() } else { self.os.to_lowercase() };
        let variant = self.variant.to_lowercase();
        let (architecture, variant) = match (self.architecture.to_lowercase().as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64".to_owned(), String::new()),
            ("x86_64" | "x86-64" | "amd64", v) => ("amd64".to_owned(), v.to_owned()),
            ("i386" | "386", _) => ("386".to_owned(), String::new()),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64".to_owned(), String::new()),
            ("aarch64" | "arm64", v) => ("arm64".to_owned(), v.to_owned()),
            ("armhf", _) | ("arm", "" | "7") => ("arm".to_owned(), "v7".to_owned()),
            ("armel", _) => ("arm".to_owned(), "v6".to_owned()),
            ("arm", "5" | "6" | "8") => ("arm".to_owned(), format!("v{variant}")),
            (other, v) => (other.to_owned(), v.to_owned()),
        };
        Self { os, architecture, variant }
    }

    /// How well an image for `other` runs here: higher is better, `None` does not run. A processor runs its variant and those below,
    /// and one of 64 bits also what its line had before.
    pub fn accepts(&self, other: &Self) -> Option<u8> {
        let (own, other) = (self.normalized(), other.normalized());
        if own.os != other.os {
            return None;
        }
        if own.architecture != other.architecture {
            return match (own.architecture.as_str(), other.architecture.as_str()) {
                ("amd64", "386") => Some(0),
                // Its level is below those of 64 bits.
                ("arm64", "arm") => level(&other).filter(|level| *level <= 8),
                _ => None,
            };
        }
        if own.variant == other.variant {
            return Some(u8::MAX);
        }
        match (level(&own), level(&other)) {
            (Some(have), Some(want)) if want <= have => Some(SAME_PROCESSOR + want),
            _ => None,
        }
    }

    /// Of what is offered for several platforms, what runs here best; of equals the first one.
    pub fn best<'a, T>(&self, offered: impl IntoIterator<Item = (&'a Self, T)>) -> Option<T> {
        let mut best: Option<(u8, T)> = None;
        for (platform, one) in offered {
            let Some(level) = self.accepts(platform) else { continue };
            if best.as_ref().is_none_or(|(found, _)| level > *found) {
                best = Some((level, one));
            }
        }
        best.map(|(_, one)| one)
    }

    /// The text form, `linux/arm64/v8`.
    pub fn to_text(&self) -> String {
        if self.variant.is_empty() {
            format!("{}/{}", self.os, self.architecture)
        } else {
            format!("{}/{}/{}", self.os, self.architecture, self.variant)
        }
    }
}

/// What is added to the level of a variant of the same processor, so that it counts more than any of another one.
const SAME_PROCESSOR: u8 = 64;

/// The number of a variant within its architecture, where variants are ordered and a higher one runs all below it.
fn level(platform: &Platform) -> Option<u8> {
    let default = match platform.architecture.as_str() {
        "amd64" => 1,
        "arm64" => 8,
        "arm" => 7,
        _ => return None,
    };
    if platform.variant.is_empty() { Some(default) } else { platform.variant.strip_prefix('v')?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(architecture: &str, variant: &str) -> Platform {
        Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    #[test]
    fn a_machine_runs_its_variant_and_those_below() {
        let (v7, amd) = (platform("arm", "v7"), platform("amd64", ""));
        assert!(v7.accepts(&platform("arm", "v6")) < v7.accepts(&platform("armhf", "")));
        assert_eq!(v7.accepts(&platform("arm", "v8")), None);
        assert_eq!(amd.accepts(&platform("x86_64", "")), Some(u8::MAX));
        assert_eq!(amd.accepts(&platform("amd64", "v3")), None);
        assert_eq!(amd.accepts(&platform("arm64", "")), None);
        assert_eq!(platform("arm64", "").accepts(&platform("aarch64", "v8")), Some(u8::MAX));
        let arm = platform("arm64", "");
        assert!(arm.accepts(&platform("arm", "v6")) < arm.accepts(&platform("arm", "v7")));
        assert!(arm.accepts(&platform("arm", "v8")) < arm.accepts(&platform("arm64", "")));
        assert!(amd.accepts(&platform("386", "")) < amd.accepts(&platform("amd64", "")));
        assert_eq!(platform("386", "").accepts(&amd), None);
    }

    #[test]
    fn the_best_of_what_is_offered_is_taken() {
        let (v6, v7, other) = (platform("arm", "v6"), platform("arm", "v7"), platform("s390x", ""));
        assert_eq!(v7.best([(&v6, 1), (&v7, 2), (&v7, 3), (&other, 4)]), Some(2));
        assert_eq!(v6.best([(&v7, 1), (&other, 2)]), None);
    }
}
