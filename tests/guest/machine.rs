//! The emulated machine: booted, bounded, its console read.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use harness::programs;

/// How long the guest may take. It needs about two minutes where the cores are busy with other work.
const LIMIT: Duration = Duration::from_secs(300);

/// The kernel's command line. A panic ends the emulator.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 cgroup_no_v1=all rdinit=/init random.trust_cpu=on";

/// Boots the kernel `image` with `initramfs`, waits for the end and returns what came to the console, also when the guest
/// was cut off.
pub(crate) fn boot(image: &Path, initramfs: &Path, console: &Path) -> anyhow::Result<String> {
    let mut command = Command::new(programs::find("qemu-system-x86_64")?);
    // Without hardware virtualization, which build machines rarely have.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024", "-nodefaults", "-no-reboot"]);
    command.args(["-display", "none", "-serial", "stdio", "-append", COMMAND_LINE]);
    command.arg("-kernel").arg(image).arg("-initrd").arg(initramfs);
    let output = File::create(console)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut child = command.spawn().context("start the emulator")?;
    let start = Instant::now();
    let read = || -> anyhow::Result<String> { Ok(String::from_utf8_lossy(&std::fs::read(console)?).into_owned()) };
    loop {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                bail!("the emulator ended with {status}:\n{}", read()?);
            }
            return read();
        }
        if start.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(format!("{}\n(cut off after {LIMIT:?})\n", read()?));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
