//! The headers of a recording and of its records: format version, kind, lengths and checksums.

/// The format version that this host writes, and the newest that it reads. Since 2 an ask can be granted in part.
pub(super) const VERSION: u16 = 2;

pub(super) const MAGIC: [u8; 4] = *b"GKrc";

/// Magic, version, two zero bytes, CRC-32 of these eight bytes.
pub(super) const FILE_HEAD: usize = 12;

/// Begins every record, so that a reader finds the next one after damage. Not ASCII, so text does not contain it.
pub(super) const MARKER: [u8; 4] = [0xf7, b'G', b'K', 0xb7];

/// Marker, kind, three zero bytes, number, session, tick, urgent, two lengths, CRC-32 of the payload, CRC-32 of all
/// bytes before it.
pub(super) const RECORD_HEAD: usize = 44;

/// What a record holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RecordKind {
    /// A beat in full, which depends on no other record.
    Whole = 0,
    /// A beat as the difference from the previous one.
    Difference = 1,
    /// Beats that were left out.
    Gap = 2,
}

/// The header of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RecordHeader {
    pub kind: RecordKind,
    /// Counts the records of the file from 0. A difference depends on the record before it.
    pub number: u32,
    pub session: u64,
    /// Of a gap: its first tick.
    pub tick: u32,
    /// Of a gap: its last tick.
    pub urgent: u32,
    pub payload: u32,
    /// Bytes of the payload before compression. Of a gap: the number of beats left out.
    pub raw: u32,
    pub payload_crc: u32,
}

pub(super) fn file_head() -> [u8; FILE_HEAD] {
    let mut head = [0; FILE_HEAD];
    head[..4].copy_from_slice(&MAGIC);
    head[4..6].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32fast::hash(&head[..8]);
    head[8..].copy_from_slice(&crc.to_le_bytes());
    head
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().copied().map_or(0, u32::from_le_bytes)
}

impl RecordHeader {
    pub fn to_bytes(self) -> [u8; RECORD_HEAD] {
        let mut bytes = [0; RECORD_HEAD];
        bytes[..4].copy_from_slice(&MARKER);
        bytes[4] = self.kind as u8;
        bytes[12..20].copy_from_slice(&self.session.to_le_bytes());
        let numbers = [
            (8, self.number),
            (20, self.tick),
            (24, self.urgent),
            (28, self.payload),
            (32, self.raw),
            (36, self.payload_crc),
        ];
        for (at, number) in numbers {
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[..40]);
        bytes[40..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// None if the bytes are not a valid header.
    pub fn from_bytes(bytes: &[u8; RECORD_HEAD]) -> Option<Self> {
        if bytes[..4] != MARKER || bytes[5..8] != [0; 3] || u32_at(bytes, 40) != crc32fast::hash(&bytes[..40])
        {
            return None;
        }
        let kind =
            *[RecordKind::Whole, RecordKind::Difference, RecordKind::Gap].get(usize::from(bytes[4]))?;
        let session = bytes[12..20].first_chunk().copied().map_or(0, u64::from_le_bytes);
        Some(Self {
            kind,
            number: u32_at(bytes, 8),
            session,
            tick: u32_at(bytes, 20),
            urgent: u32_at(bytes, 24),
            payload: u32_at(bytes, 28),
            raw: u32_at(bytes, 32),
            payload_crc: u32_at(bytes, 36),
        })
    }
}
