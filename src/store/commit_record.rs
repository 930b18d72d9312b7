//! The state of a journal as of one commit, written beside the entries in the same commit. Pure.
//!
//! ```text
//! given out below | given out below less written | written less durable | cursor | hand-overs | state of the user
//! ```
//! Numbers are LEB128. Versions before 3 wrote them with 8 bytes each: durable, written, given out
//! below.

use bytes::{Buf, Bytes, BytesMut};

use super::ack_cursor::AckCursor;
use super::chunk::Chunk;
use super::handover::Handovers;
use crate::leb128;

/// Largest state of a user in bytes. A record is alone in its page: cursor and state together stay
/// far below the quarter of a segment above which the engine puts a value into a file that it never
/// syncs.
pub const STATE_BYTES: usize = 24 * 1024;

/// The record of one commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitRecord {
    /// Grows with every commit of the journal.
    pub number: u64,
    /// The highest sequence number known to be on disk before this commit: up to it, every entry
    /// that is not settled must be there.
    pub durable: u64,
    /// The highest sequence number written with this commit.
    pub written: u64,
    /// Numbers below this one may have been given out; the next run begins here.
    pub next_seq: u64,
    /// The settled numbers.
    pub cursor: AckCursor,
    /// Hand-overs that are not forgotten; those of entries up to `written` are written.
    pub(super) handovers: Handovers,
    /// The state of the journal's user, at most [`STATE_BYTES`].
    pub state: Bytes,
}

impl CommitRecord {
    /// As a chunk, so that it can be carved out of a damaged database.
    pub fn encode(&self, salt: u32) -> Vec<u8> {
        let mut body = BytesMut::with_capacity(36 + self.state.len());
        leb128::put(self.next_seq, &mut body);
        leb128::put(self.next_seq.wrapping_sub(self.written), &mut body);
        leb128::put(self.written.wrapping_sub(self.durable), &mut body);
        self.cursor.encode(&mut body);
        self.handovers.encode(self.written, &self.state, &mut body);
        Chunk::CommitRecord {
            number: self.number,
            body: body.freeze(),
            is_early: false,
        }
        .encode(salt)
    }

    /// The record in a chunk; `None` if it holds none.
    pub fn of(chunk: &Chunk) -> Option<Self> {
        let Chunk::CommitRecord {
            number,
            body,
            is_early,
        } = chunk
        else {
            return None;
        };
        let mut body = body.clone();
        let record = if *is_early {
            Self {
                durable: body.try_get_u64().ok()?,
                written: body.try_get_u64().ok()?,
                next_seq: body.try_get_u64().ok()?,
                cursor: AckCursor::decode_early(&mut body)?,
                ..Self::default()
            }
        } else {
            let next_seq = leb128::take(&mut body)?;
            let written = next_seq.wrapping_sub(leb128::take(&mut body)?);
            Self {
                durable: written.wrapping_sub(leb128::take(&mut body)?),
                written,
                next_seq,
                cursor: AckCursor::decode(&mut body)?,
                handovers: Handovers::decode(written, &mut body)?,
                ..Self::default()
            }
        };
        Some(Self {
            number: *number,
            state: body,
            ..record
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::handover::{Handover, MOST_HANDOVERS};
    use super::*;

    #[test]
    fn a_note_comes_back_as_it_was_written() {
        let mut cursor = AckCursor::default();
        cursor.settle(1, 5);
        cursor.settle(9, 12);
        let record = CommitRecord {
            number: 77,
            durable: 15,
            written: 20,
            next_seq: 30,
            cursor,
            handovers: Handovers::default(),
            state: Bytes::from_static(b"in flight"),
        };
        assert_eq!(
            CommitRecord::of(&Chunk::decode(&record.encode(3), 3).unwrap()),
            Some(record)
        );
    }

    #[test]
    fn the_largest_note_is_far_from_what_the_engine_would_not_sync() {
        let mut cursor = AckCursor::default();
        for n in 1..10_000 {
            cursor.settle(4 * n, 4 * n + 1);
        }
        let mut handovers = Handovers::default();
        for receipt in 0..MOST_HANDOVERS as u64 {
            let handover = Handover {
                source: u64::from(u32::MAX) << 8,
                packet_id: u16::MAX,
                receipt: u64::from(u32::MAX) + receipt,
            };
            handovers.push(0, handover);
        }
        let record = CommitRecord {
            cursor,
            handovers,
            state: vec![1; STATE_BYTES].into(),
            ..CommitRecord::default()
        };
        assert!(record.encode(0).len() <= 104 * 1024);
    }
}
