//! Units of meters, and how a number goes from one into another of the same quantity. Pure.

use std::sync::Arc;

use crate::reading::Value;

/// What a unit measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dimension {
    /// Active energy, heat.
    Energy,
    /// Reactive energy.
    ReactiveEnergy,
    /// Volume.
    Volume,
    /// Mass.
    Mass,
    /// Time that passes.
    Duration,
    /// Active power, heat flow.
    Power,
    /// Reactive power.
    ReactivePower,
    /// Apparent power.
    ApparentPower,
    /// Volume per time.
    VolumeFlow,
    /// Mass per time.
    MassFlow,
    /// Temperature on a scale.
    Temperature,
    /// Difference between two temperatures.
    TemperatureDifference,
    /// Pressure.
    Pressure,
    /// Voltage.
    Voltage,
    /// Current.
    Current,
    /// Frequency.
    Frequency,
    /// Angle.
    Angle,
    /// A part of a hundred.
    Ratio,
    /// Level of a radio signal.
    Level,
}

/// A unit of a dimension: `multiple` x 10^`exponent` of its base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeterUnit {
    /// As it is written in the YAML and published.
    pub name: &'static str,
    /// What it measures.
    pub dimension: Dimension,
    multiple: u32,
    exponent: i32,
}

/// A unit by its name, its dimension, and what it is of the base of that.
const fn unit(name: &'static str, dimension: Dimension, multiple: u32, exponent: i32) -> MeterUnit {
    MeterUnit {
        name,
        dimension,
        multiple,
        exponent,
    }
}

use Dimension as D;

/// The first of each dimension is the one that is published unless the YAML names another.
const UNITS: [MeterUnit; 62] = [
    unit("kWh", D::Energy, 36, 5),
    unit("Wh", D::Energy, 36, 2),
    unit("MWh", D::Energy, 36, 8),
    unit("GWh", D::Energy, 36, 11),
    unit("J", D::Energy, 1, 0),
    unit("kJ", D::Energy, 1, 3),
    unit("MJ", D::Energy, 1, 6),
    unit("GJ", D::Energy, 1, 9),
    unit("kcal", D::Energy, 41_868, -1),
    unit("Mcal", D::Energy, 41_868, 2),
    unit("kvarh", D::ReactiveEnergy, 1, 3),
    unit("varh", D::ReactiveEnergy, 1, 0),
    unit("Mvarh", D::ReactiveEnergy, 1, 6),
    unit("m3", D::Volume, 1, 0),
    unit("m\u{b3}", D::Volume, 1, 0),
    unit("l", D::Volume, 1, -3),
    unit("L", D::Volume, 1, -3),
    unit("ml", D::Volume, 1, -6),
    unit("kg", D::Mass, 1, 0),
    unit("g", D::Mass, 1, -3),
    unit("t", D::Mass, 1, 3),
    unit("s", D::Duration, 1, 0),
    unit("min", D::Duration, 60, 0),
    unit("h", D::Duration, 3600, 0),
    unit("d", D::Duration, 86_400, 0),
    unit("W", D::Power, 36, 2),
    unit("kW", D::Power, 36, 5),
    unit("MW", D::Power, 36, 8),
    unit("J/h", D::Power, 1, 0),
    unit("kJ/h", D::Power, 1, 3),
    unit("MJ/h", D::Power, 1, 6),
    unit("GJ/h", D::Power, 1, 9),
    unit("var", D::ReactivePower, 1, 0),
    unit("kvar", D::ReactivePower, 1, 3),
    unit("VA", D::ApparentPower, 1, 0),
    unit("kVA", D::ApparentPower, 1, 3),
    unit("m3/h", D::VolumeFlow, 1, 0),
    unit("m\u{b3}/h", D::VolumeFlow, 1, 0),
    unit("l/h", D::VolumeFlow, 1, -3),
    unit("m3/min", D::VolumeFlow, 60, 0),
    unit("l/min", D::VolumeFlow, 60, -3),
    unit("m3/s", D::VolumeFlow, 3600, 0),
    unit("l/s", D::VolumeFlow, 3600, -3),
    unit("ml/h", D::VolumeFlow, 1, -6),
    unit("kg/h", D::MassFlow, 1, 0),
    unit("t/h", D::MassFlow, 1, 3),
    unit("\u{b0}C", D::Temperature, 1, 0),
    unit("K", D::TemperatureDifference, 1, 0),
    unit("bar", D::Pressure, 1, 0),
    unit("mbar", D::Pressure, 1, -3),
    unit("kPa", D::Pressure, 1, -2),
    unit("Pa", D::Pressure, 1, -5),
    unit("hPa", D::Pressure, 1, -3),
    unit("V", D::Voltage, 1, 0),
    unit("mV", D::Voltage, 1, -3),
    unit("kV", D::Voltage, 1, 3),
    unit("A", D::Current, 1, 0),
    unit("mA", D::Current, 1, -3),
    unit("Hz", D::Frequency, 1, 0),
    unit("\u{b0}", D::Angle, 1, 0),
    unit("%", D::Ratio, 1, 0),
    unit("dBm", D::Level, 1, 0),
];

