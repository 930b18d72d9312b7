//! What the partitions of the last run say: what is settled, which numbers may have been given out, and whether something is missing.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::Path;

use super::StoreError;
use super::chunk::Chunk;
use super::engine::{Partition, io_error, sync_dir};
use super::folder::{Opened, Sealed, open_or_carve};
use super::gap::{Gap, Reason};
use super::note::Note;
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

/// Reads the newest partitions of the last run until one tells what was settled and which numbers were given out.
pub(super) fn recover(folder: &Path, sealed: &VecDeque<Sealed>) -> Result<Recovered, StoreError> {
    let closed = closed_note(folder);
    if closed.is_none() && !sealed.is_empty() {
        tracing::info!(folder = %folder.display(), "the last run did not end in order; what was being written then was not acknowledged");
    }
    let mut last_seq = 0;
    let mut unclear = 0;
    let mut missing_from = 0;
    for newest in sealed.iter().rev() {
        // The witness is of the run that wrote the newest partition, and says nothing of those before it.
        let witness = closed.as_ref().filter(|_| unclear == 0);
        let Opened { partition, last_seq: last, note } = open_or_carve(folder, &newest.path(folder), witness)?;
        last_seq = last_seq.max(last.unwrap_or(0)).max(newest.first_seq - 1);
        let Some(note) = note else {
            // A note is gone, and with it how far numbers were given out and what was written.
            unclear = MOST_NUMBERS;
            missing_from = newest.first_seq;
            continue;
        };
        return if unclear == 0 { judge(note, last_seq, newest, &partition) } else { Ok(go_on(note, last_seq, (missing_from, unclear))) };
    }
    Ok(go_on(Note { next_seq: 1, ..Note::default() }, last_seq, (missing_from, unclear)))
}

/// What the last run wrote down when it ended in order: a witness beside the partitions.
fn closed_note(folder: &Path) -> Option<Note> {
    let bytes = fs::read(folder.join(CLOSED)).ok()?;
    Note::of(&Chunk::decode(&bytes, 0).ok()?)
}

/// Writes the witness of an orderly end; without it an end that is damaged later looks like a write that was under way.
pub(super) fn write_closed(folder: &Path, note: &Note) -> Result<(), StoreError> {
    let (path, new) = (folder.join(CLOSED), folder.join("closed.new"));
    let written = fs::write(&new, note.encode(0)).and_then(|()| File::open(&new)?.sync_all()).and_then(|()| fs::rename(&new, &path));
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
///
/// `unclear` is how many numbers may have been given out that nothing tells of, the first of them being `from`.
fn go_on(mut note: Note, last_seq: u64, (from, unclear): (u64, u64)) -> Recovered {
    let written = note.written.max(last_seq);
    note.next_seq = note.next_seq.max(written + 1) + unclear;
    note.cursor.settle(written + 1, note.next_seq - 1);
    note.written = note.next_seq - 1;
    note.durable = note.written;
    let mut gaps = Vec::new();
    if unclear > 0 {
        // A partition has its note before it has its name: it was damaged, and nobody knows how much was behind what is left.
        gaps.push(Gap {
            first: from.min(written + 1),
            last: note.written,
            count: 0,
            from_ms: 0,
            until_ms: unix_ms(),
            reason: Reason::Damage,
        });
    }
    Recovered { note, gaps, lost: 0 }
}

/// Compares what a note promises with what is there. What cannot be read now is not taken for missing.
fn judge(mut note: Note, last_seq: u64, newest: &Sealed, partition: &Partition) -> Result<Recovered, StoreError> {
    let mut found = note.cursor.clone();
    let mut slot = 0;
    // The entry whose parts are being counted, and how many of them are there.
    let mut counted = (0, 0);
    while let Some(chunk) = partition.chunk(slot)? {
        match &chunk {
            Chunk::Entries(entries) => entries.iter().for_each(|entry| found.settle(entry.seq, entry.seq)),
            Chunk::Part { seq, part, parts, .. } => {
                counted = if *part == 0 { (*seq, 1) } else { (*seq, if counted == (*seq, *part) { part + 1 } else { 0 }) };
                if counted == (*seq, *parts) {
                    found.settle(*seq, *seq);
                }
            }
            Chunk::Note { .. } => {}
        }
        slot += 1;
    }
    // What the last commit began before the stop may be missing without having been promised to anybody.
    let certain = note.durable.max(newest.first_seq - 1);
    let (mut gaps, mut lost) = (Vec::new(), 0);
    for (first, last, reason) in
        [(newest.first_seq, certain, Reason::Damage), (certain + 1, note.written.max(last_seq), Reason::Unfinished)]
    {
        let count = found.unsettled_in(first, last);
        if count > 0 {
            lost += if reason == Reason::Damage { count } else { 0 };
            gaps.push(Gap { first, last, count, from_ms: newest.created_ms, until_ms: newest.created_ms, reason });
        }
    }
    // Those that are missing in this partition; the others wait.
    for hole in found.holes_in(newest.first_seq, note.written.max(last_seq)) {
        note.cursor.settle(hole.0, hole.1);
    }
    Ok(Recovered { gaps, lost, ..go_on(note, last_seq, (0, 0)) })
}
