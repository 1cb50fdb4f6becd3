//! `gantry push`

use client::{Client, ClientError};
use model::platform::Platform;

use super::registry;
use crate::output::{self, Format};
use crate::progress::Show;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The image.
    image: String,
    /// Where to, if not where its name says.
    target: Option<String>,
    #[command(flatten)]
    registry: registry::Arguments,
    /// Of an image for several platforms only this one.
    #[arg(long = "platform", value_parser = registry::platform)]
    platforms: Vec<Platform>,
}

pub(crate) async fn run(client: &Client, arguments: Arguments, format: Format) -> Result<u8, ClientError> {
    let Arguments { image, target, registry, platforms } = arguments;
    let target = target.unwrap_or_else(|| image.clone());
    let options = registry.options()?;
    let mut show = Show::new(format);
    client.push(&image, &target, &platforms, &options, |message| show.tell(&message)).await?;
    drop(show);
    if format == Format::Text {
        output::line(&target);
    } else {
        output::json(&serde_json::json!({"name": target}));
    }
    Ok(0)
}
