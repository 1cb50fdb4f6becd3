//! Pods and containers looked at.

use std::fs::File;
use std::io::Read as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use client::{Client, ClientError};
use proto::cri as wire;
use serde_json::{Value, json};

use super::{MAX_LOG, container_id, pod_id, pretty, short};
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Containers {
    /// Also those that do not run.
    #[arg(short, long)]
    all: bool,
    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
    /// Only those of this pod.
    #[arg(short, long)]
    pod: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// A pod, or a container with --container.
    name: String,
    /// It is a container.
    #[arg(short, long)]
    container: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// The container.
    container: String,
    /// Print lines as they are in the file, with times and streams.
    #[arg(long)]
    raw: bool,
}

#[derive(serde::Serialize)]
struct PodRow {
    id: String,
    name: String,
    namespace: String,
    attempt: u32,
    ready: bool,
    ip: String,
    handler: String,
    created_nanoseconds_since_epoch: i64,
}

#[derive(serde::Serialize)]
struct ContainerRow {
    id: String,
    name: String,
    pod: String,
    image: String,
    state: String,
    created_nanoseconds_since_epoch: i64,
}

fn ago(nanoseconds: i64) -> String {
    let since = Duration::from_nanos(nanoseconds.max(0).unsigned_abs());
    output::ago(UNIX_EPOCH.checked_add(since).unwrap_or_else(SystemTime::now))
}

pub(super) async fn list(client: &Client, list: &List, format: Format) -> Result<u8, ClientError> {
    let pods = client.pods().list_pod_sandbox(wire::ListPodSandboxRequest::default()).await?.into_inner().items;
    if list.quiet && format == Format::Text {
        pods.iter().for_each(|pod| output::line(&pod.id));
        return Ok(0);
    }
    let mut rows = Vec::new();
    for pod in pods {
        let request = wire::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
        // One that was removed meanwhile has no address to tell.
        let status = client.pods().pod_sandbox_status(request).await.ok().and_then(|answer| answer.into_inner().status);
        let ip = status.and_then(|status| status.network).map(|network| network.ip).unwrap_or_default();
        let ready = pod.state() == wire::PodSandboxState::SandboxReady;
        let metadata = pod.metadata.unwrap_or_default();
        rows.push(PodRow {
            id: pod.id,
            name: metadata.name,
            namespace: metadata.namespace,
            attempt: metadata.attempt,
            ready,
            ip,
            handler: pod.runtime_handler,
            created_nanoseconds_since_epoch: pod.created_at,
        });
    }
    output::rows(format, &["POD", "NAMESPACE", "NAME", "STATE", "IP", "CREATED"], &rows, |row| {
        let state = if row.ready { "ready" } else { "not ready" };
        let ip = if row.ip.is_empty() { "-" } else { &row.ip };
        vec![
            short(&row.id),
            row.namespace.clone(),
            row.name.clone(),
            state.to_owned(),
            ip.to_owned(),
            ago(row.created_nanoseconds_since_epoch),
        ]
    });
    Ok(0)
}

pub(super) async fn containers(client: &Client, list: &Containers, format: Format) -> Result<u8, ClientError> {
    let mut filter = wire::ContainerFilter::default();
    if let Some(pod) = &list.pod {
        filter.pod_sandbox_id = pod_id(client, pod).await?;
    }
    if !list.all {
        filter.state = Some(wire::ContainerStateValue { state: wire::ContainerState::ContainerRunning.into() });
    }
    let request = wire::ListContainersRequest { filter: Some(filter) };
    let containers = client.pods().list_containers(request).await?.into_inner().containers;
    if list.quiet && format == Format::Text {
        containers.iter().for_each(|container| output::line(&container.id));
        return Ok(0);
    }
    let rows: Vec<_> = containers
        .into_iter()
        .map(|container| ContainerRow {
            state: container.state().as_str_name().trim_start_matches("CONTAINER_").to_lowercase(),
            id: container.id,
            name: container.metadata.unwrap_or_default().name,
            pod: container.pod_sandbox_id,
            image: container.image.unwrap_or_default().image,
            created_nanoseconds_since_epoch: container.created_at,
        })
        .collect();
    output::rows(format, &["CONTAINER", "NAME", "POD", "IMAGE", "STATE", "CREATED"], &rows, |row| {
        vec![
            short(&row.id),
            row.name.clone(),
            short(&row.pod),
            row.image.clone(),
            row.state.clone(),
            ago(row.created_nanoseconds_since_epoch),
        ]
    });
    Ok(0)
}

