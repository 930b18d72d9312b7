//! Why a gateway does not start, or stops without an order.

use super::task::TaskId;
use crate::broker::net::ListenError;
use crate::net::tls::TlsError;
use crate::store::StoreError;
use crate::tasks::Ended;

/// Why a gateway did not start, or stopped without an order.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// An outbox cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A listener cannot be opened.
    #[error("{0}")]
    Listen(#[from] ListenError),
    /// Certificates of the listeners, or of an uplink.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The system gives no thread.
    #[error("a thread cannot start: {0}")]
    Thread(std::io::Error),
    /// A task ended without an order to stop.
    #[error("task {name} ended unexpectedly: {why}")]
    Task {
        /// Which task.
        name: String,
        /// Its error, or its panic.
        why: String,
    },
    /// Tasks that did not end in time.
    #[error("{0} tasks did not stop in time")]
    Stuck(usize),
}

impl From<Ended<TaskId>> for GatewayError {
    fn from(ended: Ended<TaskId>) -> Self {
        let why = ended
            .result
            .err()
            .unwrap_or_else(|| "without a reason".to_owned());
        Self::Task {
            name: ended.name.to_string(),
            why,
        }
    }
}
