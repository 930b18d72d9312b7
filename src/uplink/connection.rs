//! One connection of an uplink: asks whether another client has been here (`question`), says that this gateway is here (`state`), sends
//! queued messages, takes those of the remote (`receive`), judges whether the link lives, ends with DISCONNECT (`ending`), or finds out why
//! the remote ended it (`blame`).

mod blame;
mod ending;
mod excess;
mod question;
mod receive;
mod state;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::sleep_until;

use super::lanes::{Choice, Closed, Ready};
use super::link::{Accepted, Command, Link, LinkError, time_to_pass};
use super::session::{Send, Step};
use super::suspicion::Trial;
use super::task::{Orders, Uplink};
use crate::backoff::Backoff;
use crate::mqtt::QoS;
use crate::outbox::{EntryId, Outgoing, ReadError, Reason, Waiting};
use crate::reading::Timestamp;
use crate::time::{moment, now};
use ending::Ending;
pub(super) use ending::LAST_WORDS;
use question::Question;
use state::State;

/// Entries brought from the outbox at a time.
const READ_BATCH: usize = 256;
/// Changes of the session that are saved at once, however short the last save is ago; at most a sixteenth of the window.
const SAVE_BATCH: usize = 128;
pub(super) const STATUS_EVERY: Duration = Duration::from_secs(1);
/// A message may be owed an answer so many times longer than the remote may be silent.
const LONGEST_DEBT: u32 = 10;
/// Dead letters that may wait for the disk.
const MAX_BURIALS: usize = 64;
/// First and longest pause after the remote said "not now".
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why a connection ended in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// The stop order came and nothing waits any more, or the grace is over.
    Stopped,
    /// A backup that is not needed any more.
    NotNeeded,
    /// Its settings are different from here on.
    Changed,
    /// Its token ends soon.
    Renewed,
    /// It has no will, or none that is retained, and the next one is to have it.
    TriesWill,
    /// The next one repeats messages that the remote has left unanswered.
    Repeats,
}

