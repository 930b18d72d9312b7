//! The tasks of a gateway, and the signs of life of those that could hang.

use std::fmt::Display;

use super::health::Health;
use crate::tasks::Tasks;

/// Notices when a task ends, and when one hangs.
pub(super) struct Supervision {
    pub(super) tasks: Tasks,
    pub(super) health: Health,
}

/// The work of a task. The name of each task begins with the word of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TaskKind {
    /// Polls a line.
    Line,
    /// Turns readings into messages.
    Report,
    /// Takes messages from the broker into an outbox, or to the service that writes to instruments.
    Forward,
    /// Takes messages about the health of the gateway into an outbox.
    Health,
    /// Runs the local broker.
    Broker,
    /// Accepts connections to the local broker.
    Listener,
    /// Connects to a remote broker.
    Uplink,
    /// Waits for the thread of an outbox, or of the journal of the local broker.
    Store,
}

impl TaskKind {
    const ALL: [Self; 8] = [
        Self::Line,
        Self::Report,
        Self::Forward,
        Self::Health,
        Self::Broker,
        Self::Listener,
        Self::Uplink,
        Self::Store,
    ];

    /// The prefix of its tasks' names; the whole name, if there is only one.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Line => "bus",
            Self::Report => "report",
            Self::Forward => "forward",
            Self::Health => "health",
            Self::Broker => "broker",
            Self::Listener => "listener",
            Self::Uplink => "uplink",
            Self::Store => "store",
        }
    }

    /// The name of one of several tasks, such as `bus:plant`.
    pub(super) fn task(self, of: impl Display) -> String {
        format!("{}:{of}", self.word())
    }

    /// The kind of the task with this name.
    pub(super) fn of(task: &str) -> Option<Self> {
        let word = task.split(':').next()?;
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_the_kind_that_its_name_begins_with() {
        for kind in TaskKind::ALL {
            assert_eq!(TaskKind::of(&kind.task("a:b")), Some(kind));
            assert_eq!(TaskKind::of(kind.word()), Some(kind));
        }
        assert_eq!(TaskKind::of("bus-stop"), None);
    }
}
