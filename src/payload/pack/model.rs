//! What the adaptive coder knows before a frame: how large steps are, which chances bits have, and
//! a row of numbers near which frames begin.
//!
//! ```text
//! each column: size of its steps 1, in quarters of powers of two | 0, or 1 and a row: each number, zigzag
//! | chances, to the end: each: how many are left out before it, LEB128 | highest byte 1 | bits it has seen 1
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::adaptive::{AdaptiveColumn, Chances};
use super::range::Chance;
use super::zigzag::{put_zigzag, take_zigzag};
use super::{ColumnKind, PackError};
use crate::leb128;

/// A chance that has seen fewer bits is not kept.
const LEAST_SEEN: u8 = 3;
/// A chance counts as one that has seen no more bits, so that it still follows.
const MOST_SEEN: u8 = 24;
/// The smallest size of steps, in quarters of powers of two: 1/50.
pub(super) const LEAST_SCALE: i8 = -23;
/// The largest: 2^30.
pub(super) const MOST_SCALE: i8 = 120;

/// What the adaptive coder knows of the columns of a schema.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaptiveModel {
    pub(super) scales: Vec<i8>,
    pub(super) base: Option<Vec<i64>>,
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
    pub(super) fn round(&mut self) {
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
