//! The status of an uplink: for local clients on `$SYS`, and in the log once per change.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::watch;

use super::channels::UplinkChannels;
use super::news::News;
use super::rivals::ClientIdTaken;
use super::session::Forgotten;
use crate::log::{LogLimiter, Printable, chosen};
use crate::message::{Message, Origin};
use crate::metrics::{Counter, Labels, Metric, MetricSet, MetricSource};
use crate::mqtt::TopicName;
use crate::outbox::{Gap, LANES, Outbox, QUEUES};
use crate::payload::json;
use crate::route::StateSender;
use crate::time::{now, rfc3339, unix_ms};

/// Gaps that are published together.
const RECENT_GAPS: usize = 8;
/// Gaps that may wait for a busy broker.
const MAX_GAPS: usize = 256;
const CONNECTED: &str = "connected";
const DISCONNECTED: &str = "disconnected";
const STANDBY: &str = "standby";
/// How often the log says that messages did not come into the outbox.
const DROPPED_EVERY: Duration = Duration::from_secs(60);

/// Traffic of the link.
#[derive(Debug)]
pub(super) struct LinkCounters {
    /// The name of the uplink.
    name: String,
    is_up: watch::Receiver<bool>,
    pub(super) acknowledged: Counter,
    pub(super) refused: Counter,
    pub(super) received: Counter,
    pub(super) connects: Counter,
    /// Readings that their format has no place for.
    pub(super) left_out: Counter,
    /// Messages sent again after a cut, marked as repetitions.
    pub(super) repeated: Counter,
    /// Messages sent again because the remote had forgotten the session, once for each copy that
    /// was sent.
    pub(super) resent: Counter,
}

const UP: Metric = Metric::gauge("wellhead_uplink_up", "1 while the uplink is connected.");
const ACKNOWLEDGED: Metric = Metric::counter(
    "wellhead_uplink_acknowledged_messages",
    "Messages that the remote acknowledged.",
);
const REFUSED: Metric = Metric::counter(
    "wellhead_uplink_refused_messages",
    "Messages that the remote refused for good.",
);
const RECEIVED: Metric = Metric::counter(
    "wellhead_uplink_received_messages",
    "Messages of the remote.",
);
const CONNECTS: Metric = Metric::counter("wellhead_uplink_connects", "Connections that were made.");
const LEFT_OUT: Metric = Metric::counter(
    "wellhead_uplink_left_out_readings",
    "Readings that were not sent because their format has no place for them.",
);
const REPEATED: Metric = Metric::counter(
    "wellhead_uplink_repeated_messages",
    "Messages sent again after a cut, marked as repetitions.",
);
const RESENT: Metric = Metric::counter(
    "wellhead_uplink_resent_messages",
    "Messages sent again because the remote had forgotten the session.",
);

impl LinkCounters {
    fn new(name: &str, is_up: watch::Receiver<bool>) -> Self {
        Self {
            name: name.to_owned(),
            is_up,
            acknowledged: Counter::default(),
            refused: Counter::default(),
            received: Counter::default(),
            connects: Counter::default(),
            left_out: Counter::default(),
            repeated: Counter::default(),
            resent: Counter::default(),
        }
    }
}

impl MetricSource for LinkCounters {
    fn measure(&self, metrics: &mut MetricSet) {
        let labels: Labels = [("uplink", self.name.clone())].into();
        metrics.add(&UP, &labels, u64::from(*self.is_up.borrow()));
        for (metric, counter) in [
            (&ACKNOWLEDGED, &self.acknowledged),
            (&REFUSED, &self.refused),
            (&RECEIVED, &self.received),
            (&CONNECTS, &self.connects),
            (&LEFT_OUT, &self.left_out),
            (&REPEATED, &self.repeated),
            (&RESENT, &self.resent),
        ] {
            metrics.add(metric, &labels, counter.value());
        }
    }
}

#[derive(Serialize, Clone, PartialEq)]
struct StatusMessage {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    since: String,
    waiting: u64,
    dead: u64,
    lost: u64,
    /// Messages of local clients that did not come into the outbox.
    dropped: u64,
    /// QoS 0 messages that came faster than `rate`.
    rate_dropped: u64,
    acknowledged: u64,
    refused: u64,
    repeated: u64,
    resent: u64,
    received: u64,
    connects: u64,
    stalled: bool,
    full: bool,
    /// Filters of `receive` that the remote does not allow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    filters_refused: Vec<String>,
    /// Another client uses the client identifier: `certain` or `possible`.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id_taken: Option<&'static str>,
    /// Messages a second, where the remote left messages unanswered that came faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pace: Option<f64>,
}

