//! The thread that owns the journals of a store, because their engine and `fsync` block.
//!
//! Invariants:
//! * A receipt is answered only after a commit, or when the entry is settled. Commits wait at most [`Settings::save_every`] for
//!   company; what is settled meanwhile is never written.
//! * When the disk refuses, nothing is answered and nothing is forgotten: appenders wait, the thread tries again every second,
//!   and says so once. Reading and settling go on meanwhile, so that a full disk can drain.
//! * It ends when every [`Store`] is gone: a last commit, then the folder is unlocked.

mod limit;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::engine::{LEAST_PARTITION_BYTES, io_error, sync_dir, write_private};
use super::folder::lock;
use super::gap::Gap;
use super::machine::Machine;
use super::queue::{
    Inner, Pending, Queue, ReadError, ReadRequest, SaveRequest, Shared, Store, Stored, take_some,
};
use super::reserve::Reserve;
use super::{CHUNK_BYTES, Entry, Journal, PartitionBytes, StoreError};
use crate::heartbeat::Heartbeat;
use crate::time::{clock_is_set, now, unix_ms};

const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long what was settled may stay in memory only; after a crash at most that much is delivered again.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// What a slow card may take for all that is due at once, commits and removals, before the thread counts as stuck.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked for entries that are too old.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What to do when a store has reached its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The oldest entries of the last queue that has any go.
    #[default]
    DropOldest,
    /// What is new is taken and dropped.
    DropNewest,
    /// What is new is not taken.
    Refuse,
}

/// How a store is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// How long an entry may wait for others to share its commit; what a power cut can take from readings.
    pub save_every: Duration,
    /// All partitions of all queues together, in bytes.
    pub total_bytes: u64,
    /// Entries older than this are dropped.
    pub age: Option<Duration>,
    /// What happens at `total_bytes`.
    pub when_full: WhenFull,
}

/// One queue of the store; its journal is made when it is first needed.
#[derive(Debug)]
struct Lane {
    folder: PathBuf,
    journal: Option<Journal>,
    /// Set while the disk refuses.
    retry_at: Option<Instant>,
}

impl Lane {
    /// Bytes it takes, without what is worth nothing any more.
    fn bytes(&self) -> u64 {
        self.journal.as_ref().map_or(0, Journal::bytes)
    }
}

/// Opens the store in `folder` and starts its thread. The queues stand in the order of their worth: what must go goes from the last.
/// The journal of the queue `usual` is made at once, the others when they are needed. The receiver tells when the thread has closed
/// the journals.
pub fn open(
    name: &str,
    folder: &Path,
    queues: &[&str],
    usual: usize,
    settings: Settings,
) -> Result<(Store, oneshot::Receiver<()>), StoreError> {
    let lock = lock(folder)?;
    let reserve = Reserve::of(folder);
    let mut inner = Inner::default();
    let mut lanes = Vec::new();
    let mut states = Vec::new();
    for (index, queue) in queues.iter().enumerate() {
        let folder = folder.join(queue);
        let journal = if index == usual || folder.exists() {
            Some(open_journal(&folder, settings, &reserve)?)
        } else {
            None
        };
        inner.queues.push(journal.as_ref().map_or_else(
            || Queue {
                next_seq: 1,
                ..Queue::default()
            },
            queue_of,
        ));
        states.push(
            journal
                .as_ref()
                .map_or_else(Bytes::new, |journal| journal.state().clone()),
        );
        lanes.push(Lane {
            folder,
            journal,
            retry_at: None,
        });
    }
    let heartbeat = Heartbeat::new(format!("store:{name}"), PATIENCE, now());
    let shared = Arc::new(Shared::new(
        inner,
        settings,
        (states, identity(folder, Machine::of(Path::new("/")))?),
        heartbeat,
    ));
    let (closed_sender, closed) = oneshot::channel();
    let mut worker = Worker {
        shared: shared.clone(),
        lanes,
        settings,
        reserve,
        saves: Vec::new(),
        save_at: None,
        look_at: now(),
        unreadable: false,
        folder: folder.display().to_string(),
        _lock: lock,
    };
    worker.publish();
    let started = std::thread::Builder::new()
        .name(format!("store:{name}"))
        .spawn(move || {
            worker.run();
            // Whoever waits for the end may open the folder again.
            drop(worker);
            let _ = closed_sender.send(());
        });
    started.map_err(|source| StoreError::Folder {
        path: folder.to_owned(),
        source,
    })?;
    Ok((Store::new(shared), closed))
}

