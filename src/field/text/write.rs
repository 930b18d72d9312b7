//! Writes to plain instruments: each is a command with its answer.
//!
//! Invariants:
//! * What came before a command was sent does not confirm it, nor does its own echo.
//! * After a time-out the next request waits until no late answer can come any more.
//! * A command is sent a second time only if reading back shows that the first was not done.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::command::{AnswerVerdict, CommandValue, TextCommand};
use super::converse::groups_of;
use super::{Text, TextProtocol};
use crate::field::trace::Happening;
use crate::field::write::{ReadBack, WriteRequest, Written};
use crate::field::{PointSource, PollError, Values};
use crate::reading::{PointId, Value};
use crate::time::now;

/// The silence after which bytes that are no message, such as a single ACK, are the answer.
const ANSWER_PAUSE: Duration = Duration::from_millis(50);
/// The characters of an answer that may still be on the wire when its time is over.
const LONGEST_ANSWER: u32 = 64;
/// Bytes of an answer that a reason shows.
const MOST_SHOWN: usize = 60;

/// The outcome of a command that was sent, or not.
enum CommandOutcome {
    Done,
    /// What the instrument answered.
    Refused(String),
    /// Nothing went out: the reason.
    NotSent(String),
    /// It was sent, and nobody knows whether it was done: the reason.
    Unanswered(String),
}

/// One point that is written.
struct CommandWrite {
    /// Index of the instrument.
    index: usize,
    protocol: Arc<TextProtocol>,
    point: PointId,
    command: Arc<TextCommand>,
    value: Value,
    /// The value that the point shows once it was done, and where it is read at all.
    shown: Option<Value>,
    read_back: Option<ReadBack>,
    repeat: bool,
}

impl CommandWrite {
    fn delay(&self) -> Duration {
        self.read_back.map_or(Duration::ZERO, |check| check.delay)
    }

    /// True if these values show that it was done; `None` if they say nothing about it.
    fn is_done(&self, values: &Values) -> Option<bool> {
        let sample = values.iter().find(|sample| sample.point == self.point)?;
        let shown = sample.value.as_ref().ok()?;
        let wanted = self.shown.as_ref()?;
        Some(self.read_back.unwrap_or_default().holds(wanted, shown))
    }
}

/// What came after a command was sent.
struct CommandAnswers {
    /// The command, whose echo is no answer.
    sent: Vec<u8>,
    is_echoed: bool,
    /// The last message that is no answer to it.
    other: Option<Vec<u8>>,
    /// Bytes since the last message.
    rest: Vec<u8>,
    has_bad_checksum: bool,
}

impl CommandAnswers {
    fn new(sent: Vec<u8>) -> Self {
        Self {
            sent,
            is_echoed: false,
            other: None,
            rest: Vec::new(),
            has_bad_checksum: false,
        }
    }

    /// What is left of an answer behind the echo of the command.
    fn without_echo<'a>(&mut self, answer: &'a [u8]) -> &'a [u8] {
        match answer.strip_prefix(self.sent.as_slice()) {
            Some(rest) => {
                self.is_echoed = true;
                rest
            }
            None => answer,
        }
    }

    /// A message was cut out of what came: what is left is behind it.
    fn cut_out(&mut self, message: &[u8]) {
        let place = self
            .rest
            .windows(message.len().max(1))
            .position(|window| window == message);
        let behind = place.map_or(self.rest.len(), |at| at + message.len());
        self.rest.drain(..behind);
    }

    /// The outcome once the time is over.
    fn in_the_end(mut self) -> CommandOutcome {
        if let Some(other) = self.other {
            return CommandOutcome::Refused(format!(
                "the instrument answered {}, which `expect` does not match",
                shown(&other)
            ));
        }
        let rest = std::mem::take(&mut self.rest);
        let rest = self.without_echo(&rest);
        CommandOutcome::Unanswered(if self.has_bad_checksum {
            "the answer has a wrong checksum".to_owned()
        } else if !rest.is_empty() {
            format!("received {}, which is no message", shown(rest))
        } else if self.is_echoed {
            "only the command itself came back, as from a wire with an echo".to_owned()
        } else {
            "no answer".to_owned()
        })
    }
}

/// Bytes of an answer, for people.
fn shown(bytes: &[u8]) -> String {
    let cut = bytes.get(..MOST_SHOWN).unwrap_or(bytes);
    let more = if cut.len() < bytes.len() { "..." } else { "" };
    format!("`{}{more}`", cut.escape_ascii())
}

