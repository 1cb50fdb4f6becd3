//! The containers service.
