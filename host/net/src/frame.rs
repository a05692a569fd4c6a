//! Framing: a length, a kind, a body. Checks every length before it allocates, and does not look into bodies.

use std::fmt;

use bytes::Bytes;
use groundskeeper_flow::UNCOUNTED;

/// Bytes before the body: a little-endian `u32` that counts what follows it, and the kind.
pub const HEADER: usize = 5;

/// The largest frame in any configuration: beyond this, a separate stream is the better tool.
pub const MOST_EVER: usize = 16 << 20;

/// What kind of message a frame holds. Append-only; the number is the wire form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FrameKind {
    Hello = 0,
    Ping = 1,
    Pong = 2,
    Goodbye = 3,
    Broadcast = 4,
    Request = 5,
    Response = 6,
    /// Only to peers with `FEATURE_ONE_WAY`.
    OneWay = 7,
}

impl FrameKind {
    pub const ALL: [FrameKind; 8] = [
        FrameKind::Hello,
        FrameKind::Ping,
        FrameKind::Pong,
        FrameKind::Goodbye,
        FrameKind::Broadcast,
        FrameKind::Request,
        FrameKind::Response,
        FrameKind::OneWay,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// Maximum size of a frame of this kind, in bytes after the length field. Application frames may have `max_frame`.
    pub fn cap(self, max_frame: usize) -> usize {
        match self {
            FrameKind::Hello => 512,
            // Kind and a varint of a `u64`.
            FrameKind::Ping | FrameKind::Pong => 1 + 10,
            FrameKind::Goodbye => 256,
            FrameKind::Broadcast | FrameKind::Request | FrameKind::Response | FrameKind::OneWay => {
                max_frame.min(MOST_EVER)
            }
        }
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            ["hello", "ping", "pong", "goodbye", "broadcast", "request", "response", "one-way message"];
        f.write_str(names[*self as usize])
    }
}

/// Why bytes are not a frame. The text goes to the journal and to the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadFrame {
    #[error("a frame of {0} bytes, which has no room for its kind")]
    Empty(u32),
    #[error("a frame of kind {0}, which this version does not know")]
    UnknownKind(u8),
    #[error("a {kind} of {size} bytes, over the cap of {cap}")]
    Oversize { kind: FrameKind, size: u32, cap: usize },
}

/// A whole frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub kind: FrameKind,
    pub body: Bytes,
}

/// Kind and length of the body.
pub(crate) fn read_header(header: [u8; HEADER], max_frame: usize) -> Result<(FrameKind, usize), BadFrame> {
    let [a, b, c, d, byte] = header;
    let size = u32::from_le_bytes([a, b, c, d]);
    if size == 0 {
        return Err(BadFrame::Empty(size));
    }
    let kind = FrameKind::from_byte(byte).ok_or(BadFrame::UnknownKind(byte))?;
    let cap = kind.cap(max_frame);
    if size as usize > cap {
        return Err(BadFrame::Oversize { kind, size, cap });
    }
    Ok((kind, size as usize - 1))
}

/// Assembles frames from the pieces that the socket gives. Between frames it holds no memory.
#[derive(Default)]
pub struct FrameReader {
    header: [u8; HEADER],
    /// Bytes of the header received so far.
    have: u8,
    body: Option<(FrameKind, usize, Vec<u8>)>,
}

/// The first allocation for a body: this, or up to [`UNCOUNTED`] twice the bytes that have arrived. The body grows as
/// its bytes arrive, so a claimed length alone costs no memory, and a body that has nearly arrived is allocated once.
const FIRST_PIECE: usize = 4096;

/// The capacity of `body` once `arriving` more bytes are in it. Doubles, but never past the frame.
fn grown(body: &Vec<u8>, arriving: usize, size: usize) -> usize {
    let needed = body.len() + arriving;
    if needed <= body.capacity() { body.capacity() } else { size.min(needed.max(2 * body.len())) }
}

impl FrameReader {
    /// Takes bytes from the front of `input` up to the end of the next frame. None if the frame needs more bytes.
    ///
    /// # Errors
    /// [`BadFrame`], after which the stream cannot be read any further.
    pub fn next(&mut self, input: &mut &[u8], max_frame: usize) -> Result<Option<Frame>, BadFrame> {
        let (kind, size, body) = match &mut self.body {
            Some(begun) => begun,
            None => {
                let have = usize::from(self.have);
                let taken = input.len().min(HEADER - have);
                self.header[have..have + taken].copy_from_slice(&input[..taken]);
                self.have += taken as u8;
                *input = &input[taken..];
                if usize::from(self.have) < HEADER {
                    return Ok(None);
                }
                let (kind, size) = read_header(self.header, max_frame)?;
                if let Some((whole, rest)) = input.split_at_checked(size) {
                    *input = rest;
                    self.have = 0;
                    return Ok(Some(Frame { kind, body: Bytes::copy_from_slice(whole) }));
                }
                let paid = (2 * input.len()).clamp(FIRST_PIECE, UNCOUNTED).max(input.len());
                self.body.insert((kind, size, Vec::with_capacity(size.min(paid))))
            }
        };
        let taken = input.len().min(*size - body.len());
        body.reserve_exact(grown(body, taken, *size) - body.len());
        body.extend_from_slice(&input[..taken]);
        *input = &input[taken..];
        if body.len() < *size {
            return Ok(None);
        }
        let frame = Frame { kind: *kind, body: Bytes::from(std::mem::take(body)) };
        *self = Self::default();
        Ok(Some(frame))
    }

    /// Whether a frame has begun and not ended.
    pub fn is_midway(&self) -> bool {
        self.have > 0 || self.body.is_some()
    }

    /// The kind of the unfinished frame.
    pub(crate) fn kind(&self) -> Option<FrameKind> {
        self.body.as_ref().map(|(kind, ..)| *kind)
    }

    /// Body of the unfinished frame: bytes that have arrived, and bytes that it will have.
    pub(crate) fn progress(&self) -> (usize, usize) {
        self.body.as_ref().map_or((0, 0), |(_, size, body)| (body.len(), *size))
    }

    /// At most what [`FrameReader::held`] is after `bytes` more have arrived for the unfinished frame.
    pub(crate) fn held_after(&self, bytes: usize) -> usize {
        self.body.as_ref().map_or(0, |(_, size, body)| grown(body, bytes.min(size - body.len()), *size))
    }

    /// Bytes allocated for an unfinished frame.
    pub fn held(&self) -> usize {
        self.body.as_ref().map_or(0, |(_, _, body)| body.capacity())
    }
}
