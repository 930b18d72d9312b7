//! The counters of lines, devices and the report as they are published on `$SYS/wellhead/...`, each
//! as a JSON object. Pure.
//!
//! Invariants: a topic is published when its value has changed; the topics of a line that is gone
//! are cleared.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use crate::field::counts::{Counts, LineCounts};
use crate::message::{Message, Origin};
use crate::metrics::Counter;
use crate::mqtt::TopicName;
use crate::payload::json;
use crate::report::ReportCounts;

/// The counters of lines and devices are published below it.
const LINES: &str = "$SYS/wellhead/line/";
const REPORT: &str = "$SYS/wellhead/report";

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

#[derive(Serialize)]
struct ReportJson {
    readings: u64,
    reported: u64,
    delayed: u64,
    refused: u64,
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

/// The sum of some counters; what a line counts is what its devices count.
fn sum<'a>(counts: &[&'a Counts], which: fn(&'a Counts) -> &'a Counter) -> u64 {
    counts.iter().map(|counts| which(counts).value()).sum()
}

impl CountsJson<'_> {
    /// Without what only a device, or only a line, has.
    fn of(counts: &[&Counts]) -> Self {
        let mut exceptions = BTreeMap::new();
        for (code, count) in counts.iter().flat_map(|counts| counts.exceptions()) {
            *exceptions.entry(code).or_default() += count;
        }
        Self {
            requests: sum(counts, |counts| &counts.requests),
            answers: sum(counts, |counts| &counts.answers),
            timeouts: sum(counts, |counts| &counts.timeouts),
            bad_checksums: sum(counts, |counts| &counts.bad_checksums),
            other_transactions: sum(counts, |counts| &counts.other_transactions),
            other_units: sum(counts, |counts| &counts.other_units),
            other_functions: sum(counts, |counts| &counts.other_functions),
            other_lengths: sum(counts, |counts| &counts.other_lengths),
            incomplete: sum(counts, |counts| &counts.incomplete),
            unmatched: sum(counts, |counts| &counts.unmatched),
            repeated: sum(counts, |counts| &counts.repeated),
            writes: sum(counts, |counts| &counts.writes),
            exceptions,
            turnaround_ms: 0.0,
            identity: None,
            line: None,
        }
    }
}

fn device(counts: &Counts) -> String {
    json::text(&CountsJson {
        turnaround_ms: thousandths(counts.turnaround_us.value()),
        identity: counts.identity(),
        ..CountsJson::of(&[counts])
    })
}

/// The counters of a line, as JSON.
pub fn line(counts: &LineCounts) -> String {
    let own = LineCountsJson {
        line: &counts.name,
        up: counts.is_up.value() == 1,
        stale: counts.stale.value(),
        foreign: counts.foreign.value(),
        echoes: counts.echoes.value(),
        junk_bytes: counts.junk_bytes.value(),
        opened: counts.opened.value(),
        busy_s: thousandths(counts.busy_us.value() / 1000),
        lost_s: thousandths(counts.lost_us.value() / 1000),
        load: thousandths(counts.load_permille.value()),
        jitter_ms: thousandths(counts.jitter_us.value()),
    };
    let each: Vec<&Counts> = counts.each().collect();
    json::text(&CountsJson {
        turnaround_ms: thousandths(counts.turnaround_us.value()),
        line: Some(own),
        ..CountsJson::of(&each)
    })
}

fn report(counts: &ReportCounts) -> String {
    json::text(&ReportJson {
        readings: counts.readings.value(),
        reported: counts.reported.value(),
        delayed: counts.delayed.value(),
        refused: counts.refused.value(),
    })
}

/// The topics of a line and its devices, with their values.
fn topics_of(counts: &LineCounts) -> impl Iterator<Item = (String, String)> {
    let topic = format!("{LINES}{}", counts.name);
    let devices = counts
        .devices
        .iter()
        .map(|(name, counts)| (format!("{topic}/{name}"), device(counts)));
    let devices: Vec<_> = devices.collect();
    std::iter::once((topic, line(counts))).chain(devices)
}

/// The values as they were published last.
#[derive(Debug, Default)]
pub struct SysTopics {
    published: HashMap<TopicName, String>,
}

