//! What clients ask for against the budget of sessions: at CONNECT, and for everything a session takes later.

use std::sync::Arc;
use std::time::Instant;

use bytestring::ByteString;

use super::away::Absence;
use super::budget::{Over, Owner, Part};
use super::connect::LONG_AWAY;
use super::session::{Incoming, PendingWill, RECEIVED, Session, names_weight};
use super::{Engine, SessionKey};
use crate::broker::access::Rights;
use crate::mqtt::PacketId;

/// Sessions that may have to go for one CONNECT.
const MOST_EVICTED: usize = 8;

/// A session that a CONNECT asks for.
pub(super) struct Wanted<'a> {
    pub(super) client_id: &'a ByteString,
    pub(super) user: Option<&'a ByteString>,
    pub(super) rights: &'a Arc<Rights>,
    pub(super) will: Option<&'a PendingWill>,
    pub(super) owner: &'a Owner,
    /// What its client has left is not wanted.
    pub(super) begins_anew: bool,
}

impl Wanted<'_> {
    fn names(&self) -> usize {
        names_weight(self.client_id, self.user, self.rights)
    }

    fn will(&self) -> usize {
        self.will.map_or(0, PendingWill::weight)
    }
}

impl Engine {
    /// Notes that a session holds `bytes` for something, if there is room for it.
    pub(super) fn charge(&mut self, key: SessionKey, part: Part, bytes: usize) -> Result<(), Over> {
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

    /// Notes whether a session is away, and how much it holds: the one that may have to go is found without a search.
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
    pub(super) fn refund(&mut self, key: SessionKey, part: Part, bytes: usize) {
        let refunded = self.charge(key, part, bytes);
        debug_assert_eq!(refunded, Ok(()), "a refund always succeeds");
    }

    /// Notes what the QoS 2 messages take that a session has received, and `more` of them, if there is room for it.
    pub(super) fn charge_received(&mut self, key: SessionKey, more: usize) -> Result<(), Over> {
        let received = self
            .sessions
            .get(key)
            .map_or(0, |session| session.incoming.len() + more);
        self.charge(key, Part::Received, received * RECEIVED)
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

    /// Room in the budget for the session of a CONNECT. Sessions whose clients have been away for long go for it, if they take what
    /// is missing.
    pub(super) fn make_room_in_budget(
        &mut self,
        wanted: &Wanted<'_>,
        now: Instant,
    ) -> Result<(), Over> {
        for _ in 0..MOST_EVICTED {
            let Err(over) = self.admits(wanted) else {
                return Ok(());
            };
            if !self.evict_for(wanted, over, now) {
                break;
            }
        }
        let admitted = self.admits(wanted);
        self.traffic.over_budget += u64::from(admitted.is_err());
        admitted
    }

    fn admits(&self, wanted: &Wanted<'_>) -> Result<(), Over> {
        let known = self
            .by_client
            .get(wanted.client_id)
            .and_then(|key| self.sessions.get(*key));
        let replaced = known.map(|session| (session.account.owner(), session.account.held()));
        let kept = known.filter(|session| {
            !wanted.begins_anew && session.is_persistent() && session.user.as_ref() == wanted.user
        });
        let lasting = [Part::Filters, Part::Received, Part::Replays];
        let kept = kept.map_or(0, |session| {
            lasting
                .into_iter()
                .map(|part| session.account.part(part))
                .sum()
        });
        self.budget.admit(
            replaced,
            wanted.owner,
            kept + wanted.names() + wanted.will(),
        )
    }

    /// The session of the owner who has too much (or of anybody) whose client has been away for longest goes, if that is long and it
    /// holds more than every session may.
    fn evict_for(&mut self, wanted: &Wanted<'_>, over: Over, now: Instant) -> bool {
        let owner = match over {
            Over::Session => return false,
            Over::Owner => Some(wanted.owner),
            Over::All => None,
        };
        let own = self.by_client.get(wanted.client_id).copied();
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

    /// Charges what was found to have room.
    pub(super) fn charge_session(&mut self, key: SessionKey, wanted: &Wanted<'_>) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        self.budget.settle(
            &mut session.account,
            wanted.owner.clone(),
            (wanted.names(), wanted.will()),
        );
    }
}
