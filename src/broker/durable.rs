//! The broker's records on disk: a thread that writes batches in order and says up to which they are durable.
//!
//! Invariants:
//! * A batch is reported only after the commit it was in. A batch that somebody waits for is written at once, but over a minute
//!   commits are `save_every` apart: what a card must bear is bounded, and batches share commits. What nobody waits for may wait for a
//!   second.
//! * What waits for the disk is bounded. When the disk refuses, or is far too slow, the batches are given up and a checkpoint of the whole
//!   state takes their place as soon as it works; nothing that depends on them is reported before that is durable.
//! * After a checkpoint everything older is settled, and its partitions go.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::engine::{Engine, LeftOut, Position, Restore, Setup};
use super::inbox::{Event, Inbox};
use crate::heartbeat::Heartbeat;
use crate::store::{Journal, PartitionBytes, Reason, StoreError};
use crate::time::{known_unix_ms, now};

const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Bytes that may wait for a disk that refuses.
const MOST_WAITING: usize = 16 << 20;
/// A journal that has grown by this much, and by as much as its state takes, gets a checkpoint.
const LEAST_GROWTH: u64 = 8 << 20;
const PARTITION: PartitionBytes = PartitionBytes(8 << 20);
/// Bytes of a checkpoint in one batch.
pub(super) const CHECKPOINT_PIECE: usize = 128 << 10;
/// How long records that nobody waits for may wait.
const LAZY: Duration = Duration::from_secs(1);
/// Without records nothing is to be done.
const IDLE: Duration = Duration::from_secs(10);
/// What a slow card may take for everything that waits before the thread counts as stuck.
const PATIENCE: Duration = Duration::from_secs(300);
/// Commits of so much time may come at once.
const BURST: Duration = Duration::from_secs(60);
/// Bytes that are worth a commit of their own.
const ENOUGH: usize = 256 << 10;
const READ_ENTRIES: usize = 64;
const READ_BYTES: usize = 1 << 20;

#[derive(Debug)]
enum Item {
    Batch(Position, Bytes),
    /// The next batch begins a checkpoint.
    Begin,
    /// The batches before this end it.
    End,
}

/// What waits for the thread. `bytes` is what its batches take, and `since` is when the oldest item came: the three change together.
#[derive(Debug, Default)]
struct Items {
    items: Vec<Item>,
    bytes: usize,
    since: Option<Instant>,
}

impl Items {
    fn put(&mut self, item: Item) {
        if let Item::Batch(_, batch) = &item {
            self.bytes += batch.len();
        }
        self.since.get_or_insert_with(now);
        self.items.push(item);
    }

    /// Everything; nothing is left.
    fn take(&mut self) -> Vec<Item> {
        std::mem::take(self).items
    }
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Items,
    /// Somebody waits for one of them.
    is_awaited: bool,
    /// The disk does not take what the thread has.
    is_refusing: bool,
    /// What waited was given up.
    was_dropped: bool,
    is_closing: bool,
}

#[derive(Debug, Default)]
struct Queue {
    shared: Mutex<Shared>,
    wake: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Whole between statements, whoever panicked.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the driver puts batches.
#[derive(Debug)]
pub(super) struct Durable {
    queue: Arc<Queue>,
    stage: Stage,
    /// Bytes since the last checkpoint, and of it.
    grown: u64,
    checkpoint_bytes: u64,
    /// Reports below this one count for nothing: the state is not whole on disk.
    hold: Position,
    /// The last batch that was handed over.
    last: Position,
    /// The last report that counted for nothing.
    suppressed: Position,
    inbox: Arc<Inbox>,
    /// Of the thread.
    pub(super) heartbeat: Heartbeat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Writing,
    /// A checkpoint is being written.
    Checkpoint,
    /// The disk refuses and the batches were given up.
    Refused,
}

/// An engine as its journal left it, and the journal.
pub struct Opened {
    /// What was found.
    pub engine: Engine,
    journal: Journal,
    save_every: Duration,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").finish_non_exhaustive()
    }
}

