//! The task of one uplink: connect, send what waits, take what comes, reconnect.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until};
use tokio_rustls::TlsConnector;

use super::link::{Accepted, Command, Incoming, Link, LinkError};
use super::session::{Send, Session, Verdict};
use super::status::Status;
use super::{Settings, TlsError, tls};
use crate::backoff::Backoff;
use crate::message::{Message, Origin};
use crate::mqtt::{PacketId, Properties, QoS, TopicName};
use crate::outbox::Outbox;
use crate::reading::Timestamp;
use crate::tasks::Stop;
use crate::time::{now, unix_ms};

/// Entries brought from the outbox at a time.
const READ_BATCH: usize = 256;
/// Packets taken from the remote before sending goes on.
const RECEIVE_BATCH: usize = 512;
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// A link that takes no byte for this long is dead.
const STALL: Duration = Duration::from_secs(30);
/// A connection that lived so long, or brought an acknowledgement, starts the pauses between attempts anew.
const PROVEN: Duration = Duration::from_secs(60);

/// An uplink that is ready to run.
pub struct Uplink {
    settings: Settings,
    tls: Option<TlsConnector>,
    outbox: Outbox,
    live: Option<mpsc::Sender<Message>>,
    newest: watch::Receiver<u64>,
    session: Session,
    status: Status,
    /// The last entry taken from the outbox.
    taken: u64,
}

/// Checks the certificates of an uplink and makes it ready. `live` takes what it receives and its status to local clients.
pub fn prepare(settings: Settings, outbox: Outbox, live: Option<mpsc::Sender<Message>>) -> Result<Uplink, TlsError> {
    let tls = if settings.remote.tls {
        Some(TlsConnector::from(tls::client_config(settings.ca.as_deref(), settings.identity.as_ref())?))
    } else {
        None
    };
    let status = Status::new(settings.name.clone(), live.clone(), outbox.clone());
    let session = Session::new(settings.window);
    Ok(Uplink { tls, newest: outbox.newest(), session, status, taken: 0, settings, outbox, live })
}

/// How a connection ended.
enum End {
    Lost(LinkError),
    /// The stop order came and nothing waits any more, or the grace is over.
    Drained,
}

impl Uplink {
    /// Runs until the stop order; then at most `grace` longer, to send what waits.
    pub async fn run(mut self, mut stop: Stop, grace: Duration) {
        let mut backoff = Backoff::new(self.settings.retry.0, self.settings.retry.1);
        self.status.show();
        loop {
            let opened = tokio::select! {
                opened = Link::open(&self.settings, self.tls.as_ref()) => opened,
                () = stop.wait() => return,
            };
            let error = match opened {
                Ok((link, accepted)) => {
                    let (since, before) = (now(), self.status.counters.acknowledged.value());
                    self.status.connected(&self.settings.remote);
                    match self.serve(link, accepted, stop.clone(), grace).await {
                        End::Drained => return,
                        End::Lost(error) => {
                            if self.status.counters.acknowledged.value() > before || now() >= since + PROVEN {
                                backoff.reset();
                                self.status.proven();
                            }
                            error
                        }
                    }
                }
                Err(error) => error,
            };
            self.status.disconnected(&error.to_string());
            let retry_at = now() + backoff.next_delay();
            while now() < retry_at {
                tokio::select! {
                    () = sleep_until(retry_at.into()) => {}
                    () = sleep(STATUS_EVERY) => self.status.show(),
                    () = stop.wait() => return,
                }
            }
        }
    }

    async fn serve(&mut self, link: Link, accepted: Accepted, stop: Stop, grace: Duration) -> End {
        self.session.connected(accepted.receive_maximum);
        let keep_alive = accepted.keep_alive.map_or(self.settings.keep_alive, |seconds| Duration::from_secs(u64::from(seconds)));
        tracing::debug!(uplink = %self.settings.name, session_present = accepted.session_present, "session at the remote");
        let at = now();
        let mut connection = Connection {
            uplink: self,
            link,
            // The remote may switch it off.
            keep_alive: Some(keep_alive).filter(|keep_alive| *keep_alive > Duration::ZERO),
            heard: at,
            asked: at,
            give_up: None,
            unwritten: VecDeque::new(),
        };
        let ended = connection.run(stop, grace).await;
        // QoS 0 may be lost on the way; it is not sent twice.
        let rest = connection.unwritten.drain(..).map(|(_, seq)| seq).collect();
        self.outbox.settle(rest).await;
        match ended {
            Ok(()) => End::Drained,
            Err(error) => End::Lost(error),
        }
    }
}

