//! The counters of an outbox and of the way into it.

use std::sync::Arc;

use super::{DEAD, QUEUES};
use crate::metrics::{Counter, Gauge, Labels, Metric, MetricSet, MetricSource};
use crate::store::Counters;

const QUEUED: Metric = Metric::gauge(
    "wellhead_outbox_queued_messages",
    "Messages that are not settled, by queue.",
);
const BYTES: Metric =
    Metric::gauge("wellhead_outbox_disk_bytes", "Bytes on disk.").in_unit("bytes");
const APPENDED: Metric = Metric::counter(
    "wellhead_outbox_appended_messages",
    "Messages that were appended.",
);
const WRITTEN: Metric = Metric::counter(
    "wellhead_outbox_written_messages",
    "Messages that were made durable; the others were settled before.",
);
const COMMITS: Metric =
    Metric::counter("wellhead_outbox_commits", "Rounds of writing to the disk.");
const LOST: Metric = Metric::counter(
    "wellhead_outbox_lost_messages",
    "Messages that were given up: limit or age reached, damage, expired.",
);
const DROPPED: Metric = Metric::counter(
    "wellhead_outbox_dropped_messages",
    "Messages that did not come into the outbox.",
);
const RATE_DROPPED: Metric = Metric::counter(
    "wellhead_outbox_rate_dropped_messages",
    "QoS 0 messages that came faster than a rate allows.",
);
const STALLED: Metric = Metric::gauge(
    "wellhead_outbox_stalled",
    "1 while the disk refuses writes.",
);
const FULL: Metric = Metric::gauge(
    "wellhead_outbox_full",
    "1 while the limit is reached and new messages are not taken.",
);

/// The counters of the outbox of an uplink.
#[derive(Debug)]
pub struct OutboxCounts {
    /// The name of the uplink.
    pub uplink: String,
    /// Those of its store.
    pub store: Arc<Counters>,
    /// Messages that did not come into the outbox.
    pub dropped: Arc<Counter>,
    /// QoS 0 messages that exceeded the rate of their rule, or of the uplink.
    pub rate_dropped: Counter,
}

impl OutboxCounts {
    pub(super) fn new(uplink: &str, store: Arc<Counters>) -> Self {
        Self {
            uplink: uplink.to_owned(),
            store,
            dropped: Arc::default(),
            rate_dropped: Counter::default(),
        }
    }

    /// Messages that are neither delivered nor given up.
    pub fn waiting(&self) -> u64 {
        let queues = self.store.waiting.iter().take(DEAD);
        queues.map(Gauge::value).sum()
    }

    /// Dead letters that are kept.
    pub fn dead(&self) -> u64 {
        self.store.waiting.get(DEAD).map_or(0, Gauge::value)
    }

    /// Messages that were given up.
    pub fn lost(&self) -> u64 {
        self.store.lost.value()
    }

    /// True while the disk refuses writes.
    pub fn is_stalled(&self) -> bool {
        self.store.stalled.value() != 0
    }

    /// True while the limit is reached and new messages are not taken.
    pub fn is_full(&self) -> bool {
        self.store.full.value() != 0
    }
}

impl MetricSource for OutboxCounts {
    fn measure(&self, metrics: &mut MetricSet) {
        let uplink = ("uplink", self.uplink.clone());
        let labels: Labels = [uplink.clone()].into();
        let store = &self.store;
        for (metric, value) in [
            (&BYTES, store.bytes.value()),
            (&APPENDED, store.appended.value()),
            (&WRITTEN, store.written.value()),
            (&COMMITS, store.commits.value()),
            (&LOST, store.lost.value()),
            (&DROPPED, self.dropped.value()),
            (&RATE_DROPPED, self.rate_dropped.value()),
            (&STALLED, store.stalled.value()),
            (&FULL, store.full.value()),
        ] {
            metrics.add(metric, &labels, value);
        }
        for (queue, waiting) in QUEUES.iter().zip(&store.waiting) {
            let labels = [uplink.clone(), ("queue", (*queue).to_owned())].into();
            metrics.add(&QUEUED, &labels, waiting.value());
        }
    }
}
