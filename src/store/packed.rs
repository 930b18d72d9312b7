//! Entries as they lie in a chunk: what an entry has in common with the one before it is not
//! written again. Pure.
//!
//! ```text
//! body = until all entries are there: a run, or a skip
//! skip: 0 | numbers skipped
//! run:  entries n | length of each | bytes shared with the entry before the run
//!       n = 1: the other bytes
//!       n > 1: bytes that all of them have next | those bytes
//!              | how each of the remaining columns is written, 2 bits each | the columns
//! column: 0 the same byte in all: that byte · 1 one more in each: the first byte · 2 the bytes
//! ```
//! Lengths and counts are LEB128. A run holds consecutive numbers. Readings of one scan make long
//! runs: their heads are the same, their columns count up, and only their values are written out.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::entry::{CHUNK_BYTES, ChunkError, Entry};
use crate::leb128;

/// Only entries up to this length make runs of more than one,
const LONGEST_IN_RUN: usize = 256;
/// which differ in so many bytes at the most, at their ends.
const MOST_COLUMNS: usize = 16;

const SHORT: ChunkError = ChunkError("cut short");
const OUT_OF_RANGE: ChunkError = ChunkError("a number out of range");

/// A length or a count; nothing in a chunk is larger than the chunk.
fn size(bytes: &mut Bytes) -> Result<usize, ChunkError> {
    leb128::take(bytes)
        .and_then(|size| usize::try_from(size).ok())
        .filter(|size| *size <= CHUNK_BYTES)
        .ok_or(OUT_OF_RANGE)
}

fn common_prefix(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

/// How a column is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PackedColumn {
    Same,
    CountsUp,
    Any,
}

impl PackedColumn {
    fn of(run: &[Entry], at: usize) -> Self {
        let bytes = || run.iter().filter_map(|entry| entry.bytes.get(at));
        let steps = |step: u8| {
            bytes()
                .zip(bytes().skip(1))
                .all(|(one, next)| one.wrapping_add(step) == *next)
        };
        if steps(0) {
            Self::Same
        } else if steps(1) {
            Self::CountsUp
        } else {
            Self::Any
        }
    }

    fn from_bits(bits: u8) -> Result<Self, ChunkError> {
        match bits & 3 {
            0 => Ok(Self::Same),
            1 => Ok(Self::CountsUp),
            2 => Ok(Self::Any),
            _ => Err(ChunkError("an unknown column")),
        }
    }
}

/// The length of the run at the front of `entries`, and how many bytes all of it begin with.
fn run_of(entries: &[Entry]) -> (usize, usize) {
    let Some((first, rest)) = entries.split_first() else {
        return (0, 0);
    };
    let length = first.bytes.len();
    let continues = |(place, entry): &(usize, &Entry)| {
        entry.bytes.len() == length && entry.seq == first.seq + *place as u64 + 1
    };
    let mut alike = rest
        .iter()
        .enumerate()
        .take_while(continues)
        .map(|(_, entry)| common_prefix(&first.bytes, &entry.bytes));
    match alike.next() {
        Some(begin) if length <= LONGEST_IN_RUN && begin + MOST_COLUMNS >= length => {
            let more = alike.take_while(|common| *common >= begin).count();
            (2 + more, begin)
        }
        _ => (1, length),
    }
}

/// Writes entries, whose numbers must grow, with the number of the first known.
pub(super) fn put(mut entries: &[Entry], out: &mut BytesMut) {
    let mut next = entries.first().map_or(0, |entry| entry.seq);
    let mut before: &[u8] = &[];
    while let Some(first) = entries.first() {
        if first.seq > next {
            leb128::put(0, out);
            leb128::put(first.seq - next, out);
        }
        let (count, begin) = run_of(entries);
        let Some((run, rest)) = entries.split_at_checked(count) else {
            return;
        };
        let shared = common_prefix(before, &first.bytes).min(begin);
        leb128::put(count as u64, out);
        leb128::put(first.bytes.len() as u64, out);
        leb128::put(shared as u64, out);
        if count > 1 {
            leb128::put((begin - shared) as u64, out);
        }
        out.put_slice(first.bytes.get(shared..begin).unwrap_or_default());
        put_columns(run, begin, out);
        next = first.seq + count as u64;
        before = run.last().map_or(before, |last| &last.bytes);
        entries = rest;
    }
}

