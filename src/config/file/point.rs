//! A point as typed.

use indexmap::IndexMap;
use serde::{Deserialize, de};

use super::PointDefaults;
use super::meter::RecordConfig;
use super::point_defaults::point_defaults_of;
use super::value::{BrokenValue, DeadbandConfig, Factor, FromZero, OneOrMore, Printed, RawWord};
use crate::field::decode::{ByteOrder, Characters, DataType};
use crate::field::modbus::request::Function;
use crate::field::signal::Signal;
use crate::field::text::bytes::Template;
use crate::field::text::command::SimulatedReply;
use crate::field::text::parse::Notation;
use crate::field::text::script::{Pattern, TypedPattern};
use crate::report::aggregate::Show;
use crate::report::template::TopicTemplate;
use crate::units::Span;

/// The direction in which a value counts above zero. Published values keep to one convention: what
/// flows into the installation of the site is positive, so that grid + production + battery =
/// consumption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Positive {
    /// Drawn from the grid, or through a meter from the side of the supply.
    Import,
    /// Fed into the grid; for values that count nothing else.
    Export,
    /// Into a battery; for values that count nothing else.
    Charge,
    /// Out of a battery.
    Discharge,
    /// Taken by a load.
    Consumption,
    /// Given by a generator, an inverter or a string of modules.
    Production,
    /// Without direction: never below zero.
    Magnitude,
}

/// How bits are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
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

#[derive(Debug, Clone, Copy, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ArrayConfig {
    /// Number of values, 1 to 125.
    #[schemars(range(min = 1, max = 125))]
    pub(in crate::config) count: u16,
    /// Registers (or bytes) from one value to the next. Default: no gap.
    pub(in crate::config) stride: Option<u16>,
}

#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct AggregateConfig {
    /// The interval.
    pub(in crate::config) every: Span,
    /// Values to publish: min, mean, max, last, count; several go to `<topic>/min` and so on.
    pub(in crate::config) show: OneOrMore<Show>,
}

#[derive(Debug, Clone, Copy, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct FilterConfig {
    /// The median of this number of values; odd, 3 to 99.
    #[schemars(range(min = 3, max = 99))]
    pub(in crate::config) median: u8,
}

/// `read_back: true`, or `{ delay: 200ms, tolerance: 0.5 }`; `None` for false.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) struct ReadBackConfig(pub(in crate::config) Option<HowReadBack>);

#[derive(Debug, Clone, Copy, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HowReadBack {
    /// How long the device may take until it shows the new value, at most 2s. Default 0s.
    pub(in crate::config) delay: Option<Span>,
    /// Largest difference from the written value, in the unit of the point. Default 0.
    pub(in crate::config) tolerance: Option<f64>,
}

impl<'de> Deserialize<'de> for ReadBackConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Bool(is_wanted) => Ok(Self(is_wanted.then(HowReadBack::default))),
            details => serde_json::from_value(details)
                .map(|how| Self(Some(how)))
                .map_err(de::Error::custom),
        }
    }
}

/// What a device takes at a point.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Writable {
    /// Smallest value. Default unknown.
    pub(in crate::config) min: Option<f64>,
    /// Largest value. Default unknown.
    pub(in crate::config) max: Option<f64>,
    /// Of a plain instrument: the command that writes the value, as in `write`.
    pub(in crate::config) send: Option<Template>,
    /// Of a plain instrument: the answer that confirms it, as in `write`.
    pub(in crate::config) expect: Option<TypedPattern>,
    /// Of a plain instrument: the answer that refuses it, as in `write`.
    pub(in crate::config) refuse: Option<TypedPattern>,
    /// Of a plain instrument: what a simulator does, as in `write`.
    pub(in crate::config) simulate: Option<SimulatedReply>,
}

