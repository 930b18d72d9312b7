//! What a simulator shows for points that do not say it themselves: values as such instruments show them, by unit, name and type. Pure.
//!
//! Invariants:
//! * A value fits the type of its register, what may be written to it, and the range in which it is plausible.
//! * A value is never one that means "no value".
//! * Counters grow, and do not start again for ten years where their type allows it.

use std::time::Duration;

use super::decode::{Meaning, Part};
use super::wave::{Shape, Wave};
use crate::units::Span;

/// So long a counter grows before it starts again.
const TEN_YEARS: f64 = 315_360_000.0;
/// Where dates begin: 2026-01-01, in seconds since 1970.
const FIRST_DATE: f64 = 1_767_225_600.0;

/// What is known of a point.
#[derive(Debug, Clone, Copy)]
pub struct Quantity<'a> {
    /// Its name in the YAML.
    pub name: &'a str,
    /// Its unit; empty if it has none.
    pub unit: &'a str,
    /// What it means; `None` for a value that is in no register and no message.
    pub meaning: Option<&'a Meaning>,
    /// It is a coil or a discrete input.
    pub is_bit: bool,
    /// A register beside it holds its power of ten.
    pub has_exponent: bool,
    /// The raw values that its manual names, with their text.
    pub codes: &'a [(i64, String)],
    /// What may be written to it.
    pub writable: Option<(f64, f64)>,
}

/// What is usual.
#[derive(Debug, Clone, Copy)]
enum Usual {
    /// It moves between two values.
    Between(f64, f64),
    /// It grows from a value by so much a second.
    Grows(f64, f64),
}

use Usual::{Between, Grows};

