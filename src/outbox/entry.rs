//! An outbox entry as bytes, with a version and a kind, so that the format can change while old
//! entries wait. Pure.
//!
//! ```text
//! version | kind 1 | content
//! kind 0, a message: flags 1 (bits 0-1 QoS, bit 2 retain, bit 3 never twice, bit 4 a reading, bit 5 since boot,
//!                    bit 6 the clock was not set, bit 7 its rule has a rate) | from version 4: its rule 4 |
//!                    enqueued at, unix ms 8 | with bit 5: boot 4, ms since boot 8 |
//!                    topic length 2, topic | MQTT 5 properties, as on the wire | payload
//!                    a reading: in our JSON, by a version before 3 or for a column that was not durable yet
//! kind 1, a reading: generation of the columns 4 | as in [`crate::payload::raw`], with the number of its column
//! kind 0, version 5, a reading whose column was not durable yet: its rule 4 | its local topic, length 2, topic |
//!                    the message, with version and kind
//! kind 2, a dead letter: buried at, unix ms 8 | lane 1 | number 8 | reason length 2, reason | the message, with version and kind
//! kind 3, a message that was handed over: its hand-over | the message, with version and kind
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::columns::{ColumnKey, ColumnPlace, ColumnTable, ColumnTraits};
use super::handed;
use super::{RatedRule, ReadingSource};
use crate::message::{Lane, SessionLost};
use crate::mqtt::{Place, Properties, QoS, TopicName, decode_properties, encode_properties};
use crate::payload::{Payload, json, raw};
use crate::reading::{PointId, Timestamp};
use crate::time::SinceBoot;

/// Version 1 is the same without bits 4 to 6. Bit 7 came later: without it, and where it is not
/// known, a message waits for no rate.
const VERSION: u8 = 2;
/// That of readings.
const VERSION_OF_READINGS: u8 = 3;
/// That of messages whose rule has a rate.
const VERSION_OF_RATED: u8 = 4;
/// That of readings with their source, which are stored as messages.
const VERSION_WITH_SOURCE: u8 = 5;
const OLDEST: u8 = 1;
const KIND_MESSAGE: u8 = 0;
const KIND_READING: u8 = 1;
const KIND_DEAD: u8 = 2;

/// A message on its way to the remote broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// The topic at the remote broker.
    pub topic: TopicName,
    /// The QoS it is sent with.
    pub qos: QoS,
    /// Whether the remote keeps it.
    pub retain: bool,
    /// Whether it is sent again when the remote has lost the session.
    pub if_session_lost: SessionLost,
    /// When it was appended to the outbox.
    pub enqueued: Timestamp,
    /// MQTT 5 properties; the expiry interval is the rest of it when the message was appended.
    pub properties: Properties,
    /// The message, or the reading that becomes one when it is sent.
    pub payload: Payload,
    /// The `send` rule that took it, if that has a rate, which it has to wait for.
    pub rated: Option<RatedRule>,
    /// Of a reading; `None` also for one that an early version queued.
    pub source: Option<ReadingSource>,
}

/// A message that the remote permanently refuses, kept for inspection.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// When it became a dead letter.
    pub buried: Timestamp,
    /// The lane it was in.
    pub lane: Lane,
    /// Its number there.
    pub seq: u64,
    /// The reason the remote gave.
    pub reason: String,
    /// The message.
    pub message: Outgoing,
}

/// The content of an entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A message that waits.
    Message(Outgoing),
    /// A dead letter.
    Dead(Box<DeadLetter>),
}

