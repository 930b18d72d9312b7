//! The life of a gateway between its start and its stop: it waits for tasks that end, orders,
//! requests of commands, and looks after the health of the rest.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::control_end::ControlEnd;
use super::error::GatewayError;
use super::field::Field;
use super::local_broker::BrokerHandle;
use super::routing::Routing;
use super::stop_orders::{STOP_TIMEOUT, StopSwitches};
use super::supervision::Supervision;
use super::uplinks::UplinkHandle;
use crate::config;
use crate::status::control::Reply;
use crate::status::service::Service;

/// How often the tasks are checked for one that hangs.
const HEALTH_CHECK_EVERY: Duration = Duration::from_secs(5);

/// A gateway whose folders, ports and certificates are taken.
pub struct RunningGateway {
    pub(super) supervision: Supervision,
    pub(super) stops: StopSwitches,
    /// The running configuration.
    pub(super) config: config::Gateway,
    pub(super) load: LoadConfig,
    pub(super) broker: Option<BrokerHandle>,
    pub(super) uplinks: Vec<UplinkHandle>,
    pub(super) routing: Routing,
    pub(super) field: Field,
    pub(super) control: ControlEnd,
}

/// Reads the file of a gateway again; the error is for people.
pub type LoadConfig = Arc<dyn Fn() -> Result<config::Gateway, String> + Send + Sync>;

impl RunningGateway {
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
    pub(super) async fn reload_announced(
        &mut self,
        service: &mut Service,
    ) -> Result<Reply, GatewayError> {
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
