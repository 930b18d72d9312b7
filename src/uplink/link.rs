//! The connection to a remote broker: TCP or TLS, and rumqttc's codec for MQTT 5 and 3.1.1. The only file that names rumqttc.
//!
//! Its client and event loop are not used: they choose packet identifiers and repeat messages on their own, so that nothing
//! could be promised across a crash. Identifiers, order and repetition are [`super::session`]'s.

use std::io;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, v4};
use rumqttc::v5::mqttbytes as mqttbytes5;
use rumqttc::v5::mqttbytes::v5;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::codec::{Decoder, Encoder};

use super::{Protocol, Settings};
use crate::mqtt::{PacketId, Properties, QoS, ReasonCode, TopicFilter, TopicName};
use crate::outbox::Outgoing;
use crate::time::now;

/// Largest packet taken from a remote, in bytes.
const MAX_INCOMING: u32 = 16 << 20;
/// Bytes collected before the link has taken them; one packet may exceed it.
const WRITE_AHEAD: usize = 64 * 1024;
/// How long the remote keeps the session of this gateway: a month without a link.
const SESSION_EXPIRY: u32 = 30 * 24 * 3600;

/// Why there is no link. Weather, except for the refusals a person must mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Unreachable(String),
    #[error("the remote broker refuses this gateway: {0}")]
    Refused(String),
    #[error("{0}")]
    Broken(String),
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        Self::Broken(format!("the connection broke: {error}"))
    }
}

/// What the remote says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Incoming {
    Accepted(Accepted),
    Refused(String),
    Publish {
        topic: TopicName,
        payload: Bytes,
        retain: bool,
        packet_id: Option<PacketId>,
        properties: Properties,
    },
    PubAck(PacketId, ReasonCode),
    /// The filters the remote did not grant, by index.
    SubAck(Vec<usize>),
    Disconnect(String),
    /// A message under a topic that is none here; to be acknowledged and forgotten.
    Unusable(Option<PacketId>),
    /// Not from the remote: bytes were written.
    Written,
    /// PINGRESP, or anything else that only shows that the remote lives.
    Other,
}

/// What the remote allows on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) session_present: bool,
    pub(super) receive_maximum: u16,
    pub(super) max_packet: Option<u32>,
    pub(super) keep_alive: Option<u16>,
}

/// What this side says.
#[derive(Debug)]
pub(super) enum Command {
    Connect { client_id: String, keep_alive: u16, login: Option<(String, String)> },
    Publish { packet_id: Option<PacketId>, dup: bool, message: Outgoing, number: Option<u64> },
    PubAck(PacketId),
    Subscribe(Vec<TopicFilter>),
    Ping,
    Disconnect,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that was accepted by the remote.
///
/// What is sent is collected and written while the next packet is awaited: a link that is slow to take bytes still brings
/// acknowledgements.
pub(super) struct Link {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    codec: Codec,
    input: BytesMut,
    output: BytesMut,
    max_packet: usize,
    /// Written, but perhaps still in a buffer of TLS.
    unflushed: bool,
    /// Bytes collected and bytes written since the connection began.
    collected: u64,
    written: u64,
    /// When the link last took bytes, or had none to take.
    progress: Instant,
}

impl Link {
    /// Connects, and waits for CONNACK; bounded by `connect_within`.
    pub(super) async fn open(settings: &Settings, tls: Option<&TlsConnector>) -> Result<(Self, Accepted), LinkError> {
        let patience = settings.connect_within;
        let remote = &settings.remote;
        timeout(patience, Self::dial(settings, tls))
            .await
            .unwrap_or_else(|_| Err(LinkError::Unreachable(format!("{remote} did not answer within {} s", patience.as_secs()))))
    }

