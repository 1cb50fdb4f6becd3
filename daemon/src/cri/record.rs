//! What is kept of pods and containers beside what every container has: one extension each, in our own encoding.
//!
//! The numbers of fields are for ever. Times are nanoseconds since 1970, 0 for never.

use std::time::{SystemTime, UNIX_EPOCH};

use proto::cri;
use proto::prost::{self, Message};
use store::record::Any;

/// The extension of a container that is a pod's first process.
pub const POD_EXTENSION: &str = "io.gantry.cri.pod";
/// The extension of a container of a pod.
pub const CONTAINER_EXTENSION: &str = "io.gantry.cri.container";

/// How far a pod has come; what is further back is undone by the next start of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PodPhase {
    /// It is being made: nobody was told of it.
    Making = 0,
    /// Its first process runs, as far as is known.
    Running = 1,
    /// It was stopped, or its first process ended. Its network may still have to be taken down.
    Stopped = 2,
    /// It is being removed: nobody is told of it any more.
    Removing = 3,
}

/// A pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodRecord {
    /// What was asked for.
    #[prost(message, optional, tag = "1")]
    pub config: Option<cri::PodSandboxConfig>,
    /// The runtime handler as it was asked for; empty is the default one.
    #[prost(string, tag = "2")]
    pub handler: String,
    /// How far it has come.
    #[prost(enumeration = "PodPhase", tag = "3")]
    pub phase: i32,
    /// When it was made.
    #[prost(int64, tag = "4")]
    pub created_at: i64,
    /// The file of its network namespace; empty with that of the host.
    #[prost(string, tag = "5")]
    pub netns: String,
    /// Its addresses, the first one first.
    #[prost(string, repeated, tag = "6")]
    pub addresses: Vec<String>,
    /// What its networks said when they were set up, in order: JSON.
    #[prost(message, repeated, tag = "7")]
    pub networks: Vec<Network>,
    /// Whether the networks are down, and the namespace removed.
    #[prost(bool, tag = "8")]
    pub network_down: bool,
    /// Its first process, while it runs.
    #[prost(uint32, tag = "9")]
    pub pid: u32,
    /// When it was stopped.
    #[prost(int64, tag = "10")]
    pub stopped_at: i64,
    /// The id of the image of its first process.
    #[prost(string, tag = "11")]
    pub image: String,
    /// Resources as they were changed later.
    #[prost(message, optional, tag = "12")]
    pub resources: Option<cri::LinuxContainerResources>,
    /// The same for the overhead.
    #[prost(message, optional, tag = "13")]
    pub overhead: Option<cri::LinuxContainerResources>,
    /// Why the last attempt to take its network down failed.
    #[prost(string, tag = "14")]
    pub network_error: String,
    /// How often that failed.
    #[prost(uint32, tag = "15")]
    pub network_tries: u32,
    /// The folder of its cgroup, as the specification of its first process has it.
    #[prost(string, tag = "16")]
    pub cgroups_path: String,
}

/// A network that was set up for a pod: what is needed to take it down, even if its configuration is gone then.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Network {
    /// Its configuration list as it was then, JSON.
    #[prost(string, tag = "1")]
    pub list: String,
    /// The interface in the pod.
    #[prost(string, tag = "2")]
    pub interface: String,
    /// The answer of the last plugin, JSON; empty while it is not known whether there is one.
    #[prost(string, tag = "3")]
    pub result: String,
    /// The capability arguments it was set up with, JSON.
    #[prost(string, tag = "4")]
    pub arguments: String,
}