fn open_journal(
    folder: &Path,
    settings: Settings,
    reserve: &Reserve,
) -> Result<Journal, StoreError> {
    Journal::open_with(folder, PartitionBytes::of(settings.total_bytes), reserve)
}

fn queue_of(journal: &Journal) -> Queue {
    Queue {
        next_seq: journal.next_seq(),
        reserved: journal.reserved(),
        written: journal.written(),
        on_disk: journal.waiting(),
        ..Queue::default()
    }
}

/// Eight hexadecimal digits, drawn when the folder is made, and again when it is found on another machine than before: two machines must not
/// give the same name to different entries.
fn identity(folder: &Path, here: Machine) -> Result<String, StoreError> {
    let (path, place) = (folder.join("identity"), folder.join("machine"));
    let is_whole =
        |text: &String| text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let known = fs::read_to_string(&path)
        .ok()
        .map(|text| text.trim().to_owned())
        .filter(is_whole);
    let before = fs::read_to_string(&place)
        .ok()
        .and_then(|text| Machine::parse(text.trim()));
    let is_moved = before
        .as_ref()
        .is_some_and(|before| here.is_another_than(before));
    if known.is_some() && is_moved {
        tracing::warn!(event = "outbox.other_machine", path = %folder.display(), "this folder comes from another machine: messages get numbers of a new series (`seq`); if the other machine still runs, give each gateway its own `client_id` (by default it is the site)");
    } else if known.is_none() && path.exists() {
        tracing::warn!(path = %path.display(), "the name of this outbox is damaged and drawn anew: a receiver cannot recognise copies of what was sent before");
    }
    let identity = match known.filter(|_| !is_moved) {
        Some(known) => known,
        None => {
            let drawn = format!("{:08x}", fastrand::u32(..));
            write_small(folder, "identity", &drawn)?;
            drawn
        }
    };
    let machine = match &before {
        Some(before) if !is_moved => here.or(before),
        _ => here,
    };
    if before.as_ref() != Some(&machine) {
        write_small(folder, "machine", &machine.text())?;
    }
    Ok(identity)
}

