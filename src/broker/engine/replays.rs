//! Retained messages on their way to the new subscriptions of one session: how far each replay is.
//! `replay_turns` fetches them.
//!
//! A subscription gets everything that was retained when it began, in the order of the topics, and
//! its client may take its time to read it. So only a few of these messages wait in the queue of a
//! session; the topic that was reached is kept, and more are fetched when the client has read some,
//! also after it was away. The place survives a restart of the broker: what a client received as a
//! new message before the restart may then come as a retained one as well.
//!
//! Invariants:
//! * A session has each filter in its list once, and only filters it is subscribed to. The first
//!   one is worked on, until nothing of it waits; `bytes` is what the places in the list take
//!   beyond [`FREE_PLACE`] each.
//! * What is kept in place of a retained message after the subscription began is not replayed: it
//!   comes as a new message. At QoS 0 that holds for what came since the client connected, because
//!   nothing at QoS 0 is kept for a client that is away. A new message that is dropped for want of
//!   room is replayed in its place: a message that comes twice is better than one that never comes.
//! * A replay ends when everything was fetched, and never for want of memory: one whose place is
//!   too long for the budget of sessions waits where it is until another session gives memory back.

use std::collections::{BTreeSet, VecDeque};

use super::delivery::{Delivery, SharedMessage};
use super::rare::{Rare, Shareable};
use crate::mqtt::{QoS, TopicFilter, TopicName};

/// Bytes that a place takes besides its topic, about.
const PLACE_OVERHEAD: usize = 64;
/// Bytes of a place that every session has, whatever others hold: enough for a topic of
/// [`FREE_TOPIC`] bytes.
const FREE_PLACE: usize = PLACE_OVERHEAD + FREE_TOPIC;
const FREE_TOPIC: usize = 256;

/// Whether the records know of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
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

    /// True if everything was fetched; some of it may still wait.
    pub(super) fn is_fetched(&self) -> bool {
        self.is_fetched
    }
}

/// Bytes of a place beyond those that are free.
fn weight(after: Option<&TopicName>) -> usize {
    after.map_or(0, |topic| {
        (PLACE_OVERHEAD + topic.as_str().len()).saturating_sub(FREE_PLACE)
    })
}

/// A place before a topic, or at it, that takes nothing of the budget.
pub(super) fn free_place(topic: &TopicName) -> Option<TopicName> {
    let text = topic.as_str();
    let end = (0..=FREE_TOPIC.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end))?;
    TopicName::new(text.get(..end)?.to_owned()).ok()
}

impl Shareable for VecDeque<Replay> {
    fn none() -> &'static Self {
        static NONE: VecDeque<Replay> = VecDeque::new();
        &NONE
    }
}

/// The replays of one session, in the order of their subscriptions.
#[derive(Debug, Default)]
pub(super) struct Replays {
    list: Rare<VecDeque<Replay>>,
    bytes: usize,
    /// The last message that was kept when the client connected.
    newest_at_connect: u64,
    /// The last message that was kept when a new one was dropped.
    newest_missed: u64,
    /// It is among those that are due.
    pub(super) is_due: bool,
}

impl Replays {
    /// Bytes of the places.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// In the order in which they are worked on.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Replay> {
        self.list.iter()
    }

    /// The one that is worked on.
    pub(super) fn first(&self) -> Option<&Replay> {
        self.list.front()
    }

    /// The first one has fetched everything.
    pub(super) fn set_fetched(&mut self) {
        if let Some(replay) = self.list.known().and_then(VecDeque::front_mut) {
            replay.is_fetched = true;
        }
    }

    /// The first of the lost messages that the first replay has passed: it must go back to before
    /// this topic.
    pub(super) fn go_back(&mut self, lost: &[Delivery]) -> Option<TopicName> {
        let replay = self.list.known()?.front_mut()?;
        let was_passed = |topic: &&TopicName| {
            replay.is_fetched || replay.after.as_ref().is_some_and(|after| *topic <= after)
        };
        let first = lost
            .iter()
            .filter(|delivery| delivery.is_replay)
            .map(|delivery| &delivery.message.topic)
            .filter(was_passed)
            .filter(|topic| replay.filter.matches(topic))
            .min()?
            .clone();
        replay.is_fetched = false;
        Some(first)
    }

    /// Replays that the records do not show as they are; from now on they do.
    pub(super) fn take_unrecorded(&mut self) -> impl Iterator<Item = &Replay> {
        let list = self.list.known().into_iter().flatten();
        list.filter(|replay| replay.recorded != Recorded::UpToDate)
            .map(|replay| {
                replay.recorded = Recorded::UpToDate;
                &*replay
            })
    }

    /// Begins with a subscription, or begins again: `newest` is the last message that was kept.
    pub(super) fn begin(&mut self, filter: TopicFilter, newest: u64) {
        let recorded = match self.remove(&filter) {
            None | Some(Recorded::Never) => Recorded::Never,
            Some(Recorded::Outdated | Recorded::UpToDate) => Recorded::Outdated,
        };
        self.list.push_back(Replay {
            filter,
            after: None,
            newest,
            is_fetched: false,
            recorded,
        });
    }

    /// Puts back a replay from the records.
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
        let list = self.list.known().into_iter().flatten();
        list.for_each(|replay| replay.newest = newest);
    }

    /// A new message is dropped: what is retained up to `newest` is replayed, also where it is
    /// newer than the subscription.
    pub(super) fn missed(&mut self, newest: u64) {
        self.newest_missed = newest;
    }

    /// Bytes of the places with another one for a filter.
    pub(super) fn bytes_with(&self, filter: &TopicFilter, after: Option<&TopicName>) -> usize {
        let known = self.list.iter().find(|replay| replay.filter == *filter);
        self.bytes - known.map_or(0, |replay| weight(replay.after.as_ref())) + weight(after)
    }

    /// The client has connected, when `newest` was the last message that was kept.
    pub(super) fn connected(&mut self, newest: u64) {
        self.newest_at_connect = newest;
    }

    /// Takes a replay out; what the records know of it.
    pub(super) fn remove(&mut self, filter: &TopicFilter) -> Option<Recorded> {
        let place = self
            .list
            .iter()
            .position(|replay| replay.filter == *filter)?;
        let gone = self.list.remove(place)?;
        self.bytes -= weight(gone.after.as_ref());
        if self.list.is_empty() {
            // Most clients subscribe once: an empty list gives its memory back.
            self.list = Rare::default();
        }
        Some(gone.recorded)
    }

    /// Forgets the replay of a subscription.
    pub(super) fn forget(&mut self, filter: &TopicFilter) {
        self.remove(filter);
    }

    /// True if this retained message is older than the subscription, or than the connection if the
    /// client gets it at QoS 0.
    pub(super) fn includes(&self, message: &SharedMessage, qos: QoS) -> bool {
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

    pub(super) fn move_to(&mut self, after: Option<TopicName>) {
        let Some(replay) = self.list.known().and_then(VecDeque::front_mut) else {
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
        let filters: BTreeSet<_> = self.list.iter().map(|replay| &replay.filter).collect();
        assert_eq!(
            filters.len(),
            self.list.len(),
            "one replay for a subscription"
        );
    }
}
