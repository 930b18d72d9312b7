//! From records back to an engine, at the start.
//!
//! Invariants: a record of a session that is not known changes nothing; damage ends a batch and is told, and what was understood
//! counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::record::{Change, Clock, Deadline, SessionRecord, TargetRecord, WillRecord, next_change};
use super::session::{Delivery, Exchange, Incoming, Kept, PendingWill, Session, Subscription};
use super::{Engine, SessionKey, Setup};
use crate::message::Message;
use crate::mqtt::TopicName;

/// A delivery that is not done.
#[derive(Debug)]
struct Waiting {
    delivery: Delivery,
    was_sent: bool,
    released: bool,
}

/// What is known of a session so far.
#[derive(Debug)]
struct Known {
    key: SessionKey,
    waiting: BTreeMap<u64, Waiting>,
    ends: Option<Deadline>,
    will_due: Option<Deadline>,
}

/// An engine that is being restored.
#[derive(Debug)]
pub struct Restore {
    engine: Engine,
    clock: Clock,
    sessions: HashMap<u64, Known>,
    messages: HashMap<u64, Arc<Kept>>,
    /// They get their numbers when those of all messages are known.
    retained: BTreeMap<TopicName, Message>,
}

impl Restore {
    /// Begins with nothing.
    pub fn new(setup: Setup, now: Instant, unix_ms: i64) -> Self {
        let engine = Engine::new(setup, now, unix_ms);
        Self { engine, clock: (now, unix_ms), sessions: HashMap::new(), messages: HashMap::new(), retained: BTreeMap::new() }
    }

