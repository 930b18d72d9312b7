//! What the partitions of the last run say: what is settled, which numbers may have been given out, and whether something is missing.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use super::StoreError;
use super::chunk::Chunk;
use super::engine::{Partition, io_error, sync_dir, write_private};
use super::folder::{Expected, Opened, Sealed, open_or_carve};
use super::gap::{Gap, Reason};
use super::note::Note;
use super::progress::Progress;
use crate::time::unix_ms;

/// More numbers than a partition can hold, and than are given out between two commits.
const MOST_NUMBERS: u64 = 1 << 24;
/// The file of an orderly end.
const CLOSED: &str = "closed";

/// What the partitions of the last run say.
#[derive(Default)]
pub(super) struct Recovered {
    pub(super) note: Note,
    pub(super) gaps: Vec<Gap>,
    pub(super) lost: u64,
}

/// What is known of the last run beside its partitions.
#[derive(Debug, Default)]
struct Witness {
    /// The last note of a run that ended in order.
    closed: Option<Note>,
    progress: Option<Progress>,
}

impl Witness {
    fn of(folder: &Path) -> Self {
        Self {
            closed: closed_note(folder),
            progress: Progress::read(folder),
        }
    }

    /// The note with which an orderly end closed this partition.
    fn closed_in(&self, partition: u64) -> Option<&Note> {
        self.closed.as_ref().filter(|_| {
            self.progress
                .is_none_or(|progress| progress.partition == partition)
        })
    }

    /// The number of the commit that this partition must hold at least; 0 if that is not known.
    fn commit_in(&self, partition: u64) -> u64 {
        self.progress
            .filter(|progress| progress.partition == partition)
            .map_or(0, |progress| progress.commit)
    }

    /// The newer one of a note that was found and that of an orderly end. What is settled for sure is settled in it.
    fn newest(&self, found: Note) -> Note {
        let mut note = self
            .closed
            .iter()
            .cloned()
            .chain([found])
            .max_by_key(|note| note.number)
            .unwrap_or_default();
        if let Some(progress) = &self.progress {
            progress.settle(&mut note.cursor);
        }
        note
    }

    /// What must be on disk beyond what a note promises: the highest number, and the first one that was not given out.
    fn beyond(&self, note: &Note) -> Option<Progress> {
        self.progress
            .filter(|progress| progress.commit > note.number)
    }
}

/// Reads the newest partitions of the last run until one tells what was settled and which numbers were given out.
pub(super) fn recover(folder: &Path, sealed: &VecDeque<Sealed>) -> Result<Recovered, StoreError> {
    let witness = Witness::of(folder);
    let mut recovered = recover_newest(folder, sealed, &witness)?;
    if let (Some(oldest), Some(_)) = (sealed.front(), &witness.progress) {
        let last = oldest.first_seq - 1;
        let count = recovered.note.cursor.unsettled_in(1, last);
        if count > 0 {
            // A partition is removed only after the progress says that it is settled: this one was taken away.
            let first = recovered.note.cursor.low() + 1;
            let (from_ms, until_ms) = (0, oldest.created_ms);
            recovered.gaps.insert(
                0,
                Gap {
                    first,
                    last,
                    count,
                    from_ms,
                    until_ms,
                    reason: Reason::Damage,
                },
            );
            recovered.lost += count;
        }
    }
    Ok(recovered)
}

fn recover_newest(
    folder: &Path,
    sealed: &VecDeque<Sealed>,
    witness: &Witness,
) -> Result<Recovered, StoreError> {
    if witness.closed.is_none() && !sealed.is_empty() {
        tracing::info!(folder = %folder.display(), "the last run did not end in order; what was being written then was not acknowledged");
    }
    let mut last_seq = 0;
    let mut is_missing = false;
    for newest in sealed.iter().rev() {
        let expected = Expected {
            closed: witness.closed_in(newest.number),
            commit: witness.commit_in(newest.number),
        };
        let Opened {
            partition,
            last_seq: last,
            note,
        } = open_or_carve(folder, &newest.path(folder), expected)?;
        last_seq = last_seq.max(last.unwrap_or(0)).max(newest.first_seq - 1);
        let Some(note) = note else {
            // A note is gone, and with it how far numbers were given out and what was written.
            is_missing = true;
            continue;
        };
        if is_missing {
            return Ok(without_note(witness, note, last_seq, newest.number));
        }
        return judge(witness, note, last_seq, (newest, &partition));
    }
    let note = Note {
        next_seq: 1,
        ..Note::default()
    };
    Ok(if is_missing {
        without_note(witness, note, last_seq, 0)
    } else {
        all_gone(witness, note)
    })
}

/// What the last run wrote down when it ended in order: a witness beside the partitions.
fn closed_note(folder: &Path) -> Option<Note> {
    let bytes = fs::read(folder.join(CLOSED)).ok()?;
    Note::of(&Chunk::decode(&bytes, 0).ok()?)
}

