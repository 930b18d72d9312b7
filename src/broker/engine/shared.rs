//! A shared subscription: which of its members gets a message [MQTT 5.0, 4.8.2]. Pure.
//!
//! Invariants:
//! * Each member is in one of the three lists, and every member that is connected is in
//!   `connected`. One whose connection ended stays there until a choice meets it, so that the end
//!   of a connection costs nothing.
//! * The members of a [`MemberClass`] may read the same topics of the subscription. A choice asks
//!   one member of a class that may not read the topic, and weighs at most [`PROBES`] members of
//!   the others, however many there are. Up to that number it is the member with the least to do,
//!   in turn among equals; of more members, the one with the least to do among the next in turn.
//! * `classes` has the class of each member, and a list has no class without members.

use std::ops::Range;
use std::sync::Arc;

use bytestring::ByteString;
use indexmap::IndexMap;

use super::delivery::Subscription;
use super::{ByNumber, NumberHash, SessionKey};
use crate::mqtt::{QoS, TopicFilter};

/// Members that are weighed for a message.
const PROBES: usize = 16;

/// The state of a member for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is connected, or not, and has `load` deliveries that are not done.
    Ready { is_connected: bool, load: usize },
    /// Its user may not read the topic.
    Denied,
}

/// Members that may read the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum MemberClass {
    /// The sessions of a user, or of all clients without a name.
    User(Option<ByteString>),
    /// One session: what it may read of the subscription depends on its client identifier.
    Session(SessionKey),
}

type Turns = IndexMap<SessionKey, Subscription, NumberHash>;

/// Members in the order of their turns, class by class.
#[derive(Debug, Default)]
struct Members {
    classes: IndexMap<MemberClass, Turns>,
    /// The member that was chosen last: the place of its class, and its own in it.
    last: (usize, usize),
}

impl Members {
    fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    fn insert(&mut self, class: MemberClass, key: SessionKey, subscription: Subscription) {
        self.classes
            .entry(class)
            .or_default()
            .insert(key, subscription);
    }

    fn remove(&mut self, class: &MemberClass, key: SessionKey) -> Option<Subscription> {
        let turns = self.classes.get_mut(class)?;
        let subscription = turns.swap_remove(&key);
        if turns.is_empty() {
            self.classes.swap_remove(class);
        }
        subscription
    }

    /// The classes in turn, and the part of each whose turn it is: that of the last choice comes
    /// first, from the next member on, and again at the end.
    fn parts(&self) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let (count, (class, place)) = (self.classes.len(), self.last);
        (0..=count).filter_map(move |step| {
            let index = (class + step).checked_rem(count)?;
            Some((
                index,
                if step == 0 {
                    place + 1..usize::MAX
                } else if step == count {
                    0..place + 1
                } else {
                    0..usize::MAX
                },
            ))
        })
    }

    fn member(&self, class: usize, place: usize) -> Option<(SessionKey, Subscription)> {
        self.classes
            .get_index(class)?
            .1
            .get_index(place)
            .map(|(key, subscription)| (*key, *subscription))
    }

    /// The member with the least to do of the next ones in turn that are connected, or that are
    /// not.
    fn least(
        &mut self,
        wants_connected: bool,
        standing: &impl Fn(SessionKey) -> Standing,
    ) -> Option<(SessionKey, Subscription)> {
        let (mut best, mut weighed) =
            (None::<(usize, (usize, usize), SessionKey, Subscription)>, 0);
        'classes: for (class, places) in self.parts() {
            for place in places {
                let Some((key, subscription)) = self.member(class, place) else {
                    break;
                };
                let load = match standing(key) {
                    Standing::Denied => break,
                    Standing::Ready { is_connected, load } if is_connected == wants_connected => {
                        load
                    }
                    Standing::Ready { .. } => continue,
                };
                if best.is_none_or(|(least, ..)| load < least) {
                    best = Some((load, (class, place), key, subscription));
                }
                weighed += 1;
                if load == 0 || weighed == PROBES {
                    break 'classes;
                }
            }
        }
        let (_, place, key, subscription) = best?;
        self.last = place;
        Some((key, subscription))
    }

    /// Those of the next in turn that are not connected, until `most` that are were met.
    fn absent(
        &self,
        most: usize,
        standing: &impl Fn(SessionKey) -> Standing,
    ) -> Vec<(MemberClass, SessionKey)> {
        let (mut absent, mut met) = (Vec::new(), 0);
        for (class, places) in self.parts() {
            let Some((name, _)) = self.classes.get_index(class) else {
                break;
            };
            for place in places {
                let Some((key, _)) = self.member(class, place) else {
                    break;
                };
                match standing(key) {
                    Standing::Denied => break,
                    Standing::Ready {
                        is_connected: true, ..
                    } => met += 1,
                    Standing::Ready { .. } => absent.push((name.clone(), key)),
                }
                if met == most {
                    return absent;
                }
            }
        }
        absent
    }
}

