//! The way into an outbox: which local messages go to the remote, under which topic, class and QoS.
//! A message in an outbox keeps the topic that it was taken with, whatever the rules say later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::bucket::BY_THE_SECOND;
use super::{Bucket, Outbox, OutboxCounts, Outgoing, Routes, Rule};
use crate::log::{LogLimiter, chosen};
use crate::message::{Class, Message, Origin, ReadingMessage};
use crate::mqtt::{Properties, QoS, TopicError, TopicName};
use crate::payload::Payload;
use crate::store::{AppendError, Receipt};
use crate::time::{moment, now};
use crate::units::Rate;

/// How often the log reports messages that a rate drops.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The user property that names a message,
const NUMBER: &str = "seq";
/// and the one that keeps the names which it had at other gateways.
const VIA: &str = "via";
/// Gateways that a message may have come through.
const MOST_GATEWAYS: usize = 8;

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
pub enum OfferedState {
    /// It was offered.
    Done(Result<Option<Receipt>, OfferError>),
    /// A rate has no room before that moment: offer it again then. Nothing is counted.
    Later(Instant),
}

/// A message as the rules see it.
enum Outward {
    /// No rule wants it.
    Unwanted,
    /// A rate has no room before.
    TooFast(Instant),
    /// It goes into the outbox.
    Goes(Class, Outgoing),
}

/// The rules of one uplink and its outbox; cheap to clone.
#[derive(Debug, Clone)]
pub struct OutboxSink {
    outbox: Outbox,
    /// The series of all outboxes of this gateway.
    own: Arc<[String]>,
    /// Replaced when the configuration is reloaded.
    routes: watch::Receiver<Arc<Routes>>,
    uplink: usize,
    /// Of a backup: whether the other uplink is up. Messages are taken only while it is not.
    primary: Option<watch::Receiver<bool>>,
    /// The rates of QoS 0 messages; shared by all clones.
    rates: Arc<Mutex<Rates>>,
}

/// The rates of QoS 0 messages, by rule; the rate of the uplink has no rule.
#[derive(Debug)]
struct Rates {
    /// The rules that the buckets are for.
    routes: Arc<Routes>,
    buckets: HashMap<Option<u32>, Bucket>,
    log: LogLimiter<&'static str>,
}

