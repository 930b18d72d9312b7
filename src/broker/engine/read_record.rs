//! Records as they are read. `record` says how they are written.

use std::num::NonZeroU32;

use bytes::{Buf, Bytes};
use bytestring::ByteString;

use super::delivery::Subscription;
use super::qos_2_records::{InboundRecord, ReceivedRecord};
use super::record::{Clock, Deadline, SessionRecord, TargetRecord, WillRecord, kind};
use crate::message::{Class, Message, Origin};
use crate::mqtt::{
    PacketId, Place, QoS, RetainHandling, SubscribeOptions, TopicFilter, TopicName,
    decode_properties,
};

/// A step of a delivery to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeliveryStep {
    /// It was sent, and so was everything before it.
    Sent,
    /// The client has it.
    Released,
    /// It is over.
    Done,
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum RecordedChange {
    Session(SessionRecord),
    Gone {
        session: u64,
    },
    Subscribed {
        session: u64,
        filter: TopicFilter,
        subscription: Subscription,
    },
    Unsubscribed {
        session: u64,
        filter: TopicFilter,
    },
    Message {
        id: u64,
        retained: bool,
        message: Message,
        targets: Vec<TargetRecord>,
    },
    Queued {
        id: u64,
        targets: Vec<TargetRecord>,
    },
    Delivery {
        session: u64,
        number: u64,
        step: DeliveryStep,
    },
    Received(ReceivedRecord),
    Freed {
        session: u64,
        packet_id: PacketId,
    },
    Retained(Message),
    Will {
        session: u64,
        will: WillRecord,
    },
    NoWill {
        session: u64,
    },
    Replay {
        session: u64,
        filter: TopicFilter,
        after: Option<TopicName>,
    },
    ReplayDone {
        session: u64,
        filter: TopicFilter,
    },
    /// `None`: the destinations have it.
    LateWill {
        number: u64,
        message: Option<Message>,
    },
    Inbound(InboundRecord),
    Receipts {
        last: u64,
    },
}

