//! The connection to a remote broker: a byte stream, and rumqttc's codec for MQTT 5 and 3.1.1
//! (`codec`). Only these files name rumqttc.
//!
//! Its client and event loop are not used: they choose packet identifiers and repeat messages on
//! their own, so that nothing could be promised across a crash. Identifiers, order and repetition
//! are [`super::session`]'s.

mod codec;
mod identifiers;

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::sleep_until;

use super::failure::{LinkError, before_connack};
use super::presence::PresenceWill;
use super::probable::stranger;
use super::subscriptions::SubscribeRequest;
use super::transport::Stream;
use super::{Protocol, Remote, RemoteSecret, UplinkSettings};
use crate::message::{Message, Origin};
use crate::mqtt::{PacketId, Properties, QoS, ReasonCode, TopicName};
use crate::outbox::Outgoing;
use crate::time::now;
use codec::Codec;

/// Bytes collected before the link has taken them, at most; one packet may exceed it. What is
/// collected cannot be overtaken by an alarm.
const WRITE_AHEAD: usize = 32 * 1024;
/// And at least, however slow the link is.
const LEAST_AHEAD: usize = 2 * 1024;
/// Small writes are put together to about one packet, for a small part of a round trip: headers are
/// billed too.
const PACKET: usize = 1400;
const PART_OF_ROUND_TRIP: u32 = 16;
const LONGEST_COMPANY: Duration = Duration::from_millis(25);
/// The slowest link on which it is judged whether the remote lives, in bytes a second.
const SLOWEST: u64 = 2000;
/// A remote that takes less takes no message.
const LEAST_PACKET: u32 = 32;
/// Bytes read from a connection that takes nothing any more, at most.
const READ_AFTER_END: usize = 1 << 20;
/// Topic aliases in use at most, so that a table stays small on both sides.
const MAX_ALIASES: u16 = 256;

/// A message of the remote.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Received {
    pub(super) topic: TopicName,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// The remote says that it may have sent it before.
    pub(super) is_repeated: bool,
    /// `None` for QoS 0.
    pub(super) packet_id: Option<PacketId>,
    pub(super) properties: Properties,
    /// The identifiers of the subscriptions that it came for, if the remote tells them.
    pub(super) subscriptions: Vec<u32>,
}

impl Received {
    /// The message, as conditions of rules look into it.
    pub(super) fn message(&self, origin: Origin) -> Message {
        Message {
            properties: self.properties.clone(),
            ..Message::new(self.topic.clone(), self.payload.clone(), origin)
        }
    }
}

/// A packet of the remote.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Incoming {
    Accepted(Accepted),
    Refused(ReasonCode, String),
    Publish(Received),
    PubAck(PacketId, ReasonCode),
    PubRec(PacketId, ReasonCode),
    PubRel(PacketId),
    PubComp(PacketId),
    /// The granted QoS, in the order of the filters; `None` for a refusal.
    SubAck(Vec<Option<QoS>>),
    /// The same for [`Command::AskForState`].
    QuestionAck(Vec<Option<QoS>>),
    /// The reason, and the same for people.
    Disconnect(ReasonCode, String),
    /// A message under a topic that is none here; to be acknowledged and forgotten.
    Unusable(Option<PacketId>, QoS),
    /// Not from the remote: bytes were written.
    Written,
    PingResp,
    /// Anything else, which only shows that the remote lives.
    Other,
}

/// Limits of the remote on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) session_present: bool,
    pub(super) receive_maximum: u16,
    /// How many of them may be of QoS 2.
    pub(super) max_exact: usize,
    pub(super) max_packet: Option<u32>,
    pub(super) keep_alive: Option<u16>,
    pub(super) max_qos: QoS,
    pub(super) retain_available: bool,
    pub(super) wildcards_available: bool,
    pub(super) topic_aliases: u16,
    /// A subscription may have an identifier.
    pub(super) identifiers_available: bool,
    /// A subscription that is asked for again does not bring what is retained again.
    pub(super) keeps_retained_quiet: bool,
}

/// Whether a session that the remote keeps is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Whatever it has is forgotten.
    Clean,
    /// It is resumed.
    Resume,
}

