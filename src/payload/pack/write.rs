//! Frames into bytes.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::body::{Body, BodyColumn, body_kind};
use super::head::*;
use super::numbers::put_numbers;
use super::zigzag::put_zigzag;
use super::{AdaptiveModel, ColumnKind, MOST_CELLS, NotGood, PackCells, PackColumn, PackError};
use super::{NumberRun, PackFrame, PackSchema, packed, stream};
use crate::leb128;
use crate::reading::Quality;

/// The texts of a frame, each once.
#[derive(Default)]
struct TextTable {
    texts: Vec<Arc<str>>,
    places: HashMap<Arc<str>, usize>,
}

impl TextTable {
    fn place(&mut self, text: &Arc<str>) -> usize {
        let next = self.texts.len();
        let place = *self.places.entry(Arc::clone(text)).or_insert(next);
        if place == next {
            self.texts.push(Arc::clone(text));
        }
        place
    }
}

pub(super) fn encode(frame: &PackFrame, schema: &PackSchema) -> Result<Vec<u8>, PackError> {
    check(frame, schema)?;
    let mut texts = TextTable::default();
    let not_good = not_good(frame, &mut texts)?;
    let body = body(frame, &schema.kinds, &mut texts);
    let (coder, coded) = code(&body, schema);
    let is_some = frame.columns.len() < schema.kinds.len();
    let flags = [
        (IRREGULAR, body.times.is_some()),
        (GAPS, body.has_gaps),
        (SOME_COLUMNS, is_some),
        (NOT_GOOD, !frame.not_good.is_empty()),
        (CLOCK_UNSET, !frame.clock_set),
        (NUMBERS, frame.numbers.len() > 1),
        (TEXTS, !texts.texts.is_empty()),
    ];
    let set = flags.iter().filter(|(_, is_set)| *is_set);
    let mut out = BytesMut::new();
    leb128::put(set.fold(coder, |flags, (flag, _)| flags | flag), &mut out);
    put_times(&frame.times, &mut out);
    if is_some {
        put_places(&frame.columns, &mut out);
    }
    put_numbers(&frame.numbers, &mut out);
    put_texts(&texts.texts, &mut out);
    out.put_slice(&not_good);
    out.put_slice(&coded);
    Ok(out.to_vec())
}

/// The numbers of a frame, and the flag of the coder that needs the fewest bytes.
fn code(body: &Body, schema: &PackSchema) -> (u64, Vec<u8>) {
    if let Some(model) = &schema.model {
        return (ADAPTIVE, stream::write(body, model));
    }
    let (plain, rice) = (packed::write_plain(body), packed::write_rice(body));
    if rice.len() < plain.len() {
        (RICE, rice)
    } else {
        (0, plain)
    }
}

/// How many rows there are, and when they were taken.
fn put_times(times: &[i64], out: &mut BytesMut) {
    leb128::put(times.len() as u64, out);
    put_zigzag(times.first().copied().unwrap_or(0), out);
    if let Some(step) = regular_step(times).filter(|_| times.len() > 1) {
        put_zigzag(step, out);
    }
}

/// What is no frame of the schema is refused.
fn check(frame: &PackFrame, schema: &PackSchema) -> Result<(), PackError> {
    let rows = frame.times.len();
    if rows == 0 || frame.columns.is_empty() {
        return Err(PackError("nothing in it"));
    }
    if rows.saturating_mul(frame.columns.len() + 1) > MOST_CELLS {
        return Err(PackError("too many cells"));
    }
    if !frame
        .columns
        .is_sorted_by(|one, next| one.place < next.place)
    {
        return Err(PackError("columns out of order"));
    }
    for column in &frame.columns {
        let kind = schema.kinds.get(column.place);
        let kind = kind.ok_or(PackError::UNKNOWN_COLUMN)?;
        let is_text = matches!(column.cells, PackCells::Texts(_));
        if is_text != (*kind == ColumnKind::Text) {
            return Err(PackError("a column of another kind"));
        }
        if column.cells.len() != rows {
            return Err(PackError("a column of another length"));
        }
    }
    let numbers: u64 = frame.numbers.iter().map(|run| run.count).sum();
    if numbers != frame.readings() as u64 {
        return Err(PackError("more numbers than readings, or fewer"));
    }
    let fits = |model: &AdaptiveModel| model.columns() == schema.kinds.len();
    if schema.model.as_ref().is_some_and(|model| !fits(model)) {
        return Err(PackError("a model of other columns"));
    }
    Ok(())
}

