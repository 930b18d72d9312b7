//! The broker's state machine: sessions, subscriptions, retained messages, wills. Pure: it gets inputs with the time, and returns
//! outputs; sockets, disks and clocks are its driver's.
//!
//! Invariants:
//! * A connection belongs to at most one session and a session has at most one connection.
//! * Whatever a peer sends, the outcome concerns that peer's connection only.
//! * What must survive is put into records, a batch a turn. Packets that promise something wait until the batch with what they
//!   promise is durable, and so do the answers behind them: acknowledgements never overtake each other, nor do messages.
//! * A PUBLISH at QoS 1 or 2 that a tap must get is acknowledged only after the tap said it is stored; acknowledgements leave in
//!   the order of their PUBLISH packets [MQTT-4.6.0-2].
//! * A connection is given PUBLISH packets while fewer than [`Limits::output_bytes`] bytes wait to be written; what does not fit waits
//!   in the session's bounded queue.
//!
//! One file per concern:
//! * what goes in and out: `events`, `send` (packets to clients), `output` (bytes), `note` and `notice` (lines for the log), `sys`
//! * clients: `connect` (CONNECT, takeover, ends), `login`, `connection`, `session`, `wills`, `change` (rights and taps while it runs)
//! * messages from clients: `publish`, `aliases`, `acknowledge` and `owed` (acknowledgements), `taps`
//! * messages to clients: `subscribe`, `subscriptions` and `tree` (who wants what), `shared` (members of a shared subscription),
//!   `deliver`, `fanout` (one message, written for many), `queue` and `in_flight` (what a session is to get), `fullest` (the fullest queue)
//! * retained messages: `retained`, `seek` (filters in sorted topics), `replays` (on their way to new subscriptions)
//! * bounds: `limits`, `budget`, `charge` and `filters` (what sessions may hold), `away` (who may have to go)
//! * what is durable: `record`, `read_record`, `restore`, `checkpoint`
//! * `invariants` (what tests check), `numbers` (a hash)

mod acknowledge;
mod aliases;
mod away;
mod budget;
mod change;
mod charge;
mod checkpoint;
mod connect;
mod connection;
mod deliver;
mod events;
mod fanout;
mod filters;
mod fullest;
mod in_flight;
mod invariants;
mod limits;
mod login;
mod note;
mod notice;
mod numbers;
mod output;
mod owed;
mod publish;
mod queue;
mod read_record;
mod record;
mod replays;
mod restore;
mod retained;
mod seek;
mod send;
mod session;
mod shared;
mod subscribe;
mod subscriptions;
mod sys;
mod taps;
mod tree;
mod wills;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use bytes::Bytes;
use bytestring::ByteString;
use slab::Slab;

use super::access::Access;
use super::admission::Address;
use super::lockout::Lockout;
use crate::mqtt::{DecodeError, Packet, ReasonCode, TopicName, Version};
use away::Away;
use budget::Budget;
pub use change::Change;
use checkpoint::Checkpoint;
use connection::Connection;
pub use connection::Peer;
pub use events::{Input, Output};
use fullest::Fullest;
pub use limits::{Limits, QueueFull};
pub use note::{Note, Noted, Terms};
use notice::Notices;
pub use notice::{Notice, NoticeKind};
use numbers::{ByNumber, NumberHash};
pub use output::OutputBuffer;
use record::Records;
use replays::ReplayTurns;
pub use restore::{LeftOut, Restore};
use retained::Retained;
use session::Session;
use subscriptions::Subscriptions;
pub use sys::Traffic;
use taps::{HeldFor, HeldMessage, Refusals, TAP_BITS, tap_bit};
pub use taps::{MOST_TAPS, Tap, TapAnswer};
use wills::LateWills;

/// One socket.
pub type ConnectionId = u64;
/// One message that a tap has not stored yet.
pub type Ticket = u64;
/// A batch of records; those of earlier turns have smaller ones.
pub type Position = u64;
type SessionKey = usize;

/// What an engine is made of.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// What it allows.
    pub limits: Limits,
    /// Who gets messages beside clients.
    pub taps: Vec<Tap>,
    /// Who may do what.
    pub access: Arc<Access>,
    /// Topics on which instruments are written to: never retained, and only for those whose permission names them.
    pub guarded: HashSet<TopicName>,
    /// Makes generated client identifiers and nonces unpredictable; must differ from run to run.
    pub secret: [u8; 32],
    /// True if records are written to a disk; without it nothing waits for one.
    pub is_durable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Connect(ConnectionId),
    KeepAlive(ConnectionId),
    Will(SessionKey),
    SessionExpiry(SessionKey),
    /// A will that some taps had no room for.
    LateWill {
        number: u64,
        refused: u64,
    },
    Sys,
}

