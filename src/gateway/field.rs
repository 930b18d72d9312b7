//! The southbound side of the wiring: lines, the report, and writes to instruments.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::counters::PublishedCounts;
use super::dispatch::Dispatch;
use super::error::GatewayError;
use super::supervision::Supervision;
use super::task::{TaskId, TaskKind};
use super::write_topics::set_targets;
use crate::broker::{Broker, Forward, ForwardAnswer};
use crate::config;
use crate::field::counts::LineCounts;
use crate::field::diagnostic::PendingDiagnostic;
use crate::field::trace::Framing;
use crate::field::write::Order;
use crate::field::{Line, LineTask, Wire};
use crate::heartbeat::Heartbeat;
use crate::mqtt::TopicName;
use crate::reading::Event;
use crate::report::set::{WriteService, WriteTargets};
use crate::report::{self, PointReport, Report, ReportCounts};
use crate::route::Router;
use crate::tasks::{OwnThread, Stop, StopSwitch, Tasks, stop_token};
use crate::time::now;

/// Events between the lines and the report; beyond it polling waits.
const EVENT_QUEUE: usize = 1024;

/// Writes between the broker and the lines, and for each line; beyond it they are refused.
const ORDER_QUEUE: usize = 64;
/// Diagnostic requests that may wait for a line.
const DIAGNOSTIC_QUEUE: usize = 4;

/// The report waits for nothing but outboxes.
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// The channels between the lines and the rest of the gateway.
pub(super) struct FieldChannels {
    pub(super) router: Router,
    /// `None` without a broker.
    pub(super) writes: Option<WriteRequests>,
    /// The counters of the lines, for all that print them.
    pub(super) counts: watch::Sender<Vec<Arc<LineCounts>>>,
    pub(super) stop: Stop,
    pub(super) hurry: Stop,
}

impl FieldChannels {
    /// Starts the service that writes to instruments, if there is a broker.
    fn start_writes(
        &mut self,
        targets: WriteTargets,
        updates: mpsc::Receiver<WriteTargets>,
        tasks: &mut Tasks<TaskId>,
    ) {
        if let Some(requests) = self.writes.take() {
            let service = WriteService {
                targets,
                updates,
                router: self.router.clone(),
            };
            requests.start(service, self.hurry.clone(), tasks);
        }
    }

    /// The counters of the report; they are published for local clients, if there is a broker.
    fn report_counts(&self, supervision: &mut Supervision) -> Arc<ReportCounts> {
        let report = Arc::default();
        supervision.metrics.register(&report);
        if self.router.states().has_local_clients() {
            let counts = PublishedCounts {
                report: Arc::clone(&report),
                lines: self.counts.subscribe(),
            };
            let (tasks, stop) = (&mut supervision.tasks, self.stop.clone());
            tasks.start_until(
                stop,
                TaskKind::Counters,
                counts.publish(self.router.states()),
            );
        }
        report
    }

    /// Publishes messages about the health of the gateway, if they are wanted.
    fn dispatch(&self, config: &config::Gateway) -> Option<Dispatch> {
        let settings = config.health.clone()?;
        Some(Dispatch::new(settings, self.router.publisher()))
    }
}

/// Requests of local clients and remotes to write points, acknowledged through the broker.
pub(super) struct WriteRequests {
    pub(super) sets: mpsc::Receiver<Forward>,
    pub(super) broker: Broker,
}

/// A configuration on its way to the running lines.
pub(super) struct ConfigChange<'a> {
    pub(super) from: &'a config::Gateway,
    pub(super) to: &'a config::Gateway,
    pub(super) diff: &'a config::Diff,
}

/// A line ready to run, and the scheduler it runs in.
struct ReadyLine {
    handle: Handle,
    task: LineTask,
}

impl ReadyLine {
    fn start(self, tasks: &mut Tasks<TaskId>) {
        let Self { handle, task } = self;
        let name = TaskKind::Line.of(&task.line.name);
        tasks.start_on(&handle, name, async move {
            task.run().await;
            Ok(())
        });
    }
}

