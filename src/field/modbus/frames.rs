//! Which bytes of an RTU wire answer the outstanding request. Pure.
//!
//! RTU frames carry no transaction number: an answer that comes late looks like the answer to the
//! next question. Here the outstanding request is known, and only a frame of its unit and function,
//! of the expected length, with a right checksum counts.
//!
//! Invariants:
//! * What was in the line before a request never answers it.
//! * A request that the adapter hears itself never answers it, even where answer and request are
//!   the same bytes.

use std::time::{Duration, Instant};

use super::manners::Accept;
use crate::field::trouble::Came;

const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_MODBUS);
/// The function that reads records of files.
pub(super) const READ_FILE: u8 = 20;
/// Longest RTU frame.
pub(super) const MAX_FRAME: usize = 256;
/// The time after which an owed answer is not expected any longer.
const OWED_FOR: Duration = Duration::from_secs(60);
const MOST_OWED: usize = 16;

/// The checksum of an RTU frame, as its last two bytes.
pub(super) fn checksum(bytes: &[u8]) -> [u8; 2] {
    CRC.checksum(bytes).to_le_bytes()
}

/// The form of an answer behind unit and function.
#[derive(Debug, Clone, PartialEq, Eq)]
enum AnswerShape {
    /// A byte count of this value, and the data.
    Counted(u8),
    /// These bytes, which the request has, too.
    Same(Vec<u8>),
    /// A byte count that the device chooses.
    AnyCount,
    /// Objects with their lengths (function 43).
    Objects,
    /// This many records of a file, in one group (function 20).
    Records(u8),
}

/// The frame that would answer a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    unit: u8,
    function: u8,
    shape: AnswerShape,
    /// Whatever unit the answer names.
    any_unit: bool,
}

/// The frame at the front of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameFront {
    /// A whole right frame of this length.
    Right(usize),
    /// A frame whose length is known and that is whole, with a wrong checksum.
    BadChecksum,
    /// Nothing yet, or nothing at all.
    Nothing,
}

impl Expected {
    /// Of a request with its checksum; `None` for a broadcast, which has no answer, and for
    /// functions not used here.
    fn of(request: &[u8]) -> Option<Self> {
        Self::of_any(request).filter(|expected| expected.unit != 0)
    }

    /// The same on a wire without broadcasts; the last two bytes are ignored.
    pub(super) fn of_any(request: &[u8]) -> Option<Self> {
        let any_unit = false;
        let [unit, function, third, fourth, high, low, ..] = *request else {
            // Report server id has no data at all.
            let [unit, 17, _, _] = *request else {
                return None;
            };
            return Some(Self {
                unit,
                function: 17,
                shape: AnswerShape::AnyCount,
                any_unit,
            });
        };
        let count = u16::from_be_bytes([high, low]);
        let shape = match function {
            1 | 2 => AnswerShape::Counted(u8::try_from(count.div_ceil(8)).ok()?),
            3 | 4 | 23 => AnswerShape::Counted(u8::try_from(count.checked_mul(2)?).ok()?),
            5 | 6 | 15 | 16 => AnswerShape::Same(vec![third, fourth, high, low]),
            22 => AnswerShape::Same(request.get(2..8)?.to_vec()),
            43 => AnswerShape::Objects,
            READ_FILE => {
                let count = request
                    .get(8..)
                    .and_then(|rest| rest.first_chunk::<2>())
                    .map(|count| u16::from_be_bytes(*count))?;
                AnswerShape::Records(u8::try_from(count).ok().filter(|count| *count <= 124)?)
            }
            _ => return None,
        };
        Some(Self {
            unit,
            function,
            shape,
            any_unit,
        })
    }

    /// The same, whatever unit the answer names.
    pub(super) fn accepting(self, accept: Accept) -> Self {
        Self {
            any_unit: accept.any_unit,
            ..self
        }
    }

    /// True if a frame without a checksum answers the request.
    pub(super) fn is_answered_by(&self, body: &[u8]) -> bool {
        self.length_at(body) == Some(body.len() + 2)
    }

