//! The southbound side of the wiring: lines, the report, and writes to instruments.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::calls::{INQUIRY_QUEUE, Inquiries};
use super::health::Health;
use super::{GatewayError, ORDER_QUEUE};
use crate::broker::{Broker, Forward};
use crate::config;
use crate::field::counts::LineCounts;
use crate::field::write::Rules;
use crate::field::{LineTask, Point, Wire};
use crate::message::Message;
use crate::mqtt::TopicName;
use crate::outbox::Intake;
use crate::pulse::Pulse;
use crate::report::set::{Member, Setter, Target};
use crate::report::{PointReport, Report};
use crate::tasks::{OwnThread, Stop, Tasks};
use crate::time::now;

/// Events between the lines and the report; beyond it polling waits.
const EVENT_QUEUE: usize = 1024;

/// The report waits for nobody but outboxes.
const REPORT_PATIENCE: Duration = Duration::from_secs(30);

/// What the lines need of the rest.
pub(super) struct South {
    pub(super) intakes: Vec<Intake>,
    /// Local clients; `None` without a broker.
    pub(super) live: Option<mpsc::Sender<Message>>,
    /// What local clients and remotes want written.
    pub(super) sets: Option<(Sets, Broker)>,
    pub(super) stop: Stop,
    pub(super) hurry: Stop,
}

/// What is to be written to instruments.
pub(super) struct Sets {
    pub(super) asked: mpsc::Receiver<Forward>,
    /// What each `.../set` topic writes.
    pub(super) targets: HashMap<TopicName, Target>,
}

/// The topics on which instruments are written to: no client gets to them without a rule, whether they are written or not.
pub(super) fn guarded_topics(config: &config::Gateway) -> HashSet<TopicName> {
    let topics = config.points.iter().map(|point| &point.topic).chain(config.groups.iter().map(|group| &group.topic));
    topics.filter_map(|topic| TopicName::new(format!("{topic}/set")).ok()).collect()
}

/// What each `.../set` topic writes.
pub(crate) fn set_targets(config: &config::Gateway) -> HashMap<TopicName, Target> {
    let mut targets = HashMap::new();
    for (line, spec) in config.lines.iter().enumerate() {
        for (device, spec) in spec.devices.iter().enumerate() {
            let member = |point: &Point| {
                let (register, rules) = (point.register()?.clone(), Rules::clone(point.write.as_ref()?));
                Some(Member { name: point.name.to_string(), id: point.id, register, rules })
            };
            let mut add = |topic: &TopicName, members: Vec<Member>, is_group| {
                if let Ok(topic) = TopicName::new(format!("{topic}/set")) {
                    targets.insert(topic, Target { line, device, members, is_group });
                }
            };
            for point in &spec.points {
                if let (Some(member), Some(report)) = (member(point), config.points.get(point.id.0 as usize)) {
                    add(&report.topic, vec![member], false);
                }
            }
            for group in config.groups.iter().filter(|group| group.device == spec.id) {
                let points = spec.points.iter().filter(|point| point.group.as_deref() == Some(group.name.as_str()));
                add(&group.topic, points.filter_map(member).collect(), true);
            }
        }
    }
    targets
}

impl South {
    /// Starts every line, the report and the writes. Serial lines have a thread each, because silences between frames are short;
    /// lines through a network share one.
    pub(super) fn start(
        self,
        config: config::Gateway,
        tasks: &mut Tasks,
        health: &mut Health,
    ) -> Result<(Vec<OwnThread>, Inquiries), GatewayError> {
        if config.lines.is_empty() {
            return Ok((Vec::new(), Inquiries::new()));
        }
        let folder = config.folder.join("field");
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        let mut lines = Lines { threads: Vec::new(), shared: None, priority: config.line_priority };
        let (mut orders, mut counts, mut inquiries) = (Vec::new(), Vec::new(), Inquiries::new());
        for line in config.lines {
            let handle = lines.thread_of(&line.name, &line.wire)?;
            let (queue, receiver) = mpsc::channel(ORDER_QUEUE);
            let counted = Arc::new(LineCounts::new(&line.name, line.devices.iter().map(|device| device.name.clone())));
            let (questions, asked) = mpsc::channel(INQUIRY_QUEUE);
            inquiries.insert(line.name.clone(), questions);
            orders.push(queue);
            counts.push(Arc::clone(&counted));
            let (events, stop, pulse) = (sender.clone(), self.stop.clone(), line.pulse(now()));
            health.pulses.watch(&pulse);
            let task =
                LineTask { line, events, counts: counted, folder: Some(folder.clone()), orders: receiver, inquiries: asked, pulse, stop };
            tasks.start_on(&handle, format!("bus:{}", task.line.name), async move {
                task.run().await;
                Ok(())
            });
        }
        if let (Some((sets, broker)), Some(live)) = (self.sets, self.live.clone()) {
            let published = config.points.iter().flat_map(PointReport::topics).chain(&config.availability).cloned().collect();
            let setter = Setter { targets: sets.targets, published, lines: orders, live, intakes: self.intakes.clone() };
            start_sets(setter, (sets.asked, broker), self.hurry.clone(), tasks);
        }
        let pulse = Pulse::new("report", REPORT_PATIENCE, now());
        health.pulses.watch(&pulse);
        health.lines.clone_from(&counts);
        let report =
            Report { points: config.points, devices: config.availability, lines: counts, live: self.live, intakes: self.intakes, pulse };
        tasks.start("report", report.run(events, self.hurry));
        Ok((lines.threads, inquiries))
    }
}

/// The threads of the lines.
struct Lines {
    threads: Vec<OwnThread>,
    shared: Option<Handle>,
    /// Of the threads of serial lines.
    priority: Option<u8>,
}

impl Lines {
    fn thread_of(&mut self, name: &str, wire: &Wire) -> Result<Handle, GatewayError> {
        let is_serial = matches!(wire, Wire::Serial(_));
        if let Some(shared) = self.shared.clone().filter(|_| !is_serial) {
            return Ok(shared);
        }
        let name = if is_serial { format!("bus:{name}") } else { "bus".to_owned() };
        let thread = OwnThread::start_with(&name, self.priority.filter(|_| is_serial)).map_err(GatewayError::Thread)?;
        let handle = thread.handle().clone();
        self.threads.push(thread);
        if !is_serial {
            self.shared = Some(handle.clone());
        }
        Ok(handle)
    }
}

/// A write is taken over as soon as it is in the queue: how it ends is told by its result, not by its acknowledgement.
fn start_sets(setter: Setter, (mut sets, broker): (mpsc::Receiver<Forward>, Broker), mut hurry: Stop, tasks: &mut Tasks) {
    let (queue, messages) = mpsc::channel(ORDER_QUEUE);
    tasks.start("forward:set", async move {
        tokio::select! {
            done = setter.run(messages) => done,
            // What a full disk does not take is given up.
            () = hurry.wait() => Ok(()),
        }
    });
    tasks.start("forward:sets", async move {
        while let Some(Forward { message, ticket, .. }) = sets.recv().await {
            let accepted = queue.send(message).await.is_ok();
            if let Some(ticket) = ticket {
                broker.stored(ticket, accepted);
            }
        }
        Ok(())
    });
}
