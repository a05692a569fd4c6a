//! `dev`: builds a phase after each change of its source and runs it in a node.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper::admin::answers::ReloadHold;
use groundskeeper::admin::{Client, ClientError};
use groundskeeper::engine::Compiler;
use groundskeeper::engine::wasm::Wasm;
use groundskeeper::reload::{QUIET, ReloadReport, Watcher};
use groundskeeper_author::{self as author, BuildOutput, DryRun};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::output::{complain, print, print_json, reader_left, with_sources};
use super::{DevArgs, NodeArgs, ask, code, exit, show};

/// During a round, this often ...
const HOLD_AGAIN: Duration = Duration::from_secs(5);
/// ... the node is asked to pause its scans for this long. If this process is killed, the node resumes by itself.
const HOLD_SECONDS: u16 = 15;

/// How often sources are checked where file events do not reach: in subfolders, and where there are no file events.
const LOOK: Duration = Duration::from_millis(500);

/// The result of one round.
#[derive(Default, Serialize)]
struct DevRound {
    #[serde(serialize_with = "groundskeeper::base::paths::lossy_option")]
    built: Option<PathBuf>,
    sha256: Option<String>,
    bytes: Option<usize>,
    /// The views, and what the phase would have done on each.
    tries: Vec<DevAttempt>,
    /// The installed manifest.
    #[serde(serialize_with = "groundskeeper::base::paths::lossy_option")]
    installed: Option<PathBuf>,
    reload: Option<ReloadReport>,
    /// The error that ended the round.
    failed: Option<String>,
    #[serde(skip)]
    code: u8,
}

#[derive(Serialize)]
struct DevAttempt {
    view: String,
    run: DryRun,
}

pub(super) fn dev(args: &DevArgs, compiler: &Compiler, json: bool) -> anyhow::Result<ExitCode> {
    let NodeArgs { config, data_dir, .. } = &args.node;
    let wasm = code::engine(compiler, config.as_deref(), data_dir.as_deref())?;
    let client = ask::client(&args.node)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        if args.once {
            let done = round(&args.folder, &client, &wasm).await;
            done.tell(json)?;
            return Ok(ExitCode::from(done.code));
        }
        tokio::select! {
            stopped = tokio::signal::ctrl_c() => {
                stopped?;
                release(&client).await;
                Ok(ExitCode::SUCCESS)
            }
            ended = rounds(&args.folder, &client, &wasm, json) => ended,
            () = reader_left() => {
                release(&client).await;
                Ok(ExitCode::SUCCESS)
            }
        }
    });
    // A compiler that still runs got the same signal, or ends by itself.
    runtime.shutdown_background();
    ended
}

