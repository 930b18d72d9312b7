//! Retained messages on their way to new subscriptions.
//!
//! A subscription gets everything that was retained when it began, in the order of the topics, and its client may take its time to read
//! it. So only a few of these messages wait in the queue of a session; the topic that was reached is kept, and more are fetched when the
//! client has read some, also after it was away. The place survives a restart of the broker: what a client received as a new message
//! before the restart may then come as a retained one as well.
//!
//! Invariants:
//! * A session has each filter in its list once, and only filters it is subscribed to. The first one is worked on; `bytes` is what the
//!   places in the list take.
//! * What is kept in place of a retained message after the subscription began is not replayed: it comes as a new message. At QoS 0 that
//!   holds for what came since the client connected, because nothing at QoS 0 is kept for somebody who is away.
//! * At most [`MOST_WAITING`] retained messages wait for a session, and more are fetched only while there is room for them in the
//!   queues of all. Where there is none, the session that holds most gives room for one at a time.
//! * A session gets its turn when a client has read or acknowledged something and few messages wait for it (`is_due`); one that waits
//!   for room in the queues of all is among the starved.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::budget::Part;
use super::notice::NoticeKind;
use super::queue::MOST_WAITING;
use super::record::Record;
use super::retained::{Matching, Most};
use super::session::{Delivery, Kept, Session, Subscription};
use super::{Engine, SessionKey};
use crate::mqtt::{QoS, TopicFilter, TopicName};

/// Topics that are looked at in a turn.
const REPLAY_PIECE: usize = 20_000;
/// Of these, for one session before the next one has its turn.
const FAIR_PIECE: usize = 4_000;
/// With more waiting than this, nothing is fetched.
const FEW_WAITING: usize = MOST_WAITING / 2;
/// What a place takes besides its topic, in bytes, about.
const PLACE_OVERHEAD: usize = 64;

/// Whether the records know of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recorded {
    Never,
    Outdated,
    UpToDate,
}

/// Retained messages on their way to one subscription.
#[derive(Debug)]
pub(super) struct Replay {
    filter: TopicFilter,
    /// The last topic that was looked at.
    after: Option<TopicName>,
    /// The last message that was kept before the subscription began.
    newest: u64,
    recorded: Recorded,
}

impl Replay {
    /// Its subscription.
    pub(super) fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    /// The last topic that was looked at.
    pub(super) fn after(&self) -> Option<&TopicName> {
        self.after.as_ref()
    }
}

/// What a place takes.
fn weight(after: Option<&TopicName>) -> usize {
    after.map_or(0, |topic| PLACE_OVERHEAD + topic.as_str().len())
}

/// The replays of one session, in the order of their subscriptions.
#[derive(Debug, Default)]
pub(super) struct Replays {
    list: VecDeque<Replay>,
    bytes: usize,
    /// The last message that was kept when the client connected.
    newest_at_connect: u64,
    /// It is among those that are due.
    is_due: bool,
}

impl Replays {
    /// What the places take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// In the order in which they are worked on.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Replay> {
        self.list.iter()
    }

    /// Begins with a subscription, or begins again: `newest` is the last message that was kept.
    fn begin(&mut self, filter: TopicFilter, newest: u64) {
        let is_known = self.remove(&filter);
        let recorded = is_known.unwrap_or(Recorded::Never);
        let recorded = if recorded == Recorded::Never { Recorded::Never } else { Recorded::Outdated };
        self.list.push_back(Replay { filter, after: None, newest, recorded });
    }

    /// Puts back what the records tell.
    pub(super) fn restore(&mut self, filter: TopicFilter, after: Option<TopicName>) {
        self.remove(&filter);
        self.bytes += weight(after.as_ref());
        let is_first = after.is_some();
        let replay = Replay { filter, after, newest: 0, recorded: Recorded::UpToDate };
        if is_first { self.list.push_front(replay) } else { self.list.push_back(replay) }
    }

    /// All messages have their numbers: those up to `newest` may be replayed.
    pub(super) fn restored(&mut self, newest: u64) {
        self.list.iter_mut().for_each(|replay| replay.newest = newest);
    }

    /// What the places would take with another one for a filter.
    pub(super) fn bytes_with(&self, filter: &TopicFilter, after: Option<&TopicName>) -> usize {
        let known = self.list.iter().find(|replay| replay.filter == *filter);
        self.bytes - known.map_or(0, |replay| weight(replay.after.as_ref())) + weight(after)
    }

    /// The client has connected, when `newest` was the last message that was kept.
    pub(super) fn connected(&mut self, newest: u64) {
        self.newest_at_connect = newest;
    }

    fn remove(&mut self, filter: &TopicFilter) -> Option<Recorded> {
        let place = self.list.iter().position(|replay| replay.filter == *filter)?;
        let gone = self.list.remove(place)?;
        self.bytes -= weight(gone.after.as_ref());
        Some(gone.recorded)
    }

    /// Forgets the replay of a subscription.
    pub(super) fn forget(&mut self, filter: &TopicFilter) {
        self.remove(filter);
    }

    /// True if this retained message is older than the subscription, or than the connection if the client gets it at QoS 0.
    fn replays(&self, message: &Kept, qos: QoS) -> bool {
        let newest = self.list.front().map_or(0, |replay| replay.newest);
        message.id <= if qos == QoS::AtMostOnce { newest.max(self.newest_at_connect) } else { newest }
    }

    fn proceed(&mut self, after: TopicName) {
        let Some(replay) = self.list.front_mut() else { return };
        self.bytes = self.bytes - weight(replay.after.as_ref()) + weight(Some(&after));
        replay.after = Some(after);
        if replay.recorded == Recorded::UpToDate {
            replay.recorded = Recorded::Outdated;
        }
    }

    /// Panics if the total is not what the places say, or a subscription is missing. For tests.
    pub(super) fn check_invariants(&self, is_subscribed: impl Fn(&TopicFilter) -> bool) {
        assert_eq!(self.bytes, self.list.iter().map(|replay| weight(replay.after.as_ref())).sum::<usize>(), "bytes of places");
        assert!(self.list.iter().skip(1).all(|replay| replay.after.is_none()), "only the first replay has a place");
        assert!(self.list.iter().all(|replay| is_subscribed(&replay.filter)), "a replay belongs to a subscription");
        let filters: std::collections::BTreeSet<_> = self.list.iter().map(|replay| &replay.filter).collect();
        assert_eq!(filters.len(), self.list.len(), "one replay for a subscription");
    }
}

