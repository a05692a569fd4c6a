//! Hellos: sends this node's hello, and reads and checks a peer's.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{Frame, HEADER, read_header};
use super::handshake_error::HandshakeError;
use super::node::LocalNode;
use super::wire::{
    FEATURE_ONE_WAY, GREATEST_VERSION, Hello, LEAST_VERSION, MAX_AGENT, Message, cause_of, clipped, printable,
};

/// This node's hello, as a frame. `features` are those of this connection; what the node itself can do is added.
pub(crate) fn own_hello(node: &LocalNode, features: u64) -> Bytes {
    let hello = Hello {
        least_version: LEAST_VERSION,
        greatest_version: GREATEST_VERSION,
        features: features | FEATURE_ONE_WAY,
        boot_nonce: node.boot_nonce,
        listen: node.told_addresses().to_vec(),
        agent: clipped(&node.config.agent, MAX_AGENT).to_owned(),
    };
    Message::Hello(hello).encode_bounded()
}

pub(crate) async fn say_hello<S>(
    node: &LocalNode,
    stream: &mut S,
    features: u64,
) -> Result<(), HandshakeError>
where
    S: AsyncWrite + Unpin,
{
    stream.write_all(&own_hello(node, features)).await?;
    Ok(stream.flush().await?)
}

pub(crate) async fn read_hello<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Hello, HandshakeError> {
    let frame = read_frame(stream).await?;
    match Message::decode(frame.kind, &frame.body) {
        Ok(Message::Hello(hello)) => {
            let Hello { least_version: least, greatest_version: greatest, .. } = hello;
            if least > greatest || least > GREATEST_VERSION || greatest < LEAST_VERSION {
                return Err(HandshakeError::Version { least, greatest });
            }
            Ok(Hello { agent: printable(&hello.agent), ..hello })
        }
        Ok(Message::Goodbye { code, text }) => {
            Err(HandshakeError::TurnedAway { cause: cause_of(code), text: printable(text) })
        }
        Ok(_) => Err(HandshakeError::BadHello(format!("a {}", frame.kind))),
        Err(bad) => Err(HandshakeError::BadHello(bad.to_string())),
    }
}

/// Reads exactly one frame, and not a byte more from the stream. The caller sets the deadline.
async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Frame, HandshakeError> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await?;
    // No application frames are allowed yet.
    let read = read_header(header, 0);
    let (kind, size) = read.map_err(|bad| HandshakeError::BadHello(bad.to_string()))?;
    let mut body = vec![0; size];
    stream.read_exact(&mut body).await?;
    Ok(Frame { kind, body: body.into() })
}
