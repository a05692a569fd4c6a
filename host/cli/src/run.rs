//! `run`: runs a node from flags to shutdown, with one readable line per tick. The node itself is elsewhere.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::Context;
use groundskeeper::base::text::{printable_json, printable_lines};
use groundskeeper::clock::SystemClock;
use groundskeeper::config::{Config, Overrides};
use groundskeeper::cycle::BeatReport;
use groundskeeper::data::DataFolder;
use groundskeeper::descriptors;
use groundskeeper::engine::Compiler;
use groundskeeper::journal::Initiator;
use groundskeeper::node::{ConfigSource, Node, NodeBuilder, ShutdownStep};
use groundskeeper::record::{Recorder, RecorderOptions};
use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::lines::OutputLines;
use super::signals::Signals;
use super::{BadConfig, RunArgs, admin_socket, data_dir, exit, local, logging, notify, watchdog};

/// The credential with the node's key.
const KEY_CREDENTIAL: &str = "node.key";

/// How long to wait for threads that do not end, after the deadline of the shutdown.
const LAST_GRACE: Duration = Duration::from_millis(500);

/// How long a start waits for the manifests of built-in phases: a busy disk answers within a second or two.
const FOLDER_PATIENCE: Duration = Duration::from_secs(5);

/// This long after the deadline of the shutdown, the process is ended from outside: then something hangs without a
/// bound.
const LAST_RESORT: Duration = Duration::from_secs(2);

/// After a reload by SIGHUP, how long the next one waits: signals that come in between are one.
const HANGUP_PAUSE: Duration = Duration::from_secs(1);

/// Runs a node until it gets a signal to stop.
///
/// # Errors
/// Any reason why a node cannot run.
pub(super) fn run(args: &RunArgs, compiler: Compiler, json: bool) -> anyhow::Result<ExitCode> {
    let (file, overrides, on_one_machine) =
        (args.config.clone(), args.overrides(), args.local_peers > 0 && args.config.is_none());
    let read = move |without_manifests| {
        let overrides = Overrides { without_manifests, ..overrides.clone() };
        let mut config = Config::load_with(file.as_deref(), &overrides)?;
        if on_one_machine {
            local::keep_to_this_machine(&mut config);
        }
        Ok(config)
    };
    // A signal still ends the process here, even if the file system hangs.
    let whole = within(FOLDER_PATIENCE, read.clone())?;
    let is_whole = whole.is_some();
    let config = whole.unwrap_or_else(|| read(true)).map_err(BadConfig)?;
    let (set_level, log) = logging::start(&config.log)?;
    if !is_whole {
        tracing::error!(
            "the drop-in folder does not answer: the node starts with the built-in phases as the config file has them"
        );
    }
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let applied = Box::new(move |config: &Config| set_level(config.log.level));
    let source = ConfigSource { file: args.config.clone(), read: Box::new(move || read(false)), applied };
    // Signals come before the node: from here on a stop signal means an orderly stop, and SIGHUP a reload once it runs.
    let signals = Signals::start(config.shutdown.deadline + LAST_RESORT, log.clone())?;
    enough_threads()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // The runtime panics if it needs a thread for blocking work, has none and gets none. So it keeps the first one.
        .thread_keep_alive(FOREVER)
        .build()?;
    let ended = runtime.block_on(async {
        tokio::task::spawn_blocking(|| ()).await?;
        run_until_told(args, config, source, compiler, signals, json).await
    });
    // A phase or a file operation that never returns keeps a thread; the process does not wait for it.
    runtime.shutdown_timeout(LAST_GRACE);
    log.flush(LAST_GRACE);
    ended
}

/// Longer than any process runs.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Threads of a node beside the workers of its runtime: for blocking work, the phases, and each disk that may hang.
const OWN_THREADS: usize = 8;

