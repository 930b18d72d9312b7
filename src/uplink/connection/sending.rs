//! From the outbox onto the link: which message is taken next, and what becomes of it when its
//! packet is written.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{MAX_BURIALS, READ_BATCH, RemoteConnection, STATUS_EVERY};
use crate::message::Lane;
use crate::mqtt::{QoS, TopicName};
use crate::outbox::{EntryId, LANES, Outgoing, ReadError, Reason, Waiting};
use crate::reading::Timestamp;
use crate::route::WrittenAt;
use crate::time::{moment, now};
use crate::uplink::client::Uplink;
use crate::uplink::failure::LinkError;
use crate::uplink::lanes::{Blocked, Choice, ReadRequest, Ready};
use crate::uplink::link::Command;
use crate::uplink::session::{Send, SendAction};
use crate::uplink::suspicion::Trial;

impl RemoteConnection<'_> {
    /// Collects from session and outbox what window and link have room for.
    pub(super) async fn send_waiting(&mut self) -> Result<(), LinkError> {
        let routes = Arc::clone(&self.uplink.routes.borrow());
        if self.uplink.rates.follow(&routes) {
            self.uplink.lanes.read_again();
        }
        self.uplink.turns.follow(routes.catch_up);
        self.uplink.lanes.has_looked();
        self.follow_pace();
        while self.link.has_room() {
            self.publish_schema()?;
            if let Some(step) = self.next_step() {
                self.write(step)?;
                continue;
            }
            let has_taken = self.close_overtaken() || (self.may_take() && self.take_one().await?);
            if !has_taken && !self.close_batch() {
                break;
            }
        }
        self.settle_written();
        Ok(())
    }

    /// What the link shows to take bounds what is collected ahead of it.
    fn follow_pace(&mut self) {
        let Uplink { pace, batches, .. } = &mut *self.uplink;
        self.link.collect_at_most(pace.allowed());
        batches.limit_late(pace.largest_late());
    }

    /// The next packet of what was taken, as far as the remote, the link and the rates allow it.
    fn next_step(&mut self) -> Option<SendAction> {
        let is_held = self.is_held();
        let Uplink {
            session,
            pace,
            rates,
            ..
        } = &mut *self.uplink;
        if is_held || !pace.has_room(session.on_wire()) {
            session.next_answer()
        } else if rates.is_used_up(now()) {
            session.next_end()
        } else {
            session.next()
        }
    }

    /// True if another message may be taken from the outbox: the link has room for it. What is in
    /// the outbox can be overtaken, what was taken cannot.
    fn may_take(&mut self) -> bool {
        let is_held = self.is_held();
        let Uplink {
            session,
            pace,
            rates,
            batches,
            ..
        } = &mut *self.uplink;
        !is_held
            && session.room() > 0
            && pace.has_room(session.on_wire())
            && !batches.is_full()
            && rates.may_take_behind(|| session.unwritten(), now())
    }

    /// True if only a rate keeps messages from being sent.
    pub(super) fn waits_for_rate(&mut self) -> bool {
        if self.is_held() || !self.link.has_room() {
            return false;
        }
        let Uplink {
            session,
            pace,
            rates,
            turns,
            lanes,
            ..
        } = &mut *self.uplink;
        let is_everything_else_sent = session.unwritten().0 == 0 && !lanes.reads_on();
        let holds_back = lanes.holds_back() || turns.ready_at(now()).is_some();
        session.room() > 0
            && pace.has_room(session.on_wire())
            && (rates.is_used_up(now()) || is_everything_else_sent && holds_back)
    }

    /// Settles the QoS 0 messages that the link has written.
    fn settle_written(&mut self) {
        let written = self.link.written();
        if let Some(trial) = &mut self.trial {
            trial.written(written, now());
        }
        let is_written = |(end, _): &&(u64, EntryId)| *end <= written;
        let count = self.unwritten.iter().take_while(is_written).count();
        let done: Vec<EntryId> = self
            .unwritten
            .drain(..count)
            .map(|(_, place)| place)
            .collect();
        self.uplink.settle(&done);
    }

    /// True while no message may be sent.
    pub(super) fn is_held(&self) -> bool {
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
            let choice = first.map_or(Choice::Any, Choice::GoesOn);
            if self.take_from(choice).await? {
                return Ok(true);
            }
            if first.is_none() || self.uplink.session.continues() == first {
                return Ok(false);
            }
        }
    }

    /// Moves the next message into the session; false if nothing waits there, or if it is not known
    /// yet.
    pub(super) async fn take_from(&mut self, choice: Choice) -> Result<bool, LinkError> {
        if self.read_at.is_some_and(|at| now() < at) {
            return Ok(false);
        }
        let uplink = &mut *self.uplink;
        if uplink.newest.has_changed().unwrap_or(false) {
            uplink.newest.mark_unchanged();
            uplink.lanes.look_again();
        }
        let closed = Blocked {
            rules: uplink.rates.closed(now()),
            is_exact: !uplink.session.takes_exact(),
            backlog: uplink.turns.place_of_backlog(now()),
        };
        while let Some(wanted) = self.uplink.lanes.wants(choice, &closed) {
            match self.uplink.read(wanted, &self.unwritten).await {
                Ok(true) => {}
                Ok(false) if matches!(choice, Choice::GoesOn(_)) => break,
                Ok(false) => {}
                Err(ReadError::Disk) => {
                    self.read_at = Some(now() + STATUS_EVERY);
                    return Ok(false);
                }
                Err(error @ ReadError::Closed) => return Err(LinkError::Broken(error.to_string())),
            }
        }
        let next = self.uplink.lanes.next(choice, &closed);
        let is_there = next.is_some();
        if let Some(ready) = next {
            self.uplink.take(ready);
        }
        Ok(is_there)
    }

    fn write(&mut self, step: SendAction) -> Result<(), LinkError> {
        let command = match step {
            SendAction::Publish(send) => return self.publish(send),
            SendAction::Release(packet_id) => Command::PubRel(packet_id),
            SendAction::Received(packet_id) => Command::PubRec(packet_id),
            SendAction::Complete(packet_id) => Command::PubComp(packet_id),
        };
        self.link.feed(command).map(drop)
    }

    /// Collects one message, unless it has expired, has no topic at the remote, or is too large for
    /// it.
    fn publish(&mut self, mut send: Send) -> Result<(), LinkError> {
        let Send { place, dup, .. } = send;
        let may_be_there = dup && send.message.qos == QoS::ExactlyOnce;
        let at = Timestamp::from(moment());
        if !dup {
            send.message.enqueued = send.message.enqueued.corrected(at);
        }
        if !send.message.age(at) {
            self.expire(place, &send.message, may_be_there);
            return Ok(());
        }
        let number = self.uplink.number(place);
        let Some(message) = self.uplink.encoded(&send, at) else {
            self.leave_out_reading(place, &send.message, may_be_there);
            return Ok(());
        };
        let topic = match self.uplink.topic_there(&message, number.as_deref()) {
            Ok(topic) => topic,
            Err(why) => {
                self.uplink.bury(place, send.message, why);
                self.leave_out(place, may_be_there);
                return Ok(());
            }
        };
        let message = Outgoing { topic, ..message };
        let command = Command::Publish {
            packet_id: send.packet_id,
            dup,
            message,
            number,
        };
        let before = self.link.collected();
        if self.link.feed(command)? {
            self.note_sent(&send, before);
            return Ok(());
        }
        self.bury_large(place, send.message, may_be_there);
        Ok(())
    }

    /// A message is larger than the remote takes: a batch goes in parts.
    fn bury_large(&mut self, place: EntryId, message: Outgoing, may_be_there: bool) {
        if self.uplink.split(place) {
            return;
        }
        let why = if may_be_there {
            "larger than the remote takes now; it may have arrived before"
        } else {
            "larger than the remote takes"
        };
        self.uplink.bury(place, message, why.to_owned());
        self.leave_out(place, may_be_there);
    }

    /// A message is too old to be sent.
    fn expire(&mut self, place: EntryId, message: &Outgoing, may_be_there: bool) {
        tracing::debug!(event = "uplink.message_expired", uplink = %self.uplink.settings.name, seq = place.seq, topic = %message.topic, "a message expired while it waited");
        let outbox = &self.uplink.outbox;
        outbox.give_up(place.queue, place.seq, message, Reason::Expired);
        if !may_be_there {
            outbox.settle(&[place]);
        }
        self.leave_out(place, may_be_there);
    }

    /// The format of a reading has no place for it.
    fn leave_out_reading(&mut self, place: EntryId, message: &Outgoing, may_be_there: bool) {
        self.uplink.note_left_out(place, message);
        if !may_be_there {
            self.uplink.settle(&[place]);
        }
        self.leave_out(place, may_be_there);
    }

    /// A message was collected behind `before` bytes of the connection.
    fn note_sent(&mut self, send: &Send, before: u64) {
        let Send { place, dup, .. } = *send;
        let (at, collected) = (now(), self.link.collected());
        let uplink = &mut *self.uplink;
        tracing::debug!(event = "uplink.message_sent", uplink = %uplink.settings.name, seq = place.seq, topic = %send.message.topic, qos = ?send.message.qos, dup, "message sent");
        let counters = &uplink.status.counters;
        counters.repeated.add(u64::from(dup));
        counters.resent.add(u64::from(send.is_resent));
        uplink.rates.sent(collected - before, at);
        if let Some(lane) = LANES.get(place.queue) {
            uplink.turns.sent(*lane, collected - before, at);
        }
        if send.packet_id.is_none() {
            self.unwritten.push_back((collected, place));
            return;
        }
        let packet = before..collected;
        if uplink.session.alone() == Some(place) {
            self.trial = Some(Trial::new(packet.clone()));
        }
        uplink.pace.sent(place, packet, at);
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
    /// Reads what is wanted. False if there is nothing.
    async fn read(
        &mut self,
        wanted: ReadRequest,
        unwritten: &VecDeque<(u64, EntryId)>,
    ) -> Result<bool, ReadError> {
        let read = self.outbox.read(wanted.lane, wanted.after, READ_BATCH);
        let read = read.await?;
        if read.is_none() && wanted.rule.is_none() {
            self.session.nothing_more_waits(wanted.lane as usize);
        }
        let is_there = read.is_some();
        let read = read.map(|(last, messages)| (last, self.ready(messages, unwritten)));
        self.lanes.fill(wanted, read);
        self.heartbeat.beat(now());
        Ok(is_there)
    }

    /// Messages that were read, without those that were taken before, each with the rule whose rate
    /// it has to wait for. What an earlier run had in flight waits for none.
    fn ready(&self, messages: Vec<Waiting>, unwritten: &VecDeque<(u64, EntryId)>) -> Vec<Ready> {
        let is_taken = |place: EntryId| {
            self.session.is_in_flight(place)
                || self.burials.holds(place)
                || self.batches.holds(place)
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

    /// A message as it is sent at the moment `now`; `None` if its format has no place for it.
    fn encoded(&self, send: &Send, now: Timestamp) -> Option<Outgoing> {
        let routes = self.routes.borrow();
        // Also in a repetition: without their correction, times before the clock was set would be
        // others than at first.
        let at = WrittenAt::Now(now);
        let payload = match self.batches.sent(send.place) {
            Some(batch) => self.payload_of_batch(batch, send, at, &routes),
            None => routes.payload(&send.message, at),
        };
        let mut encoded = send.message.with_payload(payload?);
        let lane = LANES.get(send.place.queue);
        let is_overtaken = |lane: &Lane| self.outbox.is_overtaken(*lane, &send.message, now);
        encoded.retain &= !lane.is_some_and(is_overtaken);
        Some(encoded)
    }

    /// The topic of a message at the remote; the error says why there is none.
    pub(super) fn topic_there(
        &self,
        message: &Outgoing,
        number: Option<&str>,
    ) -> Result<TopicName, String> {
        let Some(cloud) = &self.settings.cloud else {
            return Ok(message.topic.clone());
        };
        cloud
            .topic_there(message, number)
            .map_err(|error| format!("its topic is not possible at the remote: {error}"))
    }
}