/// A shared subscription.
#[derive(Debug)]
pub(super) struct Group {
    filter: Arc<TopicFilter>,
    classes: ByNumber<SessionKey, MemberClass>,
    connected: Members,
    /// Without a connection, with a queue that messages can wait in.
    waiting: Members,
    /// Without a connection, at QoS 0: nothing is kept for them.
    absent: Members,
}

impl Group {
    pub(super) fn new(filter: TopicFilter) -> Self {
        let [connected, waiting, absent] = [(); 3].map(|()| Members::default());
        Self {
            filter: Arc::new(filter),
            classes: ByNumber::default(),
            connected,
            waiting,
            absent,
        }
    }

    pub(super) fn filter(&self) -> &Arc<TopicFilter> {
        &self.filter
    }

    /// Takes a member out of its list.
    fn take(&mut self, key: SessionKey) -> Option<(MemberClass, Subscription)> {
        let class = self.classes.remove(&key)?;
        let lists = [&mut self.connected, &mut self.waiting, &mut self.absent];
        let subscription = lists
            .into_iter()
            .find_map(|members| members.remove(&class, key));
        debug_assert!(subscription.is_some(), "every member is in a list");
        Some((class, subscription?))
    }

    fn put(&mut self, key: SessionKey, class: MemberClass, subscription: Subscription) {
        self.classes.insert(key, class.clone());
        self.connected.insert(class, key, subscription);
    }

    /// Adds a member, or gives it another subscription; true if it is new.
    pub(super) fn join(
        &mut self,
        key: SessionKey,
        class: MemberClass,
        subscription: Subscription,
    ) -> bool {
        let is_new = !self.leave(key);
        self.put(key, class, subscription);
        is_new
    }

    /// Takes a member out; true if it was one.
    pub(super) fn leave(&mut self, key: SessionKey) -> bool {
        self.take(key).is_some()
    }

    /// A member has connected.
    pub(super) fn connected(&mut self, key: SessionKey) {
        if let Some((class, subscription)) = self.take(key) {
            self.put(key, class, subscription);
        }
    }

