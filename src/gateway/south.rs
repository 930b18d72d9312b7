//! The southbound side of the wiring: lines, the report, and writes to instruments.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::calls::DIAGNOSTIC_QUEUE;
use super::dispatch::Dispatch;
use super::health::Health;
use super::{GatewayError, ORDER_QUEUE};
use crate::broker::{Broker, Forward, TapAnswer};
use crate::config;
use crate::field::counts::LineCounts;
use crate::field::diagnostic::PendingDiagnostic;
use crate::field::trace::Framing;
use crate::field::write::{Order, Rules};
use crate::field::{Line, LineTask, Point, Wire};
use crate::heartbeat::Heartbeat;
use crate::message::Message;
use crate::mqtt::{TopicFilter, TopicName};
use crate::outbox::OutboxSink;
use crate::reading::Event;
use crate::report::set::{WritablePoint, WriteService, WriteTarget, WriteTargets};
use crate::report::{self, PointReport, Report};
use crate::tasks::{OwnThread, Stop, StopSwitch, Tasks, stop_token};
use crate::time::now;

/// Events between the lines and the report; beyond it polling waits.
const EVENT_QUEUE: usize = 1024;

/// The report waits for nobody but outboxes.
const REPORT_PATIENCE: Duration = Duration::from_secs(30);

/// The topics on which instruments are written to: no client gets to them without a rule, whether they are written or not.
pub(super) fn guarded_topics(config: &config::Gateway) -> HashSet<TopicName> {
    let topics = config
        .points
        .iter()
        .map(|point| &point.topic)
        .chain(config.groups.iter().map(|group| &group.topic));
    topics
        .filter_map(|topic| TopicName::new(format!("{topic}/set")).ok())
        .collect()
}

/// The same as filters: who publishes to a point that cannot be written learns that from its result.
pub(super) fn set_filters(config: &config::Gateway) -> Vec<TopicFilter> {
    guarded_topics(config)
        .iter()
        .filter_map(|topic| TopicFilter::new(topic.to_string()).ok())
        .collect()
}

/// What each `.../set` topic writes.
pub(crate) fn set_targets(config: &config::Gateway) -> HashMap<TopicName, WriteTarget> {
    let mut targets = HashMap::new();
    for (line, spec) in config.lines.iter().enumerate() {
        for (device, spec) in spec.devices.iter().enumerate() {
            let member = |point: &Point| {
                let (register, rules) = (
                    point.register()?.clone(),
                    Rules::clone(point.write.as_ref()?),
                );
                Some(WritablePoint {
                    name: point.name.to_string(),
                    id: point.id,
                    register,
                    rules,
                })
            };
            let mut add = |topic: &TopicName, members: Vec<WritablePoint>, is_group| {
                if let Ok(topic) = TopicName::new(format!("{topic}/set")) {
                    targets.insert(
                        topic,
                        WriteTarget {
                            line,
                            device,
                            members,
                            is_group,
                        },
                    );
                }
            };
            for point in &spec.points {
                if let (Some(member), Some(report)) =
                    (member(point), config.points.get(point.id.0 as usize))
                {
                    add(&report.topic, vec![member], false);
                }
            }
            for group in config.groups.iter().filter(|group| group.device == spec.id) {
                let points = spec
                    .points
                    .iter()
                    .filter(|point| point.group.as_deref() == Some(group.name.as_str()));
                add(&group.topic, points.filter_map(member).collect(), true);
            }
        }
    }
    targets
}

/// What the lines need of the rest.
pub(super) struct South {
    pub(super) sinks: Vec<OutboxSink>,
    /// Local clients; `None` without a broker.
    pub(super) live: Option<mpsc::Sender<Message>>,
    /// What local clients and remotes want written.
    pub(super) sets: Option<(mpsc::Receiver<Forward>, Broker)>,
    pub(super) hurry: Stop,
}

/// One line that runs.
struct Running {
    stop: StopSwitch,
    orders: mpsc::Sender<Order>,
    diagnostics: mpsc::Sender<PendingDiagnostic>,
    counts: Arc<LineCounts>,
    /// How its frames look; `None` if it has none.
    framing: Option<Framing>,
    /// Of a serial line.
    _thread: Option<OwnThread>,
}

/// The southbound side as it runs.
pub(super) struct Field {
    folder: PathBuf,
    /// Of the threads of serial lines.
    priority: Option<u8>,
    /// Of lines through a network.
    shared: Option<OwnThread>,
    lines: HashMap<String, Running>,
    /// From the lines to the report, which ends when all of them have ended; `None` after the order to stop.
    events: Option<mpsc::Sender<Event>>,
    report: mpsc::Sender<report::Update>,
    sets: mpsc::Sender<WriteTargets>,
}

