//! Writes to instruments: their limits, and the orders that lines get.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::oneshot;

use super::decode::Register;
use crate::reading::{PointId, Value};

/// How registers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Function {
    /// One register or coil by function 6 or 5, more by 16 or 15.
    #[default]
    Auto,
    /// Always by function 16 or 15: some devices know no other.
    Multiple,
    /// By function 23, which reads back in the same request.
    Exchange,
}

/// The check of a write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReadBack {
    /// The time until the device shows the new value.
    pub delay: Duration,
    /// The largest difference from the written value, in the unit of the point.
    pub tolerance: f64,
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
    /// The function that writes it.
    pub function: Function,
    /// It may be repeated when it is unknown whether it was done.
    pub repeat: bool,
    /// A group may be written by several requests.
    pub allow_split: bool,
}

/// One request that writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Holding registers.
    Words {
        /// From zero.
        address: u16,
        /// Their new content.
        words: Vec<u16>,
        /// How.
        function: Function,
    },
    /// Coils.
    Bits {
        /// From zero.
        address: u16,
        /// Their new states.
        bits: Vec<bool>,
        /// How.
        function: Function,
    },
    /// Some bits of a holding register: register = (register AND `and`) OR (`or` AND NOT `and`).
    Mask {
        /// From zero.
        address: u16,
        /// Bits that stay.
        and: u16,
        /// Bits that are set.
        or: u16,
    },
}

impl Action {
    /// The first register or coil, and how many.
    pub fn span(&self) -> (u16, u16) {
        let count = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        match self {
            Self::Words { address, words, .. } => (*address, count(words.len())),
            Self::Bits { address, bits, .. } => (*address, count(bits.len())),
            Self::Mask { address, .. } => (*address, 1),
        }
    }
}

/// An order to write, as a line gets it.
#[derive(Debug)]
pub struct Order {
    /// Index of the device in its line.
    pub device: usize,
    /// The points that it changes, and where they are.
    pub points: Vec<(PointId, Register)>,
    /// The requests, in this order.
    pub actions: Vec<Action>,
    /// Whether and how it is checked.
    pub read_back: Option<ReadBack>,
    /// It may be repeated when it is unknown whether it was done.
    pub repeat: bool,
    /// When it is worthless.
    pub deadline: Instant,
    /// Receives the result.
    pub answer: oneshot::Sender<Written>,
}

/// The outcome of one request that writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The device confirmed it. The registers, if they were read back (bits: 0 or 1).
    Done(Option<Vec<u16>>),
    /// A Modbus exception.
    Exception(u8),
    /// It was sent, and it is unknown whether it was done: the registers, if they can be read, and
    /// the reason.
    Unknown(Option<Vec<u16>>, String),
    /// It was never sent, for the reason given.
    NotSent(String),
}

/// The result of an order.
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// It was done: the values of the points, if they were read back.
    Done(Vec<(PointId, Result<Value, Arc<str>>)>),
    /// A Modbus exception.
    Exception(u8),
    /// It was sent, and it is unknown whether it was done: the values of the points, if they can be
    /// read, and the reason.
    Unknown(Vec<(PointId, Result<Value, Arc<str>>)>, String),
    /// It was never sent, for the reason given.
    NotSent(String),
    /// Its time was over before it could be sent.
    Expired,
}
