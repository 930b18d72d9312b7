//! The folder of a journal: its lock, its partitions by name, and what happens to a damaged one.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::chunk::Chunk;
use super::commit_record::CommitRecord;
use super::engine::{
    LOCK_ATTEMPTS, LOCK_PAUSE, Partition, io_error, keep_private, private_file, salt_of, sync_dir,
    write_private,
};
use crate::time::known_unix_ms;

/// Bytes kept in `quarantine/`; beyond it the oldest go. One partition is kept whatever its size.
const QUARANTINE_BYTES: u64 = 48 << 20;

/// The format of partitions that are begun now,
const FORMAT: u8 = 3;
/// and the oldest one that can be read.
const OLDEST_FORMAT: u8 = 2;

/// A partition by its name, with its size on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sealed {
    /// The version of its format: 2, or 3 for chunks whose entries are packed.
    pub(super) format: u8,
    pub(super) number: u64,
    pub(super) first_seq: u64,
    /// When it was begun, by the wall clock: everything in it was written later.
    pub(super) created_ms: i64,
    /// Drawn for it.
    pub(super) salt: u32,
    pub(super) bytes: u64,
}

impl Sealed {
    /// A partition that is begun now, with a salt of its own.
    pub(super) fn begin(number: u64, first_seq: u64) -> Self {
        Self {
            format: FORMAT,
            number,
            first_seq,
            created_ms: known_unix_ms(),
            salt: fastrand::u32(..),
            bytes: 0,
        }
    }

    pub(super) fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!(
            "p-{}-{:08x}-{:016x}-{:012x}-{:08x}",
            self.format, self.number, self.first_seq, self.created_ms, self.salt
        ))
    }

    /// `None` if it is no partition of this format.
    pub(super) fn parse(path: &Path) -> Option<Self> {
        let mut parts = path.file_name()?.to_str()?.strip_prefix("p-")?.split('-');
        let format = match parts.next()? {
            "2" => OLDEST_FORMAT,
            "3" => FORMAT,
            _ => return None,
        };
        let number = u64::from_str_radix(parts.next()?, 16).ok()?;
        let first_seq = u64::from_str_radix(parts.next()?, 16)
            .ok()
            .filter(|first| *first > 0)?;
        let created_ms = i64::from_str_radix(parts.next()?, 16).ok()?;
        let salt = u32::from_str_radix(parts.next()?, 16).ok()?;
        let bytes = fs::metadata(path.join("db")).map_or(0, |meta| meta.blocks() * 512);
        parts.next().is_none().then_some(Self {
            format,
            number,
            first_seq,
            created_ms,
            salt,
            bytes,
        })
    }
}

/// Makes a folder and missing ones above it, durably. Only its owner may read a journal.
fn make_private(folder: &Path) -> Result<(), StoreError> {
    make(folder)?;
    keep_private(folder)
}

fn make(folder: &Path) -> Result<(), StoreError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    make(parent)?;
    // The folder above the journals also holds the control socket, which is the group's too.
    match fs::DirBuilder::new().mode(0o750).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(io_error(folder, error))
        }
        _ => sync_dir(parent),
    }
}

/// Locks the folder of a store, or of a journal, for this process until the file is dropped; makes
/// it if needed.
pub fn lock(folder: &Path) -> Result<File, StoreError> {
    make_private(folder)?;
    let path = folder.join("LOCK");
    let file = private_file()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| io_error(&path, e))?;
    for patience in (0..LOCK_ATTEMPTS).rev() {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A process that this one is about to start, or one that ends, may hold it for a
            // moment.
            Err(fs::TryLockError::WouldBlock) if patience > 0 => std::thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::WouldBlock) => break,
            Err(fs::TryLockError::Error(e)) => return Err(io_error(&path, e)),
        }
    }
    Err(StoreError::InUse {
        folder: folder.to_owned(),
    })
}

