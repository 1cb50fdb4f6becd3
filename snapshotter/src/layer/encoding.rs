//! How a layer is compressed: by its media type, or by its first bytes.

/// A compression that layers are written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// None.
    None,
    /// Gzip, with any number of members.
    Gzip,
    /// Zstandard, with any number of frames.
    Zstd,
}

impl Compression {
    /// The compression that an archive's first bytes (four are enough) tell of.
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, which some writers put in front for an index.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The OCI media type of a layer that is written with this compression.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// The compression that a new layer of this media type has to have; `None` for a type that names no layer.
    pub fn for_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
                Some(Self::None)
            }
            "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
                Some(Self::Gzip)
            }
            "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
                Some(Self::Zstd)
            }
            _ => None,
        }
    }
}

/// How to read a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As it is: bytes that look compressed are an error.
    Plain,
    /// As its first bytes say. Media types of compressed layers are often wrong about the kind of compression.
    Detected,
}

impl Encoding {
    /// How to read a layer of this media type; `None` for one that this crate cannot read, as an encrypted layer.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        const OCI: &str = "application/vnd.oci.image.layer.v1.tar";
        const OCI_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
        const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar";
        const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
        for (base, join) in [(OCI, '+'), (OCI_FOREIGN, '+'), (DOCKER, '.'), (DOCKER_FOREIGN, '.')] {
            let Some(rest) = media_type.strip_prefix(base) else { continue };
            return match rest.strip_prefix(join) {
                // Docker's plain type was given to compressed layers too.
                None if rest.is_empty() => Some(if join == '+' { Self::Plain } else { Self::Detected }),
                Some("gzip" | "zstd") => Some(Self::Detected),
                _ => None,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_say_how_to_read() {
        for (media_type, expected) in [
            ("application/vnd.oci.image.layer.v1.tar", Some(Encoding::Plain)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Encoding::Detected)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Encoding::Detected)),
            ("application/vnd.oci.image.layer.v1.tar+encrypted", None),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Encoding::Detected)),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(Encoding::Detected)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Encoding::Detected)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Encoding::Detected)),
            ("application/vnd.oci.image.config.v1+json", None),
            ("", None),
        ] {
            assert_eq!(Encoding::from_media_type(media_type), expected, "{media_type}");
        }
    }

    #[test]
    fn first_bytes_tell_the_compression() {
        assert_eq!(Compression::sniff(&[0x1f, 0x8b, 8, 0]), Compression::Gzip);
        assert_eq!(Compression::sniff(&[0x28, 0xb5, 0x2f, 0xfd]), Compression::Zstd);
        assert_eq!(Compression::sniff(b"etc/"), Compression::None);
        assert_eq!(Compression::sniff(&[0x1f]), Compression::None);
        assert_eq!(Compression::sniff(&[]), Compression::None);
    }
}