    async fn dial(settings: &Settings, tls: Option<&TlsConnector>) -> Result<(Self, Accepted), LinkError> {
        let remote = &settings.remote;
        let stream = connect(settings, tls).await?;
        let (reader, writer) = tokio::io::split(stream);
        let mut link = Self {
            reader,
            writer,
            codec: Codec::new(settings.protocol),
            input: BytesMut::new(),
            output: BytesMut::new(),
            max_packet: usize::MAX,
            unflushed: false,
            collected: 0,
            written: 0,
            progress: now(),
        };
        let login = settings.login.as_ref().map(|(user, password)| (user.clone(), password.0.clone()));
        let keep_alive = u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX);
        link.feed(Command::Connect { client_id: settings.client_id.clone(), keep_alive, login })?;
        loop {
            match link.next().await? {
                Incoming::Written => {}
                Incoming::Accepted(accepted) => {
                    link.max_packet = accepted.max_packet.map_or(usize::MAX, |max| max as usize);
                    return Ok((link, accepted));
                }
                Incoming::Refused(reason) => return Err(LinkError::Refused(reason)),
                _ => return Err(LinkError::Broken(format!("{remote} did not answer CONNECT with CONNACK"))),
            }
        }
    }

    /// Collects a packet; it is written while [`Link::next`] waits. False if it is larger than the remote takes: then it is not
    /// sent.
    pub(super) fn feed(&mut self, command: Command) -> Result<bool, LinkError> {
        if self.output.is_empty() {
            self.progress = now();
        }
        let before = self.output.len();
        self.codec.encode(command, &mut self.output)?;
        let size = self.output.len() - before;
        if size > self.max_packet {
            self.output.truncate(before);
            return Ok(false);
        }
        self.collected += size as u64;
        Ok(true)
    }

    /// True while more may be collected.
    pub(super) fn has_room(&self) -> bool {
        self.output.len() < WRITE_AHEAD
    }

    /// True when everything collected was written.
    pub(super) fn is_idle(&self) -> bool {
        self.output.is_empty() && !self.unflushed
    }

    /// Bytes collected since the connection began; what was collected is written when [`Link::written`] has reached it.
    pub(super) fn collected(&self) -> u64 {
        self.collected
    }

    /// Bytes written since the connection began.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// When the link last took bytes, or had none to take.
    pub(super) fn progress(&self) -> Instant {
        self.progress
    }

    /// The next packet of the remote, or the news that bytes were written. Safe to drop while it waits.
    pub(super) async fn next(&mut self) -> Result<Incoming, LinkError> {
        loop {
            if let Some(incoming) = self.codec.decode(&mut self.input)? {
                return Ok(incoming);
            }
            let busy = !self.is_idle();
            tokio::select! {
                read = self.reader.read_buf(&mut self.input) => {
                    if read? == 0 {
                        return Err(LinkError::Broken("the remote broker closed the connection".to_owned()));
                    }
                }
                written = push(&mut self.writer, &mut self.output), if busy => {
                    let count = written?;
                    self.written += count as u64;
                    self.unflushed = count > 0;
                    self.progress = now();
                    return Ok(Incoming::Written);
                }
            }
        }
    }

    /// A packet that is there already.
    pub(super) fn next_ready(&mut self) -> Option<Result<Incoming, LinkError>> {
        self.codec.decode(&mut self.input).transpose()
    }
}

/// Writes a part of `output`, or, if it is empty, flushes what TLS still holds: then it returns 0. Safe to drop.
async fn push(writer: &mut (impl AsyncWrite + Unpin), output: &mut BytesMut) -> io::Result<usize> {
    if output.is_empty() {
        writer.flush().await?;
        return Ok(0);
    }
    writer.write_buf(output).await
}

async fn connect(settings: &Settings, tls: Option<&TlsConnector>) -> Result<Box<dyn Stream>, LinkError> {
    let remote = &settings.remote;
    let unreachable = |e: io::Error| LinkError::Unreachable(format!("{remote} cannot be reached: {e}"));
    let tcp = TcpStream::connect((remote.host.as_str(), remote.port)).await.map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    let Some(connector) = tls else { return Ok(Box::new(tcp)) };
    let bad_name = |e| LinkError::Unreachable(format!("{remote}: not a name a certificate can be for: {e}"));
    let name = ServerName::try_from(remote.host.clone()).map_err(bad_name)?;
    let failed = |e| LinkError::Unreachable(format!("{remote}: TLS failed: {e}; check `ca`, `cert`, `key` and the clock of this machine"));
    Ok(Box::new(connector.connect(name, tcp).await.map_err(failed)?))
}

