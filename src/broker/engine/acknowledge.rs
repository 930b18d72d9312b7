//! Acknowledgements both ways: what is owed for messages from clients, and what clients owe.

use std::time::Instant;

use bytestring::ByteString;

use super::connect::End;
use super::connection::Settled;
use super::in_flight::{Acknowledged, Ending};
use super::notice::NoticeKind;
use super::owed::HeldAck;
use super::publish::Answer;
use super::record::Record;
use super::session::{Exchange, Session};
use super::{ConnectionId, Engine, Output, Position, SessionKey};
use crate::mqtt::{Ack, Packet, PacketId, ReasonCode, Version};

/// Bytes of one client that may wait for a tap or the disk before it is read no further.
const OWED_BYTES: usize = 1 << 20;

/// Who has answers of so many times [`super::Limits::output_bytes`] to read is not heard until it has read them.
const CLOGGED: usize = 4;

impl Engine {
    /// Notes what is owed for a PUBLISH. `what` is its identifier, whether it is QoS 2, and whether it adds to the client's window.
    pub(super) fn owe(
        &mut self,
        id: ConnectionId,
        what: (PacketId, bool, bool),
        bytes: usize,
        answer: &Answer,
    ) {
        let (packet_id, is_qos_2, is_new) = what;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.window += usize::from(is_new);
        if !answer.is_owed_already {
            connection.owed += 1;
            connection.owed_bytes += bytes;
            connection.acks.push(HeldAck {
                packet_id,
                is_qos_2,
                state: answer.state,
                after: answer.after,
                bytes,
                why: answer.why,
                is_refused_by_tap: false,
            });
        }
    }

    /// Stops reading a client of whom, or for whom, too much waits, and goes on when it is less: the sender waits, nobody else.
    pub(super) fn pace(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let most = usize::from(self.limits.receive_maximum);
        let waiting = connection.out.answers_waiting;
        let much = connection.owed > most
            || connection.owed_bytes > OWED_BYTES
            || waiting > CLOGGED * self.limits.output_bytes;
        let little = connection.owed <= most / 2
            && connection.owed_bytes <= OWED_BYTES / 2
            && waiting <= self.limits.output_bytes;
        if much && !connection.is_paused {
            connection.is_paused = true;
            self.outputs.push(Output::Pause(id));
        } else if little && connection.is_paused && connection.session.is_some() {
            connection.is_paused = false;
            connection.last_heard = now;
            self.outputs.push(Output::Resume(id));
        }
    }

    /// Writes the acknowledgements whose turn has come [MQTT-4.6.0-2], [MQTT-4.6.0-3]; they leave when their batch is durable.
    pub(super) fn send_ready_acks(&mut self, id: ConnectionId, now: Instant) {
        let durable = self.durable;
        while let Some(connection) = self.connections.get_mut(&id) {
            let Some((reason, is_of_tap)) = connection.acks.next_ready() else {
                break;
            };
            // Before MQTT 5 an acknowledgement cannot say no. What a tap could not take is not acknowledged at all.
            let is_lost = is_of_tap || reason == ReasonCode::QUOTA_EXCEEDED;
            if is_lost && connection.version != Version::V5 {
                self.close(id, End::Lost, now);
                return;
            }
            let Some(HeldAck {
                packet_id,
                is_qos_2,
                after,
                bytes,
                why,
                ..
            }) = connection.acks.pop_ready()
            else {
                break;
            };
            // [MQTT-4.3.3-9]
            let freed = if is_qos_2 && reason.is_error() {
                self.free(id, packet_id)
            } else {
                0
            };
            let after = after.max(freed);
            let Some(connection) = self.connections.get_mut(&id) else {
                break;
            };
            let ack = explained(packet_id, reason, why);
            let leaves_window = !is_qos_2 || reason.is_error();
            let packet = if is_qos_2 {
                Packet::PubRec(ack)
            } else {
                Packet::PubAck(ack)
            };
            let Some(length) = connection.write(&packet, after, durable) else {
                continue;
            };
            let settled = Settled {
                acks: 1,
                bytes,
                window: usize::from(leaves_window),
            };
            let now_settled = connection.out.settle_with_last(settled);
            connection.settle(now_settled);
            self.traffic.packets_sent += 1;
            self.traffic.bytes_sent += length as u64;
        }
        self.mark(id);
    }

    /// The next PUBLISH under this identifier is a new message.
    fn free(&mut self, id: ConnectionId, packet_id: PacketId) -> Position {
        let Some(key) = self
            .connections
            .get(&id)
            .and_then(|connection| connection.session)
        else {
            return 0;
        };
        let was_known = self.forget_received(key, packet_id).is_some();
        let Some(session) = self
            .sessions
            .get(key)
            .filter(|session| was_known && session.is_kept())
        else {
            return 0;
        };
        self.records.put(
            &Record::Freed {
                session: session.number,
                packet_id,
            },
            self.clock,
        )
    }