/// The first row whose unit is that of the point, and one of whose words begins a word of its name (no words: any name), says what is usual.
const USUAL: &[(&str, &[&str], Usual)] = &[
    ("V", &["offset"], Between(0.5, 1.5)),
    ("V", &["cell"], Between(3.25, 3.35)),
    ("V", &["alternator", "starter"], Between(27.0, 28.0)),
    (
        "V",
        &["battery", "charge", "discharge"],
        Between(50.0, 53.0),
    ),
    (
        "V",
        &["pv", "dc", "string", "mppt", "link", "bus"],
        Between(380.0, 420.0),
    ),
    ("V", &["analog"], Between(4.0, 6.0)),
    ("V", &["max"], Between(252.0, 253.0)),
    ("V", &["min"], Between(207.0, 208.0)),
    (
        "V",
        &["l12", "l23", "l31", "ll", "line"],
        Between(398.0, 402.0),
    ),
    ("V", &[], Between(226.0, 234.0)),
    ("mV", &[], Between(3250.0, 3350.0)),
    ("A", &["neutral", "leakage", "residual"], Between(0.1, 0.3)),
    (
        "A",
        &["max", "limit", "rating", "setpoint"],
        Between(16.0, 16.0),
    ),
    ("A", &[], Between(4.5, 5.5)),
    ("mA", &[], Between(11.0, 13.0)),
    ("W", &["l1", "l2", "l3"], Between(1050.0, 1250.0)),
    (
        "W",
        &["max", "limit", "rating", "setpoint"],
        Between(9000.0, 10_000.0),
    ),
    ("W", &[], Between(3200.0, 3700.0)),
    ("VA", &["l1", "l2", "l3"], Between(1100.0, 1300.0)),
    (
        "VA",
        &["max", "limit", "rating", "setpoint"],
        Between(10_000.0, 11_000.0),
    ),
    ("VA", &[], Between(3400.0, 3900.0)),
    ("var", &["l1", "l2", "l3"], Between(100.0, 140.0)),
    ("var", &[], Between(320.0, 420.0)),
    ("Hz", &[], Between(49.95, 50.05)),
    ("%", &["power_factor", "cos"], Between(95.0, 99.0)),
    ("%", &["thd"], Between(2.0, 4.0)),
    ("%", &["battery_soh", "soh", "health"], Between(97.0, 99.0)),
    ("%", &["correction", "gradient"], Between(0.5, 1.5)),
    ("%", &["min", "reserve"], Between(15.0, 20.0)),
    ("%", &["max"], Between(90.0, 95.0)),
    ("%", &[], Between(42.0, 58.0)),
    (
        "degC",
        &[
            "correction",
            "offset",
            "differential",
            "difference",
            "hysteresis",
            "deadband",
        ],
        Between(0.5, 1.5),
    ),
    ("degC", &["dew"], Between(11.0, 13.0)),
    (
        "degC",
        &[
            "heat", "inverter", "module", "igbt", "drive", "motor", "coolant", "oil", "engine",
        ],
        Between(40.0, 55.0),
    ),
    ("degC", &[], Between(21.0, 25.0)),
    (
        "K",
        &["difference", "differential", "delta", "hysteresis"],
        Between(2.0, 3.0),
    ),
    ("K", &[], Between(293.0, 298.0)),
    (
        "Wh",
        &["rating", "capacity", "available", "max", "nominal"],
        Between(9600.0, 10_000.0),
    ),
    ("Wh", &["today", "day", "daily"], Grows(8200.0, 0.96)),
    ("Wh", &[], Grows(12_345_678.0, 0.96)),
    ("varh", &[], Grows(1_234_567.0, 0.1)),
    ("VAh", &[], Grows(13_456_789.0, 1.0)),
    ("Ah", &[], Between(80.0, 120.0)),
    ("h", &[], Grows(4321.0, 1.0 / 3600.0)),
    (
        "s",
        &["run", "uptime", "operat", "on_time", "total"],
        Grows(15_555_600.0, 1.0),
    ),
    ("s", &[], Between(60.0, 60.0)),
    ("min", &[], Between(10.0, 10.0)),
    ("ms", &[], Between(450.0, 550.0)),
    ("m3", &[], Grows(1234.5, 0.0033)),
    ("l", &[], Grows(1_234_500.0, 3.3)),
    ("m3/h", &[], Between(11.0, 13.0)),
    ("m3/s", &[], Between(0.0031, 0.0036)),
    ("l/min", &[], Between(190.0, 210.0)),
    ("l/s", &[], Between(3.1, 3.6)),
    ("l/h", &[], Between(11_000.0, 13_000.0)),
    ("kg/s", &[], Between(3.1, 3.6)),
    ("kg/h", &[], Between(11_000.0, 13_000.0)),
    ("GJ/h", &[], Between(0.4, 0.5)),
    ("m/s", &["sound"], Between(1478.0, 1484.0)),
    ("m/s", &["wind_speed_max"], Between(6.0, 8.0)),
    ("m/s", &[], Between(2.5, 4.5)),
    ("kn", &[], Between(5.0, 8.0)),
    ("as sent", &[], Between(5.0, 8.0)),
    ("rpm", &[], Between(1460.0, 1490.0)),
    ("bar", &[], Between(2.6, 2.9)),
    ("kPa", &[], Between(380.0, 420.0)),
    ("hPa", &[], Between(1008.0, 1016.0)),
    ("deg", &["compass"], Between(1.0, 2.0)),
    ("deg", &[], Between(170.0, 190.0)),
    ("m", &["altitude"], Between(118.0, 122.0)),
    ("m", &["offset"], Between(0.0, 0.0)),
    ("m", &[], Between(2.1, 2.4)),
    ("mm", &[], Between(2.0, 3.0)),
    ("mm/h", &[], Between(0.2, 0.6)),
    ("W/m2", &[], Between(420.0, 560.0)),
    ("ohm", &[], Between(1095.0, 1105.0)),
    ("Nm", &[], Between(18.0, 22.0)),
    ("S/m", &[], Between(0.05, 0.055)),
    ("ppm", &[], Between(420.0, 600.0)),
    ("lx", &[], Between(300.0, 500.0)),
    ("ug/m3", &[], Between(8.0, 14.0)),
    ("1/0.1L", &[], Between(480.0, 560.0)),
    ("kg", &[], Between(12.3, 12.6)),
    ("ddmm.mmmm", &[], Between(4807.03, 4807.05)),
    ("dddmm.mmmm", &[], Between(1131.01, 1131.03)),
    (
        "",
        &["power_factor", "cos", "meter_power_factor"],
        Between(0.95, 0.99),
    ),
    (
        "",
        &[
            "alarm",
            "fault",
            "error",
            "event",
            "warning",
            "burnout",
            "overflow",
            "overload",
            "clear",
            "reset",
            "diag",
            "last_fault",
        ],
        Between(0.0, 0.0),
    ),
    ("", &["heartbeat", "run_indicator"], Grows(100.0, 1.0)),
    (
        "",
        &["starts", "cycles", "cycle", "batch"],
        Grows(321.0, 1.0 / 3600.0),
    ),
    (
        "",
        &["counter", "count", "pulse", "totalizer", "energy"],
        Grows(1234.0, 0.5),
    ),
    ("", &["serial", "rfid"], Between(20_261_117.0, 20_261_117.0)),
    (
        "",
        &["firmware", "version", "software"],
        Between(103.0, 103.0),
    ),
    ("", &["phases"], Between(3.0, 3.0)),
    ("", &["decimals"], Between(2.0, 2.0)),
    ("", &["ct_ratio", "vt_ratio", "ratio"], Between(40.0, 40.0)),
    ("", &["signal", "quality"], Between(80.0, 90.0)),
    ("", &["temperature"], Between(21.0, 25.0)),
];