/// A rate that a message has to keep.
#[derive(Debug, Clone, Copy)]
struct Limit {
    /// Its rule; `None` for the rate of the uplink.
    rule: Option<u32>,
    rate: Rate,
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
    fn let_pass(&mut self, limits: &[Limit], bytes: usize, at: Instant) -> Result<(), Instant> {
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

impl OutboxSink {
    /// For the uplink with index `uplink`. That of a backup takes messages only while `primary`,
    /// the state of the other, is false.
    pub fn new(
        outbox: Outbox,
        routes: watch::Receiver<Arc<Routes>>,
        uplink: usize,
        primary: Option<watch::Receiver<bool>>,
    ) -> Self {
        let rates = Rates {
            routes: Arc::default(),
            buckets: HashMap::new(),
            log: LogLimiter::new(1, LOG_EVERY),
        };
        Self {
            own: [outbox.series().to_owned()].into(),
            outbox,
            routes,
            uplink,
            primary,
            rates: Arc::new(Mutex::new(rates)),
        }
    }

    /// The counters of its outbox.
    pub fn counts(&self) -> &OutboxCounts {
        self.outbox.counts()
    }

    /// Knows the series of these outboxes as this gateway's, beside that of its own.
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

    /// Puts a message into the outbox if a rule wants it; waits while too many bytes wait for the
    /// disk. `None` if no rule wants it, or if it has QoS 0 and exceeds a rate.
    pub async fn offer(&self, message: &Message) -> Result<Option<Receipt>, OfferError> {
        match self.offer_state(message).await {
            OfferedState::Done(offered) => offered,
            OfferedState::Later(_) => {
                self.note_too_fast(message);
                Ok(None)
            }
        }
    }

    /// The same for a reading.
    pub async fn offer_reading(
        &self,
        reading: &ReadingMessage,
    ) -> Result<Option<Receipt>, OfferError> {
        let payload = || Payload::Reading(Box::new(reading.reading.clone()));
        match self.offer_with(reading.head(), payload).await {
            OfferedState::Done(offered) => offered,
            OfferedState::Later(_) => {
                self.note_too_fast(reading.head());
                Ok(None)
            }
        }
    }

    /// The same for a message of which only the newest state counts.
    pub async fn offer_state(&self, message: &Message) -> OfferedState {
        self.offer_with(message, || message.payload.clone().into())
            .await
    }

    async fn offer_with(
        &self,
        message: &Message,
        payload: impl FnOnce() -> Payload,
    ) -> OfferedState {
        if !self.is_open() {
            return OfferedState::Done(Ok(None));
        }
        let offered = match self.outgoing(message, payload) {
            Ok(Outward::TooFast(until)) => return OfferedState::Later(until),
            Ok(Outward::Unwanted) => Ok(None),
            Ok(Outward::Goes(class, outgoing)) => self
                .outbox
                .append(class.lane, &outgoing)
                .await
                .map(Some)
                .map_err(OfferError::from),
            Err(error) => Err(error),
        };
        let is_taken = match &offered {
            Ok(receipt) => !receipt.as_ref().is_some_and(Receipt::is_refused),
            Err(error) => *error == OfferError::Closed,
        };
        // What clients publish is counted by who answers them.
        if !is_taken && matches!(message.origin, Origin::Field | Origin::Own) {
            self.counts().dropped.count();
        }
        OfferedState::Done(offered)
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

    /// `payload` makes the payload once a rule wants the message.
    fn outgoing(
        &self,
        message: &Message,
        payload: impl FnOnce() -> Payload,
    ) -> Result<Outward, OfferError> {
        // Of the topics that begin with $, only those of the gateway itself leave it.
        if (message.topic.is_reserved() && !message.is_status())
            || message.origin == Origin::Uplink(self.uplink)
        {
            return Ok(Outward::Unwanted);
        }
        let routes = self.routes.borrow();
        let Some((rule, topic)) = routes.outward(message) else {
            return Ok(Outward::Unwanted);
        };
        let topic = topic.map_err(OfferError::Topic)?;
        let properties = self.properties(message, &routes)?;
        let class = rule.class.unwrap_or(message.class);
        let qos = rule.qos.unwrap_or(message.qos).min(rule.most);
        let payload = payload();
        if qos == QoS::AtMostOnce
            && let Err(until) = self.let_pass(&message.topic, &payload, &routes, rule)
        {
            return Ok(Outward::TooFast(until));
        }
        let outgoing = Outgoing {
            topic,
            qos,
            retain: message.retain && rule.keeps_retained,
            if_session_lost: class.if_session_lost,
            enqueued: moment().into(),
            properties,
            payload,
            is_rated: rule.rate.is_some(),
        };
        Ok(Outward::Goes(class, outgoing))
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
        payload: &Payload,
        routes: &Arc<Routes>,
        rule: &Rule,
    ) -> Result<(), Instant> {
        let of_uplink = routes.rate.map(|rate| Limit { rule: None, rate });
        let of_rule = rule.rate.map(|rate| Limit {
            rule: Some(routes.id_of(rule)),
            rate,
        });
        let limits: Vec<Limit> = of_uplink.into_iter().chain(of_rule).collect();
        if limits.is_empty() {
            return Ok(());
        }
        let bytes = topic.as_str().len() + payload.encode().len();
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.follow(routes);
        rates.let_pass(&limits, bytes, now())
    }

    /// Counts and logs a message that is dropped because it exceeds a rate.
    fn note_too_fast(&self, message: &Message) {
        self.counts().rate_dropped.count();
        let event = "outbox.rate_exceeded";
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(suppressed) = rates.log.permit(event, (), now()) {
            tracing::warn!(
                event,
                uplink = self.outbox.name(),
                topic = chosen(message.topic.as_str()),
                suppressed,
                "QoS 0 messages exceed the `rate` of the uplink or of its rule and are dropped; publish less often, or with QoS 1"
            );
        }
    }
}
