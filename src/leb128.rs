//! Numbers in as few bytes as they need: seven bits a byte, the lowest first. Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Writes a number.
pub fn put(mut number: u64, out: &mut BytesMut) {
    while number >= 0x80 {
        out.put_u8(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.put_u8(number.to_le_bytes()[0]);
}

/// Takes a number from the front; `None` if it is cut short or has more than 64 bits.
pub fn take(bytes: &mut Bytes) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        let bits = u64::from(byte & 0x7F);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_too_large_ones_are_refused() {
        for number in [0, 1, 127, 128, 300, 1 << 32, u64::MAX - 1, u64::MAX] {
            let mut out = BytesMut::new();
            put(number, &mut out);
            let mut bytes = out.freeze();
            assert_eq!(take(&mut bytes), Some(number));
            assert!(bytes.is_empty());
        }
        let mut too_large = vec![0xFF; 9];
        too_large.push(2);
        assert_eq!(take(&mut too_large.into()), None);
        assert_eq!(take(&mut vec![0x80; 3].into()), None);
        assert_eq!(take(&mut vec![0x80; 11].into()), None);
    }
}
