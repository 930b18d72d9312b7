//! A shared subscription: which of its members gets a message [MQTT 5.0, 4.8.2]. Pure.
//!
//! Invariants:
//! * Each member is in one of the three lists, and every member that is connected is in `connected`. One whose connection ended stays
//!   there until a choice meets it, so that the end of a connection costs nothing.
//! * A choice weighs at most [`PROBES`] members, however many there are. Up to that number it is the member with the least to do, in
//!   turn among equals; of more members, the one with the least to do among the next in turn.

use std::sync::Arc;

use indexmap::IndexMap;

use super::session::Subscription;
use super::{NumberHash, SessionKey};
use crate::mqtt::{QoS, TopicFilter};

/// Members that are weighed for a message.
const PROBES: usize = 16;

/// What a member could do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is connected, or not, and has so many deliveries that are not done.
    Ready { is_connected: bool, load: usize },
    /// Its user may not read the topic.
    Denied,
}

/// Members in the order of their turns.
#[derive(Debug, Default)]
struct Members {
    list: IndexMap<SessionKey, Subscription, NumberHash>,
    /// Who was chosen last.
    last: usize,
}

impl Members {
    /// The member whose turn is `step` after the last one.
    fn in_turn(&self, step: usize) -> Option<(usize, SessionKey, Subscription)> {
        let place = (self.last + step).checked_rem(self.list.len())?;
        self.list.get_index(place).map(|(key, subscription)| (place, *key, *subscription))
    }

    fn remove(&mut self, place: usize) {
        self.list.swap_remove_index(place);
    }

    /// The member with the least to do of the next ones in turn; `load` is `None` for one that is passed over.
    fn least(&mut self, load: impl Fn(SessionKey) -> Option<usize>) -> Option<(SessionKey, Subscription)> {
        let (mut best, mut weighed) = (None::<(usize, usize, SessionKey, Subscription)>, 0);
        for step in 1..=self.list.len() {
            let Some((place, key, subscription)) = self.in_turn(step) else { break };
            let Some(load) = load(key) else { continue };
            if best.is_none_or(|(least, ..)| load < least) {
                best = Some((load, place, key, subscription));
            }
            weighed += 1;
            if load == 0 || weighed == PROBES {
                break;
            }
        }
        let (_, place, key, subscription) = best?;
        self.last = place;
        Some((key, subscription))
    }
}

/// A shared subscription.
#[derive(Debug)]
pub(super) struct Group {
    filter: Arc<TopicFilter>,
    connected: Members,
    /// Without a connection, with a queue that messages can wait in.
    waiting: Members,
    /// Without a connection, at QoS 0: nothing is kept for them.
    absent: Members,
}

impl Group {
    pub(super) fn new(filter: TopicFilter) -> Self {
        let [connected, waiting, absent] = [(); 3].map(|()| Members::default());
        Self { filter: Arc::new(filter), connected, waiting, absent }
    }

    pub(super) fn filter(&self) -> &Arc<TopicFilter> {
        &self.filter
    }

    fn lists(&mut self) -> [&mut Members; 3] {
        [&mut self.connected, &mut self.waiting, &mut self.absent]
    }

    /// Adds a member, or gives it another subscription; true if it is new.
    pub(super) fn join(&mut self, key: SessionKey, subscription: Subscription) -> bool {
        let is_new = !self.leave(key);
        self.connected.list.insert(key, subscription);
        is_new
    }

    /// Takes a member out; true if it was one.
    pub(super) fn leave(&mut self, key: SessionKey) -> bool {
        self.lists().into_iter().any(|members| members.list.swap_remove(&key).is_some())
    }

