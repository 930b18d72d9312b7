//! One connection of an uplink: sends what waits, takes what comes, judges whether the link lives.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::sleep_until;

use super::inbound::Delivery;
use super::link::{Accepted, Command, Incoming, Link, LinkError};
use super::session::{Send, Step, Verdict};
use super::task::Uplink;
use crate::backoff::Backoff;
use crate::mqtt::{QoS, TopicFilter};
use crate::outbox::{Place, ReadError, Reason};
use crate::reading::Timestamp;
use crate::tasks::Stop;
use crate::time::{now, unix_ms};

/// Entries brought from the outbox at a time.
const READ_BATCH: usize = 256;
/// Packets taken from the remote before sending goes on.
const RECEIVE_BATCH: usize = 512;
/// Changes of the session that are saved at once, however short the last save is ago; at most a sixteenth of the window.
const SAVE_BATCH: usize = 128;
pub(super) const STATUS_EVERY: Duration = Duration::from_secs(1);
/// First and longest pause after the remote said "not now".
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why a connection ended in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// The stop order came and nothing waits any more, or the grace is over.
    Stopped,
    /// A backup that is not needed any more.
    NotNeeded,
}

pub(super) struct Connection<'a> {
    uplink: &'a mut Uplink,
    link: Link,
    keep_alive: Option<Duration>,
    heard: Instant,
    /// When the remote was last asked for a sign of life.
    asked: Instant,
    /// Since when the remote owes an answer.
    owes_since: Option<Instant>,
    /// Set by the stop order.
    give_up: Option<Instant>,
    /// QoS 0 messages that are done when the link has written so many bytes.
    unwritten: VecDeque<(u64, Place)>,
    /// The remote said "not now".
    hold_until: Option<Instant>,
    hold: Backoff,
    /// The disk could not be read: when to try again.
    read_at: Option<Instant>,
}

/// Ready when a save is done; false if it never will be.
async fn saved(saving: &mut Option<oneshot::Receiver<()>>) -> bool {
    match saving {
        Some(saving) => saving.await.is_ok(),
        None => std::future::pending().await,
    }
}

