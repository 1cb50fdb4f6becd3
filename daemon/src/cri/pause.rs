//! The image of pods' first processes: the configured one, or one that is made here.
//!
//! The program waits, reaps whatever is orphaned to it, and ends when it is told to. It is written in machine code, so that it needs
//! nothing of the machine it was built on and next to no memory; what it does is in [`program`].

use model::error::Classify;
use serde_json::json;
use tracing::{info, warn};

use super::images::KnownImage;
use super::{Cri, CriError};
use crate::api::Failure;

/// The name of the image that is made here.
pub(super) const NAME: &str = "localhost/gantry/pause:1";

/// The turn of whoever makes or pulls it.
const TURN: &str = "the image of pods";

impl Cri {
    /// The image of pods' first processes; it is pulled or made if it is not there.
    ///
    /// # Errors
    /// It can neither be pulled nor made.
    pub(super) async fn pause_image(&self) -> Result<KnownImage, Failure> {
        let configured = self.inner.settings.sandbox_image.as_deref();
        for name in configured.into_iter().chain([NAME]) {
            if let Some(image) = self.image_named(name).await? {
                return Ok(image);
            }
            if name == NAME {
                break;
            }
            let _turn = self.inner.turns.take(TURN).await;
            if let Some(image) = self.image_named(name).await? {
                return Ok(image);
            }
            match self.pull_pinned(name).await {
                Ok(image) => return Ok(image),
                Err(failure) => {
                    warn!(
                        image = name,
                        error = failure.message(),
                        "the image of pods cannot be pulled: one is made here"
                    );
                }
            }
        }
        let _turn = self.inner.turns.take(TURN).await;
        if let Some(image) = self.image_named(NAME).await? {
            return Ok(image);
        }
        let program = program().ok_or_else(|| {
            CriError::Unsupported(format!(
                "there is no program for pods for {}: set the key pinned_images.sandbox to an image that can be pulled",
                std::env::consts::ARCH
            ))
        })?;
        let layer =
            layer(&program).map_err(|error| CriError::Failed(format!("cannot make the image of pods: {error}")))?;
        let config = json!({ "Entrypoint": ["/pause"], "User": "65535:65535", "Env": ["PATH=/"], "WorkingDir": "/" });
        let labels = super::images::labels(true);
        self.inner
            .images
            .make_image(self.scope(), &[NAME], &labels, layer, &config)
            .await
            .map_err(|error| CriError::Failed(format!("cannot make the image of pods: {}", error.wire_message())))?;
        info!(image = NAME, "the image of pods was made");
        let made = self.image_named(NAME).await?;
        Ok(made.ok_or_else(|| CriError::Failed("the image of pods was removed while it was made".into()))?)
    }
}

/// The layer: the program, and folders to mount on.
fn layer(program: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    for folder in ["dev", "etc", "proc", "sys"] {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        archive.append_data(&mut header, format!("{folder}/"), std::io::empty())?;
    }
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    archive.append_data(&mut header, "pause", program)?;
    archive.into_inner()
}

/// The program as an ELF file for this machine, if it is written for it.
fn program() -> Option<Vec<u8>> {
    #[cfg(target_arch = "x86_64")]
    return Some(elf(62, &X86_64));
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Where it is loaded.
#[cfg(target_arch = "x86_64")]
const BASE: u64 = 0x40_0000;
/// The size of both headers.
#[cfg(target_arch = "x86_64")]
const HEADERS: u64 = 64 + 56;

/// An ELF file of one segment, which is the code (elf(5)).
#[cfg(target_arch = "x86_64")]
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    let size = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    let word = |file: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    let long = |file: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    // An executable; entry, program headers, no sections.
    half(&mut file, &[2, machine]);
    word(&mut file, &[1]);
    long(&mut file, &[BASE + HEADERS, 64, 0]);
    word(&mut file, &[0]);
    half(&mut file, &[64, 56, 1, 0, 0, 0]);
    // All of it is loaded, to be read and executed.
    word(&mut file, &[1, 5]);
    long(&mut file, &[0, BASE, BASE, size, size, 0x1000]);
    file.extend(code);
    file
}

