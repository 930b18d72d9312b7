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
//! `point_cache` (the last value of each point; pure), `driver` (the seam), `modbus`, `text`,
//! `mbus`, `sml` and `simulated` (what is behind it), `protocol` (their table), `supervisor` (the
//! task of a line), `diagnostic` (requests of people at a terminal).
//!
//! To add a protocol: see `protocol`. It knows neither topics nor brokers.

mod accept;
pub mod counts;
pub mod decode;
pub mod diagnostic;
mod driver;
mod faulty_wire;
pub mod formula;
pub mod mbus;
pub mod meter_units;
pub mod modbus;
mod point_cache;
mod protocol;
mod sample;
pub mod schedule;
pub mod serial;
pub mod signal;
pub mod simulated;
pub mod sml;
mod stream;
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

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::heartbeat::{BEAT_INTERVAL, Heartbeat};
use crate::reading::{DeviceId, Event, PointId};
use crate::tasks::Stop;
use counts::LineCounts;
use decode::{Meaning, Register};
use diagnostic::PendingDiagnostic;
use formula::Formula;
use mbus::spec::RecordSelector;
use modbus::manners::{Manners, Pause};
use modbus::plan::Limits;
use modbus::slave::Model;
use modbus::timeout_estimator::AnswerWithin;
use modbus::unreadable::UnreadableRange;
use signal::Signal;
use sml::spec::ObisSelector;
use text::parse::Extraction;
use write::{Order, Rules};

pub use protocol::{DeviceProtocol, PlayedDevices};

pub use driver::{Driver, Job, PollError};
pub use sample::{Sample, Values};

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
    /// What it speaks.
    pub protocol: DeviceProtocol,
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
    /// None: it is only written, by a command to a plain instrument.
    Command(Box<Meaning>),
    /// A record of a meter on an M-Bus.
    Record(Box<RecordSelector>),
    /// A value of a meter that sends SML.
    Obis(Box<ObisSelector>),
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
            protocol: DeviceProtocol::default(),
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

    /// True if its device brings its value; false if it is computed, or only written.
    pub fn is_read(&self) -> bool {
        !matches!(
            self.source,
            PointSource::Derived(_) | PointSource::Command(_)
        )
    }

    /// True if it is computed from others.
    pub fn is_derived(&self) -> bool {
        matches!(self.source, PointSource::Derived(_))
    }
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
    /// Polls with the driver of its protocol until it is stopped.
    pub async fn run(self) {
        protocol::run(self).await;
    }

    /// Polls with a driver until it is stopped.
    pub async fn run_with<D: Driver>(self, driver: D) {
        let channels = supervisor::LineChannels {
            events: self.events,
            counts: self.counts,
            orders: self.orders,
            diagnostics: self.diagnostics,
            heartbeat: self.heartbeat,
            stop: self.stop,
        };
        supervisor::run(self.line, driver, channels).await;
    }
}
