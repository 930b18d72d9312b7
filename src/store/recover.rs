//! The state of a journal after a restart, out of the partitions of the last run: what is settled,
//! which numbers may have been given out, and whether something is missing.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use bytes::Bytes;

use super::StoreError;
use super::ack_cursor::AckCursor;
use super::chunk::Chunk;
use super::commit_record::CommitRecord;
use super::engine::{Partition, io_error, sync_dir, write_private};
use super::folder::{Expected, Sealed, open_or_carve};
use super::gap::{Gap, Reason};
use super::handover::FindHandover;
use super::progress::JournalProgress;
use crate::time::unix_ms;

/// More numbers than a partition can hold, and than are given out between two commits.
const MOST_NUMBERS: u64 = 1 << 24;
/// The file of a clean shutdown.
const CLOSED: &str = "closed";

/// The state of a journal, and its losses.
#[derive(Default)]
pub(super) struct Recovered {
    pub(super) record: CommitRecord,
    pub(super) gaps: Vec<Gap>,
    pub(super) lost: u64,
}

/// Evidence of the last run beside its partitions.
#[derive(Debug, Default)]
struct Witness {
    /// The last record of a run that was shut down cleanly.
    closed: Option<CommitRecord>,
    progress: Option<JournalProgress>,
}

impl Witness {
    fn of(folder: &Path) -> Self {
        Self {
            closed: closed_record(folder),
            progress: JournalProgress::read(folder),
        }
    }

    /// The least that a partition must hold.
    fn expected_in(&self, partition: u64) -> Expected<'_> {
        let progress = self
            .progress
            .filter(|progress| progress.partition == partition);
        Expected {
            closed: self
                .closed
                .as_ref()
                .filter(|_| self.progress.is_none() || progress.is_some()),
            commit: progress.map_or(0, |progress| progress.commit),
        }
    }

    /// The newer one of a record that was found and that of a clean shutdown, with everything that
    /// is known to be settled.
    fn newest(&self, found: CommitRecord) -> CommitRecord {
        let mut record = self
            .closed
            .iter()
            .cloned()
            .chain([found])
            .max_by_key(|record| record.number)
            .unwrap_or_default();
        if let Some(progress) = &self.progress {
            progress.settle(&mut record.cursor);
        }
        record
    }

    /// The progress, if it promises more than a record.
    fn beyond(&self, record: &CommitRecord) -> Option<JournalProgress> {
        self.progress
            .filter(|progress| progress.commit > record.number)
    }
}

/// Reads the newest partitions of the last run until one has a record of settled numbers and of
/// numbers given out.
///
/// Entries that a commit wrote without finishing are there without a record that knows of them:
/// `handover` finds their hand-overs, so that the first record of this run has them.
pub(super) fn recover(
    folder: &Path,
    sealed: &VecDeque<Sealed>,
    handover: FindHandover,
) -> Result<Recovered, StoreError> {
    let witness = Witness::of(folder);
    let mut recovered = recover_newest(folder, sealed, &witness, handover)?;
    if let (Some(oldest), Some(_)) = (sealed.front(), &witness.progress) {
        let cursor = &recovered.record.cursor;
        let last = oldest.first_seq - 1;
        let gap = Gap {
            first: cursor.low() + 1,
            last,
            count: cursor.unsettled_in(1, last),
            from_ms: 0,
            until_ms: oldest.created_ms,
            reason: Reason::Damage,
        };
        if gap.count > 0 {
            // A partition is removed only after the progress says that it is settled: this one was
            // taken away.
            recovered.lost += gap.count;
            recovered.gaps.insert(0, gap);
        }
    }
    Ok(recovered)
}

fn recover_newest(
    folder: &Path,
    sealed: &VecDeque<Sealed>,
    witness: &Witness,
    handover: FindHandover,
) -> Result<Recovered, StoreError> {
    if witness.closed.is_none() && !sealed.is_empty() {
        tracing::info!(event = "store.unclean_shutdown", folder = %folder.display(), "unclean shutdown detected; only unacknowledged writes can be missing");
    }
    let mut last_seq = 0;
    let mut is_missing = false;
    for newest in sealed.iter().rev() {
        let opened = open_or_carve(
            folder,
            &newest.path(folder),
            witness.expected_in(newest.number),
        )?;
        last_seq = last_seq
            .max(opened.last_seq.unwrap_or(0))
            .max(newest.first_seq - 1);
        let Some(record) = opened.record else {
            // Lost, and with it how far numbers were given out and entries were written.
            is_missing = true;
            continue;
        };
        if is_missing {
            return Ok(without_record(witness, record, last_seq, newest.number));
        }
        let newest = Newest {
            sealed: newest,
            partition: opened.partition,
            record,
            last_seq,
        };
        return newest.compare(witness, handover);
    }
    let record = CommitRecord {
        next_seq: 1,
        ..CommitRecord::default()
    };
    Ok(if is_missing {
        without_record(witness, record, last_seq, 0)
    } else {
        all_gone(witness, record)
    })
}

