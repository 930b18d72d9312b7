//! An MQTT client of the local broker, for commands: one connection, one request at a time.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;

use super::{Failure, say, usual_file};
use crate::broker::net::{Listen, Transport};
use crate::config;
use crate::files;
use crate::mqtt::{
    ClientLogin, MqttClient, Packet, Publish, QoS, ReasonCode, SubscribeOptions, TopicFilter,
    TopicName,
};
use crate::time::now;

/// How long the broker may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_PACKET: usize = 256 << 20;
/// How long a broker keeps a session, in seconds: for ever.
const SESSION_EXPIRY: u32 = u32::MAX;

/// The address of the broker and the login there.
#[derive(Debug, Args)]
pub(super) struct BrokerAccess {
    /// The broker [default: the first plain listener of the YAML file, else mqtt://127.0.0.1:1883]
    #[arg(long, value_name = "ADDRESS", global = true)]
    to: Option<Listen>,
    /// The YAML file whose broker it is [default: ./gateway.yaml, then /etc/wellhead/gateway.yaml]
    #[arg(long, value_name = "FILE", global = true)]
    file: Option<PathBuf>,
    /// A user name from `broker.users`
    #[arg(long, global = true)]
    user: Option<String>,
    /// File with the password in its first line
    #[arg(long, value_name = "FILE", requires = "user", global = true)]
    password_file: Option<PathBuf>,
}

impl BrokerAccess {
    /// The file that is named, else the usual one, if there is one. With a named broker no file is
    /// needed, nor the right to read it.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.file
            .clone()
            .or_else(|| if self.is_named() { None } else { usual_file() })
    }

    /// True if the broker is named on the command line.
    pub(super) fn is_named(&self) -> bool {
        self.to.is_some()
    }

    /// True if the broker is named and no file.
    pub(super) fn is_without_file(&self) -> bool {
        self.to.is_some() && self.file.is_none()
    }

    fn address(&self) -> Result<Listen, Failure> {
        if let Some(address) = &self.to {
            return Ok(address.clone());
        }
        let Some(file) = self.file() else {
            return "mqtt://127.0.0.1:1883".parse().map_err(Failure::runtime);
        };
        let config = config::load(&file)?;
        let is_plain = |listen: &&Listen| {
            matches!(
                listen,
                Listen::Unix(_)
                    | Listen::Port {
                        transport: Transport::Tcp,
                        port: 1..,
                        ..
                    }
            )
        };
        let found = config
            .broker
            .iter()
            .flat_map(|broker| &broker.listen)
            .find(is_plain)
            .cloned();
        found.ok_or_else(|| {
            Failure::runtime(format!(
                "{} has no listener of plain MQTT; name a broker with --to mqtt://<address>:<port>",
                file.display()
            ))
        })
    }

    /// Connects and logs in.
    pub(super) fn connect(&self) -> Result<Client, Failure> {
        self.connect_as(None)
    }

    /// Connects and logs in, to a session of this name that the broker keeps.
    pub(super) fn connect_as(&self, session: Option<&str>) -> Result<Client, Failure> {
        let address = self.address()?;
        let stream = open(&address)?;
        let password = self.password_file.as_deref().map(password).transpose()?;
        let login = ClientLogin {
            user: self.user.as_deref().map(Into::into),
            password: password.map(Bytes::from),
            client_id: session.unwrap_or_default().into(),
            session_expiry: session.map(|_| SESSION_EXPIRY),
            ..ClientLogin::default()
        };
        let mut client = Client {
            address,
            stream,
            packets: MqttClient::connect(login, MAX_PACKET),
            early: VecDeque::new(),
        };
        let reason = client.expect("CONNACK", |packet| match packet {
            Packet::ConnAck(answer) => Some(answer.reason),
            _ => None,
        })?;
        client.accepted("the connection", reason)?;
        Ok(client)
    }
}

fn open(address: &Listen) -> Result<Stream, Failure> {
    let failed = |error: io::Error| {
        Failure::runtime(format!(
            "{address}: {error}; is the gateway running? --to names another broker"
        ))
    };
    match address {
        Listen::Unix(path) => UnixStream::connect(path).map(Stream::Unix).map_err(failed),
        Listen::Port {
            transport: Transport::Tcp,
            host,
            port,
        } => TcpStream::connect((connectable(host), *port))
            .map(Stream::Tcp)
            .map_err(failed),
        other => Err(Failure::runtime(format!(
            "{other}: only plain MQTT; write mqtt://<address>:<port> or unix:///<path>"
        ))),
    }
}

/// The address at which a listener on every address is reached.
fn connectable(host: &str) -> &str {
    match host {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    }
}

fn password(file: &Path) -> Result<String, Failure> {
    let secret = files::first_line(file).map_err(|error| {
        Failure::runtime(format!(
            "{}: {error}; name a file that holds the password and that you may read",
            file.display()
        ))
    })?;
    for remark in secret.remarks {
        say(&format!("{}: {remark}", file.display()));
    }
    Ok(secret.text)
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
            Self::Unix(stream) => stream.set_read_timeout(timeout),
        }
    }

    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(space),
            Self::Unix(stream) => stream.read(space),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }
}

