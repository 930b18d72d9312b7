//! What an operator should know of: messages that were taken and not used as their sender meant, acknowledgements of the wrong kind.
//!
//! Invariants:
//! * Whatever peers do, [`MOST`] notices of a kind about a client leave at once and as many in [`SPAN`]; the rest is counted, and told
//!   with the next one or, when none comes, by [`Engine::settle_notices`].

use std::time::{Duration, Instant};

use bytestring::ByteString;

use super::{Engine, Output, SessionKey};
use crate::broker::admission::Address;
use crate::log::LogLimiter;
use crate::mqtt::TopicName;

/// Notices of one kind in [`SPAN`].
const MOST: u32 = 10;
const SPAN: Duration = Duration::from_secs(10);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// A message was refused. Before MQTT 5, and at QoS 0, its sender cannot be told.
    RefusedMessage,
    /// A will was refused when it was to be published.
    RefusedWill,
    /// A command to an instrument came with the retain flag: it is carried out, or rejected, and not retained.
    RetainedCommand,
    /// A message went to its subscribers, and there was no room to retain it.
    NotRetained,
    /// The queue of a client is full: a message for it is dropped.
    FullQueue,
    /// An acknowledgement of another kind than its message asks for.
    WrongAcknowledgement,
}

impl NoticeKind {
    /// The stable name in the field `event`.
    pub fn event(self) -> &'static str {
        match self {
            Self::RefusedMessage => "broker.message_refused",
            Self::RefusedWill => "broker.will_refused",
            Self::RetainedCommand => "broker.retained_command",
            Self::NotRetained => "broker.not_retained",
            Self::FullQueue => "broker.queue_full",
            Self::WrongAcknowledgement => "broker.wrong_acknowledgement",
        }
    }
}

/// Something to be logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What happened.
    pub kind: NoticeKind,
    /// The client it is about; `None` for a remote broker, and for the gateway itself.
    pub client_id: Option<ByteString>,
    /// Its user name, if it has one.
    pub user: Option<ByteString>,
    /// Where it is, if it is connected and not through a Unix socket.
    pub address: Option<Address>,
    /// Of the message, if it is about one.
    pub topic: Option<TopicName>,
    /// For a person.
    pub why: &'static str,
    /// Notices of this kind that were left out since the last one.
    pub left_out: u64,
}

/// How many notices of each kind there were, by client.
#[derive(Debug)]
pub(super) struct Notices(LogLimiter<(NoticeKind, Option<ByteString>)>);

impl Default for Notices {
    fn default() -> Self {
        Self(LogLimiter::new(MOST, SPAN / MOST))
    }
}

impl Notices {
    /// Those left out before, if one more may leave now.
    fn admit(&mut self, kind: NoticeKind, client_id: Option<&ByteString>, now: Instant) -> Option<u64> {
        self.0.permit(&(kind, client_id.cloned()), now)
    }
}

impl Engine {
    /// Tells what happened to a message, or to an acknowledgement, of a client.
    pub(super) fn notice(&mut self, kind: NoticeKind, key: Option<SessionKey>, topic: Option<&TopicName>, why: &'static str, now: Instant) {
        let session = key.and_then(|key| self.sessions.get(key));
        let Some(left_out) = self.notices.admit(kind, session.map(|session| &session.client_id), now) else { return };
        let connection = session.and_then(|session| session.connection).and_then(|id| self.connections.get(&id));
        let notice = Notice {
            kind,
            client_id: session.map(|session| session.client_id.clone()),
            user: session.and_then(|session| session.user.clone()),
            address: connection.and_then(|connection| connection.peer.address),
            topic: topic.map(TopicName::detached),
            why,
            left_out,
        };
        self.outputs.push(Output::Notice(Box::new(notice)));
    }

    /// Tells of notices that were left out and that no other one followed. To be called now and then.
    pub fn settle_notices(&mut self, now: Instant) {
        for (source, count) in self.notices.0.overdue(now) {
            let (event, client_id) = source.map_or(("any", None), |(kind, client_id)| (kind.event(), client_id));
            self.outputs.push(Output::LeftOut { event, client_id, count });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_counted_and_hides_no_other_kind() {
        let mut notices = Notices::default();
        let now = crate::time::now();
        let told = (0..1000).filter(|_| notices.admit(NoticeKind::RefusedMessage, None, now).is_some()).count();
        assert_eq!(told, MOST as usize);
        assert_eq!(notices.admit(NoticeKind::WrongAcknowledgement, None, now), Some(0));
        assert_eq!(notices.admit(NoticeKind::RefusedMessage, None, now + SPAN), Some(1000 - u64::from(MOST)));
        assert_eq!(notices.admit(NoticeKind::RefusedMessage, None, now + SPAN), Some(0));
    }
}
