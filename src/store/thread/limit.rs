//! What a store does at its size: what is settled goes first, then what its settings say.

use super::{Lane, WhenFull, Worker, bytes_of};
use crate::store::StoreError;
use crate::store::engine::LEAST_PARTITION_BYTES;
use crate::store::gap::Reason;

/// The last queue, which nobody is waiting for, may take this part of the whole.
const LAST_SHARE: u64 = 8;
/// And so much in any case.
const LEAST_LAST: u64 = LEAST_PARTITION_BYTES + LEAST_PARTITION_BYTES / 2;

impl Worker {
    /// Keeps all partitions, and room for what is about to be written, below the limit.
    pub(super) fn enforce_limit(&mut self) -> Result<(), StoreError> {
        let pending: usize = self
            .shared
            .lock()
            .queues
            .iter()
            .map(|queue| queue.pending_bytes)
            .sum();
        let needed = pending as u64 + LEAST_PARTITION_BYTES;
        let is_over = |lanes: &[Lane]| bytes_of(lanes) + needed > self.settings.total_bytes;
        if is_over(&self.lanes) {
            // What is delivered already must not count.
            for journal in self
                .lanes
                .iter_mut()
                .filter_map(|lane| lane.journal.as_mut())
            {
                journal.leave_behind_what_is_settled()?;
            }
        }
        if let Some(last) = self.lanes.last_mut()
            && last.bytes() > (self.settings.total_bytes / LAST_SHARE).max(LEAST_LAST)
            && let Some(journal) = &mut last.journal
        {
            journal.drop_oldest(Reason::Full)?;
        }
        if self.settings.when_full != WhenFull::DropOldest {
            let is_full = is_over(&self.lanes);
            self.shared.counters.full.set(u64::from(is_full));
            let was_full = std::mem::replace(&mut self.shared.lock().is_full, is_full);
            if is_full && !was_full {
                tracing::warn!(folder = %self.folder, policy = ?self.settings.when_full, "outbox limit reached, new messages are not kept; raise outbox.keep.size or repair the link");
            }
            return Ok(());
        }
        while is_over(&self.lanes) {
            let mut dropped = false;
            for journal in self
                .lanes
                .iter_mut()
                .rev()
                .filter_map(|lane| lane.journal.as_mut())
            {
                dropped = journal.drop_oldest(Reason::Full)?;
                if dropped {
                    break;
                }
            }
            if !dropped {
                break;
            }
        }
        Ok(())
    }

    /// While the limit is reached: room may have been made by delivering.
    pub(super) fn look_at_limit(&mut self) {
        if !self.shared.lock().is_full {
            return;
        }
        if let Err(error) = self.enforce_limit()
            && !self.is_stalled()
        {
            tracing::warn!(folder = %self.folder, %error, "what was delivered could not be removed; trying again");
        }
    }
}
