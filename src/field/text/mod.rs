//! Plain serial instruments: they are asked, or talk by themselves, in lines of text or in frames of bytes; over serial or TCP.
//!
//! Invariants:
//! * A message with a wrong checksum is counted and never looked into.
//! * What came before a question was asked does not answer it.
//! * Instruments that talk by themselves are heard while others are asked.
//! * A point that messages do not bring becomes bad, with what was looked for.
//!
//! `bytes`, `frame`, `checksum`, `script`, `parse`, `missing`, `telegram` are pure.

pub mod bytes;
pub mod checksum;
pub mod frame;
mod instrument;
mod missing;
pub mod parse;
pub mod script;
pub mod simulator;
mod stream;
pub mod telegram;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use regex::bytes::Regex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, sleep_until, timeout};

use super::counts::LineCounts;
use super::serial::{Port, dial};
use super::trouble::Came;
use super::write::{Action, Outcome, ReadBack};
use super::{Device, Driver, Job, Line, ReadError, Values, Wire};
use crate::pulse::Pulse;
use crate::reading::PointId;
use crate::time::now;
use bytes::Template;
use checksum::Checksum;
use frame::Framing;
use instrument::Instrument;
use parse::Subtract;
use script::{Pattern, Step};
use stream::Stream;

/// A TCP connection may take this long, however fast its instruments are to answer.
const SHORTEST_DIAL: Duration = Duration::from_secs(3);
/// How long a wire that never is silent is waited for.
const LONGEST_SETTLE: Duration = Duration::from_millis(50);
/// How long a wire must be silent before a question is asked that messages without an end might answer.
const SETTLE: Duration = Duration::from_millis(2);

/// How one instrument talks.
#[derive(Debug, Clone, PartialEq)]
pub struct Talk {
    /// What is asked, one after the other; none: it talks by itself.
    pub requests: Vec<Template>,
    /// What is said before.
    pub script: Vec<Step>,
    /// How often it is asked, or how long it may be silent.
    pub every: Duration,
    /// How long its messages may lack a point.
    pub silent_after: Duration,
    /// How long it may take to answer; `None`: as long as any on its line.
    pub answer_within: Option<Duration>,
    /// How its messages are cut out of the stream.
    pub framing: Framing,
    /// How they are protected.
    pub checksum: Option<Checksum>,
    /// What is taken from their bytes.
    pub subtract: Option<Subtract>,
    /// What they look like; its groups are values.
    pub pattern: Option<Pattern>,
    /// What stands for `{address}` in requests.
    pub address: String,
    /// What a simulator says for it: all of it again and again, or one for each thing that is sent to it; none: nothing.
    pub simulate: Vec<Template>,
}

impl Talk {
    /// True if it is asked.
    pub fn is_polled(&self) -> bool {
        !self.requests.is_empty() || !self.script.is_empty()
    }

    /// What is sent to it, in this order.
    pub fn sent(&self) -> impl Iterator<Item = &Template> {
        let script = self.script.iter().filter_map(|step| if let Step::Send(template) = step.always() { Some(template) } else { None });
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
    /// Until when an answer may come that was not waited for any longer.
    owed: Option<Instant>,
    /// Scripts and long messages may take many times `answer_within`.
    pulse: Pulse,
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Text").field("wire", &self.wire).finish_non_exhaustive()
    }
}

fn broken(error: &io::Error) -> ReadError {
    ReadError::LineDown(if error.kind() == io::ErrorKind::UnexpectedEof {
        "the connection was closed by the other side, or the adapter was unplugged".to_owned()
    } else {
        format!("the connection broke: {error}")
    })
}

impl Text {
    /// The instruments of a line.
    pub fn new(line: &Line, counts: Arc<LineCounts>, pulse: Pulse) -> Self {
        let instruments = line.devices.iter().filter_map(Instrument::new);
        let answer_within = line.answer_within.most;
        Self {
            wire: line.wire.clone(),
            answer_within,
            stream: None,
            instruments: instruments.collect(),
            counts,
            last_byte: now(),
            owed: None,
            pulse,
        }
    }

    fn port(&self) -> Option<&Port> {
        if let Wire::Serial(port) = &self.wire { Some(port) } else { None }
    }

