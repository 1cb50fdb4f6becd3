//! `gantry logs`: for containers whose output goes to a file.

use std::time::Duration;

use client::container::LOG_URI_LABEL;
use client::{Client, ClientError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Go on as long as the container runs.
    #[arg(short, long)]
    follow: bool,
    /// The container.
    id: String,
}

/// How often a file is looked at that may grow: files have no way to be waited for that works on every filesystem.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(crate) async fn run(client: &Client, arguments: &Arguments) -> Result<u8, ClientError> {
    let container = client.container(&arguments.id).await?;
    let uri = container.labels.get(LOG_URI_LABEL);
    let uri = uri.ok_or_else(|| {
        ClientError::Invalid(format!("container {} keeps no log: it was not started with --log-uri", arguments.id))
    })?;
    let path = uri
        .strip_prefix("file://")
        .ok_or_else(|| ClientError::Invalid(format!("the log goes to {uri}: only file:// can be read back")))?;
    let mut file = tokio::fs::File::open(path).await.map_err(ClientError::io(format!("open {path}")))?;
    let mut ended = !arguments.follow;
    let process = client.process(&arguments.id, "");
    let wait = process.wait();
    tokio::pin!(wait);
    loop {
        print(&mut file, path).await?;
        if ended {
            return Ok(0);
        }
        tokio::select! {
            // Whatever ended it, the file does not grow any more; what came last is printed in one more round.
            _ = &mut wait => ended = true,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

async fn print(file: &mut tokio::fs::File, path: &str) -> Result<(), ClientError> {
    let mut buffer = vec![0; 32 * 1024];
    let mut out = tokio::io::stdout();
    loop {
        let length = file.read(&mut buffer).await.map_err(ClientError::io(format!("read {path}")))?;
        if length == 0 {
            return out.flush().await.map_err(ClientError::io("print"));
        }
        out.write_all(&buffer[..length]).await.map_err(ClientError::io("print"))?;
    }
}
