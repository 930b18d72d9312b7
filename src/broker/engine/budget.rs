//! The bytes that sessions hold besides messages: names, subscriptions, wills, topic aliases and
//! QoS 2 identifiers. One budget for a session, for a user (without a name: an address) and for
//! all.
//!
//! A session may hold [`Budget::reserve`] bytes whatever the others hold: there is as much of it as
//! there may be sessions. Only what is beyond comes out of a pool, of which one user gets no more
//! than [`BrokerLimits::max_user_bytes`]. So an owner that uses its share up can neither shut out
//! others nor take what they have.
//!
//! Invariants:
//! * `held` is the sum of all accounts; `pooled` is the sum of what is beyond the reserve of each,
//!   in all and by owner.
//! * An owner without accounts is not known.
//! * A charge that is refused changes nothing.
//!
//! It does not count messages that wait or are in flight (`queue`, `in_flight`,
//! [`BrokerLimits::max_queued_total`]), retained messages.

use std::collections::HashMap;

use bytestring::ByteString;

use super::BrokerLimits;
use super::lifecycle::Peer;
use crate::broker::admission::Address;
use crate::log::network;

/// Bytes that every session may hold: enough for a client identifier, a small will and a handful of
/// subscriptions.
const RESERVE: usize = 6 << 10;

/// The owner of a session, whose share of the budget it uses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// A user.
    User(ByteString),
    /// Clients without a name, at this address (of IPv6 the first 64 bits), or on a Unix socket.
    Address(Option<Address>),
    /// Clients without a name, before the broker was started: they count for no owner, only for
    /// all.
    Unknown,
}

impl Owner {
    pub(super) fn of(user: Option<&ByteString>, peer: &Peer) -> Self {
        user.map_or_else(
            || Self::Address(peer.address.map(network)),
            |user| Self::User(user.clone()),
        )
    }

    pub(super) fn restored(user: Option<&ByteString>) -> Self {
        user.map_or(Self::Unknown, |user| Self::User(user.clone()))
    }
}

/// The purpose of bytes that a session holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BudgetPart {
    /// The session itself: client identifier, user name, rights of its own.
    Names,
    /// Its subscriptions, and their places in the tree.
    Filters,
    /// Its will.
    Will,
    /// Identifiers of QoS 2 messages from its client that are not released.
    Received,
    /// Topic aliases of its connection, both ways.
    Aliases,
    /// The places that replays of retained messages have reached.
    Replays,
}

const PARTS: [BudgetPart; 6] = [
    BudgetPart::Names,
    BudgetPart::Filters,
    BudgetPart::Will,
    BudgetPart::Received,
    BudgetPart::Aliases,
    BudgetPart::Replays,
];

/// The bytes that one session holds. Changed by its [`Budget`] only.
#[derive(Debug)]
pub(super) struct Account {
    owner: Owner,
    parts: [usize; PARTS.len()],
}

impl Account {
    /// Bytes in all.
    pub(super) fn held(&self) -> usize {
        self.parts.iter().sum()
    }

    /// Bytes held for something.
    pub(super) fn part(&self, part: BudgetPart) -> usize {
        self.parts.get(part as usize).copied().unwrap_or(0)
    }

    /// The owner whose share they use.
    pub(super) fn owner(&self) -> &Owner {
        &self.owner
    }
}

/// Bytes that a session holds from its CONNECT on.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewCharges {
    pub(super) names: usize,
    pub(super) will: usize,
}

/// The budget that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// That of the session.
    Session,
    /// That of its user or address.
    Owner,
    /// That of all.
    All,
}

impl Over {
    /// For the client.
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Session => {
                "session memory limit reached (subscriptions, will, topic aliases, unreleased QoS 2 messages); see `broker.max_session_size`"
            }
            Self::Owner => "the sessions of this user use too much memory",
            Self::All => "the memory for all sessions is used up; see `broker.max_sessions_size`",
        }
    }
}

#[derive(Debug, Default)]
struct OwnerShare {
    accounts: usize,
    pooled: usize,
}

