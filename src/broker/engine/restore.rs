//! From records back to an engine, at the start.
//!
//! Invariants:
//! * A record of a session that is not known changes nothing; damage ends a batch and is reported,
//!   and the records before it count.
//! * What is restored is within the limits, whatever the journal holds: the rest is left out, and
//!   counted. So is what is kept while reading: content whose deliveries are all done goes.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::{BudgetPart, NewCharges, Owner};
use super::delivery::{Delivery, Grounds, Subscription};
use super::known_receipts::KnownReceipts;
use super::lifecycle::End;
use super::read_record::{DeliveryStep, RecordedChange, next_change};
use super::record::{Clock, Deadline, SessionRecord, TargetRecord, WillRecord};
use super::restored_messages::MessageContents;
use super::session::{PendingWill, Session, names_weight};
use super::wills::RestoredWill;
use super::{Engine, SessionKey, Setup, filters};
use crate::message::Message;
use crate::mqtt::{TopicFilter, TopicName};

/// A delivery that is not done.
#[derive(Debug)]
struct RestoredDelivery {
    delivery: Delivery,
    was_sent: bool,
    released: bool,
}

/// A session, as far as the records were read.
#[derive(Debug)]
struct RestoredSession {
    key: SessionKey,
    waiting: BTreeMap<u64, RestoredDelivery>,
    ends: Option<Deadline>,
    will_due: Option<Deadline>,
}

/// The parts of a journal that were beyond the limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Sessions with everything they had.
    pub sessions: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Wills.
    pub wills: u64,
    /// Identifiers of QoS 2 messages that clients had not released.
    pub received: u64,
    /// Messages to clients.
    pub deliveries: u64,
}

/// An engine that is being restored.
#[derive(Debug)]
pub struct Restore {
    pub(super) engine: Engine,
    clock: Clock,
    sessions: HashMap<u64, RestoredSession>,
    messages: MessageContents,
    pub(super) left_out: LeftOut,
    /// They get their numbers when those of all messages are known.
    retained: BTreeMap<TopicName, Message>,
    /// Wills that destinations may not have, by their numbers.
    pub(super) late_wills: BTreeMap<u64, RestoredWill>,
    pub(super) known_receipts: KnownReceipts,
}

impl Restore {
    /// Begins with nothing.
    pub fn new(setup: Setup, now: Instant, unix_ms: i64) -> Self {
        let engine = Engine::new(setup, now, unix_ms);
        Self {
            engine,
            clock: Clock { now, unix_ms },
            sessions: HashMap::new(),
            messages: MessageContents::default(),
            left_out: LeftOut::default(),
            retained: BTreeMap::new(),
            late_wills: BTreeMap::new(),
            known_receipts: KnownReceipts::default(),
        }
    }

