//! The addresses this node knows, what came of each, and when it may be tried again. Opens no socket and picks nobody.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use groundskeeper_base::bounds::{Bound, Span};
use groundskeeper_base::chance::Chance;
use groundskeeper_base::clock::{Clock, unix_seconds};
use groundskeeper_base::peer::{NetGroup, PeerId, canonical, is_public};
use groundskeeper_base::units::as_span;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use crate::pool::Pool;

mod dialing;
pub use dialing::{Dial, DialFailure, DialOrder, Dialing, Tenure};

/// What the address book may hold and how it spaces attempts: the config's `[book]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BookLimits {
    /// Addresses in all.
    #[cfg_attr(feature = "schema", schemars(with = "u32"))]
    pub capacity: usize,
    /// Addresses that peers of one network group may have told. At most capacity.
    #[cfg_attr(feature = "schema", schemars(with = "u32"))]
    pub per_source_group: usize,
    /// The first wait after a failure is random up to this, each further one up to twice the last.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub backoff_first: Duration,
    /// No wait is longer. At least backoff_first.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub backoff_most: Duration,
    /// A connection clears its address' failures only if it lived this long.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub min_life: Duration,
    /// Whether addresses outside the public internet are taken from others and told to others. Written in `[net]`.
    #[serde(skip)]
    pub allow_private: bool,
    /// Back-offs and samples follow from it, for simulations; none: nobody can guess them. Not written.
    #[serde(skip)]
    pub seed: Option<u64>,
}

impl BookLimits {
    /// The ranges of its keys.
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

/// Who named an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The operator. Such an address is never forgotten and never crowded out.
    Bootstrap,
    /// The peer itself, about itself, in its hello.
    Itself,
    /// A peer of this network group.
    Told(NetGroup),
}

/// What became of an address that somebody named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    New,
    Known,
    /// Not an address to dial, or nothing we would take from this source.
    Refused(&'static str),
}

/// One address as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub address: SocketAddr,
    /// Whose it was when it was last reached. A hint: an address proves nothing.
    pub peer: Option<PeerId>,
    /// Seconds since 1970 when somebody last named it.
    pub heard: u32,
    /// Seconds since 1970 when we were last connected.
    pub reached: Option<u32>,
    pub failures: u32,
    /// Network group of the peer that first told us, if one did.
    pub told_by: Option<u32>,
}

struct Known {
    entry: Entry,
    /// Monotonic time until which it must not be dialled.
    wait_until: Duration,
    dialing: bool,
    /// Named by the operator, with the key it must have if one was given.
    bootstrap: Option<Option<PeerId>>,
}

impl Known {
    /// Nobody has named it since `oldest`, and nobody needs it now.
    fn is_forgettable(&self, oldest: u32) -> bool {
        self.bootstrap.is_none() && !self.dialing && self.entry.heard < oldest
    }
}

/// The address book of one node.
pub struct Book {
    limits: BookLimits,
    clock: Arc<dyn Clock>,
    journal: Arc<Journal>,
    chance: Chance,
    known: Mutex<BTreeMap<SocketAddr, Known>>,
    /// Counts what would be worth writing to disk.
    changes: AtomicU64,
    /// No back-off is longer, in milliseconds.
    longest_wait: AtomicU64,
}

/// The dialable part of the book at one moment: neither connected nor being dialled, by ascending address.
#[derive(Default)]
#[doc(hidden)]
pub struct BookRows {
    pub addresses: Vec<SocketAddr>,
    /// Seconds since somebody named it.
    pub heard_s: Vec<u32>,
    /// Seconds since we were last connected, `u32::MAX` for never.
    pub reached_s: Vec<u32>,
    /// Failures in a row.
    pub failures: Vec<u32>,
    /// Seconds until its back-off ends, rounded up; 0 = may be dialled.
    pub wait_s: Vec<u32>,
    pub groups: Vec<u32>,
}

impl Book {
    pub fn new(limits: BookLimits, clock: Arc<dyn Clock>, journal: Arc<Journal>) -> Arc<Self> {
        Arc::new(Self {
            chance: Chance::new(limits.seed),
            limits,
            clock,
            journal,
            known: Mutex::default(),
            changes: AtomicU64::new(0),
            longest_wait: AtomicU64::new(u64::MAX),
        })
    }

