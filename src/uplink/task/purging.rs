//! Messages that a person removes while the gateway runs: from the outbox, and from what is in
//! flight.

use std::collections::HashSet;

use super::Uplink;
use crate::outbox::{EntryId, LANES, Outgoing, QUEUES, ReadError, Reason, Selection};
use crate::time::now;
use crate::uplink::purge::{Purge, Removed};

/// Entries read at a time.
const BATCH: usize = 256;

impl Uplink {
    /// Removes what is meant. What the remote may have of a QoS 2 message is ended there first.
    pub(super) async fn purge(&mut self, order: Purge) {
        self.purge_except(order, &HashSet::new()).await;
    }

    /// Like [`Uplink::purge`], but leaves out what is being written to the link: it is settled with
    /// that.
    pub(in crate::uplink) async fn purge_except(
        &mut self,
        order: Purge,
        being_written: &HashSet<EntryId>,
    ) {
        let mut counts: Removed = [0; QUEUES.len()];
        let mut unreadable = None;
        for (queue, count) in counts.iter_mut().enumerate() {
            if order.queue.is_some_and(|only| only != queue) {
                continue;
            }
            let purged = self.purge_queue(queue, &order.selection, being_written);
            let (removed, error) = purged.await;
            *count = removed;
            unreadable = error.or(unreadable);
        }
        let removed: u64 = counts.iter().sum();
        tracing::warn!(event = "outbox.purged", uplink = %self.settings.name, removed, "messages are removed from the outbox, as `wellhead outbox purge` asked");
        self.status.show();
        // The command may have been interrupted.
        let _ = order.reply.send(outcome(counts, unreadable));
    }

    /// Removes messages of one queue. Returns how many, and why the rest could not be read.
    async fn purge_queue(
        &mut self,
        queue: usize,
        selection: &Selection,
        being_written: &HashSet<EntryId>,
    ) -> (u64, Option<ReadError>) {
        let (mut count, mut after) = (0, 0);
        loop {
            let (last, found) = match self.outbox.find(queue, after, BATCH, selection).await {
                Ok(Some(found)) => found,
                Ok(None) => return (count, None),
                Err(error) => return (count, Some(error)),
            };
            after = last;
            self.heartbeat.beat(now());
            let mut done = HashSet::new();
            for (seq, message) in found {
                let place = EntryId { queue, seq };
                let is_removed = match message.filter(|_| queue < LANES.len()) {
                    Some(message) => self.purge_message(place, &message, being_written),
                    // A dead letter was counted when it was buried.
                    None => Some(true),
                };
                count += u64::from(is_removed.is_some());
                done.extend(is_removed.filter(|is_done| *is_done).map(|_| place));
            }
            let settled: Vec<EntryId> = done.iter().copied().collect();
            self.outbox.settle(&settled);
            self.lanes.retain(|place| !done.contains(&place));
        }
    }

    /// Removes a message that is not at the remote yet. True if it can be settled at once; `None`
    /// if it stays: the remote has it, it is becoming a dead letter, or it travels with others, and
    /// it is settled with that.
    fn purge_message(
        &mut self,
        place: EntryId,
        message: &Outgoing,
        being_written: &HashSet<EntryId>,
    ) -> Option<bool> {
        if self.session.is_released(place)
            || being_written.contains(&place)
            || self.burials.holds(place)
        {
            return None;
        }
        let was_open = self.batches.drop_open(place);
        if !was_open && self.batches.holds(place) {
            return None;
        }
        self.outbox
            .give_up(place.queue, place.seq, message, Reason::Purged);
        let is_at_remote = self.session.purge(place);
        if !is_at_remote {
            self.pace.gone(place);
        }
        Some(!is_at_remote)
    }
}

/// The answer to the command: how many messages were removed, or that the others could not be read.
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
