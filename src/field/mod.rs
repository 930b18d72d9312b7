//! Southbound: instruments on wires become [`Event`]s. One task per line, one driver per kind of wire.
//!
//! Invariants:
//! * A value is only reported from an answer that was matched to its request.
//! * A device that does not answer costs its line two time-outs, then short probes with growing pauses; the others keep their
//!   pace.
//! * Nothing is written that was not ordered, and every order is told how it ended.
//!
//! `decode` (what registers and bytes mean; pure), `schedule` (when; pure), `last` (what stands when attempts fail; pure), `modbus` and
//! `text` (the drivers), `supervisor` (the task of a line), `ask` (questions of persons).
//!
//! To add a protocol: `field/<name>.rs` with a [`Driver`], and one line in [`LineTask::run`].
//! What it does not do: it knows neither topics nor brokers.

pub mod ask;
pub mod counts;
pub mod decode;
pub mod formula;
mod last;
pub mod modbus;
pub mod schedule;
pub mod serial;
pub mod simulated;
mod supervisor;
#[cfg(test)]
mod tests;
pub mod text;
mod timer;
pub mod trace;
pub mod trouble;
pub mod typical;
pub mod wave;
pub mod write;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::heartbeat::{BEAT_INTERVAL, Heartbeat};
use crate::reading::{DeviceId, Event, PointId, Value};
use crate::tasks::Stop;
use ask::{Ask, Inquiry, Said};
use counts::LineCounts;
use decode::Register;
use formula::Formula;
use modbus::barriers::Barrier;
use modbus::manners::{Manners, Pause};
use modbus::patience::AnswerWithin;
use modbus::plan::Limits;
use modbus::slave::Model;
use text::Talk;
use text::parse::Found;
use wave::Wave;
use write::{Action, Order, Outcome, ReadBack, Rules};

/// What a wire is.
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
    /// Values made here.
    Simulated,
}

/// One wire with everything on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its name in the YAML.
    pub name: String,
    /// What it is.
    pub wire: Wire,
    /// How long a device may take to answer.
    pub answer_within: AnswerWithin,
    /// What it needs beyond the standard.
    pub manners: Manners,
    /// In the order of the YAML.
    pub devices: Vec<Arc<Device>>,
}

impl Line {
    /// A heartbeat for its task: the longest that a request with its repetitions may take, and opening the line again in between. Drivers
    /// that do more at a time beat by themselves.
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
    /// It stands for all devices of its line: it is written to, and never answers.
    pub is_broadcast: bool,
    /// It is asked once what it is.
    pub identify: bool,
    /// What one request may ask of it.
    pub limits: Limits,
    /// Places that no request may cross.
    pub holes: Vec<Barrier>,
    /// Silence before a request to it.
    pub pause: Pause,
    /// How long its first answer may take, after the line was opened or it was not heard for long; `None`: as long as any other.
    pub first_answer_within: Option<Duration>,
    /// How it talks, if it is a plain instrument.
    pub talk: Option<Arc<Talk>>,
    /// In the order of the YAML.
    pub points: Vec<Point>,
    /// The SunSpec models that a simulator shows it to have.
    pub models: Vec<Model>,
}

/// One measured quantity.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Index over all lines.
    pub id: PointId,
    /// Its name in the YAML.
    pub name: Arc<str>,
    /// How often it is read.
    pub every: Duration,
    /// Where its value comes from.
    pub source: Source,
    /// What a simulator shows for it.
    pub wave: Wave,
    /// What a simulator shows for it if it is text; `None`: the number of its wave.
    pub says: Option<&'static str>,
    /// How old the last value may be while newer attempts to read it fail; `None`: until the first that failed.
    pub stale_after: Option<Duration>,
    /// Points of one group are read in one request, and written in one.
    pub group: Option<Arc<str>>,
    /// What may be written to it; `None`: nothing.
    pub write: Option<Box<Rules>>,
}

/// Where the value of a point comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// It is made here (a simulated line).
    Made,
    /// Registers or bits of a Modbus device.
    Register {
        /// Where it is and what it means.
        register: Arc<Register>,
        /// Where its power of ten is.
        exponent: Option<Arc<Register>>,
    },
    /// The messages of a plain instrument.
    Found(Box<Found>),
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
            talk: None,
            points: Vec::new(),
            models: Vec::new(),
        }
    }
}

