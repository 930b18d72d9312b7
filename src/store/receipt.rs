//! The answer to an append.

use tokio::sync::oneshot;

/// The store is closing; nothing was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store is closed")]
pub struct AppendError;

/// How an append ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// On disk, or settled before it had to be.
    Safe(u64),
    /// Not numbered: the store is full and refuses new entries.
    Refused,
    /// Numbered and dropped: the store is full and drops the newest.
    Dropped(u64),
}

/// A promise that one append will be stored.
#[derive(Debug)]
pub struct Receipt(pub(super) Result<oneshot::Receiver<Stored>, Stored>);

impl Receipt {
    /// True if the entry was refused at once.
    pub fn is_refused(&self) -> bool {
        matches!(self.0, Err(Stored::Refused))
    }

    /// Waits until the entry is on disk, settled or dropped.
    pub async fn stored(self) -> Result<Stored, AppendError> {
        match self.0 {
            Ok(answer) => answer.await.map_err(|_| AppendError),
            Err(known) => Ok(known),
        }
    }
}
