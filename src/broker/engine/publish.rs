//! Messages from clients, from inside the gateway and from remote brokers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::Part;
use super::deliver::Reached;
use super::fanout::Fanout;
use super::notice::NoticeKind;
use super::owed::AckState;
use super::record::Record;
use super::session::{Exchange, Incoming, Kept, Session};
use super::{
    ConnectionId, Engine, HeldFor, HeldMessage, Output, Position, Refusals, SessionKey, TAP_BITS,
    TapAnswer, Ticket, tap_bit,
};
use crate::message::{Class, Message, Origin};
use crate::mqtt::{PacketId, Publish, QoS, ReasonCode, TopicName, Version};

/// So many times its Receive Maximum may an MQTT 5 client have unacknowledged; with more it is disconnected.
const FAR_BEYOND: usize = 16;

const TOO_MANY_STATES: &str = "at most 1000 states of bridge connections are retained, and no more than a tenth of `broker.max_retained`";

/// A refusal that the client can be told.
type Refusal = (ReasonCode, &'static str);

/// What to answer to a QoS 1 or 2 PUBLISH.
pub(super) struct Answer {
    pub(super) state: AckState,
    /// The batch its message is in.
    pub(super) after: Position,
    /// Why not.
    pub(super) why: &'static str,
    /// The first PUBLISH with this identifier came on the same connection, and its acknowledgement still waits for a tap.
    pub(super) is_owed_already: bool,
}

impl Answer {
    fn now(reason: ReasonCode) -> Self {
        Self::of(AckState::Ready(reason), 0)
    }

    fn of(state: AckState, after: Position) -> Self {
        Self {
            state,
            after,
            why: "",
            is_owed_already: false,
        }
    }
}

impl Engine {
    pub(super) fn publish(
        &mut self,
        id: ConnectionId,
        session: SessionKey,
        mut publish: Publish,
        now: Instant,
    ) {
        if !publish.properties.subscription_identifiers.is_empty() {
            self.refuse_because(
                id,
                ReasonCode::PROTOCOL_ERROR,
                "a client must not send subscription identifiers",
                now,
            ); // [MQTT-3.3.4-6]
            return;
        }
        let topic = match self.topic_of(id, session, &mut publish) {
            Ok(topic) => topic,
            Err((reason, why)) => {
                self.refuse_because(id, reason, why, now);
                return;
            }
        };
        self.traffic.publishes_received += 1;
        self.traffic.publish_bytes_received += publish.payload.len() as u64;
        let Some(packet_id) = publish.packet_id else {
            if self.admit(session, &topic, &mut publish, now).is_ok() {
                self.accept_from(session, None, message(topic, publish, now), now);
            }
            return;
        };
        let is_new = self.is_new_in_window(id, session, packet_id, publish.qos);
        if is_new && self.exceeds_receive_maximum(id) {
            self.refuse(id, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED, now);
            return;
        }
        let (bytes, is_qos_2) = (
            publish.payload.len() + publish.properties.weight(),
            publish.qos == QoS::ExactlyOnce,
        );
        let answer = self.answer(id, (session, packet_id), topic, publish, now);
        self.owe(id, (packet_id, is_qos_2, is_new), bytes, &answer);
        self.send_ready_acks(id, now);
    }

    /// The topic, which an alias may stand for.
    fn topic_of(
        &mut self,
        id: ConnectionId,
        session: SessionKey,
        publish: &mut Publish,
    ) -> Result<TopicName, Refusal> {
        let invalid = (
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
            .get_mut(&id)
            .filter(|_| alias.get() <= self.limits.topic_aliases)
            .ok_or(invalid)?;
        let aliases = connection.incoming_aliases();
        let Some(topic) = topic else {
            return aliases.resolve(alias).ok_or(invalid);
        };
        let bytes = aliases.bytes_with(&topic, alias);
        self.charge(session, Part::Aliases, bytes)
            .map_err(|over| (ReasonCode::QUOTA_EXCEEDED, over.why()))?;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.incoming_aliases().give(&topic, alias);
        }
        Ok(topic)
    }

    /// Lets a message in, or says why not, to its sender and to the log. A command to an instrument is not retained: nobody wants it
    /// carried out again when it is next read.
    fn admit(
        &mut self,
        session: SessionKey,
        topic: &TopicName,
        publish: &mut Publish,
        now: Instant,
    ) -> Result<(), Refusal> {
        let judged = self.judge(session, topic, publish);
        if let Err((_, why)) = judged {
            self.traffic.refused += 1;
            self.notice(
                NoticeKind::RefusedMessage,
                Some(session),
                Some(topic),
                why,
                now,
            );
        } else if publish.retain && !publish.payload.is_empty() && self.guarded.contains(topic) {
            publish.retain = false;
            self.notice(
                NoticeKind::RetainedCommand,
                Some(session),
                Some(topic),
                "",
                now,
            );
        }
        judged
    }

    /// Whether a session may publish this.
    fn judge(
        &self,
        session: SessionKey,
        topic: &TopicName,
        publish: &Publish,
    ) -> Result<(), Refusal> {
        let session = self
            .sessions
            .get(session)
            .ok_or((ReasonCode::UNSPECIFIED, "no session"))?;
        if topic.is_too_deep() {
            return Err((
                ReasonCode::TOPIC_NAME_INVALID,
                "a topic may have at most 201 levels",
            ));
        }
        let is_guarded = self.guarded.contains(topic);
        may_publish(
            session,
            (topic, &publish.payload, publish.retain),
            is_guarded,
        )?;
        // Older clients cannot be told: their state reaches its subscribers and is not retained.
        let is_v5 = session
            .connection
            .and_then(|id| self.connections.get(&id))
            .is_some_and(|connection| connection.version == Version::V5);
        if is_v5
            && publish.retain
            && !publish.payload.is_empty()
            && !self.retained.has_room_for_state(topic)
        {
            return Err((ReasonCode::QUOTA_EXCEEDED, TOO_MANY_STATES));
        }
        // The answer of an instrument goes where whoever asked may look or write himself.
        let answer_to = publish
            .properties
            .response_topic
            .as_ref()
            .filter(|_| is_guarded);
        if answer_to.is_some_and(|topic| {
            !session.rights.may_read(topic)
                && !session
                    .rights
                    .may_write(topic, self.guarded.contains(topic))
        }) {
            return Err((
                ReasonCode::NOT_AUTHORIZED,
                "no permission for the response topic",
            ));
        }
        if publish.properties.payload_is_text == Some(true)
            && std::str::from_utf8(&publish.payload).is_err()
        {
            return Err((
                ReasonCode::PAYLOAD_FORMAT_INVALID,
                "the payload is not valid UTF-8",
            ));
        }
        Ok(())
    }

    /// What to answer to a QoS 1 or 2 PUBLISH. A repeated QoS 2 message is not accepted twice [MQTT-4.3.3-10].
    fn answer(
        &mut self,
        id: ConnectionId,
        (session, packet_id): (SessionKey, PacketId),
        topic: TopicName,
        mut publish: Publish,
        now: Instant,
    ) -> Answer {
        let is_qos_2 = publish.qos == QoS::ExactlyOnce;
        let known = self
            .sessions
            .get_mut(session)
            .filter(|_| is_qos_2)
            .and_then(|session| session.incoming.get_mut(&packet_id));
        if let Some(known) = known {
            let is_owed_already = std::mem::replace(&mut known.connection, id) == id;
            let state = known.state;
            // A repetition may come before the batch with the first one is durable.
            let after = self.records.newest();
            return match state {
                Exchange::Held(ticket) => Answer {
                    is_owed_already,
                    ..Answer::of(AckState::Waiting(ticket), after)
                },
                Exchange::Received => Answer::of(AckState::Ready(ReasonCode::SUCCESS), after),
                Exchange::Refused { taps } => {
                    match self.admit(session, &topic, &mut publish, now) {
                        Ok(()) => self.forward_again(
                            (session, packet_id),
                            taps,
                            message(topic, publish, now),
                            after,
                        ),
                        Err((reason, why)) => Answer {
                            why,
                            ..Answer::now(reason)
                        },
                    }
                }
            };
        }
        if let Err((reason, why)) = self.admit(session, &topic, &mut publish, now) {
            return Answer {
                why,
                ..Answer::now(reason)
            };
        }
        if is_qos_2 && let Err(over) = self.charge_received(session, 1) {
            return Answer {
                why: over.why(),
                ..Answer::now(ReasonCode::QUOTA_EXCEEDED)
            };
        }
        let (ticket, reached) = self.accept_from(
            session,
            Some((packet_id, is_qos_2)),
            message(topic, publish, now),
            now,
        );
        let mut after = reached.after;
        if is_qos_2 {
            let state = ticket.map_or(Exchange::Received, Exchange::Held);
            after = after.max(self.receive(id, session, packet_id, state));
        }
        // Nobody listens: a success of its own kind in MQTT 5.
        let reason = if reached.anybody {
            ReasonCode::SUCCESS
        } else {
            ReasonCode::NO_MATCHING_SUBSCRIBERS
        };
        Answer::of(
            ticket.map_or(AckState::Ready(reason), AckState::Waiting),
            after,
        )
    }

    /// Remembers a QoS 2 message until its PUBREL. Returns the batch that says so.
    pub(super) fn receive(
        &mut self,
        id: ConnectionId,
        key: SessionKey,
        packet_id: PacketId,
        state: Exchange,
    ) -> Position {
        let Some(session) = self.sessions.get_mut(key) else {
            return 0;
        };
        session.incoming.insert(
            packet_id,
            Incoming {
                state,
                connection: id,
            },
        );
        if !session.is_kept() {
            return 0;
        }
        let held = matches!(state, Exchange::Held(_) | Exchange::Refused { .. });
        self.records.put(
            &Record::Received {
                session: session.number,
                packet_id,
                held,
            },
            self.clock,
        )
    }

    /// A QoS 2 message that subscribers have and some taps may not have.
    fn forward_again(
        &mut self,
        (session, packet_id): (SessionKey, PacketId),
        missing: u64,
        message: Message,
        after: Position,
    ) -> Answer {
        let mut taps = self.subscriptions.taps_of(&message.topic);
        taps.retain(|tap| missing & tap_bit(*tap) != 0);
        let held = self.held_for(session, packet_id, true);
        let ticket = self.forward(&taps, message, held);
        let state = ticket.map_or(Exchange::Received, Exchange::Held);
        if let Some(incoming) = self
            .sessions
            .get_mut(session)
            .and_then(|session| session.incoming.get_mut(&packet_id))
        {
            incoming.state = state;
        }
        Answer::of(
            ticket.map_or(AckState::Ready(ReasonCode::SUCCESS), AckState::Waiting),
            after,
        )
    }

    /// True if a PUBLISH adds to the messages in flight from this connection: not a repetition of one that is.
    fn is_new_in_window(
        &self,
        id: ConnectionId,
        session: SessionKey,
        packet_id: PacketId,
        qos: QoS,
    ) -> bool {
        let known = self
            .sessions
            .get(session)
            .and_then(|session| session.incoming.get(&packet_id));
        qos != QoS::ExactlyOnce || known.is_none_or(|incoming| incoming.connection != id)
    }

    /// MQTT 5 clients were told how many messages may be unacknowledged; older ones cannot be told. Many do not keep to it, and are
    /// read more slowly ([`Engine::pace`]); only who goes far beyond it is disconnected.
    fn exceeds_receive_maximum(&self, id: ConnectionId) -> bool {
        let connection = self
            .connections
            .get(&id)
            .filter(|connection| connection.version == Version::V5);
        connection.is_some_and(|connection| {
            connection.window >= FAR_BEYOND * usize::from(self.limits.receive_maximum)
        })
    }

    /// Takes a message of a client in. The ticket is there if its acknowledgement must wait for a tap.
    fn accept_from(
        &mut self,
        session: SessionKey,
        waits: Option<(PacketId, bool)>,
        mut message: Message,
        now: Instant,
    ) -> (Option<Ticket>, Reached) {
        if self.guarded.contains(&message.topic) {
            message.publisher = self
                .sessions
                .get(session)
                .map(|session| session.publisher(self.source(session)));
        }
        let held =
            waits.and_then(|(packet_id, is_qos_2)| self.held_for(session, packet_id, is_qos_2));
        self.take_in(message, Some(session), held, now)
    }

    fn held_for(&self, key: SessionKey, packet_id: PacketId, is_qos_2: bool) -> Option<HeldFor> {
        self.sessions.get(key).map(|session| HeldFor::Session {
            key,
            number: session.number,
            packet_id,
            is_qos_2,
        })
    }

    /// Takes a message of the gateway itself in.
    pub(super) fn accept(
        &mut self,
        message: Message,
        from: Option<SessionKey>,
        now: Instant,
    ) -> Reached {
        self.take_in(message, from, None, now).1
    }

    /// A message of a remote broker: it is safe when it is durable and every other tap has it.
    pub(super) fn inbound(&mut self, receipt: u64, message: Message, now: Instant) {
        let before = self.next_ticket;
        let held = HeldFor::Inbound { receipt, after: 0 };
        let (ticket, reached) = self.take_in(message, None, Some(held), now);
        match ticket
            .filter(|ticket| *ticket > before)
            .and_then(|ticket| self.held.get_mut(&ticket))
        {
            Some(held) => {
                held.from = HeldFor::Inbound {
                    receipt,
                    after: reached.after,
                }
            }
            None => self.promise(receipt, reached.after),
        }
    }

    /// Says that an inbound message is safe when the batch `after` is durable.
    fn promise(&mut self, receipt: u64, after: Position) {
        if after <= self.durable {
            self.outputs.push(Output::Safe(receipt));
        } else {
            let place = self.inbound.partition_point(|(other, _)| *other <= after);
            self.inbound.insert(place, (after, receipt));
        }
    }

    /// Keeps a message if it is to be retained, hands it to subscribers and taps.
    pub(super) fn take_in(
        &mut self,
        message: Message,
        from: Option<SessionKey>,
        held: Option<HeldFor>,
        now: Instant,
    ) -> (Option<Ticket>, Reached) {
        let mut fanout = Fanout::new(message, now);
        let mut removed = 0;
        if fanout.message().retain && self.may_be_retained(fanout.message(), now) {
            (fanout.is_retained, removed) = self.retain(fanout.message(), from, now);
        }
        let mut reached = self.deliver(&mut fanout, from, now);
        reached.after = reached.after.max(removed);
        let ticket = if reached.taps.is_empty() {
            None
        } else {
            self.forward(&reached.taps, fanout.into_message(), held)
        };
        (ticket, reached)
    }

    /// False for a command to an instrument that a remote broker has with the retain flag. What is retained already can be removed.
    fn may_be_retained(&mut self, message: &Message, now: Instant) -> bool {
        let is_command = !message.payload.is_empty() && self.guarded.contains(&message.topic);
        if is_command {
            let why = "the remote broker holds this command and would send it again; publish commands without the retain flag";
            self.notice(
                NoticeKind::RetainedCommand,
                None,
                Some(&message.topic),
                why,
                now,
            );
        }
        !is_command
    }

    /// True if a retained message was kept, or one was removed, and that belongs into the record of the message. If there was no room,
    /// the batch that says that the old one is gone.
    pub(super) fn retain(
        &mut self,
        message: &Message,
        from: Option<SessionKey>,
        now: Instant,
    ) -> (bool, Position) {
        self.next_message += 1;
        let id = self.next_message;
        let queued = &self.queued_bytes;
        let is_kept = self
            .retained
            .keep(message, now, |message| Kept::new(message, id, queued));
        if !is_kept {
            self.count_full();
            // `$SYS` comes every few seconds.
            if message.origin != Origin::Own {
                let is_state = !self.retained.has_room_for_state(&message.topic);
                let why = if is_state {
                    TOO_MANY_STATES
                } else {
                    "raise `broker.max_retained` or `broker.max_retained_size`"
                };
                self.notice(
                    NoticeKind::NotRetained,
                    from,
                    Some(&message.topic),
                    why,
                    now,
                );
            }
            let nothing = Message {
                payload: bytes::Bytes::new(),
                ..message.clone()
            };
            return (
                false,
                self.records.put(&Record::Retained(&nothing), self.clock),
            );
        }
        // Readings and `$SYS` are made anew after a start; writing them down would wear a card out.
        (
            matches!(message.origin, Origin::Client | Origin::Uplink(_)),
            0,
        )
    }

    pub(super) fn forward(
        &mut self,
        taps: &[usize],
        message: Message,
        held: Option<HeldFor>,
    ) -> Option<Ticket> {
        // Field readings reach the outbox on their own way; of the `$` topics only those of the gateway may leave.
        if (message.topic.is_reserved() && !message.is_status()) || message.origin == Origin::Field
        {
            return None;
        }
        let wants = |index: &usize| {
            self.taps
                .get(*index)
                .is_some_and(|tap| tap.not_from != message.origin)
        };
        let taps: Vec<usize> = taps.iter().copied().filter(wants).collect();
        if taps.is_empty() {
            return None;
        }
        let number = held.filter(|_| message.qos != QoS::AtMostOnce).map(|from| {
            self.next_ticket += 1;
            let waiting = taps.iter().fold(0, |bits, tap| bits | tap_bit(*tap));
            self.held.insert(
                self.next_ticket,
                HeldMessage {
                    from,
                    waiting,
                    refusals: Refusals::default(),
                },
            );
            self.next_ticket
        });
        let message = Arc::new(message.detached());
        for tap in taps {
            let ticket = number.map(|number| number << TAP_BITS | tap.min(63) as u64);
            self.outputs.push(Output::Forward {
                tap,
                message: message.clone(),
                ticket,
            });
        }
        number
    }

    /// A tap has stored a message, or refused it.
    pub(super) fn stored(&mut self, ticket: Ticket, answer: TapAnswer, now: Instant) {
        let (number, bit) = (ticket >> TAP_BITS, 1_u64 << (ticket & 63));
        let Some(held) = self.held.get_mut(&number) else {
            return;
        };
        held.waiting &= !bit;
        held.refusals.note(bit, answer);
        if held.waiting != 0 {
            return;
        }
        let (from, refusals) = (held.from, held.refusals);
        self.held.remove(&number);
        match from {
            HeldFor::Inbound { receipt, .. } if refusals.taps() != 0 => {
                self.outputs.push(Output::NotSafe(receipt));
            }
            HeldFor::Inbound { receipt, after } => self.promise(receipt, after),
            HeldFor::Will { number } => self.will_stored(number, refusals.full(), now),
            HeldFor::Session {
                key,
                number: session,
                packet_id,
                is_qos_2,
            } => {
                // The session may have ended meanwhile, and its key be another one's.
                if self
                    .sessions
                    .get(key)
                    .is_some_and(|known| known.number == session)
                {
                    self.released_by_taps(number, (key, packet_id, is_qos_2), refusals, now);
                }
            }
        }
    }

    fn released_by_taps(
        &mut self,
        ticket: Ticket,
        (key, packet_id, is_qos_2): (SessionKey, PacketId, bool),
        refusals: Refusals,
        now: Instant,
    ) {
        let mut after = 0;
        let waits = self
            .sessions
            .get(key)
            .filter(|_| is_qos_2)
            .and_then(|session| session.incoming.get(&packet_id))
            .copied();
        if let Some(incoming) = waits.filter(|incoming| incoming.state == Exchange::Held(ticket)) {
            let state = match refusals.taps() {
                0 => Exchange::Received,
                taps => Exchange::Refused { taps },
            };
            after = self.receive(incoming.connection, key, packet_id, state);
        }
        let Some(id) = self.connection_of(key) else {
            return;
        };
        let (reason, why) = refusals.reason();
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.acks.ready(ticket, reason, why, after);
        }
        self.send_ready_acks(id, now);
        self.pace(id, now);
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
        measured: None,
        publisher: None,
    }
}

