//! Signed numbers as LEB128: 0, -1, 1, -2 .. become 0, 1, 2, 3 ..

use bytes::{Bytes, BytesMut};

use crate::leb128;

pub(super) fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

pub(super) fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// Writes a number.
pub(super) fn put_zigzag(number: i64, out: &mut BytesMut) {
    leb128::put(zigzag(number), out);
}

/// Takes a number from the front; `None` if it is cut short or out of range.
pub(super) fn take_zigzag(bytes: &mut Bytes) -> Option<i64> {
    leb128::take(bytes).map(unzigzag)
}
