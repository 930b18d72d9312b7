//! The names of the types, as typed and as shown.

use std::str::FromStr;

use serde::{Deserialize, de};

use super::bcd::{Bcd, Sign};
use super::kind::DataType;
use super::other_names;

const fn signed(bytes: u8, sign: Sign) -> DataType {
    DataType::Bcd(Bcd { bytes, sign })
}

/// Every name of a type; the first of a kind is the one that is shown.
const NAMES: [(&str, DataType); 97] = [
    ("bool", DataType::Bool),
    ("bit", DataType::Bool),
    ("u8", DataType::U8L),
    ("u8l", DataType::U8L),
    ("uint8", DataType::U8L),
    ("uint8l", DataType::U8L),
    ("u8h", DataType::U8H),
    ("uint8h", DataType::U8H),
    ("i8", DataType::I8L),
    ("i8l", DataType::I8L),
    ("int8", DataType::I8L),
    ("int8l", DataType::I8L),
    ("i8h", DataType::I8H),
    ("int8h", DataType::I8H),
    ("i16", DataType::I16),
    ("int16", DataType::I16),
    ("s16", DataType::I16),
    ("short", DataType::I16),
    ("u16", DataType::U16),
    ("uint16", DataType::U16),
    ("word", DataType::U16),
    ("enum16", DataType::U16),
    ("bitfield16", DataType::U16),
    ("acc16", DataType::U16),
    ("i24", DataType::I24),
    ("int24", DataType::I24),
    ("u24", DataType::U24),
    ("uint24", DataType::U24),
    ("i32", DataType::I32),
    ("int32", DataType::I32),
    ("s32", DataType::I32),
    ("long", DataType::I32),
    ("u32", DataType::U32),
    ("uint32", DataType::U32),
    ("dword", DataType::U32),
    ("enum32", DataType::U32),
    ("bitfield32", DataType::U32),
    ("acc32", DataType::U32),
    ("i48", DataType::I48),
    ("int48", DataType::I48),
    ("u48", DataType::U48),
    ("uint48", DataType::U48),
    ("i64", DataType::I64),
    ("int64", DataType::I64),
    ("s64", DataType::I64),
    ("u64", DataType::U64),
    ("uint64", DataType::U64),
    ("qword", DataType::U64),
    ("acc64", DataType::U64),
    ("f16", DataType::F16),
    ("float16", DataType::F16),
    ("f32", DataType::F32),
    ("float32", DataType::F32),
    ("float", DataType::F32),
    ("real", DataType::F32),
    ("f64", DataType::F64),
    ("float64", DataType::F64),
    ("double", DataType::F64),
    ("lreal", DataType::F64),
    ("ibm32", DataType::Ibm32),
    ("bcd8", DataType::Bcd(Bcd::plain(1))),
    ("bcd16", DataType::Bcd(Bcd::plain(2))),
    ("bcd", DataType::Bcd(Bcd::plain(2))),
    ("bcd24", DataType::Bcd(Bcd::plain(3))),
    ("bcd32", DataType::Bcd(Bcd::plain(4))),
    ("bcd48", DataType::Bcd(Bcd::plain(6))),
    ("bcd64", DataType::Bcd(Bcd::plain(8))),
    ("bcd8-sign-bit", signed(1, Sign::Bit)),
    ("bcd16-sign-bit", signed(2, Sign::Bit)),
    ("bcd24-sign-bit", signed(3, Sign::Bit)),
    ("bcd32-sign-bit", signed(4, Sign::Bit)),
    ("bcd48-sign-bit", signed(6, Sign::Bit)),
    ("bcd64-sign-bit", signed(8, Sign::Bit)),
    ("bcd8-sign-digit", signed(1, Sign::Digit)),
    ("bcd16-sign-digit", signed(2, Sign::Digit)),
    ("bcd24-sign-digit", signed(3, Sign::Digit)),
    ("bcd32-sign-digit", signed(4, Sign::Digit)),
    ("bcd48-sign-digit", signed(6, Sign::Digit)),
    ("bcd64-sign-digit", signed(8, Sign::Digit)),
    ("mod10k-32", DataType::Mod10k32),
    ("mod10-32", DataType::Mod10k32),
    ("mod10k-48", DataType::Mod10k48),
    ("mod10-48", DataType::Mod10k48),
    ("mod10k-64", DataType::Mod10k64),
    ("mod10-64", DataType::Mod10k64),
    ("sm16", DataType::Sm16),
    ("sign-magnitude-16", DataType::Sm16),
    ("sm32", DataType::Sm32),
    ("sign-magnitude-32", DataType::Sm32),
    ("string", DataType::Text),
    ("text", DataType::Text),
    ("unix32", DataType::Unix32),
    ("unix64", DataType::Unix64),
    ("cp56", DataType::Cp56),
    ("cp56time2a", DataType::Cp56),
    ("datetime", DataType::DateTime),
    ("bcd-datetime", DataType::BcdDateTime),
];

impl FromStr for DataType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let typed = text.to_ascii_lowercase().replace('_', "-");
        NAMES
            .iter()
            .find(|(name, _)| *name == typed)
            .map(|(_, kind)| *kind)
            .ok_or_else(|| {
                if let Some(ours) = other_names::meant(&typed) {
                    return format!("\"{text}\" is not possible here; in wellhead this is {ours}");
                }
                let mut known: Vec<&str> = Vec::new();
                let mut kinds: Vec<DataType> = Vec::new();
                for (name, kind) in NAMES {
                    if !kinds.contains(&kind) {
                        kinds.push(kind);
                        known.push(name);
                    }
                }
                let nearest = NAMES
                    .iter()
                    .map(|(name, _)| (strsim::damerau_levenshtein(&typed, name), *name))
                    .min();
                match nearest {
                    Some((distance, name)) if distance <= 1 + typed.len() / 4 => {
                        format!("\"{text}\" is not possible here; did you mean \"{name}\"?")
                    }
                    _ => format!(
                        "\"{text}\" is not possible here; choose one of: {}",
                        known.join(", ")
                    ),
                }
            })
    }
}

impl<'de> Deserialize<'de> for DataType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl DataType {
    /// Every name that can be typed.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// The name to show.
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| *name)
    }
}
