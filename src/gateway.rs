//! The only place that wires modules together: channels, order of start, order of stop.
//!
//! Start: outboxes, listeners and certificates first, because they can fail on a person's mistake; then every task at once.
//! Change (`reload`): lines that differ are stopped and started, uplinks that differ connect anew; clients, sessions and outboxes go on.
//! Stop: lines and local clients first; when what they had to say is in the outboxes, the uplinks get their grace; then the
//! outboxes are closed. A task that ends unasked stops everything in the same order, and is an error.

mod bulletin;
mod calls;
mod dispatch;
mod forward;
mod health;
mod paced;
mod reload;
mod south;

pub(crate) use south::set_targets;

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use crate::broker::admission::Admission;
use crate::broker::engine::{Engine, Setup, Tap};
use crate::broker::net::{self, BoundListener, ListenError, Tls};
use crate::broker::{self, Broker, EngineSource, Forward, TapSender};
use crate::config;
use crate::message::{Message, Origin};
use crate::metrics::Counter;
use crate::mqtt::TopicFilter;
use crate::outbox::{self, Outbox, OutboxSink, Routes};
use crate::status::control::{self, Call, Control, Presence, Reply, Request};
use crate::status::service::Service;
use crate::store::StoreError;
use crate::tasks::{Ended, OwnThread, Stop, StopSwitch, Tasks, detach, stop_token};
use crate::time::{known_unix_ms, now};
use crate::uplink::{self, Ends, Inbound, Purges, TlsError, Update, Uplink};
use forward::{ForwardQueue, forward_messages};
use health::Health;
use paced::Paced;
use south::{Field, South};

