//! Partitions put together to one journal: append, read on, settle, remove. Blocking; one thread owns it.
//!
//! Invariants:
//! * Partition numbers and first sequence numbers both grow; the numbers of one partition end where the next one begins.
//! * After a start a new partition is begun: nothing is ever appended to a file that an unclean stop may have left.
//! * What leaves the journal unsettled (limit reached, damage) is counted in `lost`, never silent.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use super::chunk::Chunk;
use super::cursor::Cursor;
use super::engine::{LEAST_PARTITION_BYTES, Partition, io_error};
use super::folder::{Sealed, list, lock, open_or_carve, partition_path, recover, remove_partition};
use super::reserve::Reserve;
use super::{CHUNK_BYTES, StoreError};

/// Bounds of a journal, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// All partitions together; the oldest is removed, settled or not, before a new one would exceed it.
    pub total_bytes: u64,
    /// One partition; at least one commit fits whatever it says.
    pub partition_bytes: u64,
}

impl Limits {
    /// The limits for a journal of `total_bytes` (at least four times an empty partition).
    pub fn of(total_bytes: u64) -> Self {
        let total_bytes = total_bytes.max(4 * LEAST_PARTITION_BYTES);
        Self { total_bytes, partition_bytes: (total_bytes / 4).min(16 << 20) }
    }
}

/// One entry with its sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the order of all entries ever appended.
    pub seq: u64,
    /// What was appended.
    pub bytes: Bytes,
}

#[derive(Debug)]
struct Position {
    number: u64,
    slot: u32,
    /// The number that comes next; smaller ones were returned, or are of no interest.
    next_seq: u64,
    /// Where the next partition begins: what a failed commit left beyond was written again there.
    end: u64,
    read_ahead: VecDeque<Entry>,
}

/// A durable, ordered, bounded queue of byte entries.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    _lock: File,
    limits: Limits,
    reserve: Reserve,
    sealed: VecDeque<Sealed>,
    tail: Sealed,
    tail_partition: Partition,
    tail_usable: bool,
    head: Option<(u64, Partition)>,
    position: Option<Position>,
    next_seq: u64,
    cursor: Cursor,
    cursor_is_saved: bool,
    lost: u64,
}

impl Journal {
    /// Opens the journal in `folder`, making it if needed.
    pub fn open(folder: &Path, limits: Limits) -> Result<Self, StoreError> {
        let lock = lock(folder)?;
        let reserve = Reserve::of(folder);
        match Self::open_locked(folder, limits, &lock) {
            Err(StoreError::Full { .. }) if reserve.spend() => Self::open_locked(folder, limits, &lock),
            opened => opened,
        }
    }

    fn open_locked(folder: &Path, limits: Limits, lock: &File) -> Result<Self, StoreError> {
        let lock = lock.try_clone().map_err(|e| io_error(folder, e))?;
        let sealed = list(folder)?;
        let (cursor, next_seq, number) = match sealed.back() {
            None => (Cursor::default(), 1, 1),
            Some(last) => {
                let fallback = sealed.front().map_or(0, |first| first.first_seq - 1);
                let (cursor, next_seq) = recover(folder, last, fallback)?;
                (cursor, next_seq, last.number + 1)
            }
        };
        let path = partition_path(folder, number, next_seq);
        let tail_partition = Partition::create(&path, &cursor)?;
        let tail = Sealed { number, first_seq: next_seq, bytes: 0 };
        let mut journal = Self {
            folder: folder.to_owned(),
            _lock: lock,
            limits,
            reserve: Reserve::of(folder),
            sealed,
            tail,
            tail_partition,
            tail_usable: true,
            head: None,
            position: None,
            next_seq,
            cursor,
            cursor_is_saved: true,
            lost: 0,
        };
        // What stood before the oldest partition was removed, so it was settled or counted as lost already.
        let oldest = journal.sealed.front().unwrap_or(&journal.tail).first_seq;
        journal.settle_range(1, oldest - 1);
        journal.remove_empty()?;
        journal.enforce_limit()?;
        journal.remove_settled()?;
        journal.reserve.keep();
        Ok(journal)
    }

    /// Entries that were appended and are neither settled nor lost.
    pub fn waiting(&self) -> u64 {
        self.cursor.unsettled_in(1, self.next_seq - 1)
    }