/// One running line.
struct RunningLine {
    stop: StopSwitch,
    orders: mpsc::Sender<Order>,
    diagnostics: mpsc::Sender<PendingDiagnostic>,
    counts: Arc<LineCounts>,
    /// How its frames look; `None` for a simulated line, which has none.
    framing: Option<Framing>,
    /// Of a serial line.
    _thread: Option<OwnThread>,
}

/// The running southbound side.
pub(super) struct Field {
    /// Where lines keep what they learn of devices.
    folder: PathBuf,
    /// Of the threads of serial lines.
    priority: Option<u8>,
    /// The thread of all lines through a network.
    shared: Option<OwnThread>,
    lines: HashMap<String, RunningLine>,
    /// From the lines to the report, which ends when all of them have ended; `None` after the order
    /// to stop.
    events: Option<mpsc::Sender<Event>>,
    /// The counters of the lines, in the order of the YAML.
    counts: watch::Sender<Vec<Arc<LineCounts>>>,
    report: mpsc::Sender<report::Update>,
    sets: mpsc::Sender<WriteTargets>,
}

impl Field {
    /// Starts every line, the report and the writes. Serial lines have a thread each, because
    /// silences between frames are short; lines through a network share one.
    pub(super) fn start(
        mut channels: FieldChannels,
        config: &config::Gateway,
        supervision: &mut Supervision,
    ) -> Result<Self, GatewayError> {
        let (events, reported) = mpsc::channel(EVENT_QUEUE);
        let (report, report_updates) = mpsc::channel(1);
        let (sets, set_updates) = mpsc::channel(1);
        let mut field = Self {
            folder: config.folder.join("field"),
            priority: config.line_priority,
            shared: None,
            lines: HashMap::new(),
            events: Some(events),
            counts: channels.counts.clone(),
            report,
            sets,
        };
        let ready = field.prepare_all(&config.lines, supervision)?;
        field.counts.send_replace(field.counts_of(config));
        let counts = channels.report_counts(supervision);
        let Supervision { tasks, health, .. } = supervision;
        let hurry = channels.hurry.clone();
        channels.start_writes(field.write_targets(config), set_updates, tasks);
        health.dispatch = channels.dispatch(config);
        let report = Report {
            scope: field.report_scope(config),
            updates: report_updates,
            router: channels.router,
            counts,
            heartbeat: Heartbeat::new(TaskKind::Report.word(), REPORT_TIMEOUT, now()),
        };
        health.heartbeats.watch(&report.heartbeat);
        // In a hurry, messages that an outbox on a full disk does not take are given up.
        tasks.start_until(hurry, TaskKind::Report, report.run(reported));
        ready.into_iter().for_each(|line| line.start(tasks));
        Ok(field)
    }

