//! The thread that owns the journals of a store, because their engine and `fsync` block.
//!
//! Invariants:
//! * A receipt is answered only after a commit, or when the entry is settled. Commits wait at most
//!   [`Settings::save_every`] for company; entries settled meanwhile are never written.
//! * When the disk refuses, nothing is answered and nothing is forgotten: appenders wait, the
//!   thread tries again every second, and logs it once. Reading and settling continue meanwhile, so
//!   that a full disk can drain.
//! * It ends when every [`Store`] is gone: a last commit, then the folder is unlocked.

mod commit;
mod limit;
mod upkeep;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::emergency_reserve::EmergencyReserve;
use super::folder::lock;
use super::handle::Store;
use super::handover::FindHandover;
use super::identity::identity;
use super::journal::JournalTerms;
use super::machine::Machine;
use super::queue::Queue;
use super::settings::Settings;
use super::shared::{AtOpening, ReadError, ReadRequest, SaveRequest, Shared, SharedState};
use super::{Journal, PartitionBytes, StoreError};
use crate::heartbeat::Heartbeat;
use crate::time::now;
use upkeep::SAVE_AFTER;

/// Longest time for all that is due at once, commits and removals on a slow card, before the thread
/// counts as stuck.
const PATIENCE: Duration = Duration::from_secs(300);

/// Writes one queue of the store.
#[derive(Debug)]
struct QueueWriter {
    folder: PathBuf,
    /// Made when it is first needed.
    journal: Option<Journal>,
    /// Set while the disk refuses.
    retry_at: Option<Instant>,
}

impl QueueWriter {
    /// Opens the journal, making it if there is none yet.
    fn open(&mut self, settings: Settings, terms: &JournalTerms) -> Result<(), StoreError> {
        if self.journal.is_none() {
            let partition_bytes = PartitionBytes::of(settings.total_bytes);
            self.journal = Some(Journal::open_with(&self.folder, partition_bytes, terms)?);
        }
        Ok(())
    }

    /// Bytes it takes on disk.
    fn bytes(&self) -> u64 {
        self.journal.as_ref().map_or(0, Journal::bytes)
    }
}

/// The queues of a store.
#[derive(Debug, Clone, Copy)]
pub struct StoreQueues<'a> {
    /// In the order of their importance: at the limit, the last loses entries first.
    pub names: &'a [&'a str],
    /// The journal of this one is made at once, the others when they are needed.
    pub usual: usize,
    /// Finds hand-overs.
    pub handover: FindHandover,
}

/// Opens the store in `folder` and starts its thread. The receiver resolves when the thread has
/// closed the journals.
pub fn open(
    name: &str,
    folder: &Path,
    queues: StoreQueues<'_>,
    settings: Settings,
) -> Result<(Store, oneshot::Receiver<()>), StoreError> {
    let lock = lock(folder)?;
    let terms = JournalTerms {
        reserve: EmergencyReserve::of(folder),
        handover: queues.handover,
    };
    let mut writers = Vec::new();
    for (index, queue) in queues.names.iter().enumerate() {
        let mut writer = QueueWriter {
            folder: folder.join(queue),
            journal: None,
            retry_at: None,
        };
        if index == queues.usual || writer.folder.exists() {
            writer.open(settings, &terms)?;
        }
        writers.push(writer);
    }
    let identity = identity(folder, Machine::of(Path::new("/")))?;
    let heartbeat = Heartbeat::new(format!("store:{name}"), PATIENCE, now());
    let found = found_in(&writers, identity);
    let shared = Arc::new(Shared::new(found, settings, heartbeat));
    let mut worker = Worker {
        shared: shared.clone(),
        writers,
        settings,
        terms,
        saves: Vec::new(),
        save_at: None,
        check_at: now(),
        is_unreadable: false,
        folder: folder.display().to_string(),
        _lock: lock,
    };
    worker.publish();
    let closed = worker.start(name, folder)?;
    Ok((Store::new(shared), closed))
}

fn found_in(writers: &[QueueWriter], identity: String) -> AtOpening {
    let journals = || writers.iter().map(|writer| writer.journal.as_ref());
    AtOpening {
        queues: journals().map(Queue::of).collect(),
        states: journals()
            .map(|journal| journal.map_or_else(Bytes::new, |journal| journal.state().clone()))
            .collect(),
        identity,
    }
}

struct Worker {
    shared: Arc<Shared>,
    writers: Vec<QueueWriter>,
    settings: Settings,
    terms: JournalTerms,
    /// Orders that are not durable yet.
    saves: Vec<SaveRequest>,
    /// When settled numbers are made durable, if there are new ones.
    save_at: Option<Instant>,
    /// When limits are checked next.
    check_at: Instant,
    /// The last read failed, and that was logged.
    is_unreadable: bool,
    folder: String,
    _lock: fs::File,
}

