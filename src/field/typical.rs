//! Values that a simulator shows for points without `simulate`: typical ones by unit, name and
//! type. Pure.
//!
//! Invariants:
//! * A value fits the type of its register, what may be written to it, and the range in which it is
//!   plausible.
//! * A value is never one that means "no value".
//! * Counters grow, and do not start again for ten years where their type allows it.

mod usual;

use std::time::Duration;

use super::decode::{DataType, Meaning, Part};
use super::signal::{Signal, Waveform};
use crate::units::Span;
use usual::Usual::{Between, Grows};
use usual::{MULTIPLIED, QUIET, USUAL, Usual, WELL};

/// The time for which a counter grows before it starts again, in seconds.
const TEN_YEARS: f64 = 315_360_000.0;
/// The first simulated date: 2026-01-01, in seconds since 1970.
const FIRST_DATE: f64 = 1_767_225_600.0;

/// The facts about a point that its values depend on.
#[derive(Debug, Clone, Copy)]
pub struct Quantity<'a> {
    /// Its name in the YAML.
    pub name: &'a str,
    /// Its unit; empty if it has none.
    pub unit: &'a str,
    /// Its meaning; `None` for a value that is in no register and no message.
    pub meaning: Option<&'a Meaning>,
    /// It is a coil or a discrete input.
    pub is_bit: bool,
    /// A register beside it holds its power of ten.
    pub has_exponent: bool,
    /// The raw values that its manual names, with their text.
    pub codes: &'a [(i64, String)],
    /// The least and the greatest value that may be written to it.
    pub writable: Option<(f64, f64)>,
}

fn has(name: &str, words: &[&str]) -> bool {
    let name = format!("_{}", name.to_ascii_lowercase().replace('-', "_"));
    words.iter().any(|word| name.contains(&format!("_{word}")))
}

/// The usual values for a name and a unit.
fn usual(name: &str, unit: &str) -> Option<Usual> {
    let find = |unit: &str| {
        USUAL
            .iter()
            .find(|(of, words, _)| *of == unit && (words.is_empty() || has(name, words)))
            .map(|(.., usual)| *usual)
    };
    find(unit).or_else(|| {
        let (_, base, factor) = MULTIPLIED
            .iter()
            .find(|(multiplied, ..)| *multiplied == unit)?;
        Some(match find(base)? {
            Between(from, to) => Between(from / factor, to / factor),
            Grows(from, rate) => Grows(from / factor, rate / factor),
        })
    })
}

/// The lowest and the highest value.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    low: f64,
    high: f64,
}

impl Bounds {
    const fn new(low: f64, high: f64) -> Self {
        Self { low, high }
    }

    fn contains(self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Moves smoothly from one bound to the other.
    fn signal(self, period: Span) -> Signal {
        #[allow(clippy::float_cmp)]
        let shape = if self.low == self.high {
            Waveform::Constant
        } else {
            Waveform::Sine
        };
        Signal {
            shape,
            from: self.low,
            to: self.high,
            period,
        }
    }
}

/// The wave of a point that has none of its own.
pub fn signal(quantity: &Quantity<'_>) -> Signal {
    let meaning = quantity.meaning;
    if meaning.is_some_and(|meaning| meaning.kind.is_time()) {
        return ramp(FIRST_DATE, 1.0, f64::INFINITY);
    }
    let has_flags = meaning.is_some_and(|meaning| !meaning.flags.is_empty());
    if !has_flags && is_one_bit(quantity) && !has(quantity.name, &QUIET) {
        return Signal {
            shape: Waveform::Square,
            from: 0.0,
            to: 1.0,
            period: period(quantity.name),
        };
    }
    let limits = limits(quantity);
    let range = match (code(quantity), quantity.usual()) {
        // A code is not moved, only kept off values that mean "no value".
        (Some(code), _) => Bounds::new(code, code),
        (None, Grows(from, rate)) if from < limits.high => {
            return ramp(from, quantity.visible(rate), limits.high);
        }
        (None, Grows(_, rate)) if limits.high > 0.0 => {
            return ramp(limits.high / 5.0, rate, limits.high);
        }
        (None, Grows(..)) => between(Bounds::new(1.0, 2.0), limits),
        (None, Between(low, high)) => between(Bounds::new(low, high), limits),
    };
    let range = meaning
        .filter(|_| !quantity.has_exponent)
        .map_or(range, |meaning| without_broken(range, meaning));
    range.signal(period(quantity.name))
}

/// Between 40 and 80 seconds, so that not all points move alike.
fn period(name: &str) -> Span {
    let sum = name
        .bytes()
        .fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(byte)));
    seconds(f64::from(40 + sum % 41))
}

