//! What others want of a line: writes before any read, questions of persons when nothing else is to be done.

use std::time::Duration;

use super::{Ended, MOST_ORDERS, Supervisor, WRITES_IN_A_ROW, beside};
use crate::field::ask::{Inquiry, Said};
use crate::field::decode::Register;
use crate::field::modbus::explain;
use crate::field::schedule::Step;
use crate::field::write::{Order, Outcome, Written};
use crate::field::{Driver, Values};
use crate::reading::{Event, PointId, Timestamp};
use crate::time::{moment, now};

/// A question of a person waits no longer than this for a line that always has something to do.
const LONGEST_CURIOSITY: Duration = Duration::from_secs(1);

impl<D: Driver> Supervisor<D> {
    pub(super) fn give_up_orders(&mut self) {
        let now = now();
        for order in std::mem::take(&mut self.orders) {
            if order.deadline <= now {
                // Whoever asked may be gone.
                let _ = order.answer.send(Written::Expired);
            } else {
                self.orders.push_back(order);
            }
        }
    }

    /// The write whose turn it is: before any read, but not for ever.
    pub(super) fn next_order(&mut self) -> Option<Order> {
        while self.orders.len() < MOST_ORDERS
            && let Ok(order) = self.ends.orders.try_recv()
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

    pub(super) async fn write(&mut self, order: Order) -> Result<(), Ended> {
        let Order {
            device,
            points,
            actions,
            read_back,
            repeat,
            answer,
            ..
        } = order;
        let mut ended = Written::Done(Vec::new());
        let mut shown: Values = Vec::new();
        for (index, action) in actions.iter().enumerate() {
            self.ends.heartbeat.beat(now());
            let Ok(outcome) = beside(
                self.driver.write(device, action, read_back, repeat),
                &mut self.last,
                &mut self.ends,
            )
            .await
            else {
                // It may be on the wire already. Whoever asked may be gone.
                let _ = answer.send(Written::Unknown(
                    shown,
                    "the line was stopped meanwhile".to_owned(),
                ));
                return Err(Ended);
            };
            let (start, count) = action.span();
            let values = |words: Option<Vec<u16>>| -> Values {
                let Some(words) = words else {
                    return Vec::new();
                };
                let inside = points.iter().filter(|(_, register)| {
                    register.address >= start && register.address - start < count
                });
                let part = |register: &Register| {
                    words
                        .get(usize::from(register.address - start)..)
                        .and_then(|rest| rest.get(..usize::from(register.width())))
                };
                inside
                    .filter_map(|(id, register)| {
                        Some((*id, register.decode(part(register)?, None)))
                    })
                    .collect()
            };
            match outcome {
                Outcome::Done(words) => shown.extend(values(words)),
                Outcome::Unknown(words, why) => {
                    shown.extend(values(words));
                    ended = Written::Unknown(shown.clone(), why);
                    break;
                }
                // What came before was done: that must not be told as nothing.
                Outcome::Exception(code) if index > 0 => {
                    ended = Written::Unknown(
                        shown.clone(),
                        format!("only a part was done: {}", explain(code)),
                    );
                    break;
                }
                Outcome::NotSent(why) if index > 0 => {
                    ended = Written::Unknown(shown.clone(), format!("only a part was done: {why}"));
                    break;
                }
                Outcome::Exception(code) => {
                    ended = Written::Exception(code);
                    break;
                }
                Outcome::NotSent(why) => {
                    ended = Written::NotSent(why);
                    break;
                }
            }
        }
        if matches!(ended, Written::Done(_)) {
            ended = Written::Done(shown.clone());
        }
        self.log_write(device, &points, &ended);
        // Whoever asked may be gone.
        let _ = answer.send(ended);
        self.written(device, &points, shown).await
    }

    /// A line of the log for a write, for those who want to see each.
    fn log_write(&self, device: usize, points: &[(PointId, Register)], ended: &Written) {
        let Some(device) = self
            .line
            .devices
            .get(device)
            .filter(|_| tracing::enabled!(tracing::Level::DEBUG))
        else {
            return;
        };
        let names = device
            .points
            .iter()
            .filter(|point| points.iter().any(|(id, _)| *id == point.id))
            .map(|point| &*point.name);
        let points = names.collect::<Vec<_>>().join(",");
        let outcome = match ended {
            Written::Done(_) => "done".to_owned(),
            Written::Exception(code) => explain(*code),
            Written::Unknown(_, why) | Written::NotSent(why) => why.clone(),
            Written::Expired => "expired".to_owned(),
        };
        tracing::debug!(line = %self.line.name, device = %device.name, %points, outcome, "points written");
    }

    /// What was read back is news; what was not is read soon.
    async fn written(
        &mut self,
        device: usize,
        points: &[(PointId, Register)],
        shown: Values,
    ) -> Result<(), Ended> {
        let unseen = points
            .iter()
            .map(|(id, _)| *id)
            .filter(|id| !shown.iter().any(|(other, _)| other == id));
        let jobs =
            unseen.filter_map(|id| self.jobs.iter().position(|job| job.points.contains(&id)));
        jobs.collect::<Vec<usize>>()
            .into_iter()
            .for_each(|job| self.schedule.hurry(job, now()));
        for reading in self
            .last
            .measured(device, shown, now(), Timestamp::from(moment()))
        {
            self.emit(Event::Reading(reading)).await?;
        }
        Ok(())
    }

    /// Asks what a person wants to know when nothing is due, or when that has not happened for long. True if it did.
    pub(super) async fn asks_now(&mut self, step: &Step) -> Result<bool, Ended> {
        if self.inquiry.is_none() {
            self.inquiry = self
                .ends
                .inquiries
                .try_recv()
                .ok()
                .map(|inquiry| (inquiry, now()));
        }
        let is_idle = matches!(step, Step::WaitUntil(_));
        let Some((
            Inquiry {
                unit,
                ask,
                within,
                deadline,
                answer,
            },
            _,
        )) = self
            .inquiry
            .take_if(|(_, since)| is_idle || now() >= *since + LONGEST_CURIOSITY)
        else {
            return Ok(false);
        };
        if deadline <= now() || answer.is_closed() {
            return Ok(false);
        }
        let within = within.min(self.line.answer_within.most);
        let said = beside(
            self.driver.ask(unit, &ask, within),
            &mut self.last,
            &mut self.ends,
        )
        .await?;
        // Whoever asked may be gone.
        let _ = answer.send(said);
        Ok(true)
    }

    /// A question to a line that is down.
    pub(super) fn no_line(&self, inquiry: Option<Inquiry>, why: &str) {
        if let Some(Inquiry { answer, .. }) = inquiry {
            // Whoever asked may be gone.
            let _ = answer.send(Said::NoLine(format!(
                "line {} is down: {why}",
                self.line.name
            )));
        }
    }
}
