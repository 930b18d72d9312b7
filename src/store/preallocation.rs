//! The partition after the next rotation, made ahead of need on a thread of its own: making one
//! takes as long as many commits.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::StoreError;
use super::engine::Partition;

/// Makes at most one partition ahead.
#[derive(Debug)]
pub(super) struct Preallocation {
    path: PathBuf,
    making: Option<JoinHandle<Result<Partition, StoreError>>>,
}

impl Preallocation {
    pub(super) fn of(folder: &Path) -> Self {
        Self {
            path: folder.join("new-spare"),
            making: None,
        }
    }

    /// Begins to make a partition, unless one was begun.
    pub(super) fn begin(&mut self) {
        if self.making.is_none() {
            let path = self.path.clone();
            // Without a thread it is made when it is needed.
            self.making = std::thread::Builder::new()
                .name("store:spare".to_owned())
                .spawn(move || Partition::prepare(&path))
                .ok();
        }
    }

    /// A prepared partition; waits until it is made.
    pub(super) fn take(&mut self) -> Result<Partition, StoreError> {
        match self.making.take().map(JoinHandle::join) {
            Some(Ok(Ok(partition))) => Ok(partition),
            // The cause of the failure may be gone.
            _ => Partition::prepare(&self.path),
        }
    }
}

impl Drop for Preallocation {
    fn drop(&mut self) {
        if let Some(making) = self.making.take() {
            drop(making.join());
            // An empty partition is no loss; the next start deletes it at the latest.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