/// Removes a partition; a crash in between leaves it whole or as `dead-*`.
pub(super) fn remove_partition(folder: &Path, path: &Path) -> Result<(), StoreError> {
    let dead = folder.join(format!(
        "dead-{}",
        path.file_name().unwrap_or_default().to_string_lossy()
    ));
    fs::rename(path, &dead).map_err(|e| io_error(path, e))?;
    sync_dir(folder)?;
    fs::remove_dir_all(&dead).map_err(|e| io_error(&dead, e))
}

/// The partitions of a folder in order, by their names; nothing is touched.
pub(super) fn partitions(folder: &Path) -> Result<VecDeque<Sealed>, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| io_error(folder, e))? {
        let path = entry.map_err(|e| io_error(folder, e))?.path();
        found.extend(Sealed::parse(&path));
    }
    found.sort_by_key(|sealed| (sealed.number, sealed.created_ms));
    Ok(found.into())
}

/// The partitions of a folder in order. Leftovers of interrupted work are deleted or finished,
/// foreign files are set aside.
pub(super) fn list(folder: &Path) -> Result<VecDeque<Sealed>, StoreError> {
    finish_carving(folder)?;
    for entry in fs::read_dir(folder).map_err(|e| io_error(folder, e))? {
        let path = entry.map_err(|e| io_error(folder, e))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_ours = path.is_dir() && !path.is_symlink();
        let is_partition = Sealed::parse(&path).is_some();
        let is_leftover = LEFTOVERS.contains(&name.as_str())
            || name.strip_prefix("dead-").is_some_and(is_name_of_partition);
        if is_leftover && is_ours {
            fs::remove_dir_all(&path).map_err(|e| io_error(&path, e))?;
        } else if (is_partition && !is_ours) || (!is_partition && name.starts_with("p-")) {
            set_foreign_aside(folder, &path)?;
        }
    }
    let mut found = partitions(folder)?;
    // A copy under a name that fits: the numbers of two partitions would overlap.
    let mut copies = Vec::new();
    let mut last = None;
    found.retain(|sealed| {
        let is_copy = last == Some(sealed.number);
        last = Some(sealed.number);
        copies.extend(is_copy.then(|| sealed.path(folder)));
        !is_copy
    });
    copies
        .iter()
        .try_for_each(|copy| set_foreign_aside(folder, copy))?;
    Ok(found)
}

/// Partitions that were being made.
const LEFTOVERS: [&str; 3] = ["new-tail", "new-spare", "new-carved"];

fn is_name_of_partition(name: &str) -> bool {
    Sealed::parse(Path::new(name)).is_some()
}

/// Moves a foreign file out of the way: a backup, an archive, a partition of a newer version.
/// Nothing in it is read or deleted.
fn set_foreign_aside(folder: &Path, path: &Path) -> Result<(), StoreError> {
    let aside = folder.join("set-aside");
    make_private(&aside)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let target = free_name(&aside, &name);
    fs::rename(path, &target).map_err(|e| io_error(path, e))?;
    sync_dir(folder)?;
    tracing::warn!(
        event = "store.set_aside",
        path = %path.display(),
        to = %target.display(),
        "not a partition that this version can read; moved aside. If it holds undelivered messages, deliver them with the version that wrote it"
    );
    Ok(())
}

fn free_name(folder: &Path, name: &str) -> PathBuf {
    let plain = folder.join(name);
    if !plain.exists() {
        return plain;
    }
    (0_u64..)
        .map(|n| folder.join(format!("{name}.{n}")))
        .find(|candidate| !candidate.exists())
        .unwrap_or(plain)
}

/// The least that a partition must hold, as far as that is known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Expected<'a> {
    /// The record with which a clean shutdown closed it.
    pub(super) closed: Option<&'a CommitRecord>,
    /// The number of its last commit; 0 if that is not known.
    pub(super) commit: u64,
}