/// A gap as it is published.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToldGap {
    lane: &'static str,
    /// The series of numbers, as in the user property `seq`.
    series: String,
    first: u64,
    /// `null` with an unknown count: the numbers that were skipped say nothing.
    last: Option<u64>,
    /// `null` where a damaged database does not tell how many it held.
    count: Option<u64>,
    from: String,
    until: String,
    reason: crate::outbox::Reason,
}

/// The status topics of one uplink.
pub(super) struct StatusTopics {
    name: String,
    sender: Option<StateSender>,
    outbox: Outbox,
    /// Not told yet.
    gaps: VecDeque<(usize, Gap)>,
    /// The newest gaps.
    recent_gaps: watch::Sender<Vec<ToldGap>>,
    pub(super) counters: Arc<LinkCounters>,
    is_up: watch::Sender<bool>,
    state: &'static str,
    reason: Option<String>,
    /// Ups and downs that were logged.
    news: News,
    /// Messages that could not come into the outbox: how many there were when it was told last, and
    /// when that was.
    dropped_told: (u64, Option<Instant>),
    /// Of lines that the remote can cause as often as it likes, by their event.
    log: LogLimiter<&'static str>,
    filters_refused: Vec<String>,
    taken: watch::Sender<Option<ClientIdTaken>>,
    pace: Option<f64>,
    since_ms: i64,
    shown: Option<StatusMessage>,
}

/// Lines of a kind that the remote may cause at once.
const BURST: u32 = 20;
/// The time after which it may cause another one.
const EVERY: Duration = Duration::from_secs(10);

impl StatusTopics {
    pub(super) fn new(name: String, ends: &UplinkChannels, outbox: Outbox) -> Self {
        let (sender, is_up) = (ends.status.clone(), ends.is_up.clone());
        let counters = Arc::new(LinkCounters::new(&name, is_up.subscribe()));
        Self {
            name,
            sender,
            outbox,
            gaps: VecDeque::new(),
            recent_gaps: watch::Sender::new(Vec::new()),
            counters,
            is_up,
            state: DISCONNECTED,
            reason: None,
            news: News::default(),
            dropped_told: (0, None),
            log: LogLimiter::new(BURST, EVERY),
            filters_refused: Vec::new(),
            taken: watch::Sender::new(None),
            pace: None,
            since_ms: unix_ms(),
            shown: None,
        }
    }

    pub(super) fn connected(&mut self, remote: &dyn std::fmt::Display) {
        self.counters.connects.count();
        let waiting = self.outbox.counts().waiting();
        if let Some(cuts) = self.news.up() {
            let cuts = Some(cuts).filter(|cuts| *cuts > 0);
            tracing::info!(event = "uplink.up", uplink = %self.name, %remote, waiting, cuts, "link is up");
        }
        self.change(CONNECTED, None);
    }

    /// A backup that is not needed.
    pub(super) fn standing_by(&mut self) {
        tracing::info!(event = "uplink.standby", uplink = %self.name, "the other uplink is up again: this one is disconnected and stands by");
        self.change(STANDBY, None);
    }

    /// The connection is replaced by one with the will that was left out.
    pub(super) fn tries_will(&mut self) {
        tracing::info!(event = "uplink.will_tried", uplink = %self.name, "the uplink reconnects with the will that was left out, to see whether the remote takes it; messages wait in the outbox meanwhile");
        self.change(
            DISCONNECTED,
            Some("the uplink reconnects with a will".to_owned()),
        );
    }

    /// The connection is replaced by one that repeats what the remote has left unanswered.
    pub(super) fn repeats(&mut self) {
        self.change(
            DISCONNECTED,
            Some(
                "the uplink reconnects to repeat messages that the remote left unanswered"
                    .to_owned(),
            ),
        );
    }

    /// Messages a second that the remote takes, if that is known.
    pub(super) fn set_pace(&mut self, per_second: Option<f64>) {
        self.pace = per_second.map(|pace| (pace * 1000.0).round() / 1000.0);
    }

