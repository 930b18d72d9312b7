//! The unit of a commit on disk: a run of entries, a piece of an entry too large for one slot, or a
//! commit record. Pure.
//!
//! ```text
//! magic 8 | crc32c 4 (of all that follows) | length 4 | kind 1 | content
//! content of kinds 0 to 2: first seq 8 | count or part 4 | parts 4 | body
//! kind 0: body = count x (length 4, bytes); a length of 0xFFFFFFFF skips as many numbers as the next 4 bytes say; read only
//! kind 1: body = bytes of part `part` of `parts` of entry `first seq`
//! kind 2: body = a commit record; `first seq` is its number; read only
//! kind 3: first seq | count | entries, packed; see [`super::packed`]
//! kind 4: number of the commit | a commit record; see [`super::commit_record`]
//! ```
//! Numbers of fixed size are big endian, the others LEB128. The magic and the checksum are ours
//! although the engine has its own: a damaged database is searched for them. The checksum begins
//! with a number drawn for each partition, so that a publisher cannot hide a chunk in an entry.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::entry::{CHUNK_BYTES, ChunkError, Entry};
use super::packed;
use crate::leb128;

const MAGIC: [u8; 8] = *b"WHEADck2";
/// Magic, checksum, length and kind.
const HEAD: usize = 8 + 4 + 4 + 1;
/// The most that comes before the body.
const HEADER: usize = HEAD + 8 + 4 + 4;
/// In place of a length: numbers are skipped that were settled before they were written.
const SKIP: u32 = u32::MAX;

/// A decoded chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// Entries in the order of their numbers; at least one.
    Entries(Vec<Entry>),
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
    /// The state of the journal as of one commit; see [`super::CommitRecord`].
    CommitRecord {
        /// Grows with every commit.
        number: u64,
        /// Encoded.
        body: Bytes,
        /// Of a version before 3.
        is_early: bool,
    },
}

impl Chunk {
    /// Puts entries, whose numbers must grow, into chunks of at most [`CHUNK_BYTES`].
    pub fn split(entries: &[Entry]) -> Vec<Self> {
        let mut chunks = Vec::new();
        let mut run: Vec<Entry> = Vec::new();
        let mut run_bytes = HEADER;
        for entry in entries {
            // A gap before it may take as much as a small entry.
            let cost = 12 + entry.bytes.len();
            if HEADER + cost > CHUNK_BYTES {
                if !run.is_empty() {
                    chunks.push(Self::Entries(std::mem::take(&mut run)));
                    run_bytes = HEADER;
                }
                chunks.extend(Self::parts_of(entry));
                continue;
            }
            let is_far = run
                .last()
                .is_some_and(|last| entry.seq - last.seq > u64::from(SKIP));
            if (run_bytes + cost > CHUNK_BYTES || is_far) && !run.is_empty() {
                chunks.push(Self::Entries(std::mem::take(&mut run)));
                run_bytes = HEADER;
            }
            run_bytes += cost;
            run.push(entry.clone());
        }
        if !run.is_empty() {
            chunks.push(Self::Entries(run));
        }
        chunks
    }

