//! Messages from all publishers: kept if they are to be retained, then handed to subscribers and
//! to destinations inside the gateway.

use std::time::Instant;

use bytes::Bytes;

use super::authorize::TOO_MANY_STATES;
use super::deliver::Reached;
use super::fanout::Fanout;
use super::held::HeldFor;
use super::notice::NoticeKind;
use super::record::Record;
use super::session::Rest;
use super::{Engine, Lsn, SessionKey, Ticket};
use crate::message::{Message, Origin};
use crate::route::Subject;

/// The outcome for a message that is to be retained.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Retention {
    /// The record of the message must say that it is retained, or that its topic has none any more.
    pub(super) is_recorded: bool,
    /// There was no room: the batch that says that the old message is gone.
    pub(super) removed: Lsn,
}

impl Engine {
    /// Accepts a message of the gateway itself, for local clients: it has been routed before.
    pub(super) fn accept(&mut self, message: Message, now: Instant) {
        self.publish(&mut Fanout::new(message, now), None, now);
    }

    /// Keeps a message if it is to be retained, hands it to subscribers and destinations, as far as
    /// `rest` says. The ticket is there if something waits until destinations have stored it.
    pub(super) fn route(
        &mut self,
        message: Message,
        from: Option<SessionKey>,
        held: Option<HeldFor>,
        rest: Rest,
        now: Instant,
    ) -> (Option<Ticket>, Reached) {
        let mut targets = self.routes.targets(&Subject::of(&message));
        let mut fanout = Fanout::new(message, now);
        let mut reached = if rest.is_delivered {
            Reached::default()
        } else {
            self.publish(&mut fanout, from, now)
        };
        reached.anybody |= rest.is_delivered || !targets.is_empty();
        targets.retain(|target| rest.missing & target.to().bit() != 0);
        if targets.is_empty() {
            return (None, reached);
        }
        let ticket = self.forward(targets, fanout.into_message(), held);
        (ticket, reached)
    }

    /// Keeps a message if it is to be retained, and hands it to subscribers.
    fn publish(&mut self, fanout: &mut Fanout, from: Option<SessionKey>, now: Instant) -> Reached {
        let mut retention = Retention::default();
        if fanout.message().retain && self.may_be_retained(fanout.message(), now) {
            retention = self.retain(fanout.message(), from, now);
        }
        fanout.is_retained = retention.is_recorded;
        let mut reached = self.deliver(fanout, from, now);
        reached.after = reached.after.max(retention.removed);
        reached
    }

    /// False for a command to an instrument that a remote broker has with the retain flag. A
    /// retained command can be removed.
    fn may_be_retained(&mut self, message: &Message, now: Instant) -> bool {
        let is_command = !message.payload.is_empty() && self.routes.is_command(&message.topic);
        if is_command {
            let why = "the remote broker holds this command and would send it again; publish commands without the retain flag";
            let kind = NoticeKind::RetainedCommand;
            self.notice(kind, None, Some(&message.topic), why, now);
        }
        !is_command
    }

    /// Retains a message, or removes the one of its topic if the payload is empty.
    pub(super) fn retain(
        &mut self,
        message: &Message,
        from: Option<SessionKey>,
        now: Instant,
    ) -> Retention {
        let id = self.kept.draw_id();
        let kept = &mut self.kept;
        let is_kept = self
            .retained
            .keep(message, now, |message| kept.keep(message, id));
        if is_kept {
            return Retention {
                // Readings and `$SYS` are published again after a start; writing them down would
                // wear a card out.
                is_recorded: matches!(message.origin, Origin::Client | Origin::Uplink(_)),
                removed: 0,
            };
        }
        self.count_full();
        // `$SYS` comes every few seconds.
        if message.origin != Origin::Own {
            let why = if self.retained.has_room_for_state(&message.topic) {
                "raise `broker.max_retained` or `broker.max_retained_size`"
            } else {
                TOO_MANY_STATES
            };
            let kind = NoticeKind::NotRetained;
            self.notice(kind, from, Some(&message.topic), why, now);
        }
        let nothing = Message {
            payload: Bytes::new(),
            ..message.clone()
        };
        Retention {
            is_recorded: false,
            removed: self.records.put(Record::Retained(&nothing)),
        }
    }
}