#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct WriteConfig {
    /// Smaller values are refused. Default that of `writable`, then that of the point.
    pub(in crate::config) min: Option<f64>,
    /// Larger values are refused. Default that of `writable`, then that of the point.
    pub(in crate::config) max: Option<f64>,
    /// Values must be a whole number of these steps above `min`, or above 0. Default any.
    pub(in crate::config) step: Option<f64>,
    /// Shortest time between two writes; faster ones are refused. Default unlimited.
    pub(in crate::config) at_most_every: Option<Span>,
    /// How long a write may wait for its line. Default 10s.
    pub(in crate::config) good_for: Option<Span>,
    /// Verify a write by reading the value back: true, or with these settings. Default false.
    pub(in crate::config) read_back: Option<ReadBackConfig>,
    /// Modbus functions for writing: auto (5, 6, 15, 16; default), multiple (15, 16) or exchange
    /// (23).
    #[serde(default)]
    pub(in crate::config) function: Function,
    /// Write once more if reading back shows that the value was not written. Default true.
    pub(in crate::config) repeat: Option<bool>,
    /// Points of a group may be written by several requests. Default false.
    #[serde(default)]
    pub(in crate::config) allow_split: bool,
    /// Of a plain instrument: the command, with `{value}`, or `{value:05.1}` for five characters,
    /// zeros in front, one decimal; a command without it, such as tare, is carried out when 1 or
    /// true is written. Default that of `writable`.
    pub(in crate::config) send: Option<Template>,
    /// Of a plain instrument: a regular expression that matches the answer to `send`. Default that
    /// of `writable`, else none: the write is done once it is sent.
    pub(in crate::config) expect: Option<TypedPattern>,
    /// Of a plain instrument: a regular expression that matches an answer which refuses `send`.
    /// Default that of `writable`, else none: any answer but `expect`.
    pub(in crate::config) refuse: Option<TypedPattern>,
    /// Of a plain instrument: what a simulator answers to `send`, or
    /// `{ say: 'OK\r\n', zero: [ weight ] }`: points that it sets to zero, too. Default that of
    /// `writable`, else nothing.
    pub(in crate::config) simulate: Option<SimulatedReply>,
}

/// The key of a field as it is typed.
fn typed(field: &str) -> &str {
    if field == "kind" { "type" } else { field }
}

