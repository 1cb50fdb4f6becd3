//! Who we are at a registry: the client is asked over its `auth_stream`, once per challenge (containerd's contract).
//!
//! What it answers is for the registry that was named to it and for no other. It is kept in memory for as long as the transfer
//! lasts, and printed nowhere.

use std::fmt;

use proto::types::transfer::{AuthRequest, AuthResponse, AuthType};
use tokio::sync::Mutex;

use super::hosts::address_of;
use crate::streaming::{Channel, StreamError};

/// Something that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What is hidden.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What a client has for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing: ask as anybody.
    Anonymous,
    /// Name and password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token that is to be exchanged for another one.
    Refresh(Secret),
    /// The value of the `Authorization` header.
    Header(Secret),
}

/// Finds out who we are: asks the client, or knows it.
#[derive(Debug, Default)]
pub struct Asker {
    channel: Option<Mutex<Channel>>,
    /// What is known without asking: for which host, if not for all.
    known: Option<(Option<String>, Credentials)>,
}

impl Asker {
    /// Asks over `channel`; without one the answer is always [`Credentials::Anonymous`].
    pub fn new(channel: Option<Channel>) -> Self {
        Self { channel: channel.map(Mutex::new), known: None }
    }

    /// Asks nobody: answers with `credentials`, to `host` alone if it is named.
    pub fn knowing(credentials: Credentials, host: Option<String>) -> Self {
        Self { channel: None, known: Some((host, credentials)) }
    }

    /// Asks for the credentials for `host`, which sent these challenges.
    ///
    /// # Errors
    /// The client is gone or answers with something else.
    pub async fn ask(&self, host: &str, reference: &str, challenges: &[String]) -> Result<Credentials, StreamError> {
        if let Some((only, credentials)) = &self.known {
            let is_meant = only.as_deref().is_none_or(|only| address_of(only) == host);
            return Ok(if is_meant { credentials.clone() } else { Credentials::Anonymous });
        }
        let Some(channel) = &self.channel else { return Ok(Credentials::Anonymous) };
        let mut channel = channel.lock().await;
        let wwwauthenticate = challenges.to_vec();
        let request = AuthRequest { host: host.to_owned(), reference: reference.to_owned(), wwwauthenticate };
        channel.send(&request).await?;
        let answer: AuthResponse = channel.receive().await?.ok_or(StreamError::Closed)?;
        let kind = answer.auth_type();
        let AuthResponse { secret, username, .. } = answer;
        Ok(match kind {
            AuthType::None => Credentials::Anonymous,
            AuthType::Credentials => Credentials::Password { user: username, password: Secret::new(secret) },
            AuthType::Refresh => Credentials::Refresh(Secret::new(secret)),
            AuthType::Header => Credentials::Header(Secret::new(secret)),
        })
    }
}
