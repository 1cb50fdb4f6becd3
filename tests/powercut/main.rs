//! The power goes while a daemon works, and comes back: what was acknowledged is there, and what is there is whole.
//!
//! ```text
//!   boot, load: ACK, ACK, … ──► the emulator is killed ──► log of writes ──► disk: all that was flushed, the rest by chance
//!   boot, check ◄── the same disk, and what was acknowledged ◄──────────────────────────┘
//! ```
//!
//! `GANTRY_POWERCUTS` sets how often, `GANTRY_POWERCUT_DAEMON` (`gantryd` or `containerd`) whose; the seed is printed. With
//! `GANTRY_POWERCUT_SYNC=1` the guest makes everything durable each second: a control, under which few losses are left to any daemon.

mod machine;
mod writes;

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use harness::emulator::{Kernel, Root, pack};
use harness::{Random, programs, run};

use machine::{Disk, Machine};
use writes::Writes;

/// How often, unless `GANTRY_POWERCUTS` says otherwise.
const CUTS: u64 = 1;
/// The size of the disk.
const DISK: u64 = 1 << 30;
/// Modules of the guest, in the order in which they need each other. The last ones only some daemons use.
const MODULES: [&str; 10] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "overlay",
    "loop",
    "libcrc32c",
    "erofs",
];

#[test]
fn what_was_acknowledged_survives_power_cuts() -> anyhow::Result<()> {
    let cuts = std::env::var("GANTRY_POWERCUTS").map_or(Ok(CUTS), |cuts| cuts.parse())?;
    let daemon = std::env::var("GANTRY_POWERCUT_DAEMON").unwrap_or_else(|_| "gantryd".to_owned());
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64 | 1;
    let mut random = Random::new(seed);
    let folder = harness::folder("powercut")?;
    let kernel = Kernel::fetch()?;
    let initramfs = folder.path().join("initramfs");
    guest(&folder.path().join("root"), &daemon, &kernel)?.pack(&initramfs)?;
    let base = folder.path().join("base.img");
    std::fs::File::create(&base)?.set_len(DISK)?;
    run(&programs::find("mkfs.ext4")?, &["-q".as_ref(), base.as_os_str()])?.ok()?;

    let mut bad = Vec::new();
    for cut in 0..cuts {
        let place = folder.path().join(format!("cut-{cut}"));
        std::fs::create_dir(&place)?;
        let life = Life { kernel: &kernel, initramfs: &initramfs, base: &base, place: &place, daemon: &daemon };
        let (acknowledged, verdict) =
            life.cut_and_check(&mut random).with_context(|| format!("cut {cut}, seed {seed}"))?;
        eprintln!("{daemon}, cut {cut}: {acknowledged} acknowledged, {verdict}");
        if !verdict.starts_with("VERDICT ok") {
            bad.push(verdict);
        }
        std::fs::remove_dir_all(&place)?;
    }
    ensure!(bad.is_empty(), "seed {seed}: {} of {cuts} cuts did harm:\n{}", bad.len(), bad.join("\n"));
    Ok(())
}

/// The guest's programs.
fn guest(folder: &Path, daemon: &str, kernel: &Kernel) -> anyhow::Result<Root> {
    let root = Root::new(folder)?;
    let program = if daemon == "gantryd" { programs::gantry_bin()?.join(daemon) } else { programs::find(daemon)? };
    root.program(&program)?;
    root.program(Path::new(env!("CARGO_BIN_EXE_gantry-load")))?;
    let mut order = String::new();
    for module in MODULES {
        // Debian builds some of them in, in some versions.
        if let Ok(file) = kernel.module(module) {
            root.file(&file, &format!("lib/modules/{module}.ko"))?;
            order.push_str(module);
            order.push('\n');
        }
    }
    root.script("lib/modules/order", &order)?;
    root.script("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
    root.script("init", include_str!("init.sh"))?;
    Ok(root)
}

/// What one cut needs.
struct Life<'a> {
    kernel: &'a Kernel,
    initramfs: &'a Path,
    base: &'a Path,
    place: &'a Path,
    daemon: &'a str,
}

impl Life<'_> {
    /// Gives how much was acknowledged, and the verdict of the check.
    fn cut_and_check(&self, random: &mut Random) -> anyhow::Result<(usize, String)> {
        let (image, log, disk) = (self.place.join("image"), self.place.join("log"), self.place.join("disk"));
        for copy in [&image, &disk] {
            let arguments = ["--sparse=always".as_ref(), self.base.as_os_str(), copy.as_os_str()];
            run(&programs::find("cp")?, &arguments)?.ok()?;
        }
        std::fs::File::create(&log)?;
        let sync = u8::from(std::env::var_os("GANTRY_POWERCUT_SYNC").is_some());
        let seed = random.below(1 << 32);
        let arguments = format!("cut.daemon={} cut.mode=work cut.seed={seed} cut.sync={sync}", self.daemon);
        let attached = Disk::Logged { image: &image, log: &log };
        let mut machine = Machine::boot(self.kernel, self.initramfs, &attached, &arguments, &self.place.join("work"))?;
        machine.until("ACK snapshot")?;
        std::thread::sleep(Duration::from_millis(random.below(6000)));
        let console = machine.kill()?;
        ensure!(!console.contains("LOAD FAILED"), "the load failed:\n{console}");

        // The last line may have been cut, too.
        let whole = console.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let acknowledged: Vec<&str> = whole.lines().filter_map(|line| line.trim_end().strip_prefix("ACK ")).collect();
        let writes = Writes::read(&log)?;
        writes.cut(&disk, || random.below(2) == 0)?;
        eprintln!("{:?} writes and flushes", writes.counts());

        let extra = self.place.join("extra");
        std::fs::create_dir(&extra)?;
        std::fs::write(extra.join("acknowledged"), acknowledged.join("\n"))?;
        let (more, both) = (self.place.join("more"), self.place.join("both"));
        pack(&extra, &more)?;
        let mut archive = std::fs::read(self.initramfs)?;
        archive.extend(std::fs::read(&more)?);
        std::fs::write(&both, archive)?;
        let arguments = format!("cut.daemon={} cut.mode=check", self.daemon);
        let mut machine =
            Machine::boot(self.kernel, &both, &Disk::Plain(&disk), &arguments, &self.place.join("check"))?;
        machine.until("VERDICT ")?;
        let console = machine.kill()?;
        // A check that finds nothing wrong with what was never there would find nothing wrong with anything.
        let verdict =
            console.lines().find(|line| line.starts_with("VERDICT ")).unwrap_or_default().trim_end().to_owned();
        ensure!(verdict.starts_with("VERDICT bad") || console.contains("SELF-TEST ok"), "no self-test:\n{console}");
        let findings: Vec<&str> = console.lines().filter(|line| line.starts_with("BAD ")).collect();
        Ok((acknowledged.len(), [&[verdict.as_str()], findings.as_slice()].concat().join("\n")))
    }
}