    /// Entries given up since the journal was opened: the limit was reached, or the disk damaged them.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The number the next entry will get.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// What is settled.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Bytes all partitions take on disk, about.
    pub fn bytes(&self) -> u64 {
        self.sealed.iter().map(|sealed| sealed.bytes).sum::<u64>() + self.tail_partition.bytes()
    }

    /// Writes entries and returns the sequence number of the first; they are durable when it returns. After an error only
    /// those numbered below [`Journal::next_seq`] were accepted; appending the others again tries in a new partition.
    pub fn append(&mut self, entries: &[Bytes]) -> Result<u64, StoreError> {
        let first = self.next_seq;
        let mut chunks = Chunk::split(first, entries);
        while !chunks.is_empty() {
            self.make_room(&chunks)?;
            let count = chunks_that_fit(&chunks, self.tail_partition.free_slots());
            let rest = chunks.split_off(count);
            self.commit(&chunks)?;
            if let Some(last) = chunks.last() {
                self.next_seq = self.next_seq.max(last.last_complete_seq() + 1);
            }
            chunks = rest;
        }
        Ok(first)
    }

    fn commit(&mut self, chunks: &[Chunk]) -> Result<(), StoreError> {
        let done = self.tail_partition.commit(chunks, &self.cursor);
        if done.is_err() {
            self.tail_usable = false;
        }
        self.cursor_is_saved = done.is_ok();
        done
    }

    fn make_room(&mut self, chunks: &[Chunk]) -> Result<(), StoreError> {
        let needed = chunks_of_first_entry(chunks);
        let full = self.tail_partition.free_slots() < needed
            || self.tail_partition.bytes() >= self.limits.partition_bytes.max(LEAST_PARTITION_BYTES + CHUNK_BYTES as u64);
        if self.tail_usable && !full { Ok(()) } else { self.rotate() }
    }

    fn rotate(&mut self) -> Result<(), StoreError> {
        self.enforce_limit()?;
        let number = self.tail.number + 1;
        let path = partition_path(&self.folder, number, self.next_seq);
        let partition = Partition::create(&path, &self.cursor)?;
        let tail = Sealed { number, first_seq: self.next_seq, bytes: 0 };
        let old = std::mem::replace(&mut self.tail_partition, partition);
        let mut sealed = std::mem::replace(&mut self.tail, tail);
        sealed.bytes = old.bytes();
        if let Some(position) = self.position.as_mut().filter(|position| position.number == sealed.number) {
            position.end = self.next_seq;
            position.read_ahead.retain(|entry| entry.seq < self.next_seq);
            self.head = Some((sealed.number, old));
        }
        self.sealed.push_back(sealed);
        self.tail_usable = true;
        self.cursor_is_saved = true;
        self.remove_settled()
    }

    /// Removes the oldest partitions until a new one fits the limit.
    fn enforce_limit(&mut self) -> Result<(), StoreError> {
        while self.bytes() + self.limits.partition_bytes > self.limits.total_bytes && !self.sealed.is_empty() {
            let last = self.last_seq_of_oldest();
            let first = self.cursor.low() + 1;
            let lost = self.cursor.unsettled_in(first, last);
            if lost > 0 {
                self.lost += lost;
                tracing::warn!(folder = %self.folder.display(), first, last, lost, "outbox limit reached, oldest entries dropped; raise outbox.keep.size or repair the link");
            }
            self.cursor.settle(first, last);
            self.remove_settled()?;
        }
        Ok(())
    }

    fn last_seq_of_oldest(&self) -> u64 {
        self.sealed.get(1).unwrap_or(&self.tail).first_seq - 1
    }

    /// Removes partitions in which nothing was ever committed: each start begins one.
    fn remove_empty(&mut self) -> Result<(), StoreError> {
        let starts: Vec<u64> = self.sealed.iter().map(|sealed| sealed.first_seq).skip(1).chain([self.tail.first_seq]).collect();
        let is_empty = |sealed: &Sealed, next: u64| sealed.first_seq == next;
        let (empty, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.sealed).into_iter().zip(starts).partition(|(sealed, next)| is_empty(sealed, *next));
        self.sealed = kept.into_iter().map(|(sealed, _)| sealed).collect();
        for (sealed, _) in empty {
            remove_partition(&self.folder, &partition_path(&self.folder, sealed.number, sealed.first_seq))?;
        }
        Ok(())
    }

