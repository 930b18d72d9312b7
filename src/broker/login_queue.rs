//! Logins whose passwords wait to be compared, which takes long. Pure.
//!
//! Invariants:
//! * At most [`MOST_WAITING`] logins wait.
//! * Sources take turns, and share the places: a source with many logins gives the latest of them
//!   up for one with fewer. A source is a network; on this machine, where every program has the
//!   same address, it is a user name, and one more for unknown names.
//! * Within a source each pair of address and user name has its share in the same way.

use std::collections::{HashSet, VecDeque};

use bytestring::ByteString;

use super::admission::Address;
use super::engine::ConnectionId;
use crate::log::network;

/// Logins that may wait; at the pace of a small machine about five seconds' worth.
const MOST_WAITING: usize = 32;

/// The login of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) connection: ConnectionId,
    /// `None` for a Unix socket.
    pub(super) address: Option<Address>,
    /// The name of a user who exists.
    pub(super) user: Option<ByteString>,
}

/// A source of logins, which shares the places with the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum LoginSource {
    Network(Address),
    Local(Option<ByteString>),
}

impl Claim {
    fn source(&self) -> LoginSource {
        match self.address.filter(|address| !address.is_loopback()) {
            Some(address) => LoginSource::Network(network(address)),
            None => LoginSource::Local(self.user.clone()),
        }
    }

    fn pair(&self) -> (Option<Address>, Option<&ByteString>) {
        (self.address, self.user.as_ref())
    }
}

/// The queue; `T` is what it takes to compare.
#[derive(Debug)]
pub(super) struct LoginQueue<T> {
    /// In the order they came.
    waiting: VecDeque<(Claim, T)>,
    /// Sources in the order of their last turns, the latest last; not longer than the queue may be.
    served: VecDeque<LoginSource>,
}

impl<T> Default for LoginQueue<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            served: VecDeque::new(),
        }
    }
}

impl<T> LoginQueue<T> {
    /// Lets a login wait. Returns the connection that finds no place: this one, or one of a source
    /// with more than its share.
    pub(super) fn push(&mut self, claim: Claim, job: T) -> Option<ConnectionId> {
        let refused = if self.waiting.len() < MOST_WAITING {
            None
        } else {
            Some(self.make_room(&claim))
        };
        match refused {
            Some(None) => return Some(claim.connection),
            Some(Some(connection)) => {
                self.waiting.push_back((claim, job));
                self.check_invariants();
                return Some(connection);
            }
            None => self.waiting.push_back((claim, job)),
        }
        self.check_invariants();
        None
    }

    /// The login whose turn it is: the oldest one of the source that had its last turn longest ago.
    pub(super) fn pop(&mut self) -> Option<(Claim, T)> {
        let turn = |source: &LoginSource| {
            self.served
                .iter()
                .rposition(|served| served == source)
                .map_or(0, |position| position + 1)
        };
        let (index, _) = self
            .waiting
            .iter()
            .enumerate()
            .min_by_key(|(_, (claim, _))| turn(&claim.source()))?;
        let (claim, job) = self.waiting.remove(index)?;
        let source = claim.source();
        self.served.retain(|served| *served != source);
        self.served.push_back(source);
        if self.served.len() > MOST_WAITING {
            self.served.pop_front();
        }
        self.check_invariants();
        Some((claim, job))
    }

    /// Forgets the login of a connection that is gone.
    pub(super) fn remove(&mut self, connection: ConnectionId) {
        self.waiting
            .retain(|(claim, _)| claim.connection != connection);
    }

    /// Logins of a source that wait.
    fn held(&self, source: &LoginSource) -> usize {
        let waiting = self.waiting.iter();
        waiting
            .filter(|(claim, _)| claim.source() == *source)
            .count()
    }

    /// The source with the most logins that wait, and how many.
    fn largest(&self) -> Option<(LoginSource, usize)> {
        let sources: HashSet<LoginSource> = self
            .waiting
            .iter()
            .map(|(claim, _)| claim.source())
            .collect();
        sources
            .into_iter()
            .map(|source| (self.held(&source), source))
            .max_by_key(|(count, _)| *count)
            .map(|(count, source)| (source, count))
    }

