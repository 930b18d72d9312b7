//! Work that is due from time to time: recording deliveries, dropping entries that are too old,
//! counters and losses.

use std::time::{Duration, Instant};

use super::Worker;
use crate::store::Journal;
use crate::store::gap::Gap;
use crate::store::shared::SharedState;
use crate::time::{clock_is_set, unix_ms};

/// How long settled entries may be known in memory only; after a crash at most that much is
/// delivered again.
pub(super) const SAVE_AFTER: Duration = Duration::from_secs(1);
/// How often age and limit are checked.
const CHECK_EVERY: Duration = Duration::from_secs(10);

impl Worker {
    /// Does the work that is due at `at`.
    pub(super) fn look_after(&mut self, at: Instant) {
        if self.save_at.is_some_and(|due| due <= at) {
            self.save_at = None;
            self.save(at);
        }
        if self.check_at <= at {
            self.check_at = at + CHECK_EVERY;
            if let Some(age) = self.settings.age.filter(|_| clock_is_set()) {
                self.drop_older_than(age);
            }
            self.check_limit();
        }
    }

    fn drop_older_than(&mut self, age: Duration) {
        let limit_ms = unix_ms() - i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let folder = self.folder.clone();
        for journal in self.journals() {
            if let Err(error) = journal.drop_older_than(limit_ms) {
                tracing::warn!(event = "outbox.expiry_failed", folder, %error, "cannot remove messages older than outbox.keep.age; retrying");
            }
        }
    }

    /// Makes settled numbers durable.
    fn save(&mut self, at: Instant) {
        let is_stalled = self.is_stalled();
        let (shared, folder) = (self.shared.clone(), self.folder.clone());
        let mut has_failed = false;
        for journal in self.journals() {
            match journal.save() {
                Ok(()) => shared.counters.commits.count(),
                Err(error) => {
                    has_failed = true;
                    if !is_stalled {
                        tracing::warn!(event = "outbox.progress_failed", folder, %error, "could not record delivery progress; messages may be redelivered after a restart");
                    }
                }
            }
        }
        if has_failed {
            self.save_at = Some(at + SAVE_AFTER);
        }
        self.check_limit();
    }

    /// Publishes counters, and losses of the journals.
    pub(super) fn publish(&mut self) {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        for index in 0..self.writers.len() {
            let gaps = self.writers.get_mut(index).and_then(|writer| {
                let journal = writer.journal.as_mut()?;
                if let Some(queue) = state.queues.get_mut(index) {
                    queue.note_progress(journal);
                }
                Some(journal.take_gaps())
            });
            for gap in gaps.into_iter().flatten() {
                self.lose(&mut state, index, gap);
            }
            shared.publish_waiting(&state, index);
        }
        shared.counters.bytes.set(self.bytes());
        shared.counters.stalled.set(u64::from(self.is_stalled()));
    }

    /// Logs a loss, counts it, and remembers it for the user of the store.
    pub(super) fn lose(&self, state: &mut SharedState, queue: usize, gap: Gap) {
        let Gap {
            first,
            last,
            reason,
            ..
        } = gap;
        let folder = &self.folder;
        match gap.known_count() {
            Some(count) => tracing::warn!(
                event = "store.lost",
                folder,
                queue,
                first,
                last,
                count,
                ?reason,
                "messages were lost"
            ),
            None => tracing::error!(
                event = "store.lost",
                folder,
                queue,
                first,
                count = "unknown",
                ?reason,
                "an unknown number of messages was lost: a database is damaged, and its `progress` file, which holds the count, is missing; check the disk"
            ),
        }
        self.shared.lose(state, queue, gap);
    }

    /// The last commit of every journal. All handles are gone, and pending entries were written if
    /// the disk took them.
    pub(super) fn close(&mut self) {
        let folder = &self.folder;
        for writer in &mut self.writers {
            if let Some(Err(error)) = writer.journal.take().map(Journal::close) {
                tracing::error!(event = "outbox.progress_failed", folder, %error, "could not record delivery progress; messages may be redelivered after a restart");
            }
        }
    }
}
