//! A binary range coder: bits in about as many bytes as their chances say (G. N. N. Martin, 1979;
//! with the carry of LZMA). Integers only, so that every machine and language gets the same bytes.

/// The chance that a bit is 1, which follows the bits that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chance {
    /// In 1/65536; from [`LEAST`] to 65535 - `LEAST`.
    pub(super) of_one: u16,
    /// Bits so far, up to [`MOST_SEEN`].
    pub(super) seen: u8,
}

pub(super) const LEAST: u16 = 48;
pub(super) const MOST_SEEN: u8 = 250;
/// By how much the first bits change a chance: the shift of the difference.
const FIRST_RATES: [u8; 8] = [1, 2, 3, 3, 4, 4, 4, 5];
/// From so many bits on it changes slowly.
const SLOW_FROM: u8 = 30;
const SLOW_RATE: u8 = 6;

impl Chance {
    /// Nothing is known.
    pub(super) const EVEN: Self = Self {
        of_one: 1 << 15,
        seen: 0,
    };

    fn learn(&mut self, bit: bool) {
        let rate = if self.seen >= SLOW_FROM {
            SLOW_RATE
        } else {
            let first = FIRST_RATES.get(usize::from(self.seen));
            *first.unwrap_or(&FIRST_RATES[7])
        };
        if bit {
            self.of_one += (u16::MAX - self.of_one) >> rate;
        } else {
            self.of_one -= self.of_one >> rate;
        }
        self.of_one = self.of_one.clamp(LEAST, u16::MAX - LEAST);
        self.seen = MOST_SEEN.min(self.seen + 1);
    }
}

/// What writes bits, or reads them: the same model drives both.
pub(super) trait BitCoder {
    /// Writes a bit and returns it, or reads one and ignores `bit`.
    fn bit(&mut self, chance: &mut Chance, bit: bool) -> bool;

    /// The same for the lowest `count` bits of a number, the highest of them first, whose chances
    /// are even.
    fn even_bits(&mut self, number: u64, count: u32) -> u64;
}

const RENORMALIZE: u32 = 1 << 24;

/// Writes bits.
#[derive(Debug)]
pub(super) struct RangeEncoder {
    low: u64,
    range: u32,
    /// The last byte, which a carry may still change, and the bytes of 255 behind it.
    last: u8,
    pending: usize,
    out: Vec<u8>,
}

impl RangeEncoder {
    pub(super) fn new() -> Self {
        Self {
            low: 0,
            range: u32::MAX,
            last: 0,
            pending: 0,
            out: Vec::new(),
        }
    }

    fn normalize(&mut self) {
        while self.range < RENORMALIZE {
            self.range <<= 8;
            self.shift();
        }
    }

    /// Moves the highest byte of `low` out.
    fn shift(&mut self) {
        let [_, _, _, carry, byte, ..] = self.low.to_be_bytes();
        if carry == 0 && byte == u8::MAX {
            self.pending += 1;
        } else {
            self.out.push(self.last.wrapping_add(carry));
            let pending = std::iter::repeat_n(u8::MAX.wrapping_add(carry), self.pending);
            self.out.extend(pending);
            self.pending = 0;
            self.last = byte;
        }
        self.low = (self.low << 8) & u64::from(u32::MAX);
    }

    /// The bytes: the shortest that stand for a number in the range, without zeros at their end.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let (low, high) = (self.low, self.low + u64::from(self.range) - 1);
        let round = |zeros: u32| low.div_ceil(1 << zeros) << zeros;
        let shortest = (0..=32).rev().map(round).find(|number| *number <= high);
        self.low = shortest.unwrap_or(low);
        for _ in 0..5 {
            self.shift();
        }
        let used = self.out.iter().rposition(|byte| *byte != 0);
        self.out.truncate(used.map_or(0, |last| last + 1));
        // The first byte is the one before the first.
        self.out.drain(..self.out.len().min(1));
        self.out
    }
}

impl BitCoder for RangeEncoder {
    fn bit(&mut self, chance: &mut Chance, bit: bool) -> bool {
        let bound = bound(self.range, *chance);
        if bit {
            self.range = bound;
        } else {
            self.low += u64::from(bound);
            self.range -= bound;
        }
        chance.learn(bit);
        self.normalize();
        bit
    }

    fn even_bits(&mut self, number: u64, count: u32) -> u64 {
        for place in (0..count).rev() {
            self.range >>= 1;
            if number >> place & 1 == 1 {
                self.low += u64::from(self.range);
            }
            self.normalize();
        }
        number
    }
}

/// The part of a range that stands for a 1.
fn bound(range: u32, chance: Chance) -> u32 {
    let part = (u64::from(range) * u64::from(chance.of_one)) >> 16;
    u32::try_from(part).unwrap_or(range)
}

/// Reads bits; after the last byte zeros follow.
#[derive(Debug)]
pub(super) struct RangeDecoder<'a> {
    bytes: std::slice::Iter<'a, u8>,
    code: u32,
    range: u32,
}

impl<'a> RangeDecoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self {
            bytes: bytes.iter(),
            code: 0,
            range: u32::MAX,
        };
        for _ in 0..4 {
            decoder.next_byte();
        }
        decoder
    }

    fn next_byte(&mut self) {
        let byte = self.bytes.next().copied().unwrap_or(0);
        self.code = self.code << 8 | u32::from(byte);
    }

    fn normalize(&mut self) {
        while self.range < RENORMALIZE {
            self.range <<= 8;
            self.next_byte();
        }
    }

    /// True if all bytes were read.
    pub(super) fn is_at_end(&self) -> bool {
        self.bytes.len() == 0
    }
}

impl BitCoder for RangeDecoder<'_> {
    fn bit(&mut self, chance: &mut Chance, _: bool) -> bool {
        let bound = bound(self.range, *chance);
        let bit = self.code < bound;
        if bit {
            self.range = bound;
        } else {
            self.code = self.code.wrapping_sub(bound);
            self.range -= bound;
        }
        chance.learn(bit);
        self.normalize();
        bit
    }

    fn even_bits(&mut self, _: u64, count: u32) -> u64 {
        let mut number = 0;
        for _ in 0..count {
            self.range >>= 1;
            let is_one = self.code >= self.range;
            if is_one {
                self.code -= self.range;
            }
            number = number << 1 | u64::from(is_one);
            self.normalize();
        }
        number
    }
}

/// Writes nothing: only the chances learn.
#[derive(Debug)]
pub(super) struct Learner;

impl BitCoder for Learner {
    fn bit(&mut self, chance: &mut Chance, bit: bool) -> bool {
        chance.learn(bit);
        bit
    }

    fn even_bits(&mut self, number: u64, _: u32) -> u64 {
        number
    }
}
