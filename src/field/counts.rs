//! Counters of a line and of each of its devices.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::trace::Watchers;
use crate::metrics::{Counter, Gauge, Labels, Metric, MetricSet, MetricSource};
use crate::time::boot_ms;

const REQUESTS: Metric = Metric::counter("wellhead_line_requests", "Requests to instruments.");
const ANSWERS: Metric = Metric::counter(
    "wellhead_line_answers",
    "Right answers of instruments, exceptions included.",
);
const TIMEOUTS: Metric = Metric::counter(
    "wellhead_line_timeouts",
    "Requests without an answer in time.",
);
const BAD_CHECKSUMS: Metric = Metric::counter(
    "wellhead_line_bad_checksums",
    "Answers with a wrong checksum.",
);
const OTHER_TRANSACTIONS: Metric = Metric::counter(
    "wellhead_line_other_transactions",
    "Answers with unknown transaction identifiers (Modbus TCP).",
);
const OTHER_UNITS: Metric = Metric::counter("wellhead_line_other_units", "Answers of other units.");
const OTHER_FUNCTIONS: Metric = Metric::counter(
    "wellhead_line_other_functions",
    "Answers to other functions.",
);
const OTHER_LENGTHS: Metric = Metric::counter(
    "wellhead_line_other_lengths",
    "Answers of another length, or that confirm another address.",
);
const INCOMPLETE: Metric = Metric::counter(
    "wellhead_line_incomplete_answers",
    "Answers that broke off.",
);
const UNMATCHED: Metric = Metric::counter(
    "wellhead_line_unmatched_messages",
    "Messages that look like none of the patterns (plain instruments).",
);
const REPEATED: Metric = Metric::counter(
    "wellhead_line_repeated_requests",
    "Requests that were repeated after garbage.",
);
const WRITES: Metric = Metric::counter("wellhead_line_writes", "Values written to instruments.");
const EXCEPTIONS: Metric = Metric::counter(
    "wellhead_line_exceptions",
    "Modbus exceptions, by their code.",
);
const ONLINE: Metric = Metric::gauge("wellhead_device_online", "1 while the device answers.");
const TURNAROUND: Metric = Metric::gauge(
    "wellhead_device_turnaround_seconds",
    "The longest that answers of the device have taken lately.",
)
.in_unit("seconds")
.with_decimals(6);
const STALE: Metric = Metric::counter(
    "wellhead_line_stale_answers",
    "Late answers that were dropped.",
);
const FOREIGN: Metric = Metric::counter(
    "wellhead_line_foreign_frames",
    "Right frames that answered nothing that was asked.",
);
const ECHOES: Metric = Metric::counter("wellhead_line_echoes", "Own requests that came back.");
const JUNK: Metric = Metric::counter(
    "wellhead_line_junk_bytes",
    "Bytes that were no part of a frame.",
)
.in_unit("bytes");
const OPENED: Metric = Metric::counter("wellhead_line_opened", "Times the wire was opened.");
const BUSY: Metric = Metric::counter("wellhead_line_busy_seconds", "Time the wire was in use.")
    .in_unit("seconds")
    .with_decimals(6);
const LOST: Metric = Metric::counter(
    "wellhead_line_lost_seconds",
    "Time spent on waiting for answers that did not come.",
)
.in_unit("seconds")
.with_decimals(6);
const LOAD: Metric = Metric::gauge(
    "wellhead_line_load_ratio",
    "The share of the time of the line that its polling plan needs.",
)
.in_unit("ratio")
.with_decimals(3);
const JITTER: Metric = Metric::gauge(
    "wellhead_line_jitter_seconds",
    "The largest recent delay of a request behind its due time.",
)
.in_unit("seconds")
.with_decimals(6);
const UP: Metric = Metric::gauge(
    "wellhead_line_up",
    "1 while some device has answered since the line was opened.",
);

