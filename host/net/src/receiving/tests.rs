//! What one connection charges, and when it ends, without a socket.

use std::task::Waker;

use groundskeeper_base::clock::TokioClock;
use proptest::prelude::*;

use super::*;
use crate::frame::BadFrame;

const KIB: usize = 1 << 10;
const MAX_FRAME: usize = 1 << 20;

/// A request frame with `size` bytes after its length.
fn frame(size: usize) -> Vec<u8> {
    let length = u32::try_from(size).unwrap().to_le_bytes();
    [&length[..], &[FrameKind::Request as u8], &vec![7; size - 1]].concat()
}

/// One connection that is fed by hand.
struct Feed {
    reader: FrameReader,
    receiving: Receiving,
    budget: Arc<ReceiveBudget>,
    clock: Arc<TokioClock>,
}

impl Feed {
    fn new(limit: usize, clock: &Arc<TokioClock>) -> Self {
        let budget = ReceiveBudget::new(limit, MAX_FRAME);
        Self::sharing(&budget, clock)
    }

    fn sharing(budget: &Arc<ReceiveBudget>, clock: &Arc<TokioClock>) -> Self {
        let (reader, receiving) = (FrameReader::default(), Receiving::default());
        Self { reader, receiving, budget: Arc::clone(budget), clock: Arc::clone(clock) }
    }

    fn has_room(&mut self) -> bool {
        let cx = Context::from_waker(Waker::noop());
        self.receiving.poll_room(&cx, &self.reader, &self.budget, &*self.clock, || false).is_ready()
    }

    /// Takes one read of bytes for which there is room. The charges of the frames that are whole now.
    fn take(&mut self, mut piece: &[u8]) -> Result<Vec<Option<FrameCharge>>, BadFrame> {
        let mut whole = Vec::new();
        while let Some(frame) = self.reader.next(&mut piece, MAX_FRAME)? {
            whole.push(self.receiving.finish(frame.body.len(), &self.budget));
        }
        Ok(whole)
    }

    fn deadlines(&mut self) -> Result<(), GivenUp> {
        let mut cx = Context::from_waker(Waker::noop());
        self.receiving.poll_deadlines(&mut cx, &self.reader, false, &*self.clock)
    }
}

