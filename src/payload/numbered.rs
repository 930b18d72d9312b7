//! Readings out of numbered columns, as a receiver of packed frames gets them before it has a
//! schema. Pure.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;

use super::decimal::{self, MOST_DIGITS};
use super::pack::MOST_CELLS;
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
    series: u64,
    numbers: Vec<[u64; 2]>,
}

/// Column, row, quality, reason, age in seconds.
#[derive(Deserialize)]
struct NotGoodJson(usize, usize, String, String, f64);

/// The series and the readings of a payload; `None` if it is none of numbered columns.
pub(super) fn decode(payload: &[u8]) -> Option<(u64, Vec<UnpackedReading>)> {
    let frames: Vec<ColumnsFrame> = serde_json::from_slice(payload).ok()?;
    let series = frames.first()?.series;
    let mut readings = Vec::new();
    for frame in &frames {
        frame.unpack(&mut readings)?;
    }
    readings.sort_by_key(|own| own.number);
    Some((series, readings))
}

impl ColumnsFrame {
    fn unpack(&self, into: &mut Vec<UnpackedReading>) -> Option<()> {
        let total = self
            .numbers
            .iter()
            .try_fold(0_u64, |sum, [_, count]| sum.checked_add(*count));
        let most = u64::try_from(MOST_CELLS).unwrap_or(u64::MAX);
        total.filter(|total| *total <= most)?;
        let runs = self.numbers.iter();
        let mut numbers =
            runs.flat_map(|[first, count]| (0..*count).map(|more| first.wrapping_add(more)));
        let times = summed(&self.times, 2);
        let not_good = self.quality.iter();
        let not_good: HashMap<(usize, usize), &NotGoodJson> =
            not_good.map(|own| ((own.1, own.0), own)).collect();
        let columns: Vec<(TopicName, Vec<Option<Value>>)> = (0..self.names.len())
            .map(|column| self.column(column))
            .collect::<Option<_>>()?;
        for (row, time) in times.iter().enumerate() {
            for (column, (topic, values)) in columns.iter().enumerate() {
                let value = values.get(row).cloned().flatten();
                let quality = not_good.get(&(row, column));
                if value.is_none() && quality.is_none() {
                    continue;
                }
                let mut time = Timestamp::at(*time);
                time.clock_set &= self.clock.is_none();
                into.push(UnpackedReading {
                    number: numbers.next()?,
                    topic: topic.clone(),
                    unit: None,
                    reading: Reading {
                        point: PointId(u32::MAX),
                        value,
                        time,
                        quality: quality
                            .map_or(Some(Quality::Good), |own| quality_of(&own.2, &own.3))?,
                        age: quality.map_or(Some(Duration::ZERO), |own| {
                            Duration::try_from_secs_f64(own.4).ok()
                        })?,
                    },
                });
            }
        }
        Some(())
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

fn quality_of(name: &str, reason: &str) -> Option<Quality> {
    match name {
        "stale" => Some(Quality::Stale(reason.into())),
        "bad" => Some(Quality::Bad(reason.into())),
        _ => None,
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
