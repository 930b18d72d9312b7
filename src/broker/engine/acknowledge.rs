//! Acknowledgements both ways [MQTT 5.0, 4.3, 4.6 and 4.9]: those owed to clients for their
//! messages, and those of clients for ours.

use std::time::Instant;

use bytestring::ByteString;

use super::connection::{Connection, DurabilityBarrier, Settled};
use super::in_flight::{Acknowledged, Ending};
use super::lifecycle::End;
use super::notice::NoticeKind;
use super::owed::HeldAck;
use super::record::Record;
use super::refusal::Refusal;
use super::session::{Incoming, IncomingState};
use super::{Client, ConnectionId, Engine, Lsn, Output, SessionKey};
use crate::mqtt::{Ack, Packet, PacketId, ReasonCode, Version};

/// Bytes of one client that may wait for a destination or the disk before it is read no further.
const OWED_BYTES: usize = 1 << 20;

/// A client with answers of this many times [`super::BrokerLimits::output_bytes`] to read is not
/// heard until it has read them.
const CLOGGED: usize = 4;

impl Engine {
    /// Stops reading a client of which, or for which, too much waits, and reads on when it is less:
    /// no other client waits.
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

    /// Writes the acknowledgements whose turn has come [MQTT-4.6.0-2], [MQTT-4.6.0-3]; they leave
    /// when their batch is durable.
    pub(super) fn send_ready_acks(&mut self, id: ConnectionId, now: Instant) {
        let Some(mut connection) = self.connections.get_mut(&id) else {
            return;
        };
        while let Some((reason, is_of_destination)) = connection.acks.next_ready() {
            // Before MQTT 5 an acknowledgement cannot say no: a message that a destination could
            // not take is not acknowledged at all.
            let is_lost = is_of_destination || reason == ReasonCode::QUOTA_EXCEEDED;
            if is_lost && connection.version != Version::V5 {
                self.close(id, End::Lost, now);
                return;
            }
            let Some(mut ack) = connection.acks.pop_ready() else {
                break;
            };
            if ack.is_qos_2 && reason.is_error() {
                ack.after = ack.after.max(self.free(id, ack.packet_id)); // [MQTT-4.3.3-9]
                let Some(same) = self.connections.get_mut(&id) else {
                    return;
                };
                connection = same;
            }
            let barrier = DurabilityBarrier {
                after: ack.after,
                durable: self.gate.durable(),
            };
            if let Some(length) = write_ack(connection, &ack, reason, barrier) {
                self.traffic.packets_sent += 1;
                self.traffic.bytes_sent += length as u64;
            }
        }
        self.mark_dirty(id);
    }

    /// The next PUBLISH under this identifier is a new message.
    pub(super) fn free(&mut self, id: ConnectionId, packet_id: PacketId) -> Lsn {
        let connection = self.connections.get(&id);
        let Some(key) = connection.and_then(|connection| connection.session) else {
            return 0;
        };
        let Some(known) = self.forget_received(key, packet_id) else {
            return 0;
        };
        self.record_freed(key, packet_id, known)
    }

    fn record_freed(&mut self, key: SessionKey, packet_id: PacketId, known: Incoming) -> Lsn {
        let session = self.sessions.get(key);
        let after = session
            .filter(|session| session.is_kept())
            .map_or(0, |session| {
                self.records.put(Record::Freed {
                    session: session.number,
                    packet_id,
                })
            });
        self.receipts.end(known.receipt, after);
        after
    }

