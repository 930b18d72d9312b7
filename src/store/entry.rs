//! An entry, and the bound of the chunks that hold entries.

use bytes::Bytes;

/// Largest encoded chunk. Values above a quarter of a seventeenth of the engine's segment would go
/// to separate files that the engine never syncs.
pub const CHUNK_BYTES: usize = 28 * 1024;
/// One entry with its sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the order of all entries ever appended.
    pub seq: u64,
    /// As it was appended.
    pub bytes: Bytes,
}

/// Why bytes are no chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("damaged chunk: {0}")]
pub struct ChunkError(pub(super) &'static str);
