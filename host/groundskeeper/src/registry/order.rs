//! Decides which phases may be registered, and in which order they run. A bad guest harms no other phase.

use std::collections::BTreeSet;

use groundskeeper_base::problem::unknown_name_hint;
use groundskeeper_engine::policy::Trust;

use super::{BadPhases, PhaseSpec, RejectedPhase};

/// Removes guests that cannot run at all: their name is taken, or they refuse their own settings.
pub(super) fn checked(
    specs: Vec<PhaseSpec>,
    rejected: &mut Vec<RejectedPhase>,
) -> Result<Vec<PhaseSpec>, BadPhases> {
    let mut good: Vec<PhaseSpec> = Vec::with_capacity(specs.len());
    for spec in specs {
        let bad = if good.iter().any(|other| other.name == spec.name) {
            Some(BadPhases::SameName(spec.name.clone()))
        } else {
            let settings = |problem| BadPhases::Settings { phase: spec.name.clone(), problem };
            spec.body.check().err().map(settings)
        };
        match bad {
            Some(bad) => reject(spec, bad, rejected)?,
            None => good.push(spec),
        }
    }
    Ok(good)
}

fn reject(spec: PhaseSpec, bad: BadPhases, rejected: &mut Vec<RejectedPhase>) -> Result<(), BadPhases> {
    match spec.policy.trust {
        Trust::Host => Err(bad),
        Trust::Guest => {
            let problem = bad.to_string();
            let digest = spec.digest;
            let (name, kind) = (spec.name, spec.kind.into());
            rejected.push(RejectedPhase { name, kind, problem, digest, ..RejectedPhase::default() });
            Ok(())
        }
    }
}

/// Host phases as they are given, then guests by name, moved so that `after` and `before` hold. Guests never change the
/// order among host phases: reconnect must count after the reaper.
///
/// `after` and `before` may name a phase that is rejected or off. The constraint then has no effect.
pub(super) fn order(
    specs: Vec<PhaseSpec>,
    rejected: &mut Vec<RejectedPhase>,
) -> Result<Vec<PhaseSpec>, BadPhases> {
    let (own, mut guests): (Vec<PhaseSpec>, Vec<PhaseSpec>) =
        specs.into_iter().partition(|spec| spec.policy.trust == Trust::Host);
    let mut specs = order_together(own, rejected)?;
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    specs.extend(guests);
    order_together(specs, rejected)
}

fn order_together(
    unchecked: Vec<PhaseSpec>,
    rejected: &mut Vec<RejectedPhase>,
) -> Result<Vec<PhaseSpec>, BadPhases> {
    let names: BTreeSet<String> = unchecked
        .iter()
        .map(|spec| &spec.name)
        .chain(rejected.iter().map(|one| &one.name))
        .cloned()
        .chain(crate::engine::BUILTINS.map(str::to_owned))
        .collect();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut specs = Vec::with_capacity(unchecked.len());
    for spec in unchecked {
        let mut named = spec.schedule.after.iter().chain(&spec.schedule.before);
        match named.find(|other| !names.contains(*other)).cloned() {
            None => specs.push(spec),
            Some(other) => {
                let hint = unknown_name_hint(&other, &known);
                let bad = BadPhases::NoSuchPhase { phase: spec.name.clone(), other, hint };
                reject(spec, bad, rejected)?;
            }
        }
    }
    loop {
        match sorted(&specs) {
            Ok(order) => {
                let mut specs: Vec<Option<PhaseSpec>> = specs.into_iter().map(Some).collect();
                return Ok(order.into_iter().filter_map(|at| specs[at].take()).collect());
            }
            Err(circle) => {
                // All guests of a circle are rejected together: none of them is more to blame than the others.
                let words: Vec<&str> = circle.iter().map(|&at| specs[at].name.as_str()).collect();
                let words = format!("{} after {}", words.join(" after "), words[0]);
                let mut guests: Vec<usize> =
                    circle.into_iter().filter(|&at| specs[at].policy.trust == Trust::Guest).collect();
                if guests.is_empty() {
                    return Err(BadPhases::Circle(words));
                }
                guests.sort_unstable();
                for at in guests.into_iter().rev() {
                    reject(specs.remove(at), BadPhases::Circle(words.clone()), rejected)?;
                }
            }
        }
    }
}

/// The order of running, as indices: repeatedly the lowest-ranked phase with all its predecessors placed. A phase that
/// names others in its own `before` has the rank of the first of them. Or a circle, in which each member runs after the
/// next.
fn sorted(specs: &[PhaseSpec]) -> Result<Vec<usize>, Vec<usize>> {
    let place = |name: &String| specs.iter().position(|spec| spec.name == *name);
    let mut waits_for: Vec<Vec<usize>> =
        specs.iter().map(|spec| spec.schedule.after.iter().filter_map(place).collect()).collect();
    let is_own = |at: usize| specs[at].policy.trust == Trust::Host;
    if specs.iter().any(|spec| spec.policy.trust == Trust::Guest) {
        // Host phases are in their order already.
        (1..specs.len()).filter(|at| is_own(*at)).for_each(|at| waits_for[at].push(at - 1));
    }
    let mut rank: Vec<usize> = (0..specs.len()).collect();
    for (at, spec) in specs.iter().enumerate() {
        spec.schedule.before.iter().filter_map(place).for_each(|later| waits_for[later].push(at));
    }
    // As many rounds as phases carry the rank through every chain of `before`.
    for _ in 0..specs.len() {
        for (at, spec) in specs.iter().enumerate() {
            let first = spec.schedule.before.iter().filter_map(place).map(|later| rank[later]).min();
            rank[at] = rank[at].min(first.unwrap_or(usize::MAX));
        }
    }
    let mut placed: Vec<usize> = Vec::with_capacity(specs.len());
    while placed.len() < specs.len() {
        let left = (0..specs.len()).filter(|at| !placed.contains(at));
        let ready = left.filter(|&at| waits_for[at].iter().all(|other| placed.contains(other)));
        match ready.min_by_key(|&at| (rank[at], at)) {
            Some(next) => placed.push(next),
            None => return Err(circle(&waits_for, &placed)),
        }
    }
    Ok(placed)
}

/// Finds a circle. Each phase that is not placed waits for another such phase, so following these must end in a circle.
fn circle(waits_for: &[Vec<usize>], placed: &[usize]) -> Vec<usize> {
    let is_stuck = |at: &usize| !placed.contains(at);
    let mut path: Vec<usize> = (0..waits_for.len()).filter(is_stuck).take(1).collect();
    while let Some(&last) = path.last() {
        let Some(next) = waits_for[last].iter().copied().find(is_stuck) else { break };
        if let Some(start) = path.iter().position(|at| *at == next) {
            return path.split_off(start);
        }
        path.push(next);
    }
    path
}