/// Why stored bytes are no entry. Ours: the entry is given up, counted and reported as a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry that cannot be read: {0}")]
pub struct EntryError(&'static str);

fn short(_: bytes::TryGetError) -> EntryError {
    EntryError("cut short")
}

/// Text with its length before it.
fn text(bytes: &mut Bytes) -> Result<ByteString, EntryError> {
    let length = usize::from(bytes.try_get_u16().map_err(short)?);
    if bytes.len() < length {
        return Err(EntryError("cut short"));
    }
    ByteString::try_from(bytes.split_to(length)).map_err(|_| EntryError("not text"))
}

fn topic(bytes: &mut Bytes) -> Result<TopicName, EntryError> {
    TopicName::new(text(bytes)?).map_err(|_| EntryError("a topic that is none"))
}

fn put_text(text: &str, out: &mut BytesMut) {
    let text = text
        .get(..text.floor_char_boundary(usize::from(u16::MAX)))
        .unwrap_or_default();
    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.put_slice(text.as_bytes());
}

impl Content {
    /// From bytes; the content shares them. Readings need the columns of their outbox.
    pub fn decode(mut bytes: Bytes, columns: &ColumnTable) -> Result<Self, EntryError> {
        handed::strip(&mut bytes).map_err(EntryError)?;
        let version = bytes.try_get_u8().map_err(short)?;
        let kind = bytes.try_get_u8().map_err(short)?;
        match (version, kind) {
            (OLDEST..=VERSION | VERSION_OF_RATED, KIND_MESSAGE) => {
                Outgoing::decode_content(bytes, version).map(Self::Message)
            }
            (OLDEST..=VERSION, KIND_DEAD) => {
                DeadLetter::decode_content(bytes).map(|dead| Self::Dead(Box::new(dead)))
            }
            (VERSION_WITH_SOURCE, KIND_MESSAGE) => {
                Outgoing::decode_with_source(bytes).map(Self::Message)
            }
            (VERSION_OF_READINGS, KIND_READING) => {
                Outgoing::decode_reading(bytes, columns).map(Self::Message)
            }
            _ => Err(EntryError("a version this program does not know")),
        }
    }
}

impl Outgoing {
    /// Bytes it takes in memory, about.
    pub fn weight(&self) -> usize {
        let user: usize = self
            .properties
            .user
            .iter()
            .map(|(name, value)| 64 + name.len() + value.len())
            .sum();
        200 + self.topic.as_str().len() + self.payload.weight() + user
    }

    /// What it has in common with other readings; `None` for one that is stored by itself.
    pub(super) fn column(&self) -> Option<ColumnKey<'_>> {
        let Payload::Reading(reading) = &self.payload else {
            return None;
        };
        self.properties.is_empty().then_some(ColumnKey {
            point: reading.point,
            topic: &self.topic,
            source: self.source.as_ref(),
            traits: ColumnTraits {
                qos: self.qos,
                retain: self.retain,
                if_session_lost: self.if_session_lost,
                rated: self.rated,
            },
        })
    }

    /// The message as it is sent, with these bytes for a payload.
    #[must_use]
    pub fn with_payload(&self, payload: Bytes) -> Self {
        Self {
            topic: self.topic.clone(),
            properties: self.properties.clone(),
            source: self.source.clone(),
            payload: Payload::Bytes(payload),
            ..*self
        }
    }

    /// How long it has waited, in milliseconds; `None` while a clock is or was not set.
    pub fn waited_ms(&self, now: Timestamp) -> Option<u64> {
        let is_known = self.enqueued.clock_set && now.clock_set;
        is_known.then(|| u64::try_from(now.unix_ms - self.enqueued.unix_ms).unwrap_or(0))
    }

    /// Takes the time it has waited off its expiry interval [MQTT-3.3.2-6]; false if nothing is
    /// left. Nothing ages while the clock is unset.
    pub fn age(&mut self, now: Timestamp) -> bool {
        let (Some(interval), Some(waited)) = (self.properties.message_expiry, self.waited_ms(now))
        else {
            return true;
        };
        let left = u64::from(interval).saturating_sub(waited / 1000);
        self.properties.edit().message_expiry = Some(u32::try_from(left).unwrap_or(interval));
        left > 0
    }

    /// As bytes.
    pub fn encode(&self) -> Bytes {
        let mut out =
            BytesMut::with_capacity(16 + self.topic.as_str().len() + self.payload.weight());
        self.encode_into(&mut out);
        out.freeze()
    }

    fn encode_into(&self, out: &mut BytesMut) {
        if let Some(source) = &self.source {
            out.put_slice(&[VERSION_WITH_SOURCE, KIND_MESSAGE]);
            out.put_u32(source.rule);
            put_text(source.topic.as_str(), out);
        }
        let never_twice = u8::from(self.if_session_lost == SessionLost::Drop) << 3;
        let is_reading = matches!(self.payload, Payload::Reading(_));
        let kind = u8::from(is_reading) << 4 | u8::from(self.enqueued.since_boot.is_some()) << 5;
        let is_rated = self.rated.is_some();
        let kind = kind | u8::from(!self.enqueued.clock_set) << 6 | u8::from(is_rated) << 7;
        let rule = self.rated.and_then(RatedRule::id);
        out.put_slice(&[
            rule.map_or(VERSION, |_| VERSION_OF_RATED),
            KIND_MESSAGE,
            self.qos as u8 | u8::from(self.retain) << 2 | never_twice | kind,
        ]);
        if let Some(rule) = rule {
            out.put_u32(rule);
        }
        out.put_i64(self.enqueued.unix_ms);
        if let Some(SinceBoot { boot, ms }) = self.enqueued.since_boot {
            out.put_u32(boot);
            out.put_i64(ms);
        }
        put_text(self.topic.as_str(), out);
        encode_properties(&self.properties, out);
        out.put_slice(&self.payload.encode());
    }

    /// As bytes that name its column, and its digits after the point; `None` if it is no reading.
    pub(super) fn encode_reading(&self, column: ColumnPlace) -> Option<(Bytes, u8)> {
        let Payload::Reading(reading) = &self.payload else {
            return None;
        };
        let mut out = BytesMut::with_capacity(64 + reading.weight());
        out.put_slice(&[VERSION_OF_READINGS, KIND_READING]);
        out.put_u32(column.generation);
        let place = raw::ColumnHint {
            column: PointId(column.number),
            digits: column.digits,
        };
        let digits = raw::put(reading, place, self.enqueued, &mut out);
        Some((out.freeze(), digits))
    }

    fn decode_reading(mut bytes: Bytes, columns: &ColumnTable) -> Result<Self, EntryError> {
        let generation = bytes.try_get_u32().map_err(short)?;
        let raw::QueuedReading { reading, queued } =
            raw::take(bytes).map_err(|_| EntryError("a damaged reading"))?;
        let column = columns
            .get(generation, reading.point.0)
            .ok_or(EntryError("a reading without its column"))?;
        Ok(Self {
            topic: column.topic.clone(),
            qos: column.traits.qos,
            retain: column.traits.retain,
            if_session_lost: column.traits.if_session_lost,
            enqueued: queued,
            properties: Properties::default(),
            payload: Payload::Reading(Box::new(reading)),
            rated: column.traits.rated,
            source: column.source.clone(),
        })
    }

    fn decode_with_source(mut bytes: Bytes) -> Result<Self, EntryError> {
        let rule = bytes.try_get_u32().map_err(short)?;
        let topic = topic(&mut bytes)?;
        let version = bytes.try_get_u8().map_err(short)?;
        let kind = bytes.try_get_u8().map_err(short)?;
        match (version, kind) {
            (OLDEST..=VERSION | VERSION_OF_RATED, KIND_MESSAGE) => Ok(Self {
                source: Some(ReadingSource { topic, rule }),
                ..Self::decode_content(bytes, version)?
            }),
            _ => Err(EntryError("a source of something unknown")),
        }
    }

    fn decode_content(mut bytes: Bytes, version: u8) -> Result<Self, EntryError> {
        let flags = bytes.try_get_u8().map_err(short)?;
        let rated = match (version, flags & 128) {
            (VERSION_OF_RATED, _) => Some(RatedRule::Known(bytes.try_get_u32().map_err(short)?)),
            (_, 0) => None,
            _ => Some(RatedRule::Unknown),
        };
        let mut enqueued = Timestamp::at(bytes.try_get_i64().map_err(short)?);
        enqueued.clock_set &= flags & 64 == 0;
        if flags & 32 != 0 {
            let boot = bytes.try_get_u32().map_err(short)?;
            enqueued.since_boot = Some(SinceBoot {
                boot,
                ms: bytes.try_get_i64().map_err(short)?,
            });
        }
        let topic = topic(&mut bytes)?;
        let properties = decode_properties(&mut bytes, Place::PUBLISH)
            .map_err(|_| EntryError("damaged properties"))?;
        let qos = QoS::from_bits(flags & 3).ok_or(EntryError("QoS 3"))?;
        let if_session_lost = if flags & 8 != 0 {
            SessionLost::Drop
        } else {
            SessionLost::Resend
        };
        let is_reading = flags & 16 != 0;
        Ok(Self {
            topic,
            qos,
            retain: flags & 4 != 0,
            if_session_lost,
            enqueued,
            properties,
            payload: if is_reading {
                reading_in(bytes, enqueued)
            } else {
                bytes.into()
            },
            rated,
            source: None,
        })
    }
}