/// An open partition.
pub(super) struct Opened {
    pub(super) partition: Partition,
    /// The last sequence number it holds whole.
    pub(super) last_seq: Option<u64>,
    /// The newest record in it.
    pub(super) record: Option<CommitRecord>,
}

/// Opens a partition. A damaged one is moved to `quarantine/`, and replaced by the entries that can
/// be carved out of it.
///
/// The engine takes damage near the end of its file for a torn write, and cuts it off silently. So
/// the file is searched first for its newest entry and its newest record, and an engine that comes
/// back with less is not believed, nor one that lacks what it is `expected` to hold.
pub(super) fn open_or_carve(
    folder: &Path,
    path: &Path,
    expected: Expected<'_>,
) -> Result<Opened, StoreError> {
    let bytes = read_what_can_be_read(&path.join("db"))?;
    let carved = Carved::of(&bytes, salt_of(path), expected.closed);
    let (known, what) = match Partition::open(path) {
        Ok((partition, last_seq)) => {
            let known = partition.record().ok();
            let number = known.as_ref().map(|record| record.number);
            if number.is_some()
                && number >= carved.least_number(expected)
                && last_seq >= carved.newest_seq
            {
                // A partition that was rebuilt without a record has one that says nothing.
                return Ok(Opened {
                    partition,
                    last_seq,
                    record: known.filter(|record| record.number > 0),
                });
            }
            (known, "some of it is gone".to_owned())
        }
        Err(error) if !is_damage(&error) => return Err(error),
        Err(error) => (None, error.to_string()),
    };
    rebuild(folder, path, &bytes, newer(known, carved.record), &what)
}

/// Found in the bytes of a database without its engine.
struct Carved {
    /// The last sequence number that is there whole.
    newest_seq: Option<u64>,
    /// The newest record, also that of a clean shutdown.
    record: Option<CommitRecord>,
}

impl Carved {
    fn of(bytes: &[u8], salt: u32, closed: Option<&CommitRecord>) -> Self {
        let (mut newest_seq, mut record) = (None, closed.cloned());
        for chunk in Chunk::carve(bytes, salt) {
            newest_seq = newest_seq.max(Some(chunk.last_complete_seq()).filter(|seq| *seq > 0));
            record = newer(record, CommitRecord::of(&chunk));
        }
        Self { newest_seq, record }
    }

    /// The number that the record of a whole partition has at least; `None` if nothing is known.
    fn least_number(&self, expected: Expected<'_>) -> Option<u64> {
        self.record
            .as_ref()
            .map(|record| record.number)
            .max(Some(expected.commit).filter(|commit| *commit > 0))
    }
}

/// The record with the higher number.
fn newer(one: Option<CommitRecord>, other: Option<CommitRecord>) -> Option<CommitRecord> {
    one.into_iter()
        .chain(other)
        .max_by_key(|record| record.number)
}

/// False for errors that a healthy partition can meet as well: no room, no rights, no memory, too
/// many files, a lock of another process.
fn is_damage(error: &StoreError) -> bool {
    use rustix::io::Errno;
    const WEATHER: [Errno; 6] = [
        Errno::ACCESS,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::PERM,
        Errno::ROFS,
    ];
    match error {
        StoreError::Full { .. } | StoreError::InUse { .. } => false,
        StoreError::Folder { source, .. } => {
            !Errno::from_io_error(source).is_some_and(|errno| WEATHER.contains(&errno))
        }
        StoreError::Engine { .. } => true,
    }
}

