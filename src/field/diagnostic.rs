//! Diagnostic requests of a person at a terminal to a line: read these registers, identify
//! yourself. Made between the reads of the plan.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::decode::Table;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiagnosticRequest {
    /// Read registers or bits.
    Registers {
        /// The table.
        table: Table,
        /// From zero.
        start: u16,
        /// At least 1; at most 125 registers or 2000 bits.
        count: u16,
    },
    /// Identify the device (functions 43/14, then 17).
    Identity,
}

impl DiagnosticRequest {
    /// The fault of such a request to a unit; `None` if it can be made.
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

/// The reason why unit 0 is refused.
const NOBODY: &str = "unit 0 addresses all devices, and none of them answers";

/// The result of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiagnosticResponse {
    /// Registers, or bits as 0 and 1.
    Words(Vec<u16>),
    /// The identification of the device.
    Identity(String),
    /// A Modbus exception.
    Exception(u8),
    /// No answer in time.
    Nothing,
    /// Something came that is no answer: another speed, another parity, two devices at once.
    Garbage(String),
    /// The line itself does not work, or has no registers; the reason.
    NoLine(String),
}

/// A request on its way to the task of a line.
#[derive(Debug)]
pub struct PendingDiagnostic {
    /// The Modbus address.
    pub unit: u8,
    /// The request.
    pub ask: DiagnosticRequest,
    /// The timeout of the answer.
    pub within: Duration,
    /// The moment from which the response is worthless.
    pub deadline: Instant,
    /// Receives the response.
    pub answer: oneshot::Sender<DiagnosticResponse>,
}
