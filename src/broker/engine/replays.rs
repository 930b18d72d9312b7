//! Retained messages on their way to new subscriptions.
//!
//! A subscription gets everything that was retained when it began, in the order of the topics, and its client may take its time to read
//! it. So only a few of these messages wait in the queue of a session; the topic that was reached is kept, and more are fetched when the
//! client has read some, also after it was away. The place survives a restart of the broker: what a client received as a new message
//! before the restart may then come as a retained one as well.
//!
//! Invariants:
//! * A session has each filter in its list once, and only filters it is subscribed to. The first one is worked on, until nothing of it
//!   waits; `bytes` is what the places in the list take beyond [`FREE_PLACE`] each.
//! * What is kept in place of a retained message after the subscription began is not replayed: it comes as a new message. At QoS 0 that
//!   holds for what came since the client connected, because nothing at QoS 0 is kept for somebody who is away. A new message that is
//!   dropped for want of room is replayed in its place: a message that comes twice is better than one that never comes.
//! * A replay ends when everything was fetched, and never for want of memory: one whose place is too long for the budget of sessions
//!   waits where it is until somebody gives memory back.
//! * At most [`MOST_WAITING`] retained messages wait for a session, and more are fetched only while there is room for them in the
//!   queues of all. Where there is none, the session that holds most gives room for one at a time.
//! * A session gets its turn when a client has read or acknowledged something and few messages wait for it (`is_due`); one that waits
//!   for room in the queues of all is among the starved.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::budget::{Over, Part};
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
/// Of these, at once, within the packet that subscribes.
const FIRST_PIECE: usize = 200;
/// What a place takes besides its topic, in bytes, about.
const PLACE_OVERHEAD: usize = 64;
/// Bytes of a place that every session has, whatever others hold: enough for a topic of [`FREE_TOPIC`] bytes.
const FREE_PLACE: usize = PLACE_OVERHEAD + FREE_TOPIC;
const FREE_TOPIC: usize = 256;

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
    /// Everything was fetched; some of it may still wait.
    is_fetched: bool,
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

/// What a place takes beyond what is free.
fn weight(after: Option<&TopicName>) -> usize {
    after.map_or(0, |topic| {
        (PLACE_OVERHEAD + topic.as_str().len()).saturating_sub(FREE_PLACE)
    })
}

/// A place before a topic, or at it, that takes nothing of the budget.
fn free_place(topic: &TopicName) -> Option<TopicName> {
    let text = topic.as_str();
    let end = (0..=FREE_TOPIC.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end))?;
    TopicName::new(text.get(..end)?.to_owned()).ok()
}

/// The replays of one session, in the order of their subscriptions.
#[derive(Debug, Default)]
pub(super) struct Replays {
    list: VecDeque<Replay>,
    bytes: usize,
    /// The last message that was kept when the client connected.
    newest_at_connect: u64,
    /// The last message that was kept when a new one was dropped.
    newest_missed: u64,
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
        let recorded = if recorded == Recorded::Never {
            Recorded::Never
        } else {
            Recorded::Outdated
        };
        self.list.push_back(Replay {
            filter,
            after: None,
            newest,
            is_fetched: false,
            recorded,
        });
    }

    /// Puts back what the records tell.
    pub(super) fn restore(&mut self, filter: TopicFilter, after: Option<TopicName>) {
        self.remove(&filter);
        self.bytes += weight(after.as_ref());
        let is_first = after.is_some();
        let replay = Replay {
            filter,
            after,
            newest: 0,
            is_fetched: false,
            recorded: Recorded::UpToDate,
        };
        if is_first {
            self.list.push_front(replay);
        } else {
            self.list.push_back(replay);
        }
    }

    /// All messages have their numbers: those up to `newest` may be replayed.
    pub(super) fn restored(&mut self, newest: u64) {
        self.list
            .iter_mut()
            .for_each(|replay| replay.newest = newest);
    }

    /// A new message is dropped: what is retained up to `newest` is replayed, also where it is newer than the subscription.
    pub(super) fn missed(&mut self, newest: u64) {
        self.newest_missed = newest;
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
        let place = self
            .list
            .iter()
            .position(|replay| replay.filter == *filter)?;
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
        let newest = self
            .list
            .front()
            .map_or(0, |replay| replay.newest)
            .max(self.newest_missed);
        message.id
            <= if qos == QoS::AtMostOnce {
                newest.max(self.newest_at_connect)
            } else {
                newest
            }
    }

    fn move_to(&mut self, after: Option<TopicName>) {
        let Some(replay) = self.list.front_mut() else {
            return;
        };
        self.bytes = self.bytes - weight(replay.after.as_ref()) + weight(after.as_ref());
        replay.after = after;
        if replay.recorded == Recorded::UpToDate {
            replay.recorded = Recorded::Outdated;
        }
    }

    /// Panics if the total is not what the places say, or a subscription is missing. For tests.
    pub(super) fn check_invariants(&self, is_subscribed: impl Fn(&TopicFilter) -> bool) {
        assert_eq!(
            self.bytes,
            self.list
                .iter()
                .map(|replay| weight(replay.after.as_ref()))
                .sum::<usize>(),
            "bytes of places"
        );
        assert!(
            self.list
                .iter()
                .skip(1)
                .all(|replay| replay.after.is_none() && !replay.is_fetched),
            "only the first replay has a place"
        );
        assert!(
            self.list.iter().all(|replay| is_subscribed(&replay.filter)),
            "a replay belongs to a subscription"
        );
        let filters: std::collections::BTreeSet<_> =
            self.list.iter().map(|replay| &replay.filter).collect();
        assert_eq!(
            filters.len(),
            self.list.len(),
            "one replay for a subscription"
        );
    }
}

