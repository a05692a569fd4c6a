//! What the queues guarantee, whatever is pushed, taken, shed and awaited.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Count(AtomicU32);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn frame(size: usize) -> Bytes {
    Bytes::from(vec![7; size])
}

fn small() -> Outbox {
    Outbox::new(OutboxLimits { data_bytes: 100, data_frames: 8, control_frames: 2 })
}

fn take(outbox: &Outbox, frames: usize) -> (Vec<usize>, TakenFrames) {
    let mut batch = VecDeque::new();
    let taken = outbox.take(&mut batch, frames, usize::MAX, || Duration::ZERO, Waker::noop());
    (batch.iter().map(Bytes::len).collect(), taken)
}

#[test]
fn a_full_queue_is_reported_and_lower_priorities_may_fill_less() {
    let outbox = small();
    let push = |priority, size| outbox.push(priority, frame(size));
    assert_eq!(push(Priority::Bulk, 101), Err(NotQueued::Full));
    push(Priority::Bulk, 60).unwrap();
    assert_eq!(push(Priority::Bulk, 16), Err(NotQueued::Full));
    push(Priority::Broadcast, 28).unwrap();
    assert_eq!(push(Priority::Broadcast, 1), Err(NotQueued::Full));
    push(Priority::Request, 12).unwrap();
    assert_eq!(push(Priority::Request, 1), Err(NotQueued::Full));
    push(Priority::Control, 1).unwrap();
    push(Priority::Control, 2).unwrap();
    assert_eq!(push(Priority::Control, 3), Err(NotQueued::Full));
    assert_eq!(outbox.kib_queued(), 1);
    assert_eq!(take(&outbox, 16).0, [1, 2, 12, 28, 60]);
    assert_eq!(outbox.kib_queued(), 0);
    push(Priority::Bulk, 100).unwrap();
}

#[test]
fn a_flood_slows_the_lanes_below_it_and_never_stops_them() {
    let outbox = Outbox::new(OutboxLimits { data_bytes: 64 << 20, data_frames: 100_000, control_frames: 64 });
    for _ in 0..10_000 {
        outbox.push(Priority::Request, frame(1024)).unwrap();
    }
    for _ in 0..1000 {
        outbox.push(Priority::Broadcast, frame(1025)).unwrap();
        outbox.push(Priority::Bulk, frame(1026)).unwrap();
    }
    let (sizes, taken) = take(&outbox, 1300);
    let of = |size| sizes.iter().filter(|&&taken| taken == size).count();
    // 32 : 16 : 4 KiB of each round.
    assert!((790..=810).contains(&of(1024)) && (395..=405).contains(&of(1025)), "{taken:?}");
    assert!((95..=105).contains(&of(1026)), "{taken:?}");
    // A later frame of higher priority goes next.
    outbox.push(Priority::Control, frame(9)).unwrap();
    assert_eq!(take(&outbox, 1).0, [9]);
}

#[test]
fn a_large_frame_is_paid_for_in_later_rounds() {
    let outbox = Outbox::new(OutboxLimits { data_bytes: 1 << 20, data_frames: 1024, control_frames: 64 });
    // 64 KiB of bulk: as much as 16 rounds have for it.
    outbox.push(Priority::Bulk, frame(64 << 10)).unwrap();
    assert_eq!(take(&outbox, 1).0, [64 << 10]);
    for _ in 0..200 {
        outbox.push(Priority::Request, frame(1 << 10)).unwrap();
    }
    outbox.push(Priority::Bulk, frame(3)).unwrap();
    assert!(take(&outbox, 200).0.iter().all(|&size| size != 3));
    assert_eq!(take(&outbox, 200).0, [3], "alone it need not wait for rounds");
}

#[test]
fn expired_frames_are_not_sent() {
    let outbox = small();
    let expires =
        |ms| QueuedFrame { frame: frame(1), expires: Some(Duration::from_millis(ms)), tag: Some(ms) };
    for ms in [10, 20, 30] {
        outbox.push(Priority::Request, expires(ms)).unwrap();
    }
    let mut batch = VecDeque::new();
    let taken = outbox.take(&mut batch, 16, 1000, || Duration::from_millis(20), Waker::noop());
    assert_eq!((batch.len(), taken.expired, taken.frames), (2, 1, [0, 2, 0, 0]));
}

#[test]
fn shedding_takes_bulk_first_and_leaves_requests() {
    let outbox = small();
    let push = |priority, size, tag| {
        outbox.push(priority, QueuedFrame { frame: frame(size), expires: None, tag: Some(tag) }).unwrap();
    };
    push(Priority::Bulk, 30, 1);
    push(Priority::Broadcast, 20, 2);
    push(Priority::Broadcast, 20, 3);
    push(Priority::Request, 20, 4);
    assert_eq!(outbox.shed(90), []);
    assert_eq!(outbox.shed(50), [(Priority::Bulk, Some(1)), (Priority::Broadcast, Some(2))]);
    assert_eq!(outbox.shed(0), [(Priority::Broadcast, Some(3))]);
    assert_eq!(take(&outbox, 9).0, [20]);
}

