//! The small files in the folder of a task: how to find its shim again, and whether its end was told.
//!
//! `bootstrap.json` and `address` are containerd's, so that its tools can read them; [`EXIT_FILE`] is ours. All are replaced
//! whole. They live on the state folder, which does not survive a reboot, as no shim does either; so nothing is synced.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use model::journal::{self, Journal};
use model::task::{Exit, Pid};

use super::error::BundleError;

/// How to reach the shim, as JSON.
const BOOTSTRAP_FILE: &str = "bootstrap.json";
/// How to reach the shim, as shims before version 3 write it.
const ADDRESS_FILE: &str = "address";
/// The exit of the first process, once it was published.
const EXIT_FILE: &str = "exit-published.json";
/// Which binary was started.
const BINARY_FILE: &str = "shim-binary-path";

/// The largest of these files that is read, in bytes.
const MAX_RECORD_BYTES: u64 = 64 << 10;

/// How to reach a shim.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Bootstrap {
    /// The version of the task service, 2 or 3.
    pub version: i32,
    /// `unix://` and a path.
    pub address: String,
    /// `ttrpc`.
    pub protocol: String,
}

/// An end that the clients were told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct PublishedExit {
    /// The first process.
    pub pid: Pid,
    /// How it ended.
    pub exit: Exit,
}

impl Bootstrap {
    /// The path of the socket.
    pub(super) fn socket(&self) -> Option<PathBuf> {
        socket_of(&self.address)
    }

    /// Writes the file.
    pub(super) fn write(&self, bundle: &Path) -> Result<(), BundleError> {
        replace(&bundle.join(BOOTSTRAP_FILE), &to_json(self), 0o644)
    }

    /// Reads the file, or the older one. `None` if there is neither: no shim was ever reached.
    pub(super) fn read(bundle: &Path) -> Result<Option<Self>, BundleError> {
        if let Some(bytes) = read(&bundle.join(BOOTSTRAP_FILE))? {
            return from_json(&bundle.join(BOOTSTRAP_FILE), &bytes).map(Some);
        }
        let Some(bytes) = read(&bundle.join(ADDRESS_FILE))? else { return Ok(None) };
        let address = String::from_utf8_lossy(&bytes).trim().to_owned();
        Ok(Some(Self { version: 2, address, protocol: "ttrpc".into() }))
    }
}

/// The path in an address. Sockets without a path (abstract ones) are not used: anybody on the host network could reach them.
pub(super) fn socket_of(address: &str) -> Option<PathBuf> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    path.starts_with('/').then(|| PathBuf::from(path))
}

impl PublishedExit {
    /// Writes the file.
    pub(super) fn write(&self, bundle: &Path) -> Result<(), BundleError> {
        let mut kept = *self;
        // A shim in Go says the year 1 of what never ran, which no record can hold.
        kept.exit.at = kept.exit.at.max(std::time::UNIX_EPOCH);
        replace(&bundle.join(EXIT_FILE), &to_json(&kept), 0o600)
    }

    /// Reads the file; `None` if the end was not published yet.
    pub(super) fn read(bundle: &Path) -> Result<Option<Self>, BundleError> {
        let path = bundle.join(EXIT_FILE);
        read(&path)?.map(|bytes| from_json(&path, &bytes)).transpose()
    }
}

/// What the shim wrote down; `None` if it is not one of ours or did not come that far.
pub(super) fn read_journal(bundle: &Path) -> Result<Option<Journal>, BundleError> {
    let path = bundle.join(journal::FILE_NAME);
    let Some(bytes) = read(&path)? else { return Ok(None) };
    let journal: Journal = from_json(&path, &bytes)?;
    if journal.version > journal::VERSION {
        let reason = format!("version {} is later than {}", journal.version, journal::VERSION);
        return Err(BundleError::Malformed { path, reason });
    }
    Ok(Some(journal))
}

/// Writes which binary was started.
pub(super) fn write_binary(bundle: &Path, binary: &Path) -> Result<(), BundleError> {
    replace(&bundle.join(BINARY_FILE), binary.as_os_str().as_encoded_bytes(), 0o600)
}

/// Reads which binary was started.
pub(super) fn read_binary(bundle: &Path) -> Result<Option<PathBuf>, BundleError> {
    use std::os::unix::ffi::OsStringExt;
    let bytes = read(&bundle.join(BINARY_FILE))?.filter(|bytes| !bytes.is_empty());
    Ok(bytes.map(|bytes| PathBuf::from(std::ffi::OsString::from_vec(bytes))))
}

fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain records have a JSON form")
}

fn from_json<T: serde::de::DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, BundleError> {
    serde_json::from_slice(bytes)
        .map_err(|error| BundleError::Malformed { path: path.to_owned(), reason: error.to_string() })
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, BundleError> {
    use std::io::Read;
    let failed = |source| BundleError::Step { step: "read", path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_RECORD_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), BundleError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let write = || {
        // One that was left by a kill is of no use to anybody.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        fs::rename(&temporary, path)
    };
    write().map_err(BundleError::at("write", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_bootstrap_comes_back_and_the_older_file_is_read_too() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Bootstrap::read(folder.path()).unwrap(), None);
        fs::write(folder.path().join("address"), "unix:///run/s/1\n").unwrap();
        let old = Bootstrap::read(folder.path()).unwrap().unwrap();
        assert_eq!((old.version, old.socket()), (2, Some("/run/s/1".into())));
        let new = Bootstrap { version: 3, address: "unix:///run/s/2".into(), protocol: "ttrpc".into() };
        new.write(folder.path()).unwrap();
        new.write(folder.path()).unwrap();
        assert_eq!(Bootstrap::read(folder.path()).unwrap(), Some(new));
        let mode = fs::metadata(folder.path().join("bootstrap.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[test]
    fn a_published_exit_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(PublishedExit::read(folder.path()).unwrap(), None);
        let exit = PublishedExit { pid: 7, exit: Exit { status: 137, at: SystemTime::now() } };
        exit.write(folder.path()).unwrap();
        assert_eq!(PublishedExit::read(folder.path()).unwrap(), Some(exit));
    }

    #[test]
    fn only_paths_are_sockets() {
        for (address, path) in [
            ("unix:///run/a", Some("/run/a")),
            ("/run/a", Some("/run/a")),
            ("unix://a", None),
            ("unix://\0a", None),
            ("@a", None),
            ("", None),
        ] {
            assert_eq!(socket_of(address), path.map(PathBuf::from), "{address:?}");
        }
    }

    #[test]
    fn what_is_no_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("bootstrap.json"), "{").unwrap();
        let error = Bootstrap::read(folder.path()).unwrap_err();
        assert!(error.to_string().contains("bootstrap.json"), "{error}");
    }
}
