//! The broker's state machine: sessions, subscriptions, retained messages, wills. Pure: it gets inputs with the time, and returns
//! outputs; sockets, disks and clocks are its driver's.
//!
//! Invariants:
//! * A connection belongs to at most one session and a session has at most one connection.
//! * Whatever a peer sends, the outcome concerns that peer's connection only.
//! * A PUBLISH at QoS 1 or 2 that a tap must get is acknowledged only after the tap said it is stored; acknowledgements leave in
//!   the order of their PUBLISH packets [MQTT-4.6.0-2].
//! * A connection is given at most [`Limits::credits`] PUBLISH packets that it has not reported as written; what does not fit waits in
//!   the session's bounded queue.
//!
//! One file per concern: `connect` (CONNECT, takeover, ends, wills), `publish` (incoming messages and acknowledgements),
//! `deliver` (outgoing), `subscribe`, `session`, `subscriptions` (the tree), `retained`, `sys` (`$SYS`).

mod connect;
mod deliver;
mod publish;
mod retained;
mod session;
mod subscribe;
mod subscriptions;
mod sys;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytestring::ByteString;
use slab::Slab;

use crate::message::{Message, Origin};
use crate::mqtt::{DecodeError, Disconnect, Packet, PacketId, ReasonCode, TopicFilter, Version};
use retained::Retained;
use session::Session;
use subscriptions::Subscriptions;
pub use sys::Traffic;

/// One socket.
pub type ConnectionId = u64;
/// One message that a tap has not stored yet.
pub type Ticket = u64;
type SessionKey = usize;

/// What the broker allows. Every default protects a machine with 512 MB.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest packet accepted, in bytes; told to MQTT 5 clients.
    pub max_packet: usize,
    /// Sessions, connected or not.
    pub max_sessions: usize,
    /// Messages that may wait for one session.
    pub max_queued: usize,
    /// Bytes that may wait for one session: payloads, topics and what it takes to keep them.
    pub max_queued_bytes: usize,
    /// Subscriptions of one session.
    pub max_subscriptions: usize,
    /// Retained messages in all.
    pub max_retained: usize,
    /// Bytes of all retained messages.
    pub max_retained_bytes: usize,
    /// Unacknowledged QoS 1 and 2 messages in flight to one client, and from one MQTT 5 client.
    pub receive_maximum: u16,
    /// PUBLISH packets handed to a connection that it has not written.
    pub credits: u32,
    /// Time from the opening of a connection to its CONNECT.
    pub connect_within: Duration,
    /// Interval of the `$SYS` topics.
    pub sys_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_packet: 1 << 20,
            max_sessions: 2_000,
            max_queued: 10_000,
            max_queued_bytes: 4 << 20,
            max_subscriptions: 1_000,
            max_retained: 10_000,
            max_retained_bytes: 32 << 20,
            receive_maximum: 64,
            credits: 256,
            connect_within: Duration::from_secs(10),
            sys_every: Duration::from_secs(10),
        }
    }
}

/// A consumer inside the gateway that stores the messages of some topics: an outbox.
#[derive(Debug, Clone)]
pub struct Tap {
    /// The topics it wants.
    pub filters: Vec<TopicFilter>,
    /// Messages from there are not for it, so that nothing goes round in circles.
    pub not_from: Origin,
}

/// What happens to the broker.
#[derive(Debug)]
pub enum Input {
    /// A socket was accepted.
    Opened(ConnectionId),
    /// A packet arrived.
    Packet(ConnectionId, Packet),
    /// Bytes arrived that are no packet.
    Invalid(ConnectionId, DecodeError),
    /// The socket is gone.
    Closed(ConnectionId),
    /// So many PUBLISH packets were written to the socket.
    Written(ConnectionId, u32),
    /// A message from inside the gateway.
    Publish(Arc<Message>),
    /// A tap stored a message, or could not take it.
    Stored {
        /// That of the [`Output::Forward`].
        ticket: Ticket,
        /// False if it was refused.
        accepted: bool,
    },
}