    /// The remote has left messages unanswered that came too fast for it.
    pub(super) fn paced(&self, unanswered: usize, is_new: bool) {
        let per_second = self.pace;
        if is_new {
            tracing::warn!(event = "uplink.paced", uplink = %self.name, unanswered, per_second, "the remote left messages unanswered and answered others: it takes fewer messages a second; they are sent again at a pace that rises slowly; set `rate` of the uplink to what the remote takes");
        } else {
            tracing::debug!(event = "uplink.pace_lowered", uplink = %self.name, unanswered, per_second, "the remote left messages unanswered again; the pace is lower");
        }
    }

    /// It takes messages as fast as they come.
    pub(super) fn pace_ended(&self) {
        tracing::info!(event = "uplink.pace_ended", uplink = %self.name, "the remote answers all messages; they are sent without a pace again");
    }

    /// The fate of messages in flight after a lost session.
    pub(super) fn session(&mut self, forgotten: &Forgotten) {
        let Forgotten {
            resent,
            dropped,
            presumed,
        } = forgotten;
        let (dropped, presumed) = (dropped.len(), presumed.len());
        if resent + dropped + presumed > 0 {
            tracing::warn!(event = "uplink.session_lost", uplink = %self.name, resent, dropped, presumed, "the remote has lost the session: messages in flight are sent again, dropped or taken for delivered, as `if_session_lost` of their class says; let the remote keep sessions longer");
        }
    }

    /// The remote cannot take messages for now.
    pub(super) fn held(&mut self, reason: &str, pause: Duration) {
        let event = "uplink.held";
        let Some(suppressed) = self.permit(event) else {
            return;
        };
        tracing::warn!(event, uplink = %self.name, reason = chosen(reason), suppressed, pause_s = pause.as_secs(), "the remote cannot take messages now; trying again later");
    }

    /// The remote will never take this message.
    pub(super) fn refused(&mut self, seq: u64, reason: &str, topic: &str) {
        self.counters.refused.count();
        let event = "uplink.message_refused";
        let Some(suppressed) = self.permit(event) else {
            return;
        };
        tracing::error!(event, suppressed, uplink = %self.name, seq, topic = chosen(topic), reason = chosen(reason), "the remote does not take this message; it is kept as a dead letter (see `wellhead outbox`)");
    }

    /// A message of the remote cannot be published here.
    pub(super) fn unusable(&mut self, reason: &'static str) {
        let event = "uplink.message_unusable";
        let Some(suppressed) = self.permit(event) else {
            return;
        };
        tracing::warn!(event, uplink = %self.name, reason, suppressed, "a message of the remote has no topic here and is dropped");
    }

    /// The filters of `receive` that the remote does not have.
    pub(super) fn filters_missing(&mut self, filters: Vec<String>) {
        self.filters_refused = filters;
    }

    /// The remote has no QoS 2.
    pub(super) fn has_no_qos_2(&self) {
        tracing::warn!(event = "uplink.no_qos_2", uplink = %self.name, "the remote has no QoS 2: messages go to it with QoS 1 from here on, and may come twice after a cut");
    }

    /// The remote may have no QoS 2.
    pub(super) fn may_lack_qos_2(&self) {
        tracing::warn!(event = "uplink.no_qos_2", uplink = %self.name, "the remote closes the connection when it gets a QoS 2 message, so it seems to have no QoS 2: messages go to it with QoS 1, and may come twice after a cut");
    }

    /// The remote does not take everything that would tell whether this gateway lives.
    pub(super) fn presence_limited(&self, topic: &str, why: &str) {
        tracing::warn!(event = "uplink.presence_limited", uplink = %self.name, topic = chosen(topic), "{why}");
    }

    /// Whether another client uses the client identifier of this gateway.
    pub(super) fn set_taken(&mut self, taken: Option<ClientIdTaken>) {
        self.taken
            .send_if_modified(|known| std::mem::replace(known, taken) != taken);
    }

    /// Follows that.
    pub(super) fn watch_taken(&self) -> watch::Receiver<Option<ClientIdTaken>> {
        self.taken.subscribe()
    }

    /// Another client uses the client identifier of this gateway.
    pub(super) fn client_id_taken(&self, client_id: &str) {
        tracing::error!(event = "uplink.client_id_taken", uplink = %self.name, client_id, "another client uses this client identifier, a copy of this gateway perhaps: the two disconnect each other, and each pauses longer and longer; messages wait in the outbox and are sent between the pauses, and those of QoS 2 can be lost or come twice while both use one session; give each gateway its own `client_id` (by default it is the site)");
    }

