//! The columns of a file, and their lines in it. Pure.
//!
//! ```text
//! CRC-32C in hexadecimal | blank | generation 1a2b3c4d
//! CRC-32C in hexadecimal | blank | {"topic":"plant/flow", ... ,"generation":439041101,"number":0}
//! ```
//!
//! Invariants:
//! * A line counts only with the right checksum. It names its generation and its number, so that
//!   damage to one line does not touch another.
//! * Lines of early versions have no numbers: those behind the first damage are not used, because a
//!   wrong number would give a reading the topic of another.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::MOST;
use crate::message::SessionLost;
use crate::mqtt::{QoS, TopicName};
use crate::outbox::{RatedRule, ReadingSource};
use crate::payload::json;

/// What the readings of a column have in common, beside their topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ColumnTraits {
    /// The QoS they are sent with.
    pub qos: QoS,
    /// Whether the remote keeps the newest.
    pub retain: bool,
    /// Whether they are sent again when the remote has lost the session.
    pub if_session_lost: SessionLost,
    /// The `send` rule that took them, if that has a rate.
    pub rated: Option<RatedRule>,
}

/// What the readings of a column have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Column {
    /// The topic at the remote broker.
    pub topic: TopicName,
    /// Where they come from; `None` in columns of early versions.
    pub source: Option<ReadingSource>,
    /// The rest of it.
    pub traits: ColumnTraits,
}

/// A column as it is written.
#[derive(Serialize, Deserialize)]
struct ColumnJson<'a> {
    topic: Cow<'a, str>,
    qos: u8,
    retain: bool,
    never_twice: bool,
    rated: bool,
    /// Its rule. Missing in lines of early versions, like the rest.
    rule: Option<u32>,
    generation: Option<u32>,
    number: Option<u32>,
    source: Option<SourceJson<'a>>,
}

/// The source of a column as it is written.
#[derive(Serialize, Deserialize)]
struct SourceJson<'a> {
    topic: Cow<'a, str>,
    rule: u32,
}

impl SourceJson<'_> {
    fn source(self) -> Option<ReadingSource> {
        let topic = TopicName::new(self.topic.into_owned()).ok()?;
        Some(ReadingSource {
            topic,
            rule: self.rule,
        })
    }
}

impl ColumnJson<'_> {
    fn column(self) -> Option<Column> {
        let if_session_lost = if self.never_twice {
            SessionLost::Drop
        } else {
            SessionLost::Resend
        };
        Some(Column {
            topic: TopicName::new(self.topic.into_owned()).ok()?,
            source: self.source.and_then(SourceJson::source),
            traits: ColumnTraits {
                qos: QoS::from_bits(self.qos)?,
                retain: self.retain,
                if_session_lost,
                rated: self
                    .rated
                    .then_some(self.rule.map_or(RatedRule::Unknown, RatedRule::Known)),
            },
        })
    }
}

/// The line of a column.
pub(super) fn line_of(column: &Column, generation: u32, number: u32) -> String {
    line(&json::text(&ColumnJson {
        topic: column.topic.as_str().into(),
        qos: column.traits.qos as u8,
        retain: column.traits.retain,
        never_twice: column.traits.if_session_lost == SessionLost::Drop,
        rated: column.traits.rated.is_some(),
        rule: column.traits.rated.and_then(RatedRule::id),
        generation: Some(generation),
        number: Some(number),
        source: column.source.as_ref().map(|source| SourceJson {
            topic: source.topic.as_str().into(),
            rule: source.rule,
        }),
    }))
}

/// The first line of a file.
pub(super) fn head(generation: u32) -> String {
    line(&format!("generation {generation:08x}"))
}

/// A line: a checksum and what it is of.
pub(super) fn line(text: &str) -> String {
    format!("{:08x} {text}\n", crc32c::crc32c(text.as_bytes()))
}

/// The text of a line; `None` if it is damaged.
fn text_of(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (sum, text) = line.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (sum == crc32c::crc32c(text.as_bytes())).then_some(text)
}

/// The columns of a generation, by number; `None` for one that is damaged.
#[derive(Debug, Clone)]
struct Generation {
    /// Drawn by chance.
    id: u32,
    columns: Vec<Option<Arc<Column>>>,
}

/// The columns of an outbox as its file has them.
#[derive(Debug, Clone, Default)]
pub struct ColumnTable {
    /// New columns join the last. There are others only after damage.
    generations: Vec<Generation>,
}

