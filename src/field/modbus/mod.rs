//! The Modbus driver: RTU and ASCII on a serial port or through TCP, and Modbus TCP; codec by tokio-modbus.
//!
//! Invariants:
//! * tokio-modbus sees only frames that answer the outstanding request: `frames` behind `shim` filters RTU and ASCII wires, `mbap` a
//!   TCP connection.
//! * After a time-out on RTU the same unit is asked a question first whose answer has a length that no answer owed has: slaves answer
//!   in order, so once that answer is there the late ones are past. A refusal has no length and proves nothing: then the wire is left
//!   alone until nothing can come any more.
//! * An RTU wire that was just opened is left alone for as long as an answer may take: somebody may have asked before.
//!
//! `manners` (what some devices need beyond the standard; pure), `link` (one question), `ask` (questions of a person), `plan` and `barriers` (what to ask; pure), `patience` (how long to wait; pure), `words` (requests for registers, and what is in their answers; pure), `slave` (the simulator).

mod ascii;
mod ask;
pub mod barriers;
pub mod dissect;
mod frames;
mod identify;
mod known;
mod link;
pub mod manners;
mod mbap;
pub mod patience;
pub mod plan;
mod shim;
pub mod slave;
mod words;
mod write;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};
use tokio_modbus::Request;

use super::ask::{Ask, Said};
use super::counts::LineCounts;
use super::decode::Table;
use super::trouble::Trouble;
use super::write::{Action, Outcome, ReadBack};
use super::{Device, Driver, Job, Line, ReadError, Values, Wire};
use crate::time::now;
use barriers::Barriers;
use frames::Seen;
use known::Known;
use link::{Answer, Link, Told};
use manners::Manners;

pub use link::explain;
use patience::{AnswerWithin, Patience};
use plan::{Block, Costs, bytes_of};
use words::{frame_lengths, reading, words};

/// Time-outs in a row after which a connection is made anew: it may be dead.
const SILENT_TO_RECONNECT: u32 = 4;
/// Times the longest wait after which an answer that is owed is not coming any more.
const OWED_FOR: u32 = 8;
/// Time-outs in a row, for each device, after which an adapter counts as deaf.
const SILENT_TO_REOPEN: u32 = 8;

/// The driver of a Modbus line.
pub struct Modbus {
    wire: Wire,
    bounds: AnswerWithin,
    manners: Manners,
    devices: Vec<Arc<Device>>,
    barriers: Vec<Barriers>,
    blocks: Vec<Arc<Block>>,
    replanned: bool,
    link: Option<Link>,
    patience: Patience,
    /// Units that owe answers, with the bytes of data each would have, and since when.
    late: HashMap<u8, HashMap<u32, Instant>>,
    /// Time-outs in a row, whatever the unit.
    silent: u32,
    /// What came from each device instead of answers.
    troubles: Vec<Trouble>,
    /// Units that do not know function 22.
    without_mask: HashSet<u8>,
    /// Devices that were asked what they are.
    identified: HashSet<usize>,
    counts: Arc<LineCounts>,
    known: Known,
}

impl std::fmt::Debug for Modbus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Modbus")
            .field("wire", &self.wire)
            .field("blocks", &self.blocks.len())
            .finish_non_exhaustive()
    }
}

/// A question as the wire needs it.
struct Question {
    device: usize,
    unit: u8,
    request: Request<'static>,
    /// Bytes of the whole frames, there and back.
    lengths: (u32, u32),
    patience: Duration,
}

/// What requests to a device cost on this wire.
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
                &Barriers::known(device.holes.clone()),
            )
        })
        .collect()
}

impl Modbus {
    /// Plans the requests of a line; what was learned of its devices is in `folder`.
    pub fn new(line: &Line, counts: Arc<LineCounts>, folder: Option<PathBuf>) -> Self {
        let known = Known::open(folder, &line.name, &line.devices);
        let mut driver = Self {
            wire: line.wire.clone(),
            bounds: line.answer_within,
            manners: line.manners,
            barriers: line
                .devices
                .iter()
                .map(|device| known.barriers(device))
                .collect(),
            devices: line.devices.clone(),
            blocks: Vec::new(),
            replanned: false,
            link: None,
            patience: Patience::new(line.answer_within, first_answers(&line.devices)),
            late: HashMap::new(),
            silent: 0,
            troubles: vec![Trouble::default(); line.devices.len()],
            without_mask: HashSet::new(),
            identified: HashSet::new(),
            counts,
            known,
        };
        driver.plan();
        driver
    }