    /// That client has taken the place of this one.
    pub(super) fn taken_over(&mut self, client_id: &str, pause: Duration) {
        let reason = format!(
            "another client has connected with the client identifier `{client_id}`; give each gateway its own `client_id`"
        );
        self.change(DISCONNECTED, Some(reason));
        let event = "uplink.taken_over";
        let Some(suppressed) = self.permit(event) else {
            return;
        };
        tracing::warn!(event, uplink = %self.name, client_id, suppressed, pause_s = pause.as_secs(), "another client with this client identifier has disconnected this gateway, which connects again after a pause; give each its own `client_id`");
    }

    /// The remote has closed many connections in a row without a word.
    pub(super) fn closed_often(&self, client_id: &str) {
        tracing::warn!(event = "uplink.closed_often", uplink = %self.name, client_id, "the remote closes connection after connection without a reason; probably another client uses this client identifier, or a load balancer or firewall on the way cuts connections; messages are sent between the cuts; give each gateway its own `client_id`, and see the log of the remote");
    }

    /// The remote has a message of another client under an identifier of this session.
    pub(super) fn session_is_shared(&mut self, client_id: &str) {
        let event = "uplink.session_shared";
        let Some(suppressed) = self.permit(event) else {
            return;
        };
        tracing::error!(event, uplink = %self.name, client_id, suppressed, "the remote has a message in this session that is not of this gateway (packet identifier in use): probably another client has this client identifier, a copy of this gateway perhaps; the message is sent under another identifier; give each its own `client_id` (by default it is the site)");
    }

    /// Whether a line that the remote causes may be written; what comes back is for its field
    /// `suppressed`.
    fn permit(&mut self, event: &'static str) -> Option<Option<u64>> {
        self.log
            .permit(event, (), now())
            .map(|suppressed| Some(suppressed).filter(|count| *count > 0))
    }

    /// The token of this connection ends soon.
    pub(super) fn token_renewed(&self) {
        tracing::info!(event = "uplink.token_renewed", uplink = %self.name, "the token of this connection ends soon: the uplink reconnects with a new one");
    }

    /// The link is down, or could not be made. Each reason is logged once until the link has been
    /// up for good.
    pub(super) fn disconnected(&mut self, reason: &str) {
        tracing::debug!(event = "uplink.no_link", uplink = %self.name, %reason, "no link");
        if let Some(cuts) = self.news.down(reason, now()) {
            self.tell_down(reason, cuts);
        }
        self.change(DISCONNECTED, Some(reason.to_owned()));
    }

    /// `cuts` were not told before.
    fn tell_down(&self, reason: &str, cuts: u64) {
        let cuts = Some(cuts).filter(|cuts| *cuts > 0);
        let reason = Printable::short(reason);
        tracing::warn!(event = "uplink.down", uplink = %self.name, reason = %Printable(&reason), cuts, "link is down; messages wait in the outbox");
    }

    /// The link has proven itself: the next break is logged again.
    pub(super) fn proven(&mut self) {
        self.news.proven();
    }

    /// Tells what of the link and of the way into the outbox has not been told.
    fn tell_what_is_due(&mut self) {
        if let Some((reason, cuts)) = self.news.stays_down(now()) {
            self.tell_down(&reason, cuts);
        }
        let (told, last) = self.dropped_told;
        let dropped = self.outbox.counts().dropped.value();
        if dropped > told && last.is_none_or(|last| now() >= last + DROPPED_EVERY) {
            self.dropped_told = (dropped, Some(now()));
            let count = dropped - told;
            tracing::warn!(event = "uplink.dropped", uplink = %self.name, count, "messages did not come into the outbox and are lost: QoS 0 from local clients faster than the outbox takes them, or topics too long for the remote; publish with QoS 1, or more slowly");
        }
    }

    fn change(&mut self, state: &'static str, reason: Option<String>) {
        if self.state != state {
            self.since_ms = unix_ms();
        }
        self.state = state;
        self.reason = reason;
        let is_up = state == CONNECTED;
        self.is_up
            .send_if_modified(|known| std::mem::replace(known, is_up) != is_up);
        self.show();
        self.publish(
            &format!("$SYS/broker/connection/{}/state", self.name),
            u8::from(is_up).to_string(),
        );
    }

