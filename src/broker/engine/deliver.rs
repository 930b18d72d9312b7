//! Messages to clients: who gets one, at which QoS, and how many at a time.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::fanout::{Fanout, Item, item, put};
use super::notice::NoticeKind;
use super::queue::Dropped;
use super::record::{Record, TargetRecord};
use super::session::{Delivery, Session};
use super::shared::Standing;
use super::subscriptions::{GroupKey, Target, Wanted};
use super::{ConnectionId, Engine, Position, QueueFull, SessionKey};
use crate::message::Message;
use crate::mqtt::{Ack, Packet, QoS, ReasonCode, TopicFilter};

/// Messages that may have to go for one.
const MOST_EVICTED: usize = 1000;

const OWN_QUEUE: &str = "the queue of this client is full; raise `broker.max_queued` or `broker.max_queued_size`, or let the client read faster";
const ALL_QUEUES: &str = "the queues of all clients together are full; raise `broker.max_queued_total`, or let the clients read faster";

/// Lists that every message needs, kept for the next one.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    found: Vec<Wanted>,
    /// Sessions whose delivery belongs into the record of the message.
    targets: Vec<TargetRecord>,
}

/// Who got a message.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// Taps that want it.
    pub(super) taps: Vec<usize>,
    /// True if somebody wanted it.
    pub(super) anybody: bool,
    /// The batch it is in; 0 if nobody needs it to be durable.
    pub(super) after: Position,
}

/// What one session is to get of a message.
struct Share {
    qos: QoS,
    retain: bool,
    identifiers: Box<[NonZeroU32]>,
    group: Option<Arc<TopicFilter>>,
}

/// Overlapping subscriptions of one session become one copy at the highest QoS with every identifier [MQTT-3.3.5-1], [MQTT-3.3.4-3];
/// `None` if No Local leaves nothing [MQTT-3.8.3-3].
fn merge(wanted: &[Wanted], is_own: bool, message: &Message) -> Option<Share> {
    let mut counting = wanted
        .iter()
        .filter(|wanted| !(wanted.no_local && is_own))
        .peekable();
    counting.peek()?;
    let (mut qos, mut retain, mut identifiers) = (QoS::AtMostOnce, false, Vec::new());
    for wanted in counting {
        qos = qos.max(wanted.qos);
        retain |= wanted.retain_as_published;
        identifiers.extend(wanted.identifier);
    }
    Some(Share {
        qos: qos.min(message.qos),
        retain: retain && message.retain,
        identifiers: identifiers.into(),
        group: None,
    })
}

