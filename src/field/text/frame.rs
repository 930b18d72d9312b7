//! Where a message of an instrument begins and ends. Pure.
//!
//! Invariants:
//! * What is no message is dropped from its beginning on, byte by byte, until one fits: the stream
//!   finds its way again after noise.
//! * A message is never longer than `max`; what grows beyond is dropped.

use std::time::Duration;

use serde::{Deserialize, de};

use super::bytes::Bytes;
use crate::units::Span;

/// The bounds of messages in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageFraming {
    /// Every message begins with these bytes.
    pub start: Option<Bytes>,
    /// Every message ends with these bytes.
    pub end: Option<Bytes>,
    /// Bytes behind the end that belong to the message.
    pub with_end: WithEnd,
    /// The message says how long it is.
    pub length: Option<Length>,
    /// Silence ends a message.
    pub silence: Option<Span>,
    /// Longest message, in bytes.
    pub max: usize,
}

/// Bytes behind the end of a message that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WithEnd {
    /// So many bytes.
    Count(usize),
    /// As many bytes as the checksum has; none without one.
    Checksum,
    /// Everything up to these bytes.
    UpTo(Vec<u8>),
}

impl<'de> Deserialize<'de> for WithEnd {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let count = value
            .as_u64()
            .and_then(|count| usize::try_from(count).ok())
            .filter(|count| *count <= MOST);
        if let Some(count) = count {
            return Ok(Self::Count(count));
        }
        if value.as_str() == Some("checksum") {
            return Ok(Self::Checksum);
        }
        let bytes = serde_json::from_value::<Bytes>(value.clone())
            .ok()
            .map(|Bytes(bytes)| bytes)
            .filter(|bytes| !bytes.is_empty());
        bytes.map(Self::UpTo).ok_or_else(|| {
            de::Error::custom(format!(
                "{value} is not possible here; type how many bytes, the bytes up to which it goes such as '\\n', or `checksum`"
            ))
        })
    }
}

/// Where a message says how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Length {
    /// First byte of the length, from the beginning of the message.
    pub at: usize,
    /// Bytes of the length, most significant first: 1 or 2.
    #[serde(default = "one")]
    pub size: usize,
    /// Added to the number to get the length of the whole message.
    #[serde(default)]
    pub add: usize,
}

/// The longest message, unless the instrument says otherwise.
pub const LONGEST: usize = 4096;
/// No message may be longer.
const MOST: usize = 65_536;

fn one() -> usize {
    1
}

impl Default for MessageFraming {
    fn default() -> Self {
        let end = Some(Bytes(b"\n".to_vec()));
        Self {
            start: None,
            end,
            with_end: WithEnd::Count(0),
            length: None,
            silence: None,
            max: LONGEST,
        }
    }
}

impl MessageFraming {
    /// Checks for contradictions; the error names the remedy.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.end.is_none() && self.length.is_none() && self.silence.is_none() {
            return Err("a message needs an end: write end, length or silence");
        }
        if self.end.is_some() && self.length.is_some() {
            return Err("a message ends by `end` or by `length`; keep one");
        }
        if self
            .length
            .is_some_and(|length| !matches!(length.size, 1 | 2))
        {
            return Err("the size of a length is 1 or 2 bytes");
        }
        if self.max == 0 || self.max > MOST {
            return Err("a message has 1 to 65536 bytes");
        }
        if [&self.start, &self.end]
            .into_iter()
            .flatten()
            .any(|bytes| bytes.0.is_empty())
        {
            return Err("start and end have at least one byte");
        }
        Ok(())
    }

    /// The silence after which what came is a message.
    pub fn silence(&self) -> Option<Duration> {
        self.silence.map(|span| span.0)
    }
}

/// The stream of one instrument.
#[derive(Debug)]
pub(super) struct Framer {
    framing: MessageFraming,
    pending: Vec<u8>,
    /// Bytes that belonged to no message.
    pub(super) junk: u64,
}

/// The message at the front of the received bytes.
enum MessageFront {
    Whole(usize),
    Unfinished,
    None,
}

impl Framer {
    pub(super) fn new(framing: MessageFraming) -> Self {
        Self {
            framing,
            pending: Vec::new(),
            junk: 0,
        }
    }

    /// Forgets what was begun.
    pub(super) fn clear(&mut self) {
        self.junk += self.pending.len() as u64;
        self.pending.clear();
    }

