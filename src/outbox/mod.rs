//! The messages that were not delivered to one remote broker yet: in order, on disk, until they are
//! settled.
//!
//! Invariants:
//! * A message is accepted when its receipt says safe, and gone only when it was settled, or given
//!   up, counted and reported as a gap.
//! * Three lanes, each in order: all alarms before anything live, all live messages before the
//!   backlog. A reading of the backlog does not take the place of a newer one at the remote.
//! * Sequence numbers are those of the store, one series a lane: strictly growing, never used
//!   again.
//! * A message that was handed over is sent only once it is on disk, and its hand-over is known
//!   after a crash, also if it has left the outbox.
//! * A message that the remote permanently refuses is kept as a dead letter, in a queue of its own.
//!
//! It knows no connection and no packet identifier; those are the uplink's.

mod columns;
mod counts;
mod entry;
mod handed;
mod newest;
mod rated;
mod schemas;
mod selection;
mod source;

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub use columns::ColumnTable;
pub use counts::OutboxCounts;
pub use entry::{Content, DeadLetter, EntryError, Outgoing};
pub use handed::handover;
pub use rated::RatedRule;
pub use schemas::SavedSchema;
pub use selection::{Filter, Selection};
pub use source::ReadingSource;
use tokio::sync::{oneshot, watch};

use self::columns::Columns;
use self::newest::NewestRetained;
use crate::heartbeat::Heartbeat;
use crate::message::Lane;
use crate::reading::Timestamp;
use crate::store::{self, Entry, Store, StoreError, StoreQueues};
pub use crate::store::{
    AppendError, EntryId, Gap, Handover, HandoverBook, ReadError, Reason, Receipt, Settings,
    Stored, WhenFull,
};
use crate::time::moment;

/// The queues of an outbox, in the order of their importance: at the limit the last loses entries
/// first.
pub const QUEUES: [&str; 4] = ["alarm", "live", "backlog", "dead"];
/// The lanes in the order in which they are sent.
pub const LANES: [Lane; 3] = [Lane::Alarm, Lane::Live, Lane::Backlog];
const DEAD: usize = 3;
/// Above the numbers of sessions.
const SOURCES: u64 = 1 << 48;

/// Bytes that a single read brings into memory, about.
const READ_BYTES: usize = 256 * 1024;

/// The handle of an outbox; cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox {
    store: Store,
    columns: Columns,
    age: Option<Duration>,
    counts: Arc<OutboxCounts>,
    newest_retained: NewestRetained,
    folder: Arc<Path>,
}

/// A message with its number in the outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// Its lane.
    pub lane: Lane,
    /// Strictly growing over the life of the lane.
    pub seq: u64,
    /// The message.
    pub message: Outgoing,
}

impl Waiting {
    /// Its entry in the store.
    pub fn place(&self) -> EntryId {
        EntryId {
            queue: self.lane as usize,
            seq: self.seq,
        }
    }
}

/// Opens the outbox in `folder` and starts its thread; the receiver resolves when the thread has
/// closed it.
pub fn open(
    name: &str,
    folder: &Path,
    settings: Settings,
) -> Result<(Outbox, oneshot::Receiver<()>), StoreError> {
    let queues = StoreQueues {
        names: &QUEUES,
        usual: Lane::Live as usize,
        handover,
    };
    let (store, closed) = store::open(name, folder, queues, settings)?;
    let counts = Arc::new(OutboxCounts::new(name, Arc::clone(store.counters())));
    let columns =
        Columns::open(folder, counts.waiting() == 0).map_err(|source| StoreError::Folder {
            path: folder.join(columns::FILE),
            source,
        })?;
    let age = settings.age;
    let outbox = Outbox {
        store,
        columns,
        age,
        counts,
        newest_retained: NewestRetained::default(),
        folder: folder.into(),
    };
    Ok((outbox, closed))
}

impl Outbox {
    /// Appends a message; waits while too many bytes wait for the disk. It is accepted when its
    /// receipt says so.
    pub async fn append(&self, lane: Lane, message: &Outgoing) -> Result<Receipt, AppendError> {
        self.newest_retained.note(lane, message);
        self.store.append(lane as usize, self.entry(message)).await
    }

    /// True if a message of the backlog is a reading, and a newer one of its topic, or what removes
    /// it, went into another lane since the start.
    pub fn is_overtaken(&self, lane: Lane, message: &Outgoing, now: Timestamp) -> bool {
        lane == Lane::Backlog && self.newest_retained.has_overtaken(message, now)
    }

