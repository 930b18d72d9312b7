//! The adaptive coder: each number is predicted out of those before it, and the difference is
//! written bit by bit, with chances that follow what came.

use super::ColumnKind;
use super::predictor::{CLASSES, Prediction, Predictor, Side};
use super::range::{BitCoder, Chance};

/// Most bits of a residual whose length has a chance of its own.
const LENGTHS: usize = 64;
/// Lengths whose first bits have chances of their own; longer ones share the last.
const MANTISSAS: usize = 32;
/// Nodes of the tree of three bits.
const TREE: usize = 8;

const SIGNS_AT: usize = CLASSES * 2 * 3;
const LENGTHS_AT: usize = SIGNS_AT + CLASSES * 2;
const MANTISSAS_AT: usize = LENGTHS_AT + CLASSES * LENGTHS;
const THERE_AT: usize = MANTISSAS_AT + CLASSES * MANTISSAS * TREE;
/// All chances.
pub(super) const CHANCES: usize = THERE_AT + 2;

/// The chances of all columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chances(Box<[Chance]>);

impl Chances {
    pub(super) fn even() -> Self {
        Self(vec![Chance::EVEN; CHANCES].into())
    }

    pub(super) fn all(&self) -> &[Chance] {
        &self.0
    }

    pub(super) fn all_mut(&mut self) -> &mut [Chance] {
        &mut self.0
    }

    fn at(&mut self, place: usize) -> &mut Chance {
        self.0
            .get_mut(place)
            .expect("classes, lengths and nodes are in their ranges")
    }
}

/// A column while it is written or read.
#[derive(Debug)]
pub(super) struct AdaptiveColumn {
    predictor: Predictor,
    was_there: bool,
}

impl AdaptiveColumn {
    pub(super) fn new(kind: ColumnKind, scale: i8, base: Option<i64>) -> Self {
        Self {
            predictor: Predictor::new(kind, scale, base),
            was_there: true,
        }
    }

    /// Writes whether there is a number, or reads it.
    pub(super) fn is_there(
        &mut self,
        is_there: bool,
        chances: &mut Chances,
        coder: &mut impl BitCoder,
    ) -> bool {
        let chance = chances.at(THERE_AT + usize::from(self.was_there));
        self.was_there = coder.bit(chance, is_there);
        self.was_there
    }

    /// Writes a number and returns it, or reads one and ignores `number`.
    pub(super) fn number(
        &mut self,
        number: i64,
        chances: &mut Chances,
        coder: &mut impl BitCoder,
    ) -> i64 {
        let prediction = self.predictor.predict();
        let expected = self.predictor.last().wrapping_add(prediction.step);
        let is_mirrored = prediction.side == Side::Below;
        let mirror = |residual: i64| {
            if is_mirrored {
                residual.wrapping_neg()
            } else {
                residual
            }
        };
        let wanted = mirror(number.wrapping_sub(expected));
        let residual = mirror(residual(wanted, prediction, chances, coder));
        let number = expected.wrapping_add(residual);
        self.predictor.take(number, residual);
        number
    }
}

fn residual(
    wanted: i64,
    prediction: Prediction,
    chances: &mut Chances,
    coder: &mut impl BitCoder,
) -> i64 {
    let class = 2 * prediction.class + usize::from(prediction.side != Side::None);
    let zero = chances.at(3 * class + prediction.after);
    if coder.bit(zero, wanted == 0) {
        return 0;
    }
    let is_negative = coder.bit(chances.at(SIGNS_AT + class), wanted < 0);
    let size = size(wanted.unsigned_abs(), prediction.class, chances, coder);
    if is_negative {
        0_i64.wrapping_sub_unsigned(size)
    } else {
        size.cast_signed()
    }
}

/// How large a residual is that is not 0: its length, its bits behind the first.
fn size(wanted: u64, class: usize, chances: &mut Chances, coder: &mut impl BitCoder) -> u64 {
    let wanted_length = u64::BITS - wanted.leading_zeros();
    let mut length = 1;
    while length < u64::BITS {
        let chance = chances.at(LENGTHS_AT + class * LENGTHS + length as usize);
        if !coder.bit(chance, wanted_length > length) {
            break;
        }
        length += 1;
    }
    let tree = MANTISSAS_AT + (class * MANTISSAS + MANTISSAS.min(length as usize) - 1) * TREE;
    let (mut size, mut left, mut node) = (1_u64, length - 1, 1);
    while left > 0 && node < TREE {
        left -= 1;
        let bit = coder.bit(chances.at(tree + node), wanted >> left & 1 == 1);
        size = size << 1 | u64::from(bit);
        node = node << 1 | usize::from(bit);
    }
    let even = coder.even_bits(wanted & ((1 << left) - 1), left);
    if left == 0 { size } else { size << left | even }
}
