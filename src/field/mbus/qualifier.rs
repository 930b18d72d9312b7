//! Further value information fields of a record: what changes the meaning of its value, and errors
//! of the record [EN 13757-3, tables 15 and 16]. Pure.

use std::fmt;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qualifier(u16);

/// The high byte of those that only a manufacturer knows.
const OF_MANUFACTURER: u16 = 0xFF00;

/// The words for those that have a meaning of their own.
const WORDS: [(u16, &str); 29] = [
    (0x20, "per_second"),
    (0x21, "per_minute"),
    (0x22, "per_hour"),
    (0x23, "per_day"),
    (0x24, "per_week"),
    (0x25, "per_month"),
    (0x26, "per_year"),
    (0x27, "per_revolution"),
    (0x28, "per_input_pulse_0"),
    (0x29, "per_input_pulse_1"),
    (0x2A, "per_output_pulse_0"),
    (0x2B, "per_output_pulse_1"),
    (0x2C, "per_litre"),
    (0x2D, "per_m3"),
    (0x2E, "per_kg"),
    (0x2F, "per_kelvin"),
    (0x30, "per_kwh"),
    (0x31, "per_gj"),
    (0x32, "per_kw"),
    (0x39, "start_of"),
    (0x3A, "uncorrected"),
    (0x3B, "forward"),
    (0x3C, "backward"),
    (0x40, "lower_limit"),
    (0x48, "upper_limit"),
    (0x41, "times_below_lower_limit"),
    (0x49, "times_above_upper_limit"),
    (0x6A, "begin_of"),
    (0x6E, "end_of"),
];

impl Qualifier {
    /// Of a code of the standard.
    pub fn of(code: u8) -> Self {
        Self(u16::from(code & 0x7F))
    }

    /// Of a code that only the manufacturer knows, behind FF.
    pub fn of_manufacturer(code: u8) -> Self {
        Self(OF_MANUFACTURER | u16::from(code & 0x7F))
    }

    /// By its word, or its code such as `0x4a`; of a manufacturer such as `0xff01`.
    pub fn named(name: &str) -> Option<Self> {
        if let Some(digits) = name.strip_prefix("0x") {
            let [high, low] = u16::from_str_radix(digits, 16).ok()?.to_be_bytes();
            return match high {
                0 => Some(Self::of(low)),
                0xFF => Some(Self::of_manufacturer(low)),
                _ => None,
            };
        }
        let word = WORDS.iter().find(|(_, word)| *word == name)?;
        Some(Self(word.0))
    }

    /// As it is sent, as the last of a record.
    pub(super) fn bytes(self) -> Vec<u8> {
        let [high, low] = self.0.to_be_bytes();
        if high == 0 {
            vec![low]
        } else {
            vec![high, low]
        }
    }

    /// Its words, for messages.
    pub fn names() -> Vec<&'static str> {
        WORDS.iter().map(|(_, word)| *word).collect()
    }

    /// True if the value is the time of something.
    pub(super) fn is_time(self) -> bool {
        matches!(
            self.0,
            0x39 | 0x42
                | 0x43
                | 0x46
                | 0x47
                | 0x4A
                | 0x4B
                | 0x4E
                | 0x4F
                | 0x6A
                | 0x6B
                | 0x6E
                | 0x6F
        )
    }

    /// True if the value is a time or a number of times, whatever the unit says.
    fn is_other_quantity(self) -> bool {
        self.is_time() || matches!(self.0, 0x41 | 0x49 | 0x50..=0x67)
    }

    /// What an error of the record means; `None`: it is none.
    pub(super) fn fault(self) -> Option<&'static str> {
        Some(match self.0 {
            0x00 | 0x20..=0x77 | 0x7C..=0x7F | OF_MANUFACTURER.. => return None,
            0x15 => "the meter has no value",
            0x16 => "the value is too large for the meter",
            0x17 => "the value is too small for the meter",
            0x18 => "the meter reports a data error",
            0x78..=0x7B => "its additive correction is not supported",
            _ => "the meter reports an error of this record",
        })
    }
}

/// True if the number is not in the unit of its kind.
pub(super) fn replaces_unit(qualifiers: &[Qualifier]) -> bool {
    qualifiers.iter().any(|which| which.is_other_quantity())
}

/// True if a record with these is the plain value of its kind.
pub(super) fn is_plain(qualifiers: &[Qualifier]) -> bool {
    qualifiers
        .iter()
        .all(|which| which.0 == 0 || which.fault().is_some())
}

impl fmt::Display for Qualifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WORDS.iter().find(|(code, _)| *code == self.0) {
            Some((_, word)) => f.write_str(word),
            None => write!(f, "0x{:02x}", self.0),
        }
    }
}
