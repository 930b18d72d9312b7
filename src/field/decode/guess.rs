//! Possible meanings of registers: every usual type and order, and those that show an expected
//! value. Pure.

use super::{Bcd, ByteOrder, DataType, Meaning, Register, Table};
use crate::reading::Value;

/// The orders, the usual first.
pub const ORDERS: [ByteOrder; 4] = [
    ByteOrder::ABCD,
    ByteOrder::CDAB,
    ByteOrder::BADC,
    ByteOrder::DCBA,
];
/// Types that are looked at, the usual first. One register has two orders, several have four.
pub const KINDS: [DataType; 13] = [
    DataType::U16,
    DataType::I16,
    DataType::F32,
    DataType::U32,
    DataType::I32,
    DataType::F64,
    DataType::U64,
    DataType::I64,
    DataType::Bcd(Bcd::plain(2)),
    DataType::Bcd(Bcd::plain(4)),
    DataType::Mod10k32,
    DataType::F16,
    DataType::Sm16,
];
/// Factors that instruments use.
const SCALES: [f64; 9] = [1.0, 0.1, 0.01, 0.001, 10.0, 100.0, 1000.0, 0.0001, 0.00001];

/// One way to read registers.
#[derive(Debug, Clone, PartialEq)]
pub struct Guess {
    /// The first register, counted from the first that was read.
    pub offset: u16,
    /// The type.
    pub kind: DataType,
    /// The order.
    pub order: ByteOrder,
    /// The value that they show then.
    pub value: f64,
    /// Such values occur in plants.
    pub is_plausible: bool,
}

/// A way to read registers that shows about an expected value.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// The way.
    pub guess: Guess,
    /// The factor for its value.
    pub scale: f64,
    /// The value then.
    pub shown: f64,
    /// The difference from the expected value, as a part of that.
    pub error: f64,
}

/// The value of the registers at an offset in one type and order; `None` if there are too few, or
/// they hold no number.
#[allow(clippy::cast_precision_loss)]
pub fn guess(words: &[u16], offset: u16, kind: DataType, order: ByteOrder) -> Option<Guess> {
    let width = usize::from(kind.words()?);
    let part = words.get(usize::from(offset)..)?.get(..width)?;
    let meaning = Meaning {
        order,
        ..Meaning::new(kind)
    };
    let value = match (Register {
        table: Table::Holding,
        address: 0,
        meaning,
    })
    .decode(part, None)
    .ok()?
    {
        Value::Int(number) => number as f64,
        Value::UInt(number) => number as f64,
        Value::F32(number) => f64::from(number),
        Value::F64(number) => number,
        Value::Bool(_) | Value::Text(_) | Value::List(_) => return None,
    };
    Some(Guess {
        offset,
        kind,
        order,
        value,
        is_plausible: is_plausible(kind, value, part),
    })
}

/// Not what random bits look like: a real number of usual size, a whole number that is small for
/// its width.
fn is_plausible(kind: DataType, value: f64, words: &[u16]) -> bool {
    let size = value.abs();
    if words.iter().all(|word| *word == 0) || words.iter().all(|word| *word == 0xFFFF) {
        return false;
    }
    match kind {
        DataType::F32 | DataType::F64 | DataType::F16 => (1e-4..1e7).contains(&size),
        DataType::U16 => (1.0..32_767.0).contains(&size),
        DataType::I16 | DataType::Sm16 => (1.0..10_000.0).contains(&size),
        DataType::Bcd(_) | DataType::Mod10k32 => size >= 1.0,
        _ => (1.0..1e8).contains(&size),
    }
}

/// Every way to read the registers.
pub fn guesses(words: &[u16]) -> impl Iterator<Item = Guess> + '_ {
    let offsets = 0..u16::try_from(words.len()).unwrap_or(u16::MAX);
    let ways = KINDS
        .iter()
        .flat_map(|kind| orders(*kind).iter().map(move |order| (*kind, *order)));
    let ways: Vec<(DataType, ByteOrder)> = ways.collect();
    offsets.flat_map(move |offset| {
        ways.clone()
            .into_iter()
            .filter_map(move |(kind, order)| guess(words, offset, kind, order))
    })
}

/// The orders that differ for a type.
pub fn orders(kind: DataType) -> &'static [ByteOrder] {
    const ONE_REGISTER: [ByteOrder; 2] = [ByteOrder::ABCD, ByteOrder::BADC];
    if kind.words() == Some(1) {
        &ONE_REGISTER
    } else {
        &ORDERS
    }
}

/// Ways that show `expected` but for `tolerance` (a part of it): the closest first, among those the
/// likeliest.
pub fn matches(words: &[u16], expected: f64, tolerance: f64) -> Vec<Match> {
    let mut found: Vec<Match> = Vec::new();
    for guess in guesses(words) {
        let of_scale = SCALES.iter().map(|scale| {
            let shown = guess.value * scale;
            let error = if expected == 0.0 {
                shown.abs()
            } else {
                ((shown - expected) / expected).abs()
            };
            Match {
                guess: guess.clone(),
                scale: *scale,
                shown,
                error,
            }
        });
        found.extend(of_scale.filter(|found| found.error <= tolerance));
    }
    found.sort_by(|one, other| {
        one.distance()
            .cmp(&other.distance())
            .then(one.unlikeliness().cmp(&other.unlikeliness()))
            .then(one.error.total_cmp(&other.error))
    });
    found
}

