//! The end of a connection: by DISCONNECT, by a timeout, by a fault of its client; and what it does
//! to the session.

use std::time::{Duration, Instant};

use bytestring::ByteString;

use super::budget::BudgetPart;
use super::connect::{capped, expiry};
use super::lifecycle::{End, Stage};
use super::note::Noted;
use super::queue::SessionQueue;
use super::refusal::Refusal;
use super::{Client, ConnectionId, Engine, Output, OutputBuffer, Timer};
use crate::mqtt::{Disconnect, Packet, ReasonCode, Version};

/// A login that found no place among those whose passwords are compared.
pub(super) const TOO_MANY_LOGINS: Refusal =
    Refusal::new(ReasonCode::SERVER_BUSY, "too many logins at a time");

impl Engine {
    /// DISCONNECT.
    pub(super) fn process_disconnect(&mut self, client: Client, packet: &Disconnect, now: Instant) {
        let id = client.connection;
        let session = self.sessions.get_mut(client.session);
        if let (Some(seconds), Some(session)) = (packet.properties.session_expiry, session) {
            if session.outlives == Some(Duration::ZERO) && seconds > 0 {
                // [MQTT-3.14.2-2]
                let why = "a session expiry of 0 cannot be raised";
                return self.refuse_because(id, Refusal::protocol_error(why), now);
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

    /// The socket is gone.
    pub(super) fn lost(&mut self, id: ConnectionId, now: Instant) {
        let connection = self.connections.get(&id);
        if connection.is_some_and(|connection| connection.session.is_some()) {
            let why = "connection lost without DISCONNECT";
            self.note(id, Noted::Disconnected, ReasonCode::SUCCESS, why);
        }
        self.end(id, End::Lost, now);
    }

    /// The one timer of a connection; an earlier one is taken back.
    pub(super) fn set_timer(&mut self, id: ConnectionId, due: Instant, timer: Timer) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if let Some((due, old)) = connection.timer.replace((due, timer)) {
            self.timers.cancel(due, old);
        }
        self.timers.set(due, timer);
    }

    /// The time for a login is over.
    pub(super) fn connect_timeout(&mut self, id: ConnectionId, now: Instant) {
        let connection = self.connections.get(&id);
        let Some(connection) = connection.filter(|connection| connection.session.is_none()) else {
            return;
        };
        if matches!(connection.stage, Stage::Verifying(_)) {
            self.refuse_connect(id, TOO_MANY_LOGINS, now);
        } else {
            let why = "no login within `broker.connect_within`";
            self.note(id, Noted::Refused, ReasonCode::UNSPECIFIED, why);
            self.close(id, End::Lost, now);
        }
    }

    /// Ends a connection that was silent for 1.5 times its keep alive [MQTT-3.1.2-22].
    pub(super) fn check_keep_alive(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let Some(allowed) = connection.silence_allowed else {
            return;
        };
        // A client that is not read cannot be heard.
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

    /// Ends every connection; MQTT 5 clients get DISCONNECT with the reason.
    pub fn shut_down(&mut self, now: Instant) {
        let connections: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for connection in connections {
            self.refuse(connection, ReasonCode::SERVER_SHUTTING_DOWN, now);
        }
    }

    /// Ends a connection for a fault of its peer [MQTT-4.13.1-1].
    pub(super) fn refuse(&mut self, id: ConnectionId, reason: ReasonCode, now: Instant) {
        self.refuse_because(id, Refusal::new(reason, reason.name()), now);
    }

    /// The same, with a sentence for a person.
    pub(super) fn refuse_because(&mut self, id: ConnectionId, refusal: Refusal, now: Instant) {
        self.send_disconnect(id, refusal);
        self.close(id, End::Lost, now);
    }

    /// Logs why a connection ends, and says so in DISCONNECT. A server may send it in MQTT 5 only,
    /// and only after CONNACK [MQTT-3.14.0-1]. Packets that still wait for the disk are not sent
    /// any more.
    pub(super) fn send_disconnect(&mut self, id: ConnectionId, refusal: Refusal) {
        let Refusal { reason, why } = refusal;
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let what = if connection.session.is_some() {
            Noted::Dropped
        } else {
            Noted::Refused
        };
        if reason != ReasonCode::SERVER_SHUTTING_DOWN {
            self.note(id, what, reason, why);
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let is_greeted =
            connection.session.is_some() && connection.out.is_greeted(self.gate.durable());
        if connection.version == Version::V5 && is_greeted {
            let mut end = Disconnect::new(reason);
            end.properties.edit().reason_string = Some(ByteString::from_static(why));
            connection.out.drop_gated();
            self.send(id, &Packet::Disconnect(end), 0);
        }
    }

    /// Ends a connection from this side; bytes that were written to it and wait for nothing still
    /// leave.
    pub(super) fn close(&mut self, id: ConnectionId, end: End, now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let mut rest = OutputBuffer::default();
        rest.append(connection.out.take_ready());
        self.outputs.push(Output::Close(id, rest));
        self.end(id, end, now);
    }

    /// A connection ends: its session goes with it, or stays for the time it asked for.
    pub(super) fn end(&mut self, id: ConnectionId, end: End, now: Instant) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if let Some((due, timer)) = connection.timer {
            self.timers.cancel(due, timer);
        }
        let Some(key) = connection.session else {
            return;
        };
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        debug_assert_eq!(session.connection, Some(id), "each has the other");
        session.connection = None;
        session.away_since = Some(now);
        let queue = session.queue.known();
        let lost = queue.map_or_else(Vec::new, SessionQueue::forget_qos_0);
        let outlives = session.outlives;
        self.rewind_replay(key, &lost);
        self.refund(key, BudgetPart::Aliases, 0);
        self.note_absence(key);
        self.settle_will(key, end, now);
        match outlives {
            Some(Duration::ZERO) => self.remove_session(key, now),
            Some(time) => self.expire_at(key, now + time),
            None => drop(self.record_session(key, None)),
        }
    }
}
