//! Who sent a request to the local API, for the journal. Decides nothing.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::request::Parts;
use axum::serve::IncomingStream;
use tokio::net::TcpListener;

use super::{AdminSocket, ConnectionLimiter};
use crate::journal::Initiator;

/// The user at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// By the system's word; None over the network.
    pub(super) uid: Option<u32>,
}

impl From<Caller> for Initiator {
    fn from(Caller { uid }: Caller) -> Self {
        Self::Operator { uid }
    }
}

impl Connected<IncomingStream<'_, ConnectionLimiter<AdminSocket>>> for Caller {
    fn connect_info(stream: IncomingStream<'_, ConnectionLimiter<AdminSocket>>) -> Self {
        *stream.remote_addr()
    }
}

impl Connected<IncomingStream<'_, ConnectionLimiter<TcpListener>>> for Caller {
    fn connect_info(_: IncomingStream<'_, ConnectionLimiter<TcpListener>>) -> Self {
        Self { uid: None }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let info = parts.extensions.get::<ConnectInfo<Self>>();
        Ok(info.map_or(Self { uid: None }, |ConnectInfo(caller)| *caller))
    }
}
