//! Import and export.

use std::collections::BTreeMap;
use std::path::Path;

use proto::types::transfer::{ImageExportStream, ImageImportStream, ImageReference, ImageStore};
use serde_json::{Value, json};
use tonic::Code;

use crate::client::{
    Left, Stream, content, export, folders, host, image_names, images, import, nothing_left, reported, snapshots, store,
};
use crate::fixtures::{Compress, Image, Made, archive, have, layer, root, skopeo, two_layers};
use crate::server::{Server, refused};

fn two() -> (Made, Image) {
    let mut made = Made::default();
    let image = made.image("amd64", &two_layers(), Compress::Gzip);
    (made, image)
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_skopeo_saved_is_imported_and_unpacked() {
    if !have(&["skopeo"]) || !root() {
        return;
    }
    let (made, image) = two();
    let folder = tempfile::tempdir().unwrap();
    let layout = made.layout(&folder.path().join("layout"), &image.manifest, "t").display().to_string();
    let (docker, oci) = (path(folder.path(), "docker.tar"), path(folder.path(), "oci.tar"));
    skopeo(&["copy", "-q", &format!("oci:{layout}:t"), &format!("docker-archive:{docker}:busybox:saved")]);
    skopeo(&["copy", "-q", &format!("oci:{layout}:t"), &format!("oci-archive:{oci}:r.example/a:v1")]);
    let (docker, oci) = (std::fs::read(docker).unwrap(), std::fs::read(oci).unwrap());

    for compress in [Compress::No, Compress::Gzip, Compress::Zstd] {
        let server = Server::start().await;
        import(&server, compress.bytes(&docker), &store("")).await.unwrap();
        import(&server, compress.bytes(&oci), &store("")).await.unwrap();
        let mut names = image_names(&server).await;
        names.sort();
        assert_eq!(names, ["docker.io/library/busybox:saved", "r.example/a:v1"]);
        let exact = images(&server).await.into_iter().find(|image| image.name == "r.example/a:v1").unwrap();
        assert_eq!(exact.target.unwrap().digest, image.manifest);
        // The same layers, compressed or not, are the same snapshots.
        let top = image.chain.last().unwrap();
        let folders = folders(&server, top).await;
        assert_eq!(std::fs::read(folders[0].join("etc/new")).unwrap(), b"new");
        assert_eq!(snapshots(&server).await.len(), 2);
        let labels = content(&server, &image.config).await.unwrap().labels;
        assert_eq!(labels["containerd.io/gc.ref.snapshot.overlayfs"], *top);
        let left = Left::of(&server).await;
        assert_eq!((left.ingests.len(), left.leases), (0, 0));
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_read_by_skopeo_and_imported_again() {
    if !have(&["skopeo"]) || !root() {
        return;
    }
    let (made, image) = two();
    let server = Server::start().await;
    let name = "r.example/a/b:v1";
    let named = ImageStore { name: String::new(), ..store("") };
    let mut entries = made.entries(&image.manifest, name);
    // The order does not matter.
    entries.reverse();
    import(&server, archive(&entries), &named).await.unwrap();
    let from = ImageStore { name: name.into(), ..Default::default() };
    let bytes = export(&server, &from, ImageExportStream::default()).await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let tar = path(folder.path(), "out.tar");
    std::fs::write(&tar, &bytes).unwrap();
    let raw = skopeo(&["inspect", "--raw", &format!("oci-archive:{tar}")]);
    assert_eq!(model::Digest::sha256(raw.as_bytes()).to_string(), image.manifest);
    let layout = path(folder.path(), "layout");
    skopeo(&["copy", "-q", &format!("oci-archive:{tar}"), &format!("oci:{layout}:t")]);
    // Old Docker's view of the same archive.
    let config = skopeo(&["inspect", "--config", "--raw", &format!("docker-archive:{tar}")]);
    assert_eq!(model::Digest::sha256(config.as_bytes()).to_string(), image.config);
    for (digest, content) in &made.blobs {
        let exported = entry(&bytes, &format!("blobs/{}", digest.replace(':', "/")));
        assert_eq!(exported.as_deref(), Some(&content[..]), "{digest}");
    }
    let saved: Value = serde_json::from_slice(&entry(&bytes, "manifest.json").unwrap()).unwrap();
    assert_eq!(saved[0]["RepoTags"], json!([name]));

    let plain = ImageExportStream { skip_compatibility_manifest: true, ..Default::default() };
    let bytes = export(&server, &from, plain).await.unwrap();
    assert_eq!(entry(&bytes, "manifest.json"), None);
    let other = Server::start().await;
    import(&other, bytes, &store("")).await.unwrap();
    assert_eq!(images(&other).await[0].target.as_ref().unwrap().digest, image.manifest);
    assert_eq!(image_names(&other).await, [name]);
    let missing = ImageStore { name: "r.example/none:v1".into(), ..Default::default() };
    refused(export(&other, &missing, ImageExportStream::default()).await, Code::NotFound, "r.example/none:v1");
    refused(export(&other, &ImageStore::default(), ImageExportStream::default()).await, Code::InvalidArgument, "named");
}

/// The content of an entry of an archive.
fn entry(archive: &[u8], name: &str) -> Option<Vec<u8>> {
    use std::io::Read as _;
    let mut archive = tar::Archive::new(archive);
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let mut found = entries.find(|entry| entry.path().unwrap().to_str() == Some(name))?;
    let mut content = Vec::new();
    found.read_to_end(&mut content).unwrap();
    Some(content)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_given_as_the_client_says() {
    let (made, image) = two();
    let bytes = archive(&made.entries(&image.manifest, "v1"));
    let prefix = ImageReference { name: "r.example/p".into(), is_prefix: true, ..Default::default() };
    let digest = ImageReference { add_digest: true, ..prefix.clone() };
    let at = format!("r.example/p@{}", image.manifest);
    for (references, names) in [(vec![prefix], vec!["r.example/p:v1"]), (vec![digest], vec!["r.example/p:v1", &at])] {
        let server = Server::start().await;
        let to = ImageStore { extra_references: references, unpacks: vec![], ..store("") };
        import(&server, bytes.clone(), &to).await.unwrap();
        assert_eq!(image_names(&server).await, names);
    }
    // A name of its own names the index.
    let server = Server::start().await;
    import(&server, bytes, &ImageStore { unpacks: vec![], ..store("r.example/whole:1") }).await.unwrap();
    let target = images(&server).await.remove(0).target.unwrap();
    assert_eq!(target.media_type, crate::fixtures::INDEX);
    let labels = content(&server, &target.digest).await.unwrap().labels;
    assert_eq!(labels["containerd.io/gc.ref.content.m.0"], image.manifest);
    assert_eq!(snapshots(&server).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_other_platforms_may_be_missing() {
    let mut made = Made::default();
    let here = made.image("amd64", &[layer(&[("a", b"")])], Compress::No);
    let other = made.image("s390x", &[layer(&[("b", b"")])], Compress::No);
    let index = made.index(&[("amd64", &here), ("s390x", &other)]);
    for digest in other.layers.iter().chain([&other.config, &other.manifest]) {
        made.blobs.remove(digest);
    }
    let server = Server::start().await;
    let bytes = archive(&made.entries(&index, "r.example/a:v1"));
    import(&server, bytes.clone(), &ImageStore { unpacks: vec![], ..store("") }).await.unwrap();
    assert_eq!(images(&server).await[0].target.as_ref().unwrap().digest, index);
    // What is here goes out again.
    let from = ImageStore { name: "r.example/a:v1".into(), ..Default::default() };
    let to = ImageExportStream { platforms: vec![host()], ..Default::default() };
    assert!(!export(&server, &from, to).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_archives_are_refused_and_leave_nothing() {
    let (made, image) = two();
    let good = made.entries(&image.manifest, "r.example/a:v1");
    let bytes = archive(&good);
    let changed = |change: &dyn Fn(&mut BTreeMap<String, Vec<u8>>)| {
        let mut entries: BTreeMap<_, _> = good.iter().cloned().collect();
        change(&mut entries);
        archive(&entries.into_iter().collect::<Vec<_>>())
    };
    let blob = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
    let (layer_path, config_path) = (blob(&image.layers[0]), blob(&image.config));
    for (what, bytes, code, words) in [
        ("empty", Vec::new(), Code::InvalidArgument, "truncated"),
        ("cut in a blob", bytes[..bytes.len() / 2].to_vec(), Code::InvalidArgument, "truncated"),
        ("cut at the end", bytes[..bytes.len() - 1024].to_vec(), Code::InvalidArgument, "truncated"),
        ("text", b"hello".repeat(1000), Code::InvalidArgument, "no tar archive"),
        ("xz", b"\xfd7zXZ\0".repeat(100), Code::Unimplemented, "xz"),
        ("cut gzip", Compress::Gzip.bytes(&bytes)[..5000].to_vec(), Code::InvalidArgument, "archive"),
        ("no index", changed(&|entries| drop(entries.remove("index.json"))), Code::InvalidArgument, "no image"),
        ("no layer", changed(&|entries| drop(entries.remove(&layer_path))), Code::InvalidArgument, &image.layers[0]),
        ("no config", changed(&|entries| drop(entries.remove(&config_path))), Code::InvalidArgument, &image.config),
        (
            "wrong blob",
            changed(&|entries| entries.get_mut(&layer_path).unwrap()[100] ^= 1),
            Code::InvalidArgument,
            &layer_path,
        ),
        (
            "bad index",
            changed(&|entries| drop(entries.insert("index.json".into(), b"[".to_vec()))),
            Code::InvalidArgument,
            "cannot be read",
        ),
        (
            "large index",
            changed(&|entries| drop(entries.insert("index.json".into(), vec![b' '; (8 << 20) + 1]))),
            Code::ResourceExhausted,
            "index.json",
        ),
        (
            "other layout",
            changed(&|entries| drop(entries.insert("oci-layout".into(), br#"{"imageLayoutVersion":"2"}"#.to_vec()))),
            Code::Unimplemented,
            "version",
        ),
        (
            "both at once",
            changed(&|entries| {
                let mut index: Value = serde_json::from_slice(&entries["index.json"]).unwrap();
                index["layers"] = json!([]);
                entries.insert("index.json".into(), index.to_string().into_bytes());
            }),
            Code::InvalidArgument,
            "ambiguous",
        ),
    ] {
        let server = Server::start().await;
        let error = import(&server, bytes, &store("")).await;
        let status = error.as_ref().expect_err(what);
        assert_eq!(status.code(), code, "{what}: {status:?}");
        assert!(status.message().contains(words), "{what}: {status:?}");
        assert_eq!(Left::of(&server).await, Left::default(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_links_in_archives_lead_nowhere() {
    let (made, _) = two();
    let server = Server::start().await;
    let secret = server.path("secret");
    std::fs::write(&secret, "secret").unwrap();
    let config = made.blobs.values().find(|blob| blob.starts_with(b"{\"architecture\"")).unwrap();
    let saved = json!([{"Config": "config.json", "RepoTags": ["a:b"], "Layers": ["layer.tar"]}]).to_string();
    let mut builder = tar::Builder::new(archive(&[
        ("config.json".to_owned(), config.clone()),
        ("manifest.json".to_owned(), saved.into_bytes()),
    ]));
    // Without the end of the archive, so that the link is in it.
    let inner = builder.get_mut();
    inner.truncate(inner.len() - 1024);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "layer.tar", &secret).unwrap();
    let bytes = builder.into_inner().unwrap();
    refused(import(&server, bytes, &store("")).await, Code::InvalidArgument, "layer.tar");
    nothing_left(Left::of(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_reports_and_a_client_that_goes_stops_it() {
    let (made, image) = two();
    let server = Server::start().await;
    let bytes = archive(&made.entries(&image.manifest, "r.example/a:v1"));
    let stream = Stream::open(&server, "import").await.unwrap();
    let from = ImageImportStream { stream: "import".into(), ..Default::default() };
    let to = ImageStore { unpacks: vec![], ..store("") };
    let (feeding, (outcome, progress)) = tokio::join!(stream.feed(bytes.clone()), reported(&server, &from, &to));
    let () = feeding;
    outcome.unwrap();
    let events: Vec<&str> = progress.iter().map(|one| one.event.as_str()).collect();
    assert_eq!((events[0], *events.last().unwrap()), ("Importing", "Completed import"));

    let other = Server::start().await;
    let stream = Stream::open(&other, "import").await.unwrap();
    let cut = bytes[..bytes.len() / 2].to_vec();
    let gone = async {
        stream.feed(cut).await;
    };
    let (outcome, ()) = tokio::join!(crate::client::transfer(&other, &from, &to), gone);
    refused(outcome, Code::InvalidArgument, "truncated");
    nothing_left(Left::of(&other).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_another_name_for_the_same() {
    let (made, image) = two();
    let server = Server::start().await;
    let plain = ImageStore { unpacks: vec![], ..store("") };
    import(&server, archive(&made.entries(&image.manifest, "r.example/a:v1")), &plain).await.unwrap();
    let name = |name: &str| ImageStore { name: name.into(), ..Default::default() };
    for _ in 0..2 {
        // The second time it has the name already.
        crate::client::transfer(&server, &name("r.example/a:v1"), &name("r.example/b:v2")).await.unwrap();
    }
    let mut all = images(&server).await;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(all.iter().map(|image| image.name.as_str()).collect::<Vec<_>>(), ["r.example/a:v1", "r.example/b:v2"]);
    assert_eq!(all[0].target, all[1].target);
    let error = crate::client::transfer(&server, &name("r.example/none:v1"), &name("r.example/c:v1")).await;
    refused(error, Code::NotFound, "r.example/none:v1");
}