/// The state machine.
#[derive(Debug)]
pub struct Engine {
    limits: Limits,
    taps: Vec<Tap>,
    access: Arc<Access>,
    guarded: HashSet<TopicName>,
    secret: [u8; 32],
    /// Boxed: a table has room for twice as many.
    connections: ByNumber<ConnectionId, Box<Connection>>,
    sessions: Slab<Session>,
    /// What they hold.
    budget: Budget,
    /// Those whose clients are away.
    away: Away,
    by_client: HashMap<ByteString, SessionKey>,
    subscriptions: Subscriptions,
    retained: Retained,
    timers: BTreeSet<(Instant, Timer)>,
    /// By their tickets without the bits of the tap.
    held: ByNumber<Ticket, HeldMessage>,
    next_ticket: Ticket,
    /// Inbound messages whose records are not durable.
    inbound: VecDeque<(Position, u64)>,
    records: Records,
    durable: Position,
    /// Connections with bytes that wait for a batch.
    gates: VecDeque<(Position, ConnectionId)>,
    checkpoint: Option<Checkpoint>,
    replay_turns: ReplayTurns,
    /// Wills on their way to taps.
    late_wills: LateWills,
    next_will: u64,
    next_message: u64,
    next_session: u64,
    /// Bytes of all messages that wait for sessions or are in flight to them, each counted once.
    queued_bytes: Arc<AtomicUsize>,
    /// Whose queue gives room when they are too many.
    fullest: Fullest,
    generated_ids: u64,
    /// Wrong passwords by address and a keyed hash of the user name.
    lockout: Lockout<(Address, [u8; 8])>,
    started: Instant,
    /// A moment on both clocks.
    clock: (Instant, i64),
    traffic: Traffic,
    load: sys::Load,
    notices: Notices,
    outputs: Vec<Output>,
    dirty: Vec<ConnectionId>,
    /// Reused by every message.
    scratch: deliver::Scratch,
}

impl Engine {
    /// An empty broker.
    pub fn new(setup: Setup, now: Instant, unix_ms: i64) -> Self {
        let Setup {
            limits,
            taps,
            access,
            guarded,
            secret,
            is_durable,
        } = setup;
        let retained = Retained::new(limits.max_retained, limits.max_retained_bytes);
        let timers = BTreeSet::from([(now, Timer::Sys)]);
        let lockout = Lockout::new(limits.failed_logins);
        assert!(
            taps.len() <= MOST_TAPS,
            "the configuration allows no more taps"
        );
        let budget = Budget::new(&limits);
        let mut subscriptions = Subscriptions::default();
        for (index, tap) in taps.iter().enumerate() {
            for filter in &tap.filters {
                subscriptions.tap(filter, index);
            }
        }
        Self {
            limits,
            taps,
            access,
            guarded,
            secret,
            connections: ByNumber::default(),
            sessions: Slab::new(),
            budget,
            away: Away::default(),
            by_client: HashMap::new(),
            subscriptions,
            retained,
            timers,
            held: ByNumber::default(),
            next_ticket: 0,
            inbound: VecDeque::new(),
            records: Records::new(is_durable),
            durable: 0,
            gates: VecDeque::new(),
            checkpoint: None,
            replay_turns: ReplayTurns::default(),
            late_wills: LateWills::default(),
            next_will: 0,
            next_message: 0,
            next_session: 0,
            queued_bytes: Arc::default(),
            fullest: Fullest::default(),
            generated_ids: 0,
            lockout,
            started: now,
            clock: (now, unix_ms),
            traffic: Traffic::default(),
            load: sys::Load::default(),
            notices: Notices::default(),
            outputs: Vec::new(),
            dirty: Vec::new(),
            scratch: deliver::Scratch::default(),
        }
    }

