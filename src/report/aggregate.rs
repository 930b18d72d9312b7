//! Aggregates over an interval: minimum, mean, maximum, last value and count. Pure.
//!
//! Invariants:
//! * Only good numbers count. An interval without one yields its last reading, with its quality.
//! * Intervals begin with the first reading and follow one another without a gap; an empty interval
//!   yields nothing.
//! * A point that was not good at the end of an interval is not good in the next one either, unless
//!   a reading comes: a silent point does not stay good.

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::reading::{Quality, Reading, Timestamp, Value};

/// One aggregate of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Show {
    /// The minimum.
    Min,
    /// The arithmetic mean.
    Mean,
    /// The maximum.
    Max,
    /// The last value.
    Last,
    /// The number of values.
    Count,
}

impl Show {
    /// As in the YAML and at the end of topics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Mean => "mean",
            Self::Max => "max",
            Self::Last => "last",
            Self::Count => "count",
        }
    }
}

/// The interval of one point that is being filled.
#[derive(Debug, Clone, Default)]
pub struct Interval {
    filling: Option<Box<Filling>>,
    /// Where the last one ended: the next begins on the same grid.
    ended: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Filling {
    began: Instant,
    count: u64,
    sum: f64,
    min: Option<Value>,
    max: Option<Value>,
    /// The newest good reading.
    last: Option<Reading>,
    /// The newest reading of any quality.
    newest: Reading,
}

/// An interval that is over.
#[derive(Debug, Clone)]
pub struct Summary(Box<Filling>);

impl Interval {
    /// Adds a reading; yields the interval before it if `every` is over.
    pub fn take(&mut self, reading: &Reading, every: Duration, now: Instant) -> Option<Summary> {
        let over = self.end(every, now);
        if self.filling.is_none() {
            let began = self
                .ended
                .map_or(now, |ended| next_beginning(ended, every, now));
            self.filling = Some(Box::new(Filling::new(began, reading.clone())));
        }
        if let Some(filling) = &mut self.filling {
            filling.add(reading);
        }
        over
    }

    /// The interval if it is over, for silent points.
    pub fn end(&mut self, every: Duration, now: Instant) -> Option<Summary> {
        let is_over = self
            .filling
            .as_ref()
            .is_some_and(|filling| now.saturating_duration_since(filling.began) >= every);
        if !is_over {
            return None;
        }
        let summary = self.close(every)?;
        if let (Some(failure), Some(ended)) = (summary.failure(), self.ended) {
            self.filling = Some(Box::new(Filling::new(
                next_beginning(ended, every, now),
                failure.clone(),
            )));
        }
        Some(summary)
    }

    /// The interval as far as it is filled, at shutdown.
    pub fn close(&mut self, every: Duration) -> Option<Summary> {
        let filling = self.filling.take()?;
        self.ended = Some(filling.began + every);
        Some(Summary(filling))
    }
}

/// The beginning of the interval that `now` falls into.
fn next_beginning(began: Instant, every: Duration, now: Instant) -> Instant {
    let periods = now.saturating_duration_since(began).as_nanos() / every.as_nanos().max(1);
    began + every.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX))
}

impl Filling {
    fn new(began: Instant, newest: Reading) -> Self {
        Self {
            began,
            count: 0,
            sum: 0.0,
            min: None,
            max: None,
            last: None,
            newest,
        }
    }

    fn add(&mut self, reading: &Reading) {
        self.newest = reading.clone();
        let number = reading.value.as_ref().and_then(Value::as_f64);
        let (Quality::Good, Some(value), Some(number)) = (&reading.quality, &reading.value, number)
        else {
            return;
        };
        self.count += 1;
        self.sum += number;
        let beats = |best: &Option<Value>, wins: fn(f64, f64) -> bool| {
            best.as_ref()
                .and_then(Value::as_f64)
                .is_none_or(|best| wins(number, best))
        };
        if beats(&self.min, |new, best| new < best) {
            self.min = Some(value.clone());
        }
        if beats(&self.max, |new, best| new > best) {
            self.max = Some(value.clone());
        }
        self.last = Some(reading.clone());
    }
}

impl Summary {
    /// The newest reading of the interval, if it is not good: it is valid from the end of the
    /// interval.
    pub fn failure(&self) -> Option<&Reading> {
        Some(&self.0.newest).filter(|newest| newest.quality != Quality::Good)
    }

