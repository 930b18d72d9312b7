//! The life of a connection: CONNECT, takeover, keep alive, ends; and what an end does to its session.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::{Duration, Instant};

use bytestring::ByteString;

use super::aliases::Aliases;
use super::budget::{Owner, Part};
use super::charge::Wanted;
use super::connection::{Connection, Peer};
use super::login::{Granted, Stage};
use super::note::{Note, Noted};
use super::record::{Deadline, Record, SessionRecord};
use super::session::Session;
use super::{ConnectionId, Engine, OutputBuffer, Position, SessionKey, Timer, wills};
use crate::mqtt::{ConnAck, Connect, Disconnect, Packet, Properties, ReasonCode, Version};

/// `Session Expiry Interval` that means "never".
const NEVER: u32 = u32::MAX;

/// Absence after which a session may have to make room for another one.
pub(super) const LONG_AWAY: Duration = Duration::from_secs(3600);

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By DISCONNECT: the will is dropped [MQTT-3.14.4-3].
    Orderly,
    /// In any other way: the will is published.
    Lost,
    /// A new connection of the same client takes the session: a delayed will is dropped, another is published.
    TakenOver,
}

impl Engine {
    pub(super) fn open(&mut self, id: ConnectionId, peer: Peer, now: Instant) {
        self.connections
            .insert(id, Box::new(Connection::new(peer, now)));
        self.traffic.connections += 1;
        self.set_timer(id, now + self.limits.connect_within, Timer::Connect(id));
    }

