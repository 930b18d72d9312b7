//! The bytes that came from a device instead of answers, in words for the person who has to repair
//! it. Pure.
//!
//! Invariants:
//! * It counts from the last right answer on: repaired faults are not reported.
//! * A device that has become silent altogether is silent, whatever it said before.
//! * The words change only when something of another kind comes, or twice as much: each change is a
//!   message for every point.

use std::time::Duration;

/// Requests in a row about which nothing at all came, until what came before is no longer the
/// reason.
const SILENCE: u32 = 3;

/// Kinds of what came, with how many of each since the last right answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Came {
    /// Messages with a wrong checksum.
    pub bad_checksums: u64,
    /// Answers with unknown transaction identifiers (Modbus TCP).
    pub other_transactions: u64,
    /// Answers of other units.
    pub other_units: u64,
    /// The last such unit.
    pub unit: u8,
    /// Answers to other functions.
    pub other_functions: u64,
    /// Answers of another length, or that confirm another address.
    pub other_lengths: u64,
    /// Answers after their time.
    pub late: u64,
    /// Answers that broke off.
    pub incomplete: u64,
    /// Messages that look like none of the patterns (plain instruments).
    pub unmatched: u64,
    /// Own requests that came back.
    pub echoes: u64,
    /// Bytes that were no part of a message.
    pub junk: u64,
}

impl Came {
    fn kinds(&self) -> [u64; 10] {
        [
            self.bad_checksums,
            self.other_transactions,
            self.other_units,
            self.other_functions,
            self.other_lengths,
            self.late,
            self.incomplete,
            self.unmatched,
            self.echoes,
            self.junk,
        ]
    }

    fn is_nothing(&self) -> bool {
        self.kinds().iter().all(|count| *count == 0)
    }

    /// Nothing but echoes came: an adapter that echoes proves nothing about the device.
    fn is_silence(&self) -> bool {
        Self { echoes: 0, ..*self }.is_nothing()
    }

    /// The kinds of answers that are wrong, with their numbers.
    fn in_words(&self) -> Vec<String> {
        let unit = self.unit;
        let one_of_unit = format!("unit {unit} answered instead");
        let many_of_unit = format!("answers of another unit: unit {unit} answered instead");
        let kinds = [
            (
                self.bad_checksums,
                "1 telegram with a wrong checksum; check speed, parity and wiring",
                "telegrams with a wrong checksum; check speed, parity and wiring",
            ),
            (
                self.other_transactions,
                "1 answer with another transaction id",
                "answers carry other transaction ids",
            ),
            (self.other_units, &*one_of_unit, &*many_of_unit),
            (
                self.other_functions,
                "1 answer with another function code",
                "answers with another function code",
            ),
            (
                self.other_lengths,
                "1 answer with another length or address",
                "answers with another length or address",
            ),
            (
                self.incomplete,
                "1 answer that broke off",
                "answers that broke off",
            ),
            (
                self.unmatched,
                "1 message that does not match",
                "messages that do not match",
            ),
        ];
        let parts = kinds
            .into_iter()
            .filter_map(|(count, one, many)| match count {
                0 => None,
                1 => Some(one.to_owned()),
                _ => Some(format!("{count} {many}")),
            });
        parts.collect()
    }

