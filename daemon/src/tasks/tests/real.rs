//! Real shims.
