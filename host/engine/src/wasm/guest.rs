//! A phase that consists of compiled code and the setup of its manifest, ready to run.

use std::sync::Arc;
use std::time::Duration;

use groundskeeper_sdk::contract::Interface;
use groundskeeper_sdk::host::{Frozen, Plan, Table, clean};
use groundskeeper_sdk::phase::{Failure, Tick};
use groundskeeper_sdk::rng::Rng;
use parking_lot::Mutex;
use wasmtime::Store;
use wasmtime::component::{Instance as Linked, TypedFunc};

use super::code::Code;
use super::run::{GuestState, StoreState};
use super::{Backstop, HOSTCALL_BYTES, Wasm, shapes, trap};
use crate::log::cut;
use crate::policy::{Grants, Instance, Limits};
use crate::{Cost, PhaseCall, PhaseProgram, RunOutcome, RunResult};

/// What a manifest says about the runs of a guest.
#[derive(Clone, Debug)]
pub struct GuestSetup {
    /// A JSON object.
    pub settings: String,
    pub limits: Limits,
    pub grants: Grants,
    pub instance: Instance,
}

/// What a phase says about itself. The texts are untrusted, so they are cleaned and cut.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PhaseDescription {
    pub summary: String,
    pub version: String,
    pub toolkit: String,
}

/// Why code and setup cannot be used as a phase.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// It imports interfaces that the manifest does not grant.
    #[error("{}", .0.iter().map(missing_grant).collect::<Vec<_>>().join("; "))]
    NotGranted(Vec<Interface>),
    #[error("its `describe` failed: {0}")]
    Describe(String),
    #[error("the machine could not run it: {0}")]
    Shortage(String),
}

/// Why a phase does not take its settings.
#[derive(Debug, PartialEq, Eq)]
pub enum CheckFailure {
    /// As the phase says it, or how its `check` failed.
    Refused(String),
    /// The machine could not run it.
    Shortage(String),
}

/// Names the missing grant and the line to add to the manifest.
fn missing_grant(interface: &Interface) -> String {
    let line = Grants::line(*interface).unwrap_or_else(|| format!("{interface} = true"));
    let name = interface.name();
    format!("it wants {name:?}, which is not granted; to grant it, add to [grants]: {line}")
}

/// A component that runs as a phase.
pub struct Guest {
    wasm: Wasm,
    code: Arc<Code>,
    setup: GuestSetup,
    settings: Arc<str>,
    described: PhaseDescription,
    warm: Mutex<Option<ReusedInstance>>,
}

/// An instance that is used for several runs.
struct ReusedInstance {
    store: Store<StoreState>,
    run: RunFunc,
    runs_left: u32,
}

type CheckFunc = TypedFunc<(Arc<str>,), (Result<(), String>,)>;
type RunFunc = TypedFunc<(shapes::Tick, Arc<str>), (Result<(), shapes::Failure>,)>;

/// Maximum bytes of each text in [`PhaseDescription`].
const DESCRIBED_BYTES: usize = 200;

impl Guest {
    /// Creates a phase from `code` and `setup`, and calls its `describe`.
    ///
    /// # Errors
    /// [`SetupError`] names every import that is not granted, or says how `describe` failed.
    pub fn new(wasm: &Wasm, code: Arc<Code>, setup: GuestSetup) -> Result<Self, SetupError> {
        let imports = code.imports().iter().copied();
        let missing: Vec<Interface> = imports.filter(|interface| !setup.grants.allows(*interface)).collect();
        if !missing.is_empty() {
            return Err(SetupError::NotGranted(missing));
        }
        let settings = Arc::from(setup.settings.as_str());
        let described = PhaseDescription::default();
        let mut guest = Self { wasm: wasm.clone(), code, setup, settings, described, warm: Mutex::new(None) };
        guest.described = guest.describe()?;
        Ok(guest)
    }

    pub fn described(&self) -> &PhaseDescription {
        &self.described
    }

    fn store(&self) -> wasmtime::Result<Store<StoreState>> {
        let limits = &self.setup.limits;
        let memory = self.setup.grants.memory.map_or(0, |grant| grant.max_bytes);
        let mut store = Store::new(&self.wasm.engine, StoreState::new(limits, memory));
        store.limiter(|inside| &mut inside.limiter);
        // A phase passes all the memory that it may store in one call.
        store.set_hostcall_fuel(HOSTCALL_BYTES + memory);
        self.arm(&mut store, limits.wall)?;
        Ok(store)
    }

