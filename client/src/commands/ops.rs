//! `gantry ops ls|watch|cancel`

use std::io::IsTerminal as _;
use std::time::SystemTime;

use client::{Client, ClientError};
use proto::gantry::v1::{CancelOperationRequest, ListOperationsRequest, Operation};

use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Those of all namespaces.
    #[arg(short, long, global = true)]
    all_namespaces: bool,
    /// Each layer and document, too.
    #[arg(short, long, global = true)]
    parts: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List what is under way now.
    #[command(visible_alias = "list")]
    Ls,
    /// List it again and again.
    Watch,
    /// End an operation.
    Cancel {
        /// Its number, as listed.
        id: u64,
    },
}

#[derive(serde::Serialize)]
struct Row {
    id: Option<u64>,
    kind: String,
    namespace: String,
    name: String,
    phase: String,
    done_bytes: u64,
    total_bytes: u64,
    bytes_per_second: u64,
    remaining_seconds: Option<u64>,
    #[serde(skip)]
    since: Option<SystemTime>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Row>,
}

pub(crate) async fn run(client: &Client, arguments: Arguments, format: Format) -> Result<u8, ClientError> {
    let request = ListOperationsRequest { all_namespaces: arguments.all_namespaces };
    match arguments.command.unwrap_or(Command::Ls) {
        Command::Ls => {
            let listed = client.operations().list(request).await?.into_inner().operations;
            print(listed, arguments.parts, format);
        }
        Command::Watch => {
            let mut stream = client.operations().watch(request).await?.into_inner();
            let clear = format == Format::Text && std::io::stdout().is_terminal();
            while let Some(listed) = stream.message().await? {
                if clear {
                    output::line("\x1b[H\x1b[2J");
                }
                match format {
                    Format::Text => print(listed.operations, arguments.parts, format),
                    Format::Json => output::json(&listed.operations.into_iter().map(row).collect::<Vec<_>>()),
                }
            }
        }
        Command::Cancel { id } => {
            client.operations().cancel(CancelOperationRequest { id }).await?;
        }
    }
    Ok(0)
}

fn row(operation: Operation) -> Row {
    let parts = operation.parts.into_iter().map(|part| Row {
        id: None,
        kind: String::new(),
        namespace: String::new(),
        name: part.name,
        phase: part.phase,
        done_bytes: part.done_bytes,
        total_bytes: part.total_bytes,
        bytes_per_second: part.bytes_per_second,
        remaining_seconds: part.remaining_seconds,
        since: None,
        parts: Vec::new(),
    });
    Row {
        id: Some(operation.id),
        kind: operation.kind,
        namespace: operation.namespace,
        name: operation.image,
        phase: operation.phase,
        done_bytes: operation.done_bytes,
        total_bytes: operation.total_bytes,
        bytes_per_second: operation.bytes_per_second,
        remaining_seconds: operation.remaining_seconds,
        since: operation.started_at.and_then(|time| proto::convert::time::from_wire(time).ok()),
        parts: parts.collect(),
    }
}

fn print(operations: Vec<Operation>, parts: bool, format: Format) {
    let mut rows = Vec::new();
    for mut row in operations.into_iter().map(row) {
        let below = if format == Format::Text { std::mem::take(&mut row.parts) } else { Vec::new() };
        rows.push(row);
        if parts {
            rows.extend(below);
        }
    }
    let header = ["ID", "KIND", "NAMESPACE", "NAME", "PHASE", "DONE", "TOTAL", "RATE", "LEFT", "SINCE"];
    output::rows(format, &header, &rows, |row| {
        let size = |bytes: u64| output::size(i64::try_from(bytes).unwrap_or(i64::MAX));
        vec![
            row.id.map(|id| id.to_string()).unwrap_or_default(),
            row.kind.clone(),
            row.namespace.clone(),
            row.name
                .split_once("sha256:")
                .map_or(row.name.clone(), |(kind, hex)| format!("{kind}{}", hex.get(..12).unwrap_or(hex))),
            row.phase.clone(),
            size(row.done_bytes),
            size(row.total_bytes),
            if row.bytes_per_second > 0 { format!("{}/s", size(row.bytes_per_second)) } else { "-".to_owned() },
            row.remaining_seconds.map_or("-".to_owned(), |seconds| format!("{seconds} s")),
            row.since.map(output::ago).unwrap_or_default(),
        ]
    });
}
