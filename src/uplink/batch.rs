//! Readings that travel together: which of them make one message, and when it is ready. Pure: the
//! caller brings the time.
//!
//! Invariants:
//! * A reading is in one batch, or in none. A batch is known by its first reading, whose place in
//!   the outbox is that of the whole message for session, pace and suspicion.
//! * The readings of a batch have one lane, topic, QoS and format, and their order is that of the
//!   lane.
//! * A batch is open, or it is at the session. It ends with the message: all its readings are
//!   settled, or become dead letters, together.
//! * `weight` and `runs` are what all batches hold. Both are bounded: the first for the memory, the
//!   second because the outbox notes over a crash only so many pieces of what is settled.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::message::{Lane, SessionLost};
use crate::mqtt::{Properties, QoS, TopicName};
use crate::outbox::{EntryId, Outgoing, Waiting};
use crate::payload::ReadingFormat;
use crate::route::JoinTerms;

/// The payload of a batch of readings that are late, in bytes, while nothing is known of the link:
/// large, because what is late comes in masses.
const CATCH_UP: usize = 16_000;
/// Of a packet that much is left for the topic and the rest.
const HEAD: usize = 1_000;
/// What all batches may weigh in memory: as many readings as a fast link over a satellite has on
/// its way, in a format of few bytes,
const MOST_WEIGHT: usize = 32 << 20;
/// and in how many runs of consecutive numbers their readings may lie in the outbox.
const MOST_RUNS: usize = 1_500;

/// What the readings of a batch have in common.
#[derive(Debug, Clone, PartialEq)]
struct BatchKey {
    lane: Lane,
    topic: TopicName,
    qos: QoS,
    if_session_lost: SessionLost,
    rule: Option<u32>,
    join: JoinTerms,
}

/// Readings that are sent together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Batch {
    key: BatchKey,
    /// Not empty.
    members: Vec<Waiting>,
    size: PayloadSize,
    /// When it is sent, unless more of its lane can be taken.
    due: Instant,
    /// Its readings were late when they were taken.
    is_late: bool,
}

impl Batch {
    /// The readings, in their order, each with its place.
    pub(super) fn members(&self) -> impl Iterator<Item = &Waiting> {
        self.members.iter()
    }

    /// Their format.
    pub(super) fn format(&self) -> &ReadingFormat {
        &self.key.join.format
    }

    /// The readings, each with its place.
    pub(super) fn into_members(self) -> Vec<Waiting> {
        self.members
    }

    /// The message of the session: the first reading for all. It is not retained: the newest value
    /// of one point would replace those of the others.
    fn head(&self) -> Option<Waiting> {
        let first = self.members.first()?;
        Some(Waiting {
            message: Outgoing {
                retain: false,
                properties: Properties::default(),
                ..first.message.clone()
            },
            ..first.clone()
        })
    }

    /// With its first reading.
    fn of(key: BatchKey, joining: Joining, now: Instant) -> Self {
        let patience = joining.patience();
        Self {
            key,
            size: PayloadSize::new(joining.bytes),
            due: now + patience,
            is_late: patience.is_zero(),
            members: vec![joining.waiting],
        }
    }

    /// Takes one more reading. True if its number does not follow that of the last one.
    fn push(&mut self, joining: Joining, now: Instant) -> bool {
        self.due = self.due.min(now + joining.patience());
        self.size.add(joining.bytes);
        let seq = joining.waiting.seq;
        let begins_run = self.members.last().is_none_or(|last| last.seq + 1 != seq);
        self.members.push(joining.waiting);
        begins_run
    }

    /// The largest payload.
    fn limit(&self, limits: PayloadLimits) -> usize {
        let up_to = self.key.join.terms.up_to;
        let wanted = if self.is_late { limits.late } else { up_to };
        wanted.min(limits.packet)
    }

    /// True if a reading fits in, as far as the size is known.
    fn takes(&self, joining: &Joining, limits: PayloadLimits) -> bool {
        self.size.with(joining.bytes) <= self.limit(limits)
    }

    fn weight(&self) -> usize {
        let members = self.members.iter();
        members.map(|member| member.message.weight()).sum()
    }

    /// Runs of consecutive numbers.
    fn runs(&self) -> usize {
        let seqs = || self.members.iter().map(|member| member.seq);
        let breaks = seqs()
            .zip(seqs().skip(1))
            .filter(|(one, next)| one + 1 != *next);
        1 + breaks.count()
    }
}

/// A reading that is to join others.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) waiting: Waiting,
    pub(super) join: JoinTerms,
    /// The rule whose rate the message has to keep.
    pub(super) rule: Option<u32>,
    /// What it adds to a payload.
    pub(super) bytes: usize,
    /// How long it has waited so far.
    pub(super) waited: Duration,
}

