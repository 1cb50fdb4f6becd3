//! Bad input gets an error that says what and why, and leaves nothing behind.

use anyhow::ensure;
use harness::image::BUSYBOX_NAME;
use harness::{Gantryd, Ran};

#[track_caller]
fn says(ran: anyhow::Result<Ran>, words: &[&str]) {
    let text = ran.and_then(Ran::failed).expect("it is refused");
    for word in words {
        assert!(text.contains(word), "{word:?} is not said: {text}");
    }
}

#[test]
fn names_that_do_not_exist() -> anyhow::Result<()> {
    let daemon = Gantryd::with_busybox()?;
    says(daemon.ctr(&["containers", "info", "none"]), &["none", "not found"]);
    says(daemon.ctr(&["containers", "rm", "none"]), &["none", "not found"]);
    says(daemon.ctr(&["tasks", "kill", "none"]), &["none", "not found"]);
    says(daemon.ctr(&["tasks", "start", "none"]), &["none", "not found"]);
    says(
        daemon.ctr(&["run", "--rm", "docker.io/library/none:1", "bi-a", "true"]),
        &["docker.io/library/none:1", "not found"],
    );
    says(daemon.ctr(&["snapshots", "rm", "none"]), &["none", "not found"]);
    says(daemon.ctr(&["snapshots", "prepare", "key", "none"]), &["not found"]);
    let digest = format!("sha256:{}", "0".repeat(64));
    says(daemon.ctr(&["content", "get", &digest]), &[&digest, "not found"]);
    says(daemon.ctr(&["leases", "delete", "none"]), &["none", "not found"]);
    says(daemon.ctr(&["snapshots", "--snapshotter", "none", "ls"]), &["none"]);
    Ok(())
}

#[test]
fn values_that_are_malformed() -> anyhow::Result<()> {
    let daemon = Gantryd::with_busybox()?;
    says(daemon.ctr(&["-n", "bad name", "containers", "ls"]), &["bad name", "invalid argument"]);
    says(daemon.ctr(&["containers", "create", BUSYBOX_NAME, "bad/id"]), &["bad/id", "invalid argument"]);
    says(daemon.ctr(&["content", "get", "sha256:short"]), &["invalid"]);
    says(daemon.ctr(&["images", "ls", "name=="]), &["filters"]);
    says(
        daemon.ctr(&["run", "--rm", "--runtime", "io.containerd.none.v1", BUSYBOX_NAME, "bi-b", "true"]),
        &["containerd-shim-none-v1"],
    );
    says(daemon.ctr(&["run", "--rm", "--runtime", "x/y", BUSYBOX_NAME, "bi-c", "true"]), &["x/y"]);
    Ok(())
}

#[test]
fn archives_that_are_broken() -> anyhow::Result<()> {
    let daemon = Gantryd::start()?;
    let whole = std::fs::read(harness::busybox_archive()?)?;
    let cut = daemon.folder().join("cut.tar");
    std::fs::write(&cut, &whole[..whole.len() / 2])?;
    daemon.ctr(&["images", "import", &cut.display().to_string()])?.failed()?;
    says(daemon.gantry(&["images", "import", &cut.display().to_string()]), &["gantry:"]);
    let noise = daemon.folder().join("noise.tar");
    std::fs::write(&noise, vec![7; 4096])?;
    says(daemon.gantry(&["images", "import", &noise.display().to_string()]), &["gantry:"]);
    ensure!(daemon.ctr(&["images", "ls", "-q"])?.ok()?.is_empty(), "no image was made");
    ensure!(daemon.ctr(&["snapshots", "ls"])?.ok()?.lines().count() == 1, "no snapshot is left");
    harness::eventually("no ingest is left", || {
        ensure!(daemon.ctr(&["content", "active"])?.ok()?.lines().count() <= 1, "not yet");
        Ok(())
    })
}

#[test]
fn content_that_is_not_what_was_said() -> anyhow::Result<()> {
    let daemon = Gantryd::start()?;
    let ingest = |arguments: &[&str]| {
        let file = daemon.folder().join("blob");
        std::fs::write(&file, b"hello")?;
        let mut command = std::process::Command::new(harness::programs::find("ctr")?);
        command
            .arg("--address")
            .arg(daemon.address())
            .args(["content", "ingest"])
            .args(arguments)
            .arg("a-ref")
            .stdin(std::fs::File::open(&file)?);
        harness::run::run_command(command)
    };
    let wrong = format!("sha256:{}", "1".repeat(64));
    says(ingest(&["--expected-digest", &wrong]), &["unexpected commit digest"]);
    // ctr notices by itself that its input is too short; what it wrote stays to be resumed.
    says(ingest(&["--expected-size", "6"]), &["unexpected EOF"]);
    let right = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    ingest(&["--expected-size", "5", "--expected-digest", right])?.ok()?;
    Ok(())
}

#[test]
fn a_full_disk_is_an_error_and_no_more() -> anyhow::Result<()> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    // A root of eight megabytes: the image does not fit.
    let folder = harness::folder("full")?;
    let small = folder.path().join("small");
    std::fs::create_dir(&small)?;
    mount(Some("tmpfs"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=8m"))?;
    let outcome = (|| {
        let blob = folder.path().join("big");
        std::fs::write(&blob, vec![1; 16 << 20])?;
        let root = small.join("root");
        let daemon = Gantryd::with_config("")?;
        // Its blobs go to the small filesystem.
        let content = daemon.root().join("content/ingest");
        ensure!(content.is_dir(), "blobs come in here: {}", content.display());
        std::fs::create_dir(&root)?;
        mount(Some(&root), &content, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        let mut command = std::process::Command::new(harness::programs::find("ctr")?);
        command
            .arg("--address")
            .arg(daemon.address())
            .args(["content", "ingest", "full"])
            .stdin(std::fs::File::open(&blob)?);
        let failed = harness::run::run_command(command)?.failed()?;
        umount2(&content, MntFlags::MNT_DETACH)?;
        ensure!(failed.to_lowercase().contains("space"), "it says why: {failed}");
        daemon.ctr(&["version"])?.ok()?;
        Ok(())
    })();
    umount2(&small, MntFlags::MNT_DETACH)?;
    outcome
}
