//! How far a journal has come, in a small file beside its partitions.
//!
//! The storage engine takes a file that lost its end for one whose last write was cut short, and
//! silently comes back with less. This file says which commit must be there at least.
//!
//! ```text
//! magic 8 | crc32c 4 | commit 8 | partition 8 | its first number 8 | written 8 | given out below 8 | settled up to 8
//! ```
//!
//! Invariants:
//! * It is written after a commit is durable, so it never promises more than the partitions hold.
//! * It is overwritten in place and not synced: it costs a commit nothing. After a kill it is
//!   exact; after a power cut it may be older, and promises less. It is synced when a journal is
//!   opened, and before a partition is removed, so that removed entries are known to be settled.
//! * Without it, or if it is damaged, only the partitions count.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::{Buf, BufMut};

use super::commit_record::CommitRecord;
use super::engine::{io_error, private_file};
use super::folder::Sealed;
use super::{AckCursor, StoreError};

const NAME: &str = "progress";
const MAGIC: &[u8; 8] = b"WHEADpr1";
const BYTES: usize = 60;

/// The newest durable commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JournalProgress {
    /// The number of its record.
    pub(super) commit: u64,
    /// The number of the partition it is in.
    pub(super) partition: u64,
    /// The first sequence number that can be in it.
    pub(super) first_seq: u64,
    /// The highest sequence number that is on disk, or settled.
    pub(super) written: u64,
    /// Numbers below this one may have been given out.
    pub(super) next_seq: u64,
    /// Everything up to this number is settled.
    pub(super) low: u64,
}

impl JournalProgress {
    pub(super) fn of(record: &CommitRecord, tail: &Sealed) -> Self {
        let (partition, first_seq) = (tail.number, tail.first_seq);
        Self {
            commit: record.number,
            partition,
            first_seq,
            written: record.written,
            next_seq: record.next_seq,
            low: record.cursor.low(),
        }
    }

    /// Reads the file in a journal's folder; `None` if there is none, or it is damaged.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        Self::decode(&std::fs::read(folder.join(NAME)).ok()?)
    }

    /// Settles the numbers that are known to be settled; an older record may lack them.
    pub(super) fn settle(&self, cursor: &mut AckCursor) {
        cursor.settle(1, self.low);
    }

    /// Numbers behind `written` of an older partition that the newest one does not hold were
    /// skipped at its beginning, if no partition is missing between the two.
    pub(super) fn settle_skipped(&self, cursor: &mut AckCursor, older: u64, written: u64) {
        if self.partition == older + 1 && self.first_seq > written {
            cursor.settle(written + 1, self.first_seq - 1);
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(BYTES);
        for number in [
            self.commit,
            self.partition,
            self.first_seq,
            self.written,
            self.next_seq,
            self.low,
        ] {
            body.put_u64(number);
        }
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.put_slice(MAGIC);
        bytes.put_u32(crc32c::crc32c(&body));
        bytes.append(&mut body);
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_at_checked(MAGIC.len())?;
        bytes = rest;
        let sum = bytes.try_get_u32().ok()?;
        if magic != MAGIC || crc32c::crc32c(bytes) != sum {
            return None;
        }
        let mut next = || bytes.try_get_u64().ok();
        Some(Self {
            commit: next()?,
            partition: next()?,
            first_seq: next()?,
            written: next()?,
            next_seq: next()?,
            low: next()?,
        })
    }
}

/// The file, open for as long as the journal is.
#[derive(Debug)]
pub(super) struct ProgressFile {
    file: File,
    newest: JournalProgress,
    is_failing: bool,
}

impl ProgressFile {
    /// Opens the file of a journal's folder, or makes it, and records a durable commit.
    pub(super) fn open(folder: &Path, newest: JournalProgress) -> Result<Self, StoreError> {
        let path = folder.join(NAME);
        let file = private_file()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| io_error(&path, e))?;
        let mut opened = Self {
            file,
            newest,
            is_failing: false,
        };
        opened.write(true);
        Ok(opened)
    }

    /// Records a durable commit. A failure loses nothing but this record, and is logged once.
    pub(super) fn record(&mut self, progress: JournalProgress) {
        self.newest = progress;
        self.write(false);
    }

    /// Records durably that everything up to `low` is settled: its partitions are about to be
    /// removed.
    pub(super) fn settled(&mut self, low: u64) {
        if low > self.newest.low {
            self.newest.low = low;
            self.write(true);
        }
    }

    fn write(&mut self, is_synced: bool) {
        let sync = || {
            if is_synced {
                self.file.sync_data()
            } else {
                Ok(())
            }
        };
        let written = self
            .file
            .write_all_at(&self.newest.encode(), 0)
            .and_then(|()| sync());
        if let (Err(error), false) = (&written, self.is_failing) {
            tracing::warn!(event = "store.progress_failed", %error, "could not record the progress of a journal; a truncated database may go unnoticed after a crash; check the disk");
        }
        self.is_failing = written.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_comes_back_as_it_was_written_and_damage_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(JournalProgress::read(folder.path()), None);
        let progress = JournalProgress {
            commit: 7,
            partition: 2,
            first_seq: 20,
            written: 40,
            next_seq: 16_000,
            low: 12,
        };
        let mut file = ProgressFile::open(
            folder.path(),
            JournalProgress {
                commit: 6,
                ..progress
            },
        )
        .unwrap();
        file.record(progress);
        assert_eq!(JournalProgress::read(folder.path()), Some(progress));
        file.settled(11);
        assert_eq!(
            JournalProgress::read(folder.path()),
            Some(progress),
            "what is settled stays settled"
        );
        file.settled(30);
        assert_eq!(
            JournalProgress::read(folder.path()),
            Some(JournalProgress {
                low: 30,
                ..progress
            })
        );
        let bytes = progress.encode();
        assert_eq!(bytes.len(), BYTES);
        for place in 0..BYTES {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1;
            assert_eq!(JournalProgress::decode(&damaged), None, "byte {place}");
            assert_eq!(
                JournalProgress::decode(&bytes[..place]),
                None,
                "cut at {place}"
            );
        }
    }
}
