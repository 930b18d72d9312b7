//! Sessions whose clients are away, by how long, so that the one that has to go is found at once
//! however many there are. Pure.
//!
//! Invariants: every session that is away is in `all`, in the list of its owner, and in those of
//! the sessions that hold more than their reserve if it does; each list is in the order of the ends
//! of their connections. A list that is empty is not kept.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::SessionKey;
use super::budget::Owner;

/// Absence after which a session may have to make room for another one.
pub(super) const LONG_AWAY: Duration = Duration::from_secs(3600);

/// The facts that an absent session is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Absence {
    /// When its connection ended.
    pub(super) since: Instant,
    /// The owner whose share of the budget it uses.
    pub(super) owner: Owner,
    /// It holds more than every session may.
    pub(super) is_beyond_reserve: bool,
}

type AbsenceOrder = BTreeSet<(Instant, SessionKey)>;

/// Sessions in the order of the ends of their connections, in all and by owner.
#[derive(Debug, Default, PartialEq, Eq)]
struct AbsenceOrders {
    all: AbsenceOrder,
    by_owner: HashMap<Owner, AbsenceOrder>,
}

impl AbsenceOrders {
    fn insert(&mut self, key: SessionKey, absence: &Absence) {
        self.all.insert((absence.since, key));
        self.by_owner
            .entry(absence.owner.clone())
            .or_default()
            .insert((absence.since, key));
    }

    fn remove(&mut self, key: SessionKey, absence: &Absence) {
        self.all.remove(&(absence.since, key));
        let Some(order) = self.by_owner.get_mut(&absence.owner) else {
            return;
        };
        order.remove(&(absence.since, key));
        if order.is_empty() {
            self.by_owner.remove(&absence.owner);
        }
    }

    /// Those of an owner, or all.
    fn of(&self, owner: Option<&Owner>) -> impl Iterator<Item = (Instant, SessionKey)> {
        let order = match owner {
            Some(owner) => self.by_owner.get(owner),
            None => Some(&self.all),
        };
        order.into_iter().flatten().copied()
    }
}

/// The sessions that are away.
#[derive(Debug, Default)]
pub(super) struct Away {
    known: HashMap<SessionKey, Absence>,
    orders: AbsenceOrders,
    beyond: AbsenceOrders,
}

impl Away {
    /// Notes that a session is away, what changed about it, or (`None`) that it is not away any
    /// more.
    pub(super) fn note(&mut self, key: SessionKey, absence: Option<Absence>) {
        if self.known.get(&key) == absence.as_ref() {
            return;
        }
        if let Some(old) = self.known.remove(&key) {
            self.orders.remove(key, &old);
            self.beyond.remove(key, &old);
        }
        let Some(absence) = absence else { return };
        self.orders.insert(key, &absence);
        if absence.is_beyond_reserve {
            self.beyond.insert(key, &absence);
        }
        self.known.insert(key, absence);
    }

    /// The session, of `owner` if that is said, that has been away for longest, and since when.
    pub(super) fn longest(&self, owner: Option<&Owner>) -> Option<(Instant, SessionKey)> {
        self.orders.of(owner).next()
    }

    /// The same among those that hold more than their reserve, without `except`.
    pub(super) fn longest_beyond_reserve(
        &self,
        owner: Option<&Owner>,
        except: Option<SessionKey>,
    ) -> Option<(Instant, SessionKey)> {
        self.beyond.of(owner).find(|(_, key)| Some(*key) != except)
    }

    /// Panics if the lists are not what `sessions` say. For tests.
    pub(super) fn check_invariants(&self, sessions: impl Iterator<Item = (SessionKey, Absence)>) {
        let mut expected = Self::default();
        sessions.for_each(|(key, absence)| expected.note(key, Some(absence)));
        assert_eq!(self.known, expected.known, "sessions that are away");
        assert_eq!(self.orders, expected.orders, "how long they are away");
        assert_eq!(
            self.beyond, expected.beyond,
            "how long those are away that hold much"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn the_longest_absence_is_that_of_a_plain_search(
            steps in prop::collection::vec((0_usize..8, prop::option::of((0_u64..6, 0_usize..3, any::<bool>()))), 1..100),
        ) {
            let start = crate::time::now();
            let owners = [Owner::User("anna".into()), Owner::User("berta".into()), Owner::Unknown];
            let (mut away, mut model) = (Away::default(), HashMap::<SessionKey, Absence>::new());
            for (key, absence) in steps {
                let absence = absence.map(|(second, owner, is_beyond_reserve)| Absence {
                    since: start + Duration::from_secs(second),
                    owner: owners[owner].clone(),
                    is_beyond_reserve,
                });
                away.note(key, absence.clone());
                match absence {
                    Some(absence) => drop(model.insert(key, absence)),
                    None => drop(model.remove(&key)),
                }
                away.check_invariants(model.iter().map(|(key, absence)| (*key, absence.clone())));
                for owner in owners.iter().map(Some).chain([None]) {
                    let of = || model.iter().filter(|(_, absence)| owner.is_none_or(|owner| absence.owner == *owner));
                    prop_assert_eq!(away.longest(owner), of().map(|(key, absence)| (absence.since, *key)).min());
                    let beyond = of().filter(|(other, absence)| **other != key && absence.is_beyond_reserve);
                    let expected = beyond.map(|(key, absence)| (absence.since, *key)).min();
                    prop_assert_eq!(away.longest_beyond_reserve(owner, Some(key)), expected);
                }
            }
        }
    }
}
