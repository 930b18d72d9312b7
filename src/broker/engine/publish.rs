//! PUBLISH from clients, in the order of the standard [MQTT 5.0, 3.3.4 and 4.3]: resolve the topic,
//! keep to the window, authorize, deliver, decide the acknowledgement.

use std::time::{Duration, Instant};

use super::budget::BudgetPart;
use super::connection::Connection;
use super::deliver::Reached;
use super::held::{HeldFor, HeldPublish};
use super::owed::{AckState, HeldAck};
use super::qos_2_records::ReceivedRecord;
use super::record::Record;
use super::refusal::Refusal;
use super::session::{Incoming, IncomingState, Rest};
use super::{Client, ConnectionId, Engine, Lsn, SessionKey, Ticket};
use crate::message::{Class, Message, Origin};
use crate::mqtt::{PacketId, Publish, QoS, ReasonCode, TopicName, Version};

/// An MQTT 5 client that has this many times its Receive Maximum unacknowledged is disconnected.
const FAR_BEYOND: usize = 16;

/// A QoS 1 or 2 PUBLISH of a client: it is to be acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReceivedPublish {
    pub(super) client: Client,
    pub(super) packet_id: PacketId,
    pub(super) is_qos_2: bool,
}

/// What is known of a message when it comes: the rest of its way, and the receipt by which outboxes
/// know it, or 0.
#[derive(Debug, Clone, Copy)]
struct Known {
    rest: Rest,
    receipt: u64,
}

impl Known {
    const NOTHING: Self = Self {
        rest: Rest::ALL,
        receipt: 0,
    };
}

/// The acknowledgement of a QoS 1 or 2 PUBLISH.
pub(super) struct AckDecision {
    pub(super) state: AckState,
    /// The batch its message is in.
    pub(super) after: Lsn,
    /// For a person, if it is a refusal.
    pub(super) why: &'static str,
    /// The first PUBLISH with this identifier came on the same connection, and its acknowledgement
    /// still waits for a destination.
    pub(super) is_owed_already: bool,
}

impl AckDecision {
    fn new(state: AckState, after: Lsn) -> Self {
        Self {
            state,
            after,
            why: "",
            is_owed_already: false,
        }
    }

    /// Notes that the connection is owed it; `bytes` is the size of the message.
    fn note(&self, received: ReceivedPublish, bytes: usize, connection: &mut Connection) {
        if self.is_owed_already {
            return;
        }
        connection.owe(HeldAck {
            packet_id: received.packet_id,
            is_qos_2: received.is_qos_2,
            state: self.state,
            after: self.after,
            bytes,
            why: self.why,
            is_refused_by_destination: false,
        });
    }

    /// Waits for the destinations that have a ticket; without one it is sent with `reason`.
    fn after_forward(ticket: Option<Ticket>, reason: ReasonCode, after: Lsn) -> Self {
        let state = ticket.map_or(AckState::Ready(reason), AckState::Waiting);
        Self::new(state, after)
    }
}

impl From<Refusal> for AckDecision {
    fn from(refusal: Refusal) -> Self {
        Self {
            why: refusal.why,
            ..Self::new(AckState::Ready(refusal.reason), 0)
        }
    }
}

