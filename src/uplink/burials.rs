//! Messages that the remote will never take become dead letters.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::outbox::{EntryId, Outbox, Outgoing, Reason, Stored};

type Burial = Pin<Box<dyn Future<Output = EntryId> + Send>>;

/// Messages that become dead letters.
#[derive(Default)]
pub(super) struct Burials {
    under_way: FuturesUnordered<Burial>,
    places: HashSet<EntryId>,
}

impl Burials {
    /// The next message that is safe as a dead letter, or given up; waits for ever if there is
    /// none.
    pub(super) async fn next(&mut self) -> EntryId {
        match self.under_way.next().await {
            Some(place) => {
                self.places.remove(&place);
                place
            }
            None => std::future::pending().await,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    /// True if a message is on its way to become a dead letter.
    pub(super) fn holds(&self, place: EntryId) -> bool {
        self.places.contains(&place)
    }

    /// A message becomes a dead letter of `outbox`. What an outbox that closes does not take is
    /// refused again after the next start.
    pub(super) fn add(
        &mut self,
        outbox: &Outbox,
        place: EntryId,
        message: Outgoing,
        reason: String,
    ) {
        let outbox = outbox.clone();
        self.places.insert(place);
        self.under_way.push(Box::pin(async move {
            let stored = match outbox.bury(place, message.clone(), reason).await {
                Ok(receipt) => receipt.stored().await,
                Err(error) => Err(error),
            };
            match stored {
                Ok(Stored::Safe(_)) => {}
                Ok(outcome) => {
                    tracing::error!(event = "uplink.dead_letter_lost", uplink = outbox.name(), seq = place.seq, "the outbox is full: a message that the remote refused is lost instead of kept as a dead letter; free space on the disk, or raise `outbox.keep.size`");
                    if outcome == Stored::Refused {
                        outbox.give_up(place.queue, place.seq, &message, Reason::Full);
                    }
                }
                Err(_) => std::future::pending().await,
            }
            place
        }));
    }
}
