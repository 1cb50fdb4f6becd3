//! Images made on the spot, as `docker save` would write them, from Debian's static busybox.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use model::Digest;
use serde_json::json;

use crate::programs;
use crate::run::run;

/// The name of the small image.
pub const BUSYBOX_NAME: &str = "docker.io/library/gantry-busybox:latest";

/// One thing in a layer.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A folder with its mode.
    Folder(String, u32),
    /// A file with its mode and contents.
    File(String, u32, Vec<u8>),
    /// A symbolic link and where it points.
    Symlink(String, String),
    /// A hard link and the file it is another name of.
    Hardlink(String, String),
}

/// Writes a layer archive.
///
/// # Errors
/// When a name does not fit.
pub fn layer(entries: &[Entry]) -> anyhow::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        match entry {
            Entry::Folder(path, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                builder.append_data(&mut header, format!("{path}/"), &[][..])?;
            }
            Entry::File(path, mode, bytes) => {
                header.set_mode(*mode);
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, path, bytes.as_slice())?;
            }
            Entry::Symlink(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                builder.append_link(&mut header, path, target)?;
            }
            Entry::Hardlink(path, target) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_mode(0o644);
                builder.append_link(&mut header, path, target)?;
            }
        }
    }
    Ok(builder.into_inner()?)
}

/// The entries of a root filesystem with busybox, a few users and the usual folders.
///
/// # Errors
/// When Debian's static busybox is not installed.
pub fn busybox_entries() -> anyhow::Result<Vec<Entry>> {
    let busybox = programs::find("busybox")?;
    let folder = |path: &str, mode| Entry::Folder(path.to_owned(), mode);
    let mut entries = vec![
        folder("bin", 0o755),
        folder("dev", 0o755),
        folder("etc", 0o755),
        folder("proc", 0o755),
        folder("root", 0o700),
        folder("sys", 0o755),
    ];
    entries.extend([folder("tmp", 0o1777), folder("usr", 0o755), folder("var", 0o755)]);
    let text = |path: &str, text: &str| Entry::File(path.to_owned(), 0o644, text.as_bytes().to_vec());
    entries.push(text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/:/bin/sh\n"));
    entries.push(text("etc/group", "root:x:0:\nwheel:x:10:root,web\nweb:x:34:\n"));
    entries.push(Entry::File("bin/busybox".to_owned(), 0o755, std::fs::read(&busybox)?));
    for applet in run(&busybox, &["--list"])?.ok()?.lines().filter(|applet| *applet != "busybox") {
        entries.push(Entry::Symlink(format!("bin/{applet}"), "busybox".to_owned()));
    }
    Ok(entries)
}

/// Writes the archive of an image of one layer, with busybox, into `folder` unless it is there. Returns its path.
///
/// # Errors
/// When Debian's static busybox is not installed, or the file cannot be written.
pub fn busybox(name: &str, folder: &Path) -> anyhow::Result<PathBuf> {
    let layer = layer(&busybox_entries()?)?;
    let process = json!({"Env": ["PATH=/bin"], "Cmd": ["sh"]});
    // Named by what is in it: another busybox or another recipe is another file.
    let recipe = Digest::sha256(format!("{name} {process} {}", Digest::sha256(&layer)).as_bytes());
    let path = folder.join(format!("busybox-{}.tar", &recipe.hex()[..12]));
    if !path.is_file() {
        archive(name, &path, &[layer], &process)?;
    }
    Ok(path)
}

/// Writes a docker archive of an image made of `layers`, the lowest first.
///
/// # Errors
/// When the file cannot be written.
pub fn archive(name: &str, path: &Path, layers: &[Vec<u8>], process: &serde_json::Value) -> anyhow::Result<()> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::sha256(layer).to_string()).collect();
    let history: Vec<_> =
        layers.iter().map(|_| json!({"created": "2026-01-01T00:00:00Z", "created_by": "gantry's tests"})).collect();
    let architecture = model::platform::Platform::host().architecture;
    let config = json!({
        "architecture": architecture, "os": "linux", "created": "2026-01-01T00:00:00Z", "config": process,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
    });
    let config = serde_json::to_vec(&config)?;
    let config_name = format!("{}.json", Digest::sha256(&config).hex());
    let layer_name = |diff_id: &String| format!("{}/layer.tar", diff_id.trim_start_matches("sha256:"));
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": diff_ids.iter().map(layer_name).collect::<Vec<_>>()}]);
    let manifest = serde_json::to_vec(&manifest)?;

    // Others may be making the same one at this moment: whoever renames last wins, with the same bytes.
    let temporary = path.with_extension(format!("part-{}", std::process::id()));
    let mut builder =
        tar::Builder::new(File::create(&temporary).with_context(|| format!("make {}", temporary.display()))?);
    let mut append = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, name, bytes)
    };
    for (diff_id, layer) in diff_ids.iter().zip(layers) {
        append(&layer_name(diff_id), layer)?;
    }
    append(&config_name, &config)?;
    append("manifest.json", &manifest)?;
    builder.into_inner()?.flush()?;
    std::fs::rename(&temporary, path)?;
    Ok(())
}