impl Match {
    /// A float needs no factor, and a usual type, order or factor is likelier than a rare one: 0 is
    /// likeliest.
    fn unlikeliness(&self) -> usize {
        let place = |found: Option<usize>, all: usize| found.unwrap_or(all);
        let is_float = matches!(
            self.guess.kind,
            DataType::F16 | DataType::F32 | DataType::F64
        );
        let mut scales = SCALES.iter();
        let scale = scales.position(|scale| (scale - self.scale).abs() < f64::EPSILON);
        let scale = place(scale, SCALES.len());
        let kind = KINDS.iter().position(|kind| *kind == self.guess.kind);
        let order = ORDERS.iter().position(|order| *order == self.guess.order);
        let odd_scale = if is_float && scale > 0 { 20 } else { scale };
        2 * odd_scale + place(kind, KINDS.len()) + 3 * place(order, ORDERS.len())
    }

    /// The difference from the expected value in steps that a person would make: 0 has the same
    /// digits, as far as an instrument shows them.
    pub fn distance(&self) -> usize {
        [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05]
            .iter()
            .take_while(|step| self.error > **step)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(words: &[u16], expected: f64) -> (u16, DataType, ByteOrder, f64) {
        let found = matches(words, expected, 0.01);
        let first = found
            .first()
            .unwrap_or_else(|| panic!("{words:x?} never shows {expected}"));
        (
            first.guess.offset,
            first.guess.kind,
            first.guess.order,
            first.scale,
        )
    }

    #[test]
    fn an_expected_value_is_found_in_every_order_and_scale() {
        let [high, low] = [
            (229.4_f32.to_bits() >> 16) as u16,
            (229.4_f32.to_bits() & 0xFFFF) as u16,
        ];
        assert_eq!(
            best(&[7, high, low, 9], 229.4),
            (1, DataType::F32, ByteOrder::ABCD, 1.0)
        );
        assert_eq!(
            best(&[7, low, high, 9], 229.4),
            (1, DataType::F32, ByteOrder::CDAB, 1.0)
        );
        assert_eq!(
            best(&[high.swap_bytes(), low.swap_bytes()], 229.4),
            (0, DataType::F32, ByteOrder::BADC, 1.0)
        );
        assert_eq!(
            best(&[low.swap_bytes(), high.swap_bytes()], 229.4),
            (0, DataType::F32, ByteOrder::DCBA, 1.0)
        );
        assert_eq!(
            best(&[0, 2294, 0], 229.4),
            (1, DataType::U16, ByteOrder::ABCD, 0.1)
        );
        assert_eq!(
            best(&[1, 0x86A0], 1000.0),
            (0, DataType::U32, ByteOrder::ABCD, 0.01)
        );
        assert_eq!(
            best(&[0x1234], 1234.0),
            (0, DataType::Bcd(Bcd::plain(2)), ByteOrder::ABCD, 1.0)
        );
        assert_eq!(
            best(&[0xFFF6], -10.0),
            (0, DataType::I16, ByteOrder::ABCD, 1.0)
        );
        let energy = 123_456.789_f64.to_bits().to_be_bytes();
        let words: Vec<u16> = energy
            .chunks(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
            .collect();
        assert_eq!(
            best(&words, 123_456.8),
            (0, DataType::F64, ByteOrder::ABCD, 1.0)
        );
        assert!(matches(&[1, 2, 3], 229.4, 0.001).is_empty());
        // The closest goes before a more usual way that is further off.
        assert_eq!(
            best(&[2280, 22_943], 229.4),
            (1, DataType::U16, ByteOrder::ABCD, 0.01)
        );
        let distances: Vec<usize> = matches(&[2272, 2280, 2294, 2296, 0x22F4], 229.4, 0.05)
            .iter()
            .map(Match::distance)
            .collect();
        assert!(
            distances.len() > 4 && distances.is_sorted() && distances[0] == 0,
            "{distances:?}"
        );
    }

    #[test]
    fn plausible_is_what_instruments_show() {
        let is_plausible = |words: &[u16], kind, order| {
            guess(words, 0, kind, order).is_some_and(|guess| guess.is_plausible)
        };
        let [high, low] = [
            (229.4_f32.to_bits() >> 16) as u16,
            (229.4_f32.to_bits() & 0xFFFF) as u16,
        ];
        assert!(is_plausible(&[high, low], DataType::F32, ByteOrder::ABCD));
        assert!(!is_plausible(&[high, low], DataType::F32, ByteOrder::DCBA));
        assert!(!is_plausible(&[high, low], DataType::U32, ByteOrder::ABCD));
        assert!(
            !is_plausible(&[0, 0], DataType::F32, ByteOrder::ABCD)
                && !is_plausible(&[0xFFFF], DataType::U16, ByteOrder::ABCD)
        );
        assert!(
            guess(&[1], 0, DataType::U32, ByteOrder::ABCD).is_none(),
            "there is only one register"
        );
    }
}
