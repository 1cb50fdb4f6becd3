//! Image verifiers: programs of this machine's owner that judge an image before it is taken (containerd's contract, "bindir").
//!
//! ```text
//!   each program of the folder, in order of name, at most so many:
//!     -name N -digest D -stdin-media-type application/vnd.oci.descriptor.v1+json   < descriptor as JSON
//!       exit 0 ─► allowed, the next one      anything else, no end, no start ─► the image is refused, with its words
//! ```
//!
//! All have to allow it. Without a folder, or with none in it, everything is allowed. A verifier that cannot be run refuses.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use model::Descriptor;
use model::error::{Classify, Kind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::document::RawDescriptor;
use super::registry::clean;
use crate::blocking;

/// What a verifier is told that its input is.
const INPUT_TYPE: &str = "application/vnd.oci.descriptor.v1+json";

/// How much of what a verifier writes is read, in bytes.
const MAX_OUTPUT_BYTES: u64 = 16 * 1024;

/// How images are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifiers {
    /// The folder of the programs.
    pub folder: PathBuf,
    /// How many of them are run at most; `None` is all.
    pub limit: Option<usize>,
    /// How long each of them may take.
    pub time: Duration,
}

impl Default for Verifiers {
    fn default() -> Self {
        Self { folder: "/opt/containerd/image-verifier/bin".into(), limit: Some(10), time: Duration::from_secs(10) }
    }
}

/// Why an image is refused.
#[derive(Debug, thiserror::Error)]
pub enum VerifierError {
    /// A verifier says no.
    #[error("image verifier {verifier} refused {image}: {words}")]
    Refused {
        /// Its name.
        verifier: String,
        /// The image.
        image: String,
        /// What it wrote.
        words: String,
    },
    /// A verifier does not come to an end.
    #[error("image verifier {verifier} did not end within {} s, so {image} is refused", time.as_secs_f32())]
    TimedOut {
        /// Its name.
        verifier: String,
        /// The image.
        image: String,
        /// How long it was given.
        time: Duration,
    },
    /// A verifier, or the folder of them, cannot be used.
    #[error("cannot run image verifier {}, so the image is refused", path.display())]
    Broken {
        /// The program or the folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl Classify for VerifierError {
    fn kind(&self) -> Kind {
        match self {
            Self::Refused { .. } => Kind::PermissionDenied,
            Self::TimedOut { .. } => Kind::DeadlineExceeded,
            Self::Broken { .. } => Kind::FailedPrecondition,
        }
    }
}

impl Verifiers {
    /// Asks all verifiers about an image.
    ///
    /// # Errors
    /// One of them refuses it, or cannot be asked.
    pub async fn judge(&self, image: &str, descriptor: &Descriptor) -> Result<(), VerifierError> {
        let own = self.clone();
        let programs = blocking::run(move || own.programs()).await;
        let programs = programs.map_err(|source| VerifierError::Broken { path: self.folder.clone(), source })?;
        for program in programs {
            self.ask(&program, image, descriptor).await?;
        }
        Ok(())
    }

    /// The programs, in order of name.
    fn programs(&self) -> std::io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut programs = Vec::new();
        for entry in entries {
            let path = entry?.path();
            // Whatever is there is meant to be asked; only folders cannot.
            if !path.is_dir() {
                programs.push(path);
            }
        }
        programs.sort();
        if let Some(limit) = self.limit
            && programs.len() > limit
        {
            tracing::warn!(folder = %self.folder.display(), found = programs.len(), limit, "more image verifiers than may run");
            programs.truncate(limit);
        }
        Ok(programs)
    }

