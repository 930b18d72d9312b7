//! The payload of a message at the remote: a reading in the format of the rule that took it. Pure.
//!
//! Invariants:
//! * The rules of the moment when a message is sent decide, so that another format in the file is
//!   that of everything that waits, too.
//! * Messages that are no readings are sent as they are.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::{Routes, Rule};
use crate::mqtt::{QoS, TopicName};
use crate::outbox::{Outgoing, Waiting};
use crate::payload::{BatchTerms, NamedReading, Payload, PointNames, ReadingFormat};
use crate::reading::{Reading, Timestamp};

/// How a reading joins others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinTerms {
    /// The format of the message.
    pub format: ReadingFormat,
    /// When it is closed.
    pub terms: BatchTerms,
    /// Where the payload holds readings of one device only: its name.
    pub device: Option<Arc<str>>,
    /// Where the payload holds readings of one time only: when they were taken.
    pub time: Option<i64>,
}

/// Which clock the times in a payload follow.
#[derive(Debug, Clone, Copy)]
pub enum WrittenAt {
    /// Times that were taken before the clock was set are corrected: for a message that is sent.
    Now(Timestamp),
    /// Times are those that were taken: for the size of a payload, before it is sent.
    AsTaken,
}

impl WrittenAt {
    fn time_of(self, reading: &Reading) -> Timestamp {
        match self {
            Self::Now(now) => reading.time.corrected(now),
            Self::AsTaken => reading.time,
        }
    }
}

impl Routes {
    /// The payload of a message; `None` if its format has no place for the reading.
    pub fn payload(&self, message: &Outgoing, at: WrittenAt) -> Option<Bytes> {
        let reading = match &message.payload {
            Payload::Bytes(bytes) => return Some(bytes.clone()),
            Payload::Reading(reading) => reading,
        };
        let (rule, topic) = self.origin(message);
        let names = self.names_of(&topic);
        // Alone it has no schema.
        let format = self.format(rule).without_schema();
        format.encode(&[NamedReading {
            reading,
            time: at.time_of(reading),
            names: &names,
            number: 0,
        }])
    }

