//! The stored bytes of version 1, and bytes that no peer should send.

use proptest::prelude::*;

use super::*;
use crate::frame::{BadFrame, FrameReader, HEADER, MOST_EVER};

const MAX_FRAME: usize = 1 << 20;

/// One of each message of version 1, by its name in the file.
fn version_1() -> Vec<(&'static str, Message<'static>)> {
    let hello = Hello {
        least_version: 1,
        greatest_version: 1,
        features: FEATURE_PROBE | FEATURE_ALONE,
        boot_nonce: 0x0123_4567_89ab_cdef,
        listen: vec!["192.0.2.1:7000".parse().unwrap(), "[2001:db8::1]:7001".parse().unwrap()],
        agent: "groundskeeper/0.1.0".into(),
    };
    vec![
        ("hello", Message::Hello(hello)),
        ("ping", Message::Ping { nonce: u64::MAX }),
        ("pong", Message::Pong { nonce: 300 }),
        ("goodbye", Message::Goodbye { code: code_of(Cause::Shutdown), text: "this node shuts down" }),
        ("broadcast", Message::Broadcast { topic: "blocks", payload: &[0, 1, 2, 255] }),
        ("request", Message::Request { id: 128, kind: "peers", payload: b"" }),
        ("response-ok", Message::Response { id: 128, status: ResponseStatus::Ok, payload: b"abc" }),
        ("response-failed", Message::Response { id: 1, status: ResponseStatus::Failed, payload: b"why" }),
        (
            "response-not-handled",
            Message::Response { id: 2, status: ResponseStatus::NotHandled, payload: b"" },
        ),
        ("response-busy", Message::Response { id: 3, status: ResponseStatus::Busy, payload: b"" }),
        ("one-way", Message::OneWay { kind: "hint", payload: &[3, 4] }),
    ]
}

fn told() -> Vec<ToldAddress> {
    vec![
        ("192.0.2.1:7000".parse().unwrap(), None),
        ("[2001:db8::1]:7001".parse().unwrap(), Some(PeerId::from_bytes([9; 32]))),
    ]
}

/// A released version never changes: if this differs, older nodes do not understand this one.
#[test]
fn version_1_is_written_as_ever() {
    let mut lines: Vec<String> = version_1()
        .into_iter()
        .map(|(name, message)| {
            let frame = message.encode(MAX_FRAME).unwrap();
            format!("{name} {}", data_encoding::HEXLOWER.encode(&frame))
        })
        .collect();
    lines.push(format!("peer-list {}", data_encoding::HEXLOWER.encode(&encode_peers(&told()))));
    let golden: Vec<&str> =
        include_str!("golden-v1.txt").lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, golden);
}

#[test]
fn version_1_is_read_as_ever() {
    let golden = include_str!("golden-v1.txt").lines().filter(|line| !line.starts_with('#'));
    let mut expected = version_1().into_iter();
    for line in golden {
        let (name, hex) = line.split_once(' ').unwrap();
        let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        if name == "peer-list" {
            assert_eq!(decode_peers(&bytes).unwrap(), told());
            continue;
        }
        let mut input = &bytes[..];
        let frame = FrameReader::default().next(&mut input, MAX_FRAME).unwrap().unwrap();
        assert!(input.is_empty());
        assert_eq!((name, Message::decode(frame.kind, &frame.body).unwrap()), expected.next().unwrap());
    }
    assert!(expected.next().is_none());
}

#[test]
fn codes_of_causes_stay() {
    let codes: Vec<u8> = Cause::ALL.into_iter().map(code_of).collect();
    assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert!(Cause::ALL.into_iter().all(|cause| cause_of(code_of(cause)) == Some(cause)));
    assert_eq!(cause_of(10), None);
}

fn first(bytes: &[u8]) -> Result<(), BadFrame> {
    FrameReader::default().next(&mut &bytes[..], MAX_FRAME).map(drop)
}

#[test]
fn lengths_are_checked_before_anything_is_allocated() {
    assert_eq!(first(&[0, 0, 0, 0, 1]), Err(BadFrame::Empty(0)));
    assert_eq!(first(&[2, 0, 0, 0, 8]), Err(BadFrame::UnknownKind(8)));
    for kind in FrameKind::ALL {
        let cap = kind.cap(MAX_FRAME);
        assert!(cap <= MOST_EVER);
        for size in [cap as u32 + 1, u32::MAX] {
            let [a, b, c, d] = size.to_le_bytes();
            assert_eq!(first(&[a, b, c, d, kind as u8]), Err(BadFrame::Oversize { kind, size, cap }));
        }
        // The largest claim allocates a first piece only.
        let [a, b, c, d] = (cap as u32).to_le_bytes();
        let mut reader = FrameReader::default();
        assert_eq!(reader.next(&mut &[a, b, c, d, kind as u8, 0][..], MAX_FRAME), Ok(None));
        assert!(reader.held() <= 4096 && reader.is_midway());
    }
}

