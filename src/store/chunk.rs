//! The unit of a commit on disk: a run of entries, or a piece of an entry too large for one slot. Pure.
//!
//! ```text
//! magic 8 | crc32c 4 (of all that follows) | length 4 | kind 1 | first seq 8 | count or part 4 | parts 4 | body
//! kind 0: body = count x (length 4, bytes)         kind 1: body = bytes of part `part` of `parts` of entry `first seq`
//! ```
//! All numbers are big endian. The magic and the checksum are ours although the engine has its own: a damaged database is
//! searched for them.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Largest encoded chunk. Values above a quarter of a seventeenth of the engine's segment would go to separate files that the
/// engine never syncs.
pub const CHUNK_BYTES: usize = 28 * 1024;
const MAGIC: [u8; 8] = *b"WHEADck1";
const HEADER: usize = 8 + 4 + 4 + 1 + 8 + 4 + 4;

/// A decoded chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// Consecutive entries, the first with this sequence number.
    Entries {
        /// Sequence number of the first.
        first_seq: u64,
        /// At least one.
        entries: Vec<Bytes>,
    },
    /// A piece of one entry.
    Part {
        /// Sequence number of the entry.
        seq: u64,
        /// Index from zero.
        part: u32,
        /// How many there are.
        parts: u32,
        /// The piece.
        bytes: Bytes,
    },
}

/// Why bytes are no chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("damaged chunk: {0}")]
pub struct ChunkError(&'static str);

impl Chunk {
    /// Splits entries, the first numbered `first_seq`, into chunks of at most [`CHUNK_BYTES`].
    pub fn split(first_seq: u64, entries: &[Bytes]) -> Vec<Self> {
        let mut chunks = Vec::new();
        let mut run: Vec<Bytes> = Vec::new();
        let mut run_bytes = HEADER;
        let mut seq = first_seq;
        for entry in entries {
            let cost = 4 + entry.len();
            if run_bytes + cost > CHUNK_BYTES && !run.is_empty() {
                let count = run.len() as u64;
                chunks.push(Self::Entries { first_seq: seq - count, entries: std::mem::take(&mut run) });
                run_bytes = HEADER;
            }
            if HEADER + cost > CHUNK_BYTES {
                chunks.extend(Self::parts_of(seq, entry));
            } else {
                run.push(entry.clone());
                run_bytes += cost;
            }
            seq += 1;
        }
        if !run.is_empty() {
            let count = run.len() as u64;
            chunks.push(Self::Entries { first_seq: seq - count, entries: run });
        }
        chunks
    }

    fn parts_of(seq: u64, entry: &Bytes) -> impl Iterator<Item = Self> + use<'_> {
        let room = CHUNK_BYTES - HEADER;
        let parts = entry.len().div_ceil(room);
        (0..parts).map(move |part| {
            let bytes = entry.slice(part * room..entry.len().min((part + 1) * room));
            let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            Self::Part { seq, part: narrow(part), parts: narrow(parts), bytes }
        })
    }

    /// The last sequence number this chunk completes; for a part that is not the last one, the number before its entry.
    pub fn last_complete_seq(&self) -> u64 {
        match self {
            Self::Entries { first_seq, entries } => first_seq + entries.len() as u64 - 1,
            Self::Part { seq, part, parts, .. } if part + 1 == *parts => *seq,
            Self::Part { seq, .. } => seq - 1,
        }
    }

    /// As bytes, at most [`CHUNK_BYTES`] if it came from [`Chunk::split`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = BytesMut::with_capacity(CHUNK_BYTES.min(1024));
        out.put_slice(&MAGIC);
        out.put_u64(0);
        match self {
            Self::Entries { first_seq, entries } => {
                out.put_u8(0);
                out.put_u64(*first_seq);
                out.put_u32(u32::try_from(entries.len()).unwrap_or(u32::MAX));
                out.put_u32(1);
                for entry in entries {
                    out.put_u32(u32::try_from(entry.len()).unwrap_or(u32::MAX));
                    out.put_slice(entry);
                }
            }
            Self::Part { seq, part, parts, bytes } => {
                out.put_u8(1);
                out.put_u64(*seq);
                out.put_u32(*part);
                out.put_u32(*parts);
                out.put_slice(bytes);
            }
        }
        let mut bytes = out.to_vec();
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        bytes.splice(12..16, length.to_be_bytes());
        let crc = crc32c::crc32c(bytes.get(12..).unwrap_or_default());
        bytes.splice(8..12, crc.to_be_bytes());
        bytes
    }

    /// Reads a chunk from the front of `bytes`; what follows it is ignored.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChunkError> {
        let mut head = bytes.get(..HEADER).ok_or(ChunkError("too short"))?;
        if head.get(..8) != Some(&MAGIC[..]) {
            return Err(ChunkError("no magic"));
        }
        head.advance(8);
        let crc = head.get_u32();
        let length = head.get_u32() as usize;
        let body = bytes.get(12..length).filter(|_| length >= HEADER).ok_or(ChunkError("cut short"))?;
        if crc32c::crc32c(body) != crc {
            return Err(ChunkError("wrong checksum"));
        }
        let kind = head.get_u8();
        let first_seq = head.get_u64();
        let (first, second) = (head.get_u32(), head.get_u32());
        let content = Bytes::copy_from_slice(bytes.get(HEADER..length).unwrap_or_default());
        match kind {
            0 => Ok(Self::Entries { first_seq, entries: entries(first, content)? }),
            1 if first < second => Ok(Self::Part { seq: first_seq, part: first, parts: second, bytes: content }),
            _ => Err(ChunkError("unknown kind")),
        }
    }

    /// Every intact chunk in `bytes`, wherever it begins: what can be saved from a damaged file, in file order.
    pub fn carve(bytes: &[u8]) -> impl Iterator<Item = Self> {
        let mut at = 0;
        std::iter::from_fn(move || {
            loop {
                let rest = bytes.get(at..)?;
                at += memchr::memmem::find(rest, &MAGIC)?;
                match Self::decode(bytes.get(at..)?) {
                    Ok(chunk) => {
                        at += chunk.encoded_len();
                        return Some(chunk);
                    }
                    Err(_) => at += 1,
                }
            }
        })
    }

    /// Bytes it takes when encoded.
    pub(super) fn encoded_len(&self) -> usize {
        HEADER
            + match self {
                Self::Entries { entries, .. } => entries.iter().map(|entry| 4 + entry.len()).sum(),
                Self::Part { bytes, .. } => bytes.len(),
            }
    }
}

