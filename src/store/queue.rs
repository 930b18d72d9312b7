//! What the tasks and the thread of a store share: entries that are not written yet, and the handle that appends, reads and settles.
//!
//! Invariants:
//! * What waits in memory is bounded in bytes; beyond it appenders wait.
//! * An entry leaves `pending` when it is on disk or settled, and its receipt is answered then.
//! * The lock is held for a few instructions only, never while the disk is touched.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::Entry;
use super::gap::{Gap, Reason};
use super::thread::{Settings, WhenFull};
use crate::heartbeat::Heartbeat;
use crate::metrics::{Counter, Gauge};
use crate::time::{now, unix_ms};

/// Bytes of entries that may wait for the disk.
const PENDING_BYTES: usize = 8 << 20;
/// What an entry takes in memory beside its bytes, at least.
const OVERHEAD: usize = 128;
/// So few numbers left, and the thread is asked for more.
const NUMBERS_LOW: u64 = super::journal::AHEAD / 2;
/// Gaps that are remembered until somebody asks.
const MAX_GAPS: usize = 64;

/// The store is closing; nothing was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store is closed")]
pub struct AppendError;

/// Why nothing can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The store is closing.
    #[error("the store is closed")]
    Closed,
    /// Weather: the disk does not give it; the log says why. It may work later.
    #[error("what waits cannot be read from the disk")]
    Disk,
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is on disk, or was settled before it had to be.
    Safe(u64),
    /// The store is full and refuses it; it was not numbered.
    Refused,
    /// The store is full and drops the newest; it has a number that will never come.
    Dropped(u64),
}

/// An entry by queue and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    /// Index of the queue.
    pub queue: usize,
    /// Its number there.
    pub seq: u64,
}

/// What a store tells about itself.
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
    /// 1 while the disk refuses to take more.
    pub stalled: Gauge,
    /// 1 while the limit is reached and new entries are not taken.
    pub full: Gauge,
}

/// A promise that one append will be stored.
#[derive(Debug)]
pub struct Receipt(Result<oneshot::Receiver<Stored>, Stored>);

impl Receipt {
    /// True if it is known already that the entry was not taken.
    pub fn is_refused(&self) -> bool {
        matches!(self.0, Err(Stored::Refused))
    }

    /// Waits until the entry is on disk or was settled, or tells why it never will.
    pub async fn stored(self) -> Result<Stored, AppendError> {
        match self.0 {
            Ok(waiting) => waiting.await.map_err(|_| AppendError),
            Err(known) => Ok(known),
        }
    }
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) entry: Entry,
    pub(super) due: Instant,
    pub(super) receipt: oneshot::Sender<Stored>,
    /// Its share of the bytes that may wait.
    _room: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) next_seq: u64,
    /// Numbers below it may be given out.
    pub(super) reserved: u64,
    /// The highest number that is on disk.
    pub(super) written: u64,
    pub(super) pending: VecDeque<Pending>,
    pub(super) pending_bytes: usize,
    /// Settled since the thread last looked.
    pub(super) settled: Vec<(u64, u64)>,
    /// Unsettled entries on disk, about.
    pub(super) on_disk: u64,
    pub(super) gaps: Vec<Gap>,
    pub(super) wants_numbers: bool,
}

#[derive(Debug)]
pub(super) struct ReadRequest {
    pub(super) queue: usize,
    pub(super) after: u64,
    pub(super) max_entries: usize,
    pub(super) max_bytes: usize,
    pub(super) reply: oneshot::Sender<Result<Vec<Entry>, ReadError>>,
}

#[derive(Debug)]
pub(super) struct SaveRequest {
    pub(super) states: Vec<(usize, Bytes)>,
    pub(super) reply: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) queues: Vec<Queue>,
    pub(super) reads: Vec<ReadRequest>,
    pub(super) saves: Vec<SaveRequest>,
    /// Told to users with the next [`Store::take_gaps`].
    pub(super) gaps: Vec<(usize, Gap)>,
    /// Set while the limit is reached and the policy is not to drop the oldest.
    pub(super) is_full: bool,
    /// The thread was told that something was settled.
    pub(super) is_told: bool,
    pub(super) is_closing: bool,
}

#[derive(Debug)]
pub(super) struct Shared {
    inner: Mutex<Inner>,
    pub(super) wake: Condvar,
    room: Arc<Semaphore>,
    pub(super) numbers: Notify,
    pub(super) newest: watch::Sender<u64>,
    pub(super) counters: Arc<Counters>,
    pub(super) save_every: Duration,
    pub(super) when_full: WhenFull,
    pub(super) states: Vec<Bytes>,
    pub(super) identity: String,
    /// Of the thread.
    pub(super) heartbeat: Heartbeat,
}

