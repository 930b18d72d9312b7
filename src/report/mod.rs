//! Readings become messages: worth reporting or not, under which topic, for whom.
//!
//! Invariants:
//! * Local clients see a value at once, and never make anybody wait.
//! * What is to go north is handed to every outbox that wants it before the next reading is looked at; a full outbox makes
//!   reporting, and so polling, wait.

pub mod exception;
pub mod template;

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::message::{Message, Origin};
use crate::metrics::Counter;
use crate::mqtt::{QoS, TopicName};
use crate::outbox::{Intake, OfferError};
use crate::payload::json;
use crate::reading::{Event, Reading};
use crate::tasks::Stop;
use crate::time::now;
use exception::{LastReport, Rule};

/// How one point is reported; indexed by its [`crate::reading::PointId`].
#[derive(Debug, Clone)]
pub struct PointReport {
    /// Its topic.
    pub topic: TopicName,
    /// The QoS its class prescribes.
    pub qos: QoS,
    /// Which readings are worth a message.
    pub rule: Rule,
}

/// What went through the report.
#[derive(Debug, Default)]
pub struct Counters {
    /// Readings that arrived.
    pub readings: Counter,
    /// Readings that were worth a message.
    pub reported: Counter,
    /// Messages that local clients did not see because the broker was busy.
    pub live_dropped: Counter,
}

/// The task that turns events into messages.
#[derive(Debug)]
pub struct Report {
    /// By point.
    pub points: Vec<PointReport>,
    /// The availability topics, by device.
    pub devices: Vec<TopicName>,
    /// Local clients; `None` without a broker.
    pub live: Option<mpsc::Sender<Message>>,
    /// Where messages may have to go.
    pub intakes: Vec<Intake>,
    /// Its counters.
    pub counters: Arc<Counters>,
}

impl Report {
    /// Runs until no line is left, or until it is told to hurry: what an outbox on a full disk does not take is given up then.
    /// The error is that of an outbox that closed too early.
    pub async fn run(self, events: mpsc::Receiver<Event>, mut hurry: Stop) -> Result<(), String> {
        tokio::select! {
            done = self.take(events) => done,
            () = hurry.wait() => Ok(()),
        }
    }

    async fn take(&self, mut events: mpsc::Receiver<Event>) -> Result<(), String> {
        let mut last = vec![LastReport::default(); self.points.len()];
        while let Some(event) = events.recv().await {
            let message = match event {
                Event::Reading(reading) => self.reading(&reading, &mut last),
                Event::Device { device, online } => self.devices.get(device.0 as usize).map(|topic| {
                    let state = if online { "online" } else { "offline" };
                    Message::new(topic.clone(), state, Origin::Field).retained().with_qos(QoS::AtLeastOnce)
                }),
            };
            if let Some(message) = message {
                self.send(message).await?;
            }
        }
        Ok(())
    }

    fn reading(&self, reading: &Reading, last: &mut [LastReport]) -> Option<Message> {
        self.counters.readings.count();
        let index = reading.point.0 as usize;
        let point = self.points.get(index)?;
        if !last.get_mut(index)?.is_exception(point.rule, reading, now()) {
            return None;
        }
        self.counters.reported.count();
        Some(Message::new(point.topic.clone(), json::encode(reading), Origin::Field).retained().with_qos(point.qos))
    }

    async fn send(&self, message: Message) -> Result<(), String> {
        if let Some(live) = &self.live
            && live.try_send(message.clone()).is_err()
        {
            self.counters.live_dropped.count();
        }
        for intake in &self.intakes {
            // The receipt is not awaited: what a reading's commit may take is the setting `outbox.save.every`.
            match intake.offer(&message).await {
                Ok(_) => {}
                Err(OfferError::Closed) => return Err(OfferError::Closed.to_string()),
                Err(error) => tracing::error!(topic = %message.topic, %error, "a reading cannot go north"),
            }
        }
        Ok(())
    }
}
