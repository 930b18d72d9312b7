//! Points that the messages of an instrument do not bring: a value that never came, or comes no
//! more, must not be silent. Pure.
//!
//! Invariants:
//! * A point is missing when messages came for as long as it may be missing, and none of them
//!   brought it.
//! * It is reported once, and again only after it came, or after the instrument was silent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::parse::Extraction;
use crate::field::{Device, PointSource, Sample, Values};
use crate::reading::PointId;

#[derive(Debug)]
struct Watched {
    point: PointId,
    /// The pattern, for people.
    sought: String,
    /// The longest time that it may be missing.
    patience: Duration,
    /// When it came last, or when messages began to come.
    since: Option<Instant>,
    /// Messages that came since then.
    messages: u64,
    is_told: bool,
}

/// The points of one instrument.
#[derive(Debug)]
pub(super) struct Missing(Vec<Watched>);

impl Missing {
    /// Watches what is looked for in messages. A point may be missing for `patience`, or for its
    /// own `stale_after` if that is longer.
    pub(super) fn new(device: &Device, patience: Duration) -> Self {
        let watched = device.points.iter().filter_map(|point| {
            let PointSource::Extracted(found) = &point.source else {
                return None;
            };
            let found: &Extraction = found;
            let patience = point.stale_after.map_or(patience, |own| own.max(patience));
            Some(Watched {
                point: point.id,
                sought: found.sought(&point.name),
                patience,
                since: None,
                messages: 0,
                is_told: false,
            })
        });
        Self(watched.collect())
    }

    /// A message, or one answer made of several, brought these.
    pub(super) fn heard(&mut self, values: &Values, now: Instant) {
        for watched in &mut self.0 {
            if values.iter().any(|sample| sample.point == watched.point) {
                (watched.since, watched.messages, watched.is_told) = (Some(now), 0, false);
            } else {
                watched.since.get_or_insert(now);
                watched.messages = watched.messages.saturating_add(1);
            }
        }
    }

    /// The instrument was silent, which is reported for all its points.
    pub(super) fn silent(&mut self) {
        for watched in &mut self.0 {
            (watched.since, watched.messages, watched.is_told) = (None, 0, false);
        }
    }

    /// The points that are missing since the last call.
    pub(super) fn take(&mut self, now: Instant) -> Values {
        let mut missing = Values::new();
        for watched in &mut self.0 {
            let is_late = watched
                .since
                .is_some_and(|since| now.saturating_duration_since(since) >= watched.patience);
            if is_late && watched.messages > 0 && !watched.is_told {
                watched.is_told = true;
                let (sought, count) = (&watched.sought, watched.messages);
                let telegrams = if count == 1 { "telegram" } else { "telegrams" };
                let why: Arc<str> = format!("no line with {sought} in {count} {telegrams}").into();
                missing.push(Sample::new(watched.point, Err(why)));
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Point;
    use crate::field::decode::{DataType, Meaning};
    use crate::field::signal::Signal;
    use crate::field::text::parse::{Notation, ValueLocation};
    use crate::field::text::script::Pattern;
    use crate::reading::{DeviceId, Value};

    const SECOND: Duration = Duration::from_secs(1);

    fn device() -> Device {
        let point = |id, pattern: &str, stale_after| {
            let found = Extraction {
                place: ValueLocation::Find(vec![Pattern::new(pattern, None).unwrap()]),
                when: None,
                bad_when: Vec::new(),
                units: Vec::new(),
                unit_if_none: None,
                notation: Notation::Decimal,
                words: Vec::new(),
                meaning: Meaning::new(DataType::F64),
            };
            let source = PointSource::Extracted(Box::new(found));
            Point {
                id: PointId(id),
                source,
                stale_after,
                ..Point::simulated(format!("p{id}"), Signal::default())
            }
        };
        let points = vec![
            point(0, r"^1-0:1\.8\.0\((\d+)", None),
            point(1, r"^1-0:31\.7\.0\((\d+)", None),
            point(2, "^s", Some(60 * SECOND)),
        ];
        Device {
            points,
            ..Device::new(DeviceId(0), "d", 0)
        }
    }

    fn told(values: &Values) -> Vec<String> {
        values
            .iter()
            .map(|sample| format!("{} {}", sample.point.0, sample.value.as_ref().unwrap_err()))
            .collect()
    }

    #[test]
    fn a_point_that_never_came_or_comes_no_more_is_told_once_with_the_line_that_lacks() {
        let mut missing = Missing::new(&device(), 10 * SECOND);
        let start = crate::time::now();
        let both: Values = [0, 1]
            .map(|id| Sample::new(PointId(id), Ok(Value::UInt(1))))
            .to_vec();
        let first: Values = both.get(..1).unwrap().to_vec();
        assert!(
            missing.take(start + 99 * SECOND).is_empty(),
            "nothing came at all"
        );
        for second in [0, 5, 9] {
            assert!(missing.take(start + second * SECOND).is_empty());
            missing.heard(&first, start + second * SECOND);
        }
        assert_eq!(
            told(&missing.take(start + 10 * SECOND)),
            ["1 no line with 1-0:31.7.0 in 3 telegrams"]
        );
        assert!(missing.take(start + 11 * SECOND).is_empty(), "told once");
        missing.heard(&both, start + 12 * SECOND);
        missing.heard(&first, start + 13 * SECOND);
        assert!(missing.take(start + 13 * SECOND).is_empty());
        assert_eq!(
            told(&missing.take(start + 22 * SECOND)),
            ["1 no line with 1-0:31.7.0 in 1 telegram"],
            "it came, and comes no more"
        );
        assert_eq!(
            told(&missing.take(start + 60 * SECOND)),
            ["2 no line with ^s in 5 telegrams"],
            "it may be missing for longer"
        );
    }

    #[test]
    fn after_a_silence_everything_may_be_missing_again_for_a_while() {
        let mut missing = Missing::new(&device(), 10 * SECOND);
        let start = crate::time::now();
        missing.heard(&Values::new(), start);
        assert_eq!(missing.take(start + 10 * SECOND).len(), 2);
        missing.silent();
        missing.heard(&Values::new(), start + 20 * SECOND);
        assert!(missing.take(start + 29 * SECOND).is_empty());
        assert_eq!(missing.take(start + 30 * SECOND).len(), 2);
    }
}