/// The reading in a payload of our JSON. How long the machine ran when it was taken follows from
/// when it was queued.
fn reading_in(payload: Bytes, enqueued: Timestamp) -> Payload {
    let Some(mut reading) = json::decode(&payload) else {
        return payload.into();
    };
    // Early versions spelled a few small numbers in another way; they stay as they are.
    if reading.time.clock_set && json::encode(&reading) != payload {
        return payload.into();
    }
    let before = enqueued.unix_ms.wrapping_sub(reading.time.unix_ms);
    reading.time.since_boot = enqueued.since_boot.map(|SinceBoot { boot, ms }| SinceBoot {
        boot,
        ms: ms.wrapping_sub(before),
    });
    Payload::Reading(Box::new(reading))
}

impl DeadLetter {
    /// As bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64 + self.message.weight());
        out.put_slice(&[VERSION, KIND_DEAD]);
        out.put_i64(self.buried.unix_ms);
        out.put_u8(self.lane as u8);
        out.put_u64(self.seq);
        put_text(&self.reason, &mut out);
        self.message.encode_into(&mut out);
        out.freeze()
    }

    fn decode_content(mut bytes: Bytes) -> Result<Self, EntryError> {
        let buried = Timestamp::at(bytes.try_get_i64().map_err(short)?);
        let lane = match bytes.try_get_u8().map_err(short)? {
            0 => Lane::Alarm,
            1 => Lane::Live,
            2 => Lane::Backlog,
            _ => return Err(EntryError("a lane that is none")),
        };
        let seq = bytes.try_get_u64().map_err(short)?;
        let reason = text(&mut bytes)?.to_string();
        match Content::decode(bytes, &ColumnTable::default())? {
            Content::Message(message) => Ok(Self {
                buried,
                lane,
                seq,
                reason,
                message,
            }),
            Content::Dead(_) => Err(EntryError("a dead letter in a dead letter")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::columns::Column;
    use super::*;
    use crate::reading::{Quality, Reading, Value};
    use crate::store::Handover;
    use proptest::prelude::*;
    use std::time::Duration;

    fn decode(bytes: impl Into<Bytes>) -> Result<Content, EntryError> {
        Content::decode(bytes.into(), &ColumnTable::default())
    }

    fn sample() -> Outgoing {
        let mut properties = Properties::default();
        properties.edit().message_expiry = Some(60);
        properties.edit().user.push(("site".into(), "seven".into()));
        Outgoing {
            topic: TopicName::new("oilco/pump/flow").unwrap(),
            qos: QoS::AtLeastOnce,
            retain: true,
            if_session_lost: SessionLost::Drop,
            enqueued: Timestamp::at(1_769_847_330_250),
            properties,
            payload: Bytes::from_static(b"{\"v\":1}").into(),
            rated: None,
            source: None,
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was_stored() {
        assert_eq!(decode(sample().encode()), Ok(Content::Message(sample())));
        let mut first_version = sample().encode().to_vec();
        first_version[0] = 1;
        assert_eq!(decode(first_version), Ok(Content::Message(sample())));
        let rated = Outgoing {
            rated: Some(RatedRule::Known(7)),
            ..sample()
        };
        assert_eq!(decode(rated.encode()), Ok(Content::Message(rated.clone())));
        // A version before this one noted only that its rule has a rate.
        let mut before = sample().encode().to_vec();
        before[2] |= 128;
        let unknown = Outgoing {
            rated: Some(RatedRule::Unknown),
            ..sample()
        };
        assert_eq!(
            decode(before.clone()),
            Ok(Content::Message(unknown.clone()))
        );
        assert_eq!(unknown.encode(), before);
        let dead = DeadLetter {
            buried: Timestamp::at(5),
            lane: Lane::Backlog,
            seq: 9,
            reason: "too large".to_owned(),
            message: sample(),
        };
        assert_eq!(decode(dead.encode()), Ok(Content::Dead(Box::new(dead))));
    }

    #[test]
    fn a_message_that_was_handed_over_says_so_and_is_the_same() {
        let handover = Handover {
            source: 1 << 40,
            packet_id: 300,
            receipt: 7,
        };
        let bytes = handed::put_before(&sample().encode(), handover);
        assert_eq!(handed::handover(&bytes), Some(handover));
        assert_eq!(decode(bytes), Ok(Content::Message(sample())));
        assert_eq!(handed::handover(&sample().encode()), None);
        assert!(decode(vec![5, 3, 0x80]).is_err());
    }

    #[test]
    fn waiting_is_taken_off_the_expiry_unless_a_clock_was_not_set() {
        let after = |seconds: i64| Timestamp::at(sample().enqueued.unix_ms + 1000 * seconds);
        let mut message = sample();
        assert!(message.age(after(45)));
        assert_eq!(message.properties.message_expiry, Some(15));
        assert!(!sample().age(after(60)));
        assert!(
            Outgoing {
                enqueued: Timestamp::at(5),
                ..sample()
            }
            .age(after(60))
        );
    }

    fn at(unix_ms: i64, ms: i64) -> Timestamp {
        Timestamp {
            since_boot: Some(SinceBoot { boot: 7, ms }),
            ..Timestamp::at(unix_ms)
        }
    }

    /// What a message says in our JSON at the moment `now`.
    fn sent_at(message: &Outgoing, now: Timestamp) -> Bytes {
        match &message.payload {
            Payload::Bytes(bytes) => bytes.clone(),
            Payload::Reading(reading) => json::encode_at(reading, now),
        }
    }

    fn json(time: &str, more: &str) -> Bytes {
        Bytes::from(format!(r#"{{"v":1,"t":"{time}","q":"good"{more}}}"#))
    }

    /// An entry with a reading as an earlier version wrote it.
    fn early_reading(enqueued: Timestamp, payload: Bytes) -> Vec<u8> {
        let message = Outgoing {
            enqueued,
            payload: payload.into(),
            ..sample()
        };
        let mut bytes = message.encode().to_vec();
        bytes[2] |= 16;
        bytes
    }

    #[test]
    fn readings_of_an_earlier_version_are_sent_as_they_were_and_their_times_are_corrected() {
        let payload = json("1970-01-01T00:00:04.000Z", r#","clock":"unset""#);
        let stored = early_reading(at(5_000, 30_000), payload.clone());
        let Ok(Content::Message(message)) = decode(stored.clone()) else {
            panic!("not a message")
        };
        assert_eq!(message.payload.encode(), payload);
        assert_eq!(message.encode(), stored, "stored as it was");
        // The clock is not set yet: nothing is known.
        assert_eq!(sent_at(&message, at(6_000, 31_000)), payload);
        let right = json("2026-01-31T08:14:59.250Z", "");
        let now = at(1_769_847_330_250, 60_000);
        assert_eq!(sent_at(&message, now), right);
        assert_eq!(message.enqueued.corrected(now).unix_ms, 1_769_847_300_250);
        // A plausible date proves nothing.
        let doubtful = Timestamp {
            clock_set: false,
            ..at(1_769_847_000_000, 30_000)
        };
        let stored = early_reading(doubtful, json("2026-01-31T08:10:00.000Z", ""));
        let Ok(Content::Message(message)) = decode(stored) else {
            panic!("not a message")
        };
        assert_eq!(message.enqueued, doubtful);
        assert!(sent_at(&message, now) != message.payload.encode());
        // What others have said is theirs.
        let other = Outgoing {
            enqueued: at(5_000, 30_000),
            payload: payload.clone().into(),
            ..sample()
        };
        assert_eq!(sent_at(&other, now), payload);
        let strange = early_reading(at(5_000, 30_000), Bytes::from_static(b"21.5"));
        let Ok(Content::Message(message)) = decode(strange) else {
            panic!("not a message")
        };
        assert_eq!(message.payload, Bytes::from_static(b"21.5").into());
    }

    #[test]
    fn a_reading_names_its_column() {
        let reading = Reading {
            point: PointId(0),
            value: Some(Value::F64(229.4)),
            time: at(1_769_847_330_250, 60_000),
            quality: Quality::Good,
            age: Duration::ZERO,
        };
        let message = Outgoing {
            enqueued: reading.time,
            properties: Properties::default(),
            payload: Payload::Reading(Box::new(reading)),
            source: Some(ReadingSource {
                topic: TopicName::new("plant/pump/flow").unwrap(),
                rule: 7,
            }),
            ..sample()
        };
        let table = ColumnTable::of(5, vec![message.column().unwrap().column()]);
        let place = ColumnPlace {
            generation: 5,
            number: 0,
            digits: 0,
        };
        let (bytes, digits) = message.encode_reading(place).unwrap();
        assert_eq!(digits, 1);
        assert_eq!(
            Content::decode(bytes.clone(), &table),
            Ok(Content::Message(message.clone()))
        );
        assert_eq!(
            decode(bytes).unwrap_err(),
            EntryError("a reading without its column")
        );
        // A message with properties of its own is stored by itself, and so is any other.
        let with_properties = Outgoing {
            properties: sample().properties,
            ..message.clone()
        };
        assert!(with_properties.column().is_none());
        assert!(sample().column().is_none());
        // Before its column is durable it is stored as a message.
        let Ok(Content::Message(again)) = decode(message.encode()) else {
            panic!("not a message")
        };
        assert_eq!(again.payload.encode(), message.payload.encode());
        assert_eq!(again.source, message.source);
        let rated = Outgoing {
            rated: Some(RatedRule::Known(7)),
            ..message.clone()
        };
        let Ok(Content::Message(again)) = decode(rated.encode()) else {
            panic!("not a message")
        };
        assert_eq!((again.source, again.rated), (rated.source, rated.rated));
    }

    #[test]
    fn a_later_version_is_refused_not_misread() {
        let mut bytes = sample().encode().to_vec();
        for (version, kind) in [
            (3, 0),
            (6, 0),
            (5, 1),
            (4, 1),
            (2, 1),
            (3, 2),
            (4, 2),
            (2, 3),
        ] {
            bytes[..2].copy_from_slice(&[version, kind]);
            assert_eq!(
                decode(bytes.clone()).unwrap_err(),
                EntryError("a version this program does not know")
            );
        }
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn damaged_entries_never_panic(cut in 0_usize..60, position in 0_usize..60, value: u8) {
            let mut bytes = sample().encode().to_vec();
            bytes.truncate(cut);
            if let Some(byte) = bytes.get_mut(position) {
                *byte = value;
            }
            let _ = decode(bytes.clone());
            let dead = DeadLetter { buried: Timestamp::at(5), lane: Lane::Alarm, seq: 9, reason: String::new(), message: sample() };
            let mut dead = dead.encode().to_vec();
            dead.truncate(2 * cut);
            if let Some(byte) = dead.get_mut(2 * position) {
                *byte = value;
            }
            let _ = decode(dead);
            let source = Some(ReadingSource { topic: sample().topic, rule: 7 });
            let mut with_source = Outgoing { source, ..sample() }.encode().to_vec();
            with_source.truncate(2 * cut);
            if let Some(byte) = with_source.get_mut(2 * position) {
                *byte = value;
            }
            let _ = decode(with_source);
            let column = Column {
                topic: sample().topic,
                source: None,
                traits: ColumnTraits { qos: QoS::AtLeastOnce, retain: true, if_session_lost: SessionLost::Drop, rated: None },
            };
            let mut reading = vec![VERSION_OF_READINGS, KIND_READING, 0, 0, 0, 5];
            reading.resize(cut.max(6), value);
            let _ = Content::decode(reading.into(), &ColumnTable::of(5, vec![column]));
        }
    }
}
