//! What goes wrong on a simulated wire, and when. Pure.
//!
//! Written as people type it: `<kind>[=<argument>] [unit <n>] [function <n>] [after <n>] [for <n>] [every <n>]`, such as `delay=200ms unit 3 for 5`,
//! `crc every 10`, `exception=6 after 100`.

use std::str::FromStr;
use std::time::Duration;

use crate::units::Span;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// The answer comes that much later.
    Delay(Duration),
    /// No answer.
    Silence,
    /// So many random bytes before the answer.
    NoiseBefore(usize),
    /// So many random bytes instead of the answer.
    Noise(usize),
    /// Zero bytes behind the answer, as transceivers make them.
    ZerosAfter(usize),
    /// Only so many bytes of the answer.
    Truncate(usize),
    /// A wrong checksum (RTU, ASCII).
    Crc,
    /// One bit of the answer turned over.
    BitFlip,
    /// The answer of another unit.
    WrongUnit,
    /// The answer to another function.
    WrongFunction,
    /// So many registers more or, below zero, less.
    WrongLength(i16),
    /// A confirmation of another address (functions 5, 6, 15, 16).
    WrongAddress,
    /// The answer twice.
    Twice,
    /// The request comes back before the answer.
    Echo,
    /// The request comes back, and no answer.
    EchoOnly,
    /// An exception with this code.
    Exception(u8),
    /// The answer in single bytes with this pause between them.
    Slowly(Duration),
    /// The answer in pieces of so many bytes, as adapters on USB hand them over.
    Pieces(usize),
    /// Another transaction identifier (TCP).
    WrongTransaction,
    /// A header that cannot be one (TCP).
    WrongHeader,
    /// The wire ends.
    Unplug,
}

/// A fault with the requests it strikes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// Only for this unit.
    pub unit: Option<u8>,
    /// Only for this Modbus function.
    pub function: Option<u8>,
    /// So many requests pass first.
    pub after: u64,
    /// Then so many are struck; `None`: all.
    pub times: Option<u64>,
    /// Of these only each so-manieth.
    pub every: u64,
}

/// Faults with what they have seen.
#[derive(Debug, Clone, Default)]
pub struct Faults(Vec<(Fault, u64)>);

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, argument) = text
            .split_once('=')
            .map_or((text, None), |(name, argument)| (name, Some(argument)));
        let number = |default: usize| match argument {
            None => Ok(default),
            Some(argument) => argument
                .parse()
                .map_err(|_| format!("`{argument}` is not a number; write {name}={default}")),
        };
        let time = |default: &str| {
            argument
                .unwrap_or(default)
                .parse::<Span>()
                .map(|span| span.0)
        };
        let small = |default: u8| {
            u8::try_from(number(usize::from(default))?)
                .map_err(|_| format!("write {name}={default}"))
        };
        Ok(match name {
            "delay" => Self::Delay(time("200ms")?),
            "silence" => Self::Silence,
            "noise-before" => Self::NoiseBefore(number(5)?),
            "noise" => Self::Noise(number(40)?),
            "zeros-after" => Self::ZerosAfter(number(2)?),
            "truncate" => Self::Truncate(number(4)?),
            "crc" => Self::Crc,
            "bit-flip" => Self::BitFlip,
            "wrong-unit" => Self::WrongUnit,
            "wrong-function" => Self::WrongFunction,
            "wrong-length" => {
                let by = argument
                    .unwrap_or("-1")
                    .parse()
                    .map_err(|_| "write wrong-length=-1 or wrong-length=1".to_owned())?;
                Self::WrongLength(by)
            }
            "wrong-address" => Self::WrongAddress,
            "twice" => Self::Twice,
            "echo" => Self::Echo,
            "echo-only" => Self::EchoOnly,
            "exception" => Self::Exception(small(4)?),
            "slowly" => Self::Slowly(time("15ms")?),
            "pieces" => Self::Pieces(number(16)?.max(1)),
            "wrong-transaction" => Self::WrongTransaction,
            "wrong-header" => Self::WrongHeader,
            "unplug" => Self::Unplug,
            _ => {
                return Err(format!(
                    "`{name}` is not a fault; choose one of delay, silence, noise-before, noise, zeros-after, truncate, crc, bit-flip, wrong-unit, \
                     wrong-function, wrong-length, wrong-address, twice, echo, echo-only, exception, slowly, pieces, wrong-transaction, \
                     wrong-header, unplug"
                ));
            }
        })
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let kind = words
            .next()
            .ok_or("name a fault, such as delay=200ms")?
            .parse()?;
        let mut fault = Self {
            kind,
            unit: None,
            function: None,
            after: 0,
            times: None,
            every: 1,
        };
        while let Some(word) = words.next() {
            let number = words
                .next()
                .and_then(|number| number.parse::<u64>().ok())
                .ok_or_else(|| format!("`{word}` needs a number behind it"))?;
            match word {
                "unit" => {
                    fault.unit = Some(
                        u8::try_from(number)
                            .map_err(|_| "a unit is a number from 0 to 255".to_owned())?,
                    );
                }
                "function" => {
                    fault.function = Some(
                        u8::try_from(number)
                            .map_err(|_| "a function is a number from 0 to 255".to_owned())?,
                    );
                }
                "after" => fault.after = number,
                "for" => fault.times = Some(number),
                "every" => fault.every = number.max(1),
                _ => {
                    return Err(format!(
                        "`{word}` is not known here; write unit, function, after, for or every, each with a number"
                    ));
                }
            }
        }
        Ok(fault)
    }
}

