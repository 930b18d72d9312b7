//! Writes to Modbus devices: each is confirmed by its answer or by reading back, or its outcome is
//! unknown.
//!
//! Invariants:
//! * An echo of the own adapter is never taken for an answer: whether there is one is learned by a
//!   read before the first write.
//! * After a time-out nothing is repeated before it was read back.

use std::time::Duration;

use tokio::time::sleep;
use tokio_modbus::{Request, Response};

use super::Modbus;
use super::block::{Block, Target, bytes_of};
use super::exchange::Question;
use super::link::{Answer, Link};
use super::request::{Action, Function, registers, requests};
use super::words::FrameLengths;
use crate::field::decode::{Register, Table};
use crate::field::write::{ReadBack, WriteRequest, Written};
use crate::field::{Sample, Values};
use crate::reading::PointId;
use crate::time::now;

/// The time that devices get to act on a broadcast [Modbus over serial line 1.02, 2.4.1].
const BROADCAST_TURNAROUND: Duration = Duration::from_millis(100);

/// Frames of functions 5 and 6.
const SINGLE: FrameLengths = FrameLengths::new(8, 8);
/// Frames of function 22.
const MASK: FrameLengths = FrameLengths::new(10, 10);

/// The exception of a device that is busy, and has not done what was asked.
const BUSY: u8 = 6;
/// The exception of a device that has accepted what was asked, and is not done yet.
const ACCEPTED: u8 = 5;
/// After which a busy device is asked to write once more, and one that has accepted a write is
/// asked whether it is done.
const BUSY_PAUSES: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
];

/// The outcome of one request that writes.
enum Outcome {
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

/// The outcome of one attempt to write.
enum Confirmed {
    Yes,
    /// Yes, and the registers hold this now (function 23).
    Holds(Vec<u16>),
    No(u8),
    /// Accepted, and not seen to be done yet (exception 5): the words it holds.
    Accepted(Option<Vec<u16>>),
    /// Nothing that changes anything went out: the reason.
    NotSent(String),
    /// Sent, and not answered: the reason.
    Unanswered(String),
}

/// One request that writes, with what the gateway may do to make sure of it.
struct Write<'a> {
    target: Target,
    action: &'a Action,
    read_back: Option<ReadBack>,
    /// It may be repeated when it is unknown whether it was done.
    repeat: bool,
}

impl Write<'_> {
    /// The time until the device shows the new value.
    fn delay(&self) -> Duration {
        self.read_back.map_or(Duration::ZERO, |check| check.delay)
    }
}

/// Some bits of a holding register.
#[derive(Clone, Copy)]
struct MaskWrite {
    address: u16,
    /// Bits that stay.
    and: u16,
    /// Bits that are set.
    or: u16,
}

impl Modbus {
    /// Does the requests of a write, up to the first that fails.
    pub(super) async fn write_values(&mut self, request: &WriteRequest) -> Written {
        let Some(device) = self.devices.get(request.device).cloned() else {
            return Written::NotSent("no such device".to_owned());
        };
        let actions = match requests(&device, &request.values) {
            Ok(actions) => actions,
            Err(why) => return Written::NotSent(why),
        };
        let points: Vec<_> = registers(&device, &request.values).collect();
        let mut shown = Values::new();
        for (index, action) in actions.iter().enumerate() {
            if let Some(heartbeat) = &self.heartbeat {
                heartbeat.beat(now());
            }
            let outcome = self
                .write_action(request.device, action, request.read_back, request.repeat)
                .await;
            if let Outcome::Done(Some(words)) | Outcome::Unknown(Some(words), _) = &outcome {
                shown.extend(values_in(words, action, &points));
            }
            if !matches!(outcome, Outcome::Done(_)) {
                return failed(outcome, shown, index > 0);
            }
        }
        Written::Done(shown)
    }

