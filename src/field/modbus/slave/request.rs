//! Requests as a slave parses them: a request that is too long, too short, or asks for too much is
//! refused as devices refuse it. Pure.
//!
//! Source: Modbus application protocol 1.1b3, 6.1 to 6.21.

use crate::field::decode::Table;
use crate::field::modbus::plan::Limits;

/// Exception codes.
pub(super) const ILLEGAL_FUNCTION: u8 = 1;
pub(super) const ILLEGAL_ADDRESS: u8 = 2;
pub(super) const ILLEGAL_VALUE: u8 = 3;

const MOST_BITS_WRITTEN: u16 = 1968;
const MOST_WORDS_WRITTEN: u16 = 123;
const MOST_WORDS_EXCHANGED: u16 = 121;
/// Bytes of an answer with records of files.
const LONGEST_RECORDS: usize = 245;

/// A request of a master.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Functions 1 to 4.
    Read {
        table: Table,
        start: u16,
        count: u16,
    },
    /// Functions 5, 6, 15 and 16; of bits 0 and 1.
    Write {
        table: Table,
        start: u16,
        values: Vec<u16>,
    },
    /// Function 22.
    Mask { address: u16, and: u16, or: u16 },
    /// Function 23: what is read, and what is written before.
    Exchange {
        start: u16,
        count: u16,
        to: u16,
        values: Vec<u16>,
    },
    /// Function 20.
    Records(Vec<RecordGroup>),
    /// Function 17.
    ServerId,
    /// Functions 43/14.
    Identification { code: u8, object: u8 },
}

/// Neighbouring records of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RecordGroup {
    pub(super) file: u16,
    /// The first record.
    pub(super) start: u16,
    pub(super) count: u16,
}

/// Exactly `N` numbers of 16 bits.
fn numbers<const N: usize>(bytes: &[u8]) -> Result<[u16; N], u8> {
    let all = words(bytes).and_then(|words| <[u16; N]>::try_from(words).ok());
    all.ok_or(ILLEGAL_VALUE)
}

fn words(bytes: &[u8]) -> Option<Vec<u16>> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
}

/// The data behind their byte count, if they are `wanted` bytes and allowed.
fn counted(bytes: &[u8], wanted: usize, is_allowed: bool) -> Result<&[u8], u8> {
    let (length, data) = bytes.split_first().ok_or(ILLEGAL_VALUE)?;
    let is_right = is_allowed && data.len() == wanted && usize::from(*length) == wanted;
    if is_right {
        Ok(data)
    } else {
        Err(ILLEGAL_VALUE)
    }
}

fn within(count: u16, most: u16) -> bool {
    (1..=most).contains(&count)
}

impl Request {
    /// The error is the exception code. `limits`: the most that one request may ask of the device.
    pub(super) fn parse(bytes: &[u8], limits: Limits) -> Result<Self, u8> {
        let (function, data) = bytes.split_first().ok_or(ILLEGAL_FUNCTION)?;
        match function {
            1 => Self::read(Table::Coil, data, limits.bits),
            2 => Self::read(Table::Discrete, data, limits.bits),
            3 => Self::read(Table::Holding, data, limits.words),
            4 => Self::read(Table::Input, data, limits.words),
            5 => Self::write_bit(data),
            6 => {
                numbers(data).map(|[start, value]| Self::write(Table::Holding, start, vec![value]))
            }
            15 => Self::write_bits(data),
            16 => Self::write_words(data),
            17 if data.is_empty() => Ok(Self::ServerId),
            17 => Err(ILLEGAL_VALUE),
            20 => Self::records(data),
            22 => numbers(data).map(|[address, and, or]| Self::Mask { address, and, or }),
            23 => Self::exchange(data, limits.words),
            43 => match *data {
                [14, code @ 1..=4, object] => Ok(Self::Identification { code, object }),
                [14, ..] => Err(ILLEGAL_VALUE),
                _ => Err(ILLEGAL_FUNCTION),
            },
            _ => Err(ILLEGAL_FUNCTION),
        }
    }

    fn write(table: Table, start: u16, values: Vec<u16>) -> Self {
        Self::Write {
            table,
            start,
            values,
        }
    }

    fn write_bit(data: &[u8]) -> Result<Self, u8> {
        match numbers(data)? {
            [start, 0] => Ok(Self::write(Table::Coil, start, vec![0])),
            [start, 0xFF00] => Ok(Self::write(Table::Coil, start, vec![1])),
            _ => Err(ILLEGAL_VALUE),
        }
    }

    fn write_bits(data: &[u8]) -> Result<Self, u8> {
        let (head, rest) = data.split_first_chunk::<4>().ok_or(ILLEGAL_VALUE)?;
        let [start, count] = numbers(head)?;
        let is_allowed = within(count, MOST_BITS_WRITTEN);
        let packed = counted(rest, usize::from(count.div_ceil(8)), is_allowed)?;
        let bits = packed
            .iter()
            .flat_map(|byte| (0..8).map(move |bit| u16::from(byte >> bit & 1)));
        let bits = bits.take(count.into()).collect();
        Ok(Self::write(Table::Coil, start, bits))
    }

    fn write_words(data: &[u8]) -> Result<Self, u8> {
        let (head, rest) = data.split_first_chunk::<4>().ok_or(ILLEGAL_VALUE)?;
        let [start, count] = numbers(head)?;
        let is_allowed = within(count, MOST_WORDS_WRITTEN);
        let values = words(counted(rest, 2 * usize::from(count), is_allowed)?);
        let values = values.ok_or(ILLEGAL_VALUE)?;
        Ok(Self::write(Table::Holding, start, values))
    }

