//! One undelivered message as bytes, with a version and a kind, so that formats can change while old entries wait. Pure.
//!
//! ```text
//! version 1 | kind 1 | flags 1 (bits 0-1 QoS, bit 2 retain) | enqueued at, unix ms 8 | topic length 2, topic |
//! MQTT 5 properties, as on the wire | payload
//! ```
//! Kind 0 is a message; other kinds are left to other contents.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use crate::mqtt::{Place, Properties, QoS, TopicName, decode_properties, encode_properties};
use crate::reading::Timestamp;

const VERSION: u8 = 1;
const KIND_MESSAGE: u8 = 0;

/// A message on its way to the remote broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// The topic at the remote broker.
    pub topic: TopicName,
    /// The QoS it is sent with.
    pub qos: QoS,
    /// Whether the remote keeps it.
    pub retain: bool,
    /// When it was handed to the outbox.
    pub enqueued: Timestamp,
    /// MQTT 5 properties; the expiry interval is what was left when it was handed over.
    pub properties: Properties,
    /// The message.
    pub payload: Bytes,
}

/// Why stored bytes are no entry. Ours: it is kept out of the way and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry that cannot be read: {0}")]
pub struct EntryError(&'static str);

impl Outgoing {
    /// Bytes it takes in memory, about.
    pub fn weight(&self) -> usize {
        let user: usize = self.properties.user.iter().map(|(name, value)| 64 + name.len() + value.len()).sum();
        200 + self.topic.as_str().len() + self.payload.len() + user
    }

    /// Takes the time it has waited off its expiry interval [MQTT-3.3.2-6]; false if nothing is left. Nothing ages while the
    /// clock is not set.
    pub fn age(&mut self, now: Timestamp) -> bool {
        let Some(interval) = self.properties.message_expiry else { return true };
        if !(self.enqueued.clock_set && now.clock_set) {
            return true;
        }
        let waited = u64::try_from(now.unix_ms - self.enqueued.unix_ms).unwrap_or(0) / 1000;
        let left = u64::from(interval).saturating_sub(waited);
        self.properties.edit().message_expiry = Some(u32::try_from(left).unwrap_or(interval));
        left > 0
    }

    /// As bytes.
    pub fn encode(&self) -> Bytes {
        let topic = self.topic.as_str().as_bytes();
        let mut out = BytesMut::with_capacity(14 + topic.len() + self.payload.len());
        out.put_slice(&[VERSION, KIND_MESSAGE, self.qos as u8 | u8::from(self.retain) << 2]);
        out.put_i64(self.enqueued.unix_ms);
        out.put_u16(u16::try_from(topic.len()).unwrap_or(u16::MAX));
        out.put_slice(topic);
        encode_properties(&self.properties, &mut out);
        out.put_slice(&self.payload);
        out.freeze()
    }

    /// From bytes; topic and payload share them.
    pub fn decode(mut bytes: Bytes) -> Result<Self, EntryError> {
        let short = |_| EntryError("cut short");
        if bytes.try_get_u8().map_err(short)? != VERSION {
            return Err(EntryError("a version this program does not know"));
        }
        if bytes.try_get_u8().map_err(short)? != KIND_MESSAGE {
            return Err(EntryError("a kind this program does not know"));
        }
        let flags = bytes.try_get_u8().map_err(short)?;
        let enqueued = Timestamp::at(bytes.try_get_i64().map_err(short)?);
        let length = usize::from(bytes.try_get_u16().map_err(short)?);
        if bytes.len() < length {
            return Err(EntryError("cut short"));
        }
        let text = ByteString::try_from(bytes.split_to(length)).map_err(|_| EntryError("a topic that is not text"))?;
        let topic = TopicName::new(text).map_err(|_| EntryError("a topic that is none"))?;
        let properties = decode_properties(&mut bytes, Place::PUBLISH).map_err(|_| EntryError("damaged properties"))?;
        let qos = QoS::from_bits(flags & 3).ok_or(EntryError("QoS 3"))?;
        Ok(Self { topic, qos, retain: flags & 4 != 0, enqueued, properties, payload: bytes })
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
            enqueued: Timestamp::at(1_769_847_330_250),
            properties,
            payload: Bytes::from_static(b"{\"v\":1}"),
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was_stored() {
        assert_eq!(Outgoing::decode(sample().encode()), Ok(sample()));
    }

    #[test]
    fn waiting_is_taken_off_the_expiry_unless_a_clock_was_not_set() {
        let after = |seconds: i64| Timestamp::at(sample().enqueued.unix_ms + 1000 * seconds);
        let mut message = sample();
        assert!(message.age(after(45)));
        assert_eq!(message.properties.message_expiry, Some(15));
        assert!(!sample().age(after(60)));
        assert!(Outgoing { enqueued: Timestamp::at(5), ..sample() }.age(after(60)));
    }

    #[test]
    fn a_later_version_is_refused_not_misread() {
        let mut bytes = sample().encode().to_vec();
        bytes[0] = 2;
        assert!(Outgoing::decode(bytes.into()).is_err());
    }

    proptest! {
        #[test]
        fn damaged_entries_never_panic(cut in 0_usize..60, position in 0_usize..60, value: u8) {
            let mut bytes = sample().encode().to_vec();
            bytes.truncate(cut);
            if let Some(byte) = bytes.get_mut(position) {
                *byte = value;
            }
            let _ = Outgoing::decode(bytes.into());
        }
    }
}
