//! The namespaces service.
