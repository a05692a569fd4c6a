//! An echo written by hand for this purpose alone: one task at each end, frames of length, number and payload, buffers
//! both ways, a map from numbers to open requests. The task that reads and writes also sends the requests.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::wire::Loopback;
use super::{IN_FLIGHT, rate};

/// Length and number.
const HEADER: usize = 4 + 8;

const BUFFER: usize = 64 << 10;

/// It reads more only while less than this waits to be written.
const UNWRITTEN: usize = 1 << 20;

/// A stream with a buffer each way.
struct Framed<S> {
    stream: S,
    input: Vec<u8>,
    /// Where the unprocessed part of `input` begins.
    begin: usize,
    end: usize,
    output: Vec<u8>,
    written: usize,
    flushed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framed<S> {
    fn new(stream: S) -> Self {
        let input = vec![0; BUFFER];
        Self { stream, input, begin: 0, end: 0, output: Vec::new(), written: 0, flushed: true }
    }

    /// Reads and writes what it can. Calls `each` for every frame, with the buffer for new ones. False at the end.
    fn poll(&mut self, cx: &mut Context<'_>, mut each: impl FnMut(u64, &[u8], &mut Vec<u8>)) -> Poll<bool> {
        loop {
            let mut moved = false;
            if self.output.len() - self.written < UNWRITTEN {
                match self.poll_read(cx) {
                    Poll::Ready(0) => return Poll::Ready(false),
                    Poll::Ready(_) => {
                        self.take(&mut each);
                        moved = true;
                    }
                    Poll::Pending => {}
                }
            }
            while self.written < self.output.len() {
                let write = Pin::new(&mut self.stream).poll_write(cx, &self.output[self.written..]);
                let Poll::Ready(written) = write else { break };
                self.written += written.expect("the other end reads");
                (self.flushed, moved) = (false, true);
            }
            if self.written == self.output.len() {
                self.output.clear();
                self.written = 0;
                self.flushed |= Pin::new(&mut self.stream).poll_flush(cx).is_ready();
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.begin > 0 {
            self.input.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        let mut buffer = ReadBuf::new(&mut self.input[self.end..]);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(read) => {
                let count = read.map_or(0, |()| buffer.filled().len());
                self.end += count;
                Poll::Ready(count)
            }
        }
    }

    fn take(&mut self, each: &mut impl FnMut(u64, &[u8], &mut Vec<u8>)) {
        while let Some((header, rest)) = self.input[self.begin..self.end].split_first_chunk::<HEADER>() {
            let [a, b, c, d, id @ ..] = *header;
            let size = u32::from_le_bytes([a, b, c, d]) as usize;
            let Some(payload) = rest.get(..size) else { return };
            each(u64::from_le_bytes(id), payload, &mut self.output);
            self.begin += HEADER + size;
        }
    }
}

fn put(output: &mut Vec<u8>, id: u64, payload: &[u8]) {
    output.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    output.extend_from_slice(&id.to_le_bytes());
    output.extend_from_slice(payload);
}

/// Requests per second over a fresh connection, without the handshake.
pub async fn echoed(loopback: &Loopback, payload: &[u8], count: usize) -> f64 {
    let (near, far) = loopback.connection().await;
    let echo = tokio::spawn(async move {
        let mut far = Framed::new(far);
        while poll_fn(|cx| far.poll(cx, |id, payload, output| put(output, id, payload))).await {}
    });
    let (payload, count) = (payload.to_vec(), count / IN_FLIGHT * IN_FLIGHT);
    let asking = tokio::spawn(async move {
        let mut near = Framed::new(near);
        let begun = Instant::now();
        let mut open = HashMap::new();
        let (mut asked, mut answered) = (0, 0);
        while asked < IN_FLIGHT {
            open.insert(asked as u64, asked);
            put(&mut near.output, asked as u64, &payload);
            asked += 1;
        }
        poll_fn(|cx| {
            let polled = near.poll(cx, |id, answer, output| {
                open.remove(&id).expect("only what was asked is answered");
                assert_eq!(answer.len(), payload.len());
                answered += 1;
                if asked < count {
                    open.insert(asked as u64, asked);
                    put(output, asked as u64, &payload);
                    asked += 1;
                }
            });
            if answered < count { polled.map(|_| ()) } else { Poll::Ready(()) }
        })
        .await;
        rate(count, begun)
    });
    let rate = asking.await.expect("nothing in a sample panics");
    echo.await.expect("nothing in a sample panics");
    rate
}
