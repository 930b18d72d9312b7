//! The local broker with its listeners. Engine and plain connections share a thread; encrypted
//! connections run in the main runtime.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::error::GatewayError;
use super::field::WriteRequests;
use super::forward::FORWARD_QUEUE;
use super::supervision::Supervision;
use super::task::{TaskId, TaskKind};
use crate::broker::admission::Admission;
use crate::broker::engine::{BrokerLimits, Engine, Setup};
use crate::broker::net::{BoundListener, Tls};
use crate::broker::{self, Broker, EngineSource, Forward, ForwardSender, ForwardSenders, Parts};
use crate::config;
use crate::message::GatewayMessage;
use crate::outbox::Handover;
use crate::route::RouteTable;
use crate::tasks::{OwnThread, Stop, Tasks};
use crate::time::{known_unix_ms, now};
use crate::uplink::Inbound;

/// The rules of a broker, and the ways of the messages that they take into the outboxes, by uplink.
pub(super) struct BrokerRoutes {
    pub(super) table: Arc<RouteTable>,
    pub(super) uplinks: Vec<ForwardSender>,
    /// Names the uplinks in the records of the broker.
    pub(super) remotes: Vec<u64>,
}

/// The running broker.
pub(super) struct BrokerHandle {
    pub(super) broker: Broker,
    /// Of the encrypted listeners.
    pub(super) tls: Option<Arc<Tls>>,
    thread: OwnThread,
}

/// The running broker, and the channels between it and the rest of the gateway.
pub(super) struct LocalBroker {
    pub(super) handle: BrokerHandle,
    /// Takes messages of the gateway to local clients.
    pub(super) live: mpsc::Sender<GatewayMessage>,
    /// Takes messages of remote brokers to local clients.
    pub(super) inbound: Inbound,
    /// Messages on the topics on which points are written, until they are taken.
    sets: Option<mpsc::Receiver<Forward>>,
}

impl LocalBroker {
    /// Binds the listeners, reads certificates, restores sessions, then starts the tasks.
    pub(super) async fn start(
        config: &config::Gateway,
        spec: &config::BrokerSetup,
        routes: BrokerRoutes,
        stop: &Stop,
        supervision: &mut Supervision,
    ) -> Result<Self, GatewayError> {
        let (forwards, sets) = forward_senders(routes.uplinks);
        let handovers = forwards.handovers();
        if !spec.is_durable {
            forwards.forget_handovers();
        }
        let setup = setup(spec, routes.table, routes.remotes)?;
        let listeners = bind(spec).await?;
        let tls = spec.tls.clone().map(Tls::new).transpose()?.map(Arc::new);
        let source = source(config, spec, setup, handovers)?;
        let parts = broker::broker(source, Admission::new(spec.admission), forwards)?;
        let thread = OwnThread::start("broker").map_err(GatewayError::Thread)?;
        for listener in listeners {
            Serving {
                listener,
                broker: parts.broker.clone(),
                tls: tls.clone(),
                limits: spec.limits.clone(),
            }
            .start(&thread, stop, &mut supervision.tasks);
        }
        let handle = BrokerHandle {
            broker: parts.broker.clone(),
            tls,
            thread,
        };
        let (live, inbound) = (parts.live.clone(), parts.inbound.clone());
        handle.run(parts, stop.clone(), supervision);
        Ok(Self {
            handle,
            live,
            inbound,
            sets: Some(sets),
        })
    }

    /// The requests to write points; they are given once.
    pub(super) fn take_writes(&mut self) -> Option<WriteRequests> {
        let sets = self.sets.take()?;
        let broker = self.handle.broker.clone();
        Some(WriteRequests { sets, broker })
    }
}

impl BrokerHandle {
    /// Starts the engine, watched by `supervision`.
    fn run(&self, parts: Parts, stop: Stop, supervision: &mut Supervision) {
        let Supervision { tasks, health, .. } = supervision;
        parts
            .heartbeats
            .iter()
            .for_each(|heartbeat| health.heartbeats.watch(heartbeat));
        if let Some(closed) = parts.closed {
            tasks.start(TaskKind::Store.of("broker"), async {
                closed.await.map_err(|_| "its thread died".to_owned())
            });
        }
        let driver = parts.driver;
        tasks.start_on(self.thread.handle(), TaskKind::Broker, async move {
            driver.run(stop).await;
            Ok(())
        });
    }
}

/// The ways to all destinations, with the end of the one to the service that writes.
fn forward_senders(uplinks: Vec<ForwardSender>) -> (ForwardSenders, mpsc::Receiver<Forward>) {
    let (sender, sets) = mpsc::channel(FORWARD_QUEUE);
    let writes = ForwardSender {
        sender,
        dropped: Arc::default(),
        handovers: None,
    };
    (ForwardSenders { uplinks, writes }, sets)
}

async fn bind(spec: &config::BrokerSetup) -> Result<Vec<BoundListener>, GatewayError> {
    let mut listeners = Vec::new();
    for listen in &spec.listen {
        let listener = BoundListener::bind(listen).await?;
        listeners.push(listener.allowing(spec.origins.clone()));
    }
    Ok(listeners)
}

fn setup(
    spec: &config::BrokerSetup,
    routes: Arc<RouteTable>,
    remotes: Vec<u64>,
) -> Result<Setup, GatewayError> {
    Ok(Setup {
        limits: spec.limits.clone(),
        routes,
        access: spec.access.clone(),
        secret: secret()?,
        is_durable: spec.is_durable,
        remotes,
    })
}

/// A new engine, or the one in the journal.
fn source(
    config: &config::Gateway,
    spec: &config::BrokerSetup,
    setup: Setup,
    handovers: Vec<Vec<Handover>>,
) -> Result<EngineSource, GatewayError> {
    if !spec.is_durable {
        let engine = Engine::new(setup, now(), known_unix_ms());
        return Ok(EngineSource::Memory(Box::new(engine)));
    }
    let folder = config.folder.join("broker");
    let opened = broker::durable::open(&folder, setup, handovers, config.outbox.save_every)?;
    Ok(EngineSource::Disk(Box::new(opened)))
}

/// A listener and all that its connections need.
struct Serving {
    listener: BoundListener,
    broker: Broker,
    tls: Option<Arc<Tls>>,
    limits: BrokerLimits,
}

impl Serving {
    fn start(self, thread: &OwnThread, stop: &Stop, tasks: &mut Tasks<TaskId>) {
        let name = TaskKind::Listener.of(self.listener.at());
        let main = Handle::current();
        let handle = if self.listener.is_encrypted() {
            &main
        } else {
            thread.handle()
        };
        let stop = stop.clone();
        tasks.start_on(handle, name, async move {
            self.listener
                .run(self.broker, self.tls, &self.limits, stop)
                .await
                .map_err(|error| error.to_string())
        });
    }
}

fn secret() -> Result<[u8; 32], GatewayError> {
    let mut secret = [0; 32];
    let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut secret);
    filled.map_err(|_| {
        GatewayError::Thread(std::io::Error::other("the system has no random numbers"))
    })?;
    Ok(secret)
}
