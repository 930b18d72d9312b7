//! New messages to clients: who gets one, at which QoS, at once or from a queue.

use std::sync::Arc;
use std::time::Instant;

use super::connection::{Connection, DurabilityBarrier};
use super::delivery::{Delivery, Grounds, SharedMessage};
use super::fanout::{Fanout, OutgoingPublish};
use super::notice::NoticeKind;
use super::queue::Dropped;
use super::record::{Record, TargetRecord};
use super::session::Session;
use super::shared::Standing;
use super::tree::{FilterMatch, GroupKey, SubscriptionTarget};
use super::{Client, Engine, Lsn, QueueFull, SessionKey};
use crate::message::Message;
use crate::mqtt::{PublishFlags, QoS};

/// Messages that may have to go for one.
const MOST_EVICTED: usize = 1000;

const OWN_QUEUE: &str = "the queue of this client is full; raise `broker.max_queued` or `broker.max_queued_size`, or let the client read faster";
const ALL_QUEUES: &str = "the queues of all clients together are full; raise `broker.max_queued_total`, or let the clients read faster";

/// Lists that every message needs, kept for the next one.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    found: Vec<FilterMatch>,
    /// Sessions whose delivery belongs into the record of the message.
    targets: Vec<TargetRecord>,
}

/// The receivers of a message.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// True if it matched any subscription, or goes to a destination inside the gateway.
    pub(super) anybody: bool,
    /// The batch it is in; 0 if it needs not be durable.
    pub(super) after: Lsn,
}

/// How one session gets a message.
struct DeliveryTerms {
    qos: QoS,
    retain: bool,
    grounds: Grounds,
}

impl DeliveryTerms {
    fn into_delivery(self, message: Arc<SharedMessage>, number: u64) -> Delivery {
        Delivery {
            message,
            number,
            qos: self.qos,
            retain: self.retain,
            is_replay: false,
            grounds: self.grounds,
        }
    }
}

/// Overlapping subscriptions of one session become one copy at the highest QoS with every
/// identifier [MQTT-3.3.5-1], [MQTT-3.3.4-3]; `None` if No Local leaves nothing [MQTT-3.8.3-3].
fn merge(matches: &[FilterMatch], is_own: bool, message: &Message) -> Option<DeliveryTerms> {
    let mut counting = matches
        .iter()
        .filter(|one| !(one.no_local && is_own))
        .peekable();
    counting.peek()?;
    let (mut qos, mut retain) = (QoS::AtMostOnce, false);
    for one in counting.clone() {
        qos = qos.max(one.qos);
        retain |= one.retain_as_published;
    }
    Some(DeliveryTerms {
        qos: qos.min(message.qos),
        retain: retain && message.retain,
        grounds: Grounds::new(counting.filter_map(|one| one.identifier), None),
    })
}

/// Writes a new message to a connection; its length, or `None` if it is more than the client takes.
fn write(
    fanout: &mut Fanout,
    terms: &DeliveryTerms,
    number: u64,
    connection: &mut Connection,
    barrier: DurabilityBarrier,
) -> Option<usize> {
    let flags = PublishFlags {
        dup: false,
        qos: terms.qos,
        retain: terms.retain,
    };
    if terms.grounds.identifiers().is_empty() && !connection.wants_aliases() {
        return fanout.write(flags, number, connection, barrier);
    }
    let publish = OutgoingPublish {
        message: &fanout.message,
        expiry: fanout.expiry,
        identifiers: terms.grounds.identifiers(),
        flags,
        number,
    };
    publish.write(connection, barrier)
}

impl Engine {
    /// Hands a new message to every session and shared subscription that wants it, and records it
    /// if it must survive.
    pub(super) fn deliver(
        &mut self,
        fanout: &mut Fanout,
        from: Option<SessionKey>,
        now: Instant,
    ) -> Reached {
        let mut found = std::mem::take(&mut self.scratch.found);
        self.subscriptions.find(&fanout.message.topic, &mut found);
        let mut reached = Reached {
            anybody: !found.is_empty(),
            ..Reached::default()
        };
        for matches in found.chunk_by(|one, other| one.target == other.target) {
            match matches.first().map(|one| one.target) {
                Some(SubscriptionTarget::Session(key)) => {
                    if let Some(terms) = merge(matches, from == Some(key), &fanout.message) {
                        self.deliver_to(key, terms, fanout, now);
                    }
                }
                Some(SubscriptionTarget::Group(key)) => self.deliver_shared(key, fanout, now),
                None => {}
            }
        }
        found.clear();
        self.scratch.found = found;
        reached.after = self.record_message(fanout);
        reached
    }

