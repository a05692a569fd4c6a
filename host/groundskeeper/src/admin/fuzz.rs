//! Answers the bytes of a request as a connection of the admin socket does. For the fuzz target.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::share::{Party, Places, Shares};
use super::tap::TapHub;
use super::{AdminState, admin_routes, connection};

/// A stream does not end. On a paused clock, this time passes when the node has nothing left to do.
const STREAM_ENDS: Duration = Duration::from_secs(20);

/// What the pipe holds in each direction: more than the largest input, so that the client can write it at once.
const PIPE: usize = 1 << 20;

/// What the admin socket of `node` answers to `request`, until it closes the connection or sends nothing more.
///
/// # Panics
/// If the request is larger than 1 MiB, or makes the node panic.
pub async fn fuzz_answer(node: &Arc<AdminState>, request: &[u8]) -> Vec<u8> {
    let hub = TapHub::new(Arc::clone(node));
    let routes = Arc::new(OnceLock::from(admin_routes(Arc::clone(node), hub)));
    let owner = 0;
    let places = Places::new(Shares::for_socket(owner, 1));
    let place = places.take(Party::User(owner)).expect("the first client gets a place");
    let (mut client, server) = tokio::io::duplex(PIPE);
    let stop = CancellationToken::new();
    let ask = async {
        assert!(request.len() < PIPE, "a request of {} bytes", request.len());
        // A node that refuses the request does not read all of it. The client keeps its side open, as ours does: the node
        // takes a closed one for a client that has left.
        _ = client.write_all(request).await;
        let mut answer = Vec::new();
        // An error means that the node has closed the connection.
        _ = tokio::time::timeout(STREAM_ENDS, client.read_to_end(&mut answer)).await;
        drop(client);
        answer
    };
    let serve = connection::answer(server, place, routes, stop);
    tokio::pin!(ask, serve);
    tokio::select! {
        // The node would learn that the reader of a stream has left when it sends the next event. Here there is none.
        answer = &mut ask => answer,
        _ = &mut serve => ask.await,
    }
}
