//! Packets to bytes.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};

use super::properties::{Extras, encode_properties, encode_with};
use super::wire::{BRIDGE, put_binary, put_text, put_varint, varint_len};
use super::{
    Ack, ConnAck, Connect, Disconnect, Grants, Packet, PacketId, Properties, Publish, QoS,
    ReasonCode, RetainHandling, Subscribe, SubscribeOptions, Unsubscribe, Version,
};

/// Appends `packet` to `out` as `version` writes it. What a version does not know (properties,
/// reason codes) is left out.
// A table: one arm a packet, the first byte of its header first.
pub fn encode(packet: &Packet, version: Version, out: &mut BytesMut) {
    match packet {
        Packet::Publish(publish) => put_publish(publish, version, out),
        Packet::PingReq => out.put_slice(&[0xC0, 0]),
        Packet::PingResp => out.put_slice(&[0xD0, 0]),
        Packet::PubAck(ack) => put_ack(0x40, ack, version, out),
        Packet::PubRec(ack) => put_ack(0x50, ack, version, out),
        Packet::PubRel(ack) => put_ack(0x62, ack, version, out),
        Packet::PubComp(ack) => put_ack(0x70, ack, version, out),
        Packet::Disconnect(end) => put_disconnect(0xE0, end, version, out),
        Packet::Auth(auth) => put_disconnect(0xF0, auth, version, out),
        Packet::Connect(connect) => put_body(0x10, out, |body| connect_body(connect, body)),
        Packet::ConnAck(connack) => {
            put_body(0x20, out, |body| connack_body(connack, version, body));
        }
        Packet::Subscribe(subscribe) => {
            put_body(0x82, out, |body| subscribe_body(subscribe, version, body));
        }
        Packet::Unsubscribe(unsubscribe) => {
            put_body(0xA2, out, |body| {
                unsubscribe_body(unsubscribe, version, body);
            });
        }
        Packet::SubAck(grants) => put_body(0x90, out, |body| grants_body(grants, version, body)),
        // UNSUBACK carries codes in MQTT 5 only.
        Packet::UnsubAck(grants) if version != Version::V5 => {
            put_body(0xB0, out, |body| body.put_u16(grants.packet_id.get()));
        }
        Packet::UnsubAck(grants) => put_body(0xB0, out, |body| grants_body(grants, version, body)),
    }
}

fn put_body(header: u8, out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let mut body = BytesMut::new();
    write(&mut body);
    out.reserve(body.len() + 5);
    out.put_u8(header);
    put_varint(out, body.len());
    out.extend_from_slice(&body);
}

fn put_properties(properties: &Properties, version: Version, out: &mut BytesMut) {
    if version == Version::V5 {
        encode_properties(properties, out);
    }
}

fn put_publish(publish: &Publish, version: Version, out: &mut BytesMut) {
    let content = PublishContent {
        topic: publish.topic.as_ref().map_or("", |topic| topic.as_str()),
        payload: &publish.payload,
        properties: &publish.properties,
        extras: Extras::default(),
    };
    let flags = PublishFlags {
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
    };
    let sized = content.sized(version, publish.packet_id.is_some());
    // Nothing is as large as that: all of it is written.
    let shared = sized.write(flags, publish.packet_id, usize::MAX, out);
    debug_assert!(shared.is_none(), "a payload that is written elsewhere");
}

/// The flags in the fixed header of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishFlags {
    /// A repeated delivery.
    pub dup: bool,
    /// Its QoS.
    pub qos: QoS,
    /// A retained message, or one to be retained.
    pub retain: bool,
}

fn publish_header(flags: PublishFlags) -> u8 {
    0x30 | u8::from(flags.dup) << 3 | (flags.qos as u8) << 1 | u8::from(flags.retain)
}

/// The parts of a PUBLISH that all its receivers get.
#[derive(Debug, Clone, Copy)]
pub struct PublishContent<'a> {
    /// Empty if a topic alias in `extras` stands for it.
    pub topic: &'a str,
    /// The message.
    pub payload: &'a Bytes,
    /// MQTT 5: those of the message.
    pub properties: &'a Properties,
    /// MQTT 5: those of its delivery.
    pub extras: Extras<'a>,
}

