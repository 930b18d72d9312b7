//! Modbus ASCII frames as RTU frames and back [Modbus over serial line 1.02, 2.5.2]. Pure.
//!
//! On the wire `:`, two hexadecimal digits for each byte, the checksum (LRC), CR LF. Everything
//! else in wellhead sees RTU frames.

use super::frames::{MAX_FRAME, checksum};

/// The text that is being received.
#[derive(Debug, Default)]
pub(super) struct Ascii {
    text: Vec<u8>,
    /// Characters that were no part of a frame, since they were taken last.
    junk: u64,
}

fn lrc(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0_u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

fn digit(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

impl Ascii {
    /// Forgets a frame that was begun.
    pub(super) fn clear(&mut self) {
        self.junk += self.text.len() as u64;
        self.text.clear();
    }

    /// Characters that were no part of a frame since this was asked last; what is not whole counts.
    pub(super) fn take_junk(&mut self) -> u64 {
        std::mem::take(&mut self.junk)
    }

    /// Takes what came in; gives whole frames with the checksum of RTU, which is wrong if that of
    /// the text was.
    pub(super) fn frames(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for byte in bytes {
            match byte {
                b':' => self.clear(),
                b'\n' => {
                    let text = std::mem::take(&mut self.text);
                    let found = frame(&text);
                    self.junk += if found.is_none() {
                        text.len() as u64
                    } else {
                        0
                    };
                    frames.extend(found);
                }
                other => self.text.push(*other),
            }
            if self.text.len() > 2 * MAX_FRAME + 2 {
                self.clear();
            }
        }
        frames
    }

    /// The text of an RTU frame.
    pub(super) fn write(frame: &[u8], out: &mut Vec<u8>) {
        let body = frame
            .get(..frame.len().saturating_sub(2))
            .unwrap_or_default();
        out.push(b':');
        for byte in body.iter().chain([&lrc(body)]) {
            out.extend(format!("{byte:02X}").bytes());
        }
        out.extend(b"\r\n");
    }
}

fn frame(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let pairs = text.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    let bytes: Vec<u8> = pairs.collect::<Option<_>>()?;
    let (sum, body) = bytes.split_last()?;
    if body.len() < 2 {
        return None;
    }
    let [mut low, high] = checksum(body);
    if lrc(body) != *sum {
        low ^= 0xFF;
    }
    let mut frame = body.to_vec();
    frame.extend([low, high]);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let body = [0x11, 0x03, 0x00, 0x6B, 0x00, 0x03];
        let rtu = [&body[..], &checksum(&body)].concat();
        let mut text = Vec::new();
        Ascii::write(&rtu, &mut text);
        assert_eq!(
            text, b":1103006B00037E\r\n",
            "the example of the specification"
        );
        let mut ascii = Ascii::default();
        assert_eq!(ascii.frames(b"\xFFnoise"), Vec::<Vec<u8>>::new());
        assert_eq!(ascii.frames(&text[..7]), Vec::<Vec<u8>>::new());
        assert_eq!(ascii.frames(&text[7..]), [rtu]);
        let wrong = ascii.frames(b":1103006B00037F\r\n");
        assert_ne!(&wrong[0][6..], checksum(&body), "a wrong sum stays wrong");
        assert_eq!(ascii.frames(b":11zz\r\n:1\r\n:\r\n"), Vec::<Vec<u8>>::new());
    }
}