    /// The payload of readings that are sent together.
    pub fn payload_of_all<'a>(
        &self,
        format: &ReadingFormat,
        messages: impl Iterator<Item = &'a Waiting>,
        at: WrittenAt,
    ) -> Option<Bytes> {
        self.with_names(messages, at, |readings| format.encode(readings))
    }

    /// The bytes of such a payload before it is compressed; `None` if there is nothing to send.
    pub fn bytes_written<'a>(
        &self,
        format: &ReadingFormat,
        messages: impl Iterator<Item = &'a Waiting>,
    ) -> Option<usize> {
        let written = |readings: &[NamedReading<'_>]| format.write(readings);
        let payload = self.with_names(messages, WrittenAt::AsTaken, written);
        payload.map(|payload| payload.len())
    }

    /// Readings with their names, numbers and times.
    pub fn with_names<'a, T>(
        &self,
        messages: impl Iterator<Item = &'a Waiting>,
        at: WrittenAt,
        write: impl FnOnce(&[NamedReading<'_>]) -> T,
    ) -> T {
        let readings: Vec<(&Reading, Cow<'_, PointNames>, u64)> = messages
            .filter_map(|waiting| match &waiting.message.payload {
                Payload::Reading(reading) => {
                    let names = self.names_of(&self.origin(&waiting.message).1);
                    Some((&**reading, names, waiting.seq))
                }
                Payload::Bytes(_) => None,
            })
            .collect();
        let named = readings
            .iter()
            .map(|(reading, names, number)| NamedReading {
                reading,
                time: at.time_of(reading),
                names,
                number: *number,
            });
        write(&named.collect::<Vec<_>>())
    }

    /// How a message joins others; `None` if it is sent alone: it is no reading, has properties of
    /// its own, goes exactly once, or its format is for one reading.
    pub fn joins(&self, message: &Outgoing) -> Option<JoinTerms> {
        let is_alone = message.qos == QoS::ExactlyOnce || !message.properties.is_empty();
        let reading = match &message.payload {
            Payload::Reading(reading) if !is_alone => reading,
            Payload::Reading(_) | Payload::Bytes(_) => return None,
        };
        let (rule, topic) = self.origin(message);
        let format = self.format(rule);
        let device = || self.names_of(&topic).device.clone();
        Some(JoinTerms {
            terms: format.batch?,
            device: format.payload.is_of_one_device().then(device),
            time: (format.payload.is_of_one_time()).then_some(reading.time.unix_ms),
            format: format.clone(),
        })
    }

    /// The format of the readings of a rule; without one that of the uplink.
    pub fn format<'a>(&'a self, rule: Option<&'a Rule>) -> &'a ReadingFormat {
        let own = rule.and_then(|rule| rule.format.as_ref());
        own.unwrap_or(&self.format)
    }

    /// The names of the point on a local topic.
    pub fn names_of(&self, topic: &TopicName) -> Cow<'_, PointNames> {
        let known = self.point_names.get(topic).map(Cow::Borrowed);
        known.unwrap_or_else(|| Cow::Owned(PointNames::of_topic(topic)))
    }

    /// The rule and the local topic of a reading: those that were noted, or, where an early version
    /// queued it or its rule is gone, those that it has most probably had.
    fn origin(&self, message: &Outgoing) -> (Option<&Rule>, TopicName) {
        if let Some(source) = &message.source {
            let rule = self.rule_by_id(source.rule);
            let class = self.class_of(&source.topic);
            let rule = rule.or_else(|| self.naming(&source.topic, class));
            return (rule, source.topic.clone());
        }
        let there = &message.topic;
        let mut ways_back = self
            .send
            .iter()
            .filter_map(|rule| Some((Some(rule), rule.mapping.back(there)?)));
        ways_back.next().unwrap_or_else(|| (None, there.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::message::SessionLost;
    use crate::mqtt::{Mapping, Properties, TopicFilter};
    use crate::outbox::ReadingSource;
    use crate::payload::{PayloadFormat, PayloadTemplate};
    use crate::reading::{PointId, Quality, Value};
    use crate::time::SinceBoot;

    fn name(text: &str) -> TopicName {
        TopicName::new(text.to_owned()).unwrap()
    }

    fn rule(filter: &str, format: Option<PayloadFormat>) -> Rule {
        let filter = TopicFilter::new(filter.to_owned()).unwrap();
        Rule {
            mapping: Mapping::template(filter, "oilco/#", "s7").unwrap(),
            format: format.map(ReadingFormat::from),
            ..Rule::keep(TopicFilter::new("#").unwrap())
        }
    }

    fn routes(send: Vec<Rule>, format: PayloadFormat) -> Routes {
        let names = PointNames {
            device: "Pump 1".into(),
            ..PointNames::of_topic(&name("s7/pump/flow"))
        };
        let mut routes = Routes::new(send, Vec::new(), false, Arc::default());
        routes.format = format.into();
        routes.point_names = Arc::new([(name("s7/pump/flow"), names)].into());
        routes
    }

    fn template(text: &str) -> PayloadFormat {
        PayloadFormat::Template(PayloadTemplate::new(text).unwrap())
    }

    fn message(source: Option<ReadingSource>) -> Outgoing {
        let time = Timestamp {
            since_boot: Some(SinceBoot {
                boot: 7,
                ms: 30_000,
            }),
            ..Timestamp::at(5_000)
        };
        let reading = Reading {
            point: PointId(0),
            value: Some(Value::F64(12.5)),
            time,
            quality: Quality::Good,
            age: Duration::ZERO,
        };
        Outgoing {
            topic: name("oilco/pump/flow"),
            qos: QoS::AtLeastOnce,
            retain: true,
            if_session_lost: SessionLost::Resend,
            enqueued: time,
            properties: Properties::default(),
            payload: Payload::Reading(Box::new(reading)),
            rated: None,
            source,
        }
    }

    fn source(rule: u32) -> Option<ReadingSource> {
        Some(ReadingSource {
            topic: name("s7/pump/flow"),
            rule,
        })
    }

    #[test]
    fn the_rule_that_took_a_reading_says_how_it_is_written() {
        let send = vec![
            rule("s7/#", Some(template("{device}: {value}"))),
            rule("s8/#", None),
        ];
        let ids: Vec<u32> = send.iter().map(Rule::id).collect();
        let routes = routes(send, PayloadFormat::Value);
        let check = |source, expected: &'static str| {
            let payload = routes.payload(&message(source), WrittenAt::AsTaken);
            assert_eq!(payload, Some(expected.into()));
        };
        check(source(ids[0]), "Pump 1: 12.5");
        check(source(ids[1]), "12.5");
        // Its rule is gone: the one for its topic; nothing was noted: the one with a way back.
        check(source(7), "Pump 1: 12.5");
        check(None, "Pump 1: 12.5");
    }

    #[test]
    fn names_of_points_that_are_gone_are_those_of_the_topic() {
        let routes = routes(
            vec![rule("s8/#", None)],
            template("{site} {device} {point}={value}"),
        );
        let gone = message(Some(ReadingSource {
            topic: name("s7/valve/level"),
            rule: 7,
        }));
        assert_eq!(
            routes.payload(&gone, WrittenAt::AsTaken),
            Some("s7 valve level=12.5".into())
        );
    }

    #[test]
    fn times_are_corrected_unless_the_message_was_sent_before() {
        let routes = routes(vec![rule("s7/#", None)], template("{value} {time_ms}"));
        let now = Timestamp {
            since_boot: Some(SinceBoot {
                boot: 7,
                ms: 60_000,
            }),
            ..Timestamp::at(1_769_847_330_250)
        };
        let message = message(None);
        assert_eq!(
            routes.payload(&message, WrittenAt::Now(now)),
            Some("12.5 1769847300250".into())
        );
        assert_eq!(
            routes.payload(&message, WrittenAt::AsTaken),
            Some("12.5 5000".into())
        );
    }

    #[test]
    fn what_is_no_reading_is_sent_as_it_is() {
        let routes = routes(vec![rule("s7/#", None)], PayloadFormat::Line);
        let other = message(None).with_payload("hello".into());
        assert_eq!(
            routes.payload(&other, WrittenAt::AsTaken),
            Some("hello".into())
        );
    }
}