    /// Takes one input. Its outputs are collected for [`Engine::take_outputs`].
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Opened(connection, peer) => self.open(connection, peer, now),
            Input::Packet(connection, packet) => self.packet(connection, packet, now),
            Input::Invalid(connection, error) => self.reject(connection, error, now),
            Input::Closed(connection) => self.lost(connection, now),
            Input::Written(connection, bytes) => self.written(connection, bytes, now),
            Input::Publish(message) => drop(self.accept(message, None, now)),
            Input::Inbound(receipt, message) => self.inbound(receipt, message, now),
            Input::Stored { ticket, answer } => self.stored(ticket, answer, now),
            Input::Verified(connection, is_right) => self.verified(connection, is_right, now),
            Input::Busy(connection) => self.refuse_connect(
                connection,
                ReasonCode::SERVER_BUSY,
                "too many logins at a time",
                now,
            ),
            Input::Durable(position) => self.durable(position, now),
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
                Timer::LateWill { number, refused } => self.offer_will_again(number, refused),
                Timer::Sys if self.limits.sys_every.is_zero() => {}
                Timer::Sys => {
                    self.publish_sys(now);
                    self.timers
                        .insert((now + self.limits.sys_every, Timer::Sys));
                }
            }
        }
    }

    /// When [`Engine::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// What both clocks say; records carry wall time.
    pub fn set_clock(&mut self, now: Instant, unix_ms: i64) {
        self.clock = (now, unix_ms);
    }

    /// A message or a connection was dropped by the driver.
    pub fn count_dropped(&mut self) {
        self.traffic.dropped += 1;
    }

    /// The outputs so far, in order.
    pub fn take_outputs(&mut self) -> std::vec::Drain<'_, Output> {
        self.outputs.drain(..)
    }

    /// A connection that has bytes to write, and they.
    pub fn take_output(&mut self) -> Option<(ConnectionId, &mut OutputBuffer)> {
        while let Some(id) = self.dirty.pop() {
            if self.connections.contains_key(&id) {
                return self
                    .connections
                    .get_mut(&id)
                    .map(|connection| (id, connection.out.take_ready()));
            }
        }
        None
    }

    /// The records since the last call, to be made durable and told with [`Input::Durable`]; `None` if there are none.
    pub fn take_records(&mut self) -> Option<(Position, Bytes)> {
        self.records.take()
    }

    /// True if a connection is there, as far as the engine is concerned.
    pub fn has_connection(&self, id: ConnectionId) -> bool {
        self.connections.contains_key(&id)
    }

    /// True if somebody waits for records to become durable.
    pub fn waits_for_disk(&self) -> bool {
        !self.gates.is_empty() || !self.inbound.is_empty()
    }

    /// Ends every connection in order: MQTT 5 clients are told why.
    pub fn shut_down(&mut self, now: Instant) {
        let connections: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for connection in connections {
            self.refuse(connection, ReasonCode::SERVER_SHUTTING_DOWN, now);
        }
    }

    fn packet(&mut self, id: ConnectionId, packet: Packet, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.last_heard = now;
        let session = connection.session;
        self.traffic.packets_received += 1;
        match (packet, session) {
            (Packet::Publish(publish), Some(session)) => self.publish(id, session, publish, now),
            (Packet::PubAck(ack), Some(session)) => self.puback(id, session, &ack, now),
            (Packet::PubRec(ack), Some(session)) => self.pubrec(id, session, &ack, now),
            (Packet::PubRel(ack), Some(session)) => self.pubrel(id, session, &ack, now),
            (Packet::PubComp(ack), Some(session)) => self.pubcomp(id, session, &ack, now),
            (Packet::Subscribe(subscribe), Some(session)) => {
                self.subscribe(id, session, subscribe, now);
            }
            (Packet::Unsubscribe(unsubscribe), Some(session)) => {
                self.unsubscribe(id, session, unsubscribe, now);
            }
            (Packet::PingReq, Some(_)) => drop(self.send(id, &Packet::PingResp, 0)),
            (Packet::Disconnect(end), Some(session)) => self.disconnect(id, session, &end, now),
            (Packet::Auth(auth), Some(session)) => self.authenticate_again(id, session, &auth, now),
            // A second CONNECT [MQTT-3.1.0-2], packets only servers send.
            (_, Some(_)) => self.refuse(id, ReasonCode::PROTOCOL_ERROR, now),
            (packet, None) => return self.first_packets(id, packet, now),
        }
        self.pace(id, now);
    }

    /// Answers bytes that are no packet.
    fn reject(&mut self, id: ConnectionId, error: DecodeError, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if error.reason == ReasonCode::UNSUPPORTED_PROTOCOL_VERSION && connection.session.is_none()
        {
            connection.version = error.version.unwrap_or(Version::V311);
            self.refuse_connect(
                id,
                error.reason,
                "this broker speaks MQTT 3.1, 3.1.1 and 5.0",
                now,
            );
        } else if error.version == Some(Version::V5) && connection.session.is_none() {
            connection.version = Version::V5;
            self.refuse_connect(id, error.reason, error.what, now);
        } else {
            self.refuse_because(id, error.reason, error.what, now);
        }
    }

    fn connection_of(&self, session: SessionKey) -> Option<ConnectionId> {
        self.sessions
            .get(session)
            .and_then(|session| session.connection)
    }
}
