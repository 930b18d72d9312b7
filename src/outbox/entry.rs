//! An outbox entry as bytes, with a version and a kind, so that the format can change while old
//! entries wait. Pure.
//!
//! ```text
//! version 2, or 1 | kind 1 | content
//! kind 0, a message: flags 1 (bits 0-1 QoS, bit 2 retain, bit 3 never twice, bit 4 a reading, bit 5 since boot,
//!                    bit 6 the clock was not set, bit 7 its rule has a rate) |
//!                    enqueued at, unix ms 8 | with bit 5: boot 4, ms since boot 8 |
//!                    topic length 2, topic | MQTT 5 properties, as on the wire | payload
//! kind 1, a frame of readings: not made by this version
//! kind 2, a dead letter: buried at, unix ms 8 | lane 1 | number 8 | reason length 2, reason | the message, with version and kind
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use crate::message::{Lane, SessionLost};
use crate::mqtt::{Place, Properties, QoS, TopicName, decode_properties, encode_properties};
use crate::payload::json;
use crate::reading::Timestamp;
use crate::time::SinceBoot;

/// Version 1 is the same without bits 4 to 6. Bit 7 came later: without it, and where it is not
/// known, a message waits for no rate.
const VERSION: u8 = 2;
const OLDEST: u8 = 1;
const KIND_MESSAGE: u8 = 0;
const KIND_FRAME: u8 = 1;
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
    /// The message.
    pub payload: Bytes,
    /// The payload is a reading in our JSON, whose time can be corrected.
    pub is_reading: bool,
    /// The `send` rule that took it has a rate, which it has to wait for.
    pub is_rated: bool,
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

fn put_text(text: &str, out: &mut BytesMut) {
    let text = text
        .get(..text.floor_char_boundary(usize::from(u16::MAX)))
        .unwrap_or_default();
    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.put_slice(text.as_bytes());
}

