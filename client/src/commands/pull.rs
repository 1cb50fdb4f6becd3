//! `gantry pull`

use client::transfer::PullOptions;
use client::{Client, ClientError};
use model::platform::Platform;

use super::registry;
use crate::output::{self, Format};
use crate::progress::Show;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The image, with its registry: docker.io/library/busybox:latest.
    reference: String,
    #[command(flatten)]
    registry: registry::Arguments,
    /// Of an image for several platforms this one, instead of the machine's.
    #[arg(long = "platform", value_parser = registry::platform)]
    platforms: Vec<Platform>,
    /// Fetch it for all platforms.
    #[arg(long, conflicts_with = "platforms")]
    all_platforms: bool,
    /// Fetch the documents of other platforms, too.
    #[arg(long)]
    all_metadata: bool,
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
        registry: arguments.registry.options()?,
        platforms: arguments.platforms,
        all_platforms: arguments.all_platforms,
        all_metadata: arguments.all_metadata,
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
