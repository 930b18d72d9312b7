//! The life of a session: taken up by a CONNECT, kept while its client is away, ended by its
//! expiry, by a command, or to make room.

use std::time::Instant;

use bytestring::ByteString;

use super::away::LONG_AWAY;
use super::budget::Owner;
use super::charge::RequestedSession;
use super::lifecycle::End;
use super::note::{ClientNote, Noted};
use super::record::{Deadline, Record};
use super::refusal::Refusal;
use super::session::{Incoming, IncomingState};
use super::{Engine, Lsn, Output, SessionKey, Timer};
use crate::mqtt::ReasonCode;

impl Engine {
    /// The session of a client, freed from any other connection [MQTT-3.1.4-3]; true if it existed
    /// and is kept. A named user does not get what a client without a name has left.
    pub(super) fn take_session(
        &mut self,
        requested: &RequestedSession,
        now: Instant,
    ) -> (SessionKey, bool) {
        let known = self.sessions.key_of(&requested.client_id);
        if let Some(key) = known
            && self.take_over(key, requested, now)
        {
            return (key, true);
        }
        // A session that ends with its connection is gone now; otherwise there was none.
        let account = self.budget.open(Owner::restored(requested.user.as_ref()));
        (self.sessions.open(&requested.client_id, account), false)
    }

    /// Ends the other connection of a session, and the session too if it is not wanted
    /// [MQTT-3.1.2-4]. True if it is kept.
    fn take_over(&mut self, key: SessionKey, requested: &RequestedSession, now: Instant) -> bool {
        let session = self.sessions.get(key);
        let is_foreign = session.is_some_and(|session| session.user != requested.user);
        let is_discarded = requested.clean_start || is_foreign;
        if let Some(other) = self.connection_of(key) {
            let why = "another connection took over the client identifier";
            self.send_disconnect(other, Refusal::new(ReasonCode::SESSION_TAKEN_OVER, why));
            let end = if is_discarded {
                End::Lost
            } else {
                End::TakenOver
            };
            self.close(other, end, now);
        }
        if is_discarded {
            self.remove_session(key, now);
            return false;
        }
        if !self.sessions.contains(key) {
            return false;
        }
        self.forget_will(key); // [MQTT-3.1.3-9]
        if let Some(session) = self.sessions.get_mut(key) {
            session.away_since = None;
            if let Some(due) = session.expires_at.take() {
                self.timers.cancel(due, Timer::SessionExpiry(key));
            }
        }
        self.note_absence(key);
        true
    }

    /// A session belongs to its user; one of a client without a name belongs to the next one that
    /// comes, and one whose client identifier is reserved for others by a rule belongs to those.
    pub(super) fn belongs_to_another(
        &self,
        client_id: &ByteString,
        user: Option<&ByteString>,
    ) -> bool {
        let owner = self
            .sessions
            .of_client(client_id)
            .and_then(|session| session.user.as_ref());
        let is_squatted =
            || self.access.owns(user, client_id) && !self.access.owns(owner, client_id);
        owner.is_some_and(|owner| Some(owner) != user) && !is_squatted()
    }

    /// Room for one more session: the one whose client has been away for longest goes, if that is
    /// long, or if one other user (or address) has more than half of all sessions and this is one
    /// of them. False if there is none.
    pub(super) fn make_room(&mut self, owner: &Owner, now: Instant) -> bool {
        if self.sessions.len() < self.limits.max_sessions {
            return true;
        }
        let long_away = self
            .away
            .longest(None)
            .filter(|(since, _)| now.saturating_duration_since(*since) >= LONG_AWAY);
        let crowd = self.budget.crowd().filter(|crowd| *crowd != owner);
        let Some((_, key)) = long_away.or_else(|| self.away.longest(Some(crowd?))) else {
            return false;
        };
        self.traffic.evicted_sessions += 1;
        self.remove_session(key, now);
        true
    }

    /// Records a session if it must survive the broker; takes it out of the records if it must not
    /// any more. Returns the batch that says so.
    pub(super) fn record_session(&mut self, key: SessionKey, ends: Option<Instant>) -> Lsn {
        let clock = self.records.clock();
        let Some(session) = self.sessions.get_mut(key) else {
            return 0;
        };
        let was_recorded = session.is_recorded;
        session.is_recorded =
            self.records.is_on() && (session.is_persistent() || session.will.is_some());
        if session.is_recorded {
            let record = session.record(ends.map(|at| Deadline::of(at, clock)));
            self.records.put(Record::Session(&record))
        } else if was_recorded {
            let session = session.number;
            self.records.put(Record::Gone { session })
        } else {
            0
        }
    }

    /// Ends the session of a client identifier for good, and its connection. False if there is
    /// none.
    pub fn end_session(&mut self, client_id: &str, now: Instant) -> bool {
        let Some(key) = self.sessions.key_of(client_id) else {
            return false;
        };
        let session = self.sessions.get(key);
        let user = session.and_then(|session| session.user.clone());
        if let Some(id) = self.connection_of(key) {
            let why = "the session was ended by command";
            let refusal = Refusal::new(ReasonCode::ADMINISTRATIVE_ACTION, why);
            self.refuse_because(id, refusal, now);
        }
        // Many end with their connections.
        if self.sessions.key_of(client_id) == Some(key) {
            self.remove_session(key, now);
        }
        debug_assert!(self.sessions.key_of(client_id).is_none());
        let note = ClientNote {
            what: Noted::SessionEnded,
            address: None,
            user,
            client_id: Some(client_id.into()),
            topic: None,
            reason: None,
            why: "by command",
            terms: None,
        };
        self.outputs.push(Output::Note(Box::new(note)));
        true
    }

    /// A session without a connection ends at this moment.
    pub(super) fn expire_at(&mut self, key: SessionKey, at: Instant) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.expires_at = Some(at);
            self.timers.set(at, Timer::SessionExpiry(key));
            self.record_session(key, Some(at));
        }
    }

    pub(super) fn session_expires(&mut self, key: SessionKey, due: Instant, now: Instant) {
        let session = self.sessions.get(key);
        if session.is_some_and(|session| session.expires_at == Some(due)) {
            self.traffic.expired_sessions += 1;
            self.remove_session(key, now);
        }
    }

    /// The session ends; a will that still waits is published [MQTT-3.1.3-9].
    pub(super) fn remove_session(&mut self, key: SessionKey, now: Instant) {
        self.publish_will(key, now);
        let Some(mut session) = self.sessions.remove(key) else {
            return;
        };
        self.fullest.forget(key);
        self.away.note(key, None);
        if let Some(due) = session.expires_at {
            self.timers.cancel(due, Timer::SessionExpiry(key));
        }
        for (filter, _) in session.filters.list() {
            self.subscriptions.remove(filter, key);
        }
        if session.is_recorded {
            let session = session.number;
            self.records.put(Record::Gone { session });
        }
        let newest = self.records.newest();
        let partial = |incoming: &&Incoming| matches!(incoming.state, IncomingState::Partial(_));
        for incoming in session.incoming.values().filter(partial) {
            self.receipts.end(incoming.receipt, newest);
        }
        self.redistribute(&mut session, now);
        self.budget.close(session.account);
    }
}