/// The power of ten with which the values of points that share it keep their digits.
pub fn exponent<'a>(points: impl Iterator<Item = (&'a Signal, &'a Meaning)> + Clone) -> i16 {
    const DIGITS_OF_16_BITS: f64 = 30_000.0;
    let fits = |exponent: i16, signal: &Signal, meaning: &Meaning| {
        let most = if meaning.kind.words() == Some(1) {
            DIGITS_OF_16_BITS
        } else {
            2e9
        };
        let size = signal.from.abs().max(signal.to.abs());
        size / (meaning.scale.abs() * 10_f64.powi(exponent.into())) <= most
    };
    (-2..=10)
        .find(|exponent| {
            points
                .clone()
                .all(|(signal, meaning)| fits(*exponent, signal, meaning))
        })
        .unwrap_or(0)
}

/// The text of a point by its name.
pub fn text(name: &str) -> &'static str {
    if has(name, &["manufacturer", "vendor", "maker"]) {
        "wellhead"
    } else if has(name, &["serial", "number"]) {
        "SN20261117"
    } else if has(name, &["version", "firmware", "software"]) {
        "1.0.3"
    } else if has(name, &["status", "state", "mode"]) {
        "C2"
    } else if has(name, &["options"]) {
        "none"
    } else {
        "SIM-100"
    }
}

impl Quantity<'_> {
    /// The value of a raw number.
    #[allow(clippy::cast_precision_loss)]
    fn value_of(&self, code: i64) -> f64 {
        self.meaning.map_or(code as f64, |meaning| {
            code as f64 * meaning.scale + meaning.offset
        })
    }

    /// True if a raw number is within the limits and does not mean "no value".
    #[allow(clippy::cast_precision_loss)]
    fn can_show(&self, code: i64) -> bool {
        let is_broken = self.meaning.is_some_and(|meaning| {
            meaning
                .broken_numbers()
                .any(|(first, last)| (first..=last).contains(&(code as f64)))
        });
        !is_broken && limits(self).contains(self.value_of(code))
    }

    fn usual(&self) -> Usual {
        if is_one_bit(self) {
            return Between(0.0, 0.0);
        }
        let is_whole = self
            .meaning
            .is_some_and(|meaning| meaning.kind.is_integer() && meaning.decimals.is_none());
        usual(self.name, self.unit).unwrap_or_else(|| {
            match (has(self.name, &["analog"]), is_whole) {
                (true, true) => Between(8000.0, 12_000.0),
                (true, false) => Between(8.0, 12.0),
                (false, true) => Between(1.0, 1.0),
                (false, false) => Between(1.0, 2.0),
            }
        })
    }

    /// A counter is seen to grow within a minute, if that does not make a village of a house.
    fn visible(&self, rate: f64) -> f64 {
        let step = self
            .meaning
            .filter(|meaning| meaning.kind.is_integer() && meaning.kind.bits() >= 24)
            .map_or(0.0, |meaning| meaning.scale.abs());
        rate.max((step / 2.0).min(20.0 * rate))
    }
}

fn is_one_bit(quantity: &Quantity<'_>) -> bool {
    quantity.is_bit
        || quantity.meaning.is_some_and(|meaning| {
            matches!(meaning.part, Part::Bit(_)) || meaning.kind == DataType::Bool
        })
}

/// The value of the flags, word or code that a healthy device shows; `None` if it has none.
fn code(quantity: &Quantity<'_>) -> Option<f64> {
    match quantity.meaning {
        Some(meaning) if !meaning.flags.is_empty() => return Some(flag(quantity, meaning)),
        _ if is_one_bit(quantity) => return None,
        _ => {}
    }
    let of_words: Vec<(i64, String)> = quantity
        .meaning
        .iter()
        .flat_map(|meaning| meaning.words.iter())
        .map(|(code, word)| (*code, word.to_string()))
        .collect();
    let known = if of_words.is_empty() {
        quantity.codes
    } else {
        &of_words
    };
    let possible: Vec<&(i64, String)> = known
        .iter()
        .filter(|(code, _)| quantity.can_show(*code))
        .collect();
    let is_well = |text: &str| {
        text.to_ascii_lowercase()
            .split([' ', ','])
            .any(|word| WELL.contains(&word))
    };
    let quiet = has(quantity.name, &QUIET)
        .then(|| possible.iter().find(|(code, _)| *code == 0))
        .flatten();
    let well = || possible.iter().find(|(_, text)| is_well(text));
    quiet
        .or_else(well)
        .or_else(|| possible.first())
        .map(|(code, _)| quantity.value_of(*code))
}

/// The bits that are set while everything is well: the first one, if it is no alarm.
#[allow(clippy::cast_precision_loss)]
fn flag(quantity: &Quantity<'_>, meaning: &Meaning) -> f64 {
    let first = meaning
        .flags
        .first()
        .filter(|(_, name)| !has(quantity.name, &QUIET) && !has(name, &QUIET));
    first
        .and_then(|(bit, _)| 1_u64.checked_shl(u32::from(*bit)))
        .map_or(0.0, |bit| bit as f64)
}

