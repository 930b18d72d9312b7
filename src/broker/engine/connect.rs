//! CONNECT, from the packet to CONNACK, in the order of the standard [MQTT 5.0, 3.1.4].

use std::num::{NonZeroU16, NonZeroU32};
use std::time::{Duration, Instant};

use bytestring::ByteString;

use super::aliases::Aliases;
use super::budget::{BudgetPart, Owner};
use super::charge::RequestedSession;
use super::connection::Connection;
use super::lifecycle::{Claimed, End, Granted, Peer, ServerProof, Stage};
use super::note::Noted;
use super::refusal::Refusal;
use super::{Client, ConnectionId, Engine, SessionKey, Timer, wills};
use crate::mqtt::{ConnAck, Connect, Packet, Properties, ReasonCode, Version};

/// `Session Expiry Interval` that means "never".
const NEVER: u32 = u32::MAX;

impl Engine {
    /// A socket was accepted: CONNECT must come in time.
    pub(super) fn open(&mut self, id: ConnectionId, peer: Peer, now: Instant) {
        self.connections
            .insert(id, Box::new(Connection::new(peer, now)));
        self.traffic.connections += 1;
        self.set_timer(id, now + self.limits.connect_within, Timer::Connect(id));
    }

    /// CONNECT: it is checked, then its sender proves who it is, then it gets its session.
    pub(super) fn process_connect(&mut self, id: ConnectionId, connect: Connect, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.limit_answers(&connect);
        let certificate = connection.peer.certificate.clone();
        connection.claimed = Some(Box::new(Claimed {
            user: certificate.or_else(|| connect.username.clone()),
            client_id: connect.client_id.clone(),
        }));
        match check_connect(&connect) {
            Ok(()) => self.authenticate(id, connect, now),
            Err(refusal) => self.refuse_connect(id, refusal, now),
        }
    }

    /// The login succeeded: the client gets its session, and CONNACK says so.
    pub(super) fn establish_session(
        &mut self,
        id: ConnectionId,
        connect: &Connect,
        granted: Granted,
        now: Instant,
    ) {
        let requested = self
            .requested_session(id, connect, granted.user)
            .and_then(|requested| self.admit_session(requested, now));
        let requested = match requested {
            Ok(requested) => requested,
            Err(refusal) => return self.refuse_connect(id, refusal, now),
        };
        let recorded = self.records.len();
        let (session, is_present) = self.take_session(&requested, now);
        self.charge_session(session, &requested);
        let assigned = requested.is_assigned.then(|| requested.client_id.clone());
        let client = Client {
            connection: id,
            session,
        };
        self.begin_session(client, connect, requested);
        // CONNACK also promises what the end of an older session changed.
        let after = self.records.since(recorded);
        self.traffic.logins += 1;
        self.bind_connection(client, connect, now);
        let mut properties = self.connack_properties(connect, session, assigned);
        if let Some(proof) = granted.proof {
            self.add_server_proof(id, proof, &mut properties);
        }
        let connack = ConnAck {
            session_present: is_present,
            reason: ReasonCode::SUCCESS,
            properties,
        };
        if self.send(id, &Packet::ConnAck(connack), after) {
            self.note_connected(id, connect, is_present);
            self.resume(session, now);
        } else {
            self.connack_too_large(id, now);
        }
    }

