//! The vocabulary of measurement: point, value, quality, reading.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::time::{Moment, STEP_MS, SinceBoot, is_plausible};

/// A measured value. Numbers keep the width they were measured in, so that a 32-bit float is never
/// printed with digits it does not have.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A coil, a discrete input or one bit of a register.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    UInt(u64),
    /// A single-precision float; never NaN or infinite (those become bad quality).
    F32(f32),
    /// A double-precision float, or any scaled number; never NaN or infinite.
    F64(f64),
    /// A word from the point's `words` table, characters, or a time.
    Text(Arc<str>),
    /// Several values of one point: an array, or the names of the bits that are set.
    List(Vec<Self>),
}

impl Value {
    /// Bytes it takes beside itself.
    fn weight(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::List(list) => list
                .iter()
                .map(|value| size_of::<Self>() + value.weight())
                .sum(),
            _ => 0,
        }
    }

    /// The value as a number, for comparisons; `None` for text and lists.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Bool(b) => Some(f64::from(u8::from(*b))),
            #[allow(clippy::cast_precision_loss)]
            Self::Int(i) => Some(*i as f64),
            #[allow(clippy::cast_precision_loss)]
            Self::UInt(u) => Some(*u as f64),
            Self::F32(f) => Some(f64::from(*f)),
            Self::F64(f) => Some(*f),
            Self::Text(_) | Self::List(_) => None,
        }
    }
}

/// The number with the digits that a single-precision float has for sure: 230.1 and not 230.09999.
pub fn seven_digits(number: f32) -> f32 {
    format!("{number:.6e}").parse().unwrap_or(number)
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(b) => write!(f, "{b}"),
            Self::Int(i) => write!(f, "{i}"),
            Self::UInt(u) => write!(f, "{u}"),
            Self::F32(x) => write!(f, "{}", seven_digits(*x)),
            Self::F64(x) => write!(f, "{x}"),
            Self::Text(t) => write!(f, "{t}"),
            Self::List(list) => {
                for (index, value) in list.iter().enumerate() {
                    write!(f, "{}{value}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

/// How far a reading can be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quality {
    /// Measured just now, plausible.
    Good,
    /// The last good value; the newest attempt to read it failed for the reason given.
    Stale(Arc<str>),
    /// No usable value, for the reason given.
    Bad(Arc<str>),
}

impl Quality {
    /// `good`, `stale` or `bad`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Stale(_) => "stale",
            Self::Bad(_) => "bad",
        }
    }

    /// Why it is not good.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Good => None,
            Self::Stale(reason) | Self::Bad(reason) => Some(reason),
        }
    }
}

/// When an answer arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    /// Milliseconds since the Unix epoch, by the wall clock of this machine.
    pub unix_ms: i64,
    /// False if that clock had not been set yet: the date is worthless then, the order is not.
    pub clock_set: bool,
    /// By the clock that is never set, if known: corrects the date when the wall clock is set.
    pub since_boot: Option<SinceBoot>,
}

impl Timestamp {
    /// A time of a wall clock that was set, if the date is plausible.
    pub fn at(unix_ms: i64) -> Self {
        Self {
            unix_ms,
            clock_set: is_plausible(unix_ms),
            since_boot: None,
        }
    }

    /// By how many milliseconds the wall clock was set between this and `now`, the error of this
    /// date; `None` if it was not, or if that is unknown.
    pub fn set_by(&self, now: Self) -> Option<i64> {
        let (then, since) = (self.since_boot?, now.since_boot?);
        let is_known = then.boot == since.boot && now.clock_set;
        let step = (now.unix_ms - since.ms) - (self.unix_ms - then.ms);
        (is_known && step.abs() >= STEP_MS).then_some(step)
    }

    /// The same moment by the clock of `now`, if that was set in between.
    #[must_use]
    pub fn corrected(self, now: Self) -> Self {
        self.set_by(now).map_or(self, |step| self.moved(step))
    }

    /// The same moment by a clock that was set by `step` milliseconds.
    #[must_use]
    pub fn moved(self, step: i64) -> Self {
        Self {
            since_boot: self.since_boot,
            ..Self::at(self.unix_ms + step)
        }
    }
}

impl From<Moment> for Timestamp {
    fn from(moment: Moment) -> Self {
        Self {
            unix_ms: moment.unix_ms,
            clock_set: moment.clock_set,
            since_boot: Some(moment.since_boot),
        }
    }
}

/// Index of a point in the gateway's list of points; stable while the gateway runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PointId(pub u32);

/// Index of a device in the gateway's list of devices; stable while the gateway runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub u32);

/// One measured value with its time and quality.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Which point.
    pub point: PointId,
    /// `None` only with [`Quality::Bad`].
    pub value: Option<Value>,
    /// When the answer arrived, or when the attempt failed.
    pub time: Timestamp,
    /// How far it can be trusted.
    pub quality: Quality,
    /// How old the value is; zero if it was measured just now.
    pub age: Duration,
}

impl Reading {
    /// Bytes of its texts, about.
    pub fn weight(&self) -> usize {
        let reason = self.quality.reason().map_or(0, str::len);
        reason + self.value.as_ref().map_or(0, Value::weight)
    }
}

/// A report of a line task to the rest of the gateway.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A point was read, or could not be.
    Reading(Reading),
    /// A device began to answer, or stopped.
    Device {
        /// Which device.
        device: DeviceId,
        /// True if it answers.
        online: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_between_two_moments_is_noticed_by_the_one_that_nobody_sets() {
        let at = |unix_ms, boot, ms| Timestamp {
            since_boot: Some(SinceBoot { boot, ms }),
            ..Timestamp::at(unix_ms)
        };
        let now = at(1_769_847_330_250, 7, 60_000);
        // Half a minute ago by one clock, in 1970 by the other.
        assert_eq!(
            at(5_000, 7, 30_000).set_by(now),
            Some(1_769_847_330_250 - 30_000 - 5_000)
        );
        let then = at(5_000, 7, 30_000);
        assert_eq!(
            then.moved(then.set_by(now).unwrap()),
            at(1_769_847_300_250, 7, 30_000)
        );
        // Not set, another start of the machine, a small correction, not known; and nothing is put
        // right by a clock that is not set.
        assert_eq!(at(1_769_847_300_250, 7, 30_000).set_by(now), None);
        assert_eq!(at(5_000, 8, 30_000).set_by(now), None);
        assert_eq!(
            at(1_769_847_300_250 + STEP_MS - 1, 7, 30_000).set_by(now),
            None
        );
        assert_eq!(Timestamp::at(5_000).set_by(now), None);
        assert_eq!(now.set_by(at(5_000, 7, 90_000)), None);
    }
}
