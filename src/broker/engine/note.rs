//! What is worth a line in the log: clients that come and go, and what they are refused.

use bytestring::ByteString;

use super::{ConnectionId, Engine, Output};
use crate::broker::admission::Address;
use crate::mqtt::{Connect, ReasonCode, Version};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// A client has its session.
    Connected,
    /// A CONNECT was refused for another reason than its password, or none came.
    Refused,
    /// User name or password are wrong or missing.
    LoginFailed,
    /// A user name was wrong too often at an address.
    UserLocked,
    /// A client left, or its connection was lost.
    Disconnected,
    /// The broker ended a connection.
    Dropped,
    /// A subscription was not granted.
    SubscribeRefused,
    /// Somebody ended a session by command, or its client identifier belongs to another user.
    SessionEnded,
}

impl Noted {
    /// The stable name in the field `event`.
    pub fn event(self) -> &'static str {
        match self {
            Self::Connected => "broker.client_connected",
            Self::Refused => "broker.client_refused",
            Self::LoginFailed => "broker.login_failed",
            Self::UserLocked => "broker.user_locked",
            Self::Disconnected => "broker.client_disconnected",
            Self::Dropped => "broker.client_dropped",
            Self::SubscribeRefused => "broker.subscribe_refused",
            Self::SessionEnded => "broker.session_ended",
        }
    }

    /// The same for a person.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Connected => "client connected",
            Self::Refused => "client refused",
            Self::LoginFailed => "login failed",
            Self::UserLocked => {
                "too many wrong passwords; this user name is refused at this address for a minute"
            }
            Self::Disconnected => "client disconnected",
            Self::Dropped => "client disconnected by the broker",
            Self::SubscribeRefused => "subscription refused",
            Self::SessionEnded => "session ended",
        }
    }
}

/// A line for the log. Names and topics are as the client wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What happened.
    pub what: Noted,
    /// Where the client is; `None` for a Unix socket.
    pub address: Option<Address>,
    /// The user name, whether it is right or not.
    pub user: Option<ByteString>,
    /// The client identifier, once it is known.
    pub client_id: Option<ByteString>,
    /// The topic or filter it is about.
    pub topic: Option<ByteString>,
    /// The reason code the client got, or would have got in MQTT 5.
    pub reason: Option<ReasonCode>,
    /// For a person, if there is more to say.
    pub why: &'static str,
    /// What a client that connected asked for.
    pub terms: Option<Terms>,
}

/// What a client asked for in its CONNECT, and whether its session was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The version of the protocol.
    pub version: Version,
    /// Seconds; 0 is never.
    pub keep_alive: u16,
    /// Its session goes on from an earlier connection.
    pub is_resumed: bool,
    /// How long its session is kept without a connection, in seconds; `None`: for ever.
    pub outlives_s: Option<u64>,
}

/// Who a connection says it is, until it has a session that knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Claimed {
    pub(super) user: Option<ByteString>,
    pub(super) client_id: ByteString,
}

impl Engine {
    /// Notes something about the client of a connection.
    pub(super) fn note(
        &mut self,
        id: ConnectionId,
        what: Noted,
        reason: ReasonCode,
        why: &'static str,
    ) {
        self.note_topic(id, what, None, (reason, why));
    }

    /// Notes that a client has its session.
    pub(super) fn note_connected(&mut self, id: ConnectionId, connect: &Connect, is_resumed: bool) {
        self.note(id, Noted::Connected, ReasonCode::SUCCESS, "");
        let session = self
            .connections
            .get(&id)
            .and_then(|connection| connection.session)
            .and_then(|key| self.sessions.get(key));
        let outlives_s = session
            .and_then(|session| session.outlives)
            .map(|outlives| outlives.as_secs());
        let terms = Terms {
            version: connect.version,
            keep_alive: connect.keep_alive,
            is_resumed,
            outlives_s,
        };
        if let Some(Output::Note(note)) = self.outputs.last_mut() {
            note.terms = Some(terms);
        }
    }

    /// The same, about a topic or filter.
    pub(super) fn note_topic(
        &mut self,
        id: ConnectionId,
        what: Noted,
        topic: Option<ByteString>,
        (reason, why): (ReasonCode, &'static str),
    ) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let session = connection.session.and_then(|key| self.sessions.get(key));
        let (user, client_id) = match (session, &connection.claimed) {
            (Some(session), _) => (session.user.clone(), Some(session.client_id.clone())),
            (None, Some(claimed)) => (claimed.user.clone(), Some(claimed.client_id.clone())),
            (None, None) => (None, None),
        };
        let why = if why == reason.name() { "" } else { why };
        let reason = Some(reason).filter(|reason| *reason != ReasonCode::SUCCESS);
        let note = Note {
            what,
            address: connection.peer.address,
            user,
            client_id,
            topic,
            reason,
            why,
            terms: None,
        };
        self.outputs.push(Output::Note(Box::new(note)));
    }
}
