//! Streaming: exec, attach and port-forward, for which the CRI hands out URLs.
//!
//! ```text
//!  kubelet ──gRPC──► Exec, Attach, PortForward: checked ──► Server::url ──► http://…/exec/<token>
//!  kubelet ──HTTP──► Server: token ──► upgrade ─┬─ SPDY/3.1 ──► remote (exec, attach), forward (port-forward)
//!                                              └─ WebSocket ─► websocket (all three; SPDY tunnelled for port-forward)
//!                                                                   └──► Backend: who runs it
//! ```
//!
//! It owns the HTTP server, its tokens and the protocols of streams. It knows no containers: what a session does is done
//! by the [`Backend`]. A token is the only credential, so it is long, good once, and only for a minute. A client that breaks a
//! protocol, is silent for too long, or opens too much loses its own connection and nothing else.

mod certificate;
mod dial;
mod forward;
mod remote;
mod server;
mod session;
mod spdy;
mod tokens;
mod websocket;

pub use certificate::tls;
pub use dial::localhost;
pub use server::{Server, Settings};
pub use session::{Backend, Input, Io, Output, Session, Size, Wanted};
pub use tokens::TooMany;

#[cfg(test)]
mod tests;
