//! The way into an outbox: which local messages go north, under which topic, class and QoS. What is in an outbox keeps the topic that
//! it was taken with, whatever the rules say later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::bucket::BY_THE_SECOND;
use super::{Bucket, Outbox, Outgoing, Routes};
use crate::log::{LogLimiter, chosen};
use crate::message::{Class, Lane, Message, Origin};
use crate::metrics::Counter;
use crate::mqtt::{Mapping, Properties, QoS, TopicError, TopicName};
use crate::payload::json;
use crate::reading::Timestamp;
use crate::store::{AppendError, Receipt};
use crate::time::{moment, now};
use crate::units::Rate;

/// How often the log tells that messages are dropped because of a rate.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The user property that names a message,
const NUMBER: &str = "seq";
/// and the one that keeps the names which it had at other gateways.
const VIA: &str = "via";
/// Gateways that a message may have come through.
const MOST_GATEWAYS: usize = 8;

/// One `send` rule; the first one that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Local topics to those of the remote broker.
    pub mapping: Mapping,
    /// Classes it is for, by their index; empty for all.
    pub only: Vec<u16>,
    /// The class it gives to messages; without one they keep theirs.
    pub class: Option<Class>,
    /// The QoS of that class.
    pub qos: Option<QoS>,
    /// The highest QoS in any case.
    pub most: QoS,
    /// False takes the retain flag off.
    pub keeps_retained: bool,
    /// How fast its messages may go.
    pub rate: Option<Rate>,
    /// The lanes that its messages can be in; empty for all.
    pub lanes: Vec<Lane>,
}

impl Rule {
    /// Names a rule; the same for another rate.
    pub fn id(&self) -> u32 {
        crc32c::crc32c(format!("{} {:?}", self.mapping.filter(), self.only).as_bytes())
    }

    /// True if it is for messages of a class on a topic.
    pub fn wants(&self, topic: &TopicName, class: Class) -> bool {
        (self.only.is_empty() || self.only.contains(&class.id))
            && self.mapping.filter().matches(topic)
    }
}

/// Why a message is not in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Ours: the outbox is closed.
    #[error("the outbox is closed")]
    Closed,
    /// Peer: as the rule writes it, the topic is none; the message cannot go there.
    #[error("its topic as the `send` rule writes it is not possible: {0}")]
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

/// What became of a message of which only the newest state counts.
#[derive(Debug)]
pub enum OfferedState {
    /// It was offered.
    Done(Result<Option<Receipt>, OfferError>),
    /// It comes faster than a rate allows: it is to be offered again then. Nothing is counted.
    Later(Instant),
}

/// What the rules make of a message.
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
    /// They may become others.
    routes: watch::Receiver<Arc<Routes>>,
    uplink: usize,
    /// Of a backup: whether the other uplink is up. Messages are taken only while it is not.
    primary: Option<watch::Receiver<bool>>,
    /// What rates leave for QoS 0; the same for all clones.
    rates: Arc<Mutex<Rates>>,
    /// Counts what the gateway itself publishes and the outbox does not take.
    dropped: Arc<Counter>,
}

/// What rates leave for messages of QoS 0, by rule; that of the uplink has none.
#[derive(Debug)]
struct Rates {
    /// The rules that the buckets are for.
    routes: Arc<Routes>,
    buckets: HashMap<Option<u32>, Bucket>,
    log: LogLimiter<&'static str>,
}

impl Rates {
    /// Forgets what was left of rates that these rules do not have.
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

    /// Lets a message pass, which is taken off; else when to try again.
    fn let_pass(
        &mut self,
        limits: [(Option<u32>, Option<Rate>); 2],
        bytes: usize,
        at: Instant,
    ) -> Result<(), Instant> {
        let limits = limits
            .iter()
            .filter_map(|(rule, rate)| Some((*rule, (*rate)?)));
        for (rule, rate) in limits.clone() {
            let bucket = self
                .buckets
                .entry(rule)
                .or_insert_with(|| Bucket::new(rate, BY_THE_SECOND));
            if !bucket.has_room(at) {
                return Err(bucket.ready_at(at));
            }
        }
        for (rule, _) in limits {
            if let Some(bucket) = self.buckets.get_mut(&rule) {
                bucket.take(bytes, at);
            }
        }
        Ok(())
    }
}

