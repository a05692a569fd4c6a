//! The same with tarpc, over the same TLS, with the host's wire format instead of tarpc's own.

use std::io;
use std::pin::Pin;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::server::{BaseChannel, Channel};
use tarpc::{client, context, serde_transport};
use tokio::task::JoinSet;
use tokio_util::codec::LengthDelimitedCodec;

use super::super::wire::Loopback;
use super::{IN_FLIGHT, rate};
use crate::rounds::used;

#[tarpc::service]
pub trait Echo {
    async fn echo(payload: Bytes) -> Bytes;
}

#[derive(Clone)]
struct Echoing;

impl Echo for Echoing {
    async fn echo(self, _: context::Context, payload: Bytes) -> Bytes {
        payload
    }
}

struct Postcard;

impl<T: Serialize> tokio_serde::Serializer<T> for Postcard {
    type Error = io::Error;

    fn serialize(self: Pin<&mut Self>, item: &T) -> io::Result<Bytes> {
        postcard::to_allocvec(item).map(Bytes::from).map_err(io::Error::other)
    }
}

impl<T: DeserializeOwned> tokio_serde::Deserializer<T> for Postcard {
    type Error = io::Error;

    fn deserialize(self: Pin<&mut Self>, bytes: &BytesMut) -> io::Result<T> {
        postcard::from_bytes(bytes).map_err(io::Error::other)
    }
}

/// Must be called inside a runtime, which runs both ends.
pub async fn connected(loopback: &Loopback) -> EchoClient {
    let (near, far) = loopback.connection().await;
    let framed = LengthDelimitedCodec::builder();
    let far = serde_transport::new(framed.new_framed(far), Postcard);
    let served = BaseChannel::with_defaults(far).execute(Echoing.serve());
    tokio::spawn(served.for_each(|answer| async { _ = tokio::spawn(answer) }));
    let near = serde_transport::new(framed.new_framed(near), Postcard);
    EchoClient::new(client::Config::default(), near).spawn()
}

/// Requests per second, sent in the same way as ours.
pub async fn echoed(echo: &EchoClient, payload: &Bytes, count: usize) -> f64 {
    let begun = Instant::now();
    let mut askers = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (echo, payload) = (echo.clone(), payload.clone());
        askers.spawn(async move {
            for _ in 0..count / IN_FLIGHT {
                used(echo.echo(context::current(), payload.clone()).await.expect("the peer echoes"));
            }
        });
    }
    askers.join_all().await;
    rate(count, begun)
}
