//! One connection: what its client asked for, and the bytes on their way to it.
//!
//! Invariants:
//! * Answers leave in their order and so do messages, whether they wait for the disk or not.
//!   Nothing overtakes CONNACK, and no message SUBACK.
//! * What is owed for a message (its acknowledgement) is settled when its bytes may leave, not
//!   before.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use super::aliases::Aliases;
use super::lifecycle::{Claimed, Peer, Stage};
use super::output::OutputBuffer;
use super::owed::{HeldAck, OwedAcks};
use super::rare::{Rare, Shareable};
use super::{Lsn, SessionKey, Timer};
use crate::mqtt::{Connect, Packet, Properties, Version, encode};

/// The batch that bytes wait for, and the newest one that is durable.
#[derive(Debug, Clone, Copy)]
pub(super) struct DurabilityBarrier {
    pub(super) after: Lsn,
    pub(super) durable: Lsn,
}

/// Debts to the client that are settled when some bytes may leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// PUBLISH packets of the client that are acknowledged.
    pub(super) acks: usize,
    /// Their payload bytes.
    pub(super) bytes: usize,
    /// Messages that leave the client's window: PUBACK, PUBCOMP, or PUBREC with an error.
    pub(super) window: usize,
}

impl Settled {
    fn add(&mut self, other: Self) {
        self.acks += other.acks;
        self.bytes += other.bytes;
        self.window += other.window;
    }
}

/// Bytes that wait for a batch.
#[derive(Debug)]
struct Gate {
    after: Lsn,
    bytes: OutputBuffer,
    settles: Settled,
}

impl Shareable for VecDeque<Gate> {
    fn none() -> &'static Self {
        static NONE: VecDeque<Gate> = VecDeque::new();
        &NONE
    }
}

/// The two streams of packets to a client: a message to it never waits for an acknowledgement of
/// one from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputStream {
    /// Answers to what the client sent, and PUBREL.
    Answers,
    /// PUBLISH.
    Messages,
}

/// Bytes to one connection: those that may be written, and those that wait for the disk.
#[derive(Debug, Default)]
pub(super) struct ConnectionOutput {
    ready: OutputBuffer,
    answers: Rare<VecDeque<Gate>>,
    messages: Rare<VecDeque<Gate>>,
    /// The batch of the last gate that the engine does not know of.
    new_gate: Option<Lsn>,
    /// CONNACK waits for this batch: nothing overtakes it.
    greeting: Lsn,
    /// Bytes here and with the driver.
    pub(super) waiting: usize,
    /// Of these, answers: at most about as many.
    pub(super) answers_waiting: usize,
    is_dirty: bool,
}

impl ConnectionOutput {
    /// The buffer for bytes that wait for a batch; for batch 0 they wait for none.
    pub(super) fn buffer(
        &mut self,
        stream: OutputStream,
        barrier: DurabilityBarrier,
    ) -> &mut OutputBuffer {
        let after = if barrier.after <= barrier.durable {
            0
        } else {
            barrier.after
        };
        let gates = match stream {
            OutputStream::Answers => &mut self.answers,
            OutputStream::Messages => &mut self.messages,
        };
        let needs_gate = gates.back().map_or(after > 0, |gate| gate.after < after);
        if needs_gate {
            gates.push_back(Gate {
                after,
                bytes: OutputBuffer::default(),
                settles: Settled::default(),
            });
            self.new_gate = self.new_gate.max(Some(after));
        }
        let last = gates.known().and_then(VecDeque::back_mut);
        last.map_or(&mut self.ready, |gate| &mut gate.bytes)
    }

    /// Later messages wait for a batch, as the answer does that must come before them.
    pub(super) fn hold_messages(&mut self, barrier: DurabilityBarrier) {
        self.buffer(OutputStream::Messages, barrier);
    }

    /// The same for CONNACK.
    pub(super) fn greet(&mut self, barrier: DurabilityBarrier) {
        self.hold_messages(barrier);
        self.greeting = barrier.after;
    }

    /// True if CONNACK is, or will be, on its way.
    pub(super) fn is_greeted(&self, durable: Lsn) -> bool {
        self.greeting <= durable
    }

    /// The buffer for an answer that waits for nothing but CONNACK.
    pub(super) fn buffer_at_once(&mut self, durable: Lsn) -> &mut OutputBuffer {
        if self.is_greeted(durable) {
            &mut self.ready
        } else {
            self.buffer(
                OutputStream::Messages,
                DurabilityBarrier { after: 0, durable },
            )
        }
    }

    /// Notes bytes that were written to a buffer.
    pub(super) fn count(&mut self, bytes: usize) {
        self.waiting += bytes;
    }