    /// Writes, reads back if asked to or if nothing was answered, and repeats once if that is
    /// allowed and shows that it was not done.
    async fn write_action(
        &mut self,
        device: usize,
        action: &Action,
        read_back: Option<ReadBack>,
        repeat: bool,
    ) -> Outcome {
        let Some(spec) = self.devices.get(device) else {
            return Outcome::NotSent("no such device".to_owned());
        };
        let target = Target {
            device,
            unit: spec.unit,
        };
        if spec.is_broadcast {
            return self.broadcast(device, action).await;
        }
        if let Err(why) = self.ready_to_write(target).await {
            return Outcome::NotSent(why);
        }
        let write = Write {
            target,
            action,
            read_back,
            repeat,
        };
        match self.confirmed(target, action).await {
            Confirmed::Holds(words) => Outcome::Done(Some(words)),
            Confirmed::No(code) => Outcome::Exception(code),
            Confirmed::NotSent(why) => Outcome::NotSent(why),
            // The device will do it, or has done it and shows something else: never a second time.
            Confirmed::Accepted(found) => Outcome::Unknown(found, super::explain(ACCEPTED)),
            Confirmed::Yes if read_back.is_none() => Outcome::Done(None),
            Confirmed::Yes => {
                sleep(write.delay()).await;
                Outcome::Done(self.read_back(target, action).await)
            }
            Confirmed::Unanswered(why) => {
                sleep(write.delay()).await;
                match self.find_out(&write).await {
                    Ok(outcome) => outcome,
                    Err(found) => Outcome::Unknown(found, why),
                }
            }
        }
    }

    /// Reads back a write that was sent and not answered, and repeats it where that is allowed and
    /// it was not done. The error: it is still unknown, with the words that the device holds if
    /// they could be read.
    async fn find_out(&mut self, write: &Write<'_>) -> Result<Outcome, Option<Vec<u16>>> {
        let Write { target, action, .. } = *write;
        let found = self.read_back(target, action).await;
        match &found {
            Some(words) if holds(action, words) => return Ok(Outcome::Done(found)),
            Some(_) if write.repeat => {}
            _ => return Err(found),
        }
        match self.confirmed(target, action).await {
            Confirmed::Holds(words) => Ok(Outcome::Done(Some(words))),
            Confirmed::No(code) => Ok(Outcome::Exception(code)),
            Confirmed::Accepted(found) => Err(found),
            Confirmed::Yes => {
                sleep(write.delay()).await;
                Ok(Outcome::Done(self.read_back(target, action).await))
            }
            // The first time it was sent.
            Confirmed::NotSent(_) | Confirmed::Unanswered(_) => {
                sleep(write.delay()).await;
                let found = self.read_back(target, action).await;
                if found.as_ref().is_some_and(|words| holds(action, words)) {
                    Ok(Outcome::Done(found))
                } else {
                    Err(found)
                }
            }
        }
    }

    /// Makes sure that no late answer can be taken for the confirmation, and that an echo is known.
    async fn ready_to_write(&mut self, target: Target) -> Result<(), String> {
        self.connected().await.map_err(|error| error.to_string())?;
        let probe = self.some_block(target);
        self.settle_owed(&probe)
            .await
            .map_err(|error| error.to_string())?;
        if self.link.as_ref().is_some_and(Link::needs_echo_test) {
            let timeout = self.timeouts.of(target.unit, now());
            let Some((place, count)) = self.unowed(&probe) else {
                return Err("the device owes answers".to_owned());
            };
            match self.read_words(&place, count, timeout).await {
                Err(failure) if !failure.is_exception() => return Err(failure.error.to_string()),
                _ => {}
            }
        }
        Ok(())
    }

    /// A block of the device that can be read.
    fn some_block(&self, target: Target) -> Block {
        let known = self
            .blocks
            .iter()
            .find(|block| block.device == target.device);
        known.map_or_else(
            || Block::single(target, Table::Holding, 0),
            |block| Block::clone(block),
        )
    }

    /// Writes, again and again while the device is busy.
    async fn confirmed(&mut self, target: Target, action: &Action) -> Confirmed {
        let mut pauses = BUSY_PAUSES.into_iter();
        loop {
            let confirmed = match *action {
                Action::Mask { address, and, or } => {
                    self.mask(target, MaskWrite { address, and, or }).await
                }
                _ => {
                    let (request, lengths) = request(action);
                    self.send(target, request, lengths).await
                }
            };
            match confirmed {
                // It has done nothing.
                Confirmed::No(BUSY) => match pauses.next() {
                    Some(pause) => sleep(pause).await,
                    None => return Confirmed::No(BUSY),
                },
                Confirmed::No(ACCEPTED) => return self.accepted(target, action).await,
                other => return other,
            }
        }
    }

    /// Reads back until a write that the device has accepted is done.
    async fn accepted(&mut self, target: Target, action: &Action) -> Confirmed {
        let mut found = None;
        for pause in BUSY_PAUSES {
            sleep(pause).await;
            found = self.read_back(target, action).await;
            if let Some(words) = found.take_if(|words| holds(action, words)) {
                return Confirmed::Holds(words);
            }
        }
        Confirmed::Accepted(found)
    }

