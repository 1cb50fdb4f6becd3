//! TLS for the streaming server, from files.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A server's configuration from a certificate chain and its key, both PEM.
///
/// # Errors
/// A file is not named, cannot be read, or is not that; or the key does not fit.
pub fn tls(cert_file: &str, key_file: &str) -> io::Result<Arc<ServerConfig>> {
    if cert_file.is_empty() || key_file.is_empty() {
        let why =
            "enable_tls_streaming needs tls_cert_file and tls_key_file of x509_key_pair_streaming: none is made here";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let wrong = |file: &str, error: &dyn std::fmt::Display| io::Error::other(format!("{file}: {error}"));
    let chain = CertificateDer::pem_file_iter(cert_file)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(cert_file, &error))?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| wrong(key_file, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| wrong(cert_file, &error))?;
    Ok(Arc::new(config))
}