impl MeterUnit {
    /// The unit of a name.
    pub fn named(name: &str) -> Option<Self> {
        UNITS.iter().find(|unit| unit.name == name).copied()
    }

    /// The unit in which a dimension is published unless the YAML names another.
    pub fn of(dimension: Dimension) -> Option<Self> {
        let mut units = UNITS.iter();
        units.find(|unit| unit.dimension == dimension).copied()
    }

    /// What a number in `from` is multiplied by to be in `to`; `None` if that measures something
    /// else.
    pub fn factor(from: Self, to: Self) -> Option<f64> {
        let one = MeterNumber::Exact {
            mantissa: 1,
            exponent: 0,
        };
        one.converted(from, to)
    }

    /// All units of the same dimension, for messages.
    pub fn others(self) -> Vec<&'static str> {
        let same = UNITS.iter().filter(|unit| unit.dimension == self.dimension);
        same.map(|unit| unit.name).collect()
    }
}

/// A number as a meter sends it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MeterNumber {
    /// `mantissa` x 10^`exponent`.
    Exact {
        /// All digits.
        mantissa: i64,
        /// The place of the decimal point.
        exponent: i32,
    },
    /// A float of single precision, x 10^`exponent`.
    Float {
        /// As sent.
        number: f32,
        /// The place of the decimal point.
        exponent: i32,
    },
}

impl MeterNumber {
    /// The same number, its decimal point moved.
    #[must_use]
    pub fn shifted(self, by: i32) -> Self {
        match self {
            Self::Exact { mantissa, exponent } => Self::Exact {
                mantissa,
                exponent: exponent.saturating_add(by),
            },
            Self::Float { number, exponent } => Self::Float {
                number,
                exponent: exponent.saturating_add(by),
            },
        }
    }

    /// The number closest to it.
    pub fn value(self) -> f64 {
        // The text is rounded once; powers of ten that are no binary fractions would round twice.
        let text = match self {
            Self::Exact { mantissa, exponent } => format!("{mantissa}e{exponent}"),
            Self::Float { number, exponent } => {
                let digits = format!("{number:.6e}");
                let (digits, own) = digits.split_once('e').unwrap_or((&digits, "0"));
                let own: i32 = own.parse().unwrap_or_default();
                format!("{digits}e{}", own.saturating_add(exponent))
            }
        };
        text.parse().unwrap_or(f64::NAN)
    }

    /// The number in another unit; `None` if that measures something else.
    pub fn converted(self, from: MeterUnit, to: MeterUnit) -> Option<f64> {
        if from.dimension != to.dimension {
            return None;
        }
        let moved = self.shifted(from.exponent.saturating_sub(to.exponent));
        if from.multiple == to.multiple {
            return Some(moved.value());
        }
        // Multiplied while it is exact, so that it is rounded as seldom as possible.
        let multiplied = match moved {
            Self::Exact { mantissa, exponent } => mantissa
                .checked_mul(i64::from(from.multiple))
                .map(|mantissa| Self::Exact { mantissa, exponent }),
            Self::Float { .. } => None,
        };
        let multiplied =
            multiplied.map_or_else(|| moved.value() * f64::from(from.multiple), Self::value);
        Some(multiplied / f64::from(to.multiple))
    }