impl Engine {
    /// PUBLISH.
    pub(super) fn process_publish(&mut self, client: Client, mut publish: Publish, now: Instant) {
        let id = client.connection;
        if !publish.properties.subscription_identifiers.is_empty() {
            // [MQTT-3.3.4-6]
            let why = "a client must not send subscription identifiers";
            return self.refuse_because(id, Refusal::protocol_error(why), now);
        }
        let topic = match self.resolve_topic(client, &mut publish) {
            Ok(topic) => topic,
            Err(refusal) => return self.refuse_because(id, refusal, now),
        };
        self.traffic.publishes_received += 1;
        self.traffic.publish_bytes_received += publish.payload.len() as u64;
        let Some(packet_id) = publish.packet_id else {
            let session = client.session;
            if self.authorize(session, &topic, &mut publish, now).is_ok() {
                let message = message(topic, publish, now);
                self.accept_from(session, None, message, Rest::ALL, now);
            }
            return;
        };
        let received = ReceivedPublish {
            client,
            packet_id,
            is_qos_2: publish.qos == QoS::ExactlyOnce,
        };
        let is_new = self.is_new_in_window(received);
        if is_new && self.exceeds_receive_maximum(id) {
            // [MQTT-3.3.4-8]
            return self.refuse(id, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED, now);
        }
        let bytes = publish.payload.len() + publish.properties.weight();
        let decision = self.decide_ack(received, topic, publish, now);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.window += usize::from(is_new);
            decision.note(received, bytes, connection);
        }
        self.send_ready_acks(id, now);
    }

    /// The topic, also where an alias is sent in its place [MQTT-3.3.2-8], [MQTT-3.3.2-9].
    fn resolve_topic(
        &mut self,
        client: Client,
        publish: &mut Publish,
    ) -> Result<TopicName, Refusal> {
        let invalid = Refusal::new(
            ReasonCode::TOPIC_ALIAS_INVALID,
            "unknown topic alias, or one above the maximum",
        );
        let topic = publish.topic.take();
        let Some(alias) = publish.properties.topic_alias else {
            return topic.ok_or(invalid);
        };
        publish.properties.edit().topic_alias = None;
        let connection = self
            .connections
            .get_mut(&client.connection)
            .filter(|_| alias.get() <= self.limits.topic_aliases)
            .ok_or(invalid)?;
        let aliases = connection.incoming_aliases();
        let Some(topic) = topic else {
            return aliases.resolve(alias).ok_or(invalid);
        };
        let bytes = aliases.bytes_with(&topic, alias);
        self.charge(client.session, BudgetPart::Aliases, bytes)?;
        if let Some(connection) = self.connections.get_mut(&client.connection) {
            connection.incoming_aliases().give(&topic, alias);
        }
        Ok(topic)
    }

    /// Accepts a QoS 1 or 2 message, and decides its acknowledgement. A repeated QoS 2 message is
    /// not accepted twice [MQTT-4.3.3-10].
    fn decide_ack(
        &mut self,
        received: ReceivedPublish,
        topic: TopicName,
        mut publish: Publish,
        now: Instant,
    ) -> AckDecision {
        let session = received.client.session;
        let first = self.note_repetition(received, publish.dup);
        // A repetition may come before the batch with the first one is durable.
        let newest = self.records.newest();
        let connection = received.client.connection;
        if let Some(decision) = first.and_then(|first| repeated_ack(first, connection, newest)) {
            return decision;
        }
        if let Err(refusal) = self.authorize(session, &topic, &mut publish, now) {
            return refusal.into();
        }
        let is_repeated = publish.dup;
        let message = message(topic, publish, now);
        if received.is_qos_2
            && first.is_none()
            && let Err(over) = self.charge_received(session, 1)
        {
            return Refusal::from(over).into();
        }
        let known = first.map_or(Known::NOTHING, |first| self.known(first, is_repeated));
        let decision = self.accept_received(received, message, known, now);
        AckDecision {
            after: decision.after.max(first.map_or(0, |_| newest)),
            ..decision
        }
    }

    /// Lets a QoS 1 or 2 message go the rest of its way.
    fn accept_received(
        &mut self,
        received: ReceivedPublish,
        message: Message,
        known: Known,
        now: Instant,
    ) -> AckDecision {
        let Known { rest, receipt } = known;
        let held = self.held_for(received, receipt);
        let handover = held.and_then(|held| held.handover());
        let (ticket, reached) = self.accept_from(received.client.session, held, message, rest, now);
        let mut after = reached.after;
        if received.is_qos_2 {
            let state = ticket.map_or(IncomingState::Received, IncomingState::Held);
            let drawn = ticket.and(handover).map(|handover| handover.receipt);
            let receipt = drawn.unwrap_or(receipt);
            after = after.max(self.remember_incoming(received, state, receipt));
        }
        AckDecision::after_forward(ticket, success(&reached), after)
    }

    /// The part of its way that a repeated message has still to go, and its receipt. Where only an
    /// outbox knows the first message, a client that sends for the first time sends another one.
    fn known(&mut self, first: Incoming, is_repeated: bool) -> Known {
        match first.state {
            IncomingState::Partial(rest) if rest.is_delivered || is_repeated => {
                let receipt = first.receipt;
                Known { rest, receipt }
            }
            _ => {
                self.receipts
                    .end(first.receipt, self.records.next_position());
                Known::NOTHING
            }
        }
    }

    fn incoming_mut(&mut self, received: ReceivedPublish) -> Option<&mut Incoming> {
        self.sessions
            .get_mut(received.client.session)?
            .incoming
            .get_mut(&received.packet_id)
    }

    /// The QoS 2 message that this one repeats, as it was; from now on it belongs to this
    /// connection.
    fn note_repetition(
        &mut self,
        received: ReceivedPublish,
        is_repeated: bool,
    ) -> Option<Incoming> {
        if !received.is_qos_2 {
            return None;
        }
        let is_in_doubt = self.doubts_restored && !is_repeated;
        let known = self.incoming_mut(received)?;
        let first = *known;
        if is_in_doubt && first.connection == 0 {
            // Damage has swallowed its release: the client goes on with the identifier.
            self.free(received.client.connection, received.packet_id);
            return None;
        }
        known.connection = received.client.connection;
        Some(first)
    }

    /// Remembers a QoS 2 message until its PUBREL. Returns the batch that says so.
    pub(super) fn remember_incoming(
        &mut self,
        received: ReceivedPublish,
        state: IncomingState,
        receipt: u64,
    ) -> Lsn {
        let ReceivedPublish {
            client, packet_id, ..
        } = received;
        let Some(session) = self.sessions.get_mut(client.session) else {
            return 0;
        };
        let is_done = state == IncomingState::Received;
        let incoming = Incoming {
            state,
            connection: client.connection,
            receipt,
        };
        let after = if session.is_kept() {
            self.records.put(Record::Received(ReceivedRecord {
                session: session.number,
                packet_id,
                progress: incoming.progress(),
            }))
        } else {
            0
        };
        let receipt = if is_done {
            self.receipts.end(receipt, after);
            0
        } else {
            receipt
        };
        session.incoming.insert(
            packet_id,
            Incoming {
                receipt,
                ..incoming
            },
        );
        after
    }

    /// True if a PUBLISH adds to the messages in flight from this connection: not a repetition of
    /// one that is.
    fn is_new_in_window(&self, received: ReceivedPublish) -> bool {
        let is_known = || {
            let session = self.sessions.get(received.client.session)?;
            let incoming = session.incoming.get(&received.packet_id)?;
            Some(incoming.connection == received.client.connection)
        };
        !received.is_qos_2 || is_known() != Some(true)
    }

    /// CONNACK names the Receive Maximum to MQTT 5 clients; older ones cannot know it. Many do not
    /// keep to it, and are read more slowly ([`Engine::pace`]); only a client that goes far beyond
    /// it is disconnected.
    fn exceeds_receive_maximum(&self, id: ConnectionId) -> bool {
        let connection = self
            .connections
            .get(&id)
            .filter(|connection| connection.version == Version::V5);
        connection.is_some_and(|connection| {
            connection.window >= FAR_BEYOND * usize::from(self.limits.receive_maximum)
        })
    }

    /// Accepts a message of a client. The ticket is there if its acknowledgement must wait for a
    /// destination.
    fn accept_from(
        &mut self,
        session: SessionKey,
        held: Option<HeldFor>,
        mut message: Message,
        rest: Rest,
        now: Instant,
    ) -> (Option<Ticket>, Reached) {
        if self.routes.is_command(&message.topic) {
            message.publisher = self
                .sessions
                .get(session)
                .map(|session| session.publisher(self.source(session)));
        }
        self.route(message, Some(session), held, rest, now)
    }

    /// The waiter for a message; `receipt` is the one that outboxes know it by already, or 0.
    fn held_for(&mut self, received: ReceivedPublish, receipt: u64) -> Option<HeldFor> {
        let (key, packet_id) = (received.client.session, received.packet_id);
        let session = self.sessions.get(key)?;
        let (number, is_kept) = (session.number, session.is_kept());
        let handover = if received.is_qos_2 && is_kept {
            self.handover(number, packet_id.get(), receipt)
        } else {
            None
        };
        Some(HeldFor::Session(HeldPublish {
            key,
            number,
            packet_id,
            is_qos_2: received.is_qos_2,
            handover,
        }))
    }
}

