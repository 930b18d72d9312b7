//! Wires modules together, as the only place: channels, order of start, order of stop.
//!
//! Start: outboxes, listeners and certificates first, because they can fail on a person's mistake;
//! then every task at once. Change (`reload`): lines that differ are stopped and started, uplinks
//! that differ reconnect; clients, sessions and outboxes continue. Stop: lines and local clients
//! first; when their messages are in the outboxes, the uplinks get their grace; then the outboxes
//! are closed. A task that ends without an order stops everything in the same way, and is an error.

mod bulletin;
mod dispatch;
mod field;
mod forward;
mod health;
mod local_broker;
mod paced;
mod reload;
mod requests;
mod stop;
mod supervision;
mod uplinks;
mod write_topics;

pub(crate) use write_topics::set_targets;

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::broker::net::{self, ListenError};
use crate::config;
use crate::status::control::{self, Call, Control, InstanceLock, Reply};
use crate::status::service::Service;
use crate::store::StoreError;
use crate::tasks::{Ended, Stop, Tasks, detach};
use crate::uplink::UplinkTlsError;
use field::{Field, FieldChannels};
use health::Health;
use local_broker::{BrokerHandle, LocalBroker};
use stop::{STOP_TIMEOUT, StopSwitches, stop_tokens};
use supervision::Supervision;
use uplinks::{UplinkContext, UplinkHandle, UplinkParts};

/// Messages between the broker and an outbox.
const FORWARD_QUEUE: usize = 4096;
/// How often the tasks are checked for one that hangs.
const HEALTH_CHECK_EVERY: Duration = Duration::from_secs(5);

