//! Sends retained messages to new subscriptions, a bounded piece a turn, the sessions one after the
//! other.
//!
//! Invariants:
//! * At most [`MOST_WAITING`] retained messages wait for a session, while fewer are in flight to
//!   it; more are fetched only while there is room for them in the queues of all. Where there is
//!   none, the session that holds most gives room for one at a time.
//! * A session gets its turn when its client has read or acknowledged something and few messages
//!   wait for it (`is_due`); one that waits for room in the queues of all is among the starved, one
//!   whose place has no room in the budget among the unplaced.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::budget::{BudgetPart, Over};
use super::delivery::{Delivery, Grounds, SharedMessage, Subscription};
use super::notice::NoticeKind;
use super::queue::MOST_WAITING;
use super::record::{Record, TargetRecord};
use super::replays::{Recorded, Replay, free_place};
use super::retained::{Matching, SearchBounds};
use super::session::Session;
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

/// The outcome for retained messages that were found.
#[derive(Debug)]
enum Fetched {
    /// All are queued; the topic of the last one.
    All(Option<TopicName>),
    /// There was room for those up to this topic.
    UpTo(TopicName),
    /// None is: the place of the first one has no room in the budget.
    Nothing(Over),
}

/// The sessions that [`Engine::fetch_retained`] turns to.
#[derive(Debug, Default)]
pub(super) struct ReplayTurns {
    /// Those with something to fetch and room for it.
    due: VecDeque<SessionKey>,
    /// Those that wait for room in the queues of all.
    starved: BTreeSet<SessionKey>,
    /// Those whose places wait for room in the budget.
    unplaced: BTreeSet<SessionKey>,
}

impl Engine {
    /// Panics if a session that is to have its turn gets none. For tests.
    pub(super) fn check_replay_turns(&self) {
        let due: BTreeSet<SessionKey> = self.replay_turns.due.iter().copied().collect();
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
        let newest = self.kept.last_id();
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
        self.refund(key, BudgetPart::Replays, bytes);
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

    /// Fetches retained messages for new subscriptions, a bounded piece of work.
    pub fn fetch_retained(&mut self, now: Instant) {
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

    /// True if [`Engine::fetch_retained`] has something to do.
    pub fn has_work(&self) -> bool {
        !self.replay_turns.due.is_empty()
    }

    /// Gives a session its turn if it has retained messages to fetch and room for them.
    pub(super) fn wake_replays(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if session.replays.first().is_some()
            && !session.replays.is_due
            && wants_more(session, self.limits.output_bytes)
        {
            session.replays.is_due = true;
            self.replay_turns.due.push_back(key);
        }
    }

    /// Fetches retained messages for a session until it has no room or `piece` topics were looked
    /// at: how many, and whether there is nothing more to do for now.
    fn advance(&mut self, key: SessionKey, piece: usize, now: Instant) -> (usize, bool) {
        let mut seen = 0;
        while seen < piece {
            if self.end_fetched(key) {
                seen += 1;
                continue;
            }
            let Some((matching, subscription)) = self.find_retained(key, piece - seen, now) else {
                return (seen, true);
            };
            seen += matching.seen.max(1);
            let placed = self.replay_found(key, matching, subscription);
            self.pump(key, now);
            if let Err(over) = placed {
                self.notice(NoticeKind::ReplayWaits, Some(key), None, over.why(), now);
                self.replay_turns.unplaced.insert(key);
                return (seen, true);
            }
        }
        (seen, false)
    }

    /// The next retained messages for the first replay of a session, among at most `piece` topics;
    /// `None` if there is no room for any.
    fn find_retained(
        &mut self,
        key: SessionKey,
        piece: usize,
        now: Instant,
    ) -> Option<(Matching, Subscription)> {
        let room = self.room_for_replays(key, now);
        let session = self.sessions.get(key).filter(|_| room > 0)?;
        let replay = session.replays.first()?;
        let (_, subscription) = session.filters.get(replay.filter())?;
        let bounds = SearchBounds {
            seen: piece,
            found: room,
        };
        let matching = self
            .retained
            .matching(replay.filter(), replay.after(), bounds, now);
        Some((matching, *subscription))
    }

    /// Queues retained messages that were found, and moves the replay on.
    fn replay_found(
        &mut self,
        key: SessionKey,
        matching: Matching,
        subscription: Subscription,
    ) -> Result<(), Over> {
        let fetched = self.replay_all(key, matching.found, subscription);
        match (fetched, matching.last) {
            (Fetched::Nothing(over), _) => Err(over),
            (Fetched::UpTo(topic), _) => self.proceed(key, None, &topic),
            (Fetched::All(fetched), Some(last)) => self.proceed(key, fetched, &last),
            (Fetched::All(_), None) => {
                self.fetched_all(key);
                Ok(())
            }
        }
    }

    /// How many retained messages may be fetched for a session now.
    fn room_for_replays(&mut self, key: SessionKey, now: Instant) -> usize {
        let Some(session) = self.sessions.get(key) else {
            return 0;
        };
        let is_done = session.replays.first().is_none_or(Replay::is_fetched);
        if is_done || !wants_more(session, self.limits.output_bytes) {
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
        found: Vec<Arc<SharedMessage>>,
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
        let Some(replay) = replays.first() else {
            return Ok(());
        };
        let bytes = replays.bytes_with(replay.filter(), Some(topic));
        self.charge(key, BudgetPart::Replays, bytes)
    }

    /// Queues a retained message for a new subscription.
    fn replay(&mut self, key: SessionKey, message: Arc<SharedMessage>, subscription: Subscription) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let qos = subscription.options.qos.min(message.qos);
        if !session.rights.may_read(&message.topic) || !session.replays.includes(&message, qos) {
            return;
        }
        let number = if qos == QoS::AtMostOnce {
            0
        } else {
            session.next_number()
        };
        let delivery = Delivery {
            message: message.clone(),
            number,
            qos,
            retain: true,
            is_replay: true,
            grounds: Grounds::new(subscription.identifier, None),
        };
        let record = (session.is_kept() && number > 0)
            .then(|| TargetRecord::of(session.number, &delivery, false));
        let is_queued = session.queue.enqueue_replay(delivery);
        debug_assert!(is_queued, "no more are fetched than may wait");
        self.fullest.grew(key, session.held_bytes());
        if !is_queued {
            self.count_full();
        } else if let Some(record) = record {
            self.records.put(Record::Message {
                id: message.id,
                retained: false,
                message: &message,
                targets: &[record],
            });
        }
    }

    /// Notes how far the first replay of a session is: everything up to `last` was looked at, and
    /// there may be more; of what is to come, everything up to `fetched` was queued.
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
        let known = fetched.as_ref().or(replays.first().and_then(Replay::after));
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
        self.refund(key, BudgetPart::Replays, bytes);
    }

    /// The first replay of a session has fetched everything. It is over when nothing of it waits at
    /// QoS 0: that is lost with the connection, and fetched again.
    fn fetched_all(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.replays.set_fetched();
        }
        self.settle_place(key);
        self.end_fetched(key);
    }

