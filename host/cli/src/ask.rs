//! The commands that ask a running node.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use groundskeeper::admin::answers::{Explanation, Health, NodeStatus, Peers, PhaseList, ResumeAnswer};
use groundskeeper::admin::{Client, ClientError, path_segment};
use groundskeeper::record::Fixture;
use groundskeeper::registry::{PhaseState, PhaseStatus};
use groundskeeper::reload::{PhaseChange, ReloadEvent, ReloadReport};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::output::{print, print_json, reader_left};
use super::{NodeArgs, PhaseArgs, admin_socket, answer, exit, load_config, show, without_manifests};

pub(super) fn status(node: &NodeArgs, json: bool) -> anyhow::Result<ExitCode> {
    tell::<NodeStatus>(node, "/status", json, show::status)
}

pub(super) fn peers(node: &NodeArgs, limit: usize, json: bool) -> anyhow::Result<ExitCode> {
    tell::<Peers>(node, &format!("/peers?limit={limit}"), json, show::peers)
}

pub(super) fn phases(node: &NodeArgs, json: bool) -> anyhow::Result<ExitCode> {
    tell::<PhaseList>(node, "/phases", json, show::phases)
}

pub(super) fn explain(node: &NodeArgs, peer: &str, json: bool) -> anyhow::Result<ExitCode> {
    tell::<Explanation>(node, &format!("/explain/{}", path_segment(peer)), json, show::explanation)
}

pub(super) fn resume(args: &PhaseArgs, json: bool) -> anyhow::Result<ExitCode> {
    answer(&order::<ResumeAnswer>(args, "resume")?, exit::DONE, json, show::resumed)
}

pub(super) fn pause(args: &PhaseArgs, json: bool) -> anyhow::Result<ExitCode> {
    answer(&order::<ResumeAnswer>(args, "pause")?, exit::DONE, json, show::paused)
}

pub(super) fn run_now(args: &PhaseArgs, json: bool) -> anyhow::Result<ExitCode> {
    let report: Value = order(args, "run")?;
    let did_well = report["runs"].as_array().is_some_and(|runs| runs.iter().all(|run| run["result"] == "ok"));
    answer(&report, exit::done_if(did_well), json, show::ran)
}

pub(super) fn tap(node: &NodeArgs, json: bool) -> anyhow::Result<ExitCode> {
    let mut printed = Ok(());
    let show = |line: &str| {
        printed = if json { print_json(&format!("{line}\n")) } else { print(&show::event(line)) };
        printed.is_ok()
    };
    ask(node, async |client| {
        tokio::select! {
            ended = client.lines("/tap", show) => ended,
            () = reader_left() => Ok(()),
        }
    })?;
    printed.map(|()| ExitCode::SUCCESS)
}

/// How long `reload --wait` repeats, and how often.
const RELOAD_PATIENCE: Duration = Duration::from_secs(10);
const RELOAD_AGAIN: Duration = Duration::from_millis(500);

/// How long `reload` waits for the compiler, and with `--wait`: a compile may use 60 s of CPU time.
const COMPILE_PATIENCE: Duration = Duration::from_secs(10);
const LONG_COMPILE_PATIENCE: Duration = Duration::from_secs(90);

pub(super) fn reload(node: &NodeArgs, wait: bool, json: bool) -> anyhow::Result<ExitCode> {
    let report = ask(node, async |client| have_reloaded(client, wait).await)?;
    answer(&report, exit::done_if(report.is_good()), json, show::reloaded)
}

/// Makes the node scan its drop-in folder, and waits for its compiler; with `wait` it repeats until nothing is pending.
pub(super) async fn have_reloaded(client: &Client, wait: bool) -> Result<ReloadReport, ClientError> {
    let begun = Instant::now();
    let compile_patience = if wait { LONG_COMPILE_PATIENCE } else { COMPILE_PATIENCE };
    let mut seen: Vec<ReloadEvent> = Vec::new();
    loop {
        let mut report: ReloadReport = client.post("/reload").await?;
        if report.events.iter().any(is_compiling) && begun.elapsed() < compile_patience {
            wait_for_compiler(client, begun + compile_patience).await?;
            seen.append(&mut report.events);
            continue;
        }
        let is_pending = report.events.iter().any(|event| event.change == PhaseChange::Pending);
        if !wait || !is_pending || begun.elapsed() > RELOAD_PATIENCE {
            // Changes from earlier scans are part of the answer.
            note_compiled(client, &mut seen).await?;
            seen.retain(|event| event.change.is_good());
            seen.append(&mut report.events);
            return Ok(ReloadReport { events: seen, ..report });
        }
        seen.append(&mut report.events);
        tokio::time::sleep(RELOAD_AGAIN).await;
    }
}

