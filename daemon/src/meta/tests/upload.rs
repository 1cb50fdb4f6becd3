use proto::services::content::v1::{AbortRequest, ListStatusesRequest, StatusRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::*;

fn message(action: WriteAction, offset: i64, data: &[u8]) -> WriteContentRequest {
    WriteContentRequest {
        action: action.into(),
        r#ref: "r".into(),
        offset,
        data: data.to_vec().into(),
        ..Default::default()
    }
}

fn stat() -> WriteContentRequest {
    message(WriteAction::Stat, 0, b"")
}

/// An upload whose messages are sent one by one.
struct Session {
    messages: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
}

impl Session {
    async fn open(rig: &Rig, call: Call<'_>) -> Self {
        let (messages, receiver) = mpsc::channel(8);
        let answers = rig.content().write(call.request(ReceiverStream::new(receiver))).await.unwrap().into_inner();
        Self { messages, answers }
    }

    async fn say(&mut self, message: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        self.messages.send(message).await.expect("the session is open");
        self.answers.next().await.expect("every message is answered")
    }
}

async fn status(rig: &Rig, reference: &str) -> Result<proto::services::content::v1::Status, Status> {
    let request = DEFAULT.request(StatusRequest { r#ref: reference.into() });
    rig.content().status(request).await.map(|answer| answer.into_inner().status.unwrap())
}

#[tokio::test]
async fn every_message_has_one_answer() {
    let rig = Rig::new();
    let digest = Digest::sha256(b"hello world");
    let (answers, end) = rig
        .write(
            DEFAULT,
            vec![
                WriteContentRequest { total: 11, ..stat() },
                message(WriteAction::Write, 0, b"hello"),
                message(WriteAction::Write, 5, b""),
                message(WriteAction::Write, 5, b" wor"),
                WriteContentRequest {
                    expected: digest.to_string(),
                    labels: labels(&[("l", "1")]),
                    ..message(WriteAction::Commit, 9, b"ld")
                },
            ],
        )
        .await;
    end.unwrap();
    let got: Vec<_> = answers.iter().map(|a| (a.action, a.offset, a.total, a.digest.clone())).collect();
    let so_far = |bytes: &[u8]| Digest::sha256(bytes).to_string();
    let expected = [
        (0, 0, 11, so_far(b"")),
        (1, 5, 11, so_far(b"hello")),
        (1, 5, 11, so_far(b"hello")),
        (1, 9, 11, so_far(b"hello wor")),
        (2, 11, 11, digest.to_string()),
    ];
    assert_eq!(got, expected);
    assert!(answers.iter().all(|answer| answer.started_at.is_some() && answer.updated_at.is_some()));
    assert_eq!(rig.meta.content(&DEFAULT.namespace(), digest).unwrap().record.labels, labels(&[("l", "1")]));
    refused(status(&rig, "r").await, Code::NotFound, "reference r: not found");
}

#[tokio::test]
async fn bad_messages_end_the_session_with_their_code() {
    let rig = Rig::new();
    let digest = Digest::sha256(b"expected");
    for (messages, code, text) in [
        (vec![WriteContentRequest { r#ref: String::new(), ..stat() }], Code::InvalidArgument, "must have a reference"),
        (vec![message(WriteAction::Write, 3, b"x")], Code::OutOfRange, "write @3 must occur at current offset 0"),
        (
            vec![message(WriteAction::Write, 0, b"abc"), message(WriteAction::Write, 2, b"x")],
            Code::OutOfRange,
            "write @2 must occur at current offset 3",
        ),
        (
            vec![WriteContentRequest { total: 9, ..message(WriteAction::Commit, 0, b"abc") }],
            Code::FailedPrecondition,
            "size validation: 3 != 9",
        ),
        (
            vec![WriteContentRequest { expected: digest.to_string(), ..message(WriteAction::Commit, 0, b"abc") }],
            Code::FailedPrecondition,
            "unexpected commit digest",
        ),
        // What was promised at the opening counts at the commit.
        (
            vec![
                WriteContentRequest { expected: digest.to_string(), ..stat() },
                message(WriteAction::Commit, 0, b"abc"),
            ],
            Code::FailedPrecondition,
            "unexpected commit digest",
        ),
        (vec![WriteContentRequest { expected: "x".into(), ..stat() }], Code::InvalidArgument, "failed validation"),
        (vec![WriteContentRequest { action: 7, ..stat() }], Code::InvalidArgument, "unknown write action 7"),
        (vec![WriteContentRequest { offset: -1, ..stat() }], Code::InvalidArgument, "negative"),
        (
            vec![WriteContentRequest {
                labels: labels(&[("k", &"v".repeat(4096))]),
                ..message(WriteAction::Commit, 0, b"a")
            }],
            Code::InvalidArgument,
            "maximum size",
        ),
    ] {
        let (answers, end) = rig.write(DEFAULT, messages.clone()).await;
        assert_eq!(answers.len(), messages.len() - 1, "{text}");
        refused(end, code, text);
        let _ = rig.content().abort(DEFAULT.request(AbortRequest { r#ref: "r".into() })).await;
    }
}

#[tokio::test]
async fn what_was_written_is_kept_and_resumed() {
    let rig = Rig::new();
    let (_, end) = rig
        .write(DEFAULT, vec![WriteContentRequest { total: 6, ..stat() }, message(WriteAction::Write, 0, b"abc")])
        .await;
    end.unwrap();
    let kept = status(&rig, "r").await.unwrap();
    assert_eq!((kept.r#ref.as_str(), kept.offset, kept.total), ("r", 3, 6));
    let list = |filter: &str| DEFAULT.request(ListStatusesRequest { filters: vec![filter.into()] });
    for (filter, count) in [("", 1), ("ref==r", 1), ("ref~=/^x/", 0)] {
        assert_eq!(rig.content().list_statuses(list(filter)).await.unwrap().into_inner().statuses.len(), count);
    }
    // A failed commit keeps it too.
    let wrong =
        WriteContentRequest { expected: Digest::sha256(b"no").to_string(), ..message(WriteAction::Commit, 3, b"") };
    refused(rig.write(DEFAULT, vec![wrong]).await.1, Code::FailedPrecondition, "unexpected commit digest");

    let (answers, end) = rig.write(DEFAULT, vec![stat(), message(WriteAction::Commit, 3, b"def")]).await;
    end.unwrap();
    assert_eq!((answers[0].offset, &answers[0].digest), (3, &Digest::sha256(b"abc").to_string()));
    assert_eq!(answers[0].started_at, kept.started_at);
    assert_eq!(answers[1].digest, Digest::sha256(b"abcdef").to_string());
    assert_eq!(rig.content().list_statuses(list("")).await.unwrap().into_inner().statuses, []);
}

#[tokio::test]
async fn offset_zero_begins_anew() {
    let rig = Rig::new();
    let (answers, end) = rig
        .write(DEFAULT, vec![message(WriteAction::Write, 0, b"wrong"), message(WriteAction::Commit, 0, b"right")])
        .await;
    end.unwrap();
    assert_eq!(answers[1].digest, Digest::sha256(b"right").to_string());
}

#[tokio::test]
async fn a_reference_is_open_to_one_session() {
    let rig = Rig::new();
    let mut first = Session::open(&rig, DEFAULT).await;
    first.say(message(WriteAction::Write, 0, b"abc")).await.unwrap();
    refused(rig.write(DEFAULT, vec![stat()]).await.1, Code::Unavailable, "ref r locked");
    // In another namespace it is another reference.
    rig.write(OTHER, vec![stat()]).await.1.unwrap();
    drop(first);
    let resumed = async {
        loop {
            if let (answers, Ok(())) = rig.write(DEFAULT, vec![stat()]).await {
                break answers;
            }
            tokio::task::yield_now().await;
        }
    };
    let answers = tokio::time::timeout(Duration::from_secs(10), resumed).await.expect("the dropped session ends");
    assert_eq!(answers[0].offset, 3);
}

#[tokio::test]
async fn what_is_there_already_is_not_sent_again() {
    let rig = Rig::new();
    let digest = rig.put(DEFAULT, b"abc", &[]).await.unwrap();
    let expecting = |message| WriteContentRequest { expected: digest.to_string(), ..message };
    refused(rig.write(DEFAULT, vec![expecting(stat())]).await.1, Code::AlreadyExists, "already exists");
    // Said only later: the upload is gone then.
    let mut session = Session::open(&rig, DEFAULT).await;
    session.say(message(WriteAction::Write, 0, b"ab")).await.unwrap();
    refused(session.say(expecting(message(WriteAction::Write, 2, b"c"))).await, Code::AlreadyExists, digest.as_str());
    refused(status(&rig, "r").await, Code::NotFound, "reference r");
    // Found out only at the commit.
    let (_, end) = rig.write(DEFAULT, vec![message(WriteAction::Commit, 0, b"abc")]).await;
    refused(end, Code::AlreadyExists, digest.as_str());
    refused(status(&rig, "r").await, Code::NotFound, "reference r");
    assert!(rig.has_blob(&digest));
}

#[tokio::test]
async fn another_namespace_gets_a_blob_without_sending_it() {
    let rig = Rig::new();
    let digest = rig.put(DEFAULT, b"shared bytes", &[("mine", "1")]).await.unwrap();
    let expecting = |message| WriteContentRequest { expected: digest.to_string(), ..message };
    let (answers, end) =
        rig.write(OTHER, vec![expecting(stat()), expecting(message(WriteAction::Commit, 12, b""))]).await;
    end.unwrap();
    assert_eq!((answers[0].offset, answers[0].digest.as_str()), (12, digest.as_str()));
    let theirs = rig.meta.content(&OTHER.namespace(), digest.clone()).unwrap();
    assert_eq!((theirs.record.size, theirs.record.labels), (12, Labels::new()));
    // A promise of another size is no promise of this blob.
    let third = Call { namespace: "third", lease: None };
    let (answers, end) = rig.write(third, vec![WriteContentRequest { total: 5, ..expecting(stat()) }]).await;
    end.unwrap();
    assert_eq!(answers[0].offset, 0);
    // Sent all the same, from the beginning or from the end.
    for (reference, messages) in [
        ("x", vec![message(WriteAction::Write, 0, b"shared "), message(WriteAction::Commit, 7, b"bytes")]),
        ("y", vec![message(WriteAction::Commit, 12, b"!")]),
    ] {
        let call = Call { namespace: reference, lease: None };
        let open = WriteContentRequest { r#ref: reference.into(), ..expecting(stat()) };
        let (answers, end) = rig.write(call, [vec![open], messages].concat()).await;
        match reference {
            "x" => {
                end.unwrap();
                assert_eq!(answers.last().unwrap().digest, digest.as_str());
            }
            _ => refused(end, Code::FailedPrecondition, "unexpected commit digest"),
        }
    }
}

#[tokio::test]
async fn isolated_content_has_to_be_sent_unless_its_namespace_shares() {
    let rig = Rig::isolated();
    let digest = rig.put(DEFAULT, b"secret", &[]).await.unwrap();
    let expecting = || WriteContentRequest { expected: digest.to_string(), ..stat() };
    assert_eq!(rig.write(OTHER, vec![expecting()]).await.0[0].offset, 0);
    rig.meta
        .inner
        .store
        .write(|tx| {
            let record = store::record::NamespaceRecord {
                labels: labels(&[("containerd.io/namespace.shareable", "true")]),
                created_at: std::time::SystemTime::now(),
            };
            tx.put(&store::tables::NAMESPACES, &store::key(&["default"])?, &record)
        })
        .unwrap();
    let third = Call { namespace: "third", lease: None };
    assert_eq!(rig.write(third, vec![expecting()]).await.0[0].offset, 6);
}

#[tokio::test]
async fn a_shared_upload_keeps_the_blob_it_counts_on() {
    let rig = Rig::new();
    let digest = rig.put(DEFAULT, b"shared bytes", &[]).await.unwrap();
    let expecting = |message| WriteContentRequest { expected: digest.to_string(), ..message };
    rig.write(OTHER, vec![expecting(stat())]).await.1.unwrap();
    let kept = rig.content().status(OTHER.request(StatusRequest { r#ref: "r".into() })).await.unwrap().into_inner();
    assert_eq!(
        kept.status.map(|status| (status.offset, status.total, status.expected)),
        Some((12, 12, digest.to_string()))
    );
    // The only namespace that has it loses it.
    rig.collect().await;
    assert!(rig.meta.content(&DEFAULT.namespace(), digest.clone()).is_err());
    assert!(rig.has_blob(&digest));
    rig.write(OTHER, vec![expecting(message(WriteAction::Commit, 12, b""))]).await.1.unwrap();
    assert!(rig.has_blob(&digest));
}

#[tokio::test]
async fn an_abort_ends_the_session_and_removes_what_was_written() {
    let rig = Rig::new();
    let abort = || DEFAULT.request(AbortRequest { r#ref: "r".into() });
    refused(rig.content().abort(abort()).await, Code::NotFound, "reference r: not found");
    rig.write(DEFAULT, vec![message(WriteAction::Write, 0, b"abc")]).await.1.unwrap();
    rig.content().abort(abort()).await.unwrap();
    refused(status(&rig, "r").await, Code::NotFound, "reference r");

    let mut session = Session::open(&rig, DEFAULT).await;
    session.say(message(WriteAction::Write, 0, b"abc")).await.unwrap();
    let (aborted, answer) = tokio::join!(async { rig.content().abort(abort()).await }, async {
        session.answers.next().await.expect("the session is told")
    });
    aborted.unwrap();
    refused(answer, Code::Cancelled, "ref r was aborted");
    assert_eq!(rig.write(DEFAULT, vec![stat()]).await.0[0].offset, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_of_the_same_blob_agree() {
    let rig = Rig::new();
    let bytes = vec![7_u8; 300_000];
    let digest = Digest::sha256(&bytes);
    let writers = (0..16).map(|writer| {
        let (rig, bytes) = (&rig, &bytes);
        async move {
            let commit = WriteContentRequest { r#ref: format!("w{writer}"), ..message(WriteAction::Commit, 0, bytes) };
            rig.write(DEFAULT, vec![commit]).await.1
        }
    });
    let ended = futures_util::future::join_all(writers).await;
    assert_eq!(ended.iter().filter(|end| end.is_ok()).count(), 1);
    for end in ended.into_iter().filter(Result::is_err) {
        refused(end, Code::AlreadyExists, digest.as_str());
    }
    assert!(rig.has_blob(&digest));
    assert_eq!(rig.meta.ingest_statuses(&DEFAULT.namespace(), &[]).unwrap(), []);
}

#[tokio::test]
async fn uploads_use_the_algorithm_that_was_promised() {
    let rig = Rig::new();
    let mut hasher = model::Hasher::new(model::Algorithm::Sha512);
    hasher.update(b"abc");
    let digest = hasher.finish();
    let commit = WriteContentRequest { expected: digest.to_string(), ..message(WriteAction::Commit, 0, b"abc") };
    let (answers, end) = rig.write(DEFAULT, vec![commit]).await;
    end.unwrap();
    assert_eq!(answers[0].digest, digest.to_string());
    assert!(rig.has_blob(&digest));
}
