//! The state that survives the broker, as bytes: a journal of changes, a batch a turn.
//!
//! ```text
//! record   = kind 1 | fields; numbers are LEB128, texts and bytes have their length before them
//! deadline = wall time in ms | ms that were left: what counts after a restart depends on whether the clocks can be trusted
//! message  = flags | origin | topic | payload | properties | deadline
//! ```
//!
//! Invariants: a batch is applied whole or not at all; a record of a session that is not known any
//! more changes nothing. `read_record` reads what is written here.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::Lsn;
use super::delivery::Delivery;
use super::qos_2_records::{InboundRecord, ReceivedRecord};
use crate::message::{Message, Origin};
use crate::mqtt::{
    PacketId, QoS, RetainHandling, SubscribeOptions, TopicFilter, TopicName, encode_properties,
};

/// The first byte of a record.
pub(super) mod kind {
    pub(in super::super) const SESSION: u8 = 1;
    pub(in super::super) const GONE: u8 = 2;
    pub(in super::super) const SUBSCRIBED: u8 = 3;
    pub(in super::super) const UNSUBSCRIBED: u8 = 4;
    pub(in super::super) const MESSAGE: u8 = 5;
    pub(in super::super) const QUEUED: u8 = 6;
    pub(in super::super) const SENT: u8 = 7;
    pub(in super::super) const RELEASED: u8 = 8;
    pub(in super::super) const DONE: u8 = 9;
    pub(in super::super) const RECEIVED: u8 = 10;
    pub(in super::super) const FREED: u8 = 11;
    pub(in super::super) const RETAINED: u8 = 12;
    pub(in super::super) const WILL: u8 = 13;
    pub(in super::super) const NO_WILL: u8 = 14;
    pub(in super::super) const REPLAY: u8 = 15;
    pub(in super::super) const REPLAY_DONE: u8 = 16;
    pub(in super::super) const LATE_WILL: u8 = 17;
    pub(in super::super) const WILL_STORED: u8 = 18;
    pub(in super::super) const INBOUND: u8 = 19;
    pub(in super::super) const RECEIPTS: u8 = 20;
}

/// One moment, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) now: Instant,
    /// Wall time.
    pub(super) unix_ms: i64,
}

/// A moment as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deadline {
    /// Wall time.
    pub(super) at_ms: i64,
    /// From when it was written.
    pub(super) left_ms: u64,
}

impl Deadline {
    pub(super) fn of(at: Instant, clock: Clock) -> Self {
        let Clock { now, unix_ms } = clock;
        let left_ms =
            u64::try_from(at.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX);
        Self {
            at_ms: unix_ms.saturating_add(i64::try_from(left_ms).unwrap_or(i64::MAX)),
            left_ms,
        }
    }

    /// The moment after a restart. Without a clock that was set, both when it was written and now,
    /// no time has passed.
    pub(super) fn from(self, clock: Clock) -> Instant {
        let Clock { now, unix_ms } = clock;
        let written_ms = self
            .at_ms
            .saturating_sub(i64::try_from(self.left_ms).unwrap_or(i64::MAX));
        let is_known = crate::time::is_plausible(written_ms) && crate::time::is_plausible(unix_ms);
        let left = if is_known {
            u64::try_from(self.at_ms - unix_ms)
                .unwrap_or(0)
                .min(self.left_ms)
        } else {
            self.left_ms
        };
        now + Duration::from_millis(left.min(u64::from(u32::MAX) * 1000))
    }
}

/// A delivery of a message to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TargetRecord {
    pub(super) session: u64,
    pub(super) number: u64,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) was_sent: bool,
    /// A retained message for a new subscription.
    pub(super) is_replay: bool,
    pub(super) identifiers: Box<[NonZeroU32]>,
    pub(super) share: Option<TopicFilter>,
}

impl TargetRecord {
    pub(super) fn of(session: u64, delivery: &Delivery, was_sent: bool) -> Self {
        Self {
            session,
            number: delivery.number,
            qos: delivery.qos,
            retain: delivery.retain,
            was_sent,
            is_replay: delivery.is_replay,
            identifiers: delivery.grounds.identifiers().into(),
            share: delivery.grounds.share().map(|filter| (**filter).clone()),
        }
    }
}

/// A session as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SessionRecord {
    pub(super) number: u64,
    pub(super) client_id: ByteString,
    pub(super) user: Option<ByteString>,
    /// How long it outlives its connection; `None` is for ever.
    pub(super) outlives_ms: Option<u64>,
    /// When it ends; `None` while its client is connected.
    pub(super) ends: Option<Deadline>,
    pub(super) last_number: u64,
}

/// A will as it is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WillRecord {
    pub(super) message: Message,
    pub(super) delay_ms: u64,
    pub(super) expiry_ms: Option<u64>,
    /// When it is due; `None` while its client is connected.
    pub(super) due: Option<Deadline>,
}

