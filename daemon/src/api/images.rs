//! The images service: names for targets.
