//! The OCI command line, as far as containerd's shims use it. Unknown words are refused, never skipped.

use std::ffi::OsString;
use std::path::PathBuf;

/// Options before the verb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Global {
    pub(super) root: PathBuf,
    pub(super) log: Option<PathBuf>,
    pub(super) json: bool,
    pub(super) debug: bool,
    pub(super) systemd_cgroup: bool,
    /// This process already runs from a file that nobody can write (see `sealed.rs`).
    pub(super) sealed: bool,
}

impl Default for Global {
    fn default() -> Self {
        let root = PathBuf::from("/run/gantry/runtime");
        Self { root, log: None, json: false, debug: false, systemd_cgroup: false, sealed: false }
    }
}

/// The verb with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Create { id: String, options: CreateOptions },
    Start { id: String },
    Kill { id: String, signal: i32, all: bool },
    Delete { id: String, force: bool },
    Exec { id: String, options: ExecOptions },
    Pause { id: String },
    Resume { id: String },
    Update { id: String, resources: PathBuf },
    Ps { id: String },
    State { id: String },
    Features,
    Version,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CreateOptions {
    pub(super) bundle: PathBuf,
    pub(super) pid_file: Option<PathBuf>,
    pub(super) console_socket: Option<PathBuf>,
    pub(super) no_pivot: bool,
    pub(super) no_new_keyring: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ExecOptions {
    pub(super) process: PathBuf,
    pub(super) pid_file: Option<PathBuf>,
    pub(super) console_socket: Option<PathBuf>,
}

/// Why a command line cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ArgsError {
    #[error("no command given")]
    NoCommand,
    #[error("command {0:?} is not supported by the built-in runtime")]
    UnknownCommand(String),
    #[error("option {option:?} of {command} is not supported by the built-in runtime")]
    UnknownOption { command: String, option: String },
    #[error("option {0} needs a value")]
    NoValue(String),
    #[error("unknown signal {0:?}")]
    Signal(String),
    #[error("{0}")]
    Usage(&'static str),
    #[error("argument is not UTF-8")]
    NotUnicode,
}

/// Words still to be read. `--name=value` and `--name value` are one thing.
struct Words {
    rest: std::vec::IntoIter<String>,
    /// The value of a `--name=value` whose name was just taken.
    value: Option<String>,
}

impl Words {
    fn next(&mut self) -> Option<String> {
        let word = self.rest.next()?;
        match word.split_once('=') {
            Some((name, value)) if name.starts_with('-') => {
                self.value = Some(value.to_owned());
                Some(name.to_owned())
            }
            _ => Some(word),
        }
    }

    fn value(&mut self, name: &str) -> Result<String, ArgsError> {
        self.value.take().or_else(|| self.rest.next()).ok_or_else(|| ArgsError::NoValue(name.to_owned()))
    }

    fn path(&mut self, name: &str) -> Result<PathBuf, ArgsError> {
        self.value(name).map(PathBuf::from)
    }
}

/// Reads the whole command line.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<(Global, Command), ArgsError> {
    let words: Result<Vec<String>, OsString> = args.into_iter().map(OsString::into_string).collect();
    let mut words = Words { rest: words.map_err(|_| ArgsError::NotUnicode)?.into_iter(), value: None };
    let mut global = Global::default();
    let command = loop {
        let word = words.next().ok_or(ArgsError::NoCommand)?;
        match word.as_str() {
            "--root" => global.root = words.path(&word)?,
            "--log" => global.log = Some(words.path(&word)?),
            "--log-format" => global.json = words.value(&word)? == "json",
            "--debug" => global.debug = true,
            "--systemd-cgroup" => global.systemd_cgroup = true,
            "--sealed" => global.sealed = true,
            "--version" | "-v" => break "--version".to_owned(),
            option if option.starts_with('-') => {
                return Err(ArgsError::UnknownOption { command: "the runtime".to_owned(), option: option.to_owned() });
            }
            _ => break word,
        }
    };
    Ok((global, verb(&command, &mut words)?))
}

fn verb(command: &str, words: &mut Words) -> Result<Command, ArgsError> {
    match command {
        "create" => create(words),
        "exec" => exec(words),
        "start" => Ok(Command::Start { id: only_id(command, words)? }),
        "pause" => Ok(Command::Pause { id: only_id(command, words)? }),
        "resume" => Ok(Command::Resume { id: only_id(command, words)? }),
        "state" => Ok(Command::State { id: only_id(command, words)? }),
        "kill" => {
            let mut all = false;
            let names = options(command, words, |option, _| match option {
                "--all" | "-a" => {
                    all = true;
                    Ok(true)
                }
                _ => Ok(false),
            })?;
            let mut names = names.into_iter();
            let id = names.next().ok_or(ArgsError::Usage("kill needs a container id"))?;
            Ok(Command::Kill { id, signal: signal(names.next().as_deref().unwrap_or("SIGTERM"))?, all })
        }
        "delete" => {
            let mut force = false;
            let names = options(command, words, |option, _| match option {
                "--force" | "-f" => {
                    force = true;
                    Ok(true)
                }
                _ => Ok(false),
            })?;
            Ok(Command::Delete { id: one(names)?, force })
        }
        "update" => {
            let mut resources = None;
            let names = options(command, words, |option, words| match option {
                "--resources" | "-r" => {
                    resources = Some(words.path(option)?);
                    Ok(true)
                }
                _ => Ok(false),
            })?;
            let resources = resources.ok_or(ArgsError::Usage("update needs --resources"))?;
            Ok(Command::Update { id: one(names)?, resources })
        }
        "ps" => {
            let mut json = false;
            let names = options(command, words, |option, words| match option {
                "--format" | "-f" => {
                    json = words.value(option)? == "json";
                    Ok(true)
                }
                _ => Ok(false),
            })?;
            if !json {
                return Err(ArgsError::Usage("ps: only --format json is supported by the built-in runtime"));
            }
            Ok(Command::Ps { id: one(names)? })
        }
        "features" => Ok(Command::Features),
        "--version" => Ok(Command::Version),
        other => Err(ArgsError::UnknownCommand(other.to_owned())),
    }
}

