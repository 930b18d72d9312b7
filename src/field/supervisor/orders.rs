//! Requests from outside the plan: writes before any read, diagnostic requests when nothing else is
//! due.

use std::time::Duration;

use super::report::names;
use super::{MOST_ORDERS, Stopped, Supervisor, WRITES_IN_A_ROW, beside};
use crate::field::diagnostic::{DiagnosticResponse, PendingDiagnostic};
use crate::field::schedule::NextStep;
use crate::field::write::{Order, WriteRequest, Written};
use crate::field::{Driver, Job, Values};
use crate::reading::{PointId, Timestamp};
use crate::time::{moment, now};

/// A diagnostic request waits no longer than this for a line that always has something to do.
const DIAGNOSTIC_TIMEOUT: Duration = Duration::from_secs(1);

impl<D: Driver> Supervisor<D> {
    pub(super) fn give_up_orders(&mut self) {
        let now = now();
        for order in std::mem::take(&mut self.orders) {
            if order.deadline <= now {
                // The asker may be gone.
                let _ = order.answer.send(Written::Expired);
            } else {
                self.orders.push_back(order);
            }
        }
    }

    /// The next write: before any read, but at most [`WRITES_IN_A_ROW`] before one that is due.
    pub(super) fn next_order(&mut self) -> Option<Order> {
        while self.orders.len() < MOST_ORDERS
            && let Ok(order) = self.channels.orders.try_recv()
        {
            self.orders.push_back(order);
        }
        if self.orders.is_empty() {
            return None;
        }
        if self.writes_in_a_row >= WRITES_IN_A_ROW && self.schedule.is_due(now()) {
            self.writes_in_a_row = 0;
            return None;
        }
        self.give_up_orders();
        self.writes_in_a_row += 1;
        self.orders.pop_front()
    }

    /// Carries out an order and reports how it ended.
    pub(super) async fn write(&mut self, order: Order) -> Result<(), Stopped> {
        let Order {
            request, answer, ..
        } = order;
        self.channels.heartbeat.beat(now());
        let write = self.driver.write(&request);
        let Ok(written) = beside(write, &mut self.cache, &mut self.channels).await else {
            // It may be on the wire already. The sender of the order may be gone.
            let _ = answer.send(Written::Unknown(
                Values::new(),
                "the line was stopped meanwhile".to_owned(),
            ));
            return Err(Stopped);
        };
        self.log_write(&request, &written);
        let shown = written.shown().to_vec();
        // The sender of the order may be gone.
        let _ = answer.send(written);
        self.written(&request, shown).await
    }

    /// One log line for each write, at debug level.
    fn log_write(&self, request: &WriteRequest, written: &Written) {
        let Some(device) = self
            .line
            .devices
            .get(request.device)
            .filter(|_| tracing::enabled!(tracing::Level::DEBUG))
        else {
            return;
        };
        let points: Vec<PointId> = request.values.iter().map(|(id, _)| *id).collect();
        let points = names(device, &points);
        let outcome = match written {
            Written::Done(_) => "done".to_owned(),
            Written::Refused(_, why) | Written::Unknown(_, why) | Written::NotSent(why) => {
                why.clone()
            }
            Written::Expired => "expired".to_owned(),
        };
        tracing::debug!(
            event = "device.points_written", line = %self.line.name, device = %device.name, %points, outcome,
            "points written"
        );
    }

    /// Publishes the values that were read back; the other points are read as soon as possible.
    async fn written(&mut self, request: &WriteRequest, shown: Values) -> Result<(), Stopped> {
        let unseen = request
            .values
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| !shown.iter().any(|sample| sample.point == *id));
        // What is only written is in no job; it may change anything that its device shows.
        let of_device = |job: &Job| job.device == request.device;
        let jobs = unseen.filter_map(|id| {
            let mut jobs = self.jobs.iter();
            let own = jobs.position(|job| job.points.contains(&id));
            own.or_else(|| self.jobs.iter().position(of_device))
        });
        for job in jobs.collect::<Vec<usize>>() {
            self.schedule.hurry(job, now());
        }
        self.emit_values(request.device, shown, Timestamp::from(moment()))
            .await
    }

    /// Makes a diagnostic request when nothing is due, or when that has not happened for long. True
    /// if it did.
    pub(super) async fn asks_now(&mut self, step: &NextStep) -> Result<bool, Stopped> {
        if self.diagnostic.is_none() {
            self.diagnostic = self
                .channels
                .diagnostics
                .try_recv()
                .ok()
                .map(|diagnostic| (diagnostic, now()));
        }
        let is_idle = matches!(step, NextStep::WaitUntil(_));
        let Some((
            PendingDiagnostic {
                unit,
                ask,
                within,
                deadline,
                answer,
            },
            _,
        )) = self
            .diagnostic
            .take_if(|(_, since)| is_idle || now() >= *since + DIAGNOSTIC_TIMEOUT)
        else {
            return Ok(false);
        };
        if deadline <= now() || answer.is_closed() {
            return Ok(false);
        }
        let within = within.min(self.line.answer_within.most);
        let said = beside(
            self.driver.ask(unit, &ask, within),
            &mut self.cache,
            &mut self.channels,
        )
        .await?;
        // The asker may be gone.
        let _ = answer.send(said);
        Ok(true)
    }

    /// Refuses a diagnostic request to a line that is down.
    pub(super) fn no_line(&self, diagnostic: Option<PendingDiagnostic>, why: &str) {
        if let Some(PendingDiagnostic { answer, .. }) = diagnostic {
            // The asker may be gone.
            let _ = answer.send(DiagnosticResponse::NoLine(format!(
                "line {} is down: {why}",
                self.line.name
            )));
        }
    }
}
