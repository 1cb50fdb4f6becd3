//! Payloads that are kept without being understood.

/// A value of a type that its URL names: our own form of `google.protobuf.Any`.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Any {
    /// The name of the type.
    pub type_url: String,
    /// The value, in the encoding that goes with the name.
    pub value: Vec<u8>,
}

/// Which runtime runs a container or a sandbox, and its options.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Runtime {
    /// The name, for one `io.containerd.runc.v2`.
    pub name: String,
    /// Options for the runtime.
    pub options: Option<Any>,
}