    /// The length of the frame that begins here, if it is of this unit, function and shape; `None`
    /// if it is not, or too short to tell.
    fn length_at(&self, bytes: &[u8]) -> Option<usize> {
        let [unit, function, data @ ..] = bytes else {
            return None;
        };
        if *unit != self.unit && !self.any_unit {
            return None;
        }
        if *function == self.function | 0x80 {
            return Some(5);
        }
        if *function != self.function {
            return None;
        }
        match &self.shape {
            AnswerShape::Counted(count) => {
                (data.first()? == count).then(|| 5 + usize::from(*count))
            }
            AnswerShape::Same(same) => {
                (data.get(..same.len())? == same.as_slice()).then(|| 4 + same.len())
            }
            AnswerShape::AnyCount => Some(5 + usize::from(*data.first()?)),
            AnswerShape::Objects => objects(bytes),
            AnswerShape::Records(count) => (data.get(..3)? == [2 + 2 * count, 1 + 2 * count, 6])
                .then(|| 7 + 2 * usize::from(*count)),
        }
    }

    fn front(&self, bytes: &[u8]) -> FrameFront {
        let Some(length) = self.length_at(bytes) else {
            return FrameFront::Nothing;
        };
        let Some((body, crc)) = bytes.get(..length).and_then(<[u8]>::split_last_chunk::<2>) else {
            return FrameFront::Nothing;
        };
        if checksum(body) == *crc {
            FrameFront::Right(length)
        } else {
            FrameFront::BadChecksum
        }
    }
}

/// An answer under the unit that was asked: the codec looks at it.
fn as_asked(mut frame: Vec<u8>, unit: u8) -> Vec<u8> {
    if frame.first().is_some_and(|first| *first != unit) {
        frame.truncate(frame.len().saturating_sub(2));
        frame.iter_mut().take(1).for_each(|first| *first = unit);
        frame.extend(checksum(&frame));
    }
    frame
}

/// The length of an answer of function 43/14 [Modbus application protocol 1.1b3, 6.21].
fn objects(bytes: &[u8]) -> Option<usize> {
    let count = *bytes.get(7)?;
    (*bytes.get(2)? == 14).then_some(())?;
    let mut at = 8;
    for _ in 0..count {
        at += 2 + usize::from(*bytes.get(at + 1)?);
    }
    (at + 2 <= MAX_FRAME).then_some(at + 2)
}

/// Whether the wire brings back what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Echo {
    /// No read has been answered yet.
    #[default]
    Unknown,
    /// It does.
    Heard,
    /// It does not.
    Silent,
}

/// Counters of the frames and bytes on the wire since the last look.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// Frames of expected form with a wrong checksum.
    pub(super) bad_checksums: u64,
    /// Late answers, dropped.
    pub(super) stale: u64,
    /// Right frames that answer nothing we asked.
    pub(super) foreign: u64,
    /// Own requests that came back.
    pub(super) echoes: u64,
    /// Bytes that were no part of a right frame.
    pub(super) junk: u64,
    /// Right frames of other units, and of which one the last was.
    pub(super) other_units: u64,
    pub(super) unit: u8,
    /// Right frames of the asked unit to another function.
    pub(super) other_functions: u64,
    /// Right frames of another length, or that confirm another address.
    pub(super) other_lengths: u64,
    /// Frames with transaction identifiers that were never given (TCP).
    pub(super) other_transactions: u64,
    /// Answers that broke off.
    pub(super) incomplete: u64,
}

impl From<Seen> for Came {
    fn from(seen: Seen) -> Self {
        Self {
            bad_checksums: seen.bad_checksums,
            other_transactions: seen.other_transactions,
            other_units: seen.other_units,
            unit: seen.unit,
            other_functions: seen.other_functions,
            other_lengths: seen.other_lengths,
            incomplete: seen.incomplete,
            echoes: seen.echoes,
            junk: seen.junk,
            ..Self::default()
        }
    }
}

/// An answer that came after its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Late {
    /// The unit that answered.
    pub(super) unit: u8,
    /// From the end of the request on.
    pub(super) after: Duration,
}

