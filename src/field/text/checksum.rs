//! How instruments protect their messages. Pure.
//!
//! A checksum is at a fixed place, or beside a mark: a message then ends as it likes (CR LF, LF
//! alone, no checksum at all).

use serde::{Deserialize, de};

use super::bytes::Bytes;

/// The kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Kind")]
pub enum ChecksumKind {
    /// Exclusive or of all bytes.
    Xor8,
    /// Sum of all bytes, eight bits.
    Sum8,
    /// Sum of all bytes, sixteen bits.
    Sum16,
    /// What the sum lacks to zero, eight bits (also called LRC).
    Twos8,
    /// What the sum lacks to zero, seven bits.
    Twos7,
    /// The six lowest bits of the sum, plus 0x20 to be a printable character: a line of the French
    /// TIC.
    Tic,
    /// CRC-16 of Modbus.
    Crc16Modbus,
    /// CRC-16/ARC, as in DSMR.
    Crc16Arc,
    /// CRC-16/CCITT-FALSE.
    Crc16Ccitt,
    /// CRC-16/XMODEM.
    Crc16Xmodem,
    /// CRC-32 of Ethernet.
    Crc32,
}

/// How it stands in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Written")]
pub enum ChecksumEncoding {
    /// As bytes, the most significant first.
    #[default]
    Raw,
    /// As bytes, the least significant first.
    RawLe,
    /// As hexadecimal digits.
    Hex,
}

/// A position in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChecksumPosition {
    /// Counted from the first byte; below zero from the end.
    At(isize),
    /// The last place where these bytes begin.
    Before(Vec<u8>),
    /// Just behind the last of these bytes.
    Behind(Vec<u8>),
}

impl<'de> Deserialize<'de> for ChecksumPosition {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let mark = |key: &str| {
            let marked = value
                .as_object()
                .filter(|object| object.len() == 1)?
                .get(key)?;
            serde_json::from_value::<Bytes>(marked.clone())
                .ok()
                .map(|Bytes(bytes)| bytes)
                .filter(|bytes| !bytes.is_empty())
        };
        let number = value
            .as_i64()
            .and_then(|number| isize::try_from(number).ok())
            .map(Self::At);
        number.or_else(|| mark("before").map(Self::Before)).or_else(|| mark("behind").map(Self::Behind)).ok_or_else(|| {
            de::Error::custom(format!(
                "{value} is not a position; type a number such as -2, or a mark such as {{ behind: '*' }} or {{ before: '*' }}"
            ))
        })
    }
}

impl ChecksumPosition {
    /// As an index into a message; `None` if the message has no such place.
    fn within(&self, message: &[u8]) -> Option<usize> {
        let last = |mark: &[u8]| {
            message
                .windows(mark.len().max(1))
                .rposition(|window| window == mark)
        };
        match self {
            Self::At(position) if *position < 0 => {
                message.len().checked_sub(position.unsigned_abs())
            }
            Self::At(position) => Some(position.unsigned_abs()),
            Self::Before(mark) => last(mark),
            Self::Behind(mark) => last(mark).map(|at| at + mark.len()),
        }
    }
}

/// The result of checking a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The message is as it was sent.
    Right,
    /// It is not.
    Wrong,
    /// There is none in this message.
    Missing,
}

/// Where it stands and what it covers; positions below zero count from the end of the message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Checksum {
    /// Which.
    pub kind: ChecksumKind,
    /// First byte that the checksum covers.
    #[serde(default)]
    pub from: isize,
    /// The same for requests, which may begin with wake-up bytes. Default: as in messages.
    pub request_from: Option<usize>,
    /// First byte after those that the checksum covers: a number, or a mark such as
    /// `{ before: '*' }`. Default: the position of the checksum.
    pub to: Option<ChecksumPosition>,
    /// First byte of the checksum: a number, or a mark such as `{ behind: '*' }`.
    pub at: ChecksumPosition,
    /// How it is written.
    #[serde(default, rename = "as")]
    pub written: ChecksumEncoding,
    /// Accept messages without a checksum until one has it; needs a mark in `at`. Default false.
    #[serde(default)]
    pub optional: bool,
}

impl ChecksumKind {
    fn of(self, bytes: &[u8]) -> u32 {
        let sum = || {
            bytes
                .iter()
                .fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)))
        };
        let crc16 = |algorithm: &'static crc::Algorithm<u16>| {
            u32::from(crc::Crc::<u16>::new(algorithm).checksum(bytes))
        };
        match self {
            Self::Xor8 => bytes.iter().fold(0, |sum, byte| sum ^ u32::from(*byte)),
            Self::Sum8 => sum() & 0xFF,
            Self::Sum16 => sum() & 0xFFFF,
            Self::Twos8 => sum().wrapping_neg() & 0xFF,
            Self::Twos7 => sum().wrapping_neg() & 0x7F,
            Self::Tic => (sum() & 0x3F) + 0x20,
            Self::Crc16Modbus => crc16(&crc::CRC_16_MODBUS),
            Self::Crc16Arc => crc16(&crc::CRC_16_ARC),
            Self::Crc16Ccitt => crc16(&crc::CRC_16_IBM_3740),
            Self::Crc16Xmodem => crc16(&crc::CRC_16_XMODEM),
            Self::Crc32 => crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(bytes),
        }
    }

    fn size(self) -> usize {
        match self {
            Self::Xor8 | Self::Sum8 | Self::Twos8 | Self::Twos7 | Self::Tic => 1,
            Self::Crc32 => 4,
            _ => 2,
        }
    }
}

