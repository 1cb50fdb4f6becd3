//! What an executor must do, one function per promise.
#![expect(clippy::unwrap_used, reason = "these are tests, compiled as a library for other crates' tests")]

mod filter;
mod isolation;
mod kernel;
mod life;
mod limits;
mod process;
mod user;

use nix::sys::signal::Signal;

pub use filter::*;
pub use isolation::*;
pub use kernel::*;
pub use life::*;
pub use limits::*;
pub use process::*;
pub use user::*;

const KILL: i32 = Signal::SIGKILL as i32;
const TERM: i32 = Signal::SIGTERM as i32;
