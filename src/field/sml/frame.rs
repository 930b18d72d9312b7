//! Frames of SML in a stream: escape sequences, padding and checksum [BSI TR-03109-1, annex IV,
//! 4.2]. Pure.
//!
//! Invariants:
//! * No more than [`LONGEST`] bytes are kept, whatever comes.
//! * Only a frame with a right checksum is given out; one that starts anew in the middle of another
//!   ends that.

use crc::{CRC_16_IBM_SDLC, CRC_16_KERMIT, Crc};

/// Longer frames are none of a meter.
const LONGEST: usize = 16 * 1024;
const ESCAPE: [u8; 4] = [0x1B; 4];
const START: [u8; 4] = [0x01; 4];
/// What stands behind an escape sequence at the end of a frame.
const END: u8 = 0x1A;

/// Of the standard.
const X25: Crc<u16> = Crc::<u16>::new(&CRC_16_IBM_SDLC);
/// Of meters that were built before it.
const KERMIT: Crc<u16> = Crc::<u16>::new(&CRC_16_KERMIT);

/// True if a checksum of meters is that of these bytes, in the order in which it is sent.
pub(super) fn is_right(bytes: &[u8], sent: [u8; 2]) -> bool {
    let sums = [X25.checksum(bytes), KERMIT.checksum(bytes)];
    let sent = u16::from_le_bytes(sent);
    sums.iter()
        .any(|sum| *sum == sent || sum.swap_bytes() == sent)
}

/// The checksum of the standard, in the order in which it is sent.
pub(super) fn checksum(bytes: &[u8]) -> [u8; 2] {
    X25.checksum(bytes).to_le_bytes()
}

/// Cuts frames out of a stream.
#[derive(Debug, Default)]
pub struct SmlFramer {
    /// From the start sequence on, or what may become one.
    bytes: Vec<u8>,
    /// Where the search for the end goes on.
    searched: usize,
    /// Bytes that belong to no frame, since this was last taken.
    pub junk: u64,
    /// Frames with a wrong checksum, since this was last taken.
    pub bad_checksums: u64,
}

/// What an escape sequence in a frame is.
enum Escaped {
    /// The frame starts here anew.
    Start,
    /// Four bytes 1B of the data.
    Data,
    /// The end, with the number of padding bytes.
    End(usize),
    /// Nothing that the standard knows.
    Unknown,
}

impl SmlFramer {
    /// Adds what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// True while a frame has begun and not ended.
    pub fn has_begun(&self) -> bool {
        self.bytes.len() >= 8
    }

    /// Forgets what was received.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.searched = 0;
    }

    /// The messages of the next frame with a right checksum that is whole.
    pub fn next_frame(&mut self) -> Option<Vec<u8>> {
        while self.find_start() {
            let from = self.searched.max(8);
            let Some(at) = position(&self.bytes, from) else {
                // The last three may be the begin of an escape sequence.
                self.searched = self.bytes.len().saturating_sub(3).max(8);
                if self.bytes.len() > LONGEST {
                    self.skip(8);
                    continue;
                }
                return None;
            };
            let Some(what) = self.bytes.get(at + 4..at + 8) else {
                self.searched = at;
                return None;
            };
            let what: [u8; 4] = what.try_into().unwrap_or_default();
            match escaped(what) {
                Escaped::Start => self.skip(at),
                Escaped::Data => self.searched = at + 8,
                Escaped::Unknown => {
                    self.bad_checksums += 1;
                    self.skip(8);
                }
                Escaped::End(padding) => {
                    let frame: Vec<u8> = self.bytes.drain(..at + 8).collect();
                    self.searched = 0;
                    match content(&frame, at, padding) {
                        Some(content) => return Some(content),
                        None => self.bad_checksums += 1,
                    }
                }
            }
        }
        None
    }

    /// Drops what stands before a start sequence; true if there is one.
    fn find_start(&mut self) -> bool {
        let mut from = 0;
        while let Some(at) = position(&self.bytes, from) {
            match self.bytes.get(at + 4..at + 8) {
                Some(what) if what == START => {
                    if at > 0 {
                        self.skip(at);
                    }
                    return true;
                }
                Some(_) => from = at + 1,
                None => {
                    self.skip(at);
                    return false;
                }
            }
        }
        self.skip(self.bytes.len().saturating_sub(3));
        false
    }

    fn skip(&mut self, count: usize) {
        let count = count.min(self.bytes.len());
        self.junk += u64::try_from(count).unwrap_or(u64::MAX);
        self.bytes.drain(..count);
        self.searched = 0;
    }
}