impl Engine {
    /// Hands a new message to everybody who wants it, and puts it into the records if it must survive.
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
        for wanted in found.chunk_by(|one, other| one.target == other.target) {
            match wanted.first().map(|wanted| wanted.target) {
                Some(Target::Session(key)) => {
                    if let Some(share) = merge(wanted, from == Some(key), &fanout.message) {
                        self.deliver_to(key, share, fanout, now);
                    }
                }
                Some(Target::Group(key)) => self.deliver_shared(key, fanout, now),
                Some(Target::Tap(index)) => reached.taps.push(index),
                None => {}
            }
        }
        found.clear();
        self.scratch.found = found;
        reached.after = self.record_message(fanout);
        reached
    }

    fn deliver_to(&mut self, key: SessionKey, share: Share, fanout: &mut Fanout, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if !session.rights.may_read(&fanout.message.topic) {
            return;
        }
        let Some((id, connection)) = session
            .connection
            .and_then(|id| Some((id, self.connections.get(&id)?)))
        else {
            if share.qos == QoS::AtMostOnce {
                self.traffic.dropped += 1;
            } else {
                self.hand_over(key, share, fanout, now);
            }
            return;
        };
        let is_next = session.queue.is_empty() && session.in_flight.unsent() == 0;
        let has_room = connection.out.waiting < self.limits.output_bytes;
        let has_window = share.qos == QoS::AtMostOnce
            || (session.has_room_in_flight(&self.limits)
                && session.in_flight.in_window() < usize::from(connection.receive_maximum)
                && !session
                    .in_flight
                    .is_identifier_in_use(session.last_number + 1));
        let is_quick = is_next && has_room && has_window;
        if is_quick && (share.qos == QoS::AtMostOnce || self.make_room_in_queues(key, now)) {
            self.send_at_once(key, id, share, fanout);
        } else {
            self.hand_over(key, share, fanout, now);
            self.pump(key, now);
        }
    }

    /// The short way: nothing waits before it.
    fn send_at_once(
        &mut self,
        key: SessionKey,
        id: ConnectionId,
        share: Share,
        fanout: &mut Fanout,
    ) {
        let (Some(session), Some(connection)) =
            (self.sessions.get_mut(key), self.connections.get_mut(&id))
        else {
            return;
        };
        let Share {
            qos,
            retain,
            identifiers,
            group,
        } = share;
        let has_number = qos != QoS::AtMostOnce;
        let number = if has_number { session.next_number() } else { 0 };
        let is_recorded = has_number && session.is_kept();
        // A packet identifier that a crash could give to another message must be durable first.
        let after = if is_recorded && qos == QoS::ExactlyOnce {
            self.records.next_position()
        } else {
            0
        };
        let flags = (false, qos, retain);
        let is_common = identifiers.is_empty()
            && !connection
                .aliases
                .as_ref()
                .is_some_and(|aliases| aliases.are_wanted());
        let written = if is_common {
            put(
                fanout.template(connection.version, has_number),
                flags,
                number,
                connection,
                (after, self.durable),
            )
        } else {
            let item = Item {
                message: &fanout.message,
                expiry: fanout.expiry,
                identifiers: &identifiers,
                flags,
                number,
                after,
            };
            item.write(connection, self.durable)
        };
        let Some(length) = written else {
            self.traffic.dropped += 1; // [MQTT-3.1.2-25]
            return;
        };
        if has_number {
            let message = fanout
                .keep(&mut self.next_message, &self.queued_bytes)
                .clone();
            let delivery = Delivery {
                message,
                number,
                qos,
                retain,
                is_replay: false,
                identifiers,
                share: group,
            };
            if is_recorded {
                self.scratch
                    .targets
                    .push(TargetRecord::of(session.number, &delivery, true));
            }
            session.in_flight.push(delivery);
            self.fullest.grew(key, session.held_bytes());
        }
        self.count_publish(id, length, fanout.message.payload.len());
    }

    /// `length` is that of the packet, `payload` of what is in it.
    fn count_publish(&mut self, id: ConnectionId, length: usize, payload: usize) {
        self.traffic.publish_bytes_sent += payload as u64;
        self.traffic.packets_sent += 1;
        self.traffic.publishes_sent += 1;
        self.traffic.bytes_sent += length as u64;
        self.mark(id);
    }

    /// Lets a delivery wait in its session.
    fn hand_over(&mut self, key: SessionKey, share: Share, fanout: &mut Fanout, now: Instant) {
        let message = fanout
            .keep(&mut self.next_message, &self.queued_bytes)
            .clone();
        if !self.make_room_in_queues(key, now) {
            self.count_full();
            self.missed(key);
            self.notice(
                NoticeKind::FullQueue,
                Some(key),
                Some(&fanout.message.topic),
                ALL_QUEUES,
                now,
            );
            return;
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let number = if share.qos == QoS::AtMostOnce {
            0
        } else {
            session.next_number()
        };
        let Share {
            qos,
            retain,
            identifiers,
            group,
        } = share;
        let delivery = Delivery {
            message,
            number,
            qos,
            retain,
            is_replay: false,
            identifiers,
            share: group,
        };
        let record = (session.is_kept() && number > 0)
            .then(|| TargetRecord::of(session.number, &delivery, false));
        let mut dropped = Vec::new();
        if session
            .queue
            .enqueue(delivery, &self.limits, now, &mut dropped)
        {
            self.fullest.grew(key, session.held_bytes());
            self.scratch.targets.extend(record);
        } else {
            self.count_full();
            self.missed(key);
            self.notice(
                NoticeKind::FullQueue,
                Some(key),
                Some(&fanout.message.topic),
                OWN_QUEUE,
                now,
            );
        }
        for Dropped {
            delivery,
            is_expired,
        } in dropped
        {
            self.drop_delivery(key, &delivery, is_expired);
            if !is_expired {
                self.notice(
                    NoticeKind::FullQueue,
                    Some(key),
                    Some(&delivery.message.topic),
                    OWN_QUEUE,
                    now,
                );
            }
        }
    }

    pub(super) fn count_full(&mut self) {
        self.traffic.dropped += 1;
        self.traffic.dropped_full += 1;
    }

    /// A new message does not reach a session for want of room. If it is retained, a replay that has not come to its topic brings it.
    fn missed(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.replays.missed(self.next_message);
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

    /// True if one more message may wait, as far as what all sessions hold together goes.
    pub(super) fn has_room_in_total(&self) -> bool {
        self.queued_bytes.load(Ordering::Relaxed) <= self.limits.max_queued_total
    }

    /// Room for one more message within what all sessions may hold together, waiting and in flight: the one that holds most (to an
    /// eighth) gives it. False if that is `key`, and new messages are what is dropped.
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
            self.notice(
                NoticeKind::FullQueue,
                Some(fullest),
                Some(&oldest.message.topic),
                ALL_QUEUES,
                now,
            );
        }
        false
    }

    /// One member of a shared subscription gets the message.
    fn deliver_shared(&mut self, key: GroupKey, fanout: &mut Fanout, now: Instant) {
        let Some((member, share)) = self.choose(key, &fanout.message) else {
            self.traffic.dropped += 1;
            return;
        };
        self.deliver_to(member, share, fanout, now);
    }

    fn choose(&mut self, key: GroupKey, message: &Message) -> Option<(SessionKey, Share)> {
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
        let share = Share {
            qos: subscription.options.qos.min(message.qos),
            retain: message.retain && subscription.options.retain_as_published,
            identifiers: subscription.identifier.into_iter().collect(),
            group: Some(group.filter().clone()),
        };
        Some((member, share))
    }

    /// A session is gone: what another member of a shared subscription can take goes there. A QoS 2 message that was sent must not
    /// [MQTT-4.8.2-5].
    pub(super) fn hand_on(&mut self, session: &mut Session, now: Instant) {
        let sent = session
            .in_flight
            .take()
            .filter(|delivery| delivery.qos == QoS::AtLeastOnce);
        let left = sent.chain(session.queue.take()).collect();
        self.hand_to_others(left, now);
    }

    /// Deliveries of shared subscriptions go to other members.
    pub(super) fn hand_to_others(&mut self, deliveries: Vec<Delivery>, now: Instant) {
        for delivery in deliveries {
            let Some(filter) = delivery.share.as_ref() else {
                continue;
            };
            let Some(key) = self.subscriptions.group_of(filter) else {
                self.traffic.dropped += 1;
                continue;
            };
            let mut fanout = Fanout::new((**delivery.message).clone(), now);
            self.deliver_shared(key, &mut fanout, now);
            self.record_message(&mut fanout);
        }
    }

    /// Sends to a session as much as its connection and its window allow: first what is in flight and was not written on this
    /// connection, in order [MQTT-4.4.0-1], then what waits.
    pub(super) fn pump(&mut self, key: SessionKey, now: Instant) {
        let mut last = 0;
        while let Some(number) = self.send_next(key, now) {
            last = last.max(number);
        }
        if let Some(session) = self
            .sessions
            .get(key)
            .filter(|session| last > 0 && session.is_kept())
        {
            let record = Record::Sent {
                session: session.number,
                number: last,
            };
            self.records.put(&record, self.clock);
        }
        self.wake_replays(key);
    }

    /// The number of what was sent, 0 if it has none; `None` if nothing more can be sent now.
    fn send_next(&mut self, key: SessionKey, now: Instant) -> Option<u64> {
        let session = self.sessions.get_mut(key)?;
        let id = session.connection?;
        let connection = self.connections.get_mut(&id)?;
        if connection.out.waiting >= self.limits.output_bytes {
            return None;
        }
        let in_window = session.in_flight.in_window();
        let has_window = in_window < usize::from(connection.receive_maximum);
        if session.in_flight.unsent() > 0 {
            // These are held whether they are sent or not: their bytes are no reason to wait.
            return if has_window {
                self.send_again(key, id, now)
            } else {
                None
            };
        }
        let is_window_full =
            !has_window || (in_window > 0 && !session.has_room_in_flight(&self.limits));
        let next = session.queue.front()?;
        if next.number > 0
            && (is_window_full || session.in_flight.is_identifier_in_use(next.number))
        {
            return None;
        }
        let delivery = session.queue.dequeue()?;
        let is_recorded = session.is_kept() && delivery.number > 0;
        let after = if is_recorded && delivery.qos == QoS::ExactlyOnce {
            self.records.newest()
        } else {
            0
        };
        let is_expired = delivery.message.is_expired(now);
        let is_wanted = !is_expired && session.rights.may_read(&delivery.message.topic);
        let item = item(&delivery, false, after, now);
        match is_wanted
            .then(|| item.write(connection, self.durable))
            .flatten()
        {
            Some(length) => {
                let (number, payload) = (delivery.number, delivery.message.payload.len());
                if number > 0 {
                    session.in_flight.push(delivery);
                }
                self.count_publish(id, length, payload);
                Some(number)
            }
            None => {
                self.traffic.dropped += 1; // [MQTT-3.3.2-5], [MQTT-3.1.2-25]
                self.traffic.dropped_expired += u64::from(is_expired);
                self.record_done(key, &delivery);
                Some(0)
            }
        }
    }

    /// Writes the next entry in flight that was not written on this connection, as a repetition [MQTT-3.3.1-1].
    fn send_again(&mut self, key: SessionKey, id: ConnectionId, now: Instant) -> Option<u64> {
        let session = self.sessions.get_mut(key)?;
        let connection = self.connections.get_mut(&id)?;
        let (place, entry) = session.in_flight.next_unsent()?;
        let payload = entry.delivery.message.payload.len();
        match item(&entry.delivery, entry.is_repeated(), 0, now).write(connection, self.durable) {
            Some(length) => {
                session.in_flight.sent_again(place);
                self.count_publish(id, length, payload);
            }
            None => {
                let gone = session.in_flight.remove(place)?;
                self.traffic.dropped += 1;
                self.record_done(key, &gone);
            }
        }
        Some(0)
    }

    /// After a reconnect everything in flight is sent again: each PUBREL at once [MQTT-3.3.4-10], each PUBLISH as the window allows.
    pub(super) fn resume(&mut self, key: SessionKey, now: Instant) {
        let newest = self.next_message;
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.in_flight.begin_again();
        session.replays.connected(newest);
        let (connection, released) = (session.connection, session.in_flight.releases());
        for packet_id in released {
            if let Some(id) = connection {
                self.send(
                    id,
                    &Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)),
                    0,
                );
            }
        }
        self.pump(key, now);
    }

    /// The connection has written bytes and can take as many again.
    pub(super) fn written(&mut self, id: ConnectionId, bytes: usize, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.out.waiting = connection.out.waiting.saturating_sub(bytes);
        connection.out.answers_waiting = connection.out.answers_waiting.saturating_sub(bytes);
        let is_paused = connection.is_paused;
        if let Some(session) = connection.session {
            self.pump(session, now);
        }
        if is_paused {
            self.pace(id, now);
        }
    }

    /// Puts a message into the records if it is retained or waits for a session that must survive.
    fn record_message(&mut self, fanout: &mut Fanout) -> Position {
        let retained = fanout.is_retained;
        if self.scratch.targets.is_empty() && !retained {
            return 0;
        }
        let id = fanout.keep(&mut self.next_message, &self.queued_bytes).id;
        let targets = std::mem::take(&mut self.scratch.targets);
        let record = Record::Message {
            id,
            retained,
            message: &fanout.message,
            targets: &targets,
        };
        let position = self.records.put(&record, self.clock);
        self.scratch.targets = targets;
        self.scratch.targets.clear();
        position
    }

    /// A delivery of a session that is recorded is over.
    pub(super) fn record_done(&mut self, key: SessionKey, delivery: &Delivery) {
        let Some(session) = self
            .sessions
            .get(key)
            .filter(|session| session.is_kept() && delivery.number > 0)
        else {
            return;
        };
        // Reading the records, nobody keeps the content of a message whose deliveries are done.
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.forget(delivery.message.id);
        }
        let record = Record::Done {
            session: session.number,
            number: delivery.number,
        };
        self.records.put(&record, self.clock);
    }
}