/// The work of one turn.
struct Turn {
    reads: Vec<ReadRequest>,
    /// Queues that are to be written.
    due: Vec<usize>,
    is_closing: bool,
}

impl Worker {
    /// Starts the thread; the receiver resolves when it has ended.
    fn start(mut self, name: &str, folder: &Path) -> Result<oneshot::Receiver<()>, StoreError> {
        let (closed_sender, closed) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("store:{name}"))
            .spawn(move || {
                self.run();
                // Before the end is reported: the folder may be opened again then.
                drop(self);
                let _ = closed_sender.send(());
            })
            .map_err(|source| StoreError::Folder {
                path: folder.to_owned(),
                source,
            })?;
        Ok(closed)
    }

    fn run(&mut self) {
        loop {
            self.shared.heartbeat.beat(now());
            let turn = self.next_turn();
            self.settle();
            for queue in turn.due {
                self.commit(queue);
            }
            self.answer_saves();
            for read in turn.reads {
                self.read(read);
            }
            self.look_after(now());
            self.publish();
            if turn.is_closing {
                return self.close();
            }
        }
    }

    /// Sleeps until there is something to do.
    fn next_turn(&mut self) -> Turn {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        loop {
            let at = now();
            self.saves.append(&mut state.saves);
            let turn = Turn {
                reads: std::mem::take(&mut state.reads),
                due: self.due(&state, at),
                is_closing: state.is_closing,
            };
            let has_work = !turn.reads.is_empty()
                || !turn.due.is_empty()
                || turn.is_closing
                || state.has_settled;
            let deadline = self.deadline(&state);
            if has_work || deadline <= at {
                return turn;
            }
            state = shared
                .wake
                .wait_timeout(state, deadline - at)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }

    /// The queues that have something to write, and may try.
    fn due(&mut self, state: &SharedState, at: Instant) -> Vec<usize> {
        let mut due = Vec::new();
        for (index, (queue, writer)) in state.queues.iter().zip(&mut self.writers).enumerate() {
            let has_state = self.saves.iter().any(|save| save.has_state_of(index));
            let is_last_chance = state.is_closing && queue.pending.due().is_some();
            if !(queue.is_due(at) || has_state || is_last_chance) {
                // The entries that could not be written were delivered meanwhile.
                writer.retry_at = None;
            } else if state.is_closing || writer.retry_at.is_none_or(|retry| retry <= at) {
                due.push(index);
            }
        }
        due
    }

    fn deadline(&self, state: &SharedState) -> Instant {
        let queues = state.queues.iter().zip(&self.writers);
        // While the disk refuses, due entries wait for the next attempt.
        let write_at = queues.filter_map(|(queue, writer)| writer.retry_at.or(queue.pending.due()));
        write_at
            .chain(self.save_at)
            .min()
            .map_or(self.check_at, |at| at.min(self.check_at))
    }

    /// Hands entries that were settled to the journals.
    fn settle(&mut self) {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        state.has_settled = false;
        let mut dropped = Vec::new();
        for (index, (queue, writer)) in state.queues.iter_mut().zip(&mut self.writers).enumerate() {
            dropped.extend(queue.dropped.drain(..).map(|gap| (index, gap)));
            let Some(journal) = &mut writer.journal else {
                continue;
            };
            if queue.hand_over(journal) {
                self.save_at.get_or_insert_with(|| now() + SAVE_AFTER);
            }
        }
        for (queue, gap) in dropped {
            self.lose(&mut state, queue, gap);
        }
    }

    fn read(&mut self, request: ReadRequest) {
        let ReadRequest {
            queue,
            after,
            limit,
            reply,
        } = request;
        let Some(journal) = self
            .writers
            .get_mut(queue)
            .and_then(|writer| writer.journal.as_mut())
        else {
            return;
        };
        let read = journal.read(after, limit.entries, limit.bytes);
        if let Err(error) = &read
            && !self.is_unreadable
        {
            tracing::error!(event = "outbox.read_failed", folder = %self.folder, %error, "cannot read queued messages; delivery waits and reading is retried; check the disk");
        }
        self.is_unreadable = read.is_err();
        let read = read.map_err(|_| ReadError::Disk).map(|entries| {
            if !entries.is_empty() {
                return entries;
            }
            // Nothing is left on disk: the entries in memory are next.
            let state = self.shared.lock();
            state
                .queues
                .get(queue)
                .map_or_else(Vec::new, |queue| limit.take(queue.readable_after(after)))
        });
        // An uplink that is gone needs no answer.
        let _ = reply.send(read);
    }
}

#[cfg(test)]
mod tests;
