//! Readings by point, with differences instead of numbers. Pure.
//!
//! ```json
//! [{"base":"s7/pump/","times":[1769847330250,10000,0],"names":["flow","mode"],"decimals":[1,0],
//!   "order":[1,0],"values":[[123,1,-2],["auto","auto","man"]]}]
//! ```
//!
//! * `times` are milliseconds since 1970: the first one, the step to the second, and from then on
//!   by how much a step differs from the one before.
//! * A column of `order` 1 has its first value and the steps from each to the next; one of `order`
//!   2 is like `times`; both count in units of the last of its `decimals`. One of `order` 0 has its
//!   values as they are.
//! * `null` is a time without a value; the next step counts from the last value.
//! * `quality` lists the readings that are not good: column, row, quality, reason, age in seconds.
//! * `series` and `numbers`, where readings have to be known again: the runs of consecutive numbers
//!   of the readings, row by row, those of a row in the order of columns, as first one and count.
//! * `"clock":"unset"` marks times that were taken before the clock of the gateway was set.
//! * 32-bit floats have seven digits, as in every format that people can read.

use serde::Serialize;

use super::frame::{FrameColumn, PointFrame, frames};
use super::pack::NumberRun;
use super::{NamedReading, decimal, json, names, value};
use crate::reading::Value;

#[derive(Serialize)]
struct FrameJson<'a> {
    base: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<&'static str>,
    times: Vec<i64>,
    names: Vec<&'a str>,
    decimals: Vec<u8>,
    order: Vec<u8>,
    values: Vec<Vec<Option<json::Number<'a>>>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    quality: Vec<QualityJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    series: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    numbers: Vec<[u64; 2]>,
}

/// Column, row, quality, reason, age in seconds.
#[derive(Serialize)]
struct QualityJson<'a>(usize, usize, &'static str, &'a str, f64);

/// Readings in frames, in the order of their points.
pub(super) fn encode(readings: &[NamedReading<'_>]) -> String {
    let frames = frames(readings);
    let shapes: Vec<FrameJson<'_>> = frames.iter().map(shape).collect();
    json::text(&shapes)
}

/// The same with the numbers that the readings have in a series.
pub(super) fn encode_numbered(series: u64, readings: &[NamedReading<'_>]) -> String {
    let frames = frames(readings);
    let numbered = |frame| FrameJson {
        series: Some(series),
        numbers: numbers(frame),
        ..shape(frame)
    };
    let shapes: Vec<FrameJson<'_>> = frames.iter().map(numbered).collect();
    json::text(&shapes)
}

fn numbers(frame: &PointFrame<'_>) -> Vec<[u64; 2]> {
    let row = |row: usize| {
        let cells = frame
            .columns
            .iter()
            .map(move |column| column.cells.get(row));
        cells.flatten().flatten().map(|named| named.number)
    };
    let runs = NumberRun::of((0..frame.times.len()).flat_map(row));
    runs.iter().map(|run| [run.first, run.count]).collect()
}

fn shape<'a>(frame: &'a PointFrame<'a>) -> FrameJson<'a> {
    let topics = frame
        .columns
        .iter()
        .map(|column| column.names.topic.as_str());
    let base = names::common_levels(topics.clone());
    let mut shape = FrameJson {
        base,
        clock: (!frame.clock_set).then_some("unset"),
        times: differences(&frame.times, 2),
        names: topics
            .filter_map(|topic| topic.strip_prefix(base))
            .collect(),
        decimals: Vec::new(),
        order: Vec::new(),
        values: Vec::new(),
        quality: Vec::new(),
        series: None,
        numbers: Vec::new(),
    };
    for (number, column) in frame.columns.iter().enumerate() {
        let written = WrittenColumn::of(column);
        shape.decimals.push(written.decimals);
        shape.order.push(written.order);
        shape.values.push(written.values);
        shape.quality.extend(qualities(number, column));
    }
    shape
}

fn qualities<'a>(
    number: usize,
    column: &'a FrameColumn<'a>,
) -> impl Iterator<Item = QualityJson<'a>> {
    let readings = column.cells.iter().enumerate();
    readings.filter_map(move |(row, cell)| {
        let reading = (*cell)?.reading;
        let reason = reading.quality.reason()?;
        let age = reading.age.as_secs_f64();
        Some(QualityJson(
            number,
            row,
            reading.quality.name(),
            reason,
            age,
        ))
    })
}

/// A column as it is written.
struct WrittenColumn<'a> {
    decimals: u8,
    order: u8,
    values: Vec<Option<json::Number<'a>>>,
}

