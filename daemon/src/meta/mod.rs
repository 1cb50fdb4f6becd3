//! The metadata layer: content, snapshots, images and leases of the namespaces, above the store.