    /// Appends a message that its sender hands over and repeats until it is answered. It is sent
    /// once it is on disk, and known by its hand-over after a crash until that is forgotten.
    pub async fn append_handed(
        &self,
        lane: Lane,
        message: &Outgoing,
        handover: Handover,
    ) -> Result<Receipt, AppendError> {
        let entry = handed::put_before(&self.entry(message), handover);
        self.store
            .append_as(lane as usize, entry, Some(handover))
            .await
    }

    /// The hand-overs that are not forgotten.
    pub fn handovers(&self) -> HandoverBook {
        self.store.handovers()
    }

    /// The entry of a message; a reading names its column.
    fn entry(&self, message: &Outgoing) -> Bytes {
        let column = message.column();
        let Some(place) = column.and_then(|column| self.columns.place(&column)) else {
            return message.encode();
        };
        let Some((bytes, digits)) = message.encode_reading(place) else {
            return message.encode();
        };
        if digits > place.digits {
            self.columns.note_digits(place.number, digits);
        }
        bytes
    }

    /// The next messages of a lane after `after`, in order. Entries that are too old or cannot be
    /// read are given up; `None` if there are no more entries at all.
    pub async fn read(
        &self,
        lane: Lane,
        after: u64,
        max: usize,
    ) -> Result<Option<(u64, Vec<Waiting>)>, ReadError> {
        let queue = lane as usize;
        let entries = self.store.read(queue, after, max, READ_BYTES).await?;
        let Some(last) = entries.last().map(|entry| entry.seq) else {
            return Ok(None);
        };
        let at = Timestamp::from(moment());
        let mut waiting = Vec::with_capacity(entries.len());
        let mut given_up = Vec::new();
        for Entry { seq, bytes } in entries {
            let id = EntryId { queue, seq };
            match self.deliverable(id, bytes, at) {
                Some(message) => waiting.push(Waiting { lane, seq, message }),
                None => given_up.push(id),
            }
        }
        self.settle(&given_up);
        Ok(Some((last, waiting)))
    }

    /// The message of an entry; `None` if it is given up, too old or unreadable.
    fn deliverable(&self, id: EntryId, bytes: Bytes, at: Timestamp) -> Option<Outgoing> {
        match self
            .columns
            .table(|columns| Content::decode(bytes, columns))
        {
            Ok(Content::Message(mut message)) => {
                message.enqueued = message.enqueued.corrected(at);
                if self.is_too_old(&message, at) {
                    self.give_up(id.queue, id.seq, &message, Reason::Age);
                    return None;
                }
                Some(message)
            }
            Ok(Content::Dead(_)) => self.discard(id, &"a dead letter in a lane", at),
            Err(error) => self.discard(id, &error, at),
        }
    }

    /// Gives up an entry that holds no message, and says so.
    fn discard(&self, id: EntryId, error: &dyn Display, at: Timestamp) -> Option<Outgoing> {
        tracing::error!(event = "outbox.entry_discarded", uplink = self.name(), seq = id.seq, %error, "discarding unreadable outbox entry, it is counted as lost; check the disk");
        let gap = Gap {
            from_ms: 0,
            ..Gap::of_one(id.seq, at.unix_ms, Reason::Damage)
        };
        self.store.lose(id.queue, gap);
        None
    }

    /// The messages of a queue after `after` that are selected, with the last number that was read;
    /// `None` if there are no more entries. A dead letter comes without its message.
    pub async fn find(
        &self,
        queue: usize,
        after: u64,
        max: usize,
        selection: &Selection,
    ) -> Result<Option<(u64, Vec<(u64, Option<Outgoing>)>)>, ReadError> {
        let entries = self.store.read(queue, after, max, READ_BYTES).await?;
        let Some(last) = entries.last().map(|entry| entry.seq) else {
            return Ok(None);
        };
        let at = Timestamp::from(moment());
        let mut found = Vec::new();
        for entry in entries {
            // An unreadable entry is given up when it is its turn.
            let content = self
                .columns
                .table(|columns| Content::decode(entry.bytes, columns));
            let Ok(content) = content else {
                continue;
            };
            if selection.wants(entry.seq, &content, at) {
                let message = match content {
                    Content::Message(message) => Some(message),
                    Content::Dead(_) => None,
                };
                found.push((entry.seq, message));
            }
        }
        Ok(Some((last, found)))
    }

    fn is_too_old(&self, message: &Outgoing, at: Timestamp) -> bool {
        let waited = message.waited_ms(at).map(u128::from);
        self.age
            .is_some_and(|age| waited.is_some_and(|waited| waited > age.as_millis()))
    }

    /// Counts a message as lost and reports it as a gap; the caller settles it as well.
    pub fn give_up(&self, queue: usize, seq: u64, message: &Outgoing, reason: Reason) {
        let gap = Gap::of_one(seq, message.enqueued.unix_ms, reason);
        self.store.lose(queue, gap);
    }

