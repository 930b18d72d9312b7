//! The limit of a store: settled entries go first, then those that its settings name.

use super::{QueueWriter, Worker};
use crate::store::engine::LEAST_PARTITION_BYTES;
use crate::store::gap::Reason;
use crate::store::settings::WhenFull;
use crate::store::{Journal, StoreError};

/// The last queue, whose entries are not delivered, may take this part of the whole.
const LAST_SHARE: u64 = 8;
/// It may take this much in any case.
const LEAST_LAST: u64 = LEAST_PARTITION_BYTES + LEAST_PARTITION_BYTES / 2;

impl Worker {
    /// Keeps all partitions, and room for the pending entries, below the limit.
    pub(super) fn enforce_limit(&mut self) -> Result<(), StoreError> {
        let pending = self.shared.lock().pending_bytes();
        let needed = pending as u64 + LEAST_PARTITION_BYTES;
        if self.is_over_limit(needed) {
            // Space of delivered entries must not count.
            self.journals()
                .try_for_each(Journal::leave_behind_what_is_settled)?;
        }
        self.trim_last_queue()?;
        if self.settings.when_full == WhenFull::DropOldest {
            while self.is_over_limit(needed) && self.drop_oldest()? {}
        } else {
            self.note_full(self.is_over_limit(needed));
        }
        Ok(())
    }

    fn is_over_limit(&self, needed: u64) -> bool {
        self.bytes() + needed > self.settings.total_bytes
    }

    /// Bytes of all queues on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.writers.iter().map(QueueWriter::bytes).sum()
    }

    /// The journals that are open, the most important first.
    pub(super) fn journals(&mut self) -> impl DoubleEndedIterator<Item = &mut Journal> {
        self.writers
            .iter_mut()
            .filter_map(|writer| writer.journal.as_mut())
    }

    /// Drops a partition of the last queue if it takes more than its share.
    fn trim_last_queue(&mut self) -> Result<(), StoreError> {
        let share = (self.settings.total_bytes / LAST_SHARE).max(LEAST_LAST);
        if let Some(last) = self.writers.last_mut()
            && last.bytes() > share
            && let Some(journal) = &mut last.journal
        {
            journal.drop_oldest(Reason::Full)?;
        }
        Ok(())
    }

    /// Drops the oldest partition of the least important queue in which anything waits; false if
    /// nothing waits anywhere.
    fn drop_oldest(&mut self) -> Result<bool, StoreError> {
        for journal in self.journals().rev() {
            if journal.drop_oldest(Reason::Full)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// From here on new entries are, or are not, taken.
    fn note_full(&mut self, is_full: bool) {
        self.shared.counters.full.set(u64::from(is_full));
        let was_full = std::mem::replace(&mut self.shared.lock().is_full, is_full);
        if is_full && !was_full {
            tracing::warn!(event = "outbox.full", folder = %self.folder, policy = ?self.settings.when_full, "outbox limit reached, new messages are not kept; raise outbox.keep.size or repair the link");
        }
    }

    /// While the limit is reached: deliveries may have made room.
    pub(super) fn check_limit(&mut self) {
        if !self.shared.lock().is_full {
            return;
        }
        if let Err(error) = self.enforce_limit()
            && !self.is_stalled()
        {
            tracing::warn!(event = "outbox.removal_failed", folder = %self.folder, %error, "cannot remove delivered messages, the outbox stays full; retrying");
        }
    }
}