impl Text {
    /// Writes the value of a point.
    pub(super) async fn write_value(&mut self, request: &WriteRequest) -> Written {
        let write = match self.point_write(request) {
            Ok(write) => write,
            Err(why) => return Written::NotSent(why),
        };
        match self.carry_out(&write).await {
            CommandOutcome::NotSent(why) => Written::NotSent(why),
            CommandOutcome::Refused(why) => Written::Refused(None, why),
            CommandOutcome::Done => self.done(&write).await,
            CommandOutcome::Unanswered(why) => self.find_out(&write, why).await,
        }
    }

    fn point_write(&self, request: &WriteRequest) -> Result<CommandWrite, String> {
        let [(id, value)] = request.values.as_slice() else {
            return Err("points of a plain instrument are written one by one".to_owned());
        };
        let instrument = self
            .instruments
            .get(request.device)
            .ok_or("there is no such instrument")?;
        let mut points = instrument.device.points.iter();
        let point = points
            .find(|point| point.id == *id)
            .ok_or("there is no such point")?;
        let command = point
            .write
            .as_ref()
            .and_then(|rules| rules.method.command())
            .ok_or("this point has no command that writes it")?;
        let can_be_read = matches!(point.source, PointSource::Extracted(_))
            && command.value != CommandValue::Nothing;
        Ok(CommandWrite {
            index: request.device,
            protocol: Arc::clone(&instrument.protocol),
            point: *id,
            command: Arc::clone(command),
            value: value.clone(),
            shown: can_be_read.then(|| point.shows(value.clone())),
            read_back: request.read_back,
            repeat: request.repeat,
        })
    }

    /// The result of a command that was confirmed.
    async fn done(&mut self, write: &CommandWrite) -> Written {
        if write.read_back.is_none() {
            return Written::Done(Values::new());
        }
        Written::Done(self.read_back(write).await)
    }

    /// Reads back a command that was not answered, and repeats it where that is allowed and it was
    /// not done.
    async fn find_out(&mut self, write: &CommandWrite, why: String) -> Written {
        let is_worth_a_look = write.protocol.is_polled() || write.read_back.is_some();
        if write.shown.is_none() || !is_worth_a_look {
            return Written::Unknown(Values::new(), why);
        }
        let values = self.read_back(write).await;
        match write.is_done(&values) {
            Some(true) => return Written::Done(values),
            Some(false) if write.repeat => {}
            _ => return Written::Unknown(values, why),
        }
        match self.carry_out(write).await {
            CommandOutcome::Refused(why) => Written::Refused(None, why),
            CommandOutcome::Done => self.done(write).await,
            // The first time it was sent.
            CommandOutcome::NotSent(_) | CommandOutcome::Unanswered(_) => {
                let values = self.read_back(write).await;
                if write.is_done(&values) == Some(true) {
                    Written::Done(values)
                } else {
                    Written::Unknown(values, why)
                }
            }
        }
    }

    /// The values that the instrument shows after a command; none if they cannot be read.
    async fn read_back(&mut self, write: &CommandWrite) -> Values {
        self.heartbeat.through(sleep(write.delay())).await;
        if !write.protocol.is_polled() {
            return self.next_of(write).await;
        }
        // A failure is noted by the next poll.
        let values = self.ask(write.index).await.unwrap_or_default();
        if let Some(instrument) = self.instruments.get_mut(write.index) {
            instrument.missing.heard(&values, now());
        }
        values
    }

    /// The next values of an instrument that sends by itself, with the point that was written.
    async fn next_of(&mut self, write: &CommandWrite) -> Values {
        self.keep_what_was_said();
        let until = now() + self.patience(&write.protocol);
        loop {
            while let Some((index, values)) = self.talked() {
                let has_point = values.iter().any(|sample| sample.point == write.point);
                if index == write.index && has_point {
                    return values;
                }
                self.overheard.push_back((index, values));
            }
            let left = until.saturating_duration_since(now());
            if !matches!(timeout(left, self.receive()).await, Ok(Ok(_))) {
                return Values::new();
            }
        }
    }

    /// Sends a command and waits for its answer.
    async fn carry_out(&mut self, write: &CommandWrite) -> CommandOutcome {
        self.heartbeat.beat(now());
        let mut groups = groups_of(&write.protocol);
        let outcome = match self.make_ready(write, &mut groups).await {
            Ok(()) => self.exchange(write, &groups).await,
            Err(error) => CommandOutcome::NotSent(error.to_string()),
        };
        if self.own_speed(&write.protocol).is_err() {
            // It is opened again, at its own speed.
            self.stream = None;
        }
        outcome
    }

    /// Makes sure that nothing which is on its way can be taken for the answer, and runs the script
    /// before the requests of the instrument.
    async fn make_ready(
        &mut self,
        write: &CommandWrite,
        groups: &mut HashMap<String, Vec<u8>>,
    ) -> Result<(), PollError> {
        let protocol = &write.protocol;
        self.settle().await?;
        self.keep_what_was_said();
        if protocol.is_polled() {
            self.clear(write.index);
        }
        // Without requests the script itself reads the values.
        let steps = protocol.script.iter();
        for step in steps.filter(|_| !protocol.requests.is_empty()) {
            self.step(step, groups, self.patience(protocol)).await?;
        }
        Ok(())
    }