/// Fails if the system does not give as many threads as a node starts with. The runtime would panic in their place.
fn enough_threads() -> anyhow::Result<()> {
    let wanted = std::thread::available_parallelism().map_or(1, usize::from) + OWN_THREADS;
    let (mut holds, mut threads) = (Vec::new(), Vec::new());
    let enough = (0..wanted).try_for_each(|_| {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        holds.push(hold);
        // Ends when `holds` is dropped.
        threads.push(std::thread::Builder::new().stack_size(64 << 10).spawn(move || _ = held.recv())?);
        Ok::<(), std::io::Error>(())
    });
    drop(holds);
    threads.into_iter().for_each(|thread| _ = thread.join());
    enough.with_context(|| {
        format!("a node starts with {wanted} threads, and the system gives fewer (see ulimit -u)")
    })
}

/// What `read` returns, if it returns within `patience`. It may hang: the drop-in folder can be on a mount that is gone.
fn within<R: Send + 'static>(
    patience: Duration,
    read: impl FnOnce(bool) -> R + Send + 'static,
) -> std::io::Result<Option<R>> {
    let (result_tx, result) = std::sync::mpsc::channel();
    // The receiver may be gone by then.
    std::thread::Builder::new().name("gk-config".into()).spawn(move || _ = result_tx.send(read(false)))?;
    match result.recv_timeout(patience) {
        Ok(result) => Ok(Some(result)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(std::io::Error::other("reading the config panicked")),
    }
}

/// Starts a node, runs it until a signal or the last tick, and stops it.
async fn run_until_told(
    args: &RunArgs,
    config: Config,
    source: ConfigSource,
    compiler: Compiler,
    mut signals: Signals,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let deadline = config.shutdown.deadline;
    let starting = start(args, config, source, compiler);
    tokio::pin!(starting);
    let (mut stop, hangup) = (signals.stop(), signals.hangup());
    let (started, told) = tokio::select! {
        started = &mut starting => (started, None),
        name = stop.told() => {
            tracing::info!(name, "told to stop while starting");
            let at = Instant::now();
            let Ok(started) = tokio::time::timeout(deadline, &mut starting).await else {
                tracing::warn!("the start did not end in time and is abandoned");
                return Ok(ExitCode::from(exit::FAILED));
            };
            (started, Some((name, at)))
        }
    };
    let (config, node, locals) = started?;
    if told.is_none() {
        notify::ready("started");
    }
    let lines = json || std::io::stdout().is_terminal() || args.ticks.is_some();
    let mut out = BeatPrinter { json, lines, out: OutputLines::start("gk-out", std::io::stdout())? };
    out.greet(&config, &node, locals.len());
    let why = match told {
        Some((name, _)) => name,
        None => tokio::select! {
            () = follow(node.maintenance().handle().reports(), args.ticks, &mut out) => "the last tick has run",
            () = reload_at_hangup(hangup, &node) => "signals have ended",
            never = watchdog::feed(&node) => match never {},
            name = stop.told() => name,
        },
    };
    let left = told.map_or(deadline, |(_, at)| deadline.saturating_sub(at.elapsed()));
    tracing::info!(why, "shutting down");
    notify::stopping();
    // A second signal ends the process, whatever happens here.
    let is_clean = shut_down(node, locals, left).await;
    out.out.flush(LAST_GRACE);
    Ok(ExitCode::from(exit::done_if(is_clean)))
}

/// Starts the node and its local peers. File operations are on threads of their own, so the caller can stop waiting.
async fn start(
    args: &RunArgs,
    config: Config,
    source: ConfigSource,
    compiler: Compiler,
) -> anyhow::Result<(Config, Node, Vec<Node>)> {
    let (path, local_peers) = (data_dir(&config)?, args.local_peers);
    let (record, max_bytes) = (args.record.clone(), args.record_max.0);
    let (socket_config, is_asked) = (config.clone(), config.admin.enabled);
    let opening = move || -> anyhow::Result<_> {
        let data = DataFolder::open(&path)?;
        let locals = (1..=local_peers)
            .map(|n| DataFolder::open(&DataFolder::local_peer(&path, n)))
            .collect::<Result<Vec<_>, _>>()?;
        let admin_socket = if is_asked { Some(admin_socket(&socket_config)?) } else { None };
        let options = RecorderOptions { max_bytes, ..RecorderOptions::default() };
        let recorder = record.as_deref().map(|path| Recorder::start(path, options)).transpose()?;
        Ok((data, locals, admin_socket, recorder, credential(KEY_CREDENTIAL)))
    };
    let (opened_tx, opened) = tokio::sync::oneshot::channel();
    // If the receiver is gone, the process is ending.
    std::thread::Builder::new().name("gk-open".into()).spawn(move || _ = opened_tx.send(opening()))?;
    let (data, local_peers, admin_socket, recorder, key_file) = opened.await??;
    let clock = SystemClock::new();
    let nodes = u32::try_from(local_peers.len()).unwrap_or(u32::MAX).saturating_add(1);
    let descriptors = descriptors::limit().shared_by(nodes);
    // Local nodes first: the main node's first tick finds them, and their start can fail before the main node runs.
    let locals = local::start(&config, local_peers, descriptors, &clock).await?;
    let builder =
        Node::builder().config(config.clone()).config_source(source).data_folder(data).clock(clock.clone());
    let builder = builder.descriptors(descriptors).compiler(compiler);
    let builder = key_file.into_iter().fold(builder, NodeBuilder::key_file);
    let builder = admin_socket.into_iter().fold(builder, NodeBuilder::admin_socket);
    let builder = config.telemetry.listen.into_iter().fold(builder, NodeBuilder::telemetry);
    match recorder.into_iter().fold(builder, NodeBuilder::recorder).start().await {
        Ok(node) => {
            local::introduce(&locals, &node);
            Ok((config, node, locals))
        }
        Err(error) => {
            leave(locals, config.shutdown.deadline).await;
            Err(error.into())
        }
    }
}

/// A file in the folder of CREDENTIALS_DIRECTORY, which systemd sets. None only if there is certainly no such file: otherwise a
/// new folder would get another key. Blocks while the file system does not answer.
fn credential(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|folder| !folder.is_empty())?;
    let file = Path::new(&folder).join(name);
    let is_missing = file.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
    if is_missing {
        return None;
    }
    tracing::info!(file = %file.display(), "the node's key is read from the credential");
    Some(file)
}

