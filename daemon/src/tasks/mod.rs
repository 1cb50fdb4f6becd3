//! Tasks: who owns an id, how a shim is started, found again after a restart, and given up.
