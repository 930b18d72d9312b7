//! One partition: a sled database that is filled once. The only file that names sled.
//!
//! Invariants:
//! * `commit` returns `Ok` only after our own `fdatasync` of the database file.
//! * A slot is written once; slots exist, empty, before the partition is used.
//! * A partition is made ahead of need under a temporary name. It gets its final name only after
//!   its files, its directory and a record are synced, and is used only after the parent directory
//!   is.
//! * Panics of the engine become [`StoreError::Engine`].

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::StoreError;
use super::chunk::Chunk;
use super::commit_record::CommitRecord;

/// Slots that may be used; sixteen more stay empty at the end, so that the last leaf is never
/// split.
pub(super) const SLOTS: u32 = 512;
const SPARE_SLOTS: u32 = 16;
const SEGMENT_BYTES: usize = 2 << 20;
const CACHE_BYTES: u64 = 4 << 20;
/// How often a lock is tried that another process holds.
pub(super) const LOCK_ATTEMPTS: u32 = 10;
/// The pause between two attempts.
pub(super) const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// The least a limit must allow for one partition: the engine pads its file to whole segments when
/// it opens it.
pub(super) const LEAST_PARTITION_BYTES: u64 = 2 * SEGMENT_BYTES as u64;

/// An open partition.
pub(super) struct Partition {
    path: PathBuf,
    /// Begins every checksum in it.
    salt: u32,
    engine: Guarded,
    /// Our own descriptor of the database file, for `fdatasync`.
    file: File,
    next_slot: u32,
    bytes: u64,
}

/// The handles of the engine. Dropping them syncs its log, and panics if that fails.
struct Guarded(Option<Handles>);

struct Handles {
    db: sled::Db,
    slots: sled::Tree,
    meta: sled::Tree,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let handles = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(handles))).is_err() {
            tracing::warn!(
                event = "store.close_failed",
                "storage engine failed to close a partition; nothing is lost, its commits were synced before"
            );
        }
    }
}

impl Guarded {
    fn new(db: sled::Db, slots: sled::Tree, meta: sled::Tree) -> Self {
        Self(Some(Handles { db, slots, meta }))
    }

    fn handles(&self) -> Result<&Handles, sled::Error> {
        // Taken out on drop only.
        self.0
            .as_ref()
            .ok_or_else(|| sled::Error::Unsupported("a partition that is closed".to_owned()))
    }
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition")
            .field("path", &self.path)
            .field("next_slot", &self.next_slot)
            .finish_non_exhaustive()
    }
}

/// The engine reports a lock of another process in words only.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(io) if io.to_string().starts_with("could not acquire lock"))
}

fn engine_error(path: &Path, error: &sled::Error) -> StoreError {
    match error {
        locked if is_locked(locked) => StoreError::InUse {
            folder: path.to_owned(),
        },
        sled::Error::Io(io) => {
            let copy = || std::io::Error::new(io.kind(), io.to_string());
            io_error(
                path,
                io.raw_os_error()
                    .map_or_else(copy, std::io::Error::from_raw_os_error),
            )
        }
        other => StoreError::Engine {
            path: path.to_owned(),
            what: other.to_string(),
        },
    }
}

/// An I/O error by its remedy: a full disk, or a file that cannot be used.
pub(super) fn io_error(path: &Path, source: std::io::Error) -> StoreError {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    if matches!(source.kind(), StorageFull | QuotaExceeded) {
        let folder = path.parent().unwrap_or(path).to_owned();
        return StoreError::Full { folder };
    }
    StoreError::Folder {
        path: path.to_owned(),
        source,
    }
}

fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("panic without a message");
        Err(StoreError::Engine {
            path: path.to_owned(),
            what: what.to_owned(),
        })
    })
}

fn open_database(path: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(path)
        .mode(sled::Mode::LowSpace)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    let mut patience = LOCK_ATTEMPTS;
    loop {
        patience -= 1;
        match config.open() {
            // A process that this one is about to start may hold the lock for a moment.
            Err(error) if is_locked(&error) && patience > 0 => std::thread::sleep(LOCK_PAUSE),
            opened => return opened.map_err(|e| engine_error(path, &e)),
        }
    }
}

