//! `wellhead outbox purge`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use super::super::line_access::{call, unexpected};
use super::super::reload::gateway_in;
use super::super::{Failure, say};
use super::queues::StoredQueue;
use super::{OutboxLocation, QueueName, progress};
use crate::outbox::{self, Selection};
use crate::status::control::{ControlRequest, Reply};
use crate::store;

/// Deletes nothing; the error says how much would be deleted.
pub(super) fn preview(
    location: &OutboxLocation,
    only: Option<QueueName>,
    selection: &Selection,
) -> Result<(), Failure> {
    let mut counts = Vec::new();
    for queue in location.queues(only)? {
        let count = queue.selected(selection)?.len();
        counts.push(format!(
            "{} {} ({count} messages)",
            queue.uplink, queue.queue
        ));
    }
    Err(Failure::runtime(format!(
        "this would remove {}; add --yes to do it, after `wellhead outbox export` if they are worth keeping",
        counts.join(", ")
    )))
}

/// Deletes the selected messages: through the gateway where one runs, else here.
pub(super) fn purge(
    location: &OutboxLocation,
    only: Option<QueueName>,
    selection: &Selection,
) -> Result<(), Failure> {
    let queues = location.queues(only)?;
    let (running, stopped): (Vec<StoredQueue>, Vec<StoredQueue>) = queues
        .into_iter()
        .partition(|queue| queue.inspection.is_in_use);
    let progress = progress("removing", stopped.iter().map(StoredQueue::waiting).sum());
    for queue in running {
        let removed = ask_to_remove(&queue, location.root()?.as_path(), selection)?;
        report(&queue.uplink, queue.queue, removed);
    }
    for queue in stopped {
        let selected = queue.selected(selection)?;
        let StoredQueue {
            uplink,
            queue,
            folder,
            inspection,
            ..
        } = queue;
        drop(inspection);
        become_owner(&folder)?;
        let removed = if selection.is_everything() {
            store::purge(&folder, queue, outbox::handover, |_| {}).map_err(Failure::runtime)?
        } else {
            store::remove(&folder, queue, outbox::handover, &selected).map_err(Failure::runtime)?;
            selected.len() as u64
        };
        progress.inc(removed);
        report(&uplink, queue, removed);
    }
    progress.finish_and_clear();
    Ok(())
}

fn report(uplink: &str, queue: &str, removed: u64) {
    say(&format!("{uplink} {queue}: {removed} messages removed"));
}

/// Makes the gateway that has a queue open remove the selected messages.
fn ask_to_remove(queue: &StoredQueue, root: &Path, selection: &Selection) -> Result<u64, Failure> {
    let request = ControlRequest::Purge {
        uplink: queue.uplink.clone(),
        queue: Some(queue.queue.to_owned()),
        selection: selection.clone(),
    };
    match call(&mut gateway_in(root)?, &request)? {
        Reply::Purged(counts) => Ok(counts.iter().map(|(_, count)| count).sum()),
        Reply::Refused(why) => Err(Failure::runtime(why)),
        _ => Err(unexpected()),
    }
}

/// Gives this process the rights of the owner of a folder from here on: the service must be able to
/// use the files made there.
fn become_owner(folder: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::runtime(format!(
            "{}: {error}; run this as the owner of the folder",
            folder.display()
        ))
    };
    let owner = fs::metadata(folder).map_err(failed)?;
    if !rustix::process::geteuid().is_root() || owner.uid() == 0 {
        return Ok(());
    }
    // Threads begin with the rights of the one that starts them; there is no other yet.
    set_thread_groups(&[]).map_err(|error| failed(error.into()))?;
    set_thread_gid(Gid::from_raw(owner.gid())).map_err(|error| failed(error.into()))?;
    set_thread_uid(Uid::from_raw(owner.uid())).map_err(|error| failed(error.into()))
}
