//! The thread that writes the broker's journal: batches in order, many in a commit.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::engine::Lsn;
use super::inbox::{Inbox, InboxEvent};
use crate::heartbeat::Heartbeat;
use crate::store::{Journal, StoreError};
use crate::time::now;

const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long records that nothing waits for may wait.
const LAZY: Duration = Duration::from_secs(1);
/// How long the thread sleeps without records.
const IDLE: Duration = Duration::from_secs(10);
/// Commits of this much time may come at once.
const BURST: Duration = Duration::from_secs(60);
/// Bytes that are worth a commit of their own.
const ENOUGH: usize = 256 << 10;

/// An item of the queue to the thread.
#[derive(Debug)]
pub(super) enum JournalItem {
    Batch(Lsn, Bytes),
    /// The next batch begins a checkpoint.
    Begin,
    /// The batches before this end it.
    End,
}

/// The items that wait for the thread. `bytes` is the size of its batches, and `since` is when the
/// oldest item came: the three change together.
#[derive(Debug, Default)]
pub(super) struct JournalItems {
    pub(super) items: Vec<JournalItem>,
    pub(super) bytes: usize,
    since: Option<Instant>,
}

impl JournalItems {
    pub(super) fn put(&mut self, item: JournalItem) {
        if let JournalItem::Batch(_, batch) = &item {
            self.bytes += batch.len();
        }
        self.since.get_or_insert_with(now);
        self.items.push(item);
    }

    /// Everything; nothing is left.
    pub(super) fn take(&mut self) -> Vec<JournalItem> {
        std::mem::take(self).items
    }
}

/// The state that the driver and the thread share.
#[derive(Debug, Default)]
pub(super) struct JournalState {
    pub(super) waiting: JournalItems,
    /// A client waits for one of them.
    pub(super) is_awaited: bool,
    /// The disk does not take the batches of the thread.
    pub(super) is_refusing: bool,
    /// The waiting items were given up.
    pub(super) was_dropped: bool,
    pub(super) is_closing: bool,
}

/// The queue to the thread.
#[derive(Debug, Default)]
pub(super) struct JournalQueue {
    shared: Mutex<JournalState>,
    pub(super) wake: Condvar,
}

impl JournalQueue {
    pub(super) fn lock(&self) -> MutexGuard<'_, JournalState> {
        // Whole between statements, whatever panicked.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of the thread.
pub(super) struct JournalWriter {
    queue: Arc<JournalQueue>,
    inbox: Arc<Inbox>,
    journal: Journal,
    /// The time from one commit to the next, over a minute.
    save_every: Duration,
    /// When the last commit began.
    written_at: Instant,
    /// Time that commits could have used and did not; at most [`BURST`].
    saved: Duration,
    /// The number of the first entry of the checkpoint under way.
    mark: Option<u64>,
    /// The disk refuses, and the log says so.
    refuses: bool,
    heartbeat: Heartbeat,
}

/// Batches whose entries are to be written, and what to do then.
#[derive(Default)]
struct Round {
    entries: Vec<Bytes>,
    last: Lsn,
    begins: bool,
    ends: bool,
}

impl JournalWriter {
    pub(super) fn new(
        queue: Arc<JournalQueue>,
        inbox: Arc<Inbox>,
        journal: Journal,
        save_every: Duration,
        heartbeat: Heartbeat,
    ) -> Self {
        Self {
            queue,
            inbox,
            journal,
            save_every,
            written_at: now(),
            saved: BURST,
            mark: None,
            refuses: false,
            heartbeat,
        }
    }

    /// Runs until the queue is closed and everything in it is written.
    pub(super) fn run(mut self) {
        loop {
            let (items, was_dropped, is_closing) = self.next();
            if was_dropped {
                self.mark = None;
                self.wait_for_disk(is_closing);
            }
            let is_done = items.is_empty();
            for round in rounds(items) {
                if !self.write_round(round) {
                    break;
                }
            }
            if is_done && is_closing {
                return self.close();
            }
        }
    }

