//! Hellos: what this node says first, and whether it can talk to a peer that said another.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::frame::{NoFrame, read_one};
use super::handshake_error::HandshakeError;
use super::own_addresses::OwnAddresses;
use super::settings::NetConfig;
use super::wire::{GREATEST_VERSION, Hello, LEAST_VERSION, MAX_AGENT, Message, cause_of, clipped, printable};

pub(crate) struct Hellos {
    boot_nonce: u64,
    agent: String,
    addresses: Arc<OwnAddresses>,
}

impl Hellos {
    pub(crate) fn new(boot_nonce: u64, config: &NetConfig, addresses: &Arc<OwnAddresses>) -> Self {
        let agent = clipped(&config.agent, MAX_AGENT).to_owned();
        Self { boot_nonce, agent, addresses: addresses.clone() }
    }

    pub(crate) fn ours(&self, features: u64) -> Bytes {
        let hello = Hello {
            least_version: LEAST_VERSION,
            greatest_version: GREATEST_VERSION,
            features,
            boot_nonce: self.boot_nonce,
            listen: self.addresses.told().to_vec(),
            agent: self.agent.clone(),
        };
        Message::Hello(hello).encode_bounded()
    }

    pub(crate) async fn say<S>(&self, stream: &mut S, features: u64) -> Result<(), HandshakeError>
    where
        S: AsyncWrite + Unpin,
    {
        stream.write_all(&self.ours(features)).await?;
        Ok(stream.flush().await?)
    }
}

pub(crate) async fn read_hello<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Hello, HandshakeError> {
    let frame = read_one(stream).await.map_err(|error| match error {
        NoFrame::Bad(bad) => HandshakeError::BadHello(bad.to_string()),
        NoFrame::Lost(lost) => lost.into(),
    })?;
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
        Ok(other) => Err(HandshakeError::BadHello(format!("a {}", other.kind()))),
        Err(bad) => Err(HandshakeError::BadHello(bad.to_string())),
    }
}
