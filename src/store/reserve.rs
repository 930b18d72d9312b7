//! A file that only takes up room. On a full disk the engine cannot even open a partition: then the room is given up, so that
//! what waits can be read, delivered and removed, and taken again when there is plenty.

use std::fs;
use std::path::{Path, PathBuf};

use super::engine::write_private;

/// Enough to open two partitions, which the engine pads to whole segments, and as much for each further queue that has any.
const RESERVE_BYTES: usize = 8 << 20;
/// The reserve is taken only while this many times its size is free.
const PLENTY: u64 = 4;

/// The reserve of one journal, or of the journals of one store.
#[derive(Debug, Clone)]
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    pub(super) fn of(folder: &Path) -> Self {
        Self {
            path: folder.join("reserve"),
        }
    }

    /// Gives the room up; false if there was none.
    pub(super) fn spend(&self) -> bool {
        let spent = fs::remove_file(&self.path).is_ok();
        if spent {
            tracing::warn!(reserve = %self.path.display(), "the disk is full; the reserve is used to go on delivering");
        }
        spent
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
        // Real bytes: room that is only promised is not there when it is needed. Without a reserve the journal works all the same.
        if write_private(&self.path, &vec![0xA5; bytes]).is_err() {
            let _ = fs::remove_file(&self.path);
        }
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

    /// What an ordinary user may still write; `None` if the file system does not tell.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let folder = self.path.parent().unwrap_or(&self.path);
        rustix::fs::statvfs(folder)
            .ok()
            .map(|disk| disk.f_bavail * disk.f_frsize)
    }
}
