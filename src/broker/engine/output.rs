//! Bytes on their way to one socket, in order. Small packets are put together, large payloads are
//! shared and never copied.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// Payloads of this many bytes are shared among their receivers instead of being copied to each.
pub(super) const SHARED_FROM: usize = 2048;

/// A queue of bytes; empty ones take no memory of their own.
#[derive(Debug, Default)]
pub struct OutputBuffer {
    /// What comes before the tail; most have nothing there, and take a pointer.
    sealed: Option<Box<SealedPieces>>,
    tail: BytesMut,
}

/// Pieces that nothing is added to, and their bytes.
#[derive(Debug, Default)]
struct SealedPieces {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl OutputBuffer {
    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.sealed.as_ref().map_or(0, |sealed| sealed.len) + self.tail.len()
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The end of the buffer, for small packets.
    pub fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Appends bytes without copying them.
    pub fn share(&mut self, bytes: Bytes) {
        self.seal();
        self.push(bytes);
    }

    fn push(&mut self, bytes: Bytes) {
        let sealed = self.sealed.get_or_insert_default();
        sealed.len += bytes.len();
        sealed.pieces.push_back(bytes);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let piece = self.tail.split().freeze();
            self.push(piece);
        }
    }

    /// Moves everything of `other` behind what is here.
    pub fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            std::mem::swap(self, other);
            return;
        }
        if let Some(mut more) = other.sealed.take().filter(|more| more.len > 0) {
            self.seal();
            let sealed = self.sealed.get_or_insert_default();
            sealed.len += more.len;
            sealed.pieces.append(&mut more.pieces);
        }
        self.tail.extend_from_slice(&other.tail);
        other.tail.clear();
    }

    /// Everything, piece by piece; none is empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let sealed = self.sealed.iter().flat_map(|sealed| &sealed.pieces);
        sealed
            .map(|bytes| &**bytes)
            .chain([&*self.tail])
            .filter(|piece| !piece.is_empty())
    }

    /// The first `count` bytes were written; at most [`OutputBuffer::len`].
    pub fn advance(&mut self, mut count: usize) {
        if let Some(sealed) = &mut self.sealed {
            while let Some(first) = sealed.pieces.front_mut() {
                let taken = first.len().min(count);
                sealed.len -= taken;
                count -= taken;
                if taken < first.len() {
                    first.advance(taken);
                    return;
                }
                sealed.pieces.pop_front();
            }
        }
        self.tail.advance(count.min(self.tail.len()));
    }

    /// Gives back its memory; for one that is empty.
    pub fn release(&mut self) {
        *self = Self::default();
    }

    /// Everything as one piece.
    pub fn into_bytes(mut self) -> Bytes {
        self.seal();
        let SealedPieces { mut pieces, len } =
            self.sealed.map(|sealed| *sealed).unwrap_or_default();
        if pieces.len() == 1 {
            return pieces.pop_front().unwrap_or_default();
        }
        let mut whole = BytesMut::with_capacity(len);
        for piece in &pieces {
            whole.extend_from_slice(piece);
        }
        whole.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn what_goes_in_comes_out_in_order(
            steps in prop::collection::vec((0_u8..4, 1_usize..40), 1..60),
        ) {
            let (mut buffer, mut expected, mut got, mut next) = (OutputBuffer::default(), Vec::new(), Vec::new(), 0_u8);
            for (kind, count) in steps {
                let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                match kind {
                    0 => buffer.tail().extend_from_slice(&bytes),
                    1 => buffer.share(bytes.clone().into()),
                    2 => {
                        let mut other = OutputBuffer::default();
                        other.share(Bytes::copy_from_slice(&bytes[..count / 2]));
                        other.tail().extend_from_slice(&bytes[count / 2..]);
                        buffer.append(&mut other);
                        prop_assert!(other.is_empty());
                    }
                    _ => {
                        let all: Vec<u8> = buffer.pieces().take(3).flatten().copied().collect();
                        let taken = all.len().min(count);
                        got.extend_from_slice(&all[..taken]);
                        buffer.advance(taken);
                        continue;
                    }
                }
                expected.extend_from_slice(&bytes);
                prop_assert_eq!(buffer.len(), expected.len() - got.len());
            }
            got.extend_from_slice(&buffer.into_bytes());
            prop_assert_eq!(got, expected);
        }
    }
}
