//! The built-in OCI runtime: `<this program> runtime <oci command line>`, a short-lived process over libcontainer.

use std::ffi::OsString;
use std::process::ExitCode;

use serde_json::Value;

/// The word that makes our program the runtime: `gantry-shim runtime …`.
pub const SUBCOMMAND: &str = "runtime";

/// Runs the OCI command line in `args` (without the program's name and without [`SUBCOMMAND`]).
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let _ = args.into_iter();
    todo!()
}

/// The fields of an OCI spec that the built-in runtime cannot honour, by their JSON path (`linux.seccomp`). Empty: it
/// can run this spec. Otherwise `create` refuses it, and a caller that did not ask for the built-in runtime by name may
/// fall back to an installed one.
pub fn unsupported(spec: &Value) -> Vec<String> {
    let _ = spec;
    Vec::new()
}
