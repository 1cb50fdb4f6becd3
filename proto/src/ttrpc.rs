//! The frames of ttrpc, and the messages in them.

pub use crate::wire::ttrpc::{KeyValue, Request, Response};
