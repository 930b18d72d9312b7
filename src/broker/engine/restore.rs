//! From records back to an engine, at the start.
//!
//! Invariants:
//! * A record of a session that is not known changes nothing; damage ends a batch and is told, and what was understood counts.
//! * What is restored is within the limits, whatever the journal holds: the rest is left out, and counted. So is what is kept while
//!   reading: content whose deliveries are all done goes.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::{Owner, Part};
use super::read_record::{Change, next_change};
use super::record::{Clock, Deadline, SessionRecord, TargetRecord, WillRecord};
use super::session::{
    Delivery, Exchange, Incoming, Kept, PendingWill, Session, Subscription, names_weight,
};
use super::{Engine, SessionKey, Setup, filters};
use crate::message::Message;
use crate::mqtt::{PacketId, TopicFilter, TopicName};

/// Bytes of messages that may be kept although all known deliveries are done.
const MOST_SPARE: usize = 4 << 20;

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

/// What a journal held beyond the limits.
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
    engine: Engine,
    clock: Clock,
    sessions: HashMap<u64, Known>,
    messages: Contents,
    left_out: LeftOut,
    /// They get their numbers when those of all messages are known.
    retained: BTreeMap<TopicName, Message>,
}

impl Restore {
    /// Begins with nothing.
    pub fn new(setup: Setup, now: Instant, unix_ms: i64) -> Self {
        let engine = Engine::new(setup, now, unix_ms);
        Self {
            engine,
            clock: (now, unix_ms),
            sessions: HashMap::new(),
            messages: Contents::default(),
            left_out: LeftOut::default(),
            retained: BTreeMap::new(),
        }
    }

    /// Takes the batches one after the other; false if one is damaged: what follows the damage in it is lost.
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

    fn apply(&mut self, change: Change) {
        match change {
            Change::Session(record) => self.session(record),
            Change::Gone { session } => self.gone(session),
            Change::Subscribed {
                session,
                filter,
                options,
                identifier,
            } => {
                self.subscribed(
                    session,
                    &filter,
                    Subscription {
                        options,
                        identifier,
                    },
                );
            }
            Change::Unsubscribed { session, filter } => {
                let Some((key, session)) = self.of(session) else {
                    return;
                };
                session.filters.remove(&filter);
                session.replays.forget(&filter);
                let (filters, replays) = (session.filters.bytes(), session.replays.bytes());
                self.engine.refund(key, Part::Filters, filters);
                self.engine.refund(key, Part::Replays, replays);
                self.engine.subscriptions.remove(&filter, key);
            }
            Change::Message {
                id,
                retained,
                message,
                targets,
            } => self.message(id, retained, &message, targets),
            Change::Queued { id, targets } => self.queue(id, targets),
            Change::Sent { session, number } => {
                let Some(known) = self.sessions.get_mut(&session) else {
                    return;
                };
                known
                    .waiting
                    .range_mut(..=number)
                    .for_each(|(_, waiting)| waiting.was_sent = true);
            }
            Change::Released { session, number } => {
                if let Some(waiting) = self
                    .sessions
                    .get_mut(&session)
                    .and_then(|known| known.waiting.get_mut(&number))
                {
                    waiting.released = true;
                }
            }
            Change::Done { session, number } => {
                let done = self
                    .sessions
                    .get_mut(&session)
                    .and_then(|known| known.waiting.remove(&number));
                if let Some(done) = done {
                    self.messages.done(done.delivery.message);
                }
            }
            Change::Received {
                session,
                packet_id,
                held,
            } => {
                self.received(
                    session,
                    packet_id,
                    if held {
                        Exchange::Refused { taps: u64::MAX }
                    } else {
                        Exchange::Received
                    },
                );
            }
            Change::Freed { session, packet_id } => {
                if let Some((key, _)) = self.of(session) {
                    self.engine.forget_received(key, packet_id);
                }
            }
            Change::Retained(message) => self.retained(&message),
            Change::Replay {
                session,
                filter,
                after,
            } => self.replay(session, &filter, after),
            Change::ReplayDone { session, filter } => {
                let Some((key, session)) = self.of(session) else {
                    return;
                };
                session.replays.forget(&filter);
                let bytes = session.replays.bytes();
                self.engine.refund(key, Part::Replays, bytes);
            }
            Change::Will { session, will } => self.will(session, will),
            Change::NoWill { session } => {
                if let Some((key, session)) = self.of(session) {
                    session.will = None;
                    self.engine.refund(key, Part::Will, 0);
                }
            }
        }
    }

