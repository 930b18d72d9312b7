//! The order of a stop: which tasks have to end before the next are ordered to.

use tokio::time::sleep_until;

use super::error::GatewayError;
use super::run::RunningGateway;
use super::stop_orders::STOP_TIMEOUT;
use super::task::TaskKind;
use crate::tasks::Ended;
use crate::time::now;

/// An order to stop, for all that stop together.
#[derive(Debug, Clone, Copy)]
enum StopOrder {
    /// Lines, listeners and messages about the health of the gateway.
    Sources,
    /// Uplinks, which then have the grace to send what is in their outboxes.
    Uplinks,
}

/// One step of a stop.
struct Phase {
    order: StopOrder,
    /// The order is given when all tasks of these kinds have ended.
    after: &'static [TaskKind],
}

/// The phases of a stop. An outbox closes, and its [`TaskKind::Store`] ends, with the last task
/// that uses it.
const PHASES: [Phase; 2] = [
    Phase {
        order: StopOrder::Sources,
        after: &[],
    },
    Phase {
        order: StopOrder::Uplinks,
        // All that write into outboxes.
        after: &[
            TaskKind::Line,
            TaskKind::Report,
            TaskKind::Forward,
            TaskKind::Health,
        ],
    },
];

impl RunningGateway {
    /// Stops phase by phase. When the grace is over, all phases are ordered at once, and tasks that
    /// wait for a disk give up.
    pub(super) async fn stop(mut self) -> Result<(), GatewayError> {
        let grace_over = now() + self.config.shutdown_grace;
        let give_up = grace_over + STOP_TIMEOUT;
        let mut phases = PHASES.iter().peekable();
        let mut in_a_hurry = false;
        let mut fault = None;
        loop {
            while let Some(phase) = phases.next_if(|phase| !self.runs_any(phase.after)) {
                self.give(phase.order);
            }
            tokio::select! {
                ended = self.supervision.tasks.next_ended() => match ended {
                    None => return fault.map_or(Ok(()), Err),
                    Some(Ended { result: Ok(()), .. }) => {}
                    Some(ended) => fault = Some(GatewayError::from(ended)),
                },
                () = sleep_until(grace_over.into()), if !in_a_hurry => {
                    in_a_hurry = true;
                    self.stops.hurry.stop();
                    phases.by_ref().for_each(|phase| self.give(phase.order));
                }
                () = sleep_until(give_up.into()) => return Err(GatewayError::Stuck(self.supervision.tasks.len())),
            }
        }
    }

    fn runs_any(&self, kinds: &[TaskKind]) -> bool {
        let tasks = self.supervision.tasks.names();
        tasks.iter().any(|task| kinds.contains(&task.kind))
    }

    fn give(&mut self, order: StopOrder) {
        match order {
            StopOrder::Sources => {
                self.stops.sources.stop();
                self.field.stop();
                self.supervision.health.end();
                self.routing.end_states();
            }
            StopOrder::Uplinks => self.stops.uplinks.stop(),
        }
    }
}