fn put_columns(run: &[Entry], begin: usize, out: &mut BytesMut) {
    let length = run.first().map_or(0, |first| first.bytes.len());
    let columns: Vec<PackedColumn> = (begin..length)
        .map(|at| PackedColumn::of(run, at))
        .collect();
    for four in columns.chunks(4) {
        let bits = four
            .iter()
            .rev()
            .fold(0, |bits, column| bits << 2 | *column as u8);
        out.put_u8(bits);
    }
    for (column, at) in columns.iter().zip(begin..) {
        let bytes = run.iter().filter_map(|entry| entry.bytes.get(at).copied());
        match column {
            PackedColumn::Any => out.extend(bytes),
            PackedColumn::Same | PackedColumn::CountsUp => out.extend(bytes.take(1)),
        }
    }
}

/// Reads `count` entries, the first of which has the number `seq`.
pub(super) fn take(mut seq: u64, count: u64, mut content: Bytes) -> Result<Vec<Entry>, ChunkError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut room = CHUNK_BYTES;
    let step = |seq: u64, by: u64| seq.checked_add(by).ok_or(OUT_OF_RANGE);
    while (entries.len() as u64) < count {
        let run = size(&mut content)?;
        if run == 0 {
            seq = step(seq, leb128::take(&mut content).ok_or(OUT_OF_RANGE)?)?;
            continue;
        }
        let before = entries
            .last()
            .map_or_else(Bytes::new, |entry| entry.bytes.clone());
        let bytes = run_bytes(run, &before, &mut content, &mut room)?;
        for bytes in bytes {
            entries.push(Entry { seq, bytes });
            seq = step(seq, 1)?;
        }
    }
    if entries.is_empty() {
        return Err(ChunkError("empty"));
    }
    Ok(entries)
}

/// Reads the entries of a run; `room` bytes may be made.
fn run_bytes(
    count: usize,
    before: &[u8],
    content: &mut Bytes,
    room: &mut usize,
) -> Result<Vec<Bytes>, ChunkError> {
    let length = size(content)?;
    let shared = before.get(..size(content)?).ok_or(OUT_OF_RANGE)?;
    let own = if count > 1 {
        size(content)?
    } else {
        length.saturating_sub(shared.len())
    };
    let begin = shared.len() + own;
    // Each entry takes room, an empty one too, so that the count is bounded.
    let taken = count.saturating_mul(length.max(1));
    if begin > length || taken > *room {
        return Err(OUT_OF_RANGE);
    }
    *room -= taken;
    if content.len() < own {
        return Err(SHORT);
    }
    let mut all = BytesMut::zeroed(count * length);
    let own = content.split_to(own);
    for entry in all.chunks_exact_mut(length.max(1)) {
        let (head, rest) = entry.split_at_mut(shared.len());
        head.copy_from_slice(shared);
        rest.get_mut(..own.len())
            .ok_or(OUT_OF_RANGE)?
            .copy_from_slice(&own);
    }
    columns(&mut all, length, begin, content)?;
    Ok((0..count).map(|_| all.split_to(length).freeze()).collect())
}