impl<'a> WrittenColumn<'a> {
    fn of(column: &'a FrameColumn<'a>) -> Self {
        let value =
            |cell: &Option<NamedReading<'a>>| cell.and_then(|named| named.reading.value.as_ref());
        let values: Vec<Option<&Value>> = column.cells.iter().map(value).collect();
        let there: Vec<&Value> = values.iter().flatten().copied().collect();
        match units(&there) {
            Some((decimals, units)) => {
                let (order, differences) = fewest_bytes(&units);
                let mut differences = differences.into_iter().map(json::Number::Int);
                let written = values
                    .iter()
                    .map(|value| value.and_then(|_| differences.next()));
                Self {
                    decimals,
                    order,
                    values: written.collect(),
                }
            }
            None => Self {
                decimals: 0,
                order: 0,
                values: values
                    .into_iter()
                    .map(|value| value.map(json::Number::from))
                    .collect(),
            },
        }
    }
}

/// Values in units of their last digit, and its digits; `None` if they are none, or not numbers of
/// one kind.
fn units(values: &[&Value]) -> Option<(u8, Vec<i64>)> {
    let integer = |value: &&Value| match value {
        Value::Int(int) => Some(*int),
        Value::UInt(uint) => i64::try_from(*uint).ok(),
        _ => None,
    };
    let float = |value: &&Value| match value {
        Value::F64(float) => Some(*float),
        Value::F32(_) => value::number(value)?.parse().ok(),
        _ => None,
    };
    let is_small = |int: &i64| int.unsigned_abs() < 1 << 51;
    let integers: Option<Vec<i64>> = values.iter().map(integer).collect();
    match integers {
        Some(integers) => {
            (!integers.is_empty() && integers.iter().all(is_small)).then_some((0, integers))
        }
        None => decimal::common_units(&values.iter().map(float).collect::<Option<Vec<_>>>()?),
    }
}

/// The differences that are shortest as text, and their order.
fn fewest_bytes(units: &[i64]) -> (u8, Vec<i64>) {
    let text_of = |differences: &[i64]| differences.iter().map(digits).sum::<u32>();
    let (steps, changes) = (differences(units, 1), differences(units, 2));
    if text_of(&changes) < text_of(&steps) {
        (2, changes)
    } else {
        (1, steps)
    }
}

fn digits(number: &i64) -> u32 {
    1 + number.checked_ilog10().unwrap_or(0) + u32::from(*number < 0)
}

