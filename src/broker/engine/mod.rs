//! The broker's state machine: sessions, subscriptions, retained messages, wills. Pure: inputs come
//! with the time, outputs are returned; sockets, disks and clocks belong to its driver.
//!
//! Invariants:
//! * A connection belongs to at most one session and a session has at most one connection.
//! * Whatever a peer sends, the outcome concerns that peer's connection only.
//! * State that must survive is recorded, a batch a turn. A packet that promises something waits
//!   until the batch with its promise is durable, and so do the answers behind it: acknowledgements
//!   never overtake each other, nor do messages.
//! * A PUBLISH at QoS 1 or 2 for a destination inside the gateway is acknowledged only after that
//!   has stored it; acknowledgements leave in the order of their PUBLISH packets [MQTT-4.6.0-2].
//! * A connection is given PUBLISH packets while fewer than [`BrokerLimits::output_bytes`] bytes
//!   wait to be written; the rest waits in the session's bounded queue.
//!
//! One file per concern, and a function named `process_...` for each packet:
//! * inputs and outputs: `events`, `send` (packets to clients), `output` (bytes), `logging`, `note`
//!   and `notice` (the log), `sys`
//! * connections: `connection`, `lifecycle` (their stages), `connect`, `login`, `disconnect`,
//!   `refusal`
//! * sessions: `session`, `session_store`, `sessions` (their life), `wills`, `change` (rights and
//!   routes while it runs)
//! * messages from clients: `publish`, `authorize`, `aliases`, `accept`, `acknowledge` and `owed`
//!   (acknowledgements), `forward` and `held` (to outboxes and instruments), `handovers` (what
//!   outboxes know after a crash)
//! * messages from remote brokers: `remotes`
//! * subscriptions: `subscribe`, `filters` (of a session), `subscriptions` and `tree` (of all),
//!   `shared` (members of a shared one)
//! * messages to clients: `deliver`, `delivery` and `kept` (their content), `fanout` (one message,
//!   written for many), `pump`, `queue` and `in_flight` (of a session), `fullest` (the fullest
//!   queue)
//! * retained messages: `retained`, `seek` (filters in sorted topics), `replays` and `replay_turns`
//!   (on their way to new subscriptions)
//! * bounds: `limits`, `budget`, `charge` (bytes of sessions), `away` (sessions that may have to
//!   go)
//! * time and disk: `timers`, `gates` (what waits until records are durable)
//! * durable state: `record`, `read_record`, `qos_2_records`, `restore`, `restored_messages`,
//!   `restored_incoming`, `known_receipts`, `checkpoint`
//! * `invariants` (for tests), `numbers` (a hash), `rare` (state that most have none of)

mod accept;
mod acknowledge;
mod aliases;
mod authorize;
mod away;
mod budget;
mod change;
mod charge;
mod checkpoint;
mod connect;
mod connection;
mod deliver;
mod delivery;
mod disconnect;
mod events;
mod fanout;
mod filters;
mod forward;
mod fullest;
mod gates;
mod handovers;
mod held;
mod in_flight;
mod invariants;
mod kept;
mod known_receipts;
mod lifecycle;
mod limits;
mod logging;
mod login;
mod measure;
mod note;
mod notice;
mod numbers;
mod output;
mod owed;
mod publish;
mod pump;
mod qos_2_records;
mod queue;
mod rare;
mod read_record;
mod record;
mod refusal;
mod remotes;
mod replay_turns;
mod replays;
mod restore;
mod restored_incoming;
mod restored_messages;
mod retained;
mod seek;
mod send;
mod session;
mod session_store;
mod sessions;
mod shared;
mod subscribe;
mod subscriptions;
mod sys;
mod timers;
mod tree;
mod wills;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::access::Access;
use super::admission::Address;
use super::lockout::Lockout;
use crate::metrics::Counter;
use crate::mqtt::{DecodeError, Packet, ReasonCode, Version};
use crate::route::RouteTable;
use away::Away;
use budget::Budget;
pub use change::Change;
use checkpoint::Checkpoint;
use connection::Connection;
use disconnect::TOO_MANY_LOGINS;
pub use events::{Input, Output};
use fullest::Fullest;
use gates::DurabilityGate;
use handovers::Receipts;
pub use held::ForwardAnswer;
use held::HeldMessages;
use kept::KeptMessages;
pub use lifecycle::Peer;
pub use limits::{BrokerLimits, QueueFull};
pub use note::{ClientNote, Noted, Terms};
use notice::Notices;
pub use notice::{Notice, NoticeKind};
use numbers::{ByNumber, NumberHash};
pub use output::OutputBuffer;
use record::{Clock, Records};
use refusal::Refusal;
use remotes::Remotes;
use replay_turns::ReplayTurns;
pub use restore::{LeftOut, Restore};
pub use restored_incoming::FoundHandovers;
use retained::Retained;
use session_store::SessionStore;
use subscriptions::Subscriptions;
pub use sys::Traffic;
use timers::{Timer, Timers};
use wills::LateWills;