pub(super) async fn inspect(client: &Client, inspect: &Inspect) -> Result<u8, ClientError> {
    let (head, info) = if inspect.container {
        let container_id = container_id(client, &inspect.name).await?;
        let request = wire::ContainerStatusRequest { container_id, verbose: true };
        let answer = client.pods().container_status(request).await?.into_inner();
        let status = answer.status.unwrap_or_default();
        let head = json!({
            "id": status.id,
            "name": status.metadata.clone().unwrap_or_default().name,
            "state": status.state().as_str_name(),
            "exitCode": status.exit_code,
            "reason": status.reason,
            "message": status.message,
            "image": status.image.clone().unwrap_or_default().image,
            "imageRef": status.image_ref,
            "logPath": status.log_path,
            "labels": status.labels,
            "annotations": status.annotations,
        });
        (head, answer.info)
    } else {
        let pod_sandbox_id = pod_id(client, &inspect.name).await?;
        let request = wire::PodSandboxStatusRequest { pod_sandbox_id, verbose: true };
        let answer = client.pods().pod_sandbox_status(request).await?.into_inner();
        let status = answer.status.unwrap_or_default();
        let network = status.network.clone().unwrap_or_default();
        let more: Vec<String> = network.additional_ips.into_iter().map(|ip| ip.ip).collect();
        let head = json!({
            "id": status.id,
            "name": status.metadata.clone().unwrap_or_default().name,
            "state": status.state().as_str_name(),
            "ip": network.ip,
            "additionalIps": more,
            "labels": status.labels,
            "annotations": status.annotations,
            "handler": status.runtime_handler,
        });
        (head, answer.info)
    };
    let info: Value = info.get("info").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    pretty(&json!({ "status": head, "info": info }));
    Ok(0)
}

pub(super) async fn logs(client: &Client, logs: &Logs) -> Result<u8, ClientError> {
    let container_id = container_id(client, &logs.container).await?;
    let request = wire::ContainerStatusRequest { container_id, verbose: false };
    let path = client.pods().container_status(request).await?.into_inner().status.unwrap_or_default().log_path;
    if path.is_empty() {
        return Err(ClientError::Invalid("the container writes no log".into()));
    }
    let mut text = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(MAX_LOG).read_to_end(&mut text));
    read.map_err(|error| ClientError::Invalid(format!("cannot read {path}: {error}")))?;
    let text = String::from_utf8_lossy(&text);
    let mut piece = String::new();
    for line in text.lines() {
        if logs.raw {
            output::line(line);
            continue;
        }
        // Time, stream, whether there is more of it, and the line.
        let mut parts = line.splitn(4, ' ').skip(2);
        let (tag, content) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        piece.push_str(content);
        if tag != "P" {
            output::line(&piece);
            piece.clear();
        }
    }
    Ok(0)
}

pub(super) async fn stats(client: &Client, format: Format) -> Result<u8, ClientError> {
    let answer = client.pods().list_pod_sandbox_stats(wire::ListPodSandboxStatsRequest::default()).await?;
    #[derive(serde::Serialize)]
    struct Row {
        name: String,
        nano_cores: u64,
        working_set_bytes: u64,
        processes: u64,
    }
    let value = |of: Option<wire::UInt64Value>| of.unwrap_or_default().value;
    let rows: Vec<_> = answer
        .into_inner()
        .stats
        .into_iter()
        .map(|stats| {
            let linux = stats.linux.unwrap_or_default();
            Row {
                name: stats.attributes.and_then(|attributes| attributes.metadata).unwrap_or_default().name,
                nano_cores: value(linux.cpu.and_then(|cpu| cpu.usage_nano_cores)),
                working_set_bytes: value(linux.memory.and_then(|memory| memory.working_set_bytes)),
                processes: value(linux.process.and_then(|process| process.process_count)),
            }
        })
        .collect();
    output::rows(format, &["POD", "CPU", "MEMORY", "PROCESSES"], &rows, |row| {
        let cores = format!("{:.1}%", row.nano_cores as f64 / 1e7);
        vec![
            row.name.clone(),
            cores,
            output::size(i64::try_from(row.working_set_bytes).unwrap_or(i64::MAX)),
            row.processes.to_string(),
        ]
    });
    Ok(0)
}

pub(super) async fn info(client: &Client, format: Format) -> Result<u8, ClientError> {
    let status = client.pods().status(wire::StatusRequest { verbose: false }).await?.into_inner();
    #[derive(serde::Serialize)]
    struct Row {
        condition: String,
        holds: bool,
        message: String,
    }
    let conditions = status.status.unwrap_or_default().conditions;
    let rows: Vec<_> = conditions
        .into_iter()
        .map(|each| Row { condition: each.r#type, holds: each.status, message: each.message })
        .collect();
    output::rows(format, &["CONDITION", "HOLDS", "MESSAGE"], &rows, |row| {
        vec![row.condition.clone(), if row.holds { "yes" } else { "no" }.to_owned(), row.message.clone()]
    });
    Ok(u8::from(!rows.iter().all(|row| row.holds)))
}
