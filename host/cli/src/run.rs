//! `run`: runs a node from flags to shutdown, with one readable line per tick. The node itself is elsewhere.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper::clock::SystemClock;
use groundskeeper::config::Config;
use groundskeeper::cycle::BeatReport;
use groundskeeper::data::DataFolder;
use groundskeeper::engine::Compiler;
use groundskeeper::node::{ConfigSource, Node, NodeBuilder, ShutdownStep};
use groundskeeper::record::{Recorder, RecorderOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::{BadConfig, RunArgs, admin_socket, data_dir, exit, local, logging, notify};

/// How long to wait for threads that do not end, after the deadline of the shutdown.
const LAST_GRACE: Duration = Duration::from_millis(500);

/// Runs a node until it gets a signal to stop.
///
/// # Errors
/// Any reason why a node cannot run.
pub(super) fn run(args: &RunArgs, compiler: Compiler, json: bool) -> anyhow::Result<ExitCode> {
    let (file, overrides, on_one_machine) =
        (args.config.clone(), args.overrides(), args.local_peers > 0 && args.config.is_none());
    let read = move || {
        let mut config = Config::load_with(file.as_deref(), &overrides)?;
        if on_one_machine {
            local::keep_to_this_machine(&mut config);
        }
        Ok(config)
    };
    let config = read().map_err(BadConfig)?;
    let set_level = logging::start(&config.log);
    let applied = Box::new(move |config: &Config| set_level(config.log.level));
    let source = ConfigSource { file: args.config.clone(), read: Box::new(read), applied };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(run_node(args, config, source, compiler, json));
    // A phase that never returns keeps a thread; the process does not wait for it.
    runtime.shutdown_timeout(LAST_GRACE);
    ended
}

async fn run_node(
    args: &RunArgs,
    config: Config,
    source: ConfigSource,
    compiler: Compiler,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let path = data_dir(&config)?;
    let data = DataFolder::open(&path)?;
    let local_peers = (1..=args.local_peers)
        .map(|n| DataFolder::open(&DataFolder::local_peer(&path, n)))
        .collect::<Result<_, _>>()?;
    let admin_socket = if config.admin.enabled { Some(admin_socket(&config)?) } else { None };
    let max_bytes = args.record_max.0;
    let recorder = |path| Recorder::start(path, RecorderOptions { max_bytes, ..RecorderOptions::default() });
    let recorder = args.record.as_deref().map(recorder).transpose()?;
    // Signals come before the node: from here on a stop signal means an orderly stop, and SIGHUP a reload once it runs.
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let hangup = signal(SignalKind::hangup())?;
    let clock = SystemClock::new();
    // Local nodes first: the main node's first tick finds them, and their start can fail before the main node runs.
    let locals = local::start(&config, local_peers, &clock).await?;
    let builder =
        Node::builder().config(config.clone()).config_source(source).data_folder(data).clock(clock.clone());
    let builder = builder.compiler(compiler);
    let builder = admin_socket.into_iter().fold(builder, NodeBuilder::admin_socket);
    let builder = config.telemetry.listen.into_iter().fold(builder, NodeBuilder::telemetry);
    let node = match recorder.into_iter().fold(builder, NodeBuilder::recorder).start().await {
        Ok(node) => node,
        Err(error) => {
            leave(locals, config.shutdown.deadline).await;
            return Err(error.into());
        }
    };
    local::introduce(&locals, &node);
    warn_of_short_watchdog(config.node.interval);
    let mut out =
        BeatPrinter { json, lines: json || std::io::stdout().is_terminal() || args.ticks.is_some() };
    out.greet(&config, &node, locals.len());
    let why = tokio::select! {
        () = follow(node.maintenance().handle().reports(), args.ticks, &mut out) => "the last tick has run",
        () = reload_at_hangup(hangup, &node) => "signals have ended",
        name = told_to_stop(&mut signals) => name,
    };
    tracing::info!(why, "shutting down");
    notify::stopping();
    tokio::select! {
        is_clean = shut_down(node, locals, config.shutdown.deadline) => {
            Ok(ExitCode::from(exit::done_if(is_clean)))
        }
        name = told_to_stop(&mut signals) => {
            tracing::warn!(name, "told to stop a second time: ending at once");
            Ok(ExitCode::from(exit::FAILED))
        }
    }
}

fn warn_of_short_watchdog(interval: Duration) {
    if let Some(watchdog) = notify::watchdog().filter(|watchdog| *watchdog <= interval) {
        tracing::warn!(
            ?watchdog,
            ?interval,
            "systemd's watchdog is shorter than a tick and \
            will end this node; set WatchdogSec to at least three intervals"
        );
    }
}

/// Shuts the local nodes down in parallel: each would otherwise wait for the goodbyes of the others.
async fn leave(locals: Vec<Node>, deadline: Duration) {
    let mut leaving: tokio::task::JoinSet<_> =
        locals.into_iter().map(|local| local.shutdown(deadline / 4)).collect();
    while leaving.join_next().await.is_some() {}
}

/// True if every step succeeded.
async fn shut_down(node: Node, locals: Vec<Node>, deadline: Duration) -> bool {
    leave(locals, deadline).await;
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
        let status = format!("tick {}, {} connected", report.tick, report.connected);
        if ticks == 1 {
            notify::ready(&status);
        } else {
            notify::tick_ended(&status);
        }
        if last == Some(ticks) {
            return;
        }
    }
}

/// Reads the config and scans the drop-in folder at each SIGHUP.
async fn reload_at_hangup(mut hangup: Signal, node: &Node) {
    while hangup.recv().await.is_some() {
        notify::reloading();
        if let Some(reconfigurer) = node.reconfigurer() {
            reconfigurer.reconfigure().await.log();
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
    }
}

async fn told_to_stop([terminate, interrupt]: &mut [Signal; 2]) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Standard output: a line per beat on a terminal or for a run of known length, JSON lines on request.
struct BeatPrinter {
    json: bool,
    lines: bool,
}

impl BeatPrinter {
    fn line(&mut self, text: &str) {
        // If the reader closed the pipe, output stops and the node goes on.
        self.lines = self.lines && writeln!(std::io::stdout(), "{text}").is_ok();
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
