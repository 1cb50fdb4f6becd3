//! Images moved by our own command line: pushed, exported, imported from folders, named; and who we are at registries.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use harness::image::BUSYBOX_NAME;
use harness::{Gantryd, Registry};

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The digest that an image name stands for.
fn digest(daemon: &Gantryd, name: &str) -> anyhow::Result<String> {
    let listed: serde_json::Value = serde_json::from_str(&daemon.gantry(&["images", "ls", "--json"])?.ok()?)?;
    let image = listed.as_array().context("a list")?.iter().find(|image| image["name"] == name);
    Ok(image.with_context(|| format!("{name} in {listed}"))?["digest"].as_str().context("a digest")?.to_owned())
}

#[test]
fn an_image_goes_round_by_registry_archive_and_folder() -> anyhow::Result<()> {
    let registry = Registry::start()?;
    let first = Gantryd::with_busybox()?;
    let name = format!("{}/team/busybox:v1", registry.host());
    ensure!(first.gantry(&["images", "tag", BUSYBOX_NAME, &name])?.ok()?.trim() == name, "the name is printed");
    ensure!(first.gantry(&["push", &name])?.ok()?.trim() == name, "the name is printed");
    let wanted = digest(&first, &name)?;

    let second = Gantryd::start()?;
    second.gantry(&["pull", &name])?.ok()?;
    ensure!(digest(&second, &name)? == wanted, "the registry gives what it got");
    let archive = second.folder().join("out.tar");
    second.gantry(&["images", "export", &text(&archive), &name])?.ok()?;
    ensure!(!second.folder().join("out.tar.part").exists(), "only the archive is left");

    let third = Gantryd::start()?;
    third.gantry(&["images", "import", &text(&archive)])?.ok()?;
    ensure!(digest(&third, &name)? == wanted, "the archive has what was exported");
    // An OCI layout in a folder, as tar unpacks it.
    let folder = third.folder().join("layout");
    std::fs::create_dir(&folder)?;
    let unpacked = std::process::Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&folder).status()?;
    ensure!(unpacked.success(), "tar reads it");
    let fourth = Gantryd::start()?;
    fourth.gantry(&["images", "import", &text(&folder)])?.ok()?;
    ensure!(digest(&fourth, &name)? == wanted, "the folder has it, too");
    ensure!(fourth.gantry(&["run", "--rm", &name, "echo", "hello"])?.ok()? == "hello\n", "it runs");
    let nothing = fourth.gantry(&["images", "export", &text(&fourth.folder().join("x.tar")), "no/such:image"])?;
    ensure!(nothing.code == 125 && !fourth.folder().join("x.tar").exists(), "{nothing}");
    Ok(())
}

#[test]
fn who_we_are_comes_from_dockers_configuration_or_its_helpers() -> anyhow::Result<()> {
    let registry = Registry::guarded("ann", "s3cret")?;
    let daemon = Gantryd::with_busybox()?;
    let name = format!("{}/busybox:1", registry.host());
    daemon.gantry(&["images", "tag", BUSYBOX_NAME, &name])?.ok()?;
    let config = daemon.folder().join("docker");
    std::fs::create_dir(&config)?;
    let run = |arguments: &[&str]| {
        let mut command = daemon.gantry_command(arguments);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("DOCKER_CONFIG", &config).env("PATH", format!("{}:{path}", config.display()));
        harness::run::run_command(command)
    };
    let refused = run(&["push", &name])?;
    ensure!(refused.code == 125 && refused.stderr.contains("are the credentials right"), "{refused}");

    // ann:s3cret
    let entry = format!(r#"{{"auths": {{"{}": {{"auth": "YW5uOnMzY3JldA=="}}}}}}"#, registry.host());
    std::fs::write(config.join("config.json"), entry)?;
    run(&["push", &name])?.ok()?;

    let helper = config.join("docker-credential-test");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = get ] || exit 9\n[ \"$(cat)\" = \"{}\" ] || {{ echo credentials not found in native keychain; exit 1; }}\n\
         echo '{{\"ServerURL\":\"x\",\"Username\":\"ann\",\"Secret\":\"s3cret\"}}'\n",
        registry.host()
    );
    std::fs::write(&helper, script)?;
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755))?;
    std::fs::write(config.join("config.json"), r#"{"credsStore": "test"}"#)?;
    run(&["pull", &name])?.ok()?;
    std::fs::write(config.join("config.json"), r#"{"credsStore": "missing"}"#)?;
    let broken = run(&["pull", &name])?;
    ensure!(broken.code == 125 && broken.stderr.contains("docker-credential-missing"), "{broken}");

    // What is typed counts more, and nothing of it is shown.
    let shown = run(&["pull", "--user", "ann:s3cret", "--http-debug", &name])?;
    ensure!(shown.code == 0 && shown.stderr.contains("> GET http://"), "{shown}");
    ensure!(!shown.stderr.contains("s3cret") && !shown.stderr.contains("YW5uOnMzY3JldA"), "{shown}");
    ensure!(run(&["ops", "--json"])?.ok()?.trim() == "[]", "nothing is under way any more");
    Ok(())
}
