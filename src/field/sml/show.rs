//! Frames in words, for `wellhead trace`. Pure.

use super::frame::SmlFramer;
use super::list::entries;

/// Bytes on the wire, frame by frame.
pub fn in_words(bytes: &[u8]) -> String {
    let mut framer = SmlFramer::default();
    framer.push(bytes);
    let mut words: Vec<String> = std::iter::from_fn(|| framer.next_frame())
        .map(|frame| {
            let count = entries(&frame).len();
            format!("SML frame, checksum right: {count} values")
        })
        .collect();
    if framer.bad_checksums > 0 {
        words.push("a frame with a wrong checksum".to_owned());
    } else if framer.junk > 0 || framer.has_begun() || words.is_empty() {
        words.push("bytes that are no whole frame".to_owned());
    }
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::frame::framed;
    use super::*;

    #[test]
    fn frames_are_told_with_their_checksum() {
        let frame = framed(&[0x76, 0x01]);
        assert_eq!(in_words(&frame), "SML frame, checksum right: 0 values");
        assert_eq!(in_words(&frame[..9]), "bytes that are no whole frame");
        let mut damaged = frame;
        damaged[8] ^= 1;
        assert_eq!(in_words(&damaged), "a frame with a wrong checksum");
    }
}