/// Options for a file that only its owner may read, whatever the umask.
pub(super) fn private_file() -> fs::OpenOptions {
    let mut options = File::options();
    options.mode(0o600);
    options
}

/// Writes a small file that only its owner may read, durably.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = private_file()
        .create(true)
        .truncate(true)
        .write(true)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Keeps everybody but the owner out of a folder.
pub(super) fn keep_private(folder: &Path) -> Result<(), StoreError> {
    let mode = fs::metadata(folder)
        .map_err(|e| io_error(folder, e))?
        .permissions()
        .mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(|e| io_error(folder, e))
}

/// The same for the files of a partition, which the engine makes with the umask.
fn keep_files_private(path: &Path) -> Result<(), StoreError> {
    keep_private(path)?;
    for entry in fs::read_dir(path).map_err(|e| io_error(path, e))? {
        let file = entry.map_err(|e| io_error(path, e))?.path();
        let mode = fs::metadata(&file).map_err(|e| io_error(&file, e))?;
        if mode.is_file() && mode.permissions().mode() & 0o177 != 0 {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))
                .map_err(|e| io_error(&file, e))?;
        } else if mode.is_dir() {
            keep_private(&file)?;
        }
    }
    Ok(())
}

fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|e| io_error(path, e))
}

/// Makes the entries of a directory durable.
pub(super) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    sync(path)
}

impl Partition {
    /// Makes an empty partition at `temporary`, durable but for its name. On failure nothing is
    /// left there.
    pub(super) fn prepare(temporary: &Path) -> Result<Self, StoreError> {
        // Leftovers of an earlier attempt.
        let _ = fs::remove_dir_all(temporary);
        let made = guarded(temporary, || Self::prepare_at(temporary));
        if made.is_err() {
            let _ = fs::remove_dir_all(temporary);
        }
        made
    }

    fn prepare_at(path: &Path) -> Result<Self, StoreError> {
        let fail = |e: sled::Error| engine_error(path, &e);
        let db = open_database(path)?;
        let slots = db.open_tree("q").map_err(fail)?;
        let meta = db.open_tree("m").map_err(fail)?;
        for slot in 0..SLOTS + SPARE_SLOTS {
            slots.insert(slot.to_be_bytes(), Vec::new()).map_err(fail)?;
        }
        db.flush().map_err(fail)?;
        keep_files_private(path)?;
        for file in ["conf", "db"] {
            sync(&path.join(file))?;
        }
        sync_dir(path)?;
        let file = File::open(path.join("db")).map_err(|e| io_error(path, e))?;
        Ok(Self {
            path: path.to_owned(),
            salt: salt_of(path),
            engine: Guarded::new(db, slots, meta),
            file,
            next_slot: 0,
            bytes: 0,
        }
        .measured())
    }

    /// Gives a prepared partition its name, with `chunks` and `record` in it. On failure it must
    /// not be used.
    pub(super) fn adopt(
        mut self,
        path: &Path,
        chunks: &[Chunk],
        record: &CommitRecord,
    ) -> Result<Self, StoreError> {
        self.salt = salt_of(path);
        self.commit(chunks, record)?;
        if path.exists() {
            // Left by an adoption that failed after its rename: nothing in it was ever
            // acknowledged.
            fs::remove_dir_all(path).map_err(|e| io_error(path, e))?;
        }
        fs::rename(&self.path, path).map_err(|e| io_error(path, e))?;
        sync_dir(path.parent().unwrap_or(path))?;
        Ok(Self {
            path: path.to_owned(),
            ..self
        })
    }

