//! Faults injected into a simulated wire. Pure.
//!
//! Written as people type it:
//! `<kind>[=<argument>] [unit <n>] [function <n>] [after <n>] [for <n>] [every <n>]`, such as
//! `delay=200ms unit 3 for 5`, `crc every 10`, `exception=6 after 100`.

use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::units::Span;

/// The kinds of fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// The answer comes that much later.
    Delay(Duration),
    /// No answer.
    Silence,
    /// This many random bytes before the answer.
    NoiseBefore(usize),
    /// This many random bytes instead of the answer.
    Noise(usize),
    /// Zero bytes behind the answer, as transceivers make them.
    ZerosAfter(usize),
    /// Only the first bytes of the answer, this many.
    Truncate(usize),
    /// A wrong checksum (RTU, ASCII).
    Crc,
    /// One bit of the answer turned over.
    BitFlip,
    /// The answer of another unit.
    WrongUnit,
    /// The answer to another function.
    WrongFunction,
    /// This many registers more or, below zero, fewer.
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
    /// The answer in pieces of this many bytes, as adapters on USB hand them over.
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
pub struct InjectedFault {
    /// The kind.
    pub kind: FaultKind,
    /// Only for this unit.
    pub unit: Option<u8>,
    /// Only for this Modbus function.
    pub function: Option<u8>,
    /// Requests that pass first.
    pub after: u64,
    /// Requests that are struck then; `None`: all.
    pub times: Option<u64>,
    /// Affect only every n-th matching request.
    pub every: u64,
}

/// Faults, each with the number of matching requests so far.
#[derive(Debug, Clone, Default)]
pub struct FaultInjector(Vec<(InjectedFault, u64)>);

/// The argument of a fault as typed, with the name of the fault for the message.
struct Argument<'a> {
    name: &'a str,
    text: Option<&'a str>,
}

impl Argument<'_> {
    fn number(&self, default: usize) -> Result<usize, String> {
        let Some(text) = self.text else {
            return Ok(default);
        };
        let name = self.name;
        text.parse()
            .map_err(|_| format!("`{text}` is not a number; write {name}={default}"))
    }

    fn byte(&self, default: u8) -> Result<u8, String> {
        u8::try_from(self.number(usize::from(default))?)
            .map_err(|_| format!("write {}={default}", self.name))
    }

    fn time(&self, default: &str) -> Result<Duration, String> {
        let time = self.text.unwrap_or(default).parse::<Span>();
        time.map(|span| span.0)
    }

    fn registers(&self) -> Result<i16, String> {
        let text = self.text.unwrap_or("-1");
        text.parse()
            .map_err(|_| "write wrong-length=-1 or wrong-length=1".to_owned())
    }
}

/// The faults of a line; more can be added while it runs.
pub type SharedFaults = Arc<Mutex<FaultInjector>>;

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let (name, text) = typed
            .split_once('=')
            .map_or((typed, None), |(name, text)| (name, Some(text)));
        let argument = Argument { name, text };
        Ok(match name {
            "delay" => Self::Delay(argument.time("200ms")?),
            "silence" => Self::Silence,
            "noise-before" => Self::NoiseBefore(argument.number(5)?),
            "noise" => Self::Noise(argument.number(40)?),
            "zeros-after" => Self::ZerosAfter(argument.number(2)?),
            "truncate" => Self::Truncate(argument.number(4)?),
            "crc" => Self::Crc,
            "bit-flip" => Self::BitFlip,
            "wrong-unit" => Self::WrongUnit,
            "wrong-function" => Self::WrongFunction,
            "wrong-length" => Self::WrongLength(argument.registers()?),
            "wrong-address" => Self::WrongAddress,
            "twice" => Self::Twice,
            "echo" => Self::Echo,
            "echo-only" => Self::EchoOnly,
            "exception" => Self::Exception(argument.byte(4)?),
            "slowly" => Self::Slowly(argument.time("15ms")?),
            "pieces" => Self::Pieces(argument.number(16)?.max(1)),
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

impl FromStr for InjectedFault {
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

impl FaultInjector {
    /// Adds one.
    pub fn add(&mut self, fault: InjectedFault) {
        self.0.push((fault, 0));
    }

    /// Takes all away.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The faults of the next request to a unit; plain instruments have no functions.
    pub fn inject(&mut self, unit: u8, function: Option<u8>) -> Vec<FaultKind> {
        let mut struck = Vec::new();
        let is_meant = |fault: &InjectedFault| {
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
        let fault: InjectedFault = "delay=50ms unit 3 after 2 for 1".parse().unwrap();
        assert_eq!(
            fault,
            InjectedFault {
                kind: FaultKind::Delay(Duration::from_millis(50)),
                unit: Some(3),
                function: None,
                after: 2,
                times: Some(1),
                every: 1
            }
        );
        assert_eq!("wrong-length=-2".parse(), Ok(FaultKind::WrongLength(-2)));
        assert!(
            "dely"
                .parse::<InjectedFault>()
                .unwrap_err()
                .contains("delay")
        );
        assert!(
            "crc every"
                .parse::<InjectedFault>()
                .unwrap_err()
                .contains("number")
        );
        assert!(
            "crc sometimes 3"
                .parse::<InjectedFault>()
                .unwrap_err()
                .contains("every")
        );
    }

    #[test]
    fn faults_strike_when_they_are_meant_to() {
        let struck = |text: &str| -> Vec<bool> {
            let mut faults = FaultInjector::default();
            faults.add(text.parse().unwrap());
            (0..6)
                .map(|_| !faults.inject(1, Some(3)).is_empty())
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
