//! The handle of a store: append, read, settle.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::Entry;
use super::gap::Gap;
use super::handover::Handover;
use super::pending::PendingEntry;
use super::queue::Queue;
use super::receipt::{AppendError, Receipt, Stored};
use super::settings::WhenFull;
use super::shared::{
    Counters, PENDING_BYTES, ReadError, ReadLimit, ReadRequest, SaveRequest, Shared,
};
use crate::heartbeat::Heartbeat;
use crate::time::{now, unix_ms};

/// Bytes an entry takes in memory beside its own, at least.
const OVERHEAD: usize = 128;

/// An entry by queue and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    /// Index of the queue.
    pub queue: usize,
    /// Its number there.
    pub seq: u64,
}

/// An entry that has no number yet.
struct NewEntry {
    bytes: Bytes,
    handover: Option<Handover>,
}

/// Ends the thread when the last handle is gone.
#[derive(Debug)]
struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.lock().is_closing = true;
        self.0.wake.notify_one();
    }
}

/// The hand-overs of a store; does not keep it open.
#[derive(Debug, Clone)]
pub struct HandoverBook(Arc<Shared>);

impl HandoverBook {
    /// Those of all queues that are not forgotten.
    pub fn list(&self) -> Vec<Handover> {
        let state = self.0.lock();
        let queues = state.queues.iter();
        queues.flat_map(Queue::handovers).collect()
    }

    /// Forgets those with these receipts: their senders will not repeat the messages. A crash soon
    /// after may bring them back.
    pub fn forget(&self, receipts: &mut [u64]) {
        receipts.sort_unstable();
        let mut state = self.0.lock();
        for queue in &mut state.queues {
            queue.forget(receipts);
        }
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

    /// Appends an entry; waits while too many bytes wait for the disk. It is stored when its
    /// receipt says so.
    pub async fn append(&self, queue: usize, bytes: Bytes) -> Result<Receipt, AppendError> {
        self.append_as(queue, bytes, None).await
    }

    /// The same for the entry of a message that was handed over: it is remembered until it is
    /// forgotten ([`HandoverBook::forget`]).
    pub async fn append_as(
        &self,
        queue: usize,
        bytes: Bytes,
        handover: Option<Handover>,
    ) -> Result<Receipt, AppendError> {
        let entry = NewEntry { bytes, handover };
        let size = (entry.bytes.len() + OVERHEAD).min(PENDING_BYTES);
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
            // Before the attempt, so that numbers made after it are not missed.
            numbers.as_mut().enable();
            if let Some(receipt) = self.try_append(queue, &entry, &mut room)? {
                return Ok(receipt);
            }
            numbers.await;
        }
    }

    /// `None` if the thread must make more numbers available first.
    fn try_append(
        &self,
        queue: usize,
        new: &NewEntry,
        room: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<Option<Receipt>, AppendError> {
        let shared = self.shared();
        let mut state = shared.lock();
        let is_full = state.is_full;
        let target = state.queues.get_mut(queue).ok_or(AppendError)?;
        if is_full && shared.when_full == WhenFull::Refuse {
            return Ok(Some(Receipt(Err(Stored::Refused))));
        }
        if target.runs_short() {
            shared.wake.notify_one();
        }
        let Some(seq) = target.take_number() else {
            return Ok(None);
        };
        if is_full {
            target.drop_newest(seq, unix_ms());
            return Ok(Some(Receipt(Err(Stored::Dropped(seq)))));
        }
        if let Some(handover) = new.handover {
            target.remember(seq, handover);
        }
        let (receipt, answer) = oneshot::channel();
        let must_wake = target.pending.push(PendingEntry {
            entry: Entry {
                seq,
                bytes: new.bytes.clone(),
            },
            handover: new.handover,
            due: now() + shared.save_every,
            receipt,
            _room: room.take().ok_or(AppendError)?,
        });
        if must_wake {
            shared.wake.notify_one();
        }
        shared.publish_waiting(&state, queue);
        drop(state);
        shared.counters.appended.count();
        shared.newest.send_modify(|count| *count += 1);
        Ok(Some(Receipt(Ok(answer))))
    }

    /// Marks entries as done. Those on disk may come back after a crash within the next second.
    pub fn settle(&self, entries: &[EntryId]) {
        let shared = self.shared();
        let mut state = shared.lock();
        for entry in entries {
            if let Some(queue) = state.queues.get_mut(entry.queue) {
                queue.settle(entry.seq);
            }
        }
        for queue in 0..state.queues.len() {
            shared.publish_waiting(&state, queue);
        }
        if !entries.is_empty() && !state.has_settled {
            state.has_settled = true;
            shared.wake.notify_one();
        }
    }

    /// The next entries of a queue after `after` that are not settled, in order: at most
    /// `max_entries`, and no more after `max_bytes`. Empty if there are none yet.
    pub async fn read(
        &self,
        queue: usize,
        after: u64,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        let limit = ReadLimit {
            entries: max_entries,
            bytes: max_bytes,
        };
        let answer = {
            let mut state = self.shared().lock();
            let from = state.queues.get(queue).ok_or(ReadError::Closed)?;
            if after >= from.written() {
                return Ok(limit.take(from.readable_after(after)));
            }
            let (reply, answer) = oneshot::channel();
            state.reads.push(ReadRequest {
                queue,
                after,
                limit,
                reply,
            });
            self.shared().wake.notify_one();
            answer
        };
        answer.await.map_err(|_| ReadError::Closed)?
    }

    /// Replaces the states of queues, and writes them with all pending entries. Resolves when they
    /// are durable.
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

    /// The hand-overs that it knows.
    pub fn handovers(&self) -> HandoverBook {
        HandoverBook(Arc::clone(&self.closer.0))
    }

    /// Eight hexadecimal digits, drawn once when the folder was made.
    pub fn identity(&self) -> &str {
        &self.shared().identity
    }

    /// Changes whenever something new can be read.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.shared().newest.subscribe()
    }

    /// Counts and reports entries that the user gave up, like other losses. The user settles them
    /// as well.
    pub fn lose(&self, queue: usize, gap: Gap) {
        let shared = self.shared();
        let mut state = shared.lock();
        shared.lose(&mut state, queue, gap);
    }

    /// Entries given up since the last call, with their queue.
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
