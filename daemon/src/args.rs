//! The command line, as containerd has it: Go's flags may have one dash or two, and the last of several counts.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::{Level, Overrides};

/// The configuration file that is read if it exists and no other is named.
pub const DEFAULT_FILE: &str = "/etc/gantry/config.toml";

/// The long names that may be written with one dash.
const LONG_NAMES: [&str; 9] =
    ["config", "address", "root", "state", "log-level", "version", "help", "topic", "namespace"];

/// gantryd, a container supervisor that serves containerd's API.
#[derive(Debug, Parser)]
#[command(name = "gantryd", disable_version_flag = true, args_override_self = true)]
pub struct Args {
    /// Read this configuration file [default: /etc/gantry/config.toml, if it exists]
    #[arg(short, long, global = true)]
    pub config: Option<PathBuf>,
    /// Serve gRPC on this socket
    #[arg(short, long, global = true)]
    pub address: Option<PathBuf>,
    /// Keep everything durable in this folder
    #[arg(long, global = true)]
    pub root: Option<PathBuf>,
    /// Keep the state of this boot in this folder
    #[arg(long, global = true)]
    pub state: Option<PathBuf>,
    /// Log this level: trace, debug, info, warn, error, fatal, panic
    #[arg(short, long, global = true, value_parser = level)]
    pub log_level: Option<Level>,
    /// Print the version and exit
    #[arg(short, long)]
    pub version: bool,
    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Print the configuration
    Config {
        /// Which one
        #[command(subcommand)]
        which: Which,
    },
    /// Examine the folders of a daemon that is not running
    Doctor {
        /// Read all blobs and compare them with their digests
        #[arg(long)]
        verify: bool,
        /// Mend what can be mended safely
        #[arg(long)]
        repair: bool,
        /// Print one JSON document a line
        #[arg(long)]
        json: bool,
    },
    /// Take over the images, snapshots and containers of a containerd that is not running
    Migrate {
        /// Its root folder
        #[arg(long, default_value = "/var/lib/containerd")]
        from: PathBuf,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
        /// Take an earlier migration back: remove what it brought and nobody has changed since
        #[arg(long, conflicts_with = "dry_run")]
        undo: bool,
    },
    /// Publish an event that is read from standard input, for shims that cannot send it themselves
    Publish {
        /// The namespace of the event
        #[arg(long)]
        namespace: String,
        /// The topic of the event
        #[arg(long)]
        topic: String,
    },
}

/// Which configuration to print.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Which {
    /// The one without a file and without flags
    Default,
    /// The one in force: defaults, file with its imports, flags
    Dump,
    /// What the file says, without defaults, as version 3
    Migrate,
}

impl Args {
    /// Reads a command line; the first word is the program. Prints and exits on `--help` and on mistakes.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Self {
        Self::parse_from(words.into_iter().map(two_dashes))
    }

    /// What the flags say about the configuration.
    pub fn overrides(&self) -> Overrides {
        Overrides {
            address: self.address.clone(),
            root: self.root.clone(),
            state: self.state.clone(),
            level: self.log_level,
        }
    }
}

fn level(name: &str) -> Result<Level, String> {
    Level::parse(name).ok_or_else(|| "not one of trace, debug, info, warn, error, fatal, panic".to_owned())
}

/// `-address` becomes `--address`; `-a` stays.
fn two_dashes(word: OsString) -> OsString {
    let long = word.to_str().and_then(|text| text.strip_prefix('-')).filter(|name| {
        let name = name.split_once('=').map_or(*name, |(name, _)| name);
        LONG_NAMES.contains(&name)
    });
    match long {
        Some(name) => format!("--{name}").into(),
        None => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Args {
        Args::read(["gantryd"].iter().chain(words).map(OsString::from))
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn flags_with_one_dash_and_with_two() {
        for words in [
            &["-address", "/s", "-log-level=debug"][..],
            &["--address=/s", "--log-level", "debug"],
            &["-a", "/s", "-l", "debug"],
            &["-a", "/other", "-l", "info", "-a", "/s", "-l", "debug"],
        ] {
            let args = read(words);
            assert_eq!((args.address, args.log_level), (Some("/s".into()), Some(Level::Debug)), "{words:?}");
        }
        assert!(read(&["-v"]).version && read(&["-version"]).version && read(&["--version"]).version);
    }

    #[test]
    fn old_shims_publish_like_this() {
        let publish = Some(Command::Publish { namespace: "moby".into(), topic: "/tasks/exit".into() });
        for words in [
            &["--address", "/s", "publish", "--topic", "/tasks/exit", "--namespace", "moby"][..],
            &["-address", "/s", "publish", "-namespace", "moby", "-topic", "/tasks/exit"],
            &["publish", "-address", "/s", "-namespace=moby", "-topic=/tasks/exit"],
        ] {
            let args = read(words);
            assert_eq!((&args.address, &args.command), (&Some("/s".into()), &publish), "{words:?}");
        }
        assert_eq!(read(&["config", "dump"]).command, Some(Command::Config { which: Which::Dump }));
    }
}
