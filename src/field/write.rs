//! Writes to instruments: their limits, and the orders that lines get.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Values;
use super::modbus::request::Function;
use super::text::command::TextCommand;
use crate::reading::{PointId, Value};

/// The check of a write.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ReadBack {
    /// The time until the device shows the new value.
    pub delay: Duration,
    /// The largest difference from the written value, in the unit of the point.
    pub tolerance: f64,
}

impl ReadBack {
    /// True if a device that shows `shown` holds what was written.
    pub fn holds(&self, written: &Value, shown: &Value) -> bool {
        match (written.as_f64(), shown.as_f64()) {
            (Some(written), Some(shown)) => {
                (written - shown).abs() <= self.tolerance + written.abs() * 1e-9
            }
            _ => written == shown,
        }
    }
}

/// The limits of writes to a point.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Values below are refused.
    pub min: Option<f64>,
    /// Values above are refused.
    pub max: Option<f64>,
    /// Only `min` (or 0) and whole steps from there.
    pub step: Option<f64>,
    /// Writes that come faster are refused.
    pub at_most_every: Option<Duration>,
    /// A write that waits longer is given up.
    pub good_for: Duration,
    /// Whether and how it is checked.
    pub read_back: Option<ReadBack>,
    /// It may be repeated when it is unknown whether it was done.
    pub repeat: bool,
    /// How its protocol writes it.
    pub method: WriteMethod,
}

/// How a point is written.
#[derive(Debug, Clone, PartialEq)]
pub enum WriteMethod {
    /// As registers or coils.
    Registers(RegisterRules),
    /// By a command to a plain instrument.
    Command(Arc<TextCommand>),
}

impl WriteMethod {
    /// What registers need; the default for anything else.
    pub fn registers(&self) -> RegisterRules {
        match self {
            Self::Registers(rules) => *rules,
            Self::Command(_) => RegisterRules::default(),
        }
    }

    /// The command to a plain instrument.
    pub fn command(&self) -> Option<&Arc<TextCommand>> {
        match self {
            Self::Registers(_) => None,
            Self::Command(command) => Some(command),
        }
    }
}

/// How the registers of a point are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RegisterRules {
    /// The function that writes it.
    pub function: Function,
    /// A group may be written by several requests.
    pub allow_split: bool,
}

impl Rules {
    /// Refuses a value outside the limits; the error says which.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        let Some(number) = value.as_f64() else {
            return Ok(());
        };
        if let Some(min) = self.min.filter(|min| number < *min) {
            return Err(format!(
                "{value} is below the least that may be written, {min}"
            ));
        }
        if let Some(max) = self.max.filter(|max| number > *max) {
            return Err(format!(
                "{value} is above the most that may be written, {max}"
            ));
        }
        if let Some(step) = self.step {
            let steps = (number - self.min.unwrap_or(0.0)) / step;
            if (steps - steps.round()).abs() > 1e-6 {
                return Err(format!("{value} is not a whole number of steps of {step}"));
            }
        }
        Ok(())
    }
}

/// Points of one device with the values that they shall hold: the driver makes of them what its
/// protocol needs, in as few requests as the rules of the points allow.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteRequest {
    /// Index of the device in its line.
    pub device: usize,
    /// The values, each checked by the protocol of its device.
    pub values: Vec<(PointId, Value)>,
    /// Whether and how it is checked.
    pub read_back: Option<ReadBack>,
    /// It may be repeated when it is unknown whether it was done.
    pub repeat: bool,
}

/// An order to write, as a line gets it.
#[derive(Debug)]
pub struct Order {
    /// What shall be written.
    pub request: WriteRequest,
    /// When it is worthless.
    pub deadline: Instant,
    /// Receives the result.
    pub answer: oneshot::Sender<Written>,
}

/// The result of an order.
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// It was done: the values of the points, if they were read back.
    Done(Values),
    /// The device refused it: its code, if its protocol has codes, and what that means.
    Refused(Option<u8>, String),
    /// It was sent, and it is unknown whether it was done: the values of the points, if they can be
    /// read, and the reason.
    Unknown(Values, String),
    /// It was never sent, for the reason given.
    NotSent(String),
    /// Its time was over before it could be sent.
    Expired,
}

impl Written {
    /// The values that were read back.
    pub fn shown(&self) -> &[super::Sample] {
        match self {
            Self::Done(values) | Self::Unknown(values, _) => values,
            Self::Refused(..) | Self::NotSent(_) | Self::Expired => &[],
        }
    }
}
