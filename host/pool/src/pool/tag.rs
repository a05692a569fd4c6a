//! State, generation and small fields of one slot in a single atomic word. Knows no time, no peer and no lock.
//!
//! `host/models` includes this file by path and checks every interleaving of its operations.

use super::sync::{AtomicU64, Ordering};

/// Life cycle of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum State {
    /// Free; holds no connection.
    Vacant = 0,
    /// Taken, and counted by the limits. Phases do not see it yet.
    Handshaking = 1,
    /// Handshake done: in the index and the live count, and seen by phases.
    Live = 2,
    /// Not in the index nor the live count; its owner has not released it yet.
    Closing = 3,
}

const STATE: u64 = 0b111;
const INBOUND: u64 = 1 << 3;
const PROTECTED: u64 = 1 << 4;
const HEALTH_AT: u32 = 8;
const PINGS_AT: u32 = 16;
const CONN_AT: u32 = 32;

/// A snapshot of a slot: state, direction, protection, health, unanswered pings, and the connection's number.
/// A number is never used twice, so it is also the slot's generation. A vacant slot stores the next free slot in
/// its place.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct TagValue(u64);

impl TagValue {
    /// A free slot. `next_free` is the next one in the free list.
    pub fn vacant(next_free: u32) -> Self {
        Self(u64::from(next_free) << CONN_AT)
    }

    /// A slot just taken by the connection with number `conn`: unprotected, and without lost pings.
    pub fn handshaking(conn: u32, inbound: bool, health: u8) -> Self {
        let direction = if inbound { INBOUND } else { 0 };
        Self(
            u64::from(conn) << CONN_AT
                | u64::from(health) << HEALTH_AT
                | direction
                | State::Handshaking as u64,
        )
    }

    /// The slot's state when the word was loaded.
    pub fn state(self) -> State {
        match self.0 & STATE {
            1 => State::Handshaking,
            2 => State::Live,
            3 => State::Closing,
            _ => State::Vacant,
        }
    }

    /// Whether the connection is past its handshake and has not ended.
    #[inline]
    pub fn is_live(self) -> bool {
        self.0 & STATE == State::Live as u64
    }

    /// Number of the connection; in a vacant slot, the next free slot.
    #[inline]
    pub fn conn(self) -> u32 {
        (self.0 >> CONN_AT) as u32
    }

    /// Whether the peer dialled. If not, this node did.
    pub fn inbound(self) -> bool {
        self.0 & INBOUND != 0
    }

    /// Whether `Pool::protect` keeps phases from disconnecting the connection.
    pub fn protected(self) -> bool {
        self.0 & PROTECTED != 0
    }

    /// 0 to 100.
    #[inline]
    pub fn health(self) -> u8 {
        (self.0 >> HEALTH_AT) as u8
    }

    /// Unanswered pings in a row.
    pub fn pings_lost(self) -> u8 {
        (self.0 >> PINGS_AT) as u8
    }

    fn with_state(self, state: State) -> Self {
        Self(self.0 & !STATE | state as u64)
    }

    fn with_byte(self, at: u32, value: u8) -> Self {
        Self(self.0 & !(0xff << at) | u64::from(value) << at)
    }

    fn with_protected(self, protected: bool) -> Self {
        Self(if protected { self.0 | PROTECTED } else { self.0 & !PROTECTED })
    }

    fn health_after(self, by: i32, floor: u8) -> u8 {
        let health = i32::from(self.health());
        let lowest = health.min(i32::from(floor));
        health.saturating_add(by).clamp(lowest, 100) as u8
    }
}

impl std::fmt::Debug for TagValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Word")
            .field("state", &self.state())
            .field("conn", &self.conn())
            .field("health", &self.health())
            .field("pings_lost", &self.pings_lost())
            .finish()
    }
}

/// The atomic word of one slot.
pub struct Tag(AtomicU64);

impl Tag {
    pub fn new(word: TagValue) -> Self {
        Self(AtomicU64::new(word.0))
    }

    #[inline]
    pub fn load(&self) -> TagValue {
        // Acquire: a thread that sees `Live` also sees the columns written before `go_live`.
        TagValue(self.0.load(Ordering::Acquire))
    }

    /// Only for the caller with the exclusive right to change the slot's state: admission, or the freeing owner.
    pub fn set(&self, word: TagValue) {
        self.0.store(word.0, Ordering::Release);
    }

    /// Handshaking to live, by the owner. False if `conn` is no longer handshaking in this slot.
    pub fn go_live(&self, conn: u32) -> bool {
        self.change(|word| {
            (word.conn() == conn && word.state() == State::Handshaking).then(|| word.with_state(State::Live))
        })
        .is_some()
    }

    /// Live to closing. Of all calls for the same live `conn`, exactly one succeeds and gets the word from before.
    pub fn close(&self, conn: u32) -> Option<TagValue> {
        self.change_live(conn, |word| word.with_state(State::Closing))
    }

    /// Changes health by `by` within 0 to 100, and never lowers it below `floor`, only while `conn` is live. Returns
    /// health before and after.
    pub fn adjust_health(&self, conn: u32, by: i32, floor: u8) -> Option<(u8, u8)> {
        let before =
            self.change_live(conn, |word| word.with_byte(HEALTH_AT, word.health_after(by, floor)))?;
        Some((before.health(), before.health_after(by, floor)))
    }

    pub fn set_pings_lost(&self, conn: u32, lost: u8) {
        self.change(|word| {
            (word.conn() == conn && word.is_live() && word.pings_lost() != lost)
                .then(|| word.with_byte(PINGS_AT, lost))
        });
    }

    pub fn set_protected(&self, conn: u32, protected: bool) -> bool {
        self.change_live(conn, |word| word.with_protected(protected)).is_some()
    }

    /// [`change`](Self::change) while `conn` is live.
    fn change_live(&self, conn: u32, next: impl Fn(TagValue) -> TagValue) -> Option<TagValue> {
        self.change(|word| (word.conn() == conn && word.is_live()).then(|| next(word)))
    }

    /// Compare-and-swaps until the swap succeeds or `next` returns none. Returns the word before the swap.
    fn change(&self, next: impl Fn(TagValue) -> Option<TagValue>) -> Option<TagValue> {
        let mut seen = self.0.load(Ordering::Acquire);
        loop {
            let wanted = next(TagValue(seen))?;
            match self.0.compare_exchange_weak(seen, wanted.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(before) => return Some(TagValue(before)),
                Err(now) => seen = now,
            }
        }
    }
}
