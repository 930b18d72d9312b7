//! The far side of packed frames: readings again, each once. Pure.
//!
//! Invariants:
//! * A reading whose number was seen in its series is left out, however frames were cut.
//! * What is remembered is bounded: of each series the newest [`MOST_RUNS`] runs of numbers. A
//!   number below them counts as new: rather twice than not at all.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::pack::hash_of;
use super::schema::{FrameSchema, SchemaError};
use super::{UnpackedReading, numbered};
use crate::mqtt::TopicName;

/// Runs of numbers that are remembered of a series.
const MOST_RUNS: usize = 100_000;
/// Series that are remembered, the ones used last.
const MOST_SERIES: usize = 10_000;
/// The largest payload of columns after it is decompressed.
const LARGEST: usize = 8 << 20;
/// What compressed payloads begin with.
const ZLIB: u8 = 0x78;

/// What a message is.
#[derive(Debug, PartialEq)]
pub enum Expanded {
    /// These readings, which were not seen before. They count as seen from here on.
    Readings(Vec<UnpackedReading>),
    /// Frames whose schema, of this hash, is not known yet.
    SchemaMissing(String),
    /// Nothing that packed frames go with, or a damaged one: for this reason.
    Unreadable(String),
}

/// Numbers that were seen, as runs: the first of each, and the one behind its last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct SeenNumbers {
    runs: BTreeMap<u64, u64>,
    /// When it was used last, in messages.
    used: u64,
}

impl SeenNumbers {
    /// Notes a number. False if it was seen.
    fn note(&mut self, number: u64) -> bool {
        let (mut first, mut end) = (number, number.saturating_add(1));
        if let Some((before, until)) = self.runs.range(..=number).next_back() {
            if *until > number {
                return false;
            }
            if *until == number {
                first = *before;
            }
        }
        if let Some(until) = self.runs.remove(&end) {
            end = until;
        }
        self.runs.insert(first, end);
        if self.runs.len() > MOST_RUNS {
            self.runs.pop_first();
        }
        true
    }
}

/// What a receiver of packed frames knows.
#[derive(Debug, Default)]
pub struct Expander {
    /// By the topic of frames.
    schemas: HashMap<TopicName, HashMap<u32, FrameSchema>>,
    /// By topic and series.
    seen: HashMap<String, SeenNumbers>,
    messages: u64,
}

impl Expander {
    /// One that has seen what an earlier one has [saved](Self::saved).
    pub fn restored(saved: &[u8]) -> Option<Self> {
        let seen: HashMap<String, SeenNumbers> = serde_json::from_slice(saved).ok()?;
        let messages = seen.values().map(|own| own.used).max().unwrap_or(0);
        Some(Self {
            seen,
            messages,
            ..Self::default()
        })
    }

    /// The numbers that it has seen.
    pub fn saved(&self) -> String {
        super::json::text(&self.seen)
    }

    /// Takes the schema of a topic with packed frames.
    pub fn schema(&mut self, topic: &TopicName, document: &[u8]) -> Result<(), SchemaError> {
        let schema = FrameSchema::from_json(document)?;
        let own = self.schemas.entry(topic.detached()).or_default();
        own.insert(schema.codes.hash, schema);
        Ok(())
    }

    /// The new readings of a message.
    pub fn expand(&mut self, topic: &TopicName, payload: &Bytes) -> Expanded {
        let unreadable = |what: &dyn std::fmt::Display| Expanded::Unreadable(what.to_string());
        let readings = if let Some(hash) = hash_of(payload) {
            let known = self.schemas.get(topic).and_then(|own| own.get(&hash));
            let Some(schema) = known else {
                return Expanded::SchemaMissing(format!("{hash:08x}"));
            };
            match schema.decode(payload) {
                Ok(decoded) => decoded,
                Err(error) => return unreadable(&error),
            }
        } else {
            match columns(payload) {
                Some(decoded) => decoded,
                None => return unreadable(&"neither packed frames nor numbered columns"),
            }
        };
        Expanded::Readings(self.new_of(topic, readings))
    }

