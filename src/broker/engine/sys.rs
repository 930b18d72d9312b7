//! `$SYS`: the state of the broker, under the names mosquitto users know, and some of its own.
//!
//! Invariants: a topic is published when its value has changed, retained; counters count from the
//! start of the program.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Engine;
use super::measure::SessionTotals;
use crate::message::{Message, Origin};
use crate::metrics::Counter;
use crate::mqtt::TopicName;

/// Counters since the start of the broker.
#[derive(Debug, Default, Clone)]
pub struct Traffic {
    /// Control packets from clients.
    pub packets_received: u64,
    /// Control packets to clients.
    pub packets_sent: u64,
    /// Bytes to clients.
    pub bytes_sent: u64,
    /// PUBLISH packets from clients.
    pub publishes_received: u64,
    /// Bytes of their payloads.
    pub publish_bytes_received: u64,
    /// PUBLISH packets to clients.
    pub publishes_sent: u64,
    /// Messages that did not reach a receiver: no room, too large, expired; and connections that
    /// did not take theirs.
    pub dropped: u64,
    /// Publications and subscriptions without permission.
    pub refused: u64,
    /// Logins with a wrong password, or none.
    pub failed_logins: u64,
    /// Sessions that were begun or taken up.
    pub logins: u64,
    /// Connections that were accepted.
    pub connections: u64,
    /// Sessions that had to make room for others.
    pub evicted_sessions: u64,
    /// Subscriptions, logins and messages refused because sessions hold too much.
    pub over_budget: u64,
    /// Of `dropped`: a queue was full.
    pub dropped_full: u64,
    /// Of `dropped`: it was too late.
    pub dropped_expired: u64,
    /// Bytes of the payloads of PUBLISH packets to clients.
    pub publish_bytes_sent: u64,
    /// Sessions that ended because their client stayed away.
    pub expired_sessions: u64,
    /// Bytes of memory the program uses.
    pub memory: u64,
    /// The most it has used.
    pub memory_maximum: u64,
    /// The most clients that were there at a time.
    pub most_connected: u64,
}

/// Averages over 1, 5 and 15 minutes of what happens in a minute, as mosquitto makes them.
#[derive(Debug, Default, Clone)]
pub(super) struct Load {
    last: LoadCounts,
    averages: [[f64; 3]; 9],
}

type LoadCounts = [u64; 9];

const LOADS: [&str; 9] = [
    "messages/received",
    "messages/sent",
    "publish/dropped",
    "publish/received",
    "publish/sent",
    "bytes/received",
    "bytes/sent",
    "connections",
    "sockets",
];
const MINUTES: [(f64, &str); 3] = [(1.0, "1min"), (5.0, "5min"), (15.0, "15min")];

impl Load {
    fn count(&mut self, counts: LoadCounts, every: Duration) {
        let minutes = every.as_secs_f64() / 60.0;
        for ((averages, count), last) in self.averages.iter_mut().zip(counts).zip(self.last) {
            #[allow(clippy::cast_precision_loss)]
            let rate = count.saturating_sub(last) as f64 / minutes.max(1e-6);
            for (average, (span, _)) in averages.iter_mut().zip(MINUTES) {
                let weight = (-minutes / span).exp();
                *average = rate + weight * (*average - rate);
            }
        }
        self.last = counts;
    }
}

impl Engine {
    /// The counters.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Takes the number of bytes from clients from where it is counted.
    pub fn count_bytes_in(&mut self, received: Arc<Counter>) {
        self.bytes_received = received;
    }

    /// Notes how many bytes of memory the program uses.
    pub fn set_memory(&mut self, bytes: u64) {
        self.traffic.memory = bytes;
        self.traffic.memory_maximum = self.traffic.memory_maximum.max(bytes);
    }

    pub(super) fn publish_sys(&mut self, now: Instant) {
        let sessions = self.session_totals();
        let mut values = self.usual_values(&sessions, now);
        self.load_values(&mut values);
        self.own_values(&sessions, &mut values);
        for (name, value) in values {
            let Ok(topic) = TopicName::new(format!("$SYS/{name}")) else {
                continue;
            };
            if !self.retained.is(&topic, value.as_bytes()) {
                self.accept(Message::new(topic, value, Origin::Own).retained(), now);
            }
        }
    }

