//! Charges against the budget of sessions: at CONNECT, and for everything a session takes later.

use std::sync::Arc;
use std::time::Instant;

use bytestring::ByteString;

use super::away::{Absence, LONG_AWAY};
use super::budget::{BudgetPart, NewCharges, Over, Owner};
use super::session::{Incoming, PendingWill, RECEIVED, Session, names_weight};
use super::{Engine, SessionKey};
use crate::broker::access::Rights;
use crate::mqtt::PacketId;

/// Sessions that may have to go for one CONNECT.
const MOST_EVICTED: usize = 8;

/// A session that a CONNECT asks for.
pub(super) struct RequestedSession {
    pub(super) client_id: ByteString,
    /// The client gave no identifier and gets this one.
    pub(super) is_assigned: bool,
    pub(super) user: Option<ByteString>,
    pub(super) rights: Arc<Rights>,
    pub(super) will: Option<Box<PendingWill>>,
    /// The owner whose share of the budget it uses.
    pub(super) owner: Owner,
    /// An earlier session of the client is not wanted.
    pub(super) clean_start: bool,
}

impl RequestedSession {
    fn charges(&self) -> NewCharges {
        NewCharges {
            names: names_weight(&self.client_id, self.user.as_ref(), &self.rights),
            will: self.will.as_deref().map_or(0, PendingWill::weight),
        }
    }
}

impl Engine {
    /// Notes that a session holds `bytes` for something, if there is room for it.
    pub(super) fn charge(
        &mut self,
        key: SessionKey,
        part: BudgetPart,
        bytes: usize,
    ) -> Result<(), Over> {
        let Some(session) = self.sessions.get_mut(key) else {
            return Ok(());
        };
        let charged = self.budget.set(&mut session.account, part, bytes);
        self.traffic.over_budget += u64::from(charged.is_err());
        if session.away_since.is_some() {
            self.note_absence(key);
        }
        charged
    }

    /// Notes whether a session is away, and how much it holds: the one that may have to go is found
    /// without a search.
    pub(super) fn note_absence(&mut self, key: SessionKey) {
        let absence = self
            .sessions
            .get(key)
            .and_then(|session| self.absence(session));
        self.away.note(key, absence);
    }

    /// How long a session is away, and what it holds; `None` while its client is connected.
    pub(super) fn absence(&self, session: &Session) -> Option<Absence> {
        let is_beyond_reserve = self.budget.is_beyond_reserve(&session.account);
        Some(Absence {
            since: session.away_since?,
            owner: session.account.owner().clone(),
            is_beyond_reserve,
        })
    }

    /// Notes that a session holds less for something: there is always room for that.
    pub(super) fn refund(&mut self, key: SessionKey, part: BudgetPart, bytes: usize) {
        let refunded = self.charge(key, part, bytes);
        debug_assert_eq!(refunded, Ok(()), "a refund always succeeds");
    }

    /// Notes what the QoS 2 messages take that a session has received, and `more` of them, if there
    /// is room for it.
    pub(super) fn charge_received(&mut self, key: SessionKey, more: usize) -> Result<(), Over> {
        let received = self
            .sessions
            .get(key)
            .map_or(0, |session| session.incoming.len() + more);
        self.charge(key, BudgetPart::Received, received * RECEIVED)
    }

    /// A session forgets a QoS 2 message; what was known of it.
    pub(super) fn forget_received(
        &mut self,
        key: SessionKey,
        packet_id: PacketId,
    ) -> Option<Incoming> {
        let known = self.sessions.get_mut(key)?.forget(packet_id);
        let refunded = self.charge_received(key, 0);
        debug_assert_eq!(refunded, Ok(()), "a refund always succeeds");
        known
    }

    /// Room in the budget for the session of a CONNECT. Sessions whose clients have been away for
    /// long go for it, if they take what is missing.
    pub(super) fn make_room_in_budget(
        &mut self,
        requested: &RequestedSession,
        now: Instant,
    ) -> Result<(), Over> {
        for _ in 0..MOST_EVICTED {
            let Err(over) = self.admits(requested) else {
                return Ok(());
            };
            if !self.evict_for(requested, over, now) {
                break;
            }
        }
        let admitted = self.admits(requested);
        self.traffic.over_budget += u64::from(admitted.is_err());
        admitted
    }

    fn admits(&self, requested: &RequestedSession) -> Result<(), Over> {
        let known = self.sessions.of_client(&requested.client_id);
        let replaced = known.map(|session| (session.account.owner(), session.account.held()));
        let kept = known.filter(|session| {
            !requested.clean_start && session.is_persistent() && session.user == requested.user
        });
        let lasting = [
            BudgetPart::Filters,
            BudgetPart::Received,
            BudgetPart::Replays,
        ];
        let kept = kept.map_or(0, |session| {
            lasting
                .into_iter()
                .map(|part| session.account.part(part))
                .sum()
        });
        let NewCharges { names, will } = requested.charges();
        self.budget
            .admit(replaced, &requested.owner, kept + names + will)
    }

    /// The session of the owner that has too much (or of any) whose client has been away for
    /// longest goes, if that is long and it holds more than every session may.
    fn evict_for(&mut self, requested: &RequestedSession, over: Over, now: Instant) -> bool {
        let owner = match over {
            Over::Session => return false,
            Over::Owner => Some(&requested.owner),
            Over::All => None,
        };
        let own = self.sessions.key_of(&requested.client_id);
        let away = self.away.longest_beyond_reserve(owner, own);
        let Some((_, key)) =
            away.filter(|(since, _)| now.saturating_duration_since(*since) >= LONG_AWAY)
        else {
            return false;
        };
        self.traffic.evicted_sessions += 1;
        self.remove_session(key, now);
        true
    }

    /// Charges a session that was found to have room.
    pub(super) fn charge_session(&mut self, key: SessionKey, requested: &RequestedSession) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        self.budget.settle(
            &mut session.account,
            requested.owner.clone(),
            requested.charges(),
        );
    }
}