impl Faults {
    /// Adds one.
    pub fn add(&mut self, fault: Fault) {
        self.0.push((fault, 0));
    }

    /// Takes all away.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// What goes wrong with the request to a unit that came just now; plain instruments have no functions.
    pub fn strike(&mut self, unit: u8, function: Option<u8>) -> Vec<FaultKind> {
        let mut struck = Vec::new();
        let is_meant = |fault: &Fault| {
            fault.unit.is_none_or(|only| only == unit)
                && fault.function.is_none_or(|only| Some(only) == function)
        };
        for (fault, seen) in self.0.iter_mut().filter(|(fault, _)| is_meant(fault)) {
            let index = *seen;
            *seen += 1;
            let Some(inside) = index.checked_sub(fault.after) else {
                continue;
            };
            let strikes = inside / fault.every;
            if inside % fault.every == fault.every - 1
                && fault.times.is_none_or(|times| strikes < times)
            {
                struck.push(fault.kind.clone());
            }
        }
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_typed_as_documented() {
        let fault: Fault = "delay=50ms unit 3 after 2 for 1".parse().unwrap();
        assert_eq!(
            fault,
            Fault {
                kind: FaultKind::Delay(Duration::from_millis(50)),
                unit: Some(3),
                function: None,
                after: 2,
                times: Some(1),
                every: 1
            }
        );
        assert_eq!("wrong-length=-2".parse(), Ok(FaultKind::WrongLength(-2)));
        assert!("dely".parse::<Fault>().unwrap_err().contains("delay"));
        assert!("crc every".parse::<Fault>().unwrap_err().contains("number"));
        assert!(
            "crc sometimes 3"
                .parse::<Fault>()
                .unwrap_err()
                .contains("every")
        );
    }

    #[test]
    fn faults_strike_when_they_are_meant_to() {
        let struck = |text: &str| -> Vec<bool> {
            let mut faults = Faults::default();
            faults.add(text.parse().unwrap());
            (0..6)
                .map(|_| !faults.strike(1, Some(3)).is_empty())
                .collect()
        };
        assert_eq!(struck("crc"), [true; 6]);
        assert_eq!(
            struck("crc after 2 for 1"),
            [false, false, true, false, false, false]
        );
        assert_eq!(
            struck("crc every 3"),
            [false, false, true, false, false, true]
        );
        assert_eq!(
            struck("crc every 2 for 2"),
            [false, true, false, true, false, false]
        );
        assert_eq!(struck("crc unit 2"), [false; 6]);
        assert_eq!(struck("crc function 6"), [false; 6]);
        assert_eq!(struck("crc unit 1 function 3"), [true; 6]);
    }
}
