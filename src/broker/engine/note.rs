//! Lines for the log: clients that come and go, and refusals.

use bytestring::ByteString;

use crate::broker::admission::Address;
use crate::mqtt::{ReasonCode, Version};

/// The event.
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
    /// A session was ended by command, or its client identifier belongs to another user.
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
pub struct ClientNote {
    /// The event.
    pub what: Noted,
    /// The address of the client; `None` for a Unix socket.
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
    /// The terms of a client that connected.
    pub terms: Option<Terms>,
}

/// The terms of a CONNECT, and whether its session was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The version of the protocol.
    pub version: Version,
    /// Seconds; 0 is never.
    pub keep_alive: u16,
    /// Its session is continued from an earlier connection.
    pub is_resumed: bool,
    /// How long its session is kept without a connection, in seconds; `None`: for ever.
    pub outlives_s: Option<u64>,
}