/// How a connection begins.
#[derive(Debug, Clone)]
pub(super) struct Hello {
    pub(super) start: Start,
    pub(super) will: Option<PresenceWill>,
    pub(super) login: Option<(String, RemoteSecret)>,
}

/// The content of CONNECT.
#[derive(Debug, Clone)]
pub(super) struct Opening {
    client_id: String,
    /// In seconds.
    keep_alive: u16,
    /// How long the remote may keep the session, in seconds.
    session_expiry: u32,
    hello: Hello,
}

/// A topic alias of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Alias {
    number: u16,
    /// The remote does not know it yet: the packet sets it.
    is_new: bool,
}

/// A packet of this side.
#[derive(Debug, Clone)]
pub(super) enum Command {
    Connect(Box<Opening>),
    /// `number` is the value of the user property that names the message.
    Publish {
        packet_id: Option<PacketId>,
        dup: bool,
        message: Outgoing,
        number: Option<String>,
    },
    /// A message of the uplink itself, not from the outbox.
    Own {
        packet_id: Option<PacketId>,
        message: Outgoing,
    },
    PubAck(PacketId),
    PubRec(PacketId),
    PubRel(PacketId),
    PubComp(PacketId),
    Subscribe(SubscribeRequest),
    /// SUBSCRIBE that brings what is retained on a topic, whatever the session has.
    AskForState(TopicName),
    /// With the number of the packet on this connection.
    Unsubscribe(u16, Vec<String>),
    Ping,
    Disconnect,
}

/// A connection that was accepted by the remote.
///
/// Packets are collected and written while the next packet is awaited: a link that is slow to take
/// bytes still brings acknowledgements.
pub(super) struct Link {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    codec: Codec,
    input: BytesMut,
    output: BytesMut,
    /// Bytes that may be collected.
    ahead: usize,
    max_packet: usize,
    retain_available: bool,
    /// How many topic aliases the remote takes.
    max_aliases: u16,
    aliases: HashMap<TopicName, u16>,
    /// CONNACK came.
    is_accepted: bool,
    /// It takes nothing any more.
    broken: Option<LinkError>,
    /// Written, but perhaps still in a buffer of TLS.
    unflushed: bool,
    /// Bytes collected and bytes written since the connection began.
    collected: u64,
    written: u64,
    /// When the link last took bytes, or had none to take.
    progress: Instant,
    /// When the link last took bytes.
    last_write: Instant,
    /// When bytes last came, and how much had been written then.
    heard: Instant,
    written_when_heard: u64,
    /// From CONNECT to CONNACK.
    round_trip: Duration,
    /// How long a small write waits for others after the last one.
    company: Duration,
}