    /// Takes the batches one after the other; false if one is damaged: what follows the damage in it is lost.
    #[must_use]
    pub fn batch(&mut self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let Some(change) = next_change(&mut bytes, self.clock) else { return false };
            self.apply(change);
        }
        true
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Session(record) => self.session(record),
            Change::Gone { session } => self.gone(session),
            Change::Subscribed { session, filter, options, identifier } => {
                let Some((key, session)) = self.of(session) else { return };
                let subscription = Subscription { options, identifier };
                session.subscribe(&filter, subscription);
                self.engine.subscriptions.insert(&filter, key, subscription);
            }
            Change::Unsubscribed { session, filter } => {
                let Some((key, session)) = self.of(session) else { return };
                session.unsubscribe(&filter);
                self.engine.subscriptions.remove(&filter, key);
            }
            Change::Message { id, retained, message, targets } => self.message(id, retained, &message, targets),
            Change::Queued { id, targets } => self.queue(id, targets),
            Change::Sent { session, number } => {
                let Some(known) = self.sessions.get_mut(&session) else { return };
                known.waiting.range_mut(..=number).for_each(|(_, waiting)| waiting.was_sent = true);
            }
            Change::Released { session, number } => {
                if let Some(waiting) = self.sessions.get_mut(&session).and_then(|known| known.waiting.get_mut(&number)) {
                    waiting.released = true;
                }
            }
            Change::Done { session, number } => {
                if let Some(known) = self.sessions.get_mut(&session) {
                    known.waiting.remove(&number);
                }
            }
            Change::Received { session, packet_id, held } => {
                let state = if held { Exchange::Refused { taps: u64::MAX } } else { Exchange::Received };
                if let Some((_, session)) = self.of(session) {
                    session.incoming.insert(packet_id, Incoming { state, connection: 0 });
                }
            }
            Change::Freed { session, packet_id } => {
                if let Some((_, session)) = self.of(session) {
                    session.incoming.remove(&packet_id);
                }
            }
            Change::Retained(message) => self.retained(&message),
            Change::Will { session, will } => self.will(session, will),
            Change::NoWill { session } => {
                if let Some((_, session)) = self.of(session) {
                    session.will = None;
                }
            }
        }
    }

    fn of(&mut self, number: u64) -> Option<(SessionKey, &mut Session)> {
        let key = self.sessions.get(&number)?.key;
        self.engine.sessions.get_mut(key).map(|session| (key, session))
    }

    fn session(&mut self, record: SessionRecord) {
        let engine = &mut self.engine;
        let known = self.sessions.entry(record.number).or_insert_with(|| {
            let key = engine.sessions.insert(Session::new(record.client_id.clone(), record.number));
            engine.by_client.insert(record.client_id.clone(), key);
            engine.next_session = engine.next_session.max(record.number);
            Known { key, waiting: BTreeMap::new(), ends: None, will_due: None }
        });
        known.ends = record.ends;
        let Some(session) = engine.sessions.get_mut(known.key) else { return };
        session.is_recorded = true;
        session.outlives = record.outlives_ms.map(Duration::from_millis);
        session.last_number = session.last_number.max(record.last_number);
        session.away_since = Some(self.clock.0);
        session.rights = engine.access.rights(record.user.as_ref(), &record.client_id).unwrap_or_default();
        session.user = record.user;
    }

    fn gone(&mut self, number: u64) {
        let Some(known) = self.sessions.remove(&number) else { return };
        let Some(session) = self.engine.sessions.try_remove(known.key) else { return };
        // Another session of the same client may have been made before this one was taken out.
        if self.engine.by_client.get(&session.client_id) == Some(&known.key) {
            self.engine.by_client.remove(&session.client_id);
        }
        for (filter, _) in session.subscriptions() {
            self.engine.subscriptions.remove(filter, known.key);
        }
    }

    fn message(&mut self, id: u64, retained: bool, message: &Message, targets: Vec<TargetRecord>) {
        self.engine.next_message = self.engine.next_message.max(id);
        if retained {
            self.retained(message);
        }
        let is_wanted = targets.iter().any(|target| self.sessions.contains_key(&target.session));
        if is_wanted && !self.messages.contains_key(&id) {
            self.messages.insert(id, Kept::new(message, id, &self.engine.queued_bytes));
        }
        self.queue(id, targets);
    }

    fn queue(&mut self, id: u64, targets: Vec<TargetRecord>) {
        let Some(message) = self.messages.get(&id) else { return };
        for target in targets {
            let TargetRecord { session, number, qos, retain, was_sent, identifiers, share } = target;
            let Some(known) = self.sessions.get_mut(&session) else { continue };
            if let Some(session) = self.engine.sessions.get_mut(known.key) {
                session.last_number = session.last_number.max(number);
            }
            let share = share.map(Arc::new);
            let delivery = Delivery { message: message.clone(), number, qos, retain, is_replay: false, identifiers, share };
            known.waiting.insert(number, Waiting { delivery, was_sent, released: false });
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

    fn will(&mut self, number: u64, record: WillRecord) {
        let Some((_, session)) = self.of(number) else { return };
        let will = PendingWill {
            message: record.message,
            expiry: record.expiry_ms.map(Duration::from_millis),
            delay: Duration::from_millis(record.delay_ms),
            due: None,
        };
        session.will = Some(Box::new(will));
        if let Some(known) = self.sessions.get_mut(&number) {
            known.will_due = record.due;
        }
    }

    /// The engine as it was, with every client gone: sessions that end with their connection end now, timers go on.
    pub fn finish(mut self) -> Engine {
        let now = self.clock.0;
        let mut sessions: Vec<(u64, Known)> = self.sessions.drain().collect();
        sessions.sort_by_key(|(number, _)| *number);
        for (_, known) in &mut sessions {
            let Some(session) = self.engine.sessions.get_mut(known.key) else { continue };
            for (_, Waiting { delivery, was_sent, released }) in std::mem::take(&mut known.waiting) {
                if was_sent || released {
                    session.in_flight.restore(delivery, released);
                } else {
                    session.queue.push(delivery);
                }
            }
            self.engine.fullest.grew(known.key, session.queue.held_bytes());
        }
        self.messages.clear();
        for message in std::mem::take(&mut self.retained).into_values() {
            self.engine.retain(&message, None, now);
        }
        for (_, known) in sessions {
            self.engine.go_on_alone(known.key, (known.ends, known.will_due), self.clock, now);
        }
        self.engine
    }
}

impl Engine {
    /// A restored session without its client.
    fn go_on_alone(&mut self, key: SessionKey, (ends, will_due): (Option<Deadline>, Option<Deadline>), clock: Clock, now: Instant) {
        let Some(session) = self.sessions.get(key) else { return };
        let outlives = session.outlives;
        match (will_due, &session.will) {
            (Some(due), _) => self.delay_will(key, due.from(clock)),
            // Its connection was lost with the broker.
            (None, Some(_)) => self.settle_will(key, super::connect::End::Lost, now),
            (None, None) => {}
        }
        match (ends, outlives) {
            (_, Some(Duration::ZERO)) => self.remove_session(key, now),
            (Some(ends), Some(_)) => self.expire_at(key, ends.from(clock)),
            (None, Some(time)) => self.expire_at(key, now + time),
            (_, None) => {}
        }
    }
}
