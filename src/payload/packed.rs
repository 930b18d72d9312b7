//! Readings in packed frames, and back. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::frame::{PointFrame, frames};
use super::pack::{
    NotGood, NumberRun, PackCells, PackColumn, PackError, PackFrame, PackMessage, f32_of_order,
    f64_of_order, order_of_f32, order_of_f64,
};
use super::schema::{ColumnType, FrameSchema, SchemaColumn};
use super::{NamedReading, decimal, json, value};
use crate::mqtt::TopicName;
use crate::reading::{PointId, Quality, Reading, Timestamp, Value};

/// A reading of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct UnpackedReading {
    /// The series of its number: that of an outbox.
    pub series: u64,
    /// Its number in the series.
    pub number: u64,
    /// The local topic of its point.
    pub topic: TopicName,
    /// The unit of its point.
    pub unit: Option<Arc<str>>,
    /// The reading; its point is not known.
    pub reading: Reading,
}

/// The readings of a column, one for each time.
type FrameCells<'a> = Vec<Option<NamedReading<'a>>>;

/// A cell of a column.
#[derive(Debug, Clone)]
enum Cell {
    Number(i64),
    Text(Arc<str>),
}

impl FrameSchema {
    /// The frames of readings; those that the schema has no place for are left out.
    pub fn frames(&self, readings: &[NamedReading<'_>]) -> Vec<PackFrame> {
        let frames = frames(readings);
        let frames = frames.iter().map(|frame| self.frame(frame));
        frames.filter(|frame| !frame.columns.is_empty()).collect()
    }

    fn frame(&self, frame: &PointFrame<'_>) -> PackFrame {
        let columns = self.by_place(frame);
        let packed = columns.iter();
        let packed = packed.filter_map(|(place, cells)| self.column(*place, cells));
        let (mut numbers, mut not_good) = (Vec::new(), Vec::new());
        for row in 0..frame.times.len() {
            for (column, cells) in columns.values().enumerate() {
                let Some(named) = cells.get(row).copied().flatten() else {
                    continue;
                };
                numbers.push(named.number);
                if named.reading.quality != Quality::Good {
                    not_good.push(NotGood {
                        row,
                        column,
                        quality: named.reading.quality.clone(),
                        age: named.reading.age,
                    });
                }
            }
        }
        PackFrame {
            times: frame.times.clone(),
            clock_set: frame.clock_set,
            columns: packed.collect(),
            not_good,
            numbers: NumberRun::of(numbers.into_iter()),
        }
    }

    /// The readings of a frame by the places of their columns.
    fn by_place<'a>(&self, frame: &PointFrame<'a>) -> BTreeMap<usize, FrameCells<'a>> {
        let mut places: BTreeMap<usize, FrameCells<'_>> = BTreeMap::new();
        for column in &frame.columns {
            for (row, named) in column.cells.iter().enumerate() {
                let Some(named) = named.filter(NamedReading::says_something) else {
                    continue;
                };
                let value = named.reading.value.as_ref();
                let Some(place) = self.place(&named.names.topic, value) else {
                    continue;
                };
                let cells = places.entry(place);
                let cells = cells.or_insert_with(|| vec![None; frame.times.len()]);
                if let Some(cell) = cells.get_mut(row) {
                    *cell = Some(named);
                }
            }
        }
        places
    }

    fn column(&self, place: usize, cells: &[Option<NamedReading<'_>>]) -> Option<PackColumn> {
        let column = self.columns.get(place)?;
        let cell = |named: &Option<NamedReading<'_>>| {
            let named = (*named)?;
            column.cell(named.reading.value.as_ref()?)
        };
        let cells = cells.iter().map(cell);
        let cells = if column.is_text() {
            let text = |cell: Option<Cell>| match cell {
                Some(Cell::Text(text)) => Some(text),
                _ => None,
            };
            PackCells::Texts(cells.map(text).collect())
        } else {
            let number = |cell: Option<Cell>| match cell {
                Some(Cell::Number(number)) => Some(number),
                _ => None,
            };
            PackCells::Numbers(cells.map(number).collect())
        };
        Some(PackColumn { place, cells })
    }

    /// The message of frames of this schema.
    pub fn encode(&self, series: u64, frames: Vec<PackFrame>) -> Result<Vec<u8>, PackError> {
        PackMessage { series, frames }.encode(&self.codes)
    }

    /// The readings of a message of this schema, in the order of their numbers.
    pub fn decode(&self, message: &[u8]) -> Result<Vec<UnpackedReading>, PackError> {
        let PackMessage { series, frames } = PackMessage::decode(message, &self.codes)?;
        let mut readings = Vec::new();
        for frame in &frames {
            self.unpack(series, frame, &mut readings)?;
        }
        readings.sort_by_key(|own| own.number);
        Ok(readings)
    }

    fn unpack(
        &self,
        series: u64,
        frame: &PackFrame,
        into: &mut Vec<UnpackedReading>,
    ) -> Result<(), PackError> {
        let mut numbers = frame.numbers.iter().flat_map(|run| run.numbers());
        let mut not_good = frame.not_good.iter().peekable();
        for (row, time) in frame.times.iter().enumerate() {
            for (place, own) in frame.columns.iter().enumerate() {
                let is_it = |not_good: &&NotGood| not_good.row == row && not_good.column == place;
                let not_good = not_good.next_if(is_it);
                let column = self.columns.get(own.place);
                let column = column.ok_or(PackError::UNKNOWN_COLUMN)?;
                let value = column.value(&own.cells, row)?;
                if value.is_none() && not_good.is_none() {
                    continue;
                }
                let mut time = Timestamp::at(*time);
                time.clock_set &= frame.clock_set;
                into.push(UnpackedReading {
                    series,
                    number: numbers.next().unwrap_or_default(),
                    topic: column.topic.clone(),
                    unit: column.unit.clone(),
                    reading: Reading {
                        point: PointId(u32::MAX),
                        value,
                        time,
                        quality: not_good.map_or(Quality::Good, |own| own.quality.clone()),
                        age: not_good.map_or(Duration::ZERO, |own| own.age),
                    },
                });
            }
        }
        Ok(())
    }
}