    /// Waits for bytes, and gives them to every instrument.
    async fn receive(&mut self) -> Result<Vec<u8>, ReadError> {
        let Some(stream) = self.stream.as_mut() else { return Err(ReadError::LineDown("not connected".to_owned())) };
        let mut space = [0; 512];
        let count = stream.read(&mut space).await.map_err(|error| broken(&error))?;
        // An unplugged adapter reads as an end that repeats for ever.
        if count == 0 {
            return Err(broken(&io::ErrorKind::UnexpectedEof.into()));
        }
        self.last_byte = now();
        self.pulse.beat(self.last_byte);
        let bytes = space.get(..count).unwrap_or_default().to_vec();
        self.instruments.iter_mut().for_each(|instrument| instrument.framer.push(&bytes));
        Ok(bytes)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ReadError> {
        let Some(stream) = self.stream.as_mut() else { return Err(ReadError::LineDown("not connected".to_owned())) };
        stream.write_all(bytes).await.map_err(|error| broken(&error))
    }

    /// The next right message of an instrument that is there already.
    fn message(&mut self, index: usize, is_silent: bool) -> Option<Vec<u8>> {
        let instrument = self.instruments.get_mut(index)?;
        loop {
            let next = instrument.next_message(is_silent);
            let junk = std::mem::take(&mut instrument.framer.junk);
            self.counts.junk_bytes.add(junk);
            if junk > 0 {
                instrument.trouble.note(&Came { junk, ..Came::default() });
            }
            let (mut message, is_right) = next?;
            if !is_right {
                self.counts.count(index, |counts| counts.bad_checksums.count());
                instrument.trouble.note(&Came { bad_checksums: 1, ..Came::default() });
                instrument.framer.put_back(&message);
                continue;
            }
            if let Some(subtract) = instrument.talk.subtract {
                subtract.apply(&mut message);
            }
            return Some(message);
        }
    }

    /// How long the wire must still be silent until that ends a message.
    fn silence_left(&self, index: usize) -> Option<Duration> {
        let instrument = self.instruments.get(index)?;
        let silence = instrument.talk.framing.silence()?;
        instrument.framer.has_begun().then(|| (self.last_byte + silence).saturating_duration_since(now()))
    }

    /// Waits for a message of an instrument.
    async fn next_message(&mut self, index: usize) -> Result<Vec<u8>, ReadError> {
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

    /// Asks one instrument everything it is to be asked.
    async fn ask(&mut self, index: usize) -> Result<Values, ReadError> {
        let Some(instrument) = self.instruments.get(index) else { return Ok(Vec::new()) };
        let talk = Arc::clone(&instrument.talk);
        let mut groups = HashMap::from([("address".to_owned(), talk.address.clone().into_bytes())]);
        let result = self.converse(index, &talk, &mut groups).await;
        if let (Some(speed), Some(stream)) = (self.port().map(|port| port.speed), self.stream.as_mut())
            && talk.script.iter().any(|step| matches!(step.always(), Step::Speed(_)))
        {
            stream.set_speed(speed).map_err(ReadError::LineDown)?;
        }
        result
    }

    async fn converse(&mut self, index: usize, talk: &Talk, groups: &mut HashMap<String, Vec<u8>>) -> Result<Values, ReadError> {
        self.forget(index).await?;
        for step in &talk.script {
            self.pulse.beat(now());
            self.step(step, groups, self.patience(talk)).await?;
        }
        if talk.requests.is_empty() {
            return self.answer(index, talk).await;
        }
        let mut values: Values = Vec::new();
        let order = self.instruments.get(index).map(Instrument::order).unwrap_or_default();
        for (turn, number) in order.into_iter().enumerate() {
            let Some(request) = talk.requests.get(number) else { continue };
            self.pulse.beat(now());
            self.forget(index).await?;
            let bytes = request.fill(groups, |before| talk.checksum.as_ref().map(|sum| sum.of_request(before)).unwrap_or_default());
            self.send(&bytes).await?;
            let answer = self.answer(index, talk).await;
            if let Some(instrument) = self.instruments.get_mut(index) {
                instrument.was_answered(number, answer.is_ok());
            }
            match answer {
                Ok(more) => values.extend(more),
                // What the others bring is good; what this one would have brought is missing.
                Err(ReadError::NoAnswer | ReadError::Missed(_)) if turn > 0 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(values)
    }

    /// How long this instrument may take to answer.
    fn patience(&self, talk: &Talk) -> Duration {
        talk.answer_within.unwrap_or(self.answer_within)
    }

    async fn answer(&mut self, index: usize, talk: &Talk) -> Result<Values, ReadError> {
        self.counts.count(index, |counts| counts.requests.count());
        let asked = now();
        let answer_within = self.patience(talk);
        let longest = asked + answer_within + self.longest_on_wire(talk);
        loop {
            // A first byte in time, and no pause as long as that; what never ends is given up all the same.
            let limit = (asked.max(self.last_byte) + answer_within).min(longest);
            let left = limit.saturating_duration_since(now());
            let Ok(message) = timeout(left, self.next_message(index)).await else {
                if self.last_byte > limit - answer_within && now() < longest {
                    continue;
                }
                self.owed = Some(now() + answer_within);
                self.counts.count(index, |counts| counts.timeouts.count());
                return Err(self.instruments.get_mut(index).map_or(ReadError::NoAnswer, Instrument::missed));
            };
            let message = message?;
            let Some(instrument) = self.instruments.get_mut(index) else { return Ok(Vec::new()) };
            let values = parse::values(&instrument.device, talk.pattern.as_ref(), &message).unwrap_or_default();
            // What does not look like an answer is none: an echo, a greeting.
            if !values.is_empty() {
                let took = u64::try_from(now().saturating_duration_since(asked).as_micros()).unwrap_or(u64::MAX);
                self.counts.count(index, |counts| {
                    counts.answers.count();
                    counts.turnaround_us.set(took);
                });
                instrument.trouble.answered();
                return Ok(values);
            }
            self.counts.count(index, |counts| counts.unmatched.count());
            instrument.trouble.note(&Came { unmatched: 1, ..Came::default() });
        }
    }

    fn longest_on_wire(&self, talk: &Talk) -> Duration {
        let slowest = if talk.script.is_empty() { talk.framing.max.min(1024) } else { talk.framing.max };
        self.port().map_or(Duration::ZERO, |port| port.speed.character() * u32::try_from(slowest).unwrap_or(u32::MAX))
    }

    /// What came before a question does not answer it; nor does a late answer to an earlier question, of this instrument or another
    /// one. Those that talk by themselves keep what they said.
    async fn forget(&mut self, index: usize) -> Result<(), ReadError> {
        if let Some(until) = self.owed.take() {
            while let Ok(received) = timeout(until.saturating_duration_since(now()), self.receive()).await {
                received?;
            }
        }
        let until = now() + LONGEST_SETTLE;
        while now() < until
            && let Ok(received) = timeout(SETTLE, self.receive()).await
        {
            received?;
        }
        if let Some(instrument) = self.instruments.get_mut(index) {
            instrument.framer.clear();
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step, groups: &mut HashMap<String, Vec<u8>>, patience: Duration) -> Result<(), ReadError> {
        let none = |_: &[u8]| Vec::new();
        let mut step = step;
        while let Step::If(name, inner) = step {
            if groups.get(name).is_none_or(Vec::is_empty) {
                return Ok(());
            }
            step = inner;
        }
        match step {
            Step::Send(template) => {
                let bytes = template.fill(groups, none);
                self.send(&bytes).await
            }
            Step::Wait(template) => {
                let time =
                    script::time(&template.fill(groups, none)).map_err(|why| ReadError::Garbled(format!("garbled answer: {why}")))?;
                self.pulse.through(sleep(time)).await;
                Ok(())
            }
            Step::Speed(template) => {
                let speed =
                    script::speed(&template.fill(groups, none)).map_err(|why| ReadError::Garbled(format!("garbled answer: {why}")))?;
                match self.stream.as_mut() {
                    Some(stream) => stream.set_speed(speed).map_err(ReadError::LineDown),
                    None => Ok(()),
                }
            }
            Step::Expect(pattern) => self.expect(pattern, groups, patience).await,
            // Unwrapped above.
            Step::If(..) => Ok(()),
        }
    }

    async fn expect(&mut self, pattern: &Regex, groups: &mut HashMap<String, Vec<u8>>, patience: Duration) -> Result<(), ReadError> {
        let limit = now() + patience + self.port().map_or(Duration::ZERO, |port| port.speed.character() * 64);
        let mut heard: Vec<u8> = Vec::new();
        loop {
            if let Some(captures) = pattern.captures(&heard) {
                for name in pattern.capture_names().flatten() {
                    let value = captures.name(name).map(|found| found.as_bytes().to_vec()).unwrap_or_default();
                    groups.insert(name.to_owned(), value);
                }
                return Ok(());
            }
            let left = limit.saturating_duration_since(now());
            match timeout(left, self.receive()).await {
                Ok(bytes) => heard.extend(bytes?),
                Err(_) if heard.is_empty() => return Err(ReadError::NoAnswer),
                Err(_) => {
                    let why = format!("{} bytes came, and none of them match `{}`", heard.len(), pattern.as_str());
                    return Err(ReadError::Garbled(why));
                }
            }
        }
    }

    /// The values of an instrument that has talked by itself.
    fn talked(&mut self) -> Option<(usize, Values)> {
        for index in 0..self.instruments.len() {
            if self.instruments.get(index).is_none_or(|instrument| instrument.talk.is_polled()) {
                continue;
            }
            let is_silent = self.silence_left(index).is_some_and(|left| left.is_zero());
            while let Some(message) = self.message(index, is_silent) {
                let Some(instrument) = self.instruments.get_mut(index) else { break };
                let Some(values) = parse::values(&instrument.device, instrument.talk.pattern.as_ref(), &message) else {
                    self.counts.count(index, |counts| counts.unmatched.count());
                    instrument.trouble.note(&Came { unmatched: 1, ..Came::default() });
                    continue;
                };
                instrument.missing.heard(&values, now());
                // It is there, even if no point finds what it looks for.
                instrument.heard = Some(now());
                if !values.is_empty() {
                    instrument.trouble.answered();
                    self.counts.count(index, |counts| counts.answers.count());
                    return Some((index, values));
                }
            }
        }
        None
    }
}

impl Driver for Text {
    fn jobs(&self) -> Vec<Job> {
        let points =
            |device: &Device| -> Vec<PointId> { device.points.iter().filter(|point| !point.is_derived()).map(|point| point.id).collect() };
        let job = |(index, instrument): (usize, &Instrument)| Job {
            device: index,
            // Two misses make it offline: when it has been silent for as long as it may be, or a little longer.
            every: if instrument.talk.is_polled() { instrument.talk.every } else { instrument.talk.every / 4 },
            takes: Duration::ZERO,
            // Who talks by itself has time to do so.
            delay: if instrument.talk.is_polled() { Duration::ZERO } else { instrument.talk.every },
            points: points(&instrument.device),
        };
        self.instruments.iter().enumerate().map(job).collect()
    }

    async fn connect(&mut self) -> Result<(), String> {
        self.stream = None;
        for instrument in &mut self.instruments {
            instrument.framer.clear();
            instrument.missing.silent();
        }
        self.stream = Some(match &self.wire {
            Wire::Serial(port) => Stream::Serial(Box::new(port.open()?)),
            Wire::Tcp(address) => Stream::Tcp(dial(address, self.answer_within.max(SHORTEST_DIAL)).await?),
            _ => return Err("no wire of plain instruments".to_owned()),
        });
        self.counts.opened.count();
        Ok(())
    }

    async fn read(&mut self, job: usize) -> Result<Values, ReadError> {
        let is_polled = self.instruments.get(job).is_some_and(|instrument| instrument.talk.is_polled());
        let outcome = if is_polled { Some(self.ask(job).await) } else { None };
        let Some(instrument) = self.instruments.get_mut(job) else { return Ok(Vec::new()) };
        let mut values = match outcome {
            Some(Ok(values)) => {
                instrument.missing.heard(&values, now());
                values
            }
            // One missed answer tells nothing of what the others brought.
            Some(Err(error)) => return Err(error),
            // Its values came by themselves; here it is only noticed whether any did.
            None => {
                let silent = instrument.heard.map(|at| now().saturating_duration_since(at));
                if silent.is_none_or(|silent| silent >= instrument.talk.every * 3 / 4) {
                    instrument.missing.silent();
                    return Err(instrument.missed());
                }
                Values::new()
            }
        };
        values.extend(instrument.missing.take(now()));
        Ok(values)
    }

    async fn probe(&mut self, device: usize, _: usize) -> Result<(), ReadError> {
        match self.instruments.get_mut(device) {
            Some(instrument) if instrument.talk.is_polled() => {
                // It is offline, and all its points are bad by that.
                instrument.missing.silent();
                self.ask(device).await.map(drop)
            }
            _ => Err(self.instruments.get_mut(device).map_or(ReadError::NoAnswer, Instrument::missed)),
        }
    }

    fn probe_takes(&self, _: usize) -> Duration {
        self.answer_within
    }

    async fn write(&mut self, _: usize, _: &Action, _: Option<ReadBack>, _: bool) -> Outcome {
        Outcome::NotSent("this instrument cannot be written to".to_owned())
    }

    fn overheard(&mut self) -> Option<(usize, Values)> {
        self.talked()
    }

    async fn listen(&mut self) -> Result<(usize, Values), ReadError> {
        loop {
            if let Some(talked) = self.talked() {
                return Ok(talked);
            }
            let listeners = (0..self.instruments.len())
                .filter(|index| self.instruments.get(*index).is_some_and(|instrument| !instrument.talk.is_polled()));
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
