//! The seam between the task of a line and its wire: what a protocol must be able to do, in words
//! that no protocol owns. Also where tests inject faults.

use std::future::Future;
use std::time::Duration;

use super::diagnostic::{DiagnosticRequest, DiagnosticResponse};
use super::sample::Values;
use super::write::{WriteRequest, Written};
use crate::reading::PointId;

/// Points that one request reads together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Index of the device in its line.
    pub device: usize,
    /// The interval between two reads.
    pub every: Duration,
    /// The planned time on the wire.
    pub takes: Duration,
    /// The time from the start until it is due first.
    pub delay: Duration,
    /// The points it brings.
    pub points: Vec<PointId>,
}

/// The reason why a request brought no values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PollError {
    /// Weather: the device was silent.
    #[error("no answer")]
    NoAnswer,
    /// Weather: no answer to this request in time; the text says what came instead.
    #[error("{0}")]
    Missed(String),
    /// Peer: it answered with an error (a Modbus exception). The device lives.
    #[error("{0}")]
    Refused(String),
    /// Peer: it answered that it is busy, and is to be asked again soon.
    #[error("{0}")]
    Busy(String),
    /// Weather: something came that is not the answer to this request.
    #[error("{0}")]
    Garbled(String),
    /// Weather: the wire itself is gone.
    #[error("{0}")]
    LineDown(String),
}

/// See the module. Devices and jobs are named by their index in the line and in the plan.
pub trait Driver: Send {
    /// The requests that read every point, as planned now.
    fn plan(&self) -> Vec<Job>;
    /// True once after the plan has changed.
    fn replanned(&mut self) -> bool {
        false
    }
    /// Opens the wire. The error names the fault and the remedy.
    fn connect(&mut self) -> impl Future<Output = Result<(), String>> + Send;
    /// Does one job. Called only between `connect` and `disconnect`; safe to drop.
    fn read(&mut self, job: usize) -> impl Future<Output = Result<Values, PollError>> + Send;
    /// Reads as little as possible from an offline device, at another address each time; safe to
    /// drop.
    fn probe(
        &mut self,
        device: usize,
        turn: usize,
    ) -> impl Future<Output = Result<(), PollError>> + Send;
    /// The longest time that a probe of this device takes.
    fn probe_takes(&self, device: usize) -> Duration;
    /// Waits for a device that sends without a request; safe to drop.
    fn listen(&mut self) -> impl Future<Output = Result<(usize, Values), PollError>> + Send {
        std::future::pending()
    }
    /// The values that a device has sent by itself while others were polled.
    fn overheard(&mut self) -> Option<(usize, Values)> {
        None
    }
    /// Writes values, in as many requests as its protocol needs; after a request that failed none
    /// is sent. Never [`Written::Expired`].
    fn write(&mut self, request: &WriteRequest) -> impl Future<Output = Written> + Send;
    /// Makes a diagnostic request to any unit; safe to drop. Called only between `connect` and
    /// `disconnect`.
    fn ask(
        &mut self,
        _unit: u8,
        _ask: &DiagnosticRequest,
        _within: Duration,
    ) -> impl Future<Output = DiagnosticResponse> + Send {
        std::future::ready(DiagnosticResponse::NoLine(
            "the devices of this line have no registers".to_owned(),
        ))
    }
    /// Closes the wire.
    fn disconnect(&mut self);
}
