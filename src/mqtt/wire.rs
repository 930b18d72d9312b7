//! The data types of MQTT on the wire [MQTT 5.0, 1.5]: integers, text and binary data with their
//! lengths.
//!
//! Invariants: a read beyond the end of a packet is an error, never a panic; what is written can be
//! read again.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::{PacketId, ReasonCode, Version};

/// Bytes that are no packet, or a packet that is not allowed here. The peer's fault: answer with
/// the code, close, count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} ({reason})")]
pub struct DecodeError {
    /// The code for DISCONNECT or CONNACK.
    pub reason: ReasonCode,
    /// A constant description for the log.
    pub what: &'static str,
    /// The version of a CONNECT that is wrong otherwise: it can be answered.
    pub version: Option<Version>,
}

impl DecodeError {
    pub(super) fn new(reason: ReasonCode, what: &'static str) -> Self {
        Self {
            reason,
            what,
            version: None,
        }
    }
}

pub(super) fn malformed(what: &'static str) -> DecodeError {
    DecodeError::new(ReasonCode::MALFORMED_PACKET, what)
}

pub(super) fn protocol_error(what: &'static str) -> DecodeError {
    DecodeError::new(ReasonCode::PROTOCOL_ERROR, what)
}

/// The highest bit of the protocol level.
pub(super) const BRIDGE: u8 = 0x80;

/// The value and its length in bytes; `None` if it is not complete [MQTT 5.0, 2.1.4].
pub(super) fn remaining_length(
    bytes: &[u8],
    is_strict: bool,
) -> Result<Option<(usize, usize)>, DecodeError> {
    let mut value = 0_usize;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            // [MQTT-1.5.5-1]; MQTT 3.1.1 does not forbid it.
            let overlong = is_strict && index > 0 && *byte == 0;
            return if overlong {
                Err(malformed("a length that is longer than necessary"))
            } else {
                Ok(Some((value, index + 1)))
            };
        }
    }
    if bytes.len() >= 4 {
        Err(malformed("a length of more than four bytes"))
    } else {
        Ok(None)
    }
}

/// The bytes of one packet, read from front to back; every read is checked.
#[derive(Debug, Clone)]
pub(super) struct Reader(Bytes);

const SHORT: &str = "a packet that ends too early";

impl Reader {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if self.0.len() < length {
            return Err(malformed(SHORT));
        }
        Ok(self.0.split_to(length))
    }

    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.0)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.0.try_get_u8().map_err(|_| malformed(SHORT))
    }

    /// A byte that is 0 or 1.
    pub(super) fn truth(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(protocol_error("a property must be 0 or 1")),
        }
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.0.try_get_u16().map_err(|_| malformed(SHORT))
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.0.try_get_u32().map_err(|_| malformed(SHORT))
    }

    pub(super) fn varint(&mut self) -> Result<u32, DecodeError> {
        let (value, length) = remaining_length(&self.0, true)?.ok_or(malformed(SHORT))?;
        self.0.advance(length);
        u32::try_from(value).map_err(|_| malformed("a length that is too large"))
    }

    pub(super) fn binary(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// [MQTT-1.5.4-1], [MQTT-1.5.4-2]
    pub(super) fn text(&mut self) -> Result<ByteString, DecodeError> {
        let text = ByteString::try_from(self.binary()?)
            .map_err(|_| malformed("text that is not UTF-8"))?;
        if text.as_bytes().contains(&0) {
            Err(malformed("text with the character U+0000"))
        } else {
            Ok(text)
        }
    }

    /// Text that is kept for long, and so must not keep the buffer of its packet.
    pub(super) fn owned_text(&mut self) -> Result<ByteString, DecodeError> {
        Ok(ByteString::from(&*self.text()?))
    }

    pub(super) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        checked_packet_id(self.u16()?)
    }
}

/// [MQTT-2.2.1-3]
pub(super) fn checked_packet_id(number: u16) -> Result<PacketId, DecodeError> {
    PacketId::new(number).ok_or(protocol_error("packet identifier 0"))
}

/// Bytes a variable byte integer takes.
pub(super) fn varint_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// A variable byte integer; `value` must be below 2^28, which every bounded packet is.
pub(super) fn put_varint(out: &mut BytesMut, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7F).unwrap_or(0x7F);
        value >>= 7;
        if value == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

/// A two-byte length and the text; at most 65,535 bytes of it.
pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    put_binary(out, text.as_bytes());
}

/// A two-byte length and the bytes; at most 65,535 of them.
pub(super) fn put_binary(out: &mut BytesMut, data: &[u8]) {
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    out.put_u16(length);
    out.extend_from_slice(data.get(..usize::from(length)).unwrap_or_default());
}
