//! Plain serial instruments: polled, or sending by themselves, in lines of text or in frames of
//! bytes; over serial or TCP.
//!
//! Invariants:
//! * A message with a wrong checksum is counted and never looked into.
//! * What came before a question was asked does not answer it.
//! * Messages of instruments that send by themselves are received while others are polled.
//! * A point that messages do not bring becomes bad, with what was looked for.
//!
//! `bytes`, `frame`, `checksum`, `script`, `parse`, `missing`, `foreign`, `telegram`, `command`,
//! `held` are pure; `converse` asks, `write` writes.

pub mod bytes;
pub mod checksum;
pub mod command;
mod converse;
mod foreign;
pub mod frame;
pub mod held;
mod instrument;
mod missing;
pub mod parse;
pub mod script;
pub mod simulator;
pub mod telegram;
#[cfg(test)]
mod tests;
mod write;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep_until, timeout};

use super::counts::LineCounts;
use super::serial::Port;
use super::stream::{Stream, broken};
use super::trace::Happening;
use super::trouble::Came;
use super::write::{WriteRequest, Written};
use super::{Device, Driver, Job, Line, PollError, Values, Wire};
use crate::heartbeat::Heartbeat;
use crate::time::now;
use bytes::Template;
use checksum::Checksum;
use foreign::Listener;
use frame::MessageFraming;
use instrument::Instrument;
use parse::Subtract;
use script::{Pattern, ScriptStep};

/// The longest wait for a wire that never becomes silent.
const LONGEST_SETTLE: Duration = Duration::from_millis(50);
/// The silence before a request, where messages have no end that separates them from its answer.
const SETTLE: Duration = Duration::from_millis(2);

/// The protocol of one instrument.
#[derive(Debug, Clone, PartialEq)]
pub struct TextProtocol {
    /// The requests, one after the other; none: it sends by itself.
    pub requests: Vec<Template>,
    /// The script before the requests.
    pub script: Vec<ScriptStep>,
    /// The polling interval, or the longest silence of one that sends by itself.
    pub every: Duration,
    /// The longest time that its messages may lack a point.
    pub silent_after: Duration,
    /// The timeout of its answers; `None`: that of its line.
    pub answer_within: Option<Duration>,
    /// The bounds of its messages in the stream.
    pub framing: MessageFraming,
    /// Their checksum.
    pub checksum: Option<Checksum>,
    /// The value that is subtracted from their bytes.
    pub subtract: Option<Subtract>,
    /// Their pattern; its groups are values.
    pub pattern: Option<Pattern>,
    /// The text for `{address}` in requests.
    pub address: String,
    /// The messages of a simulator: sent again and again, or one for each request; none: it stays
    /// silent.
    pub simulate: Vec<Template>,
}

impl TextProtocol {
    /// The checksum of a request over the bytes before it; empty without one.
    pub(super) fn checksum_of_request(&self, before: &[u8]) -> Vec<u8> {
        let checksum = self.checksum.as_ref();
        checksum
            .map(|checksum| checksum.of_request(before))
            .unwrap_or_default()
    }

    /// True if it is polled, and does not only send by itself.
    pub fn is_polled(&self) -> bool {
        !self.requests.is_empty() || !self.script.is_empty()
    }

    /// The templates of its requests, in this order.
    pub fn sent(&self) -> impl Iterator<Item = &Template> {
        let script = self.script.iter().filter_map(|step| {
            if let ScriptStep::Send(template) = step.always() {
                Some(template)
            } else {
                None
            }
        });
        script.chain(&self.requests)
    }
}

/// The driver of a line with plain instruments.
pub struct Text {
    wire: Wire,
    answer_within: Duration,
    stream: Option<Stream>,
    instruments: Vec<Instrument>,
    counts: Arc<LineCounts>,
    last_byte: Instant,
    /// Values that came by themselves while a command was carried out.
    overheard: VecDeque<(usize, Values)>,
    /// Until when an answer may come that was not waited for any longer.
    owed: Option<Instant>,
    /// Binary protocols where text was expected.
    listener: Listener,
    /// Scripts and long messages may take many times `answer_within`.
    heartbeat: Heartbeat,
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Text")
            .field("wire", &self.wire)
            .finish_non_exhaustive()
    }
}

impl Text {
    /// The instruments of a line.
    pub fn new(line: &Line, counts: Arc<LineCounts>, heartbeat: Heartbeat) -> Self {
        let instruments = line.devices.iter().filter_map(Instrument::new);
        let answer_within = line.answer_within.most;
        Self {
            wire: line.wire.clone(),
            answer_within,
            stream: None,
            instruments: instruments.collect(),
            counts,
            last_byte: now(),
            overheard: VecDeque::new(),
            owed: None,
            listener: Listener::default(),
            heartbeat,
        }
    }

