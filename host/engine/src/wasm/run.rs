//! One run of a guest from inside: what it may see at which stage, what it has used, what it has said. Applies nothing.

use std::sync::Arc;

use groundskeeper_sdk::column::UNKNOWN;
use groundskeeper_sdk::contract::PACKAGE;
use groundskeeper_sdk::host::{Frozen, Plan, RuleBroken, Table};
use wasmtime::component::{Component, ComponentExportIndex};
use wasmtime::{ResourceLimiter, StoreContextMut, Trap};

use super::LoadError;
use crate::log::Log;
use crate::policy::Limits;

/// The context of a host function.
pub(super) type Cx<'a> = StoreContextMut<'a, Inside>;

/// What a guest is doing, and so what it may call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Its start functions.
    Starting,
    Describing,
    Checking,
    Running,
}

/// The state of one store.
pub(super) struct Inside {
    pub stage: Stage,
    pub view: Option<Arc<dyn Frozen>>,
    pub plan: Plan,
    pub limiter: Limiter,
    pub log: Log,
    /// The most that `memory.store` takes; None if the manifest grants none.
    pub memory_bytes: usize,
    /// For what asks the inert WASI for the time or for chance.
    pub unix_s: u32,
    pub chance: groundskeeper_sdk::rng::Rng,
    /// Handles of the inert WASI that the guest holds.
    pub handles: u32,
}

impl Inside {
    pub fn new(limits: &Limits, memory_bytes: usize) -> Self {
        Self {
            stage: Stage::Starting,
            view: None,
            plan: Plan::new(),
            limiter: Limiter { most: limits.memory, used: 0, elements: 0, refused: None },
            log: Log::new(limits),
            memory_bytes,
            unix_s: UNKNOWN,
            chance: groundskeeper_sdk::rng::Rng::new(0),
            handles: 0,
        }
    }

    /// The view, if this is a run.
    pub fn view(&self, call: &'static str) -> Result<&Arc<dyn Frozen>, RuleBroken> {
        match (&self.view, self.stage) {
            (Some(view), Stage::Running) => Ok(view),
            _ => Err(too_early(call)),
        }
    }

    /// The plan, if this is a run.
    pub fn plan(&mut self, call: &'static str) -> Result<&mut Plan, RuleBroken> {
        if self.stage == Stage::Running { Ok(&mut self.plan) } else { Err(too_early(call)) }
    }
}

fn too_early(call: &'static str) -> RuleBroken {
    RuleBroken { call, rule: "nothing is read or asked outside of `run`".to_owned() }
}

/// Takes fuel for what the host does on a guest's behalf, so that its budget covers both.
pub(super) fn charge(cx: &mut Cx<'_>, fuel: u64) -> wasmtime::Result<()> {
    let left = cx.get_fuel()?;
    if left <= fuel {
        cx.set_fuel(0)?;
        return Err(Trap::OutOfFuel.into());
    }
    cx.set_fuel(left - fuel)
}

/// A call, about as dear as so many instructions.
pub(super) const CALL: u64 = 50;

/// Fuel for looking at `rows` with `tests`: a native loop looks at several rows in the time of one instruction.
pub(super) fn scanning(view: &dyn Frozen, table: Table, tests: usize) -> u64 {
    CALL + u64::from(view.rows(table)) * (tests as u64 + 1) / 4
}

/// Counts what a store has, and refuses more than its manifest allows.
pub(super) struct Limiter {
    most: u64,
    /// Bytes of all its linear memories.
    pub used: u64,
    /// Elements of all its tables.
    elements: usize,
    /// It asked for more of this and was refused.
    pub refused: Option<Refused>,
}

/// What a store was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    Memory,
    Table,
}

/// Elements of all tables together: one per function that is called by pointer.
pub(super) const TABLE_ELEMENTS: usize = 100_000;
/// Modules, memories and tables that a component is linked together from. A component of one module has four.
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
            self.refused = Some(Refused::Memory);
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self.elements.saturating_sub(current).saturating_add(desired);
        if elements > TABLE_ELEMENTS {
            self.refused = Some(Refused::Table);
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.elements = elements;
        Ok(true)
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

/// Where a component keeps the functions of `lifecycle`.
pub(super) struct Exports {
    pub describe: ComponentExportIndex,
    pub check: ComponentExportIndex,
    pub run: ComponentExportIndex,
}

impl Exports {
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
