//! Writing: a commit of everything that waits in a queue, and its answers.

use std::path::PathBuf;
use std::time::Duration;

use super::Worker;
use crate::store::queue::CommitOutcome;
use crate::store::{Entry, Journal, StoreError};
use crate::time::now;

const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Worker {
    /// Writes everything that waits in a queue, with its state; a failure is logged once and tried
    /// again later.
    pub(super) fn commit(&mut self, index: usize) {
        let done = self
            .make_journal(index)
            .and_then(|()| self.enforce_limit())
            .and_then(|()| self.write(index));
        let was_stalled = self.is_stalled();
        if let Some(writer) = self.writers.get_mut(index) {
            writer.retry_at = done.is_err().then(|| now() + RETRY_AFTER);
        }
        self.shared.set_stalled(index, done.is_err());
        match done {
            Ok(()) if was_stalled && !self.is_stalled() => {
                tracing::info!(event = "outbox.write_recovered", folder = %self.folder, "the disk accepts writes again; waiting messages are stored and acknowledged");
            }
            Err(error) if !was_stalled => {
                tracing::error!(event = "outbox.write_failed", folder = %self.folder, %error, "outbox write failed; publishers are blocked and not acknowledged until it recovers");
            }
            _ => {}
        }
    }

    /// True while the disk refuses.
    pub(super) fn is_stalled(&self) -> bool {
        self.writers.iter().any(|writer| writer.retry_at.is_some())
    }

    fn make_journal(&mut self, index: usize) -> Result<(), StoreError> {
        self.writers
            .get_mut(index)
            .map_or(Ok(()), |writer| writer.open(self.settings, &self.terms))
    }

    fn write(&mut self, index: usize) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let Some(journal) = self
            .writers
            .get_mut(index)
            .and_then(|writer| writer.journal.as_mut())
        else {
            return Ok(());
        };
        let batch = match shared.lock().queues.get_mut(index) {
            Some(queue) => queue.next_batch(journal),
            None => return Ok(()),
        };
        let states = self.saves.iter().flat_map(|save| &save.states);
        for (_, state) in states.filter(|(queue, _)| *queue == index) {
            journal.set_state(state.clone());
        }
        let written = if batch.is_empty() || self.terms.reserve.has_headroom() {
            write_batch(journal, &batch)
        } else {
            Err(StoreError::Full {
                folder: PathBuf::from(&self.folder),
            })
        };
        let is_saved = match &written {
            // No new entry fits, but deliveries must still be recorded: that is how a full disk
            // gets room.
            Err(StoreError::Full { .. }) if !batch.is_empty() => journal.save().is_ok(),
            written => written.is_ok(),
        };
        if is_saved {
            for save in &mut self.saves {
                save.forget_state_of(index);
            }
        }
        let mut done = CommitOutcome::default();
        if let Some(queue) = shared.lock().queues.get_mut(index) {
            done = queue.note_written(journal);
        }
        shared.note_commit(done);
        written
    }

    /// Answers the orders of which every state is durable; the others are repeated with the next
    /// commit.
    pub(super) fn answer_saves(&mut self) {
        for save in self.saves.extract_if(.., |save| save.states.is_empty()) {
            let _ = save.reply.send(());
        }
    }
}

fn write_batch(journal: &mut Journal, batch: &[Entry]) -> Result<(), StoreError> {
    if batch.is_empty() {
        journal.save()
    } else {
        journal.write(batch)
    }
}
