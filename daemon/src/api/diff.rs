//! The diff service: apply a layer to mounts, make a layer of a difference.
