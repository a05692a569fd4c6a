//! The client of the admin socket. One request per connection.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::answers::ErrorBody;
use super::socket::connect;

/// Time limit for an answer: the node answers from memory, so more time does not help.
const PATIENCE: Duration = Duration::from_secs(10);

/// Wait before a starting or busy node is asked again. Phases that were compiled before load faster than this.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How long a busy node is asked again: places are free as soon as other questions are answered.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    #[error(
        "no node answers on {}: {source}; start one with `groundskeeper run`, or name its --data-dir or --socket",
        socket.display()
    )]
    NoNode { socket: PathBuf, source: io::Error },
    #[error("not allowed to talk to {}; be the node's user, root, or in the socket's group", .0.display())]
    NotAllowed(PathBuf),
    /// The node has no place for this client now, or is still at work on the request.
    #[error("{why} ({})", socket.display())]
    Busy { socket: PathBuf, why: String },
    /// A process listens, but there was no whole answer.
    #[error("the node on {} did not answer: {why}", socket.display())]
    NoAnswer { socket: PathBuf, why: String },
    /// The node understood the request and refused it.
    #[error("{0}")]
    Refused(String),
    #[error("the node on {} did not answer properly: {why}", socket.display())]
    Broken { socket: PathBuf, why: String },
}

/// Sends requests to one node.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Sends `GET path` and reads a JSON answer, including a 503 from a node that reports bad health.
    ///
    /// # Errors
    /// [`ClientError`] distinguishes a missing node from one that refuses.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.answer(self.get_bytes(path).await?)
    }

    /// Sends `POST path` and reads a JSON answer.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.answer(self.ask(Method::POST, path).await?)
    }

    fn answer<T: DeserializeOwned>(&self, (status, body): (StatusCode, Bytes)) -> Result<T, ClientError> {
        if status == StatusCode::OK || status == StatusCode::SERVICE_UNAVAILABLE && !is_refusal(&body) {
            return serde_json::from_slice(&body).map_err(|error| self.broken(error));
        }
        Err(self.error_of(status, &body))
    }

    /// The error that an answer other than 200 stands for.
    fn error_of(&self, status: StatusCode, body: &Bytes) -> ClientError {
        let Ok(ErrorBody { error: why }) = serde_json::from_slice(body) else { return self.broken(status) };
        match status {
            StatusCode::FORBIDDEN => ClientError::NotAllowed(self.socket.clone()),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => {
                ClientError::Busy { socket: self.socket.clone(), why }
            }
            _ => ClientError::Refused(why),
        }
    }

    /// Sends `GET path` and returns any answer.
    ///
    /// # Errors
    /// As [`Client::get`], except that every status is an answer.
    pub async fn get_bytes(&self, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
        self.ask(Method::GET, path).await
    }

    /// Sends `GET path` and passes each line of the answer to `line`, until the answer ends or `line` returns false.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn lines(&self, path: &str, mut line: impl FnMut(&str) -> bool) -> Result<(), ClientError> {
        self.exchange(Method::GET, path, async |response| {
            let response = response?;
            let status = response.status();
            let mut body = response.into_body();
            if status != StatusCode::OK {
                let body = body.collect().await.map_err(|error| self.failed(&error))?;
                return Err(self.error_of(status, &body.to_bytes()));
            }
            let mut rest = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.failed(&error))?;
                rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let whole: Vec<u8> = rest.drain(..=end).collect();
                    let text = String::from_utf8_lossy(&whole);
                    if !text.trim().is_empty() && !line(text.trim()) {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// Repeats the request until the node has started and has a place for it, or the time limit is reached.
    async fn ask(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
        let begun = Instant::now();
        loop {
            let asked = self.ask_once(method.clone(), path).await;
            let patience = match &asked {
                Ok((StatusCode::SERVICE_UNAVAILABLE, body)) if is_refusal(body) => PATIENCE,
                // Refused before it was read: nothing was done.
                Ok((StatusCode::TOO_MANY_REQUESTS, _)) => BUSY_PATIENCE,
                // A question without an answer can be asked again; an order may have been carried out.
                Err(ClientError::NoAnswer { .. } | ClientError::Busy { .. }) if method == Method::GET => {
                    BUSY_PATIENCE
                }
                _ => Duration::ZERO,
            };
            if begun.elapsed() + ASK_AGAIN > patience {
                return asked;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn ask_once(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
        let answer = self.exchange(method, path, async |response| {
            let response = response?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|error| self.failed(&error))?;
            Ok((status, body.to_bytes()))
        });
        let late = || self.no_answer(format!("nothing came within {} s", PATIENCE.as_secs()));
        tokio::time::timeout(PATIENCE, answer).await.map_err(|_| late())?
    }

    /// Sends one request, and drives its connection while `read` reads the answer.
    async fn exchange<T>(
        &self,
        method: Method,
        path: &str,
        read: impl AsyncFnOnce(Result<Response<Incoming>, ClientError>) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let stream = connect(&self.socket).await.map_err(|error| self.no_connection(error))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "groundskeeper")
            .body(Empty::<Bytes>::new())
            .map_err(|error| self.broken(error))?;
        let answer = async {
            let response = sender.send_request(request).await;
            read(response.map_err(|error| self.failed(&error))).await
        };
        while_driving(connection, answer).await
    }

    fn no_connection(&self, source: io::Error) -> ClientError {
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed(self.socket.clone()),
            // Its queue of connections is full.
            io::ErrorKind::WouldBlock => {
                let why = "the node is busy: it accepts no connection now; ask again".to_owned();
                ClientError::Busy { socket: self.socket.clone(), why }
            }
            _ => ClientError::NoNode { socket: self.socket.clone(), source },
        }
    }

    fn failed(&self, error: &hyper::Error) -> ClientError {
        if error.is_parse() {
            return self.broken(error);
        }
        self.no_answer("it closed the connection; it may be busy or stopping, so ask again".to_owned())
    }

    fn no_answer(&self, why: String) -> ClientError {
        ClientError::NoAnswer { socket: self.socket.clone(), why }
    }

    fn broken(&self, why: impl ToString) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), why: why.to_string() }
    }
}

/// The result of `answer`, while `connection` moves its bytes.
async fn while_driving<T>(connection: impl Future, answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answered = &mut answer => answered,
        // What has arrived can still be read.
        _ = connection => answer.await,
    }
}

/// Whether the body is an error. A node in bad health also answers 503, but with its health.
fn is_refusal(body: &Bytes) -> bool {
    serde_json::from_slice::<ErrorBody>(body).is_ok()
}

/// Escapes `text` for use as one segment of a path (RFC 3986, section 2).
pub fn path_segment(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
