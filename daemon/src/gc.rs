//! Garbage collection: what is reachable stays, the rest is swept.
