//! Disks that are full or broken, and too many open files: clear errors, no damage, and all is well again once the cause has gone.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use harness::{Gantryd, busybox_archive, eventually, programs, run};

/// A filesystem of its own under the daemon's root, on a file; unmounted when it goes.
struct Disk {
    mounted: Vec<PathBuf>,
}

impl Disk {
    /// An ext4 of `mebibytes` in the file `image`, mounted on `place`.
    fn mount(image: &Path, mebibytes: u64, place: &Path) -> anyhow::Result<Self> {
        std::fs::File::create(image)?.set_len(mebibytes << 20)?;
        let arguments =
            ["-q".as_ref(), "-O".as_ref(), "^has_journal".as_ref(), "-m".as_ref(), "0".as_ref(), image.as_os_str()];
        run(&programs::find("mkfs.ext4")?, &arguments)?.ok()?;
        std::fs::create_dir_all(place)?;
        let arguments = ["-o".as_ref(), "loop,errors=continue".as_ref(), image.as_os_str(), place.as_os_str()];
        run(&programs::find("mount")?, &arguments)?.ok()?;
        Ok(Self { mounted: vec![place.to_owned()] })
    }

    /// A filesystem in memory of `mebibytes` on `place`.
    fn memory(&mut self, mebibytes: u64, place: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(place)?;
        let size = format!("size={mebibytes}m");
        let arguments =
            ["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), size.as_ref(), "none".as_ref(), place.as_os_str()];
        run(&programs::find("mount")?, &arguments)?.ok()?;
        self.mounted.push(place.to_owned());
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for place in self.mounted.iter().rev() {
            // Lazily: a failed test may leave something open, and the rest must go all the same.
            let unmounted = nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH);
            // The census of a failed test may have been here before.
            if let Err(error) = unmounted
                && place.exists()
            {
                eprintln!("{} stays mounted: {error}", place.display());
            }
        }
    }
}

/// Gives bytes that nobody else has, as a file.
fn content(daemon: &Gantryd, name: &str, mebibytes: usize) -> anyhow::Result<(String, String)> {
    let path = daemon.folder().join(name);
    let bytes: Vec<u8> = name.bytes().cycle().take(mebibytes << 20).collect();
    std::fs::write(&path, &bytes)?;
    Ok((path.display().to_string(), model::Digest::sha256(&bytes).to_string()))
}

/// `ctr content ingest` of a file under a name.
fn ingest(daemon: &Gantryd, file: &str, digest: &str, name: &str) -> anyhow::Result<harness::Ran> {
    let line = format!(
        "{} --address {} content ingest --expected-digest {digest} {name} < {file}",
        programs::find("ctr")?.display(),
        daemon.address().display()
    );
    run(&programs::find("sh")?, &["-c", &line])
}

/// A daemon whose root is on a disk of its own, with an image.
fn on_disk(mebibytes: u64) -> anyhow::Result<(Disk, Gantryd)> {
    let mut daemon = Gantryd::start()?;
    daemon.terminate()?;
    let disk = Disk::mount(&daemon.folder().join("disk"), mebibytes, &daemon.root())?;
    daemon.launch()?;
    daemon.ctr(&["images", "import", &busybox_archive()?.display().to_string()])?.ok()?;
    Ok((disk, daemon))
}

/// The disk goes after the daemon.
fn end((disk, mut daemon): (Disk, Gantryd)) -> anyhow::Result<()> {
    daemon.terminate()?;
    drop(disk);
    Ok(())
}

#[test]
fn a_full_disk_is_told_and_survived() -> anyhow::Result<()> {
    let (disk, daemon) = on_disk(64)?;
    let ballast = daemon.root().join("ballast");
    std::fs::write(&ballast, vec![1; 20 << 20])?;
    let (file, digest) = content(&daemon, "large", 60)?;
    let refused = ingest(&daemon, &file, &digest, "large")?.failed()?;
    ensure!(refused.contains("No space left"), "the reason is not said: {refused}");
    ensure!(daemon.ctr(&["content", "ls", "-q"])?.ok()?.lines().all(|line| line != digest), "half a content is there");

    // What takes no room, and what gives room back, works on the full disk.
    daemon.ctr(&["images", "ls"])?.ok()?;
    daemon.ctr(&["images", "label", harness::image::BUSYBOX_NAME, "still=here"])?.ok()?;
    let refused = ingest(&daemon, &file, &digest, "large-again")?.failed()?;
    ensure!(refused.contains("No space left"), "the reason is not said: {refused}");

    // Room again, and all goes on without a restart.
    std::fs::remove_file(&ballast)?;
    let (file, digest) = content(&daemon, "small", 1)?;
    ingest(&daemon, &file, &digest, "small")?.ok()?;
    ensure!(daemon.ctr_run("after", &["echo", "well"])?.ok()? == "well\n");
    end((disk, daemon))
}

