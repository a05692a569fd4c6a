//! One connection of the local API: one request, one answer, and time limits for both. Decides no answer.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::refusals::Turned;
use super::routes::{ErrorResponse, STARTING};
use super::share::{ConnStage, Place};

/// Time for the request to arrive. A client sends it at once, so five seconds forgive a busy machine.
const REQUEST: Duration = Duration::from_secs(5);

/// Time for the node to find the answer. Less than the 10 s that the client waits, so that it hears the reason.
const WORK: Duration = Duration::from_secs(9);

/// Time in which a client must read something of an answer that waits for it.
const PROGRESS: Duration = Duration::from_secs(10);

/// Time for a whole answer, however slowly it is read. A scrape of a node with 100,000 peers has less than 1 MiB.
const ANSWER: Duration = Duration::from_secs(60);

/// Time for a client that got no place to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes of a request's head. hyper's least; a request of ours has some hundred.
const HEAD: usize = 8192;

/// A path whose answers do not end.
const STREAM: &str = "/tap";

const BUSY: &str =
    "the node is busy: others use all the places of its local API that you may have; ask again";
const BUSY_STREAMS: &str = "too many streams are open already; end another `groundskeeper tap` first";
const TOO_SLOW: &str = "no request came within 5 s";
const STILL_AT_WORK: &str =
    "the node is still at work on this after 9 s, and goes on; ask again for the result";

/// The answers of a listener. Empty while the node starts.
pub(super) type Routes = Arc<OnceLock<Router>>;

/// Answers the one request of `stream`. Returns why the client got no answer, if it got none.
pub(super) async fn answer<S>(
    stream: S,
    place: Place,
    routes: Routes,
    stop: CancellationToken,
) -> Option<Turned>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let place = Arc::new(place);
    let watched = WatchedStream { stream, place: Arc::clone(&place), stalled: None };
    let service = service_fn({
        let place = Arc::clone(&place);
        move |request| Box::pin(respond(request, Arc::clone(&place), routes.get().cloned()))
    });
    let mut http = http1::Builder::new();
    // One request per connection, so that its time can be limited without cutting off a later one.
    let mut serving =
        http.keep_alive(false).max_buf_size(HEAD).serve_connection(TokioIo::new(watched), service);
    let mut limit = Box::pin(sleep(REQUEST));
    let mut has_asked = false;
    let turned = loop {
        tokio::select! {
            biased;
            served = std::future::poll_fn(|cx| serving.poll_without_shutdown(cx)) => {
                let is_stalled = served.is_err_and(|error| is_time_out(&error));
                break is_stalled.then_some(Turned::Slow);
            }
            () = place.evicted() => break Some(Turned::Busy),
            () = stop.cancelled(), if place.stage() == ConnStage::Silent => break None,
            () = &mut limit => match place.stage() {
                ConnStage::Silent => break Some(Turned::Slow),
                ConnStage::Answering if has_asked => break Some(Turned::Slow),
                // A stream may last as long as it is read.
                ConnStage::Answering | ConnStage::Streaming => {
                    has_asked = true;
                    limit.set(sleep(ANSWER));
                }
            },
        }
    };
    let mut stream = serving.into_parts().io.into_inner().stream;
    match (turned, place.stage()) {
        (Some(Turned::Slow), ConnStage::Silent) => {
            say_at_once(&mut stream, StatusCode::REQUEST_TIMEOUT, TOO_SLOW).await
        }
        (Some(_), ConnStage::Silent) => say_at_once(&mut stream, StatusCode::TOO_MANY_REQUESTS, BUSY).await,
        _ => {}
    }
    // The client may have left.
    _ = timeout(LINGER, stream.shutdown()).await;
    turned
}

async fn respond(
    mut request: Request<Incoming>,
    place: Arc<Place>,
    router: Option<Router>,
) -> Result<Response, Infallible> {
    place.has_asked();
    let Some(router) = router else {
        return Ok(ErrorResponse(StatusCode::SERVICE_UNAVAILABLE, STARTING.to_owned()).into_response());
    };
    if request.uri().path() == STREAM && place.become_stream().is_err() {
        return Ok(ErrorResponse(StatusCode::TOO_MANY_REQUESTS, BUSY_STREAMS.to_owned()).into_response());
    }
    request.extensions_mut().insert(place.party());
    let answered = timeout(WORK, TowerToHyperService::new(router).call(request)).await;
    let late = || ErrorResponse(StatusCode::GATEWAY_TIMEOUT, STILL_AT_WORK.to_owned()).into_response();
    answered.unwrap_or_else(|_| Ok(late()))
}

/// Tells a client that there is no place for it. Waits for it to read that, for a short time.
pub(super) async fn refuse(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    say_at_once(&mut stream, StatusCode::TOO_MANY_REQUESTS, BUSY).await;
    // A stream that is closed before the request was read is reset, and the words are lost.
    let read_all = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(HEAD as u64), &mut tokio::io::sink()).await
    };
    _ = timeout(LINGER, read_all).await;
}

/// Writes a whole answer if the stream takes it at once.
async fn say_at_once(stream: &mut (impl AsyncWrite + Unpin), status: StatusCode, error: &str) {
    let body = serde_json::json!({ "error": error }).to_string();
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    std::future::poll_fn(|cx| {
        // A client whose buffer is full has been told enough.
        _ = Pin::new(&mut *stream).poll_write(cx, text.as_bytes());
        Poll::Ready(())
    })
    .await;
}

fn is_time_out(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// A stream that ends if its client reads nothing for [`PROGRESS`], and tells its place while it waits.
struct WatchedStream<S> {
    stream: S,
    place: Arc<Place>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() {
            if self.stalled.take().is_some() {
                self.place.has_read();
            }
            return written;
        }
        if self.stalled.is_none() {
            self.place.does_not_read();
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(PROGRESS)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