fn entries(count: u32, mut content: Bytes) -> Result<Vec<Bytes>, ChunkError> {
    let mut entries = Vec::new();
    for _ in 0..count {
        let length = content.try_get_u32().map_err(|_| ChunkError("cut short"))? as usize;
        if content.len() < length {
            return Err(ChunkError("cut short"));
        }
        entries.push(content.split_to(length));
    }
    if entries.is_empty() { Err(ChunkError("empty")) } else { Ok(entries) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put_together(chunks: &[Chunk]) -> Vec<(u64, Vec<u8>)> {
        let mut out = Vec::new();
        let mut partial = Vec::new();
        for chunk in chunks {
            match chunk {
                Chunk::Entries { first_seq, entries } => {
                    out.extend(entries.iter().zip(*first_seq..).map(|(e, seq)| (seq, e.to_vec())));
                }
                Chunk::Part { seq, part, parts, bytes } => {
                    partial.extend_from_slice(bytes);
                    if part + 1 == *parts {
                        out.push((*seq, std::mem::take(&mut partial)));
                    }
                }
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn entries_of_any_size_come_back_in_order(sizes in prop::collection::vec(0_usize..70_000, 1..12), first in 1_u64..1_000_000) {
            let entries: Vec<Bytes> = sizes.iter().enumerate().map(|(i, n)| Bytes::from(vec![u8::try_from(i).unwrap(); *n])).collect();
            let chunks = Chunk::split(first, &entries);
            let encoded: Vec<Vec<u8>> = chunks.iter().map(Chunk::encode).collect();
            for bytes in &encoded {
                prop_assert!(bytes.len() <= CHUNK_BYTES);
            }
            let decoded: Vec<Chunk> = encoded.iter().map(|b| Chunk::decode(b).unwrap()).collect();
            let expected: Vec<(u64, Vec<u8>)> = entries.iter().zip(first..).map(|(e, seq)| (seq, e.to_vec())).collect();
            prop_assert_eq!(put_together(&decoded), expected);
            prop_assert_eq!(chunks.last().unwrap().last_complete_seq(), first + entries.len() as u64 - 1);
        }

        #[test]
        fn a_changed_bit_is_always_noticed(position in 0_usize..1000, bit in 0_u8..8) {
            let mut bytes = Chunk::Entries { first_seq: 7, entries: vec![Bytes::from(vec![1; 300]), Bytes::from(vec![2; 600])] }.encode();
            let position = position % bytes.len();
            bytes[position] ^= 1 << bit;
            prop_assert!(Chunk::decode(&bytes).is_err());
        }
    }

    #[test]
    fn intact_chunks_are_carved_out_of_rubbish() {
        let one = Chunk::Entries { first_seq: 1, entries: vec![Bytes::from_static(b"one")] };
        let two = Chunk::Entries { first_seq: 2, entries: vec![Bytes::from_static(b"two")] };
        let three = Chunk::Part { seq: 3, part: 0, parts: 1, bytes: Bytes::from_static(b"three") };
        let mut file = b"rubbishWHEADck1 and a false start".to_vec();
        file.extend(one.encode());
        let mut damaged = two.encode();
        let last = damaged.len() - 1;
        damaged[last] ^= 0xFF;
        file.extend(damaged);
        file.extend([0; 100]);
        file.extend(three.encode());
        assert_eq!(Chunk::carve(&file).collect::<Vec<_>>(), vec![one, three]);
    }
}
