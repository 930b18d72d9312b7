//! The tasks of a gateway, the signs of life of those that could hang, and the counters of all.

use std::sync::Arc;

use tokio::sync::watch;

use super::health::Health;
use super::task::TaskId;
use crate::field::counts::LineCounts;
use crate::metrics::MetricRegistry;
use crate::tasks::Tasks;

/// Notices when a task ends, and when one hangs.
pub(super) struct Supervision {
    pub(super) tasks: Tasks<TaskId>,
    pub(super) health: Health,
    pub(super) metrics: MetricRegistry,
}

impl Supervision {
    /// Of a gateway with these lines, which may change.
    pub(super) fn new(lines: watch::Receiver<Vec<Arc<LineCounts>>>) -> Self {
        Self {
            tasks: Tasks::default(),
            health: Health::new(lines),
            metrics: MetricRegistry::default(),
        }
    }
}