/// One socket.
pub type ConnectionId = u64;
/// One message that a destination has not stored yet.
pub type Ticket = u64;
/// The log sequence number of a batch of records: later batches have larger ones; 0 is no batch.
pub type Lsn = u64;
type SessionKey = usize;

/// A client with a session: the connection that its packet came on, and that session.
#[derive(Debug, Clone, Copy)]
struct Client {
    connection: ConnectionId,
    session: SessionKey,
}

/// The parts of an engine.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Its limits.
    pub limits: BrokerLimits,
    /// Who gets messages beside local clients. Its commands are never retained, and only for those
    /// whose permission names them.
    pub routes: Arc<RouteTable>,
    /// Users and their permissions.
    pub access: Arc<Access>,
    /// Makes generated client identifiers and nonces unpredictable; must differ from run to run.
    pub secret: [u8; 32],
    /// True if records are written to a disk; without it nothing waits for one.
    pub is_durable: bool,
    /// Names the uplinks in records, in their order.
    pub remotes: Vec<u64>,
}

/// The state machine.
#[derive(Debug)]
pub struct Engine {
    limits: BrokerLimits,
    routes: Arc<RouteTable>,
    access: Arc<Access>,
    secret: [u8; 32],
    /// Boxed: the table has room for twice as many.
    connections: ByNumber<ConnectionId, Box<Connection>>,
    sessions: SessionStore,
    /// The bytes that they hold.
    budget: Budget,
    /// Those whose clients are away.
    away: Away,
    subscriptions: Subscriptions,
    retained: Retained,
    timers: Timers,
    held: HeldMessages,
    records: Records,
    gate: DurabilityGate,
    checkpoint: Option<Checkpoint>,
    replay_turns: ReplayTurns,
    /// Wills on their way to destinations.
    late_wills: LateWills,
    receipts: Receipts,
    /// The journal of this start was damaged: it may lack that clients have released messages.
    doubts_restored: bool,
    /// Messages of remote brokers.
    remotes: Remotes,
    /// The content of messages for sessions.
    kept: KeptMessages,
    /// Finds the queue that gives room when they are too many.
    fullest: Fullest,
    generated_ids: u64,
    /// Wrong passwords by address and a keyed hash of the user name.
    lockout: Lockout<(Address, [u8; 8])>,
    started: Instant,
    traffic: Traffic,
    /// Bytes from clients, counted where they arrive.
    bytes_received: Arc<Counter>,
    load: sys::Load,
    notices: Notices,
    outputs: Vec<Output>,
    /// Connections with bytes to write, in the order in which they got them.
    dirty: VecDeque<ConnectionId>,
    /// Reused by every message.
    scratch: deliver::Scratch,
}

impl Engine {
    /// An empty broker.
    pub fn new(setup: Setup, now: Instant, unix_ms: i64) -> Self {
        let Setup {
            limits,
            routes,
            access,
            secret,
            is_durable,
            remotes,
        } = setup;
        let retained = Retained::new(limits.max_retained, limits.max_retained_bytes);
        let mut timers = Timers::default();
        timers.set(now, Timer::Sys);
        let lockout = Lockout::new(limits.failed_logins);
        let budget = Budget::new(&limits);
        Self {
            limits,
            routes,
            access,
            secret,
            connections: ByNumber::default(),
            sessions: SessionStore::default(),
            budget,
            away: Away::default(),
            subscriptions: Subscriptions::default(),
            retained,
            timers,
            held: HeldMessages::default(),
            records: Records::new(is_durable, Clock { now, unix_ms }),
            gate: DurabilityGate::default(),
            checkpoint: None,
            replay_turns: ReplayTurns::default(),
            late_wills: LateWills::default(),
            receipts: Receipts::default(),
            doubts_restored: false,
            remotes: Remotes::new(remotes),
            kept: KeptMessages::default(),
            fullest: Fullest::default(),
            generated_ids: 0,
            lockout,
            started: now,
            traffic: Traffic::default(),
            bytes_received: Arc::default(),
            load: sys::Load::default(),
            notices: Notices::default(),
            outputs: Vec::new(),
            dirty: VecDeque::new(),
            scratch: deliver::Scratch::default(),
        }
    }

