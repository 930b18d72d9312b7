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
//! One file per concern: `events` (what goes in and out), `connect` (CONNECT, takeover, ends), `login` (who somebody is), `note` (what the log says of clients), `wills`, `publish` (incoming messages),
//! `acknowledge` (what is owed for them), `deliver` (outgoing), `fanout` (one message, written for many), `fullest` (the fullest queue), `notice` (what is to be logged), `subscribe`, `session`, `connection`, `output` (bytes),
//! `budget`, `charge` and `filters` (what sessions may hold), `aliases`,
//! `subscriptions` and `tree` (who wants what), `queue` and `in_flight` (what a session is to get), `invariants` (what tests check), `retained`, `shared` (members of a shared subscription), `seek` (filters in sorted topics), `sys` (`$SYS`), `record` (what is durable), `restore` and `checkpoint`, `change` (rights and taps while it runs).

mod acknowledge;
mod aliases;
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
mod output;
mod publish;
mod queue;
mod record;
mod restore;
mod retained;
mod seek;
mod session;
mod shared;
mod subscribe;
mod subscriptions;
mod sys;
mod tree;
mod wills;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use bytes::Bytes;
use bytestring::ByteString;
use slab::Slab;

use super::access::Access;
use super::admission::Address;
use super::lockout::Lockout;
use crate::message::Origin;
use crate::mqtt::{DecodeError, Disconnect, Packet, PacketId, ReasonCode, TopicFilter, TopicName, Version};
use budget::Budget;
pub use change::Change;
use checkpoint::Checkpoint;
use connection::Connection;
pub use connection::Peer;
pub use events::{Input, Output};
use fullest::Fullest;
pub use limits::{Limits, QueueFull};
pub use note::{Note, Noted};
use notice::Notices;
pub use notice::{Notice, NoticeKind};
pub use output::OutputBuffer;
use record::Records;
pub use restore::{LeftOut, Restore};
use retained::Retained;
use session::Session;
use subscriptions::Subscriptions;
pub use sys::Traffic;
use wills::LateWills;

/// One socket.
pub type ConnectionId = u64;
/// One message that a tap has not stored yet.
pub type Ticket = u64;
/// A batch of records; those of earlier turns have smaller ones.
pub type Position = u64;
type SessionKey = usize;

/// A consumer inside the gateway that stores the messages of some topics: an outbox.
#[derive(Debug, Clone)]
pub struct Tap {
    /// The topics it wants.
    pub filters: Vec<TopicFilter>,
    /// Messages from there are not for it, so that nothing goes round in circles.
    pub not_from: Origin,
}

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

#[derive(Debug)]
struct HeldMessage {
    /// Who waits for the taps.
    from: HeldFor,
    /// Those that have not answered, a bit each.
    waiting: u64,
    /// Those that could not take it.
    refused: u64,
}

/// Which tap of a message a ticket is for.
const TAP_BITS: u32 = 6;

/// Taps that an engine may have: each has a bit of its own.
pub const MOST_TAPS: usize = 1 << TAP_BITS;

