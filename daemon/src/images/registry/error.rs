//! What can go wrong with a registry. A message names the registry, what was asked of it, and its own words; never a credential
//! and never an address with a query, which may hold one.

use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use model::error::{Classify, Kind};
use oci_distribution::errors::OciDistributionError;

use super::endpoint::MAX_RETRY_AFTER;
use super::hosts::HostsError;

/// How much of a registry's words is repeated, in characters.
const MAX_WORDS: usize = 512;

/// Why a registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It has no such thing.
    #[error("{host} has no {what}{words}")]
    NotFound {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// Its own words.
        words: Words,
    },
    /// It wants to know who asks, or does not allow it.
    #[error("{host} refuses access to {what} ({status}){words}{hint}")]
    Denied {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// Its own words.
        words: Words,
        /// What to do about it.
        hint: &'static str,
    },
    /// It refuses for another reason.
    #[error("{host} answers {status} when asked for {what}{words}{}", patience(*status, *retry_after))]
    Status {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// Its own words.
        words: Words,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// It cannot be reached, or the connection broke.
    #[error("cannot get {what} from {host}: {cause}{hint}")]
    Broken {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What happened.
        cause: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// It sends more than a document may be.
    #[error("{host} sends more than the {limit} bytes that are allowed for {what}")]
    TooLarge {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// It answers with something that no registry should.
    #[error("{host} breaks the protocol when asked for {what}: {cause}")]
    Protocol {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What is wrong.
        cause: String,
    },
    /// The client has no credentials to give, or none that can be used.
    #[error("cannot authenticate at {host}: {why}")]
    Credentials {
        /// The registry.
        host: String,
        /// What is wrong with them.
        why: String,
    },
    /// What the configuration says of the host cannot be used.
    #[error("cannot speak to {host}: {cause}")]
    Setup {
        /// The registry.
        host: String,
        /// What is wrong.
        cause: String,
    },
    /// It sends, but hardly anything.
    #[error("{host} sent only {bytes} bytes of {what} in {} s; is the network overloaded?", within.as_secs())]
    Slow {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// How much came.
        bytes: u64,
        /// In which time.
        within: Duration,
    },
    /// It is not known which hosts to ask.
    #[error(transparent)]
    Hosts(#[from] HostsError),
    /// No host of the configuration may be asked for that.
    #[error(
        "no host that is configured for {registry} may be asked to {what}; its hosts.toml gives none that capability"
    )]
    Nobody {
        /// The registry.
        registry: String,
        /// What for.
        what: &'static str,
    },
    /// Neither the mirrors nor the registry itself did it.
    #[error("{last}; before that: {tried}")]
    Mirrors {
        /// What the last one said.
        last: Box<RegistryError>,
        /// What the others said.
        tried: String,
    },
}

/// What to do about a registry that has had enough.
fn patience(status: u16, retry_after: Option<Duration>) -> String {
    match (status, retry_after) {
        (_, Some(time)) if !time.is_zero() => format!("; it asks to wait {} s", time.as_secs()),
        (429, _) => "; is there a limit on pulls without an account?".to_owned(),
        _ => String::new(),
    }
}

impl RegistryError {
    /// Whether the same request may succeed in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Broken { .. } | Self::Slow { .. } => true,
            Self::Status { status, retry_after, .. } => {
                matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
                    && retry_after.is_none_or(|time| time <= MAX_RETRY_AFTER)
            }
            Self::Mirrors { last, .. } => last.is_transient(),
            _ => false,
        }
    }

    /// How long the registry asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Mirrors { last, .. } => last.retry_after(),
            _ => None,
        }
    }

    /// The same, with what the registry said of when to come back.
    pub(super) fn after(mut self, time: Option<Duration>) -> Self {
        if let Self::Status { retry_after, .. } = &mut self {
            *retry_after = time;
        }
        self
    }

    /// The same, with what others said before.
    pub(super) fn after_others(self, tried: &[Self]) -> Self {
        if tried.is_empty() {
            return self;
        }
        let tried = tried.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Self::Mirrors { last: Box::new(self), tried }
    }

    /// From the status and the body of an answer.
    pub(super) fn answer(host: &str, what: String, status: u16, body: &[u8]) -> Self {
        let (host, words) = (host.to_owned(), Words::of_body(body));
        match status {
            404 => Self::NotFound { host, what, words },
            401 => Self::Denied { host, what, status, words, hint: "; are the credentials right?" },
            403 => Self::Denied { host, what, status, words, hint: "" },
            _ => Self::Status { host, what, status, words, retry_after: None },
        }
    }

    /// From what the HTTP client says.
    pub(super) fn http(host: &str, what: String, error: reqwest::Error) -> Self {
        let (timeout, connect) = (error.is_timeout(), error.is_connect());
        let cause = causes(&error.without_url());
        let hint = if cause.contains("certificate") || cause.contains("UnknownIssuer") {
            "; is its authority trusted here, or named by \"ca\" in its hosts.toml?"
        } else if timeout {
            "; it did not answer in time"
        } else if connect {
            "; is the registry up, and is it HTTP or HTTPS?"
        } else {
            ""
        };
        Self::Broken { host: host.to_owned(), what, cause, hint }
    }

    /// From a connection that broke while a body came in.
    pub(in crate::images) fn interrupted(host: &str, what: String, source: &std::io::Error) -> Self {
        Self::Broken { host: host.to_owned(), what, cause: causes(source), hint: "" }
    }

    /// From what the registry client says.
    pub(super) fn oci(host: &str, what: String, error: OciDistributionError) -> Self {
        match error {
            OciDistributionError::RequestError(error) if error.status().is_some() => {
                let status = error.status().map_or(0, |status| status.as_u16());
                Self::answer(host, what, status, b"")
            }
            OciDistributionError::RequestError(error) => Self::http(host, what, error),
            OciDistributionError::UnauthorizedError { .. } => Self::answer(host, what, 401, b""),
            OciDistributionError::ServerError { code, message, .. } => {
                Self::answer(host, what, code, message.as_bytes())
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                use oci_distribution::errors::OciErrorCode as Code;
                let status = match envelope.errors.first().map(|error| &error.code) {
                    Some(Code::Unauthorized) => 401,
                    Some(Code::Denied) => 403,
                    Some(Code::Toomanyrequests) => 429,
                    Some(Code::BlobUnknown | Code::NameUnknown | Code::ManifestUnknown | Code::NotFound) => 404,
                    _ => 400,
                };
                let body = serde_json::to_vec(&envelope).unwrap_or_default();
                Self::answer(host, what, status, &body)
            }
            OciDistributionError::AuthenticationFailure(words) => Self::Denied {
                host: host.to_owned(),
                what,
                status: 401,
                words: Words::of_body(words.as_bytes()),
                hint: "; are the credentials right?",
            },
            OciDistributionError::IoError(error) => {
                Self::Broken { host: host.to_owned(), what, cause: causes(&error), hint: "" }
            }
            // The text of a token that cannot be read would hold the token.
            OciDistributionError::RegistryTokenDecodeError(_) => {
                Self::Protocol { host: host.to_owned(), what, cause: "its token service sends no token".to_owned() }
            }
            other => Self::Protocol { host: host.to_owned(), what, cause: clean(&other.to_string()) },
        }
    }
}

