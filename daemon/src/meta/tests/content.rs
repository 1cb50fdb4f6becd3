use proto::services::content::v1::{
    DeleteContentRequest, Info, InfoRequest, ListContentRequest, ReadContentRequest, UpdateRequest,
};

use super::*;

#[tokio::test]
async fn blobs_are_seen_per_namespace() {
    let rig = Rig::new();
    let mut heard = rig.listen();
    let digest = rig.put(DEFAULT, b"hello", &[("a", "1")]).await.unwrap();
    let mut content = rig.content();
    let info = |call: Call<'_>, digest: &str| call.request(InfoRequest { digest: digest.into() });
    let got = content.info(info(DEFAULT, digest.as_str())).await.unwrap().into_inner().info.unwrap();
    assert_eq!((got.size, got.labels), (5, labels(&[("a", "1")])));
    refused(content.info(info(OTHER, digest.as_str())).await, Code::NotFound, "not found");
    refused(content.info(info(DEFAULT, "x")).await, Code::InvalidArgument, "\"x\" failed validation");

    let delete = |call: Call<'_>| call.request(DeleteContentRequest { digest: digest.to_string() });
    refused(content.delete(delete(OTHER)).await, Code::NotFound, digest.as_str());
    content.delete(delete(DEFAULT)).await.unwrap();
    refused(content.delete(delete(DEFAULT)).await, Code::NotFound, digest.as_str());
    rig.collect().await;
    assert!(!rig.has_blob(&digest));
    assert_eq!(topics(&mut heard).await, ["/content/create", "/content/delete"]);
}

#[tokio::test]
async fn labels_are_changed_by_mask() {
    let rig = Rig::new();
    let digest = rig.put(DEFAULT, b"x", &[("a", "1"), ("b", "2")]).await.unwrap();
    let update = |pairs: &[(&str, &str)], paths: &[&str]| {
        let info = Info { digest: digest.to_string(), labels: labels(pairs), ..Default::default() };
        let update_mask = (!paths.is_empty()).then(|| mask(paths)).flatten();
        DEFAULT.request(UpdateRequest { info: Some(info), update_mask })
    };
    for (pairs, paths, expected) in [
        (&[("a", "9")][..], &["labels.a"][..], &[("a", "9"), ("b", "2")][..]),
        (&[("a", "")], &["labels.a"], &[("b", "2")]),
        (&[], &["labels.b"], &[]),
        (&[("c", "3"), ("d", "")], &["labels"], &[("c", "3")]),
        (&[("e", "5")], &[], &[("e", "5")]),
    ] {
        let got = rig.content().update(update(pairs, paths)).await.unwrap().into_inner().info.unwrap();
        assert_eq!(got.labels, labels(expected), "{paths:?}");
        assert_eq!(got.size, 1);
    }
    refused(rig.content().update(update(&[], &["size"])).await, Code::InvalidArgument, "cannot update \"size\" field");
    let long = "v".repeat(4096);
    refused(rig.content().update(update(&[("k", &long)], &[])).await, Code::InvalidArgument, "maximum size");
    let missing = Info { digest: Digest::sha256(b"no").to_string(), ..Default::default() };
    let missing = DEFAULT.request(UpdateRequest { info: Some(missing), update_mask: None });
    refused(rig.content().update(missing).await, Code::NotFound, "not found");
}

#[tokio::test]
async fn lists_come_in_batches_of_a_hundred() {
    let rig = Rig::new();
    for number in 0..205_u32 {
        rig.put(DEFAULT, &number.to_be_bytes(), &[("even", &(number % 2).to_string())]).await.unwrap();
    }
    for (filter, expected) in [("", vec![100, 100, 5]), ("labels.even==0", vec![]), ("size==5", vec![])] {
        let list = DEFAULT.request(ListContentRequest { filters: vec![filter.into()] });
        let batches: Vec<_> = rig.content().list(list).await.unwrap().into_inner().collect().await;
        let sizes: Vec<usize> = batches.into_iter().map(|batch| batch.unwrap().info.len()).collect();
        match filter {
            "labels.even==0" => assert_eq!(sizes.iter().sum::<usize>(), 103),
            _ => assert_eq!(sizes, expected, "{filter}"),
        }
    }
    let list = DEFAULT.request(ListContentRequest { filters: vec!["size=".into()] });
    refused(rig.content().list(list).await.map(drop), Code::InvalidArgument, "filters");
}

#[tokio::test]
async fn reads_are_cut_into_chunks() {
    let rig = Rig::new();
    let bytes: Vec<u8> = (0..2_500_000_u32).map(|at| (at % 251) as u8).collect();
    let digest = rig.put(DEFAULT, &bytes, &[]).await.unwrap();
    let size = bytes.len() as i64;
    for (offset, length, expected) in [
        (0, 0, &bytes[..]),
        (0, -1, &bytes[..]),
        (5, 10, &bytes[5..15]),
        (1_000_000, 1_400_000, &bytes[1_000_000..2_400_000]),
        (size - 3, 100, &bytes[bytes.len() - 3..]),
        (size, 0, &[]),
        (-4, 2, &bytes[..2]),
    ] {
        let read = DEFAULT.request(ReadContentRequest { digest: digest.to_string(), offset, size: length });
        let mut chunks = rig.content().read(read).await.unwrap().into_inner();
        let mut got = Vec::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.unwrap();
            assert_eq!(chunk.offset, got.len() as i64, "offsets are relative to the read");
            assert!(chunk.data.len() <= 1 << 20);
            got.extend(chunk.data);
        }
        assert!(got == expected, "{offset} {length}");
    }
    let read =
        |digest: &Digest, offset| DEFAULT.request(ReadContentRequest { digest: digest.to_string(), offset, size: 0 });
    refused(rig.content().read(read(&digest, size + 1)).await.map(drop), Code::OutOfRange, "read past object length");
    refused(rig.content().read(read(&Digest::sha256(b"no"), 0)).await.map(drop), Code::NotFound, "not found");
    let elsewhere = ReadContentRequest { digest: digest.to_string(), ..Default::default() };
    refused(rig.content().read(OTHER.request(elsewhere)).await.map(drop), Code::NotFound, "not found");
}
