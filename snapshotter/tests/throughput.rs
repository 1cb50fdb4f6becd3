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