    /// Publishes the status if it changed, and what was given up since the last time.
    pub(super) fn show(&mut self) {
        self.tell_what_is_due();
        self.tell_gaps();
        let shape = self.shape();
        if self.shown.as_ref() == Some(&shape) {
            return;
        }
        let text = json::text(&shape);
        self.shown = Some(shape);
        self.publish(&format!("$SYS/wellhead/uplink/{}", self.name), text);
    }

    fn tell_gaps(&mut self) {
        self.gaps.extend(self.outbox.take_gaps());
        while let Some((queue, gap)) = self.gaps.front() {
            if !self.tell(*queue, gap) {
                break;
            }
            self.gaps.pop_front();
        }
        // Told in the log too; a broker that is busy for so long has other worries.
        let too_many = self.gaps.len().saturating_sub(MAX_GAPS);
        self.gaps.drain(..too_many);
    }

    fn shape(&self) -> StatusMessage {
        let (outbox, counters) = (self.outbox.counts(), &self.counters);
        StatusMessage {
            state: self.state,
            reason: self.reason.clone(),
            since: rfc3339(self.since_ms),
            waiting: outbox.waiting(),
            dead: outbox.dead(),
            lost: outbox.lost(),
            dropped: outbox.dropped.value(),
            rate_dropped: outbox.rate_dropped.value(),
            acknowledged: counters.acknowledged.value(),
            refused: counters.refused.value(),
            repeated: counters.repeated.value(),
            resent: counters.resent.value(),
            received: counters.received.value(),
            connects: counters.connects.value(),
            stalled: outbox.is_stalled(),
            full: outbox.is_full(),
            filters_refused: self.filters_refused.clone(),
            client_id_taken: self.taken.borrow().map(ClientIdTaken::word),
            pace: self.pace,
        }
    }

    /// False if the broker is busy.
    fn tell(&self, queue: usize, gap: &Gap) -> bool {
        let lane = QUEUES.get(queue).copied().unwrap_or_default();
        let series = LANES
            .get(queue)
            .map(|lane| self.outbox.identity(*lane))
            .unwrap_or_default();
        let Gap {
            first,
            from_ms,
            until_ms,
            reason,
            ..
        } = *gap;
        let count = gap.known_count();
        let last = count.map(|_| gap.last);
        let told = ToldGap {
            lane,
            series,
            first,
            last,
            count,
            from: rfc3339(from_ms),
            until: rfc3339(until_ms),
            reason,
        };
        let text = json::text(&told);
        self.recent_gaps
            .send_modify(|recent| remember(recent, told));
        self.publish(&format!("$SYS/wellhead/uplink/{}/gap", self.name), text)
    }

    /// The newest gaps, the oldest first.
    pub(super) fn recent_gaps(&self) -> watch::Receiver<Vec<ToldGap>> {
        self.recent_gaps.subscribe()
    }

    /// False if the broker is busy; it shows the next status instead.
    fn publish(&self, topic: &str, text: String) -> bool {
        let (Some(sender), Ok(topic)) = (&self.sender, TopicName::new(topic.to_owned())) else {
            return true;
        };
        sender.status(Message::new(topic, text, Origin::Own).retained())
    }
}

/// Only the newest gaps are kept.
fn remember(recent: &mut Vec<ToldGap>, gap: ToldGap) {
    // A gap is published again after the broker was busy.
    if recent.last() == Some(&gap) {
        return;
    }
    recent.push(gap);
    let too_many = recent.len().saturating_sub(RECENT_GAPS);
    recent.drain(..too_many);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_gaps_are_kept_once_each() {
        let gap = |first| ToldGap {
            lane: "live",
            series: "a".to_owned(),
            first,
            last: Some(first),
            count: Some(1),
            from: String::new(),
            until: String::new(),
            reason: crate::outbox::Reason::Full,
        };
        let mut recent = Vec::new();
        for first in 1..=20 {
            remember(&mut recent, gap(first));
            remember(&mut recent, gap(first));
        }
        let firsts: Vec<u64> = recent.iter().map(|gap| gap.first).collect();
        assert_eq!(firsts, (13..=20).collect::<Vec<u64>>());
    }
}
