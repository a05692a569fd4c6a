//! The verbs that ask a running node.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use groundskeeper::admin::answers::{Explanation, Health, Peers, Phases, Resumed, Status};
use groundskeeper::admin::{Client, ClientError, path_segment};
use groundskeeper::config::{Config, Overrides};
use groundskeeper::record::Fixture;
use groundskeeper::reload::{Change, ReloadEvent, ReloadReport};
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{NodeArgs, admin_socket, exit, print, print_json, refuse_config, show, usual_data_dir};

pub(super) fn status(node: &NodeArgs, json: bool) -> anyhow::Result<ExitCode> {
    tell::<Status>(node, "/status", json, show::status)
}

pub(super) fn peers(node: &NodeArgs, limit: usize, json: bool) -> anyhow::Result<ExitCode> {
    tell::<Peers>(node, &format!("/peers?limit={limit}"), json, show::peers)
}

pub(super) fn phases(node: &NodeArgs, json: bool) -> anyhow::Result<ExitCode> {
    tell::<Phases>(node, "/phases", json, show::phases)
}

pub(super) fn explain(node: &NodeArgs, peer: &str, json: bool) -> anyhow::Result<ExitCode> {
    tell::<Explanation>(node, &format!("/explain/{}", path_segment(peer)), json, show::explanation)
}

pub(super) fn resume(node: &NodeArgs, phase: &str, json: bool) -> anyhow::Result<ExitCode> {
    let path = format!("/phases/{}/resume", path_segment(phase));
    carry_out::<Resumed>(node, Method::POST, &path, json, show::resumed)
}

pub(super) fn pause(node: &NodeArgs, phase: &str, json: bool) -> anyhow::Result<ExitCode> {
    let path = format!("/phases/{}/pause", path_segment(phase));
    carry_out::<Resumed>(node, Method::POST, &path, json, show::paused)
}

