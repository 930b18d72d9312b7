//! Writes to instruments: a message on `<topic>/set` becomes an order to a line, and its result a
//! message on `<topic>/set/result` or on the response topic of the message.
//!
//! Invariants:
//! * Nothing is written that the YAML does not allow.
//! * Every message is answered once, whatever happens to its line.
//! * Every write is logged with the client that asked for it; one client causes a bounded number of
//!   lines, and suppressed lines are counted.

mod command;
mod log;
mod order;
mod pending;
mod result;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};

use command::Command;
pub use command::WritablePoint;
use log::{SETTLE_EVERY, WriteLog, client_id};
use order::OrderParts;
use pending::{PendingWrite, ReplyTo, WantedValue};
use result::{WriteResult, WriteStatus};

use crate::field::Device;
use crate::field::write::{Order, Written};
use crate::log::chosen;
use crate::message::{Message, Origin};
use crate::mqtt::{QoS, TopicName};
use crate::reading::PointId;
use crate::route::Router;
use crate::time::{now, unix_ms};

/// The points behind one `.../set` topic.
#[derive(Debug, Clone)]
pub struct WriteTarget {
    /// Index of the line.
    pub line: usize,
    /// Index of the device in its line.
    pub device: usize,
    /// The device.
    pub instrument: Arc<Device>,
    /// The points; several only for a group.
    pub members: Vec<WritablePoint>,
    /// The payload names its points.
    pub is_group: bool,
}

impl WriteTarget {
    /// The point with a name in the payload; the only one if the payload has no names.
    fn point(&self, name: &str) -> Result<&WritablePoint, WriteResult> {
        let point = self
            .members
            .iter()
            .find(|member| !self.is_group || *member.point.name == *name);
        point.ok_or_else(|| {
            let known: Vec<&str> = self
                .members
                .iter()
                .map(|member| &*member.point.name)
                .collect();
            WriteResult::rejected(format!(
                "there is no point \"{name}\" in this group; choose from {}",
                known.join(", ")
            ))
        })
    }
}

/// Everything that can be written.
#[derive(Debug)]
pub struct WriteTargets {
    /// By topic, with `/set`.
    pub by_topic: HashMap<TopicName, WriteTarget>,
    /// The topics the gateway publishes on itself: points and availability.
    pub published: HashSet<TopicName>,
    /// To the lines, by index.
    pub lines: Vec<mpsc::Sender<Order>>,
}

/// The task that takes writes.
#[derive(Debug)]
pub struct WriteService {
    /// Everything that can be written.
    pub targets: WriteTargets,
    /// Replacements of `targets`, after a reload.
    pub updates: mpsc::Receiver<WriteTargets>,
    /// To local clients and remotes.
    pub router: Router,
}

/// When points were written last.
type LastWrites = HashMap<PointId, Instant>;

/// A write that its line has taken.
struct Submitted {
    write: PendingWrite,
    answer: oneshot::Receiver<Written>,
}

impl Submitted {
    /// Waits for the line.
    async fn finished(self) -> (PendingWrite, Written) {
        let ended = || Written::NotSent("the line has ended".to_owned());
        (self.write, self.answer.await.unwrap_or_else(|_| ended()))
    }
}

/// A write that was refused.
struct RefusedWrite {
    write: PendingWrite,
    result: WriteResult,
}

impl WriteService {
    /// Runs until `messages` closes and everything is answered.
    pub async fn run(mut self, mut messages: mpsc::Receiver<Arc<Message>>) -> Result<(), String> {
        let mut last_writes = LastWrites::new();
        let mut log = WriteLog::new();
        let mut settle = tokio::time::interval(SETTLE_EVERY);
        let mut submitted = FuturesUnordered::new();
        let mut is_open = true;
        while is_open || !submitted.is_empty() {
            tokio::select! {
                message = messages.recv(), if is_open => match message {
                    None => is_open = false,
                    Some(message) => match self.submit(&message, &mut last_writes, &mut log) {
                        Ok(write) => submitted.push(write.finished()),
                        Err(refused) => self.answer(&refused.write, &refused.result, &mut log).await?,
                    },
                },
                Some(targets) = self.updates.recv() => self.targets = targets,
                Some((write, written)) = submitted.next() => {
                    let result = write.result(written);
                    self.answer(&write, &result, &mut log).await?;
                }
                _ = settle.tick() => log.settle(),
            }
        }
        Ok(())
    }