#[derive(Debug, Clone)]
struct Owed {
    expected: Expected,
    sent: Instant,
}

/// Finds answers in what comes in.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    expected: Option<Expected>,
    sent: Option<Instant>,
    /// The request, while the wire may still bring it back.
    request: Vec<u8>,
    echo: Echo,
    incoming: Vec<u8>,
    owed: Vec<Owed>,
    late: Vec<Late>,
    /// A frame of the expected form has a wrong checksum.
    is_suspect: bool,
    /// Why a right frame of the asked unit was not taken.
    rejected: Option<&'static str>,
    accept: Accept,
    pub(super) seen: Seen,
}

impl Receiver {
    /// One that compares less.
    pub(super) fn accepting(accept: Accept) -> Self {
        Self {
            accept,
            ..Self::default()
        }
    }

    /// Begins a request. What the last one did not get is owed.
    pub(super) fn ask(&mut self, request: &[u8], sent: Instant) {
        self.give_up(sent);
        self.discard(sent);
        self.expected = Expected::of(request).map(|expected| expected.accepting(self.accept));
        self.sent = Some(sent);
        self.request = request.to_vec();
        self.is_suspect = false;
        self.rejected = None;
    }

    /// The outstanding request is waited for no longer; its answer may still come.
    pub(super) fn give_up(&mut self, now: Instant) {
        if let (Some(expected), Some(sent)) = (self.expected.take(), self.sent) {
            self.owed
                .retain(|owed| now.saturating_duration_since(owed.sent) < OWED_FOR);
            if self.owed.len() == MOST_OWED {
                self.owed.remove(0);
            }
            self.owed.push(Owed { expected, sent });
        }
    }

    /// Looks at what has come of an answer whose time is over. Its beginning stays, for the rest
    /// may be late.
    pub(super) fn broken_off(&mut self, now: Instant) {
        let Some(owed) = self.owed.last() else { return };
        if self
            .incoming
            .starts_with(&[owed.expected.unit, owed.expected.function])
        {
            self.seen.incomplete += 1;
        } else {
            self.discard(now);
        }
    }

    /// Looks what lies in the buffer for late answers, and throws it away.
    pub(super) fn discard(&mut self, now: Instant) {
        while !self.incoming.is_empty() {
            match self.late_at(0) {
                Some((index, length)) => self.note_late(index, length, now),
                None => {
                    self.incoming.remove(0);
                    self.seen.junk += 1;
                }
            }
        }
    }

    /// Takes what came in; gives the answer if it is complete.
    pub(super) fn push(&mut self, bytes: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.incoming.extend_from_slice(bytes);
        let Some(expected) = self.expected.clone() else {
            if self.incoming.len() > 4 * MAX_FRAME {
                self.discard(now);
            }
            return None;
        };
        if self.waits_for_echo(&expected) {
            return None;
        }
        self.is_suspect = false;
        let mut at = 0;
        while at < self.incoming.len() {
            match expected.front(self.incoming.get(at..).unwrap_or_default()) {
                FrameFront::Right(length) => {
                    let frame: Vec<u8> = self.incoming.drain(..at + length).skip(at).collect();
                    self.seen.junk += at as u64;
                    self.answered(&expected);
                    return Some(as_asked(frame, expected.unit));
                }
                // Only where an answer would begin: inside one that is still coming, values can
                // look like the head of another.
                FrameFront::BadChecksum => self.is_suspect |= at == 0,
                FrameFront::Nothing => {}
            }
            if let Some((index, length)) = self.late_at(at) {
                let junk = at as u64;
                self.incoming.drain(..at);
                self.seen.junk += junk;
                self.note_late(index, length, now);
                at = 0;
                continue;
            }
            self.note_rejected(&expected, at);
            at += 1;
        }
        if self.incoming.len() > 4 * MAX_FRAME {
            // A line that babbles: only the newest frame's worth can still become an answer.
            let old = self.incoming.len() - MAX_FRAME;
            self.incoming.drain(..old);
            self.seen.junk += old as u64;
        }
        None
    }