impl ColumnTable {
    /// A table with these columns.
    #[cfg(test)]
    pub(in crate::outbox) fn of(generation: u32, columns: Vec<Column>) -> Self {
        let mut table = Self::default();
        table.begin(generation);
        columns
            .into_iter()
            .for_each(|column| table.push(Arc::new(column)));
        table
    }

    /// A column by the generation and the number that an entry names.
    pub fn get(&self, generation: u32, number: u32) -> Option<&Arc<Column>> {
        let mut all = self.generations.iter().rev();
        all.find(|found| found.id == generation)?
            .columns
            .get(number as usize)?
            .as_ref()
    }

    /// New columns join this generation.
    pub(super) fn begin(&mut self, generation: u32) {
        self.generations.push(Generation {
            id: generation,
            columns: Vec::new(),
        });
    }

    /// The generation that new columns join; `None` before there is one.
    pub(super) fn generation(&self) -> Option<u32> {
        self.generations.last().map(|last| last.id)
    }

    /// How many numbers the last generation has used.
    pub(super) fn used(&self) -> u32 {
        let used = self.generations.last().map_or(0, |last| last.columns.len());
        u32::try_from(used).unwrap_or(u32::MAX)
    }

    /// All numbers in use, of all generations.
    pub(super) fn len(&self) -> usize {
        self.generations.iter().map(|all| all.columns.len()).sum()
    }

    /// The columns of the last generation.
    pub(super) fn newest(&self) -> impl Iterator<Item = (u32, &Arc<Column>)> {
        let columns = self.generations.last().map(|last| last.columns.iter());
        let numbered = (0..).zip(columns.into_iter().flatten());
        numbered.filter_map(|(number, column)| Some((number, column.as_ref()?)))
    }

    /// Adds a column to the last generation.
    pub(super) fn push(&mut self, column: Arc<Column>) {
        debug_assert!(!self.generations.is_empty(), "a generation has begun");
        if let Some(last) = self.generations.last_mut() {
            last.columns.push(Some(column));
        }
    }

    /// Puts a column at its place; false if that is beyond all bounds, or taken.
    fn put(&mut self, generation: u32, number: u32, column: Column) -> bool {
        let number = number as usize;
        if self.len().max(number) >= MOST {
            return false;
        }
        if self.generations.iter().all(|known| known.id != generation) {
            self.begin(generation);
        }
        let mut all = self.generations.iter_mut();
        let Some(found) = all.find(|known| known.id == generation) else {
            return false;
        };
        if found.columns.len() <= number {
            found.columns.resize(number + 1, None);
        }
        match found.columns.get_mut(number) {
            Some(place @ None) => {
                *place = Some(Arc::new(column));
                true
            }
            _ => false,
        }
    }
}

/// What is intact in a file.
#[derive(Debug, Default)]
pub(super) struct IntactColumns {
    pub(super) table: ColumnTable,
    /// The end of the last line that is used. What follows is what a power cut leaves of a write.
    pub(super) length: u64,
    /// Lines that were durable once are damaged.
    pub(super) is_damaged: bool,
    /// Bytes that are not used were read.
    has_gap: bool,
}

impl IntactColumns {
    pub(super) fn of(file: &[u8]) -> Self {
        let mut intact = Self::default();
        let mut read = 0;
        for line in file.split_inclusive(|byte| *byte == b'\n') {
            read += line.len() as u64;
            let text = text_of(line);
            if text.is_some_and(|text| intact.take(text)) {
                intact.is_damaged |= intact.has_gap;
                intact.length = read;
            } else {
                // A line that is whole and leads nowhere follows one that is not.
                intact.is_damaged |= text.is_some();
                intact.has_gap = true;
            }
        }
        intact
    }

    /// Takes the text of a line; false if it cannot be used.
    fn take(&mut self, text: &str) -> bool {
        if let Some(generation) = text.strip_prefix("generation ") {
            let Ok(generation) = u32::from_str_radix(generation, 16) else {
                return false;
            };
            self.table.begin(generation);
            return true;
        }
        let Ok(json) = serde_json::from_str::<ColumnJson<'_>>(text) else {
            return false;
        };
        let next = || Some((self.table.generation()?, self.table.used()));
        let place = match (json.generation, json.number) {
            (Some(generation), Some(number)) => Some((generation, number)),
            _ if self.has_gap => None,
            _ => next(),
        };
        let (Some((generation, number)), Some(column)) = (place, json.column()) else {
            return false;
        };
        self.table.put(generation, number, column)
    }
}