/// Replaces a damaged partition by the entries that can be carved out of `bytes`.
pub(super) fn rebuild(
    folder: &Path,
    path: &Path,
    bytes: &[u8],
    record: Option<CommitRecord>,
    what: &str,
) -> Result<Opened, StoreError> {
    let mut chunks: Vec<Chunk> = Chunk::carve(bytes, salt_of(path))
        .filter(|chunk| !matches!(chunk, Chunk::CommitRecord { .. }))
        .collect();
    chunks.sort_by_key(|chunk| match chunk {
        Chunk::Part { seq, part, .. } => (*seq, *part),
        other => (other.first_seq(), 0),
    });
    chunks.dedup();
    tracing::warn!(event = "store.quarantined", partition = %path.display(), %what, chunks = chunks.len(), "partition damaged, or its last write was cut short: moved to quarantine, readable entries are kept; check the disk if this happens again");
    // The replacement is complete before the damaged one moves: an interruption loses neither.
    let carved = carved_path(path);
    let rebuilt = Partition::prepare(&folder.join("new-carved"))?;
    rebuilt.adopt(&carved, &chunks, &record.clone().unwrap_or_default())?;
    set_aside(folder, path, bytes)?;
    fs::rename(&carved, path).map_err(|e| io_error(path, e))?;
    sync_dir(folder)?;
    let (partition, last_seq) = Partition::open(path)?;
    Ok(Opened {
        partition,
        last_seq,
        record,
    })
}

/// A whole file; blocks that the disk cannot read any more are zeros.
pub(super) fn read_what_can_be_read(path: &Path) -> Result<Vec<u8>, StoreError> {
    const BLOCK: usize = 4096;
    let unreadable =
        |error: &std::io::Error| error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
    match fs::read(path) {
        // A partition without its database is as damaged as it can be.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if unreadable(&error) => {
            tracing::error!(event = "store.unreadable_blocks", path = %path.display(), %error, "disk read error: unreadable blocks of the file are skipped; check the disk");
        }
        read => return read.map_err(|e| io_error(path, e)),
    }
    let mut file = File::open(path).map_err(|e| io_error(path, e))?;
    let length =
        usize::try_from(file.metadata().map_err(|e| io_error(path, e))?.len()).unwrap_or(0);
    let mut bytes = vec![0; length];
    for (index, block) in bytes.chunks_mut(BLOCK).enumerate() {
        let done = file
            .seek(SeekFrom::Start((index * BLOCK) as u64))
            .and_then(|_| file.read_exact(block));
        if done.is_err() {
            block.fill(0);
        }
    }
    Ok(bytes)
}

fn carved_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("carved-{name}"))
}

