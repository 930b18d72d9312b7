//! The schemas of packed frames, one for each topic. Pure.
//!
//! A schema grows with what is sent, and learns from it; each new one is published before frames
//! use it. Until the remote has acknowledged it, readings are sent in a format without a schema.
//!
//! Invariants:
//! * Frames are written by a schema only that the remote has acknowledged in this session.
//! * Schemas of another content have another hash, so none is replaced at the remote.
//! * What is kept to learn from is bounded, for one topic and for all.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::mqtt::TopicName;
use crate::outbox::SavedSchema;
use crate::payload::pack::PackFrame;
use crate::payload::{FrameSchema, NamedReading, PackCoder};

/// A schema learns when it has seen frames of so many bytes in memory, and again at the next
/// number.
const LEARN_AT: [usize; 2] = [400_000, 2_000_000];
/// It learns anew after that time.
const LEARN_AGAIN: Duration = Duration::from_secs(7 * 24 * 3600);
/// So many topics learn at a time, at most.
const MOST_LEARNING: usize = 4;
/// Most topics with frames.
const MOST_TOPICS: usize = 2_000;
/// After a remote has refused a schema, it is asked again so much later.
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// The schemas of an uplink.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    topics: HashMap<TopicName, TopicSchemas>,
    /// What the remote has not answered.
    publishing: Option<PublishedSchema>,
}

/// A schema on its way to the remote.
#[derive(Debug)]
struct PublishedSchema {
    topic: TopicName,
    schema: FrameSchema,
}

/// The schemas of the frames on a topic.
#[derive(Debug, Default)]
struct TopicSchemas {
    /// The remote has it.
    there: Option<FrameSchema>,
    /// The remote is to get it.
    next: Option<FrameSchema>,
    refused: Option<Instant>,
    lessons: Lessons,
}

/// Frames from which a schema will learn.
#[derive(Debug, Default)]
struct Lessons {
    frames: Vec<PackFrame>,
    weight: usize,
    /// How often it has learned since it began.
    learned: usize,
    /// When it learned last.
    last: Option<Instant>,
}

impl Lessons {
    /// True if frames are kept.
    fn wants_more(&self, now: Instant) -> bool {
        self.learned < LEARN_AT.len() || self.last.is_none_or(|last| now >= last + LEARN_AGAIN)
    }

    /// Keeps frames. True if there are enough.
    fn take(&mut self, frames: Vec<PackFrame>) -> bool {
        self.weight += frames.iter().map(PackFrame::weight).sum::<usize>();
        self.frames.extend(frames);
        let enough = LEARN_AT.get(self.learned).or(LEARN_AT.last());
        enough.is_some_and(|enough| self.weight >= *enough)
    }

    fn begin_again(&mut self) {
        (self.frames, self.weight) = (Vec::new(), 0);
    }

    fn has_learned(&mut self, now: Instant) {
        self.learned += 1;
        self.last = Some(now);
        if self.learned >= LEARN_AT.len() {
            self.begin_again();
        }
    }
}

impl TopicSchemas {
    fn newest(&self) -> Option<&FrameSchema> {
        self.next.as_ref().or(self.there.as_ref())
    }

    /// Prepares for readings that are to be sent.
    fn prepare(&mut self, readings: &[NamedReading<'_>], learns: bool, now: Instant) {
        let newest = self.newest().cloned().unwrap_or_default();
        if let Some(grown) = newest.grown(readings) {
            // Frames count in the units of their schema.
            self.lessons.begin_again();
            self.next = Some(grown);
            return;
        }
        if learns && self.lessons.wants_more(now) && self.lessons.take(newest.frames(readings)) {
            self.next = Some(newest.learned(&self.lessons.frames));
            self.lessons.has_learned(now);
        }
    }
}

impl Schemas {
    /// Those that an earlier run has saved; the remote of this run may not have them.
    pub(super) fn restored(saved: Vec<SavedSchema>) -> Self {
        let restored = saved.into_iter().filter_map(|saved| {
            let topic = TopicName::new(saved.topic).ok()?;
            let next = FrameSchema::from_json(saved.schema.as_bytes()).ok()?;
            let mut lessons = Lessons::default();
            if next.has_model() {
                lessons.learned = 1;
            }
            let schemas = TopicSchemas {
                next: Some(next),
                lessons,
                ..TopicSchemas::default()
            };
            Some((topic, schemas))
        });
        Self {
            topics: restored.take(MOST_TOPICS).collect(),
            publishing: None,
        }
    }

