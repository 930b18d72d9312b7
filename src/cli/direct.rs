//! Reads and writes a device without a gateway: opens its line for as long as that takes.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Failure;
use crate::config;
use crate::field::counts::LineCounts;
use crate::field::write::Order;
use crate::field::{Device, Line, LineTask, Point};
use crate::gateway::set_targets;
use crate::message::{GatewayMessage, Message, Origin};
use crate::mqtt::TopicName;
use crate::reading::{Event, PointId, Quality, Reading};
use crate::report::set::{WriteService, WriteTargets};
use crate::route::Router;
use crate::tasks::{detach, stop_token};
use crate::time::{moment, now};

/// How long a value or a result may take.
const RESULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The polling interval meanwhile.
const EVERY: Duration = Duration::from_secs(1);

/// The configuration with one device on its line, and nothing else.
fn only(mut config: config::Gateway, device: &str) -> config::Gateway {
    config
        .lines
        .retain(|line| line.devices.iter().any(|own| own.name == device));
    for line in &mut config.lines {
        line.devices.retain(|own| own.name == device);
    }
    config
}

/// Leaves a device only a point that is not derived: the others need not be read.
fn only_point(line: &mut Line, point: PointId) {
    for device in &mut line.devices {
        let found = device
            .points
            .iter()
            .find(|own| own.id == point && own.is_read())
            .cloned();
        if let Some(own) = found {
            let mut alone = Device::clone(device);
            alone.points = vec![Point {
                every: EVERY,
                group: None,
                ..own
            }];
            *device = Arc::new(alone);
        }
    }
}

/// Runs the task of a line as long as `work` runs, which gets its events and its queue of writes.
fn with_line<T, F: Future<Output = T>>(
    line: Line,
    work: impl FnOnce(mpsc::Receiver<Event>, mpsc::Sender<Order>) -> F,
) -> Result<T, Failure> {
    let runtime = super::runtime()?;
    runtime.block_on(async {
        let (events, reported) = mpsc::channel(64);
        let (orders, asked) = mpsc::channel(1);
        let (_, diagnostics) = mpsc::channel(1);
        let (switch, stop) = stop_token();
        let counts = Arc::new(LineCounts::new(
            &line.name,
            line.devices.iter().map(|device| device.name.clone()),
        ));
        let heartbeat = line.heartbeat(now());
        detach(
            LineTask {
                line,
                events,
                counts,
                folder: None,
                orders: asked,
                diagnostics,
                heartbeat,
                stop,
            }
            .run(),
        );
        let done = work(reported, orders).await;
        switch.stop();
        Ok(done)
    })
}

/// The first good value of a point; without one in time the last bad one, or an error.
pub(super) fn read(
    config: config::Gateway,
    device: &str,
    point: PointId,
) -> Result<Reading, Failure> {
    let mut config = only(config, device);
    let mut line = config
        .lines
        .pop()
        .ok_or_else(|| Failure::runtime("the line of this device is switched off in the YAML"))?;
    only_point(&mut line, point);
    let name = line.name.clone();
    let found = with_line(line, |mut reported, _orders| async move {
        let mut last = None;
        let until_good = async {
            while let Some(event) = reported.recv().await {
                if let Event::Reading(reading) = event
                    && reading.point == point
                {
                    let is_good = reading.quality == Quality::Good;
                    last = Some(reading);
                    if is_good {
                        return;
                    }
                }
            }
        };
        // In time or not: the last reading counts.
        let _ = timeout(RESULT_TIMEOUT, until_good).await;
        last
    })?;
    found.ok_or_else(|| {
        Failure::runtime(format!(
            "no value on line {name} in {} s; `wellhead scan {name}` shows which devices answer",
            RESULT_TIMEOUT.as_secs()
        ))
    })
}

/// Writes as a gateway would, and returns what it would publish on `<topic>/set/result`.
pub(super) fn write(
    config: config::Gateway,
    device: &str,
    topic: &TopicName,
    command: String,
) -> Result<Message, Failure> {
    let mut config = only(config, device);
    let targets = set_targets(&config);
    let line = config
        .lines
        .pop()
        .ok_or_else(|| Failure::runtime("the line of this device is switched off in the YAML"))?;
    let set = TopicName::new(format!("{topic}/set")).map_err(Failure::runtime)?;
    let result = with_line(line, |mut reported, orders| async move {
        let (live, mut results) = mpsc::channel(4);
        let (messages, asked) = mpsc::channel(1);
        let targets = WriteTargets {
            by_topic: targets,
            published: HashSet::new(),
            lines: vec![orders],
        };
        let (_, updates) = mpsc::channel(1);
        let writes = WriteService {
            targets,
            updates,
            router: Router::of_local_clients(live),
        };
        detach(async move {
            // It ends with its messages; the result comes through `results`.
            let _ = writes.run(asked).await;
        });
        // Readings are drained: a full queue would stop the line.
        detach(async move { while reported.recv().await.is_some() {} });
        let message = Arc::new(Message::new(set, command, Origin::Client));
        if messages.send(message).await.is_err() {
            return None;
        }
        timeout(RESULT_TIMEOUT, results.recv()).await.ok().flatten()
    })?;
    write_result(result)
}

fn write_result(result: Option<GatewayMessage>) -> Result<Message, Failure> {
    let result = result.map(|message| message.into_message(moment().into()));
    result.ok_or_else(|| {
        Failure::runtime(format!(
            "timed out after {} s waiting for the write result",
            RESULT_TIMEOUT.as_secs()
        ))
    })
}
