//! The values of SML messages: octets, numbers and lists of them [BSI TR-03109-1, annex IV, 5.2].
//! Pure; whatever the bytes are, reading them ends.

/// Lists in lists; messages of meters have six.
const DEEPEST: usize = 12;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SmlValue<'a> {
    /// Left out.
    Missing,
    /// Octets.
    Octets(&'a [u8]),
    /// True or false.
    Bool(bool),
    /// A number with a sign.
    Int(i64),
    /// A number without.
    UInt(u64),
    /// Several values.
    List(Vec<Self>),
}

impl<'a> SmlValue<'a> {
    /// Its values, if it is a list.
    pub(super) fn list(&self) -> Option<&[Self]> {
        match self {
            Self::List(values) => Some(values),
            _ => None,
        }
    }

    /// Its number, if it is one without a fraction.
    pub(super) fn number(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::UInt(number) => i64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Its octets.
    pub(super) fn octets(&self) -> Option<&'a [u8]> {
        match self {
            Self::Octets(octets) => Some(octets),
            _ => None,
        }
    }
}

/// Reads values one after the other.
pub(super) struct SmlReader<'a> {
    rest: &'a [u8],
}

impl<'a> SmlReader<'a> {
    /// From the start of messages.
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// What is not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Skips bytes 00: the ends of messages, and padding.
    pub(super) fn skip_ends(&mut self) {
        while let Some((0, rest)) = self.rest.split_first() {
            self.rest = rest;
        }
    }

    /// The next value; `None`: the bytes end, or are no value.
    pub(super) fn next_value(&mut self) -> Option<SmlValue<'a>> {
        self.value(DEEPEST)
    }

    fn value(&mut self, depth: usize) -> Option<SmlValue<'a>> {
        let first = self.byte()?;
        // The end of a message stands in the place of its last value.
        if first == 0 {
            return Some(SmlValue::Missing);
        }
        let (mut length, mut headers) = (usize::from(first & 0x0F), 1_usize);
        let mut has_more = first & 0x80 != 0;
        while has_more {
            let byte = self.byte()?;
            has_more = byte & 0x80 != 0;
            length = length
                .checked_mul(16)?
                .checked_add(usize::from(byte & 0x0F))?;
            headers += 1;
        }
        if first & 0x70 == 0x70 {
            return self.values(length, depth.checked_sub(1)?);
        }
        // The length of anything but a list counts its own bytes.
        let count = length.checked_sub(headers)?;
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(match first & 0x70 {
            0x00 if count == 0 => SmlValue::Missing,
            0x00 => SmlValue::Octets(bytes),
            0x40 => SmlValue::Bool(bytes.iter().any(|byte| *byte != 0)),
            0x50 => SmlValue::Int(signed(bytes)?),
            0x60 => SmlValue::UInt(unsigned(bytes)?),
            _ => return None,
        })
    }

    fn values(&mut self, count: usize, depth: usize) -> Option<SmlValue<'a>> {
        // Each value has at least one byte.
        if count > self.rest.len() {
            return None;
        }
        let values: Option<Vec<SmlValue<'a>>> = (0..count).map(|_| self.value(depth)).collect();
        values.map(SmlValue::List)
    }
}

fn unsigned(bytes: &[u8]) -> Option<u64> {
    let fits = (1..=8).contains(&bytes.len());
    let number = bytes
        .iter()
        .fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    fits.then_some(number)
}

fn signed(bytes: &[u8]) -> Option<i64> {
    let number = unsigned(bytes)?;
    let spare = 64 - 8 * u32::try_from(bytes.len()).ok()?;
    Some((number << spare).cast_signed() >> spare)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_have_the_type_and_length_of_their_first_byte() {
        let read = |bytes: &'static [u8]| SmlReader::new(bytes).next_value();
        assert_eq!(read(&[0x01]), Some(SmlValue::Missing));
        assert_eq!(read(&[0x03, 1, 2]), Some(SmlValue::Octets(&[1, 2])));
        assert_eq!(read(&[0x52, 0xFF]), Some(SmlValue::Int(-1)));
        assert_eq!(read(&[0x56, 0, 0, 1, 0, 0]), Some(SmlValue::Int(65_536)));
        assert_eq!(read(&[0x62, 0xFF]), Some(SmlValue::UInt(255)));
        assert_eq!(read(&[0x42, 1]), Some(SmlValue::Bool(true)));
        let list = SmlValue::List(vec![SmlValue::UInt(5), SmlValue::Missing]);
        assert_eq!(read(&[0x72, 0x62, 5, 0x01]), Some(list));
        // 18 bytes with two of length.
        const LONG: [u8; 18] = {
            let mut bytes = [7; 18];
            (bytes[0], bytes[1]) = (0x81, 0x02);
            bytes
        };
        assert_eq!(read(&LONG), Some(SmlValue::Octets(&[7; 16])));
        for wrong in [&[][..], &[0x05, 1], &[0x7F, 1], &[0x5A; 20], &[0x81]] {
            assert_eq!(SmlReader::new(wrong).next_value(), None, "{wrong:?}");
        }
    }

    proptest! {
        #![proptest_config(crate::testing::cases(512, module_path!()))]

        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = SmlReader::new(&bytes);
            while reader.next_value().is_some() {}
        }
    }
}