    /// The rules of users have changed.
    pub(super) fn classify(&mut self, key: SessionKey, class: MemberClass) {
        if let Some((_, subscription)) = self.take(key) {
            self.put(key, class, subscription);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.connected.is_empty() && self.waiting.is_empty() && self.absent.is_empty()
    }

    /// The member that gets a message of this QoS. If none is connected it waits for one whose
    /// session lasts [MQTT-4.8.2-4..6].
    pub(super) fn choose(
        &mut self,
        qos: QoS,
        standing: impl Fn(SessionKey) -> Standing,
    ) -> Option<(SessionKey, Subscription)> {
        self.sort_out(PROBES, &standing);
        let connected = self.connected.least(true, &standing);
        if connected.is_some() || qos == QoS::AtMostOnce {
            return connected;
        }
        self.sort_out(usize::MAX, &standing);
        self.waiting.least(false, &standing)
    }

    /// Those whose connection has ended go to where they belong, until the next `most` in turn are
    /// connected.
    fn sort_out(&mut self, most: usize, standing: &impl Fn(SessionKey) -> Standing) {
        for (class, key) in self.connected.absent(most, standing) {
            let Some(subscription) = self.connected.remove(&class, key) else {
                continue;
            };
            let is_kept = subscription.options.qos != QoS::AtMostOnce;
            let members = if is_kept {
                &mut self.waiting
            } else {
                &mut self.absent
            };
            members.insert(class, key, subscription);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use super::*;
    use crate::mqtt::SubscribeOptions;
    use proptest::prelude::*;

    fn group(members: usize, qos: QoS) -> Group {
        let mut group = Group::new(TopicFilter::new("$share/workers/jobs").unwrap());
        let options = SubscribeOptions {
            qos,
            ..SubscribeOptions::default()
        };
        for key in 0..members {
            assert!(group.join(
                key,
                MemberClass::User(None),
                Subscription {
                    options,
                    identifier: None
                }
            ));
        }
        group
    }

    fn chosen(
        group: &mut Group,
        qos: QoS,
        standing: impl Fn(SessionKey) -> Standing,
    ) -> Option<SessionKey> {
        group.choose(qos, standing).map(|(key, _)| key)
    }

    fn ready(is_connected: bool, load: usize) -> Standing {
        Standing::Ready { is_connected, load }
    }

    #[test]
    fn the_member_with_the_least_to_do_is_chosen_in_turn_among_equals() {
        let mut group = group(4, QoS::AtLeastOnce);
        let loads = [5, 0, 3, 0];
        let turns: Vec<_> = (0..4)
            .map(|_| chosen(&mut group, QoS::AtLeastOnce, |key| ready(true, loads[key])).unwrap())
            .collect();
        assert_eq!(turns, [1, 3, 1, 3]);
        assert_eq!(
            chosen(&mut group, QoS::AtLeastOnce, |key| ready(true, 9 - key)),
            Some(3)
        );
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
        assert!(
            looks.get() < 4000 + 3 * 1000 + 2 * PROBES,
            "{} members looked at",
            looks.get()
        );
    }

    #[test]
    fn messages_wait_for_members_whose_session_keeps_them() {
        let mut group = group(2, QoS::AtLeastOnce);
        assert!(group.join(2, MemberClass::User(None), Subscription::default()));
        let away = |_| ready(false, 0);
        assert_eq!(chosen(&mut group, QoS::AtMostOnce, away), None);
        let waits = [
            chosen(&mut group, QoS::ExactlyOnce, away),
            chosen(&mut group, QoS::ExactlyOnce, away),
        ];
        assert!(
            waits.iter().all(|key| key.is_some_and(|key| key < 2)) && waits[0] != waits[1],
            "{waits:?}"
        );
        group.connected(2);
        assert_eq!(
            chosen(&mut group, QoS::AtMostOnce, |key| ready(key == 2, 0)),
            Some(2)
        );
        assert!(group.leave(0) && group.leave(1) && group.leave(2) && !group.leave(2));
        assert!(group.is_empty());
    }

    /// Members of some users, `members` each; those of the last one may read the topic.
    fn users(users: usize, members: usize) -> Group {
        let mut group = Group::new(TopicFilter::new("$share/workers/jobs").unwrap());
        let options = SubscribeOptions {
            qos: QoS::AtLeastOnce,
            ..SubscribeOptions::default()
        };
        for key in 0..users * members {
            let class = MemberClass::User(Some(format!("user-{}", key / members).into()));
            assert!(group.join(
                key,
                class,
                Subscription {
                    options,
                    identifier: None
                }
            ));
        }
        group
    }

    #[test]
    fn members_whose_user_may_not_read_the_topic_cost_as_much_as_one() {
        for is_connected in [true, false] {
            let looks = |members: usize| {
                let (mut group, looks) = (users(5, members), Cell::new(0));
                for _ in 0..100 {
                    let standing = |key: SessionKey| {
                        looks.set(looks.get() + 1);
                        if key / members == 4 {
                            ready(is_connected, 1 + key % 2)
                        } else {
                            Standing::Denied
                        }
                    };
                    let chosen = chosen(&mut group, QoS::AtLeastOnce, standing);
                    assert!(chosen.is_some_and(|key| key / members == 4));
                    // No member may read this one.
                    let denied = |_| {
                        looks.set(looks.get() + 1);
                        Standing::Denied
                    };
                    assert_eq!(group.choose(QoS::AtLeastOnce, denied), None);
                }
                looks.get()
            };
            let (few, many) = (looks(50), looks(2000));
            // Those that are away are met once.
            assert!(
                many <= few + 2000 + 200,
                "{many} members looked at, {few} where there are few"
            );
        }
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn whoever_is_chosen_may_have_the_message_and_somebody_is_chosen_if_anybody_may(
            steps in prop::collection::vec((0_usize..12, 0_u8..6, 0_usize..5), 1..150),
        ) {
            let mut group = Group::new(TopicFilter::new("$share/workers/jobs").unwrap());
            // MemberClass, whether it is connected, load.
            let mut model = BTreeMap::<SessionKey, (usize, bool, usize)>::new();
            let options = SubscribeOptions { qos: QoS::AtLeastOnce, ..SubscribeOptions::default() };
            let subscription = Subscription { options, identifier: None };
            for (key, kind, number) in steps {
                let class = MemberClass::Session(number);
                match kind {
                    0 => {
                        let is_new = model.insert(key, (number, true, key % 3)).is_none();
                        prop_assert_eq!(group.join(key, class, subscription), is_new);
                    }
                    1 => prop_assert_eq!(group.leave(key), model.remove(&key).is_some()),
                    2 => model.get_mut(&key).into_iter().for_each(|member| member.1 = false),
                    3 => {
                        model.get_mut(&key).into_iter().for_each(|member| member.1 = true);
                        group.connected(key);
                    }
                    4 => {
                        model.get_mut(&key).into_iter().for_each(|member| member.0 = number);
                        group.classify(key, class);
                    }
                    _ => {
                        // Classes below this one may not read the topic.
                        let standing = |key: SessionKey| {
                            let (class, is_connected, load) = model[&key];
                            if class < number { Standing::Denied } else { ready(is_connected, load) }
                        };
                        let may = |connected: bool| model.values().filter(move |member| member.0 >= number && member.1 == connected);
                        let found = group.choose(QoS::AtLeastOnce, standing).map(|(key, _)| model[&key]);
                        let expected = may(true).map(|member| member.2).min().or_else(|| may(false).map(|member| member.2).min());
                        prop_assert_eq!(found.map(|member| member.2), expected, "the least to do of at most {} members", PROBES);
                        prop_assert!(found.is_none_or(|member| member.0 >= number && (member.1 || may(true).next().is_none())));
                    }
                }
                prop_assert_eq!(group.is_empty(), model.is_empty());
                prop_assert_eq!(group.classes.len(), model.len());
            }
        }
    }
    #[test]
    fn a_member_whose_user_may_not_read_the_topic_is_passed_over() {
        let mut group = users(40, 1);
        let only = |key: SessionKey| {
            if key == 39 {
                ready(false, 0)
            } else {
                Standing::Denied
            }
        };
        assert_eq!(chosen(&mut group, QoS::AtLeastOnce, only), Some(39));
        assert_eq!(
            chosen(&mut group, QoS::AtLeastOnce, |_| Standing::Denied),
            None
        );
    }
}
