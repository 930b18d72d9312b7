//! What may become another while the broker runs: who may do what, which topics are tapped, which are guarded.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::budget::Part;
use super::session::names_weight;
use super::{Engine, SessionKey};
use crate::broker::access::Access;
use crate::mqtt::{ReasonCode, TopicFilter, TopicName};

/// The new state.
#[derive(Debug, Clone)]
pub struct Change {
    /// The topics that each tap wants, in the order of the taps.
    pub filters: Vec<Vec<TopicFilter>>,
    /// Who may do what.
    pub access: Arc<Access>,
    /// Topics on which instruments are written to.
    pub guarded: HashSet<TopicName>,
}

impl Engine {
    /// Takes it over at once. Clients keep their sessions and get the rights of their names; those whose names are gone, or whose client
    /// identifiers are for others, are disconnected.
    pub fn change(&mut self, change: Change, now: Instant) {
        let Change {
            filters,
            access,
            guarded,
        } = change;
        for (index, (tap, wanted)) in self.taps.iter_mut().zip(filters).enumerate() {
            for filter in tap.filters.iter().filter(|filter| !wanted.contains(filter)) {
                self.subscriptions.untap(filter, index);
            }
            for filter in wanted.iter().filter(|filter| !tap.filters.contains(filter)) {
                self.subscriptions.tap(filter, index);
            }
            tap.filters = wanted;
        }
        (self.guarded, self.access) = (guarded, access);
        let mut gone = Vec::new();
        for (key, session) in &mut self.sessions {
            let rights = self
                .access
                .rights(session.user.as_ref(), &session.client_id);
            if rights.is_none()
                || self
                    .access
                    .may_have(session.user.as_ref(), &session.client_id)
                    .is_err()
            {
                gone.extend(session.connection);
            }
            session.rights = rights.unwrap_or_default();
            for (filter, _) in session
                .filters
                .list()
                .iter()
                .filter(|(filter, _)| filter.is_shared())
            {
                self.subscriptions
                    .classify(filter, key, session.class_for(key, filter));
            }
            let names = names_weight(&session.client_id, session.user.as_ref(), &session.rights);
            let (owner, will) = (
                session.account.owner().clone(),
                session.account.part(Part::Will),
            );
            self.budget
                .settle(&mut session.account, owner, (names, will));
        }
        let away: Vec<SessionKey> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.away_since.is_some())
            .map(|(key, _)| key)
            .collect();
        away.into_iter().for_each(|key| self.note_absence(key));
        for connection in gone {
            self.refuse(connection, ReasonCode::ADMINISTRATIVE_ACTION, now);
        }
    }
}
