//! The broker in numbers, as metrics; `sys` has many of them as `$SYS` topics. No label is the name
//! of a client or a topic: their number has no bound.

use super::Engine;
use crate::metrics::{Labels, Metric, MetricSet};

const PACKETS_RECEIVED: Metric = Metric::counter(
    "wellhead_broker_received_packets",
    "Control packets from clients.",
);
const PACKETS_SENT: Metric = Metric::counter(
    "wellhead_broker_sent_packets",
    "Control packets to clients.",
);
const BYTES_RECEIVED: Metric =
    Metric::counter("wellhead_broker_received_bytes", "Bytes from clients.").in_unit("bytes");
const BYTES_SENT: Metric =
    Metric::counter("wellhead_broker_sent_bytes", "Bytes to clients.").in_unit("bytes");
const PUBLISHES_RECEIVED: Metric = Metric::counter(
    "wellhead_broker_received_messages",
    "PUBLISH packets from clients.",
);
const PUBLISHES_SENT: Metric = Metric::counter(
    "wellhead_broker_sent_messages",
    "PUBLISH packets to clients.",
);
const PAYLOADS_RECEIVED: Metric = Metric::counter(
    "wellhead_broker_received_payload_bytes",
    "Bytes of payloads from clients.",
)
.in_unit("bytes");
const PAYLOADS_SENT: Metric = Metric::counter(
    "wellhead_broker_sent_payload_bytes",
    "Bytes of payloads to clients.",
)
.in_unit("bytes");
const DROPPED: Metric = Metric::counter(
    "wellhead_broker_dropped_messages",
    "Messages that did not reach a receiver, by the reason, and connections that did not take theirs.",
);
const REFUSED: Metric = Metric::counter(
    "wellhead_broker_refused_requests",
    "Publications and subscriptions without permission.",
);
const CONNECTIONS: Metric = Metric::counter(
    "wellhead_broker_connections",
    "Connections that were accepted.",
);
const LOGINS: Metric = Metric::counter(
    "wellhead_broker_logins",
    "Sessions that were begun or taken up.",
);
const FAILED_LOGINS: Metric = Metric::counter(
    "wellhead_broker_failed_logins",
    "Logins with a wrong password, or none.",
);
const EXPIRED_SESSIONS: Metric = Metric::counter(
    "wellhead_broker_expired_sessions",
    "Sessions that ended because their client stayed away.",
);
const EVICTED_SESSIONS: Metric = Metric::counter(
    "wellhead_broker_evicted_sessions",
    "Sessions that had to make room for others.",
);
const OVER_BUDGET: Metric = Metric::counter(
    "wellhead_broker_over_budget_requests",
    "Subscriptions, logins and messages refused because sessions hold too much.",
);
const SESSIONS: Metric = Metric::gauge(
    "wellhead_broker_sessions",
    "Sessions, with a client or without.",
);
const CLIENTS: Metric = Metric::gauge(
    "wellhead_broker_connected_clients",
    "Clients that are connected.",
);
const QUEUED: Metric = Metric::gauge(
    "wellhead_broker_queued_messages",
    "Messages that wait in sessions.",
);
const IN_FLIGHT: Metric = Metric::gauge(
    "wellhead_broker_in_flight_messages",
    "Messages that clients have not acknowledged.",
);
const QUEUED_BYTES: Metric = Metric::gauge(
    "wellhead_broker_queued_bytes",
    "Bytes of messages that sessions hold.",
)
.in_unit("bytes");
const HELD_BYTES: Metric =
    Metric::gauge("wellhead_broker_held_bytes", "Bytes that sessions hold.").in_unit("bytes");
