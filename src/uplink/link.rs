//! The connection to a remote broker: TCP or TLS, and rumqttc's codec for MQTT 5 and 3.1.1 (`codec`). Only these two files name
//! rumqttc.
//!
//! Its client and event loop are not used: they choose packet identifiers and repeat messages on their own, so that nothing
//! could be promised across a crash. Identifiers, order and repetition are [`super::session`]'s.

mod codec;

use std::io;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::Settings;
use crate::mqtt::{PacketId, Properties, ReasonCode, TopicFilter, TopicName};
use crate::outbox::Outgoing;
use crate::time::now;
use codec::Codec;

/// Bytes collected before the link has taken them; one packet may exceed it.
const WRITE_AHEAD: usize = 64 * 1024;

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