/// Fills the columns of a run from `begin` on.
fn columns(
    all: &mut [u8],
    length: usize,
    begin: usize,
    content: &mut Bytes,
) -> Result<(), ChunkError> {
    let modes = (length - begin).div_ceil(4);
    if content.len() < modes {
        return Err(SHORT);
    }
    let modes = content.split_to(modes);
    let modes = modes
        .iter()
        .flat_map(|four| [0, 2, 4, 6].map(|shift| four >> shift));
    for (at, bits) in (begin..length).zip(modes) {
        let column = PackedColumn::from_bits(bits)?;
        let mut byte = None;
        for place in all.iter_mut().skip(at).step_by(length) {
            *place = match (column, byte) {
                (PackedColumn::Same, Some(before)) => before,
                (PackedColumn::CountsUp, Some(before)) => u8::wrapping_add(before, 1),
                _ => content.try_get_u8().map_err(|_| SHORT)?,
            };
            byte = Some(*place);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(entries: &[Entry]) -> Bytes {
        let mut out = BytesMut::new();
        put(entries, &mut out);
        out.freeze()
    }

    fn numbered(first: u64, all: impl IntoIterator<Item = Vec<u8>>) -> Vec<Entry> {
        all.into_iter()
            .zip(first..)
            .map(|(bytes, seq)| Entry {
                seq,
                bytes: bytes.into(),
            })
            .collect()
    }

    #[test]
    fn what_a_scan_has_in_common_is_written_once() {
        let head = [9_u8; 20];
        let rows = |value: fn(u8) -> Vec<u8>| {
            let row = move |column: u8| [&head[..], &[0, column, 5], &value(column)].concat();
            numbered(70, (0..50).map(row))
        };
        let noisy = rows(|column| vec![column.wrapping_mul(37), column ^ 0x55]);
        let size = packed(&noisy).len();
        assert!(size <= 20 + 12 + 50 * 2, "{size}");
        let constant = rows(|_| vec![1, 2, 3, 4]);
        assert!(packed(&constant).len() < 40);
        for entries in [noisy, constant] {
            assert_eq!(take(70, 50, packed(&entries)).unwrap(), entries);
        }
    }

    #[test]
    fn a_number_that_is_missing_ends_a_run() {
        let mut entries = numbered(1, [1, 2, 3, 4].map(|byte| vec![7, 7, byte]));
        for entry in entries.iter_mut().skip(2) {
            entry.seq += 5_000_000_000;
        }
        assert_eq!(take(1, 4, packed(&entries)).unwrap(), entries);
    }

    /// Entries that resemble each other, as those of an outbox do.
    fn similar() -> impl Strategy<Value = Vec<Entry>> {
        let entry = (
            0_usize..30,
            prop::collection::vec(any::<u8>(), 0..12),
            0_u64..40,
        );
        prop::collection::vec(entry, 1..60).prop_map(|all| {
            let head: Vec<u8> = (0..30).collect();
            let mut seq = 3;
            all.into_iter()
                .map(|(shared, own, gap)| {
                    seq += 1 + gap.saturating_sub(36) * 1_000_000;
                    Entry {
                        seq,
                        bytes: [head.get(..shared).unwrap(), &own].concat().into(),
                    }
                })
                .collect()
        })
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn entries_come_back_as_they_were(entries in similar(), few in 1_usize..4) {
            let count = entries.len() as u64;
            let bytes = packed(&entries);
            let plain: usize = entries.iter().map(|entry| 12 + entry.bytes.len()).sum();
            prop_assert!(bytes.len() <= plain, "a chunk that was cut by this measure fits");
            prop_assert_eq!(take(entries[0].seq, count, bytes).unwrap(), entries.clone());
            // Bytes from a small alphabet make every kind of column.
            let alike: Vec<Entry> = entries.iter().map(|entry| Entry {
                bytes: entry.bytes.iter().take(8).map(|byte| byte % u8::try_from(few).unwrap()).collect::<Vec<u8>>().into(),
                ..entry.clone()
            }).collect();
            prop_assert_eq!(take(alike[0].seq, count, packed(&alike)).unwrap(), alike);
        }

        #[test]
        fn damaged_bytes_are_an_error_or_bounded(bytes in prop::collection::vec(any::<u8>(), 0..200), count in any::<u64>()) {
            if let Ok(entries) = take(1, count, bytes.into()) {
                prop_assert!(entries.iter().map(|entry| entry.bytes.len().max(1)).sum::<usize>() <= CHUNK_BYTES);
            }
        }
    }
}
