//! The wire format: one struct or field list per message kind, in postcard, append-only. Knows bytes and their limits;
//! reads no socket and acts on no message.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::peer::PeerId;
use groundskeeper_pool::journal::Cause;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::frame::{Frame, FrameKind, FrameReader, HEADER};

/// Part of the ALPN, so TLS refuses nodes of another major version. Changes only if the hello itself does.
pub(crate) const PROTOCOL_MAJOR: u16 = 1;

/// The range of message versions that this node speaks, within the major version.
pub const LEAST_VERSION: u16 = 1;
pub const GREATEST_VERSION: u16 = 1;

/// Listen addresses in a hello: IPv4 and IPv6 on a few interfaces.
pub(crate) const MAX_LISTEN: usize = 8;

/// Addresses in one answer to "peers": enough to continue the search, too few for a liar to fill an address book at
/// once.
pub(crate) const MAX_PEERS_TOLD: usize = 32;

/// Maximum bytes of a topic, or of a kind of request or message.
pub(crate) const MAX_NAME: usize = 64;

/// Maximum bytes of the text in a goodbye.
pub(crate) const MAX_WORDS: usize = 200;

/// Maximum bytes of an agent, the name of a peer's software.
pub(crate) const MAX_AGENT: usize = 64;

/// The connection is a probe: it only asks whether the node is alive. It gets a hello, but no slot in the pool.
pub(crate) const FEATURE_PROBE: u64 = 1;

/// The dialer has no live connection to the node that it dials. If that node has one, it is a ghost.
pub(crate) const FEATURE_ALONE: u64 = 2;

/// The node takes one-way messages. Nodes without this bit end the connection when they get one.
pub(crate) const FEATURE_ONE_WAY: u64 = 4;

/// Time allowed for a goodbye to arrive.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);

/// The first message of both sides.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub least_version: u16,
    pub greatest_version: u16,
    /// A set of bits; unknown ones are ignored.
    pub features: u64,
    /// A random number from the node's start. A new one from the same key means that the node has restarted.
    pub boot_nonce: u64,
    /// Where the node listens. Unspecified addresses mean "where you see me".
    #[serde(deserialize_with = "at_most::<SocketAddr, MAX_LISTEN, _>")]
    pub listen: Vec<SocketAddr>,
    pub agent: String,
}

/// How a request was answered. Append-only; the order is the wire form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ResponseStatus {
    Ok,
    /// The payload says why, in UTF-8.
    Failed,
    /// The node does not handle this kind.
    NotHandled,
    /// Too many requests at once; try again later.
    Busy,
}

/// All messages of a connection. Payloads and names are borrowed from the frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    Hello(Hello),
    Ping { nonce: u64 },
    Pong { nonce: u64 },
    Goodbye { code: u8, text: &'a str },
    Broadcast { topic: &'a str, payload: &'a [u8] },
    Request { id: u64, kind: &'a str, payload: &'a [u8] },
    Response { id: u64, status: ResponseStatus, payload: &'a [u8] },
    OneWay { kind: &'a str, payload: &'a [u8] },
}

/// Why bytes are not a message. The text goes to the journal and to the peer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadMessage {
    #[error("a {0} that cannot be read")]
    Garbage(FrameKind),
    #[error("a {kind} with {extra} bytes too many")]
    Trailing { kind: FrameKind, extra: usize },
    #[error("a {0} with a name that is empty or longer than {MAX_NAME} bytes")]
    Name(FrameKind),
    #[error("a {0} with a text that is too long")]
    Text(FrameKind),
}