/// The sessions that [`Engine::go_on`] turns to.
#[derive(Debug, Default)]
pub(super) struct ReplayTurns {
    /// Those with something to fetch and room for it.
    due: VecDeque<SessionKey>,
    /// Those that wait for room in the queues of all.
    starved: std::collections::BTreeSet<SessionKey>,
}

impl Engine {
    /// Panics if a session that is to have its turn gets none. For tests.
    pub(super) fn check_replay_turns(&self) {
        let due: std::collections::BTreeSet<SessionKey> = self.replay_turns.due.iter().copied().collect();
        let expected = self.sessions.iter().filter(|(_, session)| session.replays.is_due).map(|(key, _)| key);
        assert!(expected.into_iter().all(|key| due.contains(&key)), "sessions with retained messages to fetch");
    }

    /// Begins to send retained messages to new subscriptions of a session.
    pub(super) fn begin_replays(&mut self, key: SessionKey, filters: impl Iterator<Item = TopicFilter>, now: Instant) {
        let newest = self.next_message;
        let Some(session) = self.sessions.get_mut(key) else { return };
        // The copy that the session keeps: that of the packet would keep the packet.
        let own = filters.filter_map(|filter| session.filters.get(&filter).map(|(filter, _)| filter.clone()));
        own.for_each(|filter| session.replays.begin(filter, newest));
        let bytes = session.replays.bytes();
        self.refund(key, Part::Replays, bytes);
        self.wake_replays(key);
        self.go_on(now);
        self.record_replays(key);
    }

    /// Goes on with retained messages for new subscriptions, a bounded piece of work.
    pub fn go_on(&mut self, now: Instant) {
        if self.has_room_in_total() {
            std::mem::take(&mut self.replay_turns.starved).into_iter().for_each(|key| self.wake_replays(key));
        }
        let mut left = REPLAY_PIECE;
        while left > 0
            && let Some(key) = self.replay_turns.due.pop_front()
        {
            let (seen, is_over) = self.advance(key, left.min(FAIR_PIECE), now);
            left -= seen.clamp(1, left);
            let Some(session) = self.sessions.get_mut(key) else { continue };
            session.replays.is_due = !is_over;
            if !is_over {
                self.replay_turns.due.push_back(key);
            }
            self.record_replays(key);
        }
    }

    /// True if [`Engine::go_on`] has something to do.
    pub fn has_work(&self) -> bool {
        !self.replay_turns.due.is_empty()
    }

    /// Gives a session its turn if it has retained messages to fetch and room for them.
    pub(super) fn wake_replays(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if !session.replays.list.is_empty() && !session.replays.is_due && wants_more(session, self.limits.output_bytes) {
            session.replays.is_due = true;
            self.replay_turns.due.push_back(key);
        }
    }

