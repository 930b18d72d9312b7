//! The exchange with one instrument: its script, its requests one after the other, and its answers.
//!
//! Invariants:
//! * Bytes that came before a request do not answer it.
//! * A line whose speed a script changed has its own speed again afterwards, whatever the
//!   instrument did.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use regex::bytes::Regex;
use tokio::time::{sleep, timeout};

use super::instrument::Instrument;
use super::script::{self, ScriptStep};
use super::{LONGEST_SETTLE, SETTLE, Text, TextProtocol, parse};
use crate::field::trace::Happening;
use crate::field::trouble::Came;
use crate::field::{PollError, Values};
use crate::time::now;

impl Text {
    /// Runs the script and all requests of one instrument.
    pub(super) async fn ask(&mut self, index: usize) -> Result<Values, PollError> {
        let Some(instrument) = self.instruments.get(index) else {
            return Ok(Vec::new());
        };
        let protocol = Arc::clone(&instrument.protocol);
        let mut groups = groups_of(&protocol);
        let result = self.converse(index, &protocol, &mut groups).await;
        self.own_speed(&protocol)?;
        result
    }

    /// Gives the line its own speed again, if a script may have changed it.
    pub(super) fn own_speed(&mut self, protocol: &TextProtocol) -> Result<(), PollError> {
        if let (Some(speed), Some(stream)) =
            (self.port().map(|port| port.speed), self.stream.as_mut())
            && protocol
                .script
                .iter()
                .any(|step| matches!(step.always(), ScriptStep::Speed(_)))
        {
            stream.set_speed(speed).map_err(PollError::LineDown)?;
        }
        Ok(())
    }

