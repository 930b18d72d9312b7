//! The life of a connection: CONNECT, takeover, keep alive, ends; and what an end does to session and will.

use std::collections::{HashSet, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytestring::ByteString;

use super::session::{PendingWill, Session};
use super::{Connection, ConnectionId, Engine, Output, SessionKey, Timer};
use crate::message::{Class, Message, Origin};
use crate::mqtt::{ConnAck, Connect, Disconnect, Packet, Properties, ReasonCode, Version, Will};

/// `Session Expiry Interval` that means "never".
const NEVER: u32 = u32::MAX;

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
    pub(super) fn open(&mut self, id: ConnectionId, now: Instant) {
        let connection = Connection {
            session: None,
            version: Version::V311,
            credit: self.limits.credits,
            last_heard: now,
            silence_allowed: None,
            receive_maximum: 0,
            max_packet: usize::MAX,
            acks: VecDeque::new(),
            held_bytes: 0,
            is_paused: false,
            unreleased: HashSet::new(),
            timer: None,
        };
        self.connections.insert(id, connection);
        self.set_timer(id, now + self.limits.connect_within, Timer::Connect(id));
    }

    /// The one timer of a connection; an earlier one is taken back.
    fn set_timer(&mut self, id: ConnectionId, due: Instant, timer: Timer) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(old) = connection.timer.replace((due, timer)) {
            self.timers.remove(&old);
        }
        self.timers.insert((due, timer));
    }

    pub(super) fn connect_timeout(&mut self, id: ConnectionId, now: Instant) {
        if self.connections.get(&id).is_some_and(|connection| connection.session.is_none()) {
            self.close(id, End::Lost, now);
        }
    }

    pub(super) fn connect(&mut self, id: ConnectionId, connect: Connect, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.version = connect.version;
        }
        if let Err(reason) = self.check_connect(&connect) {
            self.refuse_connect(id, reason);
            self.close(id, End::Lost, now);
            return;
        }
        if !self.by_client.contains_key(&connect.client_id) && !self.make_room(now) {
            self.refuse_connect(id, ReasonCode::QUOTA_EXCEEDED);
            self.close(id, End::Lost, now);
            return;
        }
        let generated = connect.client_id.is_empty();
        let client_id = if generated { self.generate_client_id() } else { connect.client_id.clone() };
        let (session, present) = self.take_session(&client_id, connect.clean_start, now);
        self.attach(id, session, &connect, now);
        let properties = self.connack_properties(&connect, generated.then_some(client_id));
        self.send(id, Packet::ConnAck(ConnAck { session_present: present, reason: ReasonCode::SUCCESS, properties }));
        self.resume(id, session, now);
    }

    fn check_connect(&self, connect: &Connect) -> Result<(), ReasonCode> {
        if connect.properties.authentication_method.is_some() {
            return Err(ReasonCode::BAD_AUTHENTICATION_METHOD);
        }
        let nameless_but_kept = connect.version == Version::V31 || (connect.version == Version::V311 && !connect.clean_start);
        if connect.client_id.is_empty() && nameless_but_kept {
            return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID); // [MQTT-3.1.3-8]
        }
        Ok(())
    }

    /// Room for one more session: the one whose client has been away for longest goes. False if all clients are there.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.sessions.len() < self.limits.max_sessions {
            return true;
        }
        let away = self.sessions.iter().filter_map(|(key, session)| Some((session.away_since?, key))).min();
        if let Some((_, key)) = away {
            self.remove_session(key, now);
        }
        away.is_some()
    }

    pub(super) fn refuse_connect(&mut self, id: ConnectionId, reason: ReasonCode) {
        self.send(id, Packet::ConnAck(ConnAck { session_present: false, reason, properties: Properties::default() }));
    }

    fn generate_client_id(&mut self) -> ByteString {
        loop {
            self.generated_ids += 1;
            let id = ByteString::from(format!("auto-{:016x}-{}", self.salt, self.generated_ids));
            if !self.by_client.contains_key(&id) {
                return id;
            }
        }
    }

    /// The session of a client, freed from any other connection [MQTT-3.1.4-3]; true if it existed and is kept.
    fn take_session(&mut self, client_id: &ByteString, clean_start: bool, now: Instant) -> (SessionKey, bool) {
        if let Some(key) = self.by_client.get(client_id).copied() {
            if let Some(other) = self.connection_of(key) {
                self.say_goodbye(other, ReasonCode::SESSION_TAKEN_OVER);
                let end = if clean_start { End::Lost } else { End::TakenOver };
                self.close(other, end, now);
            }
            if clean_start {
                self.remove_session(key, now);
            } else if let Some(session) = self.sessions.get_mut(key) {
                session.away_since = None;
                let will = session.will.take().and_then(|will| will.due); // [MQTT-3.1.3-9]
                let expiry = session.expires_at.take();
                self.timers.remove(&(will.unwrap_or(now), Timer::Will(key)));
                self.timers.remove(&(expiry.unwrap_or(now), Timer::SessionExpiry(key)));
                return (key, true);
            }
        }
        // A session that ends with its connection is gone now; otherwise it was never there.
        let key = self.sessions.insert(Session::new(client_id.clone()));
        self.by_client.insert(client_id.clone(), key);
        (key, false)
    }

    fn attach(&mut self, id: ConnectionId, key: SessionKey, connect: &Connect, now: Instant) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.connection = Some(id);
            session.outlives = outlives(connect);
            session.will = connect.will.as_ref().map(pending_will);
        }
        let own_maximum = self.limits.receive_maximum;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.session = Some(key);
            connection.receive_maximum = connect.properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get).min(own_maximum);
            connection.max_packet = connect.properties.maximum_packet_size.map_or(usize::MAX, |size| size.get() as usize);
            connection.silence_allowed = (connect.keep_alive > 0).then(|| Duration::from_millis(u64::from(connect.keep_alive) * 1500));
            match connection.silence_allowed {
                Some(allowed) => self.set_timer(id, now + allowed, Timer::KeepAlive(id)),
                None => {
                    let timer = connection.timer.take();
                    timer.map(|timer| self.timers.remove(&timer));
                }
            }
        }
    }

    fn connack_properties(&self, connect: &Connect, assigned: Option<ByteString>) -> Properties {
        let mut properties = Properties::default();
        if connect.version == Version::V5 {
            let fields = properties.edit();
            fields.receive_maximum = NonZeroU16::new(self.limits.receive_maximum);
            fields.maximum_packet_size = u32::try_from(self.limits.max_packet).ok().and_then(NonZeroU32::new);
            fields.subscription_identifiers_available = Some(false);
            fields.shared_subscriptions_available = Some(false);
            fields.assigned_client_id = assigned;
        }
        properties
    }

    pub(super) fn check_keep_alive(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get(&id) else { return };
        let Some(allowed) = connection.silence_allowed else { return };
        // Who is not read cannot be heard.
        let due = if connection.is_paused { now + allowed } else { connection.last_heard + allowed };
        if due <= now {
            self.refuse(id, ReasonCode::KEEP_ALIVE_TIMEOUT, now);
        } else {
            self.set_timer(id, due, Timer::KeepAlive(id));
        }
    }

    pub(super) fn disconnect(&mut self, id: ConnectionId, key: SessionKey, packet: &Disconnect, now: Instant) {
        if let (Some(seconds), Some(session)) = (packet.properties.session_expiry, self.sessions.get_mut(key)) {
            if session.outlives == Some(Duration::ZERO) && seconds > 0 {
                self.refuse(id, ReasonCode::PROTOCOL_ERROR, now); // [MQTT-3.14.2-2]
                return;
            }
            session.outlives = expiry(seconds);
        }
        let end = if packet.reason == ReasonCode::SUCCESS { End::Orderly } else { End::Lost };
        self.close(id, end, now);
    }

    /// Ends a connection from this side.
    pub(super) fn close(&mut self, id: ConnectionId, end: End, now: Instant) {
        if self.connections.contains_key(&id) {
            self.outputs.push(Output::Close(id));
            self.end(id, end, now);
        }
    }

    /// The connection is gone, or as good as gone.
    pub(super) fn end(&mut self, id: ConnectionId, end: End, now: Instant) {
        let Some(connection) = self.connections.remove(&id) else { return };
        connection.timer.map(|timer| self.timers.remove(&timer));
        let Some(key) = connection.session else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.connection = None;
        session.away_since = Some(now);
        session.forget_qos_0();
        let outlives = session.outlives;
        self.settle_will(key, end, now);
        match outlives {
            Some(Duration::ZERO) => self.remove_session(key, now),
            Some(time) => self.expire_at(key, now + time),
            None => {}
        }
    }

    fn settle_will(&mut self, key: SessionKey, end: End, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(will) = session.will.as_mut() else { return };
        let delay = session.outlives.map_or(will.delay, |outlives| will.delay.min(outlives));
        match end {
            End::Orderly => session.will = None,
            End::TakenOver if delay > Duration::ZERO => session.will = None,
            End::Lost if delay > Duration::ZERO => {
                let due = now + delay;
                will.due = Some(due);
                self.timers.insert((due, Timer::Will(key)));
            }
            End::Lost | End::TakenOver => self.publish_will(key, now),
        }
    }

    fn publish_will(&mut self, key: SessionKey, now: Instant) {
        let will = self.sessions.get_mut(key).and_then(|session| session.will.take());
        // `$SYS` belongs to the broker: such wills (mosquitto's bridges have one) are taken and not published.
        if let Some(will) = will.filter(|will| !will.message.topic.is_reserved()) {
            let expires_at = will.expiry.map(|expiry| now + expiry);
            self.accept(&Arc::new(Message { expires_at, ..will.message }), None, now);
        }
    }

    pub(super) fn will_is_due(&mut self, key: SessionKey, due: Instant, now: Instant) {
        let waits = self.sessions.get(key).and_then(|session| session.will.as_ref()).is_some_and(|will| will.due == Some(due));
        if waits {
            self.publish_will(key, now);
        }
    }

    fn expire_at(&mut self, key: SessionKey, at: Instant) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.expires_at = Some(at);
            self.timers.insert((at, Timer::SessionExpiry(key)));
        }
    }

    pub(super) fn session_expires(&mut self, key: SessionKey, due: Instant, now: Instant) {
        if self.sessions.get(key).is_some_and(|session| session.expires_at == Some(due)) {
            self.remove_session(key, now);
        }
    }

    /// The session ends; a will that still waits is published [MQTT-3.1.3-9].
    fn remove_session(&mut self, key: SessionKey, now: Instant) {
        self.publish_will(key, now);
        let Some(session) = self.sessions.try_remove(key) else { return };
        session.expires_at.map(|due| self.timers.remove(&(due, Timer::SessionExpiry(key))));
        self.by_client.remove(&session.client_id);
        for filter in &session.subscriptions {
            self.subscriptions.remove(filter, key);
        }
        self.held.retain(|_, held| held.session != key);
    }
}

fn pending_will(will: &Will) -> PendingWill {
    let mut properties = will.properties.clone();
    let seconds = |seconds: Option<u32>| seconds.map(|seconds| Duration::from_secs(u64::from(seconds)));
    let (delay, expiry) = (seconds(properties.will_delay), seconds(properties.message_expiry));
    if !properties.is_empty() {
        let fields = properties.edit();
        fields.will_delay = None;
        fields.message_expiry = None;
    }
    let message = Message {
        topic: will.topic.clone(),
        payload: will.payload.clone(),
        qos: will.qos,
        retain: will.retain,
        properties,
        expires_at: None,
        origin: Origin::Client,
        class: Class::default(),
    };
    PendingWill { message: message.detached(), expiry, delay: delay.unwrap_or_default(), due: None }
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
