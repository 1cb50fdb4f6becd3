//! `gantry stop`

use std::time::Duration;

use client::container::STOP_SIGNAL_LABEL;
use client::{Client, ClientError};

use super::kill;
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds until what has not ended is killed.
    #[arg(short, long, default_value_t = 10)]
    time: u64,
    /// The containers.
    #[arg(required = true)]
    ids: Vec<String>,
}

const SIGTERM: u32 = 15;

pub(crate) async fn run(client: &Client, arguments: &Arguments) -> Result<u8, ClientError> {
    for id in &arguments.ids {
        let container = client.container(id).await?;
        let signal = match container.labels.get(STOP_SIGNAL_LABEL) {
            Some(name) => kill::signal(name)
                .map_err(|text| ClientError::Invalid(format!("container {id}: its image's stop signal: {text}")))?,
            None => SIGTERM,
        };
        client.process(id, "").stop(signal, Duration::from_secs(arguments.time)).await?;
        output::line(id);
    }
    Ok(0)
}