impl<'a> PublishContent<'a> {
    /// As a protocol version writes it, for QoS 0 or, with `has_id`, for QoS 1 and 2. Before MQTT 5
    /// there are no properties.
    pub fn sized(self, version: Version, has_id: bool) -> SizedPublish<'a> {
        let properties: Cow<'static, [u8]> = if version != Version::V5 {
            Cow::Borrowed(&[])
        } else if self.properties.is_absent() && self.extras.is_empty() {
            Cow::Borrowed(&[0])
        } else {
            let mut section = BytesMut::new();
            encode_with(self.properties, self.extras, &mut section);
            Cow::Owned(section.into())
        };
        SizedPublish {
            topic: self.topic,
            payload: self.payload,
            properties,
            has_id,
        }
    }
}

/// A PUBLISH of which only the flags and the packet identifier are open.
#[derive(Debug)]
pub struct SizedPublish<'a> {
    topic: &'a str,
    payload: &'a Bytes,
    /// With their length.
    properties: Cow<'static, [u8]>,
    has_id: bool,
}

impl<'a> SizedPublish<'a> {
    /// Bytes behind the fixed header.
    fn body_len(&self) -> usize {
        let id_len = if self.has_id { 2 } else { 0 };
        2 + self.topic.len() + id_len + self.properties.len() + self.payload.len()
    }

    /// Bytes of the whole packet.
    pub fn packet_len(&self) -> usize {
        let body = self.body_len();
        1 + varint_len(body) + body
    }

    /// Appends the packet to `out`. A payload of `share_from` bytes and more is not copied: it is
    /// returned, and belongs behind what was written. `packet_id` is there exactly for QoS 1 and 2.
    pub fn write(
        &self,
        flags: PublishFlags,
        packet_id: Option<PacketId>,
        share_from: usize,
        out: &mut BytesMut,
    ) -> Option<&'a Bytes> {
        debug_assert_eq!(packet_id.is_some(), self.has_id, "a packet identifier");
        let is_shared = self.payload.len() >= share_from;
        let payload: &[u8] = if is_shared { &[] } else { self.payload };
        let body = self.body_len();
        out.reserve(5 + body - self.payload.len() + payload.len());
        out.put_u8(publish_header(flags));
        put_varint(out, body);
        put_text(out, self.topic);
        if let Some(id) = packet_id {
            out.put_u16(id.get());
        }
        out.extend_from_slice(&self.properties);
        out.extend_from_slice(payload);
        is_shared.then_some(self.payload)
    }
}

/// A PUBLISH written once for all receivers of one protocol version; what differs between them
/// (flags and packet identifier) is filled in for each.
#[derive(Debug)]
pub struct PublishTemplate {
    /// With the payload, unless that is worth sharing.
    bytes: BytesMut,
    id_at: usize,
    /// Empty if it is in `bytes`.
    payload: Bytes,
}

impl PublishTemplate {
    /// Payloads of `share_from` bytes and more are shared, not copied.
    pub fn new(publish: &SizedPublish<'_>, share_from: usize) -> Self {
        let blank = PublishFlags {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
        };
        let mut bytes = BytesMut::new();
        let id = publish.has_id.then_some(PacketId::MIN);
        let payload = publish.write(blank, id, share_from, &mut bytes);
        let payload = payload.cloned().unwrap_or_default();
        let header = publish.packet_len() - publish.body_len();
        Self {
            bytes,
            id_at: header + 2 + publish.topic.len(),
            payload,
        }
    }

    /// Bytes of the whole packet.
    pub fn packet_len(&self) -> usize {
        self.bytes.len() + self.payload.len()
    }

    /// Appends the packet to `out`, without the payload that is returned if it is shared.
    /// `packet_id` is there exactly if the template has one.
    pub fn write(
        &self,
        flags: PublishFlags,
        packet_id: Option<PacketId>,
        out: &mut BytesMut,
    ) -> Option<&Bytes> {
        let first = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(byte) = out.get_mut(first) {
            *byte = publish_header(flags);
        }
        let id_at = first + self.id_at;
        if let (Some(id), Some(bytes)) = (packet_id, out.get_mut(id_at..id_at + 2)) {
            bytes.copy_from_slice(&id.get().to_be_bytes());
        }
        (!self.payload.is_empty()).then_some(&self.payload)
    }
}

