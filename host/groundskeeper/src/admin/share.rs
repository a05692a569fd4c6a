//! Who gets which places of a listener. Every party has a separate share, questions and streams have separate places,
//! and a client that lets the node wait makes room for one that does not.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Places of the admin socket, at most: 64 streams and 38 questions for the node's user, which is a dashboard on every
/// screen and a script in every terminal. Each takes a descriptor and, unread, some 200 KiB of the system's memory.
const MOST_SOCKET: usize = 256;

/// Places of the admin socket, at least: the owner and root can each ask four questions and follow eight streams.
const LEAST_SOCKET: usize = 32;

/// Places of the telemetry listener, and those of one address: a scraper and a probe need one each for some milliseconds.
const TELEMETRY: usize = 48;
const TELEMETRY_EACH: usize = 16;

/// Who is at the other end of a connection, as far as shares are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Party {
    /// A user of this machine, by the system's word.
    User(u32),
    /// A network address: one IPv4 address, or one IPv6 /64, which is what a single customer gets.
    Address(IpAddr),
}

impl Party {
    pub(super) fn at(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => Self::Address(IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into())),
            v4 => Self::Address(v4),
        }
    }
}

impl std::fmt::Display for Party {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Places for one sort of connection.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// For each party that has a reserve.
    reserved: usize,
    /// For each other party.
    each: usize,
    /// For all other parties together.
    others: usize,
}

/// How the places of one listener are shared out.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    /// Parties whose places no other party can take.
    reserve_for: Vec<Party>,
    questions: Share,
    streams: Share,
}

impl Shares {
    /// For the admin socket of user `owner`: five of eight `places` are for streams, which stay. Of each sort, the owner
    /// and root have two fifths each. All others share the rest, and one of them gets at most half of that.
    pub(super) fn for_socket(owner: u32, places: usize) -> Self {
        let places = places.clamp(LEAST_SOCKET, MOST_SOCKET);
        let (questions, streams) = (places * 3 / 8, places * 5 / 8);
        let split = |places: usize| {
            let reserved = places * 2 / 5;
            let others = places - 2 * reserved;
            Share { reserved, each: others.div_ceil(2), others }
        };
        let reserve_for = vec![Party::User(owner), Party::User(0)];
        Self { reserve_for, questions: split(questions), streams: split(streams) }
    }

    /// For the telemetry listener: scrapers and probes come one by one. It has no streams.
    pub(super) fn for_telemetry() -> Self {
        let questions = Share { reserved: 0, each: TELEMETRY_EACH, others: TELEMETRY };
        Self { reserve_for: Vec::new(), questions, streams: Share { reserved: 0, each: 0, others: 0 } }
    }

    fn has_reserve(&self, party: Party) -> bool {
        self.reserve_for.contains(&party)
    }
}

/// What a connection is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ConnStage {
    /// Its request has not arrived.
    Silent,
    /// Its question is being answered.
    Answering,
    /// It follows a stream.
    Streaming,
}

#[derive(Debug)]
struct ConnState {
    stage: ConnStage,
    /// Since when the node has been waiting for the client: for its request, or for it to read.
    waiting_since: Option<Instant>,
}

#[derive(Debug)]
struct ApiConn {
    number: u64,
    party: Party,
    state: Mutex<ConnState>,
    /// It has lost its place.
    evicted: Notify,
}

impl ApiConn {
    fn is_stream(&self) -> bool {
        self.state.lock().stage == ConnStage::Streaming
    }
}

/// All places of the party, or of the listener, are taken by clients that the node is not waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NoPlace;

/// The connections of one listener. At most [`MOST_SOCKET`], so a walk over them is cheap.
#[derive(Debug)]
pub(super) struct Places {
    shares: Shares,
    held: Mutex<HeldPlaces>,
}

#[derive(Debug, Default)]
struct HeldPlaces {
    conns: Vec<Arc<ApiConn>>,
    next: u64,
}

impl Places {
    pub(super) fn new(shares: Shares) -> Arc<Self> {
        Arc::new(Self { shares, held: Mutex::default() })
    }

    /// Gives `party` a place for a question. If its share is taken, the client of that share that has kept the node
    /// waiting for longest loses its place.
    pub(super) fn take(self: &Arc<Self>, party: Party) -> Result<Place, NoPlace> {
        let mut held = self.held.lock();
        self.make_room(&mut held, party, false)?;
        held.next += 1;
        let state = ConnState { stage: ConnStage::Silent, waiting_since: Some(Instant::now()) };
        let conn =
            Arc::new(ApiConn { number: held.next, party, state: Mutex::new(state), evicted: Notify::new() });
        held.conns.push(Arc::clone(&conn));
        Ok(Place { places: Arc::clone(self), conn })
    }

    fn make_room(&self, held: &mut HeldPlaces, party: Party, stream: bool) -> Result<(), NoPlace> {
        let share = if stream { self.shares.streams } else { self.shares.questions };
        let has_reserve = self.shares.has_reserve(party);
        let own = held.conns.iter().filter(|conn| conn.party == party && conn.is_stream() == stream).count();
        if own >= if has_reserve { share.reserved } else { share.each } {
            return held.evict(|conn| conn.party == party && conn.is_stream() == stream);
        }
        let is_other = |conn: &ApiConn| conn.is_stream() == stream && !self.shares.has_reserve(conn.party);
        if has_reserve || held.conns.iter().filter(|conn| is_other(conn)).count() < share.others {
            return Ok(());
        }
        // The party with the most places gives one up, if it has more than this one.
        let places_of =
            |party| held.conns.iter().filter(|conn| is_other(conn) && conn.party == party).count();
        let greediest = held.conns.iter().filter(|conn| is_other(conn)).map(|conn| conn.party);
        let Some(greediest) = greediest.max_by_key(|party| places_of(*party)) else { return Err(NoPlace) };
        held.evict(|conn| is_other(conn) && conn.party == greediest)
    }
}