pub(super) fn run_now(node: &NodeArgs, phase: &str, json: bool) -> anyhow::Result<ExitCode> {
    let path = format!("/phases/{}/run", path_segment(phase));
    let client = match client(node)? {
        Ok(client) => client,
        Err(code) => return Ok(code),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = match runtime.block_on(client.post::<serde_json::Value>(&path)) {
        Ok(report) => report,
        Err(error) => return Ok(told(&error)),
    };
    let did_well = report["runs"].as_array().is_some_and(|runs| runs.iter().all(|run| run["result"] == "ok"));
    if json {
        print_json(&report)?;
    } else {
        print(&show::ran(&report))?;
    }
    Ok(if did_well { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

pub(super) fn tap(node: &NodeArgs, json: bool) -> anyhow::Result<ExitCode> {
    let client = match client(node)? {
        Ok(client) => client,
        Err(code) => return Ok(code),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let followed = runtime.block_on(client.lines("/tap", |line| {
        let text = if json { format!("{line}\n") } else { show::event(line) };
        // Whoever closed the pipe has seen enough.
        print(&text).is_ok()
    }));
    Ok(followed.map_or_else(|error| told(&error), |()| ExitCode::SUCCESS))
}

/// How long `reload --wait` asks, and how often.
const RELOAD_PATIENCE: Duration = Duration::from_secs(10);
const RELOAD_AGAIN: Duration = Duration::from_millis(500);

pub(super) fn reload(node: &NodeArgs, wait: bool, json: bool) -> anyhow::Result<ExitCode> {
    let client = match client(node)? {
        Ok(client) => client,
        Err(code) => return Ok(code),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = match runtime.block_on(have_reloaded(&client, wait)) {
        Ok(report) => report,
        Err(error) => return Ok(told(&error)),
    };
    let code = if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) };
    if json {
        print_json(&report)?;
    } else {
        print(&show::reloaded(&report))?;
    }
    Ok(code)
}

/// Has the node look, with `wait` until nothing is pending any more.
pub(super) async fn have_reloaded(client: &Client, wait: bool) -> Result<ReloadReport, ClientError> {
    let begun = Instant::now();
    let mut seen: Vec<ReloadEvent> = Vec::new();
    loop {
        let mut report: ReloadReport = client.post("/reload").await?;
        let is_pending = report.events.iter().any(|event| event.change == Change::Pending);
        if !wait || !is_pending || begun.elapsed() > RELOAD_PATIENCE {
            // What was applied at an earlier question is part of the answer.
            seen.retain(|event| event.change.is_good());
            seen.append(&mut report.events);
            return Ok(ReloadReport { events: seen, ..report });
        }
        seen.append(&mut report.events);
        tokio::time::sleep(RELOAD_AGAIN).await;
    }
}

pub(super) fn healthcheck(node: &NodeArgs, ready: bool, json: bool) -> anyhow::Result<ExitCode> {
    let client = match client(node)? {
        Ok(client) => client,
        Err(code) => return Ok(code),
    };
    let health = match ask::<Health>(&client, if ready { "/readyz" } else { "/healthz" })? {
        Ok(health) => health,
        // Whatever the reason, a node that cannot be asked is not healthy, and containers know 0 and 1 only.
        Err(error) => Health { ok: false, why: vec![error.to_string()] },
    };
    if json {
        print_json(&health)?;
    } else {
        print(&show::health(&health))?;
    }
    Ok(if health.ok { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

fn tell<T: Serialize + DeserializeOwned>(
    node: &NodeArgs,
    path: &str,
    json: bool,
    show: impl FnOnce(&T) -> String,
) -> anyhow::Result<ExitCode> {
    carry_out(node, Method::GET, path, json, show)
}

fn carry_out<T: Serialize + DeserializeOwned>(
    node: &NodeArgs,
    method: Method,
    path: &str,
    json: bool,
    show: impl FnOnce(&T) -> String,
) -> anyhow::Result<ExitCode> {
    let client = match client(node)? {
        Ok(client) => client,
        Err(code) => return Ok(code),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = match method {
        Method::POST => runtime.block_on(client.post::<T>(path)),
        _ => runtime.block_on(client.get::<T>(path)),
    };
    match answer {
        Ok(answer) if json => print_json(&answer),
        Ok(answer) => print(&show(&answer)),
        Err(error) => Ok(told(&error)),
    }
}

/// What a running node sees now; an exit code if it does not answer.
pub(super) fn view(node: &NodeArgs) -> anyhow::Result<Result<Fixture, ExitCode>> {
    let client = match client(node)? {
        Ok(client) => client,
        Err(code) => return Ok(Err(code)),
    };
    match ask::<serde_json::Value>(&client, "/view")? {
        Ok(value) => match Fixture::parse(&value.to_string(), "the node's view") {
            Ok(fixture) => Ok(Ok(fixture)),
            Err(problems) => anyhow::bail!("the node is of another version: {}", problems[0]),
        },
        Err(error) => Ok(Err(told(&error))),
    }
}

fn told(error: &ClientError) -> ExitCode {
    eprintln!("groundskeeper: {error}");
    ExitCode::from(code_of(error))
}

pub(super) fn code_of(error: &ClientError) -> u8 {
    match error {
        ClientError::NoNode { .. } => exit::NO_NODE,
        ClientError::NotAllowed(_) => exit::NOT_ALLOWED,
        _ => exit::FAILED,
    }
}

fn ask<T: DeserializeOwned>(client: &Client, path: &str) -> anyhow::Result<Result<T, ClientError>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(client.get(path)))
}

/// Whom to ask; the exit code if the config that is to tell it has problems.
pub(super) fn client(node: &NodeArgs) -> anyhow::Result<Result<Client, ExitCode>> {
    if let Some(socket) = &node.socket {
        return Ok(Ok(Client::new(socket)));
    }
    let overrides = Overrides {
        data_dir: node.data_dir.clone(),
        usual_data_dir: usual_data_dir(),
        without_manifests: true,
        ..Overrides::default()
    };
    match Config::load_with(node.config.as_deref(), &overrides) {
        Ok(config) => Ok(Ok(Client::new(&admin_socket(&config)?))),
        Err(problems) => Ok(Err(refuse_config(&problems))),
    }
}
