//! A journal out of partitions: write, read, settle, remove. Blocking; one thread owns it.
//!
//! Invariants:
//! * Partition numbers and first sequence numbers both grow; the numbers of one partition end where
//!   the next one begins.
//! * Each start begins a new partition: nothing is ever written to a file that an unclean shutdown
//!   may have left.
//! * A number is given out only below the limit in a durable record, so that none is given out
//!   again after a crash. Numbers given out and never written were settled before their commit;
//!   after an unclean shutdown numbering continues behind them.
//! * An entry that leaves the journal unsettled (limit, age, damage) is in a [`Gap`] and counted in
//!   `lost`, never silent.

mod handovers;
mod read;

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::ack_cursor::AckCursor;
use super::chunk::Chunk;
use super::commit_record::CommitRecord;
use super::emergency_reserve::EmergencyReserve;
use super::engine::{LEAST_PARTITION_BYTES, Partition, SLOTS, io_error};
use super::folder::{Sealed, list, lock, remove_partition};
use super::gap::{Gap, Reason};
use super::handover::FindHandover;
use super::preallocation::Preallocation;
use super::progress::{JournalProgress, ProgressFile};
use super::recover::{Recovered, recover, remove_closed, write_closed};
use super::{CHUNK_BYTES, Entry, StoreError};
use crate::time::known_unix_ms;

/// Numbers that may be given out between two commits; a crash skips at most that many.
pub(super) const AHEAD: u64 = 16_384;

/// Size of the partitions of a journal, in bytes; at least one commit always fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionBytes(pub u64);

impl PartitionBytes {
    /// Suits a journal of `total` bytes: a partition is the unit of loss and removal, and the
    /// engine keeps all of an open one in memory.
    pub fn of(total: u64) -> Self {
        Self((total / 4).clamp(LEAST_PARTITION_BYTES, 8 << 20))
    }
}

/// How a journal of a store is opened.
#[derive(Debug, Clone)]
pub(super) struct JournalTerms {
    pub(super) reserve: EmergencyReserve,
    pub(super) handover: FindHandover,
}

/// A durable, ordered queue of byte entries, and a state of its user that is written in the same
/// commits.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    preallocation: Preallocation,
    partition_bytes: u64,
    reserve: EmergencyReserve,
    sealed: VecDeque<Sealed>,
    tail: Sealed,
    /// When the newest entry was written into it, by the wall clock; `None` if it holds none.
    tail_newest_ms: Option<i64>,
    tail_partition: Partition,
    tail_usable: bool,
    last_number: u64,
    head: Option<(u64, Partition)>,
    position: Option<read::Position>,
    record: CommitRecord,
    /// The `next_seq` of the newest durable record.
    reserved: u64,
    is_saved: bool,
    gaps: Vec<Gap>,
    lost: u64,
    progress: ProgressFile,
    /// Last, so that the folder is free only when nothing is written to it any more.
    _lock: File,
}

impl Journal {
    /// Opens the journal in `folder`, making it if needed.
    pub fn open(folder: &Path, partition_bytes: PartitionBytes) -> Result<Self, StoreError> {
        let terms = JournalTerms {
            reserve: EmergencyReserve::of(folder),
            handover: |_| None,
        };
        Self::open_with(folder, partition_bytes, &terms)
    }

    pub(super) fn open_with(
        folder: &Path,
        partition_bytes: PartitionBytes,
        terms: &JournalTerms,
    ) -> Result<Self, StoreError> {
        let lock = lock(folder)?;
        match Self::open_locked(folder, partition_bytes, terms, &lock) {
            Err(StoreError::Full { .. }) if terms.reserve.release() => {
                Self::open_locked(folder, partition_bytes, terms, &lock)
            }
            opened => opened,
        }
    }

    fn open_locked(
        folder: &Path,
        partition_bytes: PartitionBytes,
        terms: &JournalTerms,
        lock: &File,
    ) -> Result<Self, StoreError> {
        let lock = lock.try_clone().map_err(|e| io_error(folder, e))?;
        let sealed = list(folder)?;
        let Recovered {
            mut record,
            gaps,
            lost,
        } = recover(folder, &sealed, terms.handover)?;
        let number = sealed.back().map_or(1, |last| last.number + 1);
        // Entries before the oldest partition were removed, so they were settled or counted as lost
        // already.
        let oldest = sealed
            .front()
            .map_or(record.next_seq, |first| first.first_seq);
        record.cursor.settle(1, oldest - 1);
        let tail = Sealed::begin(number, record.next_seq);
        record.number += 1;
        let preallocation = Preallocation::of(folder);
        let tail_partition = Partition::prepare(&folder.join("new-tail"))?.adopt(
            &tail.path(folder),
            &[],
            &record,
        )?;
        remove_closed(folder)?;
        let progress = ProgressFile::open(folder, JournalProgress::of(&record, &tail))?;
        let reserved = record.next_seq;
        let mut journal = Self {
            folder: folder.to_owned(),
            preallocation,
            partition_bytes: partition_bytes.0,
            reserve: terms.reserve.clone(),
            sealed,
            tail,
            tail_newest_ms: None,
            tail_partition,
            tail_usable: true,
            last_number: number,
            head: None,
            position: None,
            record,
            reserved,
            is_saved: true,
            gaps,
            lost,
            progress,
            _lock: lock,
        };
        journal.remove_empty()?;
        journal.reserve.keep();
        Ok(journal)
    }