/// Writes between the broker and the lines, and for each line; beyond it they are refused.
const ORDER_QUEUE: usize = 64;
/// Messages between the broker and an outbox.
const FORWARD_QUEUE: usize = 4096;
/// How often it is looked whether everything goes on.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What an orderly stop may take beyond the grace of the uplinks.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// Why a gateway did not start, or stopped unasked.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// An outbox cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A listener cannot be opened.
    #[error("{0}")]
    Listen(#[from] ListenError),
    /// Certificates of an uplink.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// Certificates of the listeners.
    #[error("{0}")]
    BrokerTls(#[from] net::TlsError),
    /// The system gives no thread.
    #[error("a thread cannot start: {0}")]
    Thread(std::io::Error),
    /// A task ended although nobody asked it to.
    #[error("the task {name} ended unasked: {why}")]
    Task {
        /// Which task.
        name: String,
        /// What it said.
        why: String,
    },
    /// Tasks that did not end in time.
    #[error("{0} tasks did not stop in time")]
    Stuck(usize),
}

/// A gateway whose folders, ports and certificates are taken.
pub struct Gateway {
    tasks: Tasks,
    sources: StopSwitch,
    uplinks: StopSwitch,
    /// Given when the grace is over: whoever waits for a disk gives up.
    hurry: StopSwitch,
    grace: Duration,
    /// What runs.
    config: config::Gateway,
    /// Reads the file again.
    load: Load,
    broker: Option<Broker>,
    /// Of the uplinks.
    routes: Vec<watch::Sender<Arc<Routes>>>,
    /// To the uplinks.
    changes: Vec<watch::Sender<Option<Update>>>,
    /// To the uplinks, by their names.
    purges: Vec<(String, Purges)>,
    field: Field,
    /// Of the encrypted listeners.
    tls: Option<Arc<Tls>>,
    health: Health,
    /// What commands ask.
    control: mpsc::Receiver<Call>,
    _presence: Option<Presence>,
    /// Of the broker.
    _thread: Option<OwnThread>,
}

/// Reads the file of a gateway again; the error is for people.
pub type Load = Arc<dyn Fn() -> Result<config::Gateway, String> + Send + Sync>;

/// Starts a gateway and runs it until `until` is ready. Whenever something comes through `reload`, `load` and the certificates are read
/// again.
pub async fn run(
    config: config::Gateway,
    load: Load,
    until: impl Future<Output = ()>,
    reload: mpsc::Receiver<()>,
) -> Result<(), GatewayError> {
    let gateway = Gateway::start(config, load).await?;
    gateway.run(until, reload).await
}

/// What the uplinks of a gateway are made of before anything runs.
struct North {
    sinks: Vec<OutboxSink>,
    routes: Vec<watch::Sender<Arc<Routes>>>,
    outboxes: Vec<Outbox>,
    /// Whether each is up, told by its uplink.
    is_up: Vec<watch::Sender<bool>>,
    taps: Vec<Tap>,
    queues: Vec<TapSender>,
    forwards: Vec<mpsc::Receiver<Forward>>,
}

impl North {
    /// Of a backup: whether the uplink it stands in for is up.
    fn primary(&self, settings: &uplink::Settings) -> Option<watch::Receiver<bool>> {
        settings
            .use_when
            .and_then(|use_when| self.is_up.get(use_when.uplink))
            .map(watch::Sender::subscribe)
    }

    /// The ways from the broker into the outboxes, with the names of their uplinks. They are given once.
    fn forwards(&mut self, config: &config::Gateway) -> Vec<(OutboxSink, ForwardQueue, String)> {
        let every = config
            .health
            .as_ref()
            .map_or(config::HEALTH_EVERY, |health| health.every);
        let parts = std::mem::take(&mut self.forwards)
            .into_iter()
            .zip(&self.queues)
            .zip(&self.is_up);
        let queue = |((messages, way), is_up): ((_, &TapSender), &watch::Sender<bool>),
                     name: &str| {
            ForwardQueue {
                messages,
                dropped: way.dropped.clone(),
                is_up: is_up.subscribe(),
                paced: Paced::new(every, name, now()),
            }
        };
        let uplinks = config
            .uplinks
            .iter()
            .map(|uplink| uplink.settings.name.clone());
        let ways = self.sinks.iter().cloned().zip(parts).zip(uplinks);
        ways.map(|((sink, part), name)| (sink, queue(part, &name), name))
            .collect()
    }

    /// The uplinks, ready to run and watched.
    fn prepare(
        &self,
        config: &config::Gateway,
        local: Option<&Local>,
        health: &mut Health,
    ) -> Result<Vec<Uplink>, GatewayError> {
        let mut ready = Vec::new();
        let parts = config
            .uplinks
            .iter()
            .zip(&self.outboxes)
            .zip(&self.is_up)
            .zip(self.routes.iter().zip(&self.queues));
        for (((uplink, outbox), is_up), (routes, way)) in parts {
            let ends = Ends {
                live: local.map(|local| local.live.clone()),
                inbound: local.map(|local| local.inbound.clone()),
                is_up: is_up.clone(),
                routes: routes.subscribe(),
                primary: self.primary(&uplink.settings),
                dropped: way.dropped.clone(),
            };
            let uplink = uplink::prepare(uplink.settings.clone(), outbox.clone(), ends)?;
            health.watch_uplink(&uplink, (outbox, &way.dropped), is_up.subscribe());
            ready.push(uplink);
        }
        Ok(ready)
    }
}

fn open_outboxes(config: &config::Gateway, tasks: &mut Tasks) -> Result<North, GatewayError> {
    let is_up = config
        .uplinks
        .iter()
        .map(|_| watch::channel(false).0)
        .collect();
    let mut north = North {
        sinks: Vec::new(),
        routes: Vec::new(),
        outboxes: Vec::new(),
        is_up,
        taps: Vec::new(),
        queues: Vec::new(),
        forwards: Vec::new(),
    };
    for (index, uplink) in config.uplinks.iter().enumerate() {
        let name = &uplink.settings.name;
        let folder = config.folder.join("outbox").join(name);
        let (outbox, closed) = outbox::open(name, &folder, config.outbox)?;
        tasks.start(format!("store:{name}"), async {
            closed.await.map_err(|_| "its thread died".to_owned())
        });
        let filters = filters_of(uplink);
        let (queue, forward) = mpsc::channel(FORWARD_QUEUE);
        let (routes, current) = watch::channel(Arc::clone(&uplink.routes));
        north.routes.push(routes);
        let dropped = Arc::new(Counter::default());
        north.sinks.push(
            OutboxSink::new(
                outbox.clone(),
                current,
                index,
                north.primary(&uplink.settings),
            )
            .counting(Arc::clone(&dropped)),
        );
        north.taps.push(Tap {
            filters,
            not_from: Origin::Uplink(index),
        });
        north.outboxes.push(outbox);
        north.queues.push(TapSender {
            sender: queue,
            dropped,
        });
        north.forwards.push(forward);
    }
    let North {
        sinks, outboxes, ..
    } = &mut north;
    *sinks = std::mem::take(sinks)
        .into_iter()
        .map(|sink| sink.beside(outboxes))
        .collect();
    Ok(north)
}

/// The topics that an uplink's rules want.
fn filters_of(uplink: &config::UplinkSetup) -> Vec<TopicFilter> {
    uplink
        .routes
        .send
        .iter()
        .map(|rule| rule.mapping.filter().clone())
        .collect()
}

/// The ways from this gateway to the clients of its broker.
struct Local {
    broker: Broker,
    live: mpsc::Sender<Message>,
    inbound: Inbound,
    /// What is to be written to instruments.
    sets: Option<mpsc::Receiver<Forward>>,
    tls: Option<Arc<Tls>>,
    thread: OwnThread,
}

impl Gateway {
    /// Takes folders, ports and certificates, then starts every task.
    pub async fn start(config: config::Gateway, load: Load) -> Result<Self, GatewayError> {
        let mut tasks = Tasks::default();
        let (sources, stop) = stop_token();
        let (uplinks, uplink_stop) = stop_token();
        let (hurry, hurried) = stop_token();
        let mut health = Health::new();
        let mut north = open_outboxes(&config, &mut tasks)?;
        let mut local = None;
        if let Some(spec) = &config.broker {
            local =
                Some(start_broker(&config, spec, &north, (&stop, &mut tasks, &mut health)).await?);
        }
        let live = local.as_ref().map(|local| local.live.clone());
        let ready = north.prepare(&config, local.as_ref(), &mut health)?;
        let changes = ready.iter().map(Uplink::changes).collect();
        let purges = ready
            .iter()
            .map(|uplink| (uplink.settings().name.clone(), uplink.purges()))
            .collect();
        for (uplink, spec) in ready.into_iter().zip(&config.uplinks) {
            let (stop, hurried, grace) =
                (uplink_stop.clone(), hurried.clone(), config.shutdown_grace);
            tasks.start(format!("uplink:{}", spec.settings.name), async move {
                uplink.run(stop, hurried, grace).await;
                Ok(())
            });
        }
        if let Some(Local { broker, .. }) = &local {
            for (sink, queue, name) in north.forwards(&config) {
                tasks.start(
                    format!("forward:{name}"),
                    forward_messages(sink, queue, broker.clone(), hurried.clone()),
                );
            }
        }
        let points: usize = config
            .lines
            .iter()
            .flat_map(|line| &line.devices)
            .map(|device| device.points.len())
            .sum();
        let sets = local
            .as_mut()
            .and_then(|local| Some((local.sets.take()?, local.broker.clone())));
        let presence = Presence::take(&config.folder);
        let _presence = presence
            .inspect_err(
                |error| tracing::warn!(%error, "commands cannot know that this gateway runs"),
            )
            .ok();
        let control = control(&config.folder, &stop);
        let south = South {
            sinks: north.sinks,
            live,
            sets,
            hurry: hurried,
        };
        let field = south.start(&config, &mut tasks, &mut health)?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            lines = config.lines.len(),
            points,
            tasks = tasks.len(),
            "wellhead runs"
        );
        let (broker, tls, thread) = match local {
            Some(Local {
                broker,
                tls,
                thread,
                ..
            }) => (Some(broker), tls, Some(thread)),
            None => (None, None, None),
        };
        let grace = config.shutdown_grace;
        let routes = north.routes;
        Ok(Self {
            tasks,
            sources,
            uplinks,
            hurry,
            grace,
            config,
            load,
            broker,
            routes,
            changes,
            purges,
            field,
            tls,
            health,
            control,
            _presence,
            _thread: thread,
        })
    }

    /// Runs until `until` is ready, then stops in order.
    pub async fn run(
        mut self,
        until: impl Future<Output = ()>,
        mut reload: mpsc::Receiver<()>,
    ) -> Result<(), GatewayError> {
        let mut until = pin!(until);
        let mut service = Service::of_environment();
        service.ready();
        let look_every = self
            .config
            .health
            .as_ref()
            .map_or(LOOK_EVERY, |health| health.every.min(LOOK_EVERY));
        let mut look = tokio::time::interval(
            service
                .sign_every()
                .map_or(look_every, |every| every.min(look_every)),
        );
        let failure = loop {
            tokio::select! {
                ended = self.tasks.next_ended() => break ended.map(unasked),
                () = until.as_mut() => break None,
                Some(()) = reload.recv() => {
                    service.reloading();
                    match self.reload().await {
                        // What it says is in the log.
                        Ok(_) => service.ready(),
                        Err(failure) => break Some(failure),
                    }
                }
                Some(call) = self.control.recv() => match call {
                    Call { request: Request::Reload, reply, .. } => {
                        service.reloading();
                        match self.reload().await {
                            Ok(said) => {
                                service.ready();
                                // Whoever asked may be gone.
                                let _ = reply.send(said);
                            }
                            Err(failure) => break Some(failure),
                        }
                    }
                    Call { request: Request::EndSession { client_id }, reply, .. } => calls::end_session(client_id, reply, self.broker.clone()),
                    Call { request: Request::Purge { uplink, queue, selection }, reply, .. } => {
                        calls::purge((uplink, queue, selection), reply, &self.purges);
                    }
                    // Whoever asked may be gone.
                    Call { request: Request::Status, reply, .. } => drop(reply.send(Reply::Status(Box::new(self.health.status())))),
                    call => calls::take(call, &self.field),
                },
                _ = look.tick() => self.health.look(&mut service),
            }
        };
        if let Some(failure) = &failure {
            tracing::error!(%failure, "stopping");
        } else {
            tracing::info!("stopping");
        }
        service.stopping(self.grace + 2 * STOP_PATIENCE);
        let stopped = self.stop().await;
        match failure {
            Some(failure) => Err(failure),
            None => stopped,
        }
    }

    async fn stop(mut self) -> Result<(), GatewayError> {
        self.sources.stop();
        self.field.stop();
        self.health.end();
        let grace_over = now() + self.grace;
        let give_up = grace_over + STOP_PATIENCE;
        let mut hurried = false;
        let mut fault = None;
        loop {
            if self.only_uplinks_left() {
                self.uplinks.stop();
            }
            tokio::select! {
                ended = self.tasks.next_ended() => match ended {
                    None => return fault.map_or(Ok(()), Err),
                    Some(Ended { result: Ok(()), .. }) => {}
                    Some(ended) => fault = Some(unasked(ended)),
                },
                () = sleep_until(grace_over.into()), if !hurried => {
                    hurried = true;
                    self.hurry.stop();
                    self.uplinks.stop();
                }
                () = sleep_until(give_up.into()) => return Err(GatewayError::Stuck(self.tasks.len())),
            }
        }
    }

    /// True when whoever writes into outboxes has ended.
    fn only_uplinks_left(&self) -> bool {
        let begins = ["bus:", "forward:", "health:"];
        !self
            .tasks
            .names()
            .any(|name| name == "report" || begins.iter().any(|begin| name.starts_with(begin)))
    }
}