#[test]
fn a_burst_wakes_once_and_a_waiting_sender_only_by_a_nudge() {
    let (outbox, count) = (small(), Arc::new(Count::default()));
    let waker = Waker::from(Arc::clone(&count));
    let mut batch = VecDeque::new();
    assert!(outbox.take(&mut batch, 16, 1000, || Duration::ZERO, &waker).is_empty());
    (0..3).for_each(|_| outbox.push(Priority::Request, frame(1)).unwrap());
    assert_eq!(count.0.load(Relaxed), 1);
    outbox.wait_for_nudge(&waker);
    outbox.push(Priority::Control, frame(1)).unwrap();
    assert_eq!(count.0.load(Relaxed), 1);
    outbox.nudge();
    assert_eq!(count.0.load(Relaxed), 2);
}

#[test]
fn the_end_drops_data_and_returns_control() {
    let outbox = small();
    outbox.push(Priority::Bulk, frame(9)).unwrap();
    outbox.push(Priority::Control, frame(1)).unwrap();
    assert_eq!(outbox.end().len(), 1);
    assert_eq!(outbox.push(Priority::Control, frame(1)), Err(NotQueued::Ended));
    assert_eq!(outbox.kib_queued(), 0);
}

#[tokio::test]
async fn a_waiter_for_room_is_woken_by_a_take_by_shedding_and_by_the_end() {
    type Free = fn(&Outbox);
    let ways: [Free; 3] =
        [|outbox| _ = take(outbox, 1), |outbox| _ = outbox.shed(0), |outbox| _ = outbox.end()];
    for free in ways {
        let outbox = Arc::new(small());
        outbox.push(Priority::Bulk, frame(100)).unwrap();
        let room = outbox.room();
        assert_eq!(outbox.push(Priority::Request, frame(1)), Err(NotQueued::Full));
        tokio::join!(room, async {
            tokio::task::yield_now().await;
            free(&outbox);
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_ask_and_many_work_and_nothing_is_lost_or_done_twice() {
    let queue = Arc::new(RequestQueue::new(64));
    let done: Arc<Vec<AtomicU32>> = Arc::new((0..8 * 2000).map(|_| AtomicU32::new(0)).collect());
    let left = Arc::new(tokio::sync::Semaphore::new(0));
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let (queue, done, left) = (Arc::clone(&queue), Arc::clone(&done), Arc::clone(&left));
            tokio::spawn(async move {
                let mut batch = Vec::new();
                loop {
                    if worker % 2 == 0 {
                        batch.push(queue.pop().await);
                    } else {
                        queue.drain(&mut batch, 16).await;
                    }
                    let taken = batch.len();
                    batch.drain(..).for_each(|item: usize| _ = done[item].fetch_add(1, Relaxed));
                    left.add_permits(taken);
                }
            })
        })
        .collect();
    let askers: Vec<_> = (0..8)
        .map(|asker| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move {
                for item in 0..2000 {
                    let mut item = asker * 2000 + item;
                    while let Err(back) = queue.push(item) {
                        item = back;
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for asker in askers {
        asker.await.unwrap();
    }
    _ = left.acquire_many(8 * 2000).await.unwrap();
    workers.iter().for_each(|worker| worker.abort());
    assert!(queue.is_empty() && done.iter().all(|times| times.load(Relaxed) == 1));
}

fn priority(at: u8) -> Priority {
    Priority::ALL[usize::from(at) % Priority::COUNT]
}

proptest! {
    #[test]
    fn never_past_its_bounds_and_nothing_is_lost(
        steps in prop::collection::vec((any::<u8>(), 0_usize..60, 0_usize..4, any::<bool>()), 1..200)
    ) {
        let outbox = small();
        let (mut held, mut control) = (0, 0);
        for (lane, size, frames, sheds) in steps {
            let priority = priority(lane);
            if outbox.push(priority, frame(size)).is_ok() {
                held += size;
                control += usize::from(priority == Priority::Control);
            }
            if sheds {
                // Returns what was dropped, not how many bytes; the sizes are counted below.
                let before = outbox.kib_queued();
                outbox.shed(usize::MAX);
                prop_assert_eq!(outbox.kib_queued(), before);
            }
            let (sizes, taken) = take(&outbox, frames);
            held -= sizes.iter().sum::<usize>();
            control -= taken.frames[Priority::Control as usize] as usize;
            prop_assert!(control <= 2 && held <= 100 + 2 * 60);
            prop_assert_eq!(outbox.kib_queued() as usize, held.div_ceil(1024));
        }
        let mut left = 0;
        loop {
            let (sizes, _) = take(&outbox, 3);
            if sizes.is_empty() {
                break;
            }
            left += sizes.iter().sum::<usize>();
        }
        prop_assert_eq!(left, held);
    }
}
