//! Frames of the M-Bus: how they are built, and how they are cut out of a stream [EN 13757-2, 5].
//! Pure.
//!
//! Invariants:
//! * No more than `LONGEST` bytes are kept, whatever comes.
//! * Only a frame whose length, checksum and end are right is given out; after a wrong one the
//!   search starts again at its second byte.

/// 68 L L 68, 255 bytes, checksum, 16.
const LONGEST: usize = 261;

/// The answer to a request that needs no data.
pub const ACKNOWLEDGE: u8 = 0xE5;
const SHORT_START: u8 = 0x10;
const LONG_START: u8 = 0x68;
const END: u8 = 0x16;

/// SND_NKE: the meter starts anew, with the frame count bit cleared, and is deselected.
pub const INITIALIZE: u8 = 0x40;
/// SND_UD: the master sends data; with the frame count bit set.
pub const SEND_DATA: u8 = 0x53;
/// REQ_UD2: the master asks for data; without the frame count bit.
pub const REQUEST_DATA: u8 = 0x5B;
/// The frame count bit of requests.
pub const FRAME_COUNT: u8 = 0x20;
/// The direction bit of the control field: the master has sent it.
pub const FROM_MASTER: u8 = 0x40;

/// The address of the meter that was selected.
pub const SELECTED: u8 = 0xFD;

/// The control information field that selects a meter by its secondary address.
const SELECT: u8 = 0x52;
/// The control information field that resets the application of a meter.
const RESET: u8 = 0x50;

/// A frame that a meter has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MbusFrame {
    /// E5.
    Acknowledge,
    /// 10: a request, seen on a wire that echoes.
    Short {
        /// The function.
        control: u8,
        /// The meter.
        address: u8,
    },
    /// 68: data.
    Long {
        /// The function.
        control: u8,
        /// The meter.
        address: u8,
        /// From the control information field on.
        data: Vec<u8>,
    },
}

/// A request without data.
pub fn short(control: u8, address: u8) -> Vec<u8> {
    let sum = control.wrapping_add(address);
    vec![SHORT_START, control, address, sum, END]
}

/// A frame with data; `data` starts with the control information field and has at most 253 bytes.
pub fn long(control: u8, address: u8, data: &[u8]) -> Vec<u8> {
    let body = [&[control, address], data].concat();
    let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
    let mut frame = vec![LONG_START, length, length, LONG_START];
    let sum = sum(&body);
    frame.extend(body);
    frame.extend([sum, END]);
    frame
}

/// Selects the meters that a secondary address fits: identification, manufacturer, version and
/// medium as they are sent.
pub fn select(address: [u8; 8]) -> Vec<u8> {
    long(SEND_DATA, SELECTED, &[&[SELECT], &address[..]].concat())
}

/// The secondary address in a frame that selects; `None`: it does not.
pub fn selection(data: &[u8]) -> Option<[u8; 8]> {
    let (first, address) = data.split_first()?;
    (*first == SELECT).then_some(())?;
    address.try_into().ok()
}

/// Makes a meter send its first telegram again.
pub fn application_reset(address: u8) -> Vec<u8> {
    long(SEND_DATA, address, &[RESET])
}

