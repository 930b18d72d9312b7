//! Looking into a queue without opening its databases: nothing is changed, and a running gateway is not disturbed.
//!
//! Entries are found by their magic and checksum. What a running gateway holds in memory only is not seen.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bytes::BytesMut;

use super::StoreError;
use super::chunk::{Chunk, Entry};
use super::engine::io_error;
use super::folder::{Sealed, partitions, read_what_can_be_read};
use super::note::Note;

/// Why a folder cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A person's mistake, or the disk.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// There is no queue there.
    #[error("{0} holds no outbox; name the folder of `outbox.folder`, or the YAML file")]
    Absent(PathBuf),
}

/// A queue as it stands on disk.
#[derive(Debug)]
pub struct Inspection {
    folder: PathBuf,
    partitions: VecDeque<Sealed>,
    /// What is settled, as of the last commit.
    pub note: Note,
    /// True if a process has it open.
    pub is_in_use: bool,
}

impl Inspection {
    /// Looks into the queue in `folder`.
    pub fn of(folder: &Path) -> Result<Self, InspectError> {
        if !folder.join("LOCK").exists() {
            return Err(InspectError::Absent(folder.to_owned()));
        }
        // Held no longer than it takes to know: a gateway that starts meanwhile must not find it taken.
        let lock = File::options()
            .write(true)
            .open(folder.join("LOCK"))
            .map_err(|e| io_error(folder, e))?;
        let is_in_use = matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock));
        drop(lock);
        let partitions = partitions(folder)?;
        let mut note = Note::default();
        for partition in partitions.iter().rev() {
            let bytes = read_if_there(&partition.path(folder))?;
            let found = Chunk::carve(&bytes, partition.salt)
                .filter_map(|chunk| Note::of(&chunk))
                .max_by_key(|note| note.number);
            if let Some(found) = found {
                note = found;
                break;
            }
        }
        let oldest = partitions.front().map_or(1, |oldest| oldest.first_seq);
        note.cursor.settle(1, oldest - 1);
        Ok(Self {
            folder: folder.to_owned(),
            partitions,
            note,
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

    /// What waits in the partition with this index, in order.
    pub fn read(&self, index: usize) -> Result<Vec<Entry>, InspectError> {
        let Some(partition) = self.partitions.get(index) else {
            return Ok(Vec::new());
        };
        let end = self
            .partitions
            .get(index + 1)
            .map_or(u64::MAX, |next| next.first_seq);
        let bytes = read_if_there(&partition.path(&self.folder))?;
        let mut found = BTreeMap::new();
        let mut parts: BTreeMap<u64, BTreeMap<u32, Chunk>> = BTreeMap::new();
        for chunk in Chunk::carve(&bytes, partition.salt) {
            match chunk {
                Chunk::Entries(entries) => {
                    found.extend(entries.into_iter().map(|entry| (entry.seq, entry.bytes)));
                }
                Chunk::Part { seq, part, .. } => {
                    drop(parts.entry(seq).or_default().insert(part, chunk));
                }
                Chunk::Note { .. } => {}
            }
        }
        for (seq, pieces) in parts {
            let mut whole = BytesMut::new();
            let mut missing = 0;
            for piece in pieces.values() {
                if let Chunk::Part { bytes, parts, .. } = piece {
                    whole.extend_from_slice(bytes);
                    missing = *parts as usize - pieces.len().min(*parts as usize);
                }
            }
            if missing == 0 {
                found.insert(seq, whole.freeze());
            }
        }
        let waits = |seq: &u64| {
            *seq >= partition.first_seq && *seq < end && !self.note.cursor.is_settled(*seq)
        };
        Ok(found
            .into_iter()
            .filter(|(seq, _)| waits(seq))
            .map(|(seq, bytes)| Entry { seq, bytes })
            .collect())
    }
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
