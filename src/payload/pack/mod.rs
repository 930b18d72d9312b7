//! Frames of readings in the fewest bytes: the numbers of many points at the same times, in binary.
//! Pure.
//!
//! A frame says which numbers came when, and nothing else: names, units and how many digits a
//! number has are in a [schema](PackSchema) that both sides know, and whose hash the message
//! carries.
//!
//! ```text
//! message: version 1 | hash of the schema 4 | series | how many frames; sizes of all but the last
//!   | frames
//! frame: flags | rows | time of the first row, ms, zigzag
//! | if regular and more than one row: ms between rows, zigzag
//! | some columns only: how many runs; each: how many are left out before it, how many it has
//! | number of the first reading
//! | numbers in runs: how many groups of equal runs; each: numbers left out before it, zigzag,
//!   numbers of a run, how many runs, if more than one: from the start of one to the next, zigzag
//! | texts: how many; each: length, UTF-8
//! | not good: how many; each: cells since the last one, 1 stale or 2 bad, text of the reason, age in ms
//! | body, to the end
//! flags: 1 adaptive coder · 2 irregular times · 4 cells may be empty · 8 some columns only
//!   · 16 some readings are not good · 32 times of a clock that was not set · 64 numbers in runs
//!   · 128 Rice codes · 256 texts
//! ```
//! Numbers without a size are LEB128. Cells are counted row by row, from 0. The body has the
//! columns in the order of the schema; before them, if times are irregular, one of kind `counter`
//! with the milliseconds since the first row. A column of text has the places of its texts, and is
//! one of kind `status`.
//!
//! Every reading has a number in its series, by which a receiver knows it again when it comes
//! twice: readings are numbered row by row, those of a row in the order of columns.
//!
//! Numbers are 64 bits wide and wrap: a `u64` is the `i64` of the same bits. A float is the
//! [order](order_of_f32) of its bits, so that numbers near to one another stay near, and every
//! bit comes back: the sign of zero, and what is no number.
//!
//! Invariants:
//! * What was encoded is decoded to the same frame; ages are whole milliseconds.
//! * Bytes from outside are an error or a message. No more is allocated than [`MOST_CELLS`] cells
//!   and what the bytes themselves hold.

mod adaptive;
mod body;
mod head;
mod learn;
mod message;
mod model;
mod numbers;
mod packed;
mod predictor;
mod range;
mod read;
mod stream;
#[cfg(test)]
mod tests;
mod write;
mod zigzag;

use std::sync::Arc;
use std::time::Duration;

pub(super) use learn::kind_seen;
pub use message::{PackMessage, hash_of};
pub use model::AdaptiveModel;
pub use numbers::NumberRun;

use serde::{Deserialize, Serialize};

use crate::reading::Quality;

/// Most cells of all frames of a message, rows times columns.
pub const MOST_CELLS: usize = 1 << 20;

/// Why there is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no packed frame: {0}")]
pub struct PackError(&'static str);

impl PackError {
    pub(super) const UNKNOWN_COLUMN: Self = Self("a column that the schema does not have");
    pub(super) const NO_VALUE: Self = Self("a number that is no value of its column");
}

/// What the numbers of a column are; it decides how they are expected to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnKind {
    /// Integers, such as registers with a scale.
    Scaled,
    /// Integers that grow.
    Counter,
    /// Words that change seldom.
    Status,
    /// The orders of 32-bit floats.
    F32,
    /// The orders of 64-bit floats.
    F64,
    /// Text.
    Text,
}

/// What both sides know of the frames of a hash.
#[derive(Debug, Clone, PartialEq)]
pub struct PackSchema {
    /// Its name in frames.
    pub hash: u32,
    /// The columns.
    pub kinds: Vec<ColumnKind>,
    /// What the adaptive coder knows; without it frames are written with Rice codes.
    pub model: Option<AdaptiveModel>,
}