    /// Ends the first replay of a session if it is over.
    fn end_fetched(&mut self, key: SessionKey) -> bool {
        let Some(session) = self.sessions.get(key) else {
            return false;
        };
        let first = session.replays.first();
        let Some(replay) = first.filter(|replay| replay.is_fetched()) else {
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
        let filter = replay.filter().clone();
        self.end_replay(key, &filter);
        true
    }

    /// The connection of a session is gone, and so is what waited at QoS 0: its replay goes back to
    /// before the first of these.
    pub(super) fn rewind_replay(&mut self, key: SessionKey, lost: &[Delivery]) {
        let Some(session) = self
            .sessions
            .get_mut(key)
            .filter(|session| session.is_persistent())
        else {
            return;
        };
        let Some(first) = session.replays.go_back(lost) else {
            return;
        };
        let before = self.retained.before(&first).map(TopicName::detached);
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
        self.refund(key, BudgetPart::Replays, bytes);
        if is_kept && recorded.is_some_and(|recorded| recorded != Recorded::Never) {
            self.records.put(Record::ReplayDone {
                session: number,
                filter,
            });
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
        for replay in session.replays.take_unrecorded() {
            self.records.put(Record::Replay {
                session: session.number,
                filter: replay.filter(),
                after: replay.after(),
            });
        }
    }
}

/// True if few retained messages wait for a client that is there, and few are in flight to it.
fn wants_more(session: &Session, output_bytes: usize) -> bool {
    let waiting = session.queue.replays();
    session.connection.is_some()
        && session.in_flight.replays() < MOST_WAITING
        && (waiting == 0 || (waiting <= FEW_WAITING && session.queue.replay_bytes() < output_bytes))
}