    async fn exchange(
        &mut self,
        write: &CommandWrite,
        groups: &HashMap<String, Vec<u8>>,
    ) -> CommandOutcome {
        let (command, protocol) = (&write.command, &write.protocol);
        let sent = match command.bytes(protocol, &write.value, groups) {
            Ok(sent) => sent,
            Err(why) => return CommandOutcome::NotSent(why),
        };
        self.counts
            .count(write.index, |counts| counts.writes.count());
        // A part of it may be on the wire.
        if let Err(error) = self.send(&sent).await {
            return CommandOutcome::Unanswered(error.to_string());
        }
        let patience = self.patience(protocol);
        if command.expect.is_none() {
            // What it says all the same answers nothing else.
            self.owed = Some(now() + patience);
            return CommandOutcome::Done;
        }
        let on_wire = self.port().map_or(Duration::ZERO, |port| {
            let characters = u32::try_from(sent.len()).unwrap_or(u32::MAX);
            port.speed.character() * characters.saturating_add(LONGEST_ANSWER)
        });
        let until = now() + patience + on_wire;
        let outcome = self.answer_until(write, sent, until).await;
        if matches!(outcome, CommandOutcome::Unanswered(_)) {
            self.owed = Some(now() + patience);
            self.counts
                .count(write.index, |counts| counts.timeouts.count());
            self.counts
                .watchers
                .tell(|| Happening::Ended("no answer to the command".to_owned()));
        }
        outcome
    }

    async fn answer_until(
        &mut self,
        write: &CommandWrite,
        sent: Vec<u8>,
        until: Instant,
    ) -> CommandOutcome {
        let mut answers = CommandAnswers::new(sent);
        loop {
            let left = until.saturating_duration_since(now());
            let is_pause = match timeout(left.min(ANSWER_PAUSE), self.receive()).await {
                Ok(Ok(bytes)) => {
                    answers.rest.extend(bytes);
                    false
                }
                Ok(Err(error)) => return CommandOutcome::Unanswered(error.to_string()),
                Err(_) => true,
            };
            if let Some(outcome) = self.judge_messages(write, &mut answers, is_pause) {
                return outcome;
            }
            // In a stream of values bytes that are no message prove nothing.
            if is_pause && write.protocol.is_polled() {
                let rest = answers.rest.clone();
                let rest = answers.without_echo(&rest);
                if let Some(outcome) = judged(&write.command, rest) {
                    return outcome;
                }
            }
            if now() >= until {
                return answers.in_the_end();
            }
        }
    }

    /// What the messages say that are there.
    fn judge_messages(
        &mut self,
        write: &CommandWrite,
        answers: &mut CommandAnswers,
        is_silent: bool,
    ) -> Option<CommandOutcome> {
        let bad_before = self.bad_messages(write.index);
        while let Some(message) = self.message(write.index, is_silent) {
            answers.cut_out(&message);
            let answer = answers.without_echo(&message);
            let outcome = judged(&write.command, answer);
            if outcome.is_some() {
                return outcome;
            }
            if !answer.is_empty() && !self.takes_as_values(write, &message) {
                answers.other = Some(answer.to_vec());
            }
        }
        if self.bad_messages(write.index) > bad_before {
            answers.rest.clear();
            answers.has_bad_checksum = true;
        }
        None
    }

    /// True if a message brings values and is no answer to a command. Those of an instrument that
    /// sends by itself are reported; those of a polled one answer an earlier request.
    fn takes_as_values(&mut self, write: &CommandWrite, message: &[u8]) -> bool {
        if write.protocol.is_polled() {
            return self.brings_values(write.index, message);
        }
        let values = self.said(write.index, message);
        let has_values = values.is_some();
        self.overheard
            .extend(values.map(|values| (write.index, values)));
        has_values
    }

    /// Notes the values of instruments that have sent by themselves up to now.
    fn keep_what_was_said(&mut self) {
        while let Some(said) = self.talked() {
            self.overheard.push_back(said);
        }
    }
}

/// What an answer says about a command; `None`: nothing.
fn judged(command: &TextCommand, answer: &[u8]) -> Option<CommandOutcome> {
    match command.verdict(answer) {
        AnswerVerdict::Confirmed => Some(CommandOutcome::Done),
        AnswerVerdict::Refused => Some(CommandOutcome::Refused(format!(
            "the instrument answered {}",
            shown(answer)
        ))),
        AnswerVerdict::Other => None,
    }
}
