//! The stages of a connection: its peer, its login, its end.

use bytes::Bytes;
use bytestring::ByteString;

use crate::broker::admission::Address;
use crate::broker::scram::ScramExchange;
use crate::mqtt::{Connect, Packet};

/// The other end of a connection, as far as its transport knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// `None` for a Unix socket.
    pub address: Option<Address>,
    /// The subject of the certificate it has shown, where that is its user name.
    pub certificate: Option<ByteString>,
}

/// The names in a CONNECT, for the log, until there is a session that has them.
#[derive(Debug, Clone, Default)]
pub(super) struct Claimed {
    pub(super) user: Option<ByteString>,
    pub(super) client_id: ByteString,
}

/// The progress of a login.
#[derive(Debug)]
pub(super) enum Stage {
    AwaitsConnect,
    /// A password is being compared.
    Verifying(Box<PendingConnect>),
    /// The client must prove that it has the password.
    Proving(Box<PendingConnect>, Box<ScramProof>),
    Live,
    /// In a session, and proving it again.
    ProvingAgain(Box<ScramProof>),
}

/// A CONNECT that is not answered.
#[derive(Debug)]
pub(super) struct PendingConnect {
    pub(super) connect: Connect,
    /// The user if the login succeeds; `None` if there is no such user.
    pub(super) user: Option<ByteString>,
    /// Packets that came before CONNACK.
    pub(super) early: Vec<Packet>,
}

impl PendingConnect {
    pub(super) fn new(connect: Connect, user: Option<ByteString>) -> Self {
        Self {
            connect,
            user,
            early: Vec::new(),
        }
    }
}

/// A SCRAM exchange under way.
#[derive(Debug)]
pub(super) struct ScramProof {
    pub(super) exchange: ScramExchange,
    /// The user name that the client gives.
    pub(super) name: ByteString,
    /// `None` if there is no such user.
    pub(super) user: Option<ByteString>,
}

/// A login that succeeded.
#[derive(Debug, Default)]
pub(super) struct Granted {
    pub(super) user: Option<ByteString>,
    /// For CONNACK, after enhanced authentication.
    pub(super) proof: Option<ServerProof>,
}

/// The proof that the server knows the secret of a user.
#[derive(Debug)]
pub(super) struct ServerProof {
    pub(super) method: ByteString,
    pub(super) data: Bytes,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By DISCONNECT: the will is dropped [MQTT-3.14.4-3].
    Orderly,
    /// In any other way: the will is published.
    Lost,
    /// A new connection of the same client takes the session: a delayed will is dropped, another is
    /// published.
    TakenOver,
}
