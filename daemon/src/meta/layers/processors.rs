//! Stream processors: programs that make a layer that can be read of one that cannot, an encrypted one for example
//! (containerd's contract).
//!
//! ```text
//!   blob ──stdin──► program ──stdout──► … ──► a layer that can be read
//!                     ▲ descriptor 3: what the client sent for this processor
//! ```
//!
//! They are chained by media type until one comes out that is known. A program that ends badly fails the layer, with what it
//! complained of, whatever came out of it; whoever stops reading ends the programs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use prost::Message;
use prost_types::Any;
use rustix::fs::MemfdFlags;
use snapshotter::layer::Encoding;

/// As many programs one layer may go through.
const MAX_CHAIN: usize = 8;
/// As much of what a program complained of is told.
const COMPLAINT_BYTES: u64 = 1024;
/// What tells a program what it gets.
const MEDIA_TYPE_VARIABLE: &str = "STREAM_PROCESSOR_MEDIATYPE";

/// One program.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Processor {
    /// The media types that it takes.
    pub accepts: Vec<String>,
    /// The media type of what comes out.
    pub returns: String,
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// More environment, as `KEY=value`.
    pub env: Vec<String>,
}

/// All of them, by the names that clients send payloads for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Processors {
    by_name: BTreeMap<String, Processor>,
}

/// Programs to run one after the other, each with its name and the type of what it gets.
pub(super) struct Chain<'p> {
    steps: Vec<(&'p str, &'p Processor, String)>,
    /// How what comes out is read.
    pub(super) encoding: Encoding,
}

impl Processors {
    /// These ones.
    pub fn new(by_name: BTreeMap<String, Processor>) -> Self {
        Self { by_name }
    }

    /// The programs that make a known type of this one; none when there are no such.
    pub(super) fn chain(&self, media_type: &str) -> Option<Chain<'_>> {
        let mut steps = Vec::new();
        let mut current = media_type.to_owned();
        loop {
            if let Some(encoding) = Encoding::from_media_type(&current) {
                return Some(Chain { steps, encoding });
            }
            let takes = |processor: &&Processor| processor.accepts.contains(&current);
            let (name, processor) = self.by_name.iter().find(|(_, processor)| takes(processor))?;
            if steps.len() == MAX_CHAIN {
                return None;
            }
            let next = processor.returns.clone();
            steps.push((name.as_str(), processor, std::mem::replace(&mut current, next)));
        }
    }
}

impl Chain<'_> {
    /// Whether there is nothing to run: the type is known as it is.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Starts the programs on the bytes of `blob`.
    ///
    /// # Errors
    /// One of them cannot be started; the others are ended.
    pub(super) fn start(&self, blob: File, payloads: &BTreeMap<String, Any>) -> io::Result<Processed> {
        let mut programs = Programs(Vec::new());
        let mut input = Stdio::from(blob);
        let mut output = None;
        for (at, (name, processor, media_type)) in self.steps.iter().enumerate() {
            let (program, out) = Program::start(name, processor, media_type, input, payloads.get(*name))?;
            programs.0.push(program);
            if at + 1 == self.steps.len() {
                output = Some(out);
                break;
            }
            input = Stdio::from(out);
        }
        let output = output.ok_or_else(|| io::Error::other("there is no program to run"))?;
        Ok(Processed { output, programs })
    }
}

/// What comes out of a chain of programs.
pub(super) struct Processed {
    output: ChildStdout,
    programs: Programs,
}

impl Processed {
    /// Waits for the programs, all of whose output was read, or not.
    ///
    /// # Errors
    /// One of them ended badly.
    fn end(&mut self) -> io::Result<()> {
        self.programs.0.iter_mut().try_for_each(Program::end)
    }
}

impl Read for Processed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.output.read(buffer)?;
        if got == 0 && !buffer.is_empty() {
            // An end that is none must not be taken for one.
            self.end()?;
        }
        Ok(got)
    }
}

/// Programs that are ended with this.
struct Programs(Vec<Program>);

impl Drop for Programs {
    fn drop(&mut self) {
        for program in &mut self.0 {
            // One that ended by itself was waited for; this then does nothing.
            let _ = program.child.kill();
            let _ = program.child.wait();
        }
    }
}

struct Program {
    name: String,
    child: Child,
    complaints: File,
    /// What it reads from descriptor 3, which it may open at any time.
    _payload: Option<File>,
}