impl Joining {
    fn key(&self) -> BatchKey {
        let Outgoing {
            topic,
            qos,
            if_session_lost,
            ..
        } = &self.waiting.message;
        BatchKey {
            lane: self.waiting.lane,
            topic: topic.clone(),
            qos: *qos,
            if_session_lost: *if_session_lost,
            rule: self.rule,
            join: self.join.clone(),
        }
    }

    /// How much longer it may wait; an alarm does not.
    fn patience(&self) -> Duration {
        match self.waiting.lane {
            Lane::Alarm => Duration::ZERO,
            Lane::Live | Lane::Backlog => self.join.terms.every.saturating_sub(self.waited),
        }
    }
}

/// Bounds of payloads, in bytes.
#[derive(Debug, Clone, Copy)]
struct PayloadLimits {
    /// What a packet has room for, as far as that is known.
    packet: usize,
    /// Of readings that are late.
    late: usize,
}

/// All batches of an uplink.
#[derive(Debug)]
pub(super) struct Batches {
    open: Vec<Batch>,
    /// At the session, by the place of the first reading.
    sent: HashMap<EntryId, Batch>,
    /// All readings.
    held: HashSet<EntryId>,
    weight: usize,
    runs: usize,
    limits: PayloadLimits,
}

impl Default for Batches {
    fn default() -> Self {
        Self {
            open: Vec::new(),
            sent: HashMap::new(),
            held: HashSet::new(),
            weight: 0,
            runs: 0,
            limits: PayloadLimits {
                packet: usize::MAX,
                late: CATCH_UP,
            },
        }
    }
}

impl Batches {
    /// Packets have at most this size.
    pub(super) fn limit_packets(&mut self, most: Option<u32>) {
        let most = most.map_or(usize::MAX, |most| most as usize);
        self.limits.packet = most.saturating_sub(HEAD);
    }

    /// The payloads of readings that are late have at most this size.
    pub(super) fn limit_late(&mut self, most: usize) {
        self.limits.late = most;
    }

    /// True if no more readings may be taken before some are done.
    pub(super) fn is_full(&self) -> bool {
        self.weight >= MOST_WEIGHT || self.runs >= MOST_RUNS
    }

    /// True if a reading waits for others, or travels with them.
    pub(super) fn holds(&self, place: EntryId) -> bool {
        self.held.contains(&place)
    }

    /// True if a message of the session is a batch.
    pub(super) fn sent(&self, place: EntryId) -> Option<&Batch> {
        self.sent.get(&place)
    }

    /// The rule whose rate a batch has to keep, and its bytes.
    pub(super) fn cost_of(&self, place: EntryId) -> Option<(u32, usize)> {
        let batch = self.sent.get(&place)?;
        let topic = batch.key.topic.as_str();
        Some((batch.key.rule?, topic.len() + batch.size.bytes()))
    }

    /// The last reading of the batch that one would join.
    pub(super) fn last_before(&self, joining: &Joining) -> Option<&Waiting> {
        let key = joining.key();
        let batch = self.open.iter().find(|open| open.key == key)?;
        batch.members.last()
    }

    /// The batch that a reading would join, if it seems to have no room although it may have: it
    /// has to be written to know its size.
    pub(super) fn to_measure(&self, joining: &Joining) -> Option<&Batch> {
        let key = joining.key();
        let batch = self.open.iter().find(|open| open.key == key)?;
        let limit = batch.limit(self.limits);
        let may_take = batch.format().shrinks() && batch.size.known() < limit / 8 * 7;
        (may_take && !batch.takes(joining, self.limits)).then_some(batch)
    }

    /// The batch that a reading would join has so many bytes.
    pub(super) fn measured(&mut self, joining: &Joining, bytes: usize) {
        let key = joining.key();
        if let Some(batch) = self.open.iter_mut().find(|open| open.key == key) {
            batch.size.measured(bytes);
        }
    }

    /// Takes a reading. Returns the message of a batch that is large enough without it.
    pub(super) fn add(&mut self, joining: Joining, now: Instant) -> Option<Waiting> {
        let key = joining.key();
        let found = self.open.iter().position(|open| open.key == key);
        let limits = self.limits;
        let is_full = |batch: &Batch| !batch.takes(&joining, limits);
        let full = found.filter(|index| self.open.get(*index).is_some_and(is_full));
        let closed = full.and_then(|index| self.close(index));
        let place = joining.waiting.place();
        let is_new = self.held.insert(place);
        debug_assert!(is_new, "a reading is in one batch");
        self.weight += joining.waiting.message.weight();
        match found.filter(|_| full.is_none()) {
            Some(index) => {
                if let Some(batch) = self.open.get_mut(index) {
                    self.runs += usize::from(batch.push(joining, now));
                }
            }
            None => {
                self.runs += 1;
                self.open.push(Batch::of(key, joining, now));
            }
        }
        closed
    }

    /// The message of a batch that is due; `None` if there is none.
    pub(super) fn close_due(&mut self, now: Instant) -> Option<Waiting> {
        let due = self.open.iter().position(|open| open.due <= now)?;
        self.close(due)
    }

