//! Writing to Modbus devices: each write is confirmed by its answer, by reading back, or it is not known whether it was done.
//!
//! Invariants:
//! * An echo of the own adapter is never taken for an answer: whether there is one is learned by a read before the first write.
//! * After a time-out nothing is repeated before it was read back.

use std::time::Duration;

use tokio::time::sleep;
use tokio_modbus::{Request, Response};

use super::link::{Answer, Link};
use super::plan::{Block, bytes_of};
use super::{Modbus, Question};
use crate::field::ReadError;
use crate::field::decode::Table;
use crate::field::write::{Action, Function, Outcome, ReadBack};
use crate::time::now;

/// What devices get to act on a broadcast [Modbus over serial line 1.02, 2.4.1].
const BROADCAST_TURNAROUND: Duration = Duration::from_millis(100);

/// The exception of a device that is busy, and has not done what was asked.
const BUSY: u8 = 6;
/// The exception of a device that has accepted what was asked, and is not done yet.
const ACCEPTED: u8 = 5;
/// After which a busy device is asked to write once more, and one that has accepted a write is asked whether it is done.
const BUSY_PAUSES: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
];

/// What the answer to a write says.
enum Confirmed {
    Yes,
    /// Yes, and this is what it holds now (function 23).
    Holds(Vec<u16>),
    No(u8),
    /// It was accepted, and is not seen to be done yet (exception 5): what it holds.
    Accepted(Option<Vec<u16>>),
    /// Nothing that changes anything went out: the reason.
    NotSent(String),
    /// It was sent, and not answered: what came instead.
    NobodyKnows(String),
}

impl Modbus {
    /// Writes, reads back if asked to or if nothing was answered, and repeats once if that is allowed and shows that it was not done.
    pub(super) async fn write_action(
        &mut self,
        device: usize,
        action: &Action,
        read_back: Option<ReadBack>,
        repeat: bool,
    ) -> Outcome {
        let Some((unit, is_broadcast)) = self
            .devices
            .get(device)
            .map(|device| (device.unit, device.is_broadcast))
        else {
            return Outcome::NotSent("no such device".to_owned());
        };
        if is_broadcast {
            return self.broadcast(device, action).await;
        }
        if let Err(why) = self.ready_to_write(device, unit).await {
            return Outcome::NotSent(why);
        }
        let first = self.confirmed(device, unit, action).await;
        match first {
            Confirmed::Holds(words) => Outcome::Done(Some(words)),
            Confirmed::No(code) => Outcome::Exception(code),
            Confirmed::NotSent(why) => Outcome::NotSent(why),
            // The device will do it, or has done it and shows something else: never a second time.
            Confirmed::Accepted(found) => Outcome::Unknown(found, super::explain(ACCEPTED)),
            Confirmed::Yes => match read_back {
                None => Outcome::Done(None),
                Some(check) => {
                    sleep(check.delay).await;
                    Outcome::Done(self.read_back(device, unit, action).await)
                }
            },
            Confirmed::NobodyKnows(why) => {
                sleep(read_back.map_or(Duration::ZERO, |check| check.delay)).await;
                match self
                    .find_out(device, unit, action, (read_back, repeat))
                    .await
                {
                    Ok(outcome) => outcome,
                    Err(found) => Outcome::Unknown(found, why),
                }
            }
        }
    }

    /// It was sent and not answered: what the device holds tells. The error is that this is not known either, or is something else.
    async fn find_out(
        &mut self,
        device: usize,
        unit: u8,
        action: &Action,
        (read_back, repeat): (Option<ReadBack>, bool),
    ) -> Result<Outcome, Option<Vec<u16>>> {
        let delay = read_back.map_or(Duration::ZERO, |check| check.delay);
        let found = self.read_back(device, unit, action).await;
        match &found {
            Some(words) if holds(action, words) => return Ok(Outcome::Done(found)),
            Some(_) if repeat => {}
            _ => return Err(found),
        }
        match self.confirmed(device, unit, action).await {
            Confirmed::Holds(words) => Ok(Outcome::Done(Some(words))),
            Confirmed::No(code) => Ok(Outcome::Exception(code)),
            Confirmed::Accepted(found) => Err(found),
            Confirmed::Yes => {
                sleep(delay).await;
                Ok(Outcome::Done(self.read_back(device, unit, action).await))
            }
            // The first time it was sent.
            Confirmed::NotSent(_) | Confirmed::NobodyKnows(_) => {
                sleep(delay).await;
                let found = self.read_back(device, unit, action).await;
                if found.as_ref().is_some_and(|words| holds(action, words)) {
                    Ok(Outcome::Done(found))
                } else {
                    Err(found)
                }
            }
        }
    }

