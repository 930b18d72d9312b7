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
/// A remote that has refused a schema is asked again after this time.
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// The schemas of an uplink.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    topics: HashMap<TopicName, TopicSchemas>,
    /// What the remote has not answered.
    publishing: Option<PublishedSchema>,
    /// The remote has one that the next run does not know.
    is_unsaved: bool,
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
        let empty = FrameSchema::default();
        let newest = self.next.as_ref().or(self.there.as_ref()).unwrap_or(&empty);
        if let Some(grown) = newest.grown(readings) {
            // Frames count in the units of their schema.
            self.lessons.begin_again();
            self.next = Some(grown);
            return;
        }
        if learns && self.lessons.wants_more(now) && self.lessons.take(newest.frames(readings)) {
            self.next = Some(newest.clone().learned(&self.lessons.frames));
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
            ..Self::default()
        }
    }

    /// What the next run is to know, if it does not; it counts as saved.
    pub(super) fn save(&mut self) -> Option<Vec<SavedSchema>> {
        if !std::mem::take(&mut self.is_unsaved) {
            return None;
        }
        let newest = self.topics.iter().filter_map(|(topic, own)| {
            Some(SavedSchema {
                topic: topic.to_string(),
                schema: own.newest()?.to_json(),
            })
        });
        Some(newest.collect())
    }

    /// A connection begins. A remote without the session may have lost what it retained, too.
    pub(super) fn begin(&mut self, is_known: bool) {
        self.publishing = None;
        for own in self.topics.values_mut() {
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
        let plain = own.newest().filter(|_| coder == PackCoder::Rice);
        if let Some(plain) = plain.and_then(FrameSchema::without_model) {
            own.next = Some(plain);
        }
    }

    /// The payload of readings; `None` if the remote has no schema for them yet.
    pub(super) fn encode(
        &self,
        topic: &TopicName,
        series: u64,
        readings: &[NamedReading<'_>],
    ) -> Option<Bytes> {
        let schema = self.topics.get(topic)?.there.as_ref()?;
        if !schema.takes_all(readings) {
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
            self.is_unsaved = true;
        }
    }

    /// The remote does not take the schema that was on its way. Returns the topic of its frames if
    /// it has not refused one there before.
    pub(super) fn refused(&mut self, now: Instant) -> Option<TopicName> {
        let PublishedSchema { topic, .. } = self.publishing.take()?;
        let own = self.topics.get_mut(&topic)?;
        let is_first = own.refused.replace(now).is_none();
        is_first.then_some(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Expanded, Expander, PointNames};
    use crate::reading::{PointId, Quality, Reading, Timestamp, Value};
    use crate::time::now;

    fn topic() -> TopicName {
        TopicName::new("far/frames").unwrap()
    }

    /// A stage with a remote that has the schemas it got.
    struct FarRemote {
        schemas: Schemas,
        expander: Expander,
        next: u64,
        coder: PackCoder,
    }

    impl FarRemote {
        fn of(schemas: Schemas) -> Self {
            Self {
                schemas,
                expander: Expander::default(),
                next: 1,
                coder: PackCoder::Adaptive,
            }
        }

        /// Sends a reading. True if it went in a packed frame, and came.
        fn send(&mut self, value: Value) -> bool {
            let reading = Reading {
                point: PointId(0),
                value: Some(value),
                time: Timestamp::at(1_769_847_330_250),
                quality: Quality::Good,
                age: Duration::ZERO,
            };
            let names = PointNames::of_topic(&TopicName::new("s7/pump/flow").unwrap());
            let readings = [NamedReading {
                reading: &reading,
                time: reading.time,
                names: &names,
                number: self.next,
            }];
            self.next += 1;
            self.schemas.prepare(&topic(), &readings, self.coder, now());
            let Some(payload) = self.schemas.encode(&topic(), 7, &readings) else {
                return false;
            };
            match self.expander.expand(&topic(), &payload) {
                Expanded::Readings(found) => found[0].reading.value == reading.value,
                other => panic!("{other:?}"),
            }
        }

        /// The remote gets the next schema. False if there is none.
        fn publish(&mut self) -> bool {
            let Some((there, document)) = self.schemas.publish(now()) else {
                return false;
            };
            let hash = there.strip_prefix("far/frames/meta/").unwrap();
            assert!(document.contains(hash));
            self.expander.schema(&topic(), document.as_bytes()).unwrap();
            true
        }
    }

    #[test]
    fn frames_are_written_by_schemas_that_the_remote_has() {
        let mut far = FarRemote::of(Schemas::default());
        assert!(!far.send(Value::F64(12.5)));
        assert!(far.publish());
        assert!(!far.send(Value::F64(12.5)), "it may not have it yet");
        assert!(!far.publish(), "one at a time");
        far.schemas.acknowledged();
        assert!(far.send(Value::F64(12.5)));
        // More digits than the schema knows; values with fewer still go by the one that is there.
        assert!(!far.send(Value::F64(12.75)));
        assert!(far.send(Value::F64(12.5)));
        assert!(far.publish());
        far.schemas.acknowledged();
        assert!(far.send(Value::F64(12.75)));
        assert!(!far.publish());
    }

    #[test]
    fn a_remote_without_the_session_and_one_after_a_restart_get_it_again() {
        let mut far = FarRemote::of(Schemas::default());
        far.send(Value::F64(12.5));
        far.publish();
        far.schemas.acknowledged();
        far.schemas.begin(true);
        assert!(far.send(Value::F64(12.5)) && !far.publish());
        far.schemas.begin(false);
        assert!(!far.send(Value::F64(12.5)) && far.publish());
        // The connection breaks before the answer.
        far.schemas.begin(true);
        assert!(!far.send(Value::F64(12.5)) && far.publish());
        far.schemas.acknowledged();
        let saved = far.schemas.save().unwrap();
        assert_eq!(far.schemas.save(), None);
        let mut later = FarRemote::of(Schemas::restored(saved));
        assert!(later.publish());
        later.schemas.acknowledged();
        assert!(later.send(Value::F64(12.5)));
    }

    #[test]
    fn a_schema_that_is_refused_is_told_once_and_tried_again_later() {
        let mut far = FarRemote::of(Schemas::default());
        far.send(Value::F64(12.5));
        assert!(far.publish());
        assert_eq!(far.schemas.refused(now()), Some(topic()));
        assert!(!far.publish());
        let later = now() + REFUSED_FOR;
        assert!(far.schemas.publish(later).is_some());
        assert_eq!(far.schemas.refused(later), None);
        // Also on another connection: it may be that a schema made it close.
        far.schemas.begin(true);
        assert!(!far.publish());
    }

    #[test]
    fn without_the_adaptive_coder_frames_need_no_model() {
        let mut far = FarRemote::of(Schemas::default());
        let mut send = |coder: PackCoder, step: u32| {
            far.coder = coder;
            far.send(Value::F64(f64::from(1 + step % 97) / 10.0));
            if far.publish() {
                far.schemas.acknowledged();
            }
            let own = &far.schemas.topics[&topic()];
            own.there.as_ref().is_some_and(FrameSchema::has_model)
        };
        let has_learned = (0..20_000).any(|step| send(PackCoder::Adaptive, step));
        assert!(has_learned);
        assert!(!send(PackCoder::Rice, 0));
        assert!(!send(PackCoder::Rice, 1));
    }

    #[test]
    fn what_was_learned_is_published_and_memory_is_given_back() {
        let mut far = FarRemote::of(Schemas::default());
        let mut published = 0;
        for step in 0..60_000_u32 {
            far.send(Value::F64(f64::from(1 + step % 97) / 10.0));
            if far.publish() {
                published += 1;
                far.schemas.acknowledged();
            }
        }
        // The first one, and one for each lesson.
        assert_eq!(published, 1 + LEARN_AT.len());
        let own = &far.schemas.topics[&topic()];
        assert!(own.there.as_ref().is_some_and(FrameSchema::has_model));
        assert_eq!(own.lessons.weight, 0);
    }
}
