//! The rules of a configuration, and the router of what the gateway itself publishes.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::stop_orders::StopTokens;
use super::supervision::Supervision;
use super::task::TaskKind;
use super::uplinks::UplinkParts;
use super::write_topics::command_topics;
use crate::config;
use crate::message::GatewayMessage;
use crate::route::{RouteTable, RoutedUplink, Router, StateSender};

/// Who gets a message, by a configuration.
pub(super) fn route_table(config: &config::Gateway) -> Arc<RouteTable> {
    let uplinks = config.uplinks.iter();
    let uplinks = uplinks.map(|uplink| Arc::clone(&uplink.routes)).collect();
    Arc::new(RouteTable::new(uplinks, command_topics(config)))
}

/// The rules that are in use, and the end of the tasks that send states.
pub(super) struct Routing {
    table: watch::Sender<Arc<RouteTable>>,
    states: StateSender,
}

impl Routing {
    /// Starts the tasks that send states. `live` takes messages to local clients.
    pub(super) fn start(
        config: &config::Gateway,
        uplinks: &[UplinkParts],
        live: Option<mpsc::Sender<GatewayMessage>>,
        stops: &StopTokens,
        supervision: &mut Supervision,
    ) -> (Self, Router) {
        let (table, current) = watch::channel(route_table(config));
        let health = config.health.as_ref();
        let every = health.map_or(config::HEALTH_EVERY, |health| health.every);
        let uplinks: Vec<RoutedUplink> = uplinks.iter().map(UplinkParts::routed).collect();
        let names: Vec<String> = uplinks.iter().map(|uplink| uplink.name.clone()).collect();
        let (router, tasks) = Router::new(uplinks, current, live, every);
        for (name, task) in names.iter().zip(tasks) {
            let id = TaskKind::Health.of(name);
            supervision
                .tasks
                .start_until(stops.hurry.clone(), id, task.run());
        }
        let states = router.states();
        (Self { table, states }, router)
    }

    /// Uses the rules of another configuration.
    pub(super) fn change(&self, table: Arc<RouteTable>) {
        self.table.send_replace(table);
    }

    /// No state comes any more.
    pub(super) fn end_states(&self) {
        self.states.end();
    }
}