impl SysTopics {
    /// Passes each message that is due to `publish`, which says whether it was taken; one that was
    /// not is due again the next time.
    pub fn publish(
        &mut self,
        of_report: &ReportCounts,
        lines: &[Arc<LineCounts>],
        mut publish: impl FnMut(Message) -> bool,
    ) {
        let mut send = |topic: &TopicName, text: &str| {
            publish(Message::new(topic.clone(), text.to_owned(), Origin::Own).retained())
        };
        let values: HashMap<TopicName, String> = lines
            .iter()
            .flat_map(|line| topics_of(line))
            .chain([(REPORT.to_owned(), report(of_report))])
            .filter_map(|(topic, text)| Some((TopicName::new(topic).ok()?, text)))
            .collect();
        // An empty payload removes a retained message.
        self.published
            .retain(|topic, _| values.contains_key(topic) || !send(topic, ""));
        for (topic, text) in values {
            if self.published.get(&topic) != Some(&text) && send(&topic, &text) {
                self.published.insert(topic, text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts() -> Arc<LineCounts> {
        let devices = ["a".to_owned(), "b".to_owned()].into_iter();
        Arc::new(LineCounts::new("bus", devices))
    }

    /// Topics and payloads of what is due, in the order of the topics.
    fn due(sys: &mut SysTopics, lines: &[Arc<LineCounts>]) -> Vec<(String, String)> {
        let mut due = Vec::new();
        sys.publish(&ReportCounts::default(), lines, |message| {
            assert!(message.retain && message.origin == Origin::Own);
            let payload = String::from_utf8(message.payload.to_vec()).unwrap();
            due.push((message.topic.to_string(), payload));
            true
        });
        due.sort();
        due
    }

    #[test]
    fn the_texts_are_these_and_a_line_counts_what_its_devices_count() {
        let counts = counts();
        counts.count(0, |counts| counts.requests.add(3));
        counts.count(1, |counts| counts.requests.count());
        counts.count(9, |counts| counts.requests.count());
        counts.count(0, |counts| counts.exception(2));
        counts.count(1, |counts| counts.exception(2));
        counts.count(1, |counts| counts.exception(11));
        counts.count(1, |counts| counts.other_units.count());
        counts.devices[1].1.set_identity("Acme \"1\"");
        counts.answered(0, 12_345);
        counts.busy_us.add(1_234_567);
        counts.lost_us.add(999);
        counts.load_permille.set(125);
        counts.set_up(true);
        let report = r#"{"readings":0,"reported":0,"delayed":0,"refused":0}"#;
        let line = r#"{"requests":5,"answers":1,"timeouts":0,"bad_checksums":0,"other_units":1,"repeated":0,"writes":0,"exceptions":{"2":2,"11":1},"turnaround_ms":12.345,"line":"bus","up":true,"stale":0,"foreign":0,"echoes":0,"junk_bytes":0,"opened":0,"busy_s":1.234,"lost_s":0.0,"load":0.125,"jitter_ms":0.0}"#;
        let a = r#"{"requests":3,"answers":1,"timeouts":0,"bad_checksums":0,"repeated":0,"writes":0,"exceptions":{"2":1},"turnaround_ms":12.345}"#;
        let b = r#"{"requests":1,"answers":0,"timeouts":0,"bad_checksums":0,"other_units":1,"repeated":0,"writes":0,"exceptions":{"2":1,"11":1},"turnaround_ms":0.0,"identity":"Acme \"1\""}"#;
        let texts = [
            ("$SYS/wellhead/line/bus", line),
            ("$SYS/wellhead/line/bus/a", a),
            ("$SYS/wellhead/line/bus/b", b),
            ("$SYS/wellhead/report", report),
        ];
        let expected = texts.map(|(topic, text)| (topic.to_owned(), text.to_owned()));
        assert_eq!(due(&mut SysTopics::default(), &[counts]), expected);
    }

    #[test]
    fn only_changes_are_published_and_what_is_gone_is_cleared() {
        let (counts, mut sys) = (counts(), SysTopics::default());
        let lines = [Arc::clone(&counts)];
        assert_eq!(due(&mut sys, &lines).len(), 4);
        assert_eq!(due(&mut sys, &lines), []);
        counts.count(1, |counts| counts.timeouts.count());
        let changed = due(&mut sys, &lines);
        let topics: Vec<&str> = changed.iter().map(|(topic, _)| topic.as_str()).collect();
        assert_eq!(
            topics,
            ["$SYS/wellhead/line/bus", "$SYS/wellhead/line/bus/b"]
        );
        let gone = due(&mut sys, &[]);
        assert!(
            gone.len() == 3 && gone.iter().all(|(_, text)| text.is_empty()),
            "{gone:?}"
        );
        assert_eq!(due(&mut sys, &[]), []);
    }

    #[test]
    fn what_a_busy_broker_does_not_take_comes_the_next_time() {
        let (lines, mut sys) = ([counts()], SysTopics::default());
        sys.publish(&ReportCounts::default(), &lines, |_| false);
        assert_eq!(due(&mut sys, &lines).len(), 4);
        sys.publish(&ReportCounts::default(), &[], |_| false);
        assert_eq!(due(&mut sys, &[]).len(), 3);
    }
}