    /// The values that mosquitto has, too.
    fn usual_values(&mut self, sessions: &SessionTotals, now: Instant) -> Vec<(String, String)> {
        let version = format!("wellhead version {}", env!("CARGO_PKG_VERSION"));
        let uptime = now.saturating_duration_since(self.started).as_secs();
        let uptime = format!("{uptime} seconds");
        let mut values = vec![("version", version), ("uptime", uptime)];
        values.extend(self.client_values(sessions));
        values.extend(self.message_values(sessions));
        values.extend(self.other_values());
        values
            .into_iter()
            .map(|(name, value)| (format!("broker/{name}"), value))
            .collect()
    }

    fn client_values(&mut self, sessions: &SessionTotals) -> [(&'static str, String); 7] {
        let (total, connected) = (sessions.sessions, sessions.connected);
        let traffic = &mut self.traffic;
        traffic.most_connected = traffic.most_connected.max(connected as u64);
        [
            ("clients/total", total.to_string()),
            ("clients/maximum", traffic.most_connected.to_string()),
            ("clients/connected", connected.to_string()),
            ("clients/active", connected.to_string()),
            ("clients/disconnected", (total - connected).to_string()),
            ("clients/inactive", (total - connected).to_string()),
            ("clients/expired", traffic.expired_sessions.to_string()),
        ]
    }

    fn message_values(&self, sessions: &SessionTotals) -> Vec<(&'static str, String)> {
        let traffic = &self.traffic;
        let stored = sessions.queued + sessions.in_flight + self.retained.count();
        let bytes = self.kept.bytes() + self.retained.bytes();
        let values = [
            ("messages/received", traffic.packets_received),
            ("messages/sent", traffic.packets_sent),
            ("messages/stored", stored as u64),
            ("store/messages/count", stored as u64),
            ("store/messages/bytes", bytes as u64),
            ("publish/messages/received", traffic.publishes_received),
            ("publish/messages/sent", traffic.publishes_sent),
            ("publish/messages/dropped", traffic.dropped),
        ];
        values.map(|(name, value)| (name, value.to_string())).into()
    }

    fn other_values(&self) -> Vec<(&'static str, String)> {
        let traffic = &self.traffic;
        let subscriptions = &self.subscriptions;
        let values = [
            ("publish/bytes/received", traffic.publish_bytes_received),
            ("publish/bytes/sent", traffic.publish_bytes_sent),
            ("bytes/received", self.bytes_received.value()),
            ("bytes/sent", traffic.bytes_sent),
            ("heap/current", traffic.memory),
            ("heap/maximum", traffic.memory_maximum),
            ("retained messages/count", self.retained.count() as u64),
            ("subscriptions/count", subscriptions.count() as u64),
            ("shared_subscriptions/count", subscriptions.shared() as u64),
        ];
        values.map(|(name, value)| (name, value.to_string())).into()
    }

    fn load_values(&mut self, values: &mut Vec<(String, String)>) {
        let t = &self.traffic;
        let counts = [
            t.packets_received,
            t.packets_sent,
            t.dropped,
            t.publishes_received,
            t.publishes_sent,
            self.bytes_received.value(),
            t.bytes_sent,
            t.logins,
            t.connections,
        ];
        self.load.count(counts, self.limits.sys_every);
        for (name, averages) in LOADS.iter().zip(&self.load.averages) {
            for (average, (_, span)) in averages.iter().zip(MINUTES) {
                values.push((
                    format!("broker/load/{name}/{span}"),
                    format!("{average:.2}"),
                ));
            }
        }
    }

    fn own_values(&self, sessions: &SessionTotals, values: &mut Vec<(String, String)>) {
        let own = [
            ("connections", self.traffic.connections.to_string()),
            ("logins/failed", self.traffic.failed_logins.to_string()),
            ("refused", self.traffic.refused.to_string()),
            ("dropped/queue_full", self.traffic.dropped_full.to_string()),
            ("dropped/expired", self.traffic.dropped_expired.to_string()),
            (
                "sessions/evicted",
                self.traffic.evicted_sessions.to_string(),
            ),
            ("sessions/held_bytes", self.budget.held().to_string()),
            ("sessions/over_budget", self.traffic.over_budget.to_string()),
            ("sessions/in_flight", sessions.in_flight.to_string()),
            ("sessions/queued", sessions.queued.to_string()),
            ("sessions/queued_bytes", self.kept.bytes().to_string()),
            ("sessions/fullest_bytes", sessions.fullest_bytes.to_string()),
            ("sessions/waits_for_taps", self.held.len().to_string()),
        ];
        values.extend(
            own.into_iter()
                .map(|(name, value)| (format!("wellhead/broker/{name}"), value)),
        );
    }
}
