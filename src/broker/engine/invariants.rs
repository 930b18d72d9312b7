//! What must hold between two inputs, whatever came: every total is what the things it counts say. Tests call it after each step.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Engine;
use super::session::OVERHEAD;

impl Engine {
    /// Panics if a total is not what the things it counts say, or if a link between sessions and connections has one end only.
    pub fn check_invariants(&self) {
        for (key, session) in &self.sessions {
            session.queue.check_invariants();
            session.in_flight.check_invariants();
            if let Some(id) = session.connection {
                let back = self.connections.get(&id).and_then(|connection| connection.session);
                assert_eq!(back, Some(key), "the connection of a session belongs to it");
            }
        }
        for (id, connection) in &self.connections {
            connection.check_invariants();
            let back = connection.session.and_then(|key| self.sessions.get(key)).and_then(|session| session.connection);
            assert!(connection.session.is_none() || back == Some(*id), "the session of a connection has it");
        }
        let clients = self.sessions.iter().filter(|(key, session)| self.by_client.get(&session.client_id) == Some(key)).count();
        assert_eq!((clients, self.by_client.len()), (self.sessions.len(), self.sessions.len()), "sessions by client identifier");
        let subscriptions: usize = self.sessions.iter().map(|(_, session)| session.subscriptions().len()).sum();
        assert_eq!(self.subscriptions.count(), subscriptions, "subscriptions");
        self.fullest.check_invariants(self.sessions.iter().map(|(key, session)| (key, session.queue.held_bytes())));
        self.retained.check_invariants();
        self.check_queued_bytes();
    }

    /// Each message counts once, each delivery of it a little.
    fn check_queued_bytes(&self) {
        let deliveries = || self.sessions.iter().flat_map(|(_, session)| session.queue.iter());
        let messages: HashMap<_, usize> = deliveries().map(|one| (Arc::as_ptr(&one.message), one.message.weight())).collect();
        let bytes = messages.values().sum::<usize>() + OVERHEAD * deliveries().count();
        assert_eq!(self.queued_bytes.load(Ordering::Relaxed), bytes, "bytes of all queues");
    }
}
