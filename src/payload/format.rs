//! The formats of readings. Pure.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use super::{
    Compression, FrameSchema, NamedReading, PayloadTemplate, columns, json, line, object, scan,
    senml, value,
};
use crate::reading::{Quality, Reading};

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
    /// Values by time, as ThingsBoard takes them.
    Scan,
    /// The values of a device at one time.
    Object,
    /// By point, with differences instead of numbers.
    Columns,
    /// The same in the fewest bytes: binary, and read with the help of a schema.
    Pack(PackCoder),
    /// Line protocol of InfluxDB.
    Line,
    /// SenML in JSON.
    Senml,
}

/// How the numbers of packed frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PackCoder {
    /// As what came before lets expect, when enough has come.
    #[default]
    Adaptive,
    /// With Rice codes, which are simple to read.
    Rice,
}

impl PayloadFormat {
    /// How it writes packed frames; `None` of others.
    pub fn pack(&self) -> Option<PackCoder> {
        match self {
            Self::Pack(coder) => Some(*coder),
            _ => None,
        }
    }

    /// True if it says whether a reading is good. Others write good readings only.
    pub fn tells_quality(&self) -> bool {
        match self {
            Self::Json | Self::Columns | Self::Pack(_) | Self::Line => true,
            Self::Value | Self::Scan | Self::Object | Self::Senml => false,
            Self::Template(template) => template.tells_quality(),
        }
    }

    /// True if it says when a reading was taken.
    pub fn tells_time(&self) -> bool {
        match self {
            Self::Json
            | Self::Scan
            | Self::Object
            | Self::Columns
            | Self::Pack(_)
            | Self::Line
            | Self::Senml => true,
            Self::Value => false,
            Self::Template(template) => template.tells_time(),
        }
    }

    /// True if one payload can hold several readings.
    pub fn takes_several(&self) -> bool {
        self.is_for_several() || matches!(self, Self::Line | Self::Senml)
    }

    /// True if it is made for several readings: they share a payload although the file does not say
    /// for how long they wait.
    pub fn is_for_several(&self) -> bool {
        matches!(
            self,
            Self::Scan | Self::Object | Self::Columns | Self::Pack(_)
        )
    }

    /// True if a payload does not name the device, and holds readings of one device only.
    pub fn is_of_one_device(&self) -> bool {
        matches!(self, Self::Scan | Self::Object)
    }

    /// True if a payload has one time for all its readings.
    pub fn is_of_one_time(&self) -> bool {
        matches!(self, Self::Object)
    }