    fn plan(&mut self) {
        let devices = self.devices.iter().zip(&self.barriers).enumerate();
        let blocks = devices.flat_map(|(index, (device, barriers))| {
            plan::plan(index, device, costs(&self.wire, device), barriers)
        });
        self.blocks = blocks.map(Arc::new).collect();
    }

    fn replan(&mut self) {
        self.plan();
        self.replanned = true;
        self.known.keep(&self.devices, &self.barriers);
    }

    /// Asks once.
    async fn ask(&mut self, question: Question) -> Answer {
        let Question {
            device,
            unit,
            request,
            lengths,
            patience,
        } = question;
        let pause = self
            .devices
            .get(device)
            .map_or(self.manners.pause, |device| device.pause);
        let Some(link) = self.link.as_mut() else {
            return Answer::Broken("the connection broke".to_owned());
        };
        let is_broadcast = unit == 0 && link.is_rtu();
        link.keep_silent(pause);
        self.counts.count(device, |counts| counts.requests.count());
        let Told {
            answer,
            turnaround,
            busy,
        } = link.ask(unit, request, patience, lengths).await;
        let (seen, late) = link.take_seen();
        self.counts
            .busy_us
            .add(u64::try_from(busy.as_micros()).unwrap_or(0));
        self.counts.stale.add(seen.stale);
        self.counts.foreign.add(seen.foreign);
        self.counts.echoes.add(seen.echoes);
        self.counts.junk_bytes.add(seen.junk);
        if seen.bad_checksums > 0 {
            self.counts.count(device, |counts| {
                counts.bad_checksums.add(seen.bad_checksums);
            });
        }
        if matches!(answer, Answer::Nothing | Answer::Foreign(_)) && !is_broadcast {
            self.counts
                .lost_us
                .add(u64::try_from(busy.as_micros()).unwrap_or(0));
        }
        for late in late {
            self.patience.late(late.unit, late.after);
            let devices = self
                .devices
                .iter()
                .zip(&mut self.troubles)
                .filter(|(device, _)| device.unit == late.unit);
            devices.for_each(|(_, trouble)| trouble.late(late.after));
        }
        if !is_broadcast {
            // Behind what was late: a right answer ends that, too.
            self.saw(device, seen, &answer);
            self.note(device, unit, &answer, turnaround);
        }
        answer
    }

    /// What came instead of an answer is kept until one comes.
    fn saw(&mut self, device: usize, seen: Seen, answer: &Answer) {
        self.counts.count(device, |counts| {
            counts.other_transactions.add(seen.other_transactions);
            counts.other_units.add(seen.other_units);
            counts.other_functions.add(seen.other_functions);
            counts.other_lengths.add(seen.other_lengths);
            counts.incomplete.add(seen.incomplete);
        });
        let Some(trouble) = self.troubles.get_mut(device) else {
            return;
        };
        match answer {
            Answer::Response(_) | Answer::Exception(_) => trouble.answered(),
            Answer::Nothing | Answer::Foreign(_) | Answer::Garbage(_) => trouble.note(&seen.into()),
            Answer::Broken(_) => {}
        }
    }

    /// Why a device counts as silent: by what came instead of an answer.
    fn missed(&mut self, device: usize) -> ReadError {
        let reason = self.troubles.get_mut(device).and_then(Trouble::reason);
        reason.map_or(ReadError::NoAnswer, ReadError::Missed)
    }

    /// Why an answer is none.
    fn garbled(&mut self, device: usize, otherwise: &str) -> ReadError {
        let reason = self.troubles.get_mut(device).and_then(Trouble::reason);
        ReadError::Garbled(reason.unwrap_or_else(|| otherwise.to_owned()))
    }

    fn note(&mut self, device: usize, unit: u8, answer: &Answer, turnaround: Duration) {
        match answer {
            Answer::Response(_) | Answer::Exception(_) => {
                self.silent = 0;
                self.patience.answered(unit, turnaround, now());
                let estimate = self
                    .patience
                    .estimate(unit)
                    .and_then(|estimate| u64::try_from(estimate.as_micros()).ok())
                    .unwrap_or(0);
                self.counts.count(device, |counts| {
                    counts.answers.count();
                    counts.turnaround_us.set(estimate);
                });
                if let Answer::Exception(code) = answer {
                    self.counts.count(device, |counts| counts.exception(*code));
                }
            }
            Answer::Nothing | Answer::Foreign(_) => {
                self.silent += 1;
                self.patience.missed(unit);
                self.counts.count(device, |counts| counts.timeouts.count());
            }
            Answer::Garbage(_) => self.silent = 0,
            Answer::Broken(_) => {}
        }
        let is_serial = matches!(self.wire, Wire::Serial(_));
        let devices = u32::try_from(self.devices.len()).unwrap_or(u32::MAX);
        let most = if is_serial {
            SILENT_TO_REOPEN.saturating_mul(devices)
        } else {
            SILENT_TO_RECONNECT
        };
        if self.silent >= most || matches!(answer, Answer::Broken(_)) {
            self.silent = 0;
            self.link = None;
        }
    }

