//! Why there is no link, from errors of the system, of TLS and of the remote.

use std::io;

use super::probable::without_links;
use super::{Protocol, tls};
use crate::mqtt::ReasonCode;

/// Why there is no link. Weather, except for the refusals a person must mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinkError {
    /// Nothing answers: there is no link, and trying costs nothing.
    #[error("{0}")]
    Silent(String),
    /// The remote was reached and did not accept in time; it may have accepted unheard.
    #[error("{0}")]
    Unanswered(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("the remote broker refuses this gateway: {what}")]
    Refused {
        what: String,
        reason: Option<ReasonCode>,
    },
    #[error("{0}")]
    Broken(String),
    /// The remote has ended the connection, perhaps with a reason.
    #[error("{what}")]
    Closed {
        what: String,
        reason: Option<ReasonCode>,
    },
}

impl LinkError {
    pub(super) fn closed(what: String) -> Self {
        Self::Closed { what, reason: None }
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let what = tls::of_connection(&error)
            .unwrap_or_else(|| format!("the connection broke: {}", without_links(&error)));
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Self::closed(what),
            _ => Self::Broken(what),
        }
    }
}

/// A remote that closes instead of answering CONNECT says nothing about why; these are the usual
/// reasons.
pub(super) fn before_connack(error: LinkError, protocol: Protocol) -> LinkError {
    match error {
        LinkError::Closed { what, reason: None } => {
            let probable = match protocol {
                Protocol::V5 => "if the remote speaks only MQTT 3.1.1, set `protocol: 3.1.1`",
                Protocol::V311 => "if the remote speaks only MQTT 5, set `protocol: 5`",
            };
            LinkError::Closed {
                what: format!(
                    "{what} before it answered CONNECT; {probable}; else check `client_id`, `user` and `password`"
                ),
                reason: None,
            }
        }
        other => other,
    }
}
