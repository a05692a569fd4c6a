//! Turns bytes into a phase that has passed one trial run. Does not put it in.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::PhaseFactory;
use crate::config::{Manifest, ManifestBody, Runtime};
use crate::cycle::{TrialContext, TrialFailure};
use crate::data::Generation;
use crate::engine::Executor;
use crate::loader::PhaseRefusal;
use crate::registry::{Digest, KeptPhase, PhaseSpec};

/// Time limit of a trial run that its own limits do not end earlier.
const TRIAL_LIMIT: Duration = Duration::from_secs(2);

/// Trials that take longer wait for those that do not. Most take less than a millisecond.
const QUICK_TRIAL: Duration = Duration::from_millis(100);

/// Time for long trials in one scan. What is decided then gets in before the next one.
const LONG_TRIALS: Duration = TRIAL_LIMIT;

/// Shared libraries are never unloaded: after this many loads the node must be restarted.
const MOST_LIBRARIES: u32 = 16;

/// See the module.
pub(super) struct GenerationLoader {
    factory: PhaseFactory,
    fence: Executor,
    reload_native: bool,
    /// Shared libraries loaded.
    pub libraries: u32,
    /// Generations whose trial was not quick, until it is done.
    long: BTreeSet<Digest>,
    /// What is left of the time for long trials in this scan.
    long_left: Duration,
}

impl GenerationLoader {
    pub fn new(factory: PhaseFactory, fence: Executor, reload_native: bool) -> Self {
        Self { factory, fence, reload_native, libraries: 0, long: BTreeSet::new(), long_left: LONG_TRIALS }
    }

    /// Begins a scan with time for long trials.
    pub fn begin_scan(&mut self) {
        self.long_left = LONG_TRIALS;
    }

    /// Whether the trial of this generation is known to be long, and this scan has no time left for it.
    pub fn must_wait(&self, digest: &Digest) -> bool {
        self.long_left.is_zero() && self.long.contains(digest)
    }

    /// Makes a phase from `generation`, read from the manifest `file`. `replaces` if a generation of it runs.
    pub fn load(
        &mut self,
        file: &Path,
        manifest: &Manifest,
        generation: &Generation,
        replaces: bool,
    ) -> Result<PhaseSpec, PhaseRefusal> {
        let ManifestBody::Guest(guest) = &manifest.body else {
            return Err(PhaseRefusal::Bad("it is a built-in phase".to_owned()));
        };
        if guest.runtime == Runtime::Native {
            if replaces {
                self.may_replace_native()?;
            }
            self.libraries += 1;
        }
        let module = file.parent().unwrap_or(Path::new("")).join(&guest.module);
        let factory = &mut self.factory;
        match catch_unwind(AssertUnwindSafe(|| factory(manifest, guest, &module, generation))) {
            Ok(loaded) => loaded,
            Err(_) => Err(PhaseRefusal::Bad("loading it panicked; see the log".to_owned())),
        }
    }

    /// Runs the phase once as it would run now. Its plan is not applied.
    pub fn try_out(
        &mut self,
        context: &TrialContext,
        spec: &PhaseSpec,
        kept: &KeptPhase,
    ) -> Result<(), PhaseRefusal> {
        let digest = spec.digest.unwrap_or_default();
        if !self.long.contains(&digest) {
            match context.trial(spec, kept, &mut self.fence, TRIAL_LIMIT, QUICK_TRIAL) {
                Err(TrialFailure::Slow) => _ = self.long.insert(digest),
                done => return done.map_err(refusal),
            }
        }
        if self.long_left.is_zero() {
            return Err(PhaseRefusal::Waits);
        }
        let begun = Instant::now();
        let trial = context.trial(spec, kept, &mut self.fence, TRIAL_LIMIT, TRIAL_LIMIT);
        self.long_left = self.long_left.saturating_sub(begun.elapsed());
        self.long.remove(&digest);
        trial.map_err(refusal)
    }

    fn may_replace_native(&self) -> Result<(), PhaseRefusal> {
        if !self.reload_native {
            return Err(PhaseRefusal::Bad(
                "a native phase is replaced only when the node restarts; for development, set \
                 guests.reload_native = true"
                    .to_owned(),
            ));
        }
        if self.libraries >= MOST_LIBRARIES {
            return Err(PhaseRefusal::Bad(format!(
                "{MOST_LIBRARIES} shared libraries are loaded, and none can be unloaded; restart the node"
            )));
        }
        Ok(())
    }
}

fn refusal(failure: TrialFailure) -> PhaseRefusal {
    match failure {
        TrialFailure::Bad(why) => PhaseRefusal::Bad(format!("on trial: {why}")),
        TrialFailure::Shortage(why) => PhaseRefusal::Machine(format!("on trial: {why}")),
        TrialFailure::Slow => PhaseRefusal::Waits,
    }
}