fn put_ack(header: u8, ack: &Ack, version: Version, out: &mut BytesMut) {
    if version != Version::V5 || (ack.reason == ReasonCode::SUCCESS && ack.properties.is_empty()) {
        out.put_slice(&[header, 2]);
        out.put_u16(ack.packet_id.get());
        return;
    }
    put_body(header, out, |body| {
        body.put_u16(ack.packet_id.get());
        body.put_u8(ack.reason.0);
        if !ack.properties.is_empty() {
            encode_properties(&ack.properties, body);
        }
    });
}

fn put_disconnect(header: u8, end: &Disconnect, version: Version, out: &mut BytesMut) {
    if version != Version::V5 || (end.reason == ReasonCode::SUCCESS && end.properties.is_empty()) {
        out.put_slice(&[header, 0]);
        return;
    }
    put_body(header, out, |body| {
        body.put_u8(end.reason.0);
        if !end.properties.is_empty() {
            encode_properties(&end.properties, body);
        }
    });
}

fn connect_body(connect: &Connect, body: &mut BytesMut) {
    let (name, level) = match connect.version {
        Version::V31 => ("MQIsdp", 3),
        Version::V311 => ("MQTT", 4),
        Version::V5 => ("MQTT", 5),
    };
    put_text(body, name);
    body.put_u8(if connect.is_bridge {
        level | BRIDGE
    } else {
        level
    });
    let will = connect.will.as_ref().map_or(0, |will| {
        0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5
    });
    let login =
        u8::from(connect.username.is_some()) << 7 | u8::from(connect.password.is_some()) << 6;
    body.put_u8(login | will | u8::from(connect.clean_start) << 1);
    body.put_u16(connect.keep_alive);
    put_properties(&connect.properties, connect.version, body);
    put_text(body, &connect.client_id);
    if let Some(will) = &connect.will {
        put_properties(&will.properties, connect.version, body);
        put_text(body, will.topic.as_str());
        put_binary(body, &will.payload);
    }
    if let Some(username) = &connect.username {
        put_text(body, username);
    }
    if let Some(password) = &connect.password {
        put_binary(body, password);
    }
}

fn connack_body(connack: &ConnAck, version: Version, body: &mut BytesMut) {
    // [MQTT-3.2.2-6]; MQTT 3.1 has no session-present flag.
    let present =
        connack.session_present && connack.reason == ReasonCode::SUCCESS && version != Version::V31;
    body.put_u8(u8::from(present));
    body.put_u8(if version == Version::V5 {
        connack.reason.0
    } else {
        return_code_of_reason(connack.reason)
    });
    put_properties(&connack.properties, version, body);
}

fn subscribe_body(subscribe: &Subscribe, version: Version, body: &mut BytesMut) {
    body.put_u16(subscribe.packet_id.get());
    put_properties(&subscribe.properties, version, body);
    for (filter, options) in &subscribe.filters {
        put_text(body, filter.as_str());
        body.put_u8(option_bits(*options, version));
    }
}

fn unsubscribe_body(unsubscribe: &Unsubscribe, version: Version, body: &mut BytesMut) {
    body.put_u16(unsubscribe.packet_id.get());
    put_properties(&unsubscribe.properties, version, body);
    for filter in &unsubscribe.filters {
        put_text(body, filter.as_str());
    }
}

fn grants_body(grants: &Grants, version: Version, body: &mut BytesMut) {
    body.put_u16(grants.packet_id.get());
    put_properties(&grants.properties, version, body);
    for reason in &grants.reasons {
        body.put_u8(if version == Version::V5 || !reason.is_error() {
            reason.0
        } else {
            0x80
        });
    }
}

fn option_bits(options: SubscribeOptions, version: Version) -> u8 {
    let qos = options.qos as u8;
    if version != Version::V5 {
        return qos;
    }
    let handling = match options.retain_handling {
        RetainHandling::Always => 0,
        RetainHandling::IfNew => 1,
        RetainHandling::Never => 2,
    };
    qos | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | handling << 4
}

/// The CONNACK return code of 3.1 and 3.1.1 that comes nearest.
fn return_code_of_reason(reason: ReasonCode) -> u8 {
    match reason {
        ReasonCode::SUCCESS => 0,
        ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => 1,
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => 2,
        ReasonCode::BAD_USER_NAME_OR_PASSWORD | ReasonCode::BAD_AUTHENTICATION_METHOD => 4,
        ReasonCode::NOT_AUTHORIZED => 5,
        _ => 3,
    }
}
