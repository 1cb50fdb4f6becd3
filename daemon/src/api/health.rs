//! The health service.