    /// Resets fuel and wall time. Also needed before instantiating, because start functions run there.
    fn arm(&self, store: &mut Store<StoreState>, wall: Duration) -> wasmtime::Result<()> {
        store.set_fuel(self.setup.limits.fuel)?;
        store.set_epoch_deadline(Backstop::epochs(wall));
        Ok(())
    }

    /// Instantiates the component in a new store and calls `body`. The error says why it did not return.
    fn once<R>(
        &self,
        stage: GuestState,
        body: impl FnOnce(&mut Store<StoreState>, &Linked) -> wasmtime::Result<R>,
    ) -> Result<R, RunOutcome> {
        let _inside = self.wasm.backstop.enter();
        let mut store = self.store().map_err(|error| not_started(&error))?;
        let returned = self.code.pre.instantiate(&mut store).and_then(|instance| {
            store.data_mut().stage = stage;
            body(&mut store, &instance)
        });
        returned.map_err(|error| trap::ended(&error, store.data(), &self.setup.limits))
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`CheckFailure`] tells a refusal from a shortage of the machine.
    pub fn check_settings(&self) -> Result<(), CheckFailure> {
        let checked = self.once(GuestState::Checking, |store, instance| {
            let check = self.check_function(store, instance)?;
            check.call(&mut *store, (Arc::clone(&self.settings),))
        });
        match checked {
            Ok((Ok(()),)) => Ok(()),
            Ok((Err(problem),)) => Err(CheckFailure::Refused(trap::short(&problem))),
            Err(RunOutcome::Shortage(words)) => Err(CheckFailure::Shortage(words)),
            Err(ended) => Err(CheckFailure::Refused(format!("its `check` failed: {}", text(&ended)))),
        }
    }

    fn describe(&self) -> Result<PhaseDescription, SetupError> {
        let described = self.once(GuestState::Describing, |store, instance| {
            let its = |name: &'static str| move |error: wasmtime::Error| error.context(name);
            let describe = instance
                .get_typed_func::<(), (shapes::Descriptor,)>(&mut *store, self.code.exports.describe)
                .map_err(its("its `describe`"))?;
            // Refuse a component with other types now, not at its first run.
            _ = self.check_function(store, instance).map_err(its("its `check`"))?;
            _ = self.run_function(store, instance).map_err(its("its `run`"))?;
            describe.call(&mut *store, ())
        });
        let (described,) = described.map_err(|ended| match ended {
            RunOutcome::Shortage(words) => SetupError::Shortage(words),
            ended => SetupError::Describe(text(&ended)),
        })?;
        let tidy = |text: &str| clean(cut(text, DESCRIBED_BYTES)).into_owned();
        Ok(PhaseDescription {
            summary: tidy(&described.summary),
            version: tidy(&described.version),
            toolkit: tidy(&described.toolkit),
        })
    }

    fn check_function(
        &self,
        store: &mut Store<StoreState>,
        instance: &Linked,
    ) -> wasmtime::Result<CheckFunc> {
        instance.get_typed_func(&mut *store, self.code.exports.check)
    }

    fn run_function(&self, store: &mut Store<StoreState>, instance: &Linked) -> wasmtime::Result<RunFunc> {
        instance.get_typed_func(&mut *store, self.code.exports.run)
    }

    /// The kept instance, or a new one.
    fn warm(
        &self,
        job: &PhaseCall,
        wall: Duration,
    ) -> Result<ReusedInstance, (wasmtime::Error, Option<Store<StoreState>>)> {
        let waiting = self.warm.lock().take();
        if let Some(mut warm) = waiting {
            self.arm(&mut warm.store, wall).map_err(|error| (error, None))?;
            prepare(warm.store.data_mut(), job);
            return Ok(warm);
        }
        let mut store = self.store().map_err(|error| (error, None))?;
        self.arm(&mut store, wall).map_err(|error| (error, None))?;
        // Before instantiating, so that start functions also get WASI's clock and random numbers.
        prepare(store.data_mut(), job);
        store.data_mut().stage = GuestState::Starting;
        let run = self
            .code
            .pre
            .instantiate(&mut store)
            .and_then(|instance| self.run_function(&mut store, &instance));
        store.data_mut().stage = GuestState::Running;
        let runs_left = match self.setup.instance {
            Instance::Fresh => 1,
            Instance::Persistent { max_runs } => max_runs,
        };
        match run {
            Ok(run) => Ok(ReusedInstance { store, run, runs_left }),
            Err(error) => Err((error, Some(store))),
        }
    }
}