    fn port(&self) -> Option<&Port> {
        if let Wire::Serial(port) = &self.wire {
            Some(port)
        } else {
            None
        }
    }

    /// Waits for bytes, and gives them to every instrument.
    async fn receive(&mut self) -> Result<Vec<u8>, PollError> {
        let Some(stream) = self.stream.as_mut() else {
            return Err(PollError::LineDown("not connected".to_owned()));
        };
        let mut space = [0; 512];
        let count = stream
            .read(&mut space)
            .await
            .map_err(|error| broken(&error))?;
        // An unplugged adapter reads as an end that repeats for ever.
        if count == 0 {
            return Err(broken(&io::ErrorKind::UnexpectedEof.into()));
        }
        self.last_byte = now();
        self.heartbeat.beat(self.last_byte);
        let bytes = space.get(..count).unwrap_or_default().to_vec();
        self.counts
            .watchers
            .tell(|| Happening::Received(bytes.clone()));
        let foreign = self.listener.hear(&bytes);
        for instrument in &mut self.instruments {
            instrument.framer.push(&bytes);
            foreign
                .into_iter()
                .for_each(|what| instrument.trouble.speaks(what));
        }
        Ok(bytes)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), PollError> {
        let Some(stream) = self.stream.as_mut() else {
            return Err(PollError::LineDown("not connected".to_owned()));
        };
        stream
            .write_all(bytes)
            .await
            .map_err(|error| broken(&error))?;
        self.counts
            .watchers
            .tell(|| Happening::Sent(bytes.to_vec()));
        Ok(())
    }

    /// The next right message of an instrument that is there already.
    fn message(&mut self, index: usize, is_silent: bool) -> Option<Vec<u8>> {
        let instrument = self.instruments.get_mut(index)?;
        loop {
            let next = instrument.next_message(is_silent);
            let junk = std::mem::take(&mut instrument.framer.junk);
            self.counts.junk_bytes.add(junk);
            if junk > 0 {
                instrument.trouble.note(&Came {
                    junk,
                    ..Came::default()
                });
            }
            let (mut message, is_right) = next?;
            if !is_right {
                self.counts
                    .count(index, |counts| counts.bad_checksums.count());
                instrument.trouble.note(&Came {
                    bad_checksums: 1,
                    ..Came::default()
                });
                instrument.bad_messages += 1;
                instrument.framer.put_back(&message);
                continue;
            }
            if let Some(subtract) = instrument.protocol.subtract {
                subtract.apply(&mut message);
            }
            return Some(message);
        }
    }

    /// The remaining silence that ends a message.
    fn silence_left(&self, index: usize) -> Option<Duration> {
        let instrument = self.instruments.get(index)?;
        let silence = instrument.protocol.framing.silence()?;
        instrument
            .framer
            .has_begun()
            .then(|| (self.last_byte + silence).saturating_duration_since(now()))
    }

    /// Waits for a message of an instrument.
    async fn next_message(&mut self, index: usize) -> Result<Vec<u8>, PollError> {
        loop {
            if let Some(message) = self.message(index, false) {
                return Ok(message);
            }
            match self.silence_left(index) {
                Some(left) => match timeout(left, self.receive()).await {
                    Ok(received) => drop(received?),
                    Err(_) => {
                        if let Some(message) = self.message(index, true) {
                            return Ok(message);
                        }
                    }
                },
                None => drop(self.receive().await?),
            }
        }
    }

    /// The values of an instrument that has talked by itself.
    fn talked(&mut self) -> Option<(usize, Values)> {
        for index in 0..self.instruments.len() {
            if self
                .instruments
                .get(index)
                .is_none_or(|instrument| instrument.protocol.is_polled())
            {
                continue;
            }
            let is_silent = self.silence_left(index).is_some_and(|left| left.is_zero());
            while let Some(message) = self.message(index, is_silent) {
                if let Some(values) = self.said(index, &message) {
                    return Some((index, values));
                }
            }
        }
        None
    }

    /// The values in a message of an instrument that sends by itself; `None` if it brings none.
    fn said(&mut self, index: usize, message: &[u8]) -> Option<Values> {
        let instrument = self.instruments.get_mut(index)?;
        let Some(values) = instrument.values(message) else {
            self.counts.count(index, |counts| counts.unmatched.count());
            instrument.trouble.note(&Came {
                unmatched: 1,
                ..Came::default()
            });
            return None;
        };
        instrument.missing.heard(&values, now());
        // It is there, even if no point finds what it looks for.
        instrument.heard = Some(now());
        if values.is_empty() {
            return None;
        }
        instrument.trouble.answered();
        self.counts.count(index, |counts| counts.answers.count());
        Some(values)
    }

