//! Changes while the broker runs: permissions and routes.

use std::sync::Arc;
use std::time::Instant;

use super::budget::{BudgetPart, NewCharges};
use super::session::names_weight;
use super::{ConnectionId, Engine, SessionKey};
use crate::broker::access::Access;
use crate::mqtt::ReasonCode;
use crate::route::RouteTable;

/// The new state.
#[derive(Debug, Clone)]
pub struct Change {
    /// Who gets messages beside local clients.
    pub routes: Arc<RouteTable>,
    /// Users and their permissions.
    pub access: Arc<Access>,
}

impl Engine {
    /// Applies a change at once. Clients keep their sessions and get the rights of their names;
    /// those whose names are gone, or whose client identifiers are for others, are disconnected.
    pub fn change(&mut self, change: Change, now: Instant) {
        (self.routes, self.access) = (change.routes, change.access);
        let keys: Vec<SessionKey> = self.sessions.iter().map(|(key, _)| key).collect();
        let refused: Vec<ConnectionId> = keys
            .iter()
            .filter_map(|key| self.change_rights(*key))
            .collect();
        for key in keys {
            self.note_absence(key);
        }
        for connection in refused {
            self.refuse(connection, ReasonCode::ADMINISTRATIVE_ACTION, now);
        }
    }

    /// Gives a session the rights that its user has from now on; its connection if it may not stay.
    fn change_rights(&mut self, key: SessionKey) -> Option<ConnectionId> {
        let session = self.sessions.get_mut(key)?;
        let user = session.user.as_ref();
        let rights = self.access.rights(user, &session.client_id);
        let may_stay = rights.is_some() && self.access.may_have(user, &session.client_id).is_ok();
        session.rights = rights.unwrap_or_default();
        for filter in session.filters.shared() {
            self.subscriptions
                .classify(filter, key, session.class_for(key, filter));
        }
        let charges = NewCharges {
            names: names_weight(&session.client_id, session.user.as_ref(), &session.rights),
            will: session.account.part(BudgetPart::Will),
        };
        let owner = session.account.owner().clone();
        self.budget.settle(&mut session.account, owner, charges);
        session.connection.filter(|_| !may_stay)
    }
}
