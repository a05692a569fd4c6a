//! The shared part of a connection: its queue, its counters and the orders to its session. The stream belongs to the
//! session's task.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::clock::Clock;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::{NotQueued, Outbox, OutboxLimits, Priority};
use groundskeeper_pool::pool::{ConnKey, Goodbye, Link, LinkTraffic};
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::peer_record::PeerRecord;
use super::pending::Pending;
use super::wire::{Hello, MAX_WORDS, clipped};

const PING: u8 = 1;
const CLOSE: u8 = 2;

/// One live connection, as seen by all tasks except its owner.
pub(crate) struct Conn {
    pub(crate) peer: PeerId,
    pub(crate) key: ConnKey,
    /// When it was made, in monotonic time.
    pub(crate) since: Duration,
    pub(crate) outbox: Outbox,
    pub(crate) pending: Pending,
    /// How the peer has answered, over all of its connections.
    pub(crate) record: Arc<PeerRecord>,
    /// Requests of ours that are open here.
    open_requests: AtomicU32,
    /// Health that wrong or missing answers have cost it, and that it can earn back.
    owed: AtomicU32,
    asks: AtomicU8,
    goodbye: Mutex<Option<Goodbye>>,
    task: OnceLock<AbortHandle>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    agent: Box<str>,
    boot_nonce: u64,
    features: u64,
}

/// Orders to a session since it last looked.
pub(crate) struct PendingOrders {
    pub(crate) ping: bool,
    pub(crate) close: Option<Goodbye>,
}

impl Conn {
    pub(crate) fn new(
        peer: PeerId,
        key: ConnKey,
        hello: &Hello,
        record: Arc<PeerRecord>,
        outbox: OutboxLimits,
        clock: &dyn Clock,
    ) -> Self {
        Self {
            peer,
            key,
            since: clock.mono(),
            outbox: Outbox::new(outbox),
            pending: Pending::default(),
            record,
            open_requests: AtomicU32::new(0),
            owed: AtomicU32::new(0),
            asks: AtomicU8::new(0),
            goodbye: Mutex::default(),
            task: OnceLock::new(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            agent: hello.agent.as_str().into(),
            boot_nonce: hello.boot_nonce,
            features: hello.features,
        }
    }

    /// Sets the task to abort if it does not end by itself. Call it once.
    pub(crate) fn owned_by(&self, task: AbortHandle) {
        let first = self.task.set(task).is_ok();
        debug_assert!(first, "a connection has one session");
    }

    /// Takes the orders. Call it after registering with the outbox, since an order nudges the outbox.
    pub(crate) fn take_asks(&self) -> PendingOrders {
        if self.asks.load(Ordering::Relaxed) == 0 {
            return PendingOrders { ping: false, close: None };
        }
        let asks = self.asks.swap(0, Ordering::AcqRel);
        let close = if asks & CLOSE != 0 { self.goodbye.lock().take() } else { None };
        PendingOrders { ping: asks & PING != 0, close }
    }

    fn ask(&self, what: u8) {
        if self.asks.fetch_or(what, Ordering::AcqRel) & what == 0 {
            self.outbox.nudge();
        }
    }

    pub(crate) fn control(&self, frame: Bytes) -> Result<(), NotQueued> {
        self.outbox.push(Priority::Control, frame)
    }

    /// Drops frames of low priority until at most `fair` bytes wait, and fails the requests among them. Returns the
    /// number of dropped frames by priority.
    pub(crate) fn shed(&self, fair: usize) -> [u32; Priority::COUNT] {
        let mut shed = [0; Priority::COUNT];
        for (priority, tag) in self.outbox.shed(fair) {
            shed[priority as usize] += 1;
            if let Some(id) = tag {
                self.pending.shed(id);
            }
        }
        shed
    }

    /// Whether the peer has all of these features.
    pub(crate) fn has(&self, features: u64) -> bool {
        self.features & features == features
    }

    /// Requests of ours that are open here.
    pub(crate) fn open_requests(&self) -> u32 {
        self.open_requests.load(Ordering::Relaxed)
    }

    pub(crate) fn request_opened(&self) {
        self.open_requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn request_closed(&self) {
        self.open_requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// Adds to the health that answers have cost the peer.
    pub(crate) fn owe(&self, health: u32) {
        self.owed.fetch_add(health, Ordering::Relaxed);
    }

    /// Takes up to `most` of the owed health and returns how much. None if nothing is owed.
    pub(crate) fn repay(&self, most: u32) -> Option<u32> {
        // One relaxed load for those that owe nothing, which are nearly all.
        if self.owed.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let owed = self
            .owed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |owed| Some(owed.saturating_sub(most)));
        Some(owed.unwrap_or_default().min(most))
    }

    pub(crate) fn count_in(&self, bytes: usize) {
        // The session is the only writer, so a read-modify-write is not needed and would cost more.
        self.bytes_in.store(self.bytes_in.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_out(&self, bytes: usize) {
        self.bytes_out.store(self.bytes_out.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }
}

fn kib(bytes: &AtomicU64) -> u32 {
    u32::try_from(bytes.load(Ordering::Relaxed) / 1024).unwrap_or(u32::MAX)
}

impl Link for Conn {
    fn ping(&self) {
        self.ask(PING);
    }

    fn close(&self, why: &Goodbye) {
        let text = clipped(&why.text, MAX_WORDS).to_owned();
        self.goodbye.lock().get_or_insert(Goodbye { cause: why.cause, text });
        self.ask(CLOSE);
    }

    fn abort(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    fn traffic(&self) -> LinkTraffic {
        LinkTraffic {
            kib_in: kib(&self.bytes_in),
            kib_out: kib(&self.bytes_out),
            kib_queued: self.outbox.kib_queued(),
        }
    }

    fn agent(&self) -> &str {
        &self.agent
    }

    fn boot_nonce(&self) -> u64 {
        self.boot_nonce
    }
}
