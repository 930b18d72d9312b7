//! A remote broker played packet by packet: what it allows, what it refuses, what it forgets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::support::{PATIENCE, wait_for};

/// Where gateways connect to.
pub struct Remote {
    listener: TcpListener,
    pub port: u16,
}

/// A port of this machine that answers no SYN: its queue of connections is full, and nobody takes
/// them.
pub struct SilentPort {
    pub port: u16,
    _listener: socket2::Socket,
    _connections: Vec<TcpStream>,
}

impl SilentPort {
    pub fn open() -> Self {
        let listener =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let connections = std::iter::from_fn(connect).collect();
        Self {
            port: address.port(),
            _listener: listener,
            _connections: connections,
        }
    }
}

/// One connection of a gateway.
pub struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
    /// What the gateway said of its presence and was answered.
    pub states: Vec<Publish>,
    /// The gateway has asked what state is retained, and PINGREQ will follow.
    is_asked: bool,
}

/// SUBSCRIBE or UNSUBSCRIBE for the state of a gateway.
struct Question {
    topic: String,
    is_v5: bool,
}

/// A packet: its first byte, and what follows the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub first: u8,
    pub body: Vec<u8>,
}

/// A PUBLISH taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    pub topic: String,
    pub qos: u8,
    pub dup: bool,
    pub retain: bool,
    pub id: u16,
    /// As on the wire.
    pub properties: Vec<u8>,
    pub payload: String,
}

impl Packet {
    pub fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// The MQTT 5 PUBLISH it is.
    pub fn publish(&self) -> Publish {
        self.publish_of(true)
    }

    /// The MQTT 3.1.1 PUBLISH it is.
    pub fn publish_v4(&self) -> Publish {
        self.publish_of(false)
    }

    /// The PUBLISH it is, if that says whether the gateway lives.
    pub fn state(&self) -> Option<Publish> {
        let is_state = |publish: &Publish| publish.topic.ends_with("/gateway/state");
        // Without properties a byte says so in MQTT 5.
        let publish = (self.kind() == 3)
            .then(|| self.publish_v4())
            .filter(is_state)?;
        let payload = publish.payload.trim_start_matches('\0').to_owned();
        Some(Publish { payload, ..publish })
    }

    fn question(&self) -> Option<Question> {
        let options = match self.kind() {
            8 => 1,
            10 => 0,
            _ => return None,
        };
        let rest = self.body.get(2..self.body.len().checked_sub(options)?)?;
        let text = |bytes: &[u8]| {
            let (length, text) = bytes.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)) == text.len())
                .then(|| String::from_utf8_lossy(text).into_owned())
        };
        // With a byte for no properties in MQTT 5.
        let (topic, is_v5) = text(rest)
            .map(|topic| (topic, false))
            .or_else(|| Some((text(rest.get(1..)?)?, true)))?;
        topic
            .ends_with("/gateway/state")
            .then_some(Question { topic, is_v5 })
    }

    fn publish_of(&self, has_properties: bool) -> Publish {
        assert_eq!(self.kind(), 3, "{self:?}");
        let (length, rest) = self.body.split_at(2);
        let (topic, mut rest) =
            rest.split_at(usize::from(u16::from_be_bytes([length[0], length[1]])));
        let qos = self.first >> 1 & 3;
        let mut id = 0;
        if qos > 0 {
            id = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        // Properties of the tests are shorter than 128 bytes.
        let (properties, payload) = if has_properties {
            rest[1..].split_at(usize::from(rest[0]))
        } else {
            rest.split_at(0)
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Publish {
            topic: text(topic),
            qos,
            dup: self.first & 8 != 0,
            retain: self.first & 1 != 0,
            id,
            properties: properties.to_vec(),
            payload: text(payload),
        }
    }
}

impl Remote {
    pub fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { listener, port }
    }

    /// The next connection and its CONNECT, which is not answered.
    pub fn connect(&self) -> (Wire, Packet) {
        let (stream, _) = wait_for("a connection of the gateway", || {
            self.listener.accept().ok()
        });
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut wire = Wire {
            stream,
            input: Vec::new(),
            states: Vec::new(),
            is_asked: false,
        };
        let connect = wire.read();
        assert_eq!(connect.kind(), 1);
        (wire, connect)
    }

    /// Accepts a gateway, reads its CONNECT and answers with these flags and properties. A
    /// connection with Clean Start only ends an older session; the next one counts.
    pub fn accept(&self, session_present: bool, properties: &[u8]) -> Wire {
        let mut wire = loop {
            let (mut wire, connect) = self.connect();
            // Behind the protocol's name and its version.
            if connect.body[7] & 2 == 0 {
                break wire;
            }
            wire.write(&[0x20, 3, 0, 0, 0]);
            assert_eq!(
                wire.read().kind(),
                14,
                "nothing is sent on a session that is not kept"
            );
        };
        let length = u8::try_from(properties.len()).unwrap();
        let mut connack = vec![0x20, length + 3, u8::from(session_present), 0, length];
        connack.extend(properties);
        wire.write(&connack);
        wire
    }
}