    /// Changes whenever an address came, went, was reached or was lost: what is on disk is old then.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn limits(&self) -> &BookLimits {
        &self.limits
    }

    /// Addresses held: the gauge of this table.
    pub fn len(&self) -> usize {
        self.known.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes note of an address. O(log n); O(n) when the book is full and one has to make room.
    pub fn learn(&self, address: SocketAddr, peer: Option<PeerId>, source: Source) -> Learned {
        let address = canonical(address);
        if let Some(why) = self.undialable(address, source) {
            return Learned::Refused(why);
        }
        let heard = unix_seconds(&*self.clock);
        let mut known = self.known.lock();
        if let Some(old) = known.get_mut(&address) {
            old.entry.heard = heard;
            if source == Source::Bootstrap {
                old.bootstrap = Some(peer);
            }
            if old.entry.peer.is_none() || source == Source::Itself {
                old.entry.peer = peer.or(old.entry.peer);
            }
            return Learned::Known;
        }
        let told_by = match source {
            Source::Told(group) => Some(group.0),
            Source::Bootstrap | Source::Itself => None,
        };
        if told_by.is_some()
            && known.values().filter(|other| other.entry.told_by == told_by).count()
                >= self.limits.per_source_group
        {
            return Learned::Refused("its source's network group has named as many as it may");
        }
        if known.len() >= self.limits.capacity && !make_room(&mut known, source) {
            return Learned::Refused("the address book is full of better ones");
        }
        let entry = Entry { address, peer, heard, reached: None, failures: 0, told_by };
        let bootstrap = (source == Source::Bootstrap).then_some(peer);
        known.insert(address, Known { entry, wait_until: Duration::ZERO, dialing: false, bootstrap });
        self.changed();
        Learned::New
    }

    fn undialable(&self, address: SocketAddr, source: Source) -> Option<&'static str> {
        let ip = address.ip();
        if address.port() == 0 {
            Some("port 0 cannot be dialled")
        } else if ip.is_unspecified() || ip.is_multicast() {
            Some("not the address of one machine")
        } else if source != Source::Bootstrap && !self.limits.allow_private && !is_public(ip) {
            Some("not on the public internet")
        } else {
            None
        }
    }

    /// Up to `limit` random addresses worth telling a peer: reached at some time, or named by a peer that came to us
    /// and not found dead since, and public unless private ones are allowed.
    pub fn sample(&self, limit: usize) -> Vec<(SocketAddr, Option<PeerId>)> {
        let known = self.known.lock();
        let told = known.values().filter(|one| {
            let came_to_us =
                one.entry.told_by.is_none() && one.bootstrap.is_none() && one.entry.failures == 0;
            (one.entry.reached.is_some() || came_to_us)
                && (self.limits.allow_private || is_public(one.entry.address.ip()))
        });
        let mut chosen: Vec<_> = told.map(|one| (one.entry.address, one.entry.peer)).collect();
        drop(known);
        for at in 0..chosen.len().min(limit) {
            let other = at + self.chance.below(chosen.len() - at);
            chosen.swap(at, other);
        }
        chosen.truncate(limit);
        chosen
    }

    /// What is to be kept on disk. Bootstrap nodes that were never reached are in the config already.
    pub fn entries(&self) -> Vec<Entry> {
        let known = self.known.lock();
        known
            .values()
            .filter(|one| one.bootstrap.is_none() || one.entry.reached.is_some())
            .map(|one| one.entry.clone())
            .collect()
    }

    /// Takes entries back from disk, up to the book's capacity. Back-offs start anew.
    pub fn restore(&self, entries: impl IntoIterator<Item = Entry>) {
        let mut known = self.known.lock();
        for entry in entries {
            if known.len() >= self.limits.capacity {
                return;
            }
            let address = canonical(entry.address);
            known.entry(address).or_insert(Known {
                entry: Entry { address, ..entry },
                wait_until: Duration::ZERO,
                dialing: false,
                bootstrap: None,
            });
        }
    }

    /// One failure more. Full jitter (a uniform wait up to the exponential bound): many nodes that lost one peer do not
    /// return together.
    fn back_off(&self, one: &mut Known, now: Duration) {
        let doublings = one.entry.failures.min(20);
        one.entry.failures += 1;
        let bound = self.limits.backoff_first.saturating_mul(1 << doublings).min(self.limits.backoff_most);
        let longest = Duration::from_millis(self.longest_wait.load(Ordering::Relaxed));
        one.wait_until = now + self.chance.up_to(bound).min(longest);
    }
}