/// The outcome of a run that did not get as far as its store.
fn not_started(error: &wasmtime::Error) -> RunOutcome {
    let words = format!("{error:#}");
    if trap::is_shortage(error) { RunOutcome::Shortage(words) } else { RunOutcome::Trapped(words) }
}

/// How a run failed, without the kind.
fn text(ended: &RunOutcome) -> String {
    ended.plan().err().map_or_else(String::new, |failure| failure.text.into_owned())
}

fn prepare(inside: &mut StoreState, job: &PhaseCall) {
    inside.stage = GuestState::Running;
    inside.limiter.refused = None;
    inside.limiter.shortage = None;
    // No limit for rows of the book, because copying the book is expensive; asks about its rows check them.
    inside.plan = Plan::within(job.view.rows(Table::Peers), u32::MAX);
    inside.view = Some(Arc::<dyn Frozen>::clone(&job.view));
    inside.unix_s = job.tick.unix_s;
    inside.chance = chance(&job.tick);
}

/// WASI's random numbers. Differs from the phase's own sequence, which starts from the same seed.
fn chance(tick: &Tick) -> Rng {
    Rng::new(!(u64::from(tick.seed[0]) << 32 | u64::from(tick.seed[1])))
}

impl PhaseProgram for Guest {
    fn summary(&self) -> &str {
        &self.described.summary
    }

    fn check(&self) -> Result<(), String> {
        self.check_settings().map_err(|failure| match failure {
            CheckFailure::Refused(words) => words,
            CheckFailure::Shortage(words) => format!("the machine could not run its `check`: {words}"),
        })
    }

    fn always_returns(&self) -> bool {
        true
    }

    fn run_on_trial(&self, job: &PhaseCall, wall: Duration) -> RunResult {
        let done = self.run_within(job, wall.min(self.setup.limits.wall));
        // A kept instance would show the phase that it has run before.
        self.warm.lock().take();
        done
    }

    fn digest(&self) -> Option<[u8; 32]> {
        Some(self.code.digest().0)
    }

    fn settings(&self) -> Option<String> {
        Some(self.setup.settings.clone())
    }

    fn run(&self, job: &PhaseCall) -> RunResult {
        self.run_within(job, self.setup.limits.wall)
    }
}

impl Guest {
    fn run_within(&self, job: &PhaseCall, wall: Duration) -> RunResult {
        let _inside = self.wasm.backstop.enter();
        let limits = &self.setup.limits;
        let mut warm = match self.warm(job, wall) {
            Ok(warm) => warm,
            Err((error, None)) => return not_started(&error).into(),
            Err((error, Some(mut store))) => {
                let ended = trap::ended(&error, store.data(), limits);
                let cost = cost(&store, limits);
                return RunResult { ended, log: store.data_mut().log.take(), cost };
            }
        };
        let returned = warm.run.call(&mut warm.store, (job.tick.into(), Arc::clone(&self.settings)));
        let cost = cost(&warm.store, limits);
        let inside = warm.store.data_mut();
        inside.view = None;
        let ended = match returned {
            Ok((Ok(()),)) => RunOutcome::Planned(std::mem::take(&mut inside.plan).into_parts()),
            Ok((Err(failure),)) => match inside.limiter.shortage.take() {
                Some(words) => RunOutcome::Shortage(words),
                None => RunOutcome::Failed(tidy(failure)),
            },
            // An instance that did not return is never used again: it is dropped with its store.
            Err(error) => {
                // Before `take`, because it reads the last log line.
                let ended = trap::ended(&error, inside, limits);
                return RunResult { ended, log: inside.log.take(), cost };
            }
        };
        let log = inside.log.take();
        warm.runs_left -= 1;
        if warm.runs_left > 0 {
            *self.warm.lock() = Some(warm);
        }
        RunResult { ended, log, cost }
    }
}

fn cost(store: &Store<StoreState>, limits: &Limits) -> Cost {
    let left = store.get_fuel().unwrap_or(0);
    Cost { fuel: Some(limits.fuel.saturating_sub(left)), memory: Some(store.data().limiter.used) }
}

fn tidy(failure: shapes::Failure) -> Failure {
    match failure {
        shapes::Failure::Transient(text) => Failure::Transient(trap::short(&text)),
        shapes::Failure::Permanent(text) => Failure::Permanent(trap::short(&text)),
    }
}
