//! The reporting state of one point. Pure.
//!
//! A reading goes through the median, then into its interval, then through deadband or swinging
//! door.

use std::time::Instant;

use super::PointReport;
use super::aggregate::{Interval, Show, Summary};
use super::deadband::LastReport;
use super::median::Median;
use super::swinging_door::SwingingDoor;
use crate::message::{GatewayMessage, ReadingMessage};
use crate::mqtt::TopicName;
use crate::reading::{Quality, Reading, Value};

#[derive(Debug, Default)]
pub(super) struct PointState {
    median: Option<Box<Median>>,
    interval: Interval,
    /// One for each aggregate, or one.
    shown: Box<[TopicState]>,
}

#[derive(Debug, Clone)]
struct TopicState {
    last: LastReport,
    door: SwingingDoor<Reading>,
}

impl PointState {
    pub(super) fn new(point: &PointReport) -> Self {
        let outputs = point
            .aggregate
            .as_ref()
            .map_or(1, |aggregate| aggregate.shows.len());
        let shown = TopicState {
            last: LastReport::default(),
            door: SwingingDoor::default(),
        };
        Self {
            shown: vec![shown; outputs].into(),
            ..Self::default()
        }
    }

    pub(super) fn take(
        &mut self,
        point: &PointReport,
        reading: Reading,
        now: Instant,
        messages: &mut Vec<GatewayMessage>,
    ) {
        let reading = match point.median {
            Some(width) => self.median.get_or_insert_default().take(reading, width),
            None => reading,
        };
        match &point.aggregate {
            None => {
                if let Some(shown) = self.shown.first_mut() {
                    shown.take(point, &point.topic, reading, now, messages);
                }
            }
            Some(aggregate) => {
                if let Some(summary) = self.interval.take(&reading, aggregate.every, now) {
                    self.show(point, &summary, now, messages);
                }
            }
        }
    }

    /// Reports intervals that are over although no reading came.
    pub(super) fn tick(
        &mut self,
        point: &PointReport,
        now: Instant,
        messages: &mut Vec<GatewayMessage>,
    ) {
        let Some(aggregate) = &point.aggregate else {
            return;
        };
        if let Some(summary) = self.interval.end(aggregate.every, now) {
            self.show(point, &summary, now, messages);
        }
    }

    /// The clock was set: waiting readings are reported, and the next one, whatever was reported
    /// before.
    pub(super) fn show_next(&mut self, point: &PointReport, messages: &mut Vec<GatewayMessage>) {
        for (shown, topic) in self.shown.iter_mut().zip(point.topics()) {
            // Lines over time bend where time jumps.
            messages.extend(
                shown
                    .door
                    .flush()
                    .map(|reading| message(point, topic, reading)),
            );
            shown.door.close();
            shown.last = LastReport::default();
        }
    }

    /// Reports readings and intervals that wait, at shutdown.
    pub(super) fn end(
        &mut self,
        point: &PointReport,
        now: Instant,
        messages: &mut Vec<GatewayMessage>,
    ) {
        if let Some(summary) = point
            .aggregate
            .as_ref()
            .and_then(|aggregate| self.interval.close(aggregate.every))
        {
            self.show(point, &summary, now, messages);
        }
        for (shown, topic) in self.shown.iter_mut().zip(point.topics()) {
            messages.extend(
                shown
                    .door
                    .flush()
                    .map(|reading| message(point, topic, reading)),
            );
        }
    }

    fn show(
        &mut self,
        point: &PointReport,
        summary: &Summary,
        now: Instant,
        messages: &mut Vec<GatewayMessage>,
    ) {
        let shows = point
            .aggregate
            .iter()
            .flat_map(|aggregate| &aggregate.shows);
        for ((show, topic), shown) in shows.zip(&mut self.shown) {
            shown.take(point, topic, summary.show(*show), now, messages);
            // After the values of the interval: the retained message is not good from here on.
            if let Some(failure) = summary.failure().filter(|_| *show != Show::Count) {
                shown.take(point, topic, failure.clone(), now, messages);
            }
        }
    }
}