/// Whether a session may publish a payload to a topic. Topics that begin with `$` are the broker's; but a bridge publishes whether its
/// connection is up, as mosquitto's do ([`may_publish_state`]).
pub(super) fn may_publish(
    session: &Session,
    message: (&TopicName, &[u8], bool),
    is_guarded: bool,
) -> Result<(), Refusal> {
    let (topic, ..) = message;
    if topic.is_reserved() {
        let Some(bridge) = bridge_of(topic) else {
            return Err((
                ReasonCode::NOT_AUTHORIZED,
                "topics that begin with $ belong to the broker",
            ));
        };
        return may_publish_state(session, bridge, message);
    }
    if session.rights.may_write(topic, is_guarded) {
        Ok(())
    } else {
        Err((
            ReasonCode::NOT_AUTHORIZED,
            "no permission to publish to this topic",
        ))
    }
}

/// Whether a session may publish the state of a bridge. A user whose rules list topics to write needs one that covers this topic;
/// anybody else may publish the state of the own client identifier. mosquitto's bridges send `1` when they connect, and `0` as their will;
/// nothing, with the retain flag, removes what is retained.
fn may_publish_state(
    session: &Session,
    bridge: &str,
    (topic, payload, retain): (&TopicName, &[u8], bool),
) -> Result<(), Refusal> {
    let is_own = *bridge == *session.client_id;
    if !session.rights.may_write_state(topic, is_own) {
        return Err((
            ReasonCode::NOT_AUTHORIZED,
            "no permission to publish the state of this bridge connection",
        ));
    }
    let removes = retain && payload.is_empty();
    if payload != b"0" && payload != b"1" && !removes {
        return Err((
            ReasonCode::IMPLEMENTATION_SPECIFIC,
            "the state of a bridge connection is 0 or 1",
        ));
    }
    Ok(())
}

/// The bridge whose state a topic is about: its client identifier.
pub(super) fn bridge_of(topic: &TopicName) -> Option<&str> {
    topic
        .as_str()
        .strip_prefix("$SYS/broker/connection/")?
        .strip_suffix("/state")
}