fn create(words: &mut Words) -> Result<Command, ArgsError> {
    let mut create = CreateOptions { bundle: PathBuf::from("."), ..CreateOptions::default() };
    let names = options("create", words, |option, words| {
        match option {
            "--bundle" | "-b" => create.bundle = words.path(option)?,
            "--pid-file" => create.pid_file = Some(words.path(option)?),
            "--console-socket" => create.console_socket = Some(words.path(option)?),
            "--no-pivot" => create.no_pivot = true,
            "--no-new-keyring" => create.no_new_keyring = true,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Command::Create { id: one(names)?, options: create })
}

fn exec(words: &mut Words) -> Result<Command, ArgsError> {
    let (mut exec, mut detach) = (ExecOptions::default(), false);
    let names = options("exec", words, |option, words| {
        match option {
            "--process" | "-p" => exec.process = words.path(option)?,
            "--pid-file" => exec.pid_file = Some(words.path(option)?),
            "--console-socket" => exec.console_socket = Some(words.path(option)?),
            "--detach" | "-d" => detach = true,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if !detach || exec.process.as_os_str().is_empty() {
        return Err(ArgsError::Usage("exec: the built-in runtime needs --detach and --process"));
    }
    Ok(Command::Exec { id: one(names)?, options: exec })
}

/// Hands each option to `take`, which says whether it knew it; returns the other words.
fn options(
    command: &str,
    words: &mut Words,
    mut take: impl FnMut(&str, &mut Words) -> Result<bool, ArgsError>,
) -> Result<Vec<String>, ArgsError> {
    let mut names = Vec::new();
    while let Some(word) = words.next() {
        if !word.starts_with('-') || word == "-" {
            names.push(word);
        } else if !take(&word, words)? {
            return Err(ArgsError::UnknownOption { command: command.to_owned(), option: word });
        }
    }
    Ok(names)
}

fn only_id(command: &str, words: &mut Words) -> Result<String, ArgsError> {
    one(options(command, words, |_, _| Ok(false))?)
}

fn one(names: Vec<String>) -> Result<String, ArgsError> {
    <[String; 1]>::try_from(names).map(|[id]| id).map_err(|_| ArgsError::Usage("exactly one container id is needed"))
}

/// A signal by number, `TERM` or `SIGTERM`.
fn signal(word: &str) -> Result<i32, ArgsError> {
    let unknown = || ArgsError::Signal(word.to_owned());
    if let Ok(number) = word.parse::<i32>() {
        // 64 is the last real-time signal.
        return if (0..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = word.to_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.parse::<nix::sys::signal::Signal>().map(|signal| signal as i32).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Global, Command), ArgsError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_line_a_shim_sends_is_understood() {
        let (global, command) =
            parsed("--root /r/ns --log=/l --log-format json create --bundle /b --pid-file /p --no-pivot web").unwrap();
        assert_eq!((global.root, global.log, global.json), ("/r/ns".into(), Some("/l".into()), true));
        let options = CreateOptions {
            bundle: "/b".into(),
            pid_file: Some("/p".into()),
            no_pivot: true,
            ..CreateOptions::default()
        };
        assert_eq!(command, Command::Create { id: "web".to_owned(), options });
    }

    #[test]
    fn signals_have_numbers_and_names() {
        for (word, number) in
            [("9", Ok(9)), ("TERM", Ok(15)), ("sigkill", Ok(9)), ("64", Ok(64)), ("65", Err(())), ("NOPE", Err(()))]
        {
            assert_eq!(signal(word).map_err(drop), number, "{word}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        assert_eq!(parsed("checkpoint x").unwrap_err(), ArgsError::UnknownCommand("checkpoint".to_owned()));
        let unknown = ArgsError::UnknownOption { command: "create".to_owned(), option: "--preserve-fds".to_owned() };
        assert_eq!(parsed("create --preserve-fds 3 x").unwrap_err(), unknown);
        assert_eq!(parsed("start a b").unwrap_err(), ArgsError::Usage("exactly one container id is needed"));
    }
}
