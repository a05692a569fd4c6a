//! A node without a network, assembled like a complete one: ticker, reloader, loader, watcher, real files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use groundskeeper::clock::{Clock, SystemClock};
use groundskeeper::cycle::BeatReport;
use groundskeeper::data::DataFolder;
use groundskeeper::engine::{Executor, PhaseThread};
use groundskeeper::loader::Loader;
use groundskeeper::node::{Maintenance, NodeLimits, NodeState, Options};
use groundskeeper::peer::PeerId;
use groundskeeper::registry::LastRuns;
use groundskeeper::reload::{
    self, CycleChange, PhaseChange, PhaseReloader, ReloadEvent, ReloadHandle, ReloadOptions, StartFrom,
};
use tokio::runtime::Runtime;
use tokio::sync::{broadcast, oneshot};

use crate::engine::Scratch;

/// No reload of a file takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn manifest(name: &str, more: &str) -> String {
    format!(
        "{more}name = \"{name}\"\nkind = \"wasm\"\nmodule = \"{name}.wasm\"\n\n[schedule]\nevery_n_ticks = 1\n\n[grants]\n\
         peers = true\nping = {{ max_per_tick = 256 }}\n"
    )
}

/// A file outside the drop-in folder, and its final path.
pub struct Ready {
    pub from: PathBuf,
    to: PathBuf,
}

impl Ready {
    fn rename(self) {
        fs::rename(self.from, self.to).expect("one file system");
    }
}

/// The resources of the process at one moment.
pub struct Held {
    pub resident_mb: f64,
    pub mappings: f64,
    pub descriptors: f64,
    pub tasks: f64,
    pub threads: f64,
}

pub struct Node {
    runtime: Runtime,
    maintenance: Option<Maintenance>,
    reload: ReloadHandle,
    task: Option<tokio::task::JoinHandle<()>>,
    stop: Option<oneshot::Sender<()>>,
    scratch: Scratch,
}