/// Reads the journal in `folder`, making it if needed. Commits will be `save_every` apart.
pub fn open(folder: &Path, setup: Setup, save_every: Duration) -> Result<Opened, StoreError> {
    let mut journal = Journal::open(folder, PARTITION)?;
    let (mut restore, mut after, mut damaged) =
        (Restore::new(setup, now(), known_unix_ms()), 0, 0_u64);
    loop {
        let entries = journal.read(after, READ_ENTRIES, READ_BYTES)?;
        let Some(last) = entries.last() else { break };
        after = last.seq;
        damaged += entries
            .into_iter()
            .map(|entry| u64::from(!restore.batch(entry.bytes)))
            .sum::<u64>();
    }
    let lost = journal.lost() + damaged;
    let is_damaged = lost > 0
        || journal
            .take_gaps()
            .iter()
            .any(|gap| gap.reason == Reason::Damage);
    if is_damaged {
        tracing::error!(folder = %folder.display(), lost, "records of the broker are damaged: sessions or retained messages may be missing");
    }
    let (engine, left_out) = restore.finish();
    if left_out != LeftOut::default() {
        let LeftOut {
            sessions,
            subscriptions,
            wills,
            received,
            deliveries,
        } = left_out;
        let folder = folder.display();
        tracing::warn!(
            event = "broker.restored_in_part", %folder, sessions, subscriptions, wills, received, deliveries,
            "the journal of the broker holds more than the limits allow: the rest was left out; raise max_session_size, max_user_size, max_sessions_size or max_queued_total of the broker and start again from a copy of the folder if it is needed"
        );
    }
    Ok(Opened {
        engine,
        journal,
        save_every,
    })
}

impl Opened {
    /// Starts the thread. The receiver tells when it has closed the journal.
    pub(super) fn start(
        self,
        inbox: Arc<Inbox>,
    ) -> Result<(Engine, Durable, oneshot::Receiver<()>), StoreError> {
        let heartbeat = Heartbeat::new("store:broker", PATIENCE, now());
        let Self {
            engine,
            journal,
            save_every,
        } = self;
        let queue = Arc::new(Queue::default());
        let durable = Durable {
            queue: queue.clone(),
            stage: Stage::Writing,
            // What was found may be mostly over.
            grown: journal.bytes(),
            checkpoint_bytes: 0,
            hold: 0,
            last: 0,
            suppressed: 0,
            inbox: inbox.clone(),
            heartbeat: heartbeat.clone(),
        };
        let (closed_sender, closed) = oneshot::channel();
        let writer = Writer {
            queue,
            inbox,
            journal,
            save_every,
            written_at: now(),
            saved: BURST,
            mark: None,
            refuses: false,
            heartbeat,
        };
        let started = std::thread::Builder::new()
            .name("store:broker".to_owned())
            .spawn(move || {
                writer.run();
                // Whoever waits for it may be gone.
                let _ = closed_sender.send(());
            });
        started.map_err(|source| StoreError::Folder {
            path: "thread".into(),
            source,
        })?;
        Ok((engine, durable, closed))
    }
}

impl Durable {
    /// Takes the records of a turn over, and goes on with a checkpoint that is under way or due.
    pub(super) fn take(&mut self, engine: &mut Engine) {
        if self.stage == Stage::Writing && self.grown > LEAST_GROWTH.max(2 * self.checkpoint_bytes)
        {
            self.begin(engine);
        }
        // A disk that is slower than the checkpoint sets the pace.
        let is_done = self.wants_turns() && engine.go_on_with_checkpoint(CHECKPOINT_PIECE);
        let is_awaited = engine.waits_for_disk();
        let Some((position, batch)) = engine.take_records() else {
            if is_done {
                self.end();
            }
            if is_awaited {
                self.hurry();
            }
            return;
        };
        if self.stage == Stage::Refused {
            return;
        }
        self.grown += batch.len() as u64;
        self.last = position;
        let mut shared = self.queue.lock();
        shared.is_awaited |= is_awaited;
        shared.waiting.put(Item::Batch(position, batch));
        // One batch alone is never too much: there is nothing smaller to put in its place.
        let most = if shared.is_refusing {
            MOST_WAITING
        } else {
            4 * MOST_WAITING
        };
        let is_too_much = shared.waiting.bytes > most && shared.waiting.items.len() > 1;
        if is_too_much {
            drop(shared.waiting.take());
            shared.was_dropped = true;
        }
        drop(shared);
        self.queue.wake.notify_one();
        if is_too_much {
            self.stage = Stage::Refused;
            self.hold = Position::MAX;
        } else if is_done {
            self.end();
        }
    }

