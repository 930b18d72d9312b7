//! Readings out of numbered columns, as a receiver of packed frames gets them before it has a
//! schema. Pure.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;

use super::decimal::{self, MOST_DIGITS};
use super::pack::{MOST_CELLS, NumberRun};
use super::{UnpackedReading, json};
use crate::mqtt::TopicName;
use crate::reading::{PointId, Quality, Reading, Timestamp, Value};

/// A frame of columns.
#[derive(Deserialize)]
struct ColumnsFrame {
    base: String,
    #[serde(default)]
    clock: Option<String>,
    times: Vec<i64>,
    names: Vec<String>,
    decimals: Vec<u8>,
    order: Vec<u8>,
    values: Vec<Vec<serde_json::Value>>,
    #[serde(default)]
    quality: Vec<NotGoodJson>,
    /// Those of an uplink without packed frames, and of a reading that was sent alone, have none.
    series: Option<u64>,
    #[serde(default)]
    numbers: Vec<[u64; 2]>,
}

/// Column, row, quality, reason, age in seconds.
#[derive(Deserialize)]
struct NotGoodJson(usize, usize, String, String, f64);

impl NotGoodJson {
    /// Its quality and age.
    fn told(&self) -> Option<(Quality, Duration)> {
        let Self(_, _, quality, reason, age) = self;
        let reason = reason.as_str().into();
        let quality = match quality.as_str() {
            "stale" => Quality::Stale(reason),
            "bad" => Quality::Bad(reason),
            _ => return None,
        };
        Some((quality, Duration::try_from_secs_f64(*age).ok()?))
    }
}

/// The readings of a payload, in the order of their numbers; `None` if it is none of numbered
/// columns.
pub(super) fn decode(payload: &[u8]) -> Option<Vec<UnpackedReading>> {
    let frames: Vec<ColumnsFrame> = serde_json::from_slice(payload).ok()?;
    let mut readings = Vec::new();
    for frame in &frames {
        frame.unpack(&mut readings)?;
    }
    readings.sort_by_key(|own| own.number);
    (!frames.is_empty()).then_some(readings)
}

impl ColumnsFrame {
    fn unpack(&self, into: &mut Vec<UnpackedReading>) -> Option<()> {
        let mut numbers = self.numbers()?;
        let columns = (0..self.names.len()).map(|column| self.column(column));
        let columns: Vec<(TopicName, Vec<Option<Value>>)> = columns.collect::<Option<_>>()?;
        let not_good = self.quality.iter();
        let not_good: HashMap<(usize, usize), &NotGoodJson> =
            not_good.map(|own| ((own.1, own.0), own)).collect();
        for (row, time) in summed(&self.times, 2).into_iter().enumerate() {
            for (column, (topic, values)) in columns.iter().enumerate() {
                let value = values.get(row).cloned().flatten();
                let not_good = not_good.get(&(row, column));
                if value.is_none() && not_good.is_none() {
                    continue;
                }
                into.push(UnpackedReading {
                    series: self.series,
                    number: self.series.map_or(Some(0), |_| numbers.next())?,
                    topic: topic.clone(),
                    unit: None,
                    reading: self.reading(time, value, not_good.copied())?,
                });
            }
        }
        Some(())
    }

    fn reading(
        &self,
        unix_ms: i64,
        value: Option<Value>,
        not_good: Option<&NotGoodJson>,
    ) -> Option<Reading> {
        let good = Some((Quality::Good, Duration::ZERO));
        let (quality, age) = not_good.map_or(good, NotGoodJson::told)?;
        let mut time = Timestamp::at(unix_ms);
        time.clock_set &= self.clock.is_none();
        Some(Reading {
            point: PointId(u32::MAX),
            value,
            time,
            quality,
            age,
        })
    }

    /// The numbers of its readings; `None` if there are too many of them, or too many cells.
    fn numbers(&self) -> Option<impl Iterator<Item = u64>> {
        let cells = self.times.len().checked_mul(self.names.len());
        cells.filter(|cells| *cells <= MOST_CELLS)?;
        let counts = self.numbers.iter().map(|[_, count]| *count);
        let total = counts.fold(0, u64::saturating_add);
        let most = u64::try_from(MOST_CELLS).unwrap_or(u64::MAX);
        let numbers = |[first, count]: &[u64; 2]| {
            let run = NumberRun {
                first: *first,
                count: *count,
            };
            run.numbers()
        };
        (total <= most).then(|| self.numbers.iter().flat_map(numbers))
    }

    /// The topic and the values of a column.
    fn column(&self, column: usize) -> Option<(TopicName, Vec<Option<Value>>)> {
        let name = self.names.get(column)?;
        let topic = TopicName::new(format!("{}{name}", self.base)).ok()?;
        let (order, decimals) = (*self.order.get(column)?, *self.decimals.get(column)?);
        let cells = self.values.get(column)?;
        if order == 0 {
            let values = cells.iter().map(|cell| json::value_of(cell.clone()));
            return Some((topic, values.collect()));
        }
        let steps: Option<Vec<i64>> = cells
            .iter()
            .filter(|cell| !cell.is_null())
            .map(serde_json::Value::as_i64)
            .collect();
        let mut numbers = summed(&steps?, order).into_iter();
        let value = |units: i64| match decimals {
            0 => Value::Int(units),
            digits => Value::F64(decimal::number(units, digits.min(MOST_DIGITS))),
        };
        let values = cells.iter().map(|cell| {
            (!cell.is_null())
                .then(|| numbers.next().map(value))
                .flatten()
        });
        Some((topic, values.collect()))
    }
}

/// The numbers of differences of an order: that of steps is 1, that of changes of steps is 2.
fn summed(differences: &[i64], order: u8) -> Vec<i64> {
    let (mut last, mut step) = (0_i64, 0_i64);
    let number = |(place, difference): (usize, &i64)| {
        step = if order >= 2 && place >= 2 {
            step.wrapping_add(*difference)
        } else {
            *difference
        };
        last = last.wrapping_add(step);
        last
    };
    differences.iter().enumerate().map(number).collect()
}
