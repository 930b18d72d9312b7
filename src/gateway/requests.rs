//! Requests of commands to the running gateway, which come through the control socket.

use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::error::GatewayError;
use super::field::Field;
use super::measure::reply_metrics;
use super::run::RunningGateway;
use super::uplinks::UplinkHandle;
use crate::broker::Broker;
use crate::config::suggestion;
use crate::field::diagnostic::{DiagnosticRequest, DiagnosticResponse, PendingDiagnostic};
use crate::field::trace::{MOST_WATCHERS, Traced};
use crate::outbox::{QUEUES, Selection};
use crate::status::control::{Call, ControlRequest, Reply};
use crate::status::service::Service;
use crate::tasks::detach;
use crate::time::{now, unix_ms};
use crate::uplink::{Purge, Purges, Removed};

/// How long a diagnostic request may wait for its line, beyond the timeout of the device.
const DIAGNOSTIC_TIMEOUT: Duration = Duration::from_secs(30);
const STOPPING: &str = "the gateway is stopping";

impl RunningGateway {
    /// Answers a request, at once or when its answer is there; only a reload is awaited. The error
    /// is a task that failed.
    pub(super) async fn answer(
        &mut self,
        call: Call,
        service: &mut Service,
    ) -> Result<(), GatewayError> {
        let Call {
            request,
            reply,
            follow,
        } = call;
        match request {
            ControlRequest::Reload => send(reply, self.reload_announced(service).await?),
            ControlRequest::Status => send(
                reply,
                Reply::Status(Box::new(self.supervision.health.status())),
            ),
            ControlRequest::Metrics => reply_metrics(&self.supervision, self.broker(), reply),
            ControlRequest::EndSession { client_id } => {
                end_session(client_id, reply, self.broker());
            }
            ControlRequest::Purge {
                uplink,
                queue,
                selection,
            } => match PurgeTarget::find(&self.uplinks, &uplink, queue.as_deref()) {
                Ok(target) => target.purge(selection, reply),
                Err(why) => send(reply, Reply::Refused(why)),
            },
            ControlRequest::Ask {
                line,
                unit,
                ask,
                within_ms,
            } => {
                let (answer, answered) = oneshot::channel();
                let inquiry = inquiry(unit, ask, within_ms, answer);
                match enqueue(inquiry, &line, &self.field) {
                    Ok(()) => pass_on(answered, reply),
                    Err(why) => send(reply, Reply::Refused(why)),
                }
            }
            ControlRequest::Trace { line } => {
                let traced = trace(&line, follow, &self.field);
                send(reply, traced.unwrap_or_else(Reply::Refused));
            }
        }
        Ok(())
    }

    fn broker(&self) -> Option<Broker> {
        self.broker.as_ref().map(|running| running.broker.clone())
    }
}

/// A command that has hung up needs no reply.
fn send(to: oneshot::Sender<Reply>, reply: Reply) {
    let _ = to.send(reply);
}

fn inquiry(
    unit: u8,
    ask: DiagnosticRequest,
    within_ms: u64,
    answer: oneshot::Sender<DiagnosticResponse>,
) -> PendingDiagnostic {
    let within = Duration::from_millis(within_ms);
    PendingDiagnostic {
        unit,
        ask,
        within,
        deadline: now() + within + DIAGNOSTIC_TIMEOUT,
        answer,
    }
}

/// Puts a diagnostic request into the queue of a line, or says why not.
fn enqueue(inquiry: PendingDiagnostic, line: &str, field: &Field) -> Result<(), String> {
    let Some(queue) = field.diagnostics(line) else {
        return Err(unknown_line(line, field));
    };
    if let Some(fault) = inquiry.ask.fault(inquiry.unit) {
        return Err(fault.to_owned());
    }
    queue.try_send(inquiry).map_err(|error| match error {
        TrySendError::Full(_) => "others are asking this line; try again".to_owned(),
        TrySendError::Closed(_) => STOPPING.to_owned(),
    })
}

fn unknown_line(line: &str, field: &Field) -> String {
    let hint = suggestion(line, field.names());
    format!("the running gateway has no line \"{line}\"; {hint}")
}

/// Passes the frames of a line to `follow` from here on, or says why not.
fn trace(line: &str, follow: mpsc::Sender<Traced>, field: &Field) -> Result<Reply, String> {
    let Some((framing, counts)) = field.watched(line) else {
        return Err(unknown_line(line, field));
    };
    let Some(framing) = framing else {
        return Err(format!("line {line} is simulated: it has no frames"));
    };
    let unix_ms = unix_ms();
    if counts.watchers.add(follow) {
        Ok(Reply::Tracing { framing, unix_ms })
    } else {
        Err(format!(
            "{MOST_WATCHERS} traces of line {line} are already running; end one of them"
        ))
    }
}

/// Replies with the answer of a line, when it is there.
fn pass_on(answered: oneshot::Receiver<DiagnosticResponse>, reply: oneshot::Sender<Reply>) {
    detach(async move {
        if let Ok(said) = answered.await {
            send(reply, Reply::Said(said));
        }
    });
}

/// An outbox, or one of its queues.
struct PurgeTarget {
    purges: Purges,
    queue: Option<usize>,
}

impl PurgeTarget {
    fn find(uplinks: &[UplinkHandle], uplink: &str, queue: Option<&str>) -> Result<Self, String> {
        let Some(found) = uplinks.iter().find(|known| known.name == uplink) else {
            return Err(format!("the running gateway has no uplink \"{uplink}\""));
        };
        let index = queue.map(|name| QUEUES.iter().position(|queue| *queue == name));
        if index == Some(None) {
            let known = QUEUES.join(", ");
            return Err(format!(
                "there is no queue of that name; choose one of {known}"
            ));
        }
        Ok(Self {
            purges: found.purges.clone(),
            queue: index.flatten(),
        })
    }

    /// Removes messages, and replies how many, by queue.
    fn purge(self, selection: Selection, reply: oneshot::Sender<Reply>) {
        let (counted, counts) = oneshot::channel();
        let order = Purge {
            queue: self.queue,
            selection,
            reply: counted,
        };
        detach(async move {
            let removed = match self.purges.send(order).await {
                Ok(()) => counts.await.ok(),
                Err(_) => None,
            };
            let by_queue = |counts: Removed| {
                let names = QUEUES.iter().map(|queue| (*queue).to_owned());
                names.zip(counts).collect()
            };
            let said = match removed {
                Some(Ok(counts)) => Reply::Purged(by_queue(counts)),
                Some(Err(why)) => Reply::Refused(why),
                None => Reply::Refused(STOPPING.to_owned()),
            };
            send(reply, said);
        });
    }
}

/// Ends the session of a client of the local broker, and replies how that went.
fn end_session(client_id: String, reply: oneshot::Sender<Reply>, broker: Option<Broker>) {
    detach(async move {
        let refusal = match broker {
            None => "this gateway has no broker".to_owned(),
            Some(broker) => match broker.end_session(&client_id).await {
                Ok(true) => return send(reply, Reply::Ended),
                Ok(false) => format!("there is no session of a client \"{client_id}\""),
                Err(_) => STOPPING.to_owned(),
            },
        };
        send(reply, Reply::Refused(refusal));
    });
}