/// Counters of one device, or of units that are no device.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests sent.
    pub requests: Counter,
    /// Right answers, exceptions included.
    pub answers: Counter,
    /// Requests without an answer in time.
    pub timeouts: Counter,
    /// Answers with a wrong checksum.
    pub bad_checksums: Counter,
    /// Answers with unknown transaction identifiers (Modbus TCP).
    pub other_transactions: Counter,
    /// Answers of other units.
    pub other_units: Counter,
    /// Answers to other functions.
    pub other_functions: Counter,
    /// Answers of another length, or that confirm another address.
    pub other_lengths: Counter,
    /// Answers that broke off.
    pub incomplete: Counter,
    /// Messages that look like none of the patterns (plain instruments).
    pub unmatched: Counter,
    /// Requests that were repeated after garbage.
    pub repeated: Counter,
    /// Values written.
    pub writes: Counter,
    /// Exceptions by code; rare, so a lock costs nothing.
    exceptions: Mutex<BTreeMap<u8, u64>>,
    /// The identification of the device.
    identity: Mutex<Option<String>>,
    /// Whether the device answers.
    pub is_online: Gauge,
    /// The longest that answers have taken lately, in microseconds.
    pub turnaround_us: Gauge,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole between statements, whatever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counts {
    /// Sets the identification of the device.
    pub fn set_identity(&self, text: &str) {
        *lock(&self.identity) = Some(text.to_owned());
    }

    /// The identification of the device.
    pub fn identity(&self) -> Option<String> {
        lock(&self.identity).clone()
    }

    /// Notes an exception.
    pub fn exception(&self, code: u8) {
        *lock(&self.exceptions).entry(code).or_default() += 1;
    }

    /// Exceptions by code.
    pub fn exceptions(&self) -> BTreeMap<u8, u64> {
        lock(&self.exceptions).clone()
    }

    fn measure(&self, labels: &Labels, metrics: &mut MetricSet) {
        for (metric, counter) in [
            (&REQUESTS, &self.requests),
            (&ANSWERS, &self.answers),
            (&TIMEOUTS, &self.timeouts),
            (&BAD_CHECKSUMS, &self.bad_checksums),
            (&OTHER_TRANSACTIONS, &self.other_transactions),
            (&OTHER_UNITS, &self.other_units),
            (&OTHER_FUNCTIONS, &self.other_functions),
            (&OTHER_LENGTHS, &self.other_lengths),
            (&INCOMPLETE, &self.incomplete),
            (&UNMATCHED, &self.unmatched),
            (&REPEATED, &self.repeated),
            (&WRITES, &self.writes),
        ] {
            metrics.add(metric, labels, counter.value());
        }
        for (code, count) in self.exceptions() {
            let code = ("code", code.to_string());
            let labels = labels.iter().cloned().chain([code]).collect();
            metrics.add(&EXCEPTIONS, &labels, count);
        }
    }
}

/// Counters of a line as a whole.
#[derive(Debug, Default)]
pub struct LineCounts {
    /// Its name.
    pub name: String,
    /// Units that are no device of the line, which diagnostic requests go to.
    pub others: Counts,
    /// Late answers that were dropped.
    pub stale: Counter,
    /// Right frames that answered nothing that was asked.
    pub foreign: Counter,
    /// Own requests that came back.
    pub echoes: Counter,
    /// Bytes that were no part of a frame.
    pub junk_bytes: Counter,
    /// Times the wire was opened.
    pub opened: Counter,
    /// Time the wire was in use, in microseconds.
    pub busy_us: Counter,
    /// Time spent on waiting for answers that did not come, in microseconds.
    pub lost_us: Counter,
    /// The share of the line's time that the plan needs, in thousandths.
    pub load_permille: Gauge,
    /// The largest recent delay of a request behind its due time, in microseconds.
    pub jitter_us: Gauge,
    /// Whether the line is up.
    pub is_up: Gauge,
    /// When that changed last, in milliseconds since the machine started; 0 if it never did.
    pub changed_ms: Gauge,
    /// The longest that answers have taken lately, by the last device that answered, in
    /// microseconds.
    pub turnaround_us: Gauge,
    /// The watchers of its frames.
    pub watchers: Watchers,
    /// By device, in the order of the YAML, with their names.
    pub devices: Vec<(String, Counts)>,
}

impl LineCounts {
    /// Of a line with these devices.
    pub fn new(name: &str, devices: impl Iterator<Item = String>) -> Self {
        Self {
            name: name.to_owned(),
            devices: devices.map(|name| (name, Counts::default())).collect(),
            ..Self::default()
        }
    }

