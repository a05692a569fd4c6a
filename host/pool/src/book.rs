//! The address book: known addresses, their history, and when each may be dialled again. Opens no socket and does not
//! choose what to dial.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use groundskeeper_base::bounds::{Bound, Span};
use groundskeeper_base::chance::SharedRng;
use groundskeeper_base::clock::Clock;
use groundskeeper_base::lock::{LockWaits, WatchedMutex};
use groundskeeper_base::peer::{NetGroup, PeerId, canonical, is_public};
use groundskeeper_base::units::as_span;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use crate::pool::Pool;

mod dialing;
mod hearing;
mod known;
pub use dialing::{ConnectedGuard, Dial, DialAttempt, DialFailure, DialOrder};
use hearing::{HeardAt, HearingTime};
#[doc(hidden)]
pub use known::LAST_GOOD;
use known::{KnownAddress, KnownAddresses, best_first, last_good, make_room};

/// Size and backoff of the address book: the config section `[book]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BookLimits {
    /// Addresses in total.
    #[cfg_attr(feature = "schema", schemars(with = "u32"))]
    pub capacity: usize,
    /// Addresses learned from the peers of one network group. At most capacity.
    #[cfg_attr(feature = "schema", schemars(with = "u32"))]
    pub per_source_group: usize,
    /// Upper bound of the random wait after a first failure; doubled after each further failure.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub backoff_first: Duration,
    /// Upper bound of every wait. At least backoff_first.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub backoff_most: Duration,
    /// A connection must live this long to clear the failures of its address.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub min_life: Duration,
    /// Whether to accept addresses outside the public internet from peers, and to share them. Set in `[net]`.
    #[serde(skip)]
    pub allow_private: bool,
    /// Seed of backoffs and samples, for simulations. None: unpredictable. Not in the config.
    #[serde(skip)]
    pub seed: Option<u64>,
}

impl BookLimits {
    /// The allowed range of each key.
    #[doc(hidden)]
    pub const BOUNDS: [(&str, Bound); 5] = [
        ("capacity", Bound::Count(16, 1_000_000)),
        ("per_source_group", Bound::Count(1, 1_000_000)),
        ("backoff_first", Bound::Time(Span::millis(100), Span::hours(1))),
        ("backoff_most", Bound::Time(Span::secs(1), Span::days(7))),
        ("min_life", Bound::Time(Span::ZERO, Span::days(1))),
    ];
}

impl Default for BookLimits {
    fn default() -> Self {
        Self {
            capacity: 4096,
            per_source_group: 256,
            backoff_first: Duration::from_secs(5),
            backoff_most: Duration::from_secs(3600),
            min_life: Duration::from_secs(60),
            allow_private: false,
            seed: None,
        }
    }
}

/// Who named an address to this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressSource {
    /// The operator. Such an address is never forgotten, not even if the book is full.
    Bootstrap,
    /// The peer itself, about itself, in its hello.
    Itself,
    /// A peer of this network group.
    Told(NetGroup),
}

/// Outcome of [`Book::learn`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LearnOutcome {
    /// Added; it may be dialled at once.
    New,
    /// It was in the book already; the time when it was last named is updated.
    Known,
    /// The address cannot be dialled, or is not accepted from this source.
    Refused(&'static str),
}

/// One address as it is stored on disk.
///
/// Ages are in hearing time: seconds in which a node was up and had a live connection. No clock that steps, and no
/// absence, makes an address older.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookEntry {
    /// Where the peer listens. [`Book`] stores an IPv4-mapped IPv6 address as IPv4.
    pub address: SocketAddr,
    /// The peer last known at the address. A hint: an address proves nothing.
    pub peer: Option<PeerId>,
    /// Age of the last time it was named, in seconds.
    pub heard_s: u32,
    /// Age of the last connection to it, in seconds. None: never.
    pub reached_s: Option<u32>,
    /// This node was connected there by its own dial. If not, only the peer itself has said that it listens there.
    pub has_answered: bool,
    /// Failures in a row. A connection that lives for `min_life`, or a successful probe, clears them.
    pub failures: u32,
    /// Network group of the peer that first named it, if a peer did.
    pub told_by: Option<u32>,
}