/// The name of a line's task.
pub(super) fn task_of(line: &str) -> String {
    format!("bus:{line}")
}

impl South {
    /// Starts every line, the report and the writes. Serial lines have a thread each, because silences between frames are short;
    /// lines through a network share one.
    pub(super) fn start(
        self,
        config: &config::Gateway,
        tasks: &mut Tasks,
        health: &mut Health,
    ) -> Result<Field, GatewayError> {
        let (events, reported) = mpsc::channel(EVENT_QUEUE);
        let (report, report_updates) = mpsc::channel(1);
        let (sets, set_updates) = mpsc::channel(1);
        let mut field = Field {
            folder: config.folder.join("field"),
            priority: config.line_priority,
            shared: None,
            lines: HashMap::new(),
            events: Some(events),
            report,
            sets,
        };
        let mut ready = Vec::new();
        for line in &config.lines {
            ready.extend(field.prepare(line, health)?);
        }
        if let (Some((asked, broker)), Some(live)) = (self.sets, self.live.clone()) {
            let writes = WriteService {
                targets: field.write_targets(config),
                updates: set_updates,
                live,
                sinks: self.sinks.clone(),
            };
            start_sets(writes, (asked, broker), self.hurry.clone(), tasks);
        }
        let heartbeat = Heartbeat::new("report", REPORT_PATIENCE, now());
        health.heartbeats.watch(&heartbeat);
        health.lines = field.counts(config);
        let publish = |settings: &config::HealthMessages| {
            Dispatch::start(
                settings.clone(),
                &self.sinks,
                self.live.clone(),
                &self.hurry,
                tasks,
            )
        };
        health.dispatch = config.health.as_ref().map(publish);
        let report = Report {
            scope: field.report_scope(config),
            updates: report_updates,
            live: self.live,
            sinks: self.sinks,
            heartbeat,
        };
        tasks.start("report", report.run(reported, self.hurry));
        ready
            .into_iter()
            .for_each(|(handle, task)| start(&handle, task, tasks));
        Ok(field)
    }
}

impl Field {
    /// Makes a line ready to run; `None` after the order to stop.
    fn prepare(
        &mut self,
        line: &Line,
        health: &mut Health,
    ) -> Result<Option<(Handle, LineTask)>, GatewayError> {
        let Some(events) = self.events.clone() else {
            return Ok(None);
        };
        let (handle, thread) = self.thread_of(line)?;
        let (switch, stop) = stop_token();
        let (orders, ordered) = mpsc::channel(ORDER_QUEUE);
        let (diagnostics, asked) = mpsc::channel(DIAGNOSTIC_QUEUE);
        let counts = Arc::new(LineCounts::new(
            &line.name,
            line.devices.iter().map(|device| device.name.clone()),
        ));
        let heartbeat = line.heartbeat(now());
        health.heartbeats.watch(&heartbeat);
        let framing = Framing::of(
            &line.wire,
            line.devices.iter().any(|device| device.protocol.is_some()),
        );
        let running = Running {
            stop: switch,
            orders,
            diagnostics,
            counts: Arc::clone(&counts),
            framing,
            _thread: thread,
        };
        self.lines.insert(line.name.clone(), running);
        let task = LineTask {
            line: line.clone(),
            events,
            counts,
            folder: Some(self.folder.clone()),
            orders: ordered,
            diagnostics: asked,
            heartbeat,
            stop,
        };
        Ok(Some((handle, task)))
    }

    fn thread_of(&mut self, line: &Line) -> Result<(Handle, Option<OwnThread>), GatewayError> {
        if matches!(line.wire, Wire::Serial(_)) {
            let thread = OwnThread::start_with(&task_of(&line.name), self.priority)
                .map_err(GatewayError::Thread)?;
            return Ok((thread.handle().clone(), Some(thread)));
        }
        let shared = match self.shared.take() {
            Some(shared) => shared,
            None => OwnThread::start_with("bus", None).map_err(GatewayError::Thread)?,
        };
        Ok((self.shared.insert(shared).handle().clone(), None))
    }

    /// Gives every line the order to stop; when they have ended, the report ends too.
    pub(super) fn stop(&mut self) {
        self.lines.values().for_each(|line| line.stop.stop());
        self.events = None;
    }

