//! The invariants between two inputs: every total agrees with the things it counts. Tests check
//! them after each step.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::delivery::OVERHEAD;
use super::session::{IncomingState, Session};
use super::timers::Timer;
use super::{Engine, SessionKey, Ticket};

impl Engine {
    /// Panics if a total is not what the things it counts say, or if a link between sessions and
    /// connections has one end only.
    pub fn check_invariants(&self) {
        for (key, session) in self.sessions.iter() {
            self.check_session(key, session);
        }
        for (id, connection) in &self.connections {
            connection.check_invariants();
            let back = connection
                .session
                .and_then(|key| self.sessions.get(key))
                .and_then(|session| session.connection);
            assert!(
                connection.session.is_none() || back == Some(*id),
                "the session of a connection has it"
            );
        }
        self.check_indexes();
        self.sessions.check_invariants();
        self.timers.check_invariants(self.wanted_timers());
        self.gate.check_invariants();
        self.held.check_invariants(self.tickets());
        self.retained.check_invariants();
        self.budget
            .check_invariants(self.sessions.iter().map(|(_, session)| &session.account));
        self.late_wills.check_invariants();
        self.receipts.check_invariants();
        self.check_replay_turns();
        self.check_queued_bytes();
    }

    /// Those of connections and sessions.
    fn wanted_timers(&self) -> impl Iterator<Item = (Instant, Timer)> {
        let connections = self.connections.values();
        let sessions = self.sessions.iter().flat_map(|(key, session)| {
            let expiry = session
                .expires_at
                .map(|due| (due, Timer::SessionExpiry(key)));
            let will = session.will.as_ref().and_then(|will| will.due);
            expiry
                .into_iter()
                .chain(will.map(|due| (due, Timer::Will(key))))
        });
        connections
            .filter_map(|connection| connection.timer)
            .chain(sessions)
    }

    /// Of the QoS 2 messages that are held.
    fn tickets(&self) -> impl Iterator<Item = Ticket> {
        let sessions = self.sessions.iter();
        let of_clients = sessions.flat_map(|(_, session)| session.incoming.values());
        of_clients
            .chain(self.remotes.incoming())
            .filter_map(|incoming| match incoming.state {
                IncomingState::Held(ticket) => Some(ticket),
                IncomingState::Received | IncomingState::Partial(_) => None,
            })
    }

    fn check_session(&self, key: SessionKey, session: &Session) {
        session.queue.check_invariants();
        session.filters.check_invariants();
        session
            .replays
            .check_invariants(|filter| session.filters.contains(filter));
        session.in_flight.check_invariants();
        let connection = session.connection.and_then(|id| self.connections.get(&id));
        let aliases = connection
            .and_then(|connection| connection.aliases.as_ref())
            .map_or(0, |aliases| aliases.bytes());
        for (part, weight) in session.weights(aliases) {
            let held = session.account.part(part);
            assert_eq!(held, weight, "{part:?} of {:?}", session.client_id);
        }
        if session.connection.is_some() {
            let back = connection.and_then(|connection| connection.session);
            assert_eq!(back, Some(key), "the connection of a session belongs to it");
        }
    }

    /// Every index agrees with a search.
    fn check_indexes(&self) {
        let sessions = || self.sessions.iter();
        let subscriptions: usize = sessions()
            .map(|(_, session)| session.filters.list().len())
            .sum();
        assert_eq!(self.subscriptions.count(), subscriptions, "subscriptions");
        self.fullest
            .check_invariants(sessions().map(|(key, session)| (key, session.held_bytes())));
        self.away.check_invariants(
            sessions().filter_map(|(key, session)| Some((key, self.absence(session)?))),
        );
    }

    /// Each message counts once, each delivery of it a little.
    fn check_queued_bytes(&self) {
        let in_flight = |session: &Session| {
            session
                .in_flight
                .iter()
                .filter(|entry| !entry.is_released())
                .map(|entry| entry.delivery.clone())
                .collect::<Vec<_>>()
        };
        let held = |session: &Session| {
            session
                .queue
                .iter()
                .cloned()
                .chain(in_flight(session))
                .collect::<Vec<_>>()
        };
        let deliveries = || self.sessions.iter().flat_map(|(_, session)| held(session));
        let messages: HashMap<_, usize> = deliveries()
            .map(|one| (Arc::as_ptr(&one.message), one.message.weight()))
            .collect();
        let bytes = messages.values().sum::<usize>() + OVERHEAD * deliveries().count();
        assert_eq!(
            self.kept.bytes(),
            bytes,
            "bytes of all that waits and is in flight"
        );
    }
}
