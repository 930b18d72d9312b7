//! The names of the types, as typed and as shown.

use std::str::FromStr;

use serde::{Deserialize, de};

use super::bcd::{Bcd, Sign};
use super::kind::Kind;
use super::other_names;

const fn signed(bytes: u8, sign: Sign) -> Kind {
    Kind::Bcd(Bcd { bytes, sign })
}

/// Every name of a type; the first of a kind is the one that is shown.
const NAMES: [(&str, Kind); 97] = [
    ("bool", Kind::Bool),
    ("bit", Kind::Bool),
    ("u8", Kind::U8L),
    ("u8l", Kind::U8L),
    ("uint8", Kind::U8L),
    ("uint8l", Kind::U8L),
    ("u8h", Kind::U8H),
    ("uint8h", Kind::U8H),
    ("i8", Kind::I8L),
    ("i8l", Kind::I8L),
    ("int8", Kind::I8L),
    ("int8l", Kind::I8L),
    ("i8h", Kind::I8H),
    ("int8h", Kind::I8H),
    ("i16", Kind::I16),
    ("int16", Kind::I16),
    ("s16", Kind::I16),
    ("short", Kind::I16),
    ("u16", Kind::U16),
    ("uint16", Kind::U16),
    ("word", Kind::U16),
    ("enum16", Kind::U16),
    ("bitfield16", Kind::U16),
    ("acc16", Kind::U16),
    ("i24", Kind::I24),
    ("int24", Kind::I24),
    ("u24", Kind::U24),
    ("uint24", Kind::U24),
    ("i32", Kind::I32),
    ("int32", Kind::I32),
    ("s32", Kind::I32),
    ("long", Kind::I32),
    ("u32", Kind::U32),
    ("uint32", Kind::U32),
    ("dword", Kind::U32),
    ("enum32", Kind::U32),
    ("bitfield32", Kind::U32),
    ("acc32", Kind::U32),
    ("i48", Kind::I48),
    ("int48", Kind::I48),
    ("u48", Kind::U48),
    ("uint48", Kind::U48),
    ("i64", Kind::I64),
    ("int64", Kind::I64),
    ("s64", Kind::I64),
    ("u64", Kind::U64),
    ("uint64", Kind::U64),
    ("qword", Kind::U64),
    ("acc64", Kind::U64),
    ("f16", Kind::F16),
    ("float16", Kind::F16),
    ("f32", Kind::F32),
    ("float32", Kind::F32),
    ("float", Kind::F32),
    ("real", Kind::F32),
    ("f64", Kind::F64),
    ("float64", Kind::F64),
    ("double", Kind::F64),
    ("lreal", Kind::F64),
    ("ibm32", Kind::Ibm32),
    ("bcd8", Kind::Bcd(Bcd::plain(1))),
    ("bcd16", Kind::Bcd(Bcd::plain(2))),
    ("bcd", Kind::Bcd(Bcd::plain(2))),
    ("bcd24", Kind::Bcd(Bcd::plain(3))),
    ("bcd32", Kind::Bcd(Bcd::plain(4))),
    ("bcd48", Kind::Bcd(Bcd::plain(6))),
    ("bcd64", Kind::Bcd(Bcd::plain(8))),
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
    ("mod10k-32", Kind::Mod10k32),
    ("mod10-32", Kind::Mod10k32),
    ("mod10k-48", Kind::Mod10k48),
    ("mod10-48", Kind::Mod10k48),
    ("mod10k-64", Kind::Mod10k64),
    ("mod10-64", Kind::Mod10k64),
    ("sm16", Kind::Sm16),
    ("sign-magnitude-16", Kind::Sm16),
    ("sm32", Kind::Sm32),
    ("sign-magnitude-32", Kind::Sm32),
    ("string", Kind::Text),
    ("text", Kind::Text),
    ("unix32", Kind::Unix32),
    ("unix64", Kind::Unix64),
    ("cp56", Kind::Cp56),
    ("cp56time2a", Kind::Cp56),
    ("datetime", Kind::DateTime),
    ("bcd-datetime", Kind::BcdDateTime),
];

impl FromStr for Kind {
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
                let mut kinds: Vec<Kind> = Vec::new();
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

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Kind {
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
