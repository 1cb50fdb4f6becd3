//! Tokens: a request is checked over gRPC first, and its client comes back over HTTP with nothing but a token.
//!
//! A token is good once, for a minute; it is as long as a key, since it is one.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::session::Session;
use crate::cri::id;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// How long a client may take to come.
const LIFETIME: Duration = Duration::from_secs(60);
/// Requests that may wait for their clients at one time.
const MAX_WAITING: usize = 1000;
/// Random bytes of a token.
const RANDOM: usize = 16;

/// Too many requests wait for clients that do not come.
#[derive(Debug, thiserror::Error)]
#[error("too many streaming requests wait for their clients ({MAX_WAITING}); try again later")]
pub struct TooMany;

/// The requests that wait.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    waiting: Mutex<HashMap<String, (Instant, Session)>>,
}

impl Tokens {
    /// A token for a request that was checked at `now`.
    ///
    /// # Errors
    /// [`TooMany`] are waiting.
    pub(super) fn give(&self, session: Session, now: Instant) -> Result<String, TooMany> {
        let mut waiting = self.waiting.lock().expect("nobody panics with it held");
        waiting.retain(|_, (since, _)| now.saturating_duration_since(*since) < LIFETIME);
        if waiting.len() >= MAX_WAITING {
            return Err(TooMany);
        }
        let token = random();
        waiting.insert(token.clone(), (now, session));
        Ok(token)
    }

    /// The request of a token, once, and only under the path it was given for.
    pub(super) fn take(&self, verb: &str, token: &str, now: Instant) -> Option<Session> {
        let mut waiting = self.waiting.lock().expect("nobody panics with it held");
        if waiting.get(token).is_none_or(|(_, session)| session.verb() != verb) {
            return None;
        }
        let (since, session) = waiting.remove(token)?;
        (now.saturating_duration_since(since) < LIFETIME).then_some(session)
    }
}

fn random() -> String {
    URL_SAFE_NO_PAD.encode(id::random::<RANDOM>())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{LIFETIME, MAX_WAITING, Tokens};
    use crate::cri::streaming::session::Session;

    fn forward(pod: usize) -> Session {
        Session::Forward { pod: pod.to_string(), ports: Vec::new() }
    }

    #[test]
    fn a_token_is_good_once_in_its_place_and_time() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let token = tokens.give(forward(1), now).unwrap();
        assert_eq!(tokens.take("exec", &token, now), None);
        assert_eq!(tokens.take("portforward", &token, now), Some(forward(1)));
        assert_eq!(tokens.take("portforward", &token, now), None);
        let late = tokens.give(forward(2), now).unwrap();
        assert_eq!(tokens.take("portforward", &late, now + LIFETIME), None);
    }

    #[test]
    fn waiting_requests_are_bounded_until_they_expire() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        for pod in 0..MAX_WAITING {
            tokens.give(forward(pod), now).unwrap();
        }
        assert!(tokens.give(forward(0), now).is_err());
        tokens.give(forward(0), now + LIFETIME).unwrap();
    }
}