    /// Nobody owes anything that could be taken for the answer, and an echo is known.
    async fn ready_to_write(&mut self, device: usize, unit: u8) -> Result<(), String> {
        self.connected().await.map_err(|error| error.to_string())?;
        let probe = self.some_block(device, unit);
        self.barrier(&probe)
            .await
            .map_err(|error| error.to_string())?;
        if self.link.as_ref().is_some_and(Link::needs_echo_test) {
            let patience = self.patience.of(unit, now());
            let Some((place, count)) = self.unowed(&probe) else {
                return Err("the device owes answers".to_owned());
            };
            match self.read_words(&place, count, patience).await {
                Ok(_) | Err((ReadError::Refused(_) | ReadError::Busy(_), _)) => {}
                Err((error, _)) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    /// A place of the device that can be asked for.
    fn some_block(&self, device: usize, unit: u8) -> Block {
        let known = self.blocks.iter().find(|block| block.device == device);
        known.map_or_else(
            || place(device, unit, Table::Holding, 0),
            |block| Block::clone(block),
        )
    }

    async fn confirmed(&mut self, device: usize, unit: u8, action: &Action) -> Confirmed {
        let mut pauses = BUSY_PAUSES.into_iter();
        loop {
            let said = match *action {
                Action::Mask { address, and, or } => {
                    self.mask(device, unit, address, (and, or)).await
                }
                _ => self.send(device, unit, request(action)).await,
            };
            match said {
                // It has done nothing.
                Confirmed::No(BUSY) => match pauses.next() {
                    Some(pause) => sleep(pause).await,
                    None => return Confirmed::No(BUSY),
                },
                Confirmed::No(ACCEPTED) => return self.accepted(device, unit, action).await,
                other => return other,
            }
        }
    }

    /// It accepted the write and needs time: what it holds tells whether it is done.
    async fn accepted(&mut self, device: usize, unit: u8, action: &Action) -> Confirmed {
        let mut found = None;
        for pause in BUSY_PAUSES {
            sleep(pause).await;
            found = self.read_back(device, unit, action).await;
            if let Some(words) = found.take_if(|words| holds(action, words)) {
                return Confirmed::Holds(words);
            }
        }
        Confirmed::Accepted(found)
    }

    async fn send(
        &mut self,
        device: usize,
        unit: u8,
        (request, lengths): (Request<'static>, (u32, u32)),
    ) -> Confirmed {
        let patience = self.patience.of(unit, now());
        self.counts.count(device, |counts| counts.writes.count());
        let asked = request.clone();
        match self
            .ask(Question {
                device,
                unit,
                request,
                lengths,
                patience,
            })
            .await
        {
            Answer::Response(response) => confirmation(&asked, response),
            Answer::Exception(code @ (10 | 11)) => Confirmed::NobodyKnows(super::explain(code)),
            Answer::Exception(code) => Confirmed::No(code),
            Answer::Broken(why) => Confirmed::NobodyKnows(why),
            Answer::Nothing | Answer::Foreign(_) | Answer::Garbage(_) => {
                // Any read has another form than the answer that is owed.
                self.owes(unit, 0);
                Confirmed::NobodyKnows(self.missed(device).to_string())
            }
        }
    }

    /// By function 22 where the device has it; else by reading, changing and writing while nobody else is on the line. The device
    /// itself may change the register in between.
    async fn mask(
        &mut self,
        device: usize,
        unit: u8,
        address: u16,
        (and, or): (u16, u16),
    ) -> Confirmed {
        if !self.without_mask.contains(&unit) {
            match self
                .send(
                    device,
                    unit,
                    (Request::MaskWriteRegister(address, and, or), (10, 10)),
                )
                .await
            {
                Confirmed::No(1) => drop(self.without_mask.insert(unit)),
                other => return other,
            }
        }
        let patience = self.patience.of(unit, now());
        let before = match self
            .read_words(&place(device, unit, Table::Holding, address), 1, patience)
            .await
        {
            Ok(words) => words.first().copied().unwrap_or_default(),
            // Only a write can be accepted.
            Err((ReadError::Refused(_) | ReadError::Busy(_), Some(code))) if code != ACCEPTED => {
                return Confirmed::No(code);
            }
            Err((error, _)) => {
                return Confirmed::NotSent(format!("the present value could not be read: {error}"));
            }
        };
        let wanted = (before & and) | (or & !and);
        match self
            .send(
                device,
                unit,
                (Request::WriteSingleRegister(address, wanted), (8, 8)),
            )
            .await
        {
            Confirmed::Yes => match self
                .read_words(&place(device, unit, Table::Holding, address), 1, patience)
                .await
            {
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
        let (request, lengths) = match action {
            Action::Mask { .. } => {
                return Outcome::NotSent(
                    "bits cannot be written to all devices at once".to_owned(),
                );
            }
            other => request(other),
        };
        self.counts.count(device, |counts| counts.writes.count());
        let question = Question {
            device,
            unit: 0,
            request,
            lengths,
            patience: BROADCAST_TURNAROUND,
        };
        match self.ask(question).await {
            Answer::Broken(why) => Outcome::NotSent(why),
            _ => Outcome::Done(None),
        }
    }

    /// What stands now where an action wrote.
    async fn read_back(&mut self, device: usize, unit: u8, action: &Action) -> Option<Vec<u16>> {
        let (address, count) = action.span();
        let table = if matches!(action, Action::Bits { .. }) {
            Table::Coil
        } else {
            Table::Holding
        };
        let block = Block {
            count,
            ..place(device, unit, table, address)
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
    let another =
        || Confirmed::NobodyKnows("received the confirmation of another write".to_owned());
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

fn place(device: usize, unit: u8, table: Table, start: u16) -> Block {
    Block {
        device,
        unit,
        table,
        start,
        count: 1,
        every: Duration::MAX,
        points: Vec::new(),
    }
}

/// True if `words` are what an action wrote.
fn holds(action: &Action, words: &[u16]) -> bool {
    match action {
        Action::Words { words: wanted, .. } => words == wanted,
        Action::Bits { bits, .. } => words.iter().map(|word| *word != 0).eq(bits.iter().copied()),
        Action::Mask { and, or, .. } => words.first().is_some_and(|word| word & !and == or & !and),
    }
}

/// The request for registers or coils, with the lengths of the frames.
fn request(action: &Action) -> (Request<'static>, (u32, u32)) {
    let bytes = |table, count: usize| bytes_of(table, u16::try_from(count).unwrap_or(u16::MAX));
    match action {
        Action::Words {
            address,
            words,
            function,
        } => {
            let data = bytes(Table::Holding, words.len());
            match (function, words.as_slice()) {
                (Function::Exchange, words) => {
                    let count = u16::try_from(words.len()).unwrap_or(u16::MAX);
                    (
                        Request::ReadWriteMultipleRegisters(
                            *address,
                            count,
                            *address,
                            words.to_vec().into(),
                        ),
                        (13 + data, 5 + data),
                    )
                }
                (Function::Auto, [word]) => (Request::WriteSingleRegister(*address, *word), (8, 8)),
                (_, words) => (
                    Request::WriteMultipleRegisters(*address, words.to_vec().into()),
                    (9 + data, 8),
                ),
            }
        }
        Action::Bits {
            address,
            bits,
            function,
        } => match (function, bits.as_slice()) {
            (Function::Auto, [bit]) => (Request::WriteSingleCoil(*address, *bit), (8, 8)),
            (_, bits) => (
                Request::WriteMultipleCoils(*address, bits.to_vec().into()),
                (9 + bytes(Table::Coil, bits.len()), 8),
            ),
        },
        Action::Mask { address, and, or } => {
            (Request::MaskWriteRegister(*address, *and, *or), (10, 10))
        }
    }
}
