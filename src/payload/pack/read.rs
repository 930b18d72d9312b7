//! Bytes into frames.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};

use super::body::{Body, BodyColumn, body_kind};
use super::head::*;
use super::numbers::take_numbers;
use super::zigzag::take_zigzag;
use super::{ColumnKind, NotGood, PackCells, PackColumn, PackError, PackFrame};
use super::{PackSchema, packed, stream};
use crate::leb128;
use crate::reading::Quality;

/// A frame while it is read.
struct Reader<'a> {
    bytes: Bytes,
    schema: &'a PackSchema,
    flags: u64,
}

/// Reads a frame, whose cells are taken from those that are left.
pub(super) fn decode(
    mut bytes: Bytes,
    schema: &PackSchema,
    left: &mut usize,
) -> Result<PackFrame, PackError> {
    let flags = leb128::take(&mut bytes).ok_or(PackError("cut short"))?;
    let mut reader = Reader {
        flags,
        bytes,
        schema,
    };
    reader.frame(left)
}

impl Reader<'_> {
    fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    fn number(&mut self) -> Result<u64, PackError> {
        leb128::take(&mut self.bytes).ok_or(PackError("a number out of range"))
    }

    fn zigzag(&mut self) -> Result<i64, PackError> {
        take_zigzag(&mut self.bytes).ok_or(PackError("a number out of range"))
    }

    /// A count of what takes at least one byte each.
    fn count(&mut self) -> Result<usize, PackError> {
        let count = usize::try_from(self.number()?).ok();
        let count = count.filter(|count| *count <= self.bytes.len());
        count.ok_or(PackError("cut short"))
    }

    fn frame(&mut self, left: &mut usize) -> Result<PackFrame, PackError> {
        let rows = self.rows()?;
        let (start, step) = (self.zigzag()?, self.step(rows)?);
        let places = self.places()?;
        *left = rows
            .checked_mul(places.len() + 1)
            .and_then(|cells| left.checked_sub(cells))
            .ok_or(PackError("too many cells"))?;
        let is_in_runs = self.has(NUMBERS);
        let numbers = take_numbers(is_in_runs, rows * places.len(), &mut self.bytes)?;
        let texts = self.texts()?;
        let not_good = self.not_good(rows, places.len(), &texts)?;
        let mut body = self.body(rows, &places)?;
        let after = body.times.take();
        let after = after.unwrap_or_else(|| regular(step).take(rows).collect());
        let times = after.iter().map(|after| start.wrapping_add(*after));
        let columns = body.columns.into_iter();
        let columns = columns.map(|column| self.column(column, &texts));
        let mut frame = PackFrame {
            times: times.collect(),
            clock_set: !self.has(CLOCK_UNSET),
            columns: columns.collect::<Result<_, _>>()?,
            not_good,
            numbers: Vec::new(),
        };
        frame.numbers = numbers.of(frame.readings())?;
        Ok(frame)
    }

    fn rows(&mut self) -> Result<usize, PackError> {
        let rows = usize::try_from(self.number()?).ok();
        let rows = rows.filter(|rows| *rows > 0);
        rows.ok_or(PackError("no rows"))
    }

    /// The step between rows that are equally far apart.
    fn step(&mut self, rows: usize) -> Result<i64, PackError> {
        if self.has(IRREGULAR) || rows == 1 {
            return Ok(0);
        }
        self.zigzag()
    }

    fn places(&mut self) -> Result<Vec<usize>, PackError> {
        let known = self.schema.kinds.len();
        if !self.has(SOME_COLUMNS) {
            return Ok((0..known).collect());
        }
        let (mut places, mut next) = (Vec::new(), 0);
        for _ in 0..self.count()? {
            let (gap, count) = (self.number()?, self.number()?);
            let first = gap.checked_add(next).filter(|_| count > 0);
            let end = first.and_then(|first| first.checked_add(count));
            let end = end.filter(|end| *end <= known as u64);
            let end = end.ok_or(PackError::UNKNOWN_COLUMN)?;
            let run =
                usize::try_from(end - count).and_then(|first| Ok(first..usize::try_from(end)?));
            places.extend(run.map_err(|_| PackError::UNKNOWN_COLUMN)?);
            next = end;
        }
        if places.is_empty() {
            return Err(PackError("no columns"));
        }
        Ok(places)
    }

    fn texts(&mut self) -> Result<Vec<Arc<str>>, PackError> {
        let count = if self.has(TEXTS) { self.count()? } else { 0 };
        let mut texts = Vec::new();
        for _ in 0..count {
            let length = self.count()?;
            let text = self.bytes.split_to(length);
            let text = std::str::from_utf8(&text).map_err(|_| PackError("not text"))?;
            texts.push(text.into());
        }
        Ok(texts)
    }

    fn not_good(
        &mut self,
        rows: usize,
        columns: usize,
        texts: &[Arc<str>],
    ) -> Result<Vec<NotGood>, PackError> {
        let count = if self.has(NOT_GOOD) { self.count()? } else { 0 };
        let (mut found, mut next) = (Vec::new(), 0_usize);
        for _ in 0..count {
            let gap = usize::try_from(self.number()?).ok();
            let cell = gap.and_then(|gap| next.checked_add(gap));
            let cell = cell.filter(|cell| *cell < rows * columns);
            let cell = cell.ok_or(PackError("a reading that is not there"))?;
            next = cell + 1;
            let code = self
                .bytes
                .try_get_u8()
                .map_err(|_| PackError("cut short"))?;
            let reason = text(self.number()?, texts)?;
            let quality = match code {
                STALE => Quality::Stale(reason),
                BAD => Quality::Bad(reason),
                _ => return Err(PackError("an unknown quality")),
            };
            found.push(NotGood {
                row: cell / columns,
                column: cell % columns,
                quality,
                age: Duration::from_millis(self.number()?),
            });
        }
        Ok(found)
    }

    fn body(&mut self, rows: usize, places: &[usize]) -> Result<Body, PackError> {
        let column = |place: &usize| BodyColumn {
            place: *place,
            kind: body_kind(&self.schema.kinds, *place),
            numbers: Vec::new(),
        };
        let empty = Body {
            rows,
            has_gaps: self.has(GAPS),
            times: self.has(IRREGULAR).then(Vec::new),
            columns: places.iter().map(column).collect(),
        };
        match (self.has(ADAPTIVE), &self.schema.model) {
            (true, Some(model)) if model.columns() == self.schema.kinds.len() => {
                stream::read(empty, model, &self.bytes)
            }
            (true, _) => Err(PackError("the schema has no model for it")),
            (false, _) if self.has(RICE) => packed::read_rice(empty, &self.bytes),
            (false, _) => packed::read_plain(empty, &self.bytes),
        }
    }

    fn column(&self, column: BodyColumn, texts: &[Arc<str>]) -> Result<PackColumn, PackError> {
        let is_text = self.schema.kinds.get(column.place) == Some(&ColumnKind::Text);
        let cells = if is_text {
            let cell = |number: Option<i64>| {
                let text = number.map(|number| text(number.cast_unsigned(), texts));
                text.transpose()
            };
            PackCells::Texts(
                column
                    .numbers
                    .into_iter()
                    .map(cell)
                    .collect::<Result<_, _>>()?,
            )
        } else {
            PackCells::Numbers(column.numbers)
        };
        Ok(PackColumn {
            place: column.place,
            cells,
        })
    }
}

/// The distances of rows from the first one.
fn regular(step: i64) -> impl Iterator<Item = i64> {
    (0..).map(move |row: i64| step.wrapping_mul(row))
}

fn text(place: u64, texts: &[Arc<str>]) -> Result<Arc<str>, PackError> {
    let place = usize::try_from(place).ok();
    let text = place.and_then(|place| texts.get(place));
    text.cloned().ok_or(PackError("a text that is not there"))
}
