//! The send queue and the request queue: nothing lost, nothing doubled, and nobody sleeps on while there is work.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::check::{Arc, block_on, bounded_model as model, thread};
use super::outbox::{NotQueued, Outbox, OutboxLimits, Priority};
use super::queue::RequestQueue;

fn outbox(frames: usize) -> Arc<Outbox> {
    let limits = OutboxLimits { data_bytes: 1 << 20, data_frames: frames, control_frames: 1 };
    Arc::new(Outbox::new(limits))
}

fn frame(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[number])
}

/// Takes frames as a session does, sleeping while there is none, until it has `count` of them.
fn take(outbox: &Outbox, count: usize) -> Vec<u8> {
    let mut taken = VecDeque::new();
    block_on(poll_fn(|cx| {
        loop {
            if taken.len() == count {
                return Poll::Ready(());
            }
            if outbox.take(&mut taken, count, usize::MAX, || Duration::ZERO, cx.waker()).is_empty() {
                return Poll::Pending;
            }
        }
    }));
    taken.iter().map(|frame| frame[0]).collect()
}

#[test]
fn a_frame_that_is_pushed_wakes_the_sender() {
    model(|| {
        let outbox = outbox(8);
        let pusher = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || outbox.push(Priority::Bulk, frame(1)))
        };
        assert_eq!(take(&outbox, 1), [1]);
        assert_eq!(pusher.join().unwrap(), Ok(()));
    });
}

#[test]
fn frames_of_two_keep_their_orders() {
    model(|| {
        let outbox = outbox(8);
        let pusher = |numbers: [u8; 2]| {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || {
                for number in numbers {
                    outbox.push(Priority::Request, frame(number)).unwrap();
                }
            })
        };
        let pushers = [pusher([1, 2]), pusher([11, 12])];
        let taken = take(&outbox, 4);
        let of = |small: bool| taken.iter().copied().filter(|n| (*n < 10) == small).collect::<Vec<_>>();
        assert_eq!((of(true), of(false)), (vec![1, 2], vec![11, 12]));
        for pusher in pushers {
            pusher.join().unwrap();
        }
        assert_eq!(outbox.kib_queued(), 0);
    });
}

#[test]
fn a_sender_that_waits_for_its_socket_is_woken_by_a_nudge() {
    model(|| {
        let outbox = outbox(8);
        let nudger = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || {
                outbox.push(Priority::Request, frame(1)).unwrap();
                outbox.nudge();
            })
        };
        // Whether the nudge comes before or after the sender went to sleep: it does not sleep on with a frame to see.
        let mut seen = VecDeque::new();
        block_on(poll_fn(|cx| {
            outbox.wait_for_nudge(cx.waker());
            outbox.take(&mut seen, 1, 1, || Duration::ZERO, cx.waker());
            if seen.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        }));
        nudger.join().unwrap();
    });
}

#[test]
fn who_waits_for_room_gets_it() {
    model(|| {
        let outbox = outbox(1);
        outbox.push(Priority::Request, frame(1)).unwrap();
        let waiter = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || {
                block_on(async {
                    loop {
                        let room = outbox.room();
                        match outbox.push(Priority::Request, frame(2)) {
                            Ok(()) => return,
                            Err(_) => room.await,
                        }
                    }
                });
            })
        };
        assert_eq!(take(&outbox, 1), [1]);
        waiter.join().unwrap();
        assert_eq!(take(&outbox, 1), [2]);
    });
}

#[test]
fn after_the_end_nothing_is_held_and_nobody_waits() {
    model(|| {
        let outbox = outbox(1);
        outbox.push(Priority::Request, frame(1)).unwrap();
        let waiter = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || {
                block_on(async {
                    loop {
                        let room = outbox.room();
                        match outbox.push(Priority::Request, frame(2)) {
                            Err(NotQueued::Full) => room.await,
                            other => return other,
                        }
                    }
                })
            })
        };
        outbox.end();
        assert_eq!(waiter.join().unwrap(), Err(NotQueued::Ended));
        assert_eq!(outbox.kib_queued(), 0);
        let mut left = VecDeque::new();
        assert!(outbox.take(&mut left, 9, 9, || Duration::ZERO, Waker::noop()).is_empty());
    });
}

#[test]
fn shedding_beside_taking_loses_no_count() {
    model(|| {
        let outbox = outbox(8);
        for number in 0..2 {
            outbox.push(Priority::Bulk, frame(number)).unwrap();
        }
        let shedder = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || outbox.shed(0).len())
        };
        let mut taken = VecDeque::new();
        outbox.take(&mut taken, 1, 1, || Duration::ZERO, Waker::noop());
        let shed = shedder.join().unwrap();
        assert_eq!(taken.len() + shed, 2);
        assert_eq!(outbox.kib_queued(), 0);
        outbox.push(Priority::Bulk, frame(3)).unwrap();
    });
}

#[test]
fn one_worker_sleeps_and_is_woken() {
    model(|| {
        let queue = Arc::new(RequestQueue::new(2));
        let asker = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                assert_eq!((queue.push(1), queue.push(2)), (Ok(()), Ok(())));
            })
        };
        let first = block_on(queue.pop());
        let second = block_on(queue.pop());
        assert_eq!((first, second), (1, 2));
        asker.join().unwrap();
    });
}

#[test]
fn two_workers_get_one_item_each_though_wake_ups_are_not_counted() {
    model(|| {
        let queue = Arc::new(RequestQueue::new(2));
        let workers = [0, 1].map(|_| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || block_on(queue.pop()))
        });
        assert_eq!((queue.push(1), queue.push(2)), (Ok(()), Ok(())));
        let mut got = workers.map(|worker| worker.join().unwrap());
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
        assert!(queue.is_empty());
    });
}

#[test]
fn what_a_worker_leaves_behind_wakes_another() {
    model(|| {
        let queue = Arc::new(RequestQueue::new(3));
        let worker = |most: usize| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                let mut batch = Vec::new();
                block_on(queue.drain(&mut batch, most));
                batch.len()
            })
        };
        let workers = [worker(1), worker(1)];
        for item in 0..2 {
            queue.push(item).unwrap();
        }
        assert_eq!(workers.map(|worker| worker.join().unwrap()), [1, 1]);
    });
}
