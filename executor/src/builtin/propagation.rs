//! How mounts of the container and of the host reach each other (`shared`, `slave`, `private`, …). libcontainer leaves every
//! bind mount as the root's propagation made it, whatever its options say, so it is done here, once the root is the
//! container's. A mount that has become a slave cannot become the host's peer any more: as with runc, `rshared` reaches the
//! host only with `linux.rootfsPropagation` shared.

use libcontainer::oci_spec::runtime::Spec;
use nix::mount::{MsFlags, mount};

/// Gives each mount of the spec the propagation it asks for.
pub(super) fn apply(spec: &Spec) -> Result<(), String> {
    for one in spec.mounts().as_deref().unwrap_or_default() {
        for option in one.options().as_deref().unwrap_or_default() {
            let Some(flags) = flags(option) else { continue };
            let target = one.destination();
            mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(|errno| {
                format!("make mount {} {option}: {}", target.display(), errno.desc().to_lowercase())
            })?;
        }
    }
    Ok(())
}

fn flags(option: &str) -> Option<MsFlags> {
    let (kind, recursive) = match option.strip_prefix('r') {
        Some(kind) => (kind, MsFlags::MS_REC),
        None => (option, MsFlags::empty()),
    };
    Some(
        recursive
            | match kind {
                "shared" => MsFlags::MS_SHARED,
                "slave" => MsFlags::MS_SLAVE,
                "private" => MsFlags::MS_PRIVATE,
                "unbindable" => MsFlags::MS_UNBINDABLE,
                _ => return None,
            },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_of_propagation_are_meant() {
        assert_eq!(flags("rslave"), Some(MsFlags::MS_REC | MsFlags::MS_SLAVE));
        assert_eq!(flags("private"), Some(MsFlags::MS_PRIVATE));
        for other in ["ro", "rro", "relatime", "rbind", ""] {
            assert_eq!(flags(other), None, "{other}");
        }
    }
}
