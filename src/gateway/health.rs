//! The health of the gateway, for the service manager, local clients and remotes.

use std::sync::Arc;

use tokio::sync::watch;

use super::bulletin::{Fact, HealthValue, LinkState, Losses};
use super::dispatch::Dispatch;
use crate::field::counts::LineCounts;
use crate::heartbeat::Heartbeats;
use crate::message::Origin;
use crate::metrics::Gauge;
use crate::outbox::{Outbox, OutboxCounts};
use crate::status::report::{GatewayStatus, LineStatus, UplinkStatus};
use crate::status::service::Service;
use crate::tasks::detach;
use crate::time::{boot_ms, known_unix_ms, now, rfc3339};
use crate::uplink::{ClientIdTaken, ToldGap, Uplink};

/// All that is watched. It holds no channel that would keep a task from ending.
#[derive(Debug)]
pub(super) struct Health {
    /// When the gateway started, in milliseconds since the machine did.
    began_ms: u64,
    pub(super) heartbeats: Heartbeats,
    lines: watch::Receiver<Vec<Arc<LineCounts>>>,
    uplinks: Vec<Link>,
    /// Tasks that were late at the last check.
    late: Vec<String>,
    /// Publishes it; `None` if nothing is to be published.
    pub(super) dispatch: Option<Dispatch>,
}

#[derive(Debug)]
struct Link {
    name: String,
    is_up: watch::Receiver<bool>,
    /// When that changed last, in milliseconds since the machine started; 0 if it never did.
    changed_ms: Arc<Gauge>,
    outbox: Arc<OutboxCounts>,
    /// The newest gaps.
    gaps: watch::Receiver<Vec<ToldGap>>,
    /// Whether another client uses its client identifier.
    taken: watch::Receiver<Option<ClientIdTaken>>,
}

impl Health {
    /// Of a gateway with these lines, which may change.
    pub(super) fn new(lines: watch::Receiver<Vec<Arc<LineCounts>>>) -> Self {
        Self {
            began_ms: boot_ms(),
            heartbeats: Heartbeats::default(),
            lines,
            uplinks: Vec::new(),
            late: Vec::new(),
            dispatch: None,
        }
    }

    /// An uplink with its outbox. To be called inside the runtime.
    pub(super) fn watch_uplink(
        &mut self,
        uplink: &Uplink,
        outbox: &Outbox,
        is_up: watch::Receiver<bool>,
    ) {
        self.heartbeats.watch(uplink.heartbeat());
        self.heartbeats.watch(outbox.heartbeat());
        let changed_ms = Arc::new(Gauge::default());
        let (mut follow, noted) = (is_up.clone(), Arc::clone(&changed_ms));
        detach(async move {
            // Until its uplink is gone.
            while follow.changed().await.is_ok() {
                noted.set(boot_ms());
            }
        });
        self.uplinks.push(Link {
            name: uplink.settings().name.clone(),
            is_up,
            changed_ms,
            outbox: Arc::clone(outbox.counts()),
            gaps: uplink.gaps(),
            taken: uplink.client_id_taken(),
        });
    }

    /// Feeds the watchdog if no task is late, logs tasks that are, and publishes what is due.
    pub(super) fn check(&mut self, service: &mut Service) {
        let late = self.heartbeats.unresponsive(now());
        for late in late.iter().filter(|late| !self.late.contains(&late.name)) {
            let seconds = late.silent_for.as_secs();
            tracing::error!(event = "gateway.task_hangs", task = %late.name, seconds, "task unresponsive; the systemd watchdog will restart the gateway");
        }
        if late.is_empty() {
            service.alive();
        }
        self.late = late.into_iter().map(|late| late.name).collect();
        service.status(&self.status().text);
        if let Some(mut dispatch) = self.dispatch.take() {
            dispatch.publish(self.facts());
            self.dispatch = Some(dispatch);
        }
    }

    /// Publishes the last losses; nothing is published from here on.
    pub(super) fn end(&mut self) {
        if let Some(dispatch) = self.dispatch.take() {
            dispatch.end(self.facts());
        }
    }

    /// All facts that can be published.
    fn facts(&self) -> Vec<Fact> {
        let state = |is_up: bool, changed_ms: &Gauge| {
            let state = if is_up { "up" } else { "down" };
            Some(HealthValue::State(LinkState {
                state,
                since: time_of(changed_ms.value().max(self.began_ms)),
            }))
        };
        let line = |line: &Arc<LineCounts>| Fact {
            topic: format!("line/{}", line.name),
            said: state(line.is_up.value() > 0, &line.changed_ms),
            origin: Origin::Field,
        };
        let mut facts: Vec<Fact> = self.lines.borrow().iter().map(line).collect();
        for (number, link) in self.uplinks.iter().enumerate() {
            let topic = format!("uplink/{}", link.name);
            let gaps = link.gaps.borrow().clone();
            let said = HealthValue::Losses(Losses {
                lost: link.outbox.lost(),
                dead: link.outbox.dead(),
                dropped: link.outbox.dropped.value(),
                since: time_of(self.began_ms),
                gap: gaps.last().cloned(),
                gaps,
            });
            facts.push(Fact {
                topic: format!("{topic}/losses"),
                said: Some(said),
                origin: Origin::Field,
            });
            facts.push(Fact {
                topic,
                said: state(*link.is_up.borrow(), &link.changed_ms),
                origin: Origin::uplink(number),
            });
        }
        facts
    }

    /// The state of the whole gateway.
    pub(super) fn status(&self) -> GatewayStatus {
        let lines = self.lines.borrow();
        let lines = lines.iter().map(|counts| LineStatus {
            name: counts.name.clone(),
            is_up: counts.is_up.value() > 0,
            for_s: self.seconds_since(&counts.changed_ms),
            load_permille: counts.load_permille.value(),
            devices: counts.devices.len(),
            answering: counts
                .devices
                .iter()
                .filter(|(_, counts)| counts.is_online.value() > 0)
                .count(),
        });
        let uplinks = self.uplinks.iter().map(|link| UplinkStatus {
            name: link.name.clone(),
            is_up: *link.is_up.borrow(),
            for_s: self.seconds_since(&link.changed_ms),
            waiting: link.outbox.waiting(),
            client_id_taken: link.taken.borrow().map(|taken| taken.word().to_owned()),
        });
        let mut status = GatewayStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            for_s: self.uptime_s(),
            text: String::new(),
            hanging: self.late.clone(),
            lines: lines.collect(),
            uplinks: uplinks.collect(),
        };
        status.text = status.summary();
        status
    }

    /// Seconds since the start of the gateway.
    pub(super) fn uptime_s(&self) -> u64 {
        seconds(self.began_ms)
    }

    /// How many tasks hung at the last check.
    pub(super) fn hanging(&self) -> usize {
        self.late.len()
    }

    /// Since a change; since the start of the gateway, if there was none.
    fn seconds_since(&self, changed_ms: &Gauge) -> u64 {
        seconds(changed_ms.value().max(self.began_ms))
    }
}

/// Seconds since a moment that is given in milliseconds since the machine started.
fn seconds(since_ms: u64) -> u64 {
    boot_ms().saturating_sub(since_ms) / 1000
}

/// The wall-clock time of a moment that is given in milliseconds since the machine started; `None`
/// while the clock is not set.
fn time_of(ms: u64) -> Option<String> {
    let ago = i64::try_from(boot_ms().saturating_sub(ms)).ok()?;
    Some(known_unix_ms())
        .filter(|now| *now > 0)
        .map(|now| rfc3339(now.saturating_sub(ago)))
}
