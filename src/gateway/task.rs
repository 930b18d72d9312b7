//! What a task of a gateway does, and whose it is.

use std::fmt;

/// The work of a task. It decides which tasks have to end before others are ordered to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum TaskKind {
    /// Polls a line.
    Line,
    /// Turns readings into messages.
    Report,
    /// Takes messages from the broker into an outbox, or to the service that writes to instruments.
    Forward,
    /// Takes states of the gateway into an outbox: its health, and topics below `$SYS`.
    Health,
    /// Publishes counters for local clients.
    Counters,
    /// Runs the local broker.
    Broker,
    /// Accepts connections to the local broker.
    Listener,
    /// Connects to a remote broker.
    Uplink,
    /// Waits for the thread of an outbox, or of the journal of the local broker.
    Store,
}

/// A task: its work, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TaskId {
    pub(super) kind: TaskKind,
    /// `None` if there is only one task of this kind.
    of: Option<String>,
}

impl TaskKind {
    /// The word that begins the names of its tasks in the log.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Line => "bus",
            Self::Report => "report",
            Self::Forward => "forward",
            Self::Health => "health",
            Self::Counters => "counters",
            Self::Broker => "broker",
            Self::Listener => "listener",
            Self::Uplink => "uplink",
            Self::Store => "store",
        }
    }

    /// One of several tasks.
    pub(super) fn of(self, whose: impl fmt::Display) -> TaskId {
        TaskId {
            kind: self,
            of: Some(whose.to_string()),
        }
    }
}

impl From<TaskKind> for TaskId {
    /// The only task of a kind.
    fn from(kind: TaskKind) -> Self {
        Self { kind, of: None }
    }
}

impl fmt::Display for TaskId {
    /// Such as `bus:plant`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.word())?;
        match &self.of {
            Some(of) => write!(f, ":{of}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_named_by_their_work_and_whose_it_is() {
        assert_eq!(TaskKind::Line.of("a:b").to_string(), "bus:a:b");
        assert_eq!(TaskId::from(TaskKind::Report).to_string(), "report");
    }
}
