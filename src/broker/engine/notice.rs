//! Warnings for the operator: messages that were not used as their sender meant, acknowledgements
//! of the wrong kind.
//!
//! Invariants:
//! * Whatever peers do, and whatever they call themselves, [`MOST`] notices of a kind about a
//!   network leave at once and as many in [`SPAN`]; the rest is counted, and logged with the next
//!   one or, when none comes, by [`super::Engine::settle_notices`].

use std::time::{Duration, Instant};

use bytestring::ByteString;

use crate::broker::admission::Address;
use crate::log::{LogLimiter, Source};
use crate::mqtt::TopicName;

/// Notices of one kind in [`SPAN`].
const MOST: u32 = 10;
const SPAN: Duration = Duration::from_secs(10);

/// The event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// A message was refused. Before MQTT 5, and at QoS 0, no packet can say so to its sender.
    RefusedMessage,
    /// A will was refused when it was to be published.
    RefusedWill,
    /// A command to an instrument came with the retain flag: it is carried out, or rejected, and
    /// not retained.
    RetainedCommand,
    /// A message went to its subscribers, and there was no room to retain it.
    NotRetained,
    /// The queue of a client is full: a message for it is dropped.
    FullQueue,
    /// Retained messages for a new subscription wait until there is memory for how far they have
    /// come.
    ReplayWaits,
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
            Self::ReplayWaits => "broker.retained_waits",
            Self::WrongAcknowledgement => "broker.wrong_acknowledgement",
        }
    }
}

/// Something to be logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The event.
    pub kind: NoticeKind,
    /// The client it is about; `None` for a remote broker, and for the gateway itself.
    pub client_id: Option<ByteString>,
    /// Its user name, if it has one.
    pub user: Option<ByteString>,
    /// Its address, if it is connected and not through a Unix socket.
    pub address: Option<Address>,
    /// Of the message, if it is about one.
    pub topic: Option<TopicName>,
    /// For a person.
    pub why: &'static str,
    /// Notices of this kind that were left out since the last one.
    pub left_out: u64,
}

/// Counts notices by kind and network: a peer may have as many client identifiers as it likes.
#[derive(Debug)]
pub(super) struct Notices(LogLimiter<NoticeKind, Source>);

impl Default for Notices {
    fn default() -> Self {
        Self(LogLimiter::new(MOST, SPAN / MOST))
    }
}

impl Notices {
    /// Those left out before, if one more may leave now.
    pub(super) fn admit(&mut self, kind: NoticeKind, source: Source, now: Instant) -> Option<u64> {
        self.0.permit(kind, source, now)
    }

    /// Those left out that no other one has followed, by kind.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<(NoticeKind, u64)> {
        self.0.overdue(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_is_counted_and_hides_no_other_kind() {
        let mut notices = Notices::default();
        let now = crate::time::now();
        let told = (0..1000)
            .filter(|_| {
                notices
                    .admit(NoticeKind::RefusedMessage, Source::Local, now)
                    .is_some()
            })
            .count();
        assert_eq!(told, MOST as usize);
        assert_eq!(
            notices.admit(NoticeKind::WrongAcknowledgement, Source::Local, now),
            Some(0)
        );
        assert_eq!(
            notices.admit(NoticeKind::RefusedMessage, Source::Local, now + SPAN),
            Some(1000 - u64::from(MOST))
        );
        assert_eq!(
            notices.admit(NoticeKind::RefusedMessage, Source::Local, now + SPAN),
            Some(0)
        );
    }
}
