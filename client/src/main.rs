//! `gantry`: the command line.
//!
//! Exit codes: what the container's process ended with, where there is one; else 0, or 125 when the daemon or the request is
//! at fault, 126 when the command cannot be run, 127 when it is not there (as Docker's users expect), and 2 for a wrong command
//! line.

mod commands;
mod output;
mod progress;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use model::Namespace;
use model::error::Classify as _;

/// Talks to gantryd: pulls images, runs containers, looks at both.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, about, max_term_width = 120)]
struct Arguments {
    /// The daemon's socket.
    #[arg(long, global = true, env = "GANTRY_ADDRESS", default_value = client::DEFAULT_ADDRESS)]
    address: PathBuf,
    /// The namespace everything is looked for and made in.
    #[arg(short, long, global = true, env = "GANTRY_NAMESPACE", default_value = "default")]
    namespace: Namespace,
    /// How to print: text for people, json for programs.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: output::Format,
    /// The same as --output json.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: commands::Command,
}

/// The exit code when the daemon or the request is at fault.
const FAILED: u8 = 125;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let format = if arguments.json { output::Format::Json } else { arguments.output };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("gantry: cannot start: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let work = async {
        if let Some(done) = commands::offline(&arguments.command, format) {
            return done;
        }
        let client = client::Client::connect(&arguments.address, arguments.namespace).await?;
        commands::run(&client, arguments.command, format).await
    };
    let code = match runtime.block_on(work) {
        Ok(code) => code,
        Err(error) => {
            terminal::restore();
            eprintln!("gantry: {}", error.wire_message());
            code_of(&error)
        }
    };
    // A thread may sit in a read of our input for ever: leave without it.
    std::process::exit(code.into());
}

/// The exit code of an error: a command that is missing or cannot be run has its own.
fn code_of(error: &client::ClientError) -> u8 {
    let text = error.to_string();
    let has = |pieces: &[&str]| text.contains("OCI runtime") && pieces.iter().any(|piece| text.contains(piece));
    if has(&["executable file not found", "no such file or directory"]) {
        127
    } else if has(&["permission denied", "is a directory", "exec format error"]) {
        126
    } else {
        FAILED
    }
}