    /// Takes the batches one after the other; false if one is damaged: what follows the damage in
    /// it is lost.
    #[must_use]
    pub fn batch(&mut self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let Some(change) = next_change(&mut bytes, self.clock) else {
                return false;
            };
            self.apply(change);
        }
        true
    }

    // A table in the order of the kinds: one arm a record.
    fn apply(&mut self, change: RecordedChange) {
        match change {
            RecordedChange::Session(record) => self.session(record),
            RecordedChange::Gone { session } => self.gone(session),
            RecordedChange::Subscribed {
                session,
                filter,
                subscription,
            } => self.subscribed(session, &filter, subscription),
            RecordedChange::Unsubscribed { session, filter } => self.unsubscribed(session, &filter),
            RecordedChange::Message {
                id,
                retained,
                message,
                targets,
            } => self.message(id, retained, &message, targets),
            RecordedChange::Queued { id, targets } => self.queue(id, targets),
            RecordedChange::Delivery {
                session,
                number,
                step,
            } => self.delivery(session, number, step),
            RecordedChange::Received(record) => self.received(record),
            RecordedChange::Freed { session, packet_id } => self.freed(session, packet_id),
            RecordedChange::Retained(message) => self.retained(&message),
            RecordedChange::Replay {
                session,
                filter,
                after,
            } => self.replay(session, &filter, after),
            RecordedChange::ReplayDone { session, filter } => self.replay_done(session, &filter),
            RecordedChange::Will { session, will } => self.will(session, will),
            RecordedChange::NoWill { session } => self.no_will(session),
            RecordedChange::LateWill { number, message } => self.late_will(number, message),
            RecordedChange::Inbound(record) => self.inbound(record),
            RecordedChange::Receipts { last } => self.known_receipts.know_up_to(last),
        }
    }

    pub(super) fn of(&mut self, number: u64) -> Option<(SessionKey, &mut Session)> {
        let key = self.sessions.get(&number)?.key;
        self.engine
            .sessions
            .get_mut(key)
            .map(|session| (key, session))
    }

    fn session(&mut self, record: SessionRecord) {
        let engine = &mut self.engine;
        engine.sessions.know_number(record.number);
        let rights = engine
            .access
            .rights(record.user.as_ref(), &record.client_id)
            .unwrap_or_default();
        let names = names_weight(&record.client_id, record.user.as_ref(), &rights);
        let Some(key) = self.place_for(&record, names) else {
            self.left_out.sessions += 1;
            return;
        };
        let Some(session) = self.engine.sessions.get_mut(key) else {
            return;
        };
        let owner = Owner::restored(record.user.as_ref());
        let will = session.account.part(BudgetPart::Will);
        let charges = NewCharges { names, will };
        self.engine
            .budget
            .settle(&mut session.account, owner, charges);
        session.is_recorded = true;
        session.outlives = record.outlives_ms.map(Duration::from_millis);
        session.last_number = session.last_number.max(record.last_number);
        session.away_since = Some(self.clock.now);
        session.rights = rights;
        session.user = record.user;
        self.engine.note_absence(key);
    }

    /// The session of a record, made if needed; `None` if there is no room for one that holds
    /// `names` bytes.
    fn place_for(&mut self, record: &SessionRecord, names: usize) -> Option<SessionKey> {
        let engine = &mut self.engine;
        let known = match self.sessions.entry(record.number) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let owner = Owner::restored(record.user.as_ref());
                let has_place = engine.sessions.len() < engine.limits.max_sessions;
                if !has_place || engine.budget.admit(None, &owner, names).is_err() {
                    return None;
                }
                let account = engine.budget.open(owner);
                let sessions = &mut engine.sessions;
                let key = sessions.restore(&record.client_id, record.number, account);
                place.insert(RestoredSession {
                    key,
                    waiting: BTreeMap::new(),
                    ends: None,
                    will_due: None,
                })
            }
        };
        known.ends = record.ends;
        Some(known.key)
    }

    fn subscribed(&mut self, number: u64, filter: &TopicFilter, subscription: Subscription) {
        let Some((key, session)) = self.of(number) else {
            return;
        };
        let bytes = session.filters.bytes() + filters::cost(filter);
        let is_new = !session.filters.contains(filter);
        let has_place = session.filters.list().len() < self.engine.limits.max_subscriptions;
        if is_new && !(has_place && self.engine.charge(key, BudgetPart::Filters, bytes).is_ok()) {
            self.left_out.subscriptions += 1;
            return;
        }
        self.engine.subscriptions.insert(filter, key, subscription);
        let Some((_, session)) = self.of(number) else {
            return;
        };
        session.filters.insert(filter, subscription);
        if filter.is_shared() {
            let class = session.class_for(key, filter);
            self.engine.subscriptions.classify(filter, key, class);
        }
    }

    fn unsubscribed(&mut self, number: u64, filter: &TopicFilter) {
        let Some((key, session)) = self.of(number) else {
            return;
        };
        session.filters.remove(filter);
        session.replays.forget(filter);
        let (filters, replays) = (session.filters.bytes(), session.replays.bytes());
        self.engine.refund(key, BudgetPart::Filters, filters);
        self.engine.refund(key, BudgetPart::Replays, replays);
        self.engine.subscriptions.remove(filter, key);
    }

    fn delivery(&mut self, session: u64, number: u64, step: DeliveryStep) {
        match step {
            DeliveryStep::Sent => self.sent(session, number),
            DeliveryStep::Released => self.released(session, number),
            DeliveryStep::Done => self.done(session, number),
        }
    }

    /// Everything up to a number was sent.
    fn sent(&mut self, number: u64, last: u64) {
        let known = self.sessions.get_mut(&number);
        let waiting = known.map(|known| known.waiting.range_mut(..=last));
        for (_, delivery) in waiting.into_iter().flatten() {
            delivery.was_sent = true;
        }
    }

    fn released(&mut self, number: u64, delivery: u64) {
        let known = self.sessions.get_mut(&number);
        if let Some(released) = known.and_then(|known| known.waiting.get_mut(&delivery)) {
            released.released = true;
        }
    }

    fn done(&mut self, number: u64, delivery: u64) {
        let known = self.sessions.get_mut(&number);
        if let Some(done) = known.and_then(|known| known.waiting.remove(&delivery)) {
            self.messages.done(done.delivery.message);
        }
    }

    fn replay_done(&mut self, number: u64, filter: &TopicFilter) {
        let Some((key, session)) = self.of(number) else {
            return;
        };
        session.replays.forget(filter);
        let bytes = session.replays.bytes();
        self.engine.refund(key, BudgetPart::Replays, bytes);
    }

    fn no_will(&mut self, number: u64) {
        if let Some((key, session)) = self.of(number) {
            session.will = None;
            self.engine.refund(key, BudgetPart::Will, 0);
        }
    }

    /// Without room for the place it has reached, it begins again.
    fn replay(&mut self, number: u64, filter: &TopicFilter, after: Option<TopicName>) {
        let Some((key, session)) = self.of(number) else {
            return;
        };
        let Some((filter, _)) = session.filters.get(filter).cloned() else {
            return;
        };
        let bytes = session.replays.bytes_with(&filter, after.as_ref());
        let has_room = self.engine.charge(key, BudgetPart::Replays, bytes).is_ok();
        if let Some((_, session)) = self.of(number) {
            session.replays.restore(filter, after.filter(|_| has_room));
            let bytes = session.replays.bytes();
            self.engine.refund(key, BudgetPart::Replays, bytes);
        }
    }

    fn gone(&mut self, number: u64) {
        let Some(known) = self.sessions.remove(&number) else {
            return;
        };
        let Some(session) = self.engine.sessions.remove(known.key) else {
            return;
        };
        self.engine.away.note(known.key, None);
        known
            .waiting
            .into_values()
            .for_each(|waiting| self.messages.done(waiting.delivery.message));
        for (filter, _) in session.filters.list() {
            self.engine.subscriptions.remove(filter, known.key);
        }
        self.engine.budget.close(session.account);
    }

    fn message(&mut self, id: u64, retained: bool, message: &Message, targets: Vec<TargetRecord>) {
        self.engine.kept.know_id(id);
        if retained {
            self.retained(message);
        }
        let is_wanted = targets
            .iter()
            .any(|target| self.sessions.contains_key(&target.session));
        if is_wanted {
            self.messages.put(message, id, &mut self.engine.kept);
        }
        self.queue(id, targets);
    }

    fn queue(&mut self, id: u64, targets: Vec<TargetRecord>) {
        let Some(message) = self.messages.get(id) else {
            return;
        };
        for target in targets {
            let TargetRecord {
                session,
                number,
                qos,
                retain,
                was_sent,
                is_replay,
                identifiers,
                share,
            } = target;
            let Some(known) = self.sessions.get_mut(&session) else {
                continue;
            };
            if let Some(session) = self.engine.sessions.get_mut(known.key) {
                session.last_number = session.last_number.max(number);
            }
            let share = share.map(Arc::new);
            let grounds = Grounds::new(identifiers, share.as_ref());
            let delivery = Delivery {
                message: message.clone(),
                number,
                qos,
                retain,
                is_replay,
                grounds,
            };
            known.waiting.insert(
                number,
                RestoredDelivery {
                    delivery,
                    was_sent,
                    released: false,
                },
            );
        }
    }

    fn retained(&mut self, message: &Message) {
        if message.payload.is_empty() {
            self.retained.remove(&message.topic);
        } else {
            let message = message.detached();
            self.retained.insert(message.topic.clone(), message);
        }
    }

    fn late_will(&mut self, number: u64, message: Option<Message>) {
        self.known_receipts.name(number);
        match message {
            Some(message) => {
                let message = message.detached();
                let missing = u64::MAX;
                self.late_wills
                    .insert(number, RestoredWill { message, missing })
            }
            None => self.late_wills.remove(&number),
        };
    }

    fn will(&mut self, number: u64, record: WillRecord) {
        let Some((key, _)) = self.of(number) else {
            return;
        };
        let will = PendingWill {
            message: record.message,
            expiry: record.expiry_ms.map(Duration::from_millis),
            delay: Duration::from_millis(record.delay_ms),
            due: None,
            receipt: 0,
            missing: u64::MAX,
        };
        if self
            .engine
            .charge(key, BudgetPart::Will, will.weight())
            .is_err()
        {
            self.left_out.wills += 1;
            return;
        }
        if let Some((_, session)) = self.of(number) {
            session.will = Some(Box::new(will));
        }
        if let Some(known) = self.sessions.get_mut(&number) {
            known.will_due = record.due;
        }
    }

    /// The engine as it was as far as the limits allow, with every client gone, and what is left
    /// out. Sessions that end with their connection end now, timers continue.
    pub fn finish(mut self) -> (Engine, LeftOut) {
        let now = self.clock.now;
        self.messages = MessageContents::default();
        let mut sessions: Vec<(u64, RestoredSession)> = self.sessions.drain().collect();
        sessions.sort_by_key(|(number, _)| *number);
        for (_, known) in &mut sessions {
            let waiting = std::mem::take(&mut known.waiting).into_values();
            self.left_out.deliveries += waiting
                .map(|waiting| u64::from(!self.engine.put_back(known.key, waiting, now)))
                .sum::<u64>();
        }
        for message in std::mem::take(&mut self.retained).into_values() {
            self.engine.retain(&message, None, now);
        }
        let newest = self.engine.kept.last_id();
        self.engine
            .sessions
            .iter_mut()
            .for_each(|(_, session)| session.replays.restored(newest));
        // Before messages that are published now get their receipts.
        let last = self.known_receipts.last();
        self.engine.receipts.continue_from(last);
        self.engine.resume_late_wills(self.late_wills, now);
        for (_, known) in sessions {
            self.engine.resume_timers(&known, self.clock);
        }
        (self.engine, self.left_out)
    }
}

