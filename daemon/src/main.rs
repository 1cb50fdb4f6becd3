//! gantryd: reads its arguments, starts the log, and hands over to the library.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use daemon::api::version;
use daemon::app::App;
use daemon::args::{Args, Command, DEFAULT_FILE, Which};
use daemon::config::{Config, Document, Format, Overrides};
use daemon::{doctor, limits, migrate, publish, signals};
use proto::gantry::v1::ExamineRequest;
use proto::gantry::v1::examine_response::What;
use tracing::warn;

/// How long work that nobody waits for may hold up the end of the process.
const LAST_WORK_TIME: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let args = Args::read(std::env::args_os());
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gantryd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    if args.version {
        println!("gantryd {} {} (containerd API {})", env!("CARGO_PKG_VERSION"), version::REVISION, version::VERSION);
        return Ok(());
    }
    match &args.command {
        Some(Command::Config { which: Which::Default }) => {
            print!("{}", Config::build(Document::default(), &Overrides::default())?.to_toml());
            Ok(())
        }
        Some(Command::Config { which: Which::Dump }) => {
            let config = configure(args)?;
            for warning in config.document.warnings() {
                eprintln!("gantryd: {}: key {}: {}", warning.file.display(), warning.key, warning.reason);
            }
            print!("{}", config.to_toml());
            Ok(())
        }
        Some(Command::Config { which: Which::Migrate }) => {
            let config = configure(args)?;
            for warning in config.document.warnings() {
                eprintln!("gantryd: {}: key {}: {}", warning.file.display(), warning.key, warning.reason);
            }
            print!("{}", config.document.migrated());
            Ok(())
        }
        Some(Command::Publish { namespace, topic }) => {
            let address = configure(args)?.grpc.socket.address;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(publish::run(&address, namespace.clone(), topic.clone()))?)
        }
        Some(Command::Doctor { verify, repair, json }) => examine(configure(args)?, *verify, *repair, *json),
        Some(Command::Migrate { from, dry_run, undo }) => take_over(configure(args)?, from, *dry_run, *undo),
        None => serve(configure(args)?),
    }
}

fn configure(args: &Args) -> anyhow::Result<Config> {
    let default = std::path::Path::new(DEFAULT_FILE);
    let document = match &args.config {
        Some(file) => Document::load(file)?,
        None if default.exists() => Document::load(default)?,
        None => Document::default(),
    };
    Ok(Config::build(document, &args.overrides())?)
}

fn serve(config: Config) -> anyhow::Result<()> {
    start_log(&config);
    for warning in config.document.warnings() {
        warn!(file = %warning.file.display(), key = warning.key, reason = warning.reason, "configuration key ignored");
    }
    limits::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let served = runtime.block_on(async {
        let app = App::open(config).await?;
        let stop = signals::listen(app.state())?;
        app.run(stop).await
    });
    runtime.shutdown_timeout(LAST_WORK_TIME);
    Ok(served?)
}

/// Examines the folders of a daemon that does not run.
fn examine(config: Config, verify: bool, repair: bool, json: bool) -> anyhow::Result<()> {
    start_log(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let _inside = runtime.enter();
    let stopped = daemon::app::open_stopped(config)?;
    let mut unwell = false;
    stopped.examine(&ExamineRequest { verify, repair }, &mut |what| {
        if let What::Summary(summary) = &what {
            unwell = summary.findings > summary.repaired;
        }
        if json {
            println!("{}", doctor::as_json(&what));
        } else if let Some(line) = doctor::as_text(&what) {
            println!("{line}");
        }
        doctor::Flow::Continue(())
    });
    drop(stopped);
    anyhow::ensure!(!unwell, "there are findings");
    Ok(())
}

/// Takes over the folders of a containerd, or takes that back.
fn take_over(config: Config, from: &std::path::Path, dry_run: bool, undo: bool) -> anyhow::Result<()> {
    start_log(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let _inside = runtime.enter();
    let (root, store) = daemon::app::open_store(&config)?;
    if undo {
        for line in migrate::undo(&root, &store)? {
            println!("{line}");
        }
        return Ok(());
    }
    let plan = migrate::migrate(from, &root, &store, dry_run)?;
    for line in &plan.left_out {
        println!("left out: {line}");
    }
    let verb = if dry_run { "to take over" } else { "taken over" };
    println!(
        "{verb}: {} namespaces, {} images, {} blobs ({} bytes), {} snapshots, {} containers, {} leases",
        plan.namespaces, plan.images, plan.blobs, plan.bytes, plan.snapshots, plan.containers, plan.leases
    );
    if !dry_run {
        println!("files: {} by shared blocks, {} by links, {} copied", plan.shared, plan.linked, plan.copied);
    }
    Ok(())
}

fn start_log(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::new(config.log_filter());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        Format::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        Format::Json => log.json().init(),
    }
}
