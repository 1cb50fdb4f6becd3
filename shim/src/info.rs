//! `-v` and `-info`: what this is and what it can do.

use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use executor::executor_for;
use prost::Message as _;
use prost_types::Any;
use proto::types::{RuntimeInfo, RuntimeVersion};

use crate::spec::Spec;
use crate::{once, runtime};

/// The name under which clients ask for this runtime.
const NAME: &str = "io.containerd.gantry.v1";
/// The type of an OCI features document in an `Any`.
const FEATURES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
/// The most that a daemon sends.
const MAX_INPUT_BYTES: u64 = 4 << 20;

/// Prints the version, in the form that daemons parse.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn version(program: &OsStr) -> io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    write!(
        io::stdout().lock(),
        "{}:\n  Version:  {version}\n  Revision: {version}\n  Go version: none\n\n",
        Path::new(program).display()
    )
}

/// Reads the runtime's options from standard input and prints a `RuntimeInfo`.
///
/// # Errors
/// Standard output is closed. An executor that cannot tell its features is no error: they are left out.
pub(crate) fn info() -> io::Result<()> {
    let mut input = Vec::new();
    let _ = io::stdin().take(MAX_INPUT_BYTES).read_to_end(&mut input);
    let options = Any::decode(input.as_slice()).ok().filter(|any| !any.type_url.is_empty());
    let info = RuntimeInfo {
        name: NAME.to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        features: features(options.as_ref()),
        options,
        ..Default::default()
    };
    io::stdout().lock().write_all(&info.encode_to_vec())
}

fn features(options: Option<&Any>) -> Option<Any> {
    let options = runtime::options(options).ok()?;
    let folder = std::env::temp_dir();
    let executor = executor_for(runtime::for_info(&options, &folder, &Spec::default()).ok()?);
    let outcome = once::run(&executor.features()).ok()?;
    executor.interpret(&outcome).ok()?;
    Some(Any { type_url: FEATURES_TYPE.to_owned(), value: outcome.stdout })
}