    fn new_of(
        &mut self,
        topic: &TopicName,
        readings: Vec<UnpackedReading>,
    ) -> Vec<UnpackedReading> {
        self.messages += 1;
        let Some(series) = readings.first().and_then(|own| own.series) else {
            return readings;
        };
        let own = self.seen.entry(format!("{topic} {series}")).or_default();
        own.used = self.messages;
        let new = readings.into_iter();
        let new = new.filter(|reading| own.note(reading.number)).collect();
        if self.seen.len() > MOST_SERIES {
            let oldest = self.seen.iter().min_by_key(|(_, own)| own.used);
            let oldest = oldest.map(|(series, _)| series.clone());
            oldest.map(|series| self.seen.remove(&series));
        }
        new
    }
}

/// The readings of columns, compressed or not.
fn columns(payload: &Bytes) -> Option<Vec<UnpackedReading>> {
    if payload.first() != Some(&ZLIB) {
        return numbered::decode(payload);
    }
    let text = miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(payload, LARGEST);
    numbered::decode(&text.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::samples::{NamedSample, named};
    use crate::payload::{NamedReading, numbered_columns};
    use crate::reading::Value;

    fn topic() -> TopicName {
        TopicName::new("far/frames").unwrap()
    }

    fn samples() -> Vec<NamedSample> {
        let sample = |row: i64| {
            let tenths = i32::try_from(row * 7 % 13).unwrap();
            let value = Value::F64(f64::from(tenths) / 10.0);
            NamedSample::new("s7/pump/flow", 1_769_847_330_250 + row * 10_000, value)
        };
        (0..40).map(sample).collect()
    }

    fn numbered(samples: &[NamedSample]) -> Vec<NamedReading<'_>> {
        let mut readings = named(samples);
        for (number, reading) in (100..).zip(&mut readings) {
            reading.number = number;
        }
        readings
    }

    fn numbers(expanded: Expanded) -> Vec<u64> {
        match expanded {
            Expanded::Readings(readings) => readings.iter().map(|own| own.number).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_cut_differently_the_second_time_comes_once() {
        let samples = samples();
        let readings = numbered(&samples);
        let schema = FrameSchema::default().grown(&readings).unwrap();
        let message = |from: usize, to: usize| {
            let frames = schema.frames(&readings[from..to]);
            Bytes::from(schema.encode(9, frames).unwrap())
        };
        let mut expander = Expander::default();
        let early = expander.expand(&topic(), &message(0, 10));
        assert_eq!(early, Expanded::SchemaMissing(schema.hash()));
        // Before the remote has the schema.
        let columns = numbered_columns(9, &readings[..5]);
        assert_eq!(
            numbers(expander.expand(&topic(), &columns)),
            [100, 101, 102, 103, 104]
        );
        expander
            .schema(&topic(), schema.to_json().as_bytes())
            .unwrap();
        assert_eq!(
            numbers(expander.expand(&topic(), &message(0, 10))),
            [105, 106, 107, 108, 109]
        );
        assert_eq!(
            numbers(expander.expand(&topic(), &message(12, 14))),
            [112, 113]
        );
        let mut later = Expander::restored(expander.saved().as_bytes()).unwrap();
        later.schema(&topic(), schema.to_json().as_bytes()).unwrap();
        assert_eq!(
            numbers(later.expand(&topic(), &message(8, 16))),
            [110, 111, 114, 115]
        );
        let repeated = later.expand(&topic(), &message(0, 16));
        assert_eq!(repeated, Expanded::Readings(Vec::new()));
        let other = TopicName::new("far/others").unwrap();
        assert!(matches!(
            later.expand(&other, &message(0, 4)),
            Expanded::SchemaMissing(_)
        ));
    }

    #[test]
    fn columns_and_frames_say_the_same() {
        let samples = samples();
        let readings = numbered(&samples);
        let schema = FrameSchema::default().grown(&readings).unwrap();
        let message = schema.encode(9, schema.frames(&readings)).unwrap();
        let packed = schema.decode(&message).unwrap();
        assert_eq!(columns(&numbered_columns(9, &readings)), Some(packed));
    }

    #[test]
    fn other_messages_are_unreadable() {
        let mut expander = Expander::default();
        for other in [
            &b""[..],
            b"{\"v\":1}",
            b"[]",
            b"12.5",
            b"x\x9c\x03",
            b"[{\"base\":\"a/\"}]",
        ] {
            let expanded = expander.expand(&topic(), &Bytes::copy_from_slice(other));
            assert!(matches!(expanded, Expanded::Unreadable(_)), "{other:?}");
        }
    }
}