impl Shared {
    pub(super) fn new(
        inner: Inner,
        settings: Settings,
        (states, identity): (Vec<Bytes>, String),
        heartbeat: Heartbeat,
    ) -> Self {
        let counters = Counters {
            waiting: inner.queues.iter().map(|_| Gauge::default()).collect(),
            ..Counters::default()
        };
        let room = Arc::new(Semaphore::new(PENDING_BYTES));
        Self {
            inner: Mutex::new(inner),
            wake: Condvar::new(),
            room,
            numbers: Notify::new(),
            newest: watch::channel(0).0,
            counters: Arc::new(counters),
            save_every: settings.save_every,
            when_full: settings.when_full,
            states,
            identity,
            heartbeat,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nobody panics while holding it, and if so: the data is whole between statements.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn publish_waiting(&self, inner: &Inner, queue: usize) {
        if let (Some(gauge), Some(queue)) =
            (self.counters.waiting.get(queue), inner.queues.get(queue))
        {
            gauge.set(queue.on_disk + queue.pending.len() as u64);
        }
    }

    /// Remembers a loss for whoever tells it on.
    pub(super) fn lose(&self, inner: &mut Inner, queue: usize, gap: Gap) {
        // Whoever watches the counter sees a loss of unknown size as well.
        self.counters.lost.add(gap.known_count().unwrap_or(1));
        let absorbed = inner
            .gaps
            .iter_mut()
            .rev()
            .find(|(other, _)| *other == queue)
            .is_some_and(|(_, last)| last.absorb(&gap));
        if !absorbed && inner.gaps.len() < MAX_GAPS {
            inner.gaps.push((queue, gap));
        }
    }
}

/// Ends the thread when the last handle is gone.
#[derive(Debug)]
pub(super) struct Closer(pub(super) Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.lock().is_closing = true;
        self.0.wake.notify_one();
    }
}

/// A handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    closer: Arc<Closer>,
}

