//! What the log says of writes: who wanted what, and how it ended.

use std::sync::Arc;
use std::time::Duration;

use super::Asked;
use super::command::{Status, Verdict};
use crate::log::{LogLimiter, Printable};
use crate::message::Publisher;
use crate::time::now;

/// Lines about writes that failed that a client may cause at once.
const FAILED: u32 = 20;
/// The time after which it may cause another one.
const FAILED_EVERY: Duration = Duration::from_secs(10);
/// The same for writes that were done, which their lines slow down already.
const DONE: u32 = 100;
const DONE_EVERY: Duration = Duration::from_secs(1);
/// How often [`WriteLog::settle`] has something to say.
pub(super) const EVERY: Duration = FAILED_EVERY;
/// Bytes of a payload that are shown where it could not be read as a command.
const SHOWN: usize = 80;

/// The lines about writes.
pub(super) struct WriteLog {
    failed: LogLimiter<Option<Arc<Publisher>>>,
    done: LogLimiter<Option<Arc<Publisher>>>,
}

impl WriteLog {
    pub(super) fn new() -> Self {
        Self { failed: LogLimiter::new(FAILED, FAILED_EVERY), done: LogLimiter::new(DONE, DONE_EVERY) }
    }

    /// Whether a line that this client causes may be written; what comes back is for its field `suppressed`.
    pub(super) fn permit(&mut self, publisher: Option<&Arc<Publisher>>) -> Option<Option<u64>> {
        self.failed.permit(&publisher.cloned(), now()).map(field)
    }

    /// Writes how a write ended.
    pub(super) fn write(&mut self, asked: &Asked, verdict: &Verdict) {
        let client_id = asked.publisher.as_ref().map(|publisher| tracing::field::display(publisher.client_id.clone()));
        let user = asked.publisher.as_ref().and_then(|publisher| publisher.user.clone()).map(tracing::field::display);
        let (topic, value) = (&asked.topic, asked.shown());
        let status = verdict.status.name();
        if verdict.status == Status::Ok {
            let Some(suppressed) = self.done.permit(&asked.publisher, now()).map(field) else { return };
            tracing::info!(event = "write.done", %topic, value, client_id, user, suppressed, "write");
            return;
        }
        let Some(suppressed) = self.permit(asked.publisher.as_ref()) else { return };
        let (code, reason) = (verdict.code, verdict.reason.as_deref());
        tracing::warn!(event = "write.failed", %topic, value, client_id, user, status, code, reason, suppressed, "write failed");
    }

    /// Says how many lines were left out of clients that are quiet again.
    pub(super) fn settle(&mut self) {
        for (source, suppressed) in self.failed.overdue(now()).into_iter().chain(self.done.overdue(now())) {
            let client_id = source.flatten().map(|publisher| tracing::field::display(publisher.client_id.clone()));
            tracing::warn!(event = "write.lines_suppressed", client_id, suppressed, "lines about writes were left out of the log");
        }
    }
}

/// How many lines were left out, where some were.
fn field(suppressed: u64) -> Option<u64> {
    Some(suppressed).filter(|count| *count > 0)
}

impl Asked {
    /// The values; of a message that is no command its beginning.
    fn shown(&self) -> String {
        if !self.wanted.is_empty() {
            return self.wanted_text();
        }
        let shown = self.payload.get(..SHOWN).unwrap_or(&self.payload);
        let rest = if shown.len() < self.payload.len() { "..." } else { "" };
        format!("{}{rest}", Printable::bytes(shown))
    }
}
