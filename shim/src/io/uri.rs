//! What a client means by the string it gives for a stream. Pure.
//!
//! | String | Meaning |
//! |---|---|
//! | empty | nothing: `/dev/null` |
//! | `/path`, `fifo:///path` | a fifo that the client made (or, unusually, a file that exists) |
//! | `file:///path` | a file to append to, made if need be with its folders |
//! | `binary:///path?key=value` | a program that reads the stream; `binary-v2://` must also say when it is ready |
//! | `gantry-log:///path?format=cri` | output: a log that this process writes, and clients that attach (`proto/gantry/shim/v1`) |
//! | `gantry-attach:///?once=true` | standard input: clients that attach |

use std::ffi::OsString;
use std::path::PathBuf;

/// One stream, as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Uri {
    /// No stream.
    Null,
    /// A fifo, or a file that exists.
    Path(PathBuf),
    /// A file to append to.
    File(PathBuf),
    /// A program that reads.
    Binary(Binary),
    /// A log in the form of the CRI, and clients that attach.
    Log(LogUri),
    /// Clients that attach, as a source of input.
    Attach {
        /// Whether input ends with the first of them.
        once: bool,
    },
}

/// A log of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogUri {
    /// The file; none keeps no log.
    pub path: Option<PathBuf>,
    /// The longest line in bytes.
    pub max_line: usize,
}

/// A logging program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binary {
    /// The program.
    pub path: PathBuf,
    /// Its arguments: each key of the query, then the key's first value.
    pub args: Vec<OsString>,
    /// Whether it must write a byte when it is ready (`binary-v2`); otherwise closing the descriptor will do.
    pub must_report: bool,
}

/// A string that means no stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UriError {
    /// A scheme that nobody knows.
    #[error("unknown STDIO scheme {0}")]
    Scheme(String),
    /// No absolute path.
    #[error("STDIO path {0:?} is not absolute")]
    Relative(String),
    /// A parameter of our own schemes that means nothing.
    #[error("STDIO parameter {0:?}")]
    Parameter(String),
    /// A kind of stream in a place where it makes no sense.
    #[error("STDIO scheme {0} is not for this stream")]
    Place(&'static str),
}

/// The longest line of a log when the client does not say, as every CRI has it.
const MAX_LINE_BYTES: usize = 16 << 10;
/// The longest line of a log at all: so much of one that has no end yet is kept in memory.
const MAX_LINE_LIMIT: usize = 1 << 20;

/// Reads the string of one stream.
///
/// # Errors
/// [`UriError`]
pub(crate) fn parse(text: &str) -> Result<Uri, UriError> {
    if text.is_empty() {
        return Ok(Uri::Null);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok(Uri::Path(absolute(text)?));
    };
    let (path, query) = rest.split_once('?').map_or((rest, ""), |(path, query)| (path, query));
    let path = decode(path, false);
    Ok(match scheme {
        "fifo" => Uri::Path(absolute(&path)?),
        "file" => Uri::File(absolute(&path)?),
        "binary" | "binary-v2" => {
            Uri::Binary(Binary { path: absolute(&path)?, args: arguments(query), must_report: scheme == "binary-v2" })
        }
        "gantry-log" => Uri::Log(log(&path, query)?),
        "gantry-attach" => Uri::Attach { once: attach_once(query)? },
        other => return Err(UriError::Scheme(other.to_owned())),
    })
}

fn log(path: &str, query: &str) -> Result<LogUri, UriError> {
    let path = if matches!(path, "" | "/") { None } else { Some(absolute(path)?) };
    let mut max_line = MAX_LINE_BYTES;
    for (key, value) in pairs(query) {
        let wrong = || UriError::Parameter(format!("{key}={value}"));
        match key.as_str() {
            "format" if value == "cri" => {}
            "max_line" => max_line = value.parse().map_err(|_| wrong())?,
            _ => return Err(wrong()),
        }
    }
    let max_line = if max_line == 0 { MAX_LINE_LIMIT } else { max_line.min(MAX_LINE_LIMIT) };
    Ok(LogUri { path, max_line })
}