    /// Takes the latest login out of the source and pair with most; `None` if the newcomer would
    /// have as much.
    fn make_room(&mut self, newcomer: &Claim) -> Option<ConnectionId> {
        let source = newcomer.source();
        let (largest, count) = self.largest()?;
        // Within its own source a pair of address and name has its share, if no other source has
        // more than this one.
        let loser = if count > self.held(&source) + 1 {
            largest
        } else {
            source
        };
        let of_loser = |claim: &Claim| claim.source() == loser;
        let pairs = |claim: &Claim| {
            self.waiting
                .iter()
                .filter(|(other, _)| of_loser(other) && other.pair() == claim.pair())
                .count()
        };
        let (index, most) = self
            .waiting
            .iter()
            .enumerate()
            .filter(|(_, (claim, _))| of_loser(claim))
            .map(|(index, (claim, _))| (index, pairs(claim)))
            .max_by_key(|(index, count)| (*count, *index))?;
        if of_loser(newcomer) && most <= pairs(newcomer) + 1 {
            return None;
        }
        self.waiting
            .remove(index)
            .map(|(claim, _)| claim.connection)
    }

    fn check_invariants(&self) {
        debug_assert!(self.waiting.len() <= MOST_WAITING && self.served.len() <= MOST_WAITING);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(connection: ConnectionId, address: &str, user: &str) -> Claim {
        let user = Some(user)
            .filter(|user| !user.is_empty())
            .map(ByteString::from);
        Claim {
            connection,
            address: Some(address.parse().unwrap()),
            user,
        }
    }

    #[test]
    fn a_flood_on_this_machine_leaves_places_and_turns_to_the_others() {
        let mut queue = LoginQueue::default();
        for connection in 0..100 {
            // Guesses passwords of one user, and of unknown names.
            let refused = queue.push(
                claim(
                    connection,
                    "127.0.0.1",
                    if connection % 2 == 0 { "hmi" } else { "" },
                ),
                (),
            );
            assert_eq!(refused.is_some(), connection >= 32);
        }
        assert!(
            queue
                .push(claim(500, "127.0.0.1", "historian"), ())
                .is_some_and(|refused| refused < 100)
        );
        let order: Vec<ConnectionId> = (0..3)
            .filter_map(|_| queue.pop())
            .map(|(claim, ())| claim.connection)
            .collect();
        assert!(order.contains(&500), "{order:?}: each source has a turn");
    }

    #[test]
    fn a_guesser_elsewhere_leaves_places_to_other_networks_and_to_other_users_of_its_own() {
        let mut queue = LoginQueue::default();
        for connection in 0..40 {
            queue.push(
                claim(connection, &format!("2001:db8::{connection:x}"), "hmi"),
                (),
            );
        }
        for (connection, address, user) in [
            (100, "192.0.2.1", "hmi"),
            (101, "127.0.0.1", "hmi"),
            (102, "2001:db8:0:1::1", "hmi"),
        ] {
            assert!(
                queue
                    .push(claim(connection, address, user), ())
                    .is_some_and(|refused| refused < 40),
                "{address}"
            );
        }
        let mut queue = LoginQueue::default();
        for connection in 0..40 {
            queue.push(claim(connection, "192.0.2.1", "hmi"), ());
        }
        assert!(
            queue
                .push(claim(100, "192.0.2.1", "historian"), ())
                .is_some_and(|refused| refused < 40)
        );
        assert_eq!(
            queue.push(claim(101, "192.0.2.1", "hmi"), ()),
            Some(101),
            "who has most finds no place"
        );
    }

    #[test]
    fn a_connection_that_is_gone_waits_no_more() {
        let mut queue = LoginQueue::default();
        queue.push(claim(1, "192.0.2.1", "hmi"), ());
        queue.remove(1);
        assert!(queue.pop().is_none());
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        /// During a flood, a source that has nothing in the queue finds a place, and is served
        /// after at most one turn of each other.
        #[test]
        fn nobody_is_starved(floods in prop::collection::vec((0u8..4, 0u8..3), 0..200), pops in prop::collection::vec(any::<bool>(), 0..200)) {
            let mut queue = LoginQueue::default();
            for (index, (address, user)) in floods.iter().enumerate() {
                let address = if *address == 0 { "127.0.0.1".to_owned() } else { format!("192.0.2.{address}") };
                let connection = index as ConnectionId;
                let refused = queue.push(claim(connection, &address, &"x".repeat(usize::from(*user))), ());
                prop_assert!(refused.is_none_or(|refused| refused <= connection));
                if pops.get(index).copied().unwrap_or(false) {
                    queue.pop();
                }
            }
            let refused = queue.push(claim(9999, "198.51.100.1", "hmi"), ());
            prop_assert_ne!(refused, Some(9999));
            let sources: HashSet<LoginSource> = queue.waiting.iter().map(|(claim, ())| claim.source()).collect();
            let served = (0..sources.len()).filter_map(|_| queue.pop()).any(|(claim, ())| claim.connection == 9999);
            prop_assert!(served);
        }
    }
}
