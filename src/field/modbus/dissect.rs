//! Frames taken apart for those who watch a line: unit, function, addresses, and the values of the
//! points there. Pure.
//!
//! It reads whole frames that were sent and received elsewhere; a frame that cannot be read is
//! `None`, never a guess. The driver does not use it.

use std::sync::Arc;

use super::ascii::Ascii;
use super::block::{Block, BlockPoint};
use super::frames::{READ_FILE, checksum};
use crate::field::decode::{Register, Table};
use crate::field::trace::Framing;
use crate::field::{Device, PointSource, Values};

/// The shortest frame with its checksum: an exception is one byte longer, function 17 has no data.
const SHORTEST: usize = 4;
/// Transaction, protocol, length.
const HEADER: usize = 6;

/// A frame without what surrounds it on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The Modbus address.
    pub unit: u8,
    /// With the highest bit in an exception.
    pub function: u8,
    /// The bytes behind the function code.
    pub data: Vec<u8>,
}

/// The meaning of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Registers or bits.
    Read(RegisterRange),
    /// Registers, or bits as 0 and 1.
    Write(RegisterRange, Vec<u16>),
    /// Some bits of a register.
    Mask {
        /// The register.
        address: u16,
        /// Bits that stay as they are.
        and: u16,
        /// Bits that are set among the others.
        or: u16,
    },
    /// The identification of the device.
    Identity,
    /// A function that is not taken apart here.
    Other,
}

/// Neighbours in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisterRange {
    /// The table.
    pub table: Table,
    /// The first, from zero.
    pub start: u16,
    /// The number of registers or bits.
    pub count: u16,
}

impl Frame {
    fn of(body: &[u8]) -> Option<Self> {
        let [unit, function, data @ ..] = body else {
            return None;
        };
        Some(Self {
            unit: *unit,
            function: *function,
            data: data.to_vec(),
        })
    }

    /// Of a request as it left.
    pub fn of_request(framing: Framing, bytes: &[u8]) -> Option<Self> {
        whole(framing, bytes)
            .first()
            .and_then(|body| Self::of(body))
    }

    /// Of the answer to a request, among bytes that may hold its echo, noise and other frames.
    pub fn of_answer(
        framing: Framing,
        request: &Self,
        sent: &[u8],
        received: &[u8],
    ) -> Option<Self> {
        // An adapter that hears itself. A write is confirmed by its own bytes: then once is the
        // answer.
        let heard = received
            .strip_prefix(sent)
            .filter(|rest| !rest.is_empty())
            .unwrap_or(received);
        let is_answer =
            |frame: &Self| frame.unit == request.unit && frame.function & 0x7F == request.function;
        whole(framing, heard)
            .iter()
            .filter_map(|body| Self::of(body))
            .rfind(is_answer)
    }

    /// The code of an exception.
    pub fn exception(&self) -> Option<u8> {
        self.data
            .first()
            .copied()
            .filter(|_| self.function & 0x80 != 0)
    }

    /// The meaning of a request.
    pub fn asked(&self) -> Asked {
        self.read_asked()
            .or_else(|| self.write_asked())
            .unwrap_or(match self.function {
                17 | 43 => Asked::Identity,
                _ => Asked::Other,
            })
    }

    fn word(&self, at: usize) -> Option<u16> {
        let pair = self.data.get(at..at + 2)?.first_chunk::<2>()?;
        Some(u16::from_be_bytes(*pair))
    }

    /// The span whose first address and count are at two places of the data.
    fn span(&self, table: Table, start_at: usize, count_at: usize) -> Option<RegisterRange> {
        Some(RegisterRange {
            table,
            start: self.word(start_at)?,
            count: self.word(count_at)?,
        })
    }

    fn read_asked(&self) -> Option<Asked> {
        let span = match self.function {
            1 => self.span(Table::Coil, 0, 2),
            2 => self.span(Table::Discrete, 0, 2),
            3 => self.span(Table::Holding, 0, 2),
            4 => self.span(Table::Input, 0, 2),
            // One group: its length, the kind of reference, file, record, count.
            READ_FILE => self.span(Table::File(self.word(2)?), 4, 6),
            _ => None,
        };
        span.map(Asked::Read)
    }