#[test]
fn a_layer_that_does_not_fit_leaves_nothing() -> anyhow::Result<()> {
    let (disk, daemon) = on_disk(64)?;
    daemon.ctr(&["images", "rm", "--sync", harness::image::BUSYBOX_NAME])?.ok()?;
    let before = daemon.ctr(&["snapshots", "ls"])?.ok()?;
    let free = || -> anyhow::Result<u64> {
        let of = nix::sys::statvfs::statvfs(&daemon.root())?;
        Ok(of.blocks_available() * of.fragment_size())
    };
    // So little that the image fits, and its files do not.
    let archive = busybox_archive()?;
    let left = std::fs::metadata(&archive)?.len() + (200 << 10);
    let ballast = daemon.root().join("ballast");
    std::fs::write(&ballast, vec![1; usize::try_from(free()?.saturating_sub(left))?])?;
    let refused = daemon.ctr(&["images", "import", &archive.display().to_string()])?.failed()?;
    ensure!(refused.contains("No space left"), "the reason is not said: {refused}");
    eventually("nothing is left of the import", || {
        ensure!(daemon.ctr(&["snapshots", "ls"])?.ok()? == before, "snapshots are left");
        Ok(())
    })?;
    std::fs::remove_file(&ballast)?;
    daemon.ctr(&["images", "import", &archive.display().to_string()])?.ok()?;
    ensure!(daemon.ctr_run("fits", &["echo", "well"])?.ok()? == "well\n");
    end((disk, daemon))
}

#[test]
fn a_disk_that_fails_to_write_is_told_and_survived() -> anyhow::Result<()> {
    let mut daemon = Gantryd::start()?;
    daemon.terminate()?;
    // The disk promises more than what is behind it has: writes are taken, and fail when they are to be made durable.
    let behind = daemon.folder().join("behind");
    let mut disk = Disk { mounted: Vec::new() };
    disk.memory(40, &behind)?;
    let image = Disk::mount(&behind.join("disk"), 200, &daemon.root())?;
    disk.mounted.extend(image.mounted.iter().cloned());
    std::mem::forget(image);
    daemon.launch()?;
    let (file, digest) = content(&daemon, "large", 60)?;
    ingest(&daemon, &file, &digest, "large")?.failed()?;
    ensure!(
        daemon.ctr(&["content", "ls", "-q"])?.ok()?.lines().all(|line| line != digest),
        "what was lost is recorded"
    );
    daemon.ctr(&["images", "ls"])?.ok()?;

    let arguments = ["-o", "remount,size=400m", &behind.display().to_string()].map(ToOwned::to_owned);
    run(&programs::find("mount")?, &arguments)?.ok()?;
    let (file, digest) = content(&daemon, "small", 1)?;
    ingest(&daemon, &file, &digest, "small")?.ok().with_context(|| daemon.log())?;
    ensure!(daemon.ctr(&["content", "get", &digest])?.ok()?.len() == 1 << 20);
    end((disk, daemon))
}

#[test]
fn too_many_open_files_end_nothing_but_what_needs_more() -> anyhow::Result<()> {
    let daemon = Gantryd::with_busybox()?;
    let pid = daemon.pid()?;
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let limit = |soft: usize| {
        let arguments = ["--pid".to_owned(), pid.to_string(), format!("--nofile={soft}:")];
        run(&programs::find("prlimit")?, &arguments)?.ok()
    };
    limit(open + 6)?;
    let waiting: Vec<_> = (0..40).map(|_| UnixStream::connect(daemon.address())).collect::<Result<_, _>>()?;
    // It cannot take them all, and nothing of that ends it.
    ensure!(daemon.pid()? == pid && Path::new(&format!("/proc/{pid}")).exists());
    drop(waiting);
    eventually("it answers again", || daemon.ctr(&["images", "ls"])?.ok())?;
    // This needs more than there are: it fails or not. If even its end could not be asked for, that can be done later.
    let _either = daemon.ctr_run("short", &["true"])?;
    limit(4096)?;
    let left = daemon.ctr(&["tasks", "ls", "-q"])?.ok()?;
    ensure!(left.is_empty() || left == "short\n", "{left}");
    if !left.is_empty() {
        daemon.ctr(&["tasks", "rm", "--force", "short"])?.ok()?;
    }
    if daemon.ctr(&["containers", "ls", "-q"])?.ok()? == "short\n" {
        daemon.ctr(&["containers", "rm", "short"])?.ok()?;
    }
    ensure!(daemon.ctr_run("plenty", &["echo", "well"])?.ok()? == "well\n");
    Ok(())
}
