//! MQTT 5 properties: their fields, the packets that may have them, and their encoding [MQTT 5.0,
//! 2.2.2].
//!
//! Invariants: a decoded property was allowed in its packet and, unless the standard lets it
//! repeat, stood there once. A packet without properties costs one pointer.

use std::num::{NonZeroU16, NonZeroU32};
use std::ops::Deref;
use std::sync::LazyLock;

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::wire::{
    DecodeError, Reader, malformed, protocol_error, put_binary, put_text, put_varint, varint_len,
};
use super::{ReasonCode, TopicName};

/// The properties of one packet; dereferences to [`Fields`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Properties(Option<Box<Fields>>);

/// Every property of MQTT 5; `None` or empty means absent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fields {
    /// 0x01: the payload is UTF-8 text.
    pub payload_is_text: Option<bool>,
    /// 0x02: seconds.
    pub message_expiry: Option<u32>,
    /// 0x03
    pub content_type: Option<ByteString>,
    /// 0x08
    pub response_topic: Option<TopicName>,
    /// 0x09
    pub correlation_data: Option<Bytes>,
    /// 0x0B; several only in a PUBLISH to a client.
    pub subscription_identifiers: Vec<NonZeroU32>,
    /// 0x11: seconds; `u32::MAX` is "never".
    pub session_expiry: Option<u32>,
    /// 0x12
    pub assigned_client_id: Option<ByteString>,
    /// 0x13: seconds.
    pub server_keep_alive: Option<u16>,
    /// 0x15
    pub authentication_method: Option<ByteString>,
    /// 0x16
    pub authentication_data: Option<Bytes>,
    /// 0x17
    pub request_problem_information: Option<bool>,
    /// 0x18: seconds.
    pub will_delay: Option<u32>,
    /// 0x19
    pub request_response_information: Option<bool>,
    /// 0x1A
    pub response_information: Option<ByteString>,
    /// 0x1C
    pub server_reference: Option<ByteString>,
    /// 0x1F
    pub reason_string: Option<ByteString>,
    /// 0x21
    pub receive_maximum: Option<NonZeroU16>,
    /// 0x22
    pub topic_alias_maximum: Option<u16>,
    /// 0x23
    pub topic_alias: Option<NonZeroU16>,
    /// 0x24: false is QoS 0, true is QoS 1.
    pub maximum_qos_is_1: Option<bool>,
    /// 0x25
    pub retain_available: Option<bool>,
    /// 0x26, in order.
    pub user: Vec<(ByteString, ByteString)>,
    /// 0x27: bytes.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// 0x28
    pub wildcards_available: Option<bool>,
    /// 0x29
    pub subscription_identifiers_available: Option<bool>,
    /// 0x2A
    pub shared_subscriptions_available: Option<bool>,
}

static NONE: LazyLock<Fields> = LazyLock::new(Fields::default);

impl Deref for Properties {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        self.0.as_deref().unwrap_or(&NONE)
    }
}

/// Bytes of the allocator for a text, besides the text, about.
const ALLOCATION: usize = 16;

impl Properties {
    /// For changing them; allocates at the first use.
    pub fn edit(&mut self) -> &mut Fields {
        self.0.get_or_insert_with(Box::default)
    }

    /// Bytes they take in memory, about.
    pub fn weight(&self) -> usize {
        let Some(fields) = self.0.as_deref() else {
            return 0;
        };
        let user: usize = fields
            .user
            .iter()
            .map(|(name, value)| {
                2 * (size_of::<ByteString>() + ALLOCATION) + name.len() + value.len()
            })
            .sum();
        let data = fields.correlation_data.as_ref().map_or(0, Bytes::len);
        let topic = fields
            .response_topic
            .as_ref()
            .map_or(0, |topic| topic.as_str().len());
        size_of::<Fields>()
            + user
            + data
            + topic
            + fields.content_type.as_ref().map_or(0, |text| text.len())
    }

    /// A copy of what travels with a message, with memory of its own.
    #[must_use]
    pub fn detached(&self) -> Self {
        let Some(fields) = self.0.as_deref() else {
            return Self(None);
        };
        let text = |text: &ByteString| ByteString::from(&**text);
        let mut copy = fields.clone();
        copy.content_type = fields.content_type.as_ref().map(text);
        copy.response_topic = fields.response_topic.as_ref().map(TopicName::detached);
        copy.correlation_data = fields
            .correlation_data
            .as_ref()
            .map(|data| Bytes::copy_from_slice(data));
        copy.user = fields
            .user
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect();
        Self(Some(Box::new(copy)))
    }

    /// True if none was ever set.
    pub(super) fn is_absent(&self) -> bool {
        self.0.is_none()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.as_deref().is_none_or(|fields| *fields == *NONE)
    }
}

/// The packet that properties are in: its type in the fixed header; 0 is the will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(pub(super) u8);

impl Place {
    /// The properties of a will in CONNECT.
    pub const WILL: Self = Self(0);
    /// The properties of PUBLISH.
    pub const PUBLISH: Self = Self(3);
}