    fn begin(&mut self, engine: &mut Engine) {
        // What changed before stands in a batch of its own.
        if let Some((position, batch)) = engine.take_records() {
            self.last = position;
            self.push(Item::Batch(position, batch));
        }
        engine.begin_checkpoint();
        self.stage = Stage::Checkpoint;
        self.grown = 0;
        self.push(Item::Begin);
    }

    fn end(&mut self) {
        self.stage = Stage::Writing;
        self.checkpoint_bytes = self.grown;
        self.grown = 0;
        if self.hold == Position::MAX {
            self.hold = self.last;
            if self.suppressed >= self.last {
                // The last piece was reported before it was known to be the last one.
                self.inbox.push(Event::Durable(self.suppressed));
            }
        }
        self.push(Item::End);
    }

    fn push(&self, item: Item) {
        self.queue.lock().waiting.put(item);
        self.queue.wake.notify_one();
    }

    /// Somebody waits for what is with the thread already.
    fn hurry(&self) {
        let mut shared = self.queue.lock();
        if !shared.is_awaited && !shared.waiting.items.is_empty() {
            shared.is_awaited = true;
            self.queue.wake.notify_one();
        }
    }

    /// True while a checkpoint needs more turns.
    pub(super) fn wants_turns(&self) -> bool {
        self.stage == Stage::Checkpoint && self.queue.lock().waiting.bytes < 4 * CHECKPOINT_PIECE
    }

    /// A report of the thread: what the engine may be told.
    pub(super) fn reported(&mut self, position: Position) -> Option<Position> {
        if position < self.hold {
            self.suppressed = self.suppressed.max(position);
            return None;
        }
        Some(position)
    }

    /// The disk works again: everything is written anew.
    pub(super) fn works_again(&mut self, engine: &mut Engine) {
        if self.stage == Stage::Refused {
            // Given up with the others.
            drop(engine.take_records());
            self.begin(engine);
        }
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        self.queue.lock().is_closing = true;
        self.queue.wake.notify_one();
    }
}

struct Writer {
    queue: Arc<Queue>,
    inbox: Arc<Inbox>,
    journal: Journal,
    save_every: Duration,
    /// When the last commit began.
    written_at: Instant,
    /// Time that commits could have used and did not; at most [`BURST`].
    saved: Duration,
    /// The number of the first entry of the checkpoint under way.
    mark: Option<u64>,
    /// The disk does, and that was told.
    refuses: bool,
    heartbeat: Heartbeat,
}

/// Batches whose entries are to be written, and what to do then.
#[derive(Default)]
struct Round {
    entries: Vec<Bytes>,
    last: Position,
    begins: bool,
    ends: bool,
}

impl Writer {
    fn run(mut self) {
        loop {
            let (items, was_dropped, is_closing) = self.next();
            if was_dropped {
                self.mark = None;
                self.wait_for_disk(is_closing);
            }
            let is_done = items.is_empty();
            for round in rounds(items) {
                if !self.write_round(round) {
                    break;
                }
            }
            if is_done && is_closing {
                return self.close();
            }
        }
    }