    fn write_asked(&self) -> Option<Asked> {
        let single = |table| {
            Some(RegisterRange {
                table,
                start: self.word(0)?,
                count: 1,
            })
        };
        let (span, values) = match self.function {
            5 => (single(Table::Coil), vec![u16::from(self.word(2)? != 0)]),
            6 => (single(Table::Holding), vec![self.word(2)?]),
            15 => (
                self.span(Table::Coil, 0, 2),
                bits(self.data.get(5..)?, self.word(2)?),
            ),
            16 => (self.span(Table::Holding, 0, 2), words(self.data.get(5..)?)),
            22 => {
                return Some(Asked::Mask {
                    address: self.word(0)?,
                    and: self.word(2)?,
                    or: self.word(4)?,
                });
            }
            23 => (self.span(Table::Holding, 4, 6), words(self.data.get(9..)?)),
            _ => return None,
        };
        Some(Asked::Write(span?, values))
    }

    /// The registers or bits in an answer to this request; `None` if there are none, or not as many
    /// as announced.
    pub fn brought(&self, answer: &Self) -> Option<Vec<u16>> {
        let Asked::Read(span) = self.asked() else {
            return None;
        };
        if answer.function != self.function {
            return None;
        }
        let [count, data @ ..] = answer.data.as_slice() else {
            return None;
        };
        if usize::from(*count) != data.len() {
            return None;
        }
        let brought = match span.table {
            Table::Coil | Table::Discrete => bits(data, span.count),
            Table::Holding | Table::Input => words(data),
            Table::File(_) => words(data.get(2..)?),
        };
        (brought.len() == usize::from(span.count)).then_some(brought)
    }
}

/// The bodies of the whole frames among some bytes: from the unit to the last byte before the
/// checksum.
fn whole(framing: Framing, bytes: &[u8]) -> Vec<Vec<u8>> {
    let body = |frame: &[u8]| {
        frame
            .split_last_chunk::<2>()
            .filter(|(body, sum)| checksum(body) == **sum)
            .map(|(body, _)| body.to_vec())
    };
    match framing {
        Framing::Plain | Framing::Meter => Vec::new(),
        Framing::Ascii => Ascii::default()
            .frames(bytes)
            .iter()
            .filter_map(|frame| body(frame))
            .collect(),
        Framing::Rtu => in_rtu(bytes),
        Framing::Tcp => {
            let (mut bodies, mut rest) = (Vec::new(), bytes);
            while let Some(header) = rest.first_chunk::<HEADER>() {
                let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
                let Some(body) = rest.get(HEADER..HEADER + length) else {
                    break;
                };
                bodies.push(body.to_vec());
                rest = rest.get(HEADER + length..).unwrap_or_default();
            }
            bodies
        }
    }
}

/// Frames are where a checksum fits; the longest that begins at a place is taken.
fn in_rtu(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut bodies, mut rest) = (Vec::new(), bytes);
    while rest.len() >= SHORTEST {
        let ends = (SHORTEST..=rest.len().min(super::frames::MAX_FRAME)).rev();
        let fits = |end: &usize| {
            rest.get(..*end)
                .and_then(<[u8]>::split_last_chunk::<2>)
                .is_some_and(|(body, sum)| checksum(body) == *sum)
        };
        match ends.into_iter().find(fits) {
            Some(end) => {
                bodies.push(rest.get(..end - 2).unwrap_or_default().to_vec());
                rest = rest.get(end..).unwrap_or_default();
            }
            None => rest = rest.get(1..).unwrap_or_default(),
        }
    }
    bodies
}

fn words(data: &[u8]) -> Vec<u16> {
    data.chunks_exact(2)
        .map(|pair| {
            pair.iter()
                .fold(0, |word, byte| word << 8 | u16::from(*byte))
        })
        .collect()
}

fn bits(data: &[u8], count: u16) -> Vec<u16> {
    let bits = data
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| u16::from(byte >> bit & 1)));
    bits.take(usize::from(count)).collect()
}

/// True if all of a register is in a span.
fn is_in(register: &Register, span: RegisterRange) -> bool {
    let (start, end) = (
        u32::from(register.address),
        u32::from(register.address) + u32::from(register.width()),
    );
    register.table == span.table
        && start >= u32::from(span.start)
        && end <= u32::from(span.start) + u32::from(span.count)
}

/// The points of a device whose registers are in a span.
fn points_in(device: &Device, span: RegisterRange) -> impl Iterator<Item = BlockPoint> {
    device
        .points
        .iter()
        .filter_map(move |point| match &point.source {
            PointSource::Register { register, exponent } if is_in(register, span) => {
                let exponent = exponent.clone().filter(|exponent| is_in(exponent, span));
                Some(BlockPoint {
                    id: point.id,
                    register: Arc::clone(register),
                    exponent,
                    field: 0,
                })
            }
            _ => None,
        })
}