    fn of(&mut self, number: u64) -> Option<(SessionKey, &mut Session)> {
        let key = self.sessions.get(&number)?.key;
        self.engine
            .sessions
            .get_mut(key)
            .map(|session| (key, session))
    }

    fn session(&mut self, record: SessionRecord) {
        let engine = &mut self.engine;
        engine.next_session = engine.next_session.max(record.number);
        let rights = engine
            .access
            .rights(record.user.as_ref(), &record.client_id)
            .unwrap_or_default();
        let names = names_weight(&record.client_id, record.user.as_ref(), &rights);
        let known = match self.sessions.entry(record.number) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let owner = Owner::restored(record.user.as_ref());
                let has_place = engine.sessions.len() < engine.limits.max_sessions;
                if !has_place || engine.budget.admit(None, &owner, names).is_err() {
                    self.left_out.sessions += 1;
                    return;
                }
                let session =
                    Session::new(&record.client_id, record.number, engine.budget.open(owner));
                let client_id = session.client_id.clone();
                let key = engine.sessions.insert(session);
                engine.by_client.insert(client_id, key);
                place.insert(Known {
                    key,
                    waiting: BTreeMap::new(),
                    ends: None,
                    will_due: None,
                })
            }
        };
        known.ends = record.ends;
        let Some(session) = engine.sessions.get_mut(known.key) else {
            return;
        };
        let will = session.account.part(Part::Will);
        engine.budget.settle(
            &mut session.account,
            Owner::restored(record.user.as_ref()),
            (names, will),
        );
        session.is_recorded = true;
        session.outlives = record.outlives_ms.map(Duration::from_millis);
        session.last_number = session.last_number.max(record.last_number);
        session.away_since = Some(self.clock.0);
        session.rights = rights;
        session.user = record.user;
        let key = known.key;
        self.engine.note_absence(key);
    }

    fn subscribed(&mut self, number: u64, filter: &TopicFilter, subscription: Subscription) {
        let Some((key, session)) = self.of(number) else {
            return;
        };
        let bytes = session.filters.bytes() + filters::cost(filter);
        let is_new = !session.filters.contains(filter);
        let has_place = session.filters.list().len() < self.engine.limits.max_subscriptions;
        if is_new && !(has_place && self.engine.charge(key, Part::Filters, bytes).is_ok()) {
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

    /// Without room for the place it has reached, it begins again.
    fn replay(&mut self, number: u64, filter: &TopicFilter, after: Option<TopicName>) {
        let Some((key, session)) = self.of(number) else {
            return;
        };
        let Some((filter, _)) = session.filters.get(filter).cloned() else {
            return;
        };
        let bytes = session.replays.bytes_with(&filter, after.as_ref());
        let has_room = self.engine.charge(key, Part::Replays, bytes).is_ok();
        if let Some((_, session)) = self.of(number) {
            session.replays.restore(filter, after.filter(|_| has_room));
            let bytes = session.replays.bytes();
            self.engine.refund(key, Part::Replays, bytes);
        }
    }

    fn received(&mut self, number: u64, packet_id: PacketId, state: Exchange) {
        let Some((key, session)) = self.of(number) else {
            return;
        };
        let more = usize::from(!session.incoming.contains_key(&packet_id));
        if self.engine.charge_received(key, more).is_err() {
            self.left_out.received += 1;
        } else if let Some((_, session)) = self.of(number) {
            session.incoming.insert(
                packet_id,
                Incoming {
                    state,
                    connection: 0,
                },
            );
        }
    }

    fn gone(&mut self, number: u64) {
        let Some(known) = self.sessions.remove(&number) else {
            return;
        };
        let Some(session) = self.engine.sessions.try_remove(known.key) else {
            return;
        };
        self.engine.away.note(known.key, None);
        known
            .waiting
            .into_values()
            .for_each(|waiting| self.messages.done(waiting.delivery.message));
        // Another session of the same client may have been made before this one was taken out.
        if self.engine.by_client.get(&session.client_id) == Some(&known.key) {
            self.engine.by_client.remove(&session.client_id);
        }
        for (filter, _) in session.filters.list() {
            self.engine.subscriptions.remove(filter, known.key);
        }
        self.engine.budget.close(session.account);
    }

    fn message(&mut self, id: u64, retained: bool, message: &Message, targets: Vec<TargetRecord>) {
        self.engine.next_message = self.engine.next_message.max(id);
        if retained {
            self.retained(message);
        }
        let is_wanted = targets
            .iter()
            .any(|target| self.sessions.contains_key(&target.session));
        if is_wanted {
            self.messages.put(message, id, &self.engine.queued_bytes);
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
            let delivery = Delivery {
                message: message.clone(),
                number,
                qos,
                retain,
                is_replay,
                identifiers,
                share,
            };
            known.waiting.insert(
                number,
                Waiting {
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

    fn will(&mut self, number: u64, record: WillRecord) {
        let Some((key, _)) = self.of(number) else {
            return;
        };
        let will = PendingWill {
            message: record.message,
            expiry: record.expiry_ms.map(Duration::from_millis),
            delay: Duration::from_millis(record.delay_ms),
            due: None,
        };
        if self.engine.charge(key, Part::Will, will.weight()).is_err() {
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

    /// The engine as it was as far as the limits allow, with every client gone, and what is left out. Sessions that end with their
    /// connection end now, timers go on.
    pub fn finish(mut self) -> (Engine, LeftOut) {
        let now = self.clock.0;
        self.messages = Contents::default();
        let mut sessions: Vec<(u64, Known)> = self.sessions.drain().collect();
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
        let newest = self.engine.next_message;
        self.engine
            .sessions
            .iter_mut()
            .for_each(|(_, session)| session.replays.restored(newest));
        for (_, known) in sessions {
            self.engine
                .go_on_alone(known.key, (known.ends, known.will_due), self.clock, now);
        }
        (self.engine, self.left_out)
    }
}

/// Content of messages, by their numbers. A checkpoint may say later that a message has more deliveries than those that are done: it is
/// kept for a while.
///
/// Invariant: `spare_bytes` is what the messages in `spare` weigh.
#[derive(Debug, Default)]
struct Contents {
    messages: HashMap<u64, Arc<Kept>>,
    /// Those that nobody waited for when they were put here, from the oldest to the newest.
    spare: VecDeque<(u64, usize)>,
    spare_bytes: usize,
}

impl Contents {
    fn get(&self, id: u64) -> Option<&Arc<Kept>> {
        self.messages.get(&id)
    }

    fn put(&mut self, message: &Message, id: u64, total: &Arc<AtomicUsize>) {
        self.messages
            .entry(id)
            .or_insert_with(|| Kept::new(message, id, total));
    }

    /// A delivery of it is over.
    fn done(&mut self, message: Arc<Kept>) {
        // Here, and in the hand of the caller.
        if Arc::strong_count(&message) > 2 || !self.messages.contains_key(&message.id) {
            return;
        }
        self.spare_bytes += message.weight();
        self.spare.push_back((message.id, message.weight()));
        while self.spare_bytes > MOST_SPARE
            && let Some((id, weight)) = self.spare.pop_front()
        {
            self.spare_bytes -= weight;
            if self
                .messages
                .get(&id)
                .is_some_and(|message| Arc::strong_count(message) == 1)
            {
                self.messages.remove(&id);
            }
        }
    }
}

impl Engine {
    /// Puts a delivery back where it was, within the same limits as a new one; false if there is no room for it.
    fn put_back(
        &mut self,
        key: SessionKey,
        Waiting {
            delivery,
            was_sent,
            released,
        }: Waiting,
        now: Instant,
    ) -> bool {
        let has_room = self.has_room_in_total();
        // Of what is released there is a number only: it needs no room.
        let Some(session) = self.sessions.get_mut(key).filter(|_| has_room || released) else {
            return false;
        };
        let is_put_back = if !was_sent && !released {
            match delivery.is_replay {
                true => session.queue.enqueue_replay(delivery),
                false => session
                    .queue
                    .enqueue(delivery, &self.limits, now, &mut Vec::new()),
            }
        } else if released
            || session.in_flight.len() == 0
            || session.has_room_in_flight(&self.limits)
        {
            session.in_flight.restore(delivery, released);
            true
        } else {
            false
        };
        self.fullest.grew(key, session.held_bytes());
        is_put_back
    }

    /// A restored session without its client.
    fn go_on_alone(
        &mut self,
        key: SessionKey,
        (ends, will_due): (Option<Deadline>, Option<Deadline>),
        clock: Clock,
        now: Instant,
    ) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
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
