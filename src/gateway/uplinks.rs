//! The northbound side of the wiring: outboxes, the ways into them, and uplinks.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::error::GatewayError;
use super::forward::{FORWARD_QUEUE, ForwardQueue, forward_messages};
use super::local_broker::{BrokerRoute, LocalBroker};
use super::paced::Paced;
use super::stop_orders::StopTokens;
use super::supervision::Supervision;
use super::task::{TaskId, TaskKind};
use crate::broker::engine::Tap;
use crate::broker::{Forward, TapSender};
use crate::config;
use crate::message::Origin;
use crate::mqtt::TopicFilter;
use crate::outbox::{self, Outbox, OutboxSink, Routes};
use crate::tasks::Tasks;
use crate::time::now;
use crate::uplink::{self, Purges, Uplink, UplinkChannels, UplinkUpdate};

/// The parts of one uplink before it runs.
pub(super) struct UplinkParts {
    name: String,
    outbox: Outbox,
    sink: OutboxSink,
    routes: watch::Sender<Arc<Routes>>,
    /// Whether it is up; set by the uplink.
    is_up: watch::Sender<bool>,
    /// Of a backup: whether the uplink it replaces is up.
    primary: Option<watch::Receiver<bool>>,
    route: BrokerRoute,
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
    pub(super) stops: &'a StopTokens,
}

/// The topics that the rules of an uplink send.
pub(super) fn filters_of(uplink: &config::UplinkSetup) -> Vec<TopicFilter> {
    uplink
        .routes
        .send
        .iter()
        .map(|rule| rule.mapping.filter().clone())
        .collect()
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
    let parts = config.uplinks.iter().zip(&outboxes).zip(&is_up).enumerate();
    let parts = parts.map(|(index, ((uplink, outbox), link))| {
        let primary = uplink
            .settings
            .use_when
            .and_then(|use_when| is_up.get(use_when.uplink))
            .map(watch::Sender::subscribe);
        let parts = UplinkParts::new(index, uplink, outbox.clone(), link.clone(), primary);
        UplinkParts {
            sink: parts.sink.beside(&outboxes),
            ..parts
        }
    });
    Ok(parts.collect())
}

impl UplinkParts {
    fn new(
        index: usize,
        uplink: &config::UplinkSetup,
        outbox: Outbox,
        is_up: watch::Sender<bool>,
        primary: Option<watch::Receiver<bool>>,
    ) -> Self {
        let (sender, forwards) = mpsc::channel(FORWARD_QUEUE);
        let (routes, current) = watch::channel(Arc::clone(&uplink.routes));
        let sink = OutboxSink::new(outbox.clone(), current, index, primary.clone());
        let dropped = Arc::clone(&outbox.counts().dropped);
        let tap = Tap {
            filters: filters_of(uplink),
            not_from: Origin::Uplink(index),
        };
        Self {
            name: uplink.settings.name.clone(),
            outbox,
            sink,
            routes,
            is_up,
            primary,
            route: BrokerRoute {
                tap,
                way: TapSender { sender, dropped },
            },
            forwards,
        }
    }

    /// The way from the broker to the outbox.
    pub(super) fn route(&self) -> BrokerRoute {
        self.route.clone()
    }

    /// The way of readings and of the gateway's own messages to the outbox.
    pub(super) fn sink(&self) -> OutboxSink {
        self.sink.clone()
    }

    fn prepare(
        &self,
        settings: &uplink::UplinkSettings,
        local: Option<&LocalBroker>,
        supervision: &mut Supervision,
    ) -> Result<Uplink, GatewayError> {
        let Supervision {
            health, metrics, ..
        } = supervision;
        let ends = UplinkChannels {
            live: local.map(|local| local.live.clone()),
            inbound: local.map(|local| local.inbound.clone()),
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
            let every = config
                .health
                .as_ref()
                .map_or(config::HEALTH_EVERY, |health| health.every);
            let queue = ForwardQueue {
                messages: self.forwards,
                is_up: self.is_up.subscribe(),
                paced: Paced::new(every, &self.name, now()),
            };
            // In a hurry, messages that are not on disk are dropped: they are not acknowledged.
            tasks.start_until(
                stops.hurry.clone(),
                TaskKind::Forward.of(&self.name),
                forward_messages(self.sink, queue, local.handle.broker.clone()),
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
        ready.push(parts.prepare(&spec.settings, context.local, supervision)?);
    }
    let started = parts.into_iter().zip(ready);
    Ok(started
        .map(|(parts, uplink)| parts.start(uplink, context, &mut supervision.tasks))
        .collect())
}