    /// The messages are at the remote broker, or were given up.
    pub fn settle(&self, places: &[EntryId]) {
        if !places.is_empty() {
            self.store.settle(places);
        }
    }

    /// Keeps a message that the remote permanently refuses. Its entry may be settled when the
    /// receipt says safe.
    pub async fn bury(
        &self,
        place: EntryId,
        message: Outgoing,
        reason: String,
    ) -> Result<Receipt, AppendError> {
        let lane = LANES.get(place.queue).copied().unwrap_or_default();
        let dead = DeadLetter {
            buried: Timestamp::from(moment()),
            lane,
            seq: place.seq,
            reason,
            message,
        };
        self.store.append(DEAD, dead.encode()).await
    }

    /// Replaces the state that an uplink keeps beside its lanes. Resolves when it is durable, with
    /// everything appended and settled before.
    pub fn save(&self, states: Vec<(usize, Bytes)>) -> oneshot::Receiver<()> {
        self.store.save(states)
    }

    /// The state that an uplink saved beside a lane before the last start.
    pub fn state(&self, lane: Lane) -> Bytes {
        self.store.state(lane as usize)
    }

    /// Names the series of numbers of a lane: no other outbox has the same.
    pub fn identity(&self, lane: Lane) -> String {
        format!("{}{}", self.series(), suffix(lane))
    }

    /// The common beginning of the series of all its lanes.
    pub fn series(&self) -> &str {
        self.store.identity()
    }

    /// Names its uplink as a sender of messages, apart from all sessions of clients.
    pub fn source(&self) -> u64 {
        SOURCES | u64::from(crc32c::crc32c(self.series().as_bytes()))
    }

    /// True if a series is that of a lane of the outbox whose series begin with `own`.
    pub fn is_series_of(own: &str, series: &str) -> bool {
        series
            .strip_prefix(own)
            .is_some_and(|rest| LANES.iter().any(|lane| suffix(*lane) == rest))
    }

    /// Messages that are neither delivered nor given up.
    pub fn waiting(&self) -> u64 {
        self.counts.waiting()
    }

    /// Changes whenever something new is there to be read.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.store.newest()
    }

    /// Entries given up since the last call, by queue.
    pub fn take_gaps(&self) -> Vec<(usize, Gap)> {
        self.store.take_gaps()
    }

    /// The name of its uplink.
    pub fn name(&self) -> &str {
        &self.counts.uplink
    }

    /// Of its thread.
    pub fn heartbeat(&self) -> &Heartbeat {
        self.store.heartbeat()
    }

    /// Its counters.
    pub fn counts(&self) -> &Arc<OutboxCounts> {
        &self.counts
    }
}

/// Distinguishes the series of the lanes.
fn suffix(lane: Lane) -> &'static str {
    match lane {
        Lane::Alarm => "a",
        Lane::Live => "",
        Lane::Backlog => "b",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::SessionLost;
    use crate::mqtt::{Properties, QoS, TopicName};

    fn message(enqueued_ms: i64) -> Outgoing {
        Outgoing {
            topic: TopicName::new("t").unwrap(),
            qos: QoS::AtLeastOnce,
            retain: false,
            if_session_lost: SessionLost::Resend,
            enqueued: Timestamp::at(enqueued_ms),
            properties: Properties::default(),
            payload: Bytes::new().into(),
            rated: None,
            source: None,
        }
    }

    #[tokio::test]
    async fn what_is_too_old_is_given_up_and_told_but_nothing_ages_without_a_clock() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            save_every: Duration::from_secs(60),
            total_bytes: 1 << 30,
            age: Some(Duration::from_secs(3600)),
            when_full: WhenFull::DropOldest,
        };
        let (outbox, _closed) = open("test", folder.path(), settings).unwrap();
        let hours_ago = |hours: i64| crate::time::unix_ms() - hours * 3_600_000;
        for enqueued in [hours_ago(3), hours_ago(2), hours_ago(0), 86_400_000] {
            outbox.append(Lane::Live, &message(enqueued)).await.unwrap();
        }
        let (last, waiting) = outbox.read(Lane::Live, 0, 10).await.unwrap().unwrap();
        assert_eq!(
            (
                last,
                waiting
                    .iter()
                    .map(|waiting| waiting.seq)
                    .collect::<Vec<_>>()
            ),
            (4, vec![3, 4])
        );
        let gaps = outbox.take_gaps();
        let [(queue, gap)] = gaps.as_slice() else {
            panic!("{gaps:?}")
        };
        assert_eq!(
            (*queue, gap.first, gap.last, gap.count, gap.reason),
            (Lane::Live as usize, 1, 2, 2, Reason::Age)
        );
        assert_eq!((outbox.counts().waiting(), outbox.counts().lost()), (2, 2));
    }
}
