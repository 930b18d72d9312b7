//! Readings become messages: which of them are worth one, on which topic, and to whom it goes.
//!
//! Invariants:
//! * Local clients see a value at once, and never hold up a reading.
//! * Every message is offered to every outbox before the next reading is handled; a full outbox
//!   makes reporting, and so polling, wait.

pub mod aggregate;
pub mod deadband;
mod median;
mod point;
pub mod set;
pub mod swinging_door;
pub mod template;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::heartbeat::Heartbeat;
use crate::message::{Class, GatewayMessage, Message, Origin};
use crate::metrics::{Counter, Labels, Metric, MetricSet, MetricSource};
use crate::mqtt::{QoS, TopicName};
use crate::reading::{Event, Reading, Timestamp};
use crate::route::{RoutePublisher, Router};
use crate::time::{moment, now};
use aggregate::Show;
use deadband::ReportRule;
use point::PointState;

/// How one point is reported; indexed by its [`crate::reading::PointId`].
#[derive(Debug, Clone, PartialEq)]
pub struct PointReport {
    /// Its topic; with several aggregates they are one level below it.
    pub topic: TopicName,
    /// The unit as written in the YAML, for display.
    pub unit: Option<Arc<str>>,
    /// The QoS its class prescribes.
    pub qos: QoS,
    /// How important it is.
    pub class: Class,
    /// Which readings are worth a message.
    pub rule: ReportRule,
    /// Each value is replaced by the median of this many values.
    pub median: Option<u8>,
    /// The aggregates published for each interval; `None`: every reading.
    pub aggregate: Option<Aggregate>,
    /// Largest error of the straight lines between published readings.
    pub swinging_door: Option<f64>,
}

impl PointReport {
    /// Where it is published: on its own topic, or on one for each aggregate.
    pub fn topics(&self) -> impl Iterator<Item = &TopicName> {
        let shows = self
            .aggregate
            .iter()
            .flat_map(|aggregate| &aggregate.shows)
            .map(|show| &show.1);
        shows.chain(self.aggregate.is_none().then_some(&self.topic))
    }
}

/// The aggregates that replace the readings of an interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    /// The interval.
    pub every: Duration,
    /// Each with its topic.
    pub shows: Vec<(Show, TopicName)>,
}

/// How often intervals of silent points are checked.
const TICK: Duration = Duration::from_secs(1);

/// What the report has done since the start of the program.
#[derive(Debug, Default)]
pub struct ReportCounts {
    /// Readings that arrived.
    pub readings: Counter,
    /// Messages that were worth sending.
    pub reported: Counter,
    /// Messages that reached local clients late or, if a newer one came first, never: the broker
    /// was busy.
    pub delayed: Counter,
    /// Messages that a full outbox refused.
    pub refused: Counter,
}

const READINGS: Metric = Metric::counter("wellhead_report_readings", "Readings that arrived.");
const REPORTED: Metric = Metric::counter("wellhead_report_messages", "Messages made of readings.");
const DELAYED: Metric = Metric::counter(
    "wellhead_report_delayed_messages",
    "Messages that reached local clients late, or never because a newer one came first: the broker was busy.",
);
const REFUSED: Metric = Metric::counter(
    "wellhead_report_refused_messages",
    "Messages made of readings that a full outbox refused.",
);

impl MetricSource for ReportCounts {
    fn measure(&self, metrics: &mut MetricSet) {
        for (metric, counter) in [
            (&READINGS, &self.readings),
            (&REPORTED, &self.reported),
            (&DELAYED, &self.delayed),
            (&REFUSED, &self.refused),
        ] {
            metrics.add(metric, &Labels::default(), counter.value());
        }
    }
}

/// Everything that is reported.
#[derive(Debug, Clone)]
pub struct ReportScope {
    /// By point.
    pub points: Arc<Vec<PointReport>>,
    /// The availability topics, by device.
    pub devices: Vec<TopicName>,
}

