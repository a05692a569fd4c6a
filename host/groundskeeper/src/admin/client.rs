//! The client of the admin socket. One request per connection.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::answers::ErrorBody;
use super::socket::connect;

/// Time limit for an answer: the node answers from memory, so more time does not help.
const PATIENCE: Duration = Duration::from_secs(10);

/// Wait before a starting node is asked again. Phases that were compiled before load faster than this.
const ASK_AGAIN: Duration = Duration::from_millis(100);

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
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(refusal) => Err(ClientError::Refused(refusal.error)),
            Err(_) => Err(self.broken(status)),
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
        let response = self.send(Method::GET, path).await?;
        if response.status() != StatusCode::OK {
            return Err(self.broken(response.status()));
        }
        let mut body = response.into_body();
        let mut rest = Vec::new();
        'lines: while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(error))?;
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let whole: Vec<u8> = rest.drain(..=end).collect();
                let text = String::from_utf8_lossy(&whole);
                if !text.trim().is_empty() && !line(text.trim()) {
                    break 'lines;
                }
            }
        }
        Ok(())
    }

    /// Repeats the request until the node has started, or the time limit is reached.
    async fn ask(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
        let begun = Instant::now();
        loop {
            let (status, body) = self.ask_once(method.clone(), path).await?;
            let is_starting = status == StatusCode::SERVICE_UNAVAILABLE && is_refusal(&body);
            if !is_starting || begun.elapsed() + ASK_AGAIN > PATIENCE {
                return Ok((status, body));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn ask_once(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
        let answer = async {
            let response = self.send(method, path).await?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|error| self.failed(error))?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(PATIENCE, answer).await.map_err(|_| self.broken("it took too long"))?
    }

    /// Sends one request. Its connection lives as long as the response.
    async fn send(&self, method: Method, path: &str) -> Result<Response<Incoming>, ClientError> {
        let stream = connect(&self.socket).await.map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed(self.socket.clone()),
            _ => ClientError::NoNode { socket: self.socket.clone(), source },
        })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "groundskeeper")
            .body(Empty::<Bytes>::new())
            .map_err(|error| self.broken(error))?;
        sender.send_request(request).await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: hyper::Error) -> ClientError {
        if error.is_incomplete_message() {
            // Closed without an answer: this is how the node rejects clients without permission.
            ClientError::NotAllowed(self.socket.clone())
        } else {
            self.broken(error)
        }
    }

    fn broken(&self, why: impl ToString) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), why: why.to_string() }
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