impl Checksum {
    /// As it is written for some bytes.
    pub(super) fn made(&self, bytes: &[u8]) -> Vec<u8> {
        let all = self.kind.of(bytes).to_be_bytes();
        let mut sum = all.get(4 - self.kind.size()..).unwrap_or_default().to_vec();
        match self.written {
            ChecksumEncoding::Raw => sum,
            ChecksumEncoding::RawLe => {
                sum.reverse();
                sum
            }
            ChecksumEncoding::Hex => sum
                .iter()
                .flat_map(|byte| format!("{byte:02X}").into_bytes())
                .collect(),
        }
    }

    /// The checksum of a request, over the bytes before it.
    pub(super) fn of_request(&self, before: &[u8]) -> Vec<u8> {
        let from = self
            .request_from
            .or_else(|| usize::try_from(self.from).ok())
            .unwrap_or(0);
        self.over(before, from)
    }

    /// The checksum of a message, over the bytes before it.
    pub(super) fn of_message(&self, before: &[u8]) -> Vec<u8> {
        self.over(before, usize::try_from(self.from).unwrap_or(0))
    }

    fn over(&self, before: &[u8], from: usize) -> Vec<u8> {
        // Where fewer bytes are covered than precede it: `to` and `at` count from the same end.
        let to = match (&self.to, &self.at) {
            (Some(ChecksumPosition::At(to)), ChecksumPosition::At(at)) => before
                .len()
                .saturating_sub(usize::try_from(at - to).unwrap_or(0)),
            (Some(to), _) => to.within(before).unwrap_or(before.len()),
            (None, _) => before.len(),
        };
        self.made(before.get(from..to).unwrap_or_default())
    }

    /// The number of bytes it takes in the message.
    pub fn length(&self) -> usize {
        self.kind.size()
            * if self.written == ChecksumEncoding::Hex {
                2
            } else {
                1
            }
    }