/// What became of retained messages that were found.
#[derive(Debug)]
enum Fetched {
    /// All are queued; the topic of the last one.
    All(Option<TopicName>),
    /// There was room for those up to this topic.
    UpTo(TopicName),
    /// None is: the place of the first one has no room in the budget.
    Nothing(Over),
}

/// The sessions that [`Engine::go_on`] turns to.
#[derive(Debug, Default)]
pub(super) struct ReplayTurns {
    /// Those with something to fetch and room for it.
    due: VecDeque<SessionKey>,
    /// Those that wait for room in the queues of all.
    starved: std::collections::BTreeSet<SessionKey>,
    /// Those whose places wait for room in the budget.
    unplaced: std::collections::BTreeSet<SessionKey>,
}

impl Engine {
    /// Panics if a session that is to have its turn gets none. For tests.
    pub(super) fn check_replay_turns(&self) {
        let due: std::collections::BTreeSet<SessionKey> =
            self.replay_turns.due.iter().copied().collect();
        let expected = self
            .sessions
            .iter()
            .filter(|(_, session)| session.replays.is_due)
            .map(|(key, _)| key);
        assert!(
            expected.into_iter().all(|key| due.contains(&key)),
            "sessions with retained messages to fetch"
        );
    }

    /// Begins to send retained messages to new subscriptions of a session.
    pub(super) fn begin_replays(
        &mut self,
        key: SessionKey,
        filters: impl Iterator<Item = TopicFilter>,
        now: Instant,
    ) {
        let newest = self.next_message;
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        // The copy that the session keeps: that of the packet would keep the packet.
        let own = filters.filter_map(|filter| {
            session
                .filters
                .get(&filter)
                .map(|(filter, _)| filter.clone())
        });
        own.for_each(|filter| session.replays.begin(filter, newest));
        let bytes = session.replays.bytes();
        self.refund(key, Part::Replays, bytes);
        self.wake_replays(key);
        // The rest, and what the others are to get, has its turn after the packets that wait.
        if self
            .sessions
            .get(key)
            .is_some_and(|session| session.replays.is_due)
        {
            self.advance(key, FIRST_PIECE, now);
        }
        self.record_replays(key);
    }

