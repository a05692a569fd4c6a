//! One live connection: a single task that owns the stream, the slot and the queues. It polls reading and writing
//! independently, so a peer that does not read cannot stop this node from reading.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use groundskeeper_base::chance::SharedRng;
use groundskeeper_base::peer::NetGroup;
use groundskeeper_flow::{FrameCharge, UNCOUNTED};
use groundskeeper_pool::book::ConnectedGuard;
use groundskeeper_pool::journal::{Cause, Initiator};
use groundskeeper_pool::pool::{CAME_BACK, Goodbye, Removal};
use tokio::io::ReadBuf;
use tokio::time::Sleep;

use super::allowance::{DeliveryAllowance, ReadAllowance};
use super::answering::{Answers, ConnAnswers};
use super::broadcasting::Broadcaster;
use super::conn_health;
use super::exchange::{ask_for_peers, learn_peers};
use super::frame::{Frame, FrameReader};
use super::node::LocalNode;
use super::one_way::OneWayMessages;
use super::pending::AnswerOutcome;
use super::pings::{Pings, PongOutcome};
use super::place::{ConnGuard, disconnect_for_shutdown};
use super::receiving::{ReceivedPayload, Receiving};
use super::round_trip::RoundTrip;
use super::traffic::Traffic;
use super::transport::SessionStream;
use super::wire::{FAREWELL, Message, ResponseStatus, cause_of, code_of, printable};
use super::write_progress::{WRITE_DEADLINE, WriteProgress};

/// On the stack during a poll, so an idle connection holds no read buffer. One TLS record fits.
const READ_BUFFER: usize = UNCOUNTED;

/// Reads in one poll; then other tasks have their turn.
const READS_PER_POLL: usize = 8;

/// Frames in one write: small ones share a TLS record and a system call.
const BATCH_FRAMES: usize = 64;

/// Bytes taken from the queue at once. Control frames do not overtake what was taken.
const BATCH_BYTES: usize = 32 * 1024;

/// The task of one connection.
struct Session<S> {
    /// The first field, so that the descriptor is closed before the slot is freed.
    io: S,
    reader: FrameReader,
    receiving: Receiving,
    batch: VecDeque<Bytes>,
    /// The task has yielded, so that other tasks can add to this batch.
    gathering: bool,
    unflushed: bool,
    write_progress: WriteProgress,
    /// The deadline for its end: goodbye, flush, close, and wait until the other side closes.
    ending: Option<Pin<Box<Sleep>>>,
    /// Whether this side has closed, after the goodbye.
    closed: bool,
    answering: ConnAnswers,
    allowance: ReadAllowance,
    deliveries: DeliveryAllowance,
    pings: Pings,
    round_trip: RoundTrip,
    group: NetGroup,
    place: ConnGuard,
    sessions: Arc<Sessions>,
    tenure: Option<ConnectedGuard>,
}

/// Starts the sessions of a node, and holds the parts that handle their messages.
pub(crate) struct Sessions {
    pub(crate) node: Arc<LocalNode>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) chance: SharedRng,
    pub(crate) answers: Answers,
    pub(crate) broadcaster: Broadcaster,
    pub(crate) one_way: OneWayMessages,
}