/// One connection of an uplink.
struct Connection<'a> {
    uplink: &'a mut Uplink,
    link: Link,
    keep_alive: Option<Duration>,
    heard: Instant,
    /// When the remote was last asked for a sign of life.
    asked: Instant,
    /// Set by the stop order.
    give_up: Option<Instant>,
    /// QoS 0 messages that are done when the link has written so many bytes.
    unwritten: VecDeque<(u64, u64)>,
}

impl Connection<'_> {
    async fn run(&mut self, mut stop: Stop, grace: Duration) -> Result<(), LinkError> {
        if !self.uplink.settings.receive.is_empty() {
            self.link.feed(Command::Subscribe(self.uplink.settings.receive.clone()))?;
        }
        let mut status = tokio::time::interval(STATUS_EVERY);
        loop {
            self.send_waiting().await?;
            if self.is_drained() {
                return self.say_goodbye().await;
            }
            let wants_more = self.link.has_room() && self.uplink.session.room() > 0;
            tokio::select! {
                incoming = self.link.next() => self.receive(incoming?).await?,
                changed = self.uplink.newest.changed(), if wants_more => {
                    if changed.is_err() {
                        return Err(LinkError::Broken("the outbox is closed".to_owned()));
                    }
                }
                _ = status.tick() => {
                    self.uplink.status.show();
                    self.check_life()?;
                }
                () = stop.wait(), if self.give_up.is_none() => self.give_up = Some(now() + grace),
            }
        }
    }

    /// Asks for a sign of life, and judges its absence. Bytes that the link takes are one too.
    fn check_life(&mut self) -> Result<(), LinkError> {
        let at = now();
        if !self.link.is_idle() && at >= self.link.progress() + STALL {
            return Err(LinkError::Broken(format!("the link took nothing for {} s", STALL.as_secs())));
        }
        let Some(keep_alive) = self.keep_alive else { return Ok(()) };
        let alive = if self.link.is_idle() { self.heard } else { self.heard.max(self.link.progress()) };
        if at >= alive + keep_alive.mul_f64(1.5) {
            return Err(LinkError::Broken(format!("the remote was silent for {} s", keep_alive.mul_f64(1.5).as_secs())));
        }
        if at + STATUS_EVERY >= alive.max(self.asked) + keep_alive {
            self.asked = at;
            self.link.feed(Command::Ping)?;
        }
        Ok(())
    }

    /// DISCONNECT, written as far as the link takes it in a moment.
    async fn say_goodbye(&mut self) -> Result<(), LinkError> {
        self.link.feed(Command::Disconnect)?;
        let written = async {
            while !self.link.is_idle() {
                self.link.next().await?;
            }
            Ok(())
        };
        tokio::time::timeout(STATUS_EVERY, written).await.unwrap_or(Ok(()))
    }

    /// True once the stop order was given and nothing waits, or the grace is over.
    fn is_drained(&self) -> bool {
        let empty = || self.uplink.session.in_flight() == 0 && self.uplink.outbox.counters().waiting.value() == 0;
        self.give_up.is_some_and(|at| now() >= at || empty())
    }

    /// Collects from session and outbox what window and link have room for.
    async fn send_waiting(&mut self) -> Result<(), LinkError> {
        let mut refused = Vec::new();
        while self.link.has_room() {
            let Some(send) = self.uplink.session.next() else {
                if self.take_waiting().await? == 0 {
                    break;
                }
                continue;
            };
            if let Some(seq) = self.collect(send)? {
                refused.push(seq);
            }
        }
        let written = self.link.written();
        let done = self.unwritten.iter().take_while(|(end, _)| *end <= written).count();
        refused.extend(self.unwritten.drain(..done).map(|(_, seq)| seq));
        self.uplink.outbox.settle(refused).await;
        Ok(())
    }

    /// Collects one message. Returns its number if it is given up: it has expired, or is too large.
    fn collect(&mut self, send: Send) -> Result<Option<u64>, LinkError> {
        let Send { seq, packet_id, dup, mut message } = send;
        let topic = message.topic.clone();
        let fits = if message.age(Timestamp::at(unix_ms())) {
            let number = self.uplink.settings.numbered.then_some(seq);
            let fits = self.link.feed(Command::Publish { packet_id, dup, message, number })?;
            if !fits {
                self.refuse(seq, "larger than the remote takes", topic.as_str());
            }
            fits
        } else {
            tracing::debug!(seq, %topic, "expired while it waited");
            false
        };
        if !fits {
            self.uplink.session.forget(seq);
            return Ok(Some(seq));
        }
        if packet_id.is_none() {
            self.unwritten.push_back((self.link.collected(), seq));
        }
        Ok(None)
    }

    /// Takes messages from the outbox into the session, and returns how many.
    async fn take_waiting(&mut self) -> Result<usize, LinkError> {
        let room = self.uplink.session.room().min(READ_BATCH);
        if room == 0 || *self.uplink.newest.borrow_and_update() <= self.uplink.taken {
            return Ok(0);
        }
        let read = self.uplink.outbox.read(self.uplink.taken, room).await;
        let waiting = read.map_err(|error| LinkError::Broken(error.to_string()))?;
        let count = waiting.len();
        for next in waiting {
            self.uplink.taken = next.seq;
            self.uplink.session.offer(next);
        }
        Ok(count)
    }

    /// Takes a packet and those that are there already, so that one write and one settling serve many.
    async fn receive(&mut self, first: Incoming) -> Result<(), LinkError> {
        if first != Incoming::Written {
            self.heard = now();
        }
        let mut settled = Vec::new();
        let mut outcome = self.take(first, &mut settled).await;
        for _ in 0..RECEIVE_BATCH {
            if outcome.is_err() {
                break;
            }
            let Some(next) = self.link.next_ready() else { break };
            outcome = match next {
                Ok(incoming) => self.take(incoming, &mut settled).await,
                Err(error) => Err(error),
            };
        }
        // What was acknowledged is settled even if the connection broke just after.
        self.uplink.outbox.settle(settled).await;
        outcome
    }

    async fn take(&mut self, incoming: Incoming, settled: &mut Vec<u64>) -> Result<(), LinkError> {
        match incoming {
            Incoming::PubAck(packet_id, reason) => match self.uplink.session.acknowledged(packet_id, reason) {
                Verdict::Delivered(seq) => {
                    self.uplink.status.counters.acknowledged.count();
                    settled.push(seq);
                }
                Verdict::Refused { seq, reason, topic } => {
                    self.refuse(seq, &reason.to_string(), &topic);
                    settled.push(seq);
                }
                Verdict::Later(reason) => return Err(LinkError::Broken(format!("the remote cannot take messages now: {reason}"))),
                Verdict::Unknown => tracing::debug!(packet_id, "acknowledgement of nothing in flight"),
            },
            Incoming::Publish { topic, payload, retain, packet_id, properties } => {
                self.publish(topic, payload, retain, packet_id, properties).await?;
            }
            Incoming::SubAck(failed) => {
                for filter in failed.iter().filter_map(|index| self.uplink.settings.receive.get(*index)) {
                    tracing::error!(uplink = %self.uplink.settings.name, %filter, "the remote does not allow this subscription; change `receive` or the rights of this gateway");
                }
            }
            Incoming::Disconnect(reason) => return Err(LinkError::Broken(format!("the remote broker disconnected: {reason}"))),
            Incoming::Accepted(_) | Incoming::Refused(_) => return Err(LinkError::Broken("a second CONNACK".to_owned())),
            Incoming::Unusable(packet_id) => {
                tracing::warn!(uplink = %self.uplink.settings.name, "a message of the remote is dropped: its topic is too deep or not allowed");
                if let Some(packet_id) = packet_id {
                    self.link.feed(Command::PubAck(packet_id))?;
                }
            }
            Incoming::Written | Incoming::Other => {}
        }
        Ok(())
    }

    fn refuse(&self, seq: u64, reason: &str, topic: &str) {
        self.uplink.status.counters.refused.count();
        tracing::error!(uplink = %self.uplink.settings.name, seq, topic, reason, "the remote does not take this message; it is given up");
    }

    /// Hands a message of the remote to local clients; acknowledged when the broker has it.
    async fn publish(
        &mut self,
        topic: TopicName,
        payload: bytes::Bytes,
        retain: bool,
        packet_id: Option<PacketId>,
        mut properties: Properties,
    ) -> Result<(), LinkError> {
        self.uplink.status.counters.received.count();
        let expires_at = properties.message_expiry.map(|seconds| now() + Duration::from_secs(u64::from(seconds)));
        if expires_at.is_some() {
            properties.edit().message_expiry = None;
        }
        let qos = if packet_id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let message = Message { topic, payload, qos, retain, properties, expires_at, origin: Origin::Uplink(self.uplink.settings.index) };
        // During a stop the broker is gone first: the message is not acknowledged, and comes again after the next start.
        let taken = match &self.uplink.live {
            Some(live) => live.send(message).await.is_ok(),
            None => true,
        };
        if let Some(packet_id) = packet_id.filter(|_| taken) {
            self.link.feed(Command::PubAck(packet_id))?;
        }
        Ok(())
    }
}