impl HeldPlaces {
    /// Takes its place from the connection of `among` that has kept the node waiting for longest.
    fn evict(&mut self, among: impl Fn(&ApiConn) -> bool) -> Result<(), NoPlace> {
        let waiting = |conn: &Arc<ApiConn>| conn.state.lock().waiting_since;
        let candidates = self.conns.iter().enumerate().filter(|(_, conn)| among(conn));
        let longest = candidates.filter_map(|(at, conn)| Some((waiting(conn)?, at))).min();
        let (_, at) = longest.ok_or(NoPlace)?;
        self.conns.swap_remove(at).evicted.notify_one();
        Ok(())
    }
}

/// One connection's place. Dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    conn: Arc<ApiConn>,
}

impl Place {
    pub(super) fn party(&self) -> Party {
        self.conn.party
    }

    pub(super) fn stage(&self) -> ConnStage {
        self.conn.state.lock().stage
    }

    /// The request has arrived.
    pub(super) fn has_asked(&self) {
        *self.conn.state.lock() = ConnState { stage: ConnStage::Answering, waiting_since: None };
    }

    /// Exchanges the place for one of a stream.
    pub(super) fn become_stream(&self) -> Result<(), NoPlace> {
        let mut held = self.places.held.lock();
        self.places.make_room(&mut held, self.conn.party, true)?;
        self.conn.state.lock().stage = ConnStage::Streaming;
        Ok(())
    }

    /// The client does not read what the node has for it.
    pub(super) fn does_not_read(&self) {
        self.conn.state.lock().waiting_since.get_or_insert_with(Instant::now);
    }

    /// The client has read something.
    pub(super) fn has_read(&self) {
        self.conn.state.lock().waiting_since = None;
    }

    /// Returns when the place has been given to another connection.
    pub(super) async fn evicted(&self) {
        self.conn.evicted.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held.lock().conns.retain(|conn| conn.number != self.conn.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Party = Party::User(1000);
    const OTHER: Party = Party::User(1001);

    fn places() -> Arc<Places> {
        Places::new(Shares::for_socket(1000, MOST_SOCKET))
    }

    fn asked(places: &Arc<Places>, party: Party) -> Result<Place, NoPlace> {
        let place = places.take(party)?;
        place.has_asked();
        Ok(place)
    }

    fn fill(places: &Arc<Places>, party: Party) -> Vec<Place> {
        std::iter::from_fn(|| asked(places, party).ok()).collect()
    }

    #[test]
    fn the_owner_and_root_have_places_however_many_others_ask() {
        let places = places();
        let others: Vec<Place> = (1001..1101).flat_map(|uid| asked(&places, Party::User(uid))).collect();
        assert!(others.len() < 40 && places.take(OTHER).is_err());
        let owner = fill(&places, OWNER);
        assert!(owner.len() >= 32 && fill(&places, Party::User(0)).len() >= 32);
    }

    #[test]
    fn one_user_leaves_places_to_the_next() {
        let places = places();
        let greedy = fill(&places, OTHER);
        assert!(!greedy.is_empty() && places.take(Party::User(1002)).is_ok());
    }

    #[test]
    fn silent_clients_make_room_oldest_first_and_those_with_a_question_stay() {
        let places = places();
        let working = asked(&places, OWNER).unwrap();
        let silent: Vec<Place> = (0..300).map(|_| places.take(OWNER).unwrap()).collect();
        let held = places.held.lock().conns.iter().map(|conn| conn.number).collect::<Vec<_>>();
        assert!(held.contains(&working.conn.number), "a client that is being answered keeps its place");
        assert!(held.contains(&silent[299].conn.number) && !held.contains(&silent[0].conn.number));
        drop(silent);
        assert_eq!(places.held.lock().conns.len(), 1);
    }

    #[test]
    fn streams_take_no_place_of_a_question() {
        let places = places();
        let streams: Vec<Place> = std::iter::from_fn(|| {
            let place = asked(&places, OWNER).ok()?;
            place.become_stream().ok().map(|()| place)
        })
        .collect();
        assert!(streams.len() >= 41, "{}", streams.len());
        assert!(fill(&places, OWNER).len() >= 32);
    }

    #[test]
    fn a_stream_that_is_not_read_makes_room_for_the_next() {
        let places = places();
        let open = || {
            let place = asked(&places, OWNER).unwrap();
            place.become_stream().map(|()| place)
        };
        let streams: Vec<Place> = std::iter::from_fn(|| open().ok()).collect();
        streams[7].does_not_read();
        streams[7].has_read();
        assert!(open().is_err());
        streams[3].does_not_read();
        let _next = open().unwrap();
        assert!(!places.held.lock().conns.iter().any(|conn| conn.number == streams[3].conn.number));
    }

    #[test]
    fn a_full_listener_takes_from_the_address_with_most_places() {
        let places = Places::new(Shares::for_telemetry());
        let at = |n: u8| Party::at([192, 0, 2, n].into());
        let many: Vec<Place> = (0..16).map(|_| places.take(at(1)).unwrap()).collect();
        let few: Vec<Place> = (2..34).map(|n| places.take(at(n)).unwrap()).collect();
        let newcomer = places.take(at(99)).unwrap();
        let held = places.held.lock();
        let of = |party| held.conns.iter().filter(|conn| conn.party == party).count();
        assert_eq!((of(at(1)), of(at(99)), held.conns.len()), (15, 1, 48));
        drop(held);
        drop((many, few, newcomer));
    }

    #[test]
    fn one_customer_is_one_party() {
        let at = |text: &str| Party::at(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
    }
}
