//! Points in the tables of Modbus: the words on the wire to values and back. Pure.

use std::sync::Arc;

use super::{Characters, DataType, Meaning, Part, Raw, Table, bcd, ones};
use crate::reading::Value;

/// The address and the meaning of a point.
#[derive(Debug, Clone, PartialEq)]
pub struct Register {
    /// The table.
    pub table: Table,
    /// From zero, as on the wire.
    pub address: u16,
    /// The meaning of its content.
    pub meaning: Meaning,
}

impl Register {
    /// A register without scaling.
    pub fn new(table: Table, address: u16, kind: DataType) -> Self {
        Self {
            table,
            address,
            meaning: Meaning::new(kind),
        }
    }

    /// The number of registers (or bits of a bit table) it takes.
    pub fn width(&self) -> u16 {
        let each = if self.table.is_bits() {
            1
        } else {
            self.meaning.words_each()
        };
        u16::try_from(self.meaning.span(each)).unwrap_or(u16::MAX)
    }

    /// The value in `words`, which are [`Register::width`] many (bits: 0 or 1); `exponent` is what
    /// a scale register says. The error is the reason for bad quality.
    pub fn decode(&self, words: &[u16], exponent: Option<i32>) -> Result<Value, Arc<str>> {
        let each = if self.table.is_bits() {
            1
        } else {
            usize::from(self.meaning.words_each())
        };
        self.meaning.elements(
            usize::from(self.meaning.array.map_or(0, |array| array.stride)),
            |from| {
                let words = words
                    .get(from..from + each)
                    .ok_or("the answer is too short")?;
                if self.table.is_bits() {
                    return self
                        .meaning
                        .meant(Raw::Bool(words.first().is_some_and(|bit| *bit != 0)), None);
                }
                if self.meaning.kind == DataType::Text {
                    return self.meaning.text(&self.characters(words));
                }
                self.meaning.value(&self.in_order(words), exponent)
            },
        )
    }

    fn characters(&self, words: &[u16]) -> Vec<u8> {
        let swapped = self.meaning.order.swaps_bytes();
        let bytes = words.iter().flat_map(|word| {
            let [high, low] = if swapped {
                word.to_le_bytes()
            } else {
                word.to_be_bytes()
            };
            match self.meaning.characters {
                Characters::Both => [Some(high), Some(low)],
                Characters::Low => [None, Some(low)],
                Characters::High => [Some(high), None],
            }
        });
        bytes.flatten().collect()
    }