/// Units with a letter that multiplies them: that of the rows, and the factor.
const MULTIPLIED: [(&str, &str, f64); 16] = [
    ("kV", "V", 1e3),
    ("kA", "A", 1e3),
    ("kW", "W", 1e3),
    ("MW", "W", 1e6),
    ("kVA", "VA", 1e3),
    ("MVA", "VA", 1e6),
    ("kvar", "var", 1e3),
    ("Mvar", "var", 1e6),
    ("kWh", "Wh", 1e3),
    ("MWh", "Wh", 1e6),
    ("kvarh", "varh", 1e3),
    ("Mvarh", "varh", 1e6),
    ("kVAh", "VAh", 1e3),
    ("MVAh", "VAh", 1e6),
    ("mm3", "m3", 1e9),
    ("\u{b0}C", "degC", 1.0),
];

/// Names of what should not happen while everything is well, and of orders.
const QUIET: [&str; 18] = [
    "alarm", "fault", "error", "event", "warning", "burnout", "overflow", "overload", "over",
    "clear", "reset", "start", "remote", "toggle", "defrost", "high", "low", "negative",
];

/// Words of what a device does while everything is well.
const WELL: [&str; 23] = [
    "running",
    "run",
    "mppt",
    "normal",
    "auto",
    "on",
    "ok",
    "charging",
    "connected",
    "closed",
    "grid",
    "started",
    "generating",
    "tracking",
    "float",
    "operative",
    "automatic",
    "trip-free",
    "self-consumption",
    "active",
    "locked",
    "pv",
    "remote",
];

fn has(name: &str, words: &[&str]) -> bool {
    let name = format!("_{}", name.to_ascii_lowercase().replace('-', "_"));
    words.iter().any(|word| name.contains(&format!("_{word}")))
}

/// What is usual for a name and a unit.
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

/// The wave of a point that has none of its own.
pub fn wave(quantity: &Quantity<'_>) -> Wave {
    let period = f64::from(
        40 + quantity
            .name
            .bytes()
            .fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(byte)))
            % 41,
    );
    let (least, most) = limits(quantity);
    let usual = match quantity.meaning {
        Some(meaning) if meaning.kind.is_time() => return ramp(FIRST_DATE, 1.0, f64::INFINITY),
        Some(meaning) if !meaning.flags.is_empty() => Between(flag(quantity, meaning), f64::NAN),
        _ if is_one_bit(quantity) && has(quantity.name, &QUIET) => Between(0.0, 0.0),
        _ if is_one_bit(quantity) => {
            return Wave {
                shape: Shape::Square,
                from: 0.0,
                to: 1.0,
                period: seconds(period),
            };
        }
        _ => code(quantity).map_or_else(|| quantity.usual(), |code| Between(code, f64::NAN)),
    };
    let (from, to) = match usual {
        Grows(from, rate) if from < most => return ramp(from, quantity.visible(rate), most),
        Grows(_, rate) if most > 0.0 => return ramp(most / 5.0, rate, most),
        Grows(..) => between((1.0, 2.0), (least, most)),
        // A code is what it is.
        Between(code, to) if to.is_nan() => (code, code),
        Between(from, to) => between((from, to), (least, most)),
    };
    let (from, to) = quantity
        .meaning
        .filter(|_| !quantity.has_exponent)
        .map_or((from, to), |meaning| without_broken((from, to), meaning));
    #[allow(clippy::float_cmp)]
    let shape = if from == to {
        Shape::Constant
    } else {
        Shape::Sine
    };
    Wave {
        shape,
        from,
        to,
        period: seconds(period),
    }
}