    /// Takes the copy of the request out. True while it may still be on its way, and nothing that
    /// comes can be trusted.
    fn waits_for_echo(&mut self, expected: &Expected) -> bool {
        let looks_right = matches!(expected.front(&self.request), FrameFront::Right(_));
        if self.request.is_empty() || (looks_right && self.echo == Echo::Silent) {
            return false;
        }
        let found = self
            .incoming
            .windows(self.request.len())
            .position(|window| window == self.request);
        if let Some(at) = found {
            self.incoming.drain(..at + self.request.len());
            self.request.clear();
            self.seen.junk += at as u64;
            self.seen.echoes += 1;
            self.echo = Echo::Heard;
            return false;
        }
        // A copy that may still come looks like the answer only to some requests; those wait for
        // it.
        looks_right || self.request.starts_with(&self.incoming)
    }

    /// A read was answered: whether its echo came before it is known for the writes to come.
    fn answered(&mut self, expected: &Expected) {
        if self.echo == Echo::Unknown {
            self.echo = if self.request.is_empty() {
                Echo::Heard
            } else {
                Echo::Silent
            };
        }
        self.expected = None;
        self.is_suspect = false;
        self.incoming.clear();
        // Slaves answer in order: answers that they owed before are past.
        let (unit, accept) = (expected.unit, self.accept);
        self.owed
            .retain(|owed| owed.expected.unit != unit && !accept.any_unit);
    }

    fn late_at(&self, at: usize) -> Option<(usize, usize)> {
        let bytes = self.incoming.get(at..)?;
        self.owed
            .iter()
            .enumerate()
            .find_map(|(index, owed)| match owed.expected.front(bytes) {
                FrameFront::Right(length) => Some((index, length)),
                _ => None,
            })
    }

    fn note_late(&mut self, index: usize, length: usize, now: Instant) {
        let owed = self.owed.remove(index);
        self.late.push(Late {
            unit: owed.expected.unit,
            after: now.saturating_duration_since(owed.sent),
        });
        self.seen.stale += 1;
        self.incoming.drain(..length.min(self.incoming.len()));
    }

    /// The reason why a right frame of the requested unit is no answer.
    fn note_rejected(&mut self, expected: &Expected, at: usize) {
        let Some(bytes) = self.incoming.get(at..) else {
            return;
        };
        let [unit, function, third, ..] = *bytes else {
            return;
        };
        let length = match function {
            1..=4 | READ_FILE | 23 => 5 + usize::from(third),
            5 | 6 | 15 | 16 => 8,
            0x81..=0x97 => 5,
            _ => return,
        };
        let Some((body, crc)) = bytes.get(..length).and_then(<[u8]>::split_last_chunk::<2>) else {
            return;
        };
        if self.rejected.is_some() || checksum(body) != *crc {
            return;
        }
        self.seen.foreign += 1;
        let (what, count) = match (unit == expected.unit, function & 0x7F == expected.function) {
            (false, _) => (
                "received an answer of another unit",
                &mut self.seen.other_units,
            ),
            (true, false) => (
                "received an answer with another function code",
                &mut self.seen.other_functions,
            ),
            (true, true) => (
                "received an answer with another length or address",
                &mut self.seen.other_lengths,
            ),
        };
        *count += 1;
        self.seen.unit = unit;
        self.rejected = Some(what);
    }

    /// True if a frame would be the answer but for its checksum.
    pub(super) fn is_suspect(&self) -> bool {
        self.is_suspect
    }

    /// The frame under suspicion stays wrong.
    pub(super) fn condemn(&mut self, now: Instant) {
        self.seen.bad_checksums += 1;
        self.seen.junk += self.incoming.len() as u64;
        self.incoming.clear();
        self.is_suspect = false;
        // It may have been noise that looked like it: the answer is owed.
        self.give_up(now);
        self.discard(now);
    }

