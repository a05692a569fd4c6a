//! Turns bytes into a phase that has passed one trial run. Does not put it in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use super::PhaseFactory;
use crate::config::{Manifest, ManifestBody, Runtime};
use crate::cycle::{TrialContext, TrialFailure};
use crate::data::Generation;
use crate::engine::Executor;
use crate::loader::PhaseRefusal;
use crate::registry::{KeptPhase, PhaseSpec};

/// Time limit of a trial run that its own limits do not end earlier.
const TRIAL_LIMIT: Duration = Duration::from_secs(2);

/// Shared libraries are never unloaded: after this many loads the node must be restarted.
const MOST_LIBRARIES: u32 = 16;

/// See the module.
pub(super) struct GenerationLoader {
    factory: PhaseFactory,
    fence: Executor,
    reload_native: bool,
    /// Shared libraries loaded.
    pub libraries: u32,
}

impl GenerationLoader {
    pub fn new(factory: PhaseFactory, fence: Executor, reload_native: bool) -> Self {
        Self { factory, fence, reload_native, libraries: 0 }
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
        let trial = context.trial(spec, kept, &mut self.fence, TRIAL_LIMIT);
        trial.map_err(|failure| match failure {
            TrialFailure::Bad(why) => PhaseRefusal::Bad(format!("on trial: {why}")),
            TrialFailure::Shortage(why) => PhaseRefusal::Machine(format!("on trial: {why}")),
        })
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
