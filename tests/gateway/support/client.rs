//! The MQTT client of tests and benches: packet by packet, as it is told. It answers nothing by
//! itself, so that a test decides what is acknowledged and when. Its raw half writes and reads
//! bytes, for what no client should send.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use wellhead::mqtt::{
    ConnAck, Connect, Decoder, Packet, PacketId, Progress, Properties, Publish, QoS, ReasonCode,
    Subscribe, SubscribeOptions, TopicFilter, TopicName, Version, encode,
};

/// How long a packet may take; generous, because machines are shared.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_PACKET: usize = 1 << 20;

/// CONNECT of a session that ends with its connection: no keep alive, no user, no will.
pub(crate) fn hello(version: Version, client_id: &str) -> Connect {
    Connect {
        version,
        is_bridge: false,
        clean_start: true,
        keep_alive: 0,
        client_id: client_id.into(),
        will: None,
        username: None,
        password: None,
        properties: Properties::default(),
    }
}

/// A message; [`Client::publish`] gives it its packet identifier.
pub(crate) fn message(topic: &str, qos: QoS, payload: impl Into<Bytes>) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::new(topic).unwrap()),
        packet_id: None,
        properties: Properties::default(),
        payload: payload.into(),
    }
}

/// The bytes of a packet.
pub(crate) fn bytes_of(packet: &Packet, version: Version) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode(packet, version, &mut bytes);
    bytes
}

/// Bytes of a connection as they come, and the packets in them.
#[derive(Debug)]
pub(crate) struct Incoming {
    decoder: Decoder,
    bytes: BytesMut,
}

impl Incoming {
    /// Of a client.
    pub(crate) fn client(version: Version) -> Self {
        Self::new(Decoder::client(version, MAX_PACKET))
    }

    pub(crate) fn new(decoder: Decoder) -> Self {
        Self {
            decoder,
            bytes: BytesMut::new(),
        }
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// True if no part of a packet is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next packet, if all of it has come. Panics at one that is malformed: whatever is under
    /// test must not send such.
    pub(crate) fn next_packet(&mut self) -> Option<Packet> {
        match self.decoder.decode(&mut self.bytes) {
            Ok(Progress::Packet(packet)) => Some(packet),
            Ok(Progress::NeedMore) => None,
            Err(error) => panic!("what came cannot be read: {error}: {:02x?}", self.bytes),
        }
    }

    /// Reads until there is a packet.
    pub(crate) fn read_packet(&mut self, source: &mut impl Read) -> io::Result<Packet> {
        loop {
            if let Some(packet) = self.next_packet() {
                return Ok(packet);
            }
            self.read_some(source)?;
        }
    }

    /// Reads once.
    fn read_some(&mut self, source: &mut impl Read) -> io::Result<()> {
        let mut space = [0; 16 * 1024];
        match source.read(&mut space)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            count => {
                self.extend(&space[..count]);
                Ok(())
            }
        }
    }
}

/// A connection to a broker on this machine.
#[derive(Debug)]
pub(crate) struct Client {
    /// For a load that writes and reads bytes of its own.
    pub(crate) stream: TcpStream,
    incoming: Incoming,
    version: Version,
    last_id: u16,
}

impl Client {
    /// A connection over which nothing has been said.
    pub(crate) fn dial(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let version = Version::V311;
        Ok(Self {
            stream,
            incoming: Incoming::client(version),
            version,
            last_id: 0,
        })
    }

    /// Says CONNECT, and waits for the answer. An error if the connection ends without one.
    pub(crate) fn connect(port: u16, hello: Connect) -> io::Result<(Self, ConnAck)> {
        let mut client = Self::dial(port)?;
        client.send(&Packet::Connect(Box::new(hello)));
        match client.incoming.read_packet(&mut client.stream)? {
            Packet::ConnAck(answer) => Ok((client, answer)),
            other => panic!("{} instead of CONNACK", other.name()),
        }
    }

    /// One that is let in.
    pub(crate) fn accepted(port: u16, hello: Connect) -> Self {
        let (client, answer) = Self::connect(port, hello).unwrap();
        assert_eq!(answer.reason, ReasonCode::SUCCESS);
        client
    }

    /// How long a read waits.
    pub(crate) fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }

    /// That the broker has closed the connection, the next read tells.
    pub(crate) fn send(&mut self, packet: &Packet) {
        if let Packet::Connect(connect) = packet {
            self.version = connect.version;
            self.incoming = Incoming::client(connect.version);
        }
        let _ = self.stream.write_all(&bytes_of(packet, self.version));
    }

    /// The next packet; `None` if the connection has ended. Panics if nothing comes.
    pub(crate) fn read_packet(&mut self) -> Option<Packet> {
        match self.incoming.read_packet(&mut self.stream) {
            Ok(packet) => Some(packet),
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing comes"),
            Err(_) => None,
        }
    }

    /// The next packet of those that have been taken in.
    pub(crate) fn next_packet(&mut self) -> Option<Packet> {
        self.incoming.next_packet()
    }

    /// Takes in what has come, without waiting; false if nothing has. An error if the connection
    /// has ended.
    pub(crate) fn take_in(&mut self) -> io::Result<bool> {
        self.stream.set_nonblocking(true)?;
        let taken = self.incoming.read_some(&mut self.stream);
        self.stream.set_nonblocking(false)?;
        match taken {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads until a packet that is wanted, over others.
    pub(crate) fn await_packet<T>(&mut self, wanted: impl Fn(Packet) -> Option<T>) -> T {
        loop {
            let packet = self.read_packet().expect("the connection lasts");
            if let Some(found) = wanted(packet) {
                return found;
            }
        }
    }

    /// Reads until PUBACK.
    pub(crate) fn await_puback(&mut self) {
        self.await_packet(|packet| matches!(packet, Packet::PubAck(_)).then_some(()));
    }

    fn next_id(&mut self) -> PacketId {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        PacketId::new(self.last_id).unwrap()
    }

    /// Sends a message, which gets the next packet identifier if it needs one.
    pub(crate) fn publish(&mut self, message: Publish) {
        let packet_id = (message.qos != QoS::AtMostOnce).then(|| self.next_id());
        self.send(&Packet::Publish(Publish {
            packet_id,
            ..message
        }));
    }

    /// Subscribes; what each filter was granted.
    pub(crate) fn subscribe(&mut self, filters: &[impl AsRef<str>], qos: QoS) -> Vec<ReasonCode> {
        let options = SubscribeOptions {
            qos,
            ..SubscribeOptions::default()
        };
        let packet_id = self.next_id();
        let filters = filters
            .iter()
            .map(|text| (TopicFilter::new(text.as_ref()).unwrap(), options))
            .collect();
        self.send(&Packet::Subscribe(Subscribe {
            packet_id,
            filters,
            properties: Properties::default(),
        }));
        self.await_packet(|packet| match packet {
            Packet::SubAck(grants) => Some(grants.reasons),
            _ => None,
        })
    }

    /// PINGREQ and its answer: everything before it has been worked on then.
    pub(crate) fn ping(&mut self) {
        self.send(&Packet::PingReq);
        self.await_packet(|packet| (packet == Packet::PingResp).then_some(()));
    }

    /// Writes any bytes.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads so many bytes, whatever they say.
    pub(crate) fn read_bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// All bytes until the connection ends.
    pub(crate) fn read_rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}
