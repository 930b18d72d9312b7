//! The broker's records on disk: batches go to the thread of the journal, which reports the last
//! one that is durable.
//!
//! Invariants:
//! * A batch is reported only after the commit it was in. A batch that a client waits for is
//!   written at once, but over a minute commits are `save_every` apart: the wear of a card is
//!   bounded, and batches share commits. Other batches may wait for a second.
//! * The batches that wait for the disk are bounded. When the disk refuses, or is far too slow,
//!   they are given up, and a checkpoint of the whole state takes their place as soon as the disk
//!   works; nothing that depends on them is reported before that is durable.
//! * After a checkpoint everything older is settled, and its partitions go.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::engine::{Engine, FoundHandovers, LeftOut, Lsn, Restore, Setup};
use super::inbox::{Inbox, InboxEvent};
use super::journal_writer::{JournalItem, JournalQueue, JournalWriter};
use crate::heartbeat::Heartbeat;
use crate::outbox::Handover;
use crate::store::{Journal, PartitionBytes, Reason, StoreError};
use crate::time::{known_unix_ms, now};

/// Bytes that may wait for a disk that refuses.
const MOST_WAITING: usize = 16 << 20;
/// A journal that has grown by this much, and by as much as its state takes, gets a checkpoint.
const LEAST_GROWTH: u64 = 8 << 20;
const PARTITION: PartitionBytes = PartitionBytes(8 << 20);
/// Bytes of a checkpoint in one batch.
pub(super) const CHECKPOINT_PIECE: usize = 128 << 10;
/// How long a slow card may take for all waiting items before the thread counts as stuck.
const PATIENCE: Duration = Duration::from_secs(300);
const READ_ENTRIES: usize = 64;
const READ_BYTES: usize = 1 << 20;

/// The driver's end of the journal.
#[derive(Debug)]
pub(super) struct Durable {
    queue: Arc<JournalQueue>,
    stage: JournalStage,
    /// Bytes since the last checkpoint, and of it.
    grown: u64,
    checkpoint_bytes: u64,
    /// Reports below this one count for nothing: the state is not whole on disk.
    hold: Lsn,
    /// The last batch that was handed over.
    last: Lsn,
    /// The last report that counted for nothing.
    suppressed: Lsn,
    inbox: Arc<Inbox>,
    /// Of the thread.
    pub(super) heartbeat: Heartbeat,
}

/// The state of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JournalStage {
    Writing,
    /// A checkpoint is being written.
    Checkpoint,
    /// The disk refuses and the batches were given up.
    Refused,
}

/// An engine as its journal left it, and the journal.
pub struct RestoredEngine {
    /// As it was restored.
    pub engine: Engine,
    journal: Journal,
    save_every: Duration,
}

impl std::fmt::Debug for RestoredEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RestoredEngine").finish_non_exhaustive()
    }
}

/// Reads the journal in `folder`, making it if needed, and compares it with what the outboxes have
/// taken, by uplink. Commits will be `save_every` apart.
pub fn open(
    folder: &Path,
    setup: Setup,
    handovers: Vec<Vec<Handover>>,
    save_every: Duration,
) -> Result<RestoredEngine, StoreError> {
    let mut journal = Journal::open(folder, PARTITION)?;
    let mut restore = Restore::new(setup, now(), known_unix_ms());
    let (mut after, mut damaged) = (0, 0_u64);
    loop {
        let entries = journal.read(after, READ_ENTRIES, READ_BYTES)?;
        let Some(last) = entries.last() else { break };
        after = last.seq;
        damaged += entries
            .into_iter()
            .map(|entry| u64::from(!restore.batch(entry.bytes)))
            .sum::<u64>();
    }
    let lost = journal.lost() + damaged;
    let mut gaps = journal.take_gaps().into_iter();
    let is_damaged = lost > 0 || gaps.any(|gap| gap.reason == Reason::Damage);
    if is_damaged {
        tracing::error!(
            event = "broker.journal_damaged",
            folder = %folder.display(),
            lost,
            "records of the broker are damaged: sessions or retained messages may be missing"
        );
    }
    restore.hand_over(&FoundHandovers {
        by_uplink: handovers,
        is_journal_whole: !is_damaged,
    });
    let (engine, left_out) = restore.finish();
    if left_out != LeftOut::default() {
        log_left_out(folder, left_out);
    }
    Ok(RestoredEngine {
        engine,
        journal,
        save_every,
    })
}

fn log_left_out(folder: &Path, left_out: LeftOut) {
    let LeftOut {
        sessions,
        subscriptions,
        wills,
        received,
        deliveries,
    } = left_out;
    tracing::warn!(
        event = "broker.restored_in_part",
        folder = %folder.display(),
        sessions,
        subscriptions,
        wills,
        received,
        deliveries,
        "the journal of the broker holds more than the limits allow: the rest was left out; raise max_session_size, max_user_size, max_sessions_size or max_queued_total of the broker and start again from a copy of the folder if it is needed"
    );
}