/// The numbers that a coder gets of a frame.
pub(super) fn numbers_only(frame: &PackFrame, kinds: &[ColumnKind]) -> Body {
    body(frame, kinds, &mut TextTable::default())
}

/// The columns as numbers.
fn body(frame: &PackFrame, kinds: &[ColumnKind], texts: &mut TextTable) -> Body {
    let start = frame.times.first().copied().unwrap_or(0);
    let times = frame.times.iter().map(|time| time.wrapping_sub(start));
    let times = regular_step(&frame.times)
        .is_none()
        .then(|| times.collect());
    let mut columns = Vec::new();
    for column in &frame.columns {
        let numbers = match &column.cells {
            PackCells::Numbers(cells) => cells.clone(),
            PackCells::Texts(cells) => {
                let mut place =
                    |text: &Option<Arc<str>>| text.as_ref().map(|text| texts.place(text));
                cells
                    .iter()
                    .map(|text| i64::try_from(place(text)?).ok())
                    .collect()
            }
        };
        columns.push(BodyColumn {
            place: column.place,
            kind: body_kind(kinds, column.place),
            numbers,
        });
    }
    let is_full = |column: &BodyColumn| column.numbers.iter().all(Option::is_some);
    Body {
        rows: frame.times.len(),
        has_gaps: !columns.iter().all(is_full),
        times,
        columns,
    }
}

/// The step between times, if it is always the same; 0 for one.
fn regular_step(times: &[i64]) -> Option<i64> {
    let mut steps = times.iter().zip(times.iter().skip(1));
    let step = |(one, next): (&i64, &i64)| next.wrapping_sub(*one);
    let first = steps.next().map_or(0, step);
    steps.all(|pair| step(pair) == first).then_some(first)
}

/// The places of columns, as runs of neighbours.
fn put_places(columns: &[PackColumn], out: &mut BytesMut) {
    let runs = NumberRun::of(columns.iter().map(|column| column.place as u64));
    leb128::put(runs.len() as u64, out);
    let mut next = 0;
    for run in runs {
        leb128::put(run.first - next, out);
        leb128::put(run.count, out);
        next = run.first + run.count;
    }
}

fn put_texts(texts: &[Arc<str>], out: &mut BytesMut) {
    if texts.is_empty() {
        return;
    }
    leb128::put(texts.len() as u64, out);
    for text in texts {
        leb128::put(text.len() as u64, out);
        out.put_slice(text.as_bytes());
    }
}

/// The list of readings that are not good; empty without any.
fn not_good(frame: &PackFrame, texts: &mut TextTable) -> Result<BytesMut, PackError> {
    let mut out = BytesMut::new();
    if frame.not_good.is_empty() {
        return Ok(out);
    }
    leb128::put(frame.not_good.len() as u64, &mut out);
    let mut next = 0;
    for NotGood {
        row,
        column,
        quality,
        age,
    } in &frame.not_good
    {
        let is_there = *row < frame.times.len() && *column < frame.columns.len();
        let cell = row.saturating_mul(frame.columns.len()) + column;
        let gap = cell.checked_sub(next).filter(|_| is_there);
        let gap = gap.ok_or(PackError("readings that are not good, out of order"))?;
        next = cell + 1;
        let (code, reason) = match quality {
            Quality::Stale(reason) => (STALE, reason),
            Quality::Bad(reason) => (BAD, reason),
            Quality::Good => return Err(PackError("a good reading among the others")),
        };
        leb128::put(gap as u64, &mut out);
        out.put_u8(code);
        leb128::put(texts.place(reason) as u64, &mut out);
        leb128::put(u64::try_from(age.as_millis()).unwrap_or(u64::MAX), &mut out);
    }
    Ok(out)
}
