//! A large image: pulled and unpacked, fetched, imported; with what that takes of memory and of the disk, and what the machine could
//! do at best.
//!
//! The image is made of this machine's own files below `/usr`: many small ones, in eight compressed layers. Each pull has a fresh
//! daemon, an empty root, and nothing waiting to be written.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use harness::{Containerd, Gantryd, Registry};

use crate::bench::{Bench, Section};
use crate::report::{Report, Spread, Unit};

pub(crate) const SECTION: Section =
    Section { name: "pull", about: "a large image: pull, fetch, import; memory, bytes", run };

/// The shape of the image.
const LAYERS: usize = 8;
const FILES: usize = 65_000;
const BYTES: u64 = 1_000_000_000;
/// Files larger than this would leave no room for many.
const LARGEST: u64 = 1_500_000;
/// How often each thing is done. Each takes seconds.
const ROUNDS: usize = 3;
const SECOND_MS: f64 = 1e3;

/// What one pull took.
#[derive(Default)]
struct Taken {
    times: Vec<Duration>,
    peak_kib: Vec<f64>,
    written_kib: Vec<f64>,
}

fn run(_bench: &mut Bench, report: &mut Report) -> anyhow::Result<()> {
    let folder = harness::folder("p")?;
    let (archive, unpacked) = image(folder.path()).context("make the large image")?;
    let registry = Registry::start()?;
    let reference = registry.push(&archive, "large:1")?;
    let blobs = blobs(&registry.host()).context("what the registry has")?;
    println!("[pull] {FILES} files, {} MB unpacked, {} MB in {LAYERS} layers", unpacked >> 20, sum(&blobs) >> 20);

    let settings =
        |format: &str| format!("[plugins.\"io.containerd.snapshotter.v1.overlayfs\"]\nlayer_format = \"{format}\"\n");
    let pull = ["pull", "--plain-http", &reference];
    let fetch = ["pull", "--plain-http", "--no-unpack", &reference];
    let ctr_pull = ["images", "pull", "--plain-http", &reference];
    let ctr_fetch = ["content", "fetch", "--plain-http", &reference];
    let archive = archive.display().to_string();
    let import = ["images", "import", &archive];
    let [mut images, mut folders, mut by_ctr, mut fetched, mut imported] = [(); 5].map(|()| Taken::default());
    let [mut peer, mut peer_fetched, mut peer_imported] = [(); 3].map(|()| Taken::default());
    for _ in 0..ROUNDS {
        ours(&settings("auto"), &mut images, |daemon| daemon.gantry(&pull)?.ok())?;
        theirs(&mut peer, |daemon| daemon.ctr(&ctr_pull)?.ok())?;
        ours(&settings("dir"), &mut folders, |daemon| daemon.gantry(&pull)?.ok())?;
        ours(&settings("auto"), &mut by_ctr, |daemon| daemon.ctr(&ctr_pull)?.ok())?;
        ours(&settings("auto"), &mut fetched, |daemon| daemon.gantry(&fetch)?.ok())?;
        theirs(&mut peer_fetched, |daemon| daemon.ctr(&ctr_fetch)?.ok())?;
        ours(&settings("auto"), &mut imported, |daemon| daemon.ctr(&import)?.ok())?;
        theirs(&mut peer_imported, |daemon| daemon.ctr(&import)?.ok())?;
    }
    let goal = |taken: &Taken, part: f64| {
        let mut times: Vec<f64> = taken.times.iter().map(|time| time.as_secs_f64() * SECOND_MS).collect();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).map(|median| median / part)
    };
    let fifth = goal(&peer, 5.0);
    let third = goal(&peer, 3.0);
    report.times("pull and unpack, layers as images", [images.times.clone(), peer.times.clone()], fifth);
    report.times("  layers as folders", [folders.times.clone(), peer.times.clone()], third);
    report.times("  the same client on both (ctr)", [by_ctr.times, peer.times.clone()], None);
    report.times("fetch only", [fetched.times, peer_fetched.times], None);
    report.times("import and unpack", [imported.times, peer_imported.times], None);
    let mut row = |what: &str, ours: &[f64], theirs: &[f64], goal: Option<f64>| {
        let [ours, theirs] = [ours, theirs].map(|values| Spread::of(values.iter().copied()));
        report.add(what, Unit::Kibibytes, ours, Some(theirs), goal);
    };
    row("peak memory of the daemon, as images", &images.peak_kib, &peer.peak_kib, Some(64.0 * 1024.0));
    row("  as folders", &folders.peak_kib, &peer.peak_kib, Some(64.0 * 1024.0));
    row("written to disk, as images", &images.written_kib, &peer.written_kib, None);
    row("  as folders", &folders.written_kib, &peer.written_kib, None);
    floors(folder.path(), &registry.host(), &blobs, unpacked, report)
}

/// Does something with a fresh daemon of ours.
fn ours(config: &str, taken: &mut Taken, work: impl FnOnce(&Gantryd) -> anyhow::Result<String>) -> anyhow::Result<()> {
    let daemon = Gantryd::with_config(config)?;
    timed(taken, daemon.pid()?, || work(&daemon))
}

/// Does something with a fresh daemon of the peer's.
fn theirs(taken: &mut Taken, work: impl FnOnce(&Containerd) -> anyhow::Result<String>) -> anyhow::Result<()> {
    let daemon = Containerd::start()?;
    let pid = daemon_of(daemon.folder())?;
    timed(taken, pid, || work(&daemon))
}

