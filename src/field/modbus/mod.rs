//! The Modbus driver: RTU and ASCII on a serial port or through TCP, and Modbus TCP; the codec is
//! tokio-modbus.
//!
//! Invariants:
//! * tokio-modbus sees only frames that answer the outstanding request: `rtu_adapter` filters RTU
//!   and ASCII wires with `frames`, `mbap_adapter` a TCP connection.
//! * After a time-out on RTU the next request to the same unit is one whose answer has a length
//!   that no owed answer has: slaves answer in order, so once that answer is there the late ones
//!   are past. An exception has no length and proves nothing: then the wire is left alone until
//!   nothing can come any more.
//! * An RTU wire that was just opened is left alone for as long as an answer may take: an earlier
//!   master may have made a request.
//!
//! `manners` (needs of some devices beyond the standard; pure), `link` (the open wire), `exchange`
//! (one request and its traces), `write`, `diagnostic` and `identify` (requests outside the plan),
//! `request` (values as registers; pure),
//! `plan`, `block` and `unreadable` (the requests of the plan; pure), `owed` (late answers; pure),
//! `timeout_estimator` (adaptive timeouts; pure), `words` (registers in requests and answers;
//! pure), `device_cache` (facts learned about devices, on disk), `slave` (the simulator).

mod ascii;
pub mod block;
mod device_cache;
mod diagnostic;
pub mod dissect;
mod exchange;
mod frames;
mod identify;
mod link;
pub mod manners;
mod mbap_adapter;
mod mode;
mod owed;
pub mod plan;
pub mod request;
mod rtu_adapter;
pub mod slave;
pub mod timeout_estimator;
pub mod unreadable;
mod words;
mod write;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, sleep_until};

use super::counts::LineCounts;
use super::decode::Table;
use super::diagnostic::{DiagnosticRequest, DiagnosticResponse};
use super::trouble::Trouble;
use super::write::{WriteRequest, Written};
use super::{Device, Driver, Job, Line, PollError, Values, Wire};
use crate::heartbeat::Heartbeat;
use crate::time::now;
use block::{Block, bytes_of};
use device_cache::DeviceCache;
use exchange::ReadFailure;
use link::Link;
use manners::Manners;
use owed::OwedAnswers;
use plan::Costs;
use timeout_estimator::{AnswerWithin, TimeoutEstimator};
use unreadable::UnreadableRanges;

pub use link::explain;

/// Times the longest wait after which an answer that is owed is not coming any more.
const OWED_FOR: u32 = 8;

/// The driver of a Modbus line.
pub struct Modbus {
    wire: Wire,
    bounds: AnswerWithin,
    manners: Manners,
    devices: Vec<Arc<Device>>,
    unreadable: Vec<UnreadableRanges>,
    blocks: Vec<Arc<Block>>,
    replanned: bool,
    link: Option<Link>,
    timeouts: TimeoutEstimator,
    owed: OwedAnswers,
    /// Time-outs in a row, whatever the unit.
    silent: u32,
    /// By device: the bytes that came instead of answers.
    troubles: Vec<Trouble>,
    /// Units that do not know function 22.
    without_mask: HashSet<u8>,
    /// Devices whose identification was read.
    identified: HashSet<usize>,
    counts: Arc<LineCounts>,
    cache: DeviceCache,
    /// Beats between the requests of a long write; `None`: nobody watches.
    heartbeat: Option<Heartbeat>,
}

impl std::fmt::Debug for Modbus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Modbus")
            .field("wire", &self.wire)
            .field("blocks", &self.blocks.len())
            .finish_non_exhaustive()
    }
}

/// The cost of requests to a device on this wire.
pub fn costs(wire: &Wire, device: &Device) -> Costs {
    let (costs, gap) = match wire {
        Wire::Serial(port) if port.ascii => {
            (Costs::ascii(port.speed, plan::TURNAROUND), Duration::ZERO)
        }
        Wire::Serial(port) => (
            Costs::serial(port.speed, plan::TURNAROUND),
            port.speed.frame_gap(),
        ),
        _ => (Costs::network(), Duration::ZERO),
    };
    costs.after(device.pause.between, gap)
}

/// The requests of every device of a line, as they are planned without having learned anything.
pub fn blocks(line: &Line) -> Vec<Block> {
    let devices = line.devices.iter().enumerate();
    devices
        .flat_map(|(index, device)| {
            plan::plan(
                index,
                device,
                costs(&line.wire, device),
                &UnreadableRanges::known(device.holes.clone()),
            )
        })
        .collect()
}

