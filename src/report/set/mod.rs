//! Writes to instruments: a message on `<topic>/set` becomes an order to a line, and its end a message on `<topic>/set/result` or on
//! the response topic that came with it.
//!
//! Invariants:
//! * Nothing is written that the YAML does not allow.
//! * Every message is answered once, whatever happens to its line.
//! * A write has its line in the log, with who asked for it; one client causes a bounded number of lines, and what is left out is counted.

mod command;
mod log;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::Value as Json;
use tokio::sync::{mpsc, oneshot};

pub use command::WritablePoint;
use command::{Command, Status, Verdict, joined};
use log::{EVERY, WriteLog, client_id};

use crate::field::write::{Order, ReadBack, Written};
use crate::log::chosen;
use crate::message::{Message, Origin, Publisher};
use crate::mqtt::{QoS, TopicName};
use crate::outbox::OutboxSink;
use crate::reading::{PointId, Value};
use crate::time::{now, unix_ms};

/// What one `.../set` topic writes.
#[derive(Debug, Clone)]
pub struct WriteTarget {
    /// Index of the line.
    pub line: usize,
    /// Index of the device in its line.
    pub device: usize,
    /// The points; several only for a group.
    pub members: Vec<WritablePoint>,
    /// The payload names its points.
    pub is_group: bool,
}

/// What can be written.
#[derive(Debug)]
pub struct WriteTargets {
    /// By topic, with `/set`.
    pub by_topic: HashMap<TopicName, WriteTarget>,
    /// What the gateway publishes itself: points and availability.
    pub published: HashSet<TopicName>,
    /// To the lines, by index.
    pub lines: Vec<mpsc::Sender<Order>>,
}

/// The task that takes writes.
#[derive(Debug)]
pub struct WriteService {
    /// What it writes to.
    pub targets: WriteTargets,
    /// What it writes to from some moment on.
    pub updates: mpsc::Receiver<WriteTargets>,
    /// To local clients.
    pub live: mpsc::Sender<Message>,
    /// Where results may have to go.
    pub sinks: Vec<OutboxSink>,
}

/// What was asked for, until it is answered.
struct PendingWrite {
    topic: TopicName,
    publisher: Option<Arc<Publisher>>,
    /// What was published, as far as the log shows it.
    payload: bytes::Bytes,
    response: Option<(TopicName, Option<bytes::Bytes>)>,
    id: Option<Json>,
    wanted: Vec<Wanted>,
}

/// What was asked for, and where its end is told.
type Waiting = (PendingWrite, oneshot::Receiver<Written>);

/// What one point is to hold.
struct Wanted {
    /// Empty for a single point.
    name: String,
    point: PointId,
    value: Value,
    read_back: Option<ReadBack>,
}

impl WriteService {
    /// Runs until `messages` closes and everything is answered.
    pub async fn run(mut self, mut messages: mpsc::Receiver<Arc<Message>>) -> Result<(), String> {
        let mut last_write: HashMap<PointId, Instant> = HashMap::new();
        let mut log = WriteLog::new();
        let mut look = tokio::time::interval(EVERY);
        let mut waiting = FuturesUnordered::new();
        let mut is_open = true;
        while is_open || !waiting.is_empty() {
            tokio::select! {
                message = messages.recv(), if is_open => match message {
                    None => is_open = false,
                    Some(message) => match self.order(&message, &mut last_write, &mut log) {
                        Ok((asked, answer)) => waiting.push(async move { (asked, answer.await.unwrap_or(Written::NotSent("the line has ended".to_owned()))) }),
                        Err(refused) => self.tell(&refused.0, &refused.1, &mut log).await,
                    },
                },
                Some(targets) = self.updates.recv() => self.targets = targets,
                Some((asked, written)) = waiting.next() => {
                    let verdict = asked.verdict(written);
                    self.tell(&asked, &verdict, &mut log).await;
                }
                _ = look.tick() => log.settle(),
            }
        }
        Ok(())
    }

