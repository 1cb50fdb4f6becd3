//! The version service.
