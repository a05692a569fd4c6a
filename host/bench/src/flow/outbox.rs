//! One connection's send queue, compared with a channel without priorities, byte limits or deadlines.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use groundskeeper::flow::{NotQueued, Outbox, OutboxLimits, Priority};
use tokio::runtime::Builder;
use tokio::sync::mpsc;

use super::GROUP;
use crate::Effort;
use crate::pool::scan::thousands;
use crate::report::{Reach, Report, Row};
use crate::rounds::{Sample, medians, nanos, used};

const PRODUCERS: usize = 2;
const FRAME: usize = 64;

/// Maximum number of waiting frames, in both.
const CAPACITY: usize = 1024;

/// Frames taken at once: the batch of one write.
const GATHERED: usize = 16;
/// Limit of bytes taken at once. These frames stay far below it.
const BATCH_BYTES: usize = 32 * 1024;

/// No frame expires, so the clock is never read.
const NO_TIME: fn() -> Duration = || Duration::ZERO;

pub fn run(effort: &Effort, report: &mut Report) {
    let rounds = effort.choose(15, 5);
    let each = 100_000;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for at_once in [GATHERED, 256] {
        let samples: [Sample<'_>; 3] = [
            Box::new(|| runtime.block_on(ours(each, at_once, [Priority::Request; PRODUCERS]))),
            Box::new(|| runtime.block_on(ours(each, at_once, [Priority::Request, Priority::Broadcast]))),
            Box::new(|| runtime.block_on(channel(each, at_once))),
        ];
        let [one, two, channel] = medians(rounds, samples);
        let subject =
            format!("{PRODUCERS} x {} frames of {FRAME} B, {at_once} taken at once", thousands(each));
        let row = |measure, value| {
            Row::rate(GROUP, measure, subject.as_str(), value, "frames/s")
                .against("tokio mpsc, recv_many", channel)
                .reach(Reach::Times(1.0))
        };
        report.push(row("send queue, one lane", one));
        report.push(row("send queue, two lanes", two));
    }
}

/// Frames per second until the consumer has them all. Each producer uses the lane given for it.
async fn ours(each: usize, at_once: usize, lanes: [Priority; PRODUCERS]) -> f64 {
    let limits = OutboxLimits { data_frames: CAPACITY, ..OutboxLimits::default() };
    let outbox = Arc::new(Outbox::new(limits));
    let frame = Bytes::from(vec![7; FRAME]);
    let begun = Instant::now();
    let taking = Arc::clone(&outbox);
    let consumer = tokio::spawn(async move {
        let (mut batch, mut left) = (VecDeque::with_capacity(at_once), PRODUCERS * each);
        poll_fn(|cx| {
            while left > 0 {
                if taking.take(&mut batch, at_once, BATCH_BYTES, NO_TIME, cx.waker()).is_empty() {
                    return Poll::Pending;
                }
                left -= batch.len();
                batch.drain(..).for_each(used);
            }
            Poll::Ready(())
        })
        .await;
    });
    for lane in lanes {
        let (outbox, frame) = (Arc::clone(&outbox), frame.clone());
        tokio::spawn(async move {
            for _ in 0..each {
                push(&outbox, lane, &frame).await;
            }
        });
    }
    consumer.await.expect("nothing in a sample panics");
    (PRODUCERS * each) as f64 * 1e9 / nanos(begun.elapsed())
}

/// Waits for space, as a request may.
async fn push(outbox: &Outbox, lane: Priority, frame: &Bytes) {
    if outbox.push(lane, frame.clone()).is_ok() {
        return;
    }
    loop {
        let room = outbox.room();
        match outbox.push(lane, frame.clone()) {
            Err(NotQueued::Full) => room.await,
            pushed => return pushed.expect("the queue does not end"),
        }
    }
}

async fn channel(each: usize, at_once: usize) -> f64 {
    let (sender, mut receiver) = mpsc::channel(CAPACITY);
    let frame = Bytes::from(vec![7; FRAME]);
    let begun = Instant::now();
    let consumer = tokio::spawn(async move {
        let mut batch: Vec<Bytes> = Vec::with_capacity(at_once);
        while receiver.recv_many(&mut batch, at_once).await > 0 {
            batch.drain(..).for_each(used);
        }
    });
    for _ in 0..PRODUCERS {
        let (sender, frame) = (sender.clone(), frame.clone());
        tokio::spawn(async move {
            for _ in 0..each {
                sender.send(frame.clone()).await.expect("the consumer is there until all producers are gone");
            }
        });
    }
    drop(sender);
    consumer.await.expect("nothing in a sample panics");
    (PRODUCERS * each) as f64 * 1e9 / nanos(begun.elapsed())
}
