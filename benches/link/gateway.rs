//! The gateway's side of the link: an outbox with readings of the plant in it, and its uplink.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use wellhead::message::{Lane, SessionLost};
use wellhead::mqtt::{Properties, QoS, TopicName};
use wellhead::outbox::{self, Outbox, Outgoing, ReadingSource};
use wellhead::payload::Payload;
use wellhead::reading::{PointId, Quality, Reading, Timestamp, Value};
use wellhead::tasks::{StopSwitch, detach, stop_token};
use wellhead::time::moment;
use wellhead::uplink::{self, UplinkChannels};

use super::lab::{Lab, REMOTE, TLS_PORT};
use super::plant::{PlantColumn, RegisterKind};

/// Milliseconds between scans.
pub(crate) const SCAN_MS: i64 = 10_000;
/// The topic of a reading that is taken while others wait.
pub(crate) const LIVE: &str = "plant-7/live/level";

/// A runtime whose sockets are on the gateway's side.
pub(crate) fn runtime(lab: &Lab) -> tokio::runtime::Runtime {
    lab.enter_gateway();
    let lab = lab.clone();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(move || lab.enter_gateway())
        .enable_all()
        .build()
        .unwrap()
}

/// An uplink as a file describes it; what is not in the file is the default.
pub(crate) struct Gateway {
    pub(crate) outbox: Outbox,
    yaml: String,
    /// Where the readings of the plant go, if not to topics of their own, and the rule for them.
    frames: Option<TopicName>,
    rule: u32,
    _closed: oneshot::Receiver<()>,
}

/// An uplink that is connected.
pub(crate) struct RunningUplink {
    switch: StopSwitch,
    is_up: watch::Receiver<bool>,
    task: oneshot::Receiver<()>,
}

impl Gateway {
    /// With `format` for the readings of the plant, and `more` keys of the uplink.
    pub(crate) fn open(folder: &Path, format: &str, more: &str) -> Self {
        let yaml = format!(
            "site: plant-7
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
uplinks:
  - name: sat
    to: mqtts://{REMOTE}:{TLS_PORT}
    ca: ca.pem
    presence: false
    {more}
    send:
      - {{ filter: 'plant-7/live/#', qos: 1 }}
      - {{ filter: 'plant-7/pump/#', qos: 1, {format} }}
"
        );
        let config = wellhead::config::parse("gateway.yaml", &yaml, folder).unwrap();
        let (outbox, closed) = outbox::open("sat", &config.folder, config.outbox).unwrap();
        let rule = &config.uplinks[0].routes.send[1];
        let target = |topic: &str| {
            let topic = TopicName::new(topic).unwrap();
            rule.mapping.apply(&topic).unwrap().unwrap()
        };
        let (one, other) = (target("plant-7/pump/a"), target("plant-7/pump/b"));
        Self {
            outbox,
            yaml,
            frames: (one == other).then_some(one),
            rule: rule.id(),
            _closed: closed,
        }
    }

    /// Starts the uplink, and waits until the remote has accepted it.
    pub(crate) async fn start(&self, folder: &Path) -> RunningUplink {
        let config = wellhead::config::parse("gateway.yaml", &self.yaml, folder).unwrap();
        let setup = config.uplinks.into_iter().next().unwrap();
        let (switch, stop) = stop_token();
        let (up, mut is_up) = watch::channel(false);
        let ends = UplinkChannels {
            status: None,
            inbound: None,
            is_up: up,
            routes: watch::channel(Arc::clone(&setup.routes)).1,
            primary: None,
        };
        let uplink = uplink::prepare(setup.settings, self.outbox.clone(), ends).unwrap();
        let (done, task) = oneshot::channel();
        detach(async move {
            uplink.run(stop.clone(), stop, Duration::ZERO).await;
            let _ = done.send(());
        });
        is_up.wait_for(|up| *up).await.unwrap();
        RunningUplink {
            switch,
            is_up,
            task,
        }
    }

    /// Puts scans of the plant into a lane, the newest of which was taken `age_ms` ago.
    pub(crate) async fn fill(&self, lane: Lane, plant: &[PlantColumn], scans: usize, age_ms: i64) {
        let topics: Vec<TopicName> = plant.iter().map(topic).collect();
        let mut last = None;
        for scan in 0..scans {
            let age = age_ms + SCAN_MS * (scans - 1 - scan) as i64;
            for (number, column) in plant.iter().enumerate() {
                let value = value(column, scan % column.raw.len());
                let mut message = message(&topics[number], number as u32, value, age);
                message.source = Some(ReadingSource {
                    topic: topics[number].clone(),
                    rule: self.rule,
                });
                message.topic = self.frames.as_ref().unwrap_or(&topics[number]).clone();
                last = Some(self.outbox.append(lane, &message).await.unwrap());
            }
            if scan == 0 {
                // Until their columns are durable, readings are stored as messages.
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        if let Some(last) = last {
            last.stored().await.unwrap();
        }
    }

    /// A reading that is taken now, with a number as its value.
    pub(crate) async fn take_live(&self, number: u64) {
        let topic = TopicName::new(LIVE).unwrap();
        let message = message(&topic, 1000, Value::UInt(number), 0);
        self.outbox.append(Lane::Live, &message).await.unwrap();
    }
}

impl RunningUplink {
    pub(crate) fn is_up(&self) -> bool {
        *self.is_up.borrow()
    }

    pub(crate) async fn stop(self) {
        self.switch.stop();
        let _ = self.task.await;
    }
}

/// The local topic of a column.
fn topic(column: &PlantColumn) -> TopicName {
    TopicName::new(format!("plant-7/pump/{}", column.name)).unwrap()
}

/// What a scan has read.
pub(crate) fn value(column: &PlantColumn, scan: usize) -> Value {
    let raw = column.raw[scan];
    match column.kind {
        RegisterKind::Scaled => Value::F64(raw / 10_f64.powi(column.decimals.into())),
        RegisterKind::Counter | RegisterKind::Status => Value::UInt(raw as u64),
        RegisterKind::Float => Value::F32(raw as f32),
    }
}

fn message(topic: &TopicName, point: u32, value: Value, age_ms: i64) -> Outgoing {
    let mut time = Timestamp::from(moment());
    time.unix_ms -= age_ms;
    if let Some(since_boot) = &mut time.since_boot {
        since_boot.ms -= age_ms;
    }
    Outgoing {
        topic: topic.clone(),
        qos: QoS::AtLeastOnce,
        retain: true,
        if_session_lost: SessionLost::Resend,
        enqueued: time,
        properties: Properties::default(),
        payload: Payload::Reading(Box::new(Reading {
            point: PointId(point),
            value: Some(value),
            time,
            quality: Quality::Good,
            age: Duration::ZERO,
        })),
        rated: None,
        source: None,
    }
}
