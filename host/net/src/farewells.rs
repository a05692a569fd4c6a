//! Tells rejected peers the reason, within a second and for a bounded number at once.

use groundskeeper_pool::journal::Cause;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::handshake_error::HandshakeError;
use super::wire::{FAREWELL, MAX_WORDS, Message, clipped, code_of};

/// Goodbyes in progress. Further rejected peers are dropped without one: a flood of banned peers must not hold
/// descriptors that no limit counts.
const AT_ONCE: usize = 64;

pub(crate) struct GoodbyeSender(Semaphore);

impl GoodbyeSender {
    pub(crate) fn new() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }

    /// Sends the goodbye for `error`, if there is one, and returns `error`.
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
            // Closing with unread bytes would reset the connection, and the goodbye could be lost.
            while stream.read(&mut [0; 64]).await? > 0 {}
            std::io::Result::Ok(())
        };
        // A courtesy: a peer that does not read it in time does not get it.
        _ = tokio::time::timeout(FAREWELL, said).await;
    }
}