const FULLEST_BYTES: Metric = Metric::gauge(
    "wellhead_broker_fullest_session_bytes",
    "Bytes of the messages of the session that holds the most.",
)
.in_unit("bytes");
const WAITING: Metric = Metric::gauge(
    "wellhead_broker_waiting_messages",
    "Messages that wait until an outbox has them.",
);
const RETAINED: Metric = Metric::gauge("wellhead_broker_retained_messages", "Retained messages.");
const RETAINED_BYTES: Metric = Metric::gauge(
    "wellhead_broker_retained_bytes",
    "Bytes of retained messages.",
)
.in_unit("bytes");
const SUBSCRIPTIONS: Metric = Metric::gauge(
    "wellhead_broker_subscriptions",
    "Subscriptions, shared ones included.",
);
const SHARED: Metric = Metric::gauge(
    "wellhead_broker_shared_subscriptions",
    "Shared subscriptions.",
);

/// Sums over all sessions.
#[derive(Debug, Default)]
pub(super) struct SessionTotals {
    pub(super) sessions: usize,
    pub(super) connected: usize,
    pub(super) queued: usize,
    pub(super) in_flight: usize,
    /// The largest number of bytes that one of them holds.
    pub(super) fullest_bytes: usize,
}

impl Engine {
    /// Looks at every session: not for each message.
    pub(super) fn session_totals(&self) -> SessionTotals {
        let mut totals = SessionTotals::default();
        for (_, session) in self.sessions.iter() {
            totals.sessions += 1;
            totals.connected += usize::from(session.connection.is_some());
            totals.queued += session.queue.len();
            totals.in_flight += session.in_flight.len();
            totals.fullest_bytes = totals.fullest_bytes.max(session.held_bytes());
        }
        totals
    }

    /// All counters and the state of the broker.
    pub fn measure(&self) -> MetricSet {
        let mut metrics = MetricSet::default();
        let none = Labels::default();
        let (counters, gauges) = (self.counters(), self.gauges());
        for (metric, value) in counters.into_iter().chain(gauges) {
            metrics.add(metric, &none, value);
        }
        let traffic = &self.traffic;
        let (full, expired) = (traffic.dropped_full, traffic.dropped_expired);
        let other = traffic.dropped.saturating_sub(full.saturating_add(expired));
        for (reason, count) in [("queue_full", full), ("expired", expired), ("other", other)] {
            let labels = [("reason", reason.to_owned())].into();
            metrics.add(&DROPPED, &labels, count);
        }
        metrics
    }

    fn counters(&self) -> [(&'static Metric, u64); 15] {
        let traffic = &self.traffic;
        [
            (&PACKETS_RECEIVED, traffic.packets_received),
            (&PACKETS_SENT, traffic.packets_sent),
            (&BYTES_RECEIVED, self.bytes_received.value()),
            (&BYTES_SENT, traffic.bytes_sent),
            (&PUBLISHES_RECEIVED, traffic.publishes_received),
            (&PUBLISHES_SENT, traffic.publishes_sent),
            (&PAYLOADS_RECEIVED, traffic.publish_bytes_received),
            (&PAYLOADS_SENT, traffic.publish_bytes_sent),
            (&REFUSED, traffic.refused),
            (&CONNECTIONS, traffic.connections),
            (&LOGINS, traffic.logins),
            (&FAILED_LOGINS, traffic.failed_logins),
            (&EXPIRED_SESSIONS, traffic.expired_sessions),
            (&EVICTED_SESSIONS, traffic.evicted_sessions),
            (&OVER_BUDGET, traffic.over_budget),
        ]
    }

    fn gauges(&self) -> [(&'static Metric, u64); 12] {
        let sessions = self.session_totals();
        [
            (&SESSIONS, sessions.sessions),
            (&CLIENTS, sessions.connected),
            (&QUEUED, sessions.queued),
            (&IN_FLIGHT, sessions.in_flight),
            (&QUEUED_BYTES, self.kept.bytes()),
            (&HELD_BYTES, self.budget.held()),
            (&FULLEST_BYTES, sessions.fullest_bytes),
            (&WAITING, self.held.len()),
            (&RETAINED, self.retained.count()),
            (&RETAINED_BYTES, self.retained.bytes()),
            (&SUBSCRIPTIONS, self.subscriptions.count()),
            (&SHARED, self.subscriptions.shared()),
        ]
        .map(|(metric, value)| (metric, value as u64))
    }
}