/// Shuts the local nodes down in parallel: each would otherwise wait for the goodbyes of the others.
async fn leave(locals: Vec<Node>, deadline: Duration) {
    let mut leaving: tokio::task::JoinSet<_> =
        locals.into_iter().map(|local| local.shutdown(deadline / 4)).collect();
    while leaving.join_next().await.is_some() {}
}

/// True if every step succeeded.
async fn shut_down(node: Node, locals: Vec<Node>, deadline: Duration) -> bool {
    let begun = Instant::now();
    leave(locals, deadline).await;
    let deadline = deadline.saturating_sub(begun.elapsed());
    let mut is_clean = true;
    for ShutdownStep { number, what, took, trouble } in node.shutdown(deadline).await {
        let took_ms = took.as_millis() as u64;
        match trouble {
            None => tracing::info!(number, what, took_ms, "shutdown step"),
            Some(trouble) => {
                is_clean = false;
                tracing::warn!(number, what, took_ms, trouble, "shutdown step");
            }
        }
    }
    is_clean
}

/// Reports every beat to the terminal and to systemd; returns after `last` ticks.
async fn follow(mut reports: Receiver<Arc<BeatReport>>, last: Option<u32>, out: &mut BeatPrinter) {
    let mut ticks = 0;
    loop {
        let report = match reports.recv().await {
            Ok(report) => report,
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "the terminal is slower than the ticks");
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        out.beat(&report);
        if report.urgent > 0 {
            continue;
        }
        ticks += 1;
        notify::tick_ended(&format!("tick {}, {} connected", report.tick, report.connected));
        if last == Some(ticks) {
            return;
        }
    }
}