/// A change of the state that survives the broker.
#[derive(Debug, Clone, Copy)]
pub(super) enum Record<'a> {
    Session(&'a SessionRecord),
    Gone {
        session: u64,
    },
    Subscribed {
        session: u64,
        filter: &'a TopicFilter,
        options: SubscribeOptions,
        identifier: Option<NonZeroU32>,
    },
    Unsubscribed {
        session: u64,
        filter: &'a TopicFilter,
    },
    Message {
        id: u64,
        retained: bool,
        message: &'a Message,
        targets: &'a [TargetRecord],
    },
    /// More deliveries of a message that is in the records.
    Queued {
        id: u64,
        targets: &'a [TargetRecord],
    },
    Sent {
        session: u64,
        number: u64,
    },
    Released {
        session: u64,
        number: u64,
    },
    Done {
        session: u64,
        number: u64,
    },
    /// A QoS 2 message of a client.
    Received(ReceivedRecord),
    Freed {
        session: u64,
        packet_id: PacketId,
    },
    /// An empty payload: the topic has none any more.
    Retained(&'a Message),
    Will {
        session: u64,
        will: &'a WillRecord,
    },
    NoWill {
        session: u64,
    },
    /// Retained messages are still to come for a subscription: those behind a topic, or all.
    Replay {
        session: u64,
        filter: &'a TopicFilter,
        after: Option<&'a TopicName>,
    },
    /// They have all come.
    ReplayDone {
        session: u64,
        filter: &'a TopicFilter,
    },
    /// A published will that destinations may not have.
    LateWill {
        number: u64,
        message: &'a Message,
    },
    /// They have it.
    WillStored {
        number: u64,
    },
    /// A QoS 2 message of a remote.
    Inbound(InboundRecord),
    /// Receipts were drawn up to this one.
    Receipts {
        last: u64,
    },
}

/// The records of the turn.
#[derive(Debug)]
pub(super) struct Records {
    is_on: bool,
    clock: Clock,
    batch: BytesMut,
    /// The number of the last batch that was taken.
    last: Lsn,
}

impl Records {
    pub(super) fn new(is_on: bool, clock: Clock) -> Self {
        Self {
            is_on,
            clock,
            batch: BytesMut::new(),
            last: 0,
        }
    }

    /// True if anything is recorded at all.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// A moment on both clocks; records carry wall time.
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    pub(super) fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Adds a record; returns the batch it is in, 0 if nothing is recorded.
    pub(super) fn put(&mut self, record: Record<'_>) -> Lsn {
        if !self.is_on {
            return 0;
        }
        put_record(&mut self.batch, record, self.clock);
        self.last + 1
    }

    /// The batch the next record will be in; 0 if nothing is recorded.
    pub(super) fn next_position(&self) -> Lsn {
        if self.is_on { self.last + 1 } else { 0 }
    }

    /// The batch of the newest record.
    pub(super) fn newest(&self) -> Lsn {
        if self.batch.is_empty() {
            self.last
        } else {
            self.last + 1
        }
    }

    /// Bytes in the batch.
    pub(super) fn len(&self) -> usize {
        self.batch.len()
    }

    /// The batch of everything recorded since it had `len` bytes; 0 if nothing was.
    pub(super) fn since(&self, len: usize) -> Lsn {
        if self.batch.len() > len {
            self.next_position()
        } else {
            0
        }
    }

    /// The batch, if anything is in it.
    pub(super) fn take(&mut self) -> Option<(Lsn, Bytes)> {
        if self.batch.is_empty() {
            return None;
        }
        self.last += 1;
        Some((self.last, self.batch.split().freeze()))
    }
}

fn put_number(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(u8::try_from(number & 0x7F).unwrap_or(0x7F) | 0x80);
        number >>= 7;
    }
    out.put_u8(u8::try_from(number).unwrap_or(0x7F));
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_text(out: &mut BytesMut, text: &str) {
    put_bytes(out, text.as_bytes());
}

fn put_optional<T>(out: &mut BytesMut, value: Option<T>, put: impl FnOnce(&mut BytesMut, T)) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn put_deadline(out: &mut BytesMut, deadline: Deadline) {
    out.put_i64(deadline.at_ms);
    put_number(out, deadline.left_ms);
}

fn put_message(out: &mut BytesMut, message: &Message, clock: Clock) {
    out.put_u8(message.qos as u8 | u8::from(message.retain) << 2);
    let (kind, index) = match message.origin {
        Origin::Field => (0, 0),
        Origin::Client => (1, 0),
        Origin::Own => (2, 0),
        Origin::Uplink(index) => (3, index),
    };
    out.put_u8(kind);
    put_number(out, u64::from(index));
    put_text(out, message.topic.as_str());
    put_bytes(out, &message.payload);
    encode_properties(&message.properties, out);
    put_optional(out, message.expires_at, |out, at| {
        put_deadline(out, Deadline::of(at, clock));
    });
}

fn put_targets(out: &mut BytesMut, targets: &[TargetRecord]) {
    put_number(out, targets.len() as u64);
    for target in targets {
        put_number(out, target.session);
        put_number(out, target.number);
        let flags = u8::from(target.retain) << 2
            | u8::from(target.was_sent) << 3
            | u8::from(target.is_replay) << 4;
        out.put_u8(target.qos as u8 | flags);
        put_number(out, target.identifiers.len() as u64);
        for id in &target.identifiers {
            put_number(out, u64::from(id.get()));
        }
        put_optional(out, target.share.as_ref(), |out, filter| {
            put_text(out, filter.as_str());
        });
    }
}

fn put_options(out: &mut BytesMut, options: SubscribeOptions) {
    let handling = match options.retain_handling {
        RetainHandling::Always => 0,
        RetainHandling::IfNew => 1,
        RetainHandling::Never => 2,
    };
    out.put_u8(
        options.qos as u8
            | u8::from(options.no_local) << 2
            | u8::from(options.retain_as_published) << 3
            | handling << 4,
    );
}

/// The kind of a record, and the number of its session or message.
fn put_head(out: &mut BytesMut, kind: u8, number: u64) {
    out.put_u8(kind);
    put_number(out, number);
}

fn put_pair(out: &mut BytesMut, kind: u8, one: u64, other: u64) {
    put_head(out, kind, one);
    put_number(out, other);
}

fn put_filter(out: &mut BytesMut, kind: u8, session: u64, filter: &TopicFilter) {
    put_head(out, kind, session);
    put_text(out, filter.as_str());
}

fn put_session(out: &mut BytesMut, session: &SessionRecord) {
    put_head(out, kind::SESSION, session.number);
    put_text(out, &session.client_id);
    put_optional(out, session.user.as_deref(), put_text);
    put_optional(out, session.outlives_ms, put_number);
    put_optional(out, session.ends, put_deadline);
    put_number(out, session.last_number);
}

fn put_will(out: &mut BytesMut, session: u64, will: &WillRecord, clock: Clock) {
    put_head(out, kind::WILL, session);
    put_message(out, &will.message, clock);
    put_number(out, will.delay_ms);
    put_optional(out, will.expiry_ms, put_number);
    put_optional(out, will.due, put_deadline);
}

fn put_late_will(out: &mut BytesMut, number: u64, message: &Message, clock: Clock) {
    put_head(out, kind::LATE_WILL, number);
    put_message(out, message, clock);
}

// A table in the order of the kinds: one arm a record.
fn put_record(out: &mut BytesMut, record: Record<'_>, clock: Clock) {
    match record {
        Record::Session(session) => put_session(out, session),
        Record::Gone { session } => put_head(out, kind::GONE, session),
        Record::Subscribed {
            session,
            filter,
            options,
            identifier,
        } => {
            put_filter(out, kind::SUBSCRIBED, session, filter);
            put_options(out, options);
            put_number(out, identifier.map_or(0, |id| u64::from(id.get())));
        }
        Record::Unsubscribed { session, filter } => {
            put_filter(out, kind::UNSUBSCRIBED, session, filter);
        }
        Record::Message {
            id,
            retained,
            message,
            targets,
        } => {
            put_pair(out, kind::MESSAGE, id, u64::from(retained));
            put_message(out, message, clock);
            put_targets(out, targets);
        }
        Record::Queued { id, targets } => {
            put_head(out, kind::QUEUED, id);
            put_targets(out, targets);
        }
        Record::Sent { session, number } => put_pair(out, kind::SENT, session, number),
        Record::Released { session, number } => put_pair(out, kind::RELEASED, session, number),
        Record::Done { session, number } => put_pair(out, kind::DONE, session, number),
        Record::Received(received) => {
            put_head(out, kind::RECEIVED, received.session);
            received.put(out);
        }
        Record::Freed { session, packet_id } => {
            put_pair(out, kind::FREED, session, u64::from(packet_id.get()));
        }
        Record::Retained(message) => {
            out.put_u8(kind::RETAINED);
            put_message(out, message, clock);
        }
        Record::Will { session, will } => put_will(out, session, will, clock),
        Record::NoWill { session } => put_head(out, kind::NO_WILL, session),
        Record::Replay {
            session,
            filter,
            after,
        } => {
            put_filter(out, kind::REPLAY, session, filter);
            put_optional(out, after, |out, topic| put_text(out, topic.as_str()));
        }
        Record::ReplayDone { session, filter } => {
            put_filter(out, kind::REPLAY_DONE, session, filter);
        }
        Record::LateWill { number, message } => put_late_will(out, number, message, clock),
        Record::WillStored { number } => put_head(out, kind::WILL_STORED, number),
        Record::Inbound(inbound) => {
            put_head(out, kind::INBOUND, inbound.source);
            inbound.put(out);
        }
        Record::Receipts { last } => put_head(out, kind::RECEIPTS, last),
    }
}