impl<'a> Message<'a> {
    /// The whole frame: length, kind, body. One allocation.
    ///
    /// # Errors
    /// [`TooLarge`] if the frame would break the cap of its kind.
    pub fn encode(&self, max_frame: usize) -> Result<Bytes, TooLarge> {
        match self {
            Message::Hello(hello) => frame(FrameKind::Hello, 150, hello, max_frame),
            Message::Ping { nonce } => frame(FrameKind::Ping, 0, nonce, max_frame),
            Message::Pong { nonce } => frame(FrameKind::Pong, 0, nonce, max_frame),
            Message::Goodbye { code, text } => {
                frame(FrameKind::Goodbye, text.len(), &(code, text), max_frame)
            }
            Message::Broadcast { topic, payload } => frame(
                FrameKind::Broadcast,
                topic.len() + payload.len(),
                &(topic, RawBytes(payload)),
                max_frame,
            ),
            Message::Request { id, kind, payload } => frame(
                FrameKind::Request,
                kind.len() + payload.len(),
                &(id, kind, RawBytes(payload)),
                max_frame,
            ),
            Message::OneWay { kind, payload } => {
                frame(FrameKind::OneWay, kind.len() + payload.len(), &(kind, RawBytes(payload)), max_frame)
            }
            Message::Response { id, status, payload } => {
                frame(FrameKind::Response, payload.len(), &(id, status, RawBytes(payload)), max_frame)
            }
        }
    }

    /// Like [`Message::encode`], for hello, ping, pong and goodbye, which this node builds within their caps.
    pub fn encode_bounded(&self) -> Bytes {
        self.encode(0).expect("hellos, pings and goodbyes are built within their caps")
    }

    /// The message of `kind` with the body `body`. Allocates only for a hello, at most its cap.
    ///
    /// # Errors
    /// [`BadMessage`]: the peer breaks the protocol.
    pub fn decode(kind: FrameKind, body: &'a [u8]) -> Result<Self, BadMessage> {
        let (message, rest) = match kind {
            FrameKind::Hello => read(body).map(|(hello, rest)| (Message::Hello(hello), rest)),
            FrameKind::Ping => read(body).map(|(nonce, rest)| (Message::Ping { nonce }, rest)),
            FrameKind::Pong => read(body).map(|(nonce, rest)| (Message::Pong { nonce }, rest)),
            FrameKind::Goodbye => {
                read(body).map(|((code, text), rest)| (Message::Goodbye { code, text }, rest))
            }
            FrameKind::Broadcast => {
                read(body).map(|((topic, payload), rest)| (Message::Broadcast { topic, payload }, rest))
            }
            FrameKind::Request => {
                read(body).map(|((id, kind, payload), rest)| (Message::Request { id, kind, payload }, rest))
            }
            FrameKind::OneWay => {
                read(body).map(|((kind, payload), rest)| (Message::OneWay { kind, payload }, rest))
            }
            FrameKind::Response => read(body)
                .map(|((id, status, payload), rest)| (Message::Response { id, status, payload }, rest)),
        }
        .map_err(|_| BadMessage::Garbage(kind))?;
        if !rest.is_empty() {
            return Err(BadMessage::Trailing { kind, extra: rest.len() });
        }
        match &message {
            Message::Broadcast { topic: name, .. }
            | Message::Request { kind: name, .. }
            | Message::OneWay { kind: name, .. }
                if name.is_empty() || name.len() > MAX_NAME =>
            {
                Err(BadMessage::Name(kind))
            }
            Message::Goodbye { text, .. } if text.len() > MAX_WORDS => Err(BadMessage::Text(kind)),
            Message::Hello(hello) if hello.agent.len() > MAX_AGENT => Err(BadMessage::Text(kind)),
            _ => Ok(message),
        }
    }
}

/// A frame that this node does not send because the peer would refuse it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a {kind} of {size} bytes is over the cap of {cap}")]
pub struct TooLarge {
    pub kind: FrameKind,
    pub size: usize,
    pub cap: usize,
}

/// Space for length, kind, two varints and the length of a payload: everything except text and payload.
const FIXED: usize = 40;

/// The frame of one message; `variable` bytes of its body are text or payload.
fn frame(
    kind: FrameKind,
    variable: usize,
    body: &impl Serialize,
    max_frame: usize,
) -> Result<Bytes, TooLarge> {
    let mut frame = Vec::with_capacity(FIXED + variable);
    frame.extend_from_slice(&[0, 0, 0, 0, kind as u8]);
    let mut frame = postcard::to_extend(body, frame).expect("serializing into memory cannot fail");
    let (size, cap) = (frame.len() - 4, kind.cap(max_frame));
    if size > cap {
        return Err(TooLarge { kind, size, cap });
    }
    let size = u32::try_from(size).expect("a cap fits in 32 bits");
    frame[..4].copy_from_slice(&size.to_le_bytes());
    Ok(Bytes::from(frame))
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<(T, &'a [u8]), postcard::Error> {
    postcard::take_from_bytes(body)
}

/// Bytes that are serialized at once; serde would write a slice byte by byte. The wire form is the same.
struct RawBytes<'a>(&'a [u8]);

