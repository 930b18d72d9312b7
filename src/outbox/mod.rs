//! What has not been delivered to one remote broker: messages in order, on disk, until they are settled.
//!
//! Invariants:
//! * A message is accepted when its receipt says durable, and gone only when it was settled, or given up and counted.
//! * Sequence numbers are those of the store: strictly growing, never used again.
//!
//! What it does not do: it knows no connection and no packet identifier; that is the uplink's.

mod entry;
mod intake;

use std::sync::Arc;

pub use entry::{EntryError, Outgoing};
pub use intake::{Intake, OfferError, SendRule};

use crate::store::{AppendError, Counters, Receipt, Store};

/// How much a single read may bring into memory, in bytes.
const READ_BYTES: usize = 256 * 1024;

/// The handle of an outbox; cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox {
    store: Store,
}

/// A message with its place in the outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// Strictly growing over the life of the outbox.
    pub seq: u64,
    /// What is to be sent.
    pub message: Outgoing,
}

impl Outbox {
    /// An outbox kept in `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Hands a message over; waits while the store is busy. It is accepted when the receipt says so.
    pub async fn append(&self, message: &Outgoing) -> Result<Receipt, AppendError> {
        self.store.append(message.encode()).await
    }

    /// The next messages after `after`, in order. Entries that cannot be read are settled and counted in the log.
    pub async fn read(&self, after: u64, max: usize) -> Result<Vec<Waiting>, AppendError> {
        let mut waiting = Vec::new();
        let mut unreadable = Vec::new();
        for entry in self.store.read(after, max, READ_BYTES).await? {
            match Outgoing::decode(entry.bytes) {
                Ok(message) => waiting.push(Waiting { seq: entry.seq, message }),
                Err(error) => {
                    tracing::error!(seq = entry.seq, %error, "an outbox entry is given up");
                    unreadable.push(entry.seq);
                }
            }
        }
        if !unreadable.is_empty() {
            self.store.settle(unreadable).await;
        }
        Ok(waiting)
    }

    /// The messages are at the remote broker, or can never be.
    pub async fn settle(&self, seqs: Vec<u64>) {
        if !seqs.is_empty() {
            self.store.settle(seqs).await;
        }
    }

    /// Changes whenever something new is there to be read.
    pub fn newest(&self) -> tokio::sync::watch::Receiver<u64> {
        self.store.newest()
    }

    /// Its counters.
    pub fn counters(&self) -> &Arc<Counters> {
        self.store.counters()
    }
}
