//! umoci reads what we write and we read what umoci wrote: digests are the same, and so is every file of the tree.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use proto::types::transfer::{ImageExportStream, ImageStore};

use crate::client::{content, export, folders, image_names, images, import, snapshots, store};
use crate::fixtures::{have, root, run};
use crate::server::Server;

/// What a file is, as far as it matters.
#[derive(Debug, PartialEq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    modified: i64,
    device: u64,
    /// The lowest name of the same file.
    same_as: Option<PathBuf>,
    content: Vec<u8>,
    extended: BTreeMap<String, Vec<u8>>,
}

/// Everything below a folder.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Seen> {
    let (mut found, mut first) = (BTreeMap::new(), BTreeMap::new());
    let mut queue = vec![folder.to_owned()];
    while let Some(at) = queue.pop() {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let metadata = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(folder).unwrap().to_owned();
            let same_as = (metadata.is_file() && metadata.nlink() > 1)
                .then(|| first.entry(metadata.ino()).or_insert_with(|| name.clone()).clone());
            let content = if metadata.is_file() {
                std::fs::read(&path).unwrap()
            } else if metadata.is_symlink() {
                std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                Vec::new()
            };
            let dump = std::process::Command::new("getfattr")
                .args(["-h", "-d", "-m", "^(user|security)\\.", "-e", "hex", "--absolute-names"])
                .arg(&path)
                .output()
                .unwrap();
            let extended = String::from_utf8(dump.stdout).unwrap();
            let extended = extended.lines().filter_map(|line| line.split_once('='));
            let extended = extended.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())).collect();
            if metadata.is_dir() {
                queue.push(path.clone());
            }
            let seen = Seen {
                mode: metadata.mode(),
                owner: (metadata.uid(), metadata.gid()),
                modified: metadata.mtime(),
                device: metadata.rdev(),
                same_as,
                content,
                extended,
            };
            found.insert(name, seen);
        }
    }
    found
}

/// Files of all kinds.
fn fill(folder: &Path) {
    let script = r#"
        set -e
        cd "$1"
        mkdir -p etc var/empty "odd name"
        echo one > etc/one; ln etc/one etc/two; ln -s ../etc/one var/link; ln -s /nowhere broken
        printf x > set; chown 12:34 set; chmod 4755 set; chmod 1777 var/empty
        mknod null c 1 3; mknod loop b 7 0; mkfifo pipe; chmod 600 pipe
        setfattr -n user.note -v value etc/one
        head -c 3000000 /dev/urandom > large
        touch -d @1000000000 etc/one large; touch -d @1100000000 etc
        printf 'ü' > "odd name/ü"
    "#;
    run("sh", &["-c", script, "sh", &folder.display().to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_and_digests_survive_the_way_there_and_back() {
    if !root() || !have(&["umoci", "getfattr", "setfattr", "tar"]) {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name).display().to_string();
    let (layout, bundle) = (at("layout"), at("bundle"));
    let image = format!("{layout}:t");
    run("umoci", &["init", "--layout", &layout]);
    run("umoci", &["new", "--image", &image]);
    run("umoci", &["unpack", "--image", &image, &bundle]);
    let rootfs = work.path().join("bundle/rootfs");
    fill(&rootfs);
    run("umoci", &["repack", "--refresh-bundle", "--image", &image, &bundle]);
    std::fs::remove_file(rootfs.join("set")).unwrap();
    std::fs::remove_dir_all(rootfs.join("odd name")).unwrap();
    std::fs::write(rootfs.join("etc/three"), "3").unwrap();
    run("umoci", &["repack", "--refresh-bundle", "--image", &image, &bundle]);
    // What umoci itself makes of it now.
    let own = at("own");
    run("umoci", &["unpack", "--image", &image, &own]);
    let wanted = tree(&work.path().join("own/rootfs"));
    assert!(wanted.contains_key(Path::new("null")) && !wanted.contains_key(Path::new("set")));

    let server = Server::start().await;
    let archive = at("archive.tar");
    run("tar", &["-C", &layout, "-cf", &archive, "."]);
    import(&server, std::fs::read(&archive).unwrap(), &store("")).await.unwrap();
    let name = &image_names(&server).await[0];
    assert_eq!(snapshots(&server).await.len(), 2);

    // The tree as a container would see it.
    let config_chain = snapshots(&server).await.into_iter().find(|one| !one.parent.is_empty()).unwrap().name;
    let mut layers: Vec<String> =
        folders(&server, &config_chain).await.iter().map(|path| path.display().to_string()).collect();
    layers.push(at("nothing"));
    std::fs::create_dir(work.path().join("nothing")).unwrap();
    let merged = work.path().join("merged");
    std::fs::create_dir(&merged).unwrap();
    let options = format!("lowerdir={},ro", layers.join(":"));
    run("mount", &["-t", "overlay", "overlay", "-o", &options, &merged.display().to_string()]);
    let seen = tree(&merged);
    run("umount", &[&merged.display().to_string()]);
    assert_eq!(seen.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (path, file) in &wanted {
        assert_eq!(&seen[path], file, "{}", path.display());
    }

    // And umoci of what we export.
    let from = ImageStore { name: name.clone(), ..Default::default() };
    let bytes = export(&server, &from, ImageExportStream::default()).await.unwrap();
    let exported = work.path().join("exported");
    std::fs::create_dir(&exported).unwrap();
    let tar = at("exported.tar");
    std::fs::write(&tar, &bytes).unwrap();
    run("tar", &["-C", &exported.display().to_string(), "-xf", &tar]);
    let target = images(&server).await.into_iter().find(|image| image.name == *name).unwrap().target.unwrap();
    assert!(content(&server, &target.digest).await.is_some());
    let again = at("again");
    let reference = format!("{}:t", exported.display());
    run("umoci", &["unpack", "--image", &reference, &again]);
    assert_eq!(tree(&work.path().join("again/rootfs")), wanted);
    // Every blob of the layout is there as it was.
    for entry in std::fs::read_dir(exported.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(model::Digest::sha256(&bytes).hex(), name);
    }
}