    /// Marks an entry as done; durable with the next append or [`Journal::save_cursor`].
    pub fn settle(&mut self, seq: u64) {
        self.settle_range(seq, seq);
    }

    fn settle_range(&mut self, first: u64, last: u64) {
        self.cursor.settle(first, last.min(self.next_seq - 1));
        self.cursor_is_saved = false;
    }

    /// Makes what was settled durable, if anything was since the last commit, and removes partitions that are done with.
    pub fn save_cursor(&mut self) -> Result<(), StoreError> {
        let saved = match (self.cursor_is_saved, self.tail_usable) {
            (true, _) => Ok(()),
            (false, true) => self.commit(&[]),
            (false, false) => self.rotate(),
        };
        // Also when the disk is full: that is how it gets room. Partitions that are gone count as settled at the next start.
        self.remove_settled()?;
        if saved.is_ok() {
            self.reserve.keep();
        }
        saved
    }

    /// Removes partitions whose entries are all settled. Whether the cursor is durable does not matter: at the next start
    /// everything before the oldest partition counts as settled.
    fn remove_settled(&mut self) -> Result<(), StoreError> {
        while !self.sealed.is_empty() && self.last_seq_of_oldest() <= self.cursor.low() {
            let Some(sealed) = self.sealed.pop_front() else { break };
            if self.head.as_ref().is_some_and(|(number, _)| *number == sealed.number) {
                self.head = None;
            }
            if self.position.as_ref().is_some_and(|position| position.number == sealed.number) {
                self.position = None;
            }
            remove_partition(&self.folder, &partition_path(&self.folder, sealed.number, sealed.first_seq))?;
        }
        Ok(())
    }

