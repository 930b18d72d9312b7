//! What one point has shown, and what is still to be shown of it. Pure.
//!
//! A reading goes through the median, then into its interval, then past deadband or door.

use std::time::Instant;

use super::PointReport;
use super::aggregate::{Interval, Summary};
use super::door::Door;
use super::exception::LastReport;
use super::median::Median;
use crate::message::{Message, Origin};
use crate::mqtt::TopicName;
use crate::payload::json;
use crate::reading::{Quality, Reading, Value};

#[derive(Debug, Default)]
pub(super) struct PointState {
    median: Option<Box<Median>>,
    interval: Interval,
    /// One for each aggregate that is shown, or one.
    shown: Box<[Shown]>,
}

#[derive(Debug, Clone)]
struct Shown {
    last: LastReport,
    door: Door<Reading>,
}

impl PointState {
    pub(super) fn new(point: &PointReport) -> Self {
        let outputs = point.aggregate.as_ref().map_or(1, |aggregate| aggregate.shows.len());
        let shown = Shown { last: LastReport::default(), door: Door::default() };
        Self { shown: vec![shown; outputs].into(), ..Self::default() }
    }

    pub(super) fn take(&mut self, point: &PointReport, reading: Reading, now: Instant, messages: &mut Vec<Message>) {
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

    /// Shows intervals that are over although nothing came.
    pub(super) fn tick(&mut self, point: &PointReport, now: Instant, messages: &mut Vec<Message>) {
        let Some(aggregate) = &point.aggregate else { return };
        if let Some(summary) = self.interval.end(aggregate.every, now) {
            self.show(point, &summary, now, messages);
        }
    }

    /// The clock was set: what waits is shown, and the next reading, whatever was shown before.
    pub(super) fn show_next(&mut self, point: &PointReport, messages: &mut Vec<Message>) {
        for (shown, topic) in self.shown.iter_mut().zip(point.topics()) {
            // Lines over time bend where time jumps.
            messages.extend(shown.door.flush().map(|reading| message(point, topic, &reading)));
            shown.door.close();
            shown.last = LastReport::default();
        }
    }

    /// Shows what waits for a reading that will not come.
    pub(super) fn end(&mut self, point: &PointReport, now: Instant, messages: &mut Vec<Message>) {
        if let Some(summary) = point.aggregate.as_ref().and_then(|aggregate| self.interval.close(aggregate.every)) {
            self.show(point, &summary, now, messages);
        }
        for (shown, topic) in self.shown.iter_mut().zip(point.topics()) {
            messages.extend(shown.door.flush().map(|reading| message(point, topic, &reading)));
        }
    }

    fn show(&mut self, point: &PointReport, summary: &Summary, now: Instant, messages: &mut Vec<Message>) {
        let shows = point.aggregate.iter().flat_map(|aggregate| &aggregate.shows);
        for ((show, topic), shown) in shows.zip(&mut self.shown) {
            shown.take(point, topic, summary.show(*show), now, messages);
        }
    }
}

impl Shown {
    fn take(&mut self, point: &PointReport, topic: &TopicName, reading: Reading, now: Instant, messages: &mut Vec<Message>) {
        let number = reading.value.as_ref().and_then(Value::as_f64).filter(|_| reading.quality == Quality::Good);
        let (Some(bound), Some(number)) = (point.swinging_door, number) else {
            if self.last.is_exception(point.rule, &reading, now) {
                messages.extend(self.door.flush().map(|waited| message(point, topic, &waited)));
                self.door.close();
                messages.push(message(point, topic, &reading));
            }
            return;
        };
        if self.last.is_of_other_quality(&reading) {
            self.door.close();
        }
        #[allow(clippy::cast_precision_loss)]
        let seconds = reading.time.unix_ms as f64 / 1000.0;
        let out = self.door.take(reading, number, seconds, bound);
        let out = if out.is_none() && self.last.is_overdue(point.rule, now) { self.door.flush() } else { out };
        if let Some(reading) = out {
            self.last.note(&reading, now);
            messages.push(message(point, topic, &reading));
        }
    }
}

fn message(point: &PointReport, topic: &TopicName, reading: &Reading) -> Message {
    let message = Message::new(topic.clone(), json::encode(reading), Origin::Field).measured(reading.time);
    message.retained().with_qos(point.qos).in_class(point.class)
}
