//! The tasks of a gateway, and the signs of life of those that could hang.

use super::health::Health;
use super::task::TaskId;
use crate::tasks::Tasks;

/// Notices when a task ends, and when one hangs.
pub(super) struct Supervision {
    pub(super) tasks: Tasks<TaskId>,
    pub(super) health: Health,
}
