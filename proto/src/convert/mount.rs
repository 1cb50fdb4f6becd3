//! Mounts. Both sides say the same; nothing can fail.

use crate::types;

impl From<model::Mount> for types::Mount {
    fn from(mount: model::Mount) -> Self {
        let model::Mount { kind, source, target, options } = mount;
        Self { r#type: kind, source, target, options }
    }
}

impl From<types::Mount> for model::Mount {
    fn from(mount: types::Mount) -> Self {
        let types::Mount { r#type, source, target, options } = mount;
        Self { kind: r#type, source, target, options }
    }
}

/// A whole list for the wire.
#[must_use]
pub fn to_wire(mounts: Vec<model::Mount>) -> Vec<types::Mount> {
    mounts.into_iter().map(Into::into).collect()
}

/// A whole list from the wire.
#[must_use]
pub fn from_wire(mounts: Vec<types::Mount>) -> Vec<model::Mount> {
    mounts.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_comes_back_as_it_was() {
        let mount = model::Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: "sub".into(),
            options: vec!["lowerdir=/a".into(), "ro".into()],
        };
        assert_eq!(from_wire(to_wire(vec![mount.clone()])), [mount]);
    }
}
