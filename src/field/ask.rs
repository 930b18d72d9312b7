//! Questions of a person at a terminal to a line: what is in these registers, who are you. Asked between the reads of the plan.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::decode::Table;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// What registers or bits hold.
    Registers {
        /// Which table.
        table: Table,
        /// From zero.
        start: u16,
        /// At least 1; at most 125 registers or 2000 bits.
        count: u16,
    },
    /// What the device says it is (functions 43/14, then 17).
    Identity,
}

impl Ask {
    /// What is wrong with asking a unit so; `None` if it can be asked.
    pub fn fault(&self, unit: u8) -> Option<&'static str> {
        let Self::Registers {
            table,
            start,
            count,
        } = self
        else {
            return (unit == 0).then_some(NOBODY);
        };
        let most = if table.is_bits() { 2000 } else { 125 };
        match *count {
            _ if unit == 0 => Some(NOBODY),
            1.. if *count <= most && u32::from(*start) + u32::from(*count) <= 65_536 => None,
            _ => {
                Some("a request asks for 1 to 125 registers, or 1 to 2000 bits, up to number 65535")
            }
        }
    }
}

/// Why unit 0 is not asked.
const NOBODY: &str = "unit 0 addresses all devices, and none of them answers";

/// How it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// Registers, or bits as 0 and 1.
    Words(Vec<u16>),
    /// What it says it is.
    Identity(String),
    /// The device says no (a Modbus exception).
    Exception(u8),
    /// Nobody answered in time.
    Nothing,
    /// Something came that is no answer: another speed, another parity, two devices at once.
    Garbage(String),
    /// The line itself does not work, or has no registers; the reason.
    NoLine(String),
}

/// A question on its way to the task of a line.
#[derive(Debug)]
pub struct Inquiry {
    /// The Modbus address.
    pub unit: u8,
    /// What is asked.
    pub ask: Ask,
    /// How long an answer is waited for.
    pub within: Duration,
    /// When nobody waits for it any more.
    pub deadline: Instant,
    /// Told the answer.
    pub answer: oneshot::Sender<Said>,
}