/// The next escape sequence at or after `from`.
fn position(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let found = rest.windows(4).position(|window| window == ESCAPE)?;
    Some(from + found)
}

fn escaped(what: [u8; 4]) -> Escaped {
    match what {
        START => Escaped::Start,
        ESCAPE => Escaped::Data,
        [END, padding @ 0..=3, ..] => Escaped::End(usize::from(padding)),
        _ => Escaped::Unknown,
    }
}

/// The messages of a frame that ends with an escape sequence at `end`; `None`: its checksum is
/// wrong.
fn content(frame: &[u8], end: usize, padding: usize) -> Option<Vec<u8>> {
    let sent: [u8; 2] = frame.get(end + 6..end + 8)?.try_into().ok()?;
    if !is_right(frame.get(..end + 6)?, sent) {
        return None;
    }
    let body = frame.get(8..end.checked_sub(padding)?)?;
    let mut content = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some((first, more)) = rest.split_first() {
        content.push(*first);
        rest = more;
        if content.ends_with(&ESCAPE) && rest.starts_with(&ESCAPE) {
            rest = rest.get(4..).unwrap_or_default();
        }
    }
    Some(content)
}

/// A frame around messages, as a meter sends it.
pub(super) fn framed(messages: &[u8]) -> Vec<u8> {
    let mut frame = [ESCAPE, START].concat();
    frame.extend(messages);
    let padding = (4 - messages.len() % 4) % 4;
    frame.extend(std::iter::repeat_n(0, padding));
    frame.extend(ESCAPE);
    frame.extend([END, u8::try_from(padding).unwrap_or_default()]);
    let sum = checksum(&frame);
    frame.extend(sum);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(framer: &mut SmlFramer) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| framer.next_frame()).collect()
    }

    #[test]
    fn a_frame_that_breaks_off_does_not_hide_the_next() {
        let whole = framed(&[1, 2, 3, 4, 5]);
        let mut framer = SmlFramer::default();
        framer.push(&[0x1B, 0x1B, 9]);
        framer.push(&whole[..11]);
        framer.push(&whole);
        assert_eq!(all(&mut framer), [vec![1, 2, 3, 4, 5]]);
        let mut bad = whole.clone();
        bad[9] ^= 1;
        framer.push(&bad);
        framer.push(&whole);
        assert_eq!(all(&mut framer), [vec![1, 2, 3, 4, 5]]);
        assert_eq!(framer.bad_checksums, 1);
    }

    #[test]
    fn meters_of_the_first_years_have_another_checksum() {
        let mut old = framed(&[7; 8]);
        let length = old.len();
        let sum = KERMIT.checksum(&old[..length - 2]);
        old[length - 2..].copy_from_slice(&sum.to_le_bytes());
        let mut framer = SmlFramer::default();
        framer.push(&old);
        assert_eq!(all(&mut framer), [vec![7; 8]]);
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]

        #[test]
        fn behind_any_noise_a_frame_is_found_and_little_is_kept(
            noise in prop::collection::vec(prop_oneof![Just(0x1B_u8), Just(0x01), Just(0x1A), any::<u8>()], 0..400),
            chunk in 1_usize..50,
        ) {
            let mut framer = SmlFramer::default();
            for part in noise.chunks(chunk) {
                framer.push(part);
                let _ = all(&mut framer);
                prop_assert!(framer.bytes.len() <= LONGEST + chunk);
            }
            // The first may still belong to what the noise has begun.
            let whole = framed(&[1, 2, 3]);
            framer.push(&whole);
            framer.push(&whole);
            prop_assert_eq!(all(&mut framer).last().cloned(), Some(vec![1, 2, 3]));
        }
    }
}
