//! Readings as frames: the values of several points at the same times. Pure.
//!
//! Invariant: a column has as many cells as its frame has times.

use std::collections::HashMap;

use super::{NamedReading, PointNames};
use crate::mqtt::TopicName;

/// The readings of several points, taken at the same times.
#[derive(Debug)]
pub(super) struct PointFrame<'a> {
    /// In milliseconds since the Unix epoch, in the order in which they came.
    pub(super) times: Vec<i64>,
    /// False if these are times of a clock that was not set.
    pub(super) clock_set: bool,
    /// One of each point; of a point that is in more than one frame another in each.
    pub(super) columns: Vec<FrameColumn<'a>>,
}

/// The readings of a point.
#[derive(Debug)]
pub(super) struct FrameColumn<'a> {
    pub(super) names: &'a PointNames,
    /// By time; `None` where the point was not read.
    pub(super) cells: Vec<Option<NamedReading<'a>>>,
}

/// Readings of a point, in their order.
struct PointSeries<'a> {
    clock_set: bool,
    names: &'a PointNames,
    readings: Vec<NamedReading<'a>>,
}

impl PointSeries<'_> {
    fn times(&self) -> impl Iterator<Item = i64> {
        self.readings.iter().map(|named| named.time.unix_ms)
    }
}

/// Puts points together that were read at the same times, or at most of them.
pub(super) fn frames<'a>(readings: &[NamedReading<'a>]) -> Vec<PointFrame<'a>> {
    let mut series = series(readings);
    series.sort_by_key(|series| std::cmp::Reverse(series.readings.len()));
    let mut frames: Vec<PointFrame<'_>> = Vec::new();
    for series in series {
        if !frames.iter_mut().any(|frame| frame.take(&series)) {
            frames.push(PointFrame::of(&series));
        }
    }
    frames
}

fn series<'a>(readings: &[NamedReading<'a>]) -> Vec<PointSeries<'a>> {
    let mut all: Vec<PointSeries<'_>> = Vec::new();
    let mut places: HashMap<(&TopicName, bool), usize> = HashMap::new();
    for named in readings {
        let clock_set = named.time.clock_set;
        let place = places.entry((&named.names.topic, clock_set));
        let place = *place.or_insert_with(|| {
            all.push(PointSeries {
                clock_set,
                names: named.names,
                readings: Vec::new(),
            });
            all.len() - 1
        });
        if let Some(series) = all.get_mut(place) {
            series.readings.push(*named);
        }
    }
    all
}

impl<'a> PointFrame<'a> {
    fn of(series: &PointSeries<'a>) -> Self {
        Self {
            times: series.times().collect(),
            clock_set: series.clock_set,
            columns: vec![FrameColumn {
                names: series.names,
                cells: series.readings.iter().copied().map(Some).collect(),
            }],
        }
    }

    /// Takes a point that was read at some of its times, and at half of them at least. False if it
    /// is none.
    fn take(&mut self, series: &PointSeries<'a>) -> bool {
        if series.clock_set != self.clock_set || series.readings.len() * 2 < self.times.len() {
            return false;
        }
        if !series
            .times()
            .next()
            .is_some_and(|first| self.times.contains(&first))
        {
            return false;
        }
        let mut left = series.readings.iter().peekable();
        let cell = |time: &i64| left.next_if(|own| own.time.unix_ms == *time).copied();
        let cells: Vec<Option<NamedReading<'_>>> = self.times.iter().map(cell).collect();
        let is_all = left.next().is_none();
        if is_all {
            self.columns.push(FrameColumn {
                names: series.names,
                cells,
            });
        }
        is_all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::samples::{NamedSample, named};
    use crate::reading::Value;

    const AT: i64 = 1_769_847_330_250;

    /// The times, names and gaps of frames.
    fn shapes(samples: &[NamedSample]) -> Vec<(Vec<i64>, String)> {
        let shape = |frame: &PointFrame<'_>| {
            let column = |column: &FrameColumn<'_>| {
                let cells = column.cells.iter();
                let cells: String = cells
                    .map(|cell| if cell.is_some() { 'x' } else { '-' })
                    .collect();
                format!("{} {cells}", column.names.point)
            };
            let columns: Vec<String> = frame.columns.iter().map(column).collect();
            let times = frame.times.iter().map(|time| time - AT).collect();
            (times, columns.join(", "))
        };
        frames(&named(samples)).iter().map(shape).collect()
    }

    fn sample(topic: &'static str, after: i64) -> NamedSample {
        NamedSample::new(topic, AT + after, Value::UInt(7))
    }

    #[test]
    fn points_of_the_same_times_share_a_frame_and_others_have_their_own() {
        let samples = [
            sample("s/d/late", 2),
            sample("s/d/a", 0),
            sample("s/d/b", 0),
            sample("s/d/a", 10),
            sample("s/d/a", 20),
            sample("s/d/b", 20),
            sample("s/d/late", 12),
            sample("s/d/seldom", 10),
            NamedSample::new("s/d/a", 5, Value::UInt(7)),
        ];
        assert_eq!(
            shapes(&samples),
            [
                (vec![0, 10, 20], "a xxx, b x-x".to_owned()),
                (vec![2, 12], "late xx".to_owned()),
                (vec![10], "seldom x".to_owned()),
                (vec![5 - AT], "a x".to_owned()),
            ]
        );
    }

    #[test]
    fn a_clock_that_goes_back_loses_nothing() {
        let samples = [sample("s/d/a", 10), sample("s/d/a", 0), sample("s/d/a", 0)];
        assert_eq!(shapes(&samples), [(vec![10, 0, 0], "a xxx".to_owned())]);
    }
}
