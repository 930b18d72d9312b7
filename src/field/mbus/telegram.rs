//! What a meter answers: who it is, how it is, and its values [EN 13757-3, 5]. Pure.

use std::fmt;

use super::data::RawValue;
use super::fixed::{self, FIXED_LENGTH};
use super::record::{MeterRecords, ValueOrder, records};

/// A meter as it names itself: identification, manufacturer, version and medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Eight digits, usually those on its face.
    pub number: u32,
    /// Three letters, by 5 bits each.
    pub manufacturer: u16,
    /// The generation of the meter.
    pub version: u8,
    /// What it measures.
    pub medium: u8,
}

impl Identity {
    /// From the eight bytes of a header or of a selection; `None` if the number is not decimal.
    pub fn read(bytes: [u8; 8]) -> Option<Self> {
        let [a, b, c, d, low, high, version, medium] = bytes;
        let digits = [d, c, b, a]
            .into_iter()
            .flat_map(|byte| [byte >> 4, byte & 0x0F]);
        let number = digits.into_iter().try_fold(0_u32, |number, digit| {
            (digit <= 9).then(|| number * 10 + u32::from(digit))
        })?;
        Some(Self {
            number,
            manufacturer: u16::from_le_bytes([low, high]),
            version,
            medium,
        })
    }

    /// The three letters of its manufacturer.
    pub fn letters(self) -> String {
        let letter = |shift: u32| {
            let number = u8::try_from((self.manufacturer >> shift) & 0x1F).unwrap_or_default();
            char::from(b'@' + number)
        };
        [10, 5, 0].map(letter).iter().collect()
    }

    /// What it measures, in words.
    pub fn medium_name(self) -> &'static str {
        let found = MEDIA.iter().find(|(code, _)| *code == self.medium);
        found.map_or("other", |(_, name)| name)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (letters, medium) = (self.letters(), self.medium_name());
        write!(
            f,
            "{:08} {letters} version {} ({medium})",
            self.number, self.version
        )
    }
}

const MEDIA: [(u8, &str); 22] = [
    (0x00, "other"),
    (0x01, "oil"),
    (0x02, "electricity"),
    (0x03, "gas"),
    (0x04, "heat"),
    (0x05, "steam"),
    (0x06, "warm water"),
    (0x07, "water"),
    (0x08, "heat cost allocator"),
    (0x09, "compressed air"),
    (0x0A, "cooling"),
    (0x0B, "cooling"),
    (0x0C, "heat"),
    (0x0D, "heat and cooling"),
    (0x0E, "bus"),
    (0x0F, "unknown"),
    (0x14, "calorific value"),
    (0x15, "hot water"),
    (0x16, "cold water"),
    (0x17, "hot and cold water"),
    (0x18, "pressure"),
    (0x19, "A/D converter"),
];

/// The state of a meter, by the status byte of its telegram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status(pub u8);

/// How far the values of a telegram can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// They are good.
    Good,
    /// The meter doubts them: why.
    Doubtful(&'static str),
    /// The meter says that they are wrong: why.
    Wrong(&'static str),
}

impl Status {
    /// The meter asks to be asked later.
    pub fn is_busy(self) -> bool {
        self.0 & 0x03 == 0x01
    }

    /// What it says about the values.
    pub fn trust(self) -> Trust {
        if self.0 & 0x08 != 0 {
            Trust::Wrong("the meter reports a permanent error")
        } else if self.0 & 0x03 == 0x02 {
            Trust::Wrong("the meter reports an application error")
        } else if self.0 & 0x10 != 0 {
            Trust::Doubtful("the meter reports a temporary error")
        } else {
            Trust::Good
        }
    }
}

/// An answer that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Telegram {
    /// `None`: the header does not say, or not in decimal digits.
    pub identity: Option<Identity>,
    /// The number of its answer; `None`: the header does not say.
    pub access: Option<u8>,
    /// Its state.
    pub status: Status,
    /// Its values.
    pub records: MeterRecords,
}

/// Why an answer brings no values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TelegramError {
    /// Peer: it reports an error in place of its values.
    #[error("the meter reports: {0}")]
    Reported(&'static str),
    /// Peer: its values are encrypted.
    #[error(
        "the values are encrypted; wired meters need no encryption, switch it off in the meter"
    )]
    Encrypted,
    /// Weather: the telegram is no answer, or too short.
    #[error("{0}")]
    Malformed(&'static str),
}

const SHORT: TelegramError = TelegramError::Malformed("the telegram ends in its header");

/// Reads the data of a frame, from its control information field on.
pub fn telegram(data: &[u8]) -> Result<Telegram, TelegramError> {
    let (control, rest) = data.split_first().ok_or(SHORT)?;
    match control {
        0x70 => Err(TelegramError::Reported(application_error(rest))),
        0x72 => long_header(rest, ValueOrder::LeastFirst),
        0x76 => long_header(rest, ValueOrder::MostFirst),
        0x73 => fixed_header(rest, ValueOrder::LeastFirst),
        0x77 => fixed_header(rest, ValueOrder::MostFirst),
        0x78 => Ok(Telegram {
            identity: None,
            access: None,
            status: Status::default(),
            records: records(rest, ValueOrder::LeastFirst),
        }),
        0x7A => match rest {
            [access, status, signature, mode, rest @ ..] => {
                encryption(*signature, *mode)?;
                Ok(Telegram {
                    identity: None,
                    access: Some(*access),
                    status: Status(*status),
                    records: records(rest, ValueOrder::LeastFirst),
                })
            }
            _ => Err(SHORT),
        },
        _ => Err(TelegramError::Malformed(
            "the telegram has a structure that is not known",
        )),
    }
}