    async fn send(
        &mut self,
        target: Target,
        request: Request<'static>,
        lengths: FrameLengths,
    ) -> Confirmed {
        let timeout = self.timeouts.of(target.unit, now());
        self.counts
            .count(target.device, |counts| counts.writes.count());
        let asked = request.clone();
        let question = Question {
            target,
            request,
            lengths,
            timeout,
        };
        match self.ask(question).await {
            Answer::Response(response) => confirmation(&asked, response),
            Answer::Exception(code @ (10 | 11)) => Confirmed::Unanswered(super::explain(code)),
            Answer::Exception(code) => Confirmed::No(code),
            Answer::Broken(why) => Confirmed::Unanswered(why),
            Answer::Nothing | Answer::Foreign(_) | Answer::Garbage(_) => {
                // Any read has another form than the answer that is owed.
                self.owes(target.unit, 0);
                Confirmed::Unanswered(self.missed(target.device).to_string())
            }
        }
    }

    /// By function 22 where the device has it; else by reading, changing and writing with the line
    /// to itself. The device itself may change the register in between.
    async fn mask(&mut self, target: Target, mask: MaskWrite) -> Confirmed {
        let MaskWrite { address, and, or } = mask;
        if !self.without_mask.contains(&target.unit) {
            let request = Request::MaskWriteRegister(address, and, or);
            match self.send(target, request, MASK).await {
                Confirmed::No(1) => drop(self.without_mask.insert(target.unit)),
                other => return other,
            }
        }
        let timeout = self.timeouts.of(target.unit, now());
        let block = Block::single(target, Table::Holding, address);
        let before = match self.read_words(&block, 1, timeout).await {
            Ok(words) => words.first().copied().unwrap_or_default(),
            Err(failure) => {
                return match failure.exception {
                    // Only a write can be accepted.
                    Some(code) if failure.is_exception() && code != ACCEPTED => Confirmed::No(code),
                    _ => Confirmed::NotSent(format!(
                        "the present value could not be read: {}",
                        failure.error
                    )),
                };
            }
        };
        let wanted = (before & and) | (or & !and);
        let request = Request::WriteSingleRegister(address, wanted);
        match self.send(target, request, SINGLE).await {
            Confirmed::Yes => match self.read_words(&block, 1, timeout).await {
                Ok(words) => Confirmed::Holds(words),
                Err(_) => Confirmed::Yes,
            },
            other => other,
        }
    }

    async fn broadcast(&mut self, device: usize, action: &Action) -> Outcome {
        if let Err(error) = self.connected().await {
            return Outcome::NotSent(error.to_string());
        }
        if matches!(action, Action::Mask { .. }) {
            return Outcome::NotSent("bits cannot be written to all devices at once".to_owned());
        }
        let (request, lengths) = request(action);
        self.counts.count(device, |counts| counts.writes.count());
        let question = Question {
            target: Target { device, unit: 0 },
            request,
            lengths,
            timeout: BROADCAST_TURNAROUND,
        };
        match self.ask(question).await {
            Answer::Broken(why) => Outcome::NotSent(why),
            _ => Outcome::Done(None),
        }
    }

    /// The words that the device holds where an action wrote.
    async fn read_back(&mut self, target: Target, action: &Action) -> Option<Vec<u16>> {
        let (address, count) = action.span();
        let table = if matches!(action, Action::Bits { .. }) {
            Table::Coil
        } else {
            Table::Holding
        };
        let block = Block {
            count,
            ..Block::single(target, table, address)
        };
        self.connected().await.ok()?;
        // Twice: the first may be what wakes the line up again.
        for _ in 0..2 {
            if let Ok(mut words) = self.read_block(&block).await {
                words.truncate(usize::from(count));
                return Some(words);
            }
            self.connected().await.ok()?;
        }
        None
    }
}

