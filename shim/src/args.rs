//! The command line, parsed. Pure: it opens nothing and prints nothing.
//!
//! Flags come in any order, before or after the subcommand, with one dash or two, the value behind `=` or as the next
//! word, as the flag parser of Go has it, since that is what daemons are written against. A flag that we do not know is
//! accepted and remembered, for the log: a newer daemon may well send one.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the program is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// `start`: make (or find) the server and print its address.
    Start,
    /// `delete`: clean up after a dead server.
    Delete,
    /// No subcommand: be the server.
    Serve,
    /// `-v`: print the version.
    Version,
    /// `-info`: print what this runtime can do.
    Info,
}

/// The whole command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Args {
    /// What to do.
    pub action: Action,
    /// `-namespace`
    pub namespace: String,
    /// `-id`: the container, or the group.
    pub id: String,
    /// `-address`: the daemon's gRPC socket.
    pub address: String,
    /// `-publish-binary`: the daemon's program.
    pub publish_binary: String,
    /// `-bundle`: only with `delete`; the working folder otherwise.
    pub bundle: Option<PathBuf>,
    /// `-debug`
    pub debug: bool,
    /// Flags that mean nothing to us, as they were written.
    pub unknown: Vec<String>,
}

/// Why a command line makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    /// A word that is no subcommand.
    #[error("unknown command {0:?}: start, delete, or none to serve")]
    Command(String),
    /// A flag at the end whose value is missing.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// A flag without which nothing can be done.
    #[error("shim {0} cannot be empty")]
    Missing(&'static str),
    /// A value that is neither true nor false.
    #[error("invalid boolean value {value:?} for -{flag}")]
    Boolean {
        /// The flag.
        flag: String,
        /// Its value.
        value: String,
    },
}

/// Parses the words behind the program's name.
///
/// # Errors
/// [`ArgsError`] names the word that is wrong or missing.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Args, ArgsError> {
    let mut args = Args {
        action: Action::Serve,
        namespace: String::new(),
        id: String::new(),
        address: String::new(),
        publish_binary: String::new(),
        bundle: None,
        debug: false,
        unknown: Vec::new(),
    };
    let mut words = words.into_iter().map(|word| word.to_string_lossy().into_owned()).peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|flag| !flag.is_empty())
        else {
            args.action = match word.as_str() {
                "start" => Action::Start,
                "delete" => Action::Delete,
                _ => return Err(ArgsError::Command(word)),
            };
            continue;
        };
        let (name, mut value) = match flag.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (flag.to_owned(), None),
        };
        let boolean = |value: Option<String>| match value.as_deref() {
            None | Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
            Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(ArgsError::Boolean { flag: name.clone(), value: other.to_owned() }),
        };
        match name.as_str() {
            "v" | "version" => args.action = if boolean(value)? { Action::Version } else { args.action },
            "info" => args.action = if boolean(value)? { Action::Info } else { args.action },
            "debug" => args.debug = boolean(value)?,
            "namespace" | "id" | "address" | "publish-binary" | "bundle" => {
                let value = value.or_else(|| words.next()).ok_or_else(|| ArgsError::NoValue(name.clone()))?;
                match name.as_str() {
                    "namespace" => args.namespace = value,
                    "id" => args.id = value,
                    "address" => args.address = value,
                    "publish-binary" => args.publish_binary = value,
                    _ => args.bundle = Some(value.into()),
                }
            }
            // Whether it takes a value we cannot know: the next word is one unless it is a flag or a subcommand.
            _ => {
                if value.is_none() {
                    value = words.next_if(|next| !next.starts_with('-') && next != "start" && next != "delete");
                }
                args.unknown.push(match value {
                    Some(value) => format!("-{name}={value}"),
                    None => format!("-{name}"),
                });
            }
        }
    }
    args.check()
}

impl Args {
    /// What talks about a container needs its name.
    fn check(self) -> Result<Self, ArgsError> {
        match self.action {
            Action::Version | Action::Info => {}
            _ if self.namespace.is_empty() => return Err(ArgsError::Missing("namespace")),
            _ if self.id.is_empty() => return Err(ArgsError::Missing("id")),
            _ => {}
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(line: &str) -> Result<Args, ArgsError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn order_dashes_and_forms_do_not_matter() {
        let wanted = parse_words("-namespace ns -id c -address /s -publish-binary /d -debug start").unwrap();
        assert_eq!((wanted.action, wanted.id.as_str(), wanted.debug), (Action::Start, "c", true));
        for line in [
            "start --id c --namespace ns -debug --address /s -publish-binary /d",
            "-debug=true -address=/s -publish-binary=/d --id=c start --namespace=ns",
        ] {
            assert_eq!(parse_words(line).unwrap(), wanted, "{line}");
        }
    }

    #[test]
    fn delete_may_name_its_bundle() {
        let args = parse_words("-namespace ns -address /s -id c -bundle /b delete").unwrap();
        assert_eq!((args.action, args.bundle), (Action::Delete, Some("/b".into())));
    }

    #[test]
    fn unknown_flags_are_kept_and_do_not_swallow_the_subcommand() {
        let args = parse_words("-new -fancy=1 -namespace ns -other value -id c -last start").unwrap();
        assert_eq!(args.unknown, ["-new", "-fancy=1", "-other=value", "-last"]);
        assert_eq!(args.action, Action::Start);
    }

    #[test]
    fn version_and_info_need_nothing_else() {
        assert_eq!(parse_words("-v").unwrap().action, Action::Version);
        assert_eq!(parse_words("--info").unwrap().action, Action::Info);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert_eq!(parse_words("-id c start"), Err(ArgsError::Missing("namespace")));
        assert_eq!(parse_words("-namespace n start"), Err(ArgsError::Missing("id")));
        assert_eq!(parse_words("-namespace n -id"), Err(ArgsError::NoValue("id".into())));
        assert_eq!(parse_words("-namespace n -id c stop"), Err(ArgsError::Command("stop".into())));
        assert!(matches!(parse_words("-debug=maybe"), Err(ArgsError::Boolean { .. })));
    }
}
