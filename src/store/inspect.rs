//! Reads a queue without opening its databases: nothing is changed, and a running gateway is not
//! disturbed.
//!
//! Entries are found by their magic and checksum. Entries that a running gateway holds in memory
//! only are not seen.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::StoreError;
use super::chunk::Chunk;
use super::commit_record::CommitRecord;
use super::engine::io_error;
use super::entry::Entry;
use super::folder::{Sealed, partitions, read_what_can_be_read};

/// Why a folder cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A person's mistake, or the disk.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// There is no queue there.
    #[error("{0} holds no outbox; name the folder of `outbox.folder`, or the YAML file")]
    Absent(PathBuf),
}

/// A queue as it is on disk.
#[derive(Debug)]
pub struct Inspection {
    folder: PathBuf,
    partitions: VecDeque<Sealed>,
    /// The settled numbers and the state, as of the last commit.
    pub record: CommitRecord,
    /// True if a process has it open.
    pub is_in_use: bool,
}

impl Inspection {
    /// Inspects the queue in `folder`.
    pub fn of(folder: &Path) -> Result<Self, InspectError> {
        if !folder.join("LOCK").exists() {
            return Err(InspectError::Absent(folder.to_owned()));
        }
        // Held for a moment only: a gateway that starts meanwhile must not find it taken.
        let lock = File::options()
            .write(true)
            .open(folder.join("LOCK"))
            .map_err(|e| io_error(folder, e))?;
        let is_in_use = matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock));
        drop(lock);
        let partitions = partitions(folder)?;
        let mut record = CommitRecord::default();
        for partition in partitions.iter().rev() {
            let bytes = read_if_there(&partition.path(folder))?;
            let found = Chunk::carve(&bytes, partition.salt)
                .filter_map(|chunk| CommitRecord::of(&chunk))
                .max_by_key(|record| record.number);
            if let Some(found) = found {
                record = found;
                break;
            }
        }
        let oldest = partitions.front().map_or(1, |oldest| oldest.first_seq);
        record.cursor.settle(1, oldest - 1);
        Ok(Self {
            folder: folder.to_owned(),
            partitions,
            record,
            is_in_use,
        })
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.partitions
            .iter()
            .map(|partition| partition.bytes)
            .sum()
    }

    /// Partitions that were set aside because they were damaged.
    pub fn quarantined(&self) -> usize {
        fs::read_dir(self.folder.join("quarantine")).map_or(0, Iterator::count)
    }

    /// The entries that wait in the partition with this index, in order.
    pub fn read(&self, index: usize) -> Result<Vec<Entry>, InspectError> {
        let Some(partition) = self.partitions.get(index) else {
            return Ok(Vec::new());
        };
        let end = self
            .partitions
            .get(index + 1)
            .map_or(u64::MAX, |next| next.first_seq);
        let bytes = read_if_there(&partition.path(&self.folder))?;
        let waits = |seq: u64| {
            (partition.first_seq..end).contains(&seq) && !self.record.cursor.is_settled(seq)
        };
        let entries = whole_entries(Chunk::carve(&bytes, partition.salt));
        Ok(entries
            .into_iter()
            .filter(|(seq, _)| waits(*seq))
            .map(|(seq, bytes)| Entry { seq, bytes })
            .collect())
    }
}

/// The entries in some chunks by their numbers; those with a part missing are left out.
fn whole_entries(chunks: impl Iterator<Item = Chunk>) -> BTreeMap<u64, Bytes> {
    let mut whole = BTreeMap::new();
    // By number and part: how many parts there are, and the part.
    let mut torn: BTreeMap<u64, BTreeMap<u32, (u32, Bytes)>> = BTreeMap::new();
    for chunk in chunks {
        match chunk {
            Chunk::Entries(entries) => {
                whole.extend(entries.into_iter().map(|entry| (entry.seq, entry.bytes)));
            }
            Chunk::Part {
                seq,
                part,
                parts,
                bytes,
            } => {
                torn.entry(seq).or_default().insert(part, (parts, bytes));
            }
            Chunk::CommitRecord { .. } => {}
        }
    }
    for (seq, found) in torn {
        let parts = found.last_key_value().map_or(0, |(_, (parts, _))| *parts);
        if found.len() >= parts as usize {
            let bytes = found.into_values().map(|(_, bytes)| bytes);
            whole.insert(seq, bytes.collect::<Vec<_>>().concat().into());
        }
    }
    whole
}
/// The database of a partition; nothing if it was delivered and removed meanwhile.
fn read_if_there(partition: &Path) -> Result<Vec<u8>, StoreError> {
    let database = partition.join("db");
    if database.exists() {
        read_what_can_be_read(&database)
    } else {
        Ok(Vec::new())
    }
}
