//! One request and its answer on the open wire, and their traces: counters, timeouts, the fault of
//! a silent device.

use std::time::Duration;

use tokio_modbus::Request;

use super::block::{Block, Target, bytes_of};
use super::frames::{Late, Seen};
use super::link::{Answer, Transaction};
use super::words::{FrameLengths, frame_lengths, reading, words};
use super::{Modbus, explain};
use crate::field::trouble::Trouble;
use crate::field::{PollError, Wire};
use crate::time::now;

/// Time-outs in a row after which a connection is opened again: it may be dead.
const SILENT_TO_RECONNECT: u32 = 4;
/// Time-outs in a row, for each device, after which an adapter counts as deaf.
const SILENT_TO_REOPEN: u32 = 8;

/// A request to a device, ready for the wire.
pub(super) struct Question {
    pub(super) target: Target,
    pub(super) request: Request<'static>,
    pub(super) lengths: FrameLengths,
    /// The longest time until the answer begins.
    pub(super) timeout: Duration,
}

/// Registers were not read.
#[derive(Debug)]
pub(super) struct ReadFailure {
    pub(super) error: PollError,
    /// The code of the device's exception.
    pub(super) exception: Option<u8>,
}

impl ReadFailure {
    /// True if the device answered, with an exception.
    pub(super) fn is_exception(&self) -> bool {
        matches!(self.error, PollError::Refused(_) | PollError::Busy(_))
    }
}

impl From<PollError> for ReadFailure {
    fn from(error: PollError) -> Self {
        Self {
            error,
            exception: None,
        }
    }
}

impl Modbus {
    /// Makes one request, without repetition.
    pub(super) async fn ask(&mut self, question: Question) -> Answer {
        let Target { device, unit } = question.target;
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
        let exchange = link
            .ask(unit, question.request, question.timeout, question.lengths)
            .await;
        let (seen, late) = link.take_seen();
        self.count_on_wire(device, &seen, exchange.busy);
        let is_lost = matches!(exchange.answer, Answer::Nothing | Answer::Foreign(_));
        if is_lost && !is_broadcast {
            self.counts.lost_us.add(micros(exchange.busy));
        }
        late.iter().for_each(|late| self.note_late(late));
        if !is_broadcast {
            // Behind the late answers: a right one ends their trouble, too.
            self.note_seen(device, seen, &exchange.answer);
            self.note_answer(question.target, &exchange);
        }
        exchange.answer
    }

    fn count_on_wire(&self, device: usize, seen: &Seen, busy: Duration) {
        self.counts.busy_us.add(micros(busy));
        self.counts.stale.add(seen.stale);
        self.counts.foreign.add(seen.foreign);
        self.counts.echoes.add(seen.echoes);
        self.counts.junk_bytes.add(seen.junk);
        if seen.bad_checksums > 0 {
            self.counts.count(device, |counts| {
                counts.bad_checksums.add(seen.bad_checksums);
            });
        }
    }

    fn note_late(&mut self, late: &Late) {
        self.timeouts.late(late.unit, late.after);
        let devices = self.devices.iter().zip(&mut self.troubles);
        for (_, trouble) in devices.filter(|(device, _)| device.unit == late.unit) {
            trouble.late(late.after);
        }
    }

    /// Keeps what came instead of an answer until one comes.
    fn note_seen(&mut self, device: usize, seen: Seen, answer: &Answer) {
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

    /// Adapts the timeout of a unit, and closes a link that seems dead.
    fn note_answer(&mut self, target: Target, exchange: &Transaction) {
        let Target { device, unit } = target;
        match &exchange.answer {
            Answer::Response(_) | Answer::Exception(_) => {
                self.silent = 0;
                self.timeouts.answered(unit, exchange.turnaround, now());
                let estimate = self
                    .timeouts
                    .estimate(unit)
                    .and_then(|estimate| u64::try_from(estimate.as_micros()).ok())
                    .unwrap_or(0);
                self.counts.answered(device, estimate);
                if let Answer::Exception(code) = &exchange.answer {
                    self.counts.count(device, |counts| counts.exception(*code));
                }
            }
            Answer::Nothing | Answer::Foreign(_) => {
                self.silent += 1;
                self.timeouts.missed(unit);
                self.counts.count(device, |counts| counts.timeouts.count());
            }
            Answer::Garbage(_) => self.silent = 0,
            Answer::Broken(_) => {}
        }
        if self.silent >= self.most_silent() || matches!(exchange.answer, Answer::Broken(_)) {
            self.silent = 0;
            self.link = None;
        }
    }

    /// Time-outs in a row after which the link is opened again.
    fn most_silent(&self) -> u32 {
        if matches!(self.wire, Wire::Serial(_)) {
            let devices = u32::try_from(self.devices.len()).unwrap_or(u32::MAX);
            SILENT_TO_REOPEN.saturating_mul(devices)
        } else {
            SILENT_TO_RECONNECT
        }
    }

    /// The error for a device that did not answer: what came instead, if anything did.
    pub(super) fn missed(&mut self, device: usize) -> PollError {
        let reason = self.troubles.get_mut(device).and_then(Trouble::reason);
        reason.map_or(PollError::NoAnswer, PollError::Missed)
    }

    /// The error for an answer that is none.
    fn garbled(&mut self, device: usize, otherwise: &str) -> PollError {
        let reason = self.troubles.get_mut(device).and_then(Trouble::reason);
        PollError::Garbled(reason.unwrap_or_else(|| otherwise.to_owned()))
    }

    /// Reads `count` registers or bits from the start of a block.
    pub(super) async fn read_words(
        &mut self,
        block: &Block,
        count: u16,
        timeout: Duration,
    ) -> Result<Vec<u16>, ReadFailure> {
        let bytes = bytes_of(block.table, count);
        let question = Question {
            target: Target {
                device: block.device,
                unit: block.unit,
            },
            request: reading(block.table, block.start, count),
            lengths: frame_lengths(block.table, bytes),
            timeout,
        };
        let answer = self.ask(question).await;
        if answer.is_missing() {
            self.owes(block.unit, bytes);
        }
        let device = block.device;
        Err(match answer {
            Answer::Response(response) => {
                return words(response, count).map_err(|error| {
                    self.counts
                        .count(device, |counts| counts.other_lengths.count());
                    error.into()
                });
            }
            // A gateway in between says that the device behind it is silent.
            Answer::Exception(code @ (10 | 11)) => PollError::Missed(explain(code)).into(),
            Answer::Exception(code) => ReadFailure {
                error: match code {
                    5 | 6 => PollError::Busy(explain(code)),
                    _ => PollError::Refused(explain(code)),
                },
                exception: Some(code),
            },
            Answer::Nothing => self.missed(device).into(),
            Answer::Foreign(why) | Answer::Garbage(why) => self.garbled(device, why).into(),
            Answer::Broken(why) => PollError::LineDown(why).into(),
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(0)
}