    /// Entries that were numbered and are neither settled nor lost.
    pub fn waiting(&self) -> u64 {
        self.record.cursor.unsettled_in(1, self.record.next_seq - 1)
    }

    /// Entries given up since the journal was opened.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Entries given up since the last call, oldest first.
    pub fn take_gaps(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.gaps)
    }

    /// The number the next entry will get.
    pub fn next_seq(&self) -> u64 {
        self.record.next_seq
    }

    /// Numbers below this one may be given out without a commit.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// The highest number that is on disk, or settled without ever having been there.
    pub fn written(&self) -> u64 {
        self.record.written
    }

    /// The settled numbers.
    pub fn cursor(&self) -> &AckCursor {
        &self.record.cursor
    }

    /// The state of the user, as of the last commit or [`Journal::set_state`].
    pub fn state(&self) -> &Bytes {
        &self.record.state
    }

    /// Replaces the state; durable with the next commit. At most [`super::STATE_BYTES`].
    pub fn set_state(&mut self, state: Bytes) {
        self.is_saved &= self.record.state == state;
        self.record.state = state;
    }

    /// Bytes all partitions take on disk, about.
    pub fn bytes(&self) -> u64 {
        self.sealed.iter().map(|sealed| sealed.bytes).sum::<u64>() + self.tail_partition.bytes()
    }

    /// Notes that numbers below this one were given out.
    pub fn give_out(&mut self, next_seq: u64) {
        self.record.next_seq = self.record.next_seq.max(next_seq);
    }

    /// Numbers entries and writes them, for users who need no numbers ahead. Returns the first
    /// number when they are durable. After an error those up to [`Journal::written`] were accepted,
    /// the others are forgotten.
    pub fn append(&mut self, entries: &[Bytes]) -> Result<u64, StoreError> {
        let first = self.record.next_seq;
        let numbered: Vec<Entry> = entries
            .iter()
            .zip(first..)
            .map(|(bytes, seq)| Entry {
                seq,
                bytes: bytes.clone(),
            })
            .collect();
        self.give_out(first + entries.len() as u64);
        let done = self.write(&numbered);
        if done.is_err() {
            self.settle(self.record.written + 1, self.record.next_seq - 1);
        }
        done.map(|()| first)
    }

    /// Writes entries whose numbers were given out and grow; they are durable when it returns.
    /// After an error those up to [`Journal::written`] are; writing the others again tries in a new
    /// partition.
    pub fn write(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let mut chunks = Chunk::split(entries);
        while !chunks.is_empty() {
            let needed = chunks_of_first_entry(&chunks);
            let rotates = !self.tail_usable
                || self.is_tail_full()
                || self.tail_partition.free_slots() < needed;
            let free = if rotates {
                SLOTS as usize
            } else {
                self.tail_partition.free_slots()
            };
            let rest = chunks.split_off(chunks_that_fit(&chunks, free));
            self.commit(&chunks, rotates)?;
            chunks = rest;
        }
        Ok(())
    }

    fn is_tail_full(&self) -> bool {
        self.tail_partition.bytes()
            >= self
                .partition_bytes
                .max(LEAST_PARTITION_BYTES + CHUNK_BYTES as u64)
    }

    /// One commit, into a new partition if `rotates`.
    fn commit(&mut self, chunks: &[Chunk], rotates: bool) -> Result<(), StoreError> {
        let last = chunks
            .iter()
            .map(Chunk::last_complete_seq)
            .max()
            .unwrap_or(0);
        let mut record = self.record.clone();
        record.number += 1;
        record.durable = self.record.written;
        record.written = record.written.max(last);
        record.next_seq += AHEAD;
        // The number is used up even if the commit fails: its remains must not look newer than the
        // next commit.
        self.record.number = record.number;
        let done = if rotates {
            self.rotate(chunks, &record)
        } else {
            self.tail_partition.commit(chunks, &record)
        };
        if !chunks.is_empty() {
            self.tail_newest_ms = Some(known_unix_ms());
        } else if rotates && done.is_ok() {
            self.tail_newest_ms = None;
        }
        self.is_saved = done.is_ok();
        if let Err(error) = done {
            self.tail_usable = false;
            return Err(error);
        }
        self.progress
            .record(JournalProgress::of(&record, &self.tail));
        self.reserved = record.next_seq;
        self.record.written = record.written;
        let half = self.tail_partition.free_slots() < SLOTS as usize / 2
            || self.tail_partition.bytes() * 2 >= self.partition_bytes;
        if half {
            self.preallocation.begin();
        }
        if rotates {
            self.remove_settled()
        } else {
            Ok(())
        }
    }

    fn rotate(&mut self, chunks: &[Chunk], record: &CommitRecord) -> Result<(), StoreError> {
        let first_seq = self.record.written + 1;
        // Used up even if it fails: a partition left by a failed attempt holds nothing that was
        // acknowledged.
        self.last_number += 1;
        let tail = Sealed::begin(self.last_number, first_seq);
        let partition =
            self.preallocation
                .take()?
                .adopt(&tail.path(&self.folder), chunks, record)?;
        let old = std::mem::replace(&mut self.tail_partition, partition);
        let mut sealed = std::mem::replace(&mut self.tail, tail);
        sealed.bytes = old.bytes();
        if let Some(position) = self
            .position
            .as_mut()
            .filter(|position| position.number == sealed.number)
        {
            position.end = first_seq;
            position.read_ahead.retain(|entry| entry.seq < first_seq);
            self.head = Some((sealed.number, old));
        }
        self.sealed.push_back(sealed);
        self.tail_usable = true;
        Ok(())
    }

    /// Removes the oldest partition with everything that waits in it. False if nothing waits.
    pub fn drop_oldest(&mut self, reason: Reason) -> Result<bool, StoreError> {
        if self.sealed.is_empty()
            && self
                .record
                .cursor
                .unsettled_in(self.tail.first_seq, self.record.written)
                > 0
        {
            self.commit(&[], true)?;
        }
        let Some(oldest) = self.sealed.front() else {
            return Ok(false);
        };
        let from_ms = oldest.created_ms;
        let until_ms = self.sealed.get(1).unwrap_or(&self.tail).created_ms;
        let (first, last) = (self.record.cursor.low() + 1, self.last_seq_of_oldest());
        self.lose(Gap {
            first,
            last,
            count: 0,
            from_ms,
            until_ms,
            reason,
        });
        self.remove_settled()?;
        Ok(true)
    }

    /// Begins a new partition if nothing waits in the newest one and it has grown: its space
    /// returns then.
    pub fn leave_behind_what_is_settled(&mut self) -> Result<(), StoreError> {
        let is_done = self.record.cursor.low() >= self.record.written;
        if is_done && self.tail_partition.bytes() > LEAST_PARTITION_BYTES {
            self.commit(&[], true)
        } else {
            Ok(())
        }
    }

    /// Drops partitions in which everything was written before `unix_ms`. Without a set clock
    /// nothing is old.
    pub fn drop_older_than(&mut self, limit_ms: i64) -> Result<(), StoreError> {
        // A partition is older than those after it, whether its own date is known or not.
        while !self.sealed.is_empty() {
            let mut later = self
                .sealed
                .iter()
                .skip(1)
                .chain([&self.tail])
                .map(|partition| partition.created_ms);
            let end = later.find(|created| crate::time::is_plausible(*created));
            drop(later);
            if end.is_none_or(|end| end >= limit_ms) {
                break;
            }
            self.drop_oldest(Reason::Age)?;
        }
        // The newest partition grows old as well when nothing is written any more: a full store
        // that refuses, a silent site.
        let is_old = |newest: i64| crate::time::is_plausible(newest) && newest < limit_ms;
        if self.sealed.is_empty() && self.tail_newest_ms.is_some_and(is_old) {
            self.drop_oldest(Reason::Age)?;
        }
        Ok(())
    }

    /// Settles numbers that will not be delivered, and remembers how many were waiting.
    fn lose(&mut self, gap: Gap) {
        let count = self.record.cursor.unsettled_in(gap.first, gap.last);
        if count > 0 {
            self.lost += count;
            self.gaps.push(Gap { count, ..gap });
        }
        self.settle(gap.first, gap.last);
    }

    fn last_seq_of_oldest(&self) -> u64 {
        self.sealed.get(1).unwrap_or(&self.tail).first_seq - 1
    }

    /// Removes partitions in which nothing waits: each start begins one. Their entries count as
    /// settled in the newest record.
    fn remove_empty(&mut self) -> Result<(), StoreError> {
        let ends: Vec<u64> = self
            .sealed
            .iter()
            .map(|sealed| sealed.first_seq)
            .skip(1)
            .chain([self.tail.first_seq])
            .collect();
        let (kept, empty): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sealed)
            .into_iter()
            .zip(ends)
            .partition(|(sealed, end)| {
                self.record.cursor.unsettled_in(sealed.first_seq, end - 1) > 0
            });
        self.sealed = kept.into_iter().map(|(sealed, _)| sealed).collect();
        for (sealed, _) in empty {
            remove_partition(&self.folder, &sealed.path(&self.folder))?;
        }
        Ok(())
    }

    /// Marks `first..=last` as done; durable with the next commit.
    pub fn settle(&mut self, first: u64, last: u64) {
        self.record
            .cursor
            .settle(first, last.min(self.record.next_seq - 1));
        // Settled numbers that were never written need a commit only when something behind them is
        // written.
        self.is_saved &= first > self.record.written;
    }

    /// Makes settled numbers and the state durable, if any changed since the last commit, and
    /// removes settled partitions. Also reserves numbers for more entries.
    pub fn save(&mut self) -> Result<(), StoreError> {
        let is_due = !self.is_saved || self.record.next_seq + AHEAD / 2 > self.reserved;
        let saved = if is_due {
            match self.commit(&[], !self.tail_usable || self.is_tail_full()) {
                // After an error a new partition is needed, and that needs room.
                Err(StoreError::Full { .. }) if self.reserve.release() => self.commit(&[], true),
                saved => saved,
            }
        } else {
            Ok(())
        };
        // Also on a full disk: that is how it gets room. Removed partitions count as settled at the
        // next start.
        self.remove_settled()?;
        if saved.is_ok() {
            self.reserve.keep();
        }
        saved
    }

    /// The last commit: at the next start numbering continues without a gap.
    pub fn close(mut self) -> Result<(), StoreError> {
        let mut record = self.record.clone();
        record.number += 1;
        record.durable = record.written;
        if self.tail_usable {
            self.tail_partition.commit(&[], &record)?;
        } else {
            self.rotate(&[], &record)?;
        }
        self.progress
            .record(JournalProgress::of(&record, &self.tail));
        write_closed(&self.folder, &record)
    }

    /// Removes partitions whose entries are all settled. The cursor need not be durable: at the
    /// next start everything before the oldest partition counts as settled.
    fn remove_settled(&mut self) -> Result<(), StoreError> {
        if !self.sealed.is_empty() && self.last_seq_of_oldest() <= self.record.cursor.low() {
            self.progress.settled(self.record.cursor.low());
        }
        while !self.sealed.is_empty() && self.last_seq_of_oldest() <= self.record.cursor.low() {
            let Some(sealed) = self.sealed.front().cloned() else {
                break;
            };
            if self
                .head
                .as_ref()
                .is_some_and(|(number, _)| *number == sealed.number)
            {
                self.head = None;
            }
            if self
                .position
                .as_ref()
                .is_some_and(|position| position.number == sealed.number)
            {
                self.position = None;
            }
            remove_partition(&self.folder, &sealed.path(&self.folder))?;
            self.sealed.pop_front();
        }
        Ok(())
    }
}

