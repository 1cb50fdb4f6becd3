use proptest::prelude::*;

use super::*;
use crate::{service, task::v3};

fn frames(decoder: &mut Decoder) -> Vec<Result<Frame, TooLong>> {
    std::iter::from_fn(|| decoder.decode().transpose()).collect()
}

#[test]
fn a_request_has_the_bytes_that_others_expect() {
    let request = Request::new("s", "m", &v3::PidsRequest { id: "a".into() }).in_namespace("n");
    let mut out = Vec::new();
    encode(FrameKind::Request, 0x0102_0304, &request, &mut out).unwrap();

    let mut expected = vec![0, 0, 0, 44, 1, 2, 3, 4, 1, 0];
    expected.extend(b"\x0a\x01s\x12\x01m\x1a\x03\x0a\x01a\x2a\x1f\x0a\x1acontainerd-namespace-ttrpc\x12\x01n");
    assert_eq!(out, expected);
}

#[test]
fn a_call_comes_out_as_it_went_in() {
    let asked = v3::KillRequest { id: "web".into(), exec_id: String::new(), signal: 15, all: true };
    let request = Request::new(service::TASK_V2, "Kill", &asked).in_namespace("default").within(Duration::from_secs(3));
    let mut out = Vec::new();
    encode(FrameKind::Request, 1, &request, &mut out).unwrap();

    let mut decoder = Decoder::new();
    decoder.extend(&out);
    let frame = decoder.decode().unwrap().unwrap();
    assert_eq!((frame.kind, frame.stream_id, frame.flags), (FrameKind::Request, 1, 0));
    let heard = Request::decode(frame.payload).unwrap();
    assert_eq!(heard.namespace(), Some("default"));
    assert_eq!(heard.timeout(), Some(Duration::from_secs(3)));
    assert_eq!(heard.message::<v3::KillRequest>().unwrap(), asked);
    assert!(decoder.is_between_frames());
}

#[test]
fn a_failure_arrives_with_its_kind_and_words() {
    let failed = Response::failed(crate::status::new(Kind::NotFound, "container not created: not found"));
    let failure = failed.into_result::<v3::StateResponse>().unwrap_err();
    assert_eq!((failure.kind(), failure.wire_message().as_str()), (Kind::NotFound, "container not created: not found"));

    let odd = Response { status: Some(Status::default()), ..Response::ok(&v3::StartResponse { pid: 7 }) };
    assert_eq!(odd.into_result::<v3::StartResponse>().unwrap().pid, 7, "code 0 is success");
}

#[test]
fn the_longest_message_passes_and_one_byte_more_does_not() {
    let mut frame = Frame {
        stream_id: 5,
        kind: FrameKind::Data,
        flags: FLAG_REMOTE_CLOSED,
        payload: vec![7; MAX_PAYLOAD_BYTES].into(),
    };
    let mut out = Vec::new();
    encode_frame(&frame, &mut out).unwrap();
    let mut decoder = Decoder::new();
    decoder.extend(&out);
    assert_eq!(decoder.decode().unwrap().unwrap(), frame);

    frame.payload = vec![7; MAX_PAYLOAD_BYTES + 1].into();
    out.clear();
    assert_eq!(encode_frame(&frame, &mut out), Err(TooLong { stream_id: 5, length: MAX_PAYLOAD_BYTES + 1 }));
    assert!(out.is_empty());
}

#[test]
fn a_frame_that_is_too_long_is_skipped_without_being_kept() {
    let length = MAX_PAYLOAD_BYTES + 100_000;
    let mut input = vec![0; HEADER_BYTES];
    input[..4].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
    input[7] = 9;
    input[8] = 1;
    input.resize(HEADER_BYTES + length, 0xff);
    let next = Frame { stream_id: 11, kind: FrameKind::Request, flags: 0, payload: Bytes::from_static(b"next") };
    encode_frame(&next, &mut input).unwrap();

    let mut decoder = Decoder::new();
    let mut got = Vec::new();
    for piece in input.chunks(3000) {
        decoder.extend(piece);
        got.extend(frames(&mut decoder));
        assert!(decoder.buffer.capacity() <= 2 * KEPT_BUFFER_BYTES);
    }
    assert_eq!(got, [Err(TooLong { stream_id: 9, length }), Ok(next)]);
}

#[test]
fn an_idle_connection_gives_its_buffer_back() {
    let mut decoder = Decoder::new();
    let frame = Frame { stream_id: 1, kind: FrameKind::Data, flags: 0, payload: vec![0; 1 << 20].into() };
    let mut out = Vec::new();
    encode_frame(&frame, &mut out).unwrap();
    decoder.extend(&out);
    assert_eq!(frames(&mut decoder).len(), 1);
    assert_eq!(decoder.buffer.capacity(), 0);
}

fn any_frame() -> impl Strategy<Value = Frame> {
    (any::<u32>(), any::<u8>(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..200)).prop_map(
        |(stream_id, kind, flags, payload)| Frame {
            stream_id,
            kind: FrameKind::from_wire(kind),
            flags,
            payload: payload.into(),
        },
    )
}

proptest! {
    #[test]
    fn frames_survive_any_cutting(
        sent in proptest::collection::vec(any_frame(), 0..12),
        cuts in proptest::collection::vec(1_usize..40, 1..80),
    ) {
        let mut wire = Vec::new();
        for frame in &sent {
            encode_frame(frame, &mut wire).unwrap();
        }
        let mut decoder = Decoder::new();
        let mut got = Vec::new();
        let mut rest = wire.as_slice();
        for cut in cuts.iter().cycle() {
            let (piece, behind) = rest.split_at((*cut).min(rest.len()));
            decoder.extend(piece);
            got.extend(frames(&mut decoder));
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(decoder.is_between_frames());
        prop_assert_eq!(got, sent.into_iter().map(Ok).collect::<Vec<_>>());
    }

    #[test]
    fn no_input_makes_it_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..40)) {
        let mut decoder = Decoder::new();
        for piece in pieces {
            decoder.extend(&piece);
            for frame in frames(&mut decoder).into_iter().flatten() {
                let _ = Request::decode(frame.payload.clone());
                let _ = Response::decode(frame.payload);
            }
        }
    }
}