impl Sessions {
    /// Starts the task of a connection that has just become live, and asks the peer for addresses of other peers.
    pub(crate) fn start<S>(
        self: &Arc<Self>,
        io: S,
        place: ConnGuard,
        address: SocketAddr,
        tenure: Option<ConnectedGuard>,
    ) where
        S: SessionStream,
    {
        let LocalNode { config, state, tasks, .. } = &*self.node;
        let conn = Arc::clone(place.conn());
        // Fails only if the connection is ending already.
        _ = ask_for_peers(&self.traffic, &conn);
        let round_trip = RoundTrip::begin(io.rtt(), place.slot(), state.clock.mono());
        let session = Session {
            io,
            reader: FrameReader::default(),
            receiving: Receiving::default(),
            batch: VecDeque::new(),
            gathering: false,
            unflushed: false,
            write_progress: WriteProgress::default(),
            ending: None,
            closed: false,
            answering: ConnAnswers::default(),
            allowance: ReadAllowance::new(config.bytes_per_second_per_peer, state.clock.coarse()),
            deliveries: DeliveryAllowance::new(config.broadcasts_per_second_per_peer, state.clock.coarse()),
            pings: Pings::new(self.chance.number()),
            round_trip,
            group: NetGroup::of(address.ip()),
            place,
            sessions: Arc::clone(self),
            tenure,
        };
        conn.owned_by(tasks.spawn(session));
        if tasks.stop.is_cancelled() {
            // It went live after the shutdown had listed the live connections.
            disconnect_for_shutdown(&state.pool, conn.key);
        }
    }
}

/// Why a session stops.
enum SessionEnd {
    /// At once, without a goodbye.
    Over(Removal),
    /// With a goodbye to the peer.
    Goodbye(Goodbye),
}

fn over(by: Initiator, cause: Cause, reason: impl Into<String>) -> SessionEnd {
    SessionEnd::Over(Removal::new(by, cause, reason))
}

