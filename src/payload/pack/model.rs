//! What the adaptive coder knows before a frame: how large steps are, which chances bits have, and
//! a row of numbers near which frames begin.
//!
//! ```text
//! each column: size of its steps 1, in quarters of powers of two | 0, or 1 and a row: each number, zigzag
//! | chances, to the end: each: how many are left out before it, LEB128 | highest byte 1 | bits it has seen 1
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::adaptive::{AdaptiveColumn, Chances};
use super::range::{Chance, Learner};
use super::zigzag::{put_zigzag, take_zigzag};
use super::{ColumnKind, PackError};
use crate::leb128;

/// Rows of the frames from which it learns, and of those whose steps it measures.
const FRAME: usize = 360;
/// In frames, every so many rows are the first ones after a base row.
const FIRSTS: usize = 20;
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

    /// What rows say that came one after the other, each with a number for each kind; texts are
    /// ignored.
    pub fn learn(kinds: &[ColumnKind], rows: &[Vec<i64>]) -> Self {
        let mut model = Self::new(kinds.len());
        for (place, kind) in kinds.iter().enumerate() {
            let number = |row: &Vec<i64>| row.get(place).copied();
            let numbers: Vec<i64> = rows.iter().take(FRAME).filter_map(number).collect();
            if let Some(scale) = model.scales.get_mut(place) {
                *scale = scale_of(*kind, &numbers);
            }
        }
        let mut before: Option<&Vec<i64>> = None;
        for frame in rows.chunks(FRAME) {
            model.see(kinds, frame, None);
            for first in frame.iter().step_by(FIRSTS).filter(|_| before.is_some()) {
                model.see(kinds, std::slice::from_ref(first), before);
            }
            before = frame.last();
        }
        model.round();
        model
    }

    /// With a row near which frames begin.
    pub fn with_base(mut self, row: Vec<i64>) -> Result<Self, PackError> {
        if row.len() != self.scales.len() {
            return Err(PackError("a base row of other columns"));
        }
        self.base = Some(row);
        Ok(self)
    }

    pub(super) fn columns(&self) -> usize {
        self.scales.len()
    }

    pub(super) fn column(&self, kind: ColumnKind, place: usize) -> AdaptiveColumn {
        let scale = self.scales.get(place).copied().unwrap_or(0);
        let base = self.base.as_ref().and_then(|row| row.get(place)).copied();
        AdaptiveColumn::new(kind, scale, base)
    }

    /// Lets the chances follow a frame.
    fn see(&mut self, kinds: &[ColumnKind], rows: &[Vec<i64>], base: Option<&Vec<i64>>) {
        let column = |(place, kind): (usize, &ColumnKind)| {
            let scale = self.scales.get(place).copied().unwrap_or(0);
            let base = base.and_then(|row| row.get(place)).copied();
            AdaptiveColumn::new(*kind, scale, base)
        };
        let mut columns: Vec<AdaptiveColumn> = kinds.iter().enumerate().map(column).collect();
        for row in rows {
            let numbers = row.iter().zip(&mut columns).zip(kinds);
            for ((number, column), _) in numbers.filter(|(_, kind)| **kind != ColumnKind::Text) {
                column.number(*number, &mut self.chances, &mut Learner);
            }
        }
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
