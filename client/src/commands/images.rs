//! `gantry images ls|import|export|tag|rm`

use std::path::{Path, PathBuf};

use client::transfer::{ExportOptions, ImportOptions};
use client::{Client, ClientError};
use model::platform::Platform;
use proto::services::images::v1::{DeleteImageRequest, ListImagesRequest};

use super::registry;
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
    /// Import a docker or OCI archive, or the folder of an OCI layout.
    Import {
        /// The archive or the folder; - reads an archive from standard input.
        archive: PathBuf,
        /// The beginning of the names of images that have only a tag.
        #[arg(long, default_value = "")]
        base_name: String,
        /// Images for all platforms, not only for this machine's.
        #[arg(long)]
        all_platforms: bool,
        /// Compress layers that are not.
        #[arg(long)]
        compress: bool,
        /// Do not unpack.
        #[arg(long)]
        no_unpack: bool,
        /// The snapshotter to unpack for.
        #[arg(long, default_value = client::DEFAULT_SNAPSHOTTER)]
        snapshotter: String,
    },
    /// Export images as an OCI archive, which docker can load, too.
    Export {
        /// The archive; - writes to standard output.
        archive: PathBuf,
        /// The images.
        #[arg(required = true)]
        names: Vec<String>,
        /// For this platform instead of the machine's.
        #[arg(long = "platform", value_parser = registry::platform)]
        platforms: Vec<Platform>,
        /// For all platforms.
        #[arg(long, conflicts_with = "platforms")]
        all_platforms: bool,
        /// Leave out manifest.json, which old docker needs.
        #[arg(long)]
        skip_manifest_json: bool,
        /// Leave out layers that may not be passed on.
        #[arg(long)]
        skip_non_distributable: bool,
    },
    /// Give an image another name.
    Tag {
        /// Its name.
        name: String,
        /// The other names.
        #[arg(required = true)]
        others: Vec<String>,
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
        Command::Import { archive, base_name, all_platforms, compress, no_unpack, snapshotter } => {
            let unpack = (!no_unpack).then_some(snapshotter);
            let options = ImportOptions { base_name, all_platforms, compress, unpack };
            import(client, &archive, &options, format).await
        }
        Command::Export { archive, names, platforms, all_platforms, skip_manifest_json, skip_non_distributable } => {
            let options = ExportOptions {
                platforms,
                all_platforms,
                skip_compatibility: skip_manifest_json,
                skip_non_distributable,
            };
            let mut show = Show::new(format);
            let tell = |message| show.tell(&message);
            if archive.as_os_str() == "-" {
                client.export(&names, tokio::io::stdout(), &options, tell).await?;
                return Ok(0);
            }
            let failed = || ClientError::io(format!("write {}", archive.display()));
            // Whole or not at all.
            let mut part = archive.clone().into_os_string();
            part.push(".part");
            let part = PathBuf::from(part);
            let file = tokio::fs::File::create(&part).await.map_err(failed())?;
            let exported = client.export(&names, file, &options, tell).await;
            let exported = match exported {
                Ok(()) => tokio::fs::rename(&part, &archive).await.map_err(failed()),
                Err(error) => Err(error),
            };
            if exported.is_err() {
                let _ = tokio::fs::remove_file(&part).await;
            }
            exported.map(|()| 0)
        }
        Command::Tag { name, others } => {
            for other in others {
                client.tag(&name, &other).await?;
                output::line(&other);
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

async fn import(client: &Client, archive: &Path, options: &ImportOptions, format: Format) -> Result<u8, ClientError> {
    let failed = || ClientError::io(format!("read {}", archive.display()));
    let mut show = Show::new(format);
    let tell = |message| show.tell(&message);
    if archive.as_os_str() == "-" {
        client.import(tokio::io::stdin(), options, tell).await?;
    } else if archive.is_dir() {
        let (reader, writer) = std::io::pipe().map_err(failed())?;
        let folder = archive.to_owned();
        let packing = tokio::task::spawn_blocking(move || pack(&folder, writer));
        let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into()).map_err(failed())?;
        let imported = client.import(reader, options, tell).await;
        // An error of reading says more than the damaged archive that came of it.
        packing.await.expect("it does not panic").map_err(failed())?;
        imported?;
    } else {
        let file = tokio::fs::File::open(archive).await.map_err(failed())?;
        client.import(file, options, tell).await?;
    }
    Ok(0)
}

/// Writes the folder of an OCI layout as an archive: what says what is in it first, then all blobs.
fn pack(folder: &Path, target: std::io::PipeWriter) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(target);
    let mut files = vec![PathBuf::from("oci-layout"), PathBuf::from("index.json")];
    for algorithm in std::fs::read_dir(folder.join("blobs"))? {
        let algorithm = algorithm?;
        if algorithm.file_type()?.is_dir() {
            for blob in std::fs::read_dir(algorithm.path())? {
                files.push(Path::new("blobs").join(algorithm.file_name()).join(blob?.file_name()));
            }
        }
    }
    let outcome = (|| {
        for name in files {
            let mut file = std::fs::File::open(folder.join(&name))?;
            archive.append_file(name, &mut file)?;
        }
        archive.finish()
    })();
    match outcome {
        // The daemon refused what it read, and says why.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
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
