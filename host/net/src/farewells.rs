//! Tells peers that are turned away why, within a second and a bounded number at once.

use groundskeeper_pool::journal::Cause;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::handshake_error::HandshakeError;
use super::wire::{FAREWELL, MAX_WORDS, Message, clipped, code_of};

/// Peers being told why they are turned away, at once. Further ones are dropped without a word: a flood of banned
/// peers must not hold descriptors that no limit counts.
const AT_ONCE: usize = 64;

pub(crate) struct Farewells(Semaphore);

impl Farewells {
    pub(crate) fn new() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }

    /// Tells the other side why, if that can be told. The error again.
    pub(crate) async fn turn_away<S>(&self, stream: S, error: HandshakeError) -> HandshakeError
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if let Some((cause, text)) = error.farewell() {
            self.say_goodbye(stream, cause, &text).await;
        }
        error
    }

    pub(crate) async fn say_goodbye<S>(&self, mut stream: S, cause: Cause, text: &str)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Ok(_permit) = self.0.try_acquire() else { return };
        let goodbye = Message::Goodbye { code: code_of(cause), text: clipped(text, MAX_WORDS) };
        let frame = goodbye.encode_bounded();
        let said = async {
            stream.write_all(&frame).await?;
            stream.shutdown().await?;
            // Closing with bytes unread would reset the connection and could take the goodbye with it.
            while stream.read(&mut [0; 64]).await? > 0 {}
            std::io::Result::Ok(())
        };
        // It is a courtesy: a peer that does not take it in time goes without.
        _ = tokio::time::timeout(FAREWELL, said).await;
    }
}