impl Program {
    fn start(
        name: &str,
        processor: &Processor,
        media_type: &str,
        input: Stdio,
        payload: Option<&Any>,
    ) -> io::Result<(Self, ChildStdout)> {
        let complaints = memory("complaints")?;
        let payload = payload.map(|payload| {
            let mut file = memory("payload")?;
            file.write_all(&payload.encode_to_vec())?;
            file.seek(SeekFrom::Start(0))?;
            Ok::<_, io::Error>(file)
        });
        let payload = payload.transpose()?;
        let mut command = match &payload {
            None => Command::new(&processor.path),
            Some(file) => {
                // Nothing of ours may run between the fork and the program, so a shell opens what is to be descriptor 3.
                let mut command = Command::new("/bin/sh");
                command.args(["-c", "exec 3<\"$1\" && shift && exec \"$@\"", "sh"]);
                command.arg(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())).arg(&processor.path);
                command
            }
        };
        command.args(&processor.args).env(MEDIA_TYPE_VARIABLE, media_type);
        for entry in &processor.env {
            let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
            command.env(key, value);
        }
        command.stdin(input).stdout(Stdio::piped()).stderr(complaints.try_clone()?);
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("stream processor {name}: {error}"));
        let mut child = command.spawn().map_err(failed)?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("a child without its output"))?;
        Ok((Self { name: name.to_owned(), child, complaints, _payload: payload }, output))
    }

    fn end(&mut self) -> io::Result<()> {
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        let mut said = Vec::new();
        let length = self.complaints.metadata().map_or(0, |meta| meta.len());
        let from = length.saturating_sub(COMPLAINT_BYTES);
        if self.complaints.seek(SeekFrom::Start(from)).is_ok() {
            let _ = (&mut self.complaints).take(COMPLAINT_BYTES).read_to_end(&mut said);
        }
        let said = String::from_utf8_lossy(&said);
        Err(io::Error::other(format!("stream processor {} ended with {status}: {}", self.name, said.trim())))
    }
}

/// A file that is only in memory.
fn memory(name: &str) -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENCRYPTED: &str = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
    const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

    fn shell(accepts: &str, returns: &str, script: &str) -> Processor {
        Processor {
            accepts: vec![accepts.to_owned()],
            returns: returns.to_owned(),
            path: "/bin/sh".into(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: vec!["MINE=1".to_owned()],
        }
    }

    fn processors(all: &[(&str, Processor)]) -> Processors {
        Processors::new(all.iter().map(|(name, processor)| ((*name).to_owned(), processor.clone())).collect())
    }

    fn run(
        processors: &Processors,
        media_type: &str,
        bytes: &[u8],
        payloads: &BTreeMap<String, Any>,
    ) -> io::Result<String> {
        let mut blob = memory("blob").unwrap();
        blob.write_all(bytes).unwrap();
        blob.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        processors.chain(media_type).expect("a chain").start(blob, payloads)?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn types_are_chained_until_one_is_known() {
        let all = processors(&[
            ("outer", shell(ENCRYPTED, "x/inner", "tr a b; printf '%s' $STREAM_PROCESSOR_MEDIATYPE $MINE")),
            ("inner", shell("x/inner", PLAIN, "tr b c")),
            ("circle", shell("x/circle", "x/circle", "cat")),
            ("dead-end", shell("x/dead", "x/end", "cat")),
        ]);
        assert_eq!(
            run(&all, ENCRYPTED, b"aaa", &BTreeMap::new()).unwrap(),
            format!("ccc{ENCRYPTED}1").replace('b', "c")
        );
        assert_eq!(all.chain(ENCRYPTED).unwrap().encoding, Encoding::Plain);
        for unknown in ["x/circle", "x/dead", "x/nobody"] {
            assert!(all.chain(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn a_payload_is_descriptor_three() {
        let all = processors(&[("key", shell(ENCRYPTED, PLAIN, "cat; cat <&3"))]);
        let payload = Any { type_url: "t".to_owned(), value: b"secret".to_vec() };
        let payloads = BTreeMap::from([("key".to_owned(), payload.clone())]);
        let got = run(&all, ENCRYPTED, b"data ", &payloads).unwrap();
        assert_eq!(got.as_bytes(), [b"data ".as_slice(), &payload.encode_to_vec()].concat());
    }

    #[test]
    fn a_program_that_fails_fails_the_layer() {
        let all = processors(&[("bad", shell(ENCRYPTED, PLAIN, "cat; echo no key >&2; exit 3"))]);
        let error = run(&all, ENCRYPTED, b"data", &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("bad") && error.contains("no key"), "{error}");
        let missing = Processor { path: "/nowhere".into(), ..shell(ENCRYPTED, PLAIN, "") };
        let error = run(&processors(&[("gone", missing)]), ENCRYPTED, b"", &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("gone"), "{error}");
    }

    #[test]
    fn who_stops_reading_ends_the_programs() {
        let all = processors(&[("endless", shell(ENCRYPTED, PLAIN, "yes"))]);
        let blob = memory("blob").unwrap();
        let mut processed = all.chain(ENCRYPTED).unwrap().start(blob, &BTreeMap::new()).unwrap();
        processed.read_exact(&mut [0; 10]).unwrap();
        let pid = processed.programs.0[0].child.id();
        drop(processed);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