#[test]
fn lists_claim_nothing_and_hold_no_more_than_they_may() {
    // A length of 2^32 - 1, then nothing.
    assert!(decode_peers(&[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    let many = |count: usize| encode_peers(&vec![told()[0]; count]);
    assert_eq!(decode_peers(&many(MAX_PEERS_TOLD)).unwrap().len(), MAX_PEERS_TOLD);
    assert!(decode_peers(&many(MAX_PEERS_TOLD + 1)).is_err());
    let mut trailing = many(1);
    trailing.push(0);
    assert!(decode_peers(&trailing).is_err());
}

#[test]
fn bodies_that_break_the_rules_are_named() {
    let bad = |kind, body: &[u8]| Message::decode(kind, body).unwrap_err().to_string();
    assert_eq!(bad(FrameKind::Ping, &[]), "a ping that cannot be read");
    assert_eq!(bad(FrameKind::Ping, &[1, 2]), "a ping with 1 bytes too many");
    assert!(bad(FrameKind::Broadcast, &[0, 0]).contains("name that is empty"));
    assert!(bad(FrameKind::Broadcast, &[1, 0xff, 0]).contains("cannot be read"), "a topic is UTF-8");
    assert!(bad(FrameKind::Response, &[1, 9, 0]).contains("cannot be read"), "a status is one of four");
    let long = "x".repeat(MAX_NAME + 1);
    let frame = Message::Request { id: 1, kind: &long, payload: b"" }.encode(MAX_FRAME).unwrap();
    assert!(bad(FrameKind::Request, &frame[HEADER..]).contains("longer than 64"));
}

#[test]
fn a_strangers_words_stay_on_their_line() {
    assert_eq!(printable("a\nb\x1b[31mc"), "a b [31mc");
    assert_eq!(clipped("aäb", 2), "a");
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..600);
    prop_oneof![
        any::<u64>().prop_map(|nonce| Message::Ping { nonce }.encode(MAX_FRAME).unwrap().to_vec()),
        (any::<u8>(), "[a-z ]{0,60}").prop_map(|(code, text)| {
            Message::Goodbye { code, text: &text }.encode(MAX_FRAME).unwrap().to_vec()
        }),
        ("[a-z]{1,64}", bytes.clone()).prop_map(|(topic, payload)| {
            Message::Broadcast { topic: &topic, payload: &payload }.encode(MAX_FRAME).unwrap().to_vec()
        }),
        (any::<u64>(), "[a-z]{1,64}", bytes).prop_map(|(id, kind, payload)| {
            Message::Request { id, kind: &kind, payload: &payload }.encode(MAX_FRAME).unwrap().to_vec()
        }),
        Just(version_1().swap_remove(0).1.encode(MAX_FRAME).unwrap().to_vec()),
    ]
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzz_decode(&bytes);
        for kind in FrameKind::ALL {
            _ = Message::decode(kind, &bytes);
        }
    }

    #[test]
    fn damaged_messages_never_panic(
        messages in prop::collection::vec(message(), 1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = messages.concat();
        for (at, with) in damage {
            let at = at.index(bytes.len());
            bytes[at] = with;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        fuzz_decode(&bytes);
    }

    #[test]
    fn frames_come_out_the_same_however_they_are_cut(
        messages in prop::collection::vec(message(), 1..6),
        cuts in prop::collection::vec(1_usize..700, 1..40),
    ) {
        let bytes = messages.concat();
        let (mut reader, mut frames, mut rest) = (FrameReader::default(), Vec::new(), &bytes[..]);
        for cut in cuts.into_iter().cycle() {
            let mut piece = rest.split_off(..cut.min(rest.len())).unwrap();
            while let Some(frame) = reader.next(&mut piece, MAX_FRAME).unwrap() {
                frames.push(frame);
            }
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(!reader.is_midway() && reader.held() == 0);
        prop_assert_eq!(frames.len(), messages.len());
        for (frame, message) in frames.iter().zip(&messages) {
            prop_assert_eq!(frame.kind as u8, message[4]);
            prop_assert_eq!(&frame.body[..], &message[HEADER..]);
        }
    }
}