/// The values that the register holds, may be written, and are plausible.
fn limits(quantity: &Quantity<'_>) -> Bounds {
    let (mut low, mut high) = quantity
        .writable
        .unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
    let Some(meaning) = quantity.meaning else {
        return Bounds { low, high };
    };
    low = low.max(meaning.min.unwrap_or(low));
    high = high.min(meaning.max.unwrap_or(high));
    if let Some((first, last)) = meaning.raw_range().filter(|_| !quantity.has_exponent) {
        let one = first * meaning.scale + meaning.offset;
        let other = last * meaning.scale + meaning.offset;
        low = low.max(one.min(other));
        high = high.min(one.max(other));
    }
    Bounds { low, high }
}

/// The usual values, as far as the limits allow them; their negatives where only those are allowed;
/// else the middle between the limits.
fn between(usual: Bounds, limits: Bounds) -> Bounds {
    for Bounds { low, high } in [usual, Bounds::new(-usual.high, -usual.low)] {
        let (low, high) = (low.max(limits.low), high.min(limits.high));
        if low <= high {
            return Bounds { low, high };
        }
    }
    let width = limits.high - limits.low;
    match (limits.low.is_finite(), limits.high.is_finite()) {
        (true, true) => Bounds::new(limits.low + width * 0.4, limits.low + width * 0.6),
        (true, false) => Bounds::new(limits.low, limits.low),
        _ => Bounds::new(limits.high, limits.high),
    }
}

/// The larger side of a value that means "no value".
fn without_broken(range: Bounds, meaning: &Meaning) -> Bounds {
    let step = if meaning.kind.is_integer() {
        meaning.scale.abs()
    } else {
        0.01 * (range.high - range.low).abs().max(0.01)
    };
    let shown = |raw: f64| meaning.kind.as_held(raw) * meaning.scale + meaning.offset;
    let mut left = range;
    for (first, last) in meaning.broken_numbers() {
        let (one, other) = (shown(first), shown(last));
        let (low, high) = (one.min(other), one.max(other));
        if high < left.low - step || low > left.high + step {
            continue;
        }
        left = if low - left.low > left.high - high {
            Bounds::new(left.low.min(low - 2.0 * step), low - 2.0 * step)
        } else {
            Bounds::new(high + 2.0 * step, left.high.max(high + 2.0 * step))
        };
    }
    left
}

fn seconds(seconds: f64) -> Span {
    Span(Duration::from_secs_f64(seconds))
}

