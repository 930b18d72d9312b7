//! The entries of a queue that are not on disk yet.
//!
//! Invariants:
//! * They are in the order of their numbers.
//! * `bytes` is the sum of what each takes in a chunk.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::handover::Handover;
use super::receipt::Stored;
use super::{CHUNK_BYTES, Entry};

/// Bytes an entry takes in a chunk beside its own: its length.
const LENGTH_BYTES: usize = 4;

/// An entry that waits for a commit.
#[derive(Debug)]
pub(super) struct PendingEntry {
    pub(super) entry: Entry,
    /// It is not to be read before it is on disk.
    pub(super) handover: Option<Handover>,
    /// When it is written at the latest.
    pub(super) due: Instant,
    pub(super) receipt: oneshot::Sender<Stored>,
    /// Its share of the bytes that may wait.
    pub(super) _room: OwnedSemaphorePermit,
}

impl PendingEntry {
    fn chunk_bytes(&self) -> usize {
        self.entry.bytes.len() + LENGTH_BYTES
    }

    /// Tells the appender that the entry is safe.
    pub(super) fn acknowledge(self) {
        // An appender that has dropped its receipt needs no answer.
        let _ = self.receipt.send(Stored::Safe(self.entry.seq));
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct PendingEntries {
    entries: VecDeque<PendingEntry>,
    bytes: usize,
}

impl PendingEntries {
    /// Adds the entry with the highest number so far. True if the writer has to wake: it sleeps
    /// until the oldest entry is due, or a chunk is full.
    pub(super) fn push(&mut self, pending: PendingEntry) -> bool {
        debug_assert!(
            self.entries
                .back()
                .is_none_or(|last| last.entry.seq < pending.entry.seq),
            "numbers grow"
        );
        let before = self.bytes;
        self.bytes += pending.chunk_bytes();
        self.entries.push_back(pending);
        before == 0 || (before < CHUNK_BYTES && self.has_full_chunk())
    }

    /// Takes out one entry by its number.
    pub(super) fn remove(&mut self, seq: u64) -> Option<PendingEntry> {
        let index = self
            .entries
            .binary_search_by_key(&seq, |pending| pending.entry.seq)
            .ok()?;
        let pending = self.entries.remove(index)?;
        self.bytes -= pending.chunk_bytes();
        Some(pending)
    }

    /// Takes out the entries up to a number.
    pub(super) fn take_up_to(&mut self, seq: u64) -> Vec<PendingEntry> {
        let count = self
            .entries
            .partition_point(|pending| pending.entry.seq <= seq);
        let taken: Vec<PendingEntry> = self.entries.drain(..count).collect();
        self.bytes -= taken.iter().map(PendingEntry::chunk_bytes).sum::<usize>();
        debug_assert_eq!(self.bytes == 0, self.entries.is_empty());
        taken
    }

    /// The entries after a number that may be read, in order: up to the first one that was handed
    /// over, unless `with_handed`.
    pub(super) fn after(&self, seq: u64, with_handed: bool) -> impl Iterator<Item = &Entry> {
        let first = self
            .entries
            .partition_point(|pending| pending.entry.seq <= seq);
        self.entries
            .range(first..)
            .take_while(move |pending| with_handed || pending.handover.is_none())
            .map(|pending| &pending.entry)
    }

    /// All entries, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|pending| &pending.entry)
    }

    /// When the oldest entry is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.entries.front().map(|pending| pending.due)
    }

    /// True if there is enough to fill a chunk.
    pub(super) fn has_full_chunk(&self) -> bool {
        self.bytes >= CHUNK_BYTES
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