impl OutboxSink {
    /// For the uplink with index `uplink`. That of a backup takes messages only while `primary`, the state of the other, is false.
    pub fn new(
        outbox: Outbox,
        routes: watch::Receiver<Arc<Routes>>,
        uplink: usize,
        primary: Option<watch::Receiver<bool>>,
    ) -> Self {
        let rates = Rates {
            routes: Arc::default(),
            buckets: HashMap::new(),
            log: LogLimiter::new(1, TELL_EVERY),
        };
        Self {
            own: [outbox.series().to_owned()].into(),
            outbox,
            routes,
            uplink,
            primary,
            rates: Arc::new(Mutex::new(rates)),
            dropped: Arc::default(),
        }
    }

    /// Counts readings and other messages of the gateway itself that the outbox does not take; those of clients are answered.
    #[must_use]
    pub fn counting(self, dropped: Arc<Counter>) -> Self {
        Self { dropped, ..self }
    }

    /// Beside that of its own outbox, the series of these outboxes are known as this gateway's.
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

    /// Puts a message into the outbox if a rule wants it; waits while too much waits for the disk. `None` if no rule wants it, or if it
    /// has QoS 0 and comes faster than a rate allows.
    pub async fn offer(&self, message: &Message) -> Result<Option<Receipt>, OfferError> {
        match self.offer_state(message).await {
            OfferedState::Done(offered) => offered,
            OfferedState::Later(_) => {
                self.note_too_fast(message);
                Ok(None)
            }
        }
    }

    /// The same for a message of which only the newest state counts.
    pub async fn offer_state(&self, message: &Message) -> OfferedState {
        if !self.is_open() {
            return OfferedState::Done(Ok(None));
        }
        let offered = match self.outgoing(message) {
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
        if !is_taken && matches!(message.origin, Origin::Field | Origin::Own) {
            self.dropped.count();
        }
        OfferedState::Done(offered)
    }

    /// The numbers that other gateways gave to a message are not passed off as this gateway's: they become user properties `via`. A
    /// message with a number of this gateway has come back.
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

    fn outgoing(&self, message: &Message) -> Result<Outward, OfferError> {
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
        let mut properties = message.properties.clone();
        if let Some(local) = &message.properties.response_topic {
            properties.edit().response_topic = Some(routes.answered_at(local));
        }
        self.hand_on(&mut properties)?;
        if let Some(seconds) = message.seconds_left(now()) {
            properties.edit().message_expiry = Some(seconds);
        }
        let class = rule.class.unwrap_or(message.class);
        let qos = rule.qos.unwrap_or(message.qos).min(rule.most);
        let id = rule.rate.map(|_| routes.id_of(rule));
        if qos == QoS::AtMostOnce
            && let Err(until) =
                self.let_pass(message, &routes, [(None, routes.rate), (id, rule.rate)])
        {
            return Ok(Outward::TooFast(until));
        }
        let enqueued = Timestamp::from(moment());
        // One that was kept back since before the clock was set.
        let step = message.measured.and_then(|time| time.set_by(enqueued));
        let payload = step
            .and_then(|step| json::moved(&message.payload, step))
            .unwrap_or_else(|| message.payload.clone());
        let outgoing = Outgoing {
            topic,
            qos,
            retain: message.retain && rule.keeps_retained,
            if_session_lost: class.if_session_lost,
            enqueued,
            properties,
            payload,
            is_reading: message.measured.is_some(),
            is_rated: rule.rate.is_some(),
        };
        Ok(Outward::Goes(class, outgoing))
    }

    /// Lets a QoS 0 message pass; else when a rate has room for it.
    fn let_pass(
        &self,
        message: &Message,
        routes: &Arc<Routes>,
        limits: [(Option<u32>, Option<Rate>); 2],
    ) -> Result<(), Instant> {
        if limits.iter().all(|(_, rate)| rate.is_none()) {
            return Ok(());
        }
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.follow(routes);
        rates.let_pass(
            limits,
            message.topic.as_str().len() + message.payload.len(),
            now(),
        )
    }

    /// A message that comes too fast is dropped: it is counted, and the log tells of it.
    fn note_too_fast(&self, message: &Message) {
        self.outbox.rate_dropped().count();
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