enum Codec {
    V4(v4::Codec),
    V5(v5::Codec),
}

impl Codec {
    fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::V311 => Self::V4(v4::Codec { max_incoming_size: MAX_INCOMING as usize, max_outgoing_size: usize::MAX }),
            Protocol::V5 => Self::V5(v5::Codec { max_incoming_size: Some(MAX_INCOMING), max_outgoing_size: None }),
        }
    }
}

impl Codec {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Incoming>, LinkError> {
        match self {
            Self::V4(codec) => codec.decode(buffer).map_err(|e| not_mqtt(&e))?.map(from_v4).transpose(),
            Self::V5(codec) => codec.decode(buffer).map_err(|e| not_mqtt(&e))?.map(from_v5).transpose(),
        }
    }
}

impl Codec {
    fn encode(&mut self, command: Command, buffer: &mut BytesMut) -> Result<(), LinkError> {
        match self {
            Self::V4(codec) => {
                codec.encode(to_v4(command), buffer).map_err(|e| LinkError::Broken(format!("a packet cannot be written: {e}")))
            }
            Self::V5(codec) => {
                codec.encode(to_v5(command), buffer).map_err(|e| LinkError::Broken(format!("a packet cannot be written: {e}")))
            }
        }
    }
}

fn not_mqtt(error: &dyn std::fmt::Display) -> LinkError {
    LinkError::Broken(format!("the remote sent something that is not MQTT: {error}"))
}

fn topic_name(topic: Bytes) -> Result<TopicName, LinkError> {
    let text = bytestring::ByteString::try_from(topic).map_err(|e| not_mqtt(&e))?;
    TopicName::new(text).map_err(|e| not_mqtt(&e))
}

fn packet_id(id: u16) -> Result<PacketId, LinkError> {
    PacketId::new(id).ok_or_else(|| not_mqtt(&"packet identifier 0"))
}

fn from_v4(packet: v4::Packet) -> Result<Incoming, LinkError> {
    Ok(match packet {
        v4::Packet::ConnAck(connack) if connack.code == v4::ConnectReturnCode::Success => Incoming::Accepted(Accepted {
            session_present: connack.session_present,
            receive_maximum: u16::MAX,
            max_packet: None,
            keep_alive: None,
        }),
        v4::Packet::ConnAck(connack) => Incoming::Refused(refusal(&format!("{:?}", connack.code))),
        v4::Packet::Publish(publish) => Incoming::Publish {
            topic: match topic_name(publish.topic.into()) {
                Ok(topic) => topic,
                Err(_) => return Ok(Incoming::Unusable(PacketId::new(publish.pkid))),
            },
            payload: publish.payload,
            retain: publish.retain,
            packet_id: PacketId::new(publish.pkid),
            properties: Properties::default(),
        },
        v4::Packet::PubAck(ack) => Incoming::PubAck(packet_id(ack.pkid)?, ReasonCode::SUCCESS),
        v4::Packet::SubAck(ack) => {
            let failed = ack.return_codes.iter().enumerate().filter(|(_, code)| **code == v4::SubscribeReasonCode::Failure);
            Incoming::SubAck(failed.map(|(index, _)| index).collect())
        }
        _ => Incoming::Other,
    })
}

