//! What the receive budget guarantees, in whatever order frames begin, grow, finish and go.

use std::sync::atomic::AtomicU32;
use std::task::Wake;

use proptest::prelude::*;

use super::*;

const KIB: usize = 1 << 10;
const MAX_FRAME: usize = 100 * KIB;

#[derive(Default)]
struct Count(AtomicU32);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn begin(budget: &Arc<ReceiveBudget>) -> FrameCharge {
    budget.begin(Waker::noop(), s(0), false)
}

fn grows(frame: &mut FrameCharge, bytes: usize) -> bool {
    frame.poll_grow(bytes, Waker::noop(), s(0)).is_ready()
}

#[test]
fn small_frames_are_not_counted_and_a_limit_has_room_for_one_frame() {
    let budget = ReceiveBudget::new(1, MAX_FRAME);
    assert_eq!(budget.limit(), MAX_FRAME);
    assert!(budget.charge_whole(SMALL_FRAME).is_none());
    let mut frame = begin(&budget);
    assert!(grows(&mut frame, MAX_FRAME));
    let held = frame.finish(MAX_FRAME).unwrap();
    assert_eq!((held.bytes(), budget.used()), (MAX_FRAME, MAX_FRAME));
    drop(held);
    assert_eq!(budget.used(), 0);
    assert!(begin(&budget).finish(SMALL_FRAME).is_none());
}

#[test]
fn frames_that_hold_a_part_each_all_get_through() {
    let budget = ReceiveBudget::new(3 * MAX_FRAME, MAX_FRAME);
    let mut frames: Vec<FrameCharge> = (0..8).map(|_| begin(&budget)).collect();
    // Together they use up all that is shared.
    for frame in &mut frames {
        assert!(grows(frame, 25 * KIB));
    }
    assert!(grows(&mut frames[0], MAX_FRAME), "the reserve is for one of them");
    assert!(!grows(&mut frames[1], MAX_FRAME) && !grows(&mut frames[2], MAX_FRAME));
    while !frames.is_empty() {
        let oldest = frames.remove(0);
        assert_eq!(oldest.bytes(), MAX_FRAME);
        drop(oldest.finish(MAX_FRAME));
        if frames.len() > 5 {
            assert!(!grows(&mut frames[1], MAX_FRAME), "the oldest one comes first");
        }
        assert!(frames.is_empty() || grows(&mut frames[0], MAX_FRAME));
        assert!(budget.used() <= budget.limit());
    }
    assert_eq!(budget.used(), 0);
}

#[test]
fn answers_come_before_what_was_not_asked_for() {
    let budget = ReceiveBudget::new(2 * MAX_FRAME, MAX_FRAME);
    let [mut first, mut second] = [begin(&budget), begin(&budget)];
    assert!(grows(&mut first, 60 * KIB) && grows(&mut second, 90 * KIB), "the second from the reserve");
    assert!(!grows(&mut first, MAX_FRAME));
    let mut answer = budget.begin(Waker::noop(), s(0), true);
    assert!(!grows(&mut answer, 80 * KIB));
    drop(second);
    assert!(!grows(&mut first, 61 * KIB), "not even what is free: an answer waits for it");
    assert!(grows(&mut answer, 80 * KIB));
    assert!(!grows(&mut first, MAX_FRAME), "the answer has the reserve");
    drop(answer.finish(80 * KIB));
    assert!(grows(&mut first, MAX_FRAME));
}

#[test]
fn a_frame_that_waits_is_woken_when_there_is_room() {
    let budget = ReceiveBudget::new(MAX_FRAME, MAX_FRAME);
    let held = budget.charge_whole(MAX_FRAME).unwrap();
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut frame = budget.begin(&waker, s(0), false);
    assert!(frame.poll_grow(50 * KIB, &waker, s(0)).is_pending());
    assert!(frame.poll_grow(50 * KIB, &waker, s(1)).is_pending());
    assert_eq!((budget.pauses(), count.0.load(Relaxed)), (1, 0));
    drop(held);
    assert_eq!(count.0.load(Relaxed), 1);
    assert!(frame.poll_grow(50 * KIB, &waker, s(1)).is_ready());
    // A raised limit wakes as well.
    let mut other = budget.begin(&waker, s(1), false);
    assert!(other.poll_grow(60 * KIB, &waker, s(1)).is_pending());
    budget.set(3 * MAX_FRAME);
    assert_eq!(count.0.load(Relaxed), 2);
    assert!(other.poll_grow(60 * KIB, &waker, s(1)).is_ready());
}

#[test]
fn the_frame_that_holds_most_for_longest_is_given_up() {
    let budget = ReceiveBudget::new(3 * MAX_FRAME, MAX_FRAME);
    let [mut small, mut large, mut young] = [0, 0, 9].map(|at| budget.begin(Waker::noop(), s(at), false));
    assert!(grows(&mut small, 20 * KIB) && grows(&mut large, 80 * KIB));
    assert!(young.poll_grow(90 * KIB, Waker::noop(), s(9)).is_ready());
    let waiting = budget.begin(Waker::noop(), s(9), false);
    let given_up = |now| [&small, &large, &young, &waiting].map(|frame| frame.is_given_up(now).is_some());
    waiting.press(s(1));
    assert_eq!(given_up(s(1)), [false; 4], "none was read for long");
    waiting.press(s(10));
    waiting.press(s(10));
    assert_eq!(given_up(s(10)), [false, true, false, false], "as much as is needed");
    assert_eq!(large.is_given_up(s(10)), Some(s(10)));
    waiting.press(s(11));
    assert_eq!(given_up(s(11)), [false, true, false, false], "its room is on its way");
    drop(large.finish(0));
    let _handled = budget.charge_whole(MAX_FRAME);
    let mut waiting = waiting;
    assert!(waiting.poll_grow(MAX_FRAME, Waker::noop(), s(11)).is_pending());
    waiting.press(s(12));
    assert!(small.is_given_up(s(12)).is_some() && young.is_given_up(s(12)).is_some(), "both are needed");
}

