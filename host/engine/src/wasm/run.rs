//! The state of one guest in its store: stage, view, plan, log, and what it has used.

use std::sync::Arc;

use groundskeeper_sdk::column::UNKNOWN;
use groundskeeper_sdk::contract::PACKAGE;
use groundskeeper_sdk::host::{Frozen, Plan, RuleBroken, Table};
use wasmtime::component::{Component, ComponentExportIndex};
use wasmtime::{ResourceLimiter, StoreContextMut, Trap};

use super::{LoadError, trap};
use crate::log::GuestLog;
use crate::policy::Limits;

/// The context of a host function.
pub(super) type Cx<'a> = StoreContextMut<'a, StoreState>;

/// What a guest is doing. Decides which functions it may call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GuestState {
    /// Its start functions run.
    Starting,
    Describing,
    Checking,
    Running,
}

/// The state of one store.
pub(super) struct StoreState {
    pub stage: GuestState,
    pub view: Option<Arc<dyn Frozen>>,
    pub plan: Plan,
    pub limiter: Limiter,
    pub log: GuestLog,
    /// Maximum bytes for `memory.store`; 0 without a grant.
    pub memory_bytes: usize,
    /// Time and random numbers for WASI calls.
    pub unix_s: u32,
    pub chance: groundskeeper_sdk::rng::Rng,
    /// WASI handles that the guest holds.
    pub handles: u32,
}

impl StoreState {
    pub fn new(limits: &Limits, memory_bytes: usize) -> Self {
        Self {
            stage: GuestState::Starting,
            view: None,
            plan: Plan::new(),
            limiter: Limiter::new(limits.memory),
            log: GuestLog::new(limits),
            memory_bytes,
            unix_s: UNKNOWN,
            chance: groundskeeper_sdk::rng::Rng::new(0),
            handles: 0,
        }
    }

    /// The view, if the guest is in `run`.
    pub fn view(&self, call: &'static str) -> Result<&Arc<dyn Frozen>, RuleBroken> {
        match (&self.view, self.stage) {
            (Some(view), GuestState::Running) => Ok(view),
            _ => Err(too_early(call)),
        }
    }

    /// The plan, if the guest is in `run`.
    pub fn plan(&mut self, call: &'static str) -> Result<&mut Plan, RuleBroken> {
        if self.stage == GuestState::Running { Ok(&mut self.plan) } else { Err(too_early(call)) }
    }
}

fn too_early(call: &'static str) -> RuleBroken {
    RuleBroken { call, rule: "reading and asking are allowed only in `run`".to_owned() }
}

/// Charges a guest fuel for work of the host, so that its budget covers both.
pub(super) fn charge(cx: &mut Cx<'_>, fuel: u64) -> wasmtime::Result<()> {
    let left = cx.get_fuel()?;
    if left <= fuel {
        cx.set_fuel(0)?;
        return Err(Trap::OutOfFuel.into());
    }
    cx.set_fuel(left - fuel)
}

/// Fuel for one call of a host function. A call takes about as long as 50 instructions.
pub(super) const CALL: u64 = 50;

/// Fuel for checking each row of `table` with `tests`. A native loop checks several rows per guest instruction.
pub(super) fn scanning(view: &dyn Frozen, table: Table, tests: usize) -> u64 {
    CALL + u64::from(view.rows(table)) * (tests as u64 + 1) / 4
}

/// Counts what a store allocates, and refuses more than its limits.
pub(super) struct Limiter {
    most: u64,
    /// Bytes of all its linear memories.
    pub used: u64,
    /// Elements of all its tables.
    elements: usize,
    /// Set if the store asked for too much of it.
    pub refused: Option<StoreRefusal>,
    /// Set if the system had no memory for what this allowed.
    pub shortage: Option<String>,
    /// `used` and `elements` before the last growth, in case it fails.
    before: (u64, usize),
}

impl Limiter {
    fn new(most: u64) -> Self {
        Self { most, used: 0, elements: 0, refused: None, shortage: None, before: (0, 0) }
    }

    /// A growth that was allowed has failed.
    fn failed(&mut self, error: &wasmtime::Error) {
        (self.used, self.elements) = self.before;
        if trap::is_shortage(error) {
            self.shortage = Some(trap::short(&format!("{error:#}")));
        }
    }
}

/// What a store asked for too much of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StoreRefusal {
    Memory,
    Table,
}

/// Elements of all tables together. Each function that is called by pointer needs one.
pub(super) const TABLE_ELEMENTS: usize = 100_000;
/// Maximum of instances, of tables and of memories in one component. A component of one module has four.
const PARTS: usize = 64;

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let used = self.used.saturating_sub(current as u64).saturating_add(desired as u64);
        if used > self.most {
            self.refused = Some(StoreRefusal::Memory);
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.before = (self.used, self.elements);
        self.used = used;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed(&error);
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self.elements.saturating_sub(current).saturating_add(desired);
        if elements > TABLE_ELEMENTS {
            self.refused = Some(StoreRefusal::Table);
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.before = (self.used, self.elements);
        self.elements = elements;
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed(&error);
        Ok(())
    }

    fn instances(&self) -> usize {
        PARTS
    }

    fn tables(&self) -> usize {
        PARTS
    }

    fn memories(&self) -> usize {
        PARTS
    }
}

/// The indices of the `lifecycle` functions among a component's exports.
pub(super) struct LifecycleExports {
    pub describe: ComponentExportIndex,
    pub check: ComponentExportIndex,
    pub run: ComponentExportIndex,
}

impl LifecycleExports {
    pub fn of(component: &Component) -> Result<Self, LoadError> {
        let lifecycle = PACKAGE.replacen('@', "/lifecycle@", 1);
        let missing = |what: &str| LoadError::NoPhase(what.to_owned());
        let instance =
            component.get_export_index(None, lifecycle.as_str()).ok_or_else(|| missing(&lifecycle))?;
        let function = |name: &str| {
            let index = component.get_export_index(Some(&instance), name);
            index.ok_or_else(|| missing(&format!("{lifecycle}.{name}")))
        };
        Ok(Self { describe: function("describe")?, check: function("check")?, run: function("run")? })
    }
}
