//! What a message carries: bytes, or a reading that becomes bytes for its receiver.

pub mod json;
pub mod raw;

use bytes::Bytes;

use crate::reading::{Reading, Timestamp};

/// The content of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// Bytes that nobody looks into.
    Bytes(Bytes),
    /// A reading, encoded late: as its receiver wants it, with its time as it is known then.
    Reading(Box<Reading>),
}

impl Payload {
    /// The bytes for a receiver. A reading is JSON; its time stays as it is.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Reading(reading) => json::encode(reading),
        }
    }

    /// The bytes for a receiver at the moment `now`.
    pub fn encode_at(&self, now: Timestamp) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Reading(reading) => json::encode_at(reading, now),
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