    /// CONNACK ends enhanced authentication with the proof of the server [MQTT-4.12.0-4]; AUTH may
    /// start it again.
    fn add_server_proof(&mut self, id: ConnectionId, proof: ServerProof, to: &mut Properties) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.proved = true;
        }
        let fields = to.edit();
        fields.authentication_method = Some(proof.method);
        fields.authentication_data = Some(proof.data);
    }

    /// Ends a connection whose client takes no packet as large as CONNACK.
    fn connack_too_large(&mut self, id: ConnectionId, now: Instant) {
        let why = "CONNACK exceeds the client's maximum packet size";
        self.note(id, Noted::Dropped, ReasonCode::PACKET_TOO_LARGE, why);
        self.close(id, End::Lost, now);
    }

    /// The session that a CONNECT asks for, if its user may have the client identifier. An empty
    /// one is replaced by one that no rule names [MQTT-3.1.3-6].
    fn requested_session(
        &mut self,
        id: ConnectionId,
        connect: &Connect,
        user: Option<ByteString>,
    ) -> Result<RequestedSession, Refusal> {
        let is_assigned = connect.client_id.is_empty();
        let client_id = if is_assigned {
            self.generate_client_id()
        } else {
            connect.client_id.clone()
        };
        let invalid = |why| Refusal::new(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, why);
        let rights = self.access.rights(user.as_ref(), &client_id);
        let rights = rights.ok_or(invalid(
            "a rule of this user uses %c, so the client identifier must not be empty or contain +, # or /",
        ))?;
        if !is_assigned {
            self.access
                .may_have(user.as_ref(), &client_id)
                .map_err(invalid)?;
        }
        let connection = self.connections.get(&id);
        let owner = connection.map_or(Owner::Unknown, |connection| {
            Owner::of(user.as_ref(), &connection.peer)
        });
        Ok(RequestedSession {
            client_id,
            is_assigned,
            user,
            rights,
            will: connect
                .will
                .as_ref()
                .map(|will| Box::new(wills::pending(will))),
            owner,
            clean_start: connect.clean_start,
        })
    }

    /// Admits a session: there is a place for it, its client identifier is not another user's, and
    /// there is memory for it.
    fn admit_session(
        &mut self,
        requested: RequestedSession,
        now: Instant,
    ) -> Result<RequestedSession, Refusal> {
        let is_known = self.sessions.key_of(&requested.client_id).is_some();
        if !is_known && !self.make_room(&requested.owner, now) {
            return Err(Refusal::new(
                ReasonCode::QUOTA_EXCEEDED,
                "too many sessions",
            ));
        }
        if self.belongs_to_another(&requested.client_id, requested.user.as_ref()) {
            let why = "the client identifier belongs to the session of another user; `wellhead sessions end` ends that session";
            return Err(Refusal::new(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, why));
        }
        self.make_room_in_budget(&requested, now)?;
        Ok(requested)
    }

    /// Gives a session what its CONNECT says, and records it.
    fn begin_session(&mut self, client: Client, connect: &Connect, requested: RequestedSession) {
        let key = client.session;
        if let Some(session) = self.sessions.get_mut(key) {
            debug_assert_eq!(session.connection, None, "it was freed from any other");
            session.connection = Some(client.connection);
            session.outlives = capped(outlives(connect), self.limits.max_session_expiry);
            session.will = requested.will;
            session.user = requested.user;
            session.rights = requested.rights;
            for filter in session.filters.shared() {
                self.subscriptions.connected(filter, key);
            }
        }
        self.record_session(key, None);
        self.record_will(key);
    }

    /// Gives a connection its session, and what CONNECT says about aliases, the window and the keep
    /// alive.
    fn bind_connection(&mut self, client: Client, connect: &Connect, now: Instant) {
        let Client {
            connection: id,
            session,
        } = client;
        let wanted = connect
            .properties
            .topic_alias_maximum
            .unwrap_or(0)
            .min(self.limits.topic_aliases);
        // Without room for them the client gets no aliases, which it cannot notice.
        let has_room = self
            .charge(session, BudgetPart::Aliases, Aliases::allowance(wanted))
            .is_ok();
        let aliases = if has_room { wanted } else { 0 };
        let keep_alive = self.keep_alive(connect);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        debug_assert_eq!(connection.session, None, "a connection has one CONNECT");
        connection.session = Some(session);
        connection.claimed = None;
        connection.stage = Stage::Live;
        connection.apply_connect(connect, self.limits.send_window, aliases);
        // [MQTT-3.1.2-22]
        connection.silence_allowed =
            (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500));
        match connection.silence_allowed {
            Some(allowed) => self.set_timer(id, now + allowed, Timer::KeepAlive(id)),
            None => {
                if let Some((due, timer)) = connection.timer.take() {
                    self.timers.cancel(due, timer);
                }
            }
        }
    }

    /// Seconds; a server's maximum binds MQTT 5 clients only, because CONNACK cannot name it to
    /// others.
    fn keep_alive(&self, connect: &Connect) -> u16 {
        let most = self
            .limits
            .max_keep_alive
            .filter(|_| connect.version == Version::V5);
        let most = most.map_or(0, |most| u16::try_from(most.as_secs()).unwrap_or(u16::MAX));
        match (connect.keep_alive, most) {
            (asked, 0) => asked,
            (0, most) => most,
            (asked, most) => asked.min(most),
        }
    }

    fn connack_properties(
        &self,
        connect: &Connect,
        key: SessionKey,
        assigned: Option<ByteString>,
    ) -> Properties {
        let mut properties = Properties::default();
        if connect.version != Version::V5 {
            return properties;
        }
        let fields = properties.edit();
        fields.receive_maximum = NonZeroU16::new(self.limits.receive_maximum);
        fields.maximum_packet_size = u32::try_from(self.limits.max_packet)
            .ok()
            .and_then(NonZeroU32::new);
        fields.topic_alias_maximum = Some(self.limits.topic_aliases).filter(|maximum| *maximum > 0);
        // [MQTT-3.1.2-21]
        fields.server_keep_alive =
            Some(self.keep_alive(connect)).filter(|seconds| *seconds != connect.keep_alive);
        let outlives = self.sessions.get(key).and_then(|session| session.outlives);
        let asked = connect.properties.session_expiry.unwrap_or(0);
        fields.session_expiry =
            Some(outlives.map_or(NEVER, seconds)).filter(|given| *given != asked);
        if connect.properties.request_response_information == Some(true) {
            // The prefix of topics that are this client's own to answer on.
            let client_id = assigned.as_ref().unwrap_or(&connect.client_id);
            fields.response_information = Some(format!("response/{client_id}/").into());
        }
        fields.assigned_client_id = assigned;
        properties
    }

    /// Logs that a CONNECT is refused, answers it, and ends the connection.
    pub(super) fn refuse_connect(&mut self, id: ConnectionId, refusal: Refusal, now: Instant) {
        self.note(id, Noted::Refused, refusal.reason, refusal.why);
        self.answer_connect(id, refusal, now);
    }

    /// Answers CONNECT with an error, and ends the connection [MQTT-3.2.2-7].
    pub(super) fn answer_connect(&mut self, id: ConnectionId, refusal: Refusal, now: Instant) {
        let mut properties = Properties::default();
        properties.edit().reason_string = Some(ByteString::from_static(refusal.why));
        let connack = ConnAck {
            session_present: false,
            reason: refusal.reason,
            properties,
        };
        self.send(id, &Packet::ConnAck(connack), 0);
        self.close(id, End::Lost, now);
    }

    fn generate_client_id(&mut self) -> ByteString {
        loop {
            let id = ByteString::from(format!("auto-{}", self.unpredictable()));
            if self.sessions.key_of(&id).is_none() {
                return id;
            }
        }
    }
}

