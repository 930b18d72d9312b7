//! How instruments protect their messages. Pure.

use serde::Deserialize;

/// The kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
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
pub enum Written {
    /// As bytes, the most significant first.
    #[default]
    Raw,
    /// As bytes, the least significant first.
    RawLe,
    /// As hexadecimal digits.
    Hex,
}

/// Where it stands and what it covers; positions below zero count from the end of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Checksum {
    /// Which.
    pub kind: Kind,
    /// The first byte that it covers.
    #[serde(default)]
    pub from: isize,
    /// The same in requests, which may begin with bytes that only wake up; default: as in messages.
    pub request_from: Option<usize>,
    /// The first byte that it does not cover any more; default: where it stands.
    pub to: Option<isize>,
    /// Its first byte.
    pub at: isize,
    /// How it is written.
    #[serde(default, rename = "as")]
    pub written: Written,
}

impl Kind {
    fn of(self, bytes: &[u8]) -> u32 {
        let sum = || bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
        let crc16 = |algorithm: &'static crc::Algorithm<u16>| u32::from(crc::Crc::<u16>::new(algorithm).checksum(bytes));
        match self {
            Self::Xor8 => bytes.iter().fold(0, |sum, byte| sum ^ u32::from(*byte)),
            Self::Sum8 => sum() & 0xFF,
            Self::Sum16 => sum() & 0xFFFF,
            Self::Twos8 => sum().wrapping_neg() & 0xFF,
            Self::Twos7 => sum().wrapping_neg() & 0x7F,
            Self::Crc16Modbus => crc16(&crc::CRC_16_MODBUS),
            Self::Crc16Arc => crc16(&crc::CRC_16_ARC),
            Self::Crc16Ccitt => crc16(&crc::CRC_16_IBM_3740),
            Self::Crc16Xmodem => crc16(&crc::CRC_16_XMODEM),
            Self::Crc32 => crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(bytes),
        }
    }

    fn size(self) -> usize {
        match self {
            Self::Xor8 | Self::Sum8 | Self::Twos8 | Self::Twos7 => 1,
            Self::Crc32 => 4,
            _ => 2,
        }
    }
}

fn place(position: isize, length: usize) -> Option<usize> {
    if position < 0 { length.checked_sub(position.unsigned_abs()) } else { Some(position.unsigned_abs()) }
}

impl Checksum {
    /// As it is written for some bytes.
    pub(super) fn made(&self, bytes: &[u8]) -> Vec<u8> {
        let all = self.kind.of(bytes).to_be_bytes();
        let mut sum = all.get(4 - self.kind.size()..).unwrap_or_default().to_vec();
        match self.written {
            Written::Raw => sum,
            Written::RawLe => {
                sum.reverse();
                sum
            }
            Written::Hex => sum.iter().flat_map(|byte| format!("{byte:02X}").into_bytes()).collect(),
        }
    }

    /// The checksum of a request, over what stands before it.
    pub(super) fn of_request(&self, before: &[u8]) -> Vec<u8> {
        let from = self.request_from.or_else(|| usize::try_from(self.from).ok()).unwrap_or(0);
        self.made(before.get(from..).unwrap_or_default())
    }

    /// The checksum of a message, over what stands before it.
    pub(super) fn of_message(&self, before: &[u8]) -> Vec<u8> {
        let from = usize::try_from(self.from).unwrap_or(0);
        // Where fewer bytes are covered than stand before it: `to` and `at` count from the same end.
        let left_out = self.to.map_or(0, |to| usize::try_from(self.at - to).unwrap_or(0));
        self.made(before.get(from..before.len().saturating_sub(left_out)).unwrap_or_default())
    }

    /// True if a message is whole and unchanged.
    pub(super) fn is_right(&self, message: &[u8]) -> bool {
        let at = place(self.at, message.len());
        let from = place(self.from, message.len());
        let to = self.to.map_or(at, |to| place(to, message.len()));
        let (Some(at), Some(from), Some(to)) = (at, from, to) else { return false };
        let Some(made) = message.get(from..to).map(|covered| self.made(covered)) else { return false };
        message.get(at..at + made.len()).is_some_and(|found| found.eq_ignore_ascii_case(&made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(checksum: &str, message: &[u8]) {
        let checksum: Checksum = serde_yaml::from_str(checksum).unwrap();
        assert!(checksum.is_right(message), "{checksum:?}");
        for at in 0..message.len() {
            let mut wrong = message.to_vec();
            wrong[at] ^= 1;
            let covered = place(checksum.from, message.len()).unwrap()..place(checksum.to.unwrap_or(checksum.at), message.len()).unwrap();
            if covered.contains(&at) {
                assert!(!checksum.is_right(&wrong), "{checksum:?} at {at}");
            }
        }
        assert!(!checksum.is_right(b""));
    }

    #[test]
    fn every_kind_in_a_message_of_its_world() {
        check("{ kind: xor8, from: 1, to: -5, at: -4, as: hex }", b"$GPGLL,4916.45,N,12311.12,W,225444,A*31\r\n");
        check("{ kind: sum16, at: -2 }", &[0x42, 0x4D, 0, 2, 0, 0x91]);
        check("{ kind: sum8, at: -2 }", &[0x68, 1, 2, 0x6B, 0x16]);
        check("{ kind: crc16_arc, to: -6, at: -6, as: hex }", DSMR);
        check("{ kind: crc16_modbus, at: -2, as: raw_le }", &[1, 3, 2, 0, 7, 0xF9, 0x86]);
        check("{ kind: twos7, at: -1 }", &[2, 0x41, 0x3D]);
        check("{ kind: twos8, at: -1 }", &[0x11, 0x03, 0xEC]);
    }

    /// The shortest telegram: its checksum is that of `/A` with two line ends and the mark.
    const DSMR: &[u8] = b"/A\r\n\r\n!B1A8\r\n";
}
