//! Readings for the tests of formats.

use std::time::Duration;

use super::{NamedReading, PointNames};
use crate::mqtt::TopicName;
use crate::reading::{PointId, Quality, Reading, Timestamp, Value};

/// A reading with the names of its point.
pub(super) struct NamedSample {
    pub(super) names: PointNames,
    pub(super) reading: Reading,
}

impl NamedSample {
    /// A good reading.
    pub(super) fn new(topic: &'static str, unix_ms: i64, value: Value) -> Self {
        Self {
            names: PointNames::of_topic(&TopicName::new(topic).unwrap()),
            reading: Reading {
                point: PointId(0),
                value: Some(value),
                time: Timestamp::at(unix_ms),
                quality: Quality::Good,
                age: Duration::ZERO,
            },
        }
    }
}

/// The samples as formats take them.
pub(super) fn named(samples: &[NamedSample]) -> Vec<NamedReading<'_>> {
    samples
        .iter()
        .map(|sample| NamedReading {
            reading: &sample.reading,
            time: sample.reading.time,
            names: &sample.names,
            number: 0,
        })
        .collect()
}