/// Runs a round now and after each change. Ends only with an error of the terminal.
async fn rounds(folder: &Path, client: &Client, wasm: &Wasm, json: bool) -> anyhow::Result<ExitCode> {
    let hint = Arc::new(Notify::new());
    let watch = |folder: &Path| Watcher::of_all_files(folder, Arc::clone(&hint));
    let _watchers = (watch(folder), watch(&folder.join("src")));
    loop {
        // Taken before the build, so that a file saved during the build counts as a change.
        let seen = author::sources(folder);
        round(folder, client, wasm).await.tell(json)?;
        if !json {
            print(&format!("watching {}; Ctrl-C ends\n", folder.display()))?;
        }
        let mut now = author::sources(folder);
        loop {
            if now != seen {
                // Editors save in several steps, and git checks out file by file.
                tokio::time::sleep(QUIET).await;
                let later = author::sources(folder);
                if later == now {
                    break;
                }
                now = later;
                continue;
            }
            tokio::select! {
                () = hint.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            now = author::sources(folder);
        }
    }
}

/// Build, check, try, install, reload; stops at the first failure.
async fn round(folder: &Path, client: &Client, wasm: &Wasm) -> DevRound {
    let mut round = DevRound::default();
    let held = HoldGuard::begin(client).await;
    let (of, engine) = (folder.to_owned(), wasm.clone());
    let making = tokio::task::spawn_blocking(move || {
        let mut round = DevRound::default();
        if let Err(error) = round.make(&of, &engine) {
            round.fail(exit::FAILED, with_sources(&error));
        }
        round
    });
    match making.await {
        Ok(made) => round = made,
        Err(error) => round.fail(exit::FAILED, error.to_string()),
    }
    if round.failed.is_none()
        && let Some(module) = round.built.clone()
    {
        match &held {
            Ok(hold) => round.put_in(&module, &hold.folder, client, wasm).await,
            Err(error) => round.fail(ask::code_of(error), error.to_string()),
        }
    }
    drop(held);
    release(client).await;
    round
}

impl DevRound {
    /// Everything that needs no node.
    fn make(&mut self, folder: &Path, wasm: &Wasm) -> anyhow::Result<()> {
        let BuildOutput { file, digest, sizes } = author::build(folder, None, &mut super::author::note)?;
        (self.sha256, self.bytes) = (Some(digest.to_string()), sizes.map(|sizes| sizes.whole));
        self.built = Some(file.clone());
        let problems = author::inspect(&file, wasm)?.problems;
        if problems.is_empty() {
            return self.try_out(&file, &folder.join("views"), wasm);
        }
        self.fail(exit::CONFIG, problems.join("\n"));
        Ok(())
    }

    fn fail(&mut self, code: u8, why: String) {
        (self.code, self.failed) = (code, Some(why));
    }

    /// One dry run over each of the phase's own views.
    fn try_out(&mut self, file: &Path, views: &Path, wasm: &Wasm) -> anyhow::Result<()> {
        let phase = author::load(file, false, wasm)?;
        for (view, fixture) in author::read_fixtures(views)? {
            let run = DryRun::of(&*phase, fixture.tick, fixture.view());
            if !run.ok {
                self.fail(exit::FAILED, format!("{view}: {}", run.ended));
            }
            self.tries.push(DevAttempt { view, run });
        }
        Ok(())
    }

    async fn put_in(&mut self, module: &Path, folder: &Path, client: &Client, wasm: &Wasm) {
        let manifest = match author::install(module, folder, wasm) {
            Ok(installed) => installed.manifest,
            Err(error) => return self.fail(exit::FAILED, with_sources(&error)),
        };
        let name = manifest.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.installed = Some(manifest);
        match ask::have_reloaded(client, true).await {
            Ok(report) => {
                // Events of other phases in the folder are not failures of this one.
                let mut own = report.events.iter().filter(|event| event.phase == name);
                let bad = own.rfind(|event| !event.change.is_good());
                let why =
                    bad.map(|event| event.why.clone().unwrap_or_else(|| event.change.as_str().to_owned()));
                if let Some(why) = why.or_else(|| report.trouble.clone()) {
                    self.fail(exit::FAILED, why);
                }
                self.reload = Some(report);
            }
            Err(error) => self.fail(ask::code_of(&error), error.to_string()),
        }
    }

    fn tell(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return print_json(&(serde_json::to_string(self)? + "\n"));
        }
        let mut text = String::new();
        if let (Some(file), Some(sha256)) = (&self.built, &self.sha256) {
            let kb = self.bytes.unwrap_or(0) as f64 / 1000.0;
            writeln!(text, "built {}: {kb:.1} KB, sha256 {}", file.display(), &sha256[..12])?;
        }
        for DevAttempt { view, run } in &self.tries {
            write!(text, "tried on {view}\n{}", run.shown())?;
        }
        if let Some(manifest) = &self.installed {
            writeln!(text, "installed {}", manifest.display())?;
        }
        if let Some(report) = &self.reload {
            text += &show::reloaded(report);
        }
        print(&text)?;
        // A reload report already contains the failure.
        if let Some(why) = self.failed.as_ref().filter(|_| self.reload.is_none()) {
            complain(&format!("groundskeeper: {why}"));
        }
        Ok(())
    }
}

/// Keeps a node from scanning its drop-in folder until this is dropped.
struct HoldGuard {
    folder: PathBuf,
    again: AbortHandle,
}

impl HoldGuard {
    async fn begin(client: &Client) -> Result<Self, ClientError> {
        let path = format!("/reload/hold?for={HOLD_SECONDS}");
        let ReloadHold { folder } = client.post(&path).await?;
        let client = client.clone();
        let again = tokio::spawn(async move {
            loop {
                tokio::time::sleep(HOLD_AGAIN).await;
                // The end of the round reports a node that has gone.
                _ = client.post::<ReloadHold>(&path).await;
            }
        });
        Ok(Self { folder, again: again.abort_handle() })
    }
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        self.again.abort();
    }
}

/// Lets the node scan again. If this request does not arrive, the node resumes by itself.
async fn release(client: &Client) {
    _ = client.post::<ReloadHold>("/reload/hold?for=0").await;
}
