//! The newest messages that are sent before the backlog, by topic.
//!
//! A reading of the backlog that the remote is to retain must not take the place of a newer one
//! that has overtaken it, nor of the empty message that removes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::message::Lane;
use crate::mqtt::TopicName;
use crate::payload::Payload;
use crate::reading::Timestamp;

use super::Outgoing;

/// By the topic at the remote, when the newest reading was taken, or removed. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct NewestRetained(Arc<Mutex<HashMap<TopicName, Timestamp>>>);

impl NewestRetained {
    /// A message of the gateway goes into a lane: a reading, or what removes one.
    pub(super) fn note(&self, lane: Lane, message: &Outgoing) {
        let time = match &message.payload {
            Payload::Reading(reading) => reading.time,
            Payload::Bytes(bytes) if bytes.is_empty() => message.enqueued,
            Payload::Bytes(_) => return,
        };
        if lane == Lane::Backlog || !message.retain {
            return;
        }
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = newest.get_mut(&message.topic) {
            *known = time;
        } else {
            newest.insert(message.topic.clone(), time);
        }
    }

    /// True if a newer one of its topic went into another lane since the start.
    pub(super) fn has_overtaken(&self, message: &Outgoing, now: Timestamp) -> bool {
        let Payload::Reading(reading) = &message.payload else {
            return false;
        };
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = newest.get(&message.topic);
        let of = |time: Timestamp| time.corrected(now).unix_ms;
        newest.is_some_and(|newest| of(*newest) > of(reading.time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{Properties, QoS};
    use crate::reading::{PointId, Quality, Reading};

    const NOON: i64 = 1_800_000_000_000;

    fn reading(topic: &str, unix_ms: i64) -> Outgoing {
        let reading = Reading {
            point: PointId(0),
            value: None,
            time: Timestamp::at(unix_ms),
            quality: Quality::Good,
            age: std::time::Duration::ZERO,
        };
        Outgoing {
            topic: TopicName::new(topic.to_owned()).unwrap(),
            qos: QoS::AtLeastOnce,
            retain: true,
            if_session_lost: crate::message::SessionLost::Resend,
            enqueued: Timestamp::at(unix_ms),
            properties: Properties::default(),
            payload: Payload::Reading(Box::new(reading)),
            rated: None,
            source: None,
        }
    }

    #[test]
    fn what_removes_a_reading_overtakes_it() {
        let newest = NewestRetained::default();
        let removal = Outgoing {
            payload: bytes::Bytes::new().into(),
            ..reading("s/d/p", NOON + 1)
        };
        newest.note(Lane::Live, &removal);
        let now = Timestamp::at(NOON + 60_000);
        assert!(newest.has_overtaken(&reading("s/d/p", NOON), now));
        assert!(!newest.has_overtaken(&reading("s/d/p", NOON + 2), now));
    }

    #[test]
    fn only_a_newer_reading_of_the_same_topic_in_another_lane_overtakes() {
        let now = Timestamp::at(NOON + 60_000);
        let newest = NewestRetained::default();
        let waiting = reading("s/d/p", NOON);
        assert!(!newest.has_overtaken(&waiting, now));
        newest.note(Lane::Backlog, &reading("s/d/p", NOON + 1));
        newest.note(Lane::Live, &reading("s/d/other", NOON + 1));
        newest.note(Lane::Live, &reading("s/d/p", NOON - 1));
        assert!(!newest.has_overtaken(&waiting, now));
        newest.note(Lane::Live, &reading("s/d/p", NOON + 1));
        assert!(newest.has_overtaken(&waiting, now));
        assert!(!newest.has_overtaken(&reading("s/d/p", NOON + 1), now));
    }
}
