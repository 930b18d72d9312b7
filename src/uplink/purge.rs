//! Orders to remove messages for good while the gateway runs.

use tokio::sync::{mpsc, oneshot};

use crate::outbox::{QUEUES, Selection};

/// Orders that may wait.
const ORDERS: usize = 4;

/// An order to remove messages for good.
#[derive(Debug)]
pub struct Purge {
    /// Only this queue, by its index in [`QUEUES`].
    pub queue: Option<usize>,
    /// Which messages.
    pub selection: Selection,
    /// Told how many were removed, by queue; the error says that the rest could not be read.
    pub reply: oneshot::Sender<Result<Removed, String>>,
}

/// Messages removed from each queue.
pub type Removed = [u64; QUEUES.len()];

/// Takes orders to an uplink that runs.
pub type Purges = mpsc::Sender<Purge>;

/// Both ends of the way of orders.
pub(super) fn orders() -> (Purges, mpsc::Receiver<Purge>) {
    mpsc::channel(ORDERS)
}