const WILL: u16 = 1;
const CONNECT: u16 = 1 << 1;
const CONNACK: u16 = 1 << 2;
const PUBLISH: u16 = 1 << 3;
const ACKS: u16 = 0b1111 << 4;
const SUBSCRIBE: u16 = 1 << 8;
const SUBACK: u16 = 1 << 9;
const UNSUBACK: u16 = 1 << 11;
const DISCONNECT: u16 = 1 << 14;
const AUTH: u16 = 1 << 15;
const EVERYWHERE: u16 = WILL
    | CONNECT
    | CONNACK
    | PUBLISH
    | ACKS
    | SUBSCRIBE
    | SUBACK
    | (1 << 10)
    | UNSUBACK
    | DISCONNECT
    | AUTH;

/// The packets that may have property `id`, as bits by packet type; 0 for unknown identifiers [MQTT
/// 5.0, table 2-4].
fn allowed_places(id: u32) -> u16 {
    match id {
        0x01 | 0x02 | 0x03 | 0x08 | 0x09 => PUBLISH | WILL,
        0x0B => PUBLISH | SUBSCRIBE,
        0x11 => CONNECT | CONNACK | DISCONNECT,
        0x12 | 0x13 | 0x1A | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => CONNACK,
        0x15 | 0x16 => CONNECT | CONNACK | AUTH,
        0x17 | 0x19 => CONNECT,
        0x18 => WILL,
        0x1C => CONNACK | DISCONNECT,
        0x1F => CONNACK | ACKS | SUBACK | UNSUBACK | DISCONNECT | AUTH,
        0x21 | 0x22 | 0x27 => CONNECT | CONNACK,
        0x23 => PUBLISH,
        0x26 => EVERYWHERE,
        _ => 0,
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), DecodeError> {
    if slot.is_some() {
        return Err(protocol_error("a property stands twice"));
    }
    *slot = Some(value);
    Ok(())
}

/// Reads a property section: its length, then the properties.
pub fn decode_properties(bytes: &mut Bytes, place: Place) -> Result<Properties, DecodeError> {
    let mut reader = Reader::new(std::mem::take(bytes));
    let properties = read_properties(&mut reader, place)?;
    *bytes = reader.rest();
    Ok(properties)
}

pub(super) fn read_properties(
    reader: &mut Reader,
    place: Place,
) -> Result<Properties, DecodeError> {
    let length = reader.varint()? as usize;
    if length == 0 {
        return Ok(Properties::default());
    }
    let mut section = Reader::new(reader.take(length)?);
    let mut properties = Properties::default();
    let fields = properties.edit();
    while !section.is_empty() {
        let id = section.varint()?;
        if allowed_places(id) & (1 << place.0) == 0 {
            return Err(malformed("a property that may not stand in this packet"));
        }
        read_property(fields, id, &mut section)?;
        if place == Place(8) && fields.subscription_identifiers.len() > 1 {
            return Err(protocol_error("a property stands twice"));
        }
    }
    Ok(properties)
}

// A table in the order of the identifiers: one arm a property [MQTT 5.0, table 2-4].
fn read_property(fields: &mut Fields, id: u32, section: &mut Reader) -> Result<(), DecodeError> {
    match id {
        0x01 => once(&mut fields.payload_is_text, section.truth()?),
        0x02 => once(&mut fields.message_expiry, section.u32()?),
        0x03 => once(&mut fields.content_type, section.text()?),
        0x08 => {
            let name = TopicName::new(section.text()?)
                .map_err(|_| protocol_error("the response topic is not a topic name"))?;
            once(&mut fields.response_topic, name)
        }
        0x09 => once(&mut fields.correlation_data, section.binary()?),
        0x0B => {
            let id = NonZeroU32::new(section.varint()?)
                .ok_or(protocol_error("subscription identifier 0"))?;
            fields.subscription_identifiers.push(id);
            Ok(())
        }
        0x11 => once(&mut fields.session_expiry, section.u32()?),
        0x12 => once(&mut fields.assigned_client_id, section.text()?),
        0x13 => once(&mut fields.server_keep_alive, section.u16()?),
        0x15 => once(&mut fields.authentication_method, section.text()?),
        0x16 => once(&mut fields.authentication_data, section.binary()?),
        0x17 => once(&mut fields.request_problem_information, section.truth()?),
        0x18 => once(&mut fields.will_delay, section.u32()?),
        0x19 => once(&mut fields.request_response_information, section.truth()?),
        0x1A => once(&mut fields.response_information, section.text()?),
        0x1C => once(&mut fields.server_reference, section.text()?),
        0x1F => once(&mut fields.reason_string, section.text()?),
        0x21 => {
            let maximum =
                NonZeroU16::new(section.u16()?).ok_or(protocol_error("receive maximum 0"))?;
            once(&mut fields.receive_maximum, maximum)
        }
        0x22 => once(&mut fields.topic_alias_maximum, section.u16()?),
        0x23 => {
            let zero = DecodeError::new(ReasonCode::TOPIC_ALIAS_INVALID, "topic alias 0");
            let alias = NonZeroU16::new(section.u16()?).ok_or(zero)?;
            once(&mut fields.topic_alias, alias)
        }
        0x24 => once(&mut fields.maximum_qos_is_1, section.truth()?),
        0x25 => once(&mut fields.retain_available, section.truth()?),
        0x26 => {
            let pair = (section.text()?, section.text()?);
            fields.user.push(pair);
            Ok(())
        }
        0x27 => {
            let size =
                NonZeroU32::new(section.u32()?).ok_or(protocol_error("maximum packet size 0"))?;
            once(&mut fields.maximum_packet_size, size)
        }
        0x28 => once(&mut fields.wildcards_available, section.truth()?),
        0x29 => once(
            &mut fields.subscription_identifiers_available,
            section.truth()?,
        ),
        0x2A => once(&mut fields.shared_subscriptions_available, section.truth()?),
        _ => Err(malformed("an unknown property")),
    }
}

/// The properties of one delivery, beside those of the message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras<'a> {
    /// 0x02: seconds that are left.
    pub message_expiry: Option<u32>,
    /// 0x23
    pub topic_alias: Option<NonZeroU16>,
    /// 0x0B
    pub subscription_identifiers: &'a [NonZeroU32],
}