/// Writes the witness of an orderly end; without it an end that is damaged later looks like a write that was under way.
pub(super) fn write_closed(folder: &Path, note: &Note) -> Result<(), StoreError> {
    let (path, new) = (folder.join(CLOSED), folder.join("closed.new"));
    let written = write_private(&new, &note.encode(0)).and_then(|()| fs::rename(&new, &path));
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

/// Numbers go on behind everything that may have been given out; what was never written counts as settled.
fn go_on(mut note: Note, last_seq: u64, beyond: Option<Progress>) -> Note {
    let promised = beyond.map_or(0, |progress| progress.written);
    let written = note.written.max(last_seq).max(promised);
    note.next_seq = note
        .next_seq
        .max(written + 1)
        .max(beyond.map_or(0, |progress| progress.next_seq));
    note.number = note
        .number
        .max(beyond.map_or(0, |progress| progress.commit));
    note.cursor.settle(written + 1, note.next_seq - 1);
    note.written = note.next_seq - 1;
    note.durable = note.written;
    note
}

/// The newest partitions have lost their notes; `note` is of the partition `older`.
fn without_note(witness: &Witness, note: Note, last_seq: u64, older: u64) -> Recovered {
    let mut note = witness.newest(note);
    let written = note.written.max(last_seq);
    let mut gap = Gap {
        first: written + 1,
        last: written,
        count: 0,
        from_ms: 0,
        until_ms: unix_ms(),
        reason: Reason::Damage,
    };
    let Some(progress) = witness.progress else {
        // A partition has its note before it has its name: it was damaged, and nothing says how much was behind what is left. What is
        // missing before that is counted when it is read.
        let note = go_on(
            Note {
                next_seq: note.next_seq.max(written + 1) + MOST_NUMBERS,
                ..note
            },
            last_seq,
            None,
        );
        return Recovered {
            gaps: vec![Gap {
                last: note.written,
                ..gap
            }],
            note,
            lost: 0,
        };
    };
    progress.settle_skipped(&mut note.cursor, older, note.written);
    gap.last = progress.written;
    gap.count = note.cursor.unsettled_in(gap.first, gap.last);
    let mut note = go_on(note, last_seq, Some(progress));
    // Counted here, so that reading on does not count them again.
    note.cursor.settle(gap.first, gap.last);
    Recovered {
        note,
        lost: gap.count,
        gaps: if gap.count > 0 { vec![gap] } else { Vec::new() },
    }
}

/// There is no partition: the journal is new, or somebody has removed all of them.
fn all_gone(witness: &Witness, note: Note) -> Recovered {
    let note = witness.newest(note);
    let promised = witness.progress.map_or(0, |progress| progress.written);
    let (first, last) = (note.cursor.low() + 1, note.written.max(promised));
    let count = note.cursor.unsettled_in(first, last);
    let gap = Gap {
        first,
        last,
        count,
        from_ms: 0,
        until_ms: unix_ms(),
        reason: Reason::Damage,
    };
    let mut note = go_on(note, 0, witness.progress);
    note.cursor.settle(1, last);
    Recovered {
        note,
        lost: count,
        gaps: if count > 0 { vec![gap] } else { Vec::new() },
    }
}

/// Compares what a note promises with what is there. What cannot be read now is not taken for missing.
fn judge(
    witness: &Witness,
    note: Note,
    last_seq: u64,
    (newest, partition): (&Sealed, &Partition),
) -> Result<Recovered, StoreError> {
    let beyond = witness.beyond(&note);
    let mut note = witness.newest(note);
    let promised = beyond.map_or(0, |progress| progress.written);
    if let Some(progress) = beyond {
        progress.settle_skipped(&mut note.cursor, newest.number, note.written.max(last_seq));
    }
    let mut found = note.cursor.clone();
    let mut slot = 0;
    // The entry whose parts are being counted, and how many of them are there.
    let mut counted = (0, 0);
    while let Some(chunk) = partition.chunk(slot)? {
        match &chunk {
            Chunk::Entries(entries) => entries
                .iter()
                .for_each(|entry| found.settle(entry.seq, entry.seq)),
            Chunk::Part {
                seq, part, parts, ..
            } => {
                counted = if *part == 0 {
                    (*seq, 1)
                } else {
                    (
                        *seq,
                        if counted == (*seq, *part) {
                            part + 1
                        } else {
                            0
                        },
                    )
                };
                if counted == (*seq, *parts) {
                    found.settle(*seq, *seq);
                }
            }
            Chunk::Note { .. } => {}
        }
        slot += 1;
    }
    // What the last commit began before the stop may be missing without having been promised to anybody.
    let certain = note.durable.max(newest.first_seq - 1).max(promised);
    let last_seq = last_seq.max(promised);
    let (mut gaps, mut lost) = (Vec::new(), 0);
    for (first, last, reason) in [
        (newest.first_seq, certain, Reason::Damage),
        (certain + 1, note.written.max(last_seq), Reason::Unfinished),
    ] {
        let count = found.unsettled_in(first, last);
        if count > 0 {
            lost += if reason == Reason::Damage { count } else { 0 };
            gaps.push(Gap {
                first,
                last,
                count,
                from_ms: newest.created_ms,
                until_ms: newest.created_ms,
                reason,
            });
        }
    }
    // Those that are missing in this partition; the others wait.
    for hole in found.holes_in(newest.first_seq, note.written.max(last_seq)) {
        note.cursor.settle(hole.0, hole.1);
    }
    Ok(Recovered {
        note: go_on(note, last_seq, beyond),
        gaps,
        lost,
    })
}
