//! The thread that owns a journal, because its engine and `fsync` block, and the handle everybody else holds.
//!
//! Invariants:
//! * An append is answered only after its commit. Commits wait at most [`Settings::save_every`] for company.
//! * When the disk refuses, nothing is answered and nothing is forgotten: senders wait, the thread tries again every second,
//!   and says so once. Reading and settling go on meanwhile, so that a full disk can drain.
//! * It ends when every [`Store`] is gone: a last commit, the cursor, then the folder is unlocked.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{CHUNK_BYTES, Entry, Journal, Limits, StoreError};
use crate::metrics::{Counter, Gauge};
use crate::time::now;

/// Appends that may wait for the thread; beyond it senders wait.
const APPEND_QUEUE: usize = 1024;
/// Bytes of appends that may wait.
const APPEND_BYTES: usize = 8 << 20;
const CONTROL_QUEUE: usize = 64;
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long what was settled may stay in memory only; after a crash at most that much is delivered again.
const SAVE_CURSOR_EVERY: Duration = Duration::from_secs(1);

/// How a journal is kept.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long an append may wait for others to share its commit; what a power cut can take from readings not yet accepted.
    pub save_every: Duration,
    /// Bounds.
    pub limits: Limits,
}

/// The journal is closing; nothing was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store is closed")]
pub struct AppendError;

/// What a journal tells about itself.
#[derive(Debug, Default)]
pub struct Counters {
    /// Entries that are not settled, on disk or on their way to it.
    pub waiting: Gauge,
    /// Bytes on disk.
    pub bytes: Gauge,
    /// Entries made durable.
    pub appended: Counter,
    /// Commits, one `fdatasync` each.
    pub commits: Counter,
    /// Entries given up: limit reached or damage.
    pub lost: Gauge,
    /// 1 while the disk refuses to take more.
    pub stalled: Gauge,
}

struct Append {
    bytes: Bytes,
    reply: oneshot::Sender<u64>,
    /// Its share of the bytes that may wait.
    _room: OwnedSemaphorePermit,
}

enum Control {
    Settle(Vec<u64>),
    Read { after: u64, max_entries: usize, max_bytes: usize, reply: oneshot::Sender<Vec<Entry>> },
}

/// A handle; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    appends: flume::Sender<Append>,
    control: flume::Sender<Control>,
    newest: watch::Receiver<u64>,
    counters: Arc<Counters>,
    room: Arc<Semaphore>,
}

/// A promise that one append will be durable.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<u64>);

impl Receipt {
    /// Waits for the commit and returns the sequence number.
    pub async fn durable(self) -> Result<u64, AppendError> {
        self.0.await.map_err(|_| AppendError)
    }
}

impl Store {
    /// Hands an entry over; waits while the queue is full. The receipt tells when it is durable.
    pub async fn append(&self, bytes: Bytes) -> Result<Receipt, AppendError> {
        let size = u32::try_from(bytes.len().clamp(1, APPEND_BYTES)).unwrap_or(u32::MAX);
        let room = self.room.clone().acquire_many_owned(size).await.map_err(|_| AppendError)?;
        let (reply, receipt) = oneshot::channel();
        self.appends.send_async(Append { bytes, reply, _room: room }).await.map_err(|_| AppendError)?;
        Ok(Receipt(receipt))
    }

    /// Marks entries as done. They may come back after a crash within the next second.
    pub async fn settle(&self, seqs: Vec<u64>) {
        // A closed store keeps its entries: they are delivered again after the next start.
        let _ = self.control.send_async(Control::Settle(seqs)).await;
    }

    /// The next entries after `after` that are not settled, in order; none if there are none yet.
    pub async fn read(&self, after: u64, max_entries: usize, max_bytes: usize) -> Result<Vec<Entry>, AppendError> {
        let (reply, answer) = oneshot::channel();
        self.control.send_async(Control::Read { after, max_entries, max_bytes, reply }).await.map_err(|_| AppendError)?;
        answer.await.map_err(|_| AppendError)
    }

    /// Changes whenever something new became durable; carries the newest sequence number.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.clone()
    }

    /// Its counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

/// Opens the journal in `folder` and starts its thread. The receiver tells when the thread has closed the journal.
pub fn open(name: &str, folder: &Path, settings: Settings) -> Result<(Store, oneshot::Receiver<()>), StoreError> {
    let journal = Journal::open(folder, settings.limits)?;
    let (appends, append_queue) = flume::bounded(APPEND_QUEUE);
    let (control, control_queue) = flume::bounded(CONTROL_QUEUE);
    let (newest_sender, newest) = watch::channel(journal.next_seq() - 1);
    let (closed_sender, closed) = oneshot::channel();
    let counters = Arc::new(Counters::default());
    let mut worker = Worker {
        journal,
        save_every: settings.save_every,
        appends: append_queue,
        control: control_queue,
        newest: newest_sender,
        counters: counters.clone(),
        pending: Vec::new(),
        pending_bytes: 0,
        commit_at: None,
        save_at: None,
        stalled: false,
        unreadable: false,
        on_disk: 0,
        folder: folder.display().to_string(),
    };
    worker.publish_counters();
    std::thread::Builder::new()
        .name(format!("store:{name}"))
        .spawn(move || {
            worker.run();
            let _ = closed_sender.send(());
        })
        .map_err(|source| StoreError::Folder { path: folder.to_owned(), source })?;
    Ok((Store { appends, control, newest, counters, room: Arc::new(Semaphore::new(APPEND_BYTES)) }, closed))
}

