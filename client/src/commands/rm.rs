//! `gantry rm`

use client::{Client, ClientError};
use proto::process::Status;

use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Kill what runs first.
    #[arg(short, long)]
    force: bool,
    /// The containers.
    #[arg(required = true)]
    ids: Vec<String>,
}

pub(crate) async fn run(client: &Client, arguments: &Arguments) -> Result<u8, ClientError> {
    for id in &arguments.ids {
        remove(client, id, arguments.force).await?;
        output::line(id);
    }
    Ok(0)
}

async fn remove(client: &Client, id: &str, force: bool) -> Result<(), ClientError> {
    let container = client.container(id).await?;
    let process = client.process(id, "");
    match process.state().await {
        Err(error) if error.is_not_found() => return client.remove_container(&container).await,
        Err(error) => return Err(error),
        Ok(state) if state.status() == Status::Stopped => {}
        Ok(_) if !force => {
            return Err(ClientError::Invalid(format!("container {id} runs: stop it first, or remove it with -f")));
        }
        Ok(_) => {
            process.stop(nix::libc::SIGKILL.unsigned_abs(), std::time::Duration::from_secs(10)).await?;
        }
    }
    process.delete().await?;
    client.remove_container(&container).await
}
