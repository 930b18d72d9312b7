//! The route from the local broker into an outbox, for messages of local clients and for the `$SYS`
//! topics that a rule wants. A message with a ticket is acknowledged to its sender once it is
//! stored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use super::paced::Paced;
use crate::broker::{Broker, Forward, TapAnswer};
use crate::log::{LogLimiter, chosen};
use crate::message::{Message, Origin};
use crate::metrics::Counter;
use crate::outbox::{OfferError, OfferedState, OutboxSink, Receipt, Stored};
use crate::time::now;

/// Messages between the broker and an outbox.
pub(super) const FORWARD_QUEUE: usize = 4096;

/// The answer of an outbox to a message.
type Offered = Result<Option<Receipt>, OfferError>;

/// Messages of the broker for one outbox.
pub(super) struct ForwardQueue {
    pub(super) messages: mpsc::Receiver<Forward>,
    /// Whether the uplink of the outbox is up.
    pub(super) is_up: watch::Receiver<bool>,
    /// Messages on `$SYS` topics, of which only the newest counts.
    pub(super) paced: Paced,
}

/// Offers what local clients publish to an outbox until the broker closes its queue, and tells the
/// broker when it is stored.
pub(super) async fn forward_messages(
    sink: OutboxSink,
    ForwardQueue {
        mut messages,
        mut is_up,
        mut paced,
    }: ForwardQueue,
    broker: Broker,
) -> Result<(), String> {
    let mut receipts = FuturesOrdered::new();
    let mut refusals = ForwardRefusals::new(&sink);
    loop {
        // States wait while the link is down: an outbox would keep every one of them.
        let may_go = *is_up.borrow_and_update() && sink.is_open();
        let next = paced.next().filter(|_| may_go);
        tokio::select! {
            () = wait_until(next), if next.is_some() => {
                offer_states(&sink, &mut paced, &mut refusals).await?;
            }
            // It fails when the uplink ends, which is noticed elsewhere.
            Ok(()) = is_up.changed(), if paced.is_waiting() => {}
            forward = messages.recv() => match forward {
                None => break,
                Some(Forward { message, .. }) if message.topic.is_reserved() => paced.take(message),
                Some(Forward { message, ticket, .. }) => {
                    let offered = sink.offer(&message).await;
                    refusals.note(&message, &offered)?;
                    match ticket {
                        Some(ticket) => receipts.push_back(async move { (ticket, answer(offered).await) }),
                        None => refusals.count_refused(&offered),
                    }
                }
            },
            Some((ticket, answer)) = receipts.next(), if !receipts.is_empty() => broker.stored(ticket, answer),
        }
    }
    while let Some((ticket, answer)) = receipts.next().await {
        broker.stored(ticket, answer);
    }
    Ok(())
}

async fn wait_until(time: Option<Instant>) {
    sleep_until(time.unwrap_or_else(now).into()).await;
}

/// Offers the messages on `$SYS` topics that are due.
async fn offer_states(
    sink: &OutboxSink,
    paced: &mut Paced,
    refusals: &mut ForwardRefusals,
) -> Result<(), String> {
    while let Some(message) = paced.due(now()) {
        match sink.offer_state(&message).await {
            OfferedState::Later(until) => paced.hold(&message.topic, until, now()),
            OfferedState::Done(offered) => {
                paced.sent(&message.topic, now());
                refusals.note(&message, &offered)?;
            }
        }
    }
    Ok(())
}

/// The answer to the sender of a message, when it is known.
async fn answer(offered: Offered) -> TapAnswer {
    match offered {
        Ok(Some(receipt)) => match receipt.stored().await {
            Ok(Stored::Refused) | Err(_) => TapAnswer::Full,
            // A message that the policy drops was accepted all the same.
            Ok(_) => TapAnswer::Stored,
        },
        // No rule wants it any more: there is nothing to wait for.
        Ok(None) => TapAnswer::Stored,
        // A repeat would only go in a circle again; the log says so.
        Err(OfferError::ComesBack | OfferError::TooManyGateways) => TapAnswer::Stored,
        Err(OfferError::Topic(_)) => TapAnswer::BadTopic,
        Err(OfferError::Closed) => TapAnswer::Full,
    }
}

/// Counts and logs messages that the outbox does not take.
struct ForwardRefusals {
    dropped: Arc<Counter>,
    log: LogLimiter<&'static str>,
    log_of_circles: LogLimiter<&'static str>,
}

impl ForwardRefusals {
    fn new(sink: &OutboxSink) -> Self {
        let hour = Duration::from_secs(3600);
        Self {
            dropped: Arc::clone(&sink.counts().dropped),
            log: LogLimiter::new(20, Duration::from_secs(10)),
            log_of_circles: LogLimiter::new(1, hour),
        }
    }

    /// Counts a message that the outbox refused, and of which no sender waits for an answer.
    fn count_refused(&self, offered: &Offered) {
        if matches!(offered, Ok(Some(receipt)) if receipt.is_refused()) {
            self.dropped.count();
        }
    }

    /// Logs a refusal, and counts it if nobody else does; the error is that of a closed outbox.
    fn note(&mut self, message: &Message, offered: &Offered) -> Result<(), String> {
        match offered {
            Ok(_) => {}
            Err(OfferError::Closed) => return Err(OfferError::Closed.to_string()),
            // Expected if two gateways send to each other, and then for each message.
            Err(error @ (OfferError::ComesBack | OfferError::TooManyGateways)) => {
                let event = "outbox.message_in_circle";
                if let Some(suppressed) = self.log_of_circles.permit(event, (), now()) {
                    tracing::warn!(event, topic = chosen(message.topic.as_str()), %error, suppressed, "message not forwarded to the uplink: it would go in a circle");
                }
            }
            Err(error @ OfferError::Topic(_)) => {
                // Messages of the gateway itself are counted already.
                if message.origin != Origin::Own {
                    self.dropped.count();
                }
                let event = "outbox.message_refused";
                if let Some(suppressed) = self.log.permit(event, (), now()) {
                    tracing::error!(event, topic = chosen(message.topic.as_str()), %error, suppressed, "cannot forward message to uplink");
                }
            }
        }
        Ok(())
    }
}
