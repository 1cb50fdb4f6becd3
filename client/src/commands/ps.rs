//! `gantry ps`

use std::collections::BTreeMap;
use std::time::SystemTime;

use client::{Client, ClientError};
use proto::process::{Process, Status};
use proto::services::tasks::v1::ListTasksRequest;

use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Also containers that do not run.
    #[arg(short, long)]
    all: bool,
    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
    /// Only containers that match, in containerd's filter language.
    #[arg(short, long)]
    filter: Vec<String>,
}

#[derive(serde::Serialize)]
struct Row {
    id: String,
    image: String,
    status: String,
    pid: Option<u32>,
    exit_status: Option<u32>,
    created_seconds_since_epoch: Option<u64>,
    runtime: String,
    labels: BTreeMap<String, String>,
    #[serde(skip)]
    created: Option<SystemTime>,
}

pub(crate) async fn run(client: &Client, arguments: &Arguments, format: Format) -> Result<u8, ClientError> {
    let tasks = client.tasks().list(ListTasksRequest::default()).await?.into_inner().tasks;
    let tasks: BTreeMap<String, Process> = tasks.into_iter().map(|task| (task.id.clone(), task)).collect();
    let mut rows = Vec::new();
    for container in client.list_containers(arguments.filter.clone()).await? {
        let task = tasks.get(&container.id);
        let status = task.map(Process::status);
        if !arguments.all
            && !matches!(
                status,
                Some(Status::Running | Status::Paused | Status::Pausing | Status::Created | Status::Unknown)
            )
        {
            continue;
        }
        let created = container.created_at.and_then(|time| proto::convert::time::from_wire(time).ok());
        rows.push(Row {
            status: status.map_or("none".to_owned(), |status| status.as_str_name().to_lowercase()),
            pid: task.filter(|_| status != Some(Status::Stopped)).map(|task| task.pid),
            exit_status: task.filter(|_| status == Some(Status::Stopped)).map(|task| task.exit_status),
            created_seconds_since_epoch: created
                .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
                .map(|time| time.as_secs()),
            created,
            runtime: container.runtime.map(|runtime| runtime.name).unwrap_or_default(),
            id: container.id,
            image: container.image,
            labels: container.labels,
        });
    }
    if arguments.quiet && format == Format::Text {
        rows.iter().for_each(|row| output::line(&row.id));
        return Ok(0);
    }
    output::rows(format, &["CONTAINER", "IMAGE", "STATUS", "PID", "CREATED"], &rows, |row| {
        let status = row.exit_status.map_or(row.status.clone(), |code| format!("exited ({code})"));
        let pid = row.pid.map_or("-".to_owned(), |pid| pid.to_string());
        vec![row.id.clone(), row.image.clone(), status, pid, row.created.map_or("-".to_owned(), output::ago)]
    });
    Ok(0)
}