#[test]
fn time_that_a_frame_waits_for_room_is_not_held_against_it() {
    let budget = ReceiveBudget::new(2 * MAX_FRAME, MAX_FRAME);
    let mut frame = begin(&budget);
    assert!(grows(&mut frame, 20 * KIB));
    let full = budget.charge_whole(2 * MAX_FRAME).unwrap();
    assert!(frame.poll_grow(40 * KIB, Waker::noop(), s(1)).is_pending());
    frame.press(s(60));
    assert_eq!(frame.is_given_up(s(60)), None);
    drop(full);
    assert!(frame.poll_grow(40 * KIB, Waker::noop(), s(60)).is_ready());
    frame.press(s(61));
    assert_eq!(frame.is_given_up(s(61)), Some(s(2)));
}

#[test]
fn between_frames_only_the_limit_counts() {
    let budget = ReceiveBudget::new(2 * MAX_FRAME, MAX_FRAME);
    let over = budget.charge_whole(2 * MAX_FRAME + 1).unwrap();
    let mut next = begin(&budget);
    assert!(!grows(&mut next, 0));
    drop(over);
    let _full = budget.charge_whole(2 * MAX_FRAME).unwrap();
    assert!(grows(&mut next, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Begin(bool),
    Grow(prop::sample::Index, usize),
    Finish(prop::sample::Index),
    Whole(usize),
    Drop(prop::sample::Index),
    DropWhole(prop::sample::Index),
    Press(prop::sample::Index),
    Limit(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        any::<bool>().prop_map(Step::Begin),
        (at(), 0..MAX_FRAME).prop_map(|(at, bytes)| Step::Grow(at, bytes)),
        (at(), 0..MAX_FRAME).prop_map(|(at, bytes)| Step::Grow(at, bytes)),
        at().prop_map(Step::Finish),
        (0..MAX_FRAME).prop_map(Step::Whole),
        at().prop_map(Step::Drop),
        at().prop_map(Step::DropWhole),
        at().prop_map(Step::Press),
        (0..5 * MAX_FRAME).prop_map(Step::Limit),
    ]
}

proptest! {
    /// What is counted is what the frames hold, growth alone never passes the limit, and all of it is given back.
    #[test]
    fn charges_and_give_backs_in_any_order_end_at_zero(steps in prop::collection::vec(step(), 1..200)) {
        let budget = ReceiveBudget::new(3 * MAX_FRAME, MAX_FRAME);
        let (mut frames, mut whole): (Vec<FrameCharge>, Vec<FrameCharge>) = (Vec::new(), Vec::new());
        for (now, step) in steps.into_iter().enumerate() {
            let now = s(now as u64);
            match step {
                Step::Begin(asked) => frames.push(budget.begin(Waker::noop(), now, asked)),
                Step::Grow(at, bytes) if !frames.is_empty() => {
                    let frame = at.get(&frames).bytes();
                    let at = at.index(frames.len());
                    let grown = frames[at].poll_grow(bytes, Waker::noop(), now).is_ready();
                    if grown && bytes > frame {
                        prop_assert!(budget.used() <= budget.limit());
                    }
                }
                Step::Finish(at) if !frames.is_empty() => {
                    let frame = frames.swap_remove(at.index(frames.len()));
                    let size = frame.bytes();
                    whole.extend(frame.finish(size));
                }
                Step::Whole(size) => whole.extend(budget.charge_whole(size)),
                Step::Drop(at) if !frames.is_empty() => drop(frames.swap_remove(at.index(frames.len()))),
                Step::DropWhole(at) if !whole.is_empty() => drop(whole.swap_remove(at.index(whole.len()))),
                Step::Press(at) if !frames.is_empty() => at.get(&frames).press(now),
                Step::Limit(limit) => budget.set(limit),
                _ => {}
            }
            let held: usize = frames.iter().chain(&whole).map(FrameCharge::bytes).sum();
            prop_assert_eq!(budget.used(), held);
        }
        drop((frames, whole));
        let left = budget.frames.lock();
        prop_assert_eq!((budget.used(), left.all.len(), left.paused.len(), left.favoured), (0, 0, 0, None));
    }

    /// Frames that are given back as soon as they are whole all become whole, whatever they hold meanwhile.
    #[test]
    fn no_frames_wait_for_each_other_for_ever(
        frames in prop::collection::vec((1..MAX_FRAME, any::<bool>()), 1..40),
        limit in 0..4 * MAX_FRAME,
    ) {
        let budget = ReceiveBudget::new(limit, MAX_FRAME);
        let begin = |(size, asked)| (size, budget.begin(Waker::noop(), s(0), asked));
        let mut open: Vec<(usize, FrameCharge)> = frames.into_iter().map(begin).collect();
        while !open.is_empty() {
            let (count, before) = (open.len(), budget.used());
            for (size, frame) in &mut open {
                _ = grows(frame, (frame.bytes() + 10 * KIB).min(*size));
            }
            let grown = budget.used() > before;
            open.retain(|(size, frame)| frame.bytes() < *size);
            prop_assert!(grown || open.len() < count, "nothing moves");
        }
    }
}