/// The first number and the steps to each of the others; in a second order the same of the steps.
fn differences(numbers: &[i64], order: u8) -> Vec<i64> {
    let (mut before, mut step_before) = (0_i64, 0_i64);
    let difference = |(place, number): (usize, &i64)| {
        let step = number.wrapping_sub(before);
        let is_first_step = place < 2;
        let change = step.wrapping_sub(step_before);
        (before, step_before) = (*number, step);
        if order < 2 || is_first_step {
            step
        } else {
            change
        }
    };
    numbers.iter().enumerate().map(difference).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::payload::samples::{NamedSample, named};
    use crate::reading::Quality;
    use proptest::prelude::*;

    const AT: i64 = 1_769_847_330_250;

    fn sample(topic: &'static str, after: i64, value: Value) -> NamedSample {
        NamedSample::new(topic, AT + after, value)
    }

    #[test]
    fn columns_have_steps_and_texts_stay_as_they_are() {
        let mut samples = vec![
            sample("s7/pump/flow", 0, Value::F64(12.3)),
            sample("s7/pump/mode", 0, Value::Text("auto".into())),
            sample("s7/pump/total", 0, Value::UInt(1000)),
            sample("s7/pump/f32", 0, Value::F32(229.400_01)),
        ];
        for (time, flow, total) in [
            (10_000, 12.25, 1017),
            (20_000, 12.5, 1034),
            (30_001, 12.5, 1051),
        ] {
            samples.push(sample("s7/pump/flow", time, Value::F64(flow)));
            samples.push(sample("s7/pump/total", time, Value::UInt(total)));
            samples.push(sample("s7/pump/f32", time, Value::F32(229.5)));
        }
        samples[4].reading.quality = Quality::Stale("no answer".into());
        samples[4].reading.age = Duration::from_millis(1500);
        samples[5].reading.value = None;
        samples[5].reading.quality = Quality::Bad("no answer".into());
        assert_eq!(
            encode(&named(&samples)),
            concat!(
                r#"[{"base":"s7/pump/","times":[1769847330250,10000,0,1],"names":["flow","total","f32"],"#,
                r#""decimals":[2,0,1],"order":[1,1,1],"values":[[1230,-5,25,0],[1000,null,34,17],[2294,1,0,0]],"#,
                r#""quality":[[0,1,"stale","no answer",1.5],[1,1,"bad","no answer",0.0]]},"#,
                r#"{"base":"s7/pump/","times":[1769847330250],"names":["mode"],"#,
                r#""decimals":[0],"order":[0],"values":[["auto"]]}]"#
            )
        );
    }

    #[test]
    fn a_clock_that_was_not_set_says_so() {
        let samples = [NamedSample::new("s7/pump/on", 5, Value::Bool(true))];
        assert_eq!(
            encode(&named(&samples)),
            r#"[{"base":"s7/pump/","clock":"unset","times":[5],"names":["on"],"decimals":[0],"order":[0],"values":[[true]]}]"#
        );
    }

    /// The numbers of their differences, as a reader makes them.
    fn summed(differences: &[i64], order: usize) -> Vec<i64> {
        let mut numbers = differences.to_vec();
        for place in (1..=order).rev() {
            for index in place..numbers.len() {
                numbers[index] += numbers[index - 1];
            }
        }
        numbers
    }

    /// Topic, time and value of the readings in a payload.
    fn decoded(payload: &str) -> Vec<(String, i64, serde_json::Value)> {
        let frames: Vec<serde_json::Value> = serde_json::from_str(payload).unwrap();
        let mut found = Vec::new();
        for frame in &frames {
            let integers = |list: &serde_json::Value| -> Vec<i64> {
                let list = list.as_array().unwrap().iter();
                list.filter_map(serde_json::Value::as_i64).collect()
            };
            let times = summed(&integers(&frame["times"]), 2);
            for (column, values) in frame["values"].as_array().unwrap().iter().enumerate() {
                let base = frame["base"].as_str().unwrap();
                let topic = format!("{base}{}", frame["names"][column].as_str().unwrap());
                let order = usize::try_from(frame["order"][column].as_u64().unwrap()).unwrap();
                let decimals = i32::try_from(frame["decimals"][column].as_i64().unwrap()).unwrap();
                let mut numbers = summed(&integers(values), order).into_iter();
                for (time, value) in times.iter().zip(values.as_array().unwrap()) {
                    let value = match value {
                        serde_json::Value::Null => continue,
                        plain if order == 0 => plain.clone(),
                        _ => (numbers.next().unwrap() as f64 / 10_f64.powi(decimals)).into(),
                    };
                    found.push((topic.clone(), *time, value));
                }
            }
        }
        found
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            4 => (-3000_i32..3000, 0..4_i32).prop_map(|(int, digits)| {
                Value::F64(f64::from(int) / 10_f64.powi(digits))
            }),
            4 => (0..1000_i64).prop_map(Value::Int),
            1 => any::<i64>().prop_map(Value::Int),
            1 => any::<u64>().prop_map(Value::UInt),
            1 => (-1e30..1e30_f64).prop_map(Value::F64),
            1 => (-1e30..1e30_f32).prop_map(Value::F32),
            1 => any::<bool>().prop_map(Value::Bool),
            1 => "[a-z\"]{0,3}".prop_map(|text| Value::Text(text.into())),
        ]
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn a_reader_finds_every_reading_again(
            rows in prop::collection::vec((0..4_usize, 0..4_i64, any_value()), 1..60),
        ) {
            let topics = ["s7/pump/a", "s7/pump/b", "s7/valve/a", "s7/valve/c"];
            let samples: Vec<NamedSample> = rows.iter()
                .map(|(point, time, value)| sample(topics[*point], time * 1000, value.clone()))
                .collect();
            let plain = |value: &Value| match serde_json::from_str(&value::json(value)).unwrap() {
                serde_json::Value::Number(number) if number.as_f64().is_some_and(|float| float.abs() < 1e15) => {
                    number.as_f64().into()
                }
                other => other,
            };
            let mut expected: Vec<(String, i64, serde_json::Value)> = samples.iter()
                .map(|sample| {
                    let topic = sample.names.topic.as_str().to_owned();
                    (topic, sample.reading.time.unix_ms, plain(sample.reading.value.as_ref().unwrap()))
                })
                .collect();
            let mut found = decoded(&encode(&named(&samples)));
            for (_, _, value) in &mut found {
                if let Some(float) = value.as_f64().filter(|float| float.abs() < 1e15) {
                    *value = float.into();
                }
            }
            let key = |(topic, time, _): &(String, i64, serde_json::Value)| (topic.clone(), *time);
            expected.sort_by_key(key);
            found.sort_by_key(key);
            prop_assert_eq!(found, expected);
        }
    }
}
