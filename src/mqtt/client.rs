//! The packets of a simple MQTT 5 client: it connects, subscribes, publishes at QoS 1 and
//! acknowledges what it gets. No I/O: the owner of the connection writes [`MqttClient::output`],
//! and passes on what it reads.
//!
//! Invariant: packet identifiers are not zero, and follow each other.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use super::{
    Ack, Connect, DecodeError, Decoder, Packet, PacketId, Progress, Properties, Publish, QoS,
    ReasonCode, Subscribe, SubscribeOptions, TopicFilter, TopicName, Version, encode,
};

/// Who a client is.
#[derive(Debug, Clone, Default)]
pub struct ClientLogin {
    /// Empty: the broker chooses one.
    pub client_id: ByteString,
    /// The keep alive, in seconds; 0 for none.
    pub keep_alive: u16,
    /// The user name.
    pub user: Option<ByteString>,
    /// The password.
    pub password: Option<Bytes>,
    /// How long the broker keeps the session after the connection, in seconds, and resumes it;
    /// `None` for a new one that ends with the connection.
    pub session_expiry: Option<u32>,
}

/// The client's end of a connection.
#[derive(Debug)]
pub struct MqttClient {
    /// Takes what was read from the connection.
    pub input: BytesMut,
    /// To be written to the connection, and emptied.
    pub output: BytesMut,
    decoder: Decoder,
    last_id: u16,
}

impl MqttClient {
    /// A client that takes packets up to `max_packet` bytes.
    pub fn connect(login: ClientLogin, max_packet: usize) -> Self {
        let mut client = Self {
            input: BytesMut::new(),
            output: BytesMut::new(),
            decoder: Decoder::client(Version::V5, max_packet),
            last_id: 0,
        };
        let mut properties = Properties::default();
        if login.session_expiry.is_some() {
            properties.edit().session_expiry = login.session_expiry;
        }
        client.send(&Packet::Connect(Box::new(Connect {
            version: Version::V5,
            is_bridge: false,
            clean_start: login.session_expiry.is_none(),
            keep_alive: login.keep_alive,
            client_id: login.client_id,
            will: None,
            username: login.user,
            password: login.password,
            properties,
        })));
        client
    }

    /// Subscribes to these filters.
    pub fn subscribe(&mut self, filters: &[TopicFilter], options: SubscribeOptions) {
        let packet_id = self.next_id();
        let filters = filters.iter().map(|filter| (filter.clone(), options));
        self.send(&Packet::Subscribe(Subscribe {
            packet_id,
            filters: filters.collect(),
            properties: Properties::default(),
        }));
    }

    /// Publishes at QoS 1.
    pub fn publish(&mut self, topic: TopicName, payload: Bytes, retain: bool) {
        let packet_id = self.next_id();
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain,
            topic: Some(topic),
            packet_id: Some(packet_id),
            properties: Properties::default(),
            payload,
        }));
    }

    /// Acknowledges a message of QoS 1.
    pub fn acknowledge(&mut self, publish: &Publish) {
        if let Some(packet_id) = publish.packet_id {
            self.send(&Packet::PubAck(Ack::new(packet_id, ReasonCode::SUCCESS)));
        }
    }

    /// The next packet in what was read; `None` if more has to be read.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, DecodeError> {
        Ok(match self.decoder.decode(&mut self.input)? {
            Progress::Packet(packet) => Some(packet),
            Progress::NeedMore => None,
        })
    }

    fn next_id(&mut self) -> PacketId {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        PacketId::new(self.last_id).unwrap_or(PacketId::MIN)
    }

    fn send(&mut self, packet: &Packet) {
        encode(packet, Version::V5, &mut self.output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_each_other_and_are_never_zero() {
        let mut client = MqttClient::connect(ClientLogin::default(), 1 << 20);
        client.last_id = u16::MAX - 1;
        let topic = TopicName::new("a").unwrap();
        client.publish(topic.clone(), Bytes::new(), false);
        client.publish(topic, Bytes::new(), true);
        client.subscribe(
            &[TopicFilter::new("#").unwrap()],
            SubscribeOptions::default(),
        );
        let mut server = Decoder::server(1 << 20);
        let mut ids = Vec::new();
        while let Ok(Progress::Packet(packet)) = server.decode(&mut client.output) {
            match packet {
                Packet::Connect(connect) => assert!(connect.clean_start),
                Packet::Publish(publish) => ids.push(publish.packet_id.unwrap().get()),
                Packet::Subscribe(subscribe) => ids.push(subscribe.packet_id.get()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(ids, [u16::MAX, 1, 2]);
    }

    #[test]
    fn packets_come_out_whole_however_they_arrive() {
        let mut client = MqttClient::connect(ClientLogin::default(), 1 << 20);
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: TopicName::new("a").ok(),
            packet_id: PacketId::new(7),
            properties: Properties::default(),
            payload: Bytes::from_static(b"1"),
        };
        let mut bytes = BytesMut::new();
        encode(&Packet::Publish(publish.clone()), Version::V5, &mut bytes);
        for byte in bytes {
            assert_eq!(client.next_packet().unwrap(), None);
            client.input.extend_from_slice(&[byte]);
        }
        assert_eq!(
            client.next_packet().unwrap(),
            Some(Packet::Publish(publish.clone()))
        );
        client.output.clear();
        client.acknowledge(&publish);
        assert_eq!(client.output[..], [0x40, 2, 0, 7]);
    }
}
