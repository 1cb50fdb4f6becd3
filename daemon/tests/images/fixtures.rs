//! Layers and images, made on the spot.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use model::Digest;
use serde_json::{Value, json};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Whether all programs are installed; says so if not.
pub fn have(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in programs {
        let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
        if !found {
            eprintln!("skipped: {program} is not installed");
            return false;
        }
    }
    true
}

/// Whether this runs as root; says so if not.
pub fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root to unpack layers");
    }
    root
}

/// A layer with these files; a name that ends in `/` is a folder.
pub fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(if name.ends_with('/') { 0o755 } else { 0o640 });
        header.set_entry_type(if name.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Compress {
    No,
    Gzip,
    Zstd,
}

impl Compress {
    pub fn bytes(self, plain: &[u8]) -> Vec<u8> {
        match self {
            Self::No => plain.to_vec(),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Self::Zstd => zstd::encode_all(plain, 1).unwrap(),
        }
    }

    fn media_type(self) -> String {
        let suffix = match self {
            Self::No => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        };
        format!("{LAYER}{suffix}")
    }
}

/// Blobs and documents by digest, and names for some of them.
#[derive(Debug, Clone, Default)]
pub struct Made {
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// Of documents.
    pub media_types: BTreeMap<String, String>,
}

/// One image.
#[derive(Debug, Clone)]
pub struct Image {
    pub manifest: String,
    pub config: String,
    pub layers: Vec<String>,
    pub chain: Vec<String>,
}

impl Made {
    pub fn add(&mut self, bytes: Vec<u8>) -> Value {
        let digest = Digest::sha256(&bytes).to_string();
        let descriptor = json!({"digest": digest, "size": bytes.len()});
        self.blobs.insert(digest, bytes);
        descriptor
    }

    pub fn document(&mut self, media_type: &str, document: &Value) -> String {
        let digest = self.add(serde_json::to_vec(document).unwrap())["digest"].as_str().unwrap().to_owned();
        self.media_types.insert(digest.clone(), media_type.to_owned());
        digest
    }

    pub fn descriptor(&self, digest: &str) -> Value {
        json!({"mediaType": self.media_types[digest], "digest": digest, "size": self.blobs[digest].len()})
    }

    /// An image of these layers, plain ones.
    pub fn image(&mut self, architecture: &str, layers: &[Vec<u8>], compress: Compress) -> Image {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::sha256(layer)).collect();
        self.image_of(architecture, layers, compress, &diff_ids)
    }

    /// The same, with diff ids that may be wrong.
    pub fn image_of(
        &mut self,
        architecture: &str,
        layers: &[Vec<u8>],
        compress: Compress,
        diff_ids: &[Digest],
    ) -> Image {
        let mut described = Vec::new();
        for layer in layers {
            let mut descriptor = self.add(compress.bytes(layer));
            descriptor["mediaType"] = compress.media_type().into();
            described.push(descriptor);
        }
        let config = json!({
            "os": "linux", "architecture": architecture, "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let mut config = self.add(serde_json::to_vec(&config).unwrap());
        config["mediaType"] = CONFIG.into();
        let text = |value: &Value| value["digest"].as_str().unwrap().to_owned();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": described});
        Image {
            manifest: self.document(MANIFEST, &manifest),
            config: text(&config),
            layers: described.iter().map(text).collect(),
            chain: daemon::images::document::chain_ids(diff_ids).iter().map(Digest::to_string).collect(),
        }
    }

    /// An index of these images.
    pub fn index(&mut self, images: &[(&str, &Image)]) -> String {
        let entry = |(architecture, image): &(&str, &Image)| {
            let mut descriptor = self.descriptor(&image.manifest);
            descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
            descriptor
        };
        let manifests: Vec<Value> = images.iter().map(entry).collect();
        self.document(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))
    }

    /// An OCI layout in a folder, where `root` is called `tag`.
    pub fn layout(&self, folder: &Path, root: &str, tag: &str) -> PathBuf {
        let blobs = folder.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for (digest, bytes) in &self.blobs {
            std::fs::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), bytes).unwrap();
        }
        std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        std::fs::write(folder.join("index.json"), self.top(root, tag)).unwrap();
        folder.to_owned()
    }

    fn top(&self, root: &str, tag: &str) -> Vec<u8> {
        let mut descriptor = self.descriptor(root);
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [descriptor]})).unwrap()
    }

    /// The entries of an OCI archive.
    pub fn entries(&self, root: &str, tag: &str) -> Vec<(String, Vec<u8>)> {
        let mut entries = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), self.top(root, tag)),
        ];
        let blob =
            |(digest, bytes): (&String, &Vec<u8>)| (format!("blobs/{}", digest.replace(':', "/")), bytes.clone());
        entries.extend(self.blobs.iter().map(blob));
        entries
    }
}

/// An archive of these files.
pub fn archive(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<(&str, &[u8])> = entries.iter().map(|(name, content)| (name.as_str(), &content[..])).collect();
    layer(&files)
}

/// Two layers: files, then one of them deleted and another added.
pub fn two_layers() -> [Vec<u8>; 2] {
    let busybox = std::fs::read("/bin/busybox").unwrap_or_else(|_| vec![7; 100_000]);
    [
        layer(&[("bin/", b""), ("bin/busybox", &busybox), ("etc/", b""), ("etc/old", b"old")]),
        layer(&[("etc/.wh.old", b""), ("etc/new", b"new")]),
    ]
}

/// Bytes that do not compress.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| byte()).collect()
}

#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    out.into_owned()
}

#[track_caller]
pub fn skopeo(arguments: &[&str]) -> String {
    run("skopeo", &[&["--insecure-policy"], arguments].concat())
}
