//! A whole node with a drop-in folder that holds many files, none of which changes and none of which is a phase.

use std::fs;
use std::time::Duration;

use groundskeeper::config::Config;
use groundskeeper::data::DataFolder;
use groundskeeper::node::Node;
use serde_json::Value;
use tokio::time::sleep;

use super::{GROUP, Usage, used_in, watch};
use crate::engine::Scratch;
use crate::report::{Report, Row};

/// Files in the full folder: more than an operator leaves there, and what a wrong `--phases` meets.
const FILES: usize = 10_000;

const INTERVAL: Duration = Duration::from_secs(1);
const TICKS_PER_MINUTE: f64 = 60.0;

/// Compares the full folder with an empty one.
pub fn report(seconds: u32, report: &mut Report) {
    let [Some(empty), Some(full)] = ["empty-folder", "full-folder"].map(|variant| watch(variant, seconds))
    else {
        eprintln!("idle: a child process failed; no figures of the drop-in folder");
        return;
    };
    // Ticks are in the place of pings.
    let per_minute = |usage: &Usage| usage.cpu_ms * TICKS_PER_MINUTE / usage.pings;
    report.push(
        Row::cost(GROUP, "CPU", "10,000 files in the drop-in folder, 60 ticks", per_minute(&full), "ms")
            .against("an empty folder", per_minute(&empty))
            .note(format!("{} ticks in {} s", full.pings, full.seconds)),
    );
}

/// A node without peers, after its start.
pub async fn node(time: Duration, is_full: bool) -> Value {
    let scratch = Scratch::new("folder");
    let dir = scratch.0.join("phases.d");
    fs::create_dir_all(&dir).expect("a folder of our own");
    for number in 0..if is_full { FILES } else { 0 } {
        fs::write(dir.join(format!("note-{number}.txt")), "no phase\n").expect("a folder of our own");
    }
    let config = Config::parse("[node]\ninterval = \"1s\"\n[net]\nlisten = [\"127.0.0.1:0\"]\n", "bench");
    let config = config.unwrap_or_else(|problems| panic!("{problems:?}"));
    let data = DataFolder::open(&scratch.0.join("data")).expect("a folder of our own");
    let node = Node::builder().config(config).drop_in(dir).data_folder(data).start().await;
    let node = node.unwrap_or_else(|error| panic!("{error}"));
    let stats = std::sync::Arc::clone(node.maintenance().handle().stats());
    // The start reads the folder; the ticks after it do not belong to the start.
    while stats.finished() < 3 {
        sleep(INTERVAL).await;
    }
    let told = used_in(time, move || stats.finished()).await;
    node.shutdown(Duration::from_secs(5)).await;
    told
}