/// The bit of a tap.
fn tap_bit(tap: usize) -> u64 {
    debug_assert!(tap < MOST_TAPS, "every tap has a bit of its own");
    1 << tap.min(MOST_TAPS - 1)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeldFor {
    Session { key: SessionKey, packet_id: PacketId, is_qos_2: bool },
    Inbound { receipt: u64, after: Position },
    Will { number: u64 },
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

/// Hashes the small numbers that connections and packets have.
#[derive(Debug, Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(u64::from(number));
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type NumberHash = BuildHasherDefault<NumberHasher>;
type ByNumber<K, V> = HashMap<K, V, NumberHash>;

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
    replays: VecDeque<subscribe::Replay>,
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
        let Setup { limits, taps, access, guarded, secret, is_durable } = setup;
        let retained = Retained::new(limits.max_retained, limits.max_retained_bytes);
        let timers = BTreeSet::from([(now, Timer::Sys)]);
        let lockout = Lockout::new(limits.failed_logins);
        assert!(taps.len() <= MOST_TAPS, "the configuration allows no more taps");
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
            replays: VecDeque::new(),
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
            Input::Stored { ticket, accepted } => self.stored(ticket, accepted, now),
            Input::Verified(connection, is_right) => self.verified(connection, is_right, now),
            Input::Busy(connection) => self.refuse_connect(connection, ReasonCode::SERVER_BUSY, "too many logins at a time", now),
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
                    self.timers.insert((now + self.limits.sys_every, Timer::Sys));
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
                return self.connections.get_mut(&id).map(|connection| (id, connection.out.take_ready()));
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
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.last_heard = now;
        let session = connection.session;
        self.traffic.packets_received += 1;
        match (packet, session) {
            (Packet::Publish(publish), Some(session)) => self.publish(id, session, publish, now),
            (Packet::PubAck(ack), Some(session)) => self.puback(id, session, &ack, now),
            (Packet::PubRec(ack), Some(session)) => self.pubrec(id, session, &ack, now),
            (Packet::PubRel(ack), Some(session)) => self.pubrel(id, session, &ack, now),
            (Packet::PubComp(ack), Some(session)) => self.pubcomp(id, session, &ack, now),
            (Packet::Subscribe(subscribe), Some(session)) => self.subscribe(id, session, subscribe, now),
            (Packet::Unsubscribe(unsubscribe), Some(session)) => self.unsubscribe(id, session, unsubscribe, now),
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
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if error.reason == ReasonCode::UNSUPPORTED_PROTOCOL_VERSION && connection.session.is_none() {
            connection.version = error.version.unwrap_or(Version::V311);
            self.refuse_connect(id, error.reason, "this broker speaks MQTT 3.1, 3.1.1 and 5.0", now);
        } else if error.version == Some(Version::V5) && connection.session.is_none() {
            connection.version = Version::V5;
            self.refuse_connect(id, error.reason, error.what, now);
        } else {
            self.refuse_because(id, error.reason, error.what, now);
        }
    }

    /// Ends a connection for a fault of its peer.
    fn refuse(&mut self, id: ConnectionId, reason: ReasonCode, now: Instant) {
        self.refuse_because(id, reason, reason.name(), now);
    }

    /// The same, with a sentence for a person.
    fn refuse_because(&mut self, id: ConnectionId, reason: ReasonCode, why: &'static str, now: Instant) {
        self.say_goodbye(id, reason, why);
        self.close(id, connect::End::Lost, now);
    }

    /// DISCONNECT from a server exists in MQTT 5 only, and only after CONNECT. What still waits for the disk is not sent any more.
    fn say_goodbye(&mut self, id: ConnectionId, reason: ReasonCode, why: &'static str) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let what = if connection.session.is_some() { Noted::Dropped } else { Noted::Refused };
        if reason != ReasonCode::SERVER_SHUTTING_DOWN {
            self.note(id, what, reason, why);
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        // [MQTT-3.14.0-1]
        let is_greeted = connection.session.is_some() && connection.out.is_greeted(self.durable);
        if connection.version == Version::V5 && is_greeted {
            let mut end = Disconnect::new(reason);
            end.properties.edit().reason_string = Some(ByteString::from_static(why));
            connection.out.drop_gated();
            self.send(id, &Packet::Disconnect(end), 0);
        }
    }

    /// Writes a packet when the batch `after` is durable; 0 is at once. False if it is more than the client takes.
    fn send(&mut self, id: ConnectionId, packet: &Packet, after: Position) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        match connection.write(packet, after, self.durable) {
            Some(length) => {
                self.traffic.packets_sent += 1;
                self.traffic.bytes_sent += length as u64;
                self.mark(id);
                true
            }
            // Not even without everything optional it is as small as the client wants [MQTT-3.1.2-24].
            None => {
                self.traffic.dropped += 1;
                false
            }
        }
    }

    /// Notes that a connection got bytes to write, now or when a batch is durable.
    fn mark(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.out.becomes_dirty() {
            self.dirty.push(id);
        }
        if let Some(position) = connection.out.take_new_gate() {
            self.gates.push_back((position, id));
        }
    }

    /// Records are durable: what waited for them goes out.
    fn durable(&mut self, position: Position, now: Instant) {
        self.durable = self.durable.max(position);
        while let Some((_, id)) = self.gates.pop_front_if(|(gate, _)| *gate <= position) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let opened = connection.out.open(position);
            connection.settle(opened);
            self.mark(id);
            self.pace(id, now);
        }
        while let Some((_, receipt)) = self.inbound.pop_front_if(|(gate, _)| *gate <= position) {
            self.outputs.push(Output::Safe(receipt));
        }
    }

    fn connection_of(&self, session: SessionKey) -> Option<ConnectionId> {
        self.sessions.get(session).and_then(|session| session.connection)
    }
}