/// ```text
///          rt_sigprocmask(SIG_BLOCK, &set, NULL, 8)     the first process of a pid namespace gets no signal but
///   again: sig = rt_sigtimedwait(&set, NULL, NULL, 8)   those that it blocks and waits for
///          if sig == SIGCHLD goto reap
///          if sig < 0 goto again
///          exit_group(0)
///   reap:  if wait4(-1, NULL, WNOHANG, NULL) > 0 goto reap
///          goto again
///   set:   SIGINT, SIGTERM, SIGCHLD
/// ```
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const X86_64: [u8; 104] = [
    0xb8, 0x0e, 0x00, 0x00, 0x00,             // mov    $14, %eax
    0x31, 0xff,                               // xor    %edi, %edi
    0x48, 0x8d, 0x35, 0x52, 0x00, 0x00, 0x00, // lea    set(%rip), %rsi
    0x31, 0xd2,                               // xor    %edx, %edx
    0x41, 0xba, 0x08, 0x00, 0x00, 0x00,       // mov    $8, %r10d
    0x0f, 0x05,                               // syscall
    0xb8, 0x80, 0x00, 0x00, 0x00,             // again: mov $128, %eax
    0x48, 0x8d, 0x3d, 0x3c, 0x00, 0x00, 0x00, // lea    set(%rip), %rdi
    0x31, 0xf6,                               // xor    %esi, %esi
    0x31, 0xd2,                               // xor    %edx, %edx
    0x41, 0xba, 0x08, 0x00, 0x00, 0x00,       // mov    $8, %r10d
    0x0f, 0x05,                               // syscall
    0x83, 0xf8, 0x11,                         // cmp    $17, %eax
    0x74, 0x0d,                               // je     reap
    0x85, 0xc0,                               // test   %eax, %eax
    0x78, 0xdf,                               // js     again
    0xb8, 0xe7, 0x00, 0x00, 0x00,             // mov    $231, %eax
    0x31, 0xff,                               // xor    %edi, %edi
    0x0f, 0x05,                               // syscall
    0xb8, 0x3d, 0x00, 0x00, 0x00,             // reap: mov $61, %eax
    0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // mov    $-1, %rdi
    0x31, 0xf6,                               // xor    %esi, %esi
    0xba, 0x01, 0x00, 0x00, 0x00,             // mov    $1, %edx
    0x45, 0x31, 0xd2,                         // xor    %r10d, %r10d
    0x0f, 0x05,                               // syscall
    0x85, 0xc0,                               // test   %eax, %eax
    0x7f, 0xe4,                               // jg     reap
    0xeb, 0xb8,                               // jmp    again
    0x02, 0x40, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, // set: .quad 1<<1 | 1<<14 | 1<<16
];

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_program_waits_and_ends_when_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pause");
        std::fs::write(&path, program().unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let mut child = Command::new(&path).spawn().unwrap();
            let pid = Pid::from_raw(child.id().cast_signed());
            let blocked = || {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
                // While it waits for the signals, the kernel shows them as not blocked.
                let waits = status.lines().any(|line| line.starts_with("State:\tS"));
                waits || status.lines().any(|line| line.starts_with("SigBlk:") && !line.ends_with("0000000000000000"))
            };
            while !blocked() {
                assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
                std::thread::yield_now();
            }
            // A child's end does not end it.
            kill(pid, Signal::SIGCHLD).unwrap();
            kill(pid, signal).unwrap();
            let status = child.wait().unwrap();
            assert_eq!((status.code(), status.signal()), (Some(0), None), "{signal}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_layer_is_always_the_same() {
        let program = program().unwrap();
        assert_eq!(layer(&program).unwrap(), layer(&program).unwrap());
        let layer = layer(&program).unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let names: Vec<_> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names, ["dev/", "etc/", "proc/", "sys/", "pause"]);
    }
}
