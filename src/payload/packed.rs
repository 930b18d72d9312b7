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
    /// The series of its number: that of an outbox. `None` without a number.
    pub series: Option<u64>,
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
                    series: Some(series),
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
mod tests;
