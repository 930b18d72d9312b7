//! Wires modules together, as the only place: channels, order of start, order of stop.
//!
//! * Start (`wire`): outboxes, listeners and certificates first, because they can fail on a
//!   person's mistake; then every task at once.
//! * Run (`run`): a task that ends without an order stops everything in the same way as an order
//!   does, and is an error. Commands are answered (`requests`); the health is published (`health`,
//!   `bulletin`, `dispatch`).
//! * Change (`reload`): lines that differ are stopped and started, uplinks that differ reconnect;
//!   clients, sessions and outboxes continue.
//! * Stop (`stop`): lines and local clients first; when their messages are in the outboxes, the
//!   uplinks get their grace; then the outboxes are closed.
//!
//! `field`, `local_broker` and `uplinks` each start one side, and keep what a change of it needs;
//! `forward` leads from the broker into an outbox, `counters` from those who count to local
//! clients; `routing` starts the router; `measure` replies with all that can be measured.

mod bulletin;
mod control_end;
mod counters;
mod dispatch;
mod error;
mod field;
mod forward;
mod health;
mod local_broker;
mod measure;
mod reload;
mod requests;
mod routing;
mod run;
mod stop;
mod stop_orders;
mod supervision;
mod task;
mod uplinks;
mod wire;
mod write_topics;

use std::future::Future;

use tokio::sync::mpsc;

use crate::config;
pub use error::GatewayError;
pub use run::{LoadConfig, RunningGateway};
pub(crate) use write_topics::set_targets;

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
