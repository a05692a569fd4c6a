//! Many producers, one consumer: our queue, the seed's way to empty one, and tokio's channel.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use groundskeeper::flow::RequestQueue;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::yield_now;

use super::GROUP;
use crate::Effort;
use crate::pool::scan::thousands;
use crate::report::{Reach, Report, Row};
use crate::rounds::{Sample, median, medians, nanos, used};

/// The size of a cache line.
type Item = [u8; 64];

const PRODUCERS: usize = 16;
const CAPACITY: usize = 1024;

/// Maximum number of items that our consumer and tokio's take at once.
const AT_ONCE: usize = 256;

/// Operations per second of the transaction queue, as recorded in the seeds' own refactoring: 8.97 us each.
const SEEDS_RECORD: f64 = 111_525.0;

/// The seed's consumer takes this many, then sleeps.
const SEEDS_POPS: usize = 10;
const SEEDS_NAP: Duration = Duration::from_millis(1);

pub fn run(effort: &Effort, report: &mut Report) {
    let rounds = effort.choose(15, 5);
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let seeds = median((0..effort.choose(3, 1)).map(|_| by_threads(500, seeds_consumer)).collect());
    for each in [500, 20_000] {
        let samples: [Sample<'_>; 3] = [
            Box::new(|| by_threads(each, our_consumer)),
            Box::new(|| runtime.block_on(our_tasks(each))),
            Box::new(|| runtime.block_on(channel_tasks(each))),
        ];
        let [threads, tasks, channel] = medians(rounds, samples);
        let subject = format!("{PRODUCERS} x {} items of 64 B", thousands(each));
        let row = |measure, value| Row::rate(GROUP, measure, subject.as_str(), value, "items/s");
        let by_threads = row("request queue, threads", threads);
        report.push(by_threads.clone().against("the seed's record", SEEDS_RECORD).reach(Reach::Times(45.0)));
        if each == 500 {
            report.push(by_threads.against("the seed's consumer, the same queue", seeds).note(
                "at most ten pops, then a sleep of 1 ms: the sleep is what its record measured, whatever the queue",
            ));
        }
        report.push(row("request queue, tasks", tasks).against("tokio mpsc, recv_many", channel));
    }
}

fn item(number: usize) -> Item {
    let mut item = [7; 64];
    item[..8].copy_from_slice(&(number as u64).to_le_bytes());
    item
}

/// Items per second from the first push to the last pop. Producers are threads; they yield while the queue is full.
fn by_threads(each: usize, consume: fn(&RequestQueue<Item>, usize)) -> f64 {
    let queue = RequestQueue::new(CAPACITY);
    let (gate, epoch, begun) = (Barrier::new(PRODUCERS + 1), Instant::now(), AtomicU64::new(u64::MAX));
    let begin = || {
        gate.wait();
        begun.fetch_min(epoch.elapsed().as_nanos() as u64, Relaxed);
    };
    let ended = thread::scope(|scope| {
        for _ in 0..PRODUCERS {
            scope.spawn(|| {
                begin();
                for at in 0..each {
                    let mut item = item(at);
                    while let Err(back) = queue.push(item) {
                        item = back;
                        thread::yield_now();
                    }
                }
            });
        }
        begin();
        consume(&queue, PRODUCERS * each);
        nanos(epoch.elapsed())
    });
    (PRODUCERS * each) as f64 * 1e9 / (ended - begun.into_inner() as f64)
}

fn our_consumer(queue: &RequestQueue<Item>, count: usize) {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(drained(queue, count));
}

async fn drained(queue: &RequestQueue<Item>, mut count: usize) {
    let mut batch = Vec::with_capacity(AT_ONCE);
    while count > 0 {
        queue.drain(&mut batch, AT_ONCE).await;
        count -= batch.len();
        batch.drain(..).for_each(used);
    }
}

fn seeds_consumer(queue: &RequestQueue<Item>, mut count: usize) {
    while count > 0 {
        let popped = std::iter::from_fn(|| queue.try_pop()).take(SEEDS_POPS.min(count)).map(used).count();
        count -= popped;
        thread::sleep(SEEDS_NAP);
    }
}

async fn our_tasks(each: usize) -> f64 {
    let queue = Arc::new(RequestQueue::new(CAPACITY));
    let begun = Instant::now();
    let consumer = Arc::clone(&queue);
    let consumer = tokio::spawn(async move { drained(&consumer, PRODUCERS * each).await });
    for _ in 0..PRODUCERS {
        let queue = Arc::clone(&queue);
        tokio::spawn(async move {
            for at in 0..each {
                let mut item = item(at);
                while let Err(back) = queue.push(item) {
                    item = back;
                    yield_now().await;
                }
            }
        });
    }
    consumer.await.expect("nothing in a sample panics");
    (PRODUCERS * each) as f64 * 1e9 / nanos(begun.elapsed())
}

async fn channel_tasks(each: usize) -> f64 {
    let (sender, mut receiver) = mpsc::channel(CAPACITY);
    let begun = Instant::now();
    let consumer = tokio::spawn(async move {
        let mut batch: Vec<Item> = Vec::with_capacity(AT_ONCE);
        while receiver.recv_many(&mut batch, AT_ONCE).await > 0 {
            batch.drain(..).for_each(used);
        }
    });
    for _ in 0..PRODUCERS {
        let sender = sender.clone();
        tokio::spawn(async move {
            for at in 0..each {
                sender.send(item(at)).await.expect("the consumer is there until all producers are gone");
            }
        });
    }
    drop(sender);
    consumer.await.expect("nothing in a sample panics");
    (PRODUCERS * each) as f64 * 1e9 / nanos(begun.elapsed())
}
