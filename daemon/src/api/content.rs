//! The content service: blobs and the ingests that become blobs.
