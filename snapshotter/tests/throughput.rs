//! How fast a layer of many small files is unpacked. A measurement, not a check: run it with `--ignored` in release.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::time::Instant;

use support::{Tar, overlay, plain};

#[test]
#[ignore = "a measurement"]
fn many_small_files() {
    const FOLDERS: usize = 4000;
    const FILES: usize = 8;
    let data: Vec<u8> = (0..8192_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut tar = Tar::default();
    for folder in 0..FOLDERS {
        let name = format!("usr/lib/part{}/package{folder}", folder % 40);
        tar = tar.dir(&name);
        for file in 0..FILES {
            tar = tar.file(&format!("{name}/file{file}.js"), &data[..1000 + file * 900]);
        }
    }
    let bytes = tar.end();
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        std::io::Write::write_all(&mut encoder, &bytes).unwrap();
        encoder.finish().unwrap()
    };
    let home = std::env::var_os("GANTRY_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    for (name, archive) in [("tar", &bytes), ("tar.gz", &gzip)] {
        for overlayed in [false, true] {
            // Kept: on a filesystem without a journal, deleting slows down the creating that follows.
            let dir = tempfile::tempdir_in(&home).unwrap().keep();
            let target = if overlayed { overlay(&dir, &[]) } else { plain(&dir) };
            let start = Instant::now();
            let applied = support::unpack(archive, &target).unwrap();
            let took = start.elapsed().as_secs_f64();
            eprintln!(
                "{name} overlay={overlayed}: {} entries, {:.0} MB in {took:.2} s: {:.0} entries/s, {:.0} MB/s",
                applied.entries,
                applied.size_bytes as f64 / 1e6,
                applied.entries as f64 / took,
                applied.size_bytes as f64 / 1e6 / took,
            );
        }
    }
}

/// Layers given as files, two at a time, as folders and as images, with everything on disk at the end.
#[test]
#[ignore = "a measurement"]
fn given_layers() {
    use snapshotter::layer::StandsOn;
    let Some(layers) = std::env::var_os("GANTRY_BENCH_LAYERS") else { return };
    let mut files: Vec<_> = std::fs::read_dir(layers).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "gz"));
    files.sort();
    let home = std::env::var_os("GANTRY_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    for (as_image, threads) in [(true, 1), (true, 2), (false, 1), (false, 2)] {
        let dir = tempfile::tempdir_in(&home).unwrap().keep();
        let start = Instant::now();
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let Some(file) = files.get(at) else { return };
                        let reader = std::fs::File::open(file).unwrap();
                        if as_image {
                            let to = dir.join(format!("{at}.erofs"));
                            let image =
                                std::fs::File::options().read(true).write(true).create_new(true).open(&to).unwrap();
                            let (encoding, limits) = (snapshotter::layer::Encoding::Detected, Default::default());
                            snapshotter::layer::write_image(reader, encoding, &limits, image, &StandsOn::Unknown)
                                .unwrap();
                            std::fs::File::open(&to).unwrap().sync_all().unwrap();
                        } else {
                            let to = dir.join(at.to_string());
                            std::fs::create_dir(&to).unwrap();
                            let (encoding, limits) = (snapshotter::layer::Encoding::Detected, Default::default());
                            let durability = snapshotter::layer::Durability::Synced;
                            snapshotter::layer::apply(reader, encoding, &overlay(&to, &[]), &limits, durability)
                                .unwrap();
                        }
                    }
                });
            }
        });
        let took = start.elapsed().as_secs_f64();
        eprintln!("image={as_image} threads={threads}: {took:.2} s");
    }
}