/// The power of ten with which the values of points that share it keep their digits.
pub fn exponent<'a>(points: impl Iterator<Item = (&'a Wave, &'a Meaning)> + Clone) -> i16 {
    const DIGITS_OF_16_BITS: f64 = 30_000.0;
    let fits = |exponent: i16, wave: &Wave, meaning: &Meaning| {
        let most = if meaning.kind.words() == Some(1) {
            DIGITS_OF_16_BITS
        } else {
            2e9
        };
        let size = wave.from.abs().max(wave.to.abs());
        size / (meaning.scale.abs() * 10_f64.powi(exponent.into())) <= most
    };
    (-2..=10)
        .find(|exponent| {
            points
                .clone()
                .all(|(wave, meaning)| fits(*exponent, wave, meaning))
        })
        .unwrap_or(0)
}

/// What a text shows.
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
    fn usual(&self) -> Usual {
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
            matches!(meaning.part, Part::Bit(_)) || meaning.kind == super::decode::Kind::Bool
        })
}

/// The raw value that a table of words or of codes names for a device that is well.
#[allow(clippy::cast_precision_loss)]
fn code(quantity: &Quantity<'_>) -> Option<f64> {
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
    let meant = |code: i64| {
        quantity.meaning.map_or(code as f64, |meaning| {
            code as f64 * meaning.scale + meaning.offset
        })
    };
    let fits = |code: i64| {
        let (least, most) = limits(quantity);
        (least..=most).contains(&meant(code))
            && !quantity.meaning.is_some_and(|meaning| {
                meaning
                    .broken_numbers()
                    .any(|(first, last)| (first..=last).contains(&(code as f64)))
            })
    };
    let possible: Vec<&(i64, String)> = known.iter().filter(|(code, _)| fits(*code)).collect();
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
        .map(|(code, _)| meant(*code))
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

/// What the register holds, may be written, and is plausible.
fn limits(quantity: &Quantity<'_>) -> (f64, f64) {
    let (mut least, mut most) = quantity
        .writable
        .unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
    let Some(meaning) = quantity.meaning else {
        return (least, most);
    };
    least = least.max(meaning.min.unwrap_or(least));
    most = most.min(meaning.max.unwrap_or(most));
    if quantity.has_exponent {
        return (least, most);
    }
    if let Some((low, high)) = meaning.raw_range() {
        let ends = [
            low * meaning.scale + meaning.offset,
            high * meaning.scale + meaning.offset,
        ];
        least = least.max(ends.iter().copied().fold(f64::INFINITY, f64::min));
        most = most.min(ends.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    }
    (least, most)
}

/// What is usual, as far as the limits allow it; its negative where only that does; else the middle between the limits.
fn between((from, to): (f64, f64), (least, most): (f64, f64)) -> (f64, f64) {
    for (from, to) in [(from, to), (-to, -from)] {
        let (from, to) = (from.max(least), to.min(most));
        if from <= to {
            return (from, to);
        }
    }
    match (least.is_finite(), most.is_finite()) {
        (true, true) => (least + (most - least) * 0.4, least + (most - least) * 0.6),
        (true, false) => (least, least),
        _ => (most, most),
    }
}

/// The larger side of a value that means "no value".
fn without_broken((from, to): (f64, f64), meaning: &Meaning) -> (f64, f64) {
    let step = if meaning.kind.is_integer() {
        meaning.scale.abs()
    } else {
        0.01 * (to - from).abs().max(0.01)
    };
    let shown = |raw: f64| meaning.kind.as_held(raw) * meaning.scale + meaning.offset;
    let broken = meaning
        .broken_numbers()
        .map(|(first, last)| (shown(first), shown(last)));
    broken.fold((from, to), |(from, to), (one, other)| {
        let (low, high) = (one.min(other), one.max(other));
        if high < from - step || low > to + step {
            (from, to)
        } else if low - from > to - high {
            (from.min(low - 2.0 * step), low - 2.0 * step)
        } else {
            (high + 2.0 * step, to.max(high + 2.0 * step))
        }
    })
}

fn seconds(seconds: f64) -> Span {
    Span(Duration::from_secs_f64(seconds))
}

/// Grows for ten years, or until the register is full.
fn ramp(from: f64, rate: f64, most: f64) -> Wave {
    // The highest values of a type often mean "no value".
    let full = if most.is_finite() {
        most - 0.001 * (most - from)
    } else {
        most
    };
    let to = (from + rate * TEN_YEARS).min(full).max(from);
    Wave {
        shape: Shape::Ramp,
        from,
        to,
        period: seconds(((to - from) / rate).clamp(1.0, TEN_YEARS)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::field::decode::{Kind, Sentinel};

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
        let wave = wave(&quantity(name, unit, meaning));
        for second in 0..200 {
            let value = wave.value(Duration::from_secs(second));
            assert!(
                (low..=high).contains(&value),
                "{name} in {unit} at {second} s: {value}"
            );
        }
    }

    #[test]
    fn values_are_those_of_their_unit() {
        let plain = Meaning::new(Kind::F32);
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
        check("voltage", "V", &scaled(Kind::U8L, 1.0), 220.0, 240.0);
        check("speed", "rpm", &scaled(Kind::U8L, 1.0), 0.0, 255.0);
        check(
            "battery_consumed",
            "Ah",
            &scaled(Kind::U16, -0.1),
            -6553.5,
            -1.0,
        );
        check("energy", "kWh", &scaled(Kind::U16, 0.01), 0.0, 655.35);
        let bounded = Meaning {
            min: Some(1.0),
            max: Some(2.0),
            ..Meaning::new(Kind::F32)
        };
        check("voltage", "V", &bounded, 1.0, 2.0);
        let written = Meaning::new(Kind::U16);
        let wave = wave(&Quantity {
            writable: Some((6.0, 32.0)),
            ..quantity("current_setpoint", "W", &written)
        });
        assert!(
            (6.0..=32.0).contains(&wave.from) && (6.0..=32.0).contains(&wave.to),
            "{wave:?}"
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
            let meaning = with(&[f64::from(broken)], Kind::U16);
            let wave = wave(&quantity("voltage", "V", &meaning));
            for second in 0..200 {
                let shown = wave.value(Duration::from_secs(second)).round();
                assert!(
                    (shown - f64::from(broken)).abs() > 0.5,
                    "{shown} means no value"
                );
            }
        }
        let zero = with(&[0.0], Kind::U16);
        check("alarm_code", "", &zero, 1.0, 3.0);
    }

    #[test]
    fn counters_grow_and_fit() {
        for (kind, scale) in [
            (Kind::U16, 1.0),
            (Kind::U16, 0.1),
            (Kind::U32, 0.01),
            (Kind::U32, 1.0),
            (Kind::F32, 1.0),
            (Kind::U64, 0.001),
        ] {
            let meaning = Meaning {
                scale,
                ..Meaning::new(kind)
            };
            let wave = wave(&quantity("energy_import", "kWh", &meaning));
            let at = |hours: u64| wave.value(Duration::from_secs(3600 * hours));
            assert!(
                at(0) < at(1) && at(1) < at(24) && at(24) < at(240),
                "{kind:?}: {wave:?}"
            );
            if let Some((_, most)) = meaning.raw_range() {
                assert!(wave.to <= most * scale, "{kind:?}: {wave:?}");
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
            wave(&quantity).value(Duration::from_secs(7))
        };
        let plain = Meaning::new(Kind::U16);
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
            ..Meaning::new(Kind::U16)
        };
        assert!((shown("mode", &words, &[]) - 5.0).abs() < 1e-9);
        let flags = Meaning {
            flags: [(2_u8, Arc::from("running")), (15, Arc::from("fault"))].into(),
            ..Meaning::new(Kind::U16)
        };
        assert!((shown("state", &flags, &[]) - 4.0).abs() < 1e-9);
    }

    #[test]
    fn powers_of_ten_keep_the_digits() {
        let (short, long) = (Meaning::new(Kind::U16), Meaning::new(Kind::U32));
        let of = |list: &[(f64, &Meaning)]| {
            let waves: Vec<Wave> = list
                .iter()
                .map(|(to, _)| Wave {
                    to: *to,
                    ..Wave::default()
                })
                .collect();
            exponent(waves.iter().zip(list.iter().map(|(_, meaning)| *meaning)))
        };
        assert_eq!(of(&[(234.0, &short)]), -2);
        assert_eq!(of(&[(3700.0, &short)]), 0);
        assert_eq!(of(&[(2.0, &short), (4e6, &short)]), 3);
        assert_eq!(of(&[(3e8, &long)]), 0);
    }
}
