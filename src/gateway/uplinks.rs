//! The northbound side of the wiring: outboxes, the ways into them, and uplinks.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::error::GatewayError;
use super::forward::{FORWARD_QUEUE, forward_messages};
use super::local_broker::LocalBroker;
use super::stop_orders::StopTokens;
use super::supervision::Supervision;
use super::task::{TaskId, TaskKind};
use crate::broker::{Forward, ForwardSender};
use crate::config;
use crate::outbox::{self, Outbox};
use crate::route::{Outlet, RoutedUplink, Router, Routes};
use crate::tasks::Tasks;
use crate::uplink::{self, Purges, Uplink, UplinkChannels, UplinkUpdate};

/// The parts of one uplink before it runs.
pub(super) struct UplinkParts {
    name: String,
    outbox: Outbox,
    outlet: Outlet,
    routes: watch::Sender<Arc<Routes>>,
    /// Whether it is up; set by the uplink.
    is_up: watch::Sender<bool>,
    /// Of a backup: whether the uplink it replaces is up.
    primary: Option<watch::Receiver<bool>>,
    /// From the broker.
    forward: ForwardSender,
    forwards: mpsc::Receiver<Forward>,
}

/// The channels from the gateway to a running uplink.
pub(super) struct UplinkHandle {
    pub(super) name: String,
    pub(super) routes: watch::Sender<Arc<Routes>>,
    pub(super) changes: watch::Sender<Option<UplinkUpdate>>,
    pub(super) purges: Purges,
}

/// The rest of the gateway, as uplinks need it.
pub(super) struct UplinkContext<'a> {
    pub(super) config: &'a config::Gateway,
    /// `None` without a broker.
    pub(super) local: Option<&'a LocalBroker>,
    pub(super) router: &'a Router,
    pub(super) stops: &'a StopTokens,
}

/// Opens the outboxes of all uplinks.
pub(super) fn open_outboxes(
    config: &config::Gateway,
    tasks: &mut Tasks<TaskId>,
) -> Result<Vec<UplinkParts>, GatewayError> {
    let mut outboxes = Vec::new();
    for uplink in &config.uplinks {
        let name = &uplink.settings.name;
        let folder = config.folder.join("outbox").join(name);
        let (outbox, closed) = outbox::open(name, &folder, config.outbox)?;
        tasks.start(TaskKind::Store.of(name), async {
            closed.await.map_err(|_| "its thread died".to_owned())
        });
        outboxes.push(outbox);
    }
    let is_up: Vec<_> = outboxes.iter().map(|_| watch::channel(false).0).collect();
    let parts = config.uplinks.iter().zip(&outboxes).zip(&is_up);
    let parts = parts.map(|((uplink, outbox), link)| {
        let primary = uplink
            .settings
            .use_when
            .and_then(|use_when| is_up.get(use_when.uplink))
            .map(watch::Sender::subscribe);
        let parts = UplinkParts::new(uplink, outbox.clone(), link.clone(), primary);
        UplinkParts {
            outlet: parts.outlet.beside(&outboxes),
            ..parts
        }
    });
    Ok(parts.collect())
}

impl UplinkParts {
    fn new(
        uplink: &config::UplinkSetup,
        outbox: Outbox,
        is_up: watch::Sender<bool>,
        primary: Option<watch::Receiver<bool>>,
    ) -> Self {
        let (sender, forwards) = mpsc::channel(FORWARD_QUEUE);
        let dropped = Arc::clone(&outbox.counts().dropped);
        let handovers = outbox.handovers();
        Self {
            name: uplink.settings.name.clone(),
            outlet: Outlet::new(outbox.clone(), is_up.subscribe(), primary.clone()),
            outbox,
            routes: watch::channel(Arc::clone(&uplink.routes)).0,
            is_up,
            primary,
            forward: ForwardSender {
                sender,
                dropped,
                handovers: Some(handovers),
            },
            forwards,
        }
    }

    /// The way from the broker to the outbox.
    pub(super) fn forward(&self) -> ForwardSender {
        self.forward.clone()
    }

    /// Names the uplink in the records of the broker.
    pub(super) fn source(&self) -> u64 {
        self.outbox.source()
    }

    /// The way of what the gateway itself publishes to the outbox.
    pub(super) fn routed(&self) -> RoutedUplink {
        RoutedUplink {
            name: self.name.clone(),
            outlet: self.outlet.clone(),
            is_up: self.is_up.subscribe(),
        }
    }

    fn prepare(
        &self,
        settings: &uplink::UplinkSettings,
        context: &UplinkContext<'_>,
        supervision: &mut Supervision,
    ) -> Result<Uplink, GatewayError> {
        let Supervision {
            health, metrics, ..
        } = supervision;
        let ends = UplinkChannels {
            status: Some(context.router.states()),
            inbound: context.local.map(|local| local.inbound.clone()),
            is_up: self.is_up.clone(),
            routes: self.routes.subscribe(),
            primary: self.primary.clone(),
        };
        let uplink = uplink::prepare(settings.clone(), self.outbox.clone(), ends)?;
        uplink.register(metrics);
        metrics.register(self.outbox.counts());
        health.watch_uplink(&uplink, &self.outbox, self.is_up.subscribe());
        Ok(uplink)
    }

    fn start(
        self,
        uplink: Uplink,
        context: &UplinkContext<'_>,
        tasks: &mut Tasks<TaskId>,
    ) -> UplinkHandle {
        let handle = UplinkHandle {
            name: self.name.clone(),
            changes: uplink.changes(),
            purges: uplink.purges(),
            routes: self.routes,
        };
        let UplinkContext { config, stops, .. } = context;
        let (stop, hurry) = (stops.uplinks.clone(), stops.hurry.clone());
        let grace = config.shutdown_grace;
        tasks.start(TaskKind::Uplink.of(&self.name), async move {
            uplink.run(stop, hurry, grace).await;
            Ok(())
        });
        if let Some(local) = context.local {
            // In a hurry, messages that are not on disk are dropped: they are not acknowledged.
            tasks.start_until(
                stops.hurry.clone(),
                TaskKind::Forward.of(&self.name),
                forward_messages(self.outlet, self.forwards, local.handle.broker.clone()),
            );
        }
        handle
    }
}

/// Prepares all uplinks, then starts them with the ways from the broker into their outboxes.
pub(super) fn start(
    parts: Vec<UplinkParts>,
    context: &UplinkContext<'_>,
    supervision: &mut Supervision,
) -> Result<Vec<UplinkHandle>, GatewayError> {
    let mut ready = Vec::new();
    for (parts, spec) in parts.iter().zip(&context.config.uplinks) {
        ready.push(parts.prepare(&spec.settings, context, supervision)?);
    }
    let started = parts.into_iter().zip(ready);
    Ok(started
        .map(|(parts, uplink)| parts.start(uplink, context, &mut supervision.tasks))
        .collect())
}