    /// Adds to what is settled with the last answer; returns what is settled at once.
    fn settle_with_last(&mut self, settled: Settled) -> Settled {
        match self.answers.known().and_then(VecDeque::back_mut) {
            Some(gate) => {
                gate.settles.add(settled);
                Settled::default()
            }
            None => settled,
        }
    }

    /// The batch `position` is durable.
    pub(super) fn open(&mut self, position: Lsn) -> Settled {
        let mut settled = Settled::default();
        let lanes = [&mut self.answers, &mut self.messages];
        for lane in lanes.into_iter().filter_map(Rare::known) {
            while let Some(mut gate) = lane.pop_front_if(|gate| gate.after <= position) {
                self.ready.append(&mut gate.bytes);
                settled.add(gate.settles);
            }
        }
        settled
    }

    /// The debts that are settled when everything that waits for the disk may leave.
    fn gated(&self) -> Settled {
        let mut settled = Settled::default();
        self.answers
            .iter()
            .chain(&*self.messages)
            .for_each(|gate| settled.add(gate.settles));
        settled
    }

    /// Forgets what waits for the disk.
    pub(super) fn drop_gated(&mut self) {
        self.answers = Rare::default();
        self.messages = Rare::default();
        self.new_gate = None;
    }

    /// True once after bytes became ready.
    pub(super) fn becomes_dirty(&mut self) -> bool {
        let becomes = !self.is_dirty && !self.ready.is_empty();
        self.is_dirty |= becomes;
        becomes
    }

    /// The batch of the last gate that the engine does not know of, which then does.
    pub(super) fn take_new_gate(&mut self) -> Option<Lsn> {
        self.new_gate.take()
    }

    pub(super) fn take_ready(&mut self) -> &mut OutputBuffer {
        self.is_dirty = false;
        &mut self.ready
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    /// `None` until the login is done.
    pub(super) session: Option<SessionKey>,
    pub(super) peer: Peer,
    /// `None` before CONNECT, and again when there is a session.
    pub(super) claimed: Option<Box<Claimed>>,
    pub(super) stage: Stage,
    pub(super) version: Version,
    pub(super) last_heard: Instant,
    /// 1.5 times the keep alive [MQTT-3.1.2-22].
    pub(super) silence_allowed: Option<Duration>,
    /// It must not get back what it sent.
    pub(super) is_bridge: bool,
    /// The login was by a method that CONNECT named.
    pub(super) proved: bool,
    /// Messages in flight to the client, at most: as many as it wants, or fewer.
    pub(super) send_window: u16,
    /// The client's own limit.
    pub(super) max_packet: usize,
    /// The client wants reasons explained [MQTT-3.1.2-29].
    pub(super) explains: bool,
    pub(super) aliases: Option<Box<Aliases>>,
    pub(super) out: ConnectionOutput,
    pub(super) acks: Rare<OwedAcks>,
    /// PUBLISH packets whose first acknowledgement has not left, and the bytes of their payloads.
    pub(super) owed: usize,
    pub(super) owed_bytes: usize,
    /// QoS 1 and 2 messages of this connection that are not done with [MQTT-3.3.4-7].
    pub(super) window: usize,
    pub(super) is_paused: bool,
    pub(super) timer: Option<(Instant, Timer)>,
}

impl Connection {
    pub(super) fn new(peer: Peer, now: Instant) -> Self {
        Self {
            session: None,
            peer,
            claimed: None,
            stage: Stage::AwaitsConnect,
            version: Version::V311,
            last_heard: now,
            silence_allowed: None,
            is_bridge: false,
            proved: false,
            send_window: 0,
            max_packet: usize::MAX,
            explains: true,
            aliases: None,
            out: ConnectionOutput::default(),
            acks: Rare::default(),
            owed: 0,
            owed_bytes: 0,
            window: 0,
            is_paused: false,
            timer: None,
        }
    }

    /// The aliases of a client that uses some.
    pub(super) fn incoming_aliases(&mut self) -> &mut Aliases {
        self.aliases.get_or_insert_default()
    }

    /// True if messages to the client may carry topic aliases.
    pub(super) fn wants_aliases(&self) -> bool {
        self.aliases
            .as_ref()
            .is_some_and(|aliases| aliases.are_wanted())
    }

    /// Takes over the terms of CONNECT. The client gets at most `window` messages in flight, and
    /// `aliases` topic aliases.
    pub(super) fn apply_connect(&mut self, connect: &Connect, window: u16, aliases: u16) {
        let properties = &connect.properties;
        self.send_window = properties
            .receive_maximum
            .map_or(u16::MAX, NonZeroU16::get)
            .min(window);
        if aliases > 0 {
            self.aliases = Some(Box::new(Aliases::of_client(aliases)));
        }
        self.limit_answers(connect);
    }

