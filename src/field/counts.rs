//! Counters of a line and of each of its devices, for metrics and status topics.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::trace::Watchers;
use crate::metrics::{Counter, Gauge};
use crate::payload::json;
use crate::time::boot_ms;

/// Counters of one device, or of all of a line.
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

impl Counts {
    /// Sets the identification of the device.
    pub fn set_identity(&self, text: &str) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
    }

    /// Notes an exception.
    pub fn exception(&self, code: u8) {
        *self
            .exceptions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(code)
            .or_default() += 1;
    }
}

/// Counters of a line as a whole.
#[derive(Debug, Default)]
pub struct LineCounts {
    /// Its name.
    pub name: String,
    /// All devices together.
    pub all: Counts,
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
    /// The watchers of its frames.
    pub watchers: Watchers,
    /// By device, in the order of the YAML, with their names.
    pub devices: Vec<(String, Counts)>,
}

#[derive(Serialize)]
struct CountsJson<'a> {
    requests: u64,
    answers: u64,
    timeouts: u64,
    bad_checksums: u64,
    #[serde(skip_serializing_if = "is_zero")]
    other_transactions: u64,
    #[serde(skip_serializing_if = "is_zero")]
    other_units: u64,
    #[serde(skip_serializing_if = "is_zero")]
    other_functions: u64,
    #[serde(skip_serializing_if = "is_zero")]
    other_lengths: u64,
    #[serde(skip_serializing_if = "is_zero")]
    incomplete: u64,
    #[serde(skip_serializing_if = "is_zero")]
    unmatched: u64,
    repeated: u64,
    writes: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exceptions: BTreeMap<u8, u64>,
    turnaround_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(flatten)]
    line: Option<LineCountsJson<'a>>,
}

#[derive(Serialize)]
struct LineCountsJson<'a> {
    line: &'a str,
    up: bool,
    stale: u64,
    foreign: u64,
    echoes: u64,
    junk_bytes: u64,
    opened: u64,
    busy_s: f64,
    lost_s: f64,
    load: f64,
    jitter_ms: f64,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Thousandths, as a number with three decimals.
#[allow(clippy::cast_precision_loss)]
fn thousandths(number: u64) -> f64 {
    number as f64 / 1000.0
}

impl Counts {
    fn shape<'a>(&self, line: Option<LineCountsJson<'a>>) -> CountsJson<'a> {
        CountsJson {
            requests: self.requests.value(),
            answers: self.answers.value(),
            timeouts: self.timeouts.value(),
            bad_checksums: self.bad_checksums.value(),
            other_transactions: self.other_transactions.value(),
            other_units: self.other_units.value(),
            other_functions: self.other_functions.value(),
            other_lengths: self.other_lengths.value(),
            incomplete: self.incomplete.value(),
            unmatched: self.unmatched.value(),
            repeated: self.repeated.value(),
            writes: self.writes.value(),
            exceptions: self
                .exceptions
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            turnaround_ms: thousandths(self.turnaround_us.value()),
            identity: self
                .identity
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            line,
        }
    }

    /// As JSON.
    pub fn json(&self) -> String {
        json::text(&self.shape(None))
    }
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

    /// Counts something for a device and for the line.
    pub fn count(&self, device: usize, what: impl Fn(&Counts)) {
        what(&self.all);
        if let Some((_, counts)) = self.devices.get(device) {
            what(counts);
        }
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

    /// The line itself as JSON.
    pub fn json(&self) -> String {
        let line = LineCountsJson {
            line: &self.name,
            up: self.is_up.value() == 1,
            stale: self.stale.value(),
            foreign: self.foreign.value(),
            echoes: self.echoes.value(),
            junk_bytes: self.junk_bytes.value(),
            opened: self.opened.value(),
            busy_s: thousandths(self.busy_us.value() / 1000),
            lost_s: thousandths(self.lost_us.value() / 1000),
            load: thousandths(self.load_permille.value()),
            jitter_ms: thousandths(self.jitter_us.value()),
        };
        json::text(&self.all.shape(Some(line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_devices_add_up_to_those_of_the_line() {
        let counts = LineCounts::new("bus", ["a".to_owned(), "b".to_owned()].into_iter());
        counts.count(0, |counts| counts.requests.count());
        counts.count(1, |counts| counts.requests.count());
        counts.count(1, |counts| counts.exception(2));
        counts.jitter(Duration::from_millis(16));
        counts.jitter(Duration::ZERO);
        let line: serde_json::Value = serde_json::from_str(&counts.json()).unwrap();
        assert_eq!(
            (
                &line["requests"],
                &line["exceptions"]["2"],
                &line["jitter_ms"]
            ),
            (&2.into(), &1.into(), &15.0.into())
        );
        let device: serde_json::Value = serde_json::from_str(&counts.devices[0].1.json()).unwrap();
        assert_eq!(
            (&device["requests"], device.get("exceptions")),
            (&1.into(), None)
        );
    }
}