    /// Checks the settings; the error names the remedy.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.optional && matches!(self.at, ChecksumPosition::At(_)) {
            return Err(
                "only a mark tells whether a message has a checksum; write `at: { behind: '*' }`, or remove `optional`",
            );
        }
        Ok(())
    }

    /// Whether a message is whole and unchanged.
    pub(super) fn verdict(&self, message: &[u8]) -> Verdict {
        let Some(at) = self.at.within(message) else {
            // Without its mark there is no checksum.
            return if self.optional {
                Verdict::Missing
            } else {
                Verdict::Wrong
            };
        };
        let behind = message.get(at..).unwrap_or_default();
        if self.optional && behind.iter().all(u8::is_ascii_whitespace) {
            return Verdict::Missing;
        }
        let from = ChecksumPosition::At(self.from).within(message);
        let to = self.to.as_ref().map_or(Some(at), |to| to.within(message));
        let covered = from.zip(to).and_then(|(from, to)| message.get(from..to));
        let is_right = covered.is_some_and(|covered| self.stands(&self.made(covered), behind));
        if is_right {
            Verdict::Right
        } else {
            Verdict::Wrong
        }
    }

    /// True if these bytes can be a checksum. Hexadecimal digits up to the end of a line may lack
    /// zeros at their front.
    fn stands(&self, made: &[u8], behind: &[u8]) -> bool {
        if behind
            .get(..made.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(made))
        {
            return self.written != ChecksumEncoding::Hex
                || !behind.get(made.len()).is_some_and(u8::is_ascii_hexdigit);
        }
        if self.written != ChecksumEncoding::Hex || matches!(self.at, ChecksumPosition::At(_)) {
            return false;
        }
        let digits = behind.trim_ascii_end();
        let short = made
            .len()
            .checked_sub(digits.len())
            .and_then(|missing| made.split_at_checked(missing));
        short.is_some_and(|(zeros, rest)| {
            !rest.is_empty()
                && zeros.iter().all(|zero| *zero == b'0')
                && rest.eq_ignore_ascii_case(digits)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(checksum: &str, message: &[u8]) -> Verdict {
        let checksum: Checksum = serde_yaml::from_str(checksum).unwrap();
        checksum.check().unwrap();
        checksum.verdict(message)
    }

    fn check(checksum: &str, message: &[u8]) {
        let checksum: Checksum = serde_yaml::from_str(checksum).unwrap();
        assert_eq!(checksum.verdict(message), Verdict::Right, "{checksum:?}");
        let from = ChecksumPosition::At(checksum.from).within(message).unwrap();
        let to = checksum
            .to
            .as_ref()
            .unwrap_or(&checksum.at)
            .within(message)
            .unwrap();
        for at in from..to {
            let mut wrong = message.to_vec();
            wrong[at] ^= 1;
            assert_ne!(
                checksum.verdict(&wrong),
                Verdict::Right,
                "{checksum:?} at {at}"
            );
        }
        assert_eq!(checksum.verdict(b""), Verdict::Wrong);
    }

    #[test]
    fn every_kind_in_a_message_of_its_world() {
        check(
            "{ kind: xor8, from: 1, to: -5, at: -4, as: hex }",
            b"$GPGLL,4916.45,N,12311.12,W,225444,A*31\r\n",
        );
        check("{ kind: sum16, at: -2 }", &[0x42, 0x4D, 0, 2, 0, 0x91]);
        check("{ kind: sum8, at: -2 }", &[0x68, 1, 2, 0x6B, 0x16]);
        check("{ kind: crc16_arc, to: -6, at: -6, as: hex }", DSMR);
        check(
            "{ kind: crc16_modbus, at: -2, as: raw_le }",
            &[1, 3, 2, 0, 7, 0xF9, 0x86],
        );
        check("{ kind: twos7, at: -1 }", &[2, 0x41, 0x3D]);
        check("{ kind: twos8, at: -1 }", &[0x11, 0x03, 0xEC]);
        // A historic line, whose last blank is not covered, and a standard one, as meters of Enedis
        // send them.
        check(
            "{ kind: tic, from: 1, to: -3, at: -2 }",
            b"\nADCO 270622224349 B\r",
        );
        check("{ kind: tic, from: 1, at: -2 }", b"\nVTIC\t02\tJ\r");
    }

    #[test]
    fn a_mark_finds_the_checksum_however_the_line_ends() {
        let nmea = "{ kind: xor8, from: 1, to: { before: '*' }, at: { behind: '*' }, as: hex, optional: true }";
        check(
            "{ kind: xor8, from: 1, to: { before: '*' }, at: { behind: '*' }, as: hex }",
            b"$GPGLL,4916.45,N,12311.12,W,225444,A*31\n",
        );
        for end in ["*31\r\n", "*31\n", "*31"] {
            let line = format!("$GPGLL,4916.45,N,12311.12,W,225444,A{end}");
            assert_eq!(verdict(nmea, line.as_bytes()), Verdict::Right, "{line:?}");
        }
        for (line, expected) in [
            ("$GPGLL,1\n", Verdict::Missing),
            ("$GPGLL,1*\r\n", Verdict::Missing),
            ("$GPGLL,4916.45,N,12311.12,W,225444,A*1\n", Verdict::Wrong),
            ("$GPGLL,4916.45,N,12311.12,W,225444,A*310\n", Verdict::Wrong),
            ("$GPGLL,4916.45,N,12311.12,W,225444,A*3\n", Verdict::Wrong),
        ] {
            assert_eq!(verdict(nmea, line.as_bytes()), expected, "{line:?}");
        }
        let dsmr = "{ kind: crc16_arc, at: { behind: '!' }, as: hex }";
        assert_eq!(verdict(dsmr, DSMR), Verdict::Right);
        assert_eq!(verdict(dsmr, b"/A\r\n\r\n!\r\n"), Verdict::Wrong);
        let message = serde_yaml::from_str::<Checksum>("{ kind: sum8, at: -1, optional: true }")
            .unwrap()
            .check();
        assert!(message.unwrap_err().contains("mark"));
        assert!(
            serde_yaml::from_str::<Checksum>("{ kind: sum8, at: { near: x } }")
                .unwrap_err()
                .to_string()
                .contains("behind")
        );
    }

    #[test]
    fn a_request_is_covered_as_far_as_a_message_is() {
        let of = |checksum: &str, before: &[u8]| {
            serde_yaml::from_str::<Checksum>(checksum)
                .unwrap()
                .of_request(before)
        };
        let nmea = "{ kind: xor8, from: 1, to: { before: '*' }, at: { behind: '*' }, as: hex }";
        assert_eq!(of(nmea, b"$PMTK220,1000*"), b"1F");
        let counted = "{ kind: xor8, from: 1, to: -5, at: -4, as: hex }";
        assert_eq!(of(counted, b"$PMTK220,1000*"), b"1F");
        assert_eq!(
            of(
                "{ kind: sum8, from: 2, at: -1, request_from: 0 }",
                &[1, 2, 3]
            ),
            [6]
        );
    }

    /// The shortest telegram: its checksum is that of `/A` with two line ends and the mark.
    const DSMR: &[u8] = b"/A\r\n\r\n!B1A8\r\n";
}
