//! Requests from outside the plan: writes before any read, diagnostic requests when nothing else is
//! due.

use std::time::Duration;

use super::report::names;
use super::{MOST_ORDERS, Stopped, Supervisor, WRITES_IN_A_ROW, beside};
use crate::field::decode::Register;
use crate::field::diagnostic::{DiagnosticResponse, PendingDiagnostic};
use crate::field::modbus::explain;
use crate::field::schedule::NextStep;
use crate::field::write::{Action, Order, Outcome, Written};
use crate::field::{Driver, Values};
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
        let mut shown = Values::new();
        let Ok(ended) = self.carry_out(&order, &mut shown).await else {
            // It may be on the wire already. The sender of the order may be gone.
            let _ = order.answer.send(Written::Unknown(
                shown,
                "the line was stopped meanwhile".to_owned(),
            ));
            return Err(Stopped);
        };
        let (device, points) = (order.device, order.points);
        self.log_write(device, &points, &ended);
        // The sender of the order may be gone.
        let _ = order.answer.send(ended);
        self.written(device, &points, shown).await
    }

    /// Does the actions of an order, up to the first that fails. `shown`: the values that were read
    /// back.
    async fn carry_out(&mut self, order: &Order, shown: &mut Values) -> Result<Written, Stopped> {
        for (index, action) in order.actions.iter().enumerate() {
            self.channels.heartbeat.beat(now());
            let write = self
                .driver
                .write(order.device, action, order.read_back, order.repeat);
            let outcome = beside(write, &mut self.cache, &mut self.channels).await?;
            if let Outcome::Done(Some(words)) | Outcome::Unknown(Some(words), _) = &outcome {
                shown.extend(values_in(words, action, &order.points));
            }
            // Once an action was done, the order as a whole cannot count as not done.
            let in_part = |why: String| {
                Written::Unknown(shown.clone(), format!("only a part was done: {why}"))
            };
            return Ok(match outcome {
                Outcome::Done(_) => continue,
                Outcome::Unknown(_, why) => Written::Unknown(shown.clone(), why),
                Outcome::Exception(code) if index > 0 => in_part(explain(code)),
                Outcome::NotSent(why) if index > 0 => in_part(why),
                Outcome::Exception(code) => Written::Exception(code),
                Outcome::NotSent(why) => Written::NotSent(why),
            });
        }
        Ok(Written::Done(shown.clone()))
    }

    /// One log line for each write, at debug level.
    fn log_write(&self, device: usize, points: &[(PointId, Register)], ended: &Written) {
        let Some(device) = self
            .line
            .devices
            .get(device)
            .filter(|_| tracing::enabled!(tracing::Level::DEBUG))
        else {
            return;
        };
        let points: Vec<PointId> = points.iter().map(|(id, _)| *id).collect();
        let points = names(device, &points);
        let outcome = match ended {
            Written::Done(_) => "done".to_owned(),
            Written::Exception(code) => explain(*code),
            Written::Unknown(_, why) | Written::NotSent(why) => why.clone(),
            Written::Expired => "expired".to_owned(),
        };
        tracing::debug!(
            event = "device.points_written", line = %self.line.name, device = %device.name, %points, outcome,
            "points written"
        );
    }

    /// Publishes the values that were read back; the other points are read as soon as possible.
    async fn written(
        &mut self,
        device: usize,
        points: &[(PointId, Register)],
        shown: Values,
    ) -> Result<(), Stopped> {
        let unseen = points
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| !shown.iter().any(|(other, _)| other == id));
        let jobs =
            unseen.filter_map(|id| self.jobs.iter().position(|job| job.points.contains(&id)));
        for job in jobs.collect::<Vec<usize>>() {
            self.schedule.hurry(job, now());
        }
        self.emit_values(device, shown, Timestamp::from(moment()))
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

/// The values of those points that lie in the registers of an action.
fn values_in(words: &[u16], action: &Action, points: &[(PointId, Register)]) -> Values {
    let (start, count) = action.span();
    let value = |(id, register): &(PointId, Register)| {
        let from = register.address.checked_sub(start)?;
        if from >= count {
            return None;
        }
        let words = words.get(usize::from(from)..)?;
        let words = words.get(..usize::from(register.width()))?;
        Some((*id, register.decode(words, None)))
    };
    points.iter().filter_map(value).collect()
}