struct Worker {
    journal: Journal,
    save_every: Duration,
    appends: flume::Receiver<Append>,
    control: flume::Receiver<Control>,
    newest: watch::Sender<u64>,
    counters: Arc<Counters>,
    pending: Vec<Append>,
    pending_bytes: usize,
    commit_at: Option<Instant>,
    save_at: Option<Instant>,
    stalled: bool,
    /// The last read failed, and that was told.
    unreadable: bool,
    /// Unsettled entries in the journal, as of the last commit or settling.
    on_disk: u64,
    folder: String,
}

enum Woken {
    Append(Result<Append, flume::RecvError>),
    Control(Result<Control, flume::RecvError>),
    Deadline,
}

impl Worker {
    fn run(mut self) {
        loop {
            match self.next() {
                Woken::Append(Ok(append)) => self.take(append),
                Woken::Control(Ok(control)) => self.obey(control),
                Woken::Deadline => {}
                Woken::Append(Err(_)) | Woken::Control(Err(_)) => break,
            }
            let at = now();
            if self.commit_at.is_some_and(|due| due <= at) || (self.pending_bytes >= CHUNK_BYTES && !self.stalled) {
                self.commit();
            }
            if self.save_at.is_some_and(|due| due <= at) {
                self.save_cursor();
            }
        }
        self.close();
    }

    fn next(&self) -> Woken {
        let mut selector = flume::Selector::new().recv(&self.control, Woken::Control);
        if !self.stalled {
            selector = selector.recv(&self.appends, Woken::Append);
        }
        match [self.commit_at, self.save_at].into_iter().flatten().min() {
            Some(deadline) => selector.wait_deadline(deadline).unwrap_or(Woken::Deadline),
            None => selector.wait(),
        }
    }

    fn take(&mut self, append: Append) {
        self.pending_bytes += append.bytes.len() + 4;
        self.pending.push(append);
        self.publish_waiting();
        self.commit_at.get_or_insert_with(|| now() + self.save_every);
    }

    fn obey(&mut self, control: Control) {
        match control {
            Control::Settle(seqs) => {
                for seq in seqs {
                    self.journal.settle(seq);
                }
                self.save_at.get_or_insert_with(|| now() + SAVE_CURSOR_EVERY);
                self.publish_counters();
            }
            Control::Read { after, max_entries, max_bytes, reply } => {
                let read = self.journal.read(after, max_entries, max_bytes);
                if let Err(error) = &read
                    && !self.unreadable
                {
                    tracing::error!(folder = %self.folder, %error, "what waits cannot be read; trying again");
                }
                self.unreadable = read.is_err();
                // An uplink that is gone needs no answer.
                let _ = reply.send(read.unwrap_or_default());
            }
        }
    }

    fn commit(&mut self) {
        let entries: Vec<Bytes> = self.pending.iter().map(|append| append.bytes.clone()).collect();
        let first = self.journal.next_seq();
        let done = self.journal.append(&entries);
        let accepted = usize::try_from(self.journal.next_seq() - first).unwrap_or(usize::MAX).min(self.pending.len());
        let rest = self.pending.split_off(accepted);
        let answered = std::mem::replace(&mut self.pending, rest);
        for (append, seq) in answered.into_iter().zip(first..) {
            let _ = append.reply.send(seq);
        }
        self.pending_bytes = self.pending.iter().map(|append| append.bytes.len() + 4).sum();
        self.counters.appended.add(accepted as u64);
        self.counters.commits.count();
        match done {
            Ok(_) => {
                self.commit_at = None;
                self.save_at = None;
                self.resume();
            }
            Err(error) => self.stall(&error),
        }
        if accepted > 0 {
            self.newest.send_replace(self.journal.next_seq() - 1);
        }
        self.publish_counters();
    }

    fn stall(&mut self, error: &StoreError) {
        if !self.stalled {
            tracing::error!(folder = %self.folder, %error, "the outbox cannot take more; senders wait, nothing is acknowledged");
        }
        self.stalled = true;
        self.commit_at = Some(now() + RETRY_AFTER);
    }

    fn resume(&mut self) {
        if self.stalled {
            tracing::info!(folder = %self.folder, "the outbox takes entries again");
        }
        self.stalled = false;
    }

    fn save_cursor(&mut self) {
        self.save_at = None;
        match self.journal.save_cursor() {
            Ok(()) => self.counters.commits.count(),
            Err(error) => {
                if !self.stalled {
                    tracing::warn!(folder = %self.folder, %error, "what was delivered could not be noted; it may be delivered again after a restart");
                }
                self.save_at = Some(now() + SAVE_CURSOR_EVERY);
            }
        }
        self.publish_counters();
    }

    fn publish_waiting(&self) {
        let accepted = self.pending.len() + self.appends.len();
        self.counters.waiting.set(self.on_disk + accepted as u64);
    }

    fn publish_counters(&mut self) {
        self.on_disk = self.journal.waiting();
        self.publish_waiting();
        self.counters.bytes.set(self.journal.bytes());
        self.counters.lost.set(self.journal.lost());
        self.counters.stalled.set(u64::from(self.stalled));
    }

    /// All handles are gone: what is still queued is committed if the disk lets it.
    fn close(mut self) {
        while let Ok(append) = self.appends.try_recv() {
            self.take(append);
        }
        while let Ok(control) = self.control.try_recv() {
            self.obey(control);
        }
        if !self.pending.is_empty() {
            self.commit();
        }
        if let Err(error) = self.journal.save_cursor() {
            tracing::error!(folder = %self.folder, %error, "what was delivered could not be noted; it may be delivered again after a restart");
        }
    }
}
