//! The host's side: a native phase, called through its table. Loads nothing; the loader of a library vouches for it.

#![expect(unsafe_code, reason = "calls through a table of C functions")]

use std::fmt;
use std::mem::size_of;
use std::sync::Arc;

use super::call::Call;
use super::{ABI, FAILED, FAILED_FOR_GOOD, OK, PANICKED, RULE_BROKEN, gk_phase, gk_run, gk_text};
use crate::contract::{Interface, Role};
use crate::host::{Frozen, NativeExit, RuleBroken};
use crate::phase::{Failure, Tick};
use crate::plan::Plan;

type Function = unsafe extern "C" fn(*const gk_run) -> u32;

/// A phase compiled to machine code, called through its table.
#[derive(Clone)]
pub struct NativePhase {
    summary: String,
    version: String,
    toolkit: String,
    check: Function,
    run: Function,
}

impl NativePhase {
    /// Reads a table.
    ///
    /// # Errors
    /// If there is no table, or it has another version than [`ABI`], or lacks a function.
    ///
    /// # Safety
    /// `table` is null, or the function named [`ENTRY`](super::ENTRY) of a library returned it. That library keeps the
    /// promises of the header and is never unloaded.
    pub unsafe fn new(table: *const gk_phase) -> Result<NativePhase, String> {
        if table.is_null() {
            return Err("the library has no table for this host".to_owned());
        }
        let wanted = format!("this host speaks {ABI}; rebuild it with the header of this host");
        // SAFETY: the caller's promise; a table of any version begins with its size.
        let size = unsafe { (*table).size };
        // SAFETY: as above, and with its version after that.
        let abi = unsafe { (*table).abi };
        if abi != ABI {
            return Err(format!("built for ABI {abi}, {wanted}"));
        }
        if (size as usize) < size_of::<gk_phase>() {
            return Err(format!("a table of {size} bytes is too short for ABI {abi}, {wanted}"));
        }
        // SAFETY: the caller's promise, and it is long enough.
        let table = unsafe { *table };
        let (Some(check), Some(run)) = (table.check, table.run) else {
            return Err("the library's table lacks check or run".to_owned());
        };
        let text = |text: gk_text| {
            // SAFETY: the texts of a table live as long as the library.
            String::from_utf8_lossy(unsafe { text.bytes() }).into_owned()
        };
        let (summary, version, toolkit) = (text(table.summary), text(table.version), text(table.toolkit));
        Ok(NativePhase { summary, version, toolkit, check, run })
    }

    /// One line: what the phase does.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// The phase's own version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The toolkit that built it.
    pub fn toolkit(&self) -> &str {
        &self.toolkit
    }

    /// Checks the settings, a JSON object.
    ///
    /// # Errors
    /// The phase's own text, or how it broke.
    pub fn check(&self, settings: &str) -> Result<(), String> {
        let call = Call::check();
        let run = call.table(&Tick::default(), settings);
        // SAFETY: a function of the table, with a `gk_run` that lives until it returns.
        let result = unsafe { (self.check)(&raw const run) };
        match ended(result, call) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(failure.text().to_owned()),
            Err(NativeExit::Rule(broken)) => Err(format!("check broke a rule: {broken}")),
            Err(NativeExit::Panic(text)) => Err(format!("check panicked: {text}")),
        }
    }

    /// Runs the phase once, as [`guard`](crate::host::guard) runs a phase of this process. Afterwards `plan` holds its
    /// asks and its log lines; the log lines even after a failure.
    ///
    /// # Errors
    /// [`NativeExit`], if it broke a rule or panicked. A crash is not caught, and an endless loop is not stopped.
    pub fn run(
        &self,
        settings: &str,
        tick: &Tick,
        view: &Arc<dyn Frozen>,
        plan: &mut Plan,
    ) -> Result<crate::phase::Result, NativeExit> {
        let call = Call::run(view, plan);
        let run = call.table(tick, settings);
        // SAFETY: a function of the table, with a `gk_run` that lives until it returns.
        let result = unsafe { (self.run)(&raw const run) };
        ended(result, call)
    }
}

fn ended(result: u32, call: Call<'_>) -> Result<crate::phase::Result, NativeExit> {
    let (words, unwound) = call.ended();
    if let Some(unwound) = unwound {
        return Err(unwound);
    }
    match result {
        OK => Ok(Ok(())),
        FAILED => Ok(Err(Failure::Transient(words))),
        FAILED_FOR_GOOD => Ok(Err(Failure::Permanent(words))),
        PANICKED => Err(NativeExit::Panic(words)),
        RULE_BROKEN => Err(NativeExit::Rule(broken(&words))),
        odd => Err(NativeExit::Rule(RuleBroken {
            call: "lifecycle.run",
            rule: format!("returned {odd}, which means nothing"),
        })),
    }
}

/// Reads a broken rule from its printed form.
fn broken(words: &str) -> RuleBroken {
    let known = words.split_once(": ").and_then(|(call, rule)| {
        let (interface, function) = call.split_once('.')?;
        let interface = Interface::from_name(interface).filter(|known| known.entry().role != Role::Export)?;
        Some(RuleBroken { call: interface.call(function)?, rule: rule.to_owned() })
    });
    known.unwrap_or_else(|| RuleBroken {
        call: "lifecycle.run",
        rule: format!("says it broke a rule: {words}"),
    })
}

impl fmt::Debug for NativePhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NativePhase { summary, version, toolkit, .. } = self;
        let mut shown = f.debug_struct("NativePhase");
        shown.field("summary", summary).field("version", version).field("toolkit", toolkit).finish()
    }
}
