//! Who sends and who receives on either side of the gateway; each keeps its own state.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use fastrand::Rng;
use wellhead::mqtt::{ConnAck, Decoder, Grants, Packet, Properties, ReasonCode, Version, encode};

use super::super::far_side::FarSide;
use super::super::returning_client::ReturningClient;
use super::super::support::client::Incoming;

/// One who sends or receives.
pub enum Party {
    /// At the gateway, which has another port after each start.
    Local(ReturningClient),
    /// At the remote broker.
    Remote(ReturningClient),
    /// The remote broker itself.
    Broker(PlayedBroker),
}

impl Party {
    pub fn far(&self) -> &FarSide {
        match self {
            Self::Local(client) | Self::Remote(client) => &client.far,
            Self::Broker(broker) => &broker.far,
        }
    }

    /// The gateway has died. What is on its way may still be read, or is lost as well.
    pub fn gateway_died(&mut self, random: &mut Rng) {
        if let Self::Local(client) = self {
            while client.client.is_some() && random.bool() {
                client.turn();
            }
            (client.client, client.port) = (None, 0);
        }
    }

    /// Takes what is there, and answers. `port` is that of the gateway, once it listens.
    pub fn turn(&mut self, port: Option<u16>) {
        match (self, port) {
            (Self::Local(client), Some(port)) => {
                client.port = port;
                client.turn();
            }
            (Self::Local(_), None) => {}
            (Self::Remote(client), _) => client.turn(),
            (Self::Broker(broker), _) => broker.turn(),
        }
    }

    /// A client of the gateway takes its session over with a second connection, which speaks the
    /// other version of MQTT.
    pub fn take_over(&mut self) {
        if let Self::Local(client) = self
            && client.client.is_some()
        {
            client.version = match client.version {
                Version::V5 => Version::V311,
                Version::V31 | Version::V311 => Version::V5,
            };
            client.take_over();
        }
    }

    /// True if a message can be sent now.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Local(client) | Self::Remote(client) => client.client.is_some(),
            Self::Broker(broker) => broker.is_ready(),
        }
    }

    /// Publishes a number, if it has a connection and a place in its window.
    pub fn publish(&mut self, topic: &str, number: u64, window: usize) -> bool {
        let can = self.is_ready() && self.far().in_flight() < window;
        if can {
            match self {
                Self::Local(client) | Self::Remote(client) => {
                    let packet = client.far.publish_exact(topic, number);
                    client.send(&packet);
                }
                Self::Broker(broker) => {
                    let packet = broker.far.publish_exact(topic, number);
                    broker.send(&packet);
                }
            }
        }
        can
    }
}

/// A remote broker with one client, the gateway, whose session it keeps. It sends what a test
/// publishes, and uses each packet identifier again as soon as it is free.
pub struct PlayedBroker {
    listener: TcpListener,
    pub port: u16,
    connection: Option<Connection>,
    /// The gateway has a session.
    has_session: bool,
    is_subscribed: bool,
    far: FarSide,
}

struct Connection {
    stream: TcpStream,
    incoming: Incoming,
    /// Until CONNECT was read.
    version: Option<Version>,
    /// CONNACK was sent, and the session goes on.
    is_welcome: bool,
}

impl PlayedBroker {
    pub fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self {
            port: listener.local_addr().unwrap().port(),
            listener,
            connection: None,
            has_session: false,
            is_subscribed: false,
            far: FarSide::default(),
        }
    }

    fn is_ready(&self) -> bool {
        self.is_subscribed && self.connection.as_ref().is_some_and(|one| one.is_welcome)
    }

    fn turn(&mut self) {
        if let Ok((stream, _)) = self.listener.accept() {
            stream.set_nodelay(true).unwrap();
            stream.set_nonblocking(true).unwrap();
            self.connection = Some(Connection {
                stream,
                incoming: Incoming::new(Decoder::server(1 << 20)),
                version: None,
                is_welcome: false,
            });
        }
        let Some(connection) = &mut self.connection else {
            return std::thread::sleep(Duration::from_micros(100));
        };
        match connection.incoming.read_packet(&mut connection.stream) {
            Ok(packet) => self.take(packet),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_micros(100));
            }
            Err(_) => self.connection = None,
        }
    }

    fn send(&mut self, packet: &Packet) {
        let Some(Connection {
            stream, version, ..
        }) = &mut self.connection
        else {
            return;
        };
        let mut bytes = BytesMut::new();
        encode(packet, version.unwrap(), &mut bytes);
        // That the gateway is dead, the next read tells.
        let _ = io::Write::write_all(stream, &bytes);
    }

    fn take(&mut self, packet: Packet) {
        let answer = match packet {
            Packet::Connect(connect) => {
                self.connection.as_mut().unwrap().version = Some(connect.version);
                return self.welcome(connect.clean_start);
            }
            Packet::Subscribe(subscribe) => {
                self.is_subscribed = true;
                Packet::SubAck(Grants {
                    packet_id: subscribe.packet_id,
                    reasons: vec![ReasonCode::GRANTED_QOS_2; subscribe.filters.len()],
                    properties: Properties::default(),
                })
            }
            Packet::Unsubscribe(unsubscribe) => Packet::UnsubAck(Grants {
                packet_id: unsubscribe.packet_id,
                reasons: vec![ReasonCode::SUCCESS; unsubscribe.filters.len()],
                properties: Properties::default(),
            }),
            Packet::PingReq => Packet::PingResp,
            Packet::Disconnect(_) => return self.connection = None,
            other => match self.far.take(other) {
                Some(answer) => answer,
                None => return,
            },
        };
        self.send(&answer);
    }

    /// CONNACK, and what the session owes. A connection with Clean Start only ends an older
    /// session.
    fn welcome(&mut self, is_clean: bool) {
        let session_present = self.has_session && !is_clean;
        self.send(&Packet::ConnAck(ConnAck {
            session_present,
            reason: ReasonCode::SUCCESS,
            properties: Properties::default(),
        }));
        if !is_clean {
            self.has_session = true;
            self.connection.as_mut().unwrap().is_welcome = true;
            for packet in self.far.resume() {
                self.send(&packet);
            }
        }
    }
}
