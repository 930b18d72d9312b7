//! What an operator should know of: messages that were taken and not used as their sender meant, acknowledgements of the wrong kind.
//!
//! Invariants:
//! * Whatever peers do, [`MOST`] notices of a kind leave in [`SPAN`]; the rest is counted, and told with the next one.

use std::time::{Duration, Instant};

use bytestring::ByteString;

use super::{Engine, Output, SessionKey};
use crate::broker::admission::Address;
use crate::mqtt::TopicName;

/// Notices of one kind in [`SPAN`].
const MOST: u32 = 10;
const SPAN: Duration = Duration::from_secs(10);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    const COUNT: usize = 6;
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

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    since: Option<Instant>,
    told: u32,
    left_out: u64,
}

/// How many notices of each kind there were.
#[derive(Debug, Default)]
pub(super) struct Notices([Count; NoticeKind::COUNT]);

impl Notices {
    /// Those left out before, if one more may leave now.
    fn admit(&mut self, kind: NoticeKind, now: Instant) -> Option<u64> {
        let count = self.0.get_mut(kind as usize)?;
        if count.since.is_none_or(|since| now.saturating_duration_since(since) >= SPAN) {
            (count.since, count.told) = (Some(now), 0);
        }
        if count.told >= MOST {
            count.left_out += 1;
            return None;
        }
        count.told += 1;
        Some(std::mem::take(&mut count.left_out))
    }
}

impl Engine {
    /// Tells what happened to a message, or to an acknowledgement, of a client.
    pub(super) fn notice(&mut self, kind: NoticeKind, key: Option<SessionKey>, topic: Option<&TopicName>, why: &'static str, now: Instant) {
        let Some(left_out) = self.notices.admit(kind, now) else { return };
        let session = key.and_then(|key| self.sessions.get(key));
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_counted_and_hides_no_other_kind() {
        let mut notices = Notices::default();
        let now = crate::time::now();
        let told = (0..1000).filter(|_| notices.admit(NoticeKind::RefusedMessage, now).is_some()).count();
        assert_eq!(told, MOST as usize);
        assert_eq!(notices.admit(NoticeKind::WrongAcknowledgement, now), Some(0));
        assert_eq!(notices.admit(NoticeKind::RefusedMessage, now + SPAN), Some(1000 - u64::from(MOST)));
        assert_eq!(notices.admit(NoticeKind::RefusedMessage, now + SPAN), Some(0));
    }
}
