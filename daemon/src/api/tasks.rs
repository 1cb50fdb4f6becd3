//! The tasks service: running containers.
