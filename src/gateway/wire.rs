//! The start of a gateway: opens everything, and connects it by channels.

use super::control_end::ControlEnd;
use super::error::GatewayError;
use super::field::{Field, FieldChannels};
use super::health::Health;
use super::local_broker::LocalBroker;
use super::run::{LoadConfig, RunningGateway};
use super::stop_orders::stop_tokens;
use super::supervision::Supervision;
use super::task::TaskId;
use super::uplinks::{self, UplinkContext, UplinkParts};
use crate::config;
use crate::tasks::Tasks;

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