    /// Counts something for a device, or for units that are none.
    pub fn count(&self, device: usize, what: impl FnOnce(&Counts)) {
        let known = self.devices.get(device);
        what(known.map_or(&self.others, |(_, counts)| counts));
    }

    /// Counts a right answer of a device whose answers take this many microseconds lately.
    pub fn answered(&self, device: usize, turnaround_us: u64) {
        self.turnaround_us.set(turnaround_us);
        self.count(device, |counts| {
            counts.answers.count();
            counts.turnaround_us.set(turnaround_us);
        });
    }

    /// The counters of all devices, and of units that are none.
    pub fn each(&self) -> impl Iterator<Item = &Counts> {
        let devices = self.devices.iter().map(|(_, counts)| counts);
        devices.chain([&self.others])
    }

    /// Notes whether the line is up.
    pub fn set_up(&self, is_up: bool) {
        if self.is_up.value() != u64::from(is_up) || self.changed_ms.value() == 0 {
            self.is_up.set(u64::from(is_up));
            self.changed_ms.set(boot_ms());
        }
    }

    /// Notes how late a request was.
    pub fn jitter(&self, late: Duration) {
        let late = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        // The largest delay decays by a sixteenth with each request.
        let before = self.jitter_us.value();
        self.jitter_us.set(late.max(before - before / 16));
    }
}

impl MetricSource for LineCounts {
    fn measure(&self, metrics: &mut MetricSet) {
        let line: Labels = [("line", self.name.clone())].into();
        for (metric, value) in [
            (&UP, self.is_up.value()),
            (&LOAD, self.load_permille.value()),
            (&JITTER, self.jitter_us.value()),
            (&STALE, self.stale.value()),
            (&FOREIGN, self.foreign.value()),
            (&ECHOES, self.echoes.value()),
            (&JUNK, self.junk_bytes.value()),
            (&OPENED, self.opened.value()),
            (&BUSY, self.busy_us.value()),
            (&LOST, self.lost_us.value()),
        ] {
            metrics.add(metric, &line, value);
        }
        for (name, counts) in &self.devices {
            let device = ("device", name.clone());
            let labels: Labels = line.iter().cloned().chain([device]).collect();
            counts.measure(&labels, metrics);
            metrics.add(&ONLINE, &labels, counts.is_online.value());
            metrics.add(&TURNAROUND, &labels, counts.turnaround_us.value());
        }
        // Without a device.
        self.others.measure(&line, metrics);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_counted_once() {
        let counts = LineCounts::new("bus", ["a".to_owned(), "b".to_owned()].into_iter());
        counts.count(0, |counts| counts.requests.count());
        counts.count(1, |counts| counts.requests.count());
        counts.count(7, |counts| counts.requests.count());
        counts.count(1, |counts| counts.exception(2));
        counts.answered(1, 2_500);
        counts.jitter(Duration::from_millis(16));
        counts.jitter(Duration::ZERO);
        let mut metrics = MetricSet::default();
        counts.measure(&mut metrics);
        let check = |name: &str, expected: &[&str]| {
            let found = metrics.iter().find(|(metric, _)| metric.name == name);
            let (_, points) = found.unwrap();
            let text = |point: &crate::metrics::MetricPoint| {
                let labels = point.labels.iter().map(|(_, value)| value.as_str());
                let labels: Vec<&str> = labels.collect();
                format!("{} {}", labels.join(" "), point.value)
            };
            let values: Vec<String> = points.iter().map(text).collect();
            assert_eq!(values, expected, "{name}");
        };
        check("wellhead_line_requests", &["bus a 1", "bus b 1", "bus 1"]);
        check("wellhead_line_exceptions", &["bus b 2 1"]);
        check(
            "wellhead_device_turnaround_seconds",
            &["bus a 0", "bus b 2500"],
        );
        check("wellhead_line_jitter_seconds", &["bus 15000"]);
        let requests = counts.each().map(|counts| counts.requests.value());
        assert_eq!(requests.sum::<u64>(), 3);
    }
}