    fn parts_of(entry: &Entry) -> impl Iterator<Item = Self> + use<'_> {
        let room = CHUNK_BYTES - HEADER;
        let length = entry.bytes.len();
        let parts = length.div_ceil(room);
        (0..parts).map(move |part| {
            let bytes = entry
                .bytes
                .slice(part * room..length.min((part + 1) * room));
            let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            Self::Part {
                seq: entry.seq,
                part: narrow(part),
                parts: narrow(parts),
                bytes,
            }
        })
    }

    /// The last sequence number this chunk completes; zero for one that completes none.
    pub fn last_complete_seq(&self) -> u64 {
        match self {
            Self::Entries(entries) => entries.last().map_or(0, |entry| entry.seq),
            Self::Part {
                seq, part, parts, ..
            } if part + 1 == *parts => *seq,
            Self::Part { .. } | Self::CommitRecord { .. } => 0,
        }
    }

    /// The first sequence number that has to do with this chunk; zero for a record.
    pub fn first_seq(&self) -> u64 {
        match self {
            Self::Entries(entries) => entries.first().map_or(0, |entry| entry.seq),
            Self::Part { seq, .. } => *seq,
            Self::CommitRecord { .. } => 0,
        }
    }

    /// As bytes, at most [`CHUNK_BYTES`] if it came from [`Chunk::split`].
    pub fn encode(&self, salt: u32) -> Vec<u8> {
        let mut out = BytesMut::with_capacity(self.most_encoded_len());
        out.put_slice(&MAGIC);
        out.put_u64(0);
        match self {
            Self::Entries(entries) => {
                out.put_u8(3);
                leb128::put(self.first_seq(), &mut out);
                leb128::put(entries.len() as u64, &mut out);
                packed::put(entries, &mut out);
            }
            Self::Part {
                seq,
                part,
                parts,
                bytes,
            } => {
                out.put_u8(1);
                out.put_u64(*seq);
                out.put_u32(*part);
                out.put_u32(*parts);
                out.put_slice(bytes);
            }
            Self::CommitRecord { number, body, .. } => {
                out.put_u8(4);
                leb128::put(*number, &mut out);
                out.put_slice(body);
            }
        }
        let length = u32::try_from(out.len()).unwrap_or(u32::MAX);
        if let Some(place) = out.get_mut(12..16) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        let crc = crc32c::crc32c_append(salt, out.get(12..).unwrap_or_default());
        if let Some(place) = out.get_mut(8..12) {
            place.copy_from_slice(&crc.to_be_bytes());
        }
        out.into()
    }

    /// Reads a chunk from the front of `bytes`; what follows it is ignored.
    pub fn decode(bytes: &[u8], salt: u32) -> Result<Self, ChunkError> {
        Self::decode_with_length(bytes, salt).map(|(chunk, _)| chunk)
    }

    fn decode_with_length(bytes: &[u8], salt: u32) -> Result<(Self, usize), ChunkError> {
        let mut head = bytes.get(..HEAD).ok_or(ChunkError("too short"))?;
        if head.get(..8) != Some(&MAGIC[..]) {
            return Err(ChunkError("no magic"));
        }
        head.advance(8);
        let crc = head.get_u32();
        let length = head.get_u32() as usize;
        let body = bytes
            .get(12..length)
            .filter(|_| length >= HEAD)
            .ok_or(ChunkError("cut short"))?;
        if crc32c::crc32c_append(salt, body) != crc {
            return Err(ChunkError("wrong checksum"));
        }
        let kind = head.get_u8();
        let content = Bytes::copy_from_slice(bytes.get(HEAD..length).unwrap_or_default());
        Self::decode_content(kind, content).map(|chunk| (chunk, length))
    }

    fn decode_content(kind: u8, mut content: Bytes) -> Result<Self, ChunkError> {
        let short = ChunkError("cut short");
        if kind > 2 {
            let number = leb128::take(&mut content).ok_or(short)?;
            return match kind {
                3 => {
                    let count = leb128::take(&mut content).ok_or(short)?;
                    packed::take(number, count, content).map(Self::Entries)
                }
                4 => Ok(Self::CommitRecord {
                    number,
                    body: content,
                    is_early: false,
                }),
                _ => Err(ChunkError("unknown kind")),
            };
        }
        if content.len() < HEADER - HEAD {
            return Err(short);
        }
        let number = content.get_u64();
        let (first, second) = (content.get_u32(), content.get_u32());
        match kind {
            0 => entries(number, first, content).map(Self::Entries),
            1 if first < second => Ok(Self::Part {
                seq: number,
                part: first,
                parts: second,
                bytes: content,
            }),
            2 => Ok(Self::CommitRecord {
                number,
                body: content,
                is_early: true,
            }),
            _ => Err(ChunkError("unknown kind")),
        }
    }

    /// Every intact chunk in `bytes`, wherever it begins, in file order: saves entries from a
    /// damaged file.
    pub fn carve(bytes: &[u8], salt: u32) -> impl Iterator<Item = Self> {
        let mut at = 0;
        std::iter::from_fn(move || {
            loop {
                let rest = bytes.get(at..)?;
                at += memchr::memmem::find(rest, &MAGIC)?;
                match Self::decode_with_length(bytes.get(at..)?, salt) {
                    Ok((chunk, length)) => {
                        at += length;
                        return Some(chunk);
                    }
                    Err(_) => at += 1,
                }
            }
        })
    }

    fn most_encoded_len(&self) -> usize {
        HEADER
            + match self {
                Self::Entries(entries) => entries.iter().map(|entry| 12 + entry.bytes.len()).sum(),
                Self::Part { bytes, .. } => bytes.len(),
                Self::CommitRecord { body, .. } => body.len(),
            }
    }
}