/// What the driver is to do, in order.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Write a packet.
    Send(ConnectionId, Packet),
    /// Read nothing more until [`Output::Resume`]: too much of this client waits for a tap.
    Pause(ConnectionId),
    /// Read on.
    Resume(ConnectionId),
    /// Write what was sent before, then close.
    Close(ConnectionId),
    /// Hand a message to a tap.
    Forward {
        /// Index of the tap.
        tap: usize,
        /// The message.
        message: Arc<Message>,
        /// To be answered with [`Input::Stored`]; `None` for QoS 0, which is lost if the tap is busy.
        ticket: Option<Ticket>,
    },
}

#[derive(Debug)]
struct Connection {
    /// `None` until CONNECT was accepted.
    session: Option<SessionKey>,
    version: Version,
    credit: u32,
    last_heard: Instant,
    /// 1.5 times the keep alive [MQTT-3.1.2-22].
    silence_allowed: Option<Duration>,
    /// The client's own limits.
    receive_maximum: u16,
    max_packet: usize,
    acks: VecDeque<HeldAck>,
    /// Bytes of the messages behind `acks`.
    held_bytes: usize,
    is_paused: bool,
    /// QoS 2 messages of this connection that are not released [MQTT-3.3.4-7].
    unreleased: HashSet<PacketId>,
    /// Its entry in the timers.
    timer: Option<(Instant, Timer)>,
}

/// An acknowledgement that waits for its turn.
#[derive(Debug)]
struct HeldAck {
    packet_id: PacketId,
    is_qos_2: bool,
    state: AckState,
    bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AckState {
    Waiting(Ticket),
    Ready(ReasonCode),
}

#[derive(Debug)]
struct HeldMessage {
    session: SessionKey,
    packet_id: PacketId,
    is_qos_2: bool,
    taps_left: usize,
    refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Connect(ConnectionId),
    KeepAlive(ConnectionId),
    Will(SessionKey),
    SessionExpiry(SessionKey),
    Sys,
}

/// The state machine.
#[derive(Debug)]
pub struct Engine {
    limits: Limits,
    taps: Vec<Tap>,
    connections: HashMap<ConnectionId, Connection>,
    sessions: Slab<Session>,
    by_client: HashMap<ByteString, SessionKey>,
    subscriptions: Subscriptions,
    retained: Retained,
    timers: BTreeSet<(Instant, Timer)>,
    held: HashMap<Ticket, HeldMessage>,
    next_ticket: Ticket,
    /// Part of generated client identifiers; differs from run to run.
    salt: u64,
    generated_ids: u64,
    started: Instant,
    traffic: Traffic,
    outputs: Vec<Output>,
}

impl Engine {
    /// An empty broker. `salt` should differ from run to run.
    pub fn new(limits: Limits, taps: Vec<Tap>, salt: u64, now: Instant) -> Self {
        let retained = Retained::new(limits.max_retained, limits.max_retained_bytes);
        let timers = BTreeSet::from([(now, Timer::Sys)]);
        Self {
            limits,
            taps,
            connections: HashMap::new(),
            sessions: Slab::new(),
            by_client: HashMap::new(),
            subscriptions: Subscriptions::default(),
            retained,
            timers,
            held: HashMap::new(),
            next_ticket: 0,
            salt,
            generated_ids: 0,
            started: now,
            traffic: Traffic::default(),
            outputs: Vec::new(),
        }
    }