/// The rules of a CONNECT that its decoder does not check.
fn check_connect(connect: &Connect) -> Result<(), Refusal> {
    let nameless_but_kept = connect.version == Version::V31
        || (connect.version == Version::V311 && !connect.clean_start);
    if connect.client_id.is_empty() && nameless_but_kept {
        let why = "a persistent session needs a client identifier";
        return Err(Refusal::new(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, why)); // [MQTT-3.1.3-8]
    }
    let Some(will) = &connect.will else {
        return Ok(());
    };
    if will.topic.is_too_deep() {
        let why = "the topic of a will may have at most 201 levels";
        return Err(Refusal::new(ReasonCode::TOPIC_NAME_INVALID, why));
    }
    if will.topic.as_str().starts_with("$CONTROL") {
        let why = "a will must not be published to $CONTROL";
        return Err(Refusal::new(ReasonCode::TOPIC_NAME_INVALID, why));
    }
    Ok(())
}

/// How long the session of a CONNECT outlives its connection; `None` is for ever.
fn outlives(connect: &Connect) -> Option<Duration> {
    match (connect.version, connect.clean_start) {
        (Version::V5, _) => expiry(connect.properties.session_expiry.unwrap_or(0)),
        (_, true) => Some(Duration::ZERO),
        (_, false) => None,
    }
}

/// A Session Expiry Interval; `None` is for ever.
pub(super) fn expiry(seconds: u32) -> Option<Duration> {
    (seconds != NEVER).then(|| Duration::from_secs(u64::from(seconds)))
}

/// The shorter one; `None` is for ever.
pub(super) fn capped(asked: Option<Duration>, most: Option<Duration>) -> Option<Duration> {
    match (asked, most) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, most) => asked.or(most),
    }
}

fn seconds(span: Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(NEVER - 1)
}
