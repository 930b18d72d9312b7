//! Report by exception: which readings are worth a message. Pure.
//!
//! A reading is reported if it is the first of its point, if its quality or reason changed, if the
//! value moved by more than the deadband (without one: always), or if the last report is older than
//! the heartbeat. A reading that is not good and says nothing new is not reported again before the
//! heartbeat.

use std::time::{Duration, Instant};

use crate::reading::{Quality, Reading, Value};

/// A change that is too small to report.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Deadband {
    /// In the unit of the point; 0 means any change.
    Absolute(f64),
    /// In percent of the last reported value.
    Percent(f64),
}

/// Which readings of a point are worth a message.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ReportRule {
    /// Largest change that is not reported; `None`: every reading is.
    pub deadband: Option<Deadband>,
    /// Heartbeat: the longest time without a report.
    pub at_least_every: Option<Duration>,
}

/// The last report of one point.
#[derive(Debug, Clone, Default)]
pub struct LastReport(Option<(Option<Value>, Quality, Instant)>);

impl LastReport {
    /// True if the last report is older than the heartbeat.
    pub fn is_overdue(&self, rule: ReportRule, now: Instant) -> bool {
        let Some((_, _, at)) = &self.0 else {
            return false;
        };
        rule.at_least_every
            .is_some_and(|longest| now.saturating_duration_since(*at) >= longest)
    }

    /// Records a report that another rule decided.
    pub fn note(&mut self, reading: &Reading, now: Instant) {
        self.0 = Some((reading.value.clone(), reading.quality.clone(), now));
    }

    /// True if quality or reason are not those of the last report.
    pub fn is_of_other_quality(&self, reading: &Reading) -> bool {
        self.0
            .as_ref()
            .is_none_or(|(_, quality, _)| *quality != reading.quality)
    }

    /// True if `reading` must be reported; it is the last report then.
    pub fn is_exception(&mut self, rule: ReportRule, reading: &Reading, now: Instant) -> bool {
        let worth = match &self.0 {
            None => true,
            Some((value, quality, _)) => {
                let overdue = self.is_overdue(rule, now);
                let moved = reading.quality == Quality::Good
                    && moved(rule.deadband, value.as_ref(), reading.value.as_ref());
                overdue || *quality != reading.quality || moved
            }
        };
        if worth {
            self.note(reading, now);
        }
        worth
    }
}

fn moved(deadband: Option<Deadband>, last: Option<&Value>, new: Option<&Value>) -> bool {
    let Some(deadband) = deadband else {
        return true;
    };
    match (last.and_then(Value::as_f64), new.and_then(Value::as_f64)) {
        (Some(last), Some(new)) => {
            let width = match deadband {
                Deadband::Absolute(width) => width,
                Deadband::Percent(percent) => last.abs() * percent / 100.0,
            };
            (new - last).abs() > width
        }
        _ => last != new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{PointId, Timestamp};

    fn good(value: f64) -> Reading {
        Reading {
            point: PointId(0),
            value: Some(Value::F64(value)),
            time: Timestamp::at(0),
            quality: Quality::Good,
            age: Duration::ZERO,
        }
    }

    fn bad(reason: &str) -> Reading {
        Reading {
            point: PointId(0),
            value: None,
            time: Timestamp::at(0),
            quality: Quality::Bad(reason.into()),
            age: Duration::ZERO,
        }
    }

    /// Readings one second apart.
    fn check(rule: ReportRule, readings: &[(Reading, bool)]) {
        let start = crate::time::now();
        let mut last = LastReport::default();
        for (second, (reading, expected)) in (0..).zip(readings) {
            let now = start + Duration::from_secs(second);
            assert_eq!(
                last.is_exception(rule, reading, now),
                *expected,
                "second {second}: {reading:?}"
            );
        }
    }

    #[test]
    fn without_a_deadband_every_good_reading_is_reported() {
        check(
            ReportRule::default(),
            &[
                (good(1.0), true),
                (good(1.0), true),
                (bad("x"), true),
                (bad("x"), false),
                (bad("y"), true),
                (good(1.0), true),
            ],
        );
    }

    #[test]
    fn inside_the_deadband_there_is_silence_until_the_heartbeat() {
        let rule = ReportRule {
            deadband: Some(Deadband::Absolute(0.5)),
            at_least_every: Some(Duration::from_secs(4)),
        };
        check(
            rule,
            &[
                (good(1.0), true),
                (good(1.4), false),
                (good(1.5), false),
                (good(1.6), true),
                (good(1.2), false),
                (good(1.6), false),
                (good(1.6), false),
                (good(1.6), true),
            ],
        );
    }

    #[test]
    fn a_slow_drift_is_measured_from_the_last_report() {
        let rule = ReportRule {
            deadband: Some(Deadband::Absolute(1.0)),
            at_least_every: None,
        };
        check(
            rule,
            &[
                (good(0.0), true),
                (good(0.6), false),
                (good(1.2), true),
                (good(1.8), false),
                (good(2.4), true),
            ],
        );
    }

    #[test]
    fn a_deadband_in_percent_grows_with_the_value() {
        let rule = ReportRule {
            deadband: Some(Deadband::Percent(10.0)),
            at_least_every: None,
        };
        check(
            rule,
            &[
                (good(10.0), true),
                (good(10.9), false),
                (good(11.1), true),
                (good(100.0), true),
                (good(109.0), false),
            ],
        );
    }

    #[test]
    fn deadband_zero_reports_changes_only() {
        let rule = ReportRule {
            deadband: Some(Deadband::Absolute(0.0)),
            at_least_every: None,
        };
        check(
            rule,
            &[(good(1.0), true), (good(1.0), false), (good(1.1), true)],
        );
    }
}