    /// `most`: registers that one request may read.
    fn exchange(data: &[u8], most: u16) -> Result<Self, u8> {
        let (head, rest) = data.split_first_chunk::<8>().ok_or(ILLEGAL_VALUE)?;
        let [start, count, to, written] = numbers(head)?;
        let is_allowed = within(count, most) && within(written, MOST_WORDS_EXCHANGED);
        let values = words(counted(rest, 2 * usize::from(written), is_allowed)?);
        Ok(Self::Exchange {
            start,
            count,
            to,
            values: values.ok_or(ILLEGAL_VALUE)?,
        })
    }

    /// Groups of seven bytes, the first of each a 6; the answer has at most 245 bytes.
    fn records(data: &[u8]) -> Result<Self, u8> {
        let (length, data) = data.split_first().ok_or(ILLEGAL_VALUE)?;
        let (groups, rest) = data.as_chunks::<7>();
        if usize::from(*length) != data.len() || !rest.is_empty() || groups.is_empty() {
            return Err(ILLEGAL_VALUE);
        }
        let mut all = Vec::new();
        let mut answer = 0;
        for [kind, place @ ..] in groups {
            let [file, start, count] = numbers(place)?;
            if *kind != 6 || u32::from(start) + u32::from(count) > 0x1_0000 {
                return Err(ILLEGAL_ADDRESS);
            }
            answer += 2 + 2 * usize::from(count);
            if count == 0 || answer > LONGEST_RECORDS {
                return Err(ILLEGAL_VALUE);
            }
            all.push(RecordGroup { file, start, count });
        }
        Ok(Self::Records(all))
    }

    fn read(table: Table, data: &[u8], most: u16) -> Result<Self, u8> {
        let [start, count] = numbers(data)?;
        if !within(count, most) {
            return Err(ILLEGAL_VALUE);
        }
        if u32::from(start) + u32::from(count) > 0x1_0000 {
            return Err(ILLEGAL_ADDRESS);
        }
        Ok(Self::Read {
            table,
            start,
            count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Request, u8> {
        Request::parse(
            bytes,
            Limits {
                words: 60,
                bits: 100,
                hold: None,
            },
        )
    }

    #[test]
    fn requests_are_refused_as_devices_refuse_them() {
        assert_eq!(
            parse(&[3, 0, 1, 0, 60]),
            Ok(Request::Read {
                table: Table::Holding,
                start: 1,
                count: 60
            })
        );
        for (wrong, code) in [
            // More than the device gives at once, nothing, too short, too long, beyond the last
            // register.
            (&[3, 0, 1, 0, 61][..], 3),
            (&[1, 0, 0, 0, 101], 3),
            (&[3, 0, 1, 0, 0], 3),
            (&[3, 0, 1, 0], 3),
            (&[3, 0, 1, 0, 1, 0], 3),
            (&[4, 0xFF, 0xFF, 0, 2], 2),
            // Coils are on or off; lengths and counts must agree.
            (&[5, 0, 0, 0, 1], 3),
            (&[6, 0, 0, 0, 1, 0], 3),
            (&[15, 0, 0, 0, 9, 1, 0xFF], 3),
            (&[16, 0, 0, 0, 1, 4, 0, 1, 0, 2], 3),
            (&[16, 0, 0, 0, 2, 4, 0, 1], 3),
            (&[17, 0], 3),
            // Records of files: an odd group, a reference that is none, too many records.
            (&[20, 6, 6, 0, 4, 0, 1, 0], 3),
            (&[20, 7, 5, 0, 4, 0, 1, 0, 2], 2),
            (&[20, 7, 6, 0, 4, 0, 1, 0, 122], 3),
            (&[22, 0, 0, 0, 1], 3),
            (&[23, 0, 0, 0, 61, 0, 0, 0, 1, 2, 0, 1], 3),
            (&[23, 0, 0, 0, 1, 0, 0, 0, 1, 3, 0, 1], 3),
            (&[43, 13, 0, 0], 1),
            (&[43, 14, 9, 0], 3),
            (&[99], 1),
            (&[], 1),
        ] {
            assert_eq!(parse(wrong), Err(code), "{wrong:?}");
        }
        let mut long = vec![16, 0, 0, 0, 124, 248];
        long.extend([0; 248]);
        assert_eq!(parse(&long), Err(3), "more than a frame takes");
    }

    #[test]
    fn bits_and_words_are_unpacked() {
        assert_eq!(
            parse(&[15, 0, 3, 0, 3, 1, 0b101]),
            Ok(Request::Write {
                table: Table::Coil,
                start: 3,
                values: vec![1, 0, 1]
            })
        );
        assert_eq!(
            parse(&[16, 0, 3, 0, 1, 2, 1, 2]),
            Ok(Request::Write {
                table: Table::Holding,
                start: 3,
                values: vec![0x102]
            })
        );
        let exchange = Request::Exchange {
            start: 1,
            count: 2,
            to: 9,
            values: vec![7],
        };
        assert_eq!(parse(&[23, 0, 1, 0, 2, 0, 9, 0, 1, 2, 0, 7]), Ok(exchange));
        assert_eq!(
            parse(&[43, 14, 4, 1]),
            Ok(Request::Identification { code: 4, object: 1 })
        );
    }
}
