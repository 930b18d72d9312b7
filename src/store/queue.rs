//! One queue of a store as its tasks and its thread share it: free numbers, pending entries,
//! settled numbers.
//!
//! Invariants:
//! * An entry leaves `pending` when it is on disk or settled, and its receipt is answered then.
//! * Numbers are given out below `reserved` only, each once.

use std::time::Instant;

use super::gap::{Gap, Reason};
use super::handover::{Handover, Handovers};
use super::journal::{AHEAD, Journal};
use super::pending::PendingEntries;

/// With fewer numbers left than this, the thread is asked for more.
const NUMBERS_LOW: u64 = AHEAD / 2;

/// The outcome of a commit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CommitOutcome {
    pub(super) entries: u64,
    /// Some of them could not be read before.
    pub(super) can_be_read_now: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    next_seq: u64,
    /// Numbers below it may be given out.
    reserved: u64,
    /// The highest number that is on disk.
    written: u64,
    pub(super) pending: PendingEntries,
    /// Those of entries on disk or on their way to it, until they are forgotten.
    handovers: Handovers,
    /// The journal does not know them as they are.
    are_handovers_new: bool,
    /// Runs of numbers settled since the thread last looked.
    settled: Vec<(u64, u64)>,
    /// Unsettled entries on disk, about.
    on_disk: u64,
    /// Entries dropped since the thread last looked.
    pub(super) dropped: Vec<Gap>,
    wants_numbers: bool,
    /// The disk refuses: what was handed over goes on without it.
    is_stalled: bool,
}

impl Queue {
    /// The queue of a journal; `None` for one that is not made yet.
    pub(super) fn of(journal: Option<&Journal>) -> Self {
        Self {
            next_seq: journal.map_or(1, Journal::next_seq),
            reserved: journal.map_or(0, Journal::reserved),
            written: journal.map_or(0, Journal::written),
            are_handovers_new: false,
            pending: PendingEntries::default(),
            handovers: journal
                .map_or_else(Handovers::default, |journal| journal.handovers().clone()),
            settled: Vec::new(),
            on_disk: journal.map_or(0, Journal::waiting),
            dropped: Vec::new(),
            wants_numbers: false,
            is_stalled: false,
        }
    }

    /// Entries that are not settled, on disk or on their way to it.
    pub(super) fn waiting(&self) -> u64 {
        self.on_disk + self.pending.len() as u64
    }

    /// The highest number that is on disk.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// The entries after a number that are not on disk and may be read, in order.
    pub(super) fn readable_after(&self, seq: u64) -> impl Iterator<Item = &super::Entry> {
        self.pending.after(seq, self.is_stalled)
    }

    /// The disk refuses, or works. True if more can be read now.
    pub(super) fn set_stalled(&mut self, is_stalled: bool) -> bool {
        let was_stalled = std::mem::replace(&mut self.is_stalled, is_stalled);
        is_stalled && !was_stalled
    }

    /// Remembers the hand-over of an entry.
    pub(super) fn remember(&mut self, seq: u64, handover: Handover) {
        self.handovers.push(seq, handover);
        self.are_handovers_new = true;
    }

    /// Forgets the hand-overs with these receipts, which are sorted.
    pub(super) fn forget(&mut self, sorted: &[u64]) {
        self.are_handovers_new |= self.handovers.forget(sorted);
    }

    pub(super) fn handovers(&self) -> impl Iterator<Item = Handover> {
        self.handovers.list()
    }

    /// True, once, when numbers run short: the thread has to make more of them.
    pub(super) fn runs_short(&mut self) -> bool {
        let is_first = self.next_seq + NUMBERS_LOW >= self.reserved && !self.wants_numbers;
        self.wants_numbers |= is_first;
        is_first
    }

    /// The next number; `None` if the thread must make more first.
    pub(super) fn take_number(&mut self) -> Option<u64> {
        let seq = Some(self.next_seq).filter(|seq| *seq < self.reserved)?;
        self.next_seq += 1;
        Some(seq)
    }

    /// Gives up an entry that was numbered and for which there is no room.
    pub(super) fn drop_newest(&mut self, seq: u64, unix_ms: i64) {
        self.note_settled(seq);
        let gap = Gap::of_one(seq, unix_ms, Reason::FullNewest);
        if !self
            .dropped
            .last_mut()
            .is_some_and(|last| last.absorb(&gap))
        {
            self.dropped.push(gap);
        }
    }

    /// Settles an entry; one that is not on disk yet is never written, and counts as safe.
    pub(super) fn settle(&mut self, seq: u64) {
        match self.pending.remove(seq) {
            Some(pending) => pending.acknowledge(),
            None => self.on_disk = self.on_disk.saturating_sub(1),
        }
        self.note_settled(seq);
    }

    fn note_settled(&mut self, seq: u64) {
        match self.settled.last_mut() {
            Some((_, last)) if *last + 1 == seq => *last = seq,
            _ => self.settled.push((seq, seq)),
        }
    }

    /// True if something has to be written now.
    pub(super) fn is_due(&self, at: Instant) -> bool {
        self.pending.due().is_some_and(|due| due <= at)
            || self.pending.has_full_chunk()
            || self.wants_numbers
    }

    /// Hands numbers given out, entries settled and hand-overs to the journal. True if some of the
    /// settled entries are on disk.
    pub(super) fn hand_over(&mut self, journal: &mut Journal) -> bool {
        journal.give_out(self.next_seq);
        if std::mem::take(&mut self.are_handovers_new) {
            journal.set_handovers(self.handovers.clone());
        }
        let mut are_on_disk = false;
        for (first, last) in self.settled.drain(..) {
            journal.settle(first, last);
            are_on_disk |= first <= self.written;
        }
        are_on_disk
    }

    /// The entries for the next commit. Those settled until now leave holes among their numbers.
    pub(super) fn next_batch(&mut self, journal: &mut Journal) -> Vec<super::Entry> {
        self.wants_numbers = false;
        self.hand_over(journal);
        self.pending.all().cloned().collect()
    }

    /// Takes over what a journal has written, and answers for it.
    pub(super) fn note_written(&mut self, journal: &Journal) -> CommitOutcome {
        self.written = journal.written();
        self.reserved = journal.reserved();
        let written = self.pending.take_up_to(self.written);
        let done = CommitOutcome {
            entries: written.len() as u64,
            can_be_read_now: written.iter().any(|pending| pending.handover.is_some()),
        };
        self.on_disk += done.entries;
        for pending in written {
            pending.acknowledge();
        }
        done
    }

    /// Takes over how many numbers a journal has reserved, and counts the entries that wait in it.
    pub(super) fn note_progress(&mut self, journal: &Journal) {
        self.reserved = journal.reserved();
        if self.settled.is_empty() {
            self.on_disk = journal.cursor().unsettled_in(1, self.written);
        }
    }
}
