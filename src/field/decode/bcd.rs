//! Binary-coded decimals: a digit in each nibble, with the signs that meters give them. Pure.
//!
//! Plain kinds have no sign. Sources of the signs: DL/T 645-2007, annex A (the highest bit of the
//! highest byte); EN 13757-3, annex A, type A (the highest digit is F).

/// The sign of a decimal number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It never is.
    Never,
    /// Its highest bit is set (DL/T 645).
    Bit,
    /// Its highest digit is F (M-Bus).
    Digit,
}

/// Two decimal digits in each byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bcd {
    /// Bytes, 1 to 8.
    pub bytes: u8,
    /// Its sign.
    pub sign: Sign,
}

impl Bcd {
    /// Without a sign.
    pub const fn plain(bytes: u8) -> Self {
        Self {
            bytes,
            sign: Sign::Never,
        }
    }

    /// Bits that it takes.
    pub(super) fn bits(self) -> u32 {
        8 * u32::from(self.bytes)
    }

    /// The greatest number that it can show.
    fn greatest(self) -> u64 {
        let digits = 10_u64.pow(2 * u32::from(self.bytes));
        match self.sign {
            Sign::Never => digits - 1,
            Sign::Bit => digits / 10 * 8 - 1,
            // A nine at the highest place is no F.
            Sign::Digit => digits - 1,
        }
    }

    /// The least number that it can show.
    fn least(self) -> i64 {
        let greatest = match self.sign {
            Sign::Never => 0,
            Sign::Bit => self.greatest(),
            // The sign takes the place of a digit.
            Sign::Digit => 10_u64.pow(2 * u32::from(self.bytes) - 1) - 1,
        };
        i64::try_from(greatest).map_or(i64::MIN, |greatest| -greatest)
    }

    /// The least and the greatest number that it can show.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn range(self) -> (f64, f64) {
        (self.least() as f64, self.greatest() as f64)
    }

    /// True if it can show `number`.
    pub(super) fn shows(self, number: f64) -> bool {
        let (least, greatest) = self.range();
        number.fract() == 0.0 && (least..=greatest).contains(&number)
    }

    /// The number that `bits` show; `None` if a digit is none.
    pub(super) fn number(self, bits: u64) -> Option<i64> {
        let top = self.bits() - 4;
        let (magnitude, is_negative) = match self.sign {
            Sign::Never => (bits, false),
            Sign::Bit => (bits & !(8 << top), bits >> top & 8 != 0),
            Sign::Digit if bits >> top & 0xF == 0xF => (bits & !(0xF << top), true),
            Sign::Digit => (bits, false),
        };
        let number =
            digits(magnitude, self.bits()).and_then(|number| i64::try_from(number).ok())?;
        Some(if is_negative { -number } else { number })
    }

    /// The bits that show `number`; `None` if it has too many digits, or a sign where there is
    /// none.
    pub(super) fn bits_of(self, number: i128) -> Option<u64> {
        if number > i128::from(self.greatest()) || number < i128::from(self.least()) {
            return None;
        }
        let bits = nibbles(u64::try_from(number.unsigned_abs()).ok()?);
        let top = self.bits() - 4;
        Some(match (number < 0, self.sign) {
            (true, Sign::Bit) => bits | 8 << top,
            (true, Sign::Digit) => bits | 0xF << top,
            _ => bits,
        })
    }
}

/// The number whose decimal digits are in the lowest `count` bits; `None` if one of them is not a
/// digit.
pub(super) fn digits(bits: u64, count: u32) -> Option<u64> {
    let nibbles = (0..count.div_ceil(4))
        .rev()
        .map(|place| bits >> (4 * place) & 0xF);
    nibbles.into_iter().try_fold(0_u64, |number, digit| {
        (digit < 10).then(|| number * 10 + digit)
    })
}

/// The decimal digits of a number of at most sixteen of them, one in each nibble.
pub(super) fn nibbles(number: u64) -> u64 {
    let (mut rest, mut bits) = (number, 0);
    for place in 0..16 {
        bits |= (rest % 10) << (4 * place);
        rest /= 10;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sign: Sign, bytes: u8, bits: u64, number: Option<i64>) {
        let bcd = Bcd { bytes, sign };
        assert_eq!(bcd.number(bits), number, "{bcd:?} {bits:x}");
        if let Some(number) = number {
            assert_eq!(
                bcd.bits_of(i128::from(number)),
                Some(bits),
                "{bcd:?} {number}"
            );
        }
    }

    #[test]
    fn each_kind_of_sign_is_read_and_written() {
        check(Sign::Never, 3, 0x81_2345, Some(812_345));
        check(Sign::Never, 1, 0x99, Some(99));
        check(
            Sign::Never,
            8,
            0x9999_9999_9999_9999,
            Some(9_999_999_999_999_999),
        );
        check(Sign::Bit, 3, 0x81_2345, Some(-12_345));
        check(Sign::Bit, 3, 0x71_2345, Some(712_345));
        check(Sign::Digit, 4, 0xF000_0123, Some(-123));
        check(Sign::Digit, 4, 0x9000_0123, Some(90_000_123));
        check(Sign::Digit, 2, 0xF999, Some(-999));
        check(Sign::Digit, 2, 0xEEEE, None);
        check(Sign::Bit, 3, 0x8A_0000, None);
        check(Sign::Never, 2, 0xF123, None);
    }

    #[test]
    fn what_has_too_many_digits_is_refused() {
        let of = |sign, bytes, number| Bcd { bytes, sign }.bits_of(number);
        assert_eq!(of(Sign::Never, 2, 10_000), None);
        assert_eq!(of(Sign::Never, 2, -1), None);
        assert_eq!(of(Sign::Bit, 2, 8_000), None);
        assert_eq!(of(Sign::Digit, 2, -1_000), None);
        assert_eq!(of(Sign::Digit, 2, 9_999), Some(0x9999));
    }
}