/// Reads the config and scans the drop-in folder after SIGHUP. Signals that come during that lead to one more reload.
async fn reload_at_hangup(hangup: Arc<Notify>, node: &Node) {
    loop {
        hangup.notified().await;
        notify::reloading();
        if let Some(reconfigurer) = node.reconfigurer() {
            reconfigurer.reconfigure(Initiator::OPERATOR, "SIGHUP").await.log();
        }
        let report = match node.reload() {
            Some(reload) => reload.reload().await,
            None => None,
        };
        notify::ready("reloaded");
        if let Some(report) = report {
            tracing::info!(
                changes = report.events.len(),
                good = report.is_good(),
                "looked at the phases: SIGHUP"
            );
        }
        tokio::time::sleep(HANGUP_PAUSE).await;
    }
}

/// Standard output: a line per beat on a terminal or for a run of known length, JSON lines on request.
struct BeatPrinter {
    json: bool,
    lines: bool,
    out: OutputLines,
}

impl BeatPrinter {
    fn line(&mut self, text: &str) {
        // If the reader closed the pipe, output stops and the node goes on.
        let text = if self.json { printable_json(text) } else { printable_lines(text) };
        self.lines =
            self.lines && !self.out.is_closed() && self.out.write_all(format!("{text}\n").as_bytes()).is_ok();
    }

    fn greet(&mut self, config: &Config, node: &Node, locals: usize) {
        let addresses: Vec<String> = node.net().local_addrs().iter().map(ToString::to_string).collect();
        tracing::info!(id = %node.id(), listen = addresses.join(" "), new = node.is_new(), "node started");
        if self.json {
            return;
        }
        self.line(&format!("node {} of network {:?}", node.id(), config.node.network));
        self.line(&format!("  listening on {}", addresses.join(", ")));
        self.line(&format!("  data folder  {}", node.folder().path().display()));
        if locals > 0 {
            self.line(&format!("  with {locals} more nodes in this process"));
        }
        self.line(&format!(
            "  a tick each {0:?}, the first {0:?} from now; Ctrl-C stops",
            config.node.interval
        ));
    }

    fn beat(&mut self, report: &BeatReport) {
        if self.json {
            match serde_json::to_string(report) {
                Ok(line) => self.line(&line),
                Err(error) => tracing::error!(%error, "a report that is not JSON"),
            }
            return;
        }
        let number = if report.urgent == 0 {
            format!("tick {}", report.tick)
        } else {
            format!("tick {} urgent {}", report.tick, report.urgent)
        };
        let mut text = format!("{number}: {} connected", report.connected);
        let tally = report.tally;
        for (count, did) in [
            (tally.pinged, "pinged"),
            (tally.disconnected, "disconnected"),
            (tally.dialed, "dialed"),
            (tally.probed, "probed"),
            (tally.banned, "banned"),
            (tally.broadcasts_forgotten, "broadcasts forgotten"),
            (tally.addresses_forgotten, "addresses forgotten"),
            (tally.shadow, "in shadow"),
            (tally.void + tally.refused, "not done"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {count} {did}"));
            }
        }
        if report.late {
            text.push_str(&format!(", late ({} ticks skipped)", report.skipped));
        }
        for run in report.runs.iter().filter(|run| run.result != "ok") {
            text.push_str(&format!(", {} {}", run.name, run.result));
        }
        let runs: Vec<&str> = report.runs.iter().map(|run| &*run.name).collect();
        text.push_str(&format!("  [{} in {:.1} ms]", runs.join(" "), report.took.as_secs_f64() * 1000.0));
        self.line(&text);
    }
}