impl Remote {
    /// Accepts a gateway that speaks MQTT 3.1.1, as [`Remote::accept`].
    pub fn accept_v4(&self, session_present: bool) -> Wire {
        loop {
            let (mut wire, connect) = self.connect();
            let is_clean = connect.body[7] & 2 != 0;
            wire.write(&[0x20, 2, u8::from(session_present && !is_clean), 0]);
            if !is_clean {
                return wire;
            }
            assert_eq!(
                wire.read().kind(),
                14,
                "nothing is sent on a session that is not kept"
            );
        }
    }
}

impl Wire {
    /// Ends the connection after everything that was written, without a word.
    pub fn close(mut self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut space = [0; 4096];
        while self.stream.read(&mut space).is_ok_and(|count| count > 0) {}
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// PUBACK, PUBREC or PUBCOMP with a reason.
    pub fn answer(&mut self, first: u8, id: u16, reason: u8) {
        let [high, low] = id.to_be_bytes();
        self.write(&[first, 4, high, low, reason, 0]);
    }

    /// The next packet.
    pub fn read(&mut self) -> Packet {
        self.read_within(PATIENCE)
            .expect("the gateway has nothing to say")
    }

    /// The next packet, or `None` if none comes in time. The state of the gateway is acknowledged,
    /// and passed over.
    pub fn read_within(&mut self, patience: Duration) -> Option<Packet> {
        loop {
            let packet = self.read_any_within(patience)?;
            let Some(state) = packet.state() else {
                return Some(packet);
            };
            self.pass_over(state);
        }
    }

    /// The next packet, even if it is the state of the gateway.
    pub fn read_any(&mut self) -> Packet {
        self.read_any_within(PATIENCE)
            .expect("the gateway has nothing to say")
    }

    /// The next packet, even if it is the state of the gateway; `None` if none comes in time. The
    /// question what state is retained is answered, with none, and passed over.
    pub fn read_any_within(&mut self, patience: Duration) -> Option<Packet> {
        loop {
            let packet = self.read_raw_within(patience)?;
            if !self.answer_question(&packet, None) {
                return Some(packet);
            }
        }
    }

    /// Answers the packets of the question what state is retained: SUBSCRIBE, the PINGREQ behind
    /// it, UNSUBSCRIBE. False for others.
    pub fn answer_question(&mut self, packet: &Packet, retained: Option<&str>) -> bool {
        if self.is_asked && packet.kind() == 12 {
            self.is_asked = false;
            self.write(&[0xD0, 0]);
            return true;
        }
        let Some(question) = packet.question() else {
            return false;
        };
        let [high, low] = [packet.body[0], packet.body[1]];
        let answer = match (packet.kind(), question.is_v5) {
            (8, true) => vec![0x90, 4, high, low, 0, 0],
            (8, false) => vec![0x90, 3, high, low, 0],
            (_, true) => vec![0xB0, 4, high, low, 0, 0],
            (_, false) => vec![0xB0, 2, high, low],
        };
        self.write(&answer);
        self.is_asked |= packet.kind() == 8;
        if let Some(state) = retained.filter(|_| packet.kind() == 8) {
            let mut body = u16::try_from(question.topic.len())
                .unwrap()
                .to_be_bytes()
                .to_vec();
            body.extend(question.topic.as_bytes());
            body.extend(question.is_v5.then_some(0));
            body.extend(state.as_bytes());
            // Longer than 127 bytes.
            self.write(&[
                0x31,
                (body.len() % 128) as u8 | 0x80,
                (body.len() / 128) as u8,
            ]);
            self.write(&body);
        }
        true
    }

    /// The next packet but the state of the gateway, which is acknowledged; a question is not
    /// answered.
    pub fn read_unanswered(&mut self) -> Packet {
        loop {
            let packet = self
                .read_raw_within(PATIENCE)
                .expect("the gateway has nothing to say");
            let Some(state) = packet.state() else {
                return packet;
            };
            self.pass_over(state);
        }
    }

    fn pass_over(&mut self, state: Publish) {
        if state.qos > 0 {
            let [high, low] = state.id.to_be_bytes();
            self.write(&[0x40, 2, high, low]);
        }
        self.states.push(state);
    }

    /// The next packet, whatever it is; `None` if none comes in time.
    pub fn read_raw_within(&mut self, patience: Duration) -> Option<Packet> {
        loop {
            if let Some(packet) = self.take() {
                return Some(packet);
            }
            self.stream.set_read_timeout(Some(patience)).unwrap();
            let mut space = [0; 4096];
            match self.stream.read(&mut space) {
                Ok(0) => panic!("the gateway closed the connection"),
                Ok(count) => self.input.extend(&space[..count]),
                Err(_) => return None,
            }
        }
    }

    fn take(&mut self) -> Option<Packet> {
        let mut length = 0;
        for (index, byte) in self.input.iter().skip(1).take(4).enumerate() {
            length |= usize::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                let header = 2 + index;
                if self.input.len() < header + length {
                    return None;
                }
                let packet = Packet {
                    first: self.input[0],
                    body: self.input[header..header + length].to_vec(),
                };
                self.input.drain(..header + length);
                return Some(packet);
            }
        }
        None
    }

    /// The next PUBLISH; PINGREQ is answered, other packets are passed over.
    pub fn publish(&mut self) -> Publish {
        loop {
            let packet = self.read();
            if packet.kind() == 12 {
                self.write(&[0xD0, 0]);
            }
            if packet.kind() == 3 {
                return packet.publish();
            }
        }
    }
}