fn attach_once(query: &str) -> Result<bool, UriError> {
    let mut once = false;
    for (key, value) in pairs(query) {
        once = match (key.as_str(), value.as_str()) {
            ("once", "true" | "1") => true,
            ("once", "false" | "0") => false,
            _ => return Err(UriError::Parameter(format!("{key}={value}"))),
        };
    }
    Ok(once)
}

fn absolute(path: &str) -> Result<PathBuf, UriError> {
    if path.starts_with('/') { Ok(path.into()) } else { Err(UriError::Relative(path.to_owned())) }
}

/// The arguments in a query: only the first value of each key counts.
fn arguments(query: &str) -> Vec<OsString> {
    let mut seen = Vec::new();
    let mut args = Vec::new();
    for (key, value) in pairs(query) {
        if seen.contains(&key) {
            continue;
        }
        args.push(key.clone().into());
        if !value.is_empty() {
            args.push(value.into());
        }
        seen.push(key);
    }
    args
}

/// The keys and values of a query, decoded.
fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key, true), decode(value, true))
    })
}

/// Undoes the percent encoding; what is no valid escape stays as it is.
fn decode(text: &str, plus_is_space: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = (first == b'%').then(|| tail.get(..2)).flatten();
        let value = escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(match value {
            Some(value) => value,
            None if first == b'+' && plus_is_space => b' ',
            None => first,
        });
        rest = if value.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_as_a_table() {
        for (text, wanted) in [
            ("", Uri::Null),
            ("/run/fifo/a-stdout", Uri::Path("/run/fifo/a-stdout".into())),
            ("fifo:///run/fifo/a", Uri::Path("/run/fifo/a".into())),
            ("file:///var/log/a%20b.log", Uri::File("/var/log/a b.log".into())),
        ] {
            assert_eq!(parse(text), Ok(wanted), "{text}");
        }
        assert_eq!(parse("ttrpc+unix:///s"), Err(UriError::Scheme("ttrpc+unix".into())));
        assert_eq!(parse("log.txt"), Err(UriError::Relative("log.txt".into())));
        assert_eq!(parse("file://log.txt"), Err(UriError::Relative("log.txt".into())));
    }

    #[test]
    fn a_logger_gets_each_key_and_its_first_value() {
        let Uri::Binary(binary) = parse("binary:///bin/logger?_NERDCTL=%2Fvar%2Flib&x=1&x=2&flag&plus=a+b").unwrap()
        else {
            panic!("a binary")
        };
        assert_eq!(binary.path, PathBuf::from("/bin/logger"));
        assert_eq!(binary.args, ["_NERDCTL", "/var/lib", "x", "1", "flag", "plus", "a b"].map(OsString::from));
        assert!(!binary.must_report);
        assert!(matches!(parse("binary-v2:///l"), Ok(Uri::Binary(Binary { must_report: true, .. }))));
    }

    #[test]
    fn logs_and_attached_clients_are_ours() {
        let log = |path: Option<&str>, max_line| Uri::Log(LogUri { path: path.map(PathBuf::from), max_line });
        for (text, wanted) in [
            ("gantry-log:///var/log/0.log?format=cri&max_line=80", log(Some("/var/log/0.log"), 80)),
            ("gantry-log:///l?max_line=0", log(Some("/l"), MAX_LINE_LIMIT)),
            ("gantry-log:///", log(None, MAX_LINE_BYTES)),
            ("gantry-attach:///", Uri::Attach { once: false }),
            ("gantry-attach:///?once=true", Uri::Attach { once: true }),
        ] {
            assert_eq!(parse(text), Ok(wanted), "{text}");
        }
        for wrong in ["gantry-log:///l?format=json", "gantry-log:///l?max_line=many", "gantry-attach:///?twice=1"] {
            assert!(matches!(parse(wrong), Err(UriError::Parameter(_))), "{wrong}");
        }
    }

    #[test]
    fn broken_escapes_stay() {
        assert_eq!(decode("a%2", false), "a%2");
        assert_eq!(decode("%zz%41+", false), "%zzA+");
    }
}