    /// The value of a point whose unit is `wanted`, from a number that the meter sends in the unit
    /// `own`. A point without a unit gets that in which its dimension is published. The error: why
    /// it has no value.
    pub fn of_point(
        self,
        own: Option<MeterUnit>,
        wanted: Option<MeterUnit>,
        plausibility: Plausibility,
    ) -> Result<Value, Arc<str>> {
        let value = match (own, wanted) {
            (Some(own), Some(wanted)) => self.converted(own, wanted).ok_or_else(|| {
                format!("the meter sends {}, which is no {}", own.name, wanted.name)
            })?,
            (Some(own), None) => {
                let unit = MeterUnit::of(own.dimension).unwrap_or(own);
                self.converted(own, unit).unwrap_or(f64::NAN)
            }
            (None, Some(wanted)) => {
                return Err(format!("the meter sends no unit, and not {}", wanted.name).into());
            }
            (None, None) => match self {
                Self::Exact {
                    mantissa,
                    exponent: 0,
                } if plausibility == Plausibility::default() => return Ok(Value::Int(mantissa)),
                other => other.value(),
            },
        };
        plausibility.check(value).map(Value::F64)
    }
}

/// What the YAML says about the numbers of a point.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Plausibility {
    /// Smaller values are not plausible.
    pub min: Option<f64>,
    /// Larger values are not plausible.
    pub max: Option<f64>,
    /// Decimal places; `None`: all that there are.
    pub decimals: Option<u8>,
}

impl Plausibility {
    /// The number as it is published, or the reason why it is not.
    pub fn check(self, value: f64) -> Result<f64, Arc<str>> {
        if !value.is_finite() {
            return Err("the value is too large".into());
        }
        if let Some(min) = self.min.filter(|min| value < *min) {
            return Err(format!("{value} is not plausible: it is below {min}").into());
        }
        if let Some(max) = self.max.filter(|max| value > *max) {
            return Err(format!("{value} is not plausible: it is above {max}").into());
        }
        let rounded = self.decimals.map(|places| {
            let text = format!("{value:.*}", usize::from(places));
            text.parse().unwrap_or(value)
        });
        Ok(rounded.unwrap_or(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mantissa: i64, exponent: i32, from: &str, to: &str, expected: f64) {
        let number = MeterNumber::Exact { mantissa, exponent };
        let (from, to) = (
            MeterUnit::named(from).unwrap(),
            MeterUnit::named(to).unwrap(),
        );
        assert_eq!(number.converted(from, to), Some(expected));
    }

    #[test]
    fn numbers_go_into_other_units_of_their_quantity() {
        check(12_565, -3, "m3", "m3", 12.565);
        check(12_565, -3, "m3", "l", 12_565.0);
        check(37_351, 3, "Wh", "kWh", 37_351.0);
        check(3_600, 0, "MJ", "kWh", 1000.0);
        check(36, 0, "GJ", "MWh", 10.0);
        check(2, 0, "h", "min", 120.0);
        check(15, 0, "l/min", "m3/h", 0.9);
        let (bar, kelvin) = (
            MeterUnit::named("bar").unwrap(),
            MeterUnit::named("K").unwrap(),
        );
        let number = MeterNumber::Exact {
            mantissa: 1,
            exponent: 0,
        };
        assert_eq!(number.converted(bar, kelvin), None);
    }

    #[test]
    fn each_unit_is_named_once_and_each_dimension_has_one_to_publish() {
        for unit in UNITS {
            assert_eq!(MeterUnit::named(unit.name), Some(unit));
            assert!(MeterUnit::of(unit.dimension).is_some());
        }
        assert_eq!(MeterUnit::of(Dimension::Energy).unwrap().name, "kWh");
    }
}