    /// Why the outstanding request has no answer although something came.
    pub(super) fn rejected(&self) -> Option<&'static str> {
        self.rejected
    }

    pub(super) fn echo(&self) -> Echo {
        self.echo
    }

    /// The answers that came after their time since this was asked last.
    pub(super) fn take_late(&mut self) -> Vec<Late> {
        std::mem::take(&mut self.late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(body: &[u8]) -> Vec<u8> {
        [body, &checksum(body)].concat()
    }

    fn answer(unit: u8, function: u8, values: &[u16]) -> Vec<u8> {
        let mut body = vec![unit, function, u8::try_from(values.len() * 2).unwrap()];
        body.extend(values.iter().flat_map(|value| value.to_be_bytes()));
        framed(&body)
    }

    fn read(unit: u8, count: u8) -> Vec<u8> {
        framed(&[unit, 3, 0, 0, 0, count])
    }

    /// Asks unit 1 for two registers, with `before` in the line already.
    fn check(name: &str, before: &[u8], pieces: &[Vec<u8>], expected: Option<Vec<u8>>) {
        let now = crate::time::now();
        let mut receiver = Receiver::default();
        receiver.push(before, now);
        receiver.ask(&read(1, 2), now);
        let found = pieces.iter().find_map(|piece| receiver.push(piece, now));
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn only_the_answer_to_the_question_is_let_through() {
        let good = answer(1, 3, &[10, 20]);
        let right = || Some(good.clone());
        check("plain", b"", std::slice::from_ref(&good), right());
        check(
            "late answer of another length in the buffer",
            &answer(1, 3, &[7]),
            std::slice::from_ref(&good),
            right(),
        );
        check(
            "late answer of the same length in the buffer",
            &answer(1, 3, &[7, 8]),
            std::slice::from_ref(&good),
            right(),
        );
        check(
            "late answer arriving first",
            b"",
            &[answer(1, 3, &[7, 8, 9]), good.clone()],
            right(),
        );
        check(
            "foreign unit",
            b"",
            &[answer(2, 3, &[7, 8]), good.clone()],
            right(),
        );
        check(
            "foreign function",
            b"",
            &[answer(1, 4, &[7, 8]), good.clone()],
            right(),
        );
        check(
            "noise before",
            b"",
            &[vec![0, 255, 3, 1, 1], good.clone()],
            right(),
        );
        check("own echo", b"", &[read(1, 2), good.clone()], right());
        check(
            "in single bytes",
            b"",
            &good.iter().map(|byte| vec![*byte]).collect::<Vec<_>>(),
            right(),
        );
        check(
            "zeros after it",
            b"",
            &[[&good[..], &[0, 0]].concat()],
            right(),
        );
        check("truncated", b"", &[good[..6].to_vec()], None);
        check("one register short", b"", &[answer(1, 3, &[10])], None);
        let mut flipped = good.clone();
        flipped[4] ^= 1;
        check("bit flip", b"", &[flipped], None);
        check(
            "exception",
            b"",
            &[framed(&[1, 0x83, 2])],
            Some(framed(&[1, 0x83, 2])),
        );
        check("noise only", b"", &[vec![0xAA; 2000]], None);
        check(
            "noise, then the answer",
            b"",
            &[vec![0xAA; 2000], good.clone()],
            right(),
        );
    }

    #[test]
    fn every_function_knows_the_form_of_its_answer() {
        let now = crate::time::now();
        let ask = |request: &[u8], right: &[u8], wrong: &[u8]| {
            let mut receiver = Receiver {
                echo: Echo::Silent,
                ..Receiver::default()
            };
            receiver.ask(&framed(request), now);
            assert_eq!(
                receiver.push(&framed(wrong), now),
                None,
                "{request:?}: {wrong:?}"
            );
            assert_eq!(
                receiver.push(&framed(right), now),
                Some(framed(right)),
                "{request:?}: {right:?}"
            );
        };
        ask(&[1, 1, 0, 0, 0, 9], &[1, 1, 2, 5, 1], &[1, 1, 1, 5]);
        ask(
            &[1, 6, 0, 1, 0, 2],
            &[1, 6, 0, 1, 0, 2],
            &[1, 6, 0, 2, 0, 2],
        );
        ask(
            &[1, 16, 0, 1, 0, 2, 4, 0, 1, 0, 2],
            &[1, 16, 0, 1, 0, 2],
            &[1, 16, 0, 1, 0, 1],
        );
        ask(
            &[1, 22, 0, 4, 0, 0xF2, 0, 0x25],
            &[1, 22, 0, 4, 0, 0xF2, 0, 0x25],
            &[1, 22, 0, 4, 0, 0xF2, 0, 0x26],
        );
        ask(
            &[1, 23, 0, 0, 0, 1, 0, 5, 0, 1, 2, 0, 9],
            &[1, 23, 2, 0, 7],
            &[1, 23, 4, 0, 7, 0, 7],
        );
        ask(
            &[1, 20, 7, 6, 0, 4, 0, 1, 0, 2],
            &[1, 20, 6, 5, 6, 0, 7, 0, 8],
            &[1, 20, 4, 3, 6, 0, 7],
        );
        ask(&[1, 17], &[1, 17, 3, 9, 0xFF, 1], &[2, 17, 3, 9, 0xFF, 1]);
        let objects = [1, 43, 14, 1, 1, 0, 0, 2, 0, 3, b'A', b'c', b'e', 1, 1, b'7'];
        ask(&[1, 43, 14, 1, 0], &objects, &[1, 0xAC, 14]);
    }

    #[test]
    fn a_late_answer_is_recognised_and_measured() {
        let now = crate::time::now();
        let later = now + Duration::from_millis(180);
        let mut receiver = Receiver::default();
        receiver.ask(&read(1, 2), now);
        receiver.ask(&read(2, 2), now + Duration::from_millis(150));
        let both = [answer(1, 3, &[7, 8]), answer(2, 3, &[9, 9])].concat();
        assert_eq!(receiver.push(&both, later), Some(answer(2, 3, &[9, 9])));
        assert_eq!(
            receiver.take_late(),
            [Late {
                unit: 1,
                after: Duration::from_millis(180)
            }]
        );
        assert_eq!((receiver.seen.stale, receiver.seen.junk), (1, 0));
    }

    #[test]
    fn an_echo_is_never_success() {
        let now = crate::time::now();
        let write = framed(&[1, 6, 0, 1, 0, 2]);
        let mut receiver = Receiver::default();
        receiver.ask(&read(1, 2), now);
        assert_eq!(
            receiver.push(&[read(1, 2), answer(1, 3, &[1, 2])].concat(), now),
            Some(answer(1, 3, &[1, 2]))
        );
        assert_eq!(receiver.echo(), Echo::Heard);
        receiver.ask(&write, now);
        assert_eq!(receiver.push(&write, now), None, "the echo alone");
        assert_eq!(
            receiver.push(&write, now),
            Some(write.clone()),
            "echo and answer"
        );
        let mut quiet = Receiver::default();
        quiet.ask(&read(1, 2), now);
        quiet.push(&answer(1, 3, &[1, 2]), now);
        assert_eq!(quiet.echo(), Echo::Silent);
        quiet.ask(&write, now);
        assert_eq!(quiet.push(&write, now), Some(write));
    }

    #[test]
    fn a_request_that_is_a_right_answer_to_itself_is_an_echo() {
        let now = crate::time::now();
        let request = framed(&[1, 1, 3, 0, 0, 17]);
        assert!(matches!(
            Expected::of(&request).unwrap().front(&request),
            FrameFront::Right(8)
        ));
        let mut receiver = Receiver::default();
        receiver.ask(&request, now);
        let right = framed(&[1, 1, 3, 1, 2, 3]);
        assert_eq!(
            receiver.push(&[request, right.clone()].concat(), now),
            Some(right)
        );
    }

    #[test]
    fn a_whole_frame_with_a_wrong_checksum_is_suspect() {
        let now = crate::time::now();
        let mut receiver = Receiver::default();
        receiver.ask(&read(1, 2), now);
        let mut flipped = answer(1, 3, &[10, 20]);
        flipped[4] ^= 1;
        receiver.push(&flipped[..6], now);
        assert!(!receiver.is_suspect(), "not whole");
        receiver.push(&flipped[6..], now);
        assert!(receiver.is_suspect());
        assert_eq!(
            receiver.push(&answer(1, 3, &[10, 20]), now),
            Some(answer(1, 3, &[10, 20])),
            "noise that looked like it"
        );
        receiver.ask(&read(1, 2), now);
        receiver.push(&flipped, now);
        receiver.condemn(now);
        assert_eq!(receiver.seen.bad_checksums, 1);
    }

    proptest::proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        /// Whatever is on the line, what is taken is of the asked unit and function, as long as
        /// asked for, with a right checksum.
        #[test]
        fn nothing_but_an_answer_is_ever_taken(
            before in proptest::collection::vec(piece(), 0..4),
            after in proptest::collection::vec(piece(), 0..8),
            cut in 1_usize..9,
        ) {
            let now = crate::time::now();
            let mut receiver = Receiver::default();
            receiver.ask(&read(1, 3), now);
            receiver.push(&before.concat(), now);
            receiver.ask(&read(1, 2), now);
            let found = after.concat().chunks(cut).find_map(|bytes| receiver.push(bytes, now));
            if let Some(frame) = found {
                let is_answer = frame.len() == 9 && frame[..3] == [1, 3, 4];
                proptest::prop_assert!((is_answer || frame.len() == 5 && frame[..2] == [1, 0x83]) && checksum(&frame[..frame.len() - 2]) == frame[frame.len() - 2..]);
                proptest::prop_assert!(!is_answer || after.concat().windows(9).any(|window| window == frame));
            }
        }
    }

    /// Answers of several kinds, noise, and parts of both.
    fn piece() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
        use proptest::prelude::*;
        prop_oneof![
            (1_u8..3, 3_u8..5, prop::collection::vec(any::<u16>(), 1..4))
                .prop_map(|(unit, function, values)| answer(unit, function, &values)),
            (
                1_u8..3,
                3_u8..5,
                prop::collection::vec(any::<u16>(), 1..4),
                0_usize..9
            )
                .prop_map(|(unit, function, values, length)| {
                    let mut frame = answer(unit, function, &values);
                    frame.truncate(length);
                    frame
                }),
            prop::collection::vec(any::<u8>(), 0..12),
            Just(read(1, 2)),
            Just(framed(&[1, 0x83, 2])),
        ]
    }

    #[test]
    fn values_that_look_like_the_head_of_a_frame_are_no_reason_to_end_early() {
        let now = crate::time::now();
        let mut receiver = Receiver::default();
        receiver.ask(&read(1, 20), now);
        let mut values = vec![0; 20];
        values[3] = 0x0183;
        values[7] = 0x0103;
        let good = answer(1, 3, &values);
        for cut in 1..good.len() {
            let mut receiver = Receiver::default();
            receiver.ask(&read(1, 20), now);
            assert_eq!(receiver.push(&good[..cut], now), None);
            assert!(!receiver.is_suspect(), "after {cut} bytes");
            assert_eq!(receiver.push(&good[cut..], now), Some(good.clone()));
        }
    }

    #[test]
    fn an_answer_under_another_unit_counts_where_that_is_accepted() {
        let now = crate::time::now();
        let mut receiver = Receiver::accepting(Accept {
            any_unit: true,
            any_transaction: false,
        });
        receiver.ask(&read(1, 2), now);
        assert_eq!(
            receiver.push(&answer(9, 3, &[7]), now),
            None,
            "another length"
        );
        assert_eq!(
            receiver.push(&answer(9, 3, &[7, 8]), now),
            Some(answer(1, 3, &[7, 8]))
        );
        let mut strict = Receiver::default();
        strict.ask(&read(1, 2), now);
        assert_eq!(strict.push(&answer(9, 3, &[7, 8]), now), None);
    }

    #[test]
    fn what_came_instead_is_told() {
        let now = crate::time::now();
        let mut receiver = Receiver::default();
        receiver.ask(&read(1, 2), now);
        receiver.push(&answer(1, 3, &[1, 2, 3]), now);
        assert_eq!(
            receiver.rejected(),
            Some("received an answer with another length or address")
        );
    }
}