    /// The reading for an aggregate, with the time of the last value.
    pub fn show(&self, show: Show) -> Reading {
        let filling = &self.0;
        let Some(last) = &filling.last else {
            return match show {
                Show::Count => self.reading(Value::UInt(0), filling.newest.time),
                _ => filling.newest.clone(),
            };
        };
        let value = match show {
            Show::Min => filling.min.clone(),
            Show::Max => filling.max.clone(),
            Show::Last => last.value.clone(),
            Show::Count => Some(Value::UInt(filling.count)),
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
            Show::Mean => {
                let mean = filling.sum / filling.count as f64;
                // A mean of narrow numbers has no more digits than they have.
                Some(if matches!(last.value, Some(Value::F32(_))) {
                    Value::F32(mean as f32)
                } else {
                    Value::F64(mean)
                })
            }
        };
        value.map_or_else(|| last.clone(), |value| self.reading(value, last.time))
    }

    fn reading(&self, value: Value, time: Timestamp) -> Reading {
        Reading {
            point: self.0.newest.point,
            value: Some(value),
            time,
            quality: Quality::Good,
            age: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::PointId;

    const EVERY: Duration = Duration::from_secs(10);

    fn reading(value: Option<f64>, ms: i64) -> Reading {
        let quality = if value.is_some() {
            Quality::Good
        } else {
            Quality::Bad("no answer".into())
        };
        Reading {
            point: PointId(3),
            value: value.map(Value::F64),
            time: Timestamp::at(ms),
            quality,
            age: Duration::ZERO,
        }
    }

    #[test]
    fn an_interval_shows_its_extremes_and_begins_where_the_last_one_ended() {
        let start = crate::time::now();
        let mut interval = Interval::default();
        for (second, value) in [(0, 4.0), (3, 1.0), (6, 7.0)] {
            assert!(
                interval
                    .take(
                        &reading(Some(value), second),
                        EVERY,
                        start + Duration::from_secs(second.unsigned_abs())
                    )
                    .is_none()
            );
        }
        let summary = interval
            .take(
                &reading(Some(100.0), 11),
                EVERY,
                start + Duration::from_secs(11),
            )
            .unwrap();
        let shown = [Show::Min, Show::Mean, Show::Max, Show::Last]
            .map(|show| summary.show(show).value.unwrap().as_f64().unwrap());
        assert_eq!(shown, [1.0, 4.0, 7.0, 7.0]);
        assert_eq!(summary.show(Show::Count).value, Some(Value::UInt(3)));
        assert_eq!(summary.show(Show::Mean).time, Timestamp::at(6));
        assert!(
            interval
                .end(EVERY, start + Duration::from_secs(19))
                .is_none(),
            "it began at 10, not at 11"
        );
        assert!(
            interval
                .end(EVERY, start + Duration::from_secs(20))
                .is_some()
        );
        assert!(
            interval
                .end(EVERY, start + Duration::from_secs(40))
                .is_none(),
            "nothing came"
        );
        interval.take(
            &reading(Some(1.0), 47),
            EVERY,
            start + Duration::from_secs(47),
        );
        assert!(
            interval
                .end(EVERY, start + Duration::from_secs(49))
                .is_none()
        );
        assert!(
            interval
                .end(EVERY, start + Duration::from_secs(50))
                .is_some(),
            "on the grid, whoever closed the one before"
        );
    }

    #[test]
    fn bad_readings_do_not_count_and_are_shown_when_there_is_nothing_else() {
        let start = crate::time::now();
        let mut interval = Interval::default();
        interval.take(&reading(None, 1), EVERY, start);
        let summary = interval.end(EVERY, start + EVERY).unwrap();
        assert_eq!(summary.show(Show::Mean), reading(None, 1));
        assert_eq!(summary.show(Show::Count).value, Some(Value::UInt(0)));
        let later = start + EVERY;
        let again = interval
            .end(EVERY, later + EVERY)
            .expect("nothing newer came, and it still is bad");
        assert_eq!(
            (again.show(Show::Max), again.show(Show::Count).value),
            (reading(None, 1), Some(Value::UInt(0)))
        );
        let later = later + EVERY;
        interval.take(&reading(Some(2.0), 2), EVERY, later);
        interval.take(&reading(None, 3), EVERY, later);
        assert_eq!(
            interval.end(EVERY, later + EVERY).unwrap().show(Show::Mean),
            reading(Some(2.0), 2)
        );
    }
}
