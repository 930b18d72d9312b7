//! Reading: from partition to partition, over gaps, past entries that a failed commit left.

use std::collections::VecDeque;
use std::path::Path;

use bytes::BytesMut;

use super::Journal;
use crate::store::chunk::Chunk;
use crate::store::engine::Partition;
use crate::store::folder::{
    Expected, Opened, Sealed, open_or_carve, read_what_can_be_read, rebuild,
};
use crate::store::gap::{Gap, Reason};
use crate::store::{Entry, StoreError};

#[derive(Debug)]
pub(super) struct Position {
    pub(super) number: u64,
    pub(super) slot: u32,
    /// The number that comes next; smaller ones were returned, or skipped.
    pub(super) next_seq: u64,
    /// Where the next partition begins: entries that a failed commit left beyond were written again
    /// there.
    pub(super) end: u64,
    pub(super) read_ahead: VecDeque<Entry>,
}

impl Journal {
    /// The next entries after `after` that are not settled, in order; at most `max_entries`, and no
    /// more after `max_bytes`.
    pub fn read(
        &mut self,
        after: u64,
        max_entries: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.seek(after.max(self.record.cursor.low()) + 1);
        let mut out = Vec::new();
        let mut bytes = 0;
        while out.len() < max_entries && bytes < max_bytes {
            let entry = match self.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(error) if out.is_empty() => return Err(error),
                // Entries read before the fault are worth having; the next read meets the fault
                // again.
                Err(_) => break,
            };
            if !self.record.cursor.is_settled(entry.seq) {
                bytes += entry.bytes.len();
                out.push(entry);
            }
        }
        Ok(out)
    }

    fn seek(&mut self, seq: u64) {
        if self
            .position
            .as_ref()
            .is_some_and(|position| position.next_seq == seq)
        {
            return;
        }
        let holds = |sealed: &&Sealed| sealed.first_seq <= seq;
        let start = if self.tail.first_seq <= seq {
            &self.tail
        } else {
            self.sealed
                .iter()
                .rev()
                .find(holds)
                .or(self.sealed.front())
                .unwrap_or(&self.tail)
        };
        let number = start.number;
        let end = self.end_of(number);
        self.position = Some(Position {
            number,
            slot: 0,
            next_seq: seq,
            end,
            read_ahead: VecDeque::new(),
        });
    }

    /// The first sequence number behind a partition; of the newest one, none.
    fn end_of(&self, number: u64) -> u64 {
        if number == self.tail.number {
            return u64::MAX;
        }
        self.sealed
            .iter()
            .find(|sealed| sealed.number > number)
            .unwrap_or(&self.tail)
            .first_seq
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, StoreError> {
        loop {
            let Some(position) = self.position.as_mut() else {
                return Ok(None);
            };
            if let Some(entry) = position.read_ahead.pop_front() {
                let expected = position.next_seq;
                if entry.seq > self.record.written {
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

    /// Numbers that no partition holds any more were damaged; they are settled, so that delivery
    /// does not wait for them.
    fn count_gap(&mut self, expected: u64, found: u64) {
        if found > expected {
            let about = self.position.as_ref().map_or(0, |position| position.number);
            let known = self
                .sealed
                .iter()
                .find(|sealed| sealed.number == about)
                .unwrap_or(&self.tail)
                .created_ms;
            self.lose(Gap {
                first: expected,
                last: found - 1,
                count: 0,
                from_ms: known,
                until_ms: known,
                reason: Reason::Damage,
            });
        }
    }

    /// Reads the next chunk, of the next partition at the end of one. False if there is nothing
    /// more.
    fn read_on(&mut self) -> Result<bool, StoreError> {
        let Some((number, slot)) = self
            .position
            .as_ref()
            .map(|position| (position.number, position.slot))
        else {
            return Ok(false);
        };
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
                let next = self
                    .sealed
                    .iter()
                    .find(|sealed| sealed.number > number)
                    .unwrap_or(&self.tail);
                let (next, begins) = (next.number, next.first_seq);
                let expected = self
                    .position
                    .as_ref()
                    .map_or(begins, |position| position.next_seq);
                // A gap at the end of a partition is reported before any later entry.
                self.count_gap(expected, begins);
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
            let read = self.tail_partition.chunk(slot);
            if read.is_err() && self.commit(&[], true).is_ok() {
                // It is not written any more; the next attempt carves it.
                self.head = None;
                self.position = None;
            }
            return read;
        }
        if self.head.as_ref().is_none_or(|(open, _)| *open != number) {
            let Some(path) = self
                .sealed
                .iter()
                .find(|sealed| sealed.number == number)
                .map(|sealed| sealed.path(&self.folder))
            else {
                return Ok(None);
            };
            let opened = match self.open_sealed(number, &path) {
                Err(StoreError::Full { .. }) if self.reserve.release() => {
                    self.open_sealed(number, &path)
                }
                opened => opened,
            };
            self.head = Some((number, opened?));
        }
        let read = match &self.head {
            Some((_, partition)) => partition.chunk(slot),
            None => Ok(None),
        };
        if read.is_err() {
            // Damaged since it was opened: the next attempt carves it.
            self.head = None;
        }
        read
    }

    /// Opens a partition that is not written any more. It must hold everything up to the beginning
    /// of the next one.
    fn open_sealed(&self, number: u64, path: &Path) -> Result<Partition, StoreError> {
        let Opened {
            partition,
            last_seq,
            record,
        } = open_or_carve(&self.folder, path, Expected::default())?;
        let last = last_seq.unwrap_or(0);
        if self
            .record
            .cursor
            .unsettled_in(last + 1, self.end_of(number) - 1)
            == 0
        {
            return Ok(partition);
        }
        drop(partition);
        let bytes = read_what_can_be_read(&path.join("db"))?;
        rebuild(&self.folder, path, &bytes, record, "its end is gone")
            .map(|opened| opened.partition)
    }

    /// The whole entries that begin with `chunk`, and how many slots they took. Parts without an
    /// end are skipped: they were never acknowledged.
    fn entries_of(
        &mut self,
        number: u64,
        slot: u32,
        chunk: Chunk,
    ) -> Result<(Vec<Entry>, u32), StoreError> {
        let (seq, parts, first) = match chunk {
            Chunk::Entries(entries) => return Ok((entries, 1)),
            Chunk::Part {
                seq,
                part: 0,
                parts,
                bytes,
            } => (seq, parts, bytes),
            Chunk::Part { .. } | Chunk::CommitRecord { .. } => return Ok((Vec::new(), 1)),
        };
        let mut whole = BytesMut::from(&first[..]);
        for index in 1..parts {
            match self.chunk_at(number, slot + index)? {
                Some(Chunk::Part {
                    seq: same,
                    part,
                    bytes,
                    ..
                }) if same == seq && part == index => whole.extend_from_slice(&bytes),
                _ => return Ok((Vec::new(), index)),
            }
        }
        Ok((
            vec![Entry {
                seq,
                bytes: whole.freeze(),
            }],
            parts,
        ))
    }
}