    /// One member of a shared subscription gets the message.
    pub(super) fn deliver_shared(&mut self, key: GroupKey, fanout: &mut Fanout, now: Instant) {
        let Some((member, terms)) = self.choose_member(key, &fanout.message) else {
            self.traffic.dropped += 1;
            return;
        };
        self.deliver_to(member, terms, fanout, now);
    }

    fn choose_member(
        &mut self,
        key: GroupKey,
        message: &Message,
    ) -> Option<(SessionKey, DeliveryTerms)> {
        let sessions = &self.sessions;
        let group = self.subscriptions.group_mut(key)?;
        let (member, subscription) = group.choose(message.qos, |member| {
            let session = sessions
                .get(member)
                .filter(|session| session.rights.may_read(&message.topic));
            session.map_or(Standing::Denied, |session| Standing::Ready {
                is_connected: session.connection.is_some(),
                load: session.load(),
            })
        })?;
        let terms = DeliveryTerms {
            qos: subscription.options.qos.min(message.qos),
            retain: message.retain && subscription.options.retain_as_published,
            grounds: Grounds::new(subscription.identifier, Some(group.filter())),
        };
        Some((member, terms))
    }

    fn deliver_to(
        &mut self,
        key: SessionKey,
        terms: DeliveryTerms,
        fanout: &mut Fanout,
        now: Instant,
    ) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        if !session.rights.may_read(&fanout.message.topic) {
            return;
        }
        let is_at_most_once = terms.qos == QoS::AtMostOnce;
        let connection = session
            .connection
            .and_then(|id| Some((id, self.connections.get(&id)?)));
        let is_free = connection
            .is_some_and(|(_, connection)| self.may_send_at_once(session, connection, terms.qos));
        match connection.map(|(id, _)| id) {
            // QoS 0 is not kept for a client that is away.
            None if is_at_most_once => self.traffic.dropped += 1,
            None => self.enqueue(key, terms, fanout, now),
            Some(id) if is_free && (is_at_most_once || self.make_room_in_queues(key, now)) => {
                let client = Client {
                    connection: id,
                    session: key,
                };
                self.send_at_once(client, terms, fanout);
            }
            Some(_) => {
                self.enqueue(key, terms, fanout, now);
                self.pump(key, now);
            }
        }
    }

    /// True if nothing waits before a new message, and the connection and the window have room for
    /// it.
    fn may_send_at_once(&self, session: &Session, connection: &Connection, qos: QoS) -> bool {
        let is_next = session.queue.is_empty() && session.in_flight.unsent() == 0;
        let has_room = connection.out.waiting < self.limits.output_bytes;
        let has_window = qos == QoS::AtMostOnce
            || (session.has_room_in_flight(&self.limits)
                && session.in_flight.in_window() < usize::from(connection.send_window)
                && !session
                    .in_flight
                    .is_identifier_in_use(session.last_number + 1));
        is_next && has_room && has_window
    }

    /// Writes a message that nothing waits before.
    fn send_at_once(&mut self, client: Client, terms: DeliveryTerms, fanout: &mut Fanout) {
        let (Some(session), Some(connection)) = (
            self.sessions.get_mut(client.session),
            self.connections.get_mut(&client.connection),
        ) else {
            return;
        };
        let has_number = terms.qos != QoS::AtMostOnce;
        let number = if has_number { session.next_number() } else { 0 };
        let is_recorded = has_number && session.is_kept();
        // A packet identifier that a crash could give to another message must be durable first.
        let after = if is_recorded && terms.qos == QoS::ExactlyOnce {
            self.records.next_position()
        } else {
            0
        };
        let barrier = DurabilityBarrier {
            after,
            durable: self.gate.durable(),
        };
        let Some(length) = write(fanout, &terms, number, connection, barrier) else {
            self.traffic.dropped += 1; // [MQTT-3.1.2-25]
            return;
        };
        if has_number {
            let message = fanout.keep(&mut self.kept);
            let delivery = terms.into_delivery(message.clone(), number);
            if is_recorded {
                let target = TargetRecord::of(session.number, &delivery, true);
                self.scratch.targets.push(target);
            }
            session.in_flight.push(delivery);
            self.fullest.grew(client.session, session.held_bytes());
        }
        self.count_publish(client.connection, length, fanout.message.payload.len());
    }

    /// Lets a message wait in its session.
    fn enqueue(
        &mut self,
        key: SessionKey,
        terms: DeliveryTerms,
        fanout: &mut Fanout,
        now: Instant,
    ) {
        let message = fanout.keep(&mut self.kept).clone();
        if !self.make_room_in_queues(key, now) {
            return self.drop_new(key, &fanout.message, ALL_QUEUES, now);
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let number = if terms.qos == QoS::AtMostOnce {
            0
        } else {
            session.next_number()
        };
        let delivery = terms.into_delivery(message, number);
        let record = (session.is_kept() && number > 0)
            .then(|| TargetRecord::of(session.number, &delivery, false));
        let mut dropped = Vec::new();
        let is_queued = session
            .queue
            .enqueue(delivery, &self.limits, now, &mut dropped);
        if is_queued {
            self.fullest.grew(key, session.held_bytes());
            self.scratch.targets.extend(record);
        } else {
            self.drop_new(key, &fanout.message, OWN_QUEUE, now);
        }
        for Dropped {
            delivery,
            is_expired,
        } in dropped
        {
            self.drop_delivery(key, &delivery, is_expired);
            if !is_expired {
                self.notice_full_queue(key, &delivery.message, OWN_QUEUE, now);
            }
        }
    }

    fn notice_full_queue(
        &mut self,
        key: SessionKey,
        message: &Message,
        why: &'static str,
        now: Instant,
    ) {
        let kind = NoticeKind::FullQueue;
        self.notice(kind, Some(key), Some(&message.topic), why, now);
    }

    /// Counts a message that found no room.
    pub(super) fn count_full(&mut self) {
        self.traffic.dropped += 1;
        self.traffic.dropped_full += 1;
    }

    /// A new message does not reach a session for want of room.
    fn drop_new(&mut self, key: SessionKey, message: &Message, why: &'static str, now: Instant) {
        self.count_full();
        self.missed(key);
        self.notice_full_queue(key, message, why, now);
    }

    /// A session has missed a new message. If it is retained, a replay that has not come to its
    /// topic brings it.
    fn missed(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.replays.missed(self.kept.last_id());
        }
    }

    /// A delivery that was queued is given up.
    fn drop_delivery(&mut self, key: SessionKey, delivery: &Delivery, is_expired: bool) {
        self.traffic.dropped += 1;
        self.traffic.dropped_full += u64::from(!is_expired);
        self.traffic.dropped_expired += u64::from(is_expired);
        if !is_expired && !delivery.is_replay {
            self.missed(key);
        }
        self.record_done(key, delivery);
    }

    /// True if one more message may wait, as far as all sessions together are concerned.
    pub(super) fn has_room_in_total(&self) -> bool {
        self.kept.bytes() <= self.limits.max_queued_total
    }

    /// Room for one more message within the bytes that all sessions may hold together, waiting and
    /// in flight: the one that holds most (to an eighth) gives it. False if that is `key`, and new
    /// messages are to be dropped.
    pub(super) fn make_room_in_queues(&mut self, key: SessionKey, now: Instant) -> bool {
        for _ in 0..MOST_EVICTED {
            if self.has_room_in_total() {
                return true;
            }
            let sessions = &self.sessions;
            let fullest = self
                .fullest
                .find(|key| sessions.get(key).map_or(0, Session::held_bytes));
            let Some(fullest) = fullest.filter(|fullest| {
                *fullest != key || self.limits.queue_full == QueueFull::DropOldest
            }) else {
                return false;
            };
            let Some(oldest) = self
                .sessions
                .get_mut(fullest)
                .and_then(Session::give_up_oldest)
            else {
                return false;
            };
            self.drop_delivery(fullest, &oldest, false);
            self.notice_full_queue(fullest, &oldest.message, ALL_QUEUES, now);
        }
        false
    }

    /// Records a message if it is retained or waits for a session that must survive.
    pub(super) fn record_message(&mut self, fanout: &mut Fanout) -> Lsn {
        let retained = fanout.is_retained;
        if self.scratch.targets.is_empty() && !retained {
            return 0;
        }
        let id = fanout.keep(&mut self.kept).id;
        let position = self.records.put(Record::Message {
            id,
            retained,
            message: &fanout.message,
            targets: &self.scratch.targets,
        });
        self.scratch.targets.clear();
        position
    }

    /// A delivery of a session that is recorded is over.
    pub(super) fn record_done(&mut self, key: SessionKey, delivery: &Delivery) {
        let session = self.sessions.get(key);
        let is_recorded = |session: &&Session| session.is_kept() && delivery.number > 0;
        let Some(session) = session.filter(is_recorded) else {
            return;
        };
        // A reader of the records keeps no content of a message whose deliveries are done.
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.forget(delivery.message.id);
        }
        self.records.put(Record::Done {
            session: session.number,
            number: delivery.number,
        });
    }
}