    /// Fetches retained messages for a session until it has no room or `piece` topics were looked at: how many, and whether there is
    /// nothing more to do for now.
    fn advance(&mut self, key: SessionKey, piece: usize, now: Instant) -> (usize, bool) {
        let mut seen = 0;
        while seen < piece {
            let room = self.room_for_replays(key, now);
            let Some(session) = self.sessions.get(key).filter(|_| room > 0) else { return (seen, true) };
            let Some(replay) = session.replays.list.front() else { return (seen, true) };
            let Some((_, subscription)) = session.filters.get(&replay.filter) else { return (seen, true) };
            let subscription = *subscription;
            let most = Most { seen: piece - seen, found: room };
            let Matching { found, seen: looked, last } = self.retained.matching(&replay.filter, replay.after.as_ref(), most, now);
            seen += looked.max(1);
            let stopped_at = self.replay_all(key, found, subscription);
            self.proceed(key, stopped_at.or(last), now);
            self.pump(key, now);
        }
        (seen, false)
    }

    /// How many retained messages may be fetched for a session now.
    fn room_for_replays(&mut self, key: SessionKey, now: Instant) -> usize {
        let Some(session) = self.sessions.get(key) else { return 0 };
        if session.replays.list.is_empty() || !wants_more(session, self.limits.output_bytes) {
            return 0;
        }
        let waiting = session.queue.replays();
        if self.has_room_in_total() {
            return MOST_WAITING - waiting;
        }
        if waiting == 0 && self.make_room_in_queues(key, now) {
            return 1;
        }
        self.replay_turns.starved.insert(key);
        0
    }

    /// Queues retained messages; the topic of the last one that was queued if there was no room for all.
    fn replay_all(&mut self, key: SessionKey, found: Vec<Arc<Kept>>, subscription: Subscription) -> Option<TopicName> {
        let mut last: Option<TopicName> = None;
        for message in found {
            let session = self.sessions.get(key)?;
            let is_full = session.queue.replay_bytes() >= self.limits.output_bytes || !self.has_room_in_total();
            if last.is_some() && is_full {
                return last;
            }
            last = Some(message.topic.clone());
            self.replay(key, message, subscription);
        }
        None
    }

    /// Queues a retained message for a new subscription.
    fn replay(&mut self, key: SessionKey, message: Arc<Kept>, subscription: Subscription) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let qos = subscription.options.qos.min(message.qos);
        if !session.rights.may_read(&message.topic) || !session.replays.replays(&message, qos) {
            return;
        }
        let number = if qos == QoS::AtMostOnce { 0 } else { session.next_number() };
        let identifiers = subscription.identifier.into_iter().collect();
        let delivery = Delivery { message: message.clone(), number, qos, retain: true, is_replay: true, identifiers, share: None };
        let record = (session.is_kept() && number > 0).then(|| super::record::TargetRecord::of(session.number, &delivery, false));
        let is_queued = session.queue.enqueue_replay(delivery);
        debug_assert!(is_queued, "no more are fetched than may wait");
        self.fullest.grew(key, session.held_bytes());
        if !is_queued {
            self.count_full();
        } else if let Some(record) = record {
            let record = Record::Message { id: message.id, retained: false, message: &message, targets: &[record] };
            self.records.put(&record, self.clock);
        }
    }

    /// Notes how far the first replay of a session is; `None` is the end.
    fn proceed(&mut self, key: SessionKey, after: Option<TopicName>, now: Instant) {
        let Some(session) = self.sessions.get(key) else { return };
        let Some(filter) = session.replays.list.front().map(|replay| replay.filter.clone()) else { return };
        // A copy: that of the message is not to be kept for it.
        let Some(after) = after.map(|topic| topic.detached()) else { return self.end_replay(key, &filter) };
        let bytes = session.replays.bytes_with(&filter, Some(&after));
        if let Err(over) = self.charge(key, Part::Replays, bytes) {
            self.count_full();
            self.notice(NoticeKind::FullQueue, Some(key), Some(&after), over.why(), now);
            self.end_replay(key, &filter);
        } else if let Some(session) = self.sessions.get_mut(key) {
            session.replays.proceed(after);
        }
    }

    /// Nothing more comes of a replay.
    fn end_replay(&mut self, key: SessionKey, filter: &TopicFilter) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let recorded = session.replays.remove(filter);
        let (bytes, number, is_kept) = (session.replays.bytes(), session.number, session.is_kept());
        self.refund(key, Part::Replays, bytes);
        if is_kept && recorded.is_some_and(|recorded| recorded != Recorded::Never) {
            self.records.put(&Record::ReplayDone { session: number, filter }, self.clock);
        }
    }

    /// Puts how far the replays of a session are into the records.
    fn record_replays(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.is_kept()) else { return };
        for replay in session.replays.list.iter_mut().filter(|replay| replay.recorded != Recorded::UpToDate) {
            let record = Record::Replay { session: session.number, filter: &replay.filter, after: replay.after.as_ref() };
            self.records.put(&record, self.clock);
            replay.recorded = Recorded::UpToDate;
        }
    }
}

/// True if few retained messages wait for a client that is there.
fn wants_more(session: &Session, output_bytes: usize) -> bool {
    let waiting = session.queue.replays();
    session.connection.is_some() && (waiting == 0 || (waiting <= FEW_WAITING && session.queue.replay_bytes() < output_bytes))
}