    fn prepare_all<'a>(
        &mut self,
        lines: impl IntoIterator<Item = &'a Line>,
        supervision: &mut Supervision,
    ) -> Result<Vec<ReadyLine>, GatewayError> {
        let mut ready = Vec::new();
        for line in lines {
            ready.extend(self.prepare(line, supervision)?);
        }
        Ok(ready)
    }

    /// Makes a line ready to run; `None` after the order to stop.
    fn prepare(
        &mut self,
        line: &Line,
        supervision: &mut Supervision,
    ) -> Result<Option<ReadyLine>, GatewayError> {
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
        supervision.metrics.register(&counts);
        let heartbeat = line.heartbeat(now());
        supervision.health.heartbeats.watch(&heartbeat);
        let framing = line.framing();
        let running = RunningLine {
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
        Ok(Some(ReadyLine { handle, task }))
    }

    fn thread_of(&mut self, line: &Line) -> Result<(Handle, Option<OwnThread>), GatewayError> {
        if matches!(line.wire, Wire::Serial(_)) {
            let thread =
                OwnThread::start_with(&TaskKind::Line.of(&line.name).to_string(), self.priority)
                    .map_err(GatewayError::Thread)?;
            return Ok((thread.handle().clone(), Some(thread)));
        }
        let shared = match self.shared.take() {
            Some(shared) => shared,
            None => {
                OwnThread::start_with(TaskKind::Line.word(), None).map_err(GatewayError::Thread)?
            }
        };
        Ok((self.shared.insert(shared).handle().clone(), None))
    }

    /// Orders all lines to stop; when they have ended, the report ends too.
    pub(super) fn stop(&mut self) {
        self.lines.values().for_each(|line| line.stop.stop());
        self.events = None;
    }

    /// Orders some lines to stop. Their tasks end soon; then [`Field::change`] forgets them.
    pub(super) fn stop_lines(&self, names: &[String]) {
        names
            .iter()
            .filter_map(|name| self.lines.get(name))
            .for_each(|line| line.stop.stop());
    }

    /// Applies what differs: forgets lines that were stopped, updates report and writes, then
    /// starts new lines.
    pub(super) async fn change(
        &mut self,
        change: ConfigChange<'_>,
        supervision: &mut Supervision,
    ) -> Result<(), GatewayError> {
        let ConfigChange { from, to, diff } = change;
        self.lines.retain(|name, _| !diff.stops.contains(name));
        let new = |line: &&Line| diff.starts.contains(&line.name);
        let ready = self.prepare_all(to.lines.iter().filter(new), supervision)?;
        self.counts.send_replace(self.counts_of(to));
        let kept: HashSet<&TopicName> = published(to).collect();
        let gone = published(from)
            .filter(|topic| !kept.contains(topic))
            .cloned()
            .collect();
        let scope = self.report_scope(to);
        // A receiver that is gone has ended, which is noticed by its task.
        let _ = self.report.send(report::Update { scope, gone }).await;
        let _ = self.sets.send(self.write_targets(to)).await;
        // Only now does the report know what they read.
        let tasks = &mut supervision.tasks;
        ready.into_iter().for_each(|line| line.start(tasks));
        Ok(())
    }

    /// The queue of diagnostic requests to a line.
    pub(super) fn diagnostics(&self, line: &str) -> Option<&mpsc::Sender<PendingDiagnostic>> {
        self.lines.get(line).map(|line| &line.diagnostics)
    }

    /// A line to trace, and how its frames look.
    pub(super) fn watched(&self, line: &str) -> Option<(Option<Framing>, &LineCounts)> {
        self.lines
            .get(line)
            .map(|line| (line.framing, &*line.counts))
    }

    /// The names of the lines.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.lines.keys().map(String::as_str)
    }

    fn counts_of(&self, config: &config::Gateway) -> Vec<Arc<LineCounts>> {
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

/// The topics of the points and devices of all lines.
fn published(config: &config::Gateway) -> impl Iterator<Item = &TopicName> {
    let devices = || config.lines.iter().flat_map(|line| &line.devices);
    let points = devices()
        .flat_map(|device| &device.points)
        .filter_map(|point| config.points.get(point.id.0 as usize));
    points
        .flat_map(PointReport::topics)
        .chain(devices().filter_map(|device| config.availability.get(device.id.0 as usize)))
}

impl WriteRequests {
    /// Takes requests to the service that writes to instruments. A request is acknowledged once it
    /// is in its queue: its result says how it ended.
    fn start(mut self, service: WriteService, hurry: Stop, tasks: &mut Tasks<TaskId>) {
        let (queue, messages) = mpsc::channel(ORDER_QUEUE);
        // In a hurry, results that a full disk does not take are lost.
        tasks.start_until(hurry, TaskKind::Forward.of("writes"), service.run(messages));
        tasks.start(TaskKind::Forward.of("write-requests"), async move {
            while let Some(forward) = self.sets.recv().await {
                let answer = match queue.send(forward.message).await {
                    Ok(()) => ForwardAnswer::Stored,
                    Err(_) => ForwardAnswer::Full,
                };
                if let Some(ticket) = forward.ticket {
                    self.broker.stored(ticket, answer);
                }
            }
            Ok(())
        });
    }
}
