//! What a gateway can measure, for `wellhead status --metrics`: its own state, what the registered
//! owners count, and the broker.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::health::Health;
use super::supervision::Supervision;
use crate::broker::Broker;
use crate::metrics::{Labels, Metric, MetricSet, resident_bytes};
use crate::status::control::Reply;
use crate::status::open_metrics;
use crate::tasks::detach;

/// How long the broker may take; a broker that takes longer hangs, and is left out.
const BROKER_TIMEOUT: Duration = Duration::from_secs(2);

const PROGRAM: Metric = Metric::info("wellhead", "The program that runs.");
const UPTIME: Metric =
    Metric::gauge("wellhead_uptime_seconds", "Time since the start.").in_unit("seconds");
const MEMORY: Metric = Metric::gauge(
    "wellhead_resident_memory_bytes",
    "Memory that the program uses.",
)
.in_unit("bytes");
const HANGING: Metric = Metric::gauge("wellhead_hanging_tasks", "Tasks that hang.");

fn own(health: &Health) -> MetricSet {
    let mut metrics = MetricSet::default();
    let none = Labels::default();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    metrics.add(&PROGRAM, &[("version", version)].into(), 1);
    metrics.add(&UPTIME, &none, health.uptime_s());
    metrics.add(&HANGING, &none, health.hanging() as u64);
    if let Some(bytes) = resident_bytes() {
        metrics.add(&MEMORY, &none, bytes);
    }
    metrics
}

/// Replies with all metrics, as soon as the broker has said its own.
pub(super) fn reply_metrics(
    supervision: &Supervision,
    broker: Option<Broker>,
    reply: oneshot::Sender<Reply>,
) {
    let mut metrics = own(&supervision.health);
    metrics.extend(&supervision.metrics.read());
    detach(async move {
        if let Some(broker) = broker
            && let Ok(Ok(measured)) = timeout(BROKER_TIMEOUT, broker.measure()).await
        {
            metrics.extend(&measured);
        }
        // A command that has hung up needs no reply.
        let _ = reply.send(Reply::Metrics(open_metrics::text(&metrics)));
    });
}