fn long_header(bytes: &[u8], order: ValueOrder) -> Result<Telegram, TelegramError> {
    let (header, rest) = bytes.split_first_chunk::<12>().ok_or(SHORT)?;
    let [
        a,
        b,
        c,
        d,
        low,
        high,
        version,
        medium,
        access,
        status,
        signature,
        mode,
    ] = *header;
    encryption(signature, mode)?;
    let identity = match order {
        ValueOrder::LeastFirst => [a, b, c, d, low, high, version, medium],
        ValueOrder::MostFirst => [d, c, b, a, high, low, version, medium],
    };
    Ok(Telegram {
        identity: Identity::read(identity),
        access: Some(access),
        status: Status(status),
        records: records(rest, order),
    })
}

/// The mode of encryption is in the second byte of the signature, the number of encrypted blocks in
/// the first [EN 13757-7]; meters of older standards have anything there.
fn encryption(signature: u8, mode: u8) -> Result<(), TelegramError> {
    match mode & 0x1F {
        5 | 7 | 13 if signature & 0xF0 != 0 => Err(TelegramError::Encrypted),
        _ => Ok(()),
    }
}

fn fixed_header(bytes: &[u8], order: ValueOrder) -> Result<Telegram, TelegramError> {
    let (header, _) = bytes.split_first_chunk::<FIXED_LENGTH>().ok_or(SHORT)?;
    let [a, b, c, d, access, status, low, high, counters @ ..] = *header;
    let ((number, units), medium) = match order {
        ValueOrder::LeastFirst => (
            ([a, b, c, d], [low, high]),
            ((high >> 4) & 0x0C) | (low >> 6),
        ),
        ValueOrder::MostFirst => (
            ([d, c, b, a], [high, low]),
            ((low >> 4) & 0x0C) | (high >> 6),
        ),
    };
    let [a, b, c, d] = number;
    Ok(Telegram {
        identity: Identity::read([a, b, c, d, 0, 0, 0, medium]),
        access: Some(access),
        // Its lower bits say how the counters are coded.
        status: Status(status & 0xFC),
        records: MeterRecords {
            list: fixed::counters(status, units, &counters, order),
            more_follow: false,
            broken: None,
        },
    })
}

/// Table 9.
fn application_error(rest: &[u8]) -> &'static str {
    match rest.first() {
        None | Some(0) => "an error that it does not name",
        Some(1) => "a request that it does not know",
        Some(2) => "a request that is too long",
        Some(3) => "too many records were asked for",
        Some(4) => "the record was asked for too early",
        Some(5) => "too many further data fields",
        Some(6) => "too many further value information fields",
        Some(8) => "it is busy",
        Some(9) => "too many requests",
        Some(_) => "an error that has no name",
    }
}

impl Telegram {
    /// True if it brings anything that can be used.
    pub fn has_values(&self) -> bool {
        let mut records = self.records.list.iter();
        records.any(|record| record.value != RawValue::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_the_meter() {
        let bytes = [
            0x72, 0x78, 0x56, 0x34, 0x12, 0x24, 0x40, 0x01, 0x07, 0x55, 0x10, 0x00, 0x00, 0x01,
            0x06, 5,
        ];
        let read = telegram(&bytes).unwrap();
        assert_eq!(
            read.identity.unwrap().to_string(),
            "12345678 PAD version 1 (water)"
        );
        assert_eq!(read.access, Some(0x55));
        assert!(matches!(read.status.trust(), Trust::Doubtful(_)));
        assert!(read.has_values());
        // The same with the most significant byte first.
        let turned = [
            0x76, 0x12, 0x34, 0x56, 0x78, 0x40, 0x24, 0x01, 0x07, 0x55, 0, 0, 0, 0x01, 0x06, 5,
        ];
        assert_eq!(telegram(&turned).unwrap().identity, read.identity);
    }

    #[test]
    fn errors_of_the_meter_and_strange_telegrams_are_told_apart() {
        assert_eq!(
            telegram(&[0x70, 8]),
            Err(TelegramError::Reported("it is busy"))
        );
        let encrypted = [0x7A, 1, 0, 0x20, 0x05, 1, 2, 3];
        assert_eq!(telegram(&encrypted), Err(TelegramError::Encrypted));
        for short in [&[][..], &[0x72, 1], &[0x73, 1, 2], &[0x7A], &[0x99, 1]] {
            assert!(matches!(telegram(short), Err(TelegramError::Malformed(_))));
        }
        assert!(Status(0x01).is_busy() && !Status(0x04).is_busy());
        assert!(matches!(Status(0x0A).trust(), Trust::Wrong(_)));
        assert_eq!(Status(0x04).trust(), Trust::Good);
    }

    proptest::proptest! {
        #![proptest_config(crate::testing::cases(512, module_path!()))]

        #[test]
        fn any_bytes_are_a_telegram_or_none(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            control in proptest::sample::select(vec![0x70_u8, 0x72, 0x73, 0x76, 0x77, 0x78, 0x7A]),
        ) {
            let data = [&[control], &bytes[..]].concat();
            if let Ok(read) = telegram(&data) {
                let _ = read.identity.map(|identity| identity.to_string());
            }
        }
    }
}