    /// Checks a message and hands it to its line.
    fn submit(
        &self,
        message: &Message,
        last_writes: &mut LastWrites,
        log: &mut WriteLog,
    ) -> Result<Submitted, Box<RefusedWrite>> {
        let mut write = PendingWrite::of(message, self.reply_to(message, log));
        match self.hand_over(message, &mut write, last_writes) {
            Ok(answer) => {
                last_writes.extend(write.wanted.iter().map(|wanted| (wanted.point, now())));
                Ok(Submitted { write, answer })
            }
            Err(result) => Err(Box::new(RefusedWrite { write, result })),
        }
    }

    fn hand_over(
        &self,
        message: &Message,
        write: &mut PendingWrite,
        last_writes: &LastWrites,
    ) -> Result<oneshot::Receiver<Written>, WriteResult> {
        let target = self.target_of(message)?;
        let parts = checked(target, message, write, last_writes)?;
        let (answer, receiver) = oneshot::channel();
        let order = parts.order(target, answer)?;
        let line = self.targets.lines.get(target.line);
        match line.map(|line| line.try_send(order)) {
            Some(Ok(())) => Ok(receiver),
            Some(Err(mpsc::error::TrySendError::Full(_))) => Err(WriteResult::rejected(
                "too many writes wait for this line already",
            )),
            _ => Err(WriteResult::rejected("the line has ended")),
        }
    }

    /// The target of a message that may be carried out.
    fn target_of(&self, message: &Message) -> Result<&WriteTarget, WriteResult> {
        let target = self.targets.by_topic.get(&message.topic).ok_or_else(|| {
            WriteResult::rejected(
                "this point cannot be written; give it `write:` in the configuration",
            )
        })?;
        // The broker takes off the flags of local clients. A remote that keeps a command would have
        // it carried out again after each reconnect.
        if message.retain && !message.payload.is_empty() {
            return Err(WriteResult::rejected(
                "the remote broker keeps this command; publish it without the retain flag",
            ));
        }
        if message.is_expired(now()) {
            return Err(WriteResult::new(WriteStatus::Expired));
        }
        Ok(target)
    }

    /// Where the result goes, if the message says so and the topic is not one of the gateway's own.
    fn reply_to(&self, message: &Message, log: &mut WriteLog) -> Option<ReplyTo> {
        let topic = message.properties.response_topic.clone()?;
        // A client must not speak as an instrument, nor forge the result of another client's write.
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
        (!is_ours).then(|| ReplyTo {
            topic,
            correlation: message.properties.correlation_data.clone(),
        })
    }

    /// Logs and publishes the result of a write; the error is that of an outbox that closed too
    /// early.
    async fn answer(
        &self,
        write: &PendingWrite,
        result: &WriteResult,
        log: &mut WriteLog,
    ) -> Result<(), String> {
        let text = result.json(write.id.as_ref(), unix_ms());
        log.write(write, result);
        let Some(topic) = write.result_topic() else {
            return Ok(());
        };
        let mut message = Message::new(topic, text, Origin::Field).with_qos(QoS::AtLeastOnce);
        if let Some(correlation) = write.correlation() {
            message.properties.edit().correlation_data = Some(correlation.clone());
        }
        // The broker's queue is the only one here that may be full for a moment; a result is worth
        // the wait.
        let published = self.router.publish(&message.into()).await;
        published.map(drop).map_err(|closed| closed.to_string())
    }
}

/// Checks the command in a message, point by point; `write` is filled as far as the command is
/// understood.
fn checked(
    target: &WriteTarget,
    message: &Message,
    write: &mut PendingWrite,
    last_writes: &LastWrites,
) -> Result<OrderParts, WriteResult> {
    let command =
        Command::read(&message.payload, target.is_group).map_err(WriteResult::rejected)?;
    write.id = command.id;
    let at = now();
    let mut parts = OrderParts::new(at, command.deadline_ms, message.expires_at);
    for (name, value) in command.values {
        let point = target.point(&name)?;
        let accepted = point.point.accepts(&value).map_err(|why| {
            WriteResult::rejected(if name.is_empty() {
                why
            } else {
                format!("{name}: {why}")
            })
        })?;
        point
            .check_pause(last_writes.get(&point.point.id).copied(), at)
            .map_err(WriteResult::rejected)?;
        write.wanted.push(WantedValue {
            name,
            point: point.point.id,
            value: point.point.shows(accepted.clone()),
            read_back: point.rules.read_back,
        });
        parts.add(point, accepted);
    }
    Ok(parts)
}
