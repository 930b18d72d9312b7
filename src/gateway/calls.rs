//! What commands of this program ask of a gateway that runs.

use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::south::Field;
use crate::broker::Broker;
use crate::field::diagnostic::PendingDiagnostic;
use crate::field::trace::{MOST_WATCHERS, Traced};
use crate::outbox::{QUEUES, Selection};
use crate::status::control::{Call, Reply, Request};
use crate::tasks::detach;
use crate::time::{now, unix_ms};
use crate::uplink::{Purge, Purges, Removed};

/// Questions that may wait for a line.
pub(super) const DIAGNOSTIC_QUEUE: usize = 4;
/// How much longer than the device a line may take to come to a question.
const PATIENCE: Duration = Duration::from_secs(30);

/// Passes a request on; the reply comes when it is there.
pub(super) fn take(call: Call, field: &Field) {
    let Call {
        request,
        reply,
        follow,
    } = call;
    let (line, unit, ask, within_ms) = match request {
        Request::Ask {
            line,
            unit,
            ask,
            within_ms,
        } => (line, unit, ask, within_ms),
        // Whoever asked may be gone.
        Request::Trace { line } => return drop(reply.send(trace(&line, follow, field))),
        _ => return,
    };
    // Whoever asked may be gone, whatever is replied.
    let Some(queue) = field.diagnostics(&line) else {
        let known: Vec<&str> = field.names().collect();
        let hint = crate::config::suggestion(&line, known);
        let _ = reply.send(Reply::Refused(format!(
            "the gateway that runs has no line \"{line}\"; {hint}"
        )));
        return;
    };
    if let Some(fault) = ask.fault(unit) {
        let _ = reply.send(Reply::Refused(fault.to_owned()));
        return;
    }
    let within = Duration::from_millis(within_ms);
    let (answer, answered) = oneshot::channel();
    match queue.try_send(PendingDiagnostic {
        unit,
        ask,
        within,
        deadline: now() + within + PATIENCE,
        answer,
    }) {
        Ok(()) => detach(async move {
            if let Ok(said) = answered.await {
                let _ = reply.send(Reply::Said(said));
            }
        }),
        Err(TrySendError::Full(_)) => drop(reply.send(Reply::Refused(
            "others are asking this line; try again".to_owned(),
        ))),
        Err(TrySendError::Closed(_)) => {
            drop(reply.send(Reply::Refused("the gateway is stopping".to_owned())));
        }
    }
}

/// Shows the frames of a line.
fn trace(line: &str, follow: mpsc::Sender<Traced>, field: &Field) -> Reply {
    let Some((framing, counts)) = field.watched(line) else {
        let known: Vec<&str> = field.names().collect();
        let hint = crate::config::suggestion(line, known);
        return Reply::Refused(format!(
            "the gateway that runs has no line \"{line}\"; {hint}"
        ));
    };
    let Some(framing) = framing else {
        return Reply::Refused(format!("line {line} is simulated: it has no frames"));
    };
    let unix_ms = unix_ms();
    if counts.watchers.add(follow) {
        Reply::Tracing { framing, unix_ms }
    } else {
        Reply::Refused(format!(
            "{MOST_WATCHERS} traces of line {line} run already; end one of them"
        ))
    }
}

/// Removes messages from the outbox of an uplink, and tells how many. `known` are the uplinks by their names.
pub(super) fn purge(
    (uplink, queue, selection): (String, Option<String>, Selection),
    reply: oneshot::Sender<Reply>,
    known: &[(String, Purges)],
) {
    let index = queue
        .as_ref()
        .map(|wanted| QUEUES.iter().position(|queue| queue == wanted));
    // Whoever asked may be gone, whatever is replied.
    let Some((_, purges)) = known.iter().find(|(name, _)| *name == uplink) else {
        let _ = reply.send(Reply::Refused(format!(
            "the gateway that runs has no uplink \"{uplink}\""
        )));
        return;
    };
    if index == Some(None) {
        let _ = reply.send(Reply::Refused(format!(
            "there is no queue of that name; choose one of {}",
            QUEUES.join(", ")
        )));
        return;
    }
    let (counted, counts) = oneshot::channel();
    let (order, purges) = (
        Purge {
            queue: index.flatten(),
            selection,
            reply: counted,
        },
        purges.clone(),
    );
    detach(async move {
        let said = match purges.send(order).await {
            Ok(()) => counts.await.ok(),
            Err(_) => None,
        };
        let named = |counts: Removed| {
            QUEUES
                .iter()
                .map(|queue| (*queue).to_owned())
                .zip(counts)
                .collect()
        };
        let _ = reply.send(match said {
            Some(Ok(counts)) => Reply::Purged(named(counts)),
            Some(Err(why)) => Reply::Refused(why),
            None => Reply::Refused("the gateway is stopping".to_owned()),
        });
    });
}

/// Ends the session of a client of the local broker, and tells how that went.
pub(super) fn end_session(
    client_id: String,
    reply: oneshot::Sender<Reply>,
    broker: Option<Broker>,
) {
    detach(async move {
        let said = match broker {
            None => Reply::Refused("this gateway has no broker".to_owned()),
            Some(broker) => match broker.end_session(&client_id).await {
                Ok(true) => Reply::Ended,
                Ok(false) => {
                    Reply::Refused(format!("there is no session of a client \"{client_id}\""))
                }
                Err(_) => Reply::Refused("the gateway is stopping".to_owned()),
            },
        };
        // Whoever asked may be gone.
        let _ = reply.send(said);
    });
}