/// The last record of a run that was shut down cleanly: a witness beside the partitions.
fn closed_record(folder: &Path) -> Option<CommitRecord> {
    let bytes = fs::read(folder.join(CLOSED)).ok()?;
    CommitRecord::of(&Chunk::decode(&bytes, 0).ok()?)
}

/// Writes the witness of a clean shutdown; without it an end that is damaged later looks like a
/// write that was under way.
pub(super) fn write_closed(folder: &Path, record: &CommitRecord) -> Result<(), StoreError> {
    let (path, new) = (folder.join(CLOSED), folder.join("closed.new"));
    let written = write_private(&new, &record.encode(0)).and_then(|()| fs::rename(&new, &path));
    written.map_err(|e| io_error(&path, e))?;
    sync_dir(folder)
}

/// A new run has begun: its end must not be judged by the witness of the last one.
pub(super) fn remove_closed(folder: &Path) -> Result<(), StoreError> {
    let path = folder.join(CLOSED);
    match fs::remove_file(&path) {
        Ok(()) => sync_dir(folder),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(&path, error)),
    }
}

/// Numbers continue behind everything that may have been given out; what was never written counts
/// as settled.
fn resume_numbers(
    mut record: CommitRecord,
    last_seq: u64,
    beyond: Option<JournalProgress>,
) -> CommitRecord {
    let promised = beyond.map_or(0, |progress| progress.written);
    let written = record.written.max(last_seq).max(promised);
    record.next_seq = record
        .next_seq
        .max(written + 1)
        .max(beyond.map_or(0, |progress| progress.next_seq));
    record.number = record
        .number
        .max(beyond.map_or(0, |progress| progress.commit));
    record.cursor.settle(written + 1, record.next_seq - 1);
    record.written = record.next_seq - 1;
    record.durable = record.written;
    record
}

/// The newest partitions have lost their records; `record` is of the partition `older`.
fn without_record(witness: &Witness, record: CommitRecord, last_seq: u64, older: u64) -> Recovered {
    let mut record = witness.newest(record);
    let written = record.written.max(last_seq);
    let mut gap = Gap {
        first: written + 1,
        last: written,
        count: 0,
        from_ms: 0,
        until_ms: unix_ms(),
        reason: Reason::Damage,
    };
    let Some(progress) = witness.progress else {
        // A partition has its record before it has its name: it was damaged, and the number of lost
        // entries at its end is unknown. Entries missing before that are counted when they are
        // read.
        record.next_seq = record.next_seq.max(written + 1) + MOST_NUMBERS;
        let record = resume_numbers(record, last_seq, None);
        gap.last = record.written;
        return Recovered {
            gaps: vec![gap],
            record,
            lost: 0,
        };
    };
    progress.settle_skipped(&mut record.cursor, older, record.written);
    gap.last = progress.written;
    gap.count = record.cursor.unsettled_in(gap.first, gap.last);
    let mut record = resume_numbers(record, last_seq, Some(progress));
    // Counted here, so that reading does not count them again.
    record.cursor.settle(gap.first, gap.last);
    Recovered::with_damage(record, gap)
}

/// There is no partition: the journal is new, or all were removed by hand.
fn all_gone(witness: &Witness, record: CommitRecord) -> Recovered {
    let record = witness.newest(record);
    let promised = witness.progress.map_or(0, |progress| progress.written);
    let (first, last) = (record.cursor.low() + 1, record.written.max(promised));
    let gap = Gap {
        first,
        last,
        count: record.cursor.unsettled_in(first, last),
        from_ms: 0,
        until_ms: unix_ms(),
        reason: Reason::Damage,
    };
    let mut record = resume_numbers(record, 0, witness.progress);
    record.cursor.settle(1, last);
    Recovered::with_damage(record, gap)
}

impl Recovered {
    /// With a gap, unless nothing is missing in it.
    fn with_damage(record: CommitRecord, gap: Gap) -> Self {
        Self {
            record,
            lost: gap.count,
            gaps: Some(gap).filter(|gap| gap.count > 0).into_iter().collect(),
        }
    }
}