/// How many of `chunks` can go into `free` slots without tearing an entry.
fn chunks_that_fit(chunks: &[Chunk], free: usize) -> usize {
    let mut count = 0;
    while let Some(rest) = chunks.get(count..).filter(|rest| !rest.is_empty()) {
        let next = chunks_of_first_entry(rest);
        if count + next > free && count > 0 {
            break;
        }
        count += next;
    }
    count
}

fn chunks_of_first_entry(chunks: &[Chunk]) -> usize {
    match chunks.first() {
        Some(Chunk::Part { parts, .. }) => *parts as usize,
        Some(_) => 1,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::unix_ms;
    use std::fs;

    const SMALL: PartitionBytes = PartitionBytes(2 * LEAST_PARTITION_BYTES);

    fn open(folder: &Path) -> Journal {
        Journal::open(folder, SMALL).unwrap()
    }

    fn entry(n: u64, size: usize) -> Bytes {
        let mut bytes = n.to_be_bytes().to_vec();
        bytes.resize(size.max(8), n.to_le_bytes()[0]);
        bytes.into()
    }

    fn append(journal: &mut Journal, count: u64, size: usize) {
        for _ in 0..count {
            let seq = journal.next_seq();
            assert_eq!(journal.append(&[entry(seq, size)]).unwrap(), seq);
        }
    }

    fn drain(journal: &mut Journal) -> Vec<u64> {
        let mut seen = Vec::new();
        let mut after = 0;
        loop {
            let entries = journal.read(after, 100, 1 << 20).unwrap();
            let Some(last) = entries.last() else {
                return seen;
            };
            after = last.seq;
            for found in &entries {
                assert_eq!(found.bytes[..8], found.seq.to_be_bytes());
            }
            seen.extend(entries.iter().map(|entry| entry.seq));
        }
    }

    #[test]
    fn entries_come_back_in_order_after_a_restart_without_the_settled_ones() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 20, 100);
        for seq in [1, 2, 3, 7] {
            journal.settle(seq, seq);
        }
        journal.close().unwrap();
        let mut journal = open(folder.path());
        let expected: Vec<u64> = (4..=20).filter(|seq| *seq != 7).collect();
        assert_eq!(drain(&mut journal), expected);
        assert_eq!(journal.waiting(), expected.len() as u64);
        append(&mut journal, 1, 100);
        assert_eq!(journal.next_seq(), 22, "numbers go on");
        assert_eq!(drain(&mut journal).last(), Some(&21));
    }

    #[test]
    fn large_entries_are_put_together_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 30, 100_000);
        append(&mut journal, 1, 10);
        drop(journal);
        let mut journal = open(folder.path());
        let entries = journal.read(0, 100, usize::MAX).unwrap();
        assert_eq!(entries.len(), 31);
        assert!(
            entries[..30]
                .iter()
                .all(|entry| entry.bytes.len() == 100_000)
        );
        assert_eq!(drain(&mut journal).len(), 31);
    }

    #[test]
    fn settled_partitions_give_their_space_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 2000, 2000);
        assert!(journal.sealed.len() >= 2, "{}", journal.sealed.len());
        assert_eq!(drain(&mut journal).len(), 2000);
        journal.settle(1, 2000);
        journal.save().unwrap();
        assert_eq!(journal.sealed.len(), 0);
        journal.close().unwrap();
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            5,
            "LOCK, reserve, progress, the witness of the end and one partition"
        );
        let journal = open(folder.path());
        assert_eq!((journal.waiting(), journal.next_seq()), (0, 2001));
    }

    #[test]
    fn what_is_dropped_is_told_as_a_gap_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal =
            Journal::open(folder.path(), PartitionBytes(LEAST_PARTITION_BYTES)).unwrap();
        append(&mut journal, 4000, 2000);
        while journal.bytes() > 8 << 20 {
            assert!(journal.drop_oldest(Reason::Full).unwrap());
        }
        let seen = drain(&mut journal);
        assert_eq!(seen.last(), Some(&4000));
        assert_eq!(journal.lost() + seen.len() as u64, 4000);
        let gaps = journal.take_gaps();
        assert_eq!(
            gaps.iter().map(|gap| gap.count).sum::<u64>(),
            journal.lost()
        );
        assert_eq!((gaps[0].first, gaps.last().unwrap().last), (1, seen[0] - 1));
        assert!(gaps.iter().all(|gap| gap.reason == Reason::Full
            && gap.from_ms <= gap.until_ms
            && crate::time::is_plausible(gap.from_ms)));
        assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1));
    }

    #[test]
    fn old_partitions_go_but_not_those_of_a_time_without_a_clock() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 3000, 2000);
        let partitions = journal.sealed.len();
        assert!(partitions >= 2);
        journal.drop_older_than(unix_ms() - 60_000).unwrap();
        assert_eq!(journal.sealed.len(), partitions, "nothing is a minute old");
        let limit = unix_ms() + 60_000;
        let known: Vec<i64> = journal
            .sealed
            .iter()
            .map(|sealed| sealed.created_ms)
            .collect();
        let tail = journal.tail.created_ms;
        journal
            .sealed
            .iter_mut()
            .for_each(|sealed| sealed.created_ms = 0);
        journal.tail.created_ms = 0;
        journal.drop_older_than(limit).unwrap();
        assert_eq!(journal.sealed.len(), partitions, "the clock was never set");
        // Older than what was written when the clock was set, but that is not old enough.
        journal.tail.created_ms = tail;
        journal.drop_older_than(tail).unwrap();
        assert_eq!(
            journal.sealed.len(),
            partitions,
            "something in it may be newer"
        );
        journal
            .sealed
            .iter_mut()
            .zip(known)
            .for_each(|(sealed, known)| sealed.created_ms = known);
        journal.sealed[0].created_ms = 5_000;
        let path = journal.sealed[0].path(folder.path());
        fs::rename(
            journal.folder.join(
                fs::read_dir(folder.path())
                    .unwrap()
                    .map(|e| e.unwrap().file_name().into_string().unwrap())
                    .filter(|name| name.starts_with("p-3-"))
                    .min()
                    .unwrap(),
            ),
            path,
        )
        .unwrap();
        journal.drop_older_than(unix_ms() + 60_000).unwrap();
        assert_eq!(journal.sealed.len(), 0);
        assert!(
            journal
                .take_gaps()
                .iter()
                .all(|gap| gap.reason == Reason::Age)
        );
    }

    #[test]
    fn the_newest_partition_grows_old_when_nothing_is_written_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 20, 100);
        journal.settle(1, 5);
        journal.drop_older_than(unix_ms() - 60_000).unwrap();
        assert_eq!(
            (journal.waiting(), journal.lost()),
            (15, 0),
            "nothing is a minute old"
        );
        journal.drop_older_than(unix_ms() + 1).unwrap();
        let gaps = journal.take_gaps();
        assert_eq!((journal.waiting(), journal.lost(), gaps.len()), (0, 15, 1));
        assert_eq!(
            (gaps[0].first, gaps[0].last, gaps[0].reason),
            (6, 20, Reason::Age)
        );
        journal.drop_older_than(unix_ms() + 1).unwrap();
        append(&mut journal, 1, 100);
        journal.tail_newest_ms = Some(5_000);
        journal.drop_older_than(unix_ms() + 1).unwrap();
        assert_eq!(journal.waiting(), 1, "written while the clock was not set");
    }

    #[test]
    fn numbers_that_were_given_out_are_not_given_out_again_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 5, 100);
        // Delivered before they had to be written.
        journal.give_out(100);
        journal.settle(6, 99);
        drop(journal);
        let mut journal = open(folder.path());
        assert!(
            journal.next_seq() >= 100 && journal.next_seq() <= 100 + AHEAD,
            "{}",
            journal.next_seq()
        );
        let next = journal.next_seq();
        append(&mut journal, 1, 10);
        assert_eq!(drain(&mut journal), [1, 2, 3, 4, 5, next]);
        assert_eq!(journal.lost(), 0);
        journal.close().unwrap();
        assert_eq!(
            open(folder.path()).next_seq(),
            next + 1,
            "an orderly stop leaves no gap"
        );
    }

    #[test]
    fn the_state_is_found_again_with_the_entries_of_its_commit() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        journal.set_state(Bytes::from_static(b"one"));
        append(&mut journal, 1, 10);
        journal.set_state(Bytes::from_static(b"never saved"));
        drop(journal);
        let mut journal = open(folder.path());
        assert_eq!(journal.state(), &Bytes::from_static(b"one"));
        journal.set_state(Bytes::from_static(b"two"));
        journal.save().unwrap();
        // It goes from partition to partition.
        append(&mut journal, 2000, 2000);
        drop(journal);
        assert_eq!(open(folder.path()).state(), &Bytes::from_static(b"two"));
    }

    #[test]
    fn a_journal_with_a_checkpoint_replays_what_came_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 3000, 2000);
        // A second user of the same interface: the whole state as entries again, then everything
        // before them is done with.
        let checkpoint = journal.next_seq();
        append(&mut journal, 10, 50_000);
        journal.settle(1, checkpoint - 1);
        journal.save().unwrap();
        append(&mut journal, 5, 100);
        drop(journal);
        let mut journal = open(folder.path());
        assert_eq!(
            drain(&mut journal),
            (checkpoint..checkpoint + 15).collect::<Vec<u64>>()
        );
        assert!(
            journal.sealed.len() <= 1,
            "space of what is settled was returned"
        );
    }

    #[test]
    fn what_a_failed_commit_left_is_never_taken_for_what_was_written_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 5, 100);
        // A commit whose sync failed: its entries may be on disk all the same, but were never
        // acknowledged.
        let stale = Bytes::from_static(b"stale");
        let stale = Chunk::split(&[
            Entry {
                seq: 6,
                bytes: stale.clone(),
            },
            Entry {
                seq: 7,
                bytes: stale,
            },
        ]);
        let record = CommitRecord {
            number: journal.record.number + 1,
            durable: 5,
            written: 7,
            next_seq: 8 + AHEAD,
            ..journal.record.clone()
        };
        journal.tail_partition.commit(&stale, &record).unwrap();
        journal.record.number += 1;
        journal.tail_usable = false;
        append(&mut journal, 1, 100);
        drop(journal);
        let mut journal = open(folder.path());
        append(&mut journal, 2, 100);
        let next = journal.next_seq();
        assert_eq!(
            drain(&mut journal),
            [1, 2, 3, 4, 5, 6, next - 2, next - 1],
            "drain checks the content of each"
        );
    }

    #[test]
    fn restarts_leave_no_empty_partitions() {
        let folder = tempfile::tempdir().unwrap();
        append(&mut open(folder.path()), 5, 100);
        for _ in 0..5 {
            drop(open(folder.path()));
        }
        let journal = open(folder.path());
        assert_eq!(
            (journal.sealed.len(), journal.waiting(), journal.lost()),
            (1, 5, 0)
        );
    }

    #[test]
    fn a_newest_partition_without_its_first_page_does_not_stop_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 5, 100);
        drop(journal);
        let journal = open(folder.path());
        let database = journal.tail.path(folder.path()).join("db");
        drop(journal);
        let length = usize::try_from(fs::metadata(&database).unwrap().len()).unwrap();
        fs::write(&database, vec![0; length]).unwrap();
        let mut journal = open(folder.path());
        assert_eq!(drain(&mut journal), [1, 2, 3, 4, 5]);
        assert_eq!(
            (journal.next_seq(), journal.lost()),
            (6 + AHEAD, 0),
            "the progress says how far numbers were given out"
        );
    }

    #[test]
    fn after_an_orderly_end_nothing_is_unclear_even_if_the_newest_partition_lost_its_first_page() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 5, 100);
        journal.close().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 3, 100);
        journal.settle(2, 2);
        journal.set_state(Bytes::from_static(b"held"));
        let (older, database) = (
            journal.sealed[0].path(folder.path()),
            journal.tail.path(folder.path()).join("db"),
        );
        journal.close().unwrap();
        let length = usize::try_from(fs::metadata(&database).unwrap().len()).unwrap();
        fs::write(&database, vec![0; length]).unwrap();
        let mut journal = open(folder.path());
        let gaps = journal.take_gaps();
        let [gap] = gaps.as_slice() else {
            panic!("{gaps:?}")
        };
        assert_eq!(
            (gap.first, gap.last, gap.count, gap.reason),
            (6, 8, 3, Reason::Damage)
        );
        assert_eq!(
            (drain(&mut journal), journal.lost(), journal.next_seq()),
            (vec![1, 3, 4, 5], 3, 9)
        );
        assert_eq!(journal.state(), &Bytes::from_static(b"held"));
        assert!(older.exists(), "what is whole stays where it is");
        assert_eq!(
            fs::read_dir(folder.path().join("quarantine"))
                .unwrap()
                .count(),
            1
        );
    }

    /// A journal of five numbers whose newest partition, with three more, is zeros now.
    fn zeroed(folder: &Path, ends_in_order: bool) {
        let mut journal = open(folder);
        append(&mut journal, 5, 100);
        journal.close().unwrap();
        let mut journal = open(folder);
        append(&mut journal, 3, 100);
        let database = journal.tail.path(folder).join("db");
        if ends_in_order {
            journal.close().unwrap();
        } else {
            drop(journal);
        }
        let length = usize::try_from(fs::metadata(&database).unwrap().len()).unwrap();
        fs::write(&database, vec![0; length]).unwrap();
    }

    #[test]
    fn without_the_progress_an_orderly_end_tells_how_many_are_lost() {
        let folder = tempfile::tempdir().unwrap();
        zeroed(folder.path(), true);
        fs::remove_file(folder.path().join("progress")).unwrap();
        let mut journal = open(folder.path());
        let gaps = journal.take_gaps();
        let [gap] = gaps.as_slice() else {
            panic!("{gaps:?}")
        };
        assert_eq!((gap.first, gap.last, gap.known_count()), (6, 8, Some(3)));
        assert_eq!(
            (drain(&mut journal), journal.lost()),
            (vec![1, 2, 3, 4, 5], 3)
        );
    }

    #[test]
    fn without_any_witness_the_loss_is_told_and_its_count_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        zeroed(folder.path(), false);
        fs::remove_file(folder.path().join("progress")).unwrap();
        let mut journal = open(folder.path());
        let gaps = journal.take_gaps();
        let [gap] = gaps.as_slice() else {
            panic!("{gaps:?}")
        };
        assert_eq!(
            (gap.first, gap.known_count(), gap.reason),
            (6, None, Reason::Damage)
        );
        assert!(gap.last >= 8, "{gap:?}");
        assert_eq!(drain(&mut journal), [1, 2, 3, 4, 5]);
        append(&mut journal, 1, 10);
        assert_eq!(drain(&mut journal).len(), 6);
    }

    #[test]
    fn without_the_progress_what_is_missing_among_the_numbers_that_are_left_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 50, 2000);
        let database = journal.tail.path(folder.path()).join("db");
        drop(journal);
        fs::remove_file(folder.path().join("progress")).unwrap();
        // Entries of a commit in the middle, and every record.
        let mut bytes = fs::read(&database).unwrap();
        let marks: Vec<usize> = bytes
            .windows(8)
            .enumerate()
            .filter(|(_, w)| *w == b"WHEADck2")
            .map(|(at, _)| at)
            .collect();
        for (index, at) in marks.iter().enumerate() {
            let is_note = marks.get(index + 1).is_none_or(|next| next - at < 1000);
            if is_note || index == marks.len() / 2 || index == marks.len() / 2 + 1 {
                let end = bytes.len().min(at + 40);
                bytes[at + 20..end].fill(0xA5);
            }
        }
        fs::write(&database, bytes).unwrap();
        let mut journal = open(folder.path());
        let seen = drain(&mut journal);
        let gaps = journal.take_gaps();
        let last = seen.last().copied().unwrap_or(0);
        let counted: u64 = gaps.iter().filter_map(Gap::known_count).sum();
        assert!(!seen.is_empty() && seen.len() < 50, "{seen:?}");
        assert_eq!(counted, last - seen.len() as u64, "{gaps:?} {seen:?}");
        assert!(
            gaps.iter()
                .any(|gap| gap.known_count().is_none() && gap.first == last + 1),
            "{gaps:?} {seen:?}"
        );
    }

    #[test]
    fn a_partition_that_somebody_has_locked_is_not_taken_for_a_damaged_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 5, 100);
        let database = journal.tail.path(folder.path()).join("db");
        drop(journal);
        let holder = File::open(&database).unwrap();
        holder.lock().unwrap();
        let error = Journal::open(folder.path(), SMALL).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
        let release = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            drop(holder);
        });
        let mut journal = open(folder.path());
        release.join().unwrap();
        assert_eq!(drain(&mut journal), [1, 2, 3, 4, 5]);
        assert!(!folder.path().join("quarantine").exists());
    }

    #[test]
    fn settled_partitions_are_removed_even_if_the_cursor_cannot_be_saved() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 2000, 2000);
        let before = journal.sealed.len();
        journal.settle(1, 1500);
        journal.remove_settled().unwrap();
        assert!(journal.sealed.len() < before);
        drop(journal);
        // The cursor on disk knows nothing of it: what is gone counts as settled, not as lost.
        let mut journal = open(folder.path());
        let seen = drain(&mut journal);
        assert_eq!((seen.last(), journal.lost()), (Some(&2000), 0));
    }

    #[test]
    fn a_second_opener_is_told_who_has_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _journal = open(folder.path());
        let error = Journal::open(folder.path(), SMALL).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    }

    #[test]
    fn a_damaged_partition_is_set_aside_and_the_rest_of_it_delivered() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 300, 2000);
        let database = journal.tail.path(folder.path()).join("db");
        drop(journal);
        let mut bytes = fs::read(&database).unwrap();
        // Every commit is a chunk and a record.
        let middle = bytes
            .windows(8)
            .enumerate()
            .filter(|(_, w)| *w == b"WHEADck2")
            .map(|(at, _)| at)
            .nth(301)
            .unwrap();
        bytes[middle + 500..middle + 600].fill(0xA5);
        fs::write(&database, bytes).unwrap();

        let mut journal = open(folder.path());
        let seen = drain(&mut journal);
        assert!(seen.len() >= 290 && seen.len() < 300, "{}", seen.len());
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(journal.lost() + seen.len() as u64, 300);
        assert_eq!(
            fs::read_dir(folder.path().join("quarantine"))
                .unwrap()
                .count(),
            1
        );
        append(&mut journal, 1, 10);
        assert_eq!(drain(&mut journal).last(), Some(&(journal.next_seq() - 1)));
    }

    #[test]
    fn no_partition_holds_files_that_the_engine_never_syncs() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..30 {
            // The largest state and a cursor full of holes, so often that the engine rewrites the
            // page.
            journal.set_state(
                (0..super::super::STATE_BYTES)
                    .map(|_| random.u8(..))
                    .collect(),
            );
            append(&mut journal, 80, 10);
            for seq in (journal.next_seq() - 80..journal.next_seq()).step_by(2) {
                journal.settle(seq, seq);
            }
        }
        append(&mut journal, 120, CHUNK_BYTES);
        let path = journal.tail.path(folder.path());
        let blobs = fs::read_dir(path.join("blobs")).map_or(0, Iterator::count);
        assert_eq!(blobs, 0);
    }
}
