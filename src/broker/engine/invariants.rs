//! What must hold between two inputs, whatever came: every total is what the things it counts say. Tests call it after each step.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Engine;
use super::session::{OVERHEAD, Session};

impl Engine {
    /// Panics if a total is not what the things it counts say, or if a link between sessions and connections has one end only.
    pub fn check_invariants(&self) {
        for (key, session) in &self.sessions {
            session.queue.check_invariants();
            session.filters.check_invariants();
            session
                .replays
                .check_invariants(|filter| session.filters.contains(filter));
            let aliases = session
                .connection
                .and_then(|id| self.connections.get(&id)?.aliases.as_ref())
                .map_or(0, |aliases| aliases.bytes());
            for (part, weight) in session.weights(aliases) {
                assert_eq!(
                    session.account.part(part),
                    weight,
                    "{part:?} of {:?}",
                    session.client_id
                );
            }
            session.in_flight.check_invariants();
            if let Some(id) = session.connection {
                let back = self
                    .connections
                    .get(&id)
                    .and_then(|connection| connection.session);
                assert_eq!(back, Some(key), "the connection of a session belongs to it");
            }
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
        let clients = self
            .sessions
            .iter()
            .filter(|(key, session)| self.by_client.get(&session.client_id) == Some(key))
            .count();
        assert_eq!(
            (clients, self.by_client.len()),
            (self.sessions.len(), self.sessions.len()),
            "sessions by client identifier"
        );
        let subscriptions: usize = self
            .sessions
            .iter()
            .map(|(_, session)| session.filters.list().len())
            .sum();
        assert_eq!(self.subscriptions.count(), subscriptions, "subscriptions");
        self.fullest.check_invariants(
            self.sessions
                .iter()
                .map(|(key, session)| (key, session.held_bytes())),
        );
        self.retained.check_invariants();
        self.budget
            .check_invariants(self.sessions.iter().map(|(_, session)| &session.account));
        self.late_wills.check_invariants();
        self.away.check_invariants(
            self.sessions
                .iter()
                .filter_map(|(key, session)| Some((key, self.absence(session)?))),
        );
        self.check_replay_turns();
        self.check_queued_bytes();
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
            self.queued_bytes.load(Ordering::Relaxed),
            bytes,
            "bytes of all that waits and is in flight"
        );
    }
}