/// Addresses that were not named for some time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[doc(hidden)]
pub struct AgedAddresses {
    /// [`Book::forget_some`] may forget these.
    pub forgettable: usize,
    /// These stay: they are among the [`LAST_GOOD`].
    pub kept: usize,
}

/// The address book of one node.
pub struct Book {
    limits: BookLimits,
    clock: Arc<dyn Clock>,
    journal: Arc<Journal>,
    chance: SharedRng,
    known: WatchedMutex<KnownAddresses>,
    /// No other lock is taken while this one is held.
    hearing: Mutex<HearingTime>,
    /// Counts changes that are worth writing to disk.
    changes: AtomicU64,
    /// Upper bound of every backoff, in milliseconds.
    longest_wait: AtomicU64,
}

/// A snapshot of the addresses that are neither connected nor being dialled, by ascending address.
#[derive(Default)]
#[doc(hidden)]
pub struct BookRows {
    pub addresses: Vec<SocketAddr>,
    /// Seconds since it was last named.
    pub heard_s: Vec<u32>,
    /// Seconds since the last connection to it, `u32::MAX` for never.
    pub reached_s: Vec<u32>,
    /// Failures in a row.
    pub failures: Vec<u32>,
    /// Seconds until its backoff ends, rounded up; 0 = may be dialled.
    pub wait_s: Vec<u32>,
    pub groups: Vec<u32>,
}

impl Book {
    /// Creates an empty book. [`Book::restore`] adds the entries from disk.
    pub fn new(limits: BookLimits, clock: Arc<dyn Clock>, journal: Arc<Journal>) -> Arc<Self> {
        Arc::new(Self {
            chance: SharedRng::new(limits.seed),
            limits,
            clock,
            journal,
            known: WatchedMutex::default(),
            hearing: Mutex::default(),
            changes: AtomicU64::new(0),
            longest_wait: AtomicU64::new(u64::MAX),
        })
    }

    /// Grows when addresses are added or removed, and when connections to them begin or end. The copy on disk is then
    /// outdated.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Now, in hearing time.
    fn hearing_now(&self) -> HeardAt {
        self.hearing.lock().at(self.clock.mono())
    }

    /// The limits that were given to [`Book::new`].
    pub fn limits(&self) -> &BookLimits {
        &self.limits
    }

    /// Number of addresses.
    pub fn len(&self) -> usize {
        self.known.lock().len()
    }

    /// How long callers have waited for the book's lock.
    pub fn lock_waits(&self) -> LockWaits {
        self.known.waits()
    }

    /// Whether the book has no address at all, not even a connected one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an address, or notes that it was named again. O(log n); O(n) for a new one that a peer named, or if the
    /// book is full.
    pub fn learn(&self, address: SocketAddr, peer: Option<PeerId>, source: AddressSource) -> LearnOutcome {
        let address = canonical(address);
        if let Some(why) = self.undialable(address, source) {
            return LearnOutcome::Refused(why);
        }
        let now = self.hearing_now();
        let mut known = self.known.lock();
        if let Some(old) = known.get_mut(&address) {
            old.named(now);
            if source == AddressSource::Bootstrap {
                old.bootstrap = Some(peer);
            }
            if old.peer.is_none() || source == AddressSource::Itself {
                old.peer = peer.or(old.peer);
            }
            return LearnOutcome::Known;
        }
        let told_by = match source {
            AddressSource::Told(group) => Some(group.0),
            AddressSource::Bootstrap | AddressSource::Itself => None,
        };
        if told_by.is_some()
            && known.values().filter(|other| other.told_by == told_by).count() >= self.limits.per_source_group
        {
            return LearnOutcome::Refused(
                "the network group of its source has named its maximum of addresses",
            );
        }
        if known.len() >= self.limits.capacity && !make_room(&mut known, self.limits.capacity, source) {
            return LearnOutcome::Refused("the address book is full of better addresses");
        }
        let bootstrap = (source == AddressSource::Bootstrap).then_some(peer);
        let mut newcomer = KnownAddress::new(peer, now, told_by);
        newcomer.bootstrap = bootstrap;
        known.insert(address, newcomer);
        self.changed();
        LearnOutcome::New
    }

