//! Southbound: readings of instruments on wires become [`Event`]s. One task per line, one driver
//! per kind of wire.
//!
//! Invariants:
//! * A value is only reported from an answer that was matched to its request.
//! * A device that does not answer costs its line two time-outs, then short probes with growing
//!   pauses; the others keep their interval.
//! * Nothing is written without an order, and every order gets a result.
//!
//! `decode` (registers and bytes to values; pure), `schedule` (the next request; pure),
//! `point_cache` (the last value of each point; pure), `modbus` and `text` (the drivers),
//! `supervisor` (the task of a line), `diagnostic` (requests of people at a terminal).
//!
//! To add a protocol: `field/<name>.rs` with a [`Driver`], and one line in [`LineTask::run`].
//! It knows neither topics nor brokers.

pub mod counts;
pub mod decode;
pub mod diagnostic;
pub mod formula;
pub mod modbus;
mod point_cache;
pub mod schedule;
pub mod serial;
pub mod signal;
pub mod simulated;
mod supervisor;
#[cfg(test)]
mod tests;
pub mod text;
mod timer;
pub mod trace;
mod traced_stream;
pub mod trouble;
pub mod typical;
pub mod write;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::heartbeat::{BEAT_INTERVAL, Heartbeat};
use crate::reading::{DeviceId, Event, PointId, Value};
use crate::tasks::Stop;
use counts::LineCounts;
use decode::Register;
use diagnostic::{DiagnosticRequest, DiagnosticResponse, PendingDiagnostic};
use formula::Formula;
use modbus::manners::{Manners, Pause};
use modbus::plan::Limits;
use modbus::slave::Model;
use modbus::timeout_estimator::AnswerWithin;
use modbus::unreadable::UnreadableRange;
use signal::Signal;
use text::TextProtocol;
use text::parse::Extraction;
use write::{Action, Order, Outcome, ReadBack, Rules};

/// The medium of a line, with its framing.
#[derive(Debug, Clone, PartialEq)]
pub enum Wire {
    /// Modbus TCP to `host:port`.
    ModbusTcp(String),
    /// Modbus RTU frames through a terminal server at `host:port`.
    RtuOverTcp(String),
    /// Modbus ASCII frames through a terminal server at `host:port`.
    AsciiOverTcp(String),
    /// A serial device: Modbus, or plain instruments.
    Serial(serial::Port),
    /// Plain instruments at `host:port`.
    Tcp(String),
    /// Values are generated here.
    Simulated,
}

/// One wire with all devices on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its name in the YAML.
    pub name: String,
    /// Its medium.
    pub wire: Wire,
    /// The time until a device must have begun its answer.
    pub answer_within: AnswerWithin,
    /// Its needs beyond the standard.
    pub manners: Manners,
    /// In the order of the YAML.
    pub devices: Vec<Arc<Device>>,
}

impl Line {
    /// A heartbeat for its task: the longest that a request with its repetitions may take, and
    /// opening the line again in between. Drivers that do more at a time beat by themselves.
    pub fn heartbeat(&self, now: Instant) -> Heartbeat {
        let frame = match &self.wire {
            // The longest frame there is, two characters a byte in ASCII.
            Wire::Serial(port) => port.speed.character() * 520,
            _ => Duration::ZERO,
        };
        let devices = || self.devices.iter();
        let pause = devices()
            .map(|device| device.pause.longest())
            .chain([self.manners.pause.longest()])
            .max()
            .unwrap_or_default();
        let answer = devices()
            .filter_map(|device| device.first_answer_within)
            .chain([self.answer_within.most])
            .max()
            .unwrap_or_default();
        Heartbeat::new(
            format!("bus:{}", self.name),
            6 * BEAT_INTERVAL + 10 * (answer + frame + pause),
            now,
        )
    }
}

/// One device of a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Index over all lines.
    pub id: DeviceId,
    /// Its name in the YAML.
    pub name: String,
    /// Modbus unit; 0 where there is none.
    pub unit: u8,
    /// It represents all devices of its line: it is written to, and never answers.
    pub is_broadcast: bool,
    /// Its identification is read once.
    pub identify: bool,
    /// The most that one request may ask of it.
    pub limits: Limits,
    /// Address ranges that no request may cross.
    pub holes: Vec<UnreadableRange>,
    /// Silence before a request to it.
    pub pause: Pause,
    /// The timeout of its first answer, after the line was opened or the device was silent for
    /// long; `None`: that of any other answer.
    pub first_answer_within: Option<Duration>,
    /// Its protocol, if it is a plain instrument.
    pub protocol: Option<Arc<TextProtocol>>,
    /// In the order of the YAML.
    pub points: Vec<Point>,
    /// The SunSpec models that a simulator shows.
    pub models: Vec<Model>,
}