impl SchemaColumn {
    fn is_text(&self) -> bool {
        matches!(self.of, ColumnType::Text | ColumnType::List)
    }

    /// A value as the cell of a column.
    fn cell(&self, value: &Value) -> Option<Cell> {
        Some(match value {
            Value::Bool(truth) => Cell::Number((*truth).into()),
            Value::Int(int) => Cell::Number(*int),
            Value::UInt(uint) => Cell::Number(uint.cast_signed()),
            Value::F32(float) => Cell::Number(order_of_f32(*float)),
            Value::F64(float) if self.of == ColumnType::Decimal => {
                Cell::Number(decimal::units(*float, self.decimals)?)
            }
            Value::F64(float) => Cell::Number(order_of_f64(*float)),
            Value::Text(text) => Cell::Text(Arc::clone(text)),
            Value::List(_) => Cell::Text(value::json(value).into()),
        })
    }

    /// The value of a cell; `None` of an empty one.
    fn value(&self, cells: &PackCells, row: usize) -> Result<Option<Value>, PackError> {
        let number = match cells {
            PackCells::Texts(texts) => {
                let text = texts.get(row).cloned().flatten();
                return text.map(|text| self.text(text)).transpose();
            }
            PackCells::Numbers(numbers) => numbers.get(row).copied().flatten(),
        };
        number.map(|number| self.number(number)).transpose()
    }

    fn number(&self, number: i64) -> Result<Value, PackError> {
        Ok(match self.of {
            ColumnType::Bool => Value::Bool(number != 0),
            ColumnType::Int => Value::Int(number),
            ColumnType::UInt => Value::UInt(number.cast_unsigned()),
            ColumnType::Decimal => Value::F64(decimal::number(number, self.decimals)),
            ColumnType::F32 => Value::F32(f32_of_order(number).ok_or(PackError::NO_VALUE)?),
            ColumnType::F64 => Value::F64(f64_of_order(number)),
            ColumnType::Text | ColumnType::List | ColumnType::None => {
                return Err(PackError::NO_VALUE);
            }
        })
    }

