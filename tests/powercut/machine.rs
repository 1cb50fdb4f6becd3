//! The emulated machine with a disk: run until it is killed, or until it has come to its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use harness::emulator::Kernel;
use harness::programs;

/// How long a guest may take to its first acknowledgement, or to the end of its check.
const LIMIT: Duration = Duration::from_secs(300);

/// How its disk is attached.
pub(crate) enum Disk<'a> {
    /// With every write logged.
    Logged { image: &'a Path, log: &'a Path },
    /// As it is.
    Plain(&'a Path),
}

/// One life.
pub(crate) struct Machine {
    child: Child,
    console: PathBuf,
}

impl Machine {
    /// Boots; `arguments` is for the guest's first program.
    pub(crate) fn boot(
        kernel: &Kernel,
        initramfs: &Path,
        disk: &Disk<'_>,
        arguments: &str,
        console: &Path,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(programs::find("qemu-system-x86_64")?);
        // Without hardware virtualization, which build machines rarely have.
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "1024",
            "-nodefaults",
            "-no-reboot",
        ]);
        command.args(["-display", "none", "-serial", "stdio"]);
        let line =
            format!("console=ttyS0 quiet panic=-1 cgroup_no_v1=all rdinit=/init random.trust_cpu=on {arguments}");
        command.args(["-append", &line]).arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
        match disk {
            Disk::Plain(image) => {
                command.arg("-blockdev").arg(format!("driver=file,node-name=disk,filename={}", image.display()));
            }
            Disk::Logged { image, log } => {
                command.arg("-blockdev").arg(format!("driver=file,node-name=image,filename={}", image.display()));
                command.arg("-blockdev").arg(format!("driver=file,node-name=log,filename={}", log.display()));
                command
                    .args(["-blockdev", "driver=blklogwrites,node-name=disk,file=image,log=log,log-sector-size=512"]);
            }
        }
        command.args(["-device", "virtio-blk-pci,drive=disk"]);
        let output = File::create(console)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().context("start the emulator")?;
        Ok(Self { child, console: console.to_owned() })
    }

    /// What came to the console until now.
    pub(crate) fn console(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.console)?).into_owned())
    }

    /// Waits until the console says `word`, or the machine has ended.
    pub(crate) fn until(&mut self, word: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        while !self.console()?.contains(word) {
            if self.child.try_wait()?.is_some() || start.elapsed() > LIMIT {
                bail!("the guest did not say {word:?}:\n{}", self.console()?);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Takes the power away; gives the console.
    pub(crate) fn kill(mut self) -> anyhow::Result<String> {
        self.child.kill()?;
        self.child.wait()?;
        self.console()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