fn unasked(ended: Ended) -> GatewayError {
    let why = ended
        .result
        .err()
        .unwrap_or_else(|| "without a reason".to_owned());
    GatewayError::Task {
        name: ended.name,
        why,
    }
}

/// Where commands of this program ask; without the socket the gateway runs all the same.
fn control(folder: &Path, stop: &Stop) -> mpsc::Receiver<Call> {
    let (calls, asked) = mpsc::channel(1);
    match Control::bind(folder) {
        Ok(control) => detach(control.run(calls, stop.clone())),
        Err(error) => {
            let path = control::path(folder);
            tracing::warn!(path = %path.display(), %error, "`wellhead scan` and `peek` cannot ask this gateway");
        }
    }
    asked
}

fn secret() -> Result<[u8; 32], GatewayError> {
    let mut secret = [0; 32];
    let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut secret);
    filled.map_err(|_| {
        GatewayError::Thread(std::io::Error::other("the system has no random numbers"))
    })?;
    Ok(secret)
}

/// The broker with its listeners. Engine and plain connections share a thread; encryption is left to the others.
async fn start_broker(
    config: &config::Gateway,
    spec: &config::BrokerSetup,
    north: &North,
    (stop, tasks, health): (&Stop, &mut Tasks, &mut Health),
) -> Result<Local, GatewayError> {
    let (mut taps, mut queues) = (north.taps.clone(), north.queues.clone());
    let (queue, asked) = mpsc::channel(FORWARD_QUEUE);
    // The last one, also if nothing can be written yet.
    taps.push(Tap {
        filters: south::set_filters(config),
        not_from: Origin::Own,
    });
    queues.push(TapSender {
        sender: queue,
        dropped: Arc::default(),
    });
    let setup = Setup {
        limits: spec.limits.clone(),
        taps,
        access: spec.access.clone(),
        guarded: south::guarded_topics(config),
        secret: secret()?,
        is_durable: spec.is_durable,
    };
    let mut listeners = Vec::new();
    for listen in &spec.listen {
        listeners.push(
            BoundListener::bind(listen)
                .await?
                .allowing(spec.origins.clone()),
        );
    }
    let tls = spec.tls.clone().map(Tls::new).transpose()?.map(Arc::new);
    let source = if spec.is_durable {
        EngineSource::Disk(Box::new(broker::durable::open(
            &config.folder.join("broker"),
            setup,
            config.outbox.save_every,
        )?))
    } else {
        EngineSource::Memory(Box::new(Engine::new(setup, now(), known_unix_ms())))
    };
    let parts = broker::broker(source, Admission::new(spec.admission), queues)?;
    parts
        .heartbeats
        .iter()
        .for_each(|heartbeat| health.heartbeats.watch(heartbeat));
    if let Some(closed) = parts.closed {
        tasks.start("store:broker", async {
            closed.await.map_err(|_| "its thread died".to_owned())
        });
    }
    let thread = OwnThread::start("broker").map_err(GatewayError::Thread)?;
    for listener in listeners {
        let (broker, tls, stop, limits) = (
            parts.broker.clone(),
            tls.clone(),
            stop.clone(),
            spec.limits.clone(),
        );
        let name = format!("listener:{}", listener.at());
        let here = Handle::current();
        let handle = if listener.is_encrypted() {
            &here
        } else {
            thread.handle()
        };
        tasks.start_on(handle, name, async move {
            listener
                .run(broker, tls, &limits, stop)
                .await
                .map_err(|error| error.to_string())
        });
    }
    let driver_stop = stop.clone();
    tasks.start_on(thread.handle(), "broker", async move {
        parts.driver.run(driver_stop).await;
        Ok(())
    });
    Ok(Local {
        broker: parts.broker,
        live: parts.live,
        inbound: parts.inbound,
        sets: Some(asked),
        tls,
        thread,
    })
}