impl Serialize for RawBytes<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

/// An address in a peer list, and the id of the peer that was last reached there.
pub(crate) type ToldAddress = (SocketAddr, Option<PeerId>);

/// The payload of an answer to "peers".
pub(crate) fn encode_peers(peers: &[ToldAddress]) -> Vec<u8> {
    postcard::to_allocvec(peers).expect("serializing into memory cannot fail")
}

/// Reads an answer to "peers".
///
/// # Errors
/// If it is garbage or holds more than [`MAX_PEERS_TOLD`]. None of it is used then.
pub(crate) fn decode_peers(payload: &[u8]) -> Result<Vec<ToldAddress>, postcard::Error> {
    #[derive(Deserialize)]
    struct Peers(#[serde(deserialize_with = "at_most::<ToldAddress, MAX_PEERS_TOLD, _>")] Vec<ToldAddress>);
    let (Peers(told), rest) = postcard::take_from_bytes(payload)?;
    if rest.is_empty() { Ok(told) } else { Err(postcard::Error::DeserializeBadEncoding) }
}

/// Reads a list of at most `MOST`. Does not allocate for the length that a peer claims, as serde would up to 1 MiB.
fn at_most<'de, T, const MOST: usize, D>(from: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct AtMost<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for AtMost<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut taken = Vec::new();
            while let Some(one) = list.next_element()? {
                if taken.len() == MOST {
                    return Err(serde::de::Error::invalid_length(MOST + 1, &self));
                }
                taken.push(one);
            }
            Ok(taken)
        }
    }

    from.deserialize_seq(AtMost::<T, MOST>(PhantomData))
}

/// The number of a cause in a goodbye. A number is never reused for another cause.
pub(crate) fn code_of(cause: Cause) -> u8 {
    match cause {
        Cause::Phase => 0,
        Cause::Banned => 1,
        Cause::RemoteGoodbye => 2,
        Cause::RemoteClosed => 3,
        Cause::ProtocolError => 4,
        Cause::WriteFailure => 5,
        Cause::Limits => 6,
        Cause::Replaced => 7,
        Cause::Shutdown => 8,
        Cause::OwnerDropped => 9,
    }
}

/// The cause with that number. None for numbers of a later version.
pub(crate) fn cause_of(code: u8) -> Option<Cause> {
    Cause::ALL.into_iter().find(|&cause| code_of(cause) == code)
}

/// Cuts a text at a character, so that at most `most` bytes remain.
pub(crate) fn clipped(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// Untrusted text, made safe for a terminal and for one line of a log.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The largest frame when fuzzing.
const FUZZED: usize = 4096;

/// Feeds arbitrary bytes to the decoder in two pieces and decodes every frame. The fuzz target runs this.
#[doc(hidden)]
pub fn fuzz_decode(bytes: &[u8]) {
    let mut reader = FrameReader::default();
    let cut = bytes.first().map_or(0, |&first| usize::from(first).min(bytes.len()));
    for piece in [&bytes[..cut], &bytes[cut..]] {
        let mut piece = piece;
        while !piece.is_empty() {
            match reader.next(&mut piece, FUZZED) {
                Ok(Some(frame)) => decode_and_encode(&frame),
                Ok(None) => assert!(piece.is_empty(), "a reader that needs more has consumed its input"),
                Err(_) => return,
            }
            assert!(reader.held() <= 2 * FUZZED, "a reader holds at most the largest frame");
        }
    }
    _ = decode_peers(bytes);
}

fn decode_and_encode(frame: &Frame) {
    if let Ok(message) = Message::decode(frame.kind, &frame.body) {
        let again = message.encode(FUZZED).expect("what came in under the cap goes out under it");
        let body = &again[HEADER..];
        assert_eq!(Message::decode(frame.kind, body).as_ref(), Ok(&message));
    }
}

#[cfg(test)]
mod tests;