/// Numbers or texts of several points at the same times.
#[derive(Debug, Clone, PartialEq)]
pub struct PackFrame {
    /// When its rows were taken, in milliseconds since 1970; not empty.
    pub times: Vec<i64>,
    /// False if these are times of a clock that was not set.
    pub clock_set: bool,
    /// Some of the columns of the schema, in its order.
    pub columns: Vec<PackColumn>,
    /// The readings that are not good, row by row, those of a row in the order of columns. One in
    /// an empty cell has no value.
    pub not_good: Vec<NotGood>,
    /// The numbers of its readings, in the same order.
    pub numbers: Vec<NumberRun>,
}

/// A column of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct PackColumn {
    /// Its place in the schema.
    pub place: usize,
    /// One for each time.
    pub cells: PackCells,
}

/// The values of a column; `None` where there is none.
#[derive(Debug, Clone, PartialEq)]
pub enum PackCells {
    /// Of every kind but text.
    Numbers(Vec<Option<i64>>),
    /// Of kind text.
    Texts(Vec<Option<Arc<str>>>),
}

impl PackCells {
    fn len(&self) -> usize {
        match self {
            Self::Numbers(cells) => cells.len(),
            Self::Texts(cells) => cells.len(),
        }
    }

    /// True if it has a value in a row.
    pub fn has(&self, row: usize) -> bool {
        match self {
            Self::Numbers(cells) => cells.get(row).is_some_and(Option::is_some),
            Self::Texts(cells) => cells.get(row).is_some_and(Option::is_some),
        }
    }

    /// How many values it has.
    fn there(&self) -> usize {
        match self {
            Self::Numbers(cells) => cells.iter().flatten().count(),
            Self::Texts(cells) => cells.iter().flatten().count(),
        }
    }
}

/// A reading that is not good.
#[derive(Debug, Clone, PartialEq)]
pub struct NotGood {
    /// Its row.
    pub row: usize,
    /// Its column among those of the frame.
    pub column: usize,
    /// Stale or bad.
    pub quality: Quality,
    /// In whole milliseconds.
    pub age: Duration,
}

impl PackFrame {
    /// Bytes it takes in memory, about.
    pub fn weight(&self) -> usize {
        let column = |column: &PackColumn| {
            size_of::<PackColumn>() + column.cells.len() * size_of::<Option<i64>>()
        };
        let columns: usize = self.columns.iter().map(column).sum();
        size_of::<Self>() + columns + self.times.len() * size_of::<i64>()
    }

    /// How many readings it has: numbers and texts, and what is not good and has none.
    fn readings(&self) -> usize {
        let there: usize = self.columns.iter().map(|column| column.cells.there()).sum();
        let is_empty = |not_good: &&NotGood| {
            let column = self.columns.get(not_good.column);
            column.is_some_and(|column| !column.cells.has(not_good.row))
        };
        there + self.not_good.iter().filter(is_empty).count()
    }
}

/// The place of a 32-bit float among all of them: 0 for 0, -1 for -0.
pub fn order_of_f32(float: f32) -> i64 {
    let bits = float.to_bits().cast_signed();
    i64::from(if bits < 0 { !(bits & i32::MAX) } else { bits })
}

/// The float of a place; `None` if there is none.
pub fn f32_of_order(order: i64) -> Option<f32> {
    let order = i32::try_from(order).ok()?;
    let bits = if order < 0 { !order | i32::MIN } else { order };
    Some(f32::from_bits(bits.cast_unsigned()))
}

/// The place of a 64-bit float among all of them.
pub fn order_of_f64(float: f64) -> i64 {
    let bits = float.to_bits().cast_signed();
    if bits < 0 { !(bits & i64::MAX) } else { bits }
}

/// The float of a place.
pub fn f64_of_order(order: i64) -> f64 {
    let bits = if order < 0 { !order | i64::MIN } else { order };
    f64::from_bits(bits.cast_unsigned())
}