/// A connection to a broker.
#[derive(Debug)]
pub(super) struct Client {
    address: Listen,
    stream: Stream,
    packets: MqttClient,
    /// Messages that came before an awaited answer.
    early: VecDeque<Publish>,
}

impl Client {
    /// An error if the broker refuses `what`.
    fn accepted(&self, what: &str, reason: ReasonCode) -> Result<(), Failure> {
        if reason.is_error() {
            return Err(self.refused(what, reason));
        }
        Ok(())
    }

    fn refused(&self, what: &str, reason: ReasonCode) -> Failure {
        Failure::runtime(format!(
            "{}: {what} was refused: {reason}; --user and --password-file say who you are",
            self.address
        ))
    }

    /// Writes the packets that were made.
    fn flush(&mut self) -> Result<(), Failure> {
        let bytes = self.packets.output.split();
        let written = self.stream.write_all(&bytes);
        written.map_err(|error| Failure::runtime(format!("{}: {error}", self.address)))
    }

    /// The next packet; `None` if there is none until `deadline`.
    fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Packet>, Failure> {
        let address = self.address.clone();
        let failed = |what: &dyn std::fmt::Display| Failure::runtime(format!("{address}: {what}"));
        self.flush()?;
        loop {
            let packet = self.packets.next_packet();
            if let Some(packet) = packet.map_err(|error| failed(&error.what))? {
                return Ok(Some(packet));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            self.stream
                .set_read_timeout(left)
                .map_err(|error| failed(&error))?;
            let mut space = [0; 16 * 1024];
            match self.stream.read(&mut space) {
                Ok(0) => return Err(failed(&"the broker closed the connection")),
                Ok(count) => self
                    .packets
                    .input
                    .extend_from_slice(space.get(..count).unwrap_or_default()),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&error)),
            }
        }
    }

    /// Waits for an answer; messages that come before it are kept.
    fn expect<T>(
        &mut self,
        what: &str,
        wanted: impl Fn(Packet) -> Option<T>,
    ) -> Result<T, Failure> {
        let deadline = now() + ANSWER_TIMEOUT;
        while let Some(packet) = self.next(Some(deadline))? {
            if let Packet::Disconnect(end) = &packet {
                return Err(self.refused("this", end.reason));
            }
            if let Packet::Publish(publish) = packet {
                self.early.push_back(publish);
            } else if let Some(found) = wanted(packet) {
                return Ok(found);
            }
        }
        Err(Failure::runtime(format!(
            "{}: no {what} in {} s",
            self.address,
            ANSWER_TIMEOUT.as_secs()
        )))
    }

    /// Subscribes; retained messages come first.
    pub(super) fn subscribe(&mut self, filters: &[TopicFilter]) -> Result<(), Failure> {
        let options = SubscribeOptions {
            qos: QoS::AtLeastOnce,
            retain_as_published: true,
            ..SubscribeOptions::default()
        };
        self.packets.subscribe(filters, options);
        let reasons = self.expect("SUBACK", |packet| match packet {
            Packet::SubAck(grants) => Some(grants.reasons),
            _ => None,
        })?;
        reasons
            .into_iter()
            .try_for_each(|reason| self.accepted("the subscription", reason))
    }

    /// Publishes, and waits until the broker has it.
    pub(super) fn publish(
        &mut self,
        topic: TopicName,
        payload: Bytes,
        retain: bool,
    ) -> Result<(), Failure> {
        self.packets.publish(topic, payload, retain);
        let reason = self.expect("PUBACK", |packet| match packet {
            Packet::PubAck(ack) => Some(ack.reason),
            _ => None,
        })?;
        self.accepted("the message", reason)
    }

    /// Tells the broker that a message is done with.
    pub(super) fn acknowledge(&mut self, publish: &Publish) -> Result<(), Failure> {
        self.packets.acknowledge(publish);
        self.flush()
    }

    /// The next message, acknowledged; `None` if there is none until `deadline`.
    pub(super) fn message(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<Publish>, Failure> {
        let message = self.unacknowledged(deadline)?;
        if let Some(publish) = &message {
            self.acknowledge(publish)?;
        }
        Ok(message)
    }

    /// The next message, which is to be [acknowledged](Self::acknowledge); `None` if there is none
    /// until `deadline`.
    pub(super) fn unacknowledged(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<Publish>, Failure> {
        if let Some(publish) = self.early.pop_front() {
            return Ok(Some(publish));
        }
        while let Some(packet) = self.next(deadline)? {
            match packet {
                Packet::Publish(publish) => return Ok(Some(publish)),
                Packet::Disconnect(end) => {
                    return Err(Failure::runtime(format!(
                        "{}: the broker ends this: {}",
                        self.address, end.reason
                    )));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}
