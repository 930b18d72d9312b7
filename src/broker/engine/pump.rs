//! Messages that wait, to clients that can take more: what is in flight is sent again first, then
//! the queue.

use std::time::Instant;

use super::delivery::Delivery;
use super::fanout::{Fanout, OutgoingPublish};
use super::record::Record;
use super::session::Session;
use super::{Client, ConnectionId, Engine, SessionKey};
use crate::mqtt::{Ack, Packet, QoS, ReasonCode};

impl Engine {
    /// Sends to a session as much as its connection and its window allow: first the messages in
    /// flight that were not written on this connection, in order [MQTT-4.4.0-1], then those that
    /// wait.
    pub(super) fn pump(&mut self, key: SessionKey, now: Instant) {
        if !self
            .sessions
            .get(key)
            .is_some_and(Session::has_more_to_send)
        {
            return;
        }
        let mut last = 0;
        while let Some(number) = self.send_next(key, now) {
            last = last.max(number);
        }
        let session = self.sessions.get(key);
        if let Some(session) = session.filter(|session| last > 0 && session.is_kept()) {
            self.records.put(Record::Sent {
                session: session.number,
                number: last,
            });
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
        let has_window = in_window < usize::from(connection.send_window);
        let client = Client {
            connection: id,
            session: key,
        };
        if session.in_flight.unsent() > 0 {
            // These are held whether they are sent or not: their bytes are no reason to wait.
            return if has_window {
                self.send_again(client, now)
            } else {
                None
            };
        }
        let is_window_full =
            !has_window || (in_window > 0 && !session.has_room_in_flight(&self.limits));
        let next = session.queue.front()?;
        let has_number = next.number > 0;
        if has_number && (is_window_full || session.in_flight.is_identifier_in_use(next.number)) {
            return None;
        }
        let delivery = session.queue.dequeue()?;
        self.send_queued(client, delivery, now)
    }

    /// Writes a message that waited, unless it has expired, may not be read any more, or is too
    /// large for the client.
    fn send_queued(&mut self, client: Client, delivery: Delivery, now: Instant) -> Option<u64> {
        let session = self.sessions.get(client.session)?;
        let is_recorded = session.is_kept() && delivery.number > 0;
        let barrier = self.barrier(if is_recorded && delivery.qos == QoS::ExactlyOnce {
            self.records.newest()
        } else {
            0
        });
        let is_expired = delivery.message.is_expired(now);
        let session = self.sessions.get_mut(client.session)?;
        let connection = self.connections.get_mut(&client.connection)?;
        let written = if !is_expired && session.rights.may_read(&delivery.message.topic) {
            OutgoingPublish::of(&delivery, false, now).write(connection, barrier)
        } else {
            None
        };
        let Some(length) = written else {
            self.traffic.dropped += 1; // [MQTT-3.3.2-5], [MQTT-3.1.2-25]
            self.traffic.dropped_expired += u64::from(is_expired);
            self.record_done(client.session, &delivery);
            return Some(0);
        };
        let (number, payload) = (delivery.number, delivery.message.payload.len());
        if number > 0 {
            session.in_flight.push(delivery);
        }
        self.count_publish(client.connection, length, payload);
        Some(number)
    }

    /// Writes the next message in flight that was not written on this connection, as a repetition
    /// [MQTT-3.3.1-1].
    fn send_again(&mut self, client: Client, now: Instant) -> Option<u64> {
        let barrier = self.barrier(0);
        let session = self.sessions.get_mut(client.session)?;
        let connection = self.connections.get_mut(&client.connection)?;
        let (place, entry) = session.in_flight.next_unsent()?;
        let payload = entry.delivery.message.payload.len();
        let publish = OutgoingPublish::of(&entry.delivery, entry.is_repeated(), now);
        match publish.write(connection, barrier) {
            Some(length) => {
                session.in_flight.sent_again(place);
                self.count_publish(client.connection, length, payload);
            }
            None => {
                let gone = session.in_flight.remove(place)?;
                self.traffic.dropped += 1;
                self.record_done(client.session, &gone);
            }
        }
        Some(0)
    }

    /// Counts a PUBLISH to a client; `length` is that of the packet, `payload` that of its payload.
    pub(super) fn count_publish(&mut self, id: ConnectionId, length: usize, payload: usize) {
        self.traffic.publish_bytes_sent += payload as u64;
        self.traffic.packets_sent += 1;
        self.traffic.publishes_sent += 1;
        self.traffic.bytes_sent += length as u64;
        self.mark_dirty(id);
    }

    /// After a reconnect everything in flight is sent again: each PUBREL at once [MQTT-3.3.4-10],
    /// each PUBLISH as the window allows.
    pub(super) fn resume(&mut self, key: SessionKey, now: Instant) {
        let newest = self.kept.last_id();
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.replays.connected(newest);
        let connection = session.connection;
        let released = session.in_flight.known().map(|in_flight| {
            in_flight.begin_again();
            in_flight.releases()
        });
        for packet_id in released.into_iter().flatten() {
            if let Some(id) = connection {
                let release = Ack::new(packet_id, ReasonCode::SUCCESS);
                self.send(id, &Packet::PubRel(release), 0);
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

    /// A session is gone: what another member of a shared subscription can take goes there. A QoS 2
    /// message that was sent must not [MQTT-4.8.2-5].
    pub(super) fn redistribute(&mut self, session: &mut Session, now: Instant) {
        let sent = session
            .in_flight
            .take()
            .filter(|delivery| delivery.qos == QoS::AtLeastOnce);
        let left = sent.chain(session.queue.take()).collect();
        self.redistribute_deliveries(left, now);
    }

    /// Deliveries of shared subscriptions go to other members.
    pub(super) fn redistribute_deliveries(&mut self, deliveries: Vec<Delivery>, now: Instant) {
        for delivery in deliveries {
            let Some(filter) = delivery.grounds.share() else {
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
}
