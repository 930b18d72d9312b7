//! Lines for the log: what happens to clients ([`ClientNote`]), and to their messages ([`Notice`]).

use std::time::Instant;

use bytestring::ByteString;

use super::note::{ClientNote, Noted, Terms};
use super::notice::{Notice, NoticeKind};
use super::refusal::Refusal;
use super::session::Session;
use super::{ConnectionId, Engine, Output, SessionKey};
use crate::log::Source;
use crate::mqtt::{Connect, ReasonCode, TopicName};

impl Engine {
    /// Logs something about the client of a connection.
    pub(super) fn note(
        &mut self,
        id: ConnectionId,
        what: Noted,
        reason: ReasonCode,
        why: &'static str,
    ) {
        self.note_topic(id, what, None, Refusal::new(reason, why));
    }

    /// Logs that a client has its session.
    pub(super) fn note_connected(&mut self, id: ConnectionId, connect: &Connect, is_resumed: bool) {
        self.note(id, Noted::Connected, ReasonCode::SUCCESS, "");
        let session = self
            .connections
            .get(&id)
            .and_then(|connection| connection.session)
            .and_then(|key| self.sessions.get(key));
        let outlives_s = session
            .and_then(|session| session.outlives)
            .map(|outlives| outlives.as_secs());
        let terms = Terms {
            version: connect.version,
            keep_alive: connect.keep_alive,
            is_resumed,
            outlives_s,
        };
        if let Some(Output::Note(note)) = self.outputs.last_mut() {
            note.terms = Some(terms);
        }
    }

    /// The same, about a topic or filter.
    pub(super) fn note_topic(
        &mut self,
        id: ConnectionId,
        what: Noted,
        topic: Option<ByteString>,
        refusal: Refusal,
    ) {
        let Refusal { reason, why } = refusal;
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let session = connection.session.and_then(|key| self.sessions.get(key));
        let (user, client_id) = match (session, &connection.claimed) {
            (Some(session), _) => (session.user.clone(), Some(session.client_id.clone())),
            (None, Some(claimed)) => (claimed.user.clone(), Some(claimed.client_id.clone())),
            (None, None) => (None, None),
        };
        let why = if why == reason.name() { "" } else { why };
        let reason = Some(reason).filter(|reason| *reason != ReasonCode::SUCCESS);
        let note = ClientNote {
            what,
            address: connection.peer.address,
            user,
            client_id,
            topic,
            reason,
            why,
            terms: None,
        };
        self.outputs.push(Output::Note(Box::new(note)));
    }
}

impl Engine {
    /// Logs what happened to a message, or to an acknowledgement, of a client.
    pub(super) fn notice(
        &mut self,
        kind: NoticeKind,
        key: Option<SessionKey>,
        topic: Option<&TopicName>,
        why: &'static str,
        now: Instant,
    ) {
        let session = key.and_then(|key| self.sessions.get(key));
        let source = session.map_or(Source::Absent, |session| self.source(session));
        let Some(left_out) = self.notices.admit(kind, source, now) else {
            return;
        };
        let connection = session
            .and_then(|session| session.connection)
            .and_then(|id| self.connections.get(&id));
        let notice = Notice {
            kind,
            client_id: session.map(|session| session.client_id.clone()),
            user: session.and_then(|session| session.user.clone()),
            address: connection.and_then(|connection| connection.peer.address),
            topic: topic.map(TopicName::detached),
            why,
            left_out,
        };
        self.outputs.push(Output::Notice(Box::new(notice)));
    }

    /// Logs how many notices were left out where no other one followed them. To be called now and
    /// then.
    pub fn settle_notices(&mut self, now: Instant) {
        for (kind, count) in self.notices.overdue(now) {
            self.outputs.push(Output::LeftOut {
                event: kind.event(),
                count,
            });
        }
    }

    /// The network that causes the lines about a session.
    pub(super) fn source(&self, session: &Session) -> Source {
        let connection = session.connection.and_then(|id| self.connections.get(&id));
        connection.map_or(Source::Absent, |connection| {
            Source::of(connection.peer.address)
        })
    }
}