fn from_v5(packet: v5::Packet) -> Result<Incoming, LinkError> {
    Ok(match packet {
        v5::Packet::ConnAck(connack) if connack.code == v5::ConnectReturnCode::Success => Incoming::Accepted(accepted(&connack)),
        v5::Packet::ConnAck(connack) => {
            let told = connack.properties.and_then(|properties| properties.reason_string).unwrap_or_default();
            Incoming::Refused(format!(
                "{}{}{told}",
                refusal(&format!("{:?}", connack.code)),
                if told.is_empty() { "" } else { "; it says: " }
            ))
        }
        v5::Packet::Publish(publish) => Incoming::Publish {
            topic: match topic_name(publish.topic) {
                Ok(topic) => topic,
                Err(_) => return Ok(Incoming::Unusable(PacketId::new(publish.pkid))),
            },
            payload: publish.payload,
            retain: publish.retain,
            packet_id: PacketId::new(publish.pkid),
            properties: publish.properties.map(received_properties).transpose()?.unwrap_or_default(),
        },
        v5::Packet::PubAck(ack) => Incoming::PubAck(packet_id(ack.pkid)?, reason_of(ack.reason)),
        v5::Packet::SubAck(ack) => {
            let failed = ack.return_codes.iter().enumerate().filter(|(_, code)| !matches!(code, v5::SubscribeReasonCode::Success(_)));
            Incoming::SubAck(failed.map(|(index, _)| index).collect())
        }
        v5::Packet::Disconnect(end) => Incoming::Disconnect(format!("{:?}", end.reason_code)),
        _ => Incoming::Other,
    })
}

fn accepted(connack: &v5::ConnAck) -> Accepted {
    let properties = connack.properties.as_ref();
    Accepted {
        session_present: connack.session_present,
        receive_maximum: properties.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
        max_packet: properties.and_then(|p| p.max_packet_size),
        keep_alive: properties.and_then(|p| p.server_keep_alive),
    }
}

/// The code and what a person can do about it.
fn refusal(code: &str) -> String {
    let remedy = match code {
        "BadUserNamePassword" | "NotAuthorized" => "check `user`, `password` and the client certificate of the uplink",
        "BadClientId" | "ClientIdentifierNotValid" => "choose another `client_id`",
        "RefusedProtocolVersion" | "UnsupportedProtocolVersion" => "set `protocol` of the uplink to 3.1.1 (or to 5)",
        _ => "ask whoever runs it",
    };
    format!("{code}; {remedy}")
}

fn reason_of(reason: v5::PubAckReason) -> ReasonCode {
    use v5::PubAckReason as R;
    match reason {
        R::Success => ReasonCode::SUCCESS,
        R::NoMatchingSubscribers => ReasonCode::NO_MATCHING_SUBSCRIBERS,
        R::UnspecifiedError => ReasonCode::UNSPECIFIED,
        R::ImplementationSpecificError => ReasonCode::IMPLEMENTATION_SPECIFIC,
        R::NotAuthorized => ReasonCode::NOT_AUTHORIZED,
        R::TopicNameInvalid => ReasonCode::TOPIC_NAME_INVALID,
        R::PacketIdentifierInUse => ReasonCode::PACKET_IDENTIFIER_IN_USE,
        R::QuotaExceeded => ReasonCode::QUOTA_EXCEEDED,
        R::PayloadFormatInvalid => ReasonCode::PAYLOAD_FORMAT_INVALID,
    }
}

fn received_properties(from: v5::PublishProperties) -> Result<Properties, LinkError> {
    let mut properties = Properties::default();
    let fields = properties.edit();
    fields.payload_is_text = from.payload_format_indicator.map(|byte| byte == 1);
    fields.message_expiry = from.message_expiry_interval;
    fields.content_type = from.content_type.map(Into::into);
    fields.response_topic = from.response_topic.map(|topic| topic_name(topic.into())).transpose()?;
    fields.correlation_data = from.correlation_data;
    fields.user = from.user_properties.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    Ok(properties)
}

