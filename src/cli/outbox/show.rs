//! `wellhead outbox show`.

use serde::Serialize;

use super::super::Failure;
use super::queues::StoredQueue;
use super::{OutboxLocation, put, put_json};
use crate::outbox::Content;
use crate::store::Entry;
use crate::time::rfc3339;

/// A line of the command.
#[derive(Serialize)]
struct QueueRow<'a> {
    uplink: &'a str,
    queue: &'static str,
    waiting: u64,
    bytes: u64,
    /// When the oldest was handed over.
    oldest: Option<String>,
    newest: Option<String>,
    quarantined: usize,
    running: bool,
}

impl StoredQueue {
    fn row(&self) -> Result<QueueRow<'_>, Failure> {
        let partitions = self.inspection.partitions();
        Ok(QueueRow {
            uplink: &self.uplink,
            queue: self.queue,
            waiting: self.waiting(),
            bytes: self.inspection.bytes(),
            oldest: self.first_time(0..partitions, <[Entry]>::first)?,
            newest: self.first_time((0..partitions).rev(), <[Entry]>::last)?,
            quarantined: self.inspection.quarantined(),
            running: self.inspection.is_in_use,
        })
    }

    /// The time of the entry that is picked in the first partition that has a readable one.
    fn first_time(
        &self,
        partitions: impl Iterator<Item = usize>,
        pick: impl Fn(&[Entry]) -> Option<&Entry>,
    ) -> Result<Option<String>, Failure> {
        for index in partitions {
            let entries = self.inspection.read(index).map_err(Failure::runtime)?;
            if let Some(time) = pick(&entries).and_then(|entry| self.time(entry)) {
                return Ok(Some(time));
            }
        }
        Ok(None)
    }

    /// When a message was handed over, or a dead letter given up.
    fn time(&self, entry: &Entry) -> Option<String> {
        match self.content(entry) {
            Ok(Content::Message(message)) => Some(rfc3339(message.enqueued.unix_ms)),
            Ok(Content::Dead(dead)) => Some(rfc3339(dead.buried.unix_ms)),
            Err(_) => None,
        }
    }
}

pub(super) fn show(location: &OutboxLocation, json: bool) -> Result<(), Failure> {
    let queues = location.queues(None)?;
    let mut out = std::io::stdout().lock();
    if !json {
        put(
            &mut out,
            &format!(
                "{:<16} {:<8} {:>12} {:>10}  {:<24}  {:<24}\n",
                "uplink", "queue", "waiting", "on disk", "oldest", "newest"
            ),
        )?;
    }
    for queue in &queues {
        let row = queue.row()?;
        if json {
            put_json(&mut out, &row)?;
            continue;
        }
        let size = bytesize::ByteSize(row.bytes).to_string();
        let (oldest, newest) = (
            row.oldest.as_deref().unwrap_or("-"),
            row.newest.as_deref().unwrap_or("-"),
        );
        let mut remarks = String::new();
        if row.running {
            remarks.push_str("  running: what is in memory is not counted");
        }
        if row.quarantined > 0 {
            remarks.push_str(&format!(
                "  {} damaged partitions in quarantine",
                row.quarantined
            ));
        }
        put(
            &mut out,
            &format!(
                "{:<16} {:<8} {:>12} {size:>10}  {oldest:<24}  {newest:<24}{remarks}\n",
                row.uplink, row.queue, row.waiting
            ),
        )?;
    }
    Ok(())
}