/// Why a gateway did not start, or stopped without an order.
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
    Tls(#[from] UplinkTlsError),
    /// Certificates of the listeners.
    #[error("{0}")]
    BrokerTls(#[from] net::TlsError),
    /// The system gives no thread.
    #[error("a thread cannot start: {0}")]
    Thread(std::io::Error),
    /// A task ended without an order to stop.
    #[error("task {name} ended unexpectedly: {why}")]
    Task {
        /// Which task.
        name: String,
        /// Its error, or its panic.
        why: String,
    },
    /// Tasks that did not end in time.
    #[error("{0} tasks did not stop in time")]
    Stuck(usize),
}

impl From<Ended> for GatewayError {
    fn from(ended: Ended) -> Self {
        let why = ended
            .result
            .err()
            .unwrap_or_else(|| "without a reason".to_owned());
        Self::Task {
            name: ended.name,
            why,
        }
    }
}

/// A gateway whose folders, ports and certificates are taken.
pub struct RunningGateway {
    supervision: Supervision,
    stops: StopSwitches,
    /// The running configuration.
    config: config::Gateway,
    load: LoadConfig,
    broker: Option<BrokerHandle>,
    uplinks: Vec<UplinkHandle>,
    field: Field,
    control: ControlEnd,
}

/// Reads the file of a gateway again; the error is for people.
pub type LoadConfig = Arc<dyn Fn() -> Result<config::Gateway, String> + Send + Sync>;

/// Starts a gateway and runs it until `until` is ready. Each item from `reload` makes it `load` its
/// file and read its certificates again.
pub async fn run(
    config: config::Gateway,
    load: LoadConfig,
    until: impl Future<Output = ()>,
    reload: mpsc::Receiver<()>,
) -> Result<(), GatewayError> {
    let gateway = RunningGateway::start(config, load).await?;
    gateway.run(until, reload).await
}

impl RunningGateway {
    /// Takes folders, ports and certificates, then starts every task.
    pub async fn start(config: config::Gateway, load: LoadConfig) -> Result<Self, GatewayError> {
        let mut supervision = Supervision {
            tasks: Tasks::default(),
            health: Health::new(),
        };
        let (stops, tokens) = stop_tokens();
        let parts = uplinks::open_outboxes(&config, &mut supervision.tasks)?;
        let mut local = None;
        if let Some(spec) = &config.broker {
            let routes = parts.iter().map(UplinkParts::route).collect();
            let started =
                LocalBroker::start(&config, spec, routes, &tokens.sources, &mut supervision);
            local = Some(started.await?);
        }
        let sinks = parts.iter().map(UplinkParts::sink).collect();
        let context = UplinkContext {
            config: &config,
            local: local.as_ref(),
            stops: &tokens,
        };
        let uplinks = uplinks::start(parts, &context, &mut supervision)?;
        let control = ControlEnd::open(&config.folder, &tokens.sources);
        let channels = FieldChannels {
            sinks,
            live: local.as_ref().map(|local| local.live.clone()),
            writes: local.as_mut().and_then(LocalBroker::take_writes),
            hurry: tokens.hurry,
        };
        let field = Field::start(channels, &config, &mut supervision)?;
        log_start(&config, &supervision.tasks);
        Ok(Self {
            supervision,
            stops,
            config,
            load,
            broker: local.map(|local| local.handle),
            uplinks,
            field,
            control,
        })
    }

    /// Runs until `until` is ready, then stops phase by phase.
    pub async fn run(
        mut self,
        until: impl Future<Output = ()>,
        mut reload: mpsc::Receiver<()>,
    ) -> Result<(), GatewayError> {
        let mut until = pin!(until);
        let mut service = Service::of_environment();
        service.ready();
        let mut check = tokio::time::interval(self.check_every(&service));
        let failure = loop {
            let done = tokio::select! {
                ended = self.supervision.tasks.next_ended() => break ended.map(GatewayError::from),
                () = until.as_mut() => break None,
                // The log says how it ended.
                Some(()) = reload.recv() => self.reload_announced(&mut service).await.map(drop),
                Some(call) = self.control.requests.recv() => self.answer(call, &mut service).await,
                _ = check.tick() => {
                    self.supervision.health.check(&mut service);
                    Ok(())
                }
            };
            if let Err(failure) = done {
                break Some(failure);
            }
        };
        match &failure {
            Some(failure) => {
                tracing::error!(event = "gateway.failed", %failure, "gateway failed; stopping");
            }
            None => tracing::info!(event = "gateway.stopping", "gateway stopping"),
        }
        service.stopping(self.config.shutdown_grace + 2 * STOP_TIMEOUT);
        let stopped = self.stop().await;
        failure.map_or(stopped, Err)
    }

    /// Reloads, and tells the service manager when it begins and when it is done.
    async fn reload_announced(&mut self, service: &mut Service) -> Result<Reply, GatewayError> {
        service.reloading();
        let reply = self.reload().await?;
        service.ready();
        Ok(reply)
    }

    /// As often as the service manager wants a sign of life and messages about the health are
    /// published.
    fn check_every(&self, service: &Service) -> Duration {
        let published_every = self.config.health.as_ref().map(|health| health.every);
        [published_every, service.sign_every()]
            .into_iter()
            .flatten()
            .fold(HEALTH_CHECK_EVERY, Duration::min)
    }
}

/// Where requests of commands arrive.
struct ControlEnd {
    requests: mpsc::Receiver<Call>,
    _lock: Option<InstanceLock>,
}

impl ControlEnd {
    /// Takes the lock and binds the socket in a folder; without them the gateway runs all the same.
    fn open(folder: &Path, stop: &Stop) -> Self {
        let lock = InstanceLock::take(folder).inspect_err(|error| {
            tracing::warn!(event = "control.lock_failed", %error, "cannot lock control socket; CLI commands will not find this instance");
        });
        let (calls, requests) = mpsc::channel(1);
        match Control::bind(folder) {
            Ok(control) => detach(control.run(calls, stop.clone())),
            Err(error) => {
                let path = control::path(folder);
                tracing::warn!(event = "control.bind_failed", path = %path.display(), %error, "control socket unavailable; CLI commands cannot reach this gateway");
            }
        }
        Self {
            requests,
            _lock: lock.ok(),
        }
    }
}

fn log_start(config: &config::Gateway, tasks: &Tasks) {
    let devices = config.lines.iter().flat_map(|line| &line.devices);
    let points: usize = devices.map(|device| device.points.len()).sum();
    tracing::info!(
        event = "gateway.started",
        version = env!("CARGO_PKG_VERSION"),
        lines = config.lines.len(),
        points,
        tasks = tasks.len(),
        "gateway started"
    );
}
