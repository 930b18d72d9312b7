//! The way into the outbox of one uplink, for messages that its rules take. A message in an outbox
//! keeps the topic that it was taken with, whatever the rules say later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::bucket::BY_THE_SECOND;
use super::table::RateLimit;
use super::{Bucket, CatchUpOrder, Routes, SendTerms, Subject, WrittenAt};
use crate::log::{LogLimiter, chosen};
use crate::message::{Lane, Message};
use crate::mqtt::{Properties, QoS, TopicError, TopicName};
use crate::outbox::{
    AppendError, Outbox, OutboxCounts, Outgoing, RatedRule, ReadingSource, Receipt,
};
use crate::payload::Payload;
use crate::time::{moment, now};
use crate::units::Rate;

/// How often the log reports messages that a rate drops, or that make no topic.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Of messages that make no topic, so many.
const LOGGED: u32 = 20;
/// How often the log reports messages that go in a circle: expected if two gateways send to each
/// other, and then for each message.
const LOG_CIRCLES_EVERY: Duration = Duration::from_secs(3600);

/// The user property that names a message,
const NUMBER: &str = "seq";
/// and the one that keeps the names which it had at other gateways.
const VIA: &str = "via";
/// Gateways that a message may have come through.
const MOST_GATEWAYS: usize = 8;

/// So many messages are sent in a moment when the link is back: while no more wait, all keep their
/// order.
const FEW_WAITING: u64 = 100;

/// Why a message is not in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Ours: the outbox is closed.
    #[error("the outbox is closed")]
    Closed,
    /// Peer: the rule makes an invalid topic.
    #[error("the `send` rule makes an invalid topic: {0}")]
    Topic(TopicError),
    /// Peer: this gateway has sent it before.
    #[error(
        "it carries a number of this gateway in the user property `seq` or `via`: it has come back, and is not sent again; if it is another message, publish it without these properties"
    )]
    ComesBack,
    /// Peer: it has come through too many gateways.
    #[error(
        "it has come through {MOST_GATEWAYS} gateways (user property `via`): they probably send it in a circle; change their `send` rules"
    )]
    TooManyGateways,
}

impl From<AppendError> for OfferError {
    fn from(_: AppendError) -> Self {
        Self::Closed
    }
}

/// How the offer of a message ended of which only the newest state counts.
#[derive(Debug)]
pub(super) enum OfferedState {
    /// It was offered.
    Done(Result<Option<Receipt>, OfferError>),
    /// A rate has no room before that moment: offer it again then. Nothing is counted.
    Later(Instant),
    /// It is a backup that is not in use.
    Shut,
}

/// The outbox of one uplink, with the rates of what is dropped beyond them; cheap to clone.
#[derive(Debug, Clone)]
pub struct Outlet {
    outbox: Outbox,
    /// The series of all outboxes of this gateway.
    own: Arc<[String]>,
    /// Whether its uplink is up.
    is_up: watch::Receiver<bool>,
    /// Of a backup: whether the other uplink is up. Messages are taken only while it is not.
    primary: Option<watch::Receiver<bool>>,
    /// The rates of QoS 0 messages; shared by all clones.
    rates: Arc<Mutex<Rates>>,
    log: Arc<Mutex<RefusalLog>>,
}

/// Bounds what the log says of messages that are not taken.
#[derive(Debug)]
struct RefusalLog {
    too_fast: LogLimiter<()>,
    circles: LogLimiter<()>,
    topics: LogLimiter<()>,
}

impl RefusalLog {
    fn new() -> Self {
        Self {
            too_fast: LogLimiter::new(1, LOG_EVERY),
            circles: LogLimiter::new(1, LOG_CIRCLES_EVERY),
            topics: LogLimiter::new(LOGGED, LOG_EVERY),
        }
    }
}

/// The rates of QoS 0 messages, by rule; the rate of the uplink has no rule.
#[derive(Debug)]
struct Rates {
    /// The rules that the buckets are for.
    routes: Arc<Routes>,
    buckets: HashMap<Option<u32>, Bucket>,
}

impl Rates {
    /// Drops the buckets of rates that these rules do not have.
    fn follow(&mut self, routes: &Arc<Routes>) {
        if Arc::ptr_eq(&self.routes, routes) {
            return;
        }
        let rules = routes.rates().map(|(id, rate)| (Some(id), rate));
        let rates: HashMap<Option<u32>, Rate> =
            rules.chain(routes.rate.map(|rate| (None, rate))).collect();
        self.buckets
            .retain(|rule, bucket| rates.get(rule) == Some(&bucket.rate()));
        self.routes = Arc::clone(routes);
    }

