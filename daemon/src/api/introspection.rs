//! The introspection service: what this server is made of.