/// The bytes that all sessions hold.
#[derive(Debug)]
pub(super) struct Budget {
    per_session: usize,
    per_owner: usize,
    reserve: usize,
    pool: usize,
    held: usize,
    pooled: usize,
    owners: HashMap<Owner, OwnerShare>,
    /// With more accounts an owner is a crowd.
    half: usize,
    crowd: Option<Owner>,
    /// Something was given back since `was_refunded` was last called.
    was_refunded: bool,
}

impl Budget {
    pub(super) fn new(limits: &BrokerLimits) -> Self {
        let total = limits.max_sessions_bytes;
        let reserve = RESERVE.min(total / 2 / limits.max_sessions.max(1));
        Self {
            per_session: limits.max_session_bytes,
            per_owner: limits.max_user_bytes,
            reserve,
            pool: total - reserve.saturating_mul(limits.max_sessions).min(total),
            held: 0,
            pooled: 0,
            owners: HashMap::new(),
            half: limits.max_sessions / 2,
            crowd: None,
            was_refunded: false,
        }
    }

    /// True if something was given back since this was last asked.
    pub(super) fn was_refunded(&mut self) -> bool {
        std::mem::take(&mut self.was_refunded)
    }

    /// Bytes that all sessions hold.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    fn pooled_of(&self, held: usize) -> usize {
        held.saturating_sub(self.reserve)
    }

    /// The owner with more than half of all sessions that there may be, if there is one.
    pub(super) fn crowd(&self) -> Option<&Owner> {
        self.crowd.as_ref()
    }

    /// Opens the account of a new session.
    pub(super) fn open(&mut self, owner: Owner) -> Account {
        self.join(&owner);
        Account {
            owner,
            parts: [0; PARTS.len()],
        }
    }

    fn join(&mut self, owner: &Owner) {
        let share = self.owners.entry(owner.clone()).or_default();
        share.accounts += 1;
        if share.accounts == self.half + 1 {
            self.crowd = Some(owner.clone());
        }
    }

    /// Gives everything back: the session is gone.
    pub(super) fn close(&mut self, account: Account) {
        self.book(&account, account.held(), 0);
        self.leave(&account.owner);
    }

    fn leave(&mut self, owner: &Owner) {
        let Some(share) = self.owners.get_mut(owner) else {
            return;
        };
        share.accounts -= 1;
        if share.accounts <= self.half && self.crowd.as_ref() == Some(owner) {
            self.crowd = None;
        }
        if share.accounts == 0 {
            debug_assert_eq!(share.pooled, 0, "an owner without sessions holds nothing");
            self.owners.remove(owner);
        }
    }

    /// The session has another owner from now on; its charges move with it.
    fn move_to(&mut self, account: &mut Account, owner: Owner) {
        if account.owner == owner {
            return;
        }
        let held = account.held();
        self.book(account, held, 0);
        self.leave(&account.owner);
        self.join(&owner);
        account.owner = owner;
        self.book(account, 0, held);
    }

    /// Notes what a session that was admitted holds for its names and its will.
    pub(super) fn settle(&mut self, account: &mut Account, owner: Owner, charges: NewCharges) {
        self.move_to(account, owner);
        self.put(account, BudgetPart::Names, charges.names);
        self.put(account, BudgetPart::Will, charges.will);
    }

    fn put(&mut self, account: &mut Account, part: BudgetPart, bytes: usize) {
        let before = account.held();
        if let Some(slot) = account.parts.get_mut(part as usize) {
            *slot = bytes;
        }
        let after = account.held();
        self.book(account, before, after);
    }

    /// Notes that a session holds `bytes` for something from now on, if there is room for it.
    pub(super) fn set(
        &mut self,
        account: &mut Account,
        part: BudgetPart,
        bytes: usize,
    ) -> Result<(), Over> {
        let (before, known) = (account.held(), account.part(part));
        let after = before - known + bytes;
        self.admit(Some((&account.owner, before)), &account.owner, after)?;
        self.put(account, part, bytes);
        debug_assert_eq!(account.held(), after, "the account shows what was booked");
        Ok(())
    }

    /// True if a session holds more than it may whatever the others hold: only such a one gives
    /// room when it goes.
    pub(super) fn is_beyond_reserve(&self, account: &Account) -> bool {
        account.held() > self.reserve
    }

    /// Whether a session of `owner` may hold `held` bytes; `replaced` is whose share it takes the
    /// place of, and what that holds. A session that holds no more than before is admitted; if it
    /// changes its owner, the new one must have room for it.
    pub(super) fn admit(
        &self,
        replaced: Option<(&Owner, usize)>,
        owner: &Owner,
        held: usize,
    ) -> Result<(), Over> {
        let before = replaced.map_or(0, |(_, held)| held);
        if held > before && held > self.per_session {
            return Err(Over::Session);
        }
        let (left, wanted) = (self.pooled_of(before), self.pooled_of(held));
        let share = self.owners.get(owner).map_or(0, |share| share.pooled);
        let left_of_owner = if replaced.is_some_and(|(known, _)| known == owner) {
            left
        } else {
            0
        };
        if wanted > left_of_owner
            && *owner != Owner::Unknown
            && share - left_of_owner + wanted > self.per_owner
        {
            return Err(Over::Owner);
        }
        if wanted > left && self.pooled - left + wanted > self.pool {
            Err(Over::All)
        } else {
            Ok(())
        }
    }

    fn book(&mut self, account: &Account, before: usize, after: usize) {
        let (left, wanted) = (self.pooled_of(before), self.pooled_of(after));
        self.was_refunded |= after < before;
        self.held = self.held - before + after;
        self.pooled = self.pooled - left + wanted;
        let Some(share) = self.owners.get_mut(&account.owner) else {
            return;
        };
        share.pooled = share.pooled - left + wanted;
    }

    /// Panics if a total is not the sum of `accounts`, which are all. For tests.
    pub(super) fn check_invariants<'a>(&self, accounts: impl Iterator<Item = &'a Account>) {
        let (mut held, mut owners) = (0, HashMap::<&Owner, OwnerShare>::new());
        for account in accounts {
            held += account.held();
            let share = owners.entry(&account.owner).or_default();
            share.accounts += 1;
            share.pooled += self.pooled_of(account.held());
            assert!(
                account.held() <= self.per_session,
                "a session holds {} bytes",
                account.held()
            );
        }
        assert_eq!(self.held, held, "bytes that all sessions hold");
        assert_eq!(
            self.pooled,
            owners.values().map(|share| share.pooled).sum::<usize>(),
            "bytes beyond the reserves"
        );
        assert!(
            self.pooled <= self.pool,
            "all sessions hold {} bytes of {} beyond their reserves",
            self.pooled,
            self.pool
        );
        assert_eq!(self.owners.len(), owners.len(), "owners with sessions");
        let crowd = owners
            .iter()
            .find(|(_, share)| share.accounts > self.half)
            .map(|(owner, _)| *owner);
        assert_eq!(
            self.crowd.as_ref(),
            crowd,
            "who has more than half of the sessions"
        );
        for (owner, share) in &owners {
            let known = self
                .owners
                .get(owner)
                .map(|share| (share.accounts, share.pooled));
            assert_eq!(
                known,
                Some((share.accounts, share.pooled)),
                "the share of {owner:?}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> BrokerLimits {
        // A reserve of 1000, and a pool of 10,000.
        BrokerLimits {
            max_session_bytes: 6000,
            max_user_bytes: 7000,
            max_sessions_bytes: 20_000,
            max_sessions: 10,
            ..BrokerLimits::default()
        }
    }

    fn user(name: &'static str) -> Owner {
        Owner::User(name.into())
    }

    #[test]
    fn whoever_uses_a_share_up_leaves_the_others_theirs() {
        let mut budget = Budget::new(&limits());
        let mut greedy: Vec<Account> = (0..9).map(|_| budget.open(user("greedy"))).collect();
        let refused: Vec<Option<Over>> = greedy
            .iter_mut()
            .map(|account| budget.set(account, BudgetPart::Will, 4000).err())
            .collect();
        assert_eq!(
            refused.iter().filter(|refused| refused.is_none()).count(),
            2,
            "two times 3000 beyond the reserve"
        );
        assert!(refused.iter().flatten().all(|over| *over == Over::Owner));
        assert_eq!(
            budget.set(&mut greedy[0], BudgetPart::Will, 6001),
            Err(Over::Session)
        );
        let mut modest = budget.open(user("modest"));
        assert_eq!(
            budget.set(&mut modest, BudgetPart::Filters, 5000),
            Ok(()),
            "what the first user may not have is there for others"
        );
        assert_eq!(
            budget.set(&mut modest, BudgetPart::Filters, 5001),
            Err(Over::All)
        );
        assert_eq!(
            budget.set(&mut greedy[8], BudgetPart::Will, 1000),
            Ok(()),
            "the reserve is there for everybody"
        );
        budget.check_invariants(greedy.iter().chain([&modest]));
    }

    #[test]
    fn a_session_that_changes_its_owner_counts_for_the_new_one() {
        let mut budget = Budget::new(&limits());
        let mut full: Vec<Account> = (0..2).map(|_| budget.open(user("anna"))).collect();
        full.iter_mut()
            .for_each(|account| assert_eq!(budget.set(account, BudgetPart::Will, 4000), Ok(())));
        let mut other = budget.open(Owner::Unknown);
        assert_eq!(budget.set(&mut other, BudgetPart::Will, 4000), Ok(()));
        let moved = Some((other.owner(), other.held()));
        assert_eq!(
            budget.admit(moved, &user("anna"), 4000),
            Err(Over::Owner),
            "no more than before, but more than she may have"
        );
        assert_eq!(
            budget.admit(moved, &user("anna"), 1000),
            Ok(()),
            "her reserve is there"
        );
        assert_eq!(budget.admit(moved, &user("berta"), 4000), Ok(()));
        assert_eq!(budget.admit(moved, &Owner::Unknown, 4000), Ok(()));
    }

    #[test]
    fn addresses_of_one_network_share_and_a_name_counts_before_the_address() {
        let peer = |address: &str| Peer {
            address: address.parse().ok(),
            certificate: None,
        };
        assert_eq!(
            Owner::of(None, &peer("2001:db8::1")),
            Owner::of(None, &peer("2001:db8::2"))
        );
        assert_ne!(
            Owner::of(None, &peer("2001:db8::1")),
            Owner::of(None, &peer("2001:db8:0:1::1"))
        );
        assert_ne!(
            Owner::of(None, &peer("192.0.2.1")),
            Owner::of(None, &peer("192.0.2.2"))
        );
        assert_eq!(
            Owner::of(Some(&"anna".into()), &peer("192.0.2.1")),
            user("anna")
        );
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn totals_are_sums_whatever_is_charged(steps in prop::collection::vec((0..6_usize, 0..5_usize, 0..8000_usize, 0..8_u8), 1..200)) {
            let mut budget = Budget::new(&limits());
            let mut accounts: Vec<Account> = Vec::new();
            let owners = [user("a"), user("b"), Owner::Unknown];
            for (index, part, bytes, kind) in steps {
                let owner = owners[index % owners.len()].clone();
                match (kind, accounts.len()) {
                    (0, 0..10) | (_, 0) => accounts.push(budget.open(owner)),
                    (1, count) => {
                        let gone = accounts.swap_remove(index % count);
                        budget.close(gone);
                    }
                    (2, count) => {
                        let account = &mut accounts[index % count];
                        let (names, will) = (account.part(BudgetPart::Names), account.part(BudgetPart::Will));
                        if budget.admit(Some((account.owner(), account.held())), &owner, account.held()).is_ok() {
                            budget.settle(account, owner, NewCharges { names, will });
                        }
                    }
                    (_, count) => {
                        let (account, part) = (&mut accounts[index % count], PARTS[part]);
                        let before = (account.held(), account.part(part));
                        match budget.set(account, part, bytes) {
                            Ok(()) => prop_assert_eq!(account.part(part), bytes),
                            Err(_) => prop_assert_eq!((account.held(), account.part(part)), before),
                        }
                    }
                }
                budget.check_invariants(accounts.iter());
                for owner in [user("a"), user("b")] {
                    let pooled = budget.owners.get(&owner).map_or(0, |share| share.pooled);
                    prop_assert!(pooled <= limits().max_user_bytes, "{owner:?} holds {pooled} bytes beyond the reserves");
                }
                prop_assert!(budget.held() <= limits().max_sessions_bytes);
            }
        }
    }
}
