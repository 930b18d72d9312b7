//! The folder of a journal: its lock, its partitions by name, and what happens to a damaged one.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::chunk::Chunk;
use super::cursor::Cursor;
use super::engine::{Partition, io_error, sync_dir};

/// A partition that is not written any more (or, for the newest, its identity).
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) number: u64,
    pub(super) first_seq: u64,
    pub(super) bytes: u64,
}

/// Takes the folder for this process, making it if needed.
pub(super) fn lock(folder: &Path) -> Result<File, StoreError> {
    fs::create_dir_all(folder).map_err(|e| io_error(folder, e))?;
    let path = folder.join("LOCK");
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| io_error(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse { folder: folder.to_owned() }),
        Err(fs::TryLockError::Error(e)) => Err(io_error(&path, e)),
    }
}

/// Where a partition stands.
pub(super) fn partition_path(folder: &Path, number: u64, first_seq: u64) -> PathBuf {
    folder.join(format!("p-1-{number:08x}-{first_seq:016x}"))
}

fn parse_partition(path: &Path) -> Option<(u64, u64)> {
    let name = path.file_name()?.to_str()?.strip_prefix("p-1-")?;
    let (number, first_seq) = name.split_once('-')?;
    Some((u64::from_str_radix(number, 16).ok()?, u64::from_str_radix(first_seq, 16).ok()?))
}

/// Removes a partition; a crash on the way leaves it whole or as `dead-*`.
pub(super) fn remove_partition(folder: &Path, path: &Path) -> Result<(), StoreError> {
    let dead = folder.join(format!("dead-{}", path.file_name().unwrap_or_default().to_string_lossy()));
    fs::rename(path, &dead).map_err(|e| io_error(path, e))?;
    sync_dir(folder)?;
    fs::remove_dir_all(&dead).map_err(|e| io_error(&dead, e))
}

/// The partitions of a folder in order; leftovers of interrupted work are deleted.
pub(super) fn list(folder: &Path) -> Result<VecDeque<Sealed>, StoreError> {
    finish_carving(folder)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| io_error(folder, e))? {
        let path = entry.map_err(|e| io_error(folder, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("dead-") || name.starts_with("new-") {
            fs::remove_dir_all(&path).map_err(|e| io_error(&path, e))?;
        } else if let Some((number, first_seq)) = parse_partition(&path) {
            let bytes = fs::metadata(path.join("db")).map_or(0, |meta| meta.blocks() * 512);
            found.push(Sealed { number, first_seq, bytes });
        }
    }
    found.sort_by_key(|sealed| sealed.number);
    Ok(found.into())
}

/// Reads the newest partition of the last run: its cursor and the next free sequence number.
pub(super) fn recover(folder: &Path, last: &Sealed, fallback_low: u64) -> Result<(Cursor, u64), StoreError> {
    let path = partition_path(folder, last.number, last.first_seq);
    let mut fallback = Cursor::default();
    fallback.settle(1, fallback_low);
    let (partition, last_seq) = open_or_carve(folder, &path, &fallback)?;
    let cursor = partition.cursor()?;
    let next_seq = last_seq.map_or(last.first_seq, |seq| seq + 1).max(last.first_seq).max(cursor.low() + 1);
    Ok((cursor, next_seq))
}

/// Opens a partition. A damaged one is moved to `quarantine/`, and what can be carved out of it takes its place.
///
/// The engine takes damage near the end of its file for a write that was torn, and cuts it off without a word. So the file is
/// searched first for the newest entry it holds, and an engine that comes back with less is not believed.
pub(super) fn open_or_carve(folder: &Path, path: &Path, cursor: &Cursor) -> Result<(Partition, Option<u64>), StoreError> {
    let database = path.join("db");
    let bytes = fs::read(&database).map_err(|e| io_error(&database, e))?;
    let newest = Chunk::carve(&bytes).map(|chunk| chunk.last_complete_seq()).max();
    let opened = Partition::open(path);
    // What is settled is known even if entries are gone; a partition without a cursor was never finished, or is damaged.
    let known = opened.as_ref().ok().and_then(|(partition, _)| partition.cursor().ok());
    let what = match opened {
        Ok((partition, last)) if last >= newest && known.is_some() => return Ok((partition, last)),
        Ok(partition) => {
            drop(partition);
            "some of it is gone".to_owned()
        }
        Err(StoreError::Engine { what, .. }) => what,
        Err(error) => return Err(error),
    };
    let mut chunks: Vec<Chunk> = Chunk::carve(&bytes).collect();
    chunks.sort_by_key(|chunk| match chunk {
        Chunk::Entries { first_seq, .. } => (*first_seq, 0),
        Chunk::Part { seq, part, .. } => (*seq, *part),
    });
    chunks.dedup();
    tracing::error!(partition = %path.display(), %what, chunks = chunks.len(), "a partition is damaged: moved to quarantine, what could be read of it is kept");
    // The replacement is complete before the damaged one moves: an interruption loses neither.
    let carved = carved_path(path);
    let mut rebuilt = Partition::create(&carved, known.as_ref().unwrap_or(cursor))?;
    rebuilt.commit(&chunks, known.as_ref().unwrap_or(cursor))?;
    set_aside(folder, path, &bytes)?;
    fs::rename(&carved, path).map_err(|e| io_error(path, e))?;
    sync_dir(folder)?;
    let last = chunks.iter().map(Chunk::last_complete_seq).max();
    Ok((rebuilt.moved_to(path), last))
}

fn carved_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("carved-{name}"))
}

/// Finishes what an interruption left: a replacement whose damaged partition is out of the way takes its place; one that was
/// not needed yet, or not whole, is made again.
fn finish_carving(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(|e| io_error(folder, e))? {
        let carved = entry.map_err(|e| io_error(folder, e))?.path();
        let name = carved.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(original) = name.strip_prefix("carved-").map(|name| folder.join(name)) else { continue };
        if original.exists() {
            fs::remove_dir_all(&carved).map_err(|e| io_error(&carved, e))?;
        } else {
            fs::rename(&carved, &original).map_err(|e| io_error(&carved, e))?;
            sync_dir(folder)?;
        }
    }
    Ok(())
}

/// Moves a damaged partition out of the way, with its database as it was found.
fn set_aside(folder: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let quarantine = folder.join("quarantine");
    fs::create_dir_all(&quarantine).map_err(|e| io_error(&quarantine, e))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let found = path.join("db.found");
    fs::write(&found, bytes).map_err(|e| io_error(&found, e))?;
    let aside = (0..).map(|n: u32| quarantine.join(format!("{name}.{n}"))).find(|candidate| !candidate.exists()).unwrap_or_default();
    fs::rename(path, &aside).map_err(|e| io_error(path, e))
}
