//! Networks of pods: network namespaces, and the plugins of the Container Network Interface that set them up.
//!
//! ```text
//!   RunPodSandbox ──► conf: which networks ──► netns: make, `lo` up ──► cni: ADD, plugin by plugin, list by list
//!   StopPodSandbox ─► cni: DEL, the last plugin first ──► netns: remove
//! ```
//!
//! What is needed to take a network down is written down before it is set up ([`super::record::Network`]), so a DEL works after a
//! crash, and after the configuration was changed or removed. Files of the configuration are read anew whenever they are needed: they are
//! small, and there is nothing to watch that could be missed.
//!
//! Sources: the CNI specification 1.1.0; the conventions of its plugins (github.com/containernetworking/cni, CONVENTIONS.md).

pub mod args;
pub mod cni;
pub mod conf;
pub mod netns;
pub mod result;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::RwLock;
use tracing::warn;

use super::Settings;
use super::record::Network;
use super::settings::{Cni, Handler};

pub use cni::NetworkError;
pub use conf::List;

/// How long one plugin may take to set something up.
const SETUP_TIME: Duration = Duration::from_secs(100);
/// How long one plugin may take to take something down or to look at it.
const TEARDOWN_TIME: Duration = Duration::from_secs(60);

/// How long one plugin may take to collect; pods wait for it.
const COLLECT_TIME: Duration = Duration::from_secs(10);

/// The networks there are.
#[derive(Debug)]
pub struct Networks {
    settings: Cni,
    /// Where network namespaces are.
    folder: PathBuf,
    /// Whoever sets something up holds it with others; collection holds it alone, so that nothing new is taken for a left-over.
    gate: RwLock<()>,
}

/// Which pod it is about.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The pod.
    pub id: String,
    /// The file of its network namespace; `None` if that is gone.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`.
    pub arguments: String,
}

impl Networks {
    /// Those of the configuration.
    pub fn new(settings: &Settings) -> Self {
        let folder = if settings.netns_under_state {
            settings.state.join(super::FOLDER).join("netns")
        } else {
            PathBuf::from("/var/run/netns")
        };
        Self { settings: settings.cni.clone(), folder, gate: RwLock::default() }
    }

    /// The file of a new network namespace; nothing is made yet.
    pub fn new_netns(&self) -> PathBuf {
        self.folder.join(format!("cni-{}", super::id::new_uuid()))
    }

    /// The networks that pods of `handler` get now.
    ///
    /// # Errors
    /// There are none, or they cannot be read; the text is for the status of the node.
    pub fn lists(&self, handler: Option<&Handler>) -> Result<Vec<List>, NetworkError> {
        let folder = handler.and_then(|handler| handler.cni_conf_dir.as_deref()).unwrap_or(&self.settings.conf_dir);
        let most = handler.and_then(|handler| handler.cni_max_conf_num).unwrap_or(self.settings.max_conf_num);
        conf::load(folder, most)
    }

    /// The folder of the configuration.
    pub fn conf_dir(&self) -> &Path {
        &self.settings.conf_dir
    }

    /// What is written down of `lists` before they are set up.
    pub fn plan(&self, lists: &[List], arguments: &Value) -> Vec<Network> {
        let network = |(at, list): (usize, &List)| Network {
            list: list.document.to_string(),
            interface: format!("eth{at}"),
            result: String::new(),
            arguments: arguments.to_string(),
        };
        lists.iter().enumerate().map(network).collect()
    }

    /// Sets networks up; their results are in them then. If one fails, all are taken down again, as well as that goes.
    ///
    /// # Errors
    /// What the first plugin that failed says.
    pub async fn set_up(&self, subject: &Subject, networks: &mut [Network]) -> Result<(), NetworkError> {
        let _gate = self.gate.read().await;
        let dirs = &self.settings.bin_dirs;
        let mut failed = None;
        if self.settings.serially {
            for network in networks.iter_mut() {
                if let Err(error) = cni::add(subject, dirs, network, SETUP_TIME).await {
                    failed = Some(error);
                    break;
                }
            }
        } else {
            let all = join_all(networks.iter_mut().map(|network| cni::add(subject, dirs, network, SETUP_TIME))).await;
            failed = all.into_iter().find_map(Result::err);
        }
        let Some(error) = failed else { return Ok(()) };
        if let Err(other) = self.take_down(subject, networks).await {
            warn!(pod = subject.id, error = %other, "a network that could not be set up cannot be taken down either");
        }
        Err(error)
    }

    /// Takes networks down, the last one first. It is well if they are down already.
    ///
    /// # Errors
    /// What the first plugin that failed says; the others were taken down all the same.
    pub async fn take_down(&self, subject: &Subject, networks: &[Network]) -> Result<(), NetworkError> {
        let mut failed = None;
        for network in networks.iter().rev() {
            if let Err(error) = cni::delete(subject, &self.settings.bin_dirs, network, TEARDOWN_TIME).await {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Asks the plugins whether networks are still as they were set up.
    ///
    /// # Errors
    /// What the first plugin that found a difference says.
    pub async fn check(&self, subject: &Subject, networks: &[Network]) -> Result<(), NetworkError> {
        for network in networks {
            cni::check(subject, &self.settings.bin_dirs, network, TEARDOWN_TIME).await?;
        }
        Ok(())
    }

    /// Asks the plugins whether they could set a pod up now, those that can say it.
    ///
    /// # Errors
    /// What the first plugin that could not says.
    pub async fn ready(&self, lists: &[List]) -> Result<(), NetworkError> {
        for list in lists {
            cni::status(&self.settings.bin_dirs, list, TEARDOWN_TIME).await?;
        }
        Ok(())
    }

    /// Tells the plugins which attachments there are, so that they can give back what belongs to none. `attachments` is asked for
    /// when nothing is being set up.
    pub async fn collect(&self, lists: &[List], attachments: impl FnOnce() -> Vec<(String, String)>) {
        let lists: Vec<_> = lists.iter().filter(|list| cni::collects(list)).collect();
        if lists.is_empty() {
            return;
        }
        let _gate = self.gate.write().await;
        let attachments = attachments();
        for list in lists {
            if let Err(error) = cni::collect(&self.settings.bin_dirs, list, &attachments, COLLECT_TIME).await {
                warn!(network = list.name, %error, "a network cannot collect what is left over");
            }
        }
    }

    /// The addresses of a pod, in the order that is preferred.
    pub fn addresses(&self, networks: &[Network]) -> Vec<String> {
        result::addresses(networks, &self.settings.ip_pref)
    }
}
