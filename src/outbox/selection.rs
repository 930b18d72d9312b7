//! Selects messages of an outbox by number, topic and age. Pure.

use serde::{Deserialize, Serialize};

use super::Content;
use crate::mqtt::TopicFilter;
use crate::reading::Timestamp;

/// A message is selected if every given condition applies to it; without a condition all are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selection {
    /// Spans of numbers, as in the user property `seq`, first and last; one of them must hold it. A
    /// dead letter has the number that it had in its lane.
    pub numbers: Vec<(u64, u64)>,
    /// Matches the topic at the remote.
    pub topic: Option<Filter>,
    /// It was appended at least this long ago, in milliseconds.
    pub older_than_ms: Option<u64>,
}

/// A topic filter that travels as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Filter(pub TopicFilter);

impl TryFrom<String> for Filter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        TopicFilter::new(text)
            .map(Self)
            .map_err(|error| error.to_string())
    }
}

impl From<Filter> for String {
    fn from(filter: Filter) -> Self {
        filter.0.as_str().to_owned()
    }
}

impl Selection {
    /// True if it selects every message.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// True if it selects the entry with the number `seq` of its queue.
    pub fn wants(&self, seq: u64, content: &Content, now: Timestamp) -> bool {
        let (seq, message) = match content {
            Content::Message(message) => (seq, message),
            Content::Dead(dead) => (dead.seq, &dead.message),
        };
        let is_old = |least: u64| message.waited_ms(now).is_some_and(|waited| waited >= least);
        (self.numbers.is_empty()
            || self
                .numbers
                .iter()
                .any(|(first, last)| (first..=last).contains(&&seq)))
            && self
                .topic
                .as_ref()
                .is_none_or(|filter| filter.0.matches(&message.topic))
            && self.older_than_ms.is_none_or(is_old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Lane, SessionLost};
    use crate::mqtt::{Properties, QoS, TopicName};
    use crate::outbox::{DeadLetter, Outgoing};

    fn message(topic: &str, enqueued_ms: i64) -> Outgoing {
        Outgoing {
            topic: TopicName::new(topic.to_owned()).unwrap(),
            qos: QoS::AtLeastOnce,
            retain: false,
            if_session_lost: SessionLost::Resend,
            enqueued: Timestamp::at(enqueued_ms),
            properties: Properties::default(),
            payload: bytes::Bytes::new().into(),
            rated: None,
            source: None,
        }
    }

    #[test]
    fn everything_that_is_given_must_apply() {
        let now = Timestamp::at(1_900_000_000_000);
        let content = Content::Message(message("a/b", now.unix_ms - 60_000));
        let filter = |text: &str| Some(Filter::try_from(text.to_owned()).unwrap());
        let check = |selection: &Selection, expected: bool| {
            assert_eq!(selection.wants(7, &content, now), expected, "{selection:?}");
        };
        check(&Selection::default(), true);
        check(
            &Selection {
                numbers: vec![(1, 3), (7, 7)],
                ..Selection::default()
            },
            true,
        );
        check(
            &Selection {
                numbers: vec![(8, 9)],
                ..Selection::default()
            },
            false,
        );
        check(
            &Selection {
                topic: filter("a/#"),
                older_than_ms: Some(60_000),
                ..Selection::default()
            },
            true,
        );
        check(
            &Selection {
                topic: filter("a/#"),
                older_than_ms: Some(60_001),
                ..Selection::default()
            },
            false,
        );
        check(
            &Selection {
                topic: filter("b/#"),
                ..Selection::default()
            },
            false,
        );
    }

    #[test]
    fn a_dead_letter_has_the_number_of_its_lane() {
        let now = Timestamp::at(1_900_000_000_000);
        let dead = DeadLetter {
            buried: now,
            lane: Lane::Live,
            seq: 40,
            reason: String::new(),
            message: message("a", now.unix_ms),
        };
        let selection = Selection {
            numbers: vec![(40, 40)],
            ..Selection::default()
        };
        assert!(selection.wants(1, &Content::Dead(Box::new(dead)), now));
    }

    #[test]
    fn it_travels_as_json_and_a_wrong_filter_is_refused() {
        let selection = Selection {
            topic: Some(Filter::try_from("a/+".to_owned()).unwrap()),
            ..Selection::default()
        };
        let text = serde_json::to_string(&selection).unwrap();
        assert_eq!(serde_json::from_str::<Selection>(&text).unwrap(), selection);
        assert!(serde_json::from_str::<Selection>(&text.replace("a/+", "a/#/b")).is_err());
    }
}