fn clock() -> Arc<TokioClock> {
    TokioClock::starting_at(Duration::ZERO)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However frames are cut: what the reader allocates is charged before, except one read's worth.
    #[test]
    fn no_allocation_is_ahead_of_its_charge(
        sizes in prop::collection::vec(1..300 * KIB, 1..6),
        cuts in prop::collection::vec(1..=UNCOUNTED, 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().start_paused(true).build().unwrap();
        let _inside = runtime.enter();
        let mut feed = Feed::new(64 << 20, &clock());
        let bytes: Vec<u8> = sizes.iter().flat_map(|&size| frame(size)).collect();
        let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
        let mut held = Vec::new();
        while !rest.is_empty() {
            prop_assert!(feed.has_room());
            let cut = (*cuts.next().unwrap()).min(rest.len());
            let piece = rest.split_off(..cut).unwrap();
            held.extend(feed.take(piece).unwrap());
            let whole: usize = held.iter().flatten().map(FrameCharge::bytes).sum();
            prop_assert!(feed.reader.held() <= feed.budget.used() - whole + UNCOUNTED);
        }
        let large = sizes.iter().map(|size| size - 1).filter(|&size| size > SMALL_FRAME);
        prop_assert_eq!(feed.budget.used(), large.sum::<usize>());
        drop(held);
        prop_assert_eq!((feed.budget.used(), feed.reader.held()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn small_frames_never_touch_the_budget() {
    let mut feed = Feed::new(0, &clock());
    let _full = feed.budget.charge_whole(2 * MAX_FRAME);
    for cut in [100, 4000] {
        for piece in frame(SMALL_FRAME).chunks(cut) {
            assert!(feed.has_room() && feed.take(piece).unwrap().iter().all(Option::is_none));
        }
    }
    assert_eq!((feed.budget.used(), feed.budget.pauses()), (2 * MAX_FRAME, 0));
}

#[tokio::test(start_paused = true)]
async fn a_claimed_length_alone_costs_neither_memory_nor_room() {
    let mut feed = Feed::new(MAX_FRAME, &clock());
    assert!(feed.has_room());
    feed.take(&frame(MAX_FRAME)[..5]).unwrap();
    assert!(feed.has_room());
    assert!(feed.reader.held() <= 4 * KIB, "{}", feed.reader.held());
    assert_eq!(feed.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_frame_must_come_at_a_least_rate() {
    let mut feed = Feed::new(MAX_FRAME, &clock());
    let bytes = frame(MAX_FRAME);
    let mut pieces = bytes.chunks(UNCOUNTED);
    // The least rate is enough, for however long the frame takes.
    for _ in 0..10 {
        for piece in pieces.by_ref().take(SLOWEST / UNCOUNTED) {
            assert!(feed.has_room());
            feed.take(piece).unwrap();
        }
        assert_eq!(feed.deadlines(), Ok(()));
        tokio::time::advance(WINDOW - Duration::from_millis(1)).await;
        assert_eq!(feed.deadlines(), Ok(()));
    }
    assert!(feed.has_room());
    feed.take(pieces.next().unwrap()).unwrap();
    tokio::time::advance(Duration::from_millis(1)).await;
    let slow = GivenUp::Slow { size: MAX_FRAME - 1, arrived: UNCOUNTED };
    assert_eq!(feed.deadlines(), Err(slow));
    let words = "its frame of 1048575 bytes came too slowly: 16384 bytes in 30 s, and 65536 are required";
    assert_eq!(slow.to_string(), words);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_room_has_a_deadline_and_starts_a_new_window() {
    let clock = clock();
    let mut feed = Feed::new(MAX_FRAME, &clock);
    let full = feed.budget.charge_whole(MAX_FRAME);
    let bytes = frame(MAX_FRAME);
    let mut pieces = bytes.chunks(UNCOUNTED);
    assert!(feed.has_room());
    feed.take(pieces.next().unwrap()).unwrap();
    assert!(!feed.has_room() && feed.receiving.is_paused());
    assert_eq!(feed.deadlines(), Ok(()));
    tokio::time::advance(ROOM_DEADLINE - Duration::from_millis(1)).await;
    assert_eq!(feed.deadlines(), Ok(()));
    drop(full);
    assert!(feed.has_room() && !feed.receiving.is_paused());
    tokio::time::advance(WINDOW - Duration::from_millis(1)).await;
    assert_eq!(feed.deadlines(), Ok(()));

    let full = feed.budget.charge_whole(MAX_FRAME);
    while feed.has_room() {
        feed.take(pieces.next().unwrap()).unwrap();
    }
    tokio::time::advance(ROOM_DEADLINE).await;
    assert_eq!(feed.deadlines(), Err(GivenUp::NoRoom));
    drop((full, feed.receiving));
    assert_eq!(feed.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_large_frame_the_connection_waits_while_too_much_is_handled() {
    let mut feed = Feed::new(MAX_FRAME, &clock());
    let full = feed.budget.charge_whole(MAX_FRAME);
    assert!(feed.has_room(), "nothing was counted for this connection yet");
    let held = feed.take(&frame(10 * KIB)).unwrap();
    assert_eq!(feed.budget.used(), MAX_FRAME + 10 * KIB - 1);
    assert!(!feed.has_room());
    drop(full);
    assert!(feed.has_room() && feed.receiving.large.is_none());
    drop(held);
    assert_eq!(feed.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_stands_still_makes_room_for_one_that_waits() {
    let clock = clock();
    let mut still = Feed::new(MAX_FRAME, &clock);
    for piece in frame(MAX_FRAME)[..600 * KIB].chunks(UNCOUNTED) {
        assert!(still.has_room());
        still.take(piece).unwrap();
    }
    tokio::time::advance(Duration::from_secs(5)).await;
    let mut waits = Feed::sharing(&still.budget, &clock);
    let bytes = frame(MAX_FRAME);
    let mut pieces = bytes.chunks(UNCOUNTED);
    while waits.has_room() {
        waits.take(pieces.next().unwrap()).unwrap();
    }
    assert_eq!((waits.deadlines(), still.deadlines()), (Ok(()), Ok(())));
    tokio::time::advance(PRESS_AFTER).await;
    assert_eq!(
        (waits.deadlines(), still.deadlines().map_err(|given_up| given_up.to_string())),
        (
            Ok(()),
            Err("its unfinished frame held 1048575 bytes for 6 s, and others waited for that room".to_owned()),
        )
    );
    drop(still);
    for piece in pieces {
        assert!(waits.has_room());
        waits.take(piece).unwrap();
    }
    assert!(!waits.reader.is_midway());
}