impl Point {
    /// A point whose value is made here, read every second.
    pub fn made(name: impl Into<Arc<str>>, wave: Wave) -> Self {
        Self {
            id: PointId(0),
            name: name.into(),
            every: Duration::from_secs(1),
            source: Source::Made,
            wave,
            says: None,
            stale_after: None,
            group: None,
            write: None,
        }
    }

    /// True if it is computed from others.
    pub fn is_derived(&self) -> bool {
        matches!(self.source, Source::Derived(_))
    }

    /// Where it is, if it is in a Modbus device.
    pub fn register(&self) -> Option<&Register> {
        match &self.source {
            Source::Register { register, .. } => Some(register),
            _ => None,
        }
    }
}

/// What is read together: one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Index of the device in its line.
    pub device: usize,
    /// How often.
    pub every: Duration,
    /// How long it takes, as planned.
    pub takes: Duration,
    /// How long after the start it is due first.
    pub delay: Duration,
    /// The points it brings.
    pub points: Vec<PointId>,
}

/// Why a request brought nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Weather: the device was silent.
    #[error("no answer")]
    NoAnswer,
    /// Weather: no answer to this request in its time; what was seen instead.
    #[error("{0}")]
    Missed(String),
    /// Peer: it answered, and said no (a Modbus exception). The device lives.
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

/// What a job brought: each point with its value or with what is wrong with it.
pub type Values = Vec<(PointId, Result<Value, Arc<str>>)>;

/// The seam between a line's task and its wire; also where tests inject faults.
pub trait Driver: Send {
    /// The requests that read every point, as planned now.
    fn jobs(&self) -> Vec<Job>;
    /// True once after the plan has changed.
    fn replanned(&mut self) -> bool {
        false
    }
    /// Opens the wire. The message says what is wrong and what to do.
    fn connect(&mut self) -> impl Future<Output = Result<(), String>> + Send;
    /// Does one job. Called only between `connect` and `disconnect`; safe to drop.
    fn read(&mut self, job: usize) -> impl Future<Output = Result<Values, ReadError>> + Send;
    /// Asks an offline device for as little as possible, each time in another place; safe to drop.
    fn probe(
        &mut self,
        device: usize,
        turn: usize,
    ) -> impl Future<Output = Result<(), ReadError>> + Send;
    /// How long a probe of this device may take.
    fn probe_takes(&self, device: usize) -> Duration;
    /// Waits for a device that talks by itself; safe to drop.
    fn listen(&mut self) -> impl Future<Output = Result<(usize, Values), ReadError>> + Send {
        std::future::pending()
    }
    /// What a device that talks by itself has said while others were asked.
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
    /// Asks any unit on behalf of a person; safe to drop. Called only between `connect` and `disconnect`.
    fn ask(
        &mut self,
        _unit: u8,
        _ask: &Ask,
        _within: Duration,
    ) -> impl Future<Output = Said> + Send {
        std::future::ready(Said::NoLine(
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
    /// What is counted of it.
    pub counts: Arc<LineCounts>,
    /// Where it keeps what it learns of its devices; `None`: nowhere.
    pub folder: Option<PathBuf>,
    /// What is to be written.
    pub orders: mpsc::Receiver<Order>,
    /// What persons want to know.
    pub inquiries: mpsc::Receiver<Inquiry>,
    /// Beats whenever it comes round.
    pub heartbeat: Heartbeat,
    /// Ends it.
    pub stop: Stop,
}

impl LineTask {
    /// Polls until the stop order.
    pub async fn run(self) {
        let Self {
            line,
            events,
            counts,
            folder,
            orders,
            inquiries,
            heartbeat,
            stop,
        } = self;
        let ends = supervisor::Ends {
            events,
            counts: Arc::clone(&counts),
            orders,
            inquiries,
            heartbeat,
            stop,
        };
        match &line.wire {
            Wire::Simulated => {
                let driver = simulated::Simulated::new(&line.devices);
                supervisor::run(line, driver, ends).await;
            }
            _ if line.devices.iter().any(|device| device.talk.is_some()) => {
                let driver = text::Text::new(&line, counts, ends.heartbeat.clone());
                supervisor::run(line, driver, ends).await;
            }
            _ => {
                let driver = modbus::Modbus::new(&line, counts, folder);
                supervisor::run(line, driver, ends).await;
            }
        }
    }
}