impl TopicState {
    fn take(
        &mut self,
        point: &PointReport,
        topic: &TopicName,
        reading: Reading,
        now: Instant,
        messages: &mut Vec<GatewayMessage>,
    ) {
        let number = reading
            .value
            .as_ref()
            .and_then(Value::as_f64)
            .filter(|_| reading.quality == Quality::Good);
        let (Some(bound), Some(number)) = (point.swinging_door, number) else {
            if self.last.is_exception(point.rule, &reading, now) {
                messages.extend(
                    self.door
                        .flush()
                        .map(|waited| message(point, topic, waited)),
                );
                self.door.close();
                messages.push(message(point, topic, reading));
            }
            return;
        };
        if self.last.is_of_other_quality(&reading) {
            self.door.close();
        }
        #[allow(clippy::cast_precision_loss)]
        let seconds = reading.time.unix_ms as f64 / 1000.0;
        let out = self.door.take(reading, number, seconds, bound);
        let out = if out.is_none() && self.last.is_overdue(point.rule, now) {
            self.door.flush()
        } else {
            out
        };
        if let Some(reading) = out {
            self.last.note(&reading, now);
            messages.push(message(point, topic, reading));
        }
    }
}

fn message(point: &PointReport, topic: &TopicName, reading: Reading) -> GatewayMessage {
    GatewayMessage::Reading(ReadingMessage::new(
        topic.clone(),
        reading,
        point.qos,
        point.class,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Class;
    use crate::mqtt::QoS;
    use crate::reading::{PointId, Timestamp};
    use crate::report::Aggregate;
    use crate::report::deadband::ReportRule;
    use std::sync::Arc;
    use std::time::Duration;

    const EVERY: Duration = Duration::from_secs(60);

    fn reading(value: f64, quality: Quality) -> Reading {
        let value = (!matches!(quality, Quality::Bad(_))).then_some(Value::F64(value));
        Reading {
            point: PointId(0),
            value,
            time: Timestamp::at(0),
            quality,
            age: Duration::ZERO,
        }
    }

    /// A point that is shown by one aggregate.
    fn shown_by(show: Show) -> PointReport {
        let topic = TopicName::new("x/d/p".to_owned()).unwrap();
        PointReport {
            topic: topic.clone(),
            unit: None,
            qos: QoS::AtMostOnce,
            class: Class::default(),
            rule: ReportRule::default(),
            median: None,
            aggregate: Some(Aggregate {
                every: EVERY,
                shows: vec![(show, topic)],
            }),
            swinging_door: None,
        }
    }

    fn texts(messages: &[GatewayMessage]) -> Vec<String> {
        messages
            .iter()
            .map(|message| {
                let message = message.clone().into_message(Timestamp::at(0));
                String::from_utf8(message.payload.to_vec()).unwrap()
            })
            .collect()
    }

    #[test]
    fn an_aggregate_does_not_stay_good_when_its_point_fails_and_falls_silent() {
        for quality in [
            Quality::Bad("no answer".into()),
            Quality::Stale("no answer".into()),
        ] {
            let (point, start) = (shown_by(Show::Mean), crate::time::now());
            let mut state = PointState::new(&point);
            let mut messages = Vec::new();
            state.take(&point, reading(4.0, Quality::Good), start, &mut messages);
            state.take(
                &point,
                reading(4.0, quality.clone()),
                start + EVERY / 2,
                &mut messages,
            );
            assert!(messages.is_empty());
            (1..9).for_each(|minute| state.tick(&point, start + EVERY * minute, &mut messages));
            let shown = texts(&messages);
            assert_eq!(
                shown.len(),
                2,
                "what was measured, then that nothing is measured any more: {shown:?}"
            );
            assert!(
                shown[0].contains("\"q\":\"good\"")
                    && shown[1].contains(&format!("\"q\":\"{}\"", quality.name())),
                "{shown:?}"
            );
        }
        let (point, start) = (shown_by(Show::Count), crate::time::now());
        let mut state = PointState::new(&point);
        let mut messages = Vec::new();
        state.take(&point, reading(4.0, Quality::Good), start, &mut messages);
        state.take(
            &point,
            reading(4.0, Quality::Bad(Arc::from("no answer"))),
            start,
            &mut messages,
        );
        (1..3).for_each(|minute| state.tick(&point, start + EVERY * minute, &mut messages));
        assert!(
            texts(&messages)[0].starts_with("{\"v\":1,")
                && texts(&messages)[1].starts_with("{\"v\":0,"),
            "{:?}",
            texts(&messages)
        );
    }
}