    /// Lets a message pass and takes it off each rate; the error is when to try again.
    fn let_pass(&mut self, limits: &[RateLimit], bytes: usize, at: Instant) -> Result<(), Instant> {
        for limit in limits {
            let bucket = self
                .buckets
                .entry(limit.rule)
                .or_insert_with(|| Bucket::new(limit.rate, BY_THE_SECOND));
            if !bucket.has_room(at) {
                return Err(bucket.ready_at(at));
            }
        }
        for limit in limits {
            if let Some(bucket) = self.buckets.get_mut(&limit.rule) {
                bucket.take(bytes, at);
            }
        }
        Ok(())
    }
}

impl Outlet {
    /// `is_up` is the state of its uplink. That of a backup takes messages only while `primary`,
    /// the state of the other uplink, is false.
    pub fn new(
        outbox: Outbox,
        is_up: watch::Receiver<bool>,
        primary: Option<watch::Receiver<bool>>,
    ) -> Self {
        let rates = Rates {
            routes: Arc::default(),
            buckets: HashMap::new(),
        };
        Self {
            own: [outbox.series().to_owned()].into(),
            outbox,
            is_up,
            primary,
            rates: Arc::new(Mutex::new(rates)),
            log: Arc::new(Mutex::new(RefusalLog::new())),
        }
    }

    /// The counters of its outbox.
    pub fn counts(&self) -> &OutboxCounts {
        self.outbox.counts()
    }

    /// Knows the series of these outboxes as this gateway's, beside that of its own.
    #[must_use]
    pub fn beside(self, outboxes: &[Outbox]) -> Self {
        let own: Vec<String> = outboxes
            .iter()
            .chain([&self.outbox])
            .map(|outbox| outbox.series().to_owned())
            .collect();
        Self {
            own: own.into(),
            ..self
        }
    }

    /// False for a backup while the other uplink is up: no message is taken then.
    pub fn is_open(&self) -> bool {
        !self.primary.as_ref().is_some_and(|is_up| *is_up.borrow())
    }

    /// Waits until [`Outlet::is_open`] may have changed; for ever if it does not.
    pub(super) async fn changed(&mut self) {
        if let Some(primary) = &mut self.primary
            && primary.changed().await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }

    /// Puts a message into the outbox; waits while too many bytes wait for the disk. `None` if it
    /// is a backup that is not in use, or if the message has QoS 0 and exceeds a rate. What is not
    /// taken is in the log.
    pub async fn take(
        &self,
        subject: &Subject<'_>,
        terms: SendTerms,
    ) -> Result<Option<Receipt>, OfferError> {
        match self.take_state(subject, terms).await {
            OfferedState::Done(offered) => offered,
            OfferedState::Shut => Ok(None),
            OfferedState::Later(_) => {
                self.note_too_fast(&subject.message().topic);
                Ok(None)
            }
        }
    }

    /// The same for a message of which only the newest state counts.
    pub(super) async fn take_state(&self, subject: &Subject<'_>, terms: SendTerms) -> OfferedState {
        if !self.is_open() {
            return OfferedState::Shut;
        }
        let outgoing = match self.outgoing(subject, &terms) {
            Ok(Ok(outgoing)) => outgoing,
            Ok(Err(until)) => return OfferedState::Later(until),
            Err(error) => {
                self.note_refusal(&subject.message().topic, error);
                return OfferedState::Done(Err(error));
            }
        };
        let lane = self.lane(&outgoing, &terms);
        let appended = match terms.handover {
            Some(handover) => self.outbox.append_handed(lane, &outgoing, handover).await,
            None => self.outbox.append(lane, &outgoing).await,
        };
        OfferedState::Done(appended.map(Some).map_err(OfferError::from))
    }

    /// The lane of a message: that of its class. A reading that has to wait for the link while many
    /// do is backlog, unless its receiver could not tell when it was taken, or the clock was not
    /// set: what is fresh when the link is back need not wait for it.
    fn lane(&self, outgoing: &Outgoing, terms: &SendTerms) -> Lane {
        let lane = terms.class.lane;
        let is_late = !*self.is_up.borrow() && self.outbox.waiting() >= FEW_WAITING;
        let may_be_overtaken = || {
            lane == Lane::Live
                && terms.routes.catch_up.order != CatchUpOrder::OldestFirst
                && matches!(&outgoing.payload, Payload::Reading(reading) if reading.time.clock_set)
                && terms.tells_time()
        };
        if is_late && may_be_overtaken() {
            Lane::Backlog
        } else {
            lane
        }
    }

    /// Counts a message that the outbox had no room for, and of which no sender waits for an
    /// answer. True if it is one.
    pub fn count_refused(&self, offered: &Result<Option<Receipt>, OfferError>) -> bool {
        let is_refused = matches!(offered, Ok(Some(receipt)) if receipt.is_refused());
        self.counts().dropped.add(u64::from(is_refused));
        is_refused
    }

