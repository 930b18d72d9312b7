//! Messages that a person removes while the gateway runs: from the outbox, and from what is in flight.

use std::collections::HashSet;

use tokio::sync::{mpsc, oneshot};

use super::task::Uplink;
use crate::outbox::{EntryId, LANES, QUEUES, ReadError, Reason, Selection};
use crate::time::now;

/// Orders that may wait.
const ORDERS: usize = 4;
/// Entries read at a time.
const BATCH: usize = 256;

/// An order to remove messages for good.
#[derive(Debug)]
pub struct Purge {
    /// Only this queue, by its index in [`QUEUES`].
    pub queue: Option<usize>,
    /// Which messages.
    pub selection: Selection,
    /// Told how many were removed, by queue; the error says that the rest could not be read.
    pub reply: oneshot::Sender<Result<Removed, String>>,
}

/// Messages removed from each queue.
pub type Removed = [u64; QUEUES.len()];

/// Takes orders to an uplink that runs.
pub type Purges = mpsc::Sender<Purge>;

/// Both ends of the way of orders.
pub(super) fn orders() -> (Purges, mpsc::Receiver<Purge>) {
    mpsc::channel(ORDERS)
}

impl Uplink {
    /// Removes what is meant. What the remote may have of a QoS 2 message is ended there first.
    pub(super) async fn purge(&mut self, order: Purge) {
        self.purge_except(order, &HashSet::new()).await;
    }

    /// Like [`Uplink::purge`], but leaves out what is being written to the link: it is settled with that.
    pub(super) async fn purge_except(&mut self, order: Purge, being_written: &HashSet<EntryId>) {
        let Purge {
            queue: only,
            selection,
            reply,
        } = order;
        let mut counts: Removed = [0; QUEUES.len()];
        let mut unreadable = None;
        for (queue, count) in counts
            .iter_mut()
            .enumerate()
            .filter(|(queue, _)| only.is_none_or(|only| only == *queue))
        {
            let mut after = 0;
            loop {
                let (last, found) = match self.outbox.find(queue, after, BATCH, &selection).await {
                    Ok(Some(found)) => found,
                    Ok(None) => break,
                    Err(error) => {
                        unreadable = Some(error);
                        break;
                    }
                };
                after = last;
                self.heartbeat.beat(now());
                let mut done = Vec::new();
                for (seq, message) in found {
                    let place = EntryId { queue, seq };
                    let Some(message) = message.filter(|_| queue < LANES.len()) else {
                        // A dead letter was counted when it was buried.
                        *count += 1;
                        done.push(place);
                        continue;
                    };
                    // What the remote has, or is becoming a dead letter, is settled in its turn.
                    if self.session.is_released(place)
                        || being_written.contains(&place)
                        || self.burials.holds(place)
                    {
                        continue;
                    }
                    *count += 1;
                    self.outbox.give_up(queue, seq, &message, Reason::Purged);
                    if !self.session.purge(place) {
                        self.pace.gone(place);
                        done.push(place);
                    }
                }
                self.outbox.settle(&done);
                let done: HashSet<EntryId> = done.into_iter().collect();
                self.lanes.retain(|place| !done.contains(&place));
            }
        }
        let removed: u64 = counts.iter().sum();
        tracing::warn!(event = "outbox.purged", uplink = %self.settings.name, removed, "messages are removed from the outbox, as `wellhead outbox purge` asked");
        self.status.show();
        // Whoever asked may be gone.
        let _ = reply.send(outcome(counts, unreadable));
    }
}

/// What a person is told: how many messages were removed, or that the others could not be read.
fn outcome(counts: Removed, unreadable: Option<ReadError>) -> Result<Removed, String> {
    let removed: u64 = counts.iter().sum();
    match unreadable {
        None => Ok(counts),
        Some(error) => Err(format!(
            "{removed} messages were removed; the others were not, because {error}; check the disk and try again"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_told_that_messages_could_not_be_read() {
        let counts = [2, 1, 0, 0];
        assert_eq!(outcome(counts, None), Ok(counts));
        let told = outcome(counts, Some(ReadError::Disk)).unwrap_err();
        assert!(
            told.starts_with("3 messages were removed; the others were not, because ")
                && told.contains("the disk"),
            "{told}"
        );
    }
}
