use super::*;
use media_type::*;

fn descriptor(digest: &str) -> String {
    format!(r#"{{"mediaType":"x","digest":"{}","size":3}}"#, Digest::sha256(digest.as_bytes()))
}

fn manifest(media_type: &str, extra: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{},"layers":[{}]{extra}}}"#,
        descriptor("c"),
        descriptor("l")
    )
}

fn index(media_type: &str, extra: &str) -> String {
    format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{}]{extra}}}"#, descriptor("m"))
}

fn parse(text: &str, sent_as: &str) -> Result<(Document, String), DocumentError> {
    Document::parse(text.as_bytes(), &Digest::sha256(text.as_bytes()), sent_as)
}

#[test]
fn a_document_is_what_everybody_says_it_is() {
    for (text, sent_as, says) in [
        (manifest(OCI_MANIFEST, ""), OCI_MANIFEST, OCI_MANIFEST),
        (manifest("", ""), DOCKER_MANIFEST, DOCKER_MANIFEST),
        (manifest("", ""), "application/json", OCI_MANIFEST),
        (manifest(DOCKER_MANIFEST, ""), "", DOCKER_MANIFEST),
        (index(OCI_INDEX, ""), OCI_INDEX, OCI_INDEX),
        (index("", ""), "text/plain", OCI_INDEX),
    ] {
        assert_eq!(parse(&text, sent_as).unwrap().1, says, "{text} as {sent_as}");
    }
}

#[test]
fn ambiguous_documents_are_refused() {
    let layers = format!(r#","layers":[{}]"#, descriptor("l"));
    let config = format!(r#","config":{}"#, descriptor("c"));
    let manifests = format!(r#","manifests":[{}]"#, descriptor("m"));
    for (text, sent_as) in [
        (manifest(OCI_MANIFEST, &manifests), OCI_MANIFEST),
        (manifest("", &manifests), OCI_MANIFEST),
        (manifest("", &manifests), ""),
        (index(OCI_INDEX, &layers), OCI_INDEX),
        (index(OCI_INDEX, &config), OCI_INDEX),
        (manifest(OCI_MANIFEST, r#","fsLayers":[]"#), OCI_MANIFEST),
    ] {
        assert!(matches!(parse(&text, sent_as), Err(DocumentError::Ambiguous { .. })), "{text} as {sent_as}");
    }
    for (text, sent_as) in [
        (manifest(OCI_MANIFEST, ""), OCI_INDEX),
        (manifest(OCI_MANIFEST, ""), DOCKER_MANIFEST),
        (index(OCI_INDEX, ""), OCI_MANIFEST),
        (index("text/plain", ""), OCI_INDEX),
    ] {
        assert!(matches!(parse(&text, sent_as), Err(DocumentError::Contradiction { .. })), "{text} as {sent_as}");
    }
}

#[test]
fn schema_1_is_refused_by_name() {
    let schema1 = r#"{"schemaVersion":1,"name":"a","fsLayers":[],"history":[]}"#;
    for sent_as in ["", "application/json", "application/vnd.docker.distribution.manifest.v1+prettyjws"] {
        let error = parse(schema1, sent_as).unwrap_err();
        assert!(error.to_string().contains("schema 1"), "{error}");
        assert_eq!(error.kind(), Kind::Unimplemented);
    }
}

#[test]
fn wrong_fields_are_errors() {
    for text in [
        "",
        "[]",
        "{}",
        r#"{"schemaVersion":2,"layers":[]}"#,
        r#"{"schemaVersion":2,"layers":[],"config":{"digest":"sha256:1","size":1}}"#,
        &manifest(OCI_MANIFEST, "").replace(r#""size":3"#, r#""size":-3"#),
        &index(OCI_INDEX, "").replace("sha256:", "sha256:../"),
        &format!(r#"{{"config":{},"layers":[{}]}}"#, descriptor("c"), vec![descriptor("l"); MAX_LAYERS + 1].join(",")),
        &format!(r#"{{"manifests":[{}]}}"#, vec![descriptor("m"); MAX_ENTRIES + 1].join(",")),
    ] {
        assert!(parse(text, "").is_err(), "{text:.100}");
    }
    let deep = "[".repeat(1 << 20);
    assert!(parse(&format!(r#"{{"history":{deep}"#), "").is_err());
}

#[test]
fn the_chain_is_as_specified() {
    let ids: Vec<Digest> = ["a", "b", "c"].map(|text| Digest::sha256(text.as_bytes())).to_vec();
    let chain = chain_ids(&ids);
    assert_eq!(chain[0], ids[0]);
    assert_eq!(chain[1], Digest::sha256(format!("{} {}", ids[0], ids[1]).as_bytes()));
    assert_eq!(chain[2], Digest::sha256(format!("{} {}", chain[1], ids[2]).as_bytes()));
    assert!(chain_ids(&[]).is_empty());
}

#[test]
fn the_best_platform_is_chosen() {
    let entry = |architecture: &str, variant: &str| Entry {
        descriptor: Descriptor {
            media_type: String::new(),
            digest: Digest::sha256(format!("{architecture}{variant}").as_bytes()),
            size: 1,
            annotations: BTreeMap::new(),
        },
        platform: Some(Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }),
    };
    let mut unnamed = entry("x", "y");
    unnamed.platform = None;
    let entries =
        [entry("riscv64", ""), entry("arm", "v6"), entry("amd64", ""), entry("arm", "v7"), entry("amd64", "v1")];
    let wanted = |architecture: &str, variant: &str| entry(architecture, variant).platform.unwrap();
    let digests = |chosen: Vec<&Entry>| chosen.into_iter().map(|e| e.descriptor.digest.clone()).collect::<Vec<_>>();
    assert_eq!(digests(select(&entries, &[wanted("arm", "v7")])), [entries[3].descriptor.digest.clone()]);
    assert_eq!(
        digests(select(&entries, &[wanted("amd64", ""), wanted("x86_64", "")])),
        [entries[2].descriptor.digest.clone()]
    );
    assert!(select(&entries, &[wanted("s390x", "")]).is_empty());
    assert_eq!(select(&entries, &[]).len(), entries.len());
    assert_eq!(select(&[unnamed, entry("arm", "v6")], &[wanted("amd64", "")]).len(), 1);
}

#[test]
fn a_config_needs_no_layers() {
    let digest = Digest::sha256(b"");
    assert_eq!(Config::parse(b"{}", &digest).unwrap().diff_ids, []);
    assert_eq!(
        Config::parse(br#"{"os":"linux","rootfs":{"type":"layers","diff_ids":null}}"#, &digest).unwrap().diff_ids,
        []
    );
    assert!(Config::parse(br#"{"rootfs":{"diff_ids":["sha256:x"]}}"#, &digest).is_err());
    assert!(Config::parse(b"", &digest).is_err());
}

#[test]
fn damaged_documents_end_somehow() {
    let good = [manifest(OCI_MANIFEST, r#","annotations":{"a":"b"}"#), index(DOCKER_INDEX, "")];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap()
    };
    let digest = Digest::sha256(b"");
    for round in 0..5000 {
        let mut bytes = good[round % 2].clone().into_bytes();
        for _ in 0..1 + next() % 4 {
            let at = next() % bytes.len();
            bytes[at] = b"{}[],:\"0-9x\\\xff"[next() % 13];
        }
        let _ = Document::parse(&bytes, &digest, OCI_MANIFEST);
        let _ = Config::parse(&bytes, &digest);
    }
}