fn timed(taken: &mut Taken, pid: u32, work: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<()> {
    // Nobody is to pay for what others wrote before.
    nix::unistd::sync();
    let before = field(pid, "io", "write_bytes:")?;
    let start = Instant::now();
    work()?;
    taken.times.push(start.elapsed());
    taken.peak_kib.push(field(pid, "status", "VmHWM:")?);
    taken.written_kib.push((field(pid, "io", "write_bytes:")? - before) / 1024.0);
    Ok(())
}

/// A number of a process.
fn field(pid: u32, file: &str, name: &str) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
    Ok(line.split_ascii_whitespace().next().context("an empty field")?.parse()?)
}

/// The daemon that was told of this folder.
fn daemon_of(folder: &Path) -> anyhow::Result<u32> {
    let text = folder.display().to_string();
    let found = fs::read_dir("/proc")?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let program = line.split('\0').next()?;
        (program.ends_with("containerd") && line.contains(&text)).then_some(pid)
    });
    found.context("the peer is not running")
}

/// Makes the image; where its archive is, and what its layers have in them.
fn image(folder: &Path) -> anyhow::Result<(PathBuf, u64)> {
    let files = files()?;
    let per_layer = files.len().div_ceil(LAYERS);
    let mut layers = Vec::new();
    for (number, part) in files.chunks(per_layer).enumerate() {
        let mut builder = tar::Builder::new(Vec::new());
        builder.follow_symlinks(false);
        let mut folders = std::collections::BTreeSet::new();
        for path in part {
            let name = |path: &Path| Path::new(&format!("part{number}")).join(path.strip_prefix("/").unwrap_or(path));
            let above: Vec<&Path> = path.ancestors().skip(1).filter(|above| above.parent().is_some()).collect();
            for above in above.into_iter().rev() {
                if folders.insert(above.to_owned()) {
                    builder.append_dir(name(above), above)?;
                }
            }
            builder.append_path_with_name(path, name(path))?;
        }
        layers.push(builder.into_inner()?);
    }
    let bytes = layers.iter().map(|layer| layer.len() as u64).sum();
    let archive = folder.join("large.tar");
    harness::image::archive("localhost/large:1", &archive, &layers, &serde_json::json!({"Cmd": ["/bin/sh"]}))?;
    Ok((archive, bytes))
}

/// Files of this machine, the same ones each time, spread over all it has.
fn files() -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["/usr", "/opt", "/var/lib/dpkg", "/root/.cargo/registry/src"].map(PathBuf::from).into();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                folders.push(entry.path());
            } else if meta.is_file() && meta.len() <= LARGEST {
                all.push((entry.path(), meta.len()));
            }
        }
    }
    all.sort();
    ensure!(all.len() > FILES / 10, "there are only {} files on this machine to make an image of", all.len());
    let step = all.len().div_ceil(FILES).max(1);
    let (mut chosen, mut bytes) = (Vec::new(), 0);
    for first in 0..step {
        for (path, length) in all.iter().skip(first).step_by(step) {
            if chosen.len() == FILES || bytes >= BYTES {
                break;
            }
            bytes += length;
            chosen.push(path.clone());
        }
    }
    chosen.sort();
    Ok(chosen)
}

/// The layers that the registry has, by digest, with their sizes.
fn blobs(host: &str) -> anyhow::Result<Vec<(String, u64)>> {
    let manifest = get(host, "/v2/large/manifests/1", "application/vnd.docker.distribution.manifest.v2+json")?;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
    let layers = manifest["layers"].as_array().context("a manifest without layers")?;
    let one = |layer: &serde_json::Value| Some((layer["digest"].as_str()?.to_owned(), layer["size"].as_u64()?));
    layers.iter().map(one).collect::<Option<_>>().context("a strange layer")
}

fn sum(blobs: &[(String, u64)]) -> u64 {
    blobs.iter().map(|(_, size)| size).sum()
}

/// The simplest download there is.
fn get(host: &str, path: &str, accept: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(host)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no answer")?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..end]));
    Ok(answer.split_off(end + 4))
}

/// What the machine can do: get the bytes, decompress them on all processors, write as many as come out, one after the other.
fn floors(
    folder: &Path,
    host: &str,
    blobs: &[(String, u64)],
    unpacked: u64,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut add =
        |what: &str, time: Duration| report.add(what, Unit::Milliseconds, Spread::of_times([time]), None, None);
    let start = Instant::now();
    let bodies: Vec<Vec<u8>> = blobs
        .iter()
        .map(|(digest, _)| get(host, &format!("/v2/large/blobs/{digest}"), "*/*"))
        .collect::<anyhow::Result<_>>()?;
    let download = start.elapsed();
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut decoder = flate2::bufread::MultiGzDecoder::new(&body[..]);
                    std::io::copy(&mut decoder, &mut std::io::sink()).expect("it was compressed well");
                }
            });
        }
    });
    let inflate = start.elapsed();
    let piece = vec![0x5a; 1 << 20];
    let start = Instant::now();
    let mut file = File::create(folder.join("floor"))?;
    for _ in 0..unpacked >> 20 {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    let write = start.elapsed();
    add("floor: download alone", download);
    add("floor: decompression alone, on all processors", inflate);
    add("floor: one sequential write alone, synced", write);
    add("floor: one after the other", download + inflate + write);
    Ok(())
}