/// The newest partition, which has its record.
struct Newest<'a> {
    sealed: &'a Sealed,
    partition: Partition,
    record: CommitRecord,
    /// The last number that is known to be in it.
    last_seq: u64,
}

impl Newest<'_> {
    /// Compares the promises of the record with the entries in the partition. Entries that cannot
    /// be read now are not taken for missing.
    fn compare(self, witness: &Witness, handover: FindHandover) -> Result<Recovered, StoreError> {
        let (first, created_ms) = (self.sealed.first_seq, self.sealed.created_ms);
        let beyond = witness.beyond(&self.record);
        let mut record = witness.newest(self.record);
        let promised = beyond.map_or(0, |progress| progress.written);
        if let Some(progress) = beyond {
            let written = record.written.max(self.last_seq);
            progress.settle_skipped(&mut record.cursor, self.sealed.number, written);
        }
        let recorded = record.written.max(promised);
        let found = find_whole_entries(&self.partition, &mut record, recorded, handover)?;
        // Entries that the last commit began before the stop may be missing without having been
        // promised to anybody.
        let certain = record.durable.max(first - 1).max(promised);
        let last_seq = self.last_seq.max(promised);
        let last = record.written.max(last_seq);
        let gap = |first, last, reason| Gap {
            first,
            last,
            count: found.unsettled_in(first, last),
            from_ms: created_ms,
            until_ms: created_ms,
            reason,
        };
        let damaged = gap(first, certain, Reason::Damage);
        let unfinished = Gap {
            count: settle_missing(&mut record, &found, [first, certain, last]),
            ..gap(certain + 1, last, Reason::Unfinished)
        };
        Ok(Recovered {
            record: resume_numbers(record, last_seq, beyond),
            lost: damaged.count,
            gaps: with_entries([damaged, unfinished]),
        })
    }
}

/// Settles the entries that are missing in the newest partition: `first..=certain` were promised,
/// and those up to `last` were not. Of the latter everything behind the first missing one goes as
/// well, so that a later entry is never there without an earlier one. Returns how many of these
/// are given up.
fn settle_missing(record: &mut CommitRecord, found: &AckCursor, span: [u64; 3]) -> u64 {
    let [first, certain, last] = span;
    for (first, last) in found.holes_in(first, certain) {
        give_up(record, first, last);
    }
    let unfinished = found.holes_in(certain + 1, last);
    let Some((first, _)) = unfinished.first().copied() else {
        return 0;
    };
    let count = record.cursor.unsettled_in(first, last);
    give_up(record, first, last);
    count
}

/// The gaps in which entries are missing.
fn with_entries(gaps: [Gap; 2]) -> Vec<Gap> {
    gaps.into_iter().filter(|gap| gap.count > 0).collect()
}

fn give_up(record: &mut CommitRecord, first: u64, last: u64) {
    record.cursor.settle(first, last);
    record.handovers.forget_entries(first, last);
}

/// The entries that a partition holds whole, and those that a record has settled. Hand-overs of
/// entries behind `recorded` are added to the record.
fn find_whole_entries(
    partition: &Partition,
    record: &mut CommitRecord,
    recorded: u64,
    handover: FindHandover,
) -> Result<AckCursor, StoreError> {
    let mut found = record.cursor.clone();
    each_whole_entry(partition, |seq, bytes| {
        found.settle(seq, seq);
        if let Some(handover) = handover(bytes).filter(|_| seq > recorded) {
            record.handovers.push(seq, handover);
        }
    })?;
    Ok(found)
}

/// Calls `whole` with the number and the first bytes of each entry that a partition holds whole.
fn each_whole_entry(
    partition: &Partition,
    mut whole: impl FnMut(u64, &Bytes),
) -> Result<(), StoreError> {
    // The entry whose parts are being counted, and how many of them are there in order.
    let mut counted = (0, 0);
    let mut begin = Bytes::new();
    for slot in 0.. {
        match partition.chunk(slot)? {
            None => break,
            Some(Chunk::Entries(entries)) => {
                for entry in entries {
                    whole(entry.seq, &entry.bytes);
                }
            }
            Some(Chunk::Part {
                seq,
                part,
                parts,
                bytes,
            }) => {
                let follows = part == 0 || counted == (seq, part);
                counted = (seq, if follows { part + 1 } else { 0 });
                if part == 0 {
                    begin = bytes;
                }
                if counted == (seq, parts) {
                    whole(seq, &begin);
                }
            }
            Some(Chunk::CommitRecord { .. }) => {}
        }
    }
    Ok(())
}