    fn undialable(&self, address: SocketAddr, source: AddressSource) -> Option<&'static str> {
        let ip = address.ip();
        if address.port() == 0 {
            Some("port 0 cannot be dialled")
        } else if ip.is_unspecified() || ip.is_multicast() {
            Some("not the address of one machine")
        } else if source != AddressSource::Bootstrap && !self.limits.allow_private && !is_public(ip) {
            Some("not on the public internet")
        } else {
            None
        }
    }

    /// Up to `limit` random addresses to share with a peer: reached before, or named by the peer itself with no failure
    /// since; public unless private ones are allowed.
    pub fn sample(&self, limit: usize) -> Vec<(SocketAddr, Option<PeerId>)> {
        let known = self.known.lock();
        let told = known.iter().filter(|(address, one)| {
            let named_by_itself = one.told_by.is_none() && one.bootstrap.is_none() && one.failures == 0;
            (one.was_reached() || named_by_itself) && (self.limits.allow_private || is_public(address.ip()))
        });
        let mut chosen: Vec<_> = told.map(|(address, one)| (*address, one.peer)).collect();
        drop(known);
        for at in 0..chosen.len().min(limit) {
            let other = at + self.chance.below(chosen.len() - at);
            chosen.swap(at, other);
        }
        chosen.truncate(limit);
        chosen
    }

    /// The entries to store on disk. Bootstrap nodes that were never reached are left out: the config has them.
    pub fn entries(&self) -> Vec<BookEntry> {
        let now = self.hearing_now();
        let known = self.known.lock();
        known
            .iter()
            .filter(|(_, one)| one.bootstrap.is_none() || one.was_reached())
            .map(|(address, one)| one.entry(*address, now))
            .collect()
    }

    /// Restores entries from disk, up to the book's capacity: those where a node was connected last come first. All of
    /// them may be dialled at once.
    pub fn restore(&self, entries: impl IntoIterator<Item = BookEntry>) {
        let mut entries: Vec<BookEntry> = entries.into_iter().collect();
        best_first(&mut entries);
        let now = self.hearing_now();
        let mut known = self.known.lock();
        for entry in entries {
            if known.len() >= self.limits.capacity {
                return;
            }
            known.entry(canonical(entry.address)).or_insert_with(|| KnownAddress::restored(&entry, now));
        }
    }

    /// Counts a failure and sets the wait. Full jitter (a uniform wait up to the exponential bound), so that many nodes
    /// that lost one peer do not return together.
    fn back_off(&self, one: &mut KnownAddress, now: Duration) {
        let bound = self.next_bound(one);
        let longest = Duration::from_millis(self.longest_wait.load(Ordering::Relaxed));
        one.wait_until = now + self.chance.up_to(bound).min(longest);
    }

    /// The same for an address whose peer answers, but prefers another process with this node's key. A node that has lost
    /// all its peers to that process waits too: otherwise each of the two takes them back at once. At least half the
    /// bound, because here two nodes must not return together.
    fn rest(&self, one: &mut KnownAddress, now: Duration) {
        let half = self.next_bound(one) / 2;
        one.rest_until = now + half + self.chance.up_to(half);
    }

    /// Counts a failure. Returns the upper bound of the wait after it.
    fn next_bound(&self, one: &mut KnownAddress) -> Duration {
        let doublings = one.failures.min(20);
        one.failures = one.failures.saturating_add(1);
        self.limits.backoff_first.saturating_mul(1 << doublings).min(self.limits.backoff_most)
    }
}

#[doc(hidden)]
impl Book {
    /// Counts time from now on towards the ages of addresses if `can_hear`: the node has a live connection. Call it at
    /// each beat, and at least every `at_most`; more than that is not counted.
    pub fn note_hearing(&self, can_hear: bool, at_most: Duration) {
        self.hearing.lock().look(self.clock.mono(), can_hear, at_most);
    }