    fn next(&mut self) -> (Vec<Item>, bool, bool) {
        let queue = self.queue.clone();
        let mut shared = queue.lock();
        loop {
            let at = now();
            let due = self.due(&shared);
            if shared.is_closing || shared.was_dropped || due.is_some_and(|due| due <= at) {
                break;
            }
            self.heartbeat.beat(at);
            let wait = due.map_or(IDLE, |due| due - at).min(IDLE);
            shared = queue
                .wake
                .wait_timeout(shared, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        shared.is_awaited = false;
        let at = now();
        let earned = self.saved + at.saturating_duration_since(self.written_at);
        self.saved = earned.min(BURST).saturating_sub(self.save_every);
        self.written_at = at;
        (
            shared.waiting.take(),
            std::mem::take(&mut shared.was_dropped),
            shared.is_closing,
        )
    }

    /// When what waits is to be written; `None` if nothing waits.
    fn due(&self, shared: &Shared) -> Option<Instant> {
        let since = shared.waiting.since?;
        let is_free = self.saved >= self.save_every;
        let soon = if is_free {
            since
        } else {
            since.max(self.written_at + (self.save_every - self.saved))
        };
        if shared.waiting.bytes >= ENOUGH {
            return Some(since);
        }
        Some(if shared.is_awaited {
            soon
        } else {
            soon.max(since + LAZY)
        })
    }

    /// False if what waits was given up meanwhile.
    fn write_round(&mut self, round: Round) -> bool {
        let Round {
            mut entries,
            last,
            begins,
            ends,
        } = round;
        if begins {
            self.mark = Some(self.journal.next_seq());
        }
        while !entries.is_empty() {
            self.heartbeat.beat(now());
            let first = self.journal.next_seq();
            let Err(error) = self.journal.append(&entries) else {
                break;
            };
            // Those that were written are not written again.
            let written = usize::try_from((self.journal.written() + 1).saturating_sub(first))
                .unwrap_or(0)
                .min(entries.len());
            entries.drain(..written);
            self.refused(&error);
            if !self.may_go_on() {
                return false;
            }
            std::thread::sleep(RETRY_AFTER);
        }
        self.works();
        if last > 0 {
            self.inbox.push(Event::Durable(last));
        }
        if ends && let Some(mark) = self.mark.take() {
            self.journal.settle(1, mark - 1);
            if let Err(error) = self.journal.save() {
                self.refused(&error);
            }
        }
        true
    }

    /// False if what waits was given up, or the program ends.
    fn may_go_on(&self) -> bool {
        let shared = self.queue.lock();
        !shared.was_dropped && !shared.is_closing
    }

    fn wait_for_disk(&mut self, is_closing: bool) {
        if is_closing {
            return;
        }
        // A batch without records is valid and changes nothing.
        while let Err(error) = self.journal.append(&[Bytes::new()]) {
            self.heartbeat.beat(now());
            self.refused(&error);
            std::thread::sleep(RETRY_AFTER);
            if self.queue.lock().is_closing {
                return;
            }
        }
        self.works();
        self.inbox.push(Event::DiskWorks);
    }

    fn refused(&mut self, error: &StoreError) {
        if !self.refuses {
            tracing::error!(%error, "cannot write the broker's journal; messages that must be durable are not acknowledged until it recovers");
            self.refuses = true;
            self.queue.lock().is_refusing = true;
        }
    }

    fn works(&mut self) {
        if self.refuses {
            tracing::info!("the broker's journal can be written again");
            self.refuses = false;
            self.queue.lock().is_refusing = false;
        }
    }

    fn close(self) {
        if let Err(error) = self.journal.close() {
            tracing::error!(%error, "could not close the broker's journal cleanly; the next start recovers it");
        }
    }
}

/// Cuts items at the beginning and the end of checkpoints.
fn rounds(items: Vec<Item>) -> Vec<Round> {
    let mut rounds = vec![Round::default()];
    for item in items {
        if matches!(item, Item::Begin) {
            rounds.push(Round {
                begins: true,
                ..Round::default()
            });
        }
        let Some(round) = rounds.last_mut() else {
            continue;
        };
        match item {
            Item::Begin => {}
            Item::Batch(position, bytes) => {
                round.entries.push(bytes);
                round.last = position;
            }
            Item::End => {
                round.ends = true;
                rounds.push(Round::default());
            }
        }
    }
    rounds.retain(|round| !round.entries.is_empty() || round.begins || round.ends);
    rounds
}
