//! The supply of addresses: when names are resolved and when peers are asked.

use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::NodeState;
use crate::cycle::BeatReport;
use crate::net::Net;

/// With fewer addresses to dial than the reconnect phase may dial at once, a peer is asked for more.
const ENOUGH_TO_DIAL: usize = 8;

/// Keeps the address book supplied: resolves the bootstrap nodes at the start and at urgent beats, since names may
/// point elsewhere by then, and asks a peer for addresses at ticks that find few to dial. Follows the ticker.
pub(super) async fn supply(
    net: Arc<Net>,
    state: NodeState,
    mut reports: Receiver<Arc<BeatReport>>,
    stop: CancellationToken,
) {
    // Without an address nobody can be dialled, so the first round does not wait for a beat.
    let mut urgent = 1;
    loop {
        // At the 1st, 2nd, 4th, 8th ... urgent beat in a row: name servers are not to be hammered.
        if u32::is_power_of_two(urgent) {
            let resolved = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                resolved = net.resolve_bootstrap() => resolved,
            };
            for (entry, why) in resolved.failed {
                tracing::warn!(%entry, why, "cannot resolve a bootstrap node");
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            report = reports.recv() => match report {
                Ok(report) if report.urgent > 0 => urgent += 1,
                Ok(_) => {
                    urgent = 0;
                    if state.book.is_short_of_addresses(&state.pool, ENOUGH_TO_DIAL) {
                        net.ask_for_addresses();
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
        }
    }
}