    pub(super) fn pubrel(&mut self, id: ConnectionId, key: SessionKey, ack: &Ack, now: Instant) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let known = session.incoming.get(&ack.packet_id).copied();
        if known.is_some_and(|incoming| matches!(incoming.state, Exchange::Held(_))) {
            self.notice(
                NoticeKind::WrongAcknowledgement,
                Some(key),
                None,
                "PUBREL before PUBREC",
                now,
            );
            self.refuse_because(id, ReasonCode::PROTOCOL_ERROR, "PUBREL before PUBREC", now);
            return;
        }
        self.forget_received(key, ack.packet_id);
        let Some(known) = known else {
            self.send(id, &Packet::PubComp(unknown(ack.packet_id)), 0);
            return;
        };
        // Until it is durable that the identifier is free, the client must not use it for another message.
        let kept = self.sessions.get(key).filter(|session| session.is_kept());
        let record = |session: &Session| Record::Freed {
            session: session.number,
            packet_id: ack.packet_id,
        };
        let after = kept
            .map(record)
            .map_or(0, |record| self.records.put(&record, self.clock));
        self.send(
            id,
            &Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::SUCCESS)),
            after,
        );
        if let Some(connection) = self.connections.get_mut(&id) {
            let settled = Settled {
                window: usize::from(known.connection == id),
                ..Settled::default()
            };
            let now_settled = connection.out.settle_with_last(settled);
            connection.settle(now_settled);
        }
    }

    pub(super) fn puback(
        &mut self,
        id: ConnectionId,
        session: SessionKey,
        ack: &Ack,
        now: Instant,
    ) {
        self.complete(id, session, (ack.packet_id, Ending::Accepted), now);
    }

    pub(super) fn pubcomp(
        &mut self,
        id: ConnectionId,
        session: SessionKey,
        ack: &Ack,
        now: Instant,
    ) {
        self.complete(id, session, (ack.packet_id, Ending::Completed), now);
    }

    fn complete(
        &mut self,
        id: ConnectionId,
        key: SessionKey,
        (packet_id, ending): (PacketId, Ending),
        now: Instant,
    ) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        match session.in_flight.complete(packet_id, ending) {
            Acknowledged::Message(done) => self.record_done(key, &done),
            Acknowledged::Spent => {}
            Acknowledged::WrongKind => {
                let why = match ending {
                    Ending::Accepted => "PUBACK for a QoS 2 message",
                    Ending::Refused => "PUBREC with an error for a QoS 1 message, or after PUBREC",
                    Ending::Completed => "PUBCOMP before PUBREL",
                };
                return self.wrong_kind(id, key, why, now);
            }
            // Left over from an earlier connection: it does no harm.
            Acknowledged::Unknown => return,
        }
        self.pump(key, now);
    }

    /// An acknowledgement of another kind than its message asks for is a protocol error; mosquitto closes the connection, too.
    fn wrong_kind(&mut self, id: ConnectionId, key: SessionKey, why: &'static str, now: Instant) {
        self.notice(NoticeKind::WrongAcknowledgement, Some(key), None, why, now);
        self.refuse_because(id, ReasonCode::PROTOCOL_ERROR, why, now); // [MQTT-4.13.1-1], [MQTT-4.8.0-1] of 3.1.1
    }

    pub(super) fn pubrec(&mut self, id: ConnectionId, key: SessionKey, ack: &Ack, now: Instant) {
        if ack.reason.is_error() {
            return self.complete(id, key, (ack.packet_id, Ending::Refused), now);
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let (is_kept, number_of_session) = (session.is_kept(), session.number);
        let released = session.in_flight.release(ack.packet_id);
        if let (Acknowledged::Message((_, Some(message))), Some(checkpoint)) =
            (&released, &mut self.checkpoint)
        {
            // The end of this delivery will not name its message.
            checkpoint.forget(message.id);
        }
        let (answer, after) = match released {
            // After PUBREL the client forgets the message: it must never be sent to it again.
            Acknowledged::Message((number, _)) if is_kept => {
                let after = self.records.put(
                    &Record::Released {
                        session: number_of_session,
                        number,
                    },
                    self.clock,
                );
                (Ack::new(ack.packet_id, ReasonCode::SUCCESS), after)
            }
            Acknowledged::Message(_) | Acknowledged::Spent => {
                (Ack::new(ack.packet_id, ReasonCode::SUCCESS), 0)
            }
            Acknowledged::WrongKind => {
                return self.wrong_kind(id, key, "PUBREC for a QoS 1 message", now);
            }
            Acknowledged::Unknown => (unknown(ack.packet_id), 0),
        };
        self.send(id, &Packet::PubRel(answer), after);
    }
}

fn unknown(packet_id: PacketId) -> Ack {
    explained(
        packet_id,
        ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        "no message in flight has this packet identifier",
    )
}

/// With a sentence for a person if it is bad news.
fn explained(packet_id: PacketId, reason: ReasonCode, why: &'static str) -> Ack {
    let mut ack = Ack::new(packet_id, reason);
    if reason.is_error() && !why.is_empty() {
        ack.properties.edit().reason_string = Some(ByteString::from_static(why));
    }
    ack
}
