//! A file that only takes up room. On a full disk the engine cannot even open a partition: then the
//! room is released, so that queued entries can be read, delivered and removed; it is taken again
//! when there is plenty.

use std::fs;
use std::path::{Path, PathBuf};

use super::engine::{LEAST_PARTITION_BYTES, write_private};

/// Enough to open two partitions, which the engine pads to whole segments, and as much for each
/// further queue that has any.
const RESERVE_BYTES: usize = 8 << 20;
/// The reserve is taken only while this many times its size is free.
const PLENTY: u64 = 4;

/// The reserve of one journal, or of the journals of one store.
#[derive(Debug, Clone)]
pub(super) struct EmergencyReserve {
    path: PathBuf,
}

impl EmergencyReserve {
    pub(super) fn of(folder: &Path) -> Self {
        Self {
            path: folder.join("reserve"),
        }
    }

    /// Releases the room; false if there was none.
    pub(super) fn release(&self) -> bool {
        let is_released = fs::remove_file(&self.path).is_ok();
        if is_released {
            tracing::warn!(event = "store.reserve_released", reserve = %self.path.display(), "disk full: released emergency reserve so delivery can continue; free some space");
        }
        is_released
    }

    /// Takes the room if it is not taken whole and there is plenty.
    pub(super) fn keep(&self) {
        let bytes = self.wanted_bytes();
        let is_whole = fs::metadata(&self.path).is_ok_and(|meta| meta.len() >= bytes as u64);
        if is_whole
            || self
                .free_bytes()
                .is_none_or(|free| free <= PLENTY * bytes as u64)
        {
            return;
        }
        // Real bytes: a sparse file reserves nothing. Without a reserve the journal works all the
        // same.
        if write_private(&self.path, &vec![0xA5; bytes]).is_err() {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// True while entries may be written: those written before can still be opened, delivered and
    /// removed then. Also true if the file system does not say how much is free.
    pub(super) fn has_headroom(&self) -> bool {
        self.free_bytes()
            .is_none_or(|free| free >= LEAST_PARTITION_BYTES + LEAST_PARTITION_BYTES / 2)
    }

    fn wanted_bytes(&self) -> usize {
        let beside = self
            .path
            .parent()
            .and_then(|folder| fs::read_dir(folder).ok());
        let queues = beside
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().join("LOCK").exists())
            .count();
        RESERVE_BYTES * queues.max(1)
    }

    /// Bytes that an ordinary user may still write; `None` if the file system does not say.
    fn free_bytes(&self) -> Option<u64> {
        let folder = self.path.parent().unwrap_or(&self.path);
        rustix::fs::statvfs(folder)
            .ok()
            .map(|disk| disk.f_bavail * disk.f_frsize)
    }
}
