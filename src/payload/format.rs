//! The formats of one reading. Pure.

use bytes::Bytes;

use super::{NamedReading, PayloadTemplate, json, line, senml, value};
use crate::reading::Quality;

/// How readings are written for a receiver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PayloadFormat {
    /// `{"v":12.3,"t":"2026-01-31T08:15:30.250Z","q":"good"}`.
    #[default]
    Json,
    /// `12.3`.
    Value,
    /// As the file writes it.
    Template(PayloadTemplate),
    /// Line protocol of InfluxDB.
    Line,
    /// SenML in JSON.
    Senml,
}

impl PayloadFormat {
    /// True if it says whether a reading is good. Others write good readings only.
    pub fn tells_quality(&self) -> bool {
        match self {
            Self::Json | Self::Line => true,
            Self::Value | Self::Senml => false,
            Self::Template(template) => template.tells_quality(),
        }
    }

    /// The payload of a reading. `None` if the format has no place for it: it is not good and the
    /// format cannot say so, or nothing would be left of it; an empty payload would remove the
    /// retained message.
    pub fn encode(&self, named: &NamedReading<'_>) -> Option<Bytes> {
        if named.reading.quality != Quality::Good && !self.tells_quality() {
            return None;
        }
        let payload = match self {
            Self::Json => return Some(json::encode_as_of(named.reading, named.time)),
            Self::Value => value::encode(named.reading.value.as_ref()?),
            Self::Template(template) => template.fill(named),
            Self::Line => line::encode(named),
            Self::Senml => senml::encode(named)?,
        };
        (!payload.is_empty()).then(|| payload.into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mqtt::TopicName;
    use crate::payload::PointNames;
    use crate::reading::{PointId, Reading, Timestamp, Value};

    fn template(text: &str) -> PayloadFormat {
        PayloadFormat::Template(PayloadTemplate::new(text).unwrap())
    }

    fn encode(format: &PayloadFormat, value: Option<Value>, quality: Quality) -> Option<Bytes> {
        let reading = Reading {
            point: PointId(0),
            value,
            time: Timestamp::at(1_769_847_330_250),
            quality,
            age: Duration::ZERO,
        };
        format.encode(&NamedReading {
            reading: &reading,
            time: reading.time,
            names: &PointNames::of_topic(&TopicName::new("s7/pump/flow").unwrap()),
        })
    }

    #[test]
    fn a_format_that_cannot_say_so_writes_good_readings_only() {
        for (format, tells) in [
            (PayloadFormat::Json, true),
            (PayloadFormat::Line, true),
            (template(r#"{"v":{value},"q":{quality}}"#), true),
            (template("{value} {time_ms}"), false),
            (PayloadFormat::Value, false),
            (PayloadFormat::Senml, false),
        ] {
            let one = || Some(Value::Int(1));
            assert!(encode(&format, one(), Quality::Good).is_some());
            let stale = encode(&format, one(), Quality::Stale("no answer".into()));
            let bad = encode(&format, None, Quality::Bad("no answer".into()));
            assert_eq!(
                (stale.is_some(), bad.is_some()),
                (tells, tells),
                "{format:?}"
            );
        }
    }

    #[test]
    fn nothing_is_written_that_would_remove_a_retained_message() {
        let empty = || Some(Value::Text("".into()));
        for format in [PayloadFormat::Value, template("{value}")] {
            assert_eq!(encode(&format, empty(), Quality::Good), None);
        }
        assert!(encode(&PayloadFormat::Senml, empty(), Quality::Good).is_some());
    }
}