    /// The one timer of a connection; an earlier one is taken back.
    fn set_timer(&mut self, id: ConnectionId, due: Instant, timer: Timer) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if let Some(old) = connection.timer.replace((due, timer)) {
            self.timers.remove(&old);
        }
        self.timers.insert((due, timer));
    }

    pub(super) fn connect_timeout(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self
            .connections
            .get(&id)
            .filter(|connection| connection.session.is_none())
        else {
            return;
        };
        if matches!(connection.stage, Stage::Verifying(_)) {
            self.refuse_connect(
                id,
                ReasonCode::SERVER_BUSY,
                "too many logins at a time",
                now,
            );
        } else {
            self.note(
                id,
                Noted::Refused,
                ReasonCode::UNSPECIFIED,
                "no login within `broker.connect_within`",
            );
            self.close(id, End::Lost, now);
        }
    }

    /// The socket is gone.
    pub(super) fn lost(&mut self, id: ConnectionId, now: Instant) {
        if self
            .connections
            .get(&id)
            .is_some_and(|connection| connection.session.is_some())
        {
            self.note(
                id,
                Noted::Disconnected,
                ReasonCode::SUCCESS,
                "connection lost without DISCONNECT",
            );
        }
        self.end(id, End::Lost, now);
    }

    /// The login is done: the client gets its session.
    pub(super) fn enter(
        &mut self,
        id: ConnectionId,
        connect: &Connect,
        granted: Granted,
        now: Instant,
    ) {
        let is_generated = connect.client_id.is_empty();
        let client_id = if is_generated {
            self.generate_client_id()
        } else {
            connect.client_id.clone()
        };
        let Some(rights) = self.access.rights(granted.user.as_ref(), &client_id) else {
            let why = "a rule of this user uses %c, so the client identifier must not be empty or contain +, # or /";
            self.refuse_connect(id, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, why, now);
            return;
        };
        // One that was made up here fits no rule.
        if !is_generated && let Err(why) = self.access.may_have(granted.user.as_ref(), &client_id) {
            self.refuse_connect(id, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, why, now);
            return;
        }
        let owner = self
            .connections
            .get(&id)
            .map_or(Owner::Unknown, |connection| {
                Owner::of(granted.user.as_ref(), &connection.peer)
            });
        if !self.by_client.contains_key(&client_id) && !self.make_room(&owner, now) {
            self.refuse_connect(id, ReasonCode::QUOTA_EXCEEDED, "too many sessions", now);
            return;
        }
        if self.belongs_to_another(&client_id, granted.user.as_ref()) {
            let why = "the client identifier belongs to the session of another user; `wellhead sessions end` ends that session";
            self.refuse_connect(id, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, why, now);
            return;
        }
        let will = connect
            .will
            .as_ref()
            .map(|will| Box::new(wills::pending(will)));
        let wanted = Wanted {
            client_id: &client_id,
            user: granted.user.as_ref(),
            rights: &rights,
            will: will.as_deref(),
            owner: &owner,
            begins_anew: connect.clean_start,
        };
        if let Err(over) = self.make_room_in_budget(&wanted, now) {
            self.refuse_connect(id, ReasonCode::QUOTA_EXCEEDED, over.why(), now);
            return;
        }
        let recorded = self.records.len();
        let (key, is_present) = self.take_session(&client_id, connect.clean_start, &granted, now);
        self.charge_session(key, &wanted);
        if let Some(session) = self.sessions.get_mut(key) {
            session.connection = Some(id);
            session.outlives = capped(outlives(connect), self.limits.max_session_expiry);
            session.will = will;
            session.user = granted.user;
            session.rights = rights;
            for (filter, _) in session
                .filters
                .list()
                .iter()
                .filter(|(filter, _)| filter.is_shared())
            {
                self.subscriptions.connected(filter, key);
            }
        }
        self.record_session(key, None);
        self.record_will(key);
        // What the end of an older session did is part of the answer.
        let after = if self.records.len() > recorded {
            self.records.next_position()
        } else {
            0
        };
        self.traffic.logins += 1;
        self.attach(id, key, connect, granted.proof.is_some(), now);
        let mut properties =
            self.connack_properties(connect, key, is_generated.then_some(client_id));
        if let Some((method, data)) = granted.proof {
            let fields = properties.edit();
            fields.authentication_method = Some(method);
            fields.authentication_data = Some(data);
        }
        let connack = ConnAck {
            session_present: is_present,
            reason: ReasonCode::SUCCESS,
            properties,
        };
        if self.send(id, &Packet::ConnAck(connack), after) {
            self.note_connected(id, connect, is_present);
            self.resume(key, now);
        } else {
            self.note(
                id,
                Noted::Dropped,
                ReasonCode::PACKET_TOO_LARGE,
                "CONNACK exceeds the client's maximum packet size",
            );
            self.close(id, End::Lost, now);
        }
    }

    fn attach(
        &mut self,
        id: ConnectionId,
        key: SessionKey,
        connect: &Connect,
        proved: bool,
        now: Instant,
    ) {
        let wanted = connect
            .properties
            .topic_alias_maximum
            .unwrap_or(0)
            .min(self.limits.topic_aliases);
        // Without room for them the client gets no aliases, which it cannot notice.
        let has_room = self
            .charge(key, Part::Aliases, Aliases::allowance(wanted))
            .is_ok();
        let (maximum, aliases) = (
            self.limits.receive_maximum,
            if has_room { wanted } else { 0 },
        );
        let keep_alive = self.keep_alive(connect);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.session = Some(key);
        connection.claimed = None;
        connection.stage = Stage::Live;
        connection.proved = proved;
        connection.adopt(connect, maximum, aliases);
        connection.silence_allowed =
            (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500));
        match connection.silence_allowed {
            Some(allowed) => self.set_timer(id, now + allowed, Timer::KeepAlive(id)),
            None => {
                let timer = connection.timer.take();
                timer.map(|timer| self.timers.remove(&timer));
            }
        }
    }

    /// Seconds; a server's maximum binds MQTT 5 clients only, because others cannot be told.
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

    /// A session belongs to its user; one of somebody without a name belongs to whoever comes, and one whose client identifier is
    /// reserved for others by a rule belongs to those.
    fn belongs_to_another(&self, client_id: &ByteString, user: Option<&ByteString>) -> bool {
        let owner = self
            .by_client
            .get(client_id)
            .and_then(|key| self.sessions.get(*key))
            .and_then(|session| session.user.as_ref());
        let is_squatted =
            || self.access.owns(user, client_id) && !self.access.owns(owner, client_id);
        owner.is_some_and(|owner| Some(owner) != user) && !is_squatted()
    }

    /// Ends the session of a client identifier for good, and its connection. False if there is none.
    pub fn end_session(&mut self, client_id: &str, now: Instant) -> bool {
        let Some(key) = self.by_client.get(client_id).copied() else {
            return false;
        };
        let user = self
            .sessions
            .get(key)
            .and_then(|session| session.user.clone());
        if let Some(id) = self.connection_of(key) {
            self.refuse_because(
                id,
                ReasonCode::ADMINISTRATIVE_ACTION,
                "the session was ended by command",
                now,
            );
        }
        // Many end with their connections.
        if self.by_client.get(client_id) == Some(&key) {
            self.remove_session(key, now);
        }
        debug_assert!(!self.by_client.contains_key(client_id));
        let (what, why) = (Noted::SessionEnded, "by command");
        let note = Note {
            what,
            address: None,
            user,
            client_id: Some(client_id.into()),
            topic: None,
            reason: None,
            why,
            terms: None,
        };
        self.outputs.push(super::Output::Note(Box::new(note)));
        true
    }

    /// Room for one more session: the one whose client has been away for longest goes, if that is long, or if one other user (or
    /// address) has more than half of all sessions and this is one of them. False if there is none.
    fn make_room(&mut self, owner: &Owner, now: Instant) -> bool {
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

    pub(super) fn refuse_connect(
        &mut self,
        id: ConnectionId,
        reason: ReasonCode,
        why: &'static str,
        now: Instant,
    ) {
        self.note(id, Noted::Refused, reason, why);
        self.answer_connect(id, reason, why, now);
    }

    /// Answers CONNECT with an error, and ends the connection.
    pub(super) fn answer_connect(
        &mut self,
        id: ConnectionId,
        reason: ReasonCode,
        why: &'static str,
        now: Instant,
    ) {
        let mut properties = Properties::default();
        properties.edit().reason_string = Some(ByteString::from_static(why));
        self.send(
            id,
            &Packet::ConnAck(ConnAck {
                session_present: false,
                reason,
                properties,
            }),
            0,
        );
        self.close(id, End::Lost, now);
    }

    fn generate_client_id(&mut self) -> ByteString {
        loop {
            let id = ByteString::from(format!("auto-{}", self.unpredictable()));
            if !self.by_client.contains_key(&id) {
                return id;
            }
        }
    }

    /// The session of a client, freed from any other connection [MQTT-3.1.4-3]; true if it existed and is kept. A named user does not
    /// get what somebody without a name has left.
    fn take_session(
        &mut self,
        client_id: &ByteString,
        clean_start: bool,
        granted: &Granted,
        now: Instant,
    ) -> (SessionKey, bool) {
        if let Some(key) = self.by_client.get(client_id).copied() {
            let is_foreign = self
                .sessions
                .get(key)
                .is_some_and(|session| session.user != granted.user);
            let begins_anew = clean_start || is_foreign;
            if let Some(other) = self.connection_of(key) {
                self.say_goodbye(
                    other,
                    ReasonCode::SESSION_TAKEN_OVER,
                    "another connection took over the client identifier",
                );
                let end = if begins_anew {
                    End::Lost
                } else {
                    End::TakenOver
                };
                self.close(other, end, now);
            }
            if begins_anew {
                self.remove_session(key, now);
            } else if self.sessions.contains(key) {
                self.forget_will(key); // [MQTT-3.1.3-9]
                if let Some(session) = self.sessions.get_mut(key) {
                    session.away_since = None;
                    let expiry = session.expires_at.take();
                    expiry.map(|due| self.timers.remove(&(due, Timer::SessionExpiry(key))));
                }
                self.note_absence(key);
                return (key, true);
            }
        }
        // A session that ends with its connection is gone now; otherwise it was never there.
        self.next_session += 1;
        let account = self.budget.open(Owner::restored(granted.user.as_ref()));
        let session = Session::new(client_id, self.next_session, account);
        let client_id = session.client_id.clone();
        let key = self.sessions.insert(session);
        self.by_client.insert(client_id, key);
        (key, false)
    }

    /// Puts what is to be known of a session into the records, if it must survive; takes it out if it must not any more. Returns the
    /// batch that says so.
    pub(super) fn record_session(&mut self, key: SessionKey, ends: Option<Instant>) -> Position {
        let clock = self.clock;
        let Some(session) = self.sessions.get_mut(key) else {
            return 0;
        };
        let was_recorded = session.is_recorded;
        session.is_recorded =
            self.records.is_on() && (session.is_persistent() || session.will.is_some());
        if session.is_recorded {
            let record = SessionRecord {
                number: session.number,
                client_id: session.client_id.clone(),
                user: session.user.clone(),
                outlives_ms: session
                    .outlives
                    .map(|outlives| u64::try_from(outlives.as_millis()).unwrap_or(u64::MAX)),
                ends: ends.map(|at| Deadline::of(at, clock)),
                last_number: session.last_number,
            };
            self.records.put(&Record::Session(&record), clock)
        } else if was_recorded {
            self.records.put(
                &Record::Gone {
                    session: session.number,
                },
                clock,
            )
        } else {
            0
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

    pub(super) fn check_keep_alive(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let Some(allowed) = connection.silence_allowed else {
            return;
        };
        // Who is not read cannot be heard.
        let due = if connection.is_paused {
            now + allowed
        } else {
            connection.last_heard + allowed
        };
        if due <= now {
            self.refuse(id, ReasonCode::KEEP_ALIVE_TIMEOUT, now);
        } else {
            self.set_timer(id, due, Timer::KeepAlive(id));
        }
    }

    pub(super) fn disconnect(
        &mut self,
        id: ConnectionId,
        key: SessionKey,
        packet: &Disconnect,
        now: Instant,
    ) {
        if let (Some(seconds), Some(session)) =
            (packet.properties.session_expiry, self.sessions.get_mut(key))
        {
            if session.outlives == Some(Duration::ZERO) && seconds > 0 {
                self.refuse_because(
                    id,
                    ReasonCode::PROTOCOL_ERROR,
                    "a session expiry of 0 cannot be raised",
                    now,
                ); // [MQTT-3.14.2-2]
                return;
            }
            session.outlives = capped(expiry(seconds), self.limits.max_session_expiry);
        }
        self.note(id, Noted::Disconnected, packet.reason, "by the client");
        let end = if packet.reason == ReasonCode::SUCCESS {
            End::Orderly
        } else {
            End::Lost
        };
        self.close(id, end, now);
    }

    /// Ends a connection from this side; what was written to it and waits for nothing still goes out.
    pub(super) fn close(&mut self, id: ConnectionId, end: End, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let mut rest = OutputBuffer::default();
        rest.append(connection.out.take_ready());
        self.outputs.push(super::Output::Close(id, rest));
        self.end(id, end, now);
    }

    /// The connection is gone, or as good as gone.
    pub(super) fn end(&mut self, id: ConnectionId, end: End, now: Instant) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        connection.timer.map(|timer| self.timers.remove(&timer));
        let Some(key) = connection.session else {
            return;
        };
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.connection = None;
        session.away_since = Some(now);
        let lost = session.queue.forget_qos_0();
        let outlives = session.outlives;
        self.set_replay_back(key, &lost);
        self.refund(key, Part::Aliases, 0);
        self.note_absence(key);
        self.settle_will(key, end, now);
        match outlives {
            Some(Duration::ZERO) => self.remove_session(key, now),
            Some(time) => self.expire_at(key, now + time),
            None => drop(self.record_session(key, None)),
        }
    }

    pub(super) fn expire_at(&mut self, key: SessionKey, at: Instant) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.expires_at = Some(at);
            self.timers.insert((at, Timer::SessionExpiry(key)));
            self.record_session(key, Some(at));
        }
    }

    pub(super) fn session_expires(&mut self, key: SessionKey, due: Instant, now: Instant) {
        if self
            .sessions
            .get(key)
            .is_some_and(|session| session.expires_at == Some(due))
        {
            self.traffic.expired_sessions += 1;
            self.remove_session(key, now);
        }
    }

    /// The session ends; a will that still waits is published [MQTT-3.1.3-9].
    pub(super) fn remove_session(&mut self, key: SessionKey, now: Instant) {
        self.publish_will(key, now);
        let Some(mut session) = self.sessions.try_remove(key) else {
            return;
        };
        self.fullest.forget(key);
        self.away.note(key, None);
        session
            .expires_at
            .map(|due| self.timers.remove(&(due, Timer::SessionExpiry(key))));
        self.by_client.remove(&session.client_id);
        for (filter, _) in session.filters.list() {
            self.subscriptions.remove(filter, key);
        }
        if session.is_recorded {
            self.records.put(
                &Record::Gone {
                    session: session.number,
                },
                self.clock,
            );
        }
        self.hand_on(&mut session, now);
        self.budget.close(session.account);
    }
}

fn outlives(connect: &Connect) -> Option<Duration> {
    match (connect.version, connect.clean_start) {
        (Version::V5, _) => expiry(connect.properties.session_expiry.unwrap_or(0)),
        (_, true) => Some(Duration::ZERO),
        (_, false) => None,
    }
}

fn expiry(seconds: u32) -> Option<Duration> {
    (seconds != NEVER).then(|| Duration::from_secs(u64::from(seconds)))
}

/// The shorter one; `None` is for ever.
fn capped(asked: Option<Duration>, most: Option<Duration>) -> Option<Duration> {
    match (asked, most) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, most) => asked.or(most),
    }
}

fn seconds(span: Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(NEVER - 1)
}
