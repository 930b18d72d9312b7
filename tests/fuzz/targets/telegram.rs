//! Bytes of meters, M-Bus or SML: no panic; the same frames in whatever pieces they come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wellhead::field::mbus::frame::{MbusFrame, MbusFramer};
use wellhead::field::mbus::telegram::telegram;
use wellhead::field::sml::SmlFramer;
use wellhead::field::sml::list::entries;

fn mbus(pieces: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<MbusFrame> {
    let mut framer = MbusFramer::default();
    let mut frames = Vec::new();
    for piece in pieces {
        framer.push(piece.as_ref());
        frames.extend(std::iter::from_fn(|| framer.next_frame()));
    }
    frames
}

fn sml(pieces: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<Vec<u8>> {
    let mut framer = SmlFramer::default();
    let mut frames = Vec::new();
    for piece in pieces {
        framer.push(piece.as_ref());
        frames.extend(std::iter::from_fn(|| framer.next_frame()));
    }
    frames
}

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let piece = usize::from(first >> 1).max(1);
    if first % 2 == 0 {
        let frames = mbus(rest.chunks(piece));
        assert_eq!(frames, mbus(rest.chunks(1)));
        for frame in frames {
            if let MbusFrame::Long { data, .. } = frame {
                let _ = telegram(&data);
            }
        }
    } else {
        let frames = sml(rest.chunks(piece));
        assert_eq!(frames, sml(rest.chunks(1)));
        for frame in frames {
            let _ = entries(&frame);
        }
    }
});