impl Node {
    /// Starts a node with one phase per name, each with different bytes.
    pub fn start(what: &str, interval: Duration, names: &[String], bytes: impl Fn() -> Vec<u8>) -> Self {
        let scratch = Scratch::new(what);
        let dir = scratch.0.join("phases.d");
        fs::create_dir_all(&dir).expect("a folder of our own");
        for name in names {
            fs::write(dir.join(format!("{name}.wasm")), bytes()).expect("a folder of our own");
            fs::write(dir.join(format!("{name}.toml")), manifest(name, "")).expect("a folder of our own");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let inside = runtime.enter();
        let clock = SystemClock::new() as Arc<dyn Clock>;
        let limits = NodeLimits::for_connections(1024);
        let state = NodeState::new(PeerId::from_bytes([7; 32]), limits, Arc::clone(&clock), None);
        let options = Options { interval, ..Options::default() };
        let maintenance = Maintenance::start(&state, Vec::new(), options).expect("no phase is a bad one");
        let folder = Arc::new(DataFolder::open(&scratch.0.join("data")).expect("a folder of our own"));
        let factory = Loader::lazy(folder.artifacts(), false);
        let options = ReloadOptions::trusting(dir);
        let fence = Executor::Thread(PhaseThread::default());
        let mut reloader = PhaseReloader::new(options, folder, factory, fence, clock);
        let ticker = maintenance.handle().clone();
        let mut ticks = |change: CycleChange| runtime.block_on(ticker.with_cycle(change)).is_some();
        reloader.begin(&mut ticks, StartFrom::Folder, &LastRuns::default()).expect("a folder of our own");
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move { _ = stopped.await };
        let (reload, task) = reload::run(reloader, ticker, stopped);
        let running = maintenance.statuses().read().iter().filter(|phase| phase.last_error.is_none()).count();
        assert_eq!(running, names.len(), "{:?}", maintenance.statuses().read());
        drop(inside);
        Self { runtime, maintenance: Some(maintenance), reload, task: Some(task), stop: Some(stop), scratch }
    }

    fn maintenance(&self) -> &Maintenance {
        self.maintenance.as_ref().expect("until it is dropped")
    }

    pub fn beats(&self) -> broadcast::Receiver<Arc<BeatReport>> {
        self.maintenance().handle().reports()
    }

    pub fn skipped(&self) -> u64 {
        self.maintenance().handle().stats().skipped()
    }

    /// Writes a module outside the drop-in folder.
    pub fn prepare(&self, name: &str, bytes: &[u8]) -> Ready {
        self.lay(format!("{name}.wasm"), bytes)
    }

    pub fn prepare_manifest(&self, name: &str, text: &str) -> Ready {
        self.lay(format!("{name}.toml"), text.as_bytes())
    }

    fn lay(&self, file: String, bytes: &[u8]) -> Ready {
        let ready =
            Ready { from: self.scratch.0.join(&file), to: self.scratch.0.join("phases.d").join(file) };
        fs::write(&ready.from, bytes).expect("a folder of our own");
        ready
    }

    /// Renames the file to its final path, and waits until the phase has run.
    pub fn rename_to_run(&self, phase: &str, file: Ready) -> Duration {
        let mut events = self.reload.events();
        let begun = Instant::now();
        file.rename();
        self.runtime.block_on(applied(&mut events, 1));
        self.run(phase);
        begun.elapsed()
    }

    /// Renames many files to their final paths, and waits until the last phase is applied.
    pub fn rename_all(&self, files: Vec<Ready>) -> Duration {
        let (mut events, count) = (self.reload.events(), files.len());
        let begun = Instant::now();
        files.into_iter().for_each(Ready::rename);
        self.runtime.block_on(applied(&mut events, count));
        begun.elapsed()
    }

    /// Renames the file, orders a reload at once, and runs the phase.
    pub fn ordered(&self, phase: &str, file: Ready) {
        file.rename();
        let report = self.runtime.block_on(self.reload.reload()).expect("it runs");
        assert!(report.is_good() && !report.events.is_empty(), "{report:?}");
        self.run(phase);
    }

    fn run(&self, phase: &str) {
        let ran = self.runtime.block_on(self.maintenance().handle().run_now(phase));
        let report = ran.expect("it may run");
        assert!(report.runs.iter().any(|run| *run.name == *phase && run.result == "ok"), "{report:?}");
    }

    pub fn held(&self) -> Held {
        let status = fs::read_to_string("/proc/self/status").expect("Linux");
        let number = |name: &str| -> f64 {
            let line = status.lines().find(|line| line.starts_with(name)).expect("Linux says so");
            line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
        };
        let mappings = fs::read_to_string("/proc/self/maps").expect("Linux").lines().count();
        Held {
            resident_mb: number("VmRSS:") / 1024.0,
            mappings: mappings as f64,
            descriptors: fs::read_dir("/proc/self/fd").expect("Linux").count() as f64,
            tasks: self.runtime.metrics().num_alive_tasks() as f64,
            threads: number("Threads:"),
        }
    }

    /// A folder on the same file system.
    pub fn folder(&self) -> &Path {
        &self.scratch.0
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let (Some(task), Some(maintenance)) = (self.task.take(), self.maintenance.take()) {
            self.runtime.block_on(async {
                // Only its end matters.
                _ = task.await;
                maintenance.stop().await
            });
        }
    }
}

/// Waits until `count` phases are applied. Any failure is a mistake of the bench.
async fn applied(events: &mut broadcast::Receiver<ReloadEvent>, mut count: usize) {
    while count > 0 {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await;
        let event = event.expect("it was taken in time").expect("the reloader runs");
        match event.change {
            PhaseChange::Applied => count -= 1,
            PhaseChange::Proven => {}
            _ => panic!("{event:?}"),
        }
    }
}