/// The acknowledgement of a repetition; `None` if some destinations may not have the first message,
/// and are to get this one.
fn repeated_ack(first: Incoming, connection: ConnectionId, newest: Lsn) -> Option<AckDecision> {
    match first.state {
        IncomingState::Held(ticket) => Some(AckDecision {
            is_owed_already: first.connection == connection,
            ..AckDecision::new(AckState::Waiting(ticket), newest)
        }),
        IncomingState::Received => Some(AckDecision::after_forward(
            None,
            ReasonCode::SUCCESS,
            newest,
        )),
        IncomingState::Partial(_) => None,
    }
}

/// Without subscribers: a success of its own kind in MQTT 5.
fn success(reached: &Reached) -> ReasonCode {
    if reached.anybody {
        ReasonCode::SUCCESS
    } else {
        ReasonCode::NO_MATCHING_SUBSCRIBERS
    }
}

fn message(topic: TopicName, publish: Publish, now: Instant) -> Message {
    let mut properties = publish.properties;
    let expires_at = properties
        .message_expiry
        .map(|seconds| now + Duration::from_secs(u64::from(seconds)));
    if expires_at.is_some() {
        properties.edit().message_expiry = None;
    }
    Message {
        topic,
        payload: publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        properties,
        expires_at,
        origin: Origin::Client,
        class: Class::default(),
        publisher: None,
    }
}