    /// Gives some lines the order to stop. Their tasks end soon; then [`Field::change`] forgets them.
    pub(super) fn stop_lines(&self, names: &[String]) {
        names
            .iter()
            .filter_map(|name| self.lines.get(name))
            .for_each(|line| line.stop.stop());
    }

    /// Takes over what differs: lines that were stopped are forgotten, others are started, report and writes are told.
    pub(super) async fn change(
        &mut self,
        (config, running, diff): (&config::Gateway, &config::Gateway, &config::Diff),
        tasks: &mut Tasks,
        health: &mut Health,
    ) -> Result<(), GatewayError> {
        self.lines.retain(|name, _| !diff.stops.contains(name));
        let mut ready = Vec::new();
        for line in config
            .lines
            .iter()
            .filter(|line| diff.starts.contains(&line.name))
        {
            ready.extend(self.prepare(line, health)?);
        }
        health.lines = self.counts(config);
        let now: HashSet<&TopicName> = published(config).collect();
        let gone = published(running)
            .filter(|topic| !now.contains(topic))
            .cloned()
            .collect();
        // Whoever does not listen any more has ended, which is noticed by its task.
        let _ = self
            .report
            .send(report::Update {
                scope: self.report_scope(config),
                gone,
            })
            .await;
        let _ = self.sets.send(self.write_targets(config)).await;
        // Only now: what they report is known.
        ready
            .into_iter()
            .for_each(|(handle, task)| start(&handle, task, tasks));
        Ok(())
    }

    /// A question of a person on its way to a line.
    pub(super) fn diagnostics(&self, line: &str) -> Option<&mpsc::Sender<PendingDiagnostic>> {
        self.lines.get(line).map(|line| &line.diagnostics)
    }

    /// A line whose frames somebody wants to see, and how they look.
    pub(super) fn watched(&self, line: &str) -> Option<(Option<Framing>, &LineCounts)> {
        self.lines
            .get(line)
            .map(|line| (line.framing, &*line.counts))
    }

    /// The names of the lines.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.lines.keys().map(String::as_str)
    }

    fn counts(&self, config: &config::Gateway) -> Vec<Arc<LineCounts>> {
        config
            .lines
            .iter()
            .filter_map(|line| self.lines.get(&line.name))
            .map(|line| Arc::clone(&line.counts))
            .collect()
    }

    fn report_scope(&self, config: &config::Gateway) -> report::ReportScope {
        report::ReportScope {
            points: Arc::clone(&config.points),
            devices: config.availability.clone(),
            lines: self.counts(config),
        }
    }

    fn write_targets(&self, config: &config::Gateway) -> WriteTargets {
        let lines = config
            .lines
            .iter()
            .filter_map(|line| self.lines.get(&line.name))
            .map(|line| line.orders.clone())
            .collect();
        WriteTargets {
            by_topic: set_targets(config),
            published: published(config).cloned().collect(),
            lines,
        }
    }
}

fn start(handle: &Handle, task: LineTask, tasks: &mut Tasks) {
    tasks.start_on(handle, task_of(&task.line.name), async move {
        task.run().await;
        Ok(())
    });
}

/// What points and devices of lines are published on.
fn published(config: &config::Gateway) -> impl Iterator<Item = &TopicName> {
    let devices = || config.lines.iter().flat_map(|line| &line.devices);
    let points = devices()
        .flat_map(|device| &device.points)
        .filter_map(|point| config.points.get(point.id.0 as usize));
    points
        .flat_map(PointReport::topics)
        .chain(devices().filter_map(|device| config.availability.get(device.id.0 as usize)))
}

/// A write is taken over as soon as it is in the queue: how it ends is told by its result, not by its acknowledgement.
fn start_sets(
    writes: WriteService,
    (mut sets, broker): (mpsc::Receiver<Forward>, Broker),
    mut hurry: Stop,
    tasks: &mut Tasks,
) {
    let (queue, messages) = mpsc::channel(ORDER_QUEUE);
    tasks.start("forward:set", async move {
        tokio::select! {
            done = writes.run(messages) => done,
            // What a full disk does not take is given up.
            () = hurry.wait() => Ok(()),
        }
    });
    tasks.start("forward:sets", async move {
        while let Some(Forward {
            message, ticket, ..
        }) = sets.recv().await
        {
            let answer = match queue.send(message).await {
                Ok(()) => TapAnswer::Stored,
                Err(_) => TapAnswer::Full,
            };
            if let Some(ticket) = ticket {
                broker.stored(ticket, answer);
            }
        }
        Ok(())
    });
}