    /// The message of the batch of the highest lane that is due, of the lanes that are `dry`.
    pub(super) fn close_due_of(
        &mut self,
        now: Instant,
        is_dry: impl Fn(Lane) -> bool,
    ) -> Option<Waiting> {
        let due = self.open.iter().enumerate();
        let due = due.filter(|(_, open)| open.due <= now && is_dry(open.key.lane));
        let (index, _) = due.min_by_key(|(_, open)| open.key.lane)?;
        self.close(index)
    }

    /// The message of a batch that is open.
    pub(super) fn close_any(&mut self) -> Option<Waiting> {
        if self.open.is_empty() {
            return None;
        }
        self.close(0)
    }

    /// When a batch is due next, after `now`.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let due = self.open.iter().map(|open| open.due);
        due.filter(|due| *due > now).min()
    }

    fn close(&mut self, index: usize) -> Option<Waiting> {
        let batch = self.open.remove(index);
        let head = batch.head()?;
        self.sent.insert(head.place(), batch);
        Some(head)
    }

    /// A message of the session has its end: returns the batch, whose readings are free again.
    pub(super) fn end(&mut self, place: EntryId) -> Option<Batch> {
        let batch = self.sent.remove(&place)?;
        self.release(&batch);
        Some(batch)
    }

    /// All places of a message of the session that has its end.
    pub(super) fn places_of(&mut self, place: EntryId) -> Vec<EntryId> {
        match self.end(place) {
            Some(batch) => batch.members.iter().map(Waiting::place).collect(),
            None => vec![place],
        }
    }

    fn release(&mut self, batch: &Batch) {
        self.weight -= batch.weight();
        self.runs -= batch.runs();
        for member in &batch.members {
            self.held.remove(&member.place());
        }
    }

    /// The remote takes no packet as large as that of this batch: from here on batches are half as
    /// large. Returns the messages of its halves; `None` if it cannot be made smaller.
    pub(super) fn split(&mut self, place: EntryId) -> Option<[Waiting; 2]> {
        self.sent
            .get(&place)
            .filter(|batch| batch.members.len() > 1)?;
        let mut first = self.end(place)?;
        self.limits.packet = self.limits.packet.min(first.size.bytes() / 2);
        let rest = first.members.split_off(first.members.len() / 2);
        first.size.halve();
        let second = Batch {
            members: rest,
            key: first.key.clone(),
            ..first
        };
        let heads = [first.head()?, second.head()?];
        for (head, batch) in heads.iter().zip([first, second]) {
            self.weight += batch.weight();
            self.runs += batch.runs();
            self.held.extend(batch.members.iter().map(Waiting::place));
            self.sent.insert(head.place(), batch);
        }
        Some(heads)
    }

    /// Drops the batches that are still open.
    pub(super) fn drop_all_open(&mut self) {
        for batch in std::mem::take(&mut self.open) {
            self.release(&batch);
        }
    }

    /// Drops a reading of a batch that is still open. True if it was one.
    pub(super) fn drop_open(&mut self, place: EntryId) -> bool {
        if !self.held.contains(&place) {
            return false;
        }
        let is_it = |member: &Waiting| member.place() == place;
        let found = self
            .open
            .iter()
            .position(|open| open.members.iter().any(is_it));
        let Some(index) = found else { return false };
        let mut batch = self.open.remove(index);
        self.release(&batch);
        batch.members.retain(|member| !is_it(member));
        if !batch.members.is_empty() {
            self.weight += batch.weight();
            self.runs += batch.runs();
            self.held.extend(batch.members.iter().map(Waiting::place));
            self.open.insert(index, batch);
        }
        true
    }
}

/// The size of a payload, in bytes: what was measured, and what was added since then, as much less
/// as it was less until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PayloadSize {
    /// Of all readings, one by one.
    sum: usize,
    /// That sum when the payload was measured; not 0.
    sum_then: usize,
    /// What was measured.
    measured: usize,
}

impl PayloadSize {
    fn new(bytes: usize) -> Self {
        Self {
            sum: bytes,
            sum_then: bytes.max(1),
            measured: bytes,
        }
    }

    fn add(&mut self, bytes: usize) {
        self.sum += bytes;
    }

    /// With so much more.
    fn with(&self, bytes: usize) -> usize {
        let more = self.sum + bytes - self.sum_then.min(self.sum);
        self.measured + more * self.measured / self.sum_then
    }

    fn bytes(&self) -> usize {
        self.with(0)
    }

    /// What was measured last; at first that of one reading.
    fn known(&self) -> usize {
        self.measured
    }

    fn measured(&mut self, bytes: usize) {
        self.measured = bytes;
        self.sum_then = self.sum.max(1);
    }

    /// Half of the readings are gone.
    fn halve(&mut self) {
        *self = Self::new(self.bytes() / 2);
    }
}

#[cfg(test)]
mod tests;
