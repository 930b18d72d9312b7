//! What the adaptive coder knows before a frame: how large steps are, which chances bits have, and
//! a row of numbers near which frames begin.
//!
//! ```text
//! each column: size of its steps 1, in quarters of powers of two | 0, or 1 and a row: each number, zigzag
//! | chances, to the end: each: how many are left out before it, LEB128 | highest byte 1 | bits it has seen 1
//! ```

use std::cmp::Ordering;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::adaptive::{AdaptiveColumn, Chances};
use super::range::Chance;
use super::zigzag::{put_zigzag, take_zigzag};
use super::{ColumnKind, PackCells, PackError, PackFrame, stream, write};
use crate::leb128;

/// Steps of a column that show its kind.
const FEWEST_STEPS: usize = 4;
/// A chance that has seen fewer bits is not kept.
const LEAST_SEEN: u8 = 3;
/// A chance counts as one that has seen no more bits, so that it still follows.
const MOST_SEEN: u8 = 24;
/// The smallest size of steps, in quarters of powers of two: 1/50.
const LEAST_SCALE: i8 = -23;
/// The largest: 2^30.
const MOST_SCALE: i8 = 120;

/// What the adaptive coder knows of the columns of a schema.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaptiveModel {
    scales: Vec<i8>,
    base: Option<Vec<i64>>,
    pub(super) chances: Chances,
}

impl AdaptiveModel {
    /// Nothing is known.
    pub fn new(columns: usize) -> Self {
        Self {
            scales: vec![0; columns],
            base: None,
            chances: Chances::even(),
        }
    }

    /// What frames of a schema say that were written one after the other. Its base row has the
    /// last numbers of all columns.
    pub fn learn(kinds: &[ColumnKind], frames: &[PackFrame]) -> Self {
        let mut model = Self::new(kinds.len());
        let (mut first, mut last) = (vec![0; kinds.len()], vec![0; kinds.len()]);
        for (place, kind) in kinds.iter().enumerate() {
            let numbers = numbers_of(place, frames);
            if let Some(scale) = model.scales.get_mut(place) {
                *scale = scale_of(*kind, &numbers);
            }
            for (row, number) in [(&mut first, numbers.first()), (&mut last, numbers.last())] {
                if let (Some(own), Some(number)) = (row.get_mut(place), number) {
                    *own = *number;
                }
            }
        }
        // The frames to come will be as far from the base row as these are, or farther.
        model.base = Some(first);
        for frame in frames {
            stream::learn(&write::numbers_only(frame, kinds), &mut model);
        }
        model.base = Some(last);
        model.round();
        model
    }

    /// For as many columns: of new ones nothing is known.
    #[must_use]
    pub fn with_columns(mut self, columns: usize) -> Self {
        self.scales.resize(columns, 0);
        if let Some(base) = &mut self.base {
            base.resize(columns, 0);
        }
        self
    }

    /// For numbers of a column that count in smaller units, by so many digits.
    #[must_use]
    pub fn with_more_digits(mut self, place: usize, digits: u8) -> Self {
        /// Of ten, in quarters of powers of two.
        const OF_TEN: i8 = 13;
        if let Some(scale) = self.scales.get_mut(place) {
            let more = OF_TEN.saturating_mul(digits.cast_signed());
            *scale = scale.saturating_add(more).min(MOST_SCALE);
        }
        let number = self.base.as_mut().and_then(|base| base.get_mut(place));
        if let Some(number) = number {
            *number = number.saturating_mul(10_i64.saturating_pow(digits.into()));
        }
        self
    }

    pub(super) fn columns(&self) -> usize {
        self.scales.len()
    }

    pub(super) fn column(&self, kind: ColumnKind, place: usize) -> AdaptiveColumn {
        let scale = self.scales.get(place).copied().unwrap_or(0);
        let base = self.base.as_ref().and_then(|row| row.get(place)).copied();
        AdaptiveColumn::new(kind, scale, base)
    }

    /// As it comes back from its bytes.
    fn round(&mut self) {
        for chance in self.chances.all_mut() {
            *chance = if chance.seen < LEAST_SEEN {
                Chance::EVEN
            } else {
                rounded(chance.of_one.to_be_bytes()[0], chance.seen.min(MOST_SEEN))
            };
        }
    }