impl Modbus {
    /// Plans the requests of a line; `folder` holds the device cache.
    pub fn new(line: &Line, counts: Arc<LineCounts>, folder: Option<PathBuf>) -> Self {
        let cache = DeviceCache::open(folder, &line.name, &line.devices);
        let mut driver = Self {
            wire: line.wire.clone(),
            bounds: line.answer_within,
            manners: line.manners,
            unreadable: line
                .devices
                .iter()
                .map(|device| cache.unreadable(device))
                .collect(),
            devices: line.devices.clone(),
            blocks: Vec::new(),
            replanned: false,
            link: None,
            timeouts: TimeoutEstimator::new(line.answer_within, first_answers(&line.devices)),
            owed: OwedAnswers::new(line.manners.accept.any_unit),
            silent: 0,
            troubles: vec![Trouble::default(); line.devices.len()],
            without_mask: HashSet::new(),
            identified: HashSet::new(),
            counts,
            cache,
            heartbeat: None,
        };
        driver.make_plan();
        driver
    }

    /// The same driver, with a heartbeat between the requests of a long write.
    pub fn watched_by(self, heartbeat: Heartbeat) -> Self {
        Self {
            heartbeat: Some(heartbeat),
            ..self
        }
    }

    fn make_plan(&mut self) {
        let devices = self.devices.iter().zip(&self.unreadable).enumerate();
        let blocks = devices.flat_map(|(index, (device, unreadable))| {
            plan::plan(index, device, costs(&self.wire, device), unreadable)
        });
        self.blocks = blocks.map(Arc::new).collect();
    }

    fn replan(&mut self) {
        self.make_plan();
        self.replanned = true;
        self.cache.keep(&self.devices, &self.unreadable);
    }

    /// Gets late answers of a unit out of the way, with a request whose answer has a length that it
    /// does not owe.
    async fn settle_owed(&mut self, block: &Block) -> Result<(), PollError> {
        self.forget_owed(block.unit);
        if !self.owed.owes(block.unit) {
            return Ok(());
        }
        let timeout = self.timeouts.of(block.unit, now());
        let Some((place, count)) = self.unowed(block) else {
            return Err(self.missed(block.device));
        };
        match self.read_words(&place, count, timeout).await {
            Ok(_) => {}
            Err(failure) if failure.is_exception() => sleep(self.bounds.most).await,
            Err(failure) => return Err(failure.error),
        }
        self.owed.settle(block.unit);
        // It lives: the earlier silence was the fault of that request.
        if self
            .unreadable
            .get_mut(block.device)
            .is_some_and(|unreadable| unreadable.heard(now()))
        {
            self.replan();
        }
        Ok(())
    }

    /// Answers that are owed for long are not expected any longer.
    fn forget_owed(&mut self, unit: u8) {
        let limit = (self.timeouts.longest() * OWED_FOR).max(Duration::from_secs(5));
        self.owed.expire(unit, limit, now());
    }

    /// A unit owes an answer with `bytes` of data, if only their order tells answers apart.
    fn owes(&mut self, unit: u8, bytes: u32) {
        if self.link.as_ref().is_some_and(Link::has_only_order) {
            self.owed.add(unit, bytes, now());
        }
    }

    /// A place of a device, and a number of registers, whose answer has a length that its unit does
    /// not owe: inside what is read anyway if possible, a little beyond otherwise.
    fn unowed(&self, block: &Block) -> Option<(Block, u16)> {
        let is_free =
            |table, count: u16| !self.owed.owes_length(block.unit, bytes_of(table, count));
        let own = self
            .blocks
            .iter()
            .filter(|other| other.device == block.device)
            .map(AsRef::as_ref);
        for place in std::iter::once(block).chain(own) {
            if let Some(count) = (1..=place.count).find(|count| is_free(place.table, *count)) {
                return Some((place.clone(), count));
            }
        }
        let limits = self
            .devices
            .get(block.device)
            .map(|device| device.limits)
            .unwrap_or_default();
        let most = limits.of(block.table).min(u16::MAX - block.start);
        (1..=most)
            .find(|count| is_free(block.table, *count))
            .map(|count| (block.clone(), count))
    }

    /// Reads a block; repeats after garbage, not after silence.
    async fn read_block(&mut self, block: &Block) -> Result<Vec<u16>, ReadFailure> {
        self.settle_owed(block).await?;
        let timeout = self.timeouts.of(block.unit, now());
        let silent_before = self.silent;
        let outcome = self.read_words(block, block.count, timeout).await;
        let is_garbled =
            matches!(&outcome, Err(failure) if matches!(failure.error, PollError::Garbled(_)));
        // Silence with something in it counts as silence.
        if !is_garbled || self.link.is_none() || self.silent > silent_before {
            return outcome;
        }
        self.counts
            .count(block.device, |counts| counts.repeated.count());
        // The right answer may still be on its way behind the wrong one.
        self.settle_owed(block).await?;
        self.read_words(block, block.count, timeout).await
    }