impl Extras<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.message_expiry.is_none()
            && self.topic_alias.is_none()
            && self.subscription_identifiers.is_empty()
    }

    fn write(&self, out: &mut BytesMut) {
        if let Some(seconds) = self.message_expiry {
            out.put_u8(0x02);
            out.put_u32(seconds);
        }
        if let Some(alias) = self.topic_alias {
            out.put_u8(0x23);
            out.put_u16(alias.get());
        }
        for id in self.subscription_identifiers {
            out.put_u8(0x0B);
            put_varint(out, id.get() as usize);
        }
    }
}

/// Appends the length and the properties to `out`.
pub fn encode_properties(properties: &Properties, out: &mut BytesMut) {
    encode_with(properties, Extras::default(), out);
}

/// Appends the length, the properties of a delivery and those of its message to `out`.
pub(super) fn encode_with(properties: &Properties, extras: Extras<'_>, out: &mut BytesMut) {
    if properties.is_absent() && extras.is_empty() {
        out.put_u8(0);
        return;
    }
    let mut section = BytesMut::new();
    extras.write(&mut section);
    if let Some(fields) = properties.0.as_deref() {
        write_numbers(fields, &mut section);
        write_texts(fields, &mut section);
    }
    out.reserve(section.len() + varint_len(section.len()));
    put_varint(out, section.len());
    out.extend_from_slice(&section);
}

fn write_numbers(fields: &Fields, out: &mut BytesMut) {
    let bools = [
        (0x01, fields.payload_is_text),
        (0x17, fields.request_problem_information),
        (0x19, fields.request_response_information),
        (0x24, fields.maximum_qos_is_1),
        (0x25, fields.retain_available),
        (0x28, fields.wildcards_available),
        (0x29, fields.subscription_identifiers_available),
        (0x2A, fields.shared_subscriptions_available),
    ];
    for (id, value) in bools {
        if let Some(value) = value {
            out.put_slice(&[id, u8::from(value)]);
        }
    }
    let shorts = [
        (0x13, fields.server_keep_alive),
        (0x21, fields.receive_maximum.map(NonZeroU16::get)),
        (0x22, fields.topic_alias_maximum),
        (0x23, fields.topic_alias.map(NonZeroU16::get)),
    ];
    for (id, value) in shorts {
        if let Some(value) = value {
            out.put_u8(id);
            out.put_u16(value);
        }
    }
    let longs = [
        (0x02, fields.message_expiry),
        (0x11, fields.session_expiry),
        (0x18, fields.will_delay),
        (0x27, fields.maximum_packet_size.map(NonZeroU32::get)),
    ];
    for (id, value) in longs {
        if let Some(value) = value {
            out.put_u8(id);
            out.put_u32(value);
        }
    }
    for id in &fields.subscription_identifiers {
        out.put_u8(0x0B);
        put_varint(out, id.get() as usize);
    }
}

fn write_texts(fields: &Fields, out: &mut BytesMut) {
    let texts = [
        (0x03, fields.content_type.as_deref()),
        (0x08, fields.response_topic.as_ref().map(TopicName::as_str)),
        (0x12, fields.assigned_client_id.as_deref()),
        (0x15, fields.authentication_method.as_deref()),
        (0x1A, fields.response_information.as_deref()),
        (0x1C, fields.server_reference.as_deref()),
        (0x1F, fields.reason_string.as_deref()),
    ];
    for (id, text) in texts {
        if let Some(text) = text {
            out.put_u8(id);
            put_text(out, text);
        }
    }
    for (id, data) in [
        (0x09, &fields.correlation_data),
        (0x16, &fields.authentication_data),
    ] {
        if let Some(data) = data {
            out.put_u8(id);
            put_binary(out, data);
        }
    }
    for (name, value) in &fields.user {
        out.put_u8(0x26);
        put_text(out, name);
        put_text(out, value);
    }
}
