//! Shared by the tasks and the thread of a store, behind one lock.
//!
//! Invariants:
//! * Entries that wait in memory are bounded in bytes; beyond it appenders wait.
//! * The lock is held for a few instructions only, never while the disk is touched.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use super::Entry;
use super::gap::Gap;
use super::queue::{CommitOutcome, Queue};
use super::settings::{Settings, WhenFull};
use crate::heartbeat::Heartbeat;
use crate::metrics::{Counter, Gauge};

/// Bytes of entries that may wait for the disk.
pub(super) const PENDING_BYTES: usize = 8 << 20;
/// Gaps remembered until the user takes them.
const MAX_GAPS: usize = 64;

/// Why nothing can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The store is closing.
    #[error("the store is closed")]
    Closed,
    /// Weather: the disk failed; the log says why. It may work later.
    #[error("cannot read queued messages from disk; the log says why")]
    Disk,
}

/// The counters of a store.
#[derive(Debug, Default)]
pub struct Counters {
    /// Entries that are not settled, by queue, on disk or on their way to it.
    pub waiting: Vec<Gauge>,
    /// Bytes on disk.
    pub bytes: Gauge,
    /// Entries that were appended.
    pub appended: Counter,
    /// Entries made durable; the others were settled before.
    pub written: Counter,
    /// Rounds of writing, a commit or more each.
    pub commits: Counter,
    /// Entries given up: limit or age reached, damage, expired.
    pub lost: Counter,
    /// 1 while the disk refuses writes.
    pub stalled: Gauge,
    /// 1 while the limit is reached and new entries are not taken.
    pub full: Gauge,
}

/// An order to read entries that are on disk.
#[derive(Debug)]
pub(super) struct ReadRequest {
    pub(super) queue: usize,
    pub(super) after: u64,
    pub(super) limit: ReadLimit,
    pub(super) reply: oneshot::Sender<Result<Vec<Entry>, ReadError>>,
}

/// How much a read brings at most: that many entries, and no more after that many bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadLimit {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

impl ReadLimit {
    /// The first of `entries` within the limit.
    pub(super) fn take<'a>(self, entries: impl Iterator<Item = &'a Entry>) -> Vec<Entry> {
        let mut bytes = 0;
        entries
            .take(self.entries)
            .take_while(|entry| {
                let has_room = bytes < self.bytes;
                bytes += entry.bytes.len();
                has_room
            })
            .cloned()
            .collect()
    }
}

/// An order to make the states of queues durable; a state leaves it when it is.
#[derive(Debug)]
pub(super) struct SaveRequest {
    pub(super) states: Vec<(usize, Bytes)>,
    pub(super) reply: oneshot::Sender<()>,
}

impl SaveRequest {
    /// True if the state of this queue is not durable yet.
    pub(super) fn has_state_of(&self, queue: usize) -> bool {
        self.states.iter().any(|(other, _)| *other == queue)
    }

    /// The state of this queue is durable.
    pub(super) fn forget_state_of(&mut self, queue: usize) {
        self.states.retain(|(other, _)| *other != queue);
    }
}

/// Behind the lock.
#[derive(Debug)]
pub(super) struct SharedState {
    pub(super) queues: Vec<Queue>,
    pub(super) reads: Vec<ReadRequest>,
    pub(super) saves: Vec<SaveRequest>,
    /// For the next [`super::Store::take_gaps`].
    pub(super) gaps: Vec<(usize, Gap)>,
    /// Set while the limit is reached and the policy is not to drop the oldest.
    pub(super) is_full: bool,
    /// Entries were settled since the thread last looked.
    pub(super) has_settled: bool,
    pub(super) is_closing: bool,
}

impl SharedState {
    /// Bytes of all queues that wait for the disk.
    pub(super) fn pending_bytes(&self) -> usize {
        self.queues.iter().map(|queue| queue.pending.bytes()).sum()
    }
}

/// Found on disk when the store was opened.
#[derive(Debug)]
pub(super) struct AtOpening {
    pub(super) queues: Vec<Queue>,
    /// By queue.
    pub(super) states: Vec<Bytes>,
    pub(super) identity: String,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<SharedState>,
    pub(super) wake: Condvar,
    /// The bytes that may still wait for the disk.
    pub(super) room: Arc<Semaphore>,
    /// Notified when there may be more numbers.
    pub(super) numbers: Notify,
    pub(super) newest: watch::Sender<u64>,
    pub(super) counters: Arc<Counters>,
    pub(super) save_every: Duration,
    pub(super) when_full: WhenFull,
    /// The states at opening, by queue.
    pub(super) states: Vec<Bytes>,
    pub(super) identity: String,
    /// Of the thread.
    pub(super) heartbeat: Heartbeat,
}

impl Shared {
    pub(super) fn new(found: AtOpening, settings: Settings, heartbeat: Heartbeat) -> Self {
        let counters = Counters {
            waiting: found.queues.iter().map(|_| Gauge::default()).collect(),
            ..Counters::default()
        };
        Self {
            state: Mutex::new(SharedState {
                queues: found.queues,
                reads: Vec::new(),
                saves: Vec::new(),
                gaps: Vec::new(),
                is_full: false,
                has_settled: false,
                is_closing: false,
            }),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new(PENDING_BYTES)),
            numbers: Notify::new(),
            newest: watch::channel(0).0,
            counters: Arc::new(counters),
            save_every: settings.save_every,
            when_full: settings.when_full,
            states: found.states,
            identity: found.identity,
            heartbeat,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SharedState> {
        // No code panics while holding it, and if some did: the data is whole between statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn publish_waiting(&self, state: &SharedState, queue: usize) {
        if let (Some(gauge), Some(queue)) =
            (self.counters.waiting.get(queue), state.queues.get(queue))
        {
            gauge.set(queue.waiting());
        }
    }

    /// The disk refuses the entries of a queue, or takes them.
    pub(super) fn set_stalled(&self, queue: usize, is_stalled: bool) {
        let mut state = self.lock();
        let queue = state.queues.get_mut(queue);
        if queue.is_some_and(|queue| queue.set_stalled(is_stalled)) {
            self.newest.send_modify(|count| *count += 1);
        }
    }

    /// Counts a commit, and wakes those who wait for what it brings.
    pub(super) fn note_commit(&self, done: CommitOutcome) {
        self.counters.written.add(done.entries);
        self.counters.commits.count();
        if done.can_be_read_now {
            self.newest.send_modify(|count| *count += 1);
        }
        self.numbers.notify_waiters();
    }

    /// Counts a loss, and remembers it for the user.
    pub(super) fn lose(&self, state: &mut SharedState, queue: usize, gap: Gap) {
        // A loss of unknown size must show in the counter as well.
        self.counters.lost.add(gap.known_count().unwrap_or(1));
        let absorbed = state
            .gaps
            .iter_mut()
            .rev()
            .find(|(other, _)| *other == queue)
            .is_some_and(|(_, last)| last.absorb(&gap));
        if !absorbed && state.gaps.len() < MAX_GAPS {
            state.gaps.push((queue, gap));
        }
    }
}