    /// Learns from the outcome of a read which registers a device has.
    fn learn(&mut self, block: &Block, outcome: &Result<Vec<u16>, ReadFailure>) {
        let Some(unreadable) = self.unreadable.get_mut(block.device) else {
            return;
        };
        let changed = match outcome {
            Ok(_) => unreadable.answered(block, now()),
            Err(ReadFailure {
                error: PollError::Refused(_),
                exception: Some(2 | 3),
            }) => unreadable.refused(block, now()),
            // Busy, failed, another kind of register: no fault of an address.
            Err(failure) if failure.is_exception() => unreadable.heard(now()),
            Err(ReadFailure {
                error: PollError::LineDown(_),
                ..
            }) => return,
            Err(_) => {
                unreadable.not_answered(block);
                false
            }
        };
        if changed | unreadable.forget(now()) {
            self.replan();
        }
    }

    /// The planned time of a block on the wire.
    fn takes(&self, block: &Block) -> Duration {
        self.devices
            .get(block.device)
            .map_or(Duration::ZERO, |device| {
                costs(&self.wire, device).time(block.table, block.count)
            })
    }

    async fn connected(&mut self) -> Result<(), PollError> {
        if self.link.is_none() {
            self.connect().await.map_err(PollError::LineDown)?;
        }
        Ok(())
    }
}

impl Driver for Modbus {
    fn plan(&self) -> Vec<Job> {
        let job = |block: &Arc<Block>| Job {
            device: block.device,
            every: block.every,
            takes: self.takes(block),
            delay: Duration::ZERO,
            points: block.points.iter().map(|point| point.id).collect(),
        };
        self.blocks.iter().map(job).collect()
    }

    fn replanned(&mut self) -> bool {
        std::mem::take(&mut self.replanned)
    }

    async fn connect(&mut self) -> Result<(), String> {
        // A unit that may take longer than the silence below still owes its answers.
        self.owed.reopened(|unit| self.timeouts.may_be_slow(unit));
        self.link = None;
        self.silent = 0;
        let mut link = Link::open(
            &self.wire,
            self.manners.accept,
            self.bounds.most,
            &self.counts,
        )
        .await?;
        if link.has_only_order() {
            link.stay_silent_until(now() + self.bounds.most);
        }
        self.timeouts.opened();
        self.counts.opened.count();
        self.link = Some(link);
        Ok(())
    }

    async fn read(&mut self, job: usize) -> Result<Values, PollError> {
        let Some(block) = self.blocks.get(job).map(Arc::clone) else {
            return Err(PollError::NoAnswer);
        };
        self.connected().await?;
        let outcome = self.read_block(&block).await;
        self.learn(&block, &outcome);
        if outcome.is_ok() {
            self.identify(block.device).await;
        }
        outcome
            .map(|words| block.decode(&words))
            .map_err(|failure| failure.error)
    }

    async fn probe(&mut self, device: usize, turn: usize) -> Result<(), PollError> {
        let blocks: Vec<&Arc<Block>> = self
            .blocks
            .iter()
            .filter(|block| block.device == device)
            .collect();
        let Some(block) = blocks
            .get(turn % blocks.len().max(1))
            .map(|block| Arc::clone(block))
        else {
            return Ok(());
        };
        self.connected().await?;
        self.forget_owed(block.unit);
        let Some((place, count)) = self.unowed(&block) else {
            return Err(self.missed(device));
        };
        let patience = self.timeouts.of_probe(block.unit);
        match self.read_words(&place, count, patience).await {
            Ok(_) => {
                self.owed.settle(block.unit);
                Ok(())
            }
            // It lives; an exception does not tell whether late answers are past.
            Err(failure) if failure.is_exception() => Ok(()),
            Err(failure) => Err(failure.error),
        }
    }

    fn probe_takes(&self, device: usize) -> Duration {
        let Some(spec) = self.devices.get(device) else {
            return Duration::ZERO;
        };
        self.timeouts.next_probe(spec.unit) + costs(&self.wire, spec).time(Table::Holding, 1)
    }

    /// Closes a line that was unused for long; no Modbus device sends by itself.
    async fn listen(&mut self) -> Result<(usize, Values), PollError> {
        if let (Some(idle), Some(link)) = (self.manners.close_when_idle, &self.link) {
            sleep_until((link.used() + idle).into()).await;
            self.link = None;
        }
        std::future::pending().await
    }

    async fn write(&mut self, request: &WriteRequest) -> Written {
        self.write_values(request).await
    }

    async fn ask(
        &mut self,
        unit: u8,
        ask: &DiagnosticRequest,
        within: Duration,
    ) -> DiagnosticResponse {
        self.ask_anybody(unit, ask, within).await
    }

    fn disconnect(&mut self) {
        self.link = None;
    }
}

/// The timeouts of first answers, by unit.
fn first_answers(devices: &[Arc<Device>]) -> HashMap<u8, Duration> {
    devices
        .iter()
        .filter_map(|device| Some((device.unit, device.first_answer_within?)))
        .collect()
}