    /// Takes received bytes; drops the oldest beyond the limit.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        let most = 2 * self.framing.max.max(512);
        if self.pending.len() > 2 * most {
            let old = self.pending.len() - most;
            self.pending.drain(..old);
            self.junk += old as u64;
        }
    }

    /// The next whole message.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            self.seek_start();
            match self.front(0) {
                MessageFront::Whole(length) => return Some(self.pending.drain(..length).collect()),
                MessageFront::Unfinished if self.pending.len() <= self.framing.max => return None,
                MessageFront::Unfinished | MessageFront::None => {
                    self.junk += 1;
                    self.pending.remove(0);
                }
            }
        }
    }

    /// A right message behind a beginning that may be none: what looks like a start inside a
    /// damaged message must not swallow the next one.
    pub(super) fn ahead(&mut self, is_right: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let Bytes(start) = self.framing.start.as_ref()?;
        let starts = (1..self.pending.len()).filter(|at| {
            self.pending
                .get(*at..)
                .is_some_and(|rest| rest.starts_with(start))
        });
        let found = starts.into_iter().find_map(|at| match self.front(at) {
            MessageFront::Whole(length) => self
                .pending
                .get(at..at + length)
                .filter(|message| is_right(message))
                .map(|_| (at, length)),
            _ => None,
        });
        let (at, length) = found?;
        self.junk += at as u64;
        Some(self.pending.drain(..at + length).skip(at).collect())
    }

    /// A message that turned out to be none: it may hold the beginning of a right one.
    pub(super) fn put_back(&mut self, message: &[u8]) {
        self.junk += 1;
        let rest = message.get(1..).unwrap_or_default();
        // Without a start, only the end of this message shows where the next may begin.
        if self.framing.start.is_some() {
            self.pending.splice(..0, rest.iter().copied());
        } else {
            self.junk += rest.len() as u64;
        }
    }

    /// The bytes before a silence, if silence ends messages.
    pub(super) fn silent(&mut self) -> Option<Vec<u8>> {
        self.framing.silence?;
        self.seek_start();
        let whole = std::mem::take(&mut self.pending);
        // A message with another end that did not reach it is incomplete.
        if self.framing.end.is_some() || self.framing.length.is_some() {
            self.junk += whole.len() as u64;
            return None;
        }
        (!whole.is_empty()).then_some(whole)
    }

    pub(super) fn has_begun(&self) -> bool {
        !self.pending.is_empty()
    }

    fn seek_start(&mut self) {
        let Some(Bytes(start)) = &self.framing.start else {
            return;
        };
        let found = self
            .pending
            .windows(start.len())
            .position(|window| window == start.as_slice());
        // The start may be cut at the end of the bytes.
        let keep = found.unwrap_or_else(|| {
            let longest = (0..start.len().min(self.pending.len() + 1))
                .rev()
                .find(|count| {
                    self.pending
                        .ends_with(start.get(..*count).unwrap_or_default())
                });
            self.pending.len() - longest.unwrap_or(0)
        });
        self.junk += keep as u64;
        self.pending.drain(..keep);
    }

    /// The message that begins at a place.
    fn front(&self, from: usize) -> MessageFront {
        let pending = self.pending.get(from..).unwrap_or_default();
        let skip = self.framing.start.as_ref().map_or(0, |start| start.0.len());
        if pending.len() <= skip {
            return MessageFront::Unfinished;
        }
        if let Some(Length { at, size, add }) = self.framing.length {
            let Some(bytes) = pending.get(at..at + size) else {
                return MessageFront::Unfinished;
            };
            let length = bytes
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte))
                + add;
            return match length {
                length if length > self.framing.max || length <= skip => MessageFront::None,
                length if length <= pending.len() => MessageFront::Whole(length),
                _ => MessageFront::Unfinished,
            };
        }
        let Some(Bytes(end)) = &self.framing.end else {
            return MessageFront::Unfinished;
        };
        let behind = pending.get(skip..).unwrap_or_default();
        match behind
            .windows(end.len())
            .position(|window| window == end.as_slice())
        {
            Some(at) => self.with_end(pending, skip + at + end.len()),
            None => MessageFront::Unfinished,
        }
    }

    /// The message that ends before `end`, with the bytes behind that which belong to it.
    fn with_end(&self, pending: &[u8], end: usize) -> MessageFront {
        let length = match &self.framing.with_end {
            WithEnd::Count(count) => Some(end + count).filter(|length| *length <= pending.len()),
            // Resolved before: a framer knows no checksums.
            WithEnd::Checksum => Some(end),
            WithEnd::UpTo(last) => {
                let rest = pending.get(end..).unwrap_or_default();
                rest.windows(last.len().max(1))
                    .position(|window| window == last.as_slice())
                    .map(|at| end + at + last.len())
            }
        };
        match length {
            Some(length) => MessageFront::Whole(length),
            None => MessageFront::Unfinished,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As typed, without what a configuration adds.
    #[derive(Deserialize)]
    struct Typed {
        start: Option<Bytes>,
        end: Option<Bytes>,
        with_end: Option<WithEnd>,
        length: Option<Length>,
        silence: Option<Span>,
        max: Option<usize>,
    }

    fn framing(text: &str) -> MessageFraming {
        let Typed {
            start,
            end,
            with_end,
            length,
            silence,
            max,
        } = serde_yaml::from_str(text).unwrap();
        MessageFraming {
            start,
            end,
            with_end: with_end.unwrap_or(WithEnd::Count(0)),
            length,
            silence,
            max: max.unwrap_or(LONGEST),
        }
    }

    fn framer(text: &str) -> Framer {
        let framing = framing(text);
        framing.check().unwrap();
        Framer::new(framing)
    }

    fn check(framing: &str, stream: &[u8], expected: &[&[u8]]) {
        for piece in [1, 3, stream.len()] {
            let mut framer = framer(framing);
            let mut found = Vec::new();
            for bytes in stream.chunks(piece) {
                framer.push(bytes);
                found.extend(std::iter::from_fn(|| framer.next()));
            }
            assert_eq!(found, expected, "{framing} in pieces of {piece}");
        }
    }

    #[test]
    fn lines_starts_ends_and_lengths() {
        check(
            "{ end: '\\n' }",
            b"12.5 kg\r\n13 kg\r\nrest",
            &[b"12.5 kg\r\n", b"13 kg\r\n"],
        );
        check(
            "{ start: '$', end: '\\r\\n' }",
            b"noise$GP*1\r\n..$GQ*2\r\n",
            &[b"$GP*1\r\n", b"$GQ*2\r\n"],
        );
        check(
            "{ start: '\\x02', end: '\\r', with_end: 1 }",
            b"\x02abc\rX\x02def\rY",
            &[b"\x02abc\rX", b"\x02def\rY"],
        );
        check(
            "{ start: '/', end: '!', with_end: '\\n' }",
            b"/a!12\r\n/b!\r\nx/c!3\n",
            &[b"/a!12\r\n", b"/b!\r\n", b"/c!3\n"],
        );
        check(
            "{ start: { hex: 42 4D }, length: { at: 2, size: 2, add: 4 } }",
            b"B\x42\x4D\x00\x02xy\x42\x4D\x00\x01z",
            &[b"BM\x00\x02xy", b"BM\x00\x01z"],
        );
        check(
            "{ start: { hex: 42 4D }, length: { at: 2, size: 2, add: 4 }, max: 20 }",
            b"BM\xFF\xFFBM\x00\x01z",
            &[b"BM\x00\x01z"],
        );
    }

    #[test]
    fn a_message_that_is_none_may_hold_the_start_of_one() {
        let mut framer = framer("{ start: '$', end: '\\n' }");
        framer.push(b"$bro$good\n$next\n");
        let first = framer.next().unwrap();
        assert_eq!(first, b"$bro$good\n");
        framer.put_back(&first);
        assert_eq!(framer.next().unwrap(), b"$good\n");
        assert_eq!(framer.next().unwrap(), b"$next\n");
    }

    #[test]
    fn a_start_inside_a_damaged_message_does_not_swallow_the_next_one() {
        let mut framer = framer("{ start: 'h', length: { at: 1, size: 1, add: 2 } }");
        // A start with a length that reaches far beyond the right message behind it.
        framer.push(b"h\xF0abch\x02ok");
        assert_eq!(framer.next(), None);
        assert_eq!(
            framer.ahead(|message| message.ends_with(b"ok")),
            Some(b"h\x02ok".to_vec())
        );
        framer.push(b"h\x01x");
        assert_eq!(framer.next(), Some(b"h\x01x".to_vec()));
    }

    #[test]
    fn what_grows_too_long_is_dropped_from_its_beginning() {
        let mut framer = framer("{ end: '\\n', max: 5 }");
        framer.push(b"0123456789");
        assert_eq!(framer.next(), None);
        framer.push(b"\n12\n");
        assert_eq!(framer.next(), Some(b"56789\n".to_vec()));
        assert_eq!(framer.next(), Some(b"12\n".to_vec()));
    }

    #[test]
    fn silence_ends_what_has_no_other_end() {
        let mut framer = framer("{ silence: 20ms }");
        framer.push(b"12.5");
        assert_eq!(
            (framer.next(), framer.silent()),
            (None, Some(b"12.5".to_vec()))
        );
        assert_eq!(framer.silent(), None);
        assert!(framing("{ start: x }").check().unwrap_err().contains("end"));
    }
}
