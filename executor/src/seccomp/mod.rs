//! Seccomp: an OCI profile becomes a program for the kernel, without libseccomp.
//!
//! A profile is parsed (anything not understood is an error), compiled to classic BPF, and loaded
//! by the process that is about to become the user's. Compiling takes well under a millisecond, so nothing is cached.
//!
//! The program is at least as strict as what libseccomp makes of the profile. Where the two differ:
//! * calls of the x32 interface answer `ENOSYS`, as a kernel without it does, also when the profile lists it;
//! * a call from an architecture that the profile does not list kills the process, not only the thread;
//! * of several rules with conditions that apply to one call the strictest wins, whatever their order;
//! * a general rule that contradicts a special one for the same call is refused, not decided by order.
//!
//! Calls newer than every call the profile names answer `ENOSYS` unless the profile allows by default, as runc does, so
//! that programs fall back to older ones.

mod compile;
mod profile;
#[cfg(test)]
mod simulate;

use serde_json::Value;

pub use compile::{Instruction, Program};
pub use profile::SeccompError;

/// Compiles `linux.seccomp` of a spec. `None` when there is none. The second value are names of calls that no table
/// here knows, of a profile that allows by default: for those the profile's rule is not in force.
///
/// # Errors
///
/// When the profile asks for something that cannot be done exactly.
pub fn compile(seccomp: Option<&Value>) -> Result<Option<(Program, Vec<String>)>, SeccompError> {
    let Some(json) = seccomp.filter(|json| !json.is_null()) else { return Ok(None) };
    let profile = profile::parse(json)?;
    let program = compile::compile(&profile)?;
    Ok(Some((program, profile.unknown)))
}
