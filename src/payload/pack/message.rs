//! Messages of frames.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::head::VERSION;
use super::{MOST_CELLS, PackError, PackFrame, PackSchema, read, write};
use crate::leb128;

/// Frames of one series that are sent together.
#[derive(Debug, Clone, PartialEq)]
pub struct PackMessage {
    /// Which outbox its readings are numbered in.
    pub series: u64,
    /// Not empty.
    pub frames: Vec<PackFrame>,
}

impl PackMessage {
    /// The bytes of a message; the error says what does not fit the schema, or is too large.
    pub fn encode(&self, schema: &PackSchema) -> Result<Vec<u8>, PackError> {
        let frames = self.frames.iter();
        let frames = frames.map(|frame| write::encode(frame, schema));
        let frames = frames.collect::<Result<Vec<_>, _>>()?;
        let (_, first) = frames.split_last().ok_or(PackError("nothing in it"))?;
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        out.put_u32(schema.hash);
        leb128::put(self.series, &mut out);
        leb128::put(frames.len() as u64, &mut out);
        for frame in first {
            leb128::put(frame.len() as u64, &mut out);
        }
        for frame in &frames {
            out.put_slice(frame);
        }
        Ok(out.to_vec())
    }

    /// The message of bytes that were written by the same schema.
    pub fn decode(bytes: &[u8], schema: &PackSchema) -> Result<Self, PackError> {
        const SHORT: PackError = PackError("cut short");
        if hash_of(bytes) != Some(schema.hash) {
            return Err(PackError("another version or schema"));
        }
        let mut bytes = Bytes::copy_from_slice(bytes);
        bytes.advance(5);
        let series = leb128::take(&mut bytes).ok_or(SHORT)?;
        let count = leb128::take(&mut bytes).ok_or(SHORT)?;
        let mut sizes = Vec::new();
        for _ in 1..count {
            sizes.push(leb128::take(&mut bytes).ok_or(SHORT)?);
        }
        let (mut frames, mut cells) = (Vec::new(), MOST_CELLS);
        for size in sizes {
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size > bytes.len() {
                return Err(SHORT);
            }
            frames.push(read::decode(bytes.split_to(size), schema, &mut cells)?);
        }
        frames.push(read::decode(bytes, schema, &mut cells)?);
        Ok(Self { series, frames })
    }
}

/// The hash of the schema of a message; `None` if it is none of a version that is known.
pub fn hash_of(message: &[u8]) -> Option<u32> {
    match message {
        [VERSION, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}