impl RestoredEngine {
    /// Starts the thread. The receiver is ready when it has closed the journal.
    pub(super) fn start(
        self,
        inbox: Arc<Inbox>,
    ) -> Result<(Engine, Durable, oneshot::Receiver<()>), StoreError> {
        let heartbeat = Heartbeat::new("store:broker", PATIENCE, now());
        let Self {
            engine,
            journal,
            save_every,
        } = self;
        let queue = Arc::new(JournalQueue::default());
        let durable = Durable {
            queue: queue.clone(),
            stage: JournalStage::Writing,
            // Most of what was found may be outdated.
            grown: journal.bytes(),
            checkpoint_bytes: 0,
            hold: 0,
            last: 0,
            suppressed: 0,
            inbox: inbox.clone(),
            heartbeat: heartbeat.clone(),
        };
        let (closed_sender, closed) = oneshot::channel();
        let writer = JournalWriter::new(queue, inbox, journal, save_every, heartbeat);
        let started = std::thread::Builder::new()
            .name("store:broker".to_owned())
            .spawn(move || {
                writer.run();
                // The gateway may have given up waiting.
                let _ = closed_sender.send(());
            });
        started.map_err(|source| StoreError::Folder {
            path: "thread".into(),
            source,
        })?;
        Ok((engine, durable, closed))
    }
}

impl Durable {
    /// Takes the records of a turn, and continues a checkpoint that is under way or due.
    pub(super) fn take(&mut self, engine: &mut Engine) {
        if self.stage == JournalStage::Writing
            && self.grown > LEAST_GROWTH.max(2 * self.checkpoint_bytes)
        {
            self.begin(engine);
        }
        // A disk that is slower than the checkpoint sets the pace.
        let is_done = self.wants_turns() && engine.continue_checkpoint(CHECKPOINT_PIECE);
        let is_awaited = engine.waits_for_disk();
        let Some((position, batch)) = engine.take_records() else {
            if is_done {
                self.end();
            }
            if is_awaited {
                self.expedite();
            }
            return;
        };
        if self.stage == JournalStage::Refused {
            return;
        }
        self.grown += batch.len() as u64;
        self.last = position;
        let mut shared = self.queue.lock();
        shared.is_awaited |= is_awaited;
        shared.waiting.put(JournalItem::Batch(position, batch));
        // One batch alone is never too much: there is nothing smaller to put in its place.
        let most = if shared.is_refusing {
            MOST_WAITING
        } else {
            4 * MOST_WAITING
        };
        let is_too_much = shared.waiting.bytes > most && shared.waiting.items.len() > 1;
        if is_too_much {
            drop(shared.waiting.take());
            shared.was_dropped = true;
        }
        drop(shared);
        self.queue.wake.notify_one();
        if is_too_much {
            self.stage = JournalStage::Refused;
            self.hold = Lsn::MAX;
        } else if is_done {
            self.end();
        }
    }

    fn begin(&mut self, engine: &mut Engine) {
        // Earlier changes are in a batch of their own.
        if let Some((position, batch)) = engine.take_records() {
            self.last = position;
            self.push(JournalItem::Batch(position, batch));
        }
        engine.begin_checkpoint();
        self.stage = JournalStage::Checkpoint;
        self.grown = 0;
        self.push(JournalItem::Begin);
    }

    fn end(&mut self) {
        self.stage = JournalStage::Writing;
        self.checkpoint_bytes = self.grown;
        self.grown = 0;
        if self.hold == Lsn::MAX {
            self.hold = self.last;
            if self.suppressed >= self.last {
                // The last piece was reported before it was known to be the last one.
                self.inbox.push(InboxEvent::Durable(self.suppressed));
            }
        }
        self.push(JournalItem::End);
    }

    fn push(&self, item: JournalItem) {
        self.queue.lock().waiting.put(item);
        self.queue.wake.notify_one();
    }

    /// A client waits for items that the thread has already.
    fn expedite(&self) {
        let mut shared = self.queue.lock();
        if !shared.is_awaited && !shared.waiting.items.is_empty() {
            shared.is_awaited = true;
            self.queue.wake.notify_one();
        }
    }

    /// True while a checkpoint needs more turns.
    pub(super) fn wants_turns(&self) -> bool {
        self.stage == JournalStage::Checkpoint
            && self.queue.lock().waiting.bytes < 4 * CHECKPOINT_PIECE
    }

    /// A report of the thread: the last durable batch, if the engine may rely on it.
    pub(super) fn reported(&mut self, position: Lsn) -> Option<Lsn> {
        if position < self.hold {
            self.suppressed = self.suppressed.max(position);
            return None;
        }
        Some(position)
    }

    /// The disk works again: a checkpoint writes the whole state.
    pub(super) fn recovered(&mut self, engine: &mut Engine) {
        if self.stage == JournalStage::Refused {
            // Given up with the others.
            drop(engine.take_records());
            self.begin(engine);
        }
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        self.queue.lock().is_closing = true;
        self.queue.wake.notify_one();
    }
}
