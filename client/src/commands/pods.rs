//! `gantry pods`: pods and their containers, as a kubelet has them, for people.

mod make;
mod show;

use client::{Client, ClientError};
use proto::cri as wire;

use crate::output::{self, Format};

/// The most log lines are read from, in bytes.
const MAX_LOG: u64 = 64 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List pods.
    Ls(show::List),
    /// List containers of pods.
    Ps(show::Containers),
    /// Print all that is known of a pod or a container of one, as JSON.
    Inspect(show::Inspect),
    /// Print what a container wrote.
    Logs(show::Logs),
    /// Print what pods use.
    Stats,
    /// Print whether the runtime is ready for pods.
    Info,
    /// Run a pod; its id is printed.
    Run(Box<make::Run>),
    /// Run a container in a pod; its id is printed.
    Add(Box<make::Add>),
    /// Run a command in a container to its end.
    Exec(make::Exec),
    /// Stop pods.
    Stop(make::Names),
    /// Remove pods, running or not.
    Rm(make::Names),
}

pub(crate) async fn run(client: &Client, arguments: Arguments, format: Format) -> Result<u8, ClientError> {
    match arguments.command {
        Command::Ls(list) => show::list(client, &list, format).await,
        Command::Ps(list) => show::containers(client, &list, format).await,
        Command::Inspect(inspect) => show::inspect(client, &inspect).await,
        Command::Logs(logs) => show::logs(client, &logs).await,
        Command::Stats => show::stats(client, format).await,
        Command::Info => show::info(client, format).await,
        Command::Run(run) => make::run(client, *run).await,
        Command::Add(add) => make::add(client, *add).await,
        Command::Exec(exec) => make::exec(client, exec).await,
        Command::Stop(names) => make::stop(client, &names).await,
        Command::Rm(names) => make::remove(client, &names).await,
    }
}

/// The id of the pod that is called so, by its name, `namespace/name`, or its id or the beginning of it.
async fn pod_id(client: &Client, wanted: &str) -> Result<String, ClientError> {
    let pods = client.pods().list_pod_sandbox(wire::ListPodSandboxRequest::default()).await?.into_inner().items;
    let mut fitting: Vec<_> = pods
        .into_iter()
        .filter(|pod| {
            let metadata = pod.metadata.clone().unwrap_or_default();
            pod.id.starts_with(wanted)
                || metadata.name == wanted
                || format!("{}/{}", metadata.namespace, metadata.name) == wanted
        })
        .collect();
    // Of several attempts the last one is meant.
    fitting.sort_by_key(|pod| pod.created_at);
    fitting.pop().map(|pod| pod.id).ok_or_else(|| ClientError::Invalid(format!("there is no pod {wanted:?}")))
}

/// The id of the container that is called so, by its name, `pod/name`, or its id or the beginning of it.
async fn container_id(client: &Client, wanted: &str) -> Result<String, ClientError> {
    let pod = match wanted.split_once('/') {
        Some((pod, _)) => Some(pod_id(client, pod).await?),
        None => None,
    };
    let name = wanted.split_once('/').map_or(wanted, |(_, name)| name);
    let containers =
        client.pods().list_containers(wire::ListContainersRequest::default()).await?.into_inner().containers;
    let mut fitting: Vec<_> = containers
        .into_iter()
        .filter(|container| pod.as_ref().is_none_or(|pod| container.pod_sandbox_id == *pod))
        .filter(|container| {
            container.id.starts_with(name) || container.metadata.as_ref().is_some_and(|metadata| metadata.name == name)
        })
        .collect();
    fitting.sort_by_key(|container| container.created_at);
    fitting
        .pop()
        .map(|container| container.id)
        .ok_or_else(|| ClientError::Invalid(format!("there is no container {wanted:?} in a pod")))
}

/// The first characters of an id, as people are shown it.
fn short(id: &str) -> String {
    id.chars().take(13).collect()
}

/// Prints a JSON text for people.
fn pretty(value: &serde_json::Value) {
    output::line(&serde_json::to_string_pretty(value).unwrap_or_default());
}
