//! A file that only takes up room. On a full disk the engine cannot even open a partition: then the room is given up, so that
//! what waits can be read, delivered and removed, and taken again when there is plenty.

use std::fs;
use std::path::{Path, PathBuf};

/// Enough to open two partitions, which the engine pads to whole segments.
const RESERVE_BYTES: usize = 8 << 20;
/// The reserve is taken only while this many times its size is free.
const PLENTY: u64 = 4;

/// The reserve of one journal.
#[derive(Debug, Clone)]
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    pub(super) fn of(folder: &Path) -> Self {
        Self { path: folder.join("reserve") }
    }

    /// Gives the room up; false if there was none.
    pub(super) fn spend(&self) -> bool {
        let spent = fs::remove_file(&self.path).is_ok();
        if spent {
            tracing::warn!(reserve = %self.path.display(), "the disk is full; the reserve is used to go on delivering");
        }
        spent
    }

    /// Takes the room if it is not taken and there is plenty.
    pub(super) fn keep(&self) {
        if self.path.exists() || !self.has_plenty() {
            return;
        }
        // Real bytes: room that is only promised is not there when it is needed. Without a reserve the journal works all the same.
        if fs::write(&self.path, vec![0xA5; RESERVE_BYTES]).is_err() {
            let _ = fs::remove_file(&self.path);
        }
    }

    fn has_plenty(&self) -> bool {
        let folder = self.path.parent().unwrap_or(&self.path);
        rustix::fs::statvfs(folder).is_ok_and(|disk| disk.f_bavail * disk.f_frsize > PLENTY * RESERVE_BYTES as u64)
    }
}
