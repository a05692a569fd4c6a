//! Why a handshake did not end in a connection: for the journal, the address book and the other side.

use std::io;
use std::time::Duration;

use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::NewcomerRefusal;
use groundskeeper_pool::book::DialFailure;
use groundskeeper_pool::journal::Cause;
use groundskeeper_pool::pool::Denied;
use rustls::AlertDescription;

use super::wire::{GREATEST_VERSION, LEAST_VERSION};

/// Why a handshake did not end in a connection.
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    #[error("it showed no ed25519 key")]
    NoKey,
    #[error("it showed a key that is not proper: {0}")]
    BadKey(String),
    #[error("another key than expected answered: {got}")]
    WrongKey { got: PeerId },
    #[error("it belongs to another network")]
    OtherNetwork,
    #[error("it does not speak the protocol: {0}")]
    Garbage(String),
    #[error("the handshake was not done within {0:?}")]
    TimedOut(Duration),
    #[error("it hung up during the handshake")]
    Closed,
    #[error("the connection was lost during the handshake: {0}")]
    Lost(String),
    #[error("it speaks versions {least} to {greatest}, this node {LEAST_VERSION} to {GREATEST_VERSION}")]
    Version { least: u16, greatest: u16 },
    #[error("it sent {0} instead of a hello")]
    BadHello(String),
    /// It sent a goodbye. `cause` is None for a code that this node does not know; `text` is untrusted.
    #[error("it turned us away: {text}")]
    TurnedAway { cause: Option<Cause>, text: String },
    #[error("it is this node itself")]
    SelfDial,
    #[error("it is another process with this node's key")]
    KeyConflict,
    /// The pool of this node refused the connection to `peer`.
    #[error("{denied}")]
    Denied { denied: Denied, peer: PeerId },
    #[error("the node is shutting down")]
    Stopped,
}

impl HandshakeError {
    /// The same error for the address book, which knows a closed set.
    pub(crate) fn into_failure(self) -> DialFailure {
        match self {
            Self::WrongKey { got } => DialFailure::WrongKey { got },
            Self::OtherNetwork => DialFailure::OtherNetwork,
            Self::TimedOut(_) => DialFailure::TimedOut,
            Self::SelfDial | Self::Denied { denied: Denied::SelfDial, .. } => DialFailure::SelfDial,
            Self::TurnedAway { cause: Some(Cause::Replaced), .. }
            | Self::Denied { denied: Denied::Duplicate, .. } => DialFailure::Duplicate,
            Self::TurnedAway { cause: Some(Cause::Banned | Cause::Limits | Cause::Shutdown), text } => {
                DialFailure::Denied(text)
            }
            Self::Denied { denied, .. } => DialFailure::Denied(denied.to_string()),
            Self::Stopped => DialFailure::Abandoned,
            other => DialFailure::Handshake(other.to_string()),
        }
    }

    pub(crate) fn kind(&self) -> NewcomerRefusal {
        match self {
            Self::NoKey | Self::BadKey(_) | Self::WrongKey { .. } => NewcomerRefusal::Key,
            Self::OtherNetwork => NewcomerRefusal::OtherNetwork,
            Self::Garbage(_) => NewcomerRefusal::Garbage,
            Self::TimedOut(_) => NewcomerRefusal::TimedOut,
            Self::Version { .. } | Self::BadHello(_) => NewcomerRefusal::Hello,
            Self::Closed | Self::Lost(_) | Self::TurnedAway { .. } | Self::Stopped => NewcomerRefusal::Closed,
            Self::SelfDial | Self::KeyConflict | Self::Denied { .. } => NewcomerRefusal::Denied,
        }
    }

    /// The cause and text of the goodbye, if the other side gets one.
    pub(crate) fn farewell(&self) -> Option<(Cause, String)> {
        let cause = match self {
            Self::Version { .. }
            | Self::BadHello(_)
            | Self::WrongKey { .. }
            | Self::SelfDial
            | Self::KeyConflict => Cause::ProtocolError,
            Self::Denied { denied, .. } => match denied {
                Denied::Duplicate => Cause::Replaced,
                Denied::Banned(_) => Cause::Banned,
                Denied::ShuttingDown => Cause::Shutdown,
                Denied::SelfDial => Cause::ProtocolError,
                Denied::Limit(_) | Denied::Full(_) => Cause::Limits,
            },
            Self::Stopped => Cause::Shutdown,
            _ => return None,
        };
        Some((cause, self.to_string()))
    }
}

impl From<io::Error> for HandshakeError {
    /// What a failure of the stream means, as far as TLS can tell.
    fn from(error: io::Error) -> Self {
        use rustls::Error as E;
        match error.get_ref().and_then(|inner| inner.downcast_ref::<E>()) {
            Some(E::NoApplicationProtocol | E::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
                Self::OtherNetwork
            }
            Some(
                E::NoCertificatesPresented
                | E::AlertReceived(AlertDescription::CertificateRequired)
                | E::PeerIncompatible(
                    rustls::PeerIncompatible::IncorrectCertificateTypeExtension
                    | rustls::PeerIncompatible::UnsolicitedCertificateTypeExtension,
                ),
            ) => Self::NoKey,
            Some(E::InvalidCertificate(why)) => Self::BadKey(why.to_string()),
            Some(other) => Self::Garbage(other.to_string()),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Lost(error.to_string()),
        }
    }
}