    fn text(&self, text: Arc<str>) -> Result<Value, PackError> {
        match self.of {
            ColumnType::Text => Ok(Value::Text(text)),
            ColumnType::List => json::value(&text).ok_or(PackError::NO_VALUE),
            _ => Err(PackError::NO_VALUE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::pack::{ColumnKind, hash_of};
    use crate::payload::samples::{NamedSample, named};
    use proptest::prelude::*;

    const AT: i64 = 1_769_847_330_250;

    /// The readings with their numbers, in an order of their own: that of numbers.
    fn told(readings: &[UnpackedReading]) -> Vec<String> {
        let told = |own: &UnpackedReading| {
            let reading = &own.reading;
            let age = reading.age.as_millis();
            let value = reading.value.as_ref().map(bits);
            format!(
                "{} {} {} {value:?} {} {} {:?} {age}",
                own.series,
                own.number,
                own.topic,
                reading.time.unix_ms,
                reading.time.clock_set,
                reading.quality
            )
        };
        readings.iter().map(told).collect()
    }

    /// NaN is not equal to itself, and 0 is equal to -0: floats are compared by their bits.
    fn bits(value: &Value) -> String {
        match value {
            Value::F32(float) => format!("f32 {:x}", float.to_bits()),
            Value::F64(float) => format!("f64 {:x}", float.to_bits()),
            other => format!("{other:?}"),
        }
    }

    /// What a receiver makes of readings that are sent by a schema, which has grown for them.
    fn sent(schema: &mut FrameSchema, samples: &[NamedSample]) -> Vec<UnpackedReading> {
        let mut readings = named(samples);
        for (number, reading) in (5_000..).zip(&mut readings) {
            reading.number = number;
        }
        if let Some(grown) = schema.grown(&readings) {
            assert_ne!(grown.hash(), schema.hash());
            *schema = grown;
        }
        assert_eq!(schema.grown(&readings), None);
        let message = schema.encode(7, schema.frames(&readings)).unwrap();
        let there = FrameSchema::from_json(schema.to_json().as_bytes()).unwrap();
        assert_eq!(&there, schema);
        assert_eq!(hash_of(&message), Some(schema.codes.hash));
        there.decode(&message).unwrap()
    }

    fn expected(samples: &[NamedSample]) -> Vec<UnpackedReading> {
        let own = |(number, sample): (u64, &NamedSample)| UnpackedReading {
            series: 7,
            number,
            topic: sample.names.topic.clone(),
            unit: None,
            reading: sample.reading.clone(),
        };
        (5_000..).zip(samples).map(own).collect()
    }

    fn sample(topic: &'static str, after: i64, value: Value) -> NamedSample {
        NamedSample::new(topic, AT + after, value)
    }

    #[test]
    fn a_schema_grows_with_the_values_and_writes_what_it_wrote_before() {
        let mut schema = FrameSchema::default();
        let mut check = |value: Value, columns: &str| {
            let samples = [sample("s7/pump/flow", 0, value)];
            assert_eq!(
                told(&sent(&mut schema, &samples)),
                told(&expected(&samples))
            );
            let own = schema.columns.iter();
            let own: Vec<String> = own
                .map(|own| format!("{:?}{}", own.of, own.decimals))
                .collect();
            assert_eq!(own.join(" "), columns);
        };
        check(Value::F64(12.3), "Decimal1");
        check(Value::F64(12.0), "Decimal1");
        check(Value::F64(0.125), "Decimal3");
        check(Value::F64(1e15), "Decimal3 F640");
        check(Value::F64(-0.0), "Decimal3 F640");
        check(Value::UInt(u64::MAX), "Decimal3 F640 UInt0");
        check(Value::F32(f32::NAN), "Decimal3 F640 UInt0 F320");
    }

    #[test]
    fn a_point_without_a_value_gets_its_type_with_the_first_one() {
        let mut schema = FrameSchema::default();
        let mut samples = [sample("s7/pump/mode", 0, Value::Bool(true))];
        samples[0].reading.value = None;
        samples[0].reading.quality = Quality::Bad("no answer".into());
        assert_eq!(
            told(&sent(&mut schema, &samples)),
            told(&expected(&samples))
        );
        assert_eq!(schema.columns[0].of, ColumnType::None);
        let text = [sample("s7/pump/mode", 0, Value::Text("auto".into()))];
        assert_eq!(told(&sent(&mut schema, &text)), told(&expected(&text)));
        assert_eq!(schema.columns[0].of, ColumnType::Text);
        assert_eq!(
            told(&sent(&mut schema, &samples)),
            told(&expected(&samples))
        );
        assert_eq!(schema.columns(), 1);
    }

    #[test]
    fn what_is_learned_makes_frames_smaller_and_stays_when_a_schema_grows() {
        let flow = |row: i64| 200.0 + 0.1 * f64::from(i32::try_from(row * 37 % 11).unwrap());
        let row = |row: i64| {
            let total = u64::try_from(1_000 + 17 * row).unwrap();
            let flow = (flow(row) * 10.0).round() / 10.0;
            [
                sample("s7/pump/flow", row * 10_000, Value::F64(flow)),
                sample("s7/pump/total", row * 10_000, Value::UInt(total)),
                sample("s7/pump/on", row * 10_000, Value::Bool(true)),
            ]
        };
        let rows = |from: i64, to: i64| -> Vec<NamedSample> { (from..to).flat_map(row).collect() };
        let mut schema = FrameSchema::default();
        let samples = rows(0, 400);
        sent(&mut schema, &samples);
        let frames = schema.frames(&named(&samples));
        let learned = schema.clone().learned(&frames);
        let kinds = [ColumnKind::Scaled, ColumnKind::Counter, ColumnKind::Status];
        assert_eq!(learned.codes.kinds, kinds);
        let size = |schema: &FrameSchema, rows: &[NamedSample]| {
            schema.encode(7, schema.frames(&named(rows))).unwrap().len()
        };
        let next = rows(400, 420);
        assert!(size(&learned, &next) * 4 < size(&schema, &next) * 3);
        let mut grown = learned.clone();
        let mut other = rows(420, 421);
        other.push(sample("s7/pump/level", 4_200_000, Value::F64(0.125)));
        assert_eq!(told(&sent(&mut grown, &other)), told(&expected(&other)));
        assert!(grown.has_model());
        assert!(size(&grown, &next) * 4 < size(&schema, &next) * 3);
        other[0].reading.value = Some(Value::F64(200.125));
        assert_eq!(told(&sent(&mut grown, &other)), told(&expected(&other)));
        assert!(grown.has_model());
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        let mut schema = FrameSchema::default();
        sent(&mut schema, &[sample("s7/pump/flow", 0, Value::F64(12.5))]);
        let good = schema.to_json();
        for (part, other) in [
            ("\"version\":1", "\"version\":2"),
            ("[\"decimal\"]", "[\"decimal\",\"uint\"]"),
            ("\"decimals\":[1]", "\"decimals\":[10]"),
            ("\"names\":[\"flow\"]", "\"names\":[\"#\"]"),
            ("\"hash\":\"", "\"hash\":\"x"),
            ("\"units\":[null]", "\"units\":[null],\"model\":\"AAE=\""),
        ] {
            assert!(good.contains(part), "{good}");
            let bad = good.replace(part, other);
            assert!(FrameSchema::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            4 => (-3000_i32..3000, 0..4_i32).prop_map(|(int, digits)| {
                Value::F64(f64::from(int) / 10_f64.powi(digits))
            }),
            2 => any::<i64>().prop_map(Value::Int),
            2 => any::<u64>().prop_map(Value::UInt),
            1 => any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
            1 => any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))),
            1 => any::<bool>().prop_map(Value::Bool),
            1 => "[a-z\"]{0,3}".prop_map(|text| Value::Text(text.into())),
            1 => prop::collection::vec("[a-z\"]{0,3}", 0..3).prop_map(|list| {
                Value::List(list.into_iter().map(|text| Value::Text(text.into())).collect())
            }),
        ]
    }

    fn any_quality() -> impl Strategy<Value = Quality> {
        prop_oneof![
            8 => Just(Quality::Good),
            1 => "[a-c]{0,2}".prop_map(|reason| Quality::Stale(reason.into())),
            1 => "[a-c]{0,2}".prop_map(|reason| Quality::Bad(reason.into())),
        ]
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn a_receiver_finds_every_reading_and_its_number(
            batches in prop::collection::vec(prop::collection::vec(
                (0..4_usize, 0..4_i64, prop::option::weighted(0.9, any_value()), any_quality(), any::<bool>(), 0..1000_u64),
                1..40,
            ), 1..4),
        ) {
            let topics = ["s7/pump/a", "s7/pump/b", "s7/valve/a", "s8/c"];
            let mut schema = FrameSchema::default();
            for batch in batches {
                let mut samples = Vec::new();
                for (point, time, value, quality, is_set, age) in batch {
                    let mut sample = sample(topics[point], time * 1000, Value::Bool(true));
                    sample.reading.time.clock_set = is_set;
                    sample.reading.age = Duration::from_millis(age);
                    let is_good = quality == Quality::Good;
                    if is_good {
                        sample.reading.age = Duration::ZERO;
                    }
                    sample.reading.quality = quality;
                    sample.reading.value = value.or(is_good.then_some(Value::UInt(3)));
                    samples.push(sample);
                }
                prop_assert_eq!(told(&sent(&mut schema, &samples)), told(&expected(&samples)));
            }
        }
    }
}
