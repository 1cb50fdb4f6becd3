//! `gantry pull`

use client::transfer::PullOptions;
use client::{Client, ClientError};

use crate::output::{self, Format};
use crate::progress::Show;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The image, with its registry: docker.io/library/busybox:latest.
    reference: String,
    /// Speak plain HTTP to the registry.
    #[arg(long)]
    plain_http: bool,
    /// Fetch only, do not unpack.
    #[arg(long)]
    no_unpack: bool,
    /// The snapshotter to unpack for.
    #[arg(long, default_value = client::DEFAULT_SNAPSHOTTER)]
    snapshotter: String,
}

pub(crate) async fn run(client: &Client, arguments: Arguments, format: Format) -> Result<u8, ClientError> {
    let reference: model::reference::Reference = arguments
        .reference
        .parse()
        .map_err(|error: model::reference::ReferenceError| ClientError::Invalid(error.to_string()))?;
    let options = PullOptions {
        plain_http: arguments.plain_http,
        unpack: (!arguments.no_unpack).then_some(arguments.snapshotter),
    };
    let mut show = Show::new(format);
    let name = reference.to_string();
    client.pull(&name, &options, |message| show.tell(&message)).await?;
    drop(show);
    let target = client.image(&name).await?.target.ok_or(ClientError::Incomplete("target"))?;
    match format {
        Format::Text => output::line(&format!("{name}@{}", target.digest)),
        Format::Json => {
            output::json(&serde_json::json!({"name": name, "digest": target.digest, "mediaType": target.media_type}))
        }
    }
    Ok(0)
}
