//! Supplies the address book: decides when to resolve names and when to ask peers.

use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::NodeState;
use crate::cycle::BeatReport;
use crate::net::Net;

/// With fewer addresses to dial than the reconnect phase may dial at once, the node asks a peer for more.
const ENOUGH_TO_DIAL: usize = 8;

/// Resolves the bootstrap nodes at the start and at urgent beats, since their names may point elsewhere by then. Asks a
/// peer for addresses at ticks with few addresses to dial. Follows the ticker.
pub(super) async fn supply(
    net: Arc<Net>,
    state: NodeState,
    mut reports: Receiver<Arc<BeatReport>>,
    stop: CancellationToken,
) {
    // The node cannot dial without an address, so the first round does not wait for a beat.
    let mut urgent = 1;
    loop {
        // At the 1st, 2nd, 4th, 8th ... urgent beat in a row, to spare the name servers.
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
