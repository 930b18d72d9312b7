//! Whether everything goes on: what the service manager is told of it.

use std::fmt::Write as _;
use std::sync::Arc;

use tokio::sync::watch;

use crate::field::counts::LineCounts;
use crate::outbox::{self, Outbox};
use crate::pulse::Pulses;
use crate::status::service::Service;
use crate::time::now;
use crate::uplink::Uplink;

/// What is looked at. It holds nothing that would keep a task from ending.
#[derive(Debug, Default)]
pub(super) struct Health {
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
    counters: Arc<outbox::Counters>,
}

impl Health {
    pub(super) fn watch_uplink(&mut self, uplink: &Uplink, outbox: &Outbox, is_up: watch::Receiver<bool>) {
        self.pulses.watch(uplink.pulse());
        self.pulses.watch(outbox.pulse());
        self.uplinks.push(Link { name: uplink.settings().name.clone(), is_up, counters: Arc::clone(outbox.counters()) });
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
        service.status(&self.summary());
    }

    fn summary(&self) -> String {
        let mut text = String::new();
        if let Some(name) = self.late.first() {
            // Writing to a text cannot fail.
            let _ = write!(text, "{name} hangs; ");
        }
        let up = self.lines.iter().filter(|line| line.is_up.value() > 0).count();
        let _ = write!(text, "{up} of {} lines up", self.lines.len());
        for Link { name, is_up, counters } in &self.uplinks {
            let state = if *is_up.borrow() { "up" } else { "down" };
            let _ = write!(text, "; {name} {state}, {} waiting", outbox::waiting(counters));
        }
        text
    }
}