/// True for the data of an application reset.
pub fn is_reset(data: &[u8]) -> bool {
    data.first() == Some(&RESET)
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// What the bytes at the start of the stream are.
enum FrameStart {
    /// A frame of this length.
    Frame(MbusFrame, usize),
    /// More bytes are needed.
    Incomplete,
    /// No frame starts here; `bool`: one did, and its checksum is wrong.
    Nothing(bool),
}

/// Cuts frames out of a stream.
#[derive(Debug, Default)]
pub struct MbusFramer {
    bytes: Vec<u8>,
    /// Bytes that belong to no frame, since this was last taken.
    pub junk: u64,
    /// Frames with a wrong checksum, since this was last taken.
    pub bad_checksums: u64,
}

impl MbusFramer {
    /// Adds what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets what was received; true if there was something.
    pub fn clear(&mut self) -> bool {
        let had = !self.bytes.is_empty();
        self.bytes.clear();
        had
    }

    /// True while a frame has begun and not ended.
    pub fn has_begun(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The next frame that is whole.
    pub fn next_frame(&mut self) -> Option<MbusFrame> {
        loop {
            match start(&self.bytes) {
                FrameStart::Frame(frame, length) => {
                    self.bytes.drain(..length.min(self.bytes.len()));
                    return Some(frame);
                }
                FrameStart::Incomplete => {
                    debug_assert!(self.bytes.len() < LONGEST, "a frame has an end");
                    return None;
                }
                FrameStart::Nothing(is_bad) => {
                    self.bad_checksums += u64::from(is_bad);
                    self.junk += 1;
                    self.bytes.drain(..1);
                }
            }
        }
    }
}

fn start(bytes: &[u8]) -> FrameStart {
    match bytes {
        [] | [SHORT_START | LONG_START] => FrameStart::Incomplete,
        [ACKNOWLEDGE, ..] => FrameStart::Frame(MbusFrame::Acknowledge, 1),
        [SHORT_START, control, address, check, END, ..] => {
            if control.wrapping_add(*address) == *check {
                let (control, address) = (*control, *address);
                FrameStart::Frame(MbusFrame::Short { control, address }, 5)
            } else {
                FrameStart::Nothing(true)
            }
        }
        [SHORT_START, rest @ ..] if rest.len() < 4 => FrameStart::Incomplete,
        [LONG_START, length, rest @ ..] => long_start(usize::from(*length), rest),
        _ => FrameStart::Nothing(false),
    }
}

/// After 68 L.
fn long_start(length: usize, rest: &[u8]) -> FrameStart {
    match rest {
        [] => return FrameStart::Incomplete,
        [again] if usize::from(*again) == length => return FrameStart::Incomplete,
        [again, LONG_START, ..] if usize::from(*again) == length && length >= 3 => {}
        _ => return FrameStart::Nothing(false),
    }
    let body = rest.get(2..).unwrap_or_default();
    let Some((body, tail)) = body.split_at_checked(length) else {
        return FrameStart::Incomplete;
    };
    let [check, end, ..] = tail else {
        return FrameStart::Incomplete;
    };
    match body {
        [control, address, data @ ..] if sum(body) == *check && *end == END => FrameStart::Frame(
            MbusFrame::Long {
                control: *control,
                address: *address,
                data: data.to_vec(),
            },
            length + 6,
        ),
        _ => FrameStart::Nothing(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(framer: &mut MbusFramer) -> Vec<MbusFrame> {
        std::iter::from_fn(|| framer.next_frame()).collect()
    }

    #[test]
    fn frames_are_built_as_in_the_standard() {
        assert_eq!(short(INITIALIZE, 1), [0x10, 0x40, 0x01, 0x41, 0x16]);
        assert_eq!(
            short(REQUEST_DATA | FRAME_COUNT, 254),
            [0x10, 0x7B, 0xFE, 0x79, 0x16]
        );
        // M-Bus documentation 4.8, 7.1.
        assert_eq!(
            select([0x78, 0x56, 0x34, 0x12, 0xFF, 0xFF, 0xFF, 0xFF]),
            [
                0x68, 0x0B, 0x0B, 0x68, 0x53, 0xFD, 0x52, 0x78, 0x56, 0x34, 0x12, 0xFF, 0xFF, 0xFF,
                0xFF, 0xB2, 0x16
            ]
        );
    }

    #[test]
    fn a_frame_is_found_behind_noise_and_a_wrong_one_is_counted() {
        let mut framer = MbusFramer::default();
        let good = long(0x08, 5, &[0x72, 1, 2, 3]);
        let mut bad = good.clone();
        bad[8] ^= 1;
        framer.push(&[0x00, 0x68, 0x10, 0x99]);
        framer.push(&bad);
        framer.push(&good);
        framer.push(&[ACKNOWLEDGE]);
        let frame = MbusFrame::Long {
            control: 0x08,
            address: 5,
            data: vec![0x72, 1, 2, 3],
        };
        assert_eq!(all(&mut framer), [frame, MbusFrame::Acknowledge]);
        assert_eq!(framer.bad_checksums, 1);
        assert!(!framer.has_begun());
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]

        #[test]
        fn whatever_comes_little_is_kept_and_a_frame_behind_it_is_found(
            noise in prop::collection::vec(any::<u8>(), 0..600),
            chunk in 1_usize..40,
        ) {
            let mut framer = MbusFramer::default();
            for part in noise.chunks(chunk) {
                framer.push(part);
                let _ = all(&mut framer);
                prop_assert!(framer.bytes.len() < LONGEST);
            }
            // Whatever the noise has begun ends in these.
            framer.push(&[0; LONGEST]);
            let _ = all(&mut framer);
            framer.clear();
            framer.push(&short(INITIALIZE, 3));
            let short = MbusFrame::Short { control: INITIALIZE, address: 3 };
            prop_assert_eq!(all(&mut framer), vec![short]);
        }
    }
}
