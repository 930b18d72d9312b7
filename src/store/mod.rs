//! The durable journal: what was appended is on disk, in order, until it is settled.
//!
//! Layout of a journal's folder:
//! ```text
//! LOCK                                     held while the journal is open
//! p-1-<number>-<first seq>/                a partition: one sled database, filled once, removed whole
//! new-*/  dead-*/                          partitions being made or removed; deleted at the next start
//! carved-*/                                what replaces a damaged partition, until that one is in quarantine
//! quarantine/                              partitions that could not be read; what could be carved out of them was kept
//! reserve                                  room that is given up when the disk is full, so that delivering can go on
//! ```
//!
//! Invariants:
//! * `append` returns after `flush` **and** `fdatasync`: sled's `flush` alone ends in `sync_file_range`, which a power cut undoes.
//! * A slot of a partition is written once. Nothing is deleted inside a database; space returns when a directory is removed.
//! * Sequence numbers grow by one per entry and are never used again, across restarts too.
//! * The cursor (what is settled) is written in the same commit as the entries, into the newest partition.
//! * After a failed write the partition is left alone and a new one is begun; an fsync is never repeated on the same file.
//! * Only `engine.rs` names sled; it catches its panics.
//!
//! What it does not do: it knows nothing of messages. An entry is bytes.

mod chunk;
mod cursor;
mod engine;
mod folder;
mod journal;
mod reserve;
mod thread;

pub use chunk::{CHUNK_BYTES, Chunk, ChunkError};
pub use cursor::Cursor;
pub use journal::{Entry, Journal, Limits};
pub use thread::{AppendError, Counters, Receipt, Settings, Store, open};

/// Why the journal cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Weather: the file system has no room. Nothing was acknowledged; it may work later.
    #[error("no space left on the file system of {folder}; free some space or move `outbox.folder`")]
    Full {
        /// The journal's folder.
        folder: std::path::PathBuf,
    },
    /// A person's mistake: another process has the folder.
    #[error("{folder} is in use by another wellhead; stop that one first, or give this one an `outbox.folder` of its own")]
    InUse {
        /// The journal's folder.
        folder: std::path::PathBuf,
    },
    /// A person's mistake: missing rights, a file in the way.
    #[error(
        "{path}: {source}; give the user who runs wellhead the right to read and write there, or set `outbox.folder` to another folder"
    )]
    Folder {
        /// The folder or file.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Ours: the storage engine failed. The partition concerned is not written any more.
    #[error("the storage engine failed on {path}: {what}")]
    Engine {
        /// The partition.
        path: std::path::PathBuf,
        /// Its message.
        what: String,
    },
}
