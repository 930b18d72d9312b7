//! What the next number of a column probably is, and how far from it. Integers only.
//!
//! Everything counts from the last number, so that numbers of 64 bits need no more room than small
//! ones. Fractions have 16 bits; what is farther away than [`FAR`] counts as that far.

use super::ColumnKind;

/// Bits of a fraction.
const FRACTION: u32 = 16;
const ONE: i64 = 1 << FRACTION;
const FAR: i64 = (1 << 30) * ONE;

/// Guesses that are mixed.
const GUESSES: usize = 8;
/// How much of the distance to the last number is left in each level, in 1/256.
const LEVEL_KEEPS: [i64; 3] = [51, 102, 166];
/// How fast each trend follows, in 1/256.
const TREND_RATES: [i64; 2] = [77, 15];
/// How fast the error of a guess follows, in 1/256.
const ERROR_RATE: i64 = 15;
/// How fast the size of residuals follows, in 1/256.
const SIZE_RATE: i64 = 23;
const SIZE_RATE_OF_STATUS: i64 = 13;
/// A guess is never thought better than this.
const LEAST_ERROR: i64 = ONE / 100;
/// So near to a whole number a guess has no side.
const NEAR: i64 = ONE * 17 / 100;
const LEAST_SIZE: i64 = ONE / 50;

/// Classes of sizes, and of first numbers.
pub(super) const CLASSES: usize = 79;
const LAST_CLASS: i64 = 60;
const SECOND_OF_COUNTER: usize = 61;
const FIRST: usize = 62;
/// First numbers beside a base row: one class for four sizes.
const WITH_BASE: usize = 63;

/// The cube roots of 2 and 4, and the square root of 2, with 16 bits behind the point.
const THIRDS: [i64; 2] = [82_571, 104_032];
const HALVES: [i64; 1] = [92_682];

/// What is expected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prediction {
    /// The number, counted from the last one.
    pub(super) step: i64,
    /// 0: the number itself was meant; 1: a little more; 2: a little less.
    pub(super) side: Side,
    /// How large residuals are.
    pub(super) class: usize,
    /// 0: the last residual was 0; 1: it was not; 2: there was none.
    pub(super) after: usize,
}

/// On which side of a whole number a guess was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    None,
    Above,
    Below,
}

/// A column so far.
#[derive(Debug, Clone)]
pub(super) struct Predictor {
    kind: ColumnKind,
    has_base: bool,
    /// Numbers so far, up to 2.
    seen: u8,
    last: i64,
    step: i64,
    levels: [i64; 3],
    trends: [i64; 2],
    errors: [i64; GUESSES],
    guesses: [i64; GUESSES],
    size: i64,
    after: usize,
}

fn part(whole: i64, of_256: i64) -> i64 {
    (whole * of_256) >> 8
}

impl Predictor {
    /// A column whose steps have about this size, in quarters of powers of two, and whose first
    /// number is near `base`.
    pub(super) fn new(kind: ColumnKind, scale: i8, base: Option<i64>) -> Self {
        let size = quarter_power(scale);
        Self {
            kind,
            has_base: base.is_some(),
            seen: 0,
            last: base.unwrap_or(0),
            step: 0,
            levels: [0; 3],
            trends: [0; 2],
            errors: [size.max(ONE / 20); GUESSES],
            guesses: [0; GUESSES],
            size: size.max(LEAST_SIZE),
            after: 2,
        }
    }

    /// The number that the next one is counted from.
    pub(super) fn last(&self) -> i64 {
        self.last
    }

    pub(super) fn predict(&mut self) -> Prediction {
        let guess = self.guess();
        let step = (guess + ONE / 2) >> FRACTION;
        let beside = guess - step * ONE;
        let side = match beside {
            _ if beside.abs() < NEAR => Side::None,
            1.. => Side::Above,
            _ => Side::Below,
        };
        Prediction {
            step,
            side,
            class: self.class(),
            after: self.after,
        }
    }

