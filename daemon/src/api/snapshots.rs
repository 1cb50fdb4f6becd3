//! The snapshots service: root filesystems by layers.
