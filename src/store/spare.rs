//! The partition after the next rotation, made ahead of need on a thread of its own: making one takes as long as many commits.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::StoreError;
use super::engine::Partition;

/// Makes at most one partition ahead.
#[derive(Debug)]
pub(super) struct Spare {
    path: PathBuf,
    making: Option<JoinHandle<Result<Partition, StoreError>>>,
}

impl Spare {
    pub(super) fn of(folder: &Path) -> Self {
        Self {
            path: folder.join("new-spare"),
            making: None,
        }
    }

    /// Begins to make one, unless there is one.
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

    /// A prepared partition, in the time it takes.
    pub(super) fn take(&mut self) -> Result<Partition, StoreError> {
        match self.making.take().map(JoinHandle::join) {
            Some(Ok(Ok(partition))) => Ok(partition),
            // What hindered it then may be over.
            _ => Partition::prepare(&self.path),
        }
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if let Some(making) = self.making.take() {
            drop(making.join());
            // An empty partition is no loss, and is deleted at the next start at the latest.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