    /// Goes on with retained messages for new subscriptions, a bounded piece of work.
    pub fn go_on(&mut self, now: Instant) {
        if self.has_room_in_total() {
            std::mem::take(&mut self.replay_turns.starved)
                .into_iter()
                .for_each(|key| self.wake_replays(key));
        }
        if !self.replay_turns.unplaced.is_empty() && self.budget.was_refunded() {
            std::mem::take(&mut self.replay_turns.unplaced)
                .into_iter()
                .for_each(|key| self.wake_replays(key));
        }
        let mut left = REPLAY_PIECE;
        while left > 0
            && let Some(key) = self.replay_turns.due.pop_front()
        {
            let (seen, is_over) = self.advance(key, left.min(FAIR_PIECE), now);
            left -= seen.clamp(1, left);
            let Some(session) = self.sessions.get_mut(key) else {
                continue;
            };
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
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if !session.replays.list.is_empty()
            && !session.replays.is_due
            && wants_more(session, self.limits.output_bytes)
        {
            session.replays.is_due = true;
            self.replay_turns.due.push_back(key);
        }
    }

    /// Fetches retained messages for a session until it has no room or `piece` topics were looked at: how many, and whether there is
    /// nothing more to do for now.
    fn advance(&mut self, key: SessionKey, piece: usize, now: Instant) -> (usize, bool) {
        let mut seen = 0;
        while seen < piece {
            if self.end_fetched(key) {
                seen += 1;
                continue;
            }
            let room = self.room_for_replays(key, now);
            let Some(session) = self.sessions.get(key).filter(|_| room > 0) else {
                return (seen, true);
            };
            let Some(replay) = session.replays.list.front() else {
                return (seen, true);
            };
            let Some((_, subscription)) = session.filters.get(&replay.filter) else {
                return (seen, true);
            };
            let subscription = *subscription;
            let most = Most {
                seen: piece - seen,
                found: room,
            };
            let Matching {
                found,
                seen: looked,
                last,
            } = self
                .retained
                .matching(&replay.filter, replay.after.as_ref(), most, now);
            seen += looked.max(1);
            let fetched = self.replay_all(key, found, subscription);
            let placed = match (fetched, last) {
                (Fetched::Nothing(over), _) => Err(over),
                (Fetched::UpTo(topic), _) => self.proceed(key, None, &topic),
                (Fetched::All(fetched), Some(last)) => self.proceed(key, fetched, &last),
                (Fetched::All(_), None) => {
                    self.fetched_all(key);
                    Ok(())
                }
            };
            self.pump(key, now);
            if let Err(over) = placed {
                self.notice(NoticeKind::ReplayWaits, Some(key), None, over.why(), now);
                self.replay_turns.unplaced.insert(key);
                return (seen, true);
            }
        }
        (seen, false)
    }

    /// How many retained messages may be fetched for a session now.
    fn room_for_replays(&mut self, key: SessionKey, now: Instant) -> usize {
        let Some(session) = self.sessions.get(key) else {
            return 0;
        };
        if session
            .replays
            .list
            .front()
            .is_none_or(|replay| replay.is_fetched)
            || !wants_more(session, self.limits.output_bytes)
        {
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

    /// Queues retained messages.
    fn replay_all(
        &mut self,
        key: SessionKey,
        found: Vec<Arc<Kept>>,
        subscription: Subscription,
    ) -> Fetched {
        let mut last: Option<TopicName> = None;
        for message in found {
            let Some(session) = self.sessions.get(key) else {
                break;
            };
            let is_full = session.queue.replay_bytes() >= self.limits.output_bytes
                || !self.has_room_in_total();
            if let Some(last) = last.take_if(|_| is_full) {
                return Fetched::UpTo(last);
            }
            // Without a place behind it, it would be fetched again and again.
            if let Err(over) = self.charge_place(key, &message.topic) {
                return last.map_or(Fetched::Nothing(over), Fetched::UpTo);
            }
            last = Some(message.topic.clone());
            self.replay(key, message, subscription);
        }
        Fetched::All(last)
    }

    /// Room in the budget for a place of the first replay.
    fn charge_place(&mut self, key: SessionKey, topic: &TopicName) -> Result<(), Over> {
        let Some(replays) = self.sessions.get(key).map(|session| &session.replays) else {
            return Ok(());
        };
        let Some(replay) = replays.list.front() else {
            return Ok(());
        };
        let bytes = replays.bytes_with(&replay.filter, Some(topic));
        self.charge(key, Part::Replays, bytes)
    }

    /// Queues a retained message for a new subscription.
    fn replay(&mut self, key: SessionKey, message: Arc<Kept>, subscription: Subscription) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let qos = subscription.options.qos.min(message.qos);
        if !session.rights.may_read(&message.topic) || !session.replays.replays(&message, qos) {
            return;
        }
        let number = if qos == QoS::AtMostOnce {
            0
        } else {
            session.next_number()
        };
        let identifiers = subscription.identifier.into_iter().collect();
        let delivery = Delivery {
            message: message.clone(),
            number,
            qos,
            retain: true,
            is_replay: true,
            identifiers,
            share: None,
        };
        let record = (session.is_kept() && number > 0)
            .then(|| super::record::TargetRecord::of(session.number, &delivery, false));
        let is_queued = session.queue.enqueue_replay(delivery);
        debug_assert!(is_queued, "no more are fetched than may wait");
        self.fullest.grew(key, session.held_bytes());
        if !is_queued {
            self.count_full();
        } else if let Some(record) = record {
            let record = Record::Message {
                id: message.id,
                retained: false,
                message: &message,
                targets: &[record],
            };
            self.records.put(&record, self.clock);
        }
    }

    /// Notes how far the first replay of a session is: everything up to `last` was looked at, and there may be more; of what is to come,
    /// everything up to `fetched` was queued.
    fn proceed(
        &mut self,
        key: SessionKey,
        fetched: Option<TopicName>,
        last: &TopicName,
    ) -> Result<(), Over> {
        let charged = self.charge_place(key, last);
        let Some(replays) = self
            .sessions
            .get_mut(key)
            .map(|session| &mut session.replays)
        else {
            return Ok(());
        };
        let known = fetched.as_ref().or(replays
            .list
            .front()
            .and_then(|replay| replay.after.as_ref()));
        let place = match charged {
            Ok(()) => Some(last.clone()),
            // Nothing is to be fetched between the two.
            Err(_) => free_place(last)
                .filter(|place| Some(place) > known)
                .or(fetched),
        };
        // A copy: that of the message is not to be kept for it.
        let moved = place.map(|place| replays.move_to(Some(place.detached())));
        self.settle_place(key);
        if moved.is_some() { Ok(()) } else { charged }
    }

    /// The budget shows what the places take.
    fn settle_place(&mut self, key: SessionKey) {
        let bytes = self
            .sessions
            .get(key)
            .map_or(0, |session| session.replays.bytes());
        self.refund(key, Part::Replays, bytes);
    }

    /// The first replay of a session has fetched everything. It is over when nothing of it waits at QoS 0: that is lost with the
    /// connection, and fetched again.
    fn fetched_all(&mut self, key: SessionKey) {
        if let Some(replay) = self
            .sessions
            .get_mut(key)
            .and_then(|session| session.replays.list.front_mut())
        {
            replay.is_fetched = true;
        }
        self.settle_place(key);
        self.end_fetched(key);
    }

    /// Ends the first replay of a session if it is over.
    fn end_fetched(&mut self, key: SessionKey) -> bool {
        let Some(session) = self.sessions.get(key) else {
            return false;
        };
        let Some(replay) = session
            .replays
            .list
            .front()
            .filter(|replay| replay.is_fetched)
        else {
            return false;
        };
        let may_be_lost = session.is_persistent() && session.queue.replays() > 0;
        if may_be_lost
            && session
                .queue
                .iter()
                .any(|delivery| delivery.is_replay && delivery.qos == QoS::AtMostOnce)
        {
            return false;
        }
        let filter = replay.filter.clone();
        self.end_replay(key, &filter);
        true
    }

    /// The connection of a session is gone, and so is what waited at QoS 0: its replay goes back to before the first of these.
    pub(super) fn set_replay_back(&mut self, key: SessionKey, lost: &[Delivery]) {
        let Some(session) = self
            .sessions
            .get_mut(key)
            .filter(|session| session.is_persistent())
        else {
            return;
        };
        let Some(replay) = session.replays.list.front_mut() else {
            return;
        };
        let was_passed = |topic: &&TopicName| {
            replay.is_fetched || replay.after.as_ref().is_some_and(|after| *topic <= after)
        };
        let topics = lost
            .iter()
            .filter(|delivery| delivery.is_replay)
            .map(|delivery| &delivery.message.topic);
        let Some(first) = topics
            .filter(was_passed)
            .filter(|topic| replay.filter.matches(topic))
            .min()
        else {
            return;
        };
        replay.is_fetched = false;
        let before = self.retained.before(first).map(TopicName::detached);
        let has_place = before
            .as_ref()
            .is_none_or(|before| self.charge_place(key, before).is_ok());
        let before = if has_place {
            before
        } else {
            before.as_ref().and_then(free_place)
        };
        if let Some(session) = self.sessions.get_mut(key) {
            session.replays.move_to(before);
        }
        self.settle_place(key);
        self.record_replays(key);
    }

    /// Nothing more comes of a replay.
    fn end_replay(&mut self, key: SessionKey, filter: &TopicFilter) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let recorded = session.replays.remove(filter);
        let (bytes, number, is_kept) = (session.replays.bytes(), session.number, session.is_kept());
        self.refund(key, Part::Replays, bytes);
        if is_kept && recorded.is_some_and(|recorded| recorded != Recorded::Never) {
            self.records.put(
                &Record::ReplayDone {
                    session: number,
                    filter,
                },
                self.clock,
            );
        }
    }

    /// Puts how far the replays of a session are into the records.
    fn record_replays(&mut self, key: SessionKey) {
        let Some(session) = self
            .sessions
            .get_mut(key)
            .filter(|session| session.is_kept())
        else {
            return;
        };
        for replay in session
            .replays
            .list
            .iter_mut()
            .filter(|replay| replay.recorded != Recorded::UpToDate)
        {
            let record = Record::Replay {
                session: session.number,
                filter: &replay.filter,
                after: replay.after.as_ref(),
            };
            self.records.put(&record, self.clock);
            replay.recorded = Recorded::UpToDate;
        }
    }
}

/// True if few retained messages wait for a client that is there.
fn wants_more(session: &Session, output_bytes: usize) -> bool {
    let waiting = session.queue.replays();
    session.connection.is_some()
        && (waiting == 0 || (waiting <= FEW_WAITING && session.queue.replay_bytes() < output_bytes))
}