/// A confirmation repeats what was asked; anything else confirms another write.
fn confirmation(request: &Request<'_>, response: Response) -> Confirmed {
    let another = || Confirmed::Unanswered("received the confirmation of another write".to_owned());
    let is_same = match (request, response) {
        (
            Request::ReadWriteMultipleRegisters(_, count, ..),
            Response::ReadWriteMultipleRegisters(words),
        ) => {
            return if words.len() == usize::from(*count) {
                Confirmed::Holds(words)
            } else {
                another()
            };
        }
        (Request::WriteSingleCoil(at, bit), Response::WriteSingleCoil(place, shown)) => {
            (*at, *bit) == (place, shown)
        }
        (Request::WriteSingleRegister(at, word), Response::WriteSingleRegister(place, shown)) => {
            (*at, *word) == (place, shown)
        }
        (Request::WriteMultipleCoils(at, bits), Response::WriteMultipleCoils(place, count)) => {
            (*at, bits.len()) == (place, usize::from(count))
        }
        (
            Request::WriteMultipleRegisters(at, words),
            Response::WriteMultipleRegisters(place, count),
        ) => (*at, words.len()) == (place, usize::from(count)),
        (
            Request::MaskWriteRegister(at, and, or),
            Response::MaskWriteRegister(place, shown_and, shown_or),
        ) => (*at, *and, *or) == (place, shown_and, shown_or),
        _ => false,
    };
    if is_same { Confirmed::Yes } else { another() }
}

/// True if `words` are what an action wrote.
fn holds(action: &Action, words: &[u16]) -> bool {
    match action {
        Action::Words { words: wanted, .. } => words == wanted,
        Action::Bits { bits, .. } => words.iter().map(|word| *word != 0).eq(bits.iter().copied()),
        Action::Mask { and, or, .. } => words.first().is_some_and(|word| word & !and == or & !and),
    }
}

/// The result of a write whose last request was not done. Once one was done before it, the write as
/// a whole cannot count as not done.
fn failed(outcome: Outcome, shown: Values, has_part: bool) -> Written {
    let in_part =
        |shown, why: String| Written::Unknown(shown, format!("only a part was done: {why}"));
    match outcome {
        Outcome::Done(_) => Written::Done(shown),
        Outcome::Unknown(_, why) => Written::Unknown(shown, why),
        Outcome::Exception(code) if has_part => in_part(shown, super::explain(code)),
        Outcome::NotSent(why) if has_part => in_part(shown, why),
        Outcome::Exception(code) => Written::Refused(Some(code), super::explain(code)),
        Outcome::NotSent(why) => Written::NotSent(why),
    }
}

/// The values of those points that lie in the registers of an action.
fn values_in(words: &[u16], action: &Action, points: &[(PointId, &Register)]) -> Values {
    let (start, count) = action.span();
    let value = |(id, register): &(PointId, &Register)| {
        let from = register.address.checked_sub(start)?;
        if from >= count {
            return None;
        }
        let words = words.get(usize::from(from)..)?;
        let words = words.get(..usize::from(register.width()))?;
        Some(Sample::new(*id, register.decode(words, None)))
    };
    points.iter().filter_map(value).collect()
}

/// The request for an action, with the lengths of its frames.
fn request(action: &Action) -> (Request<'static>, FrameLengths) {
    match action {
        Action::Words {
            address,
            words,
            function,
        } => write_registers(*address, words, *function),
        Action::Bits {
            address,
            bits,
            function,
        } => write_coils(*address, bits, *function),
        Action::Mask { address, and, or } => {
            (Request::MaskWriteRegister(*address, *and, *or), MASK)
        }
    }
}

fn write_registers(
    address: u16,
    words: &[u16],
    function: Function,
) -> (Request<'static>, FrameLengths) {
    let count = u16::try_from(words.len()).unwrap_or(u16::MAX);
    let data = bytes_of(Table::Holding, count);
    match (function, words) {
        (Function::Exchange, _) => (
            Request::ReadWriteMultipleRegisters(address, count, address, words.to_vec().into()),
            FrameLengths::new(13 + data, 5 + data),
        ),
        (Function::Auto, [word]) => (Request::WriteSingleRegister(address, *word), SINGLE),
        _ => (
            Request::WriteMultipleRegisters(address, words.to_vec().into()),
            FrameLengths::new(9 + data, 8),
        ),
    }
}

fn write_coils(
    address: u16,
    bits: &[bool],
    function: Function,
) -> (Request<'static>, FrameLengths) {
    if let (Function::Auto, [bit]) = (function, bits) {
        return (Request::WriteSingleCoil(address, *bit), SINGLE);
    }
    let data = bytes_of(Table::Coil, u16::try_from(bits.len()).unwrap_or(u16::MAX));
    (
        Request::WriteMultipleCoils(address, bits.to_vec().into()),
        FrameLengths::new(9 + data, 8),
    )
}