/// Grows for ten years, or until the register is full.
fn ramp(from: f64, rate: f64, most: f64) -> Signal {
    // The highest values of a type often mean "no value".
    let full = if most.is_finite() {
        most - 0.001 * (most - from)
    } else {
        most
    };
    let to = (from + rate * TEN_YEARS).min(full).max(from);
    Signal {
        shape: Waveform::Ramp,
        from,
        to,
        period: seconds(((to - from) / rate).clamp(1.0, TEN_YEARS)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::field::decode::Sentinel;

    fn quantity<'a>(name: &'a str, unit: &'a str, meaning: &'a Meaning) -> Quantity<'a> {
        Quantity {
            name,
            unit,
            meaning: Some(meaning),
            is_bit: false,
            has_exponent: false,
            codes: &[],
            writable: None,
        }
    }

    #[track_caller]
    fn check(name: &str, unit: &str, meaning: &Meaning, low: f64, high: f64) {
        let signal = signal(&quantity(name, unit, meaning));
        for second in 0..200 {
            let value = signal.value(Duration::from_secs(second));
            assert!(
                (low..=high).contains(&value),
                "{name} in {unit} at {second} s: {value}"
            );
        }
    }

    #[test]
    fn values_are_those_of_their_unit() {
        let plain = Meaning::new(DataType::F32);
        check("voltage_l1", "V", &plain, 207.0, 253.0);
        check("voltage-l12", "V", &plain, 380.0, 420.0);
        check("power", "kW", &plain, 3.0, 4.0);
        check("power_factor", "", &plain, 0.9, 1.0);
        check("power_factor", "%", &plain, 90.0, 100.0);
        check("temperature", "degC", &plain, 20.0, 60.0);
        check("frequency", "Hz", &plain, 49.9, 50.1);
    }

    #[test]
    fn values_fit_what_holds_them() {
        let scaled = |kind, scale| Meaning {
            scale,
            ..Meaning::new(kind)
        };
        // 255 at most, tens of volts only, and below zero.
        check("voltage", "V", &scaled(DataType::U8L, 1.0), 220.0, 240.0);
        check("speed", "rpm", &scaled(DataType::U8L, 1.0), 0.0, 255.0);
        check(
            "battery_consumed",
            "Ah",
            &scaled(DataType::U16, -0.1),
            -6553.5,
            -1.0,
        );
        check("energy", "kWh", &scaled(DataType::U16, 0.01), 0.0, 655.35);
        let bounded = Meaning {
            min: Some(1.0),
            max: Some(2.0),
            ..Meaning::new(DataType::F32)
        };
        check("voltage", "V", &bounded, 1.0, 2.0);
        let written = Meaning::new(DataType::U16);
        let signal = signal(&Quantity {
            writable: Some((6.0, 32.0)),
            ..quantity("current_setpoint", "W", &written)
        });
        assert!(
            (6.0..=32.0).contains(&signal.from) && (6.0..=32.0).contains(&signal.to),
            "{signal:?}"
        );
    }

    #[test]
    fn values_never_mean_no_value() {
        let with = |broken: &[f64], kind| {
            let broken = broken
                .iter()
                .map(|broken| Sentinel::Number(*broken))
                .collect();
            Meaning {
                broken,
                ..Meaning::new(kind)
            }
        };
        for broken in 226..=234 {
            let meaning = with(&[f64::from(broken)], DataType::U16);
            let signal = signal(&quantity("voltage", "V", &meaning));
            for second in 0..200 {
                let shown = signal.value(Duration::from_secs(second)).round();
                assert!(
                    (shown - f64::from(broken)).abs() > 0.5,
                    "{shown} means no value"
                );
            }
        }
        let zero = with(&[0.0], DataType::U16);
        check("alarm_code", "", &zero, 1.0, 3.0);
    }

    #[test]
    fn counters_grow_and_fit() {
        for (kind, scale) in [
            (DataType::U16, 1.0),
            (DataType::U16, 0.1),
            (DataType::U32, 0.01),
            (DataType::U32, 1.0),
            (DataType::F32, 1.0),
            (DataType::U64, 0.001),
        ] {
            let meaning = Meaning {
                scale,
                ..Meaning::new(kind)
            };
            let signal = signal(&quantity("energy_import", "kWh", &meaning));
            let at = |hours: u64| signal.value(Duration::from_secs(3600 * hours));
            assert!(
                at(0) < at(1) && at(1) < at(24) && at(24) < at(240),
                "{kind:?}: {signal:?}"
            );
            if let Some((_, most)) = meaning.raw_range() {
                assert!(signal.to <= most * scale, "{kind:?}: {signal:?}");
            }
        }
    }

    #[test]
    fn codes_are_those_that_are_named() {
        let named = |list: &[(i64, &str)]| -> Vec<(i64, String)> {
            list.iter()
                .map(|(code, text)| (*code, (*text).to_owned()))
                .collect()
        };
        let shown = |name, meaning: &Meaning, codes: &[(i64, &str)]| {
            let codes = named(codes);
            let quantity = Quantity {
                codes: &codes,
                ..quantity(name, "", meaning)
            };
            signal(&quantity).value(Duration::from_secs(7))
        };
        let plain = Meaning::new(DataType::U16);
        let check = |name, codes, expected: f64| {
            assert!(
                (shown(name, &plain, codes) - expected).abs() < 1e-9,
                "{name}"
            );
        };
        check(
            "status",
            &[(1, "off"), (2, "sleeping"), (4, "MPPT"), (7, "fault")],
            4.0,
        );
        check("alarm", &[(2, "alarm"), (0, "none")], 0.0);
        check("precipitation", &[(60, "liquid"), (70, "snow")], 60.0);
        let words = Meaning {
            words: [(3_i64, Arc::from("hand")), (5, Arc::from("auto"))].into(),
            ..Meaning::new(DataType::U16)
        };
        assert!((shown("mode", &words, &[]) - 5.0).abs() < 1e-9);
        let flags = Meaning {
            flags: [(2_u8, Arc::from("running")), (15, Arc::from("fault"))].into(),
            ..Meaning::new(DataType::U16)
        };
        assert!((shown("state", &flags, &[]) - 4.0).abs() < 1e-9);
    }

    #[test]
    fn powers_of_ten_keep_the_digits() {
        let (short, long) = (Meaning::new(DataType::U16), Meaning::new(DataType::U32));
        let of = |list: &[(f64, &Meaning)]| {
            let signals: Vec<Signal> = list
                .iter()
                .map(|(to, _)| Signal {
                    to: *to,
                    ..Signal::default()
                })
                .collect();
            exponent(signals.iter().zip(list.iter().map(|(_, meaning)| *meaning)))
        };
        assert_eq!(of(&[(234.0, &short)]), -2);
        assert_eq!(of(&[(3700.0, &short)]), 0);
        assert_eq!(of(&[(2.0, &short), (4e6, &short)]), 3);
        assert_eq!(of(&[(3e8, &long)]), 0);
    }
}
