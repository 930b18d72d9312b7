//! Readings in packed frames, as an uplink sends them.

use wellhead::payload::{FrameSchema, NamedReading};

/// Readings of the messages from which a schema learns.
const LEARNED: usize = 1_000;

/// What the receiver of frames knows before they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// The schema; frames have Rice codes.
    Schema,
    /// What the gateway has learned in the first hours, too.
    Learned,
}

impl Known {
    pub(crate) const ALL: [Self; 2] = [Self::Schema, Self::Learned];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Schema => "pack, Rice",
            Self::Learned => "pack, learned",
        }
    }

    /// The schema of a gateway that has sent these readings.
    pub(crate) fn schema(self, sent: &[NamedReading<'_>]) -> FrameSchema {
        let schema = FrameSchema::default().grown(sent).unwrap();
        match self {
            Self::Schema => schema,
            Self::Learned => {
                let frames = sent.chunks(LEARNED).flat_map(|some| schema.frames(some));
                let frames: Vec<_> = frames.collect();
                let learned = schema.learned(&frames);
                println!(
                    "{:>18} {} bytes",
                    "its document has",
                    learned.to_json().len()
                );
                learned
            }
        }
    }
}

/// Bytes of a reading in messages of so many.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn bytes(schema: &FrameSchema, readings: &[NamedReading<'_>], together: usize) -> f64 {
    let message = |some: &[NamedReading<'_>]| {
        assert!(
            schema.grown(some).is_none(),
            "the schema has a place for all of them"
        );
        let message = schema.encode(7, schema.frames(some)).unwrap();
        debug_assert_eq!(schema.decode(&message).unwrap().len(), some.len());
        message.len()
    };
    let total: usize = readings.chunks(together).map(message).sum();
    total as f64 / readings.len() as f64
}