    /// Reads registers or bits from the place of a block.
    async fn read_words(
        &mut self,
        block: &Block,
        count: u16,
        patience: Duration,
    ) -> Result<Vec<u16>, (ReadError, Option<u8>)> {
        let bytes = bytes_of(block.table, count);
        let question = Question {
            device: block.device,
            unit: block.unit,
            request: reading(block.table, block.start, count),
            lengths: frame_lengths(block.table, bytes),
            patience,
        };
        let answer = self.ask(question).await;
        if matches!(
            answer,
            Answer::Nothing | Answer::Foreign(_) | Answer::Garbage(_)
        ) {
            self.owes(block.unit, bytes);
        }
        match answer {
            Answer::Response(response) => words(response, count).map_err(|error| {
                self.counts
                    .count(block.device, |counts| counts.other_lengths.count());
                (error, None)
            }),
            // A gateway in between says that the device behind it is silent.
            Answer::Exception(code @ (10 | 11)) => Err((ReadError::Missed(explain(code)), None)),
            Answer::Exception(code @ (5 | 6)) => Err((ReadError::Busy(explain(code)), Some(code))),
            Answer::Exception(code) => Err((ReadError::Refused(explain(code)), Some(code))),
            Answer::Nothing => Err((self.missed(block.device), None)),
            Answer::Foreign(why) | Answer::Garbage(why) => {
                Err((self.garbled(block.device, why), None))
            }
            Answer::Broken(why) => Err((ReadError::LineDown(why), None)),
        }
    }

    /// Gets late answers of a unit out of the way, with a question of a length that it does not owe.
    async fn barrier(&mut self, block: &Block) -> Result<(), ReadError> {
        self.forget_owed(block.unit);
        if !self.late.contains_key(&self.debtor(block.unit)) {
            return Ok(());
        }
        let patience = self.patience.of(block.unit, now());
        let Some((place, count)) = self.unowed(block) else {
            return Err(self.missed(block.device));
        };
        match self.read_words(&place, count, patience).await {
            Ok(_) => {}
            Err((ReadError::Refused(_) | ReadError::Busy(_), _)) => sleep(self.bounds.most).await,
            Err((error, _)) => return Err(error),
        }
        self.late.remove(&self.debtor(block.unit));
        // It lives: what it was silent about is that request's fault.
        if self
            .barriers
            .get_mut(block.device)
            .is_some_and(|barriers| barriers.heard(now()))
        {
            self.replan();
        }
        Ok(())
    }

    /// What is owed for long is not coming any more.
    fn forget_owed(&mut self, unit: u8) {
        let limit = (self.patience.longest() * OWED_FOR).max(Duration::from_secs(5));
        let debtor = self.debtor(unit);
        if let Some(owed) = self.late.get_mut(&debtor) {
            owed.retain(|_, since| now().saturating_duration_since(*since) < limit);
            if owed.is_empty() {
                self.late.remove(&debtor);
            }
        }
    }

    /// Where answers do not say whose they are, what one unit owes could be taken for the answer of another: all are one debtor.
    fn debtor(&self, unit: u8) -> u8 {
        if self.manners.accept.any_unit {
            0
        } else {
            unit
        }
    }

    /// A unit owes an answer with so many bytes of data, on a wire where only their order tells answers apart.
    fn owes(&mut self, unit: u8, bytes: u32) {
        if self.link.as_ref().is_some_and(Link::has_only_order) {
            self.late
                .entry(self.debtor(unit))
                .or_default()
                .insert(bytes, now());
        }
    }

