//! A hash for the small numbers that connections, packets and tickets have.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Hashes the small numbers that connections and packets have.
#[derive(Debug, Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(u64::from(number));
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(26);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The hash itself.
pub(super) type NumberHash = BuildHasherDefault<NumberHasher>;
/// A map by such numbers.
pub(super) type ByNumber<K, V> = HashMap<K, V, NumberHash>;
