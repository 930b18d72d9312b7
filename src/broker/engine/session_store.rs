//! The sessions, by key and by client identifier.
//!
//! Invariant: a client identifier names the newest session that was opened for it, and none that is
//! removed. Numbers of sessions are never used again.

use std::collections::HashMap;

use bytestring::ByteString;
use slab::Slab;

use super::SessionKey;
use super::budget::Account;
use super::session::Session;

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct SessionStore {
    sessions: Slab<Session>,
    by_client: HashMap<ByteString, SessionKey>,
    last_number: u64,
}

impl SessionStore {
    pub(super) fn get(&self, key: SessionKey) -> Option<&Session> {
        self.sessions.get(key)
    }

    pub(super) fn get_mut(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.sessions.get_mut(key)
    }

    pub(super) fn contains(&self, key: SessionKey) -> bool {
        self.sessions.contains(key)
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn iter(&self) -> slab::Iter<'_, Session> {
        self.sessions.iter()
    }

    pub(super) fn iter_mut(&mut self) -> slab::IterMut<'_, Session> {
        self.sessions.iter_mut()
    }

    /// The session of a client identifier.
    pub(super) fn key_of(&self, client_id: &str) -> Option<SessionKey> {
        self.by_client.get(client_id).copied()
    }

    /// The session of a client identifier.
    pub(super) fn of_client(&self, client_id: &str) -> Option<&Session> {
        self.sessions.get(self.key_of(client_id)?)
    }

    /// A new session, which gets the next number.
    pub(super) fn open(&mut self, client_id: &ByteString, account: Account) -> SessionKey {
        self.restore(client_id, self.last_number + 1, account)
    }

    /// The session with a number that was drawn before. It takes the place of an older one of its
    /// client identifier.
    pub(super) fn restore(
        &mut self,
        client_id: &ByteString,
        number: u64,
        account: Account,
    ) -> SessionKey {
        self.know_number(number);
        let session = Session::new(client_id, number, account);
        let client_id = session.client_id.clone();
        let key = self.sessions.insert(session);
        self.by_client.insert(client_id, key);
        key
    }

    /// New numbers are above this one.
    pub(super) fn know_number(&mut self, number: u64) {
        self.last_number = self.last_number.max(number);
    }

    pub(super) fn remove(&mut self, key: SessionKey) -> Option<Session> {
        let session = self.sessions.try_remove(key)?;
        if self.key_of(&session.client_id) == Some(key) {
            self.by_client.remove(&session.client_id);
        }
        Some(session)
    }

    /// Panics unless every session, and nothing else, is found by its client identifier. For
    /// tests.
    pub(super) fn check_invariants(&self) {
        for (key, session) in &self.sessions {
            let found = self.key_of(&session.client_id);
            assert_eq!(found, Some(key), "sessions by client identifier");
            assert!(
                session.number <= self.last_number,
                "numbers that were drawn"
            );
        }
        assert_eq!(
            self.by_client.len(),
            self.sessions.len(),
            "client identifiers of sessions"
        );
    }
}