    /// Waits until a commit is due: the items, whether earlier ones were given up, and whether the
    /// queue is closed.
    fn next(&mut self) -> (Vec<JournalItem>, bool, bool) {
        let queue = self.queue.clone();
        let mut shared = queue.lock();
        loop {
            let at = now();
            let due = self.due(&shared);
            if shared.is_closing || shared.was_dropped || due.is_some_and(|due| due <= at) {
                break;
            }
            self.heartbeat.beat(at);
            let wait = due.map_or(IDLE, |due| due - at).min(IDLE);
            shared = queue
                .wake
                .wait_timeout(shared, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        shared.is_awaited = false;
        let at = now();
        let earned = self.saved + at.saturating_duration_since(self.written_at);
        self.saved = earned.min(BURST).saturating_sub(self.save_every);
        self.written_at = at;
        (
            shared.waiting.take(),
            std::mem::take(&mut shared.was_dropped),
            shared.is_closing,
        )
    }

    /// When the waiting items are to be written; `None` if there are none.
    fn due(&self, shared: &JournalState) -> Option<Instant> {
        let since = shared.waiting.since?;
        let is_free = self.saved >= self.save_every;
        let soon = if is_free {
            since
        } else {
            since.max(self.written_at + (self.save_every - self.saved))
        };
        if shared.waiting.bytes >= ENOUGH {
            return Some(since);
        }
        Some(if shared.is_awaited {
            soon
        } else {
            soon.max(since + LAZY)
        })
    }

    /// Writes batches; false if the waiting ones were given up meanwhile.
    fn write_round(&mut self, round: Round) -> bool {
        let Round {
            mut entries,
            last,
            begins,
            ends,
        } = round;
        if begins {
            self.mark = Some(self.journal.next_seq());
        }
        while !entries.is_empty() {
            self.heartbeat.beat(now());
            let first = self.journal.next_seq();
            let Err(error) = self.journal.append(&entries) else {
                break;
            };
            // Those that were written are not written again.
            let written = usize::try_from((self.journal.written() + 1).saturating_sub(first))
                .unwrap_or(0)
                .min(entries.len());
            entries.drain(..written);
            self.log_refused(&error);
            if !self.may_retry() {
                return false;
            }
            std::thread::sleep(RETRY_AFTER);
        }
        self.recovered();
        if last > 0 {
            self.inbox.push(InboxEvent::Durable(last));
        }
        if ends && let Some(mark) = self.mark.take() {
            self.journal.settle(1, mark - 1);
            if let Err(error) = self.journal.save() {
                self.log_refused(&error);
            }
        }
        true
    }

    /// False if the waiting batches were given up, or the program ends.
    fn may_retry(&self) -> bool {
        let shared = self.queue.lock();
        !shared.was_dropped && !shared.is_closing
    }

    fn wait_for_disk(&mut self, is_closing: bool) {
        if is_closing {
            return;
        }
        // A batch without records is valid and changes nothing.
        while let Err(error) = self.journal.append(&[Bytes::new()]) {
            self.heartbeat.beat(now());
            self.log_refused(&error);
            std::thread::sleep(RETRY_AFTER);
            if self.queue.lock().is_closing {
                return;
            }
        }
        self.recovered();
        self.inbox.push(InboxEvent::DiskWorks);
    }

    fn log_refused(&mut self, error: &StoreError) {
        if !self.refuses {
            tracing::error!(
                event = "broker.journal_refused",
                %error,
                "cannot write the broker's journal; messages that must be durable are not acknowledged until it recovers"
            );
            self.refuses = true;
            self.queue.lock().is_refusing = true;
        }
    }

    fn recovered(&mut self) {
        if self.refuses {
            tracing::info!(
                event = "broker.journal_recovered",
                "the broker's journal can be written again"
            );
            self.refuses = false;
            self.queue.lock().is_refusing = false;
        }
    }

    fn close(self) {
        if let Err(error) = self.journal.close() {
            tracing::error!(
                event = "broker.journal_close_failed",
                %error,
                "could not close the broker's journal cleanly; the next start recovers it"
            );
        }
    }
}

/// Cuts items at the beginning and the end of checkpoints.
fn rounds(items: Vec<JournalItem>) -> Vec<Round> {
    let mut rounds = vec![Round::default()];
    for item in items {
        if matches!(item, JournalItem::Begin) {
            rounds.push(Round {
                begins: true,
                ..Round::default()
            });
        }
        let Some(round) = rounds.last_mut() else {
            continue;
        };
        match item {
            JournalItem::Begin => {}
            JournalItem::Batch(position, bytes) => {
                round.entries.push(bytes);
                round.last = position;
            }
            JournalItem::End => {
                round.ends = true;
                rounds.push(Round::default());
            }
        }
    }
    rounds.retain(|round| !round.entries.is_empty() || round.begins || round.ends);
    rounds
}
