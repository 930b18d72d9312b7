//! Where expanded readings go: lines on standard output, or messages on plain topics.

use std::collections::HashMap;

use serde::Serialize;

use super::super::client::Client;
use super::super::{Failure, put};
use super::{ExpandArguments, PrintedAs};
use crate::mqtt::TopicName;
use crate::payload::{
    NamedReading, PayloadFormat, PointNames, ReadingFormat, UnpackedReading, json,
};
use crate::time::rfc3339;

/// The level behind the topic of a point on which readings go that are older than its newest one.
const HISTORY: &str = "h";

/// Where readings go.
pub(super) enum ReadingOutput {
    /// To standard output.
    Printed(Printer),
    /// To the broker.
    Published(PlainPublisher),
}

/// Lines on standard output.
pub(super) struct Printer {
    printed_as: PrintedAs,
    is_closed: bool,
}

/// Messages on plain topics.
pub(super) struct PlainPublisher {
    prefix: String,
    format: ReadingFormat,
    /// The time of the newest reading of each topic.
    newest: HashMap<TopicName, i64>,
}

#[derive(Serialize)]
struct PrintedReading<'a> {
    topic: &'a str,
    #[serde(flatten)]
    reading: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    series: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
}

impl ReadingOutput {
    pub(super) fn new(arguments: &ExpandArguments) -> Result<Self, Failure> {
        if let Some(prefix) = &arguments.publish {
            let format = if arguments.value {
                PayloadFormat::Value
            } else {
                PayloadFormat::Json
            };
            return Ok(Self::Published(PlainPublisher {
                prefix: prefix.clone(),
                format: format.into(),
                newest: HashMap::new(),
            }));
        }
        let mut printer = Printer {
            printed_as: arguments.printed_as,
            is_closed: false,
        };
        if printer.printed_as == PrintedAs::Csv {
            let head = ["topic", "time", "value", "quality", "reason", "unit"];
            printer.print(&record(&head.map(str::to_owned))?)?;
        }
        Ok(Self::Printed(printer))
    }

    /// True if nobody reads it any more.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Printed(printer) if printer.is_closed)
    }

    /// Writes readings; returns when they are written, or at the broker.
    pub(super) fn write(
        &mut self,
        readings: Vec<UnpackedReading>,
        client: &mut Client,
    ) -> Result<(), Failure> {
        match self {
            Self::Printed(printer) => {
                let mut text = Vec::new();
                for reading in &readings {
                    text.extend(printer.line(reading)?);
                }
                printer.print(&text)
            }
            Self::Published(publisher) => readings
                .iter()
                .try_for_each(|reading| publisher.publish(reading, client)),
        }
    }
}

impl Printer {
    fn print(&mut self, text: &[u8]) -> Result<(), Failure> {
        self.is_closed |= !put(text)?;
        Ok(())
    }

    fn line(&self, own: &UnpackedReading) -> Result<Vec<u8>, Failure> {
        let reading = &own.reading;
        Ok(match self.printed_as {
            PrintedAs::Ndjson => {
                let json = serde_json::from_slice(&json::encode(reading));
                let line = PrintedReading {
                    topic: own.topic.as_str(),
                    reading: json.map_err(Failure::runtime)?,
                    unit: own.unit.as_deref(),
                    series: own.series,
                    number: own.series.map(|_| own.number),
                };
                format!("{}\n", json::text(&line)).into_bytes()
            }
            PrintedAs::Csv => record(&[
                own.topic.to_string(),
                rfc3339(reading.time.unix_ms),
                reading
                    .value
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                reading.quality.name().to_owned(),
                reading.quality.reason().unwrap_or_default().to_owned(),
                own.unit.as_deref().unwrap_or_default().to_owned(),
            ])?,
            PrintedAs::Line => {
                let line = payload(own, &PayloadFormat::Line.into());
                let line = line.map(|line| [&line[..], b"\n"].concat());
                line.unwrap_or_default()
            }
        })
    }
}

impl PlainPublisher {
    /// The newest reading of a point is retained; older ones go beside it.
    fn publish(&mut self, own: &UnpackedReading, client: &mut Client) -> Result<(), Failure> {
        let Some(payload) = payload(own, &self.format) else {
            return Ok(());
        };
        let time = own.reading.time.unix_ms;
        let newest = self.newest.entry(own.topic.clone()).or_insert(time);
        let is_newest = time >= *newest;
        *newest = time.max(*newest);
        let topic = if is_newest {
            format!("{}{}", self.prefix, own.topic)
        } else {
            format!("{}{}/{HISTORY}", self.prefix, own.topic)
        };
        let topic = TopicName::new(topic)
            .map_err(|error| Failure::runtime(format!("--publish {}: {error}", self.prefix)))?;
        client.publish(topic, payload, is_newest)
    }
}

/// A reading in a format; `None` if that has no place for it.
fn payload(own: &UnpackedReading, format: &ReadingFormat) -> Option<bytes::Bytes> {
    let names = PointNames {
        unit: own.unit.clone(),
        ..PointNames::of_topic(&own.topic)
    };
    format.write(&[NamedReading {
        reading: &own.reading,
        time: own.reading.time,
        names: &names,
        number: own.number,
    }])
}

fn record(fields: &[String]) -> Result<Vec<u8>, Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(fields).map_err(Failure::runtime)?;
    writer.into_inner().map_err(Failure::runtime)
}