    /// The rows that phases see. O(n log c) with n addresses and c connections; the pool's lock is taken once.
    pub fn freeze(&self, pool: &Pool) -> BookRows {
        let (now, mono) = (self.hearing_now(), self.clock.mono());
        let mut known = self.known.lock();
        refresh_connected(&mut known, pool, now);
        let mut rows = BookRows::default();
        for (address, one) in known.iter().filter(|(_, one)| !one.dialing && !one.has_connected_peer) {
            rows.addresses.push(*address);
            rows.heard_s.push(one.heard_s(now));
            rows.reached_s.push(one.reached_s(now).unwrap_or(u32::MAX));
            rows.failures.push(one.failures);
            let wait = one.wait_until.max(one.rest_until).saturating_sub(mono);
            rows.wait_s.push(wait.as_millis().div_ceil(1000).try_into().unwrap_or(u32::MAX));
            rows.groups.push(NetGroup::of(address.ip()).0);
        }
        rows
    }

    /// Number of dials in progress.
    pub fn dialing(&self) -> u32 {
        self.known.lock().values().filter(|one| one.dialing).count() as u32
    }

    /// The addresses that were not named for `not_heard_for`. O(n log c).
    pub fn aged(&self, pool: &Pool, not_heard_for: Duration) -> AgedAddresses {
        let (forgettable, kept) = self.old_ones(&mut self.known.lock(), pool, not_heard_for);
        AgedAddresses { forgettable: forgettable.len(), kept }
    }

    /// Age and address of each one that may be forgotten, and the number of those that are as old and are kept.
    fn old_ones(
        &self,
        known: &mut KnownAddresses,
        pool: &Pool,
        not_heard_for: Duration,
    ) -> (Vec<(u32, SocketAddr)>, usize) {
        let age_s = u32::try_from(not_heard_for.as_secs()).unwrap_or(u32::MAX);
        let now = self.hearing_now();
        refresh_connected(known, pool, now);
        let good = last_good(known, self.limits.capacity);
        let old = known.iter().filter(|(_, one)| one.is_older(age_s, now));
        let (kept, forgettable): (Vec<_>, Vec<_>) = old.partition(|(address, _)| good.contains(address));
        (forgettable.into_iter().map(|(address, one)| (one.heard_s(now), *address)).collect(), kept.len())
    }

    /// Forgets at most `most` addresses that were not named for `not_heard_for`, oldest first. Never forgets bootstrap
    /// nodes, addresses of connected peers or being dialled, and the [`LAST_GOOD`]. Returns how many. O(n log n).
    pub fn forget_some(&self, pool: &Pool, not_heard_for: Duration, most: usize) -> usize {
        let mut known = self.known.lock();
        let (mut gone, _) = self.old_ones(&mut known, pool, not_heard_for);
        gone.sort_unstable_by_key(|(age_s, address)| (Reverse(*age_s), *address));
        gone.truncate(most);
        gone.iter().for_each(|(_, address)| _ = known.remove(address));
        if !gone.is_empty() {
            self.changed();
        }
        gone.len()
    }

    /// Limits current and future backoffs to `most`; none lifts the limit for future ones. Used when the node is
    /// isolated, and after a suspend. Waits after [`ConnectedGuard::taken_over`] stay.
    pub fn cap_waits(&self, most: Option<Duration>) {
        let millis = most.map_or(u64::MAX, |most| most.as_millis() as u64);
        let mut known = self.known.lock();
        self.longest_wait.store(millis, Ordering::Relaxed);
        if let Some(most) = most {
            let latest = self.clock.mono() + most;
            known.values_mut().for_each(|one| one.wait_until = one.wait_until.min(latest));
        }
    }

    /// Whether fewer than `enough` addresses may be dialled now. O(n log c).
    pub fn is_short_of_addresses(&self, pool: &Pool, enough: usize) -> bool {
        self.freeze(pool).wait_s.iter().filter(|wait| **wait == 0).count() < enough
    }
}

/// Notes which addresses belong to a connected peer. A connection names its peer's addresses all the time. O(n log c);
/// the pool's lock is taken once.
fn refresh_connected(known: &mut KnownAddresses, pool: &Pool, now: HeardAt) {
    let strangers = PeerId::from_bytes([0; 32]);
    let connected = pool.connected_among(known.values().map(|one| one.peer.as_ref().unwrap_or(&strangers)));
    for (one, connected) in known.values_mut().zip(connected) {
        one.has_connected_peer = connected;
        if connected {
            one.named(now);
        }
    }
}

#[cfg(test)]
mod tests;
