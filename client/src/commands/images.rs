//! `gantry images ls|import|rm`

use std::path::PathBuf;

use client::{Client, ClientError};
use proto::services::images::v1::{DeleteImageRequest, ListImagesRequest};

use crate::output::{self, Format};
use crate::progress::Show;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List images.
    #[command(visible_alias = "list")]
    Ls {
        /// Print names only.
        #[arg(short, long)]
        quiet: bool,
        /// Only images that match, in containerd's filter language.
        filters: Vec<String>,
    },
    /// Import a docker or OCI archive.
    Import {
        /// The archive; - reads standard input.
        archive: PathBuf,
        /// Do not unpack.
        #[arg(long)]
        no_unpack: bool,
        /// The snapshotter to unpack for.
        #[arg(long, default_value = client::DEFAULT_SNAPSHOTTER)]
        snapshotter: String,
    },
    /// Remove images, and wait until what nothing else needs is gone.
    #[command(visible_alias = "remove")]
    Rm {
        /// Their names.
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub(crate) async fn run(client: &Client, arguments: Arguments, format: Format) -> Result<u8, ClientError> {
    match arguments.command {
        Command::Ls { quiet, filters } => list(client, quiet, filters, format).await,
        Command::Import { archive, no_unpack, snapshotter } => {
            let mut show = Show::new(format);
            let unpack = (!no_unpack).then_some(snapshotter.as_str());
            let tell = |message| show.tell(&message);
            if archive.as_os_str() == "-" {
                client.import(tokio::io::stdin(), unpack, tell).await?;
            } else {
                let file = tokio::fs::File::open(&archive)
                    .await
                    .map_err(ClientError::io(format!("open {}", archive.display())))?;
                client.import(file, unpack, tell).await?;
            }
            Ok(0)
        }
        Command::Rm { names } => {
            let last = names.len() - 1;
            for (at, name) in names.into_iter().enumerate() {
                // One collection at the end is enough for all.
                client
                    .images()
                    .delete(DeleteImageRequest { name: name.clone(), sync: at == last, ..Default::default() })
                    .await?;
                output::line(&name);
            }
            Ok(0)
        }
    }
}

#[derive(serde::Serialize)]
struct Row {
    name: String,
    digest: String,
    media_type: String,
    /// What its layers take as they are stored, in bytes; absent when it is not all here.
    size: Option<i64>,
    labels: std::collections::BTreeMap<String, String>,
}

async fn list(client: &Client, quiet: bool, filters: Vec<String>, format: Format) -> Result<u8, ClientError> {
    let images = client.images().list(ListImagesRequest { filters }).await?.into_inner().images;
    if quiet && format == Format::Text {
        images.iter().for_each(|image| output::line(&image.name));
        return Ok(0);
    }
    let mut rows = Vec::with_capacity(images.len());
    for image in images {
        // An image that was only named, or is for other machines, still is one.
        let size = client.resolve(&image).await.ok().map(|resolved| resolved.layers_size());
        let target = image.target.unwrap_or_default();
        rows.push(Row {
            name: image.name,
            digest: target.digest,
            media_type: target.media_type,
            size,
            labels: image.labels,
        });
    }
    output::rows(format, &["NAME", "DIGEST", "SIZE"], &rows, |row| {
        let digest = row.digest.get(..19).unwrap_or(&row.digest).to_owned();
        vec![row.name.clone(), digest, row.size.map_or("-".to_owned(), output::size)]
    });
    Ok(0)
}