    /// What the next run is to know.
    pub(super) fn saved(&self) -> Vec<SavedSchema> {
        let newest = self.topics.iter().filter_map(|(topic, own)| {
            Some(SavedSchema {
                topic: topic.to_string(),
                schema: own.newest()?.to_json(),
            })
        });
        newest.collect()
    }

    /// A connection begins. A remote without the session may have lost what it retained, too.
    pub(super) fn begin(&mut self, is_known: bool) {
        self.publishing = None;
        for own in self.topics.values_mut() {
            own.refused = None;
            if !is_known {
                own.next = own.next.take().or(own.there.take());
                own.there = None;
            }
        }
    }

    /// Readings are to be sent together on a topic.
    pub(super) fn prepare(
        &mut self,
        topic: &TopicName,
        readings: &[NamedReading<'_>],
        coder: PackCoder,
        now: Instant,
    ) {
        if !self.topics.contains_key(topic) && self.topics.len() >= MOST_TOPICS {
            return;
        }
        let learning = self.topics.values().filter(|own| own.lessons.weight > 0);
        let has_room = learning.count() < MOST_LEARNING;
        let own = self.topics.entry(topic.detached()).or_default();
        let learns = coder == PackCoder::Adaptive && (has_room || own.lessons.weight > 0);
        own.prepare(readings, learns, now);
    }

    /// The payload of readings; `None` if the remote has no schema for them yet.
    pub(super) fn encode(
        &self,
        topic: &TopicName,
        series: u64,
        readings: &[NamedReading<'_>],
    ) -> Option<Bytes> {
        let schema = self.topics.get(topic)?.there.as_ref()?;
        if schema.grown(readings).is_some() {
            return None;
        }
        let message = schema.encode(series, schema.frames(readings));
        message.ok().map(Bytes::from)
    }

    /// True while the remote has not answered a schema.
    pub(super) fn is_publishing(&self) -> bool {
        self.publishing.is_some()
    }

    /// The next schema for the remote, as topic and document; it is on its way from here on.
    pub(super) fn publish(&mut self, now: Instant) -> Option<(String, String)> {
        if self.is_publishing() {
            return None;
        }
        let may_try = |own: &TopicSchemas| own.refused.is_none_or(|at| now >= at + REFUSED_FOR);
        let mut waiting = self.topics.iter();
        let (topic, schema) = waiting.find_map(|(topic, own)| {
            let next = own.next.as_ref().filter(|_| may_try(own))?;
            Some((topic.clone(), next.clone()))
        })?;
        let message = (format!("{topic}/meta/{}", schema.hash()), schema.to_json());
        self.publishing = Some(PublishedSchema { topic, schema });
        Some(message)
    }

    /// The remote has the schema that was on its way.
    pub(super) fn acknowledged(&mut self) {
        let Some(PublishedSchema { topic, schema }) = self.publishing.take() else {
            return;
        };
        if let Some(own) = self.topics.get_mut(&topic) {
            own.next.take_if(|next| next.hash() == schema.hash());
            own.there = Some(schema);
        }
    }

    /// The remote does not take the schema that was on its way. True if it has not refused it
    /// before.
    pub(super) fn refused(&mut self, now: Instant) -> Option<TopicName> {
        let PublishedSchema { topic, .. } = self.publishing.take()?;
        let own = self.topics.get_mut(&topic)?;
        let is_first = own.refused.replace(now).is_none();
        is_first.then_some(topic)
    }
}