pub(super) struct Connection<'a> {
    uplink: &'a mut Uplink,
    link: Link,
    keep_alive: Option<Duration>,
    /// A PINGREQ that is not answered.
    pinged: Option<Instant>,
    /// Since when the remote owes an answer without a break.
    owes_since: Option<Instant>,
    /// The message that has waited longest for its answer, and since when.
    oldest: Option<(EntryId, Instant)>,
    /// How long messages wait at most for the answers to SUBSCRIBE.
    hold_for_filters: Option<Instant>,
    /// UNSUBSCRIBE packets of this connection.
    unsubscribed: u16,
    /// Set by the stop order: when it is over.
    give_up: Option<Instant>,
    /// How long the stop order lets it send what waits.
    grace: Duration,
    is_hurried: bool,
    /// It ends as soon as what is in flight is acknowledged.
    ending: Option<Ending>,
    /// QoS 0 messages that are done when the link has written so many bytes.
    unwritten: VecDeque<(u64, EntryId)>,
    /// The remote said "not now".
    hold_until: Option<Instant>,
    hold: Backoff,
    /// The suspect that was sent alone.
    trial: Option<Trial>,
    /// The disk could not be read: when to try again.
    read_at: Option<Instant>,
    /// What was said of this gateway's presence.
    state: State,
    /// What the remote was asked for before that.
    question: Option<Question>,
    /// A subscription that an earlier question left behind was ended.
    has_ended_stray: bool,
    began: Instant,
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
        let keep_alive = accepted
            .keep_alive
            .map_or(uplink.settings.keep_alive, |seconds| {
                Duration::from_secs(u64::from(seconds))
            });
        Self {
            uplink,
            link,
            // The remote may switch it off.
            keep_alive: Some(keep_alive).filter(|keep_alive| *keep_alive > Duration::ZERO),
            pinged: None,
            owes_since: None,
            oldest: None,
            hold_for_filters: None,
            unsubscribed: 0,
            give_up: None,
            grace: Duration::ZERO,
            is_hurried: false,
            ending: None,
            unwritten: VecDeque::new(),
            hold_until: None,
            hold: Backoff::new(HOLD.0, HOLD.1),
            trial: None,
            read_at: None,
            state: State::new(accepted.max_qos),
            question: None,
            has_ended_stray: false,
            began: now(),
        }
    }

    /// Runs until the link breaks, or in order.
    pub(super) async fn run(
        mut self,
        accepted: Accepted,
        orders: Orders,
    ) -> Result<Done, LinkError> {
        let done = self.carry(accepted, orders).await;
        if let Err(LinkError::Closed { reason, .. }) = &done
            && self.ending.is_none()
        {
            self.blame(*reason);
        }
        // QoS 0 may be lost on the way; it is not sent twice.
        let rest: Vec<EntryId> = self.unwritten.drain(..).map(|(_, place)| place).collect();
        self.uplink.outbox.settle(&rest);
        done
    }

    async fn carry(&mut self, accepted: Accepted, mut orders: Orders) -> Result<Done, LinkError> {
        self.grace = orders.grace;
        self.begin(accepted)?;
        self.isolate().await?;
        let mut status = tokio::time::interval(STATUS_EVERY);
        loop {
            self.uplink.heartbeat.beat(now());
            self.send_waiting().await?;
            let save_at = self.save();
            if let Some(done) = self.is_done() {
                self.say_goodbye(done).await;
                return Ok(done);
            }
            let is_open = self.ending.is_none();
            let wants_more = is_open
                && self.link.has_room()
                && self.uplink.session.room() > 0
                && !self.is_held();
            let ends_at = self.ends_at();
            let passes_at = self
                .uplink
                .rates
                .ready_at(now(), self.uplink.lanes.holds_back());
            tokio::select! {
                incoming = self.link.next() => self.receive(incoming?).await?,
                changed = self.uplink.newest.changed(), if wants_more => {
                    changed.map_err(|_| LinkError::Broken("the outbox is closed".to_owned()))?;
                    self.uplink.lanes.look_again();
                }
                is_durable = saved(&mut self.uplink.saving) => self.uplink.saved(is_durable)?,
                () = due(save_at) => {}
                () = due(passes_at) => {}
                // After everything else had its turn.
                () = tokio::task::yield_now(), if self.uplink.lanes.reads_on() => {}
                () = due(self.hold_until) => self.hold_until = None,
                () = due(self.hold_for_filters), if self.uplink.subscriptions.holds_messages() => self.hold_for_filters = None,
                delivery = self.uplink.deliveries.next() => self.delivered(delivery)?,
                buried = self.uplink.burials.next() => self.uplink.outbox.settle(&[buried]),
                Some(order) = self.uplink.purges.recv() => {
                    let being_written = self.unwritten.iter().map(|(_, place)| *place).collect();
                    self.uplink.purge_except(order, &being_written).await;
                }
                _ = status.tick() => {
                    self.uplink.status.show();
                    self.check_excess()?;
                    self.check_life()?;
                    self.check_question()?;
                    self.check_state()?;
                    self.try_left_out()?;
                    self.renew_token();
                    self.try_will();
                    self.uplink.has_lasted(now() - self.began);
                }
                Ok(()) = self.uplink.updates.changed(), if is_open && self.give_up.is_none() => {
                    // Looked at before the next connection.
                    self.uplink.updates.mark_changed();
                    self.end(Done::Changed);
                }
                () = due(ends_at) => {}
                () = orders.stop.wait(), if self.give_up.is_none() => self.stop_within(orders.grace),
                () = orders.hurry.wait(), if !self.is_hurried => self.hurry(),
            }
        }
    }

    /// What both sides remember is brought together.
    fn begin(&mut self, accepted: Accepted) -> Result<(), LinkError> {
        let uplink = &mut *self.uplink;
        uplink.rivals.begin(uplink.current);
        uplink.pace.begin(self.link.round_trip());
        uplink.rates.throttle.begin();
        let forgotten = uplink.session.connected(
            accepted.session_present,
            accepted.receive_maximum,
            accepted.max_qos,
        );
        uplink.status.session(&forgotten);
        let is_new = accepted.max_qos < QoS::ExactlyOnce && !uplink.is_without_qos_2();
        if uplink.settings.cloud.is_none() && (is_new || !accepted.retain_available) {
            let (max_qos, retain) = (accepted.max_qos as u8, accepted.retain_available);
            tracing::warn!(uplink = %uplink.settings.name, max_qos, retain, "the remote does not take every QoS, or keeps nothing: messages are sent as it takes them");
        }
        for (place, message) in forgotten.dropped {
            if let Some(message) = message {
                uplink
                    .outbox
                    .give_up(place.queue, place.seq, &message, Reason::SessionLost);
            }
            uplink.outbox.settle(&[place]);
        }
        uplink.outbox.settle(&forgotten.presumed);
        if self.asks_for_state(accepted)? {
            Ok(())
        } else {
            self.introduce(accepted)
        }
    }

    /// Says that this gateway is here, and asks for what it is to receive.
    fn introduce(&mut self, accepted: Accepted) -> Result<(), LinkError> {
        self.say_online()?;
        if self.waits_for_answer_to_state(accepted) {
            Ok(())
        } else {
            self.subscribe(accepted)
        }
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

    /// Asks for a sign of life, and judges its absence. Bytes that come are one; bytes that the kernel takes are none.
    fn check_life(&mut self) -> Result<(), LinkError> {
        let at = now();
        let settings = &self.uplink.settings;
        let (heard, sent) = (self.link.heard(), self.link.progress());
        if !self.link.is_idle() && at >= sent + settings.write_within {
            return Err(LinkError::Broken(format!(
                "the link took nothing for {} s",
                settings.write_within.as_secs()
            )));
        }
        let oldest = self.uplink.session.oldest_unanswered();
        let owes = self.pinged.is_some() || oldest.is_some();
        self.owes_since = self.owes_since.filter(|_| owes).or(owes.then_some(at));
        let given_up_at = self.link.given_up_at(settings.answer_within);
        if self
            .owes_since
            .is_some_and(|since| at >= given_up_at.max(since + settings.answer_within))
        {
            self.blame_silence();
            return Err(LinkError::Broken(format!(
                "the remote owes an answer and was silent for {} s",
                (at - heard).as_secs()
            )));
        }
        self.oldest = oldest.map(|place| {
            self.oldest
                .filter(|(known, _)| *known == place)
                .unwrap_or((place, at))
        });
        if let Some((place, since)) = self.oldest
            && at
                >= since
                    + settings.answer_within * LONGEST_DEBT
                    + time_to_pass(self.uplink.session.bytes_of(place))
        {
            self.blame_silence();
            return Err(LinkError::Broken(format!(
                "the remote does not answer message {}, only others",
                place.seq
            )));
        }
        let Some(keep_alive) = self.keep_alive else {
            return Ok(());
        };
        let alive = if self.link.is_idle() {
            heard
        } else {
            heard.max(sent)
        };
        if at >= alive + keep_alive.mul_f64(1.5) {
            return Err(LinkError::Broken(format!(
                "the remote was silent for {} s",
                keep_alive.mul_f64(1.5).as_secs()
            )));
        }
        // Something must be sent within the interval [MQTT-3.1.2-20], and something must come.
        if self.pinged.is_none() && at + STATUS_EVERY >= sent.min(heard) + keep_alive {
            self.ping()?;
        }
        Ok(())
    }

    /// Sends PINGREQ: the answer shows that the remote has read everything before it.
    fn ping(&mut self) -> Result<(), LinkError> {
        self.pinged = Some(now());
        self.uplink.pace.asks(self.link.collected());
        self.link.feed(Command::Ping).map(drop)
    }

    /// Collects from session and outbox what window and link have room for.
    async fn send_waiting(&mut self) -> Result<(), LinkError> {
        let routes = Arc::clone(&self.uplink.routes.borrow());
        if self.uplink.rates.follow(&routes) {
            self.uplink.lanes.read_again();
        }
        self.uplink.lanes.has_looked();
        while self.link.has_room() {
            let is_held = self.is_held();
            let Uplink {
                session,
                pace,
                rates,
                ..
            } = &mut *self.uplink;
            let step = if is_held || !pace.has_room(session.on_wire()) {
                session.next_answer()
            } else if rates.is_used_up(now()) {
                session.next_end()
            } else {
                session.next()
            };
            if let Some(step) = step {
                self.write(step)?;
                continue;
            }
            let Uplink { session, rates, .. } = &mut *self.uplink;
            let may_take = !is_held
                && session.room() > 0
                && rates.may_take_behind(|| session.unwritten(), now());
            if !may_take || !self.take_one().await? {
                break;
            }
        }
        let written = self.link.written();
        if let Some(trial) = &mut self.trial {
            trial.written(written, now());
        }
        let done = self
            .unwritten
            .iter()
            .take_while(|(end, _)| *end <= written)
            .count();
        let done: Vec<EntryId> = self
            .unwritten
            .drain(..done)
            .map(|(_, place)| place)
            .collect();
        self.uplink.outbox.settle(&done);
        Ok(())
    }

    /// True while no message may be sent.
    fn is_held(&self) -> bool {
        let is_too_much = self.uplink.burials.len() >= MAX_BURIALS;
        self.hold_until.is_some()
            || self.ending.is_some()
            || is_too_much
            || self.is_asking()
            || self.waits_for_state()
            || self.waits_for_filters()
    }

    /// Moves one message from the outbox into the session; false if nothing waits.
    async fn take_one(&mut self) -> Result<bool, LinkError> {
        loop {
            let session = &self.uplink.session;
            // While one more QoS 2 message is too many, those of an earlier run wait too.
            let first = session.continues().filter(|_| session.takes_exact());
            if self
                .take_from(first.map_or(Choice::Any, Choice::GoesOn))
                .await?
            {
                return Ok(true);
            }
            if first.is_none() || self.uplink.session.continues() == first {
                return Ok(false);
            }
        }
    }

    /// Moves the next message into the session; false if nothing waits there, or if it is not known yet.
    async fn take_from(&mut self, choice: Choice) -> Result<bool, LinkError> {
        if self.read_at.is_some_and(|at| now() < at) {
            return Ok(false);
        }
        let uplink = &mut *self.uplink;
        if uplink.newest.has_changed().unwrap_or(false) {
            uplink.newest.mark_unchanged();
            uplink.lanes.look_again();
        }
        let closed = Closed {
            rules: uplink.rates.closed(now()),
            is_exact: !uplink.session.takes_exact(),
        };
        while let Some(wanted) = uplink.lanes.wants(choice, &closed) {
            let read = match uplink
                .outbox
                .read(wanted.lane, wanted.after, READ_BATCH)
                .await
            {
                Ok(read) => read,
                Err(ReadError::Disk) => {
                    self.read_at = Some(now() + STATUS_EVERY);
                    return Ok(false);
                }
                Err(error @ ReadError::Closed) => return Err(LinkError::Broken(error.to_string())),
            };
            if read.is_none() && wanted.rule.is_none() {
                uplink.session.nothing_more_waits(wanted.lane as usize);
            }
            let is_empty = read.is_none();
            let read = read.map(|(last, messages)| (last, uplink.ready(messages, &self.unwritten)));
            uplink.lanes.fill(wanted, read);
            uplink.heartbeat.beat(now());
            if is_empty && matches!(choice, Choice::GoesOn(_)) {
                break;
            }
        }
        let Some(Ready { waiting, rule }) = uplink.lanes.next(choice, &closed) else {
            return Ok(false);
        };
        if let Some(rule) = rule {
            let bytes = waiting.message.topic.as_str().len() + waiting.message.payload.len();
            uplink.rates.taken(rule, bytes, now());
        }
        if let Some(lost) = uplink.session.offer(waiting) {
            uplink.outbox.give_up(
                lost.lane as usize,
                lost.seq,
                &lost.message,
                Reason::SessionLost,
            );
            uplink.outbox.settle(&[lost.place()]);
        }
        Ok(true)
    }

    fn write(&mut self, step: Step) -> Result<(), LinkError> {
        let command = match step {
            Step::Publish(send) => return self.publish(send),
            Step::Release(packet_id) => Command::PubRel(packet_id),
            Step::Received(packet_id) => Command::PubRec(packet_id),
            Step::Complete(packet_id) => Command::PubComp(packet_id),
        };
        self.link.feed(command).map(drop)
    }

    /// Collects one message, unless it has expired or is too large for the remote.
    fn publish(&mut self, send: Send) -> Result<(), LinkError> {
        let Send {
            place,
            packet_id,
            dup,
            is_resent,
            mut message,
        } = send;
        let may_be_there = dup && message.qos == QoS::ExactlyOnce;
        let at = Timestamp::from(moment());
        // What was sent before is sent as it was.
        if !dup {
            message.put_right(at);
        }
        if !message.age(at) {
            tracing::debug!(seq = place.seq, topic = %message.topic, "expired while it waited");
            self.uplink
                .outbox
                .give_up(place.queue, place.seq, &message, Reason::Expired);
            self.leave_out(place, may_be_there);
            if !may_be_there {
                self.uplink.outbox.settle(&[place]);
            }
            return Ok(());
        }
        let number = self.uplink.number(place);
        let cloud = self.uplink.settings.cloud.as_ref();
        let topic = match cloud
            .map(|cloud| cloud.topic_there(&message, number.as_deref()))
            .transpose()
        {
            Ok(topic) => topic.unwrap_or_else(|| message.topic.clone()),
            Err(error) => {
                self.uplink.bury(
                    place,
                    message,
                    format!("its topic is not possible at the remote: {error}"),
                );
                self.leave_out(place, may_be_there);
                return Ok(());
            }
        };
        let sent = Outgoing {
            topic,
            ..message.clone()
        };
        let before = self.link.collected();
        if !self.link.feed(Command::Publish {
            packet_id,
            dup,
            message: sent,
            number,
        })? {
            let reason = if may_be_there {
                "larger than the remote takes now; it may have arrived before"
            } else {
                "larger than the remote takes"
            };
            self.uplink.bury(place, message, reason.to_owned());
            self.leave_out(place, may_be_there);
            return Ok(());
        }
        tracing::debug!(uplink = %self.uplink.settings.name, seq = place.seq, topic = %message.topic, qos = ?message.qos, dup, "message sent");
        self.uplink.status.counters.repeated.add(u64::from(dup));
        self.uplink.status.counters.resent.add(u64::from(is_resent));
        self.uplink
            .rates
            .sent(self.link.collected() - before, now());
        match packet_id {
            Some(_) => {
                let packet = before..self.link.collected();
                if self.uplink.session.alone() == Some(place) {
                    self.trial = Some(Trial::new(packet.clone()));
                }
                self.uplink.pace.sent(place, packet, now());
            }
            None => self.unwritten.push_back((self.link.collected(), place)),
        }
        Ok(())
    }

    /// A message that is not sent is forgotten; one that may be at the remote is ended there first.
    fn leave_out(&mut self, place: EntryId, may_be_there: bool) {
        if may_be_there {
            self.uplink.session.release_instead(place);
        } else {
            self.uplink.session.forget(place);
        }
    }
}

impl Uplink {
    /// Messages that were read, without those that were taken before, each with the rule whose rate it has to wait for. What an earlier
    /// run had in flight waits for none.
    fn ready(&self, messages: Vec<Waiting>, unwritten: &VecDeque<(u64, EntryId)>) -> Vec<Ready> {
        let is_taken = |place: EntryId| {
            self.session.is_in_flight(place)
                || self.burials.holds(place)
                || unwritten.iter().any(|(_, other)| *other == place)
        };
        let left = messages
            .into_iter()
            .filter(|waiting| !is_taken(waiting.place()));
        let with_rule = |waiting: Waiting| {
            let rule = if self.session.is_recovered(waiting.place()) {
                None
            } else {
                self.rates.rule_of(&waiting)
            };
            Ready { waiting, rule }
        };
        left.map(with_rule).collect()
    }
}
