//! A point as typed.

use indexmap::IndexMap;
use serde::{Deserialize, de};

use crate::field::decode::{ByteOrder, Characters, Kind};
use crate::field::text::script::Pattern;
use crate::field::wave::Wave;
use crate::field::write::Function;
use crate::report::aggregate::Show;
use crate::report::template::Template;
use crate::units::Span;

/// A register number as manuals print it; leading zeros make YAML take it for text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Printed(pub(in crate::config) u32);

impl<'de> Deserialize<'de> for Printed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok()).and_then(|number| u32::try_from(number).ok());
        number
            .map(Self)
            .ok_or_else(|| de::Error::custom(format!("{value} is not a register number; type it as the manual prints it, such as 40001")))
    }
}

/// One value, or a list of them.
#[derive(Debug, Clone)]
pub(in crate::config) struct OneOrMore<T>(pub(in crate::config) Vec<T>);

impl<'de, T: de::DeserializeOwned> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let typed = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Array(list) => list,
            one => vec![one],
        };
        typed.into_iter().map(serde_json::from_value).collect::<Result<_, _>>().map(Self).map_err(de::Error::custom)
    }
}

/// `0.5`, or `2%` of the value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::config) enum Deadband {
    Absolute(f64),
    Percent(f64),
}

impl<'de> Deserialize<'de> for Deadband {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let percent = || value.as_str()?.trim().strip_suffix('%')?.trim().parse().ok();
        let known = value.as_f64().map(Self::Absolute).or_else(|| percent().map(Self::Percent));
        known.ok_or_else(|| {
            de::Error::custom(format!("{value} is not a deadband; type a number such as 0.5, or a part of the value such as 2%"))
        })
    }
}

/// How bits are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum BitOrder {
    /// The least significant is 0.
    #[default]
    Lsb0,
    /// The least significant is 1.
    Lsb1,
    /// The most significant is 0.
    Msb0,
    /// The most significant is 1.
    Msb1,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Array {
    pub(in crate::config) count: u16,
    pub(in crate::config) stride: Option<u16>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Aggregate {
    pub(in crate::config) every: Span,
    pub(in crate::config) show: OneOrMore<Show>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Filter {
    pub(in crate::config) median: u8,
}

/// `read_back: true`, or `{ delay: 200ms, tolerance: 0.5 }`; `None` for false.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) struct ReadBack(pub(in crate::config) Option<HowReadBack>);

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HowReadBack {
    pub(in crate::config) delay: Option<Span>,
    pub(in crate::config) tolerance: Option<f64>,
}

impl<'de> Deserialize<'de> for ReadBack {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Bool(is_wanted) => Ok(Self(is_wanted.then(HowReadBack::default))),
            details => serde_json::from_value(details).map(|how| Self(Some(how))).map_err(de::Error::custom),
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Write {
    pub(in crate::config) min: Option<f64>,
    pub(in crate::config) max: Option<f64>,
    pub(in crate::config) step: Option<f64>,
    pub(in crate::config) at_most_every: Option<Span>,
    pub(in crate::config) good_for: Option<Span>,
    pub(in crate::config) read_back: Option<ReadBack>,
    #[serde(default)]
    pub(in crate::config) function: Function,
    pub(in crate::config) repeat: Option<bool>,
    #[serde(default)]
    pub(in crate::config) allow_split: bool,
}

/// The keys of a point that are taken from the profile one by one.
macro_rules! point {
    ($($(#[$attribute:meta])* $key:ident: $kind:ty),* $(,)?) => {
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(in crate::config) struct Point {
            pub(in crate::config) at: Option<Printed>,
            pub(in crate::config) holding: Option<u16>,
            pub(in crate::config) input: Option<u16>,
            pub(in crate::config) coil: Option<u16>,
            pub(in crate::config) discrete: Option<u16>,
            pub(in crate::config) expression: Option<String>,
            pub(in crate::config) from: Option<String>,
            pub(in crate::config) find: Option<Pattern>,
            pub(in crate::config) byte: Option<isize>,
            $($(#[$attribute])* pub(in crate::config) $key: Option<$kind>,)*
        }

        impl Point {
            /// This point where it says something, `base` where it does not.
            pub(in crate::config) fn over(&self, base: &Self) -> Self {
                let own = self.clone();
                let base = base.clone();
                // A place given here replaces the whole place of the base, whichever key it used.
                let place = if own.has_place() { &own } else { &base };
                Self {
                    at: place.at,
                    holding: place.holding,
                    input: place.input,
                    coil: place.coil,
                    discrete: place.discrete,
                    expression: place.expression.clone(),
                    from: place.from.clone(),
                    find: place.find.clone(),
                    byte: place.byte,
                    $($key: own.$key.or(base.$key),)*
                }
            }
        }
    };
}

point! {
    #[serde(rename = "type")]
    kind: Kind,
    byte_order: ByteOrder,
    bit: u8,
    bits: [u8; 2],
    mask: u64,
    bit_order: BitOrder,
    flags: IndexMap<u8, String>,
    scale: f64,
    offset: f64,
    decimals: u8,
    scale_from: String,
    broken_value: OneOrMore<f64>,
    words: IndexMap<i64, String>,
    min: f64,
    max: f64,
    length: u16,
    characters: Characters,
    zone: String,
    array: Array,
    as_text: bool,
    unit: String,
    every: Span,
    group: String,
    filter: Filter,
    deadband: Deadband,
    swinging_door: f64,
    aggregate: Aggregate,
    at_least_every: Span,
    stale_after: Span,
    class: String,
    topic: Template,
    when: Pattern,
    simulate: Wave,
    write: Write,
}

impl Point {
    fn has_place(&self) -> bool {
        [
            self.at.is_some(),
            self.holding.is_some(),
            self.input.is_some(),
            self.coil.is_some(),
            self.discrete.is_some(),
            self.expression.is_some(),
            self.from.is_some(),
            self.find.is_some(),
            self.byte.is_some(),
        ]
        .contains(&true)
    }
}
