//! What frames say about the numbers of columns: their kinds, and what the adaptive coder may
//! expect of them.

use std::cmp::Ordering;

use super::model::{LEAST_SCALE, MOST_SCALE};
use super::{AdaptiveModel, ColumnKind, PackCells, PackFrame, stream, write};

/// Steps of a column that show its kind.
const FEWEST_STEPS: usize = 4;

impl AdaptiveModel {
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