/// A container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerRecord {
    /// Its pod.
    #[prost(string, tag = "1")]
    pub pod: String,
    /// What was asked for.
    #[prost(message, optional, tag = "2")]
    pub config: Option<cri::ContainerConfig>,
    /// The id of its image: the digest of the image's configuration.
    #[prost(string, tag = "3")]
    pub image_id: String,
    /// How its image is called by digest, or the id if it has no such name.
    #[prost(string, tag = "4")]
    pub image_ref: String,
    /// Where its log is; empty for none.
    #[prost(string, tag = "5")]
    pub log_path: String,
    /// When it was created; 0 while it is being made, which the next start of the daemon undoes.
    #[prost(int64, tag = "6")]
    pub created_at: i64,
    /// When it was started.
    #[prost(int64, tag = "7")]
    pub started_at: i64,
    /// When it ended.
    #[prost(int64, tag = "8")]
    pub finished_at: i64,
    /// How it ended.
    #[prost(int32, tag = "9")]
    pub exit_code: i32,
    /// Why it ended, one word.
    #[prost(string, tag = "10")]
    pub reason: String,
    /// Why it ended, for people.
    #[prost(string, tag = "11")]
    pub message: String,
    /// Its first process, while it runs.
    #[prost(uint32, tag = "12")]
    pub pid: u32,
    /// Nobody can say how it is.
    #[prost(bool, tag = "13")]
    pub unknown: bool,
    /// It is being removed.
    #[prost(bool, tag = "14")]
    pub removing: bool,
    /// The kernel killed one of its processes for memory.
    #[prost(bool, tag = "15")]
    pub oom_killed: bool,
    /// Its resources as they are now.
    #[prost(message, optional, tag = "16")]
    pub resources: Option<cri::LinuxContainerResources>,
    /// The signal that ends it, by number or name, as the image or the client says.
    #[prost(string, tag = "17")]
    pub stop_signal: String,
    /// As whom it runs.
    #[prost(message, optional, tag = "18")]
    pub user: Option<cri::LinuxContainerUser>,
    /// Its mounts, as they are reported.
    #[prost(message, repeated, tag = "19")]
    pub mounts: Vec<cri::Mount>,
    /// Image volumes that it uses, by the folder they are mounted on.
    #[prost(string, repeated, tag = "20")]
    pub image_volumes: Vec<String>,
}

/// A record as the extension of a container.
pub fn pack(record: &(impl Message + Named)) -> Any {
    Any { type_url: record.name().to_owned(), value: record.encode_to_vec() }
}

/// A record from the extension of a container; `None` if it is something else, or damaged.
pub fn unpack<M: Message + Named + Default>(any: &Any) -> Option<M> {
    let record = M::default();
    if any.type_url != record.name() {
        return None;
    }
    M::decode(any.value.as_slice()).ok()
}

/// The name under which a record is packed.
pub trait Named {
    /// It.
    fn name(&self) -> &'static str;
}

impl Named for PodRecord {
    fn name(&self) -> &'static str {
        "gantry.cri.v1.Pod"
    }
}

impl Named for ContainerRecord {
    fn name(&self) -> &'static str {
        "gantry.cri.v1.Container"
    }
}

impl PodRecord {
    /// What it is called.
    pub fn metadata(&self) -> cri::PodSandboxMetadata {
        self.config.as_ref().and_then(|config| config.metadata.clone()).unwrap_or_default()
    }

    /// The part of its configuration that only Linux has.
    pub fn linux(&self) -> Option<&cri::LinuxPodSandboxConfig> {
        self.config.as_ref()?.linux.as_ref()
    }

    /// What it may do.
    pub fn security(&self) -> Option<&cri::LinuxSandboxSecurityContext> {
        self.linux()?.security_context.as_ref()
    }

    /// With whom it shares namespaces.
    pub fn namespaces(&self) -> cri::NamespaceOption {
        self.security().and_then(|security| security.namespace_options.clone()).unwrap_or_default()
    }
}

/// Now, as records have it.
pub fn now() -> i64 {
    nanoseconds(SystemTime::now())
}

/// A time as records have it.
pub fn nanoseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_another_one_does_not() {
        let record = PodRecord {
            handler: "crun".into(),
            created_at: 7,
            phase: PodPhase::Running.into(),
            ..PodRecord::default()
        };
        assert_eq!(unpack::<PodRecord>(&pack(&record)), Some(record.clone()));
        assert_eq!(unpack::<ContainerRecord>(&pack(&record)), None);
        let mut damaged = pack(&record);
        damaged.value.push(0xff);
        assert_eq!(unpack::<PodRecord>(&damaged), None);
    }
}