fn sent_properties(from: &Properties, number: Option<u64>) -> Option<v5::PublishProperties> {
    if from.is_empty() && number.is_none() {
        return None;
    }
    let mut user_properties: Vec<(String, String)> = from.user.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    user_properties.extend(number.map(|number| ("seq".to_owned(), number.to_string())));
    Some(v5::PublishProperties {
        payload_format_indicator: from.payload_is_text.map(u8::from),
        message_expiry_interval: from.message_expiry,
        topic_alias: None,
        response_topic: from.response_topic.as_ref().map(ToString::to_string),
        correlation_data: from.correlation_data.clone(),
        user_properties,
        subscription_identifiers: Vec::new(),
        content_type: from.content_type.as_ref().map(ToString::to_string),
    })
}

fn to_v4(command: Command) -> v4::Packet {
    match command {
        Command::Connect { client_id, keep_alive, login } => {
            let mut connect = v4::Connect::new(client_id);
            connect.keep_alive = keep_alive;
            connect.clean_session = false;
            connect.login = login.map(|(user, password)| v4::Login::new(user, password));
            v4::Packet::Connect(connect)
        }
        Command::Publish { packet_id, dup, message, .. } => {
            let qos = if message.qos == QoS::AtMostOnce { mqttbytes::QoS::AtMostOnce } else { mqttbytes::QoS::AtLeastOnce };
            let mut publish = v4::Publish::new(message.topic.as_str(), qos, Vec::new());
            publish.payload = message.payload;
            publish.retain = message.retain;
            publish.dup = dup;
            publish.pkid = packet_id.map_or(0, PacketId::get);
            v4::Packet::Publish(publish)
        }
        Command::PubAck(id) => v4::Packet::PubAck(v4::PubAck::new(id.get())),
        Command::Subscribe(filters) => {
            let filters = filters.iter().map(|filter| v4::SubscribeFilter::new(filter.as_str().to_owned(), mqttbytes::QoS::AtLeastOnce));
            let mut subscribe = v4::Subscribe::new_many(filters);
            subscribe.pkid = SUBSCRIBE_ID;
            v4::Packet::Subscribe(subscribe)
        }
        Command::Ping => v4::Packet::PingReq,
        Command::Disconnect => v4::Packet::Disconnect,
    }
}

/// The one identifier that the session never gives to a message.
const SUBSCRIBE_ID: u16 = u16::MAX;

fn to_v5(command: Command) -> v5::Packet {
    match command {
        Command::Connect { client_id, keep_alive, login } => {
            let mut properties = v5::ConnectProperties::new();
            properties.session_expiry_interval = Some(SESSION_EXPIRY);
            properties.max_packet_size = Some(MAX_INCOMING);
            let connect = v5::Connect { keep_alive, client_id, clean_start: false, properties: Some(properties) };
            v5::Packet::Connect(connect, None, login.map(|(user, password)| v5::Login::new(user, password)))
        }
        Command::Publish { packet_id, dup, message, number } => {
            let qos = if message.qos == QoS::AtMostOnce { mqttbytes5::QoS::AtMostOnce } else { mqttbytes5::QoS::AtLeastOnce };
            v5::Packet::Publish(v5::Publish {
                dup,
                qos,
                retain: message.retain,
                topic: bytestring::ByteString::from(message.topic).into_bytes(),
                pkid: packet_id.map_or(0, PacketId::get),
                payload: message.payload,
                properties: sent_properties(&message.properties, number),
            })
        }
        Command::PubAck(id) => v5::Packet::PubAck(v5::PubAck::new(id.get(), None)),
        Command::Subscribe(filters) => {
            let filters = filters.iter().map(|filter| {
                let mut wanted = v5::Filter::new(filter.as_str(), mqttbytes5::QoS::AtLeastOnce);
                wanted.nolocal = true;
                wanted.preserve_retain = true;
                wanted
            });
            let mut subscribe = v5::Subscribe::new_many(filters, None);
            subscribe.pkid = SUBSCRIBE_ID;
            v5::Packet::Subscribe(subscribe)
        }
        Command::Ping => v5::Packet::PingReq(v5::PingReq),
        Command::Disconnect => v5::Packet::Disconnect(v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection)),
    }
}
