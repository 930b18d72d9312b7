//! The log lines about writes: who asked for which value, and the result.

use std::sync::Arc;
use std::time::Duration;

use super::pending::PendingWrite;
use super::result::{WriteResult, WriteStatus};
use crate::log::{LogLimiter, Printable, Source, chosen};
use crate::message::Publisher;
use crate::time::now;

/// Lines about failed writes that a client may cause at once.
const FAILED: u32 = 20;
/// The time after which it may cause another one.
const FAILED_EVERY: Duration = Duration::from_secs(10);
/// The same for writes that succeeded, which their lines slow down already.
const DONE: u32 = 100;
const DONE_EVERY: Duration = Duration::from_secs(1);
/// How often [`WriteLog::settle`] may have something to report.
pub(super) const SETTLE_EVERY: Duration = FAILED_EVERY;
/// Bytes shown of a payload that is no command.
const SHOWN: usize = 80;

/// The lines about writes.
pub(super) struct WriteLog {
    failed: LogLimiter<&'static str, Source>,
    done: LogLimiter<&'static str, Source>,
}

impl WriteLog {
    pub(super) fn new() -> Self {
        Self {
            failed: LogLimiter::new(FAILED, FAILED_EVERY),
            done: LogLimiter::new(DONE, DONE_EVERY),
        }
    }

    /// Whether a line that this client causes may be written; the value is for its field
    /// `suppressed`.
    pub(super) fn permit(
        &mut self,
        event: &'static str,
        publisher: Option<&Arc<Publisher>>,
    ) -> Option<Option<u64>> {
        self.failed
            .permit(event, source(publisher), now())
            .map(field)
    }

    /// Writes the result of a write.
    pub(super) fn write(&mut self, write: &PendingWrite, result: &WriteResult) {
        let publisher = write.publisher.as_ref();
        let shown = write.shown();
        let [topic, value] = [write.topic.as_str(), &shown].map(chosen);
        let [client_id, user, reason] = [
            client_id(publisher),
            publisher.and_then(|publisher| publisher.user.as_deref()),
            result.reason.as_deref(),
        ]
        .map(|text| text.map(chosen));
        let (status, code) = (result.status.name(), result.code);
        if result.status == WriteStatus::Ok {
            let event = "write.done";
            let Some(suppressed) = self.done.permit(event, source(publisher), now()).map(field)
            else {
                return;
            };
            tracing::info!(event, topic, value, client_id, user, suppressed, "write");
            return;
        }
        let event = "write.failed";
        let Some(suppressed) = self.permit(event, publisher) else {
            return;
        };
        tracing::warn!(
            event,
            topic,
            value,
            client_id,
            user,
            status,
            code,
            reason,
            suppressed,
            "write failed"
        );
    }

    /// Reports how many lines of each kind were suppressed, of networks that are quiet again.
    pub(super) fn settle(&mut self) {
        for (of, suppressed) in self
            .failed
            .overdue(now())
            .into_iter()
            .chain(self.done.overdue(now()))
        {
            tracing::warn!(
                event = "write.lines_suppressed",
                of,
                suppressed,
                "log lines about writes were suppressed"
            );
        }
    }
}

/// Who causes a line: the gateway's own remote brokers have no address.
fn source(publisher: Option<&Arc<Publisher>>) -> Source {
    publisher.map_or(Source::Absent, |publisher| publisher.source)
}

/// The client identifier.
pub(super) fn client_id(publisher: Option<&Arc<Publisher>>) -> Option<&str> {
    publisher.map(|publisher| &*publisher.client_id)
}

/// The number of suppressed lines, if there are any.
fn field(suppressed: u64) -> Option<u64> {
    Some(suppressed).filter(|count| *count > 0)
}

impl PendingWrite {
    /// The values, or the beginning of a payload that is no command.
    fn shown(&self) -> String {
        if !self.wanted.is_empty() {
            return self.wanted_text();
        }
        let shown = self.payload.get(..SHOWN).unwrap_or(&self.payload);
        let rest = if shown.len() < self.payload.len() {
            "..."
        } else {
            ""
        };
        format!("{}{rest}", Printable::bytes(shown))
    }
}
