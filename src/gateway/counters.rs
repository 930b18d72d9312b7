//! Publishes the counters of lines, devices and the report for local clients.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::field::counts::LineCounts;
use crate::report::ReportCounts;
use crate::route::StateSender;
use crate::status::sys_topics::SysTopics;

/// How often they are published.
const EVERY: Duration = Duration::from_secs(10);

/// The counters that are published.
pub(super) struct PublishedCounts {
    pub(super) report: Arc<ReportCounts>,
    /// Replaced when the configuration is reloaded.
    pub(super) lines: watch::Receiver<Vec<Arc<LineCounts>>>,
}

impl PublishedCounts {
    /// Publishes them until it is dropped, or the lines are gone. What a busy broker does not take
    /// comes the next time.
    pub(super) async fn publish(mut self, states: StateSender) -> Result<(), String> {
        let mut due = tokio::time::interval(EVERY);
        let mut topics = SysTopics::default();
        loop {
            tokio::select! {
                _ = due.tick() => {}
                changed = self.lines.changed() => if changed.is_err() {
                    return Ok(());
                },
            }
            let lines = self.lines.borrow_and_update();
            topics.publish(&self.report, &lines, |message| states.status(message));
        }
    }
}
