//! An application with its own connections: plain TCP, one line per message. It uses Groundskeeper's pool, phases and
//! ticker without its network; this program only dials, pings and disconnects.
//!
//! Five nodes run in one process. After a few ticks one of them falls silent: it is pinged, dropped, and explained.

use std::time::Duration;

use groundskeeper::engine::BuiltInPhases;
use groundskeeper::journal::ActionKind;

mod chat;
use chat::ChatNode;

const NODES: u8 = 5;
const TICK: Duration = Duration::from_millis(500);
const SILENT_AFTER_TICK: u32 = 5;
const LAST_TICK: u32 = 15;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut phases = BuiltInPhases::default();
    // Seconds instead of minutes, so that the example is quick.
    phases.reaper.settings.ping_after = Duration::from_secs(1).into();
    phases.reaper.settings.stale_after = Duration::from_secs(3).into();

    let mut nodes = Vec::new();
    for n in 1..=NODES {
        nodes.push(ChatNode::start(n, TICK, &phases).await?);
    }
    let addresses: Vec<_> = nodes.iter().map(ChatNode::address).collect();
    for (at, node) in nodes.iter().enumerate() {
        // Each node knows the next one. A dialled node learns of the dialler from the connection.
        node.know(addresses[(at + 1) % addresses.len()]);
    }

    let mut reports = nodes[0].reports();
    loop {
        let report = reports.recv().await?;
        let tally = report.tally;
        println!(
            "tick {:>2}.{}: {} connected, {} dialed, {} pinged, {} disconnected",
            report.tick, report.urgent, report.connected, tally.dialed, tally.pinged, tally.disconnected
        );
        if report.tick == SILENT_AFTER_TICK && report.urgent == 0 {
            println!("-- node 2 falls silent; its sockets stay open");
            nodes[1].fall_silent();
        }
        if report.tick >= LAST_TICK {
            break;
        }
    }
    println!("-- what node 1 says of its disconnects:");
    for record in nodes[0].journal().select(8, |record| record.what == ActionKind::Disconnect) {
        println!(
            "   tick {}: {} by {}: {} {:?}",
            record.tick, record.outcome, record.by, record.reason, record.inputs
        );
    }
    anyhow::ensure!(nodes[0].journal().disconnects() == nodes[0].removals(), "every removal has its record");
    for node in nodes {
        node.stop().await;
    }
    Ok(())
}