    /// The payload of readings; of several only if it [takes several](Self::takes_several).
    ///
    /// Readings that the format has no place for are left out: those that are not good where it
    /// cannot say so. `None` if nothing is left; an empty payload would remove the retained
    /// message.
    fn encode(&self, readings: &[NamedReading<'_>]) -> Option<Vec<u8>> {
        debug_assert!(readings.len() == 1 || self.takes_several());
        let writes = |named: &&NamedReading<'_>| self.writes(named.reading);
        let readings: Vec<NamedReading<'_>> = readings.iter().filter(writes).copied().collect();
        let first = readings.first()?;
        let payload = match self {
            Self::Pack(_) => return packed(&readings),
            Self::Json => json::encode_as_of(first.reading, first.time),
            Self::Value => value::encode(first.reading.value.as_ref()?),
            Self::Template(template) => template.fill(first),
            Self::Scan => scan::encode(&readings)?,
            Self::Object => object::encode(&readings)?,
            Self::Columns => columns::encode(&readings),
            Self::Line => line::encode(&readings),
            Self::Senml => senml::encode(&readings)?,
        };
        (!payload.is_empty()).then(|| payload.into_bytes())
    }

    /// True if it has a place for a reading of this quality.
    fn writes(&self, reading: &Reading) -> bool {
        reading.quality == Quality::Good || self.tells_quality()
    }
}

/// Frames with a schema of their own: what they would take if nothing were known before.
fn packed(readings: &[NamedReading<'_>]) -> Option<Vec<u8>> {
    let schema = FrameSchema::default().grown(readings)?;
    schema.encode(0, schema.frames(readings)).ok()
}

/// The payload of readings for a receiver that has no schema for them yet: columns, compressed by
/// deflate, with the numbers that packed frames would have.
pub fn numbered_columns(series: u64, readings: &[NamedReading<'_>]) -> Bytes {
    let columns = columns::encode_numbered(series, readings);
    Compression::Deflate.compress(columns.into_bytes()).into()
}

/// When readings that wait for one another become a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchTerms {
    /// The longest time that a reading waits for others.
    pub every: Duration,
    /// The largest payload while nothing is late, in bytes.
    pub up_to: usize,
}

/// How readings become messages for a remote.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadingFormat {
    /// How they are written.
    pub payload: PayloadFormat,
    /// When several become one; `None`: never.
    pub batch: Option<BatchTerms>,
    /// What is done to the payloads.
    pub compression: Compression,
}

impl ReadingFormat {
    /// The payload of readings; what it has no place for is left out. `None` if nothing is left.
    pub fn encode(&self, readings: &[NamedReading<'_>]) -> Option<Bytes> {
        let written = self.payload.encode(readings)?;
        Some(self.compression.compress(written).into())
    }

    /// The payload of readings before it is compressed.
    pub fn write(&self, readings: &[NamedReading<'_>]) -> Option<Bytes> {
        self.payload.encode(readings).map(Bytes::from)
    }

    /// True if a payload takes fewer bytes than its readings one by one.
    pub fn shrinks(&self) -> bool {
        let is_by_column = matches!(
            self.payload,
            PayloadFormat::Columns | PayloadFormat::Pack(_)
        );
        self.compression != Compression::None || is_by_column
    }

    /// The bytes that a reading adds to a payload, where that is only guessed because to write it
    /// takes long.
    pub fn guess(&self, reading: &Reading) -> Option<usize> {
        /// More than most take.
        const NUMBER: usize = 8;
        self.payload.pack().map(|_| NUMBER + reading.weight())
    }

    /// The format of a reading that is sent alone, and has no schema.
    #[must_use]
    pub fn without_schema(&self) -> Cow<'_, Self> {
        if self.payload.pack().is_none() {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self {
            payload: PayloadFormat::Columns,
            compression: Compression::Deflate,
            ..self.clone()
        })
    }
}

impl From<PayloadFormat> for ReadingFormat {
    fn from(payload: PayloadFormat) -> Self {
        Self {
            payload,
            batch: None,
            compression: Compression::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::TopicName;
    use crate::payload::PointNames;
    use crate::reading::{PointId, Timestamp, Value};

    fn template(text: &str) -> PayloadFormat {
        PayloadFormat::Template(PayloadTemplate::new(text).unwrap())
    }

    fn encode(format: &PayloadFormat, value: Option<Value>, quality: Quality) -> Option<Vec<u8>> {
        let reading = Reading {
            point: PointId(0),
            value,
            time: Timestamp::at(1_769_847_330_250),
            quality,
            age: Duration::ZERO,
        };
        format.encode(&[NamedReading {
            reading: &reading,
            time: reading.time,
            names: &PointNames::of_topic(&TopicName::new("s7/pump/flow").unwrap()),
            number: 0,
        }])
    }

    #[test]
    fn a_format_that_cannot_say_so_writes_good_readings_only() {
        for (format, tells) in [
            (PayloadFormat::Json, true),
            (PayloadFormat::Line, true),
            (template(r#"{"v":{value},"q":{quality}}"#), true),
            (template("{value} {time_ms}"), false),
            (PayloadFormat::Value, false),
            (PayloadFormat::Scan, false),
            (PayloadFormat::Object, false),
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