    /// Processes one input. Its outputs are collected for [`Engine::take_outputs`].
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Opened(connection, peer) => self.open(connection, peer, now),
            Input::Packet(connection, packet) => self.process_packet(connection, packet, now),
            Input::Invalid(connection, error) => self.reject(connection, error, now),
            Input::Closed(connection) => self.lost(connection, now),
            Input::Written(connection, bytes) => self.written(connection, bytes, now),
            Input::Publish(message) => self.accept(message, now),
            Input::Inbound {
                reply,
                message,
                exact,
            } => self.inbound(reply, message, exact, now),
            Input::Stored { ticket, answer } => self.stored(ticket, answer, now),
            Input::Verified(connection, is_right) => self.verified(connection, is_right, now),
            Input::Busy(connection) => self.refuse_connect(connection, TOO_MANY_LOGINS, now),
            Input::Durable(position) => self.durable(position, now),
        }
    }

    /// Runs the timers that are due. To be called at or after [`Engine::next_deadline`].
    pub fn tick(&mut self, now: Instant) {
        while let Some((due, timer)) = self.timers.next_due(now) {
            match timer {
                Timer::Connect(connection) => self.connect_timeout(connection, now),
                Timer::KeepAlive(connection) => self.check_keep_alive(connection, now),
                Timer::Will(session) => self.will_is_due(session, due, now),
                Timer::SessionExpiry(session) => self.session_expires(session, due, now),
                Timer::LateWill { number, refused } => {
                    self.offer_will_again(number, refused, now);
                }
                Timer::Sys if self.limits.sys_every.is_zero() => {}
                Timer::Sys => {
                    self.publish_sys(now);
                    self.timers.set(now + self.limits.sys_every, Timer::Sys);
                }
            }
        }
    }

    /// When [`Engine::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    /// Sets both clocks; records carry wall time.
    pub fn set_clock(&mut self, now: Instant, unix_ms: i64) {
        self.records.set_clock(Clock { now, unix_ms });
    }

    /// A message or a connection was dropped by the driver.
    pub fn count_dropped(&mut self) {
        self.traffic.dropped += 1;
    }

    /// The outputs so far, in order.
    pub fn take_outputs(&mut self) -> std::vec::Drain<'_, Output> {
        self.outputs.drain(..)
    }

    /// The next connection with bytes to write, and these.
    pub fn take_output(&mut self) -> Option<(ConnectionId, &mut OutputBuffer)> {
        while let Some(id) = self.dirty.pop_front() {
            if self.connections.contains_key(&id) {
                return self
                    .connections
                    .get_mut(&id)
                    .map(|connection| (id, connection.out.take_ready()));
            }
        }
        None
    }

    /// The records since the last call, to be made durable and answered with [`Input::Durable`];
    /// `None` if there are none.
    pub fn take_records(&mut self) -> Option<(Lsn, Bytes)> {
        self.records.take()
    }

    /// True if the engine knows a connection.
    pub fn has_connection(&self, id: ConnectionId) -> bool {
        self.connections.contains_key(&id)
    }

    /// True if a client or a remote broker waits for records to become durable.
    pub fn waits_for_disk(&self) -> bool {
        !self.gate.is_empty()
    }

    /// Processes a packet as its connection may send it: before its session, or within it.
    fn process_packet(&mut self, id: ConnectionId, packet: Packet, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.last_heard = now;
        let session = connection.session;
        self.traffic.packets_received += 1;
        let Some(session) = session else {
            return self.process_before_session(id, packet, now);
        };
        let client = Client {
            connection: id,
            session,
        };
        match packet {
            Packet::Publish(publish) => self.process_publish(client, publish, now),
            Packet::PubAck(ack) => self.process_puback(client, &ack, now),
            Packet::PubRec(ack) => self.process_pubrec(client, &ack, now),
            Packet::PubRel(ack) => self.process_pubrel(client, &ack, now),
            Packet::PubComp(ack) => self.process_pubcomp(client, &ack, now),
            Packet::Subscribe(subscribe) => self.process_subscribe(client, subscribe, now),
            Packet::Unsubscribe(unsubscribe) => self.process_unsubscribe(client, unsubscribe, now),
            Packet::PingReq => drop(self.send(id, &Packet::PingResp, 0)), // [MQTT-3.12.4-1]
            Packet::Disconnect(end) => self.process_disconnect(client, &end, now),
            Packet::Auth(auth) => self.process_auth(client, &auth, now),
            // A second CONNECT [MQTT-3.1.0-2], or a packet that only servers send.
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => self.refuse(id, ReasonCode::PROTOCOL_ERROR, now),
        }
        self.pace(id, now);
    }

    /// Answers bytes that are no packet.
    fn reject(&mut self, id: ConnectionId, error: DecodeError, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let DecodeError {
            reason,
            what,
            version,
        } = error;
        if connection.session.is_some() {
            self.refuse_because(id, Refusal::new(reason, what), now);
        } else if reason == ReasonCode::UNSUPPORTED_PROTOCOL_VERSION {
            connection.version = version.unwrap_or(Version::V311);
            let why = "this broker speaks MQTT 3.1, 3.1.1 and 5.0";
            self.refuse_connect(id, Refusal::new(reason, why), now);
        } else if version == Some(Version::V5) {
            connection.version = Version::V5;
            self.refuse_connect(id, Refusal::new(reason, what), now);
        } else {
            self.refuse_because(id, Refusal::new(reason, what), now);
        }
    }

    fn connection_of(&self, session: SessionKey) -> Option<ConnectionId> {
        self.sessions
            .get(session)
            .and_then(|session| session.connection)
    }
}
