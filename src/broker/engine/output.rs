//! Bytes on their way to one socket, in order. Small packets are put together, large payloads are
//! shared and never copied.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// Payloads of this many bytes are shared among their receivers instead of being copied to each.
pub(super) const SHARED_FROM: usize = 2048;

/// A queue of bytes; empty ones take no memory of their own.
#[derive(Debug, Default)]
pub struct OutputBuffer {
    sealed: VecDeque<Bytes>,
    sealed_len: usize,
    tail: BytesMut,
}

impl OutputBuffer {
    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.sealed_len + self.tail.len()
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
        self.sealed_len += bytes.len();
        self.sealed.push_back(bytes);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.sealed_len += self.tail.len();
            self.sealed.push_back(self.tail.split().freeze());
        }
    }

    /// Moves everything of `other` behind what is here.
    pub fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            std::mem::swap(self, other);
            return;
        }
        if !other.sealed.is_empty() {
            self.seal();
            self.sealed_len += std::mem::take(&mut other.sealed_len);
            self.sealed.append(&mut other.sealed);
        }
        self.tail.extend_from_slice(&other.tail);
        other.tail.clear();
    }

    /// Everything, piece by piece; none is empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.sealed
            .iter()
            .map(|bytes| &**bytes)
            .chain([&*self.tail])
            .filter(|piece| !piece.is_empty())
    }

    /// The first `count` bytes were written; at most [`OutputBuffer::len`].
    pub fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.sealed.front_mut() {
            let taken = first.len().min(count);
            self.sealed_len -= taken;
            count -= taken;
            if taken < first.len() {
                first.advance(taken);
                return;
            }
            self.sealed.pop_front();
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
        if self.sealed.len() == 1 {
            return self.sealed.pop_front().unwrap_or_default();
        }
        let mut whole = BytesMut::with_capacity(self.sealed_len);
        for piece in &self.sealed {
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