impl Link {
    /// Begins MQTT on a stream to a remote: CONNECT, and the CONNACK that answers it.
    pub(super) async fn begin(
        settings: &UplinkSettings,
        remote: &Remote,
        stream: Box<dyn Stream>,
        hello: Hello,
    ) -> Result<(Self, Accepted), LinkError> {
        let mut link = Self::on(stream, settings.protocol);
        let asked = now();
        link.feed(Command::Connect(Box::new(Opening {
            client_id: settings.client_id.clone(),
            keep_alive: u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX),
            session_expiry: settings.session_expiry,
            hello,
        })))?;
        let accepted = loop {
            let answer = link.next().await;
            match answer.map_err(|error| before_connack(error, settings.protocol))? {
                Incoming::Written => {}
                Incoming::Accepted(accepted) => break accepted,
                Incoming::Refused(reason, what) => {
                    return Err(LinkError::Refused {
                        what,
                        reason: Some(reason),
                    });
                }
                _ => {
                    return Err(LinkError::Broken(format!(
                        "{remote} did not answer CONNECT with CONNACK"
                    )));
                }
            }
        };
        let cloud = settings.cloud.as_ref();
        let accepted = cloud.map_or(accepted, |cloud| cloud.limit(accepted));
        if let Some(most) = accepted.max_packet.filter(|most| *most < LEAST_PACKET) {
            let what = format!(
                "it takes packets of at most {most} bytes, too few for any message; ask its operator"
            );
            return Err(LinkError::Refused { what, reason: None });
        }
        link.round_trip = now() - asked;
        link.accepted(accepted, settings.max_packet);
        Ok((link, accepted))
    }

    /// A stream that nothing was sent on.
    fn on(stream: Box<dyn Stream>, protocol: Protocol) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let at = now();
        Self {
            reader,
            writer,
            codec: Codec::new(protocol),
            input: BytesMut::new(),
            output: BytesMut::new(),
            ahead: WRITE_AHEAD,
            max_packet: usize::MAX,
            retain_available: true,
            max_aliases: 0,
            aliases: HashMap::new(),
            is_accepted: false,
            broken: None,
            unflushed: false,
            collected: 0,
            written: 0,
            progress: at,
            last_write: at,
            heard: at,
            written_when_heard: 0,
            round_trip: Duration::ZERO,
            company: Duration::ZERO,
        }
    }

    /// The remote has accepted. `max_packet` is the limit of the file.
    fn accepted(&mut self, accepted: Accepted, max_packet: Option<u32>) {
        self.is_accepted = true;
        self.company = company(self.round_trip);
        self.max_packet = accepted
            .max_packet
            .into_iter()
            .chain(max_packet)
            .min()
            .map_or(usize::MAX, |max| max as usize);
        self.retain_available = accepted.retain_available;
        self.max_aliases = accepted.topic_aliases.min(MAX_ALIASES);
    }

    /// Ends a connection whose only purpose was to end the session that the remote had under this
    /// name.
    ///
    /// MQTT 3.1.1 cannot begin a new session and keep it, and mosquitto (2.0.11) does not keep one
    /// that began with Clean Start over its own restart.
    pub(super) async fn close(mut self) -> Result<(), LinkError> {
        self.feed(Command::Disconnect)?;
        // The session is ended; a remote that closes first has read enough.
        while !self.is_idle() && self.next().await.is_ok() {}
        Ok(())
    }

    /// True if the remote keeps retained messages.
    pub(super) fn retains(&self) -> bool {
        self.retain_available
    }

    /// From here on nothing is sent with the retain flag.
    pub(super) fn retain_nothing(&mut self) {
        self.retain_available = false;
    }

    /// Collects a packet; it is written while [`Link::next`] waits. False if it is larger than the
    /// remote takes: then it is not sent.
    pub(super) fn feed(&mut self, mut command: Command) -> Result<bool, LinkError> {
        let is_first = self.output.is_empty();
        let before = self.output.len();
        let mut alias = None;
        if let Command::Publish { message, .. } | Command::Own { message, .. } = &mut command {
            message.retain &= self.retain_available;
        }
        if let Command::Publish { message, .. } = &command {
            alias = self.alias_of(&message.topic);
        }
        let mut new = alias.filter(|alias| alias.is_new).zip(topic_of(&command));
        // A new alias takes three bytes, which may be three too many.
        let plain = new
            .is_some()
            .then(|| command.clone())
            .filter(|_| self.max_packet != usize::MAX);
        self.codec.encode(command, alias, &mut self.output)?;
        if self.output.len() - before > self.max_packet
            && let Some(plain) = plain
        {
            new = None;
            self.output.truncate(before);
            self.codec.encode(plain, None, &mut self.output)?;
        }
        let size = self.output.len() - before;
        if size > self.max_packet {
            self.output.truncate(before);
            return Ok(false);
        }
        if is_first {
            self.progress = now();
        }
        // The remote knows an alias only once it has the packet that sets it.
        if let Some((alias, topic)) = new {
            self.aliases.insert(topic, alias.number);
        }
        self.collected += size as u64;
        Ok(true)
    }

    /// The alias of a topic on this connection. Repetitions are encoded again on every connection,
    /// so that none carries an alias of another one.
    fn alias_of(&self, topic: &TopicName) -> Option<Alias> {
        if let Some(number) = self.aliases.get(topic) {
            return Some(Alias {
                number: *number,
                is_new: false,
            });
        }
        let used = u16::try_from(self.aliases.len()).ok()?;
        (used < self.max_aliases).then_some(Alias {
            number: used + 1,
            is_new: true,
        })
    }

    /// No more is collected than the link takes in a moment, as far as that is known.
    pub(super) fn collect_at_most(&mut self, bytes: usize) {
        self.ahead = bytes.clamp(LEAST_AHEAD, WRITE_AHEAD);
    }

    /// True while more may be collected.
    pub(super) fn has_room(&self) -> bool {
        self.output.len() < self.ahead
    }

    /// True when everything collected was written.
    pub(super) fn is_idle(&self) -> bool {
        self.output.is_empty() && !self.unflushed
    }

    /// Bytes collected since the connection began; what was collected is written when
    /// [`Link::written`] has reached it.
    pub(super) fn collected(&self) -> u64 {
        self.collected
    }

    /// Bytes written since the connection began.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// From CONNECT to CONNACK.
    pub(super) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// When the link last took bytes, or had none to take.
    pub(super) fn progress(&self) -> Instant {
        self.progress
    }

    /// When bytes of the remote last came.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// The next packet of the remote, or the news that bytes were written. Safe to drop while it
    /// waits.
    pub(super) async fn next(&mut self) -> Result<Incoming, LinkError> {
        loop {
            if let Some(what) = stranger(&self.input).filter(|_| !self.is_accepted) {
                return Err(LinkError::Broken(what.to_owned()));
            }
            if let Some(incoming) = self.codec.decode(&mut self.input)? {
                return Ok(incoming);
            }
            if let Some(error) = self.broken.take() {
                return Err(error);
            }
            let write_at = self.write_at();
            let busy = write_at.is_some_and(|at| at <= now());
            tokio::select! {
                read = self.reader.read_buf(&mut self.input) => {
                    if read? == 0 {
                        return Err(LinkError::closed("the remote broker closed the connection".to_owned()));
                    }
                    self.heard = now();
                    self.written_when_heard = self.written;
                }
                written = push(&mut self.writer, &mut self.output), if busy => {
                    let count = match written {
                        Ok(count) => count,
                        Err(error) => {
                            self.broken = Some(error.into());
                            self.read_the_rest();
                            continue;
                        }
                    };
                    self.written += count as u64;
                    self.unflushed = count > 0;
                    self.progress = now();
                    self.last_write = self.progress;
                    return Ok(Incoming::Written);
                }
                () = sleep_until(write_at.unwrap_or(self.progress).into()), if write_at.is_some() && !busy => {}
            }
        }
    }

    /// Takes what the remote has said before it closed: acknowledgements, and perhaps why.
    fn read_the_rest(&mut self) {
        while self.input.len() < READ_AFTER_END {
            match self.reader.read_buf(&mut self.input).now_or_never() {
                Some(Ok(count)) if count > 0 => {}
                _ => break,
            }
        }
    }

    /// When what was collected is to be written.
    fn write_at(&self) -> Option<Instant> {
        if self.is_idle() {
            return None;
        }
        let is_worth_a_packet = self.output.len() >= PACKET || self.output.is_empty();
        Some(if is_worth_a_packet {
            self.progress
        } else {
            self.last_write + self.company
        })
    }

    /// When a remote that owes answers is given up, if it may be silent for `patience`: what was
    /// written since it was heard last must have had time to pass.
    pub(super) fn given_up_at(&self, patience: Duration) -> Instant {
        self.heard + patience + time_to_pass(self.written - self.written_when_heard)
    }

    /// A packet that is there already.
    pub(super) fn next_ready(&mut self) -> Option<Result<Incoming, LinkError>> {
        self.codec.decode(&mut self.input).transpose()
    }
}

/// Writes a part of `output`, or, if it is empty, flushes what TLS still holds: then it returns 0.
/// Safe to drop.
async fn push(writer: &mut (impl AsyncWrite + Unpin), output: &mut BytesMut) -> io::Result<usize> {
    if output.is_empty() {
        writer.flush().await?;
        return Ok(0);
    }
    writer.write_buf(output).await
}

/// How long bytes are on the way over the slowest link.
pub(super) fn time_to_pass(bytes: u64) -> Duration {
    Duration::from_millis(bytes * 1000 / SLOWEST)
}

/// How long small writes wait for company on a link with this round trip; less than two
/// milliseconds are not waited for.
fn company(round_trip: Duration) -> Duration {
    let part = round_trip / PART_OF_ROUND_TRIP;
    if part < Duration::from_millis(2) {
        Duration::ZERO
    } else {
        part.min(LONGEST_COMPANY)
    }
}

fn topic_of(command: &Command) -> Option<TopicName> {
    match command {
        Command::Publish { message, .. } => Some(message.topic.detached()),
        _ => None,
    }
}
