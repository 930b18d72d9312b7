//! Southbound: instruments on wires become [`Event`]s. One task per line, one driver per kind of wire.
//!
//! Invariants:
//! * A value is only reported from an answer that was matched to its request.
//! * A device that does not answer costs its line two time-outs, then short probes with growing pauses; the others keep their
//!   pace.
//!
//! To add a protocol: `field/<name>.rs` with a [`Driver`], and one line in [`LineTask::run`].
//! What it does not do: it knows neither topics nor brokers.

pub mod modbus;
pub mod schedule;
pub mod serial;
pub mod simulated;
mod supervisor;
pub mod wave;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::reading::{DeviceId, Event, PointId, Value};
use crate::tasks::Stop;
use modbus::decode::Register;
use wave::Wave;

/// What a wire is.
#[derive(Debug, Clone, PartialEq)]
pub enum Wire {
    /// Modbus TCP to `host:port`.
    ModbusTcp(String),
    /// Modbus RTU frames through a terminal server at `host:port`.
    RtuOverTcp(String),
    /// Modbus RTU on a serial device.
    Serial(serial::Port),
    /// Values made here.
    Simulated,
}

/// One wire with everything on it.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name in the YAML.
    pub name: String,
    /// What it is.
    pub wire: Wire,
    /// How long a device may take to answer.
    pub answer_within: Duration,
    /// In the order of the YAML.
    pub devices: Vec<Device>,
}

/// One device of a line.
#[derive(Debug, Clone)]
pub struct Device {
    /// Index over all lines.
    pub id: DeviceId,
    /// Its name in the YAML.
    pub name: String,
    /// Modbus unit; 0 where there is none.
    pub unit: u8,
    /// In the order of the YAML.
    pub points: Vec<Point>,
}

/// One measured quantity.
#[derive(Debug, Clone)]
pub struct Point {
    /// Index over all lines.
    pub id: PointId,
    /// Its name in the YAML.
    pub name: String,
    /// How often it is read.
    pub every: Duration,
    /// Where it is and what it means; `None` on a simulated line.
    pub register: Option<Register>,
    /// What a simulator shows for it.
    pub wave: Wave,
}

/// What is read together: one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Index of the device in its line.
    pub device: usize,
    /// How often.
    pub every: Duration,
    /// The points it brings.
    pub points: Vec<PointId>,
}

/// Why a request brought nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Weather: the device was silent.
    #[error("no answer")]
    NoAnswer,
    /// Peer: it answered, and said no (a Modbus exception). The device lives.
    #[error("{0}")]
    Refused(String),
    /// Weather: something came that is not the answer to this request.
    #[error("garbled answer: {0}")]
    Garbled(String),
    /// Weather: the wire itself is gone.
    #[error("{0}")]
    LineDown(String),
}

/// What a job brought: each point with its value or with what is wrong with it.
pub type Values = Vec<(PointId, Result<Value, Arc<str>>)>;

/// The seam between a line's task and its wire; also where tests inject faults.
pub trait Driver: Send {
    /// The requests that read every point, as planned.
    fn jobs(&self) -> Vec<Job>;
    /// Opens the wire. The message says what is wrong and what to do.
    fn connect(&mut self) -> impl Future<Output = Result<(), String>> + Send;
    /// Does one job. Called only between `connect` and `disconnect`; safe to drop.
    fn read(&mut self, job: usize) -> impl Future<Output = Result<Values, ReadError>> + Send;
    /// Closes the wire.
    fn disconnect(&mut self);
}

/// The task of one line.
#[derive(Debug)]
pub struct LineTask {
    /// The line.
    pub line: Line,
    /// Where its events go; waits while the queue is full.
    pub events: mpsc::Sender<Event>,
    /// Ends it.
    pub stop: Stop,
}

impl LineTask {
    /// Polls until the stop order.
    pub async fn run(self) {
        match &self.line.wire {
            Wire::Simulated => {
                let driver = simulated::Simulated::new(&self.line.devices);
                supervisor::run(self.line, driver, self.events, self.stop).await;
            }
            Wire::ModbusTcp(_) | Wire::RtuOverTcp(_) | Wire::Serial(_) => {
                let driver = modbus::Modbus::new(&self.line);
                supervisor::run(self.line, driver, self.events, self.stop).await;
            }
        }
    }
}