impl Classify for RegistryError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::Denied { .. } | Self::Credentials { .. } => Kind::PermissionDenied,
            Self::Status { status: 429, .. } => Kind::ResourceExhausted,
            Self::Status { .. } | Self::Broken { .. } | Self::Slow { .. } => Kind::Unavailable,
            Self::TooLarge { .. } => Kind::ResourceExhausted,
            Self::Protocol { .. } => Kind::Unknown,
            Self::Setup { .. } | Self::Hosts(_) | Self::Nobody { .. } => Kind::FailedPrecondition,
            Self::Mirrors { last, .. } => last.kind(),
        }
    }
}

/// What a registry said of a failure, on one line; prints as `: words`, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Words(String);

impl Words {
    /// From the body of an answer: the messages of an error document, else the text as it is.
    pub(super) fn of_body(body: &[u8]) -> Self {
        #[derive(serde::Deserialize)]
        struct Envelope {
            errors: Vec<Item>,
        }
        #[derive(serde::Deserialize)]
        struct Item {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let said = match serde_json::from_slice::<Envelope>(body) {
            Ok(Envelope { errors }) => {
                let each = errors.into_iter().map(|error| match error.message.is_empty() {
                    true => error.code,
                    false => format!("{} ({})", error.message, error.code),
                });
                each.collect::<Vec<_>>().join(", ")
            }
            Err(_) => String::from_utf8_lossy(&body[..body.len().min(4 * MAX_WORDS)]).into_owned(),
        };
        Self(clean(&said))
    }
}

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

/// `text` on one line, and not without end.
pub(in crate::images) fn clean(text: &str) -> String {
    let line = text.split(char::is_whitespace).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let printable = line.chars().filter(|letter| !letter.is_control());
    let mut short: String = printable.clone().take(MAX_WORDS).collect();
    if printable.count() > MAX_WORDS {
        short.push('…');
    }
    short
}

/// An error and all its causes, each once.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        next = cause.source();
    }
    clean(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_registry_are_kept_short_and_on_one_line() {
        for (body, words) in [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#,
                ": manifest unknown (MANIFEST_UNKNOWN)",
            ),
            (r#"{"errors":[{"code":"DENIED"}]}"#, ": DENIED"),
            ("<html>\r\n\tgateway\x1b[31m\n</html>", ": <html> gateway[31m </html>"),
            ("", ""),
        ] {
            assert_eq!(Words::of_body(body.as_bytes()).to_string(), words);
        }
        let long = Words::of_body("x".repeat(1 << 20).as_bytes()).to_string();
        assert!(long.chars().count() < MAX_WORDS + 10);
    }
}
