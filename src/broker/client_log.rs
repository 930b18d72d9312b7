//! Log lines about clients that connect, are refused and leave. One place decides which lines are
//! too many.
//!
//! Invariants: a line names its address before anything that a client has chosen, so that programs
//! such as fail2ban can rely on it; a network causes at most [`BURST`] lines of a kind at once and
//! one in [`EVERY`] after that, whatever its clients call themselves; what a client has chosen is
//! cut to a few hundred bytes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::admission::Address;
use super::engine::{ClientNote, Noted, Notice, NoticeKind, Terms};
use crate::log::{LogLimiter, Source, chosen};
use crate::mqtt::TopicName;

/// Lines of a kind that a network may cause at once.
const BURST: u32 = 50;
/// The time after which it may cause another one.
const EVERY: Duration = Duration::from_secs(2);

/// The log of listeners and of the engine.
#[derive(Debug)]
pub(super) struct ClientLog {
    /// By event and network.
    limiter: Mutex<LogLimiter<&'static str, Source>>,
}

impl Default for ClientLog {
    fn default() -> Self {
        Self {
            limiter: Mutex::new(LogLimiter::new(BURST, EVERY)),
        }
    }
}

impl ClientLog {
    fn lock(&self) -> MutexGuard<'_, LogLimiter<&'static str, Source>> {
        // Whole between statements, whatever panicked.
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a line may be written. What comes back belongs into its field `suppressed`.
    pub(super) fn permit(
        &self,
        event: &'static str,
        address: Option<Address>,
        now: Instant,
    ) -> Option<Suppressed> {
        self.lock()
            .permit(event, Source::of(address), now)
            .map(Suppressed)
    }

    /// Writes a note of the engine.
    pub(super) fn note(&self, note: &ClientNote, now: Instant) {
        let event = note.what.event();
        let Some(suppressed) = self.permit(event, note.address, now) else {
            return;
        };
        let address = shown(note.address);
        let [user, client_id, topic] =
            [&note.user, &note.client_id, &note.topic].map(|text| text.as_deref().map(chosen));
        let (reason, suppressed) = (note.reason.map(tracing::field::display), suppressed.field());
        let why = Some(note.why).filter(|why| !why.is_empty());
        let sentence = note.what.sentence();
        match note.what {
            Noted::UserLocked => {
                tracing::warn!(event, address, user, client_id, suppressed, "{sentence}");
            }
            Noted::SessionEnded => {
                tracing::info!(event, user, client_id, why, suppressed, "{sentence}");
            }
            _ => tracing::info!(
                event,
                address,
                user,
                client_id,
                topic,
                reason,
                why,
                suppressed,
                "{sentence}"
            ),
        }
        if let Some(Terms {
            version,
            keep_alive,
            is_resumed,
            outlives_s,
        }) = note.terms
        {
            let session = if is_resumed { "resumed" } else { "new" };
            tracing::debug!(
                event = "broker.client_terms",
                client_id,
                ?version,
                keep_alive,
                session,
                session_expiry_s = outlives_s,
                "terms of the client's CONNECT"
            );
        }
    }

    /// Logs how many lines of a kind were left out of networks that are quiet again. To be called
    /// now and then.
    pub(super) fn settle(&self, now: Instant) {
        let overdue = self.lock().overdue(now);
        overdue
            .into_iter()
            .for_each(|(event, suppressed)| left_out(event, suppressed));
    }
}

/// Lines like this one that were left out before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suppressed(u64);

impl Suppressed {
    /// For the log: nothing where nothing was left out.
    pub(super) fn field(self) -> Option<u64> {
        Some(self.0).filter(|count| *count > 0)
    }
}

/// Writes a notice down; the engine has left out what is too much.
pub(super) fn notice(notice: &Notice) {
    let Notice {
        kind,
        client_id,
        user,
        address,
        topic,
        why,
        left_out,
    } = notice;
    let [client_id, user, topic] = [
        client_id.as_deref(),
        user.as_deref(),
        topic.as_ref().map(TopicName::as_str),
    ]
    .map(|text| text.map(chosen));
    let (event, address) = (kind.event(), address.map(|address| shown(Some(address))));
    let (why, suppressed) = (
        Some(*why).filter(|why| !why.is_empty()),
        Suppressed(*left_out).field(),
    );
    macro_rules! warn {
        ($sentence:literal) => {
            tracing::warn!(
                event, address, user, client_id, topic, why, suppressed, $sentence
            )
        };
    }
    match kind {
        NoticeKind::RefusedMessage => {
            warn!(
                "message refused and dropped; no packet tells so to a client before MQTT 5 or at QoS 0"
            );
        }
        NoticeKind::RefusedWill => {
            warn!(
                "will refused and dropped; give its user a `write` rule for the topic, or change the will"
            );
        }
        NoticeKind::RetainedCommand => {
            warn!(
                "command to an instrument not retained; publish commands without the retain flag"
            );
        }
        NoticeKind::NotRetained => {
            warn!("message delivered but not retained: no room");
        }
        NoticeKind::FullQueue => {
            warn!("message to a client dropped: queue full");
        }
        NoticeKind::ReplayWaits => {
            warn!(
                "retained messages for a new subscription delayed until sessions use less memory; their topics are long"
            );
        }
        NoticeKind::WrongAcknowledgement => {
            warn!(
                "client disconnected: it acknowledged a message with the wrong packet type; update the client"
            );
        }
    }
}

/// Logs how many lines of a kind were left out, of all clients together.
pub(super) fn left_out(of: &'static str, suppressed: u64) {
    tracing::info!(
        event = "broker.lines_suppressed",
        of,
        suppressed,
        "log lines about clients were suppressed"
    );
}

/// An address as the log shows it.
pub(super) fn shown(address: Option<Address>) -> String {
    address.map_or_else(
        || "unix".to_owned(),
        |address| address.to_canonical().to_string(),
    )
}