    /// The next entries after `after` that are not settled, in order; at most `max_entries`, and no more after `max_bytes`.
    pub fn read(&mut self, after: u64, max_entries: usize, max_bytes: usize) -> Result<Vec<Entry>, StoreError> {
        self.seek(after.max(self.cursor.low()) + 1);
        let mut out = Vec::new();
        let mut bytes = 0;
        while out.len() < max_entries && bytes < max_bytes {
            let entry = match self.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(error) if out.is_empty() => return Err(error),
                // What was found before the fault is worth having; the fault comes again with the next read.
                Err(_) => break,
            };
            if !self.cursor.is_settled(entry.seq) {
                bytes += entry.bytes.len();
                out.push(entry);
            }
        }
        Ok(out)
    }

    fn seek(&mut self, seq: u64) {
        if self.position.as_ref().is_some_and(|position| position.next_seq == seq) {
            return;
        }
        let holds = |sealed: &&Sealed| sealed.first_seq <= seq;
        let start = if self.tail.first_seq <= seq {
            &self.tail
        } else {
            self.sealed.iter().rev().find(holds).or(self.sealed.front()).unwrap_or(&self.tail)
        };
        let number = start.number;
        let end = self.end_of(number);
        self.position = Some(Position { number, slot: 0, next_seq: seq, end, read_ahead: VecDeque::new() });
    }

    /// The first sequence number behind a partition; of the newest one, none.
    fn end_of(&self, number: u64) -> u64 {
        if number == self.tail.number {
            return u64::MAX;
        }
        self.sealed.iter().find(|sealed| sealed.number > number).unwrap_or(&self.tail).first_seq
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, StoreError> {
        loop {
            let Some(position) = self.position.as_mut() else { return Ok(None) };
            if let Some(entry) = position.read_ahead.pop_front() {
                let expected = position.next_seq;
                if entry.seq >= self.next_seq {
                    // Left by a failed commit: not durable until it is written again.
                    position.read_ahead.push_front(entry);
                    return Ok(None);
                }
                if entry.seq < expected || entry.seq >= position.end {
                    continue;
                }
                position.next_seq = entry.seq + 1;
                self.count_gap(expected, entry.seq);
                return Ok(Some(entry));
            }
            if !self.read_on()? {
                return Ok(None);
            }
        }
    }

    /// Numbers that no partition holds any more were damaged; they are settled so that nobody waits for them.
    fn count_gap(&mut self, expected: u64, found: u64) {
        if found > expected {
            let lost = self.cursor.unsettled_in(expected, found - 1);
            if lost > 0 {
                self.lost += lost;
                tracing::error!(folder = %self.folder.display(), first = expected, last = found - 1, lost, "entries are missing from the store; see its quarantine folder");
            }
            self.settle_range(expected, found - 1);
        }
    }

    /// Reads the next chunk, going on to the next partition at the end of one. False if there is nothing more.
    fn read_on(&mut self) -> Result<bool, StoreError> {
        let Some((number, slot)) = self.position.as_ref().map(|position| (position.number, position.slot)) else { return Ok(false) };
        match self.chunk_at(number, slot)? {
            Some(chunk) => {
                let (entries, used) = self.entries_of(number, slot, chunk)?;
                if let Some(position) = self.position.as_mut() {
                    position.slot = slot + used;
                    position.read_ahead.extend(entries);
                }
                Ok(true)
            }
            None if number == self.tail.number => Ok(false),
            None => {
                self.head = None;
                let next = self.sealed.iter().find(|sealed| sealed.number > number).unwrap_or(&self.tail).number;
                let end = self.end_of(next);
                if let Some(position) = self.position.as_mut() {
                    position.end = end;
                    position.number = next;
                    position.slot = 0;
                }
                Ok(true)
            }
        }
    }

    fn chunk_at(&mut self, number: u64, slot: u32) -> Result<Option<Chunk>, StoreError> {
        if number == self.tail.number {
            return self.tail_partition.chunk(slot);
        }
        if self.head.as_ref().is_none_or(|(open, _)| *open != number) {
            let Some(first_seq) = self.sealed.iter().find(|sealed| sealed.number == number).map(|sealed| sealed.first_seq) else {
                return Ok(None);
            };
            let path = partition_path(&self.folder, number, first_seq);
            let opened = match open_or_carve(&self.folder, &path, &self.cursor) {
                Err(StoreError::Full { .. }) if self.reserve.spend() => open_or_carve(&self.folder, &path, &self.cursor),
                opened => opened,
            };
            self.head = Some((number, opened?.0));
        }
        match &self.head {
            Some((_, partition)) => partition.chunk(slot),
            None => Ok(None),
        }
    }

    /// The whole entries that begin with `chunk`, and how many slots they took. Parts without an end are skipped: they were
    /// never acknowledged.
    fn entries_of(&mut self, number: u64, slot: u32, chunk: Chunk) -> Result<(Vec<Entry>, u32), StoreError> {
        let (seq, parts, first) = match chunk {
            Chunk::Entries { first_seq, entries } => {
                return Ok((entries.into_iter().zip(first_seq..).map(|(bytes, seq)| Entry { seq, bytes }).collect(), 1));
            }
            Chunk::Part { seq, part: 0, parts, bytes } => (seq, parts, bytes),
            Chunk::Part { .. } => return Ok((Vec::new(), 1)),
        };
        let mut whole = BytesMut::from(&first[..]);
        for index in 1..parts {
            match self.chunk_at(number, slot + index)? {
                Some(Chunk::Part { seq: same, part, bytes, .. }) if same == seq && part == index => whole.extend_from_slice(&bytes),
                _ => return Ok((Vec::new(), index)),
            }
        }
        Ok((vec![Entry { seq, bytes: whole.freeze() }], parts))
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
    use std::fs;

    const LIMITS: Limits = Limits { total_bytes: 1 << 30, partition_bytes: 2 * LEAST_PARTITION_BYTES };

    fn open(folder: &Path) -> Journal {
        Journal::open(folder, LIMITS).unwrap()
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
            let Some(last) = entries.last() else { return seen };
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
            journal.settle(seq);
        }
        journal.save_cursor().unwrap();
        drop(journal);
        let mut journal = open(folder.path());
        let expected: Vec<u64> = (4..=20).filter(|seq| *seq != 7).collect();
        assert_eq!(drain(&mut journal), expected);
        assert_eq!(journal.waiting(), expected.len() as u64);
        append(&mut journal, 1, 100);
        assert_eq!(journal.next_seq(), 22);
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
        assert!(entries[..30].iter().all(|entry| entry.bytes.len() == 100_000));
        assert_eq!(drain(&mut journal).len(), 31);
    }

    #[test]
    fn settled_partitions_give_their_space_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 2000, 2000);
        assert!(journal.sealed.len() >= 2, "{}", journal.sealed.len());
        assert_eq!(drain(&mut journal).len(), 2000);
        for seq in 1..=2000 {
            journal.settle(seq);
        }
        journal.save_cursor().unwrap();
        assert_eq!(journal.sealed.len(), 0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "LOCK, reserve and one partition");
        drop(journal);
        let journal = open(folder.path());
        assert_eq!((journal.waiting(), journal.next_seq()), (0, 2001));
    }

    #[test]
    fn over_the_limit_the_oldest_go_and_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { total_bytes: 8 << 20, partition_bytes: 3 << 20 };
        let mut journal = Journal::open(folder.path(), limits).unwrap();
        append(&mut journal, 4000, 2000);
        assert!(journal.bytes() <= limits.total_bytes, "{}", journal.bytes());
        let seen = drain(&mut journal);
        assert_eq!(seen.last(), Some(&4000));
        assert_eq!(journal.lost() + seen.len() as u64, 4000);
        assert!(journal.lost() > 0);
        assert!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1));
    }

    #[test]
    fn what_a_failed_commit_left_is_never_taken_for_what_was_written_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 5, 100);
        // A commit whose sync failed: its entries may be on disk all the same, but were never acknowledged.
        let stale = Chunk::split(6, &[Bytes::from_static(b"stale"), Bytes::from_static(b"stale")]);
        journal.tail_partition.commit(&stale, &journal.cursor).unwrap();
        journal.tail_usable = false;
        journal.rotate().unwrap();
        drop(journal);
        let mut journal = open(folder.path());
        append(&mut journal, 3, 100);
        assert_eq!(drain(&mut journal), (1..=8).collect::<Vec<u64>>(), "drain checks the content of each");
    }

    #[test]
    fn restarts_leave_no_empty_partitions() {
        let folder = tempfile::tempdir().unwrap();
        append(&mut open(folder.path()), 5, 100);
        for _ in 0..5 {
            drop(open(folder.path()));
        }
        let journal = open(folder.path());
        assert_eq!((journal.sealed.len(), journal.waiting(), journal.lost()), (1, 5, 0));
    }

    #[test]
    fn a_newest_partition_without_its_first_page_does_not_stop_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 5, 100);
        drop(journal);
        let journal = open(folder.path());
        let database = partition_path(folder.path(), journal.tail.number, journal.tail.first_seq).join("db");
        drop(journal);
        let length = usize::try_from(fs::metadata(&database).unwrap().len()).unwrap();
        fs::write(&database, vec![0; length]).unwrap();
        let mut journal = open(folder.path());
        assert_eq!(drain(&mut journal), [1, 2, 3, 4, 5]);
        assert_eq!(journal.next_seq(), 6);
    }

    #[test]
    fn settled_partitions_are_removed_even_if_the_cursor_cannot_be_saved() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 2000, 2000);
        let before = journal.sealed.len();
        journal.settle_range(1, 1500);
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
        let error = Journal::open(folder.path(), LIMITS).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    }

    #[test]
    fn a_damaged_partition_is_set_aside_and_the_rest_of_it_delivered() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 300, 2000);
        let number = journal.tail.number;
        drop(journal);
        let database = partition_path(folder.path(), number, 1).join("db");
        let mut bytes = fs::read(&database).unwrap();
        let middle = bytes.windows(8).enumerate().filter(|(_, w)| *w == b"WHEADck1").map(|(at, _)| at).nth(150).unwrap();
        bytes[middle + 500..middle + 600].fill(0xA5);
        fs::write(&database, bytes).unwrap();

        let mut journal = open(folder.path());
        let seen = drain(&mut journal);
        assert!(seen.len() >= 290 && seen.len() < 300, "{}", seen.len());
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(journal.lost() + seen.len() as u64, 300);
        assert_eq!(fs::read_dir(folder.path().join("quarantine")).unwrap().count(), 1);
        append(&mut journal, 1, 10);
        assert_eq!(drain(&mut journal).last(), Some(&301));
    }

    #[test]
    fn no_partition_holds_files_that_the_engine_never_syncs() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        append(&mut journal, 120, CHUNK_BYTES);
        let path = partition_path(folder.path(), journal.tail.number, journal.tail.first_seq);
        let blobs = fs::read_dir(path.join("blobs")).map_or(0, Iterator::count);
        assert_eq!(blobs, 0);
    }
}
