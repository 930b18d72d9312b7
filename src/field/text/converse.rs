//! One instrument is asked: its script, its requests one after the other, and its answers.
//!
//! Invariants:
//! * What came before a question was asked does not answer it.
//! * A line whose speed a script changed has its own speed again afterwards, whatever the instrument did.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use regex::bytes::Regex;
use tokio::time::{sleep, timeout};

use super::instrument::Instrument;
use super::script::{self, Step};
use super::{LONGEST_SETTLE, SETTLE, Talk, Text, parse};
use crate::field::trace::Happening;
use crate::field::trouble::Came;
use crate::field::{ReadError, Values};
use crate::time::now;

impl Text {
    /// Asks one instrument everything it is to be asked.
    pub(super) async fn ask(&mut self, index: usize) -> Result<Values, ReadError> {
        let Some(instrument) = self.instruments.get(index) else {
            return Ok(Vec::new());
        };
        let talk = Arc::clone(&instrument.talk);
        let mut groups = HashMap::from([("address".to_owned(), talk.address.clone().into_bytes())]);
        let result = self.converse(index, &talk, &mut groups).await;
        if let (Some(speed), Some(stream)) =
            (self.port().map(|port| port.speed), self.stream.as_mut())
            && talk
                .script
                .iter()
                .any(|step| matches!(step.always(), Step::Speed(_)))
        {
            stream.set_speed(speed).map_err(ReadError::LineDown)?;
        }
        result
    }

    async fn converse(
        &mut self,
        index: usize,
        talk: &Talk,
        groups: &mut HashMap<String, Vec<u8>>,
    ) -> Result<Values, ReadError> {
        self.forget(index).await?;
        for step in &talk.script {
            self.heartbeat.beat(now());
            self.step(step, groups, self.patience(talk)).await?;
        }
        if talk.requests.is_empty() {
            return self.answer(index, talk).await;
        }
        let mut values: Values = Vec::new();
        let order = self
            .instruments
            .get(index)
            .map(Instrument::order)
            .unwrap_or_default();
        for (turn, number) in order.into_iter().enumerate() {
            let Some(request) = talk.requests.get(number) else {
                continue;
            };
            self.heartbeat.beat(now());
            self.forget(index).await?;
            let bytes = request.fill(groups, |before| {
                talk.checksum
                    .as_ref()
                    .map(|sum| sum.of_request(before))
                    .unwrap_or_default()
            });
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
                self.counts
                    .watchers
                    .tell(|| Happening::Ended("no answer".to_owned()));
                return Err(self
                    .instruments
                    .get_mut(index)
                    .map_or(ReadError::NoAnswer, Instrument::missed));
            };
            let message = message?;
            let Some(instrument) = self.instruments.get_mut(index) else {
                return Ok(Vec::new());
            };
            let values = parse::values(&instrument.device, talk.pattern.as_ref(), &message)
                .unwrap_or_default();
            // What does not look like an answer is none: an echo, a greeting.
            if !values.is_empty() {
                let took = u64::try_from(now().saturating_duration_since(asked).as_micros())
                    .unwrap_or(u64::MAX);
                self.counts.count(index, |counts| {
                    counts.answers.count();
                    counts.turnaround_us.set(took);
                });
                instrument.trouble.answered();
                return Ok(values);
            }
            self.counts.count(index, |counts| counts.unmatched.count());
            instrument.trouble.note(&Came {
                unmatched: 1,
                ..Came::default()
            });
        }
    }

    fn longest_on_wire(&self, talk: &Talk) -> Duration {
        let slowest = if talk.script.is_empty() {
            talk.framing.max.min(1024)
        } else {
            talk.framing.max
        };
        self.port().map_or(Duration::ZERO, |port| {
            port.speed.character() * u32::try_from(slowest).unwrap_or(u32::MAX)
        })
    }

    /// What came before a question does not answer it; nor does a late answer to an earlier question, of this instrument or another
    /// one. Those that talk by themselves keep what they said.
    async fn forget(&mut self, index: usize) -> Result<(), ReadError> {
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
        if let Some(instrument) = self.instruments.get_mut(index) {
            instrument.framer.clear();
        }
        Ok(())
    }

    async fn step(
        &mut self,
        step: &Step,
        groups: &mut HashMap<String, Vec<u8>>,
        patience: Duration,
    ) -> Result<(), ReadError> {
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
                let time = script::time(&template.fill(groups, none))
                    .map_err(|why| ReadError::Garbled(format!("garbled answer: {why}")))?;
                self.heartbeat.through(sleep(time)).await;
                Ok(())
            }
            Step::Speed(template) => {
                let speed = script::speed(&template.fill(groups, none))
                    .map_err(|why| ReadError::Garbled(format!("garbled answer: {why}")))?;
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

    async fn expect(
        &mut self,
        pattern: &Regex,
        groups: &mut HashMap<String, Vec<u8>>,
        patience: Duration,
    ) -> Result<(), ReadError> {
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
                Err(_) if heard.is_empty() => return Err(ReadError::NoAnswer),
                Err(_) => {
                    let why = format!(
                        "received {} bytes that do not match `{}`",
                        heard.len(),
                        pattern.as_str()
                    );
                    return Err(ReadError::Garbled(why));
                }
            }
        }
    }
}
