//! The order of bytes and words, under all the names it goes by.

use std::str::FromStr;

use serde::{Deserialize, de};

/// The order of the bytes of a 32-bit value on the wire, A being the most significant; longer
/// values extend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ByteOrder {
    /// As the standard has it.
    #[default]
    ABCD,
    /// Words swapped.
    CDAB,
    /// Bytes of each word swapped.
    BADC,
    /// Both.
    DCBA,
}

const NAMES: [(&str, ByteOrder); 38] = [
    ("abcd", ByteOrder::ABCD),
    ("ab", ByteOrder::ABCD),
    ("abcdefgh", ByteOrder::ABCD),
    ("big", ByteOrder::ABCD),
    ("big-endian", ByteOrder::ABCD),
    ("be", ByteOrder::ABCD),
    ("be-be", ByteOrder::ABCD),
    ("bb", ByteOrder::ABCD),
    ("msw-be", ByteOrder::ABCD),
    ("none", ByteOrder::ABCD),
    ("cdab", ByteOrder::CDAB),
    ("ghefcdab", ByteOrder::CDAB),
    ("word", ByteOrder::CDAB),
    ("word-swap", ByteOrder::CDAB),
    ("swap-word", ByteOrder::CDAB),
    ("be-le", ByteOrder::CDAB),
    ("lb", ByteOrder::CDAB),
    ("lsw-be", ByteOrder::CDAB),
    ("mid-little", ByteOrder::CDAB),
    ("badc", ByteOrder::BADC),
    ("badcfehg", ByteOrder::BADC),
    ("byte", ByteOrder::BADC),
    ("byte-swap", ByteOrder::BADC),
    ("swap-byte", ByteOrder::BADC),
    ("le-be", ByteOrder::BADC),
    ("bl", ByteOrder::BADC),
    ("msw-le", ByteOrder::BADC),
    ("mid-big", ByteOrder::BADC),
    ("dcba", ByteOrder::DCBA),
    ("ba", ByteOrder::DCBA),
    ("hgfedcba", ByteOrder::DCBA),
    ("little", ByteOrder::DCBA),
    ("little-endian", ByteOrder::DCBA),
    ("le", ByteOrder::DCBA),
    ("le-le", ByteOrder::DCBA),
    ("ll", ByteOrder::DCBA),
    ("lsw-le", ByteOrder::DCBA),
    ("word-byte", ByteOrder::DCBA),
];

impl FromStr for ByteOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let typed = text
            .trim_start_matches('#')
            .to_ascii_lowercase()
            .replace('_', "-");
        NAMES.iter().find(|(name, _)| *name == typed).map(|(_, order)| *order).ok_or_else(|| {
            format!(
                "`{text}` is not a byte order; write ABCD (big endian), CDAB (words swapped), BADC (bytes swapped) or DCBA (little endian)"
            )
        })
    }
}

impl<'de> Deserialize<'de> for ByteOrder {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl ByteOrder {
    /// The name to show.
    pub fn name(self) -> &'static str {
        match self {
            Self::ABCD => "ABCD",
            Self::CDAB => "CDAB",
            Self::BADC => "BADC",
            Self::DCBA => "DCBA",
        }
    }

    fn swaps_words(self) -> bool {
        matches!(self, Self::CDAB | Self::DCBA)
    }

    pub(super) fn swaps_bytes(self) -> bool {
        matches!(self, Self::BADC | Self::DCBA)
    }

    /// From the order of the wire to the most significant byte first, and back. An odd number of
    /// bytes knows two orders only.
    pub(super) fn arrange(self, bytes: &mut [u8]) {
        match (self.swaps_words(), self.swaps_bytes()) {
            (true, true) => bytes.reverse(),
            (true, false) if bytes.len().is_multiple_of(2) => {
                bytes.reverse();
                bytes.chunks_exact_mut(2).for_each(<[u8]>::reverse);
            }
            (false, true) => bytes.chunks_exact_mut(2).for_each(<[u8]>::reverse),
            _ => {}
        }
    }
}