impl<S> Session<S>
where
    S: SessionStream,
{
    fn talk(&mut self, cx: &mut Context<'_>) -> Result<(), SessionEnd> {
        self.answering.poll_done(cx);
        let more = self.read(cx)?;
        loop {
            if let Err(error) = self.write(cx) {
                return Err(self.write_failed(cx, &error));
            }
            let asks = self.place.conn().take_asks();
            if let Some(goodbye) = asks.close {
                return Err(SessionEnd::Goodbye(goodbye));
            }
            if !asks.ping {
                break;
            }
            self.ping();
        }
        // After the write: a peer that reads again keeps its place. One that neither reads nor sends is ended by its silence;
        // one that sends wakes this task.
        let clock = &self.sessions.node.state.clock;
        if self.write_progress.is_stuck(|| clock.mono(), || self.io.acked()) {
            let deadline = WRITE_DEADLINE.as_secs();
            let reason = format!("write deadline: it took nothing of what it was sent for {deadline} s");
            return Err(over(Initiator::Host, Cause::WriteFailure, reason));
        }
        if let Err(given_up) = self.receiving.poll_deadlines(cx, &self.reader, more, &**clock) {
            self.sessions.traffic.receiving.count_given_up();
            return Err(self.part(Removal::new(Initiator::Host, Cause::Limits, given_up.to_string())));
        }
        if more {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    /// Reads what the socket has. True if there may be more.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, SessionEnd> {
        let mut stack = [const { MaybeUninit::<u8>::uninit() }; READ_BUFFER];
        for _ in 0..READS_PER_POLL {
            let clock = Arc::clone(&self.sessions.node.state.clock);
            let budget = &self.sessions.traffic.receiving;
            let expects_answer = || self.place.conn().open_requests() > 0;
            if self.receiving.poll_room(cx, &self.reader, budget, &*clock, expects_answer).is_pending() {
                // It cannot be heard now, and that is not its fault: no phase may take it for silent.
                self.place.slot().peer_seen(clock.coarse());
                return Ok(false);
            }
            if self.allowance.poll(cx, &*clock).is_pending() {
                return Ok(false);
            }
            let mut buffer = ReadBuf::uninit(&mut stack);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(error)) => return Err(read_failed(&error)),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    let reason =
                        if self.reader.is_midway() { "closed in the middle of a frame" } else { "closed" };
                    return Err(over(Initiator::Remote, Cause::RemoteClosed, reason));
                }
                Poll::Ready(Ok(())) => {
                    let bytes = buffer.filled();
                    let now = clock.coarse();
                    self.place.slot().peer_seen(now);
                    self.round_trip.sample(|| self.io.rtt(), self.place.slot(), now);
                    self.place.conn().count_in(bytes.len());
                    self.allowance.spend(bytes.len());
                    self.take_in(cx, bytes)?;
                }
            }
        }
        Ok(true)
    }

    fn take_in(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> Result<(), SessionEnd> {
        let sessions = Arc::clone(&self.sessions);
        let max_frame = sessions.node.config.max_frame;
        loop {
            match self.reader.next(&mut bytes, max_frame) {
                Ok(Some(frame)) => {
                    let charge = self.receiving.finish(frame.body.len(), &sessions.traffic.receiving);
                    self.receive(cx, &sessions, frame, charge)?;
                }
                Ok(None) => return Ok(()),
                Err(bad) => return Err(self.broke_rules(&bad)),
            }
        }
    }

    fn receive(
        &mut self,
        cx: &mut Context<'_>,
        sessions: &Sessions,
        Frame { kind, body }: Frame,
        charge: Option<FrameCharge>,
    ) -> Result<(), SessionEnd> {
        let Sessions { node, traffic, answers, broadcaster, one_way, .. } = sessions;
        let message = Message::decode(kind, &body).map_err(|bad| self.broke_rules(&bad))?;
        match message {
            Message::Hello(_) => return Err(self.broke_rules(&"a second hello")),
            Message::Ping { nonce } => {
                // The lane is bounded: a peer that floods us with pings and does not read gets no answers.
                _ = self.place.conn().control(Message::Pong { nonce }.encode_bounded());
            }
            Message::Pong { nonce } => match self.pings.answered(nonce, node.state.clock.mono()) {
                PongOutcome::Fresh(rtt) => {
                    self.round_trip.ponged(rtt, self.place.slot(), node.state.clock.coarse());
                    conn_health::ponged(&node.state, self.place.conn());
                }
                PongOutcome::Late => self.place.slot().set_pings_lost(0),
                PongOutcome::Again => {}
                PongOutcome::NeverAsked => {
                    return Err(self.broke_rules(&"an answer to a ping that was never sent"));
                }
            },
            Message::Goodbye { code, text } => {
                let cause = cause_of(code);
                if cause == Some(Cause::Replaced) && text.starts_with(CAME_BACK) {
                    node.key_watch.taken_over(&node.state, self.place.conn().peer, text);
                    self.tenure.iter_mut().for_each(ConnectedGuard::taken_over);
                }
                let cause = match cause {
                    Some(cause) => cause.as_str().to_owned(),
                    None => format!("code {code}"),
                };
                let reason = format!("{cause}: {}", printable(text));
                return Err(over(Initiator::Remote, Cause::RemoteGoodbye, reason));
            }
            Message::Broadcast { topic, payload } => {
                if self.may_deliver(sessions)? {
                    let took = broadcaster.take(self.place.conn(), topic, body.slice_ref(payload));
                    self.deliveries.spent(took);
                }
            }
            Message::OneWay { kind, payload } => {
                if self.may_deliver(sessions)? {
                    let took = one_way.take(self.place.conn(), kind, body.slice_ref(payload));
                    self.deliveries.spent(took);
                }
            }
            Message::Request { id, kind, payload } => {
                let payload = ReceivedPayload { bytes: body.slice_ref(payload), charge };
                self.answering.serve(cx, answers, self.place.conn(), id, kind, payload);
            }
            Message::Response { id, status, payload } => {
                let conn = self.place.conn();
                match conn.pending.answer(id, status, payload, &body, charge) {
                    AnswerOutcome::Delivered | AnswerOutcome::Late => {}
                    AnswerOutcome::Again => conn_health::answered_twice(&node.state, &traffic.counters, conn),
                    AnswerOutcome::TooMuch => {
                        conn_health::answered_too_much(&node.state, &traffic.counters, conn)
                    }
                    AnswerOutcome::PeerList if status == ResponseStatus::Ok => {
                        self.round_trip.answered(self.place.slot(), node.state.clock.mono());
                        if learn_peers(node, payload, self.group).is_err() {
                            return Err(self.broke_rules(&"a peer list that is too long or cannot be read"));
                        }
                    }
                    AnswerOutcome::PeerList => {}
                    AnswerOutcome::NeverAsked => {
                        return Err(self.broke_rules(&"an answer to a request that was never made"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a broadcast or message of this peer is taken, or dropped and counted. Ends a peer that floods.
    fn may_deliver(&mut self, Sessions { node, traffic, .. }: &Sessions) -> Result<bool, SessionEnd> {
        let Err(limit) = self.deliveries.take(|| node.state.clock.coarse()) else { return Ok(true) };
        traffic.counters.dropped(limit);
        if self.deliveries.is_flooded() {
            let most = node.config.broadcasts_per_second_per_peer;
            let reason = format!("it sends far more than {most} broadcasts and messages a second");
            return Err(self.part(Removal::new(Initiator::Host, Cause::Limits, reason)));
        }
        Ok(false)
    }

    /// Removes the connection from the pool now. The goodbye tells the peer what it did.
    fn broke_rules(&self, what: &dyn std::fmt::Display) -> SessionEnd {
        self.part(Removal::new(Initiator::Remote, Cause::ProtocolError, what.to_string()))
    }

    /// Removes the connection from the pool now, with a goodbye that has the reason.
    fn part(&self, removal: Removal) -> SessionEnd {
        let goodbye = Goodbye { cause: removal.cause, text: removal.reason.clone() };
        self.place.disconnect(removal);
        // If the pool had closed it already, the goodbye has that reason.
        SessionEnd::Goodbye(self.place.conn().take_asks().close.unwrap_or(goodbye))
    }

    fn ping(&mut self) {
        if self.receiving.is_paused() {
            // Its answer would not be read.
            return;
        }
        let clock = &self.sessions.node.state.clock;
        let slot = self.place.slot();
        // Nothing arrives from a quiet peer, so its estimate is read here.
        self.round_trip.sample(|| self.io.rtt(), slot, clock.coarse());
        let (nonce, lost) = self.pings.next(clock.mono(), clock.coarse(), slot.last_seen());
        slot.set_pings_lost(lost);
        // If the lane is full, the peer does not read: this ping counts as sent, and later as lost.
        _ = self.place.conn().control(Message::Ping { nonce }.encode_bounded());
    }

    /// Writes what the socket takes. Afterwards the next push, or at least the next nudge, wakes the task.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            if self.batch.is_empty() {
                if !self.take(cx) {
                    if self.batch.capacity() > 4 {
                        self.batch = VecDeque::new();
                    }
                    return match self.flush(cx) {
                        Poll::Ready(flushed) => {
                            self.write_progress.finished();
                            flushed
                        }
                        Poll::Pending => {
                            let now = self.sessions.node.state.clock.mono();
                            self.write_progress.blocked(now, || self.io.acked());
                            Ok(())
                        }
                    };
                }
                if self.expects_more() {
                    self.gathering = true;
                    cx.waker().wake_by_ref();
                    return Ok(());
                }
            } else if std::mem::take(&mut self.gathering) {
                self.take(cx);
            }
            match self.write_batch(cx) {
                Poll::Ready(written) => written?,
                Poll::Pending => {
                    let now = self.sessions.node.state.clock.mono();
                    self.write_progress.hold_queue(now);
                    self.write_progress.blocked(now, || self.io.acked());
                    self.place.conn().outbox.wait_for_nudge(cx.waker());
                    return Ok(());
                }
            }
        }
    }

    /// Whether to yield once before writing. Answers wake many callers at once, and the first that asks again wakes
    /// this task before the others have run. If this task yields, the others run first and one write takes all of their
    /// requests.
    fn expects_more(&self) -> bool {
        let open = self.place.conn().open_requests() as usize;
        let bytes: usize = self.batch.iter().map(Bytes::len).sum();
        self.batch.len() < open.min(BATCH_FRAMES) && bytes < BATCH_BYTES
    }

    /// Moves the next frames from the queue to the batch. False if there are none.
    fn take(&mut self, cx: &mut Context<'_>) -> bool {
        let (sessions, conn) = (&self.sessions, self.place.conn());
        let now = || sessions.node.state.clock.mono();
        let taken = conn.outbox.take(&mut self.batch, BATCH_FRAMES, BATCH_BYTES, now, cx.waker());
        sessions.traffic.counters.taken(&taken, self.write_progress.release_queue(), now);
        !taken.is_empty()
    }

    fn write_batch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.batch.is_empty() {
            let mut slices = [IoSlice::new(&[]); BATCH_FRAMES];
            let count = slices.iter_mut().zip(&self.batch).map(|(s, frame)| *s = IoSlice::new(frame)).count();
            let mut written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.place.conn().count_out(written);
            self.write_progress.moved(|| self.sessions.node.state.clock.mono());
            self.unflushed = true;
            while let Some(front) = self.batch.front_mut()
                && written > 0
            {
                let taken = written.min(front.len());
                front.advance(taken);
                written -= taken;
                if front.is_empty() {
                    self.batch.pop_front();
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what the peer sent last: its reason explains more than the failed write does.
    fn write_failed(&mut self, cx: &mut Context<'_>, error: &io::Error) -> SessionEnd {
        loop {
            match self.read(cx) {
                Err(stop) => return stop,
                Ok(true) => {}
                Ok(false) => {
                    return over(Initiator::Remote, Cause::WriteFailure, format!("while writing: {error}"));
                }
            }
        }
    }

    fn begin_ending(&mut self, Goodbye { cause, text }: Goodbye) {
        let conn = self.place.conn();
        // Nothing more is received.
        (self.reader, self.receiving) = (FrameReader::default(), Receiving::default());
        self.batch.extend(conn.outbox.end());
        conn.pending.end();
        self.batch.push_back(Message::Goodbye { code: code_of(cause), text: &text }.encode_bounded());
        self.answering = ConnAnswers::default();
        self.ending = Some(Box::pin(tokio::time::sleep(FAREWELL)));
    }

    /// Writes what is left and waits for the other side to close, until the deadline.
    fn end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = &mut self.ending else { return Poll::Ready(()) };
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut stack = [const { MaybeUninit::<u8>::uninit() }; READ_BUFFER];
        let mut reads = 0;
        loop {
            let mut buffer = ReadBuf::uninit(&mut stack);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => reads += 1,
                Poll::Ready(_) => return Poll::Ready(()),
            }
            if reads == READS_PER_POLL {
                cx.waker().wake_by_ref();
                break;
            }
        }
        if !self.closed {
            let said = match ready!(self.write_batch(cx)) {
                Ok(()) => ready!(Pin::new(&mut self.io).poll_shutdown(cx)),
                Err(error) => Err(error),
            };
            if said.is_err() {
                return Poll::Ready(());
            }
            self.closed = true;
        }
        Poll::Pending
    }
}

fn read_failed(error: &io::Error) -> SessionEnd {
    if error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some() {
        return over(Initiator::Remote, Cause::ProtocolError, format!("broke the encryption: {error}"));
    }
    let reason = match error.kind() {
        io::ErrorKind::UnexpectedEof => "closed without a goodbye".to_owned(),
        io::ErrorKind::ConnectionReset => "reset".to_owned(),
        _ => format!("lost: {error}"),
    };
    over(Initiator::Remote, Cause::RemoteClosed, reason)
}

impl<S> Future for Session<S>
where
    S: SessionStream,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let session = self.get_mut();
        if session.ending.is_none() {
            match session.talk(cx) {
                Ok(()) => return Poll::Pending,
                Err(SessionEnd::Over(removal)) => {
                    session.place.removal = Some(removal);
                    return Poll::Ready(());
                }
                Err(SessionEnd::Goodbye(goodbye)) => session.begin_ending(goodbye),
            }
        }
        session.end(cx)
    }
}
