//! The doctor: accounts for everything the daemon has on the machine, says what is wrong, and mends what is safe to mend.
//!
//! ```text
//!   files   each entry below root and state, its bytes, its owner        doctor/files.rs
//!   records what records name, what is there unrecorded, wrong bytes     doctor/records.rs
//!   machine mounts, cgroups, shims, network namespaces, wedged tasks     doctor/machine.rs
//!   rescue  a metadata store that does not open                          doctor/rescue.rs
//! ```
//!
//! It works beside a daemon that serves, and on the folders of one that is stopped. A finding about something that may be under
//! way is looked at twice. It never removes on doubt: what is mended was proven by a hash, or has no record and no user, and what
//! is taken away with bytes in it is moved aside and not deleted. All of this blocks.

mod files;
mod machine;
mod records;
pub mod rescue;
mod show;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use proto::gantry::v1::examine_response::What;
use proto::gantry::v1::finding::Kind;
use proto::gantry::v1::{Account, ExamineRequest, Finding, Resource, Summary};
use store::Store;
use store::blob::BlobStore;

use crate::config::Config;
use crate::meta::Drivers;
use crate::tasks::Tasks;

pub use show::{as_json, as_text};

/// What is examined.
#[derive(Clone)]
pub struct Doctor {
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) blobs: BlobStore,
    pub(crate) drivers: Drivers,
    /// The tasks, if a daemon runs.
    pub(crate) tasks: Option<Tasks>,
}

impl std::fmt::Debug for Doctor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doctor").field("root", &self.config.root).finish_non_exhaustive()
    }
}

/// Whether to go on.
pub type Flow = ControlFlow<()>;

/// Where reports go, and what was reported.
pub(crate) struct Report<'a> {
    give: &'a mut dyn FnMut(What) -> Flow,
    summary: Summary,
    /// Whether to mend.
    repair: bool,
}

impl Report<'_> {
    fn account(&mut self, path: PathBuf, owner: &str, size: files::Size) -> Flow {
        self.summary.bytes += size.bytes;
        if !owner.is_empty() {
            self.summary.owned_bytes += size.bytes;
        }
        let path = path.display().to_string();
        (self.give)(What::Account(Account { path, owner: owner.to_owned(), bytes: size.bytes, files: size.files }))
    }

    fn resource(&mut self, kind: &str, name: impl ToString, owner: impl Into<String>) -> Flow {
        (self.give)(What::Resource(Resource { kind: kind.to_owned(), name: name.to_string(), owner: owner.into() }))
    }

    /// Reports what is wrong, after mending it if that is wanted and there is a way.
    fn finding(&mut self, mut found: Found<'_>) -> Flow {
        self.summary.findings += 1;
        let mut done = String::new();
        if let Some((_, mend)) = found.mend.as_mut().filter(|_| self.repair) {
            done = match mend() {
                Ok(said) => {
                    self.summary.repaired += 1;
                    tracing::warn!(subject = found.subject, done = said, "the doctor mended something");
                    said
                }
                Err(error) => format!("not done: {error}"),
            };
        }
        (self.give)(What::Finding(Finding {
            kind: found.kind.into(),
            subject: found.subject,
            sentence: found.sentence,
            remedy: found.mend.map(|(remedy, _)| remedy).unwrap_or_default(),
            done,
        }))
    }
}

/// What is done about a finding: what it says it does, and the doing, which says what it did.
type Mend<'a> = (String, Box<dyn FnMut() -> Result<String, String> + 'a>);

/// Something that is wrong.
pub(crate) struct Found<'a> {
    kind: Kind,
    subject: String,
    sentence: String,
    mend: Option<Mend<'a>>,
}

impl<'a> Found<'a> {
    fn new(kind: Kind, subject: impl ToString, sentence: impl Into<String>) -> Self {
        Self { kind, subject: subject.to_string(), sentence: sentence.into(), mend: None }
    }

    /// With a remedy that is safe.
    fn mended_by(mut self, remedy: impl Into<String>, mend: impl FnMut() -> Result<String, String> + 'a) -> Self {
        self.mend = Some((remedy.into(), Box::new(mend)));
        self
    }
}

impl Doctor {
    /// Examines everything and gives what it finds, the summary last. Ends early when `give` breaks.
    pub fn examine(&self, request: &ExamineRequest, give: &mut dyn FnMut(What) -> Flow) {
        let mut report = Report { give, summary: Summary::default(), repair: request.repair };
        let ended = self.look(request.verify, &mut report);
        if ended.is_continue() {
            let summary = report.summary;
            let _ = (report.give)(What::Summary(summary));
        }
    }

    fn look(&self, verify: bool, report: &mut Report<'_>) -> Flow {
        files::look(self, report)?;
        records::look(self, report)?;
        if verify {
            records::verify(self, report)?;
        }
        machine::look(self, report)
    }

    /// The tasks there are, as `namespace/id`; of a daemon that is not running none is known.
    fn tasks(&self) -> Option<BTreeSet<String>> {
        let tasks = self.tasks.as_ref()?;
        Some(tasks.live().into_iter().map(|task| format!("{}/{}", task.namespace, task.id)).collect())
    }
}

#[cfg(test)]
mod tests;