    /// The numbers that other gateways gave to a message become user properties `via`: they are not
    /// this gateway's. A message with a number of this gateway has come back.
    fn hand_on(&self, properties: &mut Properties) -> Result<(), OfferError> {
        let is_number = |name: &str| name == NUMBER || name == VIA;
        let numbers = properties.user.iter().filter(|(name, _)| is_number(name));
        let count = numbers.clone().count();
        if count == 0 {
            return Ok(());
        }
        if numbers.into_iter().any(|(_, value)| self.is_own(value)) {
            return Err(OfferError::ComesBack);
        }
        if count >= MOST_GATEWAYS {
            return Err(OfferError::TooManyGateways);
        }
        for (name, _) in &mut properties.edit().user {
            if &**name == NUMBER {
                *name = VIA.into();
            }
        }
        Ok(())
    }

    /// True for a number of a series of this gateway, in any lane.
    fn is_own(&self, number: &str) -> bool {
        let Some((series, _)) = number.split_once(':') else {
            return false;
        };
        self.own.iter().any(|own| Outbox::is_series_of(own, series))
    }

    /// A message as it is stored; the inner error is when the rates have room for it.
    fn outgoing(
        &self,
        subject: &Subject<'_>,
        terms: &SendTerms,
    ) -> Result<Result<Outgoing, Instant>, OfferError> {
        let topic = terms.topic.clone().map_err(OfferError::Topic)?;
        let properties = self.properties(subject.message(), &terms.routes)?;
        let payload = subject.payload();
        let source = matches!(payload, Payload::Reading(_)).then(|| ReadingSource {
            topic: subject.message().topic.clone(),
            rule: terms.rule,
        });
        let rated = terms.limit.and_then(|limit| limit.rule);
        let outgoing = Outgoing {
            topic,
            qos: terms.qos,
            retain: terms.retain,
            if_session_lost: terms.class.if_session_lost,
            enqueued: moment().into(),
            properties,
            payload,
            rated: rated.map(RatedRule::Known),
            source,
        };
        if outgoing.qos == QoS::AtMostOnce
            && let Err(until) = self.let_pass(&subject.message().topic, &outgoing, terms)
        {
            return Ok(Err(until));
        }
        Ok(Ok(outgoing))
    }

    /// The properties of a message as the remote gets them.
    fn properties(&self, message: &Message, routes: &Routes) -> Result<Properties, OfferError> {
        let mut properties = message.properties.clone();
        if let Some(local) = &message.properties.response_topic {
            properties.edit().response_topic = Some(routes.answered_at(local));
        }
        self.hand_on(&mut properties)?;
        if let Some(seconds) = message.seconds_left(now()) {
            properties.edit().message_expiry = Some(seconds);
        }
        Ok(properties)
    }

    /// Lets a QoS 0 message pass; the error is when the rates have room for it.
    fn let_pass(
        &self,
        topic: &TopicName,
        outgoing: &Outgoing,
        terms: &SendTerms,
    ) -> Result<(), Instant> {
        let of_uplink = |rate| RateLimit { rule: None, rate };
        let of_uplink = terms.routes.rate.map(of_uplink);
        let limits: Vec<RateLimit> = of_uplink.into_iter().chain(terms.limit).collect();
        if limits.is_empty() {
            return Ok(());
        }
        let payload = terms.routes.payload(outgoing, WrittenAt::AsTaken);
        let bytes = topic.as_str().len() + payload.map_or(0, |payload| payload.len());
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.follow(&terms.routes);
        rates.let_pass(&limits, bytes, now())
    }

    /// Counts and logs a message that is dropped because it exceeds a rate.
    fn note_too_fast(&self, topic: &TopicName) {
        self.counts().rate_dropped.count();
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suppressed) = log.too_fast.permit((), (), now()) {
            tracing::warn!(
                event = "outbox.rate_exceeded",
                uplink = self.outbox.name(),
                topic = chosen(topic.as_str()),
                suppressed,
                "QoS 0 messages exceed the `rate` of the uplink or of its rule and are dropped; publish less often, or with QoS 1"
            );
        }
    }

    /// Logs a message that can never be sent, and counts it unless it has been sent already.
    fn note_refusal(&self, topic: &TopicName, error: OfferError) {
        let (uplink, topic) = (self.outbox.name(), chosen(topic.as_str()));
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            OfferError::Closed => {}
            OfferError::ComesBack | OfferError::TooManyGateways => {
                if let Some(suppressed) = log.circles.permit((), (), now()) {
                    tracing::warn!(event = "outbox.message_in_circle", uplink, topic, %error, suppressed, "message not forwarded to the uplink: it would go in a circle");
                }
            }
            OfferError::Topic(_) => {
                self.counts().dropped.count();
                if let Some(suppressed) = log.topics.permit((), (), now()) {
                    tracing::error!(event = "outbox.message_refused", uplink, topic, %error, suppressed, "cannot forward message to uplink");
                }
            }
        }
    }
}