    /// Takes over the terms of CONNECT for every packet to the client, a refusal included.
    pub(super) fn limit_answers(&mut self, connect: &Connect) {
        self.version = connect.version;
        self.is_bridge = connect.is_bridge;
        self.max_packet = connect
            .properties
            .maximum_packet_size
            .map_or(usize::MAX, |size| size.get() as usize);
        self.explains = connect.properties.request_problem_information != Some(false);
    }

    /// Writes a packet that waits for a batch; its length, or `None` if it cannot be made small
    /// enough for the client.
    pub(super) fn write(&mut self, packet: &Packet, barrier: DurabilityBarrier) -> Option<usize> {
        let (version, most, explains) = (self.version, self.max_packet, self.explains);
        let buffer = if matches!(packet, Packet::PingResp) {
            self.out.buffer_at_once(barrier.durable)
        } else {
            self.out.buffer(OutputStream::Answers, barrier)
        };
        let tail = buffer.tail();
        let start = tail.len();
        if explains || !is_explained(packet) {
            encode(packet, version, tail);
        } else {
            encode(&unexplained(packet), version, tail);
        }
        if tail.len() - start > most {
            let mut smaller = packet.clone();
            while tail.len() - start > most {
                tail.truncate(start);
                if !shrink(&mut smaller) {
                    return None;
                }
                encode(&smaller, version, tail);
            }
        }
        let length = tail.len() - start;
        self.out.count(length);
        self.out.answers_waiting += length;
        match packet {
            Packet::ConnAck(_) => self.out.greet(barrier),
            Packet::SubAck(_) => self.out.hold_messages(barrier),
            _ => {}
        }
        Some(length)
    }

    /// A PUBLISH is to be acknowledged.
    pub(super) fn owe(&mut self, ack: HeldAck) {
        self.owed += 1;
        self.owed_bytes += ack.bytes;
        self.acks.push(ack);
    }

    /// Settles something when the last answer may leave.
    pub(super) fn settle_with_last(&mut self, settled: Settled) {
        let at_once = self.out.settle_with_last(settled);
        self.settle(at_once);
    }

    /// Bytes may leave that settle something.
    pub(super) fn settle(&mut self, settled: Settled) {
        debug_assert!(
            settled.acks <= self.owed && settled.bytes <= self.owed_bytes,
            "what is settled was owed"
        );
        self.owed = self.owed.saturating_sub(settled.acks);
        self.owed_bytes = self.owed_bytes.saturating_sub(settled.bytes);
        self.window = self.window.saturating_sub(settled.window);
    }

    /// Panics if what is owed is not what waits for destinations and for the disk. For tests.
    pub(super) fn check_invariants(&self) {
        let gated = self.out.gated();
        let waiting: usize = self.acks.iter().map(|ack| ack.bytes).sum();
        self.acks.check_invariants();
        assert_eq!(
            self.owed,
            self.acks.iter().count() + gated.acks,
            "acknowledgements that are owed"
        );
        assert_eq!(
            self.owed_bytes,
            waiting + gated.bytes,
            "bytes of messages whose acknowledgements are owed"
        );
        self.aliases
            .iter()
            .for_each(|aliases| aliases.check_invariants());
    }
}

fn properties_of(packet: &mut Packet) -> Option<&mut Properties> {
    match packet {
        Packet::ConnAck(connack) => Some(&mut connack.properties),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            Some(&mut ack.properties)
        }
        Packet::SubAck(grants) | Packet::UnsubAck(grants) => Some(&mut grants.properties),
        Packet::Disconnect(end) | Packet::Auth(end) => Some(&mut end.properties),
        _ => None,
    }
}

/// True for a packet whose explanations the client can forbid, with any [MQTT-3.1.2-29].
fn is_explained(packet: &Packet) -> bool {
    match packet {
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            !ack.properties.is_empty()
        }
        Packet::SubAck(grants) | Packet::UnsubAck(grants) => !grants.properties.is_empty(),
        Packet::Auth(auth) => auth.properties.reason_string.is_some(),
        _ => false,
    }
}

fn unexplained(packet: &Packet) -> Packet {
    let mut plain = packet.clone();
    if let Some(properties) = properties_of(&mut plain) {
        let fields = properties.edit();
        fields.reason_string = None;
        fields.user.clear();
        if properties.is_empty() {
            *properties = Properties::default();
        }
    }
    plain
}

/// Takes the least important property off a packet; false if nothing is left that may go.
fn shrink(packet: &mut Packet) -> bool {
    let Some(properties) = properties_of(packet).filter(|properties| !properties.is_empty()) else {
        return false;
    };
    let fields = properties.edit();
    let went = fields.reason_string.take().is_some()
        || !std::mem::take(&mut fields.user).is_empty()
        || fields.response_information.take().is_some()
        || fields.topic_alias_maximum.take().is_some()
        || fields.maximum_packet_size.take().is_some();
    if properties.is_empty() {
        *properties = Properties::default();
    }
    went
}
