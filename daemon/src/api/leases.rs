//! The leases service: what garbage collection must spare.