    /// PUBREL [MQTT-4.3.3-11]: the message is done, and PUBCOMP says so when it is durable that its
    /// identifier is free.
    pub(super) fn process_pubrel(&mut self, client: Client, ack: &Ack, now: Instant) {
        let (id, key, packet_id) = (client.connection, client.session, ack.packet_id);
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let known = session.incoming.get(&packet_id).copied();
        if known.is_some_and(|known| matches!(known.state, IncomingState::Held(_))) {
            return self.wrong_kind(client, "PUBREL before PUBREC", now);
        }
        self.forget_received(key, packet_id);
        let Some(known) = known else {
            self.send(id, &Packet::PubComp(unknown(packet_id)), 0);
            return;
        };
        let after = self.record_freed(key, packet_id, known);
        let answer = Ack::new(packet_id, ReasonCode::SUCCESS);
        self.send(id, &Packet::PubComp(answer), after);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.settle_with_last(Settled {
                window: usize::from(known.connection == id),
                ..Settled::default()
            });
        }
    }

    /// PUBACK.
    pub(super) fn process_puback(&mut self, client: Client, ack: &Ack, now: Instant) {
        self.complete(client, ack.packet_id, Ending::Accepted, now);
    }

    /// PUBCOMP.
    pub(super) fn process_pubcomp(&mut self, client: Client, ack: &Ack, now: Instant) {
        self.complete(client, ack.packet_id, Ending::Completed, now);
    }

    fn complete(&mut self, client: Client, packet_id: PacketId, ending: Ending, now: Instant) {
        let Some(session) = self.sessions.get_mut(client.session) else {
            return;
        };
        match session.in_flight.complete(packet_id, ending) {
            Acknowledged::Message(done) => self.record_done(client.session, &done),
            Acknowledged::Spent => {}
            Acknowledged::WrongKind => {
                let why = match ending {
                    Ending::Accepted => "PUBACK for a QoS 2 message",
                    Ending::Refused => "PUBREC with an error for a QoS 1 message, or after PUBREC",
                    Ending::Completed => "PUBCOMP before PUBREL",
                };
                return self.wrong_kind(client, why, now);
            }
            // Left over from an earlier connection: it does no harm.
            Acknowledged::Unknown => return,
        }
        self.pump(client.session, now);
    }

    /// An acknowledgement of another kind than its message asks for is a protocol error; mosquitto
    /// closes the connection, too.
    fn wrong_kind(&mut self, client: Client, why: &'static str, now: Instant) {
        let kind = NoticeKind::WrongAcknowledgement;
        self.notice(kind, Some(client.session), None, why, now);
        // [MQTT-4.13.1-1], [MQTT-4.8.0-1] of 3.1.1
        self.refuse_because(client.connection, Refusal::protocol_error(why), now);
    }

    /// PUBREC: the client has the message and forgets it after PUBREL [MQTT-4.3.3-5]: it must never
    /// be sent to it again.
    pub(super) fn process_pubrec(&mut self, client: Client, ack: &Ack, now: Instant) {
        let packet_id = ack.packet_id;
        if ack.reason.is_error() {
            return self.complete(client, packet_id, Ending::Refused, now);
        }
        let Some(session) = self.sessions.get_mut(client.session) else {
            return;
        };
        let (is_kept, session_number) = (session.is_kept(), session.number);
        let released = session.in_flight.release(packet_id);
        if let (Acknowledged::Message((_, Some(message))), Some(checkpoint)) =
            (&released, &mut self.checkpoint)
        {
            // The end of this delivery will not name its message.
            checkpoint.forget(message.id);
        }
        let (answer, after) = match released {
            Acknowledged::Message((number, _)) if is_kept => {
                let after = self.records.put(Record::Released {
                    session: session_number,
                    number,
                });
                (Ack::new(packet_id, ReasonCode::SUCCESS), after)
            }
            Acknowledged::Message(_) | Acknowledged::Spent => {
                (Ack::new(packet_id, ReasonCode::SUCCESS), 0)
            }
            Acknowledged::WrongKind => {
                return self.wrong_kind(client, "PUBREC for a QoS 1 message", now);
            }
            Acknowledged::Unknown => (unknown(packet_id), 0),
        };
        self.send(client.connection, &Packet::PubRel(answer), after);
    }
}

/// Writes PUBACK or PUBREC; its length, or `None` if it is more than the client takes.
fn write_ack(
    connection: &mut Connection,
    ack: &HeldAck,
    reason: ReasonCode,
    barrier: DurabilityBarrier,
) -> Option<usize> {
    let answer = explained(ack.packet_id, reason, ack.why);
    let packet = if ack.is_qos_2 {
        Packet::PubRec(answer)
    } else {
        Packet::PubAck(answer)
    };
    let length = connection.write(&packet, barrier)?;
    connection.settle_with_last(Settled {
        acks: 1,
        bytes: ack.bytes,
        window: usize::from(!ack.is_qos_2 || reason.is_error()),
    });
    Some(length)
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