    fn add(&mut self, other: &Self) {
        self.bad_checksums += other.bad_checksums;
        self.other_transactions += other.other_transactions;
        self.other_units += other.other_units;
        if other.other_units > 0 {
            self.unit = other.unit;
        }
        self.other_functions += other.other_functions;
        self.other_lengths += other.other_lengths;
        self.late += other.late;
        self.incomplete += other.incomplete;
        self.unmatched += other.unmatched;
        self.echoes += other.echoes;
        self.junk += other.junk;
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Trouble {
    came: Came,
    /// The longest that an answer took that was late.
    lateness: Duration,
    silent: u32,
    /// It speaks another protocol, in words for a person.
    speaks: Option<&'static str>,
    /// The last words, and the counters they were made of.
    told: Option<(Came, String)>,
}

impl Trouble {
    /// A request was not answered; this came instead.
    pub fn note(&mut self, came: &Came) {
        self.silent = if came.is_silence() {
            self.silent.saturating_add(1)
        } else {
            0
        };
        if self.silent >= SILENCE {
            *self = Self {
                silent: self.silent,
                ..Self::default()
            };
        }
        self.came.add(came);
    }

    /// An answer came so long after its request.
    pub fn late(&mut self, after: Duration) {
        self.came.late += 1;
        self.lateness = self.lateness.max(after);
        self.silent = 0;
    }

    /// It speaks another protocol than the one that was expected.
    pub fn speaks(&mut self, what: &'static str) {
        if self.speaks != Some(what) {
            self.told = None;
        }
        self.speaks = Some(what);
        self.silent = 0;
    }

    /// A right answer came.
    pub fn answered(&mut self) {
        *self = Self::default();
    }

    /// The fault in words; `None` if nothing came.
    pub fn reason(&mut self) -> Option<String> {
        if self.came.is_nothing() && self.speaks.is_none() {
            return None;
        }
        let is_known = |told: &Came| {
            let same = |(told, now): (u64, u64)| {
                (told == 0) == (now == 0) && now < told.saturating_mul(2).max(1)
            };
            told.kinds().into_iter().zip(self.came.kinds()).all(same)
        };
        if let Some((_, words)) = self.told.as_ref().filter(|(told, _)| is_known(told)) {
            return Some(words.clone());
        }
        let words = self.words();
        self.told = Some((self.came, words.clone()));
        Some(words)
    }

    fn words(&self) -> String {
        // All other bytes are parts of that protocol.
        if let Some(what) = self.speaks {
            return what.to_owned();
        }
        let mut parts = self.came.in_words();
        if self.came.late > 0 {
            let millis = u64::try_from(self.lateness.as_millis()).unwrap_or(u64::MAX);
            let took = humantime::format_duration(Duration::from_millis(millis));
            parts.push(format!(
                "answers come too late, up to {took} after the request; raise `answer_within`"
            ));
        }
        // Junk and echoes accompany other faults and add nothing to them.
        if parts.is_empty() && self.came.junk > 0 {
            parts.push(format!(
                "received {} bytes that are not an answer; check speed and parity",
                self.came.junk
            ));
        }
        if parts.is_empty() && self.came.echoes > 0 {
            parts.push("the request came back as an echo, without an answer; check the wiring and the address".to_owned());
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(came: Came, times: u32) -> String {
        let mut trouble = Trouble::default();
        (0..times).for_each(|_| trouble.note(&came));
        trouble.reason().unwrap_or_default()
    }

    #[test]
    fn what_came_is_said_with_its_number() {
        let none = Came::default();
        assert!(
            after(
                Came {
                    bad_checksums: 1,
                    ..none
                },
                70
            )
            .starts_with("70 telegrams with a wrong checksum")
        );
        assert!(
            after(
                Came {
                    other_transactions: 1,
                    ..none
                },
                3
            )
            .contains("other transaction ids")
        );
        assert!(
            after(
                Came {
                    other_units: 1,
                    unit: 1,
                    ..none
                },
                1
            )
            .contains("unit 1 answered instead")
        );
        assert!(
            after(
                Came {
                    other_lengths: 1,
                    junk: 9,
                    ..none
                },
                2
            )
            .starts_with("2 answers with another length")
        );
        assert!(after(Came { junk: 20, ..none }, 2).starts_with("received 40 bytes"));
        assert!(after(Came { echoes: 1, ..none }, 2).contains("echo"));
        assert_eq!(after(none, 1), "");
        let mut late = Trouble::default();
        late.late(Duration::from_millis(1250));
        assert!(late.reason().unwrap().contains("1s 250ms"));
    }

    #[test]
    fn the_words_change_when_twice_as_much_came_or_something_else() {
        let mut trouble = Trouble::default();
        let words: Vec<String> = (0..100)
            .map(|_| {
                trouble.note(&Came {
                    bad_checksums: 1,
                    ..Came::default()
                });
                trouble.reason().unwrap()
            })
            .collect();
        let changes = words.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!(changes, 6, "at 2, 4, 8, 16, 32 and 64");
        trouble.note(&Came {
            incomplete: 1,
            ..Came::default()
        });
        assert!(trouble.reason().unwrap().contains("broke off"));
    }

    #[test]
    fn another_protocol_goes_before_what_is_made_of_it() {
        let mut trouble = Trouble::default();
        trouble.note(&Came {
            junk: 40,
            ..Came::default()
        });
        assert!(trouble.reason().unwrap().starts_with("received 40 bytes"));
        trouble.speaks("it sends SML");
        assert_eq!(trouble.reason().unwrap(), "it sends SML");
        trouble.answered();
        assert_eq!(trouble.reason(), None);
    }

    #[test]
    fn silence_and_right_answers_end_it() {
        let mut trouble = Trouble::default();
        trouble.note(&Came {
            bad_checksums: 1,
            ..Came::default()
        });
        (0..2).for_each(|_| trouble.note(&Came::default()));
        assert!(trouble.reason().is_some(), "twice nothing may be chance");
        trouble.note(&Came::default());
        assert_eq!(trouble.reason(), None);
        trouble.note(&Came {
            junk: 3,
            ..Came::default()
        });
        trouble.answered();
        assert_eq!(trouble.reason(), None);
    }
}