    /// Opens a partition and reads it once from end to end; also returns the last sequence number
    /// it holds whole.
    pub(super) fn open(path: &Path) -> Result<(Self, Option<u64>), StoreError> {
        guarded(path, || {
            remove_unfinished_snapshots(path)?;
            let db = open_database(path)?;
            let fail = |e: sled::Error| engine_error(path, &e);
            let slots = db.open_tree("q").map_err(fail)?;
            let meta = db.open_tree("m").map_err(fail)?;
            keep_files_private(path)?;
            let file = File::open(path.join("db")).map_err(|e| io_error(path, e))?;
            let mut partition = Self {
                path: path.to_owned(),
                salt: salt_of(path),
                engine: Guarded::new(db, slots, meta),
                file,
                next_slot: 0,
                bytes: 0,
            };
            let mut last = None;
            while let Some(chunk) = partition.chunk(partition.next_slot)? {
                partition.next_slot += 1;
                last = last.max(Some(chunk.last_complete_seq()).filter(|seq| *seq > 0));
            }
            Ok((partition.measured(), last))
        })
    }

    /// The chunk in `slot`; `None` if it has not been written.
    pub(super) fn chunk(&self, slot: u32) -> Result<Option<Chunk>, StoreError> {
        guarded(&self.path, || {
            let value = self
                .engine
                .handles()
                .and_then(|engine| engine.slots.get(slot.to_be_bytes()))
                .map_err(|e| engine_error(&self.path, &e))?;
            match value {
                Some(bytes) if !bytes.is_empty() => {
                    let decoded = Chunk::decode(&bytes, self.salt);
                    decoded.map(Some).map_err(|e| StoreError::Engine {
                        path: self.path.clone(),
                        what: e.to_string(),
                    })
                }
                _ => Ok(None),
            }
        })
    }

    /// The record of the last commit into this partition.
    pub(super) fn record(&self) -> Result<CommitRecord, StoreError> {
        guarded(&self.path, || {
            let bytes = self
                .engine
                .handles()
                .and_then(|engine| engine.meta.get("note"))
                .map_err(|e| engine_error(&self.path, &e))?;
            let record =
                bytes.and_then(|bytes| CommitRecord::of(&Chunk::decode(&bytes, self.salt).ok()?));
            record.ok_or_else(|| StoreError::Engine {
                path: self.path.clone(),
                what: "no commit record".to_owned(),
            })
        })
    }

    /// Writes chunks into the next slots and the record beside them; durable when it returns `Ok`.
    /// After an error this partition must not be written again.
    pub(super) fn commit(
        &mut self,
        chunks: &[Chunk],
        record: &CommitRecord,
    ) -> Result<(), StoreError> {
        let path = self.path.clone();
        guarded(&path, || {
            let fail = |e: sled::Error| engine_error(&path, &e);
            let engine = self.engine.handles().map_err(fail)?;
            for chunk in chunks {
                let bytes = chunk.encode(self.salt);
                engine
                    .slots
                    .insert(self.next_slot.to_be_bytes(), bytes)
                    .map_err(fail)?;
                self.next_slot += 1;
            }
            engine
                .meta
                .insert("note", record.encode(self.salt))
                .map_err(fail)?;
            engine.db.flush().map_err(fail)?;
            self.file.sync_data().map_err(|e| io_error(&path, e))?;
            self.bytes = blocks_of(&self.file);
            Ok(())
        })
    }

    fn measured(self) -> Self {
        let bytes = blocks_of(&self.file);
        Self { bytes, ..self }
    }

    /// Slots that can still be written.
    pub(super) fn free_slots(&self) -> usize {
        SLOTS.saturating_sub(self.next_slot) as usize
    }

    /// Bytes it takes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The number that a partition's name ends with.
pub(super) fn salt_of(path: &Path) -> u32 {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.rsplit('-')
        .next()
        .and_then(|salt| u32::from_str_radix(salt, 16).ok())
        .unwrap_or(0)
}

/// Bytes a file takes on disk: a database file is longer than its content.
fn blocks_of(file: &File) -> u64 {
    file.metadata().map_or(0, |meta| meta.blocks() * 512)
}

/// A kill during an open leaves a snapshot that the engine takes for a good one: the database is
/// unreadable then.
fn remove_unfinished_snapshots(path: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(path).map_err(|e| io_error(path, e))? {
        let file = entry.map_err(|e| io_error(path, e))?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "generating")
        {
            fs::remove_file(&file).map_err(|e| io_error(&file, e))?;
        }
    }
    Ok(())
}
