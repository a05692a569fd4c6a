//! Who sent a request to the local API, for the journal. Decides nothing.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::share::Party;
use crate::journal::Initiator;

/// The user at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    /// By the system's word; None over the network.
    uid: Option<u32>,
}

impl From<Caller> for Initiator {
    fn from(Caller { uid }: Caller) -> Self {
        Self::Operator { uid }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let uid = match parts.extensions.get::<Party>() {
            Some(Party::User(uid)) => Some(*uid),
            Some(Party::Address(_)) | None => None,
        };
        Ok(Self { uid })
    }
}
