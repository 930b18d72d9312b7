//! Messages that readings share: how many there are, and how large.
//!
//! Readings of one device that are due equally often are taken at one time, which their format
//! writes once.

use std::collections::HashMap;

use super::{DAY, MessageTraffic, as_f64};
use crate::mqtt::{QoS, TopicName};
use crate::payload::{BatchTerms, NamedReading, PointNames, ReadingFormat};
use crate::reading::{Reading, Value};
use crate::route::{Routes, Rule};

/// A value on its way, in units of the last digit.
const STEPS: [f64; 20] = [
    0.0, 1.0, 3.0, 2.0, 2.0, -1.0, 0.0, 2.0, 5.0, 4.0, 4.0, 6.0, 3.0, 1.0, 2.0, -2.0, -1.0, -4.0,
    -3.0, 0.0,
];

/// The bytes of a reading in its format.
#[derive(Debug)]
pub(super) struct ReadingBytes {
    there: Option<TopicName>,
    device: String,
    /// Of a payload with this reading only.
    pub(super) alone: f64,
    /// What it adds to one with others of its time.
    more: f64,
}

impl ReadingBytes {
    pub(super) fn of(routes: &Routes, rule: &Rule, topic: &TopicName, sample: &Reading) -> Self {
        let format = routes.format(Some(rule));
        let names = routes.names_of(topic);
        let named = |names| NamedReading {
            reading: sample,
            time: sample.time,
            names,
            number: 0,
        };
        // Another point with a name of the same length.
        let other = PointNames {
            point: names.point.chars().map(|_| '_').collect::<String>().into(),
            ..names.clone().into_owned()
        };
        let device = if format.payload.is_of_one_device() {
            names.device.to_string()
        } else {
            String::new()
        };
        let there = rule.mapping.apply(topic).and_then(Result::ok);
        if format.shrinks() && format.batch.is_some() {
            let more = more_in_frame(format, &[named(&names), named(&other)]);
            return Self {
                there,
                device,
                alone: more,
                more,
            };
        }
        let alone = format.encode(&[named(&names)]);
        let alone = alone.map_or(0.0, |payload| as_f64(payload.len()));
        let both = if format.batch.is_some() {
            format.encode(&[named(&names), named(&other)])
        } else {
            None
        };
        let both = both.map_or(2.0 * alone, |payload| as_f64(payload.len()));
        Self {
            there,
            device,
            alone,
            more: both - alone,
        }
    }
}

/// What a reading adds to a payload in which it takes fewer bytes than alone: that of a point
/// beside another, as both change by the last digit or a few.
fn more_in_frame(format: &ReadingFormat, points: &[NamedReading<'_>; 2]) -> f64 {
    let row = |(time, step): (i64, &f64)| {
        points.map(|point| {
            let value = point.reading.value.as_ref().and_then(Value::as_f64);
            let mut reading = point.reading.clone();
            reading.value = value.map(|value| Value::F64((value * 10.0 + step).round() / 10.0));
            reading.time.unix_ms += time * 1000;
            (reading, point.names)
        })
    };
    let rows: Vec<[(Reading, &PointNames); 2]> = (0..).zip(&STEPS).map(row).collect();
    let bytes = |points: usize| {
        let readings = rows.iter().flat_map(|row| row.iter().take(points));
        let named = readings.map(|(reading, names)| NamedReading {
            reading,
            time: reading.time,
            names,
            number: 0,
        });
        let payload = format.encode(&named.collect::<Vec<_>>());
        payload.map_or(0, |payload| payload.len())
    };
    as_f64(bytes(2).saturating_sub(bytes(1))) / as_f64(STEPS.len())
}

/// Readings that are taken at one time.
#[derive(Debug)]
struct Scan {
    /// How often in a day, if nothing changes, and if every reading is sent.
    least: f64,
    most: f64,
    /// Of all of them, with their time.
    bytes: f64,
}

/// One kind of message.
#[derive(Debug)]
struct Shared {
    rule: Option<usize>,
    qos: QoS,
    body: f64,
    terms: BatchTerms,
    /// By how often they are taken.
    scans: HashMap<u64, Scan>,
}

impl Shared {
    /// The messages of a day, and their size, if scans are taken so often.
    fn messages(&self, often: impl Fn(&Scan) -> f64) -> (f64, f64) {
        let taken: f64 = self.scans.values().map(&often).sum();
        let each = |scan: &Scan| often(scan) * scan.bytes;
        let bytes: f64 = self.scans.values().map(each).sum();
        let by_time = DAY / self.terms.every.as_secs_f64().max(0.001);
        let by_size = bytes / as_f64(self.terms.up_to);
        let messages = by_time.max(by_size).min(taken);
        (messages, self.body + bytes / messages.max(f64::EPSILON))
    }
}

/// Messages of readings, alone or shared.
#[derive(Default)]
pub(super) struct SharedTraffic {
    alone: Vec<MessageTraffic>,
    kinds: HashMap<(Option<usize>, Option<TopicName>, String), Shared>,
}

impl SharedTraffic {
    /// A reading goes alone, or joins others of its kind; `message` has everything but its payload.
    pub(super) fn add(
        &mut self,
        message: MessageTraffic,
        written: ReadingBytes,
        batch: Option<BatchTerms>,
    ) {
        let Some(terms) = batch.filter(|_| message.qos < QoS::ExactlyOnce) else {
            self.alone.push(MessageTraffic {
                body: message.body + written.alone,
                ..message
            });
            return;
        };
        let key = (message.rule, written.there, written.device);
        let shared = self.kinds.entry(key).or_insert_with(|| Shared {
            rule: message.rule,
            qos: message.qos,
            body: message.body,
            terms,
            scans: HashMap::new(),
        });
        let scan = shared.scans.entry(message.most.to_bits());
        let scan = scan.or_insert_with(|| Scan {
            least: 0.0,
            most: message.most,
            bytes: written.alone - written.more,
        });
        scan.least = scan.least.max(message.least);
        scan.bytes += written.more;
    }

    /// The messages. Of those that are shared: those of a day without changes, and those of one on
    /// which every reading is sent.
    pub(super) fn messages(self) -> Vec<MessageTraffic> {
        let of = |shared: &Shared| {
            let (least, small) = shared.messages(|scan| scan.least);
            let (most, large) = shared.messages(|scan| scan.most);
            let message = |least, most, body| MessageTraffic {
                rule: shared.rule,
                least,
                most,
                body,
                qos: shared.qos,
            };
            [message(least, 0.0, small), message(0.0, most, large)]
        };
        let shared = self.kinds.values().flat_map(of);
        self.alone.into_iter().chain(shared).collect()
    }
}
