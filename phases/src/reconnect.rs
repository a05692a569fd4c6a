//! Decides which addresses to dial, and how many. Draws at random; it does not dial and keeps no backoff itself.

use std::collections::BTreeSet;

use groundskeeper_sdk::contract::ASKS_PER_PLAN;
use groundskeeper_sdk::prelude::*;
use groundskeeper_sdk::rng::Rng;

/// Dials addresses of the address book until there are `target` connections, counting dials in progress.
///
/// Takes only addresses with an expired backoff. It draws them at random by weight instead of best first: an attacker
/// who can put addresses into the book must not be able to compute which one is dialled. It draws one address per
/// network group before any group gets a second one. Groups that we already have outbound connections to come last.
/// Inbound connections do not count for that, or a stranger could push a group back by connecting to us.
///
/// Reads only totals while there are enough connections; otherwise O(addresses x dials).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reconnect {
    /// Connections wanted, 1 to 4294967294. The operator's ceiling for connections is never passed.
    pub target: u32,
    /// Dials in one run, 1 to 4096. Each costs a socket and a handshake at once.
    pub max_dials: u32,
}

impl Default for Reconnect {
    fn default() -> Self {
        Reconnect { target: 8, max_dials: 8 }
    }
}

/// An address that may be dialled now.
#[derive(Clone, Copy)]
struct Candidate {
    address: Address,
    weight: u32,
    group: u32,
}

/// Weight of an address that never failed and was never reached. Each failure in a row halves it, but not below 1:
/// every address keeps a chance, so that a node finds its network again after the whole network moved.
const FRESH: u32 = 64;

/// Factor for an address that was a live node once: inventing addresses is cheap, so unreached ones weigh less.
const REACHED: u32 = 4;

fn weight(failures: u32, reached: u32) -> u32 {
    let failures = if failures == UNKNOWN { 0 } else { failures };
    let weight = FRESH.checked_shr(failures).unwrap_or(0).max(1);
    if reached == UNKNOWN { weight } else { weight * REACHED }
}

impl Phase for Reconnect {
    const SUMMARY: &'static str = "dials known addresses while there are too few connections";

    fn check(&self) -> Result<(), String> {
        within("target", self.target, 1..=UNKNOWN - 1)?;
        within("max_dials", self.max_dials, 1..=ASKS_PER_PLAN as u32)
    }

    fn run(&self, now: &Tick, view: &View, plan: &mut Plan) -> Result {
        let totals = view.totals();
        let target = self.target.min(totals.most);
        let wanted =
            target.saturating_sub(totals.connected.saturating_add(totals.dialing)).min(self.max_dials);
        if wanted == 0 {
            return Ok(());
        }
        let reason = format!("{} connected, want {target}", totals.connected);
        for address in draw(&mut now.rng(), view, wanted as usize) {
            plan.dial(address, reason.as_str());
        }
        Ok(())
    }
}

/// Draws up to `wanted` different addresses, in rounds of one per network group.
fn draw(rng: &mut Rng, view: &View, wanted: usize) -> Vec<Address> {
    let (groups, inbound) = (view.column(peer::GROUP), view.column(peer::INBOUND));
    let dialled: BTreeSet<u32> = groups
        .iter()
        .zip(inbound.iter())
        .filter(|(_, inbound)| **inbound == 0)
        .map(|(group, _)| *group)
        .collect();
    let (mut round, mut later): (Vec<Candidate>, Vec<Candidate>) =
        candidates(view).into_iter().partition(|candidate| !dialled.contains(&candidate.group));

    let mut drawn = Vec::with_capacity(wanted);
    while drawn.len() < wanted {
        if round.is_empty() {
            round = std::mem::take(&mut later);
        }
        let Some(at) = rng.weighted(round.iter().map(|candidate| candidate.weight)) else { break };
        let chosen = round.swap_remove(at);
        drawn.push(chosen.address);
        round.retain(|candidate| {
            let stays = candidate.group != chosen.group;
            if !stays {
                later.push(*candidate);
            }
            stays
        });
    }
    drawn
}

/// Every address with an expired backoff. Reads whole columns, because a query's limit would favour low rows.
fn candidates(view: &View) -> Vec<Candidate> {
    let (wait, failures) = (view.column(address::WAIT), view.column(address::FAILURES));
    let (reached, group) = (view.column(address::REACHED), view.column(address::GROUP));
    view.rows::<Address>()
        .enumerate()
        .filter(|(i, _)| wait[*i] == 0)
        .map(|(i, address)| Candidate { address, weight: weight(failures[i], reached[i]), group: group[i] })
        .collect()
}
