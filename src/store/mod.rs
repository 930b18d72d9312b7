//! The durable journals: an entry that was appended is on disk, in its order, until it is settled.
//!
//! A store is a folder with one or more journals (queues), one thread that writes them, and files
//! they share:
//! ```text
//! LOCK                                         held while the store is open
//! identity                                     drawn once a machine; with a sequence number it names an entry for ever
//! machine                                      where it was drawn
//! reserve                                      room that is released when the disk is full, so that delivery can continue
//! <queue>/LOCK                                 held while the journal is open
//! <queue>/p-3-<number>-<first seq>-<begun>-<salt>/    a partition: one sled database, filled once, removed whole
//! <queue>/closed                               the last commit record of a clean shutdown
//! <queue>/progress                             how far the journal had come: which commit must be there at least
//! <queue>/new-*/  dead-*/                      partitions being made or removed; deleted at the next start
//! <queue>/carved-*/                            replaces a damaged partition, until that one is in quarantine
//! <queue>/set-aside/                           left there by people or other versions; never read, never deleted
//! <queue>/quarantine/                          partitions that could not be read whole; their readable entries were kept
//! ```
//!
//! Invariants:
//! * Durable means `flush` **and** `fdatasync`: sled's `flush` alone ends in `sync_file_range`,
//!   which a power cut undoes.
//! * A slot of a partition is written once. Nothing is deleted inside a database; space returns
//!   when a directory is removed.
//! * Sequence numbers grow and are never used again, across restarts too. They skip some after an
//!   unclean shutdown.
//! * The commit record (what is settled, which numbers are in use, the state of the user) is
//!   written in the same commit as the entries.
//! * After a failed write the partition is left alone and a new one is begun; an fsync is never
//!   repeated on the same file.
//! * Damage is reported, never silent: `closed` or `progress` say what must be there. After a power
//!   cut `progress` may be older; then the loss of the very last pages cannot be told from a write
//!   that was under way.
//! * Folders are 0700 and files 0600, whatever the umask.
//! * An entry that is settled before its commit is due is never written at all.
//! * A [`Handover`] is written in the commit of its entry, and is there until it is forgotten. Its
//!   entry is read only once it is on disk.
//! * Only `engine.rs` names sled; it catches its panics.
//!
//! [`Journal`] serves an outbox (append, read, settle) and a journal with checkpoints (append the
//! whole state again, settle everything before it, read on from there) alike; [`Store`] gives it a
//! thread. Neither knows of messages: an entry is bytes.

mod ack_cursor;
mod chunk;
mod commit_record;
mod emergency_reserve;
mod engine;
mod entry;
mod folder;
mod gap;
mod handle;
mod handover;
mod identity;
mod inspect;
mod journal;
mod machine;
mod packed;
mod pending;
mod preallocation;
mod progress;
mod purge;
mod queue;
mod receipt;
mod recover;
mod settings;
mod shared;
mod thread;

pub use ack_cursor::AckCursor;
pub use chunk::Chunk;
pub use commit_record::{CommitRecord, STATE_BYTES};
pub use entry::{CHUNK_BYTES, ChunkError, Entry};
pub use folder::lock as hold;
pub use gap::{Gap, Reason};
pub use handle::{EntryId, HandoverBook, Store};
pub use handover::{FindHandover, Handover};
pub use inspect::{InspectError, Inspection};
pub use journal::{Journal, PartitionBytes};
pub use purge::{purge, remove};
pub use receipt::{AppendError, Receipt, Stored};
pub use settings::{Settings, WhenFull};
pub use shared::{Counters, ReadError};
pub use thread::{StoreQueues, open};

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Weather: the file system has no room. Nothing was acknowledged; it may work later.
    #[error(
        "no space left on the file system of {folder}; free some space or move `outbox.folder`"
    )]
    Full {
        /// The journal's folder.
        folder: std::path::PathBuf,
    },
    /// A person's mistake: another process has the folder.
    #[error(
        "{folder} is in use by another wellhead; stop that one first, or give this one an `outbox.folder` of its own"
    )]
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
        /// The error of the system.
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