    /// Checks a message and hands it to its line.
    fn order(
        &self,
        message: &Message,
        last_write: &mut HashMap<PointId, Instant>,
        log: &mut WriteLog,
    ) -> Result<Waiting, Box<(PendingWrite, Verdict)>> {
        let response = self.response(message, log);
        let (topic, publisher, payload) = (
            message.topic.clone(),
            message.publisher.clone(),
            message.payload.clone(),
        );
        let mut asked = PendingWrite {
            topic,
            publisher,
            payload,
            response,
            id: None,
            wanted: Vec::new(),
        };
        match self.checked(message, &mut asked, last_write) {
            Ok((line, order, answer)) => {
                match self
                    .targets
                    .lines
                    .get(line)
                    .map(|line| line.try_send(order))
                {
                    Some(Ok(())) => {
                        last_write.extend(asked.wanted.iter().map(|wanted| (wanted.point, now())));
                        Ok((asked, answer))
                    }
                    Some(Err(mpsc::error::TrySendError::Full(_))) => Err(Box::new((
                        asked,
                        Verdict::rejected("too many writes wait for this line already"),
                    ))),
                    _ => Err(Box::new((asked, Verdict::rejected("the line has ended")))),
                }
            }
            Err(verdict) => Err(Box::new((asked, verdict))),
        }
    }

    fn checked(
        &self,
        message: &Message,
        asked: &mut PendingWrite,
        last_write: &HashMap<PointId, Instant>,
    ) -> Result<(usize, Order, oneshot::Receiver<Written>), Verdict> {
        let target = self.targets.by_topic.get(&message.topic);
        let target = target.ok_or_else(|| {
            Verdict::rejected("this point cannot be written; give it `write:` in the configuration")
        })?;
        // Local clients' flags are taken off by the broker. A remote that keeps a command would have it carried out again after each
        // reconnect.
        if message.retain && !message.payload.is_empty() {
            return Err(Verdict::rejected(
                "the remote broker keeps this command; publish it without the retain flag",
            ));
        }
        let now = now();
        if message.is_expired(now) {
            return Err(Verdict::new(Status::Expired));
        }
        let command =
            Command::read(&message.payload, target.is_group).map_err(Verdict::rejected)?;
        asked.id = command.id;
        let mut actions = Vec::new();
        let mut points = Vec::new();
        let (mut good_for, mut repeat, mut read_back) = (Duration::MAX, true, None::<ReadBack>);
        for (name, value) in command.values {
            let member = target
                .members
                .iter()
                .find(|member| !target.is_group || member.name == name);
            let Some(member) = member else {
                let known: Vec<&str> = target
                    .members
                    .iter()
                    .map(|member| member.name.as_str())
                    .collect();
                return Err(Verdict::rejected(format!(
                    "there is no point \"{name}\" in this group; choose from {}",
                    known.join(", ")
                )));
            };
            let action = member.action(&value).map_err(|why| {
                Verdict::rejected(if name.is_empty() {
                    why
                } else {
                    format!("{name}: {why}")
                })
            })?;
            let pause = member.rules.at_most_every.unwrap_or_default();
            if last_write
                .get(&member.id)
                .is_some_and(|last| now.saturating_duration_since(*last) < pause)
            {
                let pause = humantime::format_duration(pause);
                return Err(Verdict::rejected(format!(
                    "this is written at most every {pause}; try later"
                )));
            }
            let value = member.shown(&action, value);
            asked.wanted.push(Wanted {
                name,
                point: member.id,
                value,
                read_back: member.rules.read_back,
            });
            actions.push((action, member.rules.allow_split));
            points.push((member.id, member.register.clone()));
            good_for = good_for.min(member.rules.good_for);
            repeat &= member.rules.repeat;
            // The longest wait is enough for all.
            let longer = |other: &ReadBack| {
                member
                    .rules
                    .read_back
                    .is_some_and(|own| own.delay > other.delay)
            };
            if read_back.as_ref().is_none_or(longer) {
                read_back = member.rules.read_back.or(read_back);
            }
        }
        let actions = joined(actions).map_err(Verdict::rejected)?;
        if actions.is_empty() {
            return Err(Verdict::rejected(
                "no point is named; write an object of points",
            ));
        }
        let good_for = command
            .deadline_ms
            .map_or(good_for, |ms| good_for.min(Duration::from_millis(ms)));
        let deadline = message
            .expires_at
            .map_or(now + good_for, |at| at.min(now + good_for));
        let (sender, answer) = oneshot::channel();
        let order = Order {
            device: target.device,
            points,
            actions,
            read_back,
            repeat,
            deadline,
            answer: sender,
        };
        Ok((target.line, order, answer))
    }