    /// True if a message brings values.
    fn brings_values(&self, index: usize, message: &[u8]) -> bool {
        let instrument = self.instruments.get(index);
        instrument
            .and_then(|instrument| instrument.values(message))
            .is_some_and(|values| !values.is_empty())
    }

    /// The messages with a wrong checksum so far.
    fn bad_messages(&self, index: usize) -> u64 {
        self.instruments
            .get(index)
            .map_or(0, |instrument| instrument.bad_messages)
    }
}

/// The job of an instrument: it is asked, or noticed when it is silent.
fn job(index: usize, device: &Device, protocol: &TextProtocol) -> Job {
    let points = device.points.iter().filter(|point| point.is_read());
    let is_polled = protocol.is_polled();
    Job {
        device: index,
        // Two misses make it offline: when it has been silent for as long as it may be, or a little
        // longer.
        every: if is_polled {
            protocol.every
        } else {
            protocol.every / 4
        },
        takes: Duration::ZERO,
        // Who talks by itself has time to do so.
        delay: if is_polled {
            Duration::ZERO
        } else {
            protocol.every
        },
        points: points.map(|point| point.id).collect(),
    }
}

/// How the instruments of a line are asked; nothing of those that send by themselves.
pub(super) fn polls(devices: &[Arc<Device>]) -> Vec<Job> {
    let polled = |(index, device): (usize, &Arc<Device>)| {
        let protocol = device.protocol.text()?;
        protocol.is_polled().then(|| job(index, device, protocol))
    };
    devices.iter().enumerate().filter_map(polled).collect()
}

impl Driver for Text {
    fn plan(&self) -> Vec<Job> {
        let instruments = self.instruments.iter().enumerate();
        instruments
            .map(|(index, instrument)| job(index, &instrument.device, &instrument.protocol))
            .collect()
    }

    async fn connect(&mut self) -> Result<(), String> {
        self.stream = None;
        for instrument in &mut self.instruments {
            instrument.framer.clear();
            instrument.missing.silent();
        }
        self.stream = Some(Stream::open(&self.wire, self.answer_within).await?);
        self.counts.opened.count();
        self.counts.watchers.tell(|| Happening::Opened);
        Ok(())
    }

    async fn read(&mut self, job: usize) -> Result<Values, PollError> {
        let is_polled = self
            .instruments
            .get(job)
            .is_some_and(|instrument| instrument.protocol.is_polled());
        let outcome = if is_polled {
            Some(self.ask(job).await)
        } else {
            None
        };
        let Some(instrument) = self.instruments.get_mut(job) else {
            return Ok(Vec::new());
        };
        let mut values = match outcome {
            Some(Ok(values)) => {
                instrument.missing.heard(&values, now());
                values
            }
            // The values of the other requests stay valid.
            Some(Err(error)) => return Err(error),
            // Its values came by themselves; here it is only noticed whether any did.
            None => {
                let silent = instrument
                    .heard
                    .map(|at| now().saturating_duration_since(at));
                if silent.is_none_or(|silent| silent >= instrument.protocol.every * 3 / 4) {
                    instrument.missing.silent();
                    return Err(instrument.missed());
                }
                Values::new()
            }
        };
        values.extend(instrument.missing.take(now()));
        Ok(values)
    }

    async fn probe(&mut self, device: usize, _: usize) -> Result<(), PollError> {
        match self.instruments.get_mut(device) {
            Some(instrument) if instrument.protocol.is_polled() => {
                // It is offline, and all its points are bad by that.
                instrument.missing.silent();
                self.ask(device).await.map(drop)
            }
            _ => Err(self
                .instruments
                .get_mut(device)
                .map_or(PollError::NoAnswer, Instrument::missed)),
        }
    }

    fn probe_takes(&self, _: usize) -> Duration {
        self.answer_within
    }

    async fn write(&mut self, request: &WriteRequest) -> Written {
        self.write_value(request).await
    }

    fn overheard(&mut self) -> Option<(usize, Values)> {
        self.overheard.pop_front().or_else(|| self.talked())
    }

    async fn listen(&mut self) -> Result<(usize, Values), PollError> {
        loop {
            if let Some(said) = self.overheard() {
                return Ok(said);
            }
            let listeners = (0..self.instruments.len()).filter(|index| {
                self.instruments
                    .get(*index)
                    .is_some_and(|instrument| !instrument.protocol.is_polled())
            });
            let silence = listeners.filter_map(|index| self.silence_left(index)).min();
            match silence {
                Some(left) => tokio::select! {
                    received = self.receive() => drop(received?),
                    () = sleep_until((now() + left).into()) => {}
                },
                None => drop(self.receive().await?),
            }
        }
    }

    fn disconnect(&mut self) {
        self.stream = None;
    }
}