    async fn ask(&self, program: &Path, image: &str, descriptor: &Descriptor) -> Result<(), VerifierError> {
        let broken = |source| VerifierError::Broken { path: program.to_owned(), source };
        let verifier = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut command = Command::new(program);
        command
            .args(["-name", image, "-digest", descriptor.digest.as_str(), "-stdin-media-type", INPUT_TYPE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its children end with it, if it does not come to an end.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(broken)?;
        let group = Group(child.id());
        let (mut input, output, complaint) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let told = serde_json::to_vec(&RawDescriptor::from(descriptor.clone())).unwrap_or_default();
        let work = async {
            let feeding = async {
                if let Some(mut input) = input.take() {
                    // One that knows without it does not read it.
                    let _ = input.write_all(&told).await;
                }
            };
            let ((), words, complaint) = tokio::join!(feeding, read(output), read(complaint));
            (child.wait().await, words, complaint)
        };
        let Ok((status, words, complaint)) = tokio::time::timeout(self.time, work).await else {
            return Err(VerifierError::TimedOut { verifier, image: image.to_owned(), time: self.time });
        };
        let status = status.map_err(broken)?;
        group.end();
        if !complaint.is_empty() {
            tracing::debug!(verifier, said = clean(&complaint), "image verifier");
        }
        if status.success() {
            tracing::debug!(verifier, image, words = clean(&words), "image allowed");
            return Ok(());
        }
        let words = if words.trim().is_empty() { format!("it ended with {status}") } else { clean(&words) };
        Err(VerifierError::Refused { verifier, image: image.to_owned(), words })
    }
}

/// The beginning of what a verifier writes; the rest goes nowhere.
async fn read(from: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let mut bytes = Vec::new();
    let _ = (&mut from).take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The processes of a verifier, killed when it is dropped unless they are over.
struct Group(Option<u32>);

impl Group {
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(leader) = self.0.and_then(|id| i32::try_from(id).ok()) else { return };
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(leader), nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn verifiers(scripts: &[(&str, &str)]) -> (tempfile::TempDir, Verifiers) {
        let folder = tempfile::tempdir().unwrap();
        for (name, script) in scripts {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let verifiers = Verifiers { folder: folder.path().to_owned(), ..Verifiers::default() };
        (folder, verifiers)
    }

    fn descriptor() -> Descriptor {
        Descriptor {
            media_type: "application/vnd.oci.image.index.v1+json".into(),
            digest: model::Digest::sha256(b"x"),
            size: 7,
            annotations: Default::default(),
        }
    }

    #[tokio::test]
    async fn all_have_to_allow_an_image_and_are_told_which() {
        let (folder, all) = verifiers(&[]);
        let seen = folder.path().join("seen");
        let script = format!("echo \"$@\" >{0}; cat >>{0}; exit 0", seen.display());
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        let path = folder.path().join("1");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        all.judge("r.example/a:t", &descriptor()).await.unwrap();
        let seen = std::fs::read_to_string(seen).unwrap();
        let (arguments, input) = seen.split_once('\n').unwrap();
        let digest = model::Digest::sha256(b"x");
        assert_eq!(
            arguments,
            format!("-name r.example/a:t -digest {digest} -stdin-media-type application/vnd.oci.descriptor.v1+json")
        );
        let input: serde_json::Value = serde_json::from_str(input).unwrap();
        assert_eq!((input["digest"].as_str(), input["size"].as_i64()), (Some(digest.as_str()), Some(7)));
    }

    #[tokio::test]
    async fn one_that_refuses_fails_or_hangs_refuses_the_image() {
        let (_folder, all) = verifiers(&[("1", "exit 0"), ("2", "echo not signed; exit 3")]);
        let error = all.judge("a", &descriptor()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (Kind::PermissionDenied, "image verifier 2 refused a: not signed".into())
        );
        let few = Verifiers { limit: Some(1), ..all };
        few.judge("a", &descriptor()).await.unwrap();

        let (_folder, slow) = verifiers(&[("1", "sleep 1000 & wait")]);
        let slow = Verifiers { time: Duration::from_millis(300), ..slow };
        assert_eq!(slow.judge("a", &descriptor()).await.unwrap_err().kind(), Kind::DeadlineExceeded);

        let (folder, broken) = verifiers(&[]);
        std::fs::write(folder.path().join("1"), "not a program").unwrap();
        assert_eq!(broken.judge("a", &descriptor()).await.unwrap_err().kind(), Kind::FailedPrecondition);
        let none = Verifiers { folder: folder.path().join("none"), ..broken };
        none.judge("a", &descriptor()).await.unwrap();
    }
}
