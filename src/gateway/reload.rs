//! Reload: the file is read again while the gateway runs. What differs is stopped and started,
//! everything else continues.

use std::collections::HashSet;
use std::sync::Arc;

use super::error::GatewayError;
use super::field::ConfigChange;
use super::routing::route_table;
use super::run::RunningGateway;
use super::stop_orders::STOP_TIMEOUT;
use super::task::{TaskId, TaskKind};

use crate::broker::engine::Change;
use crate::config;
use crate::status::control::Reply;
use crate::time::now;
use crate::uplink::UplinkUpdate;

/// A change of an uplink, ready to be applied.
struct UplinkChange {
    index: usize,
    update: UplinkUpdate,
}

impl RunningGateway {
    /// Reads file and certificates. A file with faults, or one that needs a restart, changes
    /// nothing. The error is a task that failed.
    pub(super) async fn reload(&mut self) -> Result<Reply, GatewayError> {
        let certificates = self.read_certificates();
        let mut config = match self.load_again().await {
            Ok(config) => config,
            Err(why) => return Ok(refused("config.invalid", why)),
        };
        config.continue_from(&self.config);
        let mut diff = config.differs_from(&self.config);
        diff.changes.extend(certificates);
        let updates = match uplink_changes(&config, &diff) {
            Ok(updates) => updates,
            Err(why) => return Ok(refused("gateway.reload_refused", why)),
        };
        log_changes(&config, &diff);
        self.apply(config, &diff, updates).await?;
        Ok(Reply::Reloaded(diff.changes))
    }

    /// Loads the file; the error lists its faults, which are in the log already.
    async fn load_again(&self) -> Result<config::Gateway, String> {
        let load = self.load.clone();
        let loaded = tokio::task::spawn_blocking(move || load())
            .await
            .unwrap_or_else(|_| Err("the file could not be read".to_owned()));
        loaded.map_err(|why| {
            for line in why.lines() {
                tracing::error!(event = "config.fault", "{line}");
            }
            format!("{why}\nconfiguration invalid; keeping the running configuration")
        })
    }

    async fn apply(
        &mut self,
        config: config::Gateway,
        diff: &config::Diff,
        updates: Vec<UplinkChange>,
    ) -> Result<(), GatewayError> {
        self.field.stop_lines(&diff.stops);
        let stopped = diff.stops.iter().map(|line| TaskKind::Line.of(line));
        self.wait_for_end(stopped.collect()).await?;
        for (running, uplink) in self.uplinks.iter().zip(&config.uplinks) {
            running.routes.send_replace(Arc::clone(&uplink.routes));
        }
        let table = route_table(&config);
        self.routing.change(Arc::clone(&table));
        for UplinkChange { index, update } in updates {
            if let Some(uplink) = self.uplinks.get(index) {
                uplink.changes.send_replace(Some(update));
            }
        }
        if let (Some(running), Some(spec)) = (&self.broker, &config.broker) {
            running.broker.change(Change {
                routes: table,
                access: spec.access.clone(),
            });
        }
        let change = ConfigChange {
            from: &self.config,
            to: &config,
            diff,
        };
        self.field.change(change, &mut self.supervision).await?;
        self.config = config;
        Ok(())
    }

    /// Waits until these tasks, which were ordered to stop, have ended.
    async fn wait_for_end(&mut self, mut tasks: HashSet<TaskId>) -> Result<(), GatewayError> {
        let give_up = now() + STOP_TIMEOUT;
        while !tasks.is_empty() {
            match tokio::time::timeout_at(give_up.into(), self.supervision.tasks.next_ended()).await
            {
                Ok(Some(ended)) if ended.result.is_ok() && tasks.remove(&ended.name) => {}
                Ok(Some(ended)) => return Err(ended.into()),
                Ok(None) | Err(_) => return Err(GatewayError::Stuck(tasks.len())),
            }
        }
        Ok(())
    }

    /// Reads the certificates of the listeners again. Returns the change, or why there is none, in
    /// words for people.
    fn read_certificates(&self) -> Option<String> {
        match self.broker.as_ref()?.tls.as_ref()?.reload() {
            Ok(is_different) => {
                tracing::info!(
                    event = "broker.certificates_reloaded",
                    "listener certificates reloaded"
                );
                is_different.then(|| {
                    "broker: certificates of the listeners, for new connections".to_owned()
                })
            }
            Err(error) => {
                tracing::error!(event = "broker.certificates_unusable", %error, "cannot load listener certificates; the old ones stay in use");
                Some(format!("broker: the old certificates stay in use: {error}"))
            }
        }
    }
}

/// The changes of uplinks, with their certificates read; the error says why nothing is changed.
fn uplink_changes(
    config: &config::Gateway,
    diff: &config::Diff,
) -> Result<Vec<UplinkChange>, String> {
    if !diff.needs_restart.is_empty() {
        let parts = diff.needs_restart.join(", ");
        return Err(format!(
            "reload rejected: a restart is needed for {parts} (systemctl restart wellhead)"
        ));
    }
    let uplinks = config.uplinks.iter().enumerate();
    uplinks
        .filter(|(index, _)| diff.uplinks.contains(index))
        .map(|(index, uplink)| {
            let update = UplinkUpdate::new(uplink.settings.clone())
                .map_err(|why| format!("reload rejected: {why}"))?;
            Ok(UplinkChange { index, update })
        })
        .collect()
}

fn log_changes(config: &config::Gateway, diff: &config::Diff) {
    for warning in &config.warnings {
        tracing::warn!(event = "config.warning", "{warning}");
    }
    for change in &diff.changes {
        tracing::info!(event = "gateway.reloaded", %change, "configuration reloaded");
    }
    if diff.changes.is_empty() {
        tracing::info!(
            event = "gateway.reloaded",
            "configuration reloaded: no changes"
        );
    }
}

/// Logs the last line of a refusal, and replies all of it.
fn refused(event: &'static str, why: String) -> Reply {
    if let Some(last) = why.lines().last() {
        tracing::error!(event, "{last}");
    }
    Reply::Refused(why)
}
