//! The start of a gateway: opens everything, and connects it by channels.

use tokio::sync::watch;

use super::control_end::ControlEnd;
use super::error::GatewayError;
use super::field::{Field, FieldChannels};
use super::local_broker::{BrokerRoutes, LocalBroker};
use super::routing::{Routing, route_table};
use super::run::{LoadConfig, RunningGateway};
use super::stop_orders::stop_tokens;
use super::supervision::Supervision;
use super::task::TaskId;
use super::uplinks::{self, UplinkContext, UplinkParts};
use crate::config;
use crate::tasks::{Stop, Tasks};

impl RunningGateway {
    /// Takes folders, ports and certificates, then starts every task.
    pub async fn start(config: config::Gateway, load: LoadConfig) -> Result<Self, GatewayError> {
        let counts = watch::Sender::default();
        let mut supervision = Supervision::new(counts.subscribe());
        let (stops, tokens) = stop_tokens();
        let parts = uplinks::open_outboxes(&config, &mut supervision.tasks)?;
        let mut local = start_broker(&config, &parts, &tokens.sources, &mut supervision).await?;
        let live = local.as_ref().map(|local| local.live.clone());
        let (routing, router) = Routing::start(&config, &parts, live, &tokens, &mut supervision);
        let context = UplinkContext {
            config: &config,
            local: local.as_ref(),
            router: &router,
            stops: &tokens,
        };
        let uplinks = uplinks::start(parts, &context, &mut supervision)?;
        let control = ControlEnd::open(&config.folder, &tokens.sources);
        let channels = FieldChannels {
            router,
            writes: local.as_mut().and_then(LocalBroker::take_writes),
            counts,
            stop: tokens.sources,
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
            routing,
            field,
            control,
        })
    }
}

/// Starts the local broker, if there is one, with the ways into the outboxes.
async fn start_broker(
    config: &config::Gateway,
    uplinks: &[UplinkParts],
    stop: &Stop,
    supervision: &mut Supervision,
) -> Result<Option<LocalBroker>, GatewayError> {
    let Some(spec) = &config.broker else {
        return Ok(None);
    };
    let routes = BrokerRoutes {
        table: route_table(config),
        uplinks: uplinks.iter().map(UplinkParts::forward).collect(),
        remotes: uplinks.iter().map(UplinkParts::source).collect(),
    };
    let started = LocalBroker::start(config, spec, routes, stop, supervision);
    started.await.map(Some)
}

fn log_start(config: &config::Gateway, tasks: &Tasks<TaskId>) {
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
