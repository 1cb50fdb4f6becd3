//! The commands, one file each, and the list of them.

mod attached;
mod doctor;
mod events;
mod exec;
mod images;
mod kill;
mod logs;
mod ops;
mod pods;
mod ps;
mod pull;
mod push;
mod registry;
mod rm;
mod run;
mod stop;
mod version;

use client::{Client, ClientError};

use crate::output::Format;

/// A command and its arguments.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Pull an image from a registry and unpack it.
    Pull(pull::Arguments),
    /// Push an image to a registry.
    Push(push::Arguments),
    /// Look at images; import, export, name and remove them.
    Images(images::Arguments),
    /// Run a command in a new container.
    Run(Box<run::Arguments>),
    /// List containers.
    Ps(ps::Arguments),
    /// Run another command in a running container.
    Exec(exec::Arguments),
    /// Send a signal to a container.
    Kill(kill::Arguments),
    /// Ask containers to end, and end them if they do not.
    Stop(stop::Arguments),
    /// Remove containers.
    Rm(rm::Arguments),
    /// Print what a container wrote to its log.
    Logs(logs::Arguments),
    /// Look at pods of Kubernetes and their containers; make, use and remove them.
    Pods(pods::Arguments),
    /// Look at pulls, pushes, imports and exports that are under way, whoever began them; end them.
    Ops(ops::Arguments),
    /// Account for everything the daemon has, and say what is wrong.
    Doctor(doctor::Arguments),
    /// Print events as they happen.
    Events(events::Arguments),
    /// Print the versions of this program and of the daemon.
    Version,
}

/// Runs a command that needs no daemon; `None` if it needs one.
pub(crate) fn offline(command: &Command, format: Format) -> Option<Result<u8, ClientError>> {
    match command {
        Command::Doctor(arguments) if arguments.root.is_some() => Some(doctor::offline(arguments, format)),
        _ => None,
    }
}

/// Runs a command. Returns the exit code.
///
/// # Errors
/// What stopped it.
pub(crate) async fn run(client: &Client, command: Command, format: Format) -> Result<u8, ClientError> {
    match command {
        Command::Pull(arguments) => pull::run(client, arguments, format).await,
        Command::Push(arguments) => push::run(client, arguments, format).await,
        Command::Ops(arguments) => ops::run(client, arguments, format).await,
        Command::Images(arguments) => images::run(client, arguments, format).await,
        Command::Run(arguments) => run::run(client, *arguments, format).await,
        Command::Pods(arguments) => pods::run(client, arguments, format).await,
        Command::Ps(arguments) => ps::run(client, &arguments, format).await,
        Command::Exec(arguments) => exec::run(client, arguments, format).await,
        Command::Kill(arguments) => kill::run(client, &arguments).await,
        Command::Stop(arguments) => stop::run(client, &arguments).await,
        Command::Rm(arguments) => rm::run(client, &arguments).await,
        Command::Logs(arguments) => logs::run(client, &arguments).await,
        Command::Doctor(arguments) => doctor::run(client, &arguments, format).await,
        Command::Events(arguments) => events::run(client, arguments, format).await,
        Command::Version => version::run(client, format).await,
    }
}