fn number(bytes: &mut Bytes) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn some_bytes(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(number(bytes)?).ok()?;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

/// A copy: what is kept must not keep the batch.
fn text(bytes: &mut Bytes) -> Option<ByteString> {
    Some(ByteString::from(
        std::str::from_utf8(&some_bytes(bytes)?).ok()?,
    ))
}

fn filter(bytes: &mut Bytes) -> Option<TopicFilter> {
    TopicFilter::new(text(bytes)?).ok()
}

fn topic(bytes: &mut Bytes) -> Option<TopicName> {
    TopicName::new(text(bytes)?).ok()
}

#[allow(clippy::option_option)]
fn optional<T>(bytes: &mut Bytes, read: impl FnOnce(&mut Bytes) -> Option<T>) -> Option<Option<T>> {
    match bytes.try_get_u8().ok()? {
        0 => Some(None),
        _ => Some(Some(read(bytes)?)),
    }
}

fn deadline(bytes: &mut Bytes) -> Option<Deadline> {
    Some(Deadline {
        at_ms: bytes.try_get_i64().ok()?,
        left_ms: number(bytes)?,
    })
}

fn message(bytes: &mut Bytes, clock: Clock) -> Option<Message> {
    let flags = bytes.try_get_u8().ok()?;
    let (kind, index) = (bytes.try_get_u8().ok()?, number(bytes)?);
    let origin = match kind {
        0 => Origin::Field,
        1 => Origin::Client,
        2 => Origin::Own,
        _ => Origin::Uplink(u8::try_from(index).ok()?),
    };
    let topic = topic(bytes)?;
    // A copy: what is kept must not keep the batch.
    let payload = Bytes::copy_from_slice(&some_bytes(bytes)?);
    let properties = decode_properties(bytes, Place::PUBLISH).ok()?;
    let expires_at = optional(bytes, deadline)?.map(|deadline| deadline.from(clock));
    let (qos, retain) = (QoS::from_bits(flags & 3)?, flags & 4 != 0);
    Some(Message {
        topic,
        payload,
        qos,
        retain,
        properties,
        expires_at,
        origin,
        class: Class::default(),
        publisher: None,
    })
}

fn targets(bytes: &mut Bytes) -> Option<Vec<TargetRecord>> {
    let count = number(bytes)?;
    (0..count).map(|_| target(bytes)).collect()
}

fn target(bytes: &mut Bytes) -> Option<TargetRecord> {
    let (session, number_of_it) = (number(bytes)?, number(bytes)?);
    let flags = bytes.try_get_u8().ok()?;
    let count = number(bytes)?;
    let identifiers = (0..count)
        .map(|_| u32::try_from(number(bytes)?).ok().and_then(NonZeroU32::new))
        .collect::<Option<_>>()?;
    Some(TargetRecord {
        session,
        number: number_of_it,
        qos: QoS::from_bits(flags & 3)?,
        retain: flags & 4 != 0,
        was_sent: flags & 8 != 0,
        is_replay: flags & 16 != 0,
        identifiers,
        share: optional(bytes, filter)?,
    })
}

fn options(bytes: &mut Bytes) -> Option<SubscribeOptions> {
    let bits = bytes.try_get_u8().ok()?;
    let retain_handling = match bits >> 4 {
        0 => RetainHandling::Always,
        1 => RetainHandling::IfNew,
        _ => RetainHandling::Never,
    };
    let qos = QoS::from_bits(bits & 3)?;
    Some(SubscribeOptions {
        qos,
        no_local: bits & 4 != 0,
        retain_as_published: bits & 8 != 0,
        retain_handling,
    })
}

fn identifier(bytes: &mut Bytes) -> Option<PacketId> {
    u16::try_from(number(bytes)?).ok().and_then(PacketId::new)
}

fn session(session: u64, bytes: &mut Bytes) -> Option<SessionRecord> {
    Some(SessionRecord {
        number: session,
        client_id: text(bytes)?,
        user: optional(bytes, text)?,
        outlives_ms: optional(bytes, number)?,
        ends: optional(bytes, deadline)?,
        last_number: number(bytes)?,
    })
}

fn will(bytes: &mut Bytes, clock: Clock) -> Option<WillRecord> {
    Some(WillRecord {
        message: message(bytes, clock)?,
        delay_ms: number(bytes)?,
        expiry_ms: optional(bytes, number)?,
        due: optional(bytes, deadline)?,
    })
}

fn late_will(number: u64, message: Option<Message>) -> RecordedChange {
    RecordedChange::LateWill { number, message }
}

fn delivery(session: u64, step: DeliveryStep, bytes: &mut Bytes) -> Option<RecordedChange> {
    Some(RecordedChange::Delivery {
        session,
        number: number(bytes)?,
        step,
    })
}

fn subscription(bytes: &mut Bytes) -> Option<Subscription> {
    let options = options(bytes)?;
    let identifier = u32::try_from(number(bytes)?).ok().and_then(NonZeroU32::new);
    Some(Subscription::new(options, identifier))
}

/// The next record of a batch; `None` if it is damaged.
// A table in the order of the kinds: one arm a record.
pub(super) fn next_change(bytes: &mut Bytes, clock: Clock) -> Option<RecordedChange> {
    let found = bytes.try_get_u8().ok()?;
    if found == kind::RETAINED {
        return Some(RecordedChange::Retained(message(bytes, clock)?));
    }
    // Every other record begins with the number of a session, a message or a will.
    let first = number(bytes)?;
    Some(match found {
        kind::SESSION => RecordedChange::Session(session(first, bytes)?),
        kind::GONE => RecordedChange::Gone { session: first },
        kind::SUBSCRIBED => RecordedChange::Subscribed {
            session: first,
            filter: filter(bytes)?,
            subscription: subscription(bytes)?,
        },
        kind::UNSUBSCRIBED => RecordedChange::Unsubscribed {
            session: first,
            filter: filter(bytes)?,
        },
        kind::MESSAGE => RecordedChange::Message {
            id: first,
            retained: number(bytes)? != 0,
            message: message(bytes, clock)?,
            targets: targets(bytes)?,
        },
        kind::QUEUED => RecordedChange::Queued {
            id: first,
            targets: targets(bytes)?,
        },
        kind::SENT => delivery(first, DeliveryStep::Sent, bytes)?,
        kind::RELEASED => delivery(first, DeliveryStep::Released, bytes)?,
        kind::DONE => delivery(first, DeliveryStep::Done, bytes)?,
        kind::RECEIVED => RecordedChange::Received(ReceivedRecord::take(first, bytes)?),
        kind::FREED => RecordedChange::Freed {
            session: first,
            packet_id: identifier(bytes)?,
        },
        kind::WILL => RecordedChange::Will {
            session: first,
            will: will(bytes, clock)?,
        },
        kind::NO_WILL => RecordedChange::NoWill { session: first },
        kind::REPLAY => RecordedChange::Replay {
            session: first,
            filter: filter(bytes)?,
            after: optional(bytes, topic)?,
        },
        kind::REPLAY_DONE => RecordedChange::ReplayDone {
            session: first,
            filter: filter(bytes)?,
        },
        kind::LATE_WILL => late_will(first, Some(message(bytes, clock)?)),
        kind::WILL_STORED => late_will(first, None),
        kind::INBOUND => RecordedChange::Inbound(InboundRecord::take(first, bytes)?),
        kind::RECEIPTS => RecordedChange::Receipts { last: first },
        _ => return None,
    })
}
