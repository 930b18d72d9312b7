//! What a message carries: bytes, or a reading that becomes bytes for its receiver.
//!
//! Each format has a file of its own and a line in [`PayloadFormat`].

mod columns;
mod compression;
mod decimal;
mod expansion;
mod format;
mod frame;
pub mod json;
mod line;
mod names;
mod numbered;
mod object;
pub mod pack;
mod packed;
pub mod raw;
#[cfg(test)]
mod samples;
mod scan;
mod schema;
mod senml;
mod template;
mod value;

use bytes::Bytes;
pub use compression::Compression;
pub use expansion::{Expanded, Expander};
pub use format::{BatchTerms, PackCoder, PayloadFormat, ReadingFormat, numbered_columns};
pub use names::{NamedReading, NamesOfPoints, PointNames};
pub use packed::UnpackedReading;
pub use schema::{FrameSchema, SchemaError};
pub use template::PayloadTemplate;

use crate::reading::{Reading, Timestamp};

/// A time in nanoseconds since the Unix epoch.
fn nanos(time: Timestamp) -> String {
    (i128::from(time.unix_ms) * 1_000_000).to_string()
}

/// The content of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// Bytes that nobody looks into.
    Bytes(Bytes),
    /// A reading, encoded late: as its receiver wants it, with its time as it is known then.
    Reading(Box<Reading>),
}

impl Payload {
    /// The bytes for a receiver of our JSON; the time of a reading stays as it is.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Reading(reading) => json::encode(reading),
        }
    }

    /// Bytes it takes in memory, about.
    pub fn weight(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Reading(reading) => size_of::<Reading>() + reading.weight(),
        }
    }
}

impl<T: Into<Bytes>> From<T> for Payload {
    fn from(bytes: T) -> Self {
        Self::Bytes(bytes.into())
    }
}
