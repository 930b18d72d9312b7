//! The way from the local broker into an outbox, for messages of local clients and of remotes. A
//! message with a ticket is acknowledged to its sender once it is stored.

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::mpsc;

use crate::broker::{Broker, Forward, ForwardAnswer};
use crate::outbox::{Receipt, Stored};
use crate::route::{OfferError, Outlet, RouteTarget, Subject};

/// Messages between the broker and an outbox.
pub(super) const FORWARD_QUEUE: usize = 4096;

/// The answer of an outbox to a message.
type Offered = Result<Option<Receipt>, OfferError>;

/// Puts messages into an outbox until the broker closes its queue, and tells the broker when they
/// are stored. The error is that of an outbox that closed too early.
pub(super) async fn forward_messages(
    outlet: Outlet,
    mut messages: mpsc::Receiver<Forward>,
    broker: Broker,
) -> Result<(), String> {
    let mut receipts = FuturesOrdered::new();
    loop {
        tokio::select! {
            forward = messages.recv() => {
                let Some(forward) = forward else { break };
                let ticket = forward.ticket;
                let offered = offer(&outlet, forward).await;
                if let Err(closed @ OfferError::Closed) = offered {
                    return Err(closed.to_string());
                }
                match ticket {
                    Some(ticket) => receipts.push_back(async move { (ticket, answer(offered).await) }),
                    None => drop(outlet.count_refused(&offered)),
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

async fn offer(outlet: &Outlet, forward: Forward) -> Offered {
    match forward.target {
        RouteTarget::Uplink { terms, .. } => {
            outlet.take(&Subject::of(&forward.message), terms).await
        }
        RouteTarget::Writes => Ok(None),
    }
}

/// The answer to the sender of a message, when it is known.
async fn answer(offered: Offered) -> ForwardAnswer {
    match offered {
        Ok(Some(receipt)) => match receipt.stored().await {
            Ok(Stored::Refused) | Err(_) => ForwardAnswer::Full,
            // A message that the policy drops was accepted all the same.
            Ok(_) => ForwardAnswer::Stored,
        },
        // A backup that is not in use: there is nothing to wait for.
        Ok(None) => ForwardAnswer::Stored,
        // A repeat would only go in a circle again; the log says so.
        Err(OfferError::ComesBack | OfferError::TooManyGateways) => ForwardAnswer::Stored,
        Err(OfferError::Topic(_)) => ForwardAnswer::BadTopic,
        Err(OfferError::Closed) => ForwardAnswer::Full,
    }
}
