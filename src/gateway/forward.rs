//! The way from the broker of this gateway into an outbox, for messages of local clients and for the `$SYS` topics that a rule asks for.
//! A message with a ticket is promised to its sender once it is safe.

use std::sync::Arc;
use std::time::Duration;

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
use crate::tasks::Stop;
use crate::time::now;

/// What a message was answered by its outbox.
type Offered = Result<Option<Receipt>, OfferError>;

/// Messages of the broker for one outbox.
pub(super) struct ForwardQueue {
    pub(super) messages: mpsc::Receiver<Forward>,
    /// Counts those that cannot go there.
    pub(super) dropped: Arc<Counter>,
    /// Whether the uplink of the outbox is up.
    pub(super) is_up: watch::Receiver<bool>,
    /// `$SYS` topics, of which only the newest state counts.
    pub(super) paced: Paced,
}

/// Takes what local clients publish into an outbox, and tells the broker when it is safe. When it must hurry, what is not on disk
/// is given up: nobody was told that it is.
pub(super) async fn forward_messages(
    sink: OutboxSink,
    queue: ForwardQueue,
    broker: Broker,
    mut hurry: Stop,
) -> Result<(), String> {
    tokio::select! {
        done = forward_until_closed(sink, queue, broker) => done,
        () = hurry.wait() => Ok(()),
    }
}

async fn forward_until_closed(
    sink: OutboxSink,
    queue: ForwardQueue,
    broker: Broker,
) -> Result<(), String> {
    let ForwardQueue {
        mut messages,
        dropped,
        mut is_up,
        mut paced,
    } = queue;
    let mut receipts = FuturesOrdered::new();
    let mut refusals = Refusals::new(dropped);
    loop {
        // States wait while the link is down: an outbox would keep every one of them.
        let next = if *is_up.borrow_and_update() && sink.is_open() {
            paced.next()
        } else {
            None
        };
        tokio::select! {
            () = async { sleep_until(next.unwrap_or_else(now).into()).await }, if next.is_some() => {
                while let Some(message) = paced.due(now()) {
                    match sink.offer_state(&message).await {
                        OfferedState::Later(until) => paced.hold(&message.topic, until, now()),
                        OfferedState::Done(offered) => {
                            paced.sent(&message.topic, now());
                            refusals.note(&message, &offered)?;
                        }
                    }
                }
            }
            // Its end is that of the uplink, which is noticed elsewhere.
            Ok(()) = is_up.changed(), if paced.is_waiting() => {}
            forward = messages.recv() => {
                let Some(Forward { message, ticket, .. }) = forward else { break };
                if message.topic.is_reserved() {
                    paced.take(message);
                    continue;
                }
                let offered = sink.offer(&message).await;
                refusals.note(&message, &offered)?;
                if let Some(ticket) = ticket {
                    receipts.push_back(async move { (ticket, answer(offered).await) });
                } else if matches!(offered, Ok(Some(receipt)) if receipt.is_refused()) {
                    // Nobody waits for an answer that would say so.
                    refusals.dropped.count();
                }
            }
            Some((ticket, answer)) = receipts.next(), if !receipts.is_empty() => broker.stored(ticket, answer),
        }
    }
    while let Some((ticket, answer)) = receipts.next().await {
        broker.stored(ticket, answer);
    }
    Ok(())
}

/// The answer to the sender of a message, when it is known.
async fn answer(offered: Offered) -> TapAnswer {
    match offered {
        Ok(Some(receipt)) => match receipt.stored().await {
            Ok(Stored::Refused) | Err(_) => TapAnswer::Full,
            // What the policy drops was taken all the same.
            Ok(_) => TapAnswer::Stored,
        },
        // No rule wanted it after all: there is nothing to wait for.
        Ok(None) => TapAnswer::Stored,
        // Sent again, it would go in a circle again; the log says so.
        Err(OfferError::ComesBack | OfferError::TooManyGateways) => TapAnswer::Stored,
        Err(OfferError::Topic(_)) => TapAnswer::BadTopic,
        Err(OfferError::Closed) => TapAnswer::Full,
    }
}

/// What is counted and logged of messages that cannot go north.
struct Refusals {
    dropped: Arc<Counter>,
    log: LogLimiter<&'static str>,
    log_of_circles: LogLimiter<&'static str>,
}

impl Refusals {
    fn new(dropped: Arc<Counter>) -> Self {
        let hour = Duration::from_secs(3600);
        Self {
            dropped,
            log: LogLimiter::new(20, Duration::from_secs(10)),
            log_of_circles: LogLimiter::new(1, hour),
        }
    }

    /// Notes what an outbox answered; the error is that of one that is closed.
    fn note(&mut self, message: &Message, offered: &Offered) -> Result<(), String> {
        match offered {
            Ok(_) => {}
            Err(OfferError::Closed) => return Err(OfferError::Closed.to_string()),
            // Two gateways that send to each other: it is meant so, and happens with each message.
            Err(error @ (OfferError::ComesBack | OfferError::TooManyGateways)) => {
                let event = "outbox.message_in_circle";
                if let Some(suppressed) = self.log_of_circles.permit(event, (), now()) {
                    tracing::warn!(event, topic = chosen(message.topic.as_str()), %error, suppressed, "a message does not go north");
                }
            }
            Err(error @ OfferError::Topic(_)) => {
                // Those of the gateway itself are counted already.
                if message.origin != Origin::Own {
                    self.dropped.count();
                }
                let event = "outbox.message_refused";
                if let Some(suppressed) = self.log.permit(event, (), now()) {
                    tracing::error!(event, topic = chosen(message.topic.as_str()), %error, suppressed, "a message cannot go north");
                }
            }
        }
        Ok(())
    }
}