fn is_compiling(event: &ReloadEvent) -> bool {
    event.change == PhaseChange::Compiling
}

/// Returns when the node compiles nothing, or at `deadline`.
async fn wait_for_compiler(client: &Client, deadline: Instant) -> Result<(), ClientError> {
    while Instant::now() < deadline {
        tokio::time::sleep(RELOAD_AGAIN).await;
        let phases: PhaseList = client.get("/phases").await?;
        let waits = |phase: &PhaseStatus| {
            let candidate = phase.candidate.as_ref().map(|candidate| candidate.state);
            [Some(phase.state), candidate].contains(&Some(PhaseState::Compiling))
        };
        if !phases.phases.iter().any(waits) {
            break;
        }
    }
    Ok(())
}

/// Phases that were compiled while this command waited were put in by a scan of which it has no report.
async fn note_compiled(client: &Client, seen: &mut [ReloadEvent]) -> Result<(), ClientError> {
    if !seen.iter().any(is_compiling) {
        return Ok(());
    }
    let phases: PhaseList = client.get("/phases").await?;
    for event in seen.iter_mut().filter(|event| is_compiling(event)) {
        let runs = |phase: &PhaseStatus| {
            let is_put_in =
                !matches!(phase.state, PhaseState::Compiling | PhaseState::Pending | PhaseState::Rejected);
            is_put_in && *phase.name == *event.phase && phase.digest == event.digest
        };
        if event.digest.is_some() && phases.phases.iter().any(runs) {
            (event.change, event.why) = (PhaseChange::Applied, None);
        }
    }
    Ok(())
}

pub(super) fn healthcheck(node: &NodeArgs, ready: bool, json: bool) -> anyhow::Result<ExitCode> {
    let path = if ready { "/readyz" } else { "/healthz" };
    let health = match ask(node, async |client| client.get::<Health>(path).await) {
        // A node that does not answer is not healthy, whatever the reason: containers know only 0 and 1.
        Err(error) if error.is::<ClientError>() => Health { ok: false, why: vec![error.to_string()] },
        asked => asked?,
    };
    answer(&health, exit::done_if(health.ok), json, show::health)
}

/// The drop-in folder of a running node. `None` if no node answers; `Some(None)` if it has no such folder.
pub(super) fn drop_in(node: &NodeArgs) -> Option<Option<String>> {
    let status = ask(node, async |client| client.get::<NodeStatus>("/status").await);
    status.ok().map(|status| status.drop_in)
}

/// The current view of a running node.
pub(super) fn view(node: &NodeArgs) -> anyhow::Result<Fixture> {
    let view: Value = ask(node, async |client| client.get("/view").await)?;
    Fixture::parse(&view.to_string(), "the node's view")
        .map_err(|problems| anyhow::anyhow!("the node is of another version: {}", problems[0]))
}

/// Prints the answer of a node at `path`.
fn tell<T: Serialize + DeserializeOwned>(
    node: &NodeArgs,
    path: &str,
    json: bool,
    show: impl FnOnce(&T) -> String,
) -> anyhow::Result<ExitCode> {
    answer(&ask(node, async |client| client.get(path).await)?, exit::DONE, json, show)
}

/// Makes a node do `what` with a phase.
fn order<T: DeserializeOwned>(PhaseArgs { phase, node }: &PhaseArgs, what: &str) -> anyhow::Result<T> {
    let path = format!("/phases/{}/{what}", path_segment(phase));
    ask(node, async |client| client.post(&path).await)
}

pub(super) fn ask<T>(
    node: &NodeArgs,
    question: impl AsyncFnOnce(&Client) -> Result<T, ClientError>,
) -> anyhow::Result<T> {
    let client = client(node)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(question(&client))?)
}

pub(super) fn code_of(error: &ClientError) -> u8 {
    match error {
        ClientError::NoNode { .. } | ClientError::NoAnswer { .. } | ClientError::Busy { .. } => exit::NO_NODE,
        ClientError::NotAllowed(_) => exit::NOT_ALLOWED,
        _ => exit::FAILED,
    }
}

/// The client for the node that the flags select, directly or through its config.
pub(super) fn client(node: &NodeArgs) -> anyhow::Result<Client> {
    if let Some(socket) = &node.socket {
        return Ok(Client::new(socket));
    }
    let config = load_config(node.config.as_deref(), &without_manifests(node.data_dir.clone()))?;
    Ok(Client::new(&admin_socket(&config)?))
}
