//! `gantry-shim`: one small process per container, containerd's shim v2 over ttrpc.
//!
//! ```text
//! start ──► socket, re-executes itself ──► serve: one thread, one loop, until the container is deleted
//! delete    cleans up after a server that is dead        runtime …    the built-in executor, short-lived
//! -v -info  what this is           log-copy    writes the log of a container of another shim
//! ```
//!
//! This file reads the command line and hands over. It must not do anything itself.

mod address;
mod api;
mod args;
mod bootstrap;
mod command;
mod delete;
mod driver;
mod events;
mod helper;
mod info;
mod io;
mod journal;
mod log;
mod log_copy;
mod once;
mod place;
mod poll;
mod rootfs;
mod runtime;
mod serve;
mod spec;
mod start;
mod stats;
mod sys;
mod trace;
mod ttrpc;
mod usage;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::args::{Action, Args, ArgsError};

/// Why the program has failed; printed, and nothing else is done with it.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error(transparent)]
    Start(#[from] start::StartError),
    #[error(transparent)]
    Delete(#[from] delete::DeleteError),
    #[error(transparent)]
    Serve(#[from] serve::ServeError),
    #[error("cannot write to standard output")]
    Output(#[source] std::io::Error),
}

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_else(|| OsString::from("gantry-shim"));
    let words: Vec<OsString> = words.collect();
    if words.first().is_some_and(|word| word == executor::builtin::SUBCOMMAND) {
        return executor::builtin::main(words.into_iter().skip(1));
    }
    if words.first().is_some_and(|word| word == log_copy::SUBCOMMAND) {
        return log_copy::main(words.into_iter().skip(1));
    }
    match args::parse(words).map_err(Failure::from).and_then(|args| run(&args, &program)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Daemons show this to people.
            eprintln!("{}: {}", program.display(), text(&failure));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, program: &OsString) -> Result<(), Failure> {
    match args.action {
        Action::Start => Ok(start::run(args)?),
        Action::Delete => Ok(delete::run(args)?),
        Action::Serve => Ok(serve::run(args)?),
        Action::Version => info::version(program).map_err(Failure::Output),
        Action::Info => info::info().map_err(Failure::Output),
    }
}

/// An error with its causes.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