    /// Where the answer goes, if the message says so and the place is not one of ours.
    fn response(
        &self,
        message: &Message,
        log: &mut WriteLog,
    ) -> Option<(TopicName, Option<bytes::Bytes>)> {
        let topic = message.properties.response_topic.clone()?;
        // Nobody speaks as an instrument, or tells how somebody else's write ended.
        let is_ours = topic.is_reserved()
            || self.targets.published.contains(&topic)
            || topic.as_str().ends_with("/set")
            || (topic.as_str().ends_with("/set/result")
                && topic.as_str() != format!("{}/result", message.topic));
        let event = "write.response_topic_refused";
        if is_ours && let Some(suppressed) = log.permit(event, message.publisher.as_ref()) {
            tracing::warn!(
                event,
                client_id = client_id(message.publisher.as_ref()).map(chosen),
                topic = chosen(topic.as_str()),
                suppressed,
                "a write names a response topic that belongs to this gateway; the result goes to its usual place"
            );
        }
        (!is_ours).then(|| (topic, message.properties.correlation_data.clone()))
    }

    /// Publishes how a write ended, and writes it down.
    async fn tell(&self, asked: &PendingWrite, verdict: &Verdict, log: &mut WriteLog) {
        let text = verdict.json(asked.id.as_ref(), unix_ms());
        log.write(asked, verdict);
        let usual = || TopicName::new(format!("{}/result", asked.topic)).ok();
        let Some(topic) = asked
            .response
            .as_ref()
            .map(|(topic, _)| topic.clone())
            .or_else(usual)
        else {
            return;
        };
        let mut message = Message::new(topic, text, Origin::Field).with_qos(QoS::AtLeastOnce);
        if let Some((_, Some(correlation))) = &asked.response {
            message.properties.edit().correlation_data = Some(correlation.clone());
        }
        // The broker's queue is the only one here that may be full for a moment; a result is worth the wait.
        let _ = self.live.send(message.clone()).await;
        for sink in &self.sinks {
            if let Err(error) = sink.offer(&message).await
                && let Some(suppressed) =
                    log.permit("write.result_refused", asked.publisher.as_ref())
            {
                let event = "write.result_refused";
                tracing::error!(event, topic = chosen(message.topic.as_str()), %error, suppressed, "the result of a write cannot go north");
            }
        }
    }
}

impl PendingWrite {
    fn wanted_text(&self) -> String {
        let one = |Wanted { name, value, .. }: &Wanted| {
            if name.is_empty() {
                value.to_string()
            } else {
                format!("{name}={value}")
            }
        };
        self.wanted.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    fn verdict(&self, written: Written) -> Verdict {
        let named = |values: Vec<(PointId, Result<Value, Arc<str>>)>| {
            let name = |id: PointId| {
                self.wanted
                    .iter()
                    .find(|wanted| wanted.point == id)
                    .map(|wanted| wanted.name.clone())
            };
            values
                .into_iter()
                .filter_map(|(id, value)| Some((name(id)?, value.ok()?)))
                .collect::<Vec<_>>()
        };
        match written {
            Written::Done(values) => {
                let shown = named(values);
                let status = if self.is_shown(&shown) {
                    Status::Ok
                } else {
                    Status::VerifyMismatch
                };
                let written = || {
                    self.wanted
                        .iter()
                        .map(|wanted| (wanted.name.clone(), wanted.value.clone()))
                        .collect()
                };
                let values = if shown.is_empty() && status == Status::Ok {
                    written()
                } else {
                    shown
                };
                Verdict {
                    values,
                    ..Verdict::new(status)
                }
            }
            Written::Exception(code) => Verdict {
                code: Some(code),
                ..Verdict::new(Status::Exception)
            },
            Written::Unknown(values, why) => Verdict {
                values: named(values),
                reason: Some(format!("it was sent, and not confirmed: {why}")),
                ..Verdict::new(Status::TimeoutUnknown)
            },
            Written::NotSent(why) => Verdict::rejected(why),
            Written::Expired => Verdict::new(Status::Expired),
        }
    }

    /// True if what was read back is what was wanted; nothing read back is no contradiction unless it was asked for.
    fn is_shown(&self, values: &[(String, Value)]) -> bool {
        self.wanted.iter().all(|wanted| {
            let Some(check) = wanted.read_back else {
                return true;
            };
            let Some((_, shown)) = values.iter().find(|(other, _)| *other == wanted.name) else {
                return false;
            };
            match (wanted.value.as_f64(), shown.as_f64()) {
                (Some(wanted), Some(shown)) => {
                    (wanted - shown).abs() <= check.tolerance + wanted.abs() * 1e-9
                }
                _ => wanted.value == *shown,
            }
        })
    }
}