/// Finishes an interrupted rebuild: a replacement whose damaged partition is out of the way takes
/// its place; any other is deleted, and made again when it is needed.
fn finish_carving(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(|e| io_error(folder, e))? {
        let carved = entry.map_err(|e| io_error(folder, e))?.path();
        let name = carved
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let name = name
            .strip_prefix("carved-")
            .filter(|name| is_name_of_partition(name));
        let Some(original) = name.map(|name| folder.join(name)) else {
            continue;
        };
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
    make_private(&quarantine)?;
    make_room_in(&quarantine)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let found = path.join("db.found");
    write_private(&found, bytes).map_err(|e| io_error(&found, e))?;
    // The engine has changed its own file by opening it; the bytes as they were found are worth
    // keeping.
    fs::rename(&found, path.join("db")).map_err(|e| io_error(&found, e))?;
    fs::rename(path, free_name(&quarantine, &name)).map_err(|e| io_error(path, e))
}

/// Removes the oldest damaged partitions until another one fits.
fn make_room_in(quarantine: &Path) -> Result<(), StoreError> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(quarantine).map_err(|e| io_error(quarantine, e))? {
        let path = entry.map_err(|e| io_error(quarantine, e))?.path();
        let bytes = fs::metadata(path.join("db")).map_or(0, |meta| meta.blocks() * 512);
        kept.push((path, bytes));
    }
    kept.sort();
    let mut total: u64 = kept.iter().map(|(_, bytes)| bytes).sum();
    for (path, bytes) in kept {
        if total < QUARANTINE_BYTES {
            break;
        }
        tracing::warn!(event = "store.quarantine_full", path = %path.display(), "quarantine full: deleting the oldest damaged partition; check the disk");
        fs::remove_dir_all(&path).map_err(|e| io_error(&path, e))?;
        total -= bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::{Journal, PartitionBytes};

    fn open(folder: &Path) -> Journal {
        Journal::open(folder, PartitionBytes(4 << 20)).unwrap()
    }

    #[test]
    fn what_people_leave_in_the_folder_stops_no_start_and_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        journal
            .append(&[bytes::Bytes::from_static(b"entry")])
            .unwrap();
        journal.close().unwrap();
        let partition = partitions(folder.path())
            .unwrap()
            .front()
            .unwrap()
            .path(folder.path());
        let name = partition.file_name().unwrap().to_str().unwrap().to_owned();
        let folders = [
            format!("{name}.bak"),
            "p-3-00000001-a".to_owned(),
            // Of a later version.
            name.replacen("p-3-", "p-4-", 1),
            "p-backup".to_owned(),
            "dead-letters".to_owned(),
            "new-data".to_owned(),
        ];
        for foreign in &folders {
            fs::create_dir(folder.path().join(foreign)).unwrap();
            fs::write(folder.path().join(foreign).join("db"), foreign).unwrap();
        }
        // A copy with its date changed, an archive under the name of a partition, and files.
        let mut parts: Vec<&str> = name.split('-').collect();
        parts[4] = "0fffffffffff";
        let files = [
            parts.join("-"),
            "p-2-00000009-0000000000000009-000000000000-00000000".to_owned(),
        ];
        let plain = [
            "carved-records.txt",
            "new-tail.tar",
            "dead-line",
            "p-2.tar.gz",
            "outbox.zip",
        ]
        .map(str::to_owned);
        for file in files.iter().chain(&plain) {
            fs::write(folder.path().join(file), file).unwrap();
        }
        let mut journal = open(folder.path());
        assert_eq!(
            (journal.read(0, 10, 1000).unwrap().len(), journal.lost()),
            (1, 0)
        );
        let content = |name: &str| {
            ["", "set-aside"]
                .iter()
                .find_map(|place| fs::read_to_string(folder.path().join(place).join(name)).ok())
        };
        for foreign in &folders {
            assert_eq!(
                content(&format!("{foreign}/db")).as_deref(),
                Some(foreign.as_str())
            );
        }
        for file in files.iter().chain(&plain) {
            assert_eq!(content(file).as_deref(), Some(file.as_str()));
        }
        drop(journal);
        drop(open(folder.path()));
    }

    #[test]
    fn a_second_partition_with_the_same_number_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        journal
            .append(&[bytes::Bytes::from_static(b"entry")])
            .unwrap();
        journal.close().unwrap();
        let sealed = partitions(folder.path()).unwrap().pop_front().unwrap();
        let copy = Sealed {
            created_ms: sealed.created_ms + 1,
            ..sealed.clone()
        };
        fs::create_dir(copy.path(folder.path())).unwrap();
        fs::write(copy.path(folder.path()).join("db"), "a copy").unwrap();
        let mut journal = open(folder.path());
        assert_eq!(
            (journal.read(0, 10, 1000).unwrap().len(), journal.lost()),
            (1, 0)
        );
        assert_eq!(
            fs::read_dir(folder.path().join("set-aside"))
                .unwrap()
                .count(),
            1
        );
    }

    #[test]
    fn nobody_else_may_read_a_journal_also_one_that_was_open_to_all() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("queue");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let mut journal = open(&folder);
        journal
            .append(&[bytes::Bytes::from_static(b"entry")])
            .unwrap();
        journal.close().unwrap();
        let database = partitions(&folder)
            .unwrap()
            .front()
            .unwrap()
            .path(&folder)
            .join("db");
        fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).unwrap();
        drop(open(&folder));
        let mut todo = vec![folder];
        while let Some(path) = todo.pop() {
            let meta = fs::metadata(&path).unwrap();
            assert_eq!(meta.permissions().mode() & 0o077, 0, "{}", path.display());
            if meta.is_dir() {
                todo.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            }
        }
    }
}