/// A small file of a folder, written so that it is there as a whole or not at all. On a full disk it is written at the next start:
/// numbers of this run have a name of their own.
fn write_small(folder: &Path, name: &str, text: &str) -> Result<(), StoreError> {
    let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
    let written =
        write_private(&new, format!("{text}\n").as_bytes()).and_then(|()| fs::rename(&new, &path));
    match written
        .map_err(|e| io_error(&path, e))
        .and_then(|()| sync_dir(folder))
    {
        Ok(()) | Err(StoreError::Full { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

struct Worker {
    shared: Arc<Shared>,
    lanes: Vec<Lane>,
    settings: Settings,
    reserve: Reserve,
    /// Not durable yet.
    saves: Vec<SaveRequest>,
    save_at: Option<Instant>,
    look_at: Instant,
    /// The last read failed, and that was told.
    unreadable: bool,
    folder: String,
    _lock: fs::File,
}

/// What one turn has to do.
#[derive(Default)]
struct Turn {
    reads: Vec<ReadRequest>,
    /// Queues that are to be written.
    due: Vec<usize>,
    is_closing: bool,
}

impl Worker {
    fn run(&mut self) {
        loop {
            self.shared.heartbeat.beat(now());
            let turn = self.next_turn();
            self.settle();
            for queue in turn.due {
                self.commit(queue);
            }
            self.answer_saves();
            for read in turn.reads {
                self.read(read);
            }
            self.look_after(now());
            self.publish();
            if turn.is_closing {
                return self.close();
            }
        }
    }

    /// Sleeps until there is something to do.
    fn next_turn(&mut self) -> Turn {
        let shared = self.shared.clone();
        let mut inner = shared.lock();
        loop {
            let at = now();
            let mut turn = Turn {
                reads: std::mem::take(&mut inner.reads),
                due: Vec::new(),
                is_closing: inner.is_closing,
            };
            self.saves.append(&mut inner.saves);
            let wanted = self
                .saves
                .iter()
                .flat_map(|save| save.states.iter().map(|(queue, _)| *queue))
                .collect::<Vec<_>>();
            for (index, (queue, lane)) in inner.queues.iter().zip(&mut self.lanes).enumerate() {
                let may_write = lane.retry_at.is_none_or(|retry| retry <= at);
                let oldest = queue
                    .pending
                    .front()
                    .is_some_and(|pending| pending.due <= at || inner.is_closing);
                let is_due = oldest
                    || queue.pending_bytes >= CHUNK_BYTES
                    || queue.wants_numbers
                    || wanted.contains(&index);
                if is_due && (may_write || inner.is_closing) {
                    turn.due.push(index);
                } else if !is_due {
                    // What could not be written was delivered meanwhile.
                    lane.retry_at = None;
                }
            }
            let has_work =
                !turn.reads.is_empty() || !turn.due.is_empty() || turn.is_closing || inner.is_told;
            let deadline = self.deadline(&inner);
            if has_work || deadline <= at {
                return turn;
            }
            inner = shared
                .wake
                .wait_timeout(inner, deadline - at)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(inner, _)| inner);
        }
    }

    fn deadline(&self, inner: &Inner) -> Instant {
        // While the disk refuses, what is due waits for the next attempt.
        let write = inner.queues.iter().zip(&self.lanes);
        let write = write
            .filter_map(|(queue, lane)| {
                lane.retry_at
                    .or(queue.pending.front().map(|pending| pending.due))
            })
            .min();
        [write, self.save_at, Some(self.look_at)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.look_at)
    }

    /// Takes over what was settled.
    fn settle(&mut self) {
        let shared = self.shared.clone();
        let mut inner = shared.lock();
        inner.is_told = false;
        let mut gaps = Vec::new();
        for (index, (queue, lane)) in inner.queues.iter_mut().zip(&mut self.lanes).enumerate() {
            gaps.extend(queue.gaps.drain(..).map(|gap| (index, gap)));
            let Some(journal) = &mut lane.journal else {
                continue;
            };
            journal.give_out(queue.next_seq);
            for (first, last) in queue.settled.drain(..) {
                journal.settle(first, last);
                if first <= queue.written {
                    self.save_at.get_or_insert_with(|| now() + SAVE_AFTER);
                }
            }
        }
        for (queue, gap) in gaps {
            self.tell(&mut inner, queue, gap);
        }
    }

    /// Writes everything that waits in a queue, with its state.
    fn commit(&mut self, index: usize) {
        let done = self
            .journal(index)
            .and_then(|()| self.enforce_limit())
            .and_then(|()| self.write(index));
        let was_stalled = self.is_stalled();
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.retry_at = done.is_err().then(|| now() + RETRY_AFTER);
        }
        match done {
            Ok(()) if was_stalled && !self.is_stalled() => {
                tracing::info!(folder = %self.folder, "the outbox takes entries again");
            }
            Err(error) if !was_stalled => {
                tracing::error!(folder = %self.folder, %error, "the outbox cannot take more; senders wait, nothing is acknowledged");
            }
            _ => {}
        }
    }

    /// True while the disk refuses.
    fn is_stalled(&self) -> bool {
        self.lanes.iter().any(|lane| lane.retry_at.is_some())
    }

    /// Makes the journal of a queue if there is none yet.
    fn journal(&mut self, index: usize) -> Result<(), StoreError> {
        let Some(lane) = self
            .lanes
            .get_mut(index)
            .filter(|lane| lane.journal.is_none())
        else {
            return Ok(());
        };
        lane.journal = Some(open_journal(&lane.folder, self.settings, &self.reserve)?);
        Ok(())
    }

    fn write(&mut self, index: usize) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let Some(journal) = self
            .lanes
            .get_mut(index)
            .and_then(|lane| lane.journal.as_mut())
        else {
            return Ok(());
        };
        let batch: Vec<Entry> = {
            let mut inner = shared.lock();
            let Some(queue) = inner.queues.get_mut(index) else {
                return Ok(());
            };
            queue.wants_numbers = false;
            journal.give_out(queue.next_seq);
            // What was settled until now leaves holes among the numbers of the batch.
            for (first, last) in queue.settled.drain(..) {
                journal.settle(first, last);
            }
            queue
                .pending
                .iter()
                .map(|pending| pending.entry.clone())
                .collect()
        };
        for (_, state) in self
            .saves
            .iter()
            .flat_map(|save| &save.states)
            .filter(|(queue, _)| *queue == index)
        {
            journal.set_state(state.clone());
        }
        let written = match (batch.is_empty(), has_headroom(&self.reserve)) {
            (true, _) => journal.save(),
            (false, true) => journal.write(&batch),
            (false, false) => Err(StoreError::Full {
                folder: PathBuf::from(&self.folder),
            }),
        };
        let mut is_saved = written.is_ok();
        if let (Err(StoreError::Full { .. }), false) = (&written, batch.is_empty()) {
            // Nothing new fits, but what is on the way out must go on: that is how a full disk gets room.
            is_saved = journal.save().is_ok();
        }
        if is_saved {
            self.saves
                .iter_mut()
                .for_each(|save| save.states.retain(|(queue, _)| *queue != index));
        }
        let mut inner = shared.lock();
        if let Some(queue) = inner.queues.get_mut(index) {
            queue.written = journal.written();
            queue.reserved = journal.reserved();
            let mut done: Vec<Pending> = Vec::new();
            while queue
                .pending
                .front()
                .is_some_and(|pending| pending.entry.seq <= queue.written)
            {
                done.extend(queue.pending.pop_front());
            }
            queue.on_disk += done.len() as u64;
            shared.counters.written.add(done.len() as u64);
            for pending in done {
                queue.pending_bytes -= pending.entry.bytes.len() + 4;
                // Whoever does not wait for it does not care.
                let _ = pending.receipt.send(Stored::Safe(pending.entry.seq));
            }
        }
        drop(inner);
        shared.counters.commits.count();
        shared.numbers.notify_waiters();
        written
    }

    fn answer_saves(&mut self) {
        // A commit that failed is repeated, with its state.
        let (done, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.saves)
            .into_iter()
            .partition(|save| save.states.is_empty());
        self.saves = left;
        for save in done {
            let _ = save.reply.send(());
        }
    }

    fn read(&mut self, request: ReadRequest) {
        let ReadRequest {
            queue,
            after,
            max_entries,
            max_bytes,
            reply,
        } = request;
        let Some(journal) = self
            .lanes
            .get_mut(queue)
            .and_then(|lane| lane.journal.as_mut())
        else {
            return;
        };
        let read = journal.read(after, max_entries, max_bytes);
        if let Err(error) = &read
            && !self.unreadable
        {
            tracing::error!(folder = %self.folder, %error, "what waits cannot be read; trying again");
        }
        self.unreadable = read.is_err();
        let read = read.map_err(|_| ReadError::Disk).map(|entries| {
            if !entries.is_empty() {
                return entries;
            }
            // Nothing is left on disk: what is in memory is next.
            let inner = self.shared.lock();
            inner.queues.get(queue).map_or_else(Vec::new, |queue| {
                let first = queue
                    .pending
                    .partition_point(|pending| pending.entry.seq <= after);
                take_some(
                    queue.pending.range(first..).map(|pending| &pending.entry),
                    max_entries,
                    max_bytes,
                )
            })
        });
        // An uplink that is gone needs no answer.
        let _ = reply.send(read);
    }

    /// What is due from time to time: the cursor, entries that are too old, the limit.
    fn look_after(&mut self, at: Instant) {
        if self.save_at.is_some_and(|due| due <= at) {
            self.save_at = None;
            self.save(at);
        }
        if self.look_at <= at {
            self.look_at = at + LOOK_EVERY;
            if let Some(age) = self.settings.age.filter(|_| clock_is_set()) {
                let limit = unix_ms() - i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                for journal in self
                    .lanes
                    .iter_mut()
                    .filter_map(|lane| lane.journal.as_mut())
                {
                    if let Err(error) = journal.drop_older_than(limit) {
                        tracing::warn!(folder = %self.folder, %error, "old entries could not be removed; trying again");
                    }
                }
            }
            self.look_at_limit();
        }
    }

    /// Makes what was settled durable.
    fn save(&mut self, at: Instant) {
        let is_stalled = self.is_stalled();
        for journal in self
            .lanes
            .iter_mut()
            .filter_map(|lane| lane.journal.as_mut())
        {
            match journal.save() {
                Ok(()) => self.shared.counters.commits.count(),
                Err(error) => {
                    if !is_stalled {
                        tracing::warn!(folder = %self.folder, %error, "what was delivered could not be noted; it may be delivered again after a restart");
                    }
                    self.save_at = Some(at + SAVE_AFTER);
                }
            }
        }
        self.look_at_limit();
    }

    fn publish(&mut self) {
        let shared = self.shared.clone();
        let mut inner = shared.lock();
        for index in 0..self.lanes.len() {
            let Some(journal) = self
                .lanes
                .get_mut(index)
                .and_then(|lane| lane.journal.as_mut())
            else {
                continue;
            };
            for gap in journal.take_gaps() {
                self.tell(&mut inner, index, gap);
            }
            let Some(journal) = self.lanes.get(index).and_then(|lane| lane.journal.as_ref()) else {
                continue;
            };
            if let Some(queue) = inner.queues.get_mut(index) {
                queue.reserved = journal.reserved();
                if queue.settled.is_empty() {
                    queue.on_disk = journal.cursor().unsettled_in(1, queue.written);
                }
            }
            shared.publish_waiting(&inner, index);
        }
        shared.counters.bytes.set(bytes_of(&self.lanes));
        shared.counters.stalled.set(u64::from(self.is_stalled()));
    }

    fn tell(&self, inner: &mut Inner, queue: usize, gap: Gap) {
        let Gap {
            first,
            last,
            reason,
            ..
        } = gap;
        let folder = &self.folder;
        match gap.known_count() {
            Some(count) => tracing::warn!(
                event = "store.lost",
                folder,
                queue,
                first,
                last,
                count,
                ?reason,
                "messages were lost"
            ),
            None => tracing::error!(
                event = "store.lost",
                folder,
                queue,
                first,
                count = "unknown",
                ?reason,
                "an unknown number of messages was lost: a database is damaged, and its `progress` file, which holds the count, is missing; check the disk"
            ),
        }
        self.shared.lose(inner, queue, gap);
    }

    /// All handles are gone, and what waited was committed if the disk lets it.
    fn close(&mut self) {
        for journal in self.lanes.iter_mut().filter_map(|lane| lane.journal.take()) {
            if let Err(error) = journal.close() {
                tracing::error!(folder = %self.folder, %error, "what was delivered could not be noted; it may be delivered again after a restart");
            }
        }
    }
}

fn bytes_of(lanes: &[Lane]) -> u64 {
    lanes.iter().map(Lane::bytes).sum()
}

/// Entries are written only while what was written before can still be opened, delivered and removed.
fn has_headroom(reserve: &Reserve) -> bool {
    reserve
        .free_bytes()
        .is_none_or(|free| free >= LEAST_PARTITION_BYTES + LEAST_PARTITION_BYTES / 2)
}

#[cfg(test)]
mod tests;