    /// The mean of all guesses, by how good they were: the fourth power of their errors.
    fn guess(&mut self) -> i64 {
        if self.seen < 2 || self.kind == ColumnKind::Status {
            self.guesses = [0; GUESSES];
            return 0;
        }
        let [fast, middle, slow] = self.levels;
        let [trend, slow_trend] = self.trends;
        let step = self.step;
        self.guesses = [0, step, fast, middle, slow, trend, slow_trend, -step / 2];
        let best = self
            .errors
            .iter()
            .min()
            .map_or(0, |best| best + LEAST_ERROR);
        let (mut sum, mut weights) = (0, 0);
        for (guess, error) in self.guesses.iter().zip(&self.errors) {
            let share = (best << 12) / (error + LEAST_ERROR);
            let square = (share * share) >> 12;
            let weight = (square * square) >> 12;
            weights += weight;
            sum += weight * guess;
        }
        sum.div_euclid(weights)
    }

    fn class(&self) -> usize {
        match self.seen {
            0 if self.has_base => WITH_BASE + self.size_class() / 4,
            0 => FIRST,
            1 if self.kind == ColumnKind::Counter => SECOND_OF_COUNTER,
            _ => self.size_class(),
        }
    }

    fn size_class(&self) -> usize {
        let size = self.size + LEAST_SIZE;
        let class = match self.kind {
            ColumnKind::F32 | ColumnKind::F64 => parts_of_octave(size, &HALVES) + 12,
            _ => parts_of_octave(size, &THIRDS) + 18,
        };
        usize::try_from(class.clamp(0, LAST_CLASS)).unwrap_or(0)
    }

    /// Takes the number that came; `residual` is how far it was from the prediction.
    pub(super) fn take(&mut self, number: i64, residual: i64) {
        let step = number.wrapping_sub(self.last);
        let step = step.clamp(-FAR / ONE, FAR / ONE) * ONE;
        if self.seen >= 2 {
            for (error, guess) in self.errors.iter_mut().zip(&self.guesses) {
                *error += part((step - guess).abs() - *error, ERROR_RATE);
            }
        }
        match self.seen {
            0 => {}
            1 => self.trends = [step; 2],
            _ => {
                for (trend, rate) in self.trends.iter_mut().zip(TREND_RATES) {
                    *trend += part(step - *trend, rate);
                }
            }
        }
        if self.seen > 0 {
            for (level, keeps) in self.levels.iter_mut().zip(LEVEL_KEEPS) {
                *level = part(*level - step, keeps);
            }
            self.step = step;
            if self.seen > 1 || self.kind != ColumnKind::Counter {
                self.resize(residual);
            }
        }
        self.after = usize::from(residual != 0);
        self.last = number;
        self.seen = 2.min(self.seen + 1);
    }

    fn resize(&mut self, residual: i64) {
        let residual = residual
            .unsigned_abs()
            .min(FAR.unsigned_abs() / ONE.unsigned_abs());
        let residual = residual.cast_signed() * ONE;
        let rate = if self.kind == ColumnKind::Status {
            SIZE_RATE_OF_STATUS
        } else {
            SIZE_RATE
        };
        let bounded = residual.min(8 * self.size + 4 * ONE);
        self.size += part(bounded - self.size, rate);
    }
}

/// 2 to the power of a quarter of `scale`, as a fraction.
fn quarter_power(scale: i8) -> i64 {
    /// The powers of 0, 1, 2 and 3 quarters, with 16 bits behind the point.
    const QUARTERS: [i64; 4] = [65_536, 77_936, 92_682, 110_218];
    let quarter = usize::from(scale.rem_euclid(4).unsigned_abs());
    let octave = scale.div_euclid(4).clamp(-16, 30);
    let power = QUARTERS.get(quarter).copied().unwrap_or(ONE);
    if octave < 0 {
        power >> octave.unsigned_abs()
    } else {
        power << octave
    }
}

/// The logarithm of a fraction, in parts of an octave.
fn parts_of_octave(fraction: i64, limits: &[i64]) -> i64 {
    let octave = fraction.ilog2();
    let mantissa = (i128::from(fraction) << FRACTION) >> octave;
    let above = limits
        .iter()
        .filter(|limit| mantissa >= i128::from(**limit));
    let parts = i64::try_from(limits.len() + 1).unwrap_or(1);
    let part = i64::try_from(above.count()).unwrap_or(0);
    (i64::from(octave) - i64::from(FRACTION)) * parts + part
}
