//! Names of entries, made plain: pure text work, before any of it meets a disk.

/// The longest name that Linux filesystems have.
const NAME_MAX: usize = 255;

/// A name within the layer: names joined by single slashes, none of them `.` or `..`; empty for the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerPath {
    bytes: Vec<u8>,
    /// Where the last name begins.
    last: usize,
}

impl LayerPath {
    /// Reads an entry's name. A slash in front means the root of the layer; `..` may not lead above it.
    pub(crate) fn parse(name: &[u8]) -> Result<Self, &'static str> {
        if name.contains(&0) {
            return Err("its name holds a NUL");
        }
        let mut bytes = Vec::with_capacity(name.len());
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." if bytes.is_empty() => return Err("it leads out of the layer"),
                b".." => bytes.truncate(bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
                part if part.len() > NAME_MAX => return Err("its name is too long for a file"),
                part => {
                    if !bytes.is_empty() {
                        bytes.push(b'/');
                    }
                    bytes.extend_from_slice(part);
                }
            }
        }
        let last = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        Ok(Self { bytes, last })
    }

    pub(crate) fn is_root(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn parent(&self) -> &[u8] {
        &self.bytes[..self.last.saturating_sub(1)]
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.bytes[self.last..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_plain() {
        for (name, expected) in [
            ("a/b/c", Ok(("a/b", "c"))),
            ("/a", Ok(("", "a"))),
            ("./a//b/", Ok(("a", "b"))),
            ("a/./../b", Ok(("", "b"))),
            ("a/b/../../c", Ok(("", "c"))),
            (".", Ok(("", ""))),
            ("", Ok(("", ""))),
            ("/", Ok(("", ""))),
            ("..", Err(())),
            ("../a", Err(())),
            ("a/../../b", Err(())),
            ("/../a", Err(())),
            ("a\0b", Err(())),
        ] {
            let got = LayerPath::parse(name.as_bytes());
            let parts = got.as_ref().map(|path| (path.parent(), path.name())).map_err(|_| ());
            assert_eq!(parts, expected.map(|(parent, name)| (parent.as_bytes(), name.as_bytes())), "{name:?}");
        }
        assert!(LayerPath::parse(&[b'x'; 256]).is_err());
        assert!(LayerPath::parse(&[b'x'; 255]).is_ok());
    }
}