    async fn converse(
        &mut self,
        index: usize,
        protocol: &TextProtocol,
        groups: &mut HashMap<String, Vec<u8>>,
    ) -> Result<Values, PollError> {
        self.forget(index).await?;
        for step in &protocol.script {
            self.heartbeat.beat(now());
            self.step(step, groups, self.patience(protocol)).await?;
        }
        if protocol.requests.is_empty() {
            return self.answer(index, protocol).await;
        }
        let mut values: Values = Vec::new();
        let instrument = self.instruments.get(index);
        let order = instrument.map(Instrument::order).unwrap_or_default();
        for (turn, number) in order.into_iter().enumerate() {
            let Some(request) = protocol.requests.get(number) else {
                continue;
            };
            self.heartbeat.beat(now());
            self.forget(index).await?;
            let request = request.fill(groups, |before| protocol.checksum_of_request(before));
            self.send(&request).await?;
            let answer = self.answer(index, protocol).await;
            if let Some(instrument) = self.instruments.get_mut(index) {
                instrument.was_answered(number, answer.is_ok());
            }
            match answer {
                Ok(more) => values.extend(more),
                // The values of the other requests are good; only those of this one are missing.
                Err(PollError::NoAnswer | PollError::Missed(_)) if turn > 0 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(values)
    }

    /// The time until this instrument must have begun its answer.
    pub(super) fn patience(&self, protocol: &TextProtocol) -> Duration {
        protocol.answer_within.unwrap_or(self.answer_within)
    }

    async fn answer(&mut self, index: usize, protocol: &TextProtocol) -> Result<Values, PollError> {
        self.counts.count(index, |counts| counts.requests.count());
        let asked = now();
        let answer_within = self.patience(protocol);
        let longest = asked + answer_within + self.longest_on_wire(protocol);
        loop {
            // A first byte in time, and no pause as long as that; what never ends is given up all
            // the same.
            let limit = (asked.max(self.last_byte) + answer_within).min(longest);
            let left = limit.saturating_duration_since(now());
            let Ok(message) = timeout(left, self.next_message(index)).await else {
                if self.last_byte > limit - answer_within && now() < longest {
                    continue;
                }
                return Err(self.gave_up(index, answer_within));
            };
            if let Some(values) = self.taken(index, protocol, &message?, asked) {
                return Ok(values);
            }
        }
    }

    /// No answer came in time.
    fn gave_up(&mut self, index: usize, answer_within: Duration) -> PollError {
        self.owed = Some(now() + answer_within);
        self.counts.count(index, |counts| counts.timeouts.count());
        self.counts
            .watchers
            .tell(|| Happening::Ended("no answer".to_owned()));
        let instrument = self.instruments.get_mut(index);
        instrument.map_or(PollError::NoAnswer, Instrument::missed)
    }

    /// The values in a message; `None` for a message that is no answer: an echo, a greeting.
    fn taken(
        &mut self,
        index: usize,
        protocol: &TextProtocol,
        message: &[u8],
        asked: Instant,
    ) -> Option<Values> {
        let Some(instrument) = self.instruments.get_mut(index) else {
            return Some(Vec::new());
        };
        let values = parse::values(&instrument.device, protocol.pattern.as_ref(), message)
            .filter(|values| !values.is_empty());
        if values.is_some() {
            let took = now().saturating_duration_since(asked).as_micros();
            let took = u64::try_from(took).unwrap_or(u64::MAX);
            self.counts.answered(index, took);
            instrument.trouble.answered();
        } else {
            self.counts.count(index, |counts| counts.unmatched.count());
            instrument.trouble.note(&Came {
                unmatched: 1,
                ..Came::default()
            });
        }
        values
    }

    fn longest_on_wire(&self, protocol: &TextProtocol) -> Duration {
        let slowest = if protocol.script.is_empty() {
            protocol.framing.max.min(1024)
        } else {
            protocol.framing.max
        };
        self.port().map_or(Duration::ZERO, |port| {
            port.speed.character() * u32::try_from(slowest).unwrap_or(u32::MAX)
        })
    }

    /// Discards bytes that came before a request, and late answers to earlier ones, of this
    /// instrument or another: they do not answer it. Messages of instruments that send by
    /// themselves are kept.
    async fn forget(&mut self, index: usize) -> Result<(), PollError> {
        self.settle().await?;
        self.clear(index);
        Ok(())
    }

    /// Waits until nothing that was asked for earlier can come any more.
    pub(super) async fn settle(&mut self) -> Result<(), PollError> {
        if let Some(until) = self.owed.take() {
            while let Ok(received) =
                timeout(until.saturating_duration_since(now()), self.receive()).await
            {
                received?;
            }
        }
        let until = now() + LONGEST_SETTLE;
        while now() < until
            && let Ok(received) = timeout(SETTLE, self.receive()).await
        {
            received?;
        }
        Ok(())
    }

    /// Discards what an instrument has sent up to now.
    pub(super) fn clear(&mut self, index: usize) {
        if let Some(instrument) = self.instruments.get_mut(index) {
            instrument.framer.clear();
        }
    }

    pub(super) async fn step(
        &mut self,
        step: &ScriptStep,
        groups: &mut HashMap<String, Vec<u8>>,
        patience: Duration,
    ) -> Result<(), PollError> {
        let none = |_: &[u8]| Vec::new();
        let mut step = step;
        while let ScriptStep::If(name, inner) = step {
            if groups.get(name).is_none_or(Vec::is_empty) {
                return Ok(());
            }
            step = inner;
        }
        match step {
            ScriptStep::Send(template) => {
                let bytes = template.fill(groups, none);
                self.send(&bytes).await
            }
            ScriptStep::Wait(template) => {
                let time = script::time(&template.fill(groups, none))
                    .map_err(|why| PollError::Garbled(format!("garbled answer: {why}")))?;
                self.heartbeat.through(sleep(time)).await;
                Ok(())
            }
            ScriptStep::Speed(template) => {
                let speed = script::speed(&template.fill(groups, none))
                    .map_err(|why| PollError::Garbled(format!("garbled answer: {why}")))?;
                match self.stream.as_mut() {
                    Some(stream) => stream.set_speed(speed).map_err(PollError::LineDown),
                    None => Ok(()),
                }
            }
            ScriptStep::Expect(pattern) => self.expect(pattern, groups, patience).await,
            // Unwrapped above.
            ScriptStep::If(..) => Ok(()),
        }
    }

    async fn expect(
        &mut self,
        pattern: &Regex,
        groups: &mut HashMap<String, Vec<u8>>,
        patience: Duration,
    ) -> Result<(), PollError> {
        let limit = now()
            + patience
            + self
                .port()
                .map_or(Duration::ZERO, |port| port.speed.character() * 64);
        let mut heard: Vec<u8> = Vec::new();
        loop {
            if let Some(captures) = pattern.captures(&heard) {
                for name in pattern.capture_names().flatten() {
                    let value = captures
                        .name(name)
                        .map(|found| found.as_bytes().to_vec())
                        .unwrap_or_default();
                    groups.insert(name.to_owned(), value);
                }
                return Ok(());
            }
            let left = limit.saturating_duration_since(now());
            match timeout(left, self.receive()).await {
                Ok(bytes) => heard.extend(bytes?),
                Err(_) if heard.is_empty() => return Err(PollError::NoAnswer),
                Err(_) => {
                    let why = format!(
                        "received {} bytes that do not match `{}`",
                        heard.len(),
                        pattern.as_str()
                    );
                    return Err(PollError::Garbled(why));
                }
            }
        }
    }
}

/// What is filled in before a script has found anything.
pub(super) fn groups_of(protocol: &TextProtocol) -> HashMap<String, Vec<u8>> {
    HashMap::from([("address".to_owned(), protocol.address.clone().into_bytes())])
}