    /// A member has connected.
    pub(super) fn connected(&mut self, key: SessionKey) {
        let away = self.waiting.list.swap_remove(&key).or_else(|| self.absent.list.swap_remove(&key));
        self.connected.list.extend(away.map(|subscription| (key, subscription)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connected.list.is_empty() && self.waiting.list.is_empty() && self.absent.list.is_empty()
    }

    /// Who gets a message of this QoS. If nobody is connected it waits for a member whose session lasts [MQTT-4.8.2-4..6].
    pub(super) fn choose(&mut self, qos: QoS, standing: impl Fn(SessionKey) -> Standing) -> Option<(SessionKey, Subscription)> {
        let load = |key, wanted| match standing(key) {
            Standing::Ready { is_connected, load } if is_connected == wanted => Some(load),
            _ => None,
        };
        self.sort_out(PROBES, &standing);
        let connected = self.connected.least(|key| load(key, true));
        if connected.is_some() || qos == QoS::AtMostOnce {
            return connected;
        }
        self.sort_out(usize::MAX, &standing);
        self.waiting.least(|key| load(key, false))
    }

    /// Those whose connection has ended go to where they belong, until the next `most` in turn are connected.
    fn sort_out(&mut self, most: usize, standing: &impl Fn(SessionKey) -> Standing) {
        let mut step = 1;
        while step <= most.min(self.connected.list.len()) {
            let Some((place, key, subscription)) = self.connected.in_turn(step) else { return };
            if !matches!(standing(key), Standing::Ready { is_connected: false, .. }) {
                step += 1;
                continue;
            }
            self.connected.remove(place);
            let is_kept = subscription.options.qos != QoS::AtMostOnce;
            let members = if is_kept { &mut self.waiting } else { &mut self.absent };
            members.list.insert(key, subscription);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::mqtt::SubscribeOptions;

    fn group(members: usize, qos: QoS) -> Group {
        let mut group = Group::new(TopicFilter::new("$share/workers/jobs").unwrap());
        let options = SubscribeOptions { qos, ..SubscribeOptions::default() };
        for key in 0..members {
            assert!(group.join(key, Subscription { options, identifier: None }));
        }
        group
    }

    fn chosen(group: &mut Group, qos: QoS, standing: impl Fn(SessionKey) -> Standing) -> Option<SessionKey> {
        group.choose(qos, standing).map(|(key, _)| key)
    }

    fn ready(is_connected: bool, load: usize) -> Standing {
        Standing::Ready { is_connected, load }
    }

    #[test]
    fn the_member_with_the_least_to_do_is_chosen_in_turn_among_equals() {
        let mut group = group(4, QoS::AtLeastOnce);
        let loads = [5, 0, 3, 0];
        let turns: Vec<_> = (0..4).map(|_| chosen(&mut group, QoS::AtLeastOnce, |key| ready(true, loads[key])).unwrap()).collect();
        assert_eq!(turns, [1, 3, 1, 3]);
        assert_eq!(chosen(&mut group, QoS::AtLeastOnce, |key| ready(true, 9 - key)), Some(3));
    }

    #[test]
    fn a_choice_costs_the_same_for_many_members_as_for_few() {
        let looks = |members: usize, loaded: usize| {
            let (mut group, looks) = (group(members, QoS::AtLeastOnce), Cell::new(0));
            for _ in 0..100 {
                let standing = |key: SessionKey| {
                    looks.set(looks.get() + 1);
                    ready(true, loaded + key % 2)
                };
                assert!(group.choose(QoS::AtLeastOnce, standing).is_some());
            }
            looks.get()
        };
        assert_eq!(looks(4000, 0), looks(64, 0));
        assert_eq!(looks(4000, 7), looks(64, 7));
    }

    #[test]
    fn members_that_went_away_are_met_once() {
        let (mut group, looks) = (group(4000, QoS::AtMostOnce), Cell::new(0));
        let standing = |key: SessionKey| {
            looks.set(looks.get() + 1);
            ready(key == 3999, 0)
        };
        for _ in 0..1000 {
            assert_eq!(chosen(&mut group, QoS::AtLeastOnce, standing), Some(3999));
        }
        assert!(looks.get() < 4000 + 3 * 1000 + 2 * PROBES, "{} members looked at", looks.get());
    }

    #[test]
    fn messages_wait_for_members_whose_session_keeps_them() {
        let mut group = group(2, QoS::AtLeastOnce);
        assert!(group.join(2, Subscription::default()));
        let away = |_| ready(false, 0);
        assert_eq!(chosen(&mut group, QoS::AtMostOnce, away), None);
        let waits = [chosen(&mut group, QoS::ExactlyOnce, away), chosen(&mut group, QoS::ExactlyOnce, away)];
        assert!(waits.iter().all(|key| key.is_some_and(|key| key < 2)) && waits[0] != waits[1], "{waits:?}");
        group.connected(2);
        assert_eq!(chosen(&mut group, QoS::AtMostOnce, |key| ready(key == 2, 0)), Some(2));
        assert!(group.leave(0) && group.leave(1) && group.leave(2) && !group.leave(2));
        assert!(group.is_empty());
    }

    #[test]
    fn a_member_whose_user_may_not_read_the_topic_is_passed_over() {
        let mut group = group(40, QoS::AtLeastOnce);
        let only = |key: SessionKey| if key == 39 { ready(false, 0) } else { Standing::Denied };
        assert_eq!(chosen(&mut group, QoS::AtLeastOnce, only), Some(39));
        assert_eq!(chosen(&mut group, QoS::AtLeastOnce, |_| Standing::Denied), None);
    }
}