/// Reads the entries of a chunk that an earlier version wrote.
fn entries(first_seq: u64, count: u32, mut content: Bytes) -> Result<Vec<Entry>, ChunkError> {
    let short = |_| ChunkError("cut short");
    let mut entries = Vec::new();
    let mut seq = first_seq;
    while entries.len() < count as usize {
        let length = content.try_get_u32().map_err(short)?;
        if length == SKIP {
            seq = seq
                .checked_add(u64::from(content.try_get_u32().map_err(short)?))
                .ok_or(ChunkError("a number out of range"))?;
            continue;
        }
        let length = length as usize;
        if content.len() < length {
            return Err(ChunkError("cut short"));
        }
        entries.push(Entry {
            seq,
            bytes: content.split_to(length),
        });
        seq = seq
            .checked_add(1)
            .ok_or(ChunkError("a number out of range"))?;
    }
    if entries.is_empty() {
        Err(ChunkError("empty"))
    } else {
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put_together(chunks: &[Chunk]) -> Vec<Entry> {
        let mut out = Vec::new();
        let mut partial = BytesMut::new();
        for chunk in chunks {
            match chunk {
                Chunk::Entries(entries) => out.extend(entries.iter().cloned()),
                Chunk::Part {
                    seq,
                    part,
                    parts,
                    bytes,
                } => {
                    partial.extend_from_slice(bytes);
                    if part + 1 == *parts {
                        out.push(Entry {
                            seq: *seq,
                            bytes: partial.split().freeze(),
                        });
                    }
                }
                Chunk::CommitRecord { .. } => panic!("no commit record was put in"),
            }
        }
        out
    }

    fn entry(seq: u64, bytes: &'static [u8]) -> Entry {
        Entry {
            seq,
            bytes: Bytes::from_static(bytes),
        }
    }

    proptest! {
        #![proptest_config(crate::testing::cases(64, module_path!()))]
        #[test]
        fn entries_of_any_size_and_any_numbers_come_back_in_order(sizes in prop::collection::vec((0_usize..70_000, 0_u64..3), 1..12), first in 1_u64..1_000_000) {
            let mut seq = first;
            let entries: Vec<Entry> = sizes.iter().map(|(size, gap)| {
                seq += 1 + gap * gap * 3_000_000_000;
                Entry { seq, bytes: Bytes::from(vec![seq.to_le_bytes()[0]; *size]) }
            }).collect();
            let chunks = Chunk::split(&entries);
            let encoded: Vec<Vec<u8>> = chunks.iter().map(|chunk| chunk.encode(5)).collect();
            for bytes in &encoded {
                prop_assert!(bytes.len() <= CHUNK_BYTES);
            }
            let decoded: Vec<Chunk> = encoded.iter().map(|b| Chunk::decode(b, 5).unwrap()).collect();
            prop_assert_eq!(put_together(&decoded), entries);
            prop_assert_eq!(chunks.last().unwrap().last_complete_seq(), seq);
        }

        #[test]
        fn a_changed_bit_is_always_noticed(position in 0_usize..1000, bit in 0_u8..8) {
            let entries = vec![Entry { seq: 7, bytes: Bytes::from(vec![1; 300]) }, Entry { seq: 9, bytes: Bytes::from(vec![2; 600]) }];
            let mut bytes = Chunk::Entries(entries).encode(0);
            let position = position % bytes.len();
            bytes[position] ^= 1 << bit;
            prop_assert!(Chunk::decode(&bytes, 0).is_err());
        }
    }

    #[test]
    fn intact_chunks_are_carved_out_of_rubbish() {
        let one = Chunk::Entries(vec![entry(1, b"one")]);
        let two = Chunk::Entries(vec![entry(2, b"two")]);
        let three = Chunk::Part {
            seq: 3,
            part: 0,
            parts: 1,
            bytes: Bytes::from_static(b"three"),
        };
        let four = Chunk::CommitRecord {
            number: 4,
            body: Bytes::from_static(b"four"),
            is_early: false,
        };
        let mut file = b"rubbishWHEADck2 and a false start".to_vec();
        file.extend(one.encode(0));
        let mut damaged = two.encode(0);
        let last = damaged.len() - 1;
        damaged[last] ^= 0xFF;
        file.extend(damaged);
        file.extend([0; 100]);
        file.extend(three.encode(0));
        file.extend(four.encode(0));
        assert_eq!(
            Chunk::carve(&file, 0).collect::<Vec<_>>(),
            vec![one, three, four]
        );
        assert_eq!(
            Chunk::carve(&file, 1).count(),
            0,
            "of another partition, or forged"
        );
    }
}