    /// The bytes that say it all.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        for scale in &self.scales {
            out.put_i8(*scale);
        }
        out.put_u8(u8::from(self.base.is_some()));
        for number in self.base.iter().flatten() {
            put_zigzag(*number, &mut out);
        }
        let mut left_out = 0;
        for chance in self.chances.all() {
            if *chance == Chance::EVEN {
                left_out += 1;
                continue;
            }
            leb128::put(left_out, &mut out);
            out.put_slice(&[chance.of_one.to_be_bytes()[0], chance.seen]);
            left_out = 0;
        }
        out.to_vec()
    }

    /// The model of bytes, for so many columns.
    pub fn from_bytes(bytes: &[u8], columns: usize) -> Result<Self, PackError> {
        const SHORT: PackError = PackError("a model cut short");
        let scales = bytes.get(..columns).ok_or(SHORT)?;
        let mut bytes = Bytes::copy_from_slice(bytes.get(columns..).unwrap_or_default());
        let mut model = Self::new(columns);
        model.scales = scales.iter().map(|scale| scale.cast_signed()).collect();
        if bytes.try_get_u8().map_err(|_| SHORT)? != 0 {
            let number = |_| take_zigzag(&mut bytes).ok_or(SHORT);
            model.base = Some((0..columns).map(number).collect::<Result<_, _>>()?);
        }
        let mut chances = model.chances.all_mut().iter_mut();
        while !bytes.is_empty() {
            let left_out = leb128::take(&mut bytes).ok_or(SHORT)?;
            let left_out = usize::try_from(left_out).unwrap_or(usize::MAX);
            let chance = chances.nth(left_out);
            let chance = chance.ok_or(PackError("a chance that no model has"))?;
            let of_one = bytes.try_get_u8().map_err(|_| SHORT)?;
            let seen = bytes.try_get_u8().map_err(|_| SHORT)?;
            if !(LEAST_SEEN..=MOST_SEEN).contains(&seen) {
                return Err(PackError("a chance out of range"));
            }
            *chance = rounded(of_one, seen);
        }
        Ok(model)
    }
}

fn rounded(highest: u8, seen: u8) -> Chance {
    Chance {
        of_one: u16::from_be_bytes([highest, 128]),
        seen,
    }
}

/// The numbers of a column, one after the other; those of texts are not known.
fn numbers_of(place: usize, frames: &[PackFrame]) -> Vec<i64> {
    let columns = frames.iter().flat_map(|frame| &frame.columns);
    let own = columns.filter(|column| column.place == place);
    let cells = own.map(|column| match &column.cells {
        PackCells::Numbers(cells) => &cells[..],
        PackCells::Texts(_) => &[],
    });
    cells.flatten().copied().flatten().collect()
}

/// The kind of a column as its numbers show it; of floats and texts it is known.
pub(in crate::payload) fn kind_seen(
    known: ColumnKind,
    place: usize,
    frames: &[PackFrame],
) -> ColumnKind {
    if !matches!(
        known,
        ColumnKind::Scaled | ColumnKind::Counter | ColumnKind::Status
    ) {
        return known;
    }
    let numbers = numbers_of(place, frames);
    let pairs = numbers.iter().zip(numbers.iter().skip(1));
    let is_counted =
        |(up, down, still): (usize, usize, usize), (one, next): (&i64, &i64)| match next.cmp(one) {
            Ordering::Greater => (up + 1, down, still),
            Ordering::Less => (up, down + 1, still),
            Ordering::Equal => (up, down, still + 1),
        };
    let (up, down, still) = pairs.fold((0, 0, 0), is_counted);
    if up > FEWEST_STEPS && down * 100 <= up && still <= up {
        ColumnKind::Counter
    } else if still > FEWEST_STEPS && (up + down) * 20 <= still {
        ColumnKind::Status
    } else {
        ColumnKind::Scaled
    }
}

/// The mean size of steps, or of their changes, in quarters of powers of two.
fn scale_of(kind: ColumnKind, numbers: &[i64]) -> i8 {
    let steps = |numbers: &[i64]| -> Vec<i64> {
        let pairs = numbers.iter().zip(numbers.iter().skip(1));
        pairs.map(|(one, next)| next.wrapping_sub(*one)).collect()
    };
    let mut steps_of = steps(numbers);
    match kind {
        ColumnKind::Status | ColumnKind::Text => return LEAST_SCALE,
        ColumnKind::Counter => steps_of = steps(&steps_of),
        ColumnKind::Scaled | ColumnKind::F32 | ColumnKind::F64 => {}
    }
    let sum: u128 = steps_of
        .iter()
        .map(|step| u128::from(step.unsigned_abs()))
        .sum();
    let count = u128::try_from(steps_of.len().max(1)).unwrap_or(1);
    let mean = (sum << 16) / count;
    let scale = quarters(mean).saturating_sub(4 * 16);
    i8::try_from(scale.clamp(LEAST_SCALE.into(), MOST_SCALE.into())).unwrap_or(0)
}

/// Four times the logarithm, rounded down.
fn quarters(number: u128) -> i32 {
    /// The powers of 1, 2 and 3 quarters, with 16 bits behind the point.
    const QUARTERS: [u128; 3] = [77_936, 92_682, 110_218];
    let Some(octave) = number.checked_ilog2() else {
        return i32::MIN;
    };
    let mantissa = if octave < 16 {
        number << (16 - octave)
    } else {
        number >> (octave - 16)
    };
    let above = QUARTERS.iter().filter(|limit| mantissa >= **limit).count();
    4 * octave.cast_signed() + i32::try_from(above).unwrap_or(0)
}