impl Store {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            closer: Arc::new(Closer(shared)),
        }
    }

    fn shared(&self) -> &Shared {
        &self.closer.0
    }

    /// Hands an entry over; waits while too much waits for the disk. The receipt tells when it is stored.
    pub async fn append(&self, queue: usize, bytes: Bytes) -> Result<Receipt, AppendError> {
        let size = (bytes.len() + OVERHEAD).min(PENDING_BYTES);
        let permits = u32::try_from(size).unwrap_or(u32::MAX);
        let mut room = Some(
            self.shared()
                .room
                .clone()
                .acquire_many_owned(permits)
                .await
                .map_err(|_| AppendError)?,
        );
        loop {
            let numbers = self.shared().numbers.notified();
            tokio::pin!(numbers);
            // Before the look, so that what changes after it is not missed.
            numbers.as_mut().enable();
            if let Some(receipt) = self.try_append(queue, &bytes, &mut room)? {
                return Ok(receipt);
            }
            numbers.await;
        }
    }

    /// `None` if the thread must make more numbers available first.
    fn try_append(
        &self,
        queue: usize,
        bytes: &Bytes,
        room: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<Option<Receipt>, AppendError> {
        let shared = self.shared();
        let mut inner = shared.lock();
        let is_full = inner.is_full;
        let place = inner.queues.get_mut(queue).ok_or(AppendError)?;
        if is_full && shared.when_full == WhenFull::Refuse {
            return Ok(Some(Receipt(Err(Stored::Refused))));
        }
        if place.next_seq + NUMBERS_LOW >= place.reserved && !place.wants_numbers {
            place.wants_numbers = true;
            shared.wake.notify_one();
        }
        if place.next_seq >= place.reserved {
            return Ok(None);
        }
        let seq = place.next_seq;
        place.next_seq += 1;
        if is_full {
            let at = unix_ms();
            settle_in(place, seq);
            let gap = Gap {
                first: seq,
                last: seq,
                count: 1,
                from_ms: at,
                until_ms: at,
                reason: Reason::FullNewest,
            };
            if !place.gaps.last_mut().is_some_and(|last| last.absorb(&gap)) {
                place.gaps.push(gap);
            }
            return Ok(Some(Receipt(Err(Stored::Dropped(seq)))));
        }
        let (receipt, waiting) = oneshot::channel();
        let Some(room) = room.take() else {
            return Err(AppendError);
        };
        let before = place.pending_bytes;
        place.pending_bytes += bytes.len() + 4;
        let is_first = place.pending.is_empty();
        let entry = Entry {
            seq,
            bytes: bytes.clone(),
        };
        place.pending.push_back(Pending {
            entry,
            due: now() + shared.save_every,
            receipt,
            _room: room,
        });
        // The thread sleeps until the oldest is due, or a chunk is full.
        if is_first || (before < super::CHUNK_BYTES && place.pending_bytes >= super::CHUNK_BYTES) {
            shared.wake.notify_one();
        }
        shared.publish_waiting(&inner, queue);
        drop(inner);
        shared.counters.appended.count();
        shared.newest.send_modify(|count| *count += 1);
        Ok(Some(Receipt(Ok(waiting))))
    }

    /// Marks entries as done. Those on disk may come back after a crash within the next second.
    pub fn settle(&self, places: &[EntryId]) {
        let shared = self.shared();
        let mut inner = shared.lock();
        for place in places {
            if let Some(queue) = inner.queues.get_mut(place.queue) {
                match queue
                    .pending
                    .binary_search_by_key(&place.seq, |pending| pending.entry.seq)
                {
                    Ok(index) => {
                        if let Some(pending) = queue.pending.remove(index) {
                            queue.pending_bytes -= pending.entry.bytes.len() + 4;
                            // Whoever does not wait for it does not care.
                            let _ = pending.receipt.send(Stored::Safe(place.seq));
                        }
                    }
                    Err(_) => queue.on_disk = queue.on_disk.saturating_sub(1),
                }
                settle_in(queue, place.seq);
            }
        }
        for queue in 0..inner.queues.len() {
            shared.publish_waiting(&inner, queue);
        }
        if !places.is_empty() && !inner.is_told {
            inner.is_told = true;
            shared.wake.notify_one();
        }
    }

    /// The next entries of a queue after `after` that are not settled, in order; none if there are none yet.
    pub async fn read(
        &self,
        queue: usize,
        after: u64,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        let answer = {
            let mut inner = self.shared().lock();
            let place = inner.queues.get(queue).ok_or(ReadError::Closed)?;
            if after >= place.written {
                let first = place
                    .pending
                    .partition_point(|pending| pending.entry.seq <= after);
                return Ok(take_some(
                    place.pending.range(first..).map(|pending| &pending.entry),
                    max_entries,
                    max_bytes,
                ));
            }
            let (reply, answer) = oneshot::channel();
            inner.reads.push(ReadRequest {
                queue,
                after,
                max_entries,
                max_bytes,
                reply,
            });
            self.shared().wake.notify_one();
            answer
        };
        answer.await.map_err(|_| ReadError::Closed)?
    }

    /// Replaces the states of queues, and writes them with everything that waits. Ready when they are durable.
    pub fn save(&self, states: Vec<(usize, Bytes)>) -> oneshot::Receiver<()> {
        let (reply, saved) = oneshot::channel();
        self.shared()
            .lock()
            .saves
            .push(SaveRequest { states, reply });
        self.shared().wake.notify_one();
        saved
    }

    /// The state of a queue as it was found when the store was opened.
    pub fn state(&self, queue: usize) -> Bytes {
        self.shared().states.get(queue).cloned().unwrap_or_default()
    }

    /// Drawn once when the folder was made: eight hexadecimal digits.
    pub fn identity(&self) -> &str {
        &self.shared().identity
    }

    /// Changes whenever something new can be read.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.shared().newest.subscribe()
    }

    /// Tells that entries were given up by the user: counted and told like other losses. They are to be settled as well.
    pub fn lose(&self, queue: usize, gap: Gap) {
        let shared = self.shared();
        let mut inner = shared.lock();
        shared.lose(&mut inner, queue, gap);
    }

    /// What was given up since the last call, with the queue.
    pub fn take_gaps(&self) -> Vec<(usize, Gap)> {
        std::mem::take(&mut self.shared().lock().gaps)
    }

    /// Of its thread.
    pub fn heartbeat(&self) -> &Heartbeat {
        &self.shared().heartbeat
    }

    /// Its counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared().counters
    }
}

/// Notes a settled number beside its neighbours.
fn settle_in(queue: &mut Queue, seq: u64) {
    match queue.settled.last_mut() {
        Some((_, last)) if *last + 1 == seq => *last = seq,
        _ => queue.settled.push((seq, seq)),
    }
}

/// At most `max_entries`, and no more after `max_bytes`.
pub(super) fn take_some<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    max_entries: usize,
    max_bytes: usize,
) -> Vec<Entry> {
    let mut taken = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        if taken.len() >= max_entries || bytes >= max_bytes {
            break;
        }
        bytes += entry.bytes.len();
        taken.push(entry.clone());
    }
    taken
}