/// The names of the points of a device that a span holds.
pub fn names(device: &Device, span: RegisterRange) -> Vec<Arc<str>> {
    let inside: Vec<_> = points_in(device, span).map(|point| point.id).collect();
    device
        .points
        .iter()
        .filter(|point| inside.contains(&point.id))
        .map(|point| Arc::clone(&point.name))
        .collect()
}

/// The values of the points, if the range holds `words`.
pub fn values(device: &Device, span: RegisterRange, words: &[u16]) -> Values {
    let RegisterRange {
        table,
        start,
        count,
    } = span;
    let points = points_in(device, span).collect();
    Block {
        device: 0,
        unit: device.unit,
        table,
        start,
        count,
        every: std::time::Duration::MAX,
        points,
    }
    .decode(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtu(body: &[u8]) -> Vec<u8> {
        [body, &checksum(body)].concat()
    }

    fn check(framing: Framing, sent: &[u8], received: &[u8], expected: Option<&[u16]>) {
        let request = Frame::of_request(framing, sent).unwrap();
        let answer = Frame::of_answer(framing, &request, sent, received);
        assert_eq!(
            answer
                .and_then(|answer| request.brought(&answer))
                .as_deref(),
            expected,
            "{received:02x?}"
        );
    }

    #[test]
    fn answers_are_found_among_echoes_noise_and_other_frames() {
        let (sent, answer) = (
            rtu(&[7, 3, 0, 10, 0, 2]),
            rtu(&[7, 3, 4, 0x67, 0x66, 0x43, 0x65]),
        );
        let expected = Some(&[0x6766, 0x4365][..]);
        check(Framing::Rtu, &sent, &answer, expected);
        check(
            Framing::Rtu,
            &sent,
            &[&sent[..], &answer].concat(),
            expected,
        );
        check(
            Framing::Rtu,
            &sent,
            &[&[0xFF, 0x00][..], &rtu(&[9, 3, 2, 0, 1]), &answer].concat(),
            expected,
        );
        check(Framing::Rtu, &sent, &answer[..8], None);
        check(Framing::Rtu, &sent, &[], None);
        check(Framing::Rtu, &sent, &sent, None);
        let sent = [0, 1, 0, 0, 0, 6, 1, 1, 0, 3, 0, 10];
        check(
            Framing::Tcp,
            &sent,
            &[0, 1, 0, 0, 0, 5, 1, 1, 2, 0b101, 0b10],
            Some(&[1, 0, 1, 0, 0, 0, 0, 0, 0, 1]),
        );
        check(Framing::Tcp, &sent, &[0, 1, 0, 0, 0, 5, 1, 1, 2], None);
        check(
            Framing::Ascii,
            b":010300000001FB\r\n",
            b"noise:0103020007F3\r\n",
            Some(&[7]),
        );
    }

    #[test]
    fn requests_are_taken_apart_and_no_bytes_make_it_fail() {
        let asked = |body: &[u8]| Frame::of(body).unwrap().asked();
        let span = |table, start, count| RegisterRange {
            table,
            start,
            count,
        };
        assert_eq!(
            asked(&[1, 16, 0, 1, 0, 2, 4, 0, 5, 0, 6]),
            Asked::Write(span(Table::Holding, 1, 2), vec![5, 6])
        );
        assert_eq!(
            asked(&[1, 15, 0, 1, 0, 3, 1, 0b101]),
            Asked::Write(span(Table::Coil, 1, 3), vec![1, 0, 1])
        );
        assert_eq!(
            asked(&[1, 5, 0, 1, 0xFF, 0]),
            Asked::Write(span(Table::Coil, 1, 1), vec![1])
        );
        assert_eq!(
            asked(&[1, 22, 0, 4, 0, 0xF2, 0, 0x25]),
            Asked::Mask {
                address: 4,
                and: 0xF2,
                or: 0x25
            }
        );
        assert_eq!(
            asked(&[1, 20, 7, 6, 0, 4, 0, 1, 0, 2]),
            Asked::Read(span(Table::File(4), 1, 2))
        );
        assert_eq!(asked(&[1, 43, 14, 1, 0]), Asked::Identity);
        assert_eq!(Frame::of(&[1, 0x83, 2]).unwrap().exception(), Some(2));
        for function in 0..=255 {
            for length in 0..12 {
                let frame = Frame {
                    unit: 1,
                    function,
                    data: vec![0xFF; length],
                };
                let _ = (frame.asked(), frame.brought(&frame), frame.exception());
                for framing in [Framing::Rtu, Framing::Tcp, Framing::Ascii, Framing::Plain] {
                    let _ = Frame::of_answer(framing, &frame, &[], &frame.data);
                }
            }
        }
    }
}