#[doc(hidden)]
impl Book {
    /// The rows that phases see. O(n log c) with n addresses and c connections; the pool's lock is taken once.
    pub fn freeze(&self, pool: &Pool) -> BookRows {
        let (now, unix) = (self.clock.mono(), unix_seconds(&*self.clock));
        let known = self.known.lock();
        let idle: Vec<&Known> = known.values().filter(|one| !one.dialing).collect();
        let strangers = PeerId::from_bytes([0; 32]);
        let connected =
            pool.connected_among(idle.iter().map(|one| one.entry.peer.as_ref().unwrap_or(&strangers)));
        let mut rows = BookRows::default();
        for (one, _) in idle.into_iter().zip(connected).filter(|(_, connected)| !connected) {
            rows.addresses.push(one.entry.address);
            rows.heard_s.push(unix.saturating_sub(one.entry.heard));
            rows.reached_s.push(one.entry.reached.map_or(u32::MAX, |at| unix.saturating_sub(at)));
            rows.failures.push(one.entry.failures);
            let wait = one.wait_until.saturating_sub(now);
            rows.wait_s.push(wait.as_millis().div_ceil(1000).try_into().unwrap_or(u32::MAX));
            rows.groups.push(NetGroup::of(one.entry.address.ip()).0);
        }
        rows
    }

    /// Dials under way.
    pub fn dialing(&self) -> u32 {
        self.known.lock().values().filter(|one| one.dialing).count() as u32
    }

    /// How many addresses [`Book::forget_some`] would forget at most. O(n).
    pub fn forgettable(&self, not_heard_for: Duration) -> usize {
        let oldest = self.heard_before(not_heard_for);
        self.known.lock().values().filter(|one| one.is_forgettable(oldest)).count()
    }

    fn heard_before(&self, ago: Duration) -> u32 {
        unix_seconds(&*self.clock).saturating_sub(ago.as_secs().try_into().unwrap_or(u32::MAX))
    }

    /// Forgets addresses that nobody named for `not_heard_for`, the `most` that were not heard of for longest; never
    /// bootstrap nodes nor one being dialled. O(n log n).
    pub fn forget_some(&self, not_heard_for: Duration, most: usize) -> usize {
        let oldest = self.heard_before(not_heard_for);
        let mut known = self.known.lock();
        let gone = known.iter().filter(|(_, one)| one.is_forgettable(oldest));
        let mut gone: Vec<(u32, SocketAddr)> = gone.map(|(at, one)| (one.entry.heard, *at)).collect();
        gone.sort_unstable();
        gone.truncate(most);
        gone.iter().for_each(|(_, address)| _ = known.remove(address));
        if !gone.is_empty() {
            self.changed();
        }
        gone.len()
    }

    /// From now on no back-off lasts longer than `most`, those under way and those to come; none lifts that for those
    /// to come. For a node that is alone, and after a suspend.
    pub fn cap_waits(&self, most: Option<Duration>) {
        let millis = most.map_or(u64::MAX, |most| most.as_millis() as u64);
        let mut known = self.known.lock();
        self.longest_wait.store(millis, Ordering::Relaxed);
        if let Some(most) = most {
            let latest = self.clock.mono() + most;
            known.values_mut().for_each(|one| one.wait_until = one.wait_until.min(latest));
        }
    }

    /// Whether phases find fewer than `enough` addresses that may be dialled. O(n log c).
    pub fn is_short_of_addresses(&self, pool: &Pool, enough: usize) -> bool {
        self.freeze(pool).wait_s.iter().filter(|wait| **wait == 0).count() < enough
    }
}

/// Drops the least useful address: never reached, most failures, longest unheard. False if none may go.
fn make_room(known: &mut BTreeMap<SocketAddr, Known>, newcomer: Source) -> bool {
    let worst = known
        .iter()
        .filter(|(_, one)| one.bootstrap.is_none() && !one.dialing)
        .filter(|(_, one)| one.entry.failures > 0 || !matches!(newcomer, Source::Told(_)))
        .max_by_key(|(_, one)| {
            (one.entry.reached.is_none(), one.entry.failures, std::cmp::Reverse(one.entry.heard))
        })
        .map(|(address, _)| *address);
    worst.is_some_and(|address| known.remove(&address).is_some())
}

#[cfg(test)]
mod tests;