impl Engine {
    /// Puts a delivery back where it was, within the same limits as a new one; false if there is no
    /// room for it.
    fn put_back(&mut self, key: SessionKey, restored: RestoredDelivery, now: Instant) -> bool {
        let RestoredDelivery {
            delivery,
            was_sent,
            released,
        } = restored;
        let has_room = self.has_room_in_total();
        // A released message is a number only: it needs no room.
        let Some(session) = self.sessions.get_mut(key).filter(|_| has_room || released) else {
            return false;
        };
        let is_put_back = if !was_sent && !released {
            if delivery.is_replay {
                session.queue.enqueue_replay(delivery)
            } else {
                let mut dropped = Vec::new();
                session
                    .queue
                    .enqueue(delivery, &self.limits, now, &mut dropped)
            }
        } else {
            let has_place = released
                || session.in_flight.len() == 0
                || session.has_room_in_flight(&self.limits);
            if has_place {
                session.in_flight.restore(delivery, released);
            }
            has_place
        };
        self.fullest.grew(key, session.held_bytes());
        is_put_back
    }

    /// Starts the timers of a session whose client is not back yet.
    fn resume_timers(&mut self, known: &RestoredSession, clock: Clock) {
        let (key, now) = (known.key, clock.now);
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let outlives = session.outlives;
        match (known.will_due, &session.will) {
            // It was published before the crash: a destination has it.
            (_, Some(will)) if will.receipt != 0 => self.publish_will(key, now),
            (Some(due), _) => self.delay_will(key, due.from(clock)),
            // Its connection was lost with the broker.
            (None, Some(_)) => self.settle_will(key, End::Lost, now),
            (None, None) => {}
        }
        match (known.ends, outlives) {
            (_, Some(Duration::ZERO)) => self.remove_session(key, now),
            (Some(ends), Some(_)) => self.expire_at(key, ends.from(clock)),
            (None, Some(time)) => self.expire_at(key, now + time),
            (_, None) => {}
        }
    }
}