/// The keys of a point that are taken from the profile one by one.
macro_rules! point {
    ($($(#[$attribute:meta])* $key:ident: $kind:ty),* $(,)?) => {
        #[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(in crate::config) struct PointConfig {
            /// The register as manuals print it: 40001 holding, 30001 input, 10001 discrete input,
            /// 1 coil; five or six digits.
            pub(in crate::config) at: Option<Printed>,
            /// A holding register, counted from zero.
            pub(in crate::config) holding: Option<FromZero>,
            /// An input register, counted from zero.
            pub(in crate::config) input: Option<FromZero>,
            /// A coil, counted from zero.
            pub(in crate::config) coil: Option<FromZero>,
            /// A discrete input, counted from zero.
            pub(in crate::config) discrete: Option<FromZero>,
            /// A file, from 1; with `record`.
            #[schemars(range(min = 1))]
            pub(in crate::config) file: Option<u16>,
            /// The first record of the value in its `file`, from zero; each is a register.
            pub(in crate::config) record: Option<FromZero>,
            /// Computes the value from other points: + - * / ^ min max abs() sqrt(); `{flow-rate}`
            /// for names with a dash.
            pub(in crate::config) expression: Option<String>,
            /// Of a plain instrument: the group of the pattern. Default the one named like the
            /// point.
            pub(in crate::config) from: Option<String>,
            /// Of a plain instrument: a regular expression whose group `value`, or first group, is
            /// the value. Of several, the first that matches is used.
            pub(in crate::config) find: Option<OneOrMore<Pattern>>,
            /// Of a plain instrument: the first byte, from zero; below zero from the end.
            pub(in crate::config) byte: Option<isize>,
            /// Of a meter on an M-Bus: which of its records is the value.
            pub(in crate::config) mbus: Option<RecordConfig>,
            /// Of a meter that sends SML: the OBIS code of the value, such as 1-0:1.8.0*255.
            pub(in crate::config) obis: Option<String>,
            $($(#[$attribute])* pub(in crate::config) $key: Option<$kind>,)*
            /// Keys that are taken away from the profile.
            #[serde(default, rename = "(taken away)")]
            #[schemars(skip)]
            pub(in crate::config) removed: Vec<String>,
        }

        impl PointConfig {
            /// This point where it says something, `base` where it does not.
            pub(in crate::config) fn over(&self, base: &Self) -> Self {
                let own = self.clone();
                let base = base.clone();
                // A place given here replaces the whole place of the base, whichever key it used.
                let place = if own.has_place() { &own } else { &base };
                let stays = |key: &str| !self.removed.iter().any(|removed| removed == key);
                Self {
                    at: place.at.filter(|_| stays("at")),
                    holding: place.holding.filter(|_| stays("holding")),
                    input: place.input.filter(|_| stays("input")),
                    coil: place.coil.filter(|_| stays("coil")),
                    discrete: place.discrete.filter(|_| stays("discrete")),
                    file: place.file.filter(|_| stays("file")),
                    record: place.record.filter(|_| stays("record")),
                    expression: place.expression.clone().filter(|_| stays("expression")),
                    from: place.from.clone().filter(|_| stays("from")),
                    find: place.find.clone().filter(|_| stays("find")),
                    byte: place.byte.filter(|_| stays("byte")),
                    mbus: place.mbus.clone().filter(|_| stays("mbus")),
                    obis: place.obis.clone().filter(|_| stays("obis")),
                    $($key: own.$key.or(base.$key.filter(|_| stays(typed(stringify!($key))))),)*
                    removed: own.removed,
                }
            }
        }
    };
}

point! {
    /// Type of the value. Bits, coils, words and flags need none.
    #[serde(rename = "type")]
    kind: DataType,
    /// Order of bytes and words. Default that of the device.
    byte_order: ByteOrder,
    /// One bit of the register, 0 being the least significant (see `bit_order`).
    bit: u8,
    /// First and last bit of the value.
    bits: [u8; 2],
    /// Bit mask of the value, such as 0x00F0.
    mask: u64,
    /// How bits are numbered: lsb0 (default), lsb1, msb0 or msb1: the first bit and its number.
    bit_order: BitOrder,
    /// Names of bits; the value is the list of those that are set.
    flags: IndexMap<u8, String>,
    /// Value = raw x scale + offset. Default 1.
    scale: f64,
    /// Value = raw x scale + offset. Default 0.
    offset: f64,
    /// Decimal places, up to 15. Default as many as scale and offset have.
    #[schemars(range(max = 15))]
    decimals: u8,
    /// The point that holds the power of ten, as in SunSpec.
    scale_from: String,
    /// Raw values that mean "no value", or what a string or a date reads then: one, a range
    /// `{ from: 65528, to: 65535 }`, or a list of them.
    broken_value: OneOrMore<BrokenValue>,
    /// Text for raw values, or for the text of a plain instrument. Others stay as they are.
    words: IndexMap<RawWord, String>,
    /// Smaller values are implausible and become bad.
    min: f64,
    /// Larger values are implausible and become bad.
    max: f64,
    /// Of a string: number of registers, 1 to 125.
    #[schemars(range(min = 1, max = 125))]
    length: u16,
    /// Of a string: both (default) bytes of a register, or its low or high one.
    characters: Characters,
    /// Of a date: Z (default) or an offset such as +02:00.
    zone: String,
    /// Several values of the same type.
    array: ArrayConfig,
    /// Publish numbers as text, for receivers that cannot represent 64 bits. Default false.
    as_text: bool,
    /// The unit, for people, such as m3/h.
    unit: String,
    /// For people: the direction of positive values of power, energy and current.
    positive: Positive,
    /// How often it is read. Default 10s, at least 1ms.
    every: Span,
    /// Points of one group are read in one request, and written in one.
    group: String,
    /// Removes outliers.
    filter: FilterConfig,
    /// A value is reported only if it changes by more than this, absolute or relative such as 2%; 0
    /// reports every change. Default: every reading is reported.
    deadband: DeadbandConfig,
    /// Largest error of the straight lines between reported values: readings that lie within it are
    /// left out.
    #[schemars(extend("exclusiveMinimum" = 0))]
    swinging_door: f64,
    /// Publish one value per interval instead of each reading.
    aggregate: AggregateConfig,
    /// The point is reported after this time even without a change. Default never.
    at_least_every: Span,
    /// How old a value may be while newer ones are missing. Default: until the first failed attempt
    /// to read it, and never longer than three times `every`, at least 5s.
    stale_after: Span,
    /// Its class. Default normal.
    class: String,
    /// Its topic, with {site}, {line}, {device}, {point}. Default that of `topics`.
    topic: TopicTemplate,
    /// Of a plain instrument: use only messages that match. A group that is also in `find` must
    /// have the same text in both, which joins two lines.
    when: Pattern,
    /// Of a plain instrument: patterns of messages that make the value bad, with the reason.
    /// Default none.
    bad_when: IndexMap<String, String>,
    /// Of a plain instrument: the units that the group `unit` may hold, each with the factor that
    /// converts it. Default the unit of the point, with factor 1.
    units: IndexMap<String, Factor>,
    /// Of a plain instrument: how the number is written: decimal (default) or degrees_minutes, as
    /// in NMEA 0183.
    notation: Notation,
    /// The value that a simulator shows. Default a plausible one, chosen by unit, name and type.
    simulate: Signal,
    /// Limits within which the device accepts values. Only `write` permits writing. Default
    /// unknown.
    writable: Writable,
    /// Permits writing the point with a message on `<topic>/set`. Default not permitted.
    write: WriteConfig,
}

impl PointConfig {
    /// Its own settings of those that it could inherit.
    pub(in crate::config) fn point_defaults(&self) -> PointDefaults<'_> {
        point_defaults_of!(self)
    }

    fn has_place(&self) -> bool {
        [
            self.at.is_some(),
            self.holding.is_some(),
            self.input.is_some(),
            self.coil.is_some(),
            self.discrete.is_some(),
            self.file.is_some(),
            self.record.is_some(),
            self.expression.is_some(),
            self.from.is_some(),
            self.find.is_some(),
            self.byte.is_some(),
            self.mbus.is_some(),
            self.obis.is_some(),
        ]
        .contains(&true)
    }
}