/// One measured quantity.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Index over all lines.
    pub id: PointId,
    /// Its name in the YAML.
    pub name: Arc<str>,
    /// The interval between two reads.
    pub every: Duration,
    /// The origin of its value.
    pub source: PointSource,
    /// The values that a simulator shows.
    pub signal: Signal,
    /// The text that a simulator shows; `None`: the number of its signal.
    pub says: Option<&'static str>,
    /// How old the last value may be while newer attempts to read it fail; `None`: until the first
    /// that failed.
    pub stale_after: Option<Duration>,
    /// Points of one group are read in one request, and written in one.
    pub group: Option<Arc<str>>,
    /// The values that may be written to it; `None`: it is read-only.
    pub write: Option<Box<Rules>>,
}

/// The origin of a point's value.
#[derive(Debug, Clone, PartialEq)]
pub enum PointSource {
    /// It is generated here (a simulated line).
    Simulated,
    /// Registers or bits of a Modbus device.
    Register {
        /// Its address and meaning.
        register: Arc<Register>,
        /// The register with its power of ten.
        exponent: Option<Arc<Register>>,
    },
    /// The messages of a plain instrument.
    Extracted(Box<Extraction>),
    /// Other points of its device.
    Derived(Formula),
}

impl Device {
    /// Without points.
    pub fn new(id: DeviceId, name: &str, unit: u8) -> Self {
        Self {
            id,
            name: name.to_owned(),
            unit,
            is_broadcast: false,
            identify: false,
            limits: Limits::default(),
            holes: Vec::new(),
            pause: Pause::default(),
            first_answer_within: None,
            protocol: None,
            points: Vec::new(),
            models: Vec::new(),
        }
    }
}

impl Point {
    /// A point whose value is generated here, read every second.
    pub fn simulated(name: impl Into<Arc<str>>, signal: Signal) -> Self {
        Self {
            id: PointId(0),
            name: name.into(),
            every: Duration::from_secs(1),
            source: PointSource::Simulated,
            signal,
            says: None,
            stale_after: None,
            group: None,
            write: None,
        }
    }

    /// True if it is computed from others.
    pub fn is_derived(&self) -> bool {
        matches!(self.source, PointSource::Derived(_))
    }

    /// Its register, if it is in a Modbus device.
    pub fn register(&self) -> Option<&Register> {
        match &self.source {
            PointSource::Register { register, .. } => Some(register),
            _ => None,
        }
    }
}

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

/// The values of a job: each point with its value, or with the reason for its bad quality.
pub type Values = Vec<(PointId, Result<Value, Arc<str>>)>;

/// The seam between a line's task and its wire; also where tests inject faults.
pub trait Driver: Send {
    /// The requests that read every point, as planned now.
    fn jobs(&self) -> Vec<Job>;
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
    /// Does one request that writes.
    fn write(
        &mut self,
        device: usize,
        action: &Action,
        read_back: Option<ReadBack>,
        repeat: bool,
    ) -> impl Future<Output = Outcome> + Send;
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

/// The task of one line.
#[derive(Debug)]
pub struct LineTask {
    /// The line.
    pub line: Line,
    /// Where its events go; waits while the queue is full.
    pub events: mpsc::Sender<Event>,
    /// Its counters.
    pub counts: Arc<LineCounts>,
    /// The folder of its device cache; `None`: nothing is kept.
    pub folder: Option<PathBuf>,
    /// Writes.
    pub orders: mpsc::Receiver<Order>,
    /// Diagnostic requests.
    pub diagnostics: mpsc::Receiver<PendingDiagnostic>,
    /// Liveness heartbeat, bumped on every loop iteration.
    pub heartbeat: Heartbeat,
    /// Ends it.
    pub stop: Stop,
}

impl LineTask {
    /// Polls until it is stopped.
    pub async fn run(self) {
        let Self {
            line,
            events,
            counts,
            folder,
            orders,
            diagnostics,
            heartbeat,
            stop,
        } = self;
        let channels = supervisor::LineChannels {
            events,
            counts: Arc::clone(&counts),
            orders,
            diagnostics,
            heartbeat,
            stop,
        };
        match &line.wire {
            Wire::Simulated => {
                let driver = simulated::Simulated::new(&line.devices);
                supervisor::run(line, driver, channels).await;
            }
            _ if line.devices.iter().any(|device| device.protocol.is_some()) => {
                let driver = text::Text::new(&line, counts, channels.heartbeat.clone());
                supervisor::run(line, driver, channels).await;
            }
            _ => {
                let driver = modbus::Modbus::new(&line, counts, folder);
                supervisor::run(line, driver, channels).await;
            }
        }
    }
}