impl Content {
    /// From bytes; the content shares them.
    pub fn decode(mut bytes: Bytes) -> Result<Self, EntryError> {
        if !(OLDEST..=VERSION).contains(&bytes.try_get_u8().map_err(short)?) {
            return Err(EntryError("a version this program does not know"));
        }
        match bytes.try_get_u8().map_err(short)? {
            KIND_MESSAGE => Outgoing::decode_content(bytes).map(Self::Message),
            KIND_DEAD => DeadLetter::decode_content(bytes).map(|dead| Self::Dead(Box::new(dead))),
            KIND_FRAME => Err(EntryError(
                "a frame of readings, which a later version of this program made",
            )),
            _ => Err(EntryError("a kind this program does not know")),
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
        200 + self.topic.as_str().len() + self.payload.len() + user
    }

    /// Corrects its times if the clock was set since.
    pub fn put_right(&mut self, now: Timestamp) {
        let Some(step) = self.enqueued.set_by(now) else {
            return;
        };
        self.enqueued = self.enqueued.moved(step);
        if self.is_reading
            && let Some(payload) = json::moved(&self.payload, step)
        {
            self.payload = payload;
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
        let mut out = BytesMut::with_capacity(16 + self.topic.as_str().len() + self.payload.len());
        self.encode_into(&mut out);
        out.freeze()
    }

    fn encode_into(&self, out: &mut BytesMut) {
        let never_twice = u8::from(self.if_session_lost == SessionLost::Drop) << 3;
        let kind =
            u8::from(self.is_reading) << 4 | u8::from(self.enqueued.since_boot.is_some()) << 5;
        let kind = kind | u8::from(!self.enqueued.clock_set) << 6 | u8::from(self.is_rated) << 7;
        out.put_slice(&[
            VERSION,
            KIND_MESSAGE,
            self.qos as u8 | u8::from(self.retain) << 2 | never_twice | kind,
        ]);
        out.put_i64(self.enqueued.unix_ms);
        if let Some(SinceBoot { boot, ms }) = self.enqueued.since_boot {
            out.put_u32(boot);
            out.put_i64(ms);
        }
        put_text(self.topic.as_str(), out);
        encode_properties(&self.properties, out);
        out.put_slice(&self.payload);
    }

    fn decode_content(mut bytes: Bytes) -> Result<Self, EntryError> {
        let flags = bytes.try_get_u8().map_err(short)?;
        let mut enqueued = Timestamp::at(bytes.try_get_i64().map_err(short)?);
        enqueued.clock_set &= flags & 64 == 0;
        if flags & 32 != 0 {
            let boot = bytes.try_get_u32().map_err(short)?;
            enqueued.since_boot = Some(SinceBoot {
                boot,
                ms: bytes.try_get_i64().map_err(short)?,
            });
        }
        let topic =
            TopicName::new(text(&mut bytes)?).map_err(|_| EntryError("a topic that is none"))?;
        let properties = decode_properties(&mut bytes, Place::PUBLISH)
            .map_err(|_| EntryError("damaged properties"))?;
        let qos = QoS::from_bits(flags & 3).ok_or(EntryError("QoS 3"))?;
        let if_session_lost = if flags & 8 != 0 {
            SessionLost::Drop
        } else {
            SessionLost::Resend
        };
        let (is_reading, is_rated) = (flags & 16 != 0, flags & 128 != 0);
        Ok(Self {
            topic,
            qos,
            retain: flags & 4 != 0,
            if_session_lost,
            enqueued,
            properties,
            payload: bytes,
            is_reading,
            is_rated,
        })
    }
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
        match Content::decode(bytes)? {
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
    use super::*;
    use proptest::prelude::*;

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
            payload: Bytes::from_static(b"{\"v\":1}"),
            is_reading: false,
            is_rated: false,
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was_stored() {
        assert_eq!(
            Content::decode(sample().encode()),
            Ok(Content::Message(sample()))
        );
        let mut first_version = sample().encode().to_vec();
        first_version[0] = 1;
        assert_eq!(
            Content::decode(first_version.into()),
            Ok(Content::Message(sample()))
        );
        let rated = Outgoing {
            is_rated: true,
            ..sample()
        };
        assert_eq!(
            Content::decode(rated.encode()),
            Ok(Content::Message(rated.clone()))
        );
        // A version that does not know of rates reads it all the same.
        let mut without = rated.encode().to_vec();
        without[2] &= 0x7F;
        assert_eq!(without, sample().encode());
        let dead = DeadLetter {
            buried: Timestamp::at(5),
            lane: Lane::Backlog,
            seq: 9,
            reason: "too large".to_owned(),
            message: sample(),
        };
        assert_eq!(
            Content::decode(dead.encode()),
            Ok(Content::Dead(Box::new(dead)))
        );
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

    #[test]
    fn times_are_put_right_when_the_clock_is_set_even_over_a_restart_of_the_program() {
        let reading = |time: &str, more: &str| {
            Bytes::from(format!(r#"{{"v":1,"t":"{time}","q":"good"{more}}}"#))
        };
        let at = |unix_ms, ms| Timestamp {
            since_boot: Some(SinceBoot { boot: 7, ms }),
            ..Timestamp::at(unix_ms)
        };
        let payload = reading("1970-01-01T00:00:04.000Z", r#","clock":"unset""#);
        let stored = Outgoing {
            enqueued: at(5_000, 30_000),
            payload,
            is_reading: true,
            ..sample()
        };
        let Ok(Content::Message(mut message)) = Content::decode(stored.encode()) else {
            panic!("not a message")
        };
        assert_eq!(message, stored);
        // A plausible date proves nothing.
        let doubtful = Timestamp {
            clock_set: false,
            ..at(1_769_847_000_000, 30_000)
        };
        let stored_then = Outgoing {
            enqueued: doubtful,
            ..stored.clone()
        };
        assert_eq!(
            Content::decode(stored_then.encode()),
            Ok(Content::Message(stored_then))
        );
        // The clock is not set yet: nothing is known.
        message.put_right(at(6_000, 31_000));
        assert_eq!(message, stored);
        message.put_right(at(1_769_847_330_250, 60_000));
        let payload = reading("2026-01-31T08:14:59.250Z", "");
        assert_eq!(
            (message.enqueued, &message.payload),
            (at(1_769_847_300_250, 30_000), &payload)
        );
        // Once is enough, and what others have said is theirs.
        message.put_right(at(1_769_847_330_250, 60_000));
        assert_eq!(message.payload, payload);
        let mut other = Outgoing {
            is_reading: false,
            ..stored.clone()
        };
        other.put_right(at(1_769_847_330_250, 60_000));
        assert_eq!(
            (other.enqueued, other.payload),
            (at(1_769_847_300_250, 30_000), stored.payload)
        );
    }

    #[test]
    fn a_later_version_is_refused_not_misread() {
        let mut bytes = sample().encode().to_vec();
        bytes[0] = 3;
        assert!(Content::decode(bytes.clone().into()).is_err());
        bytes[..2].copy_from_slice(&[2, 1]);
        assert!(
            Content::decode(bytes.into())
                .unwrap_err()
                .to_string()
                .contains("later version")
        );
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
            let _ = Content::decode(bytes.clone().into());
            let dead = DeadLetter { buried: Timestamp::at(5), lane: Lane::Alarm, seq: 9, reason: String::new(), message: sample() };
            let mut dead = dead.encode().to_vec();
            dead.truncate(2 * cut);
            if let Some(byte) = dead.get_mut(2 * position) {
                *byte = value;
            }
            let _ = Content::decode(dead.into());
        }
    }
}