impl ReportScope {
    /// True if an event is about one of these points and devices.
    fn has(&self, event: &Event) -> bool {
        match event {
            Event::Reading(reading) => (reading.point.0 as usize) < self.points.len(),
            Event::Device { device, .. } => (device.0 as usize) < self.devices.len(),
        }
    }
}

/// A new scope, after a reload. Points that are reported as before keep their state.
#[derive(Debug)]
pub struct Update {
    /// Indices mean the same points and devices as before.
    pub scope: ReportScope,
    /// Topics that are not published any more: their retained messages are removed.
    pub gone: Vec<TopicName>,
}

/// The task that turns events into messages.
#[derive(Debug)]
pub struct Report {
    /// Everything it reports.
    pub scope: ReportScope,
    /// Replacements of `scope`.
    pub updates: mpsc::Receiver<Update>,
    /// To local clients and remotes.
    pub router: Router,
    /// What it has done.
    pub counts: Arc<ReportCounts>,
    /// Beats on every loop iteration.
    pub heartbeat: Heartbeat,
}

/// The state of the task while it runs.
struct State {
    points: Vec<PointState>,
    publisher: RoutePublisher,
    /// The time of the last tick.
    clock: Timestamp,
}

impl Report {
    /// Runs until no line is left. The error is that of an outbox that closed too early.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>) -> Result<(), String> {
        let mut state = State {
            points: self.scope.points.iter().map(PointState::new).collect(),
            publisher: self.router.publisher(),
            clock: moment().into(),
        };
        let mut tick = tokio::time::interval(TICK);
        let mut messages: Vec<GatewayMessage> = Vec::new();
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    None => return self.end(&mut state, messages).await,
                    Some(event) => self.event_of_any_scope(event, &mut state, &mut messages),
                },
                Some(update) = self.updates.recv() => {
                    let waiting = std::iter::from_fn(|| events.try_recv().ok()).collect();
                    self.update_behind(waiting, update, &mut state, &mut messages);
                }
                _ = tick.tick() => self.tick(&mut state, &mut messages),
            }
            self.heartbeat.beat(now());
            for message in messages.drain(..) {
                self.send(message, &mut state).await?;
            }
        }
    }

    /// Handles an event. A line that is new starts after its update was sent, not after it was
    /// received.
    fn event_of_any_scope(
        &mut self,
        event: Event,
        state: &mut State,
        messages: &mut Vec<GatewayMessage>,
    ) {
        if !self.scope.has(&event)
            && let Ok(update) = self.updates.try_recv()
        {
            self.update(update, state, messages);
        }
        self.event(event, state, messages);
    }

    /// Takes over an update behind the events that wait: those of lines that have ended belong to
    /// the old scope.
    fn update_behind(
        &mut self,
        waiting: Vec<Event>,
        update: Update,
        state: &mut State,
        messages: &mut Vec<GatewayMessage>,
    ) {
        let (known, new): (Vec<Event>, Vec<Event>) =
            waiting.into_iter().partition(|event| self.scope.has(event));
        for event in known {
            self.event(event, state, messages);
        }
        self.update(update, state, messages);
        for event in new {
            self.event(event, state, messages);
        }
    }

    fn event(&self, event: Event, state: &mut State, messages: &mut Vec<GatewayMessage>) {
        match event {
            Event::Reading(reading) => self.reading(reading, state, messages),
            Event::Device { device, online } => {
                messages.extend(self.scope.devices.get(device.0 as usize).map(|topic| {
                    let text = if online { "online" } else { "offline" };
                    Message::new(topic.clone(), text, Origin::Field)
                        .retained()
                        .with_qos(QoS::AtLeastOnce)
                        .into()
                }));
            }
        }
    }

    fn update(&mut self, update: Update, state: &mut State, messages: &mut Vec<GatewayMessage>) {
        let Update { scope, gone } = update;
        for (index, point) in scope.points.iter().enumerate() {
            let before = self.scope.points.get(index);
            match (before == Some(point), state.points.get_mut(index)) {
                (true, _) => {}
                (false, Some(own)) => {
                    before
                        .into_iter()
                        .for_each(|before| own.end(before, now(), messages));
                    *own = PointState::new(point);
                }
                (false, None) => state.points.push(PointState::new(point)),
            }
        }
        // An empty payload removes a retained message.
        messages.extend(gone.into_iter().map(|topic| {
            Message::new(topic, "", Origin::Field)
                .retained()
                .with_qos(QoS::AtLeastOnce)
                .into()
        }));
        self.scope = scope;
    }

    /// Publishes the readings that wait in swinging doors.
    async fn end(
        &self,
        state: &mut State,
        mut messages: Vec<GatewayMessage>,
    ) -> Result<(), String> {
        for (point, own) in self.scope.points.iter().zip(&mut state.points) {
            own.end(point, now(), &mut messages);
        }
        for message in messages {
            self.send(message, state).await?;
        }
        Ok(())
    }

    fn tick(&self, state: &mut State, messages: &mut Vec<GatewayMessage>) {
        let before = messages.len();
        let now = now();
        let clock = Timestamp::from(moment());
        if let Some(step) = state.clock.set_by(clock) {
            tracing::info!(
                event = "report.clock_stepped",
                step_ms = step,
                "system clock stepped: correcting queued timestamps and republishing all values"
            );
            self.scope
                .points
                .iter()
                .zip(&mut state.points)
                .for_each(|(point, own)| own.show_next(point, messages));
        }
        state.clock = clock;
        for (point, own) in self.scope.points.iter().zip(&mut state.points) {
            own.tick(point, now, messages);
        }
        self.count_reported(messages.len() - before);
        state.publisher.catch_up();
    }

    fn reading(&self, reading: Reading, state: &mut State, messages: &mut Vec<GatewayMessage>) {
        self.counts.readings.count();
        let before = messages.len();
        let index = reading.point.0 as usize;
        if let (Some(point), Some(own)) =
            (self.scope.points.get(index), state.points.get_mut(index))
        {
            own.take(point, reading, now(), messages);
            self.count_reported(messages.len() - before);
        }
    }

    fn count_reported(&self, messages: usize) {
        self.counts.reported.add(messages as u64);
    }

    async fn send(&self, message: GatewayMessage, state: &mut State) -> Result<(), String> {
        let published = state.publisher.publish(&message);
        let published = self.heartbeat.through(published).await;
        let receipt = published.map_err(|closed| closed.to_string())?;
        self.counts.delayed.add(u64::from(receipt.is_delayed));
        self.counts.refused.add(receipt.refused);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{PointId, Quality, Value};

    fn point(topic: &str) -> PointReport {
        PointReport {
            topic: TopicName::new(topic.to_owned()).unwrap(),
            unit: None,
            qos: QoS::AtMostOnce,
            class: Class::default(),
            rule: ReportRule::default(),
            median: None,
            aggregate: None,
            swinging_door: None,
        }
    }

    fn reading(point: u32) -> Event {
        Event::Reading(Reading {
            point: PointId(point),
            value: Some(Value::F64(1.0)),
            time: Timestamp::at(0),
            quality: Quality::Good,
            age: Duration::ZERO,
        })
    }

    #[test]
    fn messages_are_counted_once_when_a_reload_handles_many_events() {
        let scope = ReportScope {
            points: Arc::new(["a", "b", "c"].map(point).to_vec()),
            devices: Vec::new(),
        };
        let mut report = Report {
            scope: scope.clone(),
            updates: mpsc::channel(1).1,
            router: Router::of_local_clients(mpsc::channel(1).0),
            counts: Arc::default(),
            heartbeat: Heartbeat::new("report", TICK, now()),
        };
        let mut state = State {
            points: scope.points.iter().map(PointState::new).collect(),
            publisher: report.router.publisher(),
            clock: moment().into(),
        };
        let update = Update {
            scope,
            gone: Vec::new(),
        };
        let (waiting, mut messages) = ((0..3).map(reading).collect(), Vec::new());
        report.update_behind(waiting, update, &mut state, &mut messages);
        assert_eq!((messages.len(), report.counts.reported.value()), (3, 3));
    }
}