/// Ready at `at`; never without one.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl<'a> Connection<'a> {
    pub(super) fn new(uplink: &'a mut Uplink, link: Link, accepted: Accepted) -> Self {
        let keep_alive = accepted.keep_alive.map_or(uplink.settings.keep_alive, |seconds| Duration::from_secs(u64::from(seconds)));
        let at = now();
        Self {
            uplink,
            link,
            // The remote may switch it off.
            keep_alive: Some(keep_alive).filter(|keep_alive| *keep_alive > Duration::ZERO),
            heard: at,
            asked: at,
            owes_since: None,
            give_up: None,
            unwritten: VecDeque::new(),
            hold_until: None,
            hold: Backoff::new(HOLD.0, HOLD.1),
            read_at: None,
        }
    }

    /// Runs until the link breaks, or in order.
    pub(super) async fn run(mut self, accepted: Accepted, stop: Stop, grace: Duration) -> Result<Done, LinkError> {
        let done = self.carry(accepted, stop, grace).await;
        // QoS 0 may be lost on the way; it is not sent twice.
        let rest: Vec<Place> = self.unwritten.drain(..).map(|(_, place)| place).collect();
        self.uplink.outbox.settle(&rest);
        done
    }

    async fn carry(&mut self, accepted: Accepted, mut stop: Stop, grace: Duration) -> Result<Done, LinkError> {
        self.begin(accepted)?;
        let mut status = tokio::time::interval(STATUS_EVERY);
        loop {
            self.send_waiting().await?;
            let save_at = self.save();
            if let Some(done) = self.is_done() {
                self.say_goodbye().await?;
                return Ok(done);
            }
            let wants_more = self.link.has_room() && self.uplink.session.room() > 0 && self.hold_until.is_none();
            tokio::select! {
                incoming = self.link.next() => self.receive(incoming?).await?,
                changed = self.uplink.newest.changed(), if wants_more => {
                    changed.map_err(|_| LinkError::Broken("the outbox is closed".to_owned()))?;
                    self.uplink.lanes.look_again();
                }
                is_durable = saved(&mut self.uplink.saving) => self.uplink.saved(is_durable)?,
                () = due(save_at) => {}
                () = due(self.hold_until) => self.hold_until = None,
                delivery = self.uplink.deliveries.next() => self.delivered(delivery)?,
                buried = self.uplink.burials.next() => self.uplink.outbox.settle(&[buried]),
                _ = status.tick() => {
                    self.uplink.status.show();
                    self.check_life()?;
                }
                () = stop.wait(), if self.give_up.is_none() => self.give_up = Some(now() + grace),
            }
        }
    }

    /// What both sides remember is brought together.
    fn begin(&mut self, accepted: Accepted) -> Result<(), LinkError> {
        let uplink = &mut *self.uplink;
        let forgotten = uplink.session.connected(accepted.session_present, accepted.receive_maximum, accepted.max_qos);
        if !accepted.session_present {
            uplink.is_subscribed = false;
        }
        uplink.status.session(&forgotten);
        for (place, message) in forgotten.dropped {
            if let Some(message) = message {
                uplink.outbox.give_up(place.queue, place.seq, &message, Reason::SessionLost);
            }
            uplink.outbox.settle(&[place]);
        }
        uplink.outbox.settle(&forgotten.presumed);
        if !uplink.is_subscribed && !uplink.settings.receive.is_empty() {
            let (wanted, impossible): (Vec<_>, Vec<_>) =
                uplink.settings.receive.iter().cloned().partition(|receive| accepted.wildcards_available || !has_wildcard(&receive.filter));
            for receive in impossible {
                tracing::error!(uplink = %uplink.settings.name, filter = %receive.filter, "the remote has no wildcards; name the topics in `receive` one by one");
            }
            if !wanted.is_empty() {
                self.link.feed(Command::Subscribe(wanted))?;
            }
        }
        Ok(())
    }

    /// Hands changes of the session to the disk. Returns when to ask again.
    fn save(&mut self) -> Option<Instant> {
        let uplink = &mut *self.uplink;
        let unsaved = uplink.session.unsaved();
        if unsaved == 0 || uplink.saving.is_some() {
            return None;
        }
        let many = SAVE_BATCH.min(usize::from(uplink.settings.window) / 16 + 1);
        let due = uplink.last_save + uplink.settings.save_every;
        // More to save will come soon, or nothing will before this is saved.
        if unsaved < many && now() < due && uplink.session.awaits_answers() {
            return Some(due);
        }
        uplink.begin_save();
        None
    }

    /// Asks for a sign of life, and judges its absence. Bytes that the link takes are one too.
    fn check_life(&mut self) -> Result<(), LinkError> {
        let at = now();
        let settings = &self.uplink.settings;
        if !self.link.is_idle() && at >= self.link.progress() + settings.write_within {
            return Err(LinkError::Broken(format!("the link took nothing for {} s", settings.write_within.as_secs())));
        }
        let alive = self.heard.max(self.link.progress());
        if let Some(since) = self.owes_since
            && at >= since.max(alive) + settings.answer_within
        {
            return Err(LinkError::Broken(format!("the remote owes an answer and was silent for {} s", settings.answer_within.as_secs())));
        }
        let Some(keep_alive) = self.keep_alive else { return Ok(()) };
        let alive = if self.link.is_idle() { self.heard } else { alive };
        if at >= alive + keep_alive.mul_f64(1.5) {
            return Err(LinkError::Broken(format!("the remote was silent for {} s", keep_alive.mul_f64(1.5).as_secs())));
        }
        if at + STATUS_EVERY >= alive.max(self.asked) + keep_alive {
            self.asked = at;
            self.owes_since.get_or_insert(at);
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

    fn is_done(&self) -> Option<Done> {
        let is_empty = || self.uplink.session.in_flight() == 0 && self.uplink.outbox.waiting() == 0;
        if self.give_up.is_some_and(|at| now() >= at || is_empty()) {
            return Some(Done::Stopped);
        }
        (self.uplink.is_relieved() && is_empty()).then_some(Done::NotNeeded)
    }

    /// Collects from session and outbox what window and link have room for.
    async fn send_waiting(&mut self) -> Result<(), LinkError> {
        while self.link.has_room() {
            if let Some(step) = self.uplink.session.next() {
                self.write(step).await?;
                continue;
            }
            if self.hold_until.is_some() || self.uplink.session.room() == 0 || !self.take_one().await? {
                break;
            }
        }
        let written = self.link.written();
        let done = self.unwritten.iter().take_while(|(end, _)| *end <= written).count();
        let done: Vec<Place> = self.unwritten.drain(..done).map(|(_, place)| place).collect();
        self.uplink.outbox.settle(&done);
        Ok(())
    }

    /// Moves one message from the outbox into the session; false if nothing waits.
    async fn take_one(&mut self) -> Result<bool, LinkError> {
        if self.read_at.is_some_and(|at| now() < at) {
            return Ok(false);
        }
        let uplink = &mut *self.uplink;
        if uplink.newest.has_changed().unwrap_or(false) {
            uplink.newest.mark_unchanged();
            uplink.lanes.look_again();
        }
        while let Some((lane, after)) = uplink.lanes.wants() {
            let read = match uplink.outbox.read(lane, after, READ_BATCH).await {
                Ok(read) => read,
                Err(ReadError::Disk) => {
                    self.read_at = Some(now() + STATUS_EVERY);
                    return Ok(false);
                }
                Err(error @ ReadError::Closed) => return Err(LinkError::Broken(error.to_string())),
            };
            if read.is_none() {
                uplink.session.nothing_more_waits(lane as usize);
            }
            uplink.lanes.fill(lane, read);
        }
        let Some(waiting) = uplink.lanes.next() else { return Ok(false) };
        if let Some(lost) = uplink.session.offer(waiting) {
            uplink.outbox.give_up(lost.lane as usize, lost.seq, &lost.message, Reason::SessionLost);
            uplink.outbox.settle(&[lost.place()]);
        }
        Ok(true)
    }

    async fn write(&mut self, step: Step) -> Result<(), LinkError> {
        let command = match step {
            Step::Publish(send) => return self.publish(send).await,
            Step::Release(packet_id) => {
                self.owes_since.get_or_insert_with(now);
                Command::PubRel(packet_id)
            }
            Step::Received(packet_id) => Command::PubRec(packet_id),
            Step::Complete(packet_id) => Command::PubComp(packet_id),
        };
        self.link.feed(command).map(drop)
    }

    /// Collects one message, unless it has expired or is too large for the remote.
    async fn publish(&mut self, send: Send) -> Result<(), LinkError> {
        let Send { place, packet_id, dup, mut message } = send;
        if !message.age(Timestamp::at(unix_ms())) {
            tracing::debug!(seq = place.seq, topic = %message.topic, "expired while it waited");
            self.uplink.outbox.give_up(place.queue, place.seq, &message, Reason::Expired);
            return self.leave_out(place, dup && message.qos == QoS::ExactlyOnce);
        }
        let number = self.uplink.number(place);
        if !self.link.feed(Command::Publish { packet_id, dup, message: message.clone(), number })? {
            self.uplink.bury(place, message, "larger than the remote takes".to_owned()).await?;
            self.uplink.session.forget(place);
            return Ok(());
        }
        match packet_id {
            None => self.unwritten.push_back((self.link.collected(), place)),
            Some(_) => drop(self.owes_since.get_or_insert_with(now)),
        }
        Ok(())
    }

    /// A message that is not sent is settled; one that may be at the remote is ended there first.
    fn leave_out(&mut self, place: Place, may_be_there: bool) -> Result<(), LinkError> {
        if may_be_there {
            self.uplink.session.release_instead(place);
        } else {
            self.uplink.session.forget(place);
            self.uplink.outbox.settle(&[place]);
        }
        Ok(())
    }

    /// Takes a packet and those that are there already, so that one write and one settling serve many.
    async fn receive(&mut self, first: Incoming) -> Result<(), LinkError> {
        if first == Incoming::Written {
            return Ok(());
        }
        self.heard = now();
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
        if self.uplink.session.in_flight() == 0 {
            self.owes_since = None;
        }
        // What was acknowledged is settled even if the connection broke just after.
        self.uplink.outbox.settle(&settled);
        outcome
    }

    async fn take(&mut self, incoming: Incoming, settled: &mut Vec<Place>) -> Result<(), LinkError> {
        match incoming {
            Incoming::PubAck(packet_id, reason) => {
                let verdict = self.uplink.session.acknowledged(packet_id, reason);
                self.judge(verdict, settled).await?;
            }
            Incoming::PubRec(packet_id, reason) => {
                let verdict = self.uplink.session.received(packet_id, reason);
                self.judge(verdict, settled).await?;
            }
            Incoming::PubComp(packet_id) => {
                let verdict = self.uplink.session.completed(packet_id);
                self.judge(verdict, settled).await?;
            }
            Incoming::PubRel(packet_id) => self.uplink.session.released(packet_id),
            Incoming::Publish { topic, payload, qos, retain, packet_id, properties } => {
                let is_repeated = qos == QoS::ExactlyOnce && packet_id.is_some_and(|packet_id| !self.uplink.session.is_new(packet_id));
                if !is_repeated {
                    self.uplink.status.counters.received.count();
                    self.uplink.deliveries.hand_over(topic, payload, (qos, retain), packet_id, properties).await;
                }
            }
            Incoming::SubAck(failed) => self.subscribed(&failed),
            Incoming::Disconnect(reason) => return Err(LinkError::Broken(format!("the remote broker disconnected: {reason}"))),
            Incoming::Accepted(_) | Incoming::Refused(_) => return Err(LinkError::Broken("a second CONNACK".to_owned())),
            Incoming::Unusable(packet_id, qos) => {
                tracing::warn!(uplink = %self.uplink.settings.name, "a message of the remote is dropped: its topic is too deep or not allowed");
                if let Some(packet_id) = packet_id {
                    self.delivered(Delivery { packet_id, is_exact: qos == QoS::ExactlyOnce, is_safe: true })?;
                }
            }
            Incoming::Other => self.owes_since = self.owes_since.filter(|_| self.uplink.session.in_flight() > 0),
            Incoming::Written => {}
        }
        Ok(())
    }

    async fn judge(&mut self, verdict: Verdict, settled: &mut Vec<Place>) -> Result<(), LinkError> {
        match verdict {
            Verdict::Delivered(place) => {
                self.uplink.status.counters.acknowledged.count();
                self.hold.reset();
                settled.push(place);
            }
            Verdict::Refused { place, reason, message: Some(message) } => self.uplink.bury(place, message, reason.to_string()).await?,
            Verdict::Refused { place, message: None, .. } => settled.push(place),
            Verdict::Later(reason) => {
                if self.hold_until.is_none() {
                    let pause = self.hold.next_delay();
                    self.uplink.status.held(&reason.to_string(), pause);
                    self.hold_until = Some(now() + pause);
                }
            }
            Verdict::Going => {}
            Verdict::Unknown => tracing::debug!("an answer to nothing in flight"),
        }
        Ok(())
    }

    fn subscribed(&mut self, failed: &[usize]) {
        self.uplink.is_subscribed = true;
        for receive in failed.iter().filter_map(|index| self.uplink.settings.receive.get(*index)) {
            tracing::error!(uplink = %self.uplink.settings.name, filter = %receive.filter, "the remote does not allow this subscription; change `receive` or the rights of this gateway");
        }
    }

    /// The broker has a message of the remote safe, or never will.
    fn delivered(&mut self, delivery: Delivery) -> Result<(), LinkError> {
        let Delivery { packet_id, is_exact, is_safe } = delivery;
        if !is_safe {
            return Ok(());
        }
        if is_exact {
            self.uplink.session.taken(packet_id);
            return Ok(());
        }
        self.link.feed(Command::PubAck(packet_id)).map(drop)
    }
}

fn has_wildcard(filter: &TopicFilter) -> bool {
    filter.as_str().contains(['+', '#'])
}
