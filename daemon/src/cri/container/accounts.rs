//! The user files of an image, read from its root filesystem. What is in an image never leads out of it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use super::super::CriError;
use super::super::spec::Accounts;

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the files below `root`; one that is missing is empty.
///
/// # Errors
/// One cannot be read, is too large or is no text.
pub(super) fn read(root: &Path) -> Result<Accounts, CriError> {
    Ok(Accounts { passwd: text(root, "etc/passwd")?, group: text(root, "etc/group")? })
}

fn text(root: &Path, path: &str) -> Result<String, CriError> {
    let failed = |error: io::Error| CriError::Failed(format!("cannot read /{path} of the image: {error}"));
    let Some(file) = open(root, path).map_err(failed)? else { return Ok(String::new()) };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(CriError::Invalid(format!("/{path} of the image is not a file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(CriError::Invalid(format!("/{path} of the image is larger than {MAX_BYTES} bytes")));
    }
    // Comments of users may be in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn open(root: &Path, path: &str) -> io::Result<Option<File>> {
    let root = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // A fifo in an image must not hold us up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(&root, path, flags, Mode::empty(), resolve) {
        Ok(file) => Ok(Some(file.into())),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_in_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(folder.path().join("outside"), "host:x:0:0:").unwrap();
        assert_eq!(read(&root).unwrap(), Accounts::default());
        symlink("../../outside", root.join("etc/passwd")).unwrap();
        fs::write(root.join("group-of-image"), "g:x:1:").unwrap();
        symlink("/group-of-image", root.join("etc/group")).unwrap();
        assert_eq!(read(&root).unwrap(), Accounts { passwd: String::new(), group: "g:x:1:".into() });
    }

    #[test]
    fn what_is_no_file_of_users_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("etc");
        fs::create_dir(&etc).unwrap();
        nix::unistd::mkfifo(&etc.join("passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(folder.path()).is_err());
        fs::remove_file(etc.join("passwd")).unwrap();
        fs::write(etc.join("passwd"), vec![b'x'; (1 << 20) + 1]).unwrap();
        assert!(read(folder.path()).is_err());
        fs::write(etc.join("passwd"), b"caf\xe9:x:7:8::/:\n").unwrap();
        assert!(read(folder.path()).unwrap().passwd.ends_with(":x:7:8::/:\n"));
    }
}
