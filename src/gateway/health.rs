//! Whether everything goes on: what the service manager is told of it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::field::counts::LineCounts;
use crate::metrics::Gauge;
use crate::outbox::{self, Outbox};
use crate::pulse::Pulses;
use crate::status::report::{LineStatus, Status, UplinkStatus};
use crate::status::service::Service;
use crate::tasks::detach;
use crate::time::{boot_ms, now};
use crate::uplink::{Taken, Uplink};

/// What is looked at. It holds nothing that would keep a task from ending.
#[derive(Debug)]
pub(super) struct Health {
    /// When the gateway started, in milliseconds since the machine did.
    began_ms: u64,
    pub(super) pulses: Pulses,
    pub(super) lines: Vec<Arc<LineCounts>>,
    uplinks: Vec<Link>,
    /// Who was late when it was looked at last.
    late: Vec<String>,
}

#[derive(Debug)]
struct Link {
    name: String,
    is_up: watch::Receiver<bool>,
    /// When that changed last, in milliseconds since the machine started; 0 if it never did.
    changed_ms: Arc<Gauge>,
    counters: Arc<outbox::Counters>,
    /// Whether another client uses its client identifier.
    taken: watch::Receiver<Option<Taken>>,
}

impl Health {
    pub(super) fn new() -> Self {
        Self { began_ms: boot_ms(), pulses: Pulses::default(), lines: Vec::new(), uplinks: Vec::new(), late: Vec::new() }
    }

    /// To be called inside the runtime.
    pub(super) fn watch_uplink(&mut self, uplink: &Uplink, outbox: &Outbox, is_up: watch::Receiver<bool>) {
        self.pulses.watch(uplink.pulse());
        self.pulses.watch(outbox.pulse());
        let changed_ms = Arc::new(Gauge::default());
        let (mut follow, noted) = (is_up.clone(), Arc::clone(&changed_ms));
        detach(async move {
            // Until its uplink is gone.
            while follow.changed().await.is_ok() {
                noted.set(boot_ms());
            }
        });
        let (name, counters, taken) = (uplink.settings().name.clone(), Arc::clone(outbox.counters()), uplink.client_id_taken());
        self.uplinks.push(Link { name, is_up, changed_ms, counters, taken });
    }

    /// Gives a sign of life if nobody is late; who is, is told in the log.
    pub(super) fn look(&mut self, service: &mut Service) {
        let late = self.pulses.late(now());
        for late in late.iter().filter(|late| !self.late.contains(&late.name)) {
            let seconds = late.silent_for.as_secs();
            tracing::error!(task = %late.name, seconds, "a task hangs; a service manager that watches will start the gateway anew");
        }
        if late.is_empty() {
            service.alive();
        }
        self.late = late.into_iter().map(|late| late.name).collect();
        service.status(&self.status().text);
    }

    /// How everything is.
    pub(super) fn status(&self) -> Status {
        let lines = self.lines.iter().map(|counts| LineStatus {
            name: counts.name.clone(),
            is_up: counts.is_up.value() > 0,
            for_s: self.seconds_since(&counts.changed_ms),
            load_permille: counts.load_permille.value(),
            devices: counts.devices.len(),
            answering: counts.devices.iter().filter(|(_, counts)| counts.is_online.value() > 0).count(),
        });
        let uplinks = self.uplinks.iter().map(|link| UplinkStatus {
            name: link.name.clone(),
            is_up: *link.is_up.borrow(),
            for_s: self.seconds_since(&link.changed_ms),
            waiting: outbox::waiting(&link.counters),
            client_id_taken: link.taken.borrow().map(|taken| taken.word().to_owned()),
        });
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            for_s: seconds(self.began_ms),
            text: String::new(),
            hanging: self.late.clone(),
            lines: lines.collect(),
            uplinks: uplinks.collect(),
        };
        status.text = status.summary();
        status
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
