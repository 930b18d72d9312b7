//! The file is read again while the gateway runs: what differs is stopped and started, everything else goes on.

use std::collections::HashSet;
use std::sync::Arc;

use super::south::{set_filters, task_of};
use super::{Gateway, GatewayError, STOP_PATIENCE, filters_of, south, unasked};
use crate::broker::engine::Change;
use crate::config;
use crate::status::control::Reply;
use crate::time::now;
use crate::uplink::UplinkUpdate;

impl Gateway {
    /// Reads file and certificates. A file with faults, or one that needs a restart, changes nothing. The error is a task that failed.
    pub(super) async fn reload(&mut self) -> Result<Reply, GatewayError> {
        let certificates = self.read_certificates();
        let load = self.load.clone();
        let loaded = tokio::task::spawn_blocking(move || load())
            .await
            .unwrap_or_else(|_| Err("the file could not be read".to_owned()));
        let mut config = match loaded {
            Ok(config) => config,
            Err(why) => {
                for line in why.lines() {
                    tracing::error!("{line}");
                }
                return Ok(refused(format!(
                    "{why}\nthe file is wrong: nothing is changed"
                )));
            }
        };
        config.continue_from(&self.config);
        let mut diff = config.differs_from(&self.config);
        diff.changes.extend(certificates);
        if !diff.needs_restart.is_empty() {
            let parts = diff.needs_restart.join(", ");
            return Ok(refused(format!(
                "nothing is changed: a restart is needed for {parts} (systemctl restart wellhead)"
            )));
        }
        let mut updates = Vec::new();
        for (index, uplink) in config
            .uplinks
            .iter()
            .enumerate()
            .filter(|(index, _)| diff.uplinks.contains(index))
        {
            match UplinkUpdate::new(uplink.settings.clone()) {
                Ok(update) => updates.push((index, update)),
                Err(why) => return Ok(refused(format!("nothing is changed: {why}"))),
            }
        }
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        for told in &diff.changes {
            tracing::info!("the file was read again: {told}");
        }
        if diff.changes.is_empty() {
            tracing::info!("the file was read again: nothing is different");
        }
        self.apply(config, &diff, updates).await?;
        Ok(Reply::Reloaded(diff.changes))
    }

    async fn apply(
        &mut self,
        config: config::Gateway,
        diff: &config::Diff,
        updates: Vec<(usize, UplinkUpdate)>,
    ) -> Result<(), GatewayError> {
        self.field.stop_lines(&diff.stops);
        self.ended(diff.stops.iter().map(|line| task_of(line)).collect())
            .await?;
        for (routes, uplink) in self.routes.iter().zip(&config.uplinks) {
            routes.send_replace(Arc::clone(&uplink.routes));
        }
        // Behind the rules: a message of a new filter that no rule takes would be acknowledged and lost.
        for (index, update) in updates {
            if let Some(uplink) = self.changes.get(index) {
                uplink.send_replace(Some(update));
            }
        }
        if let (Some(broker), Some(spec)) = (&self.broker, &config.broker) {
            let mut filters: Vec<_> = config.uplinks.iter().map(filters_of).collect();
            filters.push(set_filters(&config));
            broker.change(Change {
                filters,
                access: spec.access.clone(),
                guarded: south::guarded_topics(&config),
            });
        }
        self.field
            .change(
                (&config, &self.config, diff),
                &mut self.tasks,
                &mut self.health,
            )
            .await?;
        self.config = config;
        Ok(())
    }

    /// Waits until these tasks have ended, which were told to.
    async fn ended(&mut self, mut names: HashSet<String>) -> Result<(), GatewayError> {
        let give_up = now() + STOP_PATIENCE;
        while !names.is_empty() {
            match tokio::time::timeout_at(give_up.into(), self.tasks.next_ended()).await {
                Ok(Some(ended)) if ended.result.is_ok() && names.remove(&ended.name) => {}
                Ok(Some(ended)) => return Err(unasked(ended)),
                Ok(None) | Err(_) => return Err(GatewayError::Stuck(names.len())),
            }
        }
        Ok(())
    }

    /// Returns what is to be told of the certificates of the listeners.
    fn read_certificates(&self) -> Option<String> {
        match self.tls.as_ref()?.reload() {
            Ok(is_different) => {
                tracing::info!("the certificates of the listeners were read again");
                is_different.then(|| {
                    "broker: certificates of the listeners, for new connections".to_owned()
                })
            }
            Err(error) => {
                tracing::error!(%error, "the old certificates stay in use");
                Some(format!("broker: the old certificates stay in use: {error}"))
            }
        }
    }
}

fn refused(why: String) -> Reply {
    if let Some(last) = why.lines().last() {
        tracing::error!("{last}");
    }
    Reply::Refused(why)
}
