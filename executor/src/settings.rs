//! What the shim decides once per container: which runtime, where its state is, which switches it gets.

use std::path::PathBuf;

/// Which program sets containers up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runtime {
    /// Our own, in a re-executed short-lived process of the running binary (`<this program> runtime …`).
    BuiltIn,
    /// An OCI runtime: a path, or a bare name that is looked up in `$PATH`.
    External(PathBuf),
}

/// Where and how the runtime works; from `containerd.runc.v1.Options`, filled in by the shim.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program.
    pub runtime: Runtime,
    /// The runtime's state folder (`--root`), the containerd namespace included.
    pub root: PathBuf,
    /// Let systemd make the cgroup.
    pub systemd_cgroup: bool,
    /// Use `MS_MOVE` in place of `pivot_root` (ramdisk hosts).
    pub no_pivot_root: bool,
    /// Keep the session keyring of the caller.
    pub no_new_keyring: bool,
    /// The JSON log the runtime appends to (`log.json` in the bundle).
    pub log: PathBuf,
    /// Ask the runtime for debug lines in the log.
    pub debug: bool,
}