    /// A place of a device, and a number of registers, whose answer has a length that its unit does not owe: inside what is read
    /// anyway if possible, a little beyond otherwise.
    fn unowed(&self, block: &Block) -> Option<(Block, u16)> {
        let owed = self.late.get(&self.debtor(block.unit));
        let is_free =
            |table, count: u16| owed.is_none_or(|owed| !owed.contains_key(&bytes_of(table, count)));
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

    /// Reads a block; garbage is asked for once more, silence is not.
    async fn read_block(&mut self, block: &Block) -> Result<Vec<u16>, (ReadError, Option<u8>)> {
        self.barrier(block).await.map_err(|error| (error, None))?;
        let patience = self.patience.of(block.unit, now());
        let silent_before = self.silent;
        match self.read_words(block, block.count, patience).await {
            // Silence with something in it counts as silence.
            Err((ReadError::Garbled(_), _))
                if self.link.is_some() && self.silent <= silent_before =>
            {
                self.counts
                    .count(block.device, |counts| counts.repeated.count());
                // The right answer may still be on its way behind the wrong one.
                self.barrier(block).await.map_err(|error| (error, None))?;
                self.read_words(block, block.count, patience).await
            }
            outcome => outcome,
        }
    }

    /// What a failed read teaches about the map of a device.
    fn learn(&mut self, block: &Block, outcome: &Result<Vec<u16>, (ReadError, Option<u8>)>) {
        let Some(barriers) = self.barriers.get_mut(block.device) else {
            return;
        };
        let changed = match outcome {
            Ok(_) => barriers.answered(block, now()),
            Err((ReadError::Refused(_), Some(2 | 3))) => barriers.refused(block, now()),
            // Busy, failed, another kind of register: no fault of an address.
            Err((ReadError::Refused(_) | ReadError::Busy(_), _)) => barriers.heard(now()),
            Err((ReadError::LineDown(_), _)) => return,
            Err(_) => {
                barriers.not_answered(block);
                false
            }
        };
        if changed | barriers.forget(now()) {
            self.replan();
        }
    }

    /// How long a block takes, as planned.
    fn takes(&self, block: &Block) -> Duration {
        self.devices
            .get(block.device)
            .map_or(Duration::ZERO, |device| {
                costs(&self.wire, device).time(block.table, block.count)
            })
    }

    async fn connected(&mut self) -> Result<(), ReadError> {
        if self.link.is_none() {
            self.connect().await.map_err(ReadError::LineDown)?;
        }
        Ok(())
    }
}

impl Driver for Modbus {
    fn jobs(&self) -> Vec<Job> {
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
        // What a unit owes that may take longer than the silence below is not forgotten.
        self.late.retain(|unit, _| self.patience.may_be_slow(*unit));
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
        self.patience.opened();
        self.counts.opened.count();
        self.link = Some(link);
        Ok(())
    }

    async fn read(&mut self, job: usize) -> Result<Values, ReadError> {
        let Some(block) = self.blocks.get(job).map(Arc::clone) else {
            return Err(ReadError::NoAnswer);
        };
        self.connected().await?;
        let outcome = self.read_block(&block).await;
        self.learn(&block, &outcome);
        if outcome.is_ok() {
            self.identify(block.device).await;
        }
        outcome
            .map(|words| block.decode(&words))
            .map_err(|(error, _)| error)
    }

    async fn probe(&mut self, device: usize, turn: usize) -> Result<(), ReadError> {
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
        let patience = self.patience.of_probe(block.unit);
        match self.read_words(&place, count, patience).await {
            Ok(_) => {
                self.late.remove(&self.debtor(block.unit));
                Ok(())
            }
            // It lives; a refusal does not tell whether late answers are past.
            Err((ReadError::Refused(_) | ReadError::Busy(_), _)) => Ok(()),
            Err((error, _)) => Err(error),
        }
    }

    fn probe_takes(&self, device: usize) -> Duration {
        let Some(spec) = self.devices.get(device) else {
            return Duration::ZERO;
        };
        self.patience.next_probe(spec.unit) + costs(&self.wire, spec).time(Table::Holding, 1)
    }

    /// Closes a line that nobody has used for long; no device of Modbus talks by itself.
    async fn listen(&mut self) -> Result<(usize, Values), ReadError> {
        if let (Some(idle), Some(link)) = (self.manners.close_when_idle, &self.link) {
            sleep_until((link.used() + idle).into()).await;
            self.link = None;
        }
        std::future::pending().await
    }

    async fn write(
        &mut self,
        device: usize,
        action: &Action,
        read_back: Option<ReadBack>,
        repeat: bool,
    ) -> Outcome {
        self.write_action(device, action, read_back, repeat).await
    }

    async fn ask(&mut self, unit: u8, ask: &Ask, within: Duration) -> Said {
        self.ask_anybody(unit, ask, within).await
    }

    fn disconnect(&mut self) {
        self.link = None;
    }
}

/// How long the first answers of units may take.
fn first_answers(devices: &[Arc<Device>]) -> HashMap<u8, Duration> {
    devices
        .iter()
        .filter_map(|device| Some((device.unit, device.first_answer_within?)))
        .collect()
}