    /// Takes one input. Its outputs are collected for [`Engine::take_outputs`].
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Opened(connection) => self.open(connection, now),
            Input::Packet(connection, packet) => self.packet(connection, packet, now),
            Input::Invalid(connection, error) => self.reject(connection, error, now),
            Input::Closed(connection) => self.end(connection, connect::End::Lost, now),
            Input::Written(connection, packets) => self.written(connection, packets, now),
            Input::Publish(message) => self.accept(&message, None, now).map_or((), |_| ()),
            Input::Stored { ticket, accepted } => self.stored(ticket, accepted, now),
        }
    }

    /// Does what is due. To be called at or after [`Engine::next_deadline`].
    pub fn tick(&mut self, now: Instant) {
        while let Some((due, timer)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
            self.timers.remove(&(due, timer));
            match timer {
                Timer::Connect(connection) => self.connect_timeout(connection, now),
                Timer::KeepAlive(connection) => self.check_keep_alive(connection, now),
                Timer::Will(session) => self.will_is_due(session, due, now),
                Timer::SessionExpiry(session) => self.session_expires(session, due, now),
                Timer::Sys => {
                    self.publish_sys(now);
                    self.timers.insert((now + self.limits.sys_every, Timer::Sys));
                }
            }
        }
    }

    /// When [`Engine::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// A message or a connection was dropped by the driver.
    pub fn count_dropped(&mut self) {
        self.traffic.dropped += 1;
    }

    /// The outputs so far, in order.
    pub fn take_outputs(&mut self) -> std::vec::Drain<'_, Output> {
        self.outputs.drain(..)
    }

    /// Ends every connection in order: MQTT 5 clients are told why.
    pub fn shut_down(&mut self) {
        let connections: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for connection in connections {
            self.say_goodbye(connection, ReasonCode::SERVER_SHUTTING_DOWN);
            self.outputs.push(Output::Close(connection));
        }
    }

    fn packet(&mut self, id: ConnectionId, packet: Packet, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.last_heard = now;
        let session = connection.session;
        self.traffic.packets_received += 1;
        match (packet, session) {
            (Packet::Connect(connect), None) => self.connect(id, *connect, now),
            (_, None) => self.close(id, connect::End::Lost, now),
            (Packet::Publish(publish), Some(session)) => self.publish(id, session, publish, now),
            (Packet::PubAck(ack), Some(session)) => self.puback(session, &ack, now),
            (Packet::PubRec(ack), Some(session)) => self.pubrec(id, session, &ack, now),
            (Packet::PubRel(ack), Some(session)) => self.pubrel(id, session, &ack, now),
            (Packet::PubComp(ack), Some(session)) => self.pubcomp(session, &ack, now),
            (Packet::Subscribe(subscribe), Some(session)) => self.subscribe(id, session, subscribe, now),
            (Packet::Unsubscribe(unsubscribe), Some(session)) => self.unsubscribe(id, session, unsubscribe),
            (Packet::PingReq, Some(_)) => self.send(id, Packet::PingResp),
            (Packet::Disconnect(end), Some(session)) => self.disconnect(id, session, &end, now),
            // A second CONNECT [MQTT-3.1.0-2], AUTH without enhanced authentication, packets only servers send.
            (_, Some(_)) => self.refuse(id, ReasonCode::PROTOCOL_ERROR, now),
        }
    }

    /// Answers bytes that are no packet.
    fn reject(&mut self, id: ConnectionId, error: DecodeError, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if error.reason == ReasonCode::UNSUPPORTED_PROTOCOL_VERSION && connection.session.is_none() {
            connection.version = Version::V311;
            self.refuse_connect(id, error.reason);
            self.close(id, connect::End::Lost, now);
        } else {
            self.refuse(id, error.reason, now);
        }
    }

    /// Ends a connection for a fault of its peer.
    fn refuse(&mut self, id: ConnectionId, reason: ReasonCode, now: Instant) {
        self.say_goodbye(id, reason);
        self.close(id, connect::End::Lost, now);
    }

    /// DISCONNECT from a server exists in MQTT 5 only, and only after CONNECT.
    fn say_goodbye(&mut self, id: ConnectionId, reason: ReasonCode) {
        let told = self.connections.get(&id).is_some_and(|c| c.version == Version::V5 && c.session.is_some());
        if told {
            self.send(id, Packet::Disconnect(Disconnect::new(reason)));
        }
    }

    fn send(&mut self, id: ConnectionId, packet: Packet) {
        self.traffic.packets_sent += 1;
        self.outputs.push(Output::Send(id, packet));
    }

    fn connection_of(&self, session: SessionKey) -> Option<ConnectionId> {
        self.sessions.get(session).and_then(|session| session.connection)
    }
}