    /// The bytes, most significant first.
    fn in_order(&self, words: &[u16]) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        self.meaning.order.arrange(&mut bytes);
        bytes
    }

    fn as_words(&self, mut bytes: Vec<u8>) -> Vec<u16> {
        // Swapping is its own inverse.
        self.meaning.order.arrange(&mut bytes);
        bytes
            .chunks_exact(2)
            .map(|pair| {
                pair.iter()
                    .fold(0, |word, byte| word << 8 | u16::from(*byte))
            })
            .collect()
    }

    /// The registers (bits: 0 or 1) to write so that they show `value`; the error says why that is
    /// not possible. Parts of a register are written by [`Register::mask_of`].
    pub fn encode_exactly(&self, value: &Value) -> Result<Vec<u16>, String> {
        if self.table.is_bits() {
            let raw = self.meaning.raw_of(value)?;
            return match raw.as_f64() {
                0.0 => Ok(vec![0]),
                1.0 => Ok(vec![1]),
                _ => Err(format!("{value} is neither true nor false")),
            };
        }
        if self.meaning.kind == DataType::Text {
            return match value {
                Value::Text(text) => self.encode_characters(text),
                other => Err(format!("{other} is not text; write it in quotation marks")),
            };
        }
        self.meaning
            .kind
            .encode(self.meaning.raw_of(value)?)
            .map(|bytes| self.as_words(bytes))
    }

    fn characters_held(&self) -> usize {
        usize::from(self.meaning.length)
            * if self.meaning.characters == Characters::Both {
                2
            } else {
                1
            }
    }

    fn encode_characters(&self, text: &str) -> Result<Vec<u16>, String> {
        let room = self.characters_held();
        if text.len() > room {
            return Err(format!(
                "the text has {} bytes and the registers room for {room}",
                text.len()
            ));
        }
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(room, 0);
        let words: Vec<u16> = match self.meaning.characters {
            Characters::Both => bytes
                .chunks_exact(2)
                .map(|pair| {
                    pair.iter()
                        .fold(0, |word, byte| word << 8 | u16::from(*byte))
                })
                .collect(),
            Characters::Low => bytes.iter().map(|byte| u16::from(*byte)).collect(),
            Characters::High => bytes.iter().map(|byte| u16::from(*byte) << 8).collect(),
        };
        Ok(if self.meaning.order.swaps_bytes() {
            words.into_iter().map(u16::swap_bytes).collect()
        } else {
            words
        })
    }

    /// For a part of a 16-bit register: which bits stay as they are, and which are set [Modbus
    /// application protocol 1.1b3, 6.16]. `None` if the point is whole registers.
    pub fn mask_of(&self, value: &Value) -> Option<Result<(u16, u16), String>> {
        let (low, count) = match self.meaning.part {
            Part::Bit(bit) => (bit, 1),
            Part::Bits { low, count } => (low, count),
            Part::Whole => return None,
        };
        if self.width() != 1 {
            return Some(Err(
                "only parts of a single register can be written".to_owned()
            ));
        }
        let masks = self.meaning.raw_of(value).and_then(|raw| {
            let number = raw.as_f64();
            let most = ones(count);
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss
            )]
            let fits = number.fract() == 0.0
                && (0.0..=most as f64).contains(&number)
                && self.coded(number) <= most;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let bits = |number: u64| {
                let word = (number << low) as u16;
                if self.meaning.order.swaps_bytes() {
                    word.swap_bytes()
                } else {
                    word
                }
            };
            if fits {
                Ok((!bits(most), bits(self.coded(number))))
            } else {
                Err(format!("{value} does not fit into {count} bits"))
            }
        });
        Some(masks)
    }

    /// The bits of a part that is `number`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn coded(&self, number: f64) -> u64 {
        if matches!(self.meaning.kind, DataType::Bcd(_)) {
            bcd::nibbles(number as u64)
        } else {
            number as u64
        }
    }

    /// The registers that show `value`, as near as the type allows; what a simulator answers.
    /// `exponent` is what the register says that holds its power of ten.
    pub fn encode(&self, value: f64, exponent: Option<i16>) -> Vec<u16> {
        if self.table.is_bits() {
            return vec![u16::from(value >= 0.5); usize::from(self.width())];
        }
        let scale =
            self.meaning.scale * exponent.map_or(1.0, |exponent| 10_f64.powi(exponent.into()));
        let raw = (value - self.meaning.offset) / scale;
        let one = match self.meaning.part {
            Part::Bit(bit) => self.shown(Raw::UInt(u64::from(value >= 0.5) << bit)),
            Part::Bits { low, count } => {
                self.plain((self.coded(raw.max(0.0).round()) & ones(count)) << low)
            }
            Part::Whole if self.meaning.kind == DataType::Bool => self.shown(Raw::Bool(raw >= 0.5)),
            Part::Whole if self.meaning.kind == DataType::Text => {
                self.encode_text(&format!("{raw:.0}"))
            }
            Part::Whole => self.shown(self.meaning.nearest(raw)),
        };
        self.repeated(&one)
    }

    /// The registers that show as much of a text as they hold.
    pub fn encode_text(&self, text: &str) -> Vec<u16> {
        let short: String = text.chars().take(self.characters_held()).collect();
        let one = self
            .encode_characters(&short)
            .unwrap_or_else(|_| vec![0; usize::from(self.meaning.length)]);
        self.repeated(&one)
    }

    /// Every element of an array shows the same.
    fn repeated(&self, one: &[u16]) -> Vec<u16> {
        let Some(array) = self.meaning.array else {
            return one.to_vec();
        };
        let mut all = vec![0; usize::from(self.width())];
        for index in 0..usize::from(array.count) {
            let place = all
                .get_mut(index * usize::from(array.stride)..)
                .unwrap_or_default();
            place
                .iter_mut()
                .zip(one)
                .for_each(|(cell, word)| *cell = *word);
        }
        all
    }

    /// The bits of its only register that are its own; all where it is whole registers. Others may
    /// be of other points.
    pub fn own_bits(&self) -> u16 {
        let bits = match (self.meaning.part, self.meaning.kind) {
            (Part::Bit(bit), _) => 1_u16.checked_shl(bit.into()),
            #[allow(clippy::cast_possible_truncation)]
            (Part::Bits { low, count }, _) => (ones(count) as u16).checked_shl(low.into()),
            (Part::Whole, DataType::U8L | DataType::I8L) => Some(0x00FF),
            (Part::Whole, DataType::U8H | DataType::I8H) => Some(0xFF00),
            (Part::Whole, _) => None,
        };
        let bits = bits
            .filter(|_| self.width() == 1 && !self.table.is_bits())
            .unwrap_or(u16::MAX);
        if self.meaning.order.swaps_bytes() {
            bits.swap_bytes()
        } else {
            bits
        }
    }

    /// The registers with these bits.
    fn plain(&self, bits: u64) -> Vec<u16> {
        let size = 2 * usize::from(self.meaning.words_each());
        self.as_words(
            bits.to_be_bytes()
                .get(8_usize.saturating_sub(size)..)
                .unwrap_or_default()
                .to_vec(),
        )
    }

    fn shown(&self, raw: Raw) -> Vec<u16> {
        self.as_words(self.meaning.kind.shown(raw))
    }
}
