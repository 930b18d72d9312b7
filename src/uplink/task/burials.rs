//! Messages that the remote will never take become dead letters.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::Uplink;
use crate::outbox::{EntryId, Outgoing, Reason, Stored};

type Burial = Pin<Box<dyn Future<Output = EntryId> + Send>>;

/// Messages that become dead letters.
#[derive(Default)]
pub(in crate::uplink) struct Burials {
    under_way: FuturesUnordered<Burial>,
    places: HashSet<EntryId>,
}

impl Burials {
    /// The next message that is safe as a dead letter, or given up; waits for ever if there is none.
    pub(in crate::uplink) async fn next(&mut self) -> EntryId {
        match self.under_way.next().await {
            Some(place) => {
                self.places.remove(&place);
                place
            }
            None => std::future::pending().await,
        }
    }

    pub(in crate::uplink) fn len(&self) -> usize {
        self.under_way.len()
    }

    /// True if a message is on its way to become a dead letter.
    pub(in crate::uplink) fn holds(&self, place: EntryId) -> bool {
        self.places.contains(&place)
    }
}

impl Uplink {
    /// The remote will never take a message: it becomes a dead letter, and is settled when that is safe.
    pub(in crate::uplink) fn bury(&mut self, place: EntryId, message: Outgoing, reason: String) {
        self.status
            .refused(place.seq, &reason, message.topic.as_str());
        let outbox = self.outbox.clone();
        self.burials.places.insert(place);
        self.burials.under_way.push(Box::pin(async move {
            let stored = match outbox.bury(place, message.clone(), reason).await {
                Ok(receipt) => receipt.stored().await,
                Err(error) => Err(error),
            };
            match stored {
                Ok(Stored::Safe(_)) => place,
                Ok(outcome) => {
                    tracing::error!(
                        seq = place.seq,
                        "the outbox is full: the dead letter is discarded"
                    );
                    if outcome == Stored::Refused {
                        outbox.give_up(place.queue, place.seq, &message, Reason::Full);
                    }
                    place
                }
                // The outbox is closing: the message stays, and is refused again after the next start.
                Err(_) => std::future::pending().await,
            }
        }));
    }
}
