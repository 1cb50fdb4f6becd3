//! `gantry version`

use client::{Client, ClientError};

use crate::output::{self, Format};

pub(crate) async fn run(client: &Client, format: Format) -> Result<u8, ClientError> {
    let server = client.version().version(()).await?.into_inner();
    let own = env!("CARGO_PKG_VERSION");
    match format {
        Format::Text => {
            output::line(&format!("client  {own}"));
            output::line(&format!("daemon  {} (revision {})", server.version, server.revision));
        }
        Format::Json => {
            output::json(&serde_json::json!({"client": own, "daemon": server.version, "revision": server.revision}))
        }
    }
    Ok(0)
}
