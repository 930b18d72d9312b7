//! Copies of a message that a remote sends because several subscriptions match its topic [MQTT 5.0,
//! 3.3.4]: one is passed on. Pure: the caller brings the time.
//!
//! Invariants:
//! * Only messages whose topic matches several subscriptions are compared, and the first one of its
//!   kind is always passed on.
//! * An equal message is a copy if it came for other subscriptions, as its identifiers say; one
//!   that came for the same subscription was published again, and is passed on.
//! * A message without identifiers (MQTT 3.1.1, a remote that has none, a shared subscription) is
//!   never taken for a copy: nothing tells a copy from a message that was published again, and one
//!   that is lost is worse than one that comes twice.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::link::Received;

/// Messages of which copies may still come.
const MOST: usize = 256;
/// How long a copy is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A message that went on.
#[derive(Debug)]
struct FirstCopy {
    digest: u64,
    /// Subscriptions for which it came.
    subscriptions: Vec<u32>,
    /// Copies that may still come.
    copies: usize,
    until: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Copies {
    firsts: VecDeque<FirstCopy>,
}

impl Copies {
    /// True if a message is a copy of one that went on; `matching` subscriptions match its topic.
    pub(super) fn is_copy(&mut self, received: &Received, matching: usize, at: Instant) -> bool {
        self.firsts.retain(|first| first.until >= at);
        let identifiers = &received.subscriptions;
        if matching < 2 || identifiers.is_empty() {
            return false;
        }
        let digest = digest(received);
        let is_other = |first: &FirstCopy| {
            !identifiers
                .iter()
                .any(|identifier| first.subscriptions.contains(identifier))
        };
        let found = self
            .firsts
            .iter()
            .position(|first| first.digest == digest && is_other(first));
        let Some(first) = found.and_then(|place| self.firsts.get_mut(place)) else {
            self.remember(received, digest, matching, at);
            return false;
        };
        first.subscriptions.extend(identifiers);
        first.copies = first.copies.saturating_sub(identifiers.len());
        self.firsts.retain(|first| first.copies > 0);
        true
    }

    fn remember(&mut self, received: &Received, digest: u64, matching: usize, at: Instant) {
        let subscriptions = received.subscriptions.clone();
        let copies = matching.saturating_sub(subscriptions.len());
        if copies == 0 {
            return;
        }
        if self.firsts.len() >= MOST {
            self.firsts.pop_front();
        }
        self.firsts.push_back(FirstCopy {
            digest,
            subscriptions,
            copies,
            until: at + PATIENCE,
        });
    }
}

/// The common part of copies. The time that is left of a message may differ.
fn digest(received: &Received) -> u64 {
    let mut hasher = DefaultHasher::new();
    let properties = &received.properties;
    (received.topic.as_str(), &received.payload, received.retain).hash(&mut hasher);
    (
        properties.payload_is_text,
        &properties.content_type,
        &properties.correlation_data,
    )
        .hash(&mut hasher);
    (&properties.response_topic, &properties.user).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{Properties, QoS, TopicName};

    fn received(payload: &'static str, subscriptions: &[u32]) -> Received {
        Received {
            topic: TopicName::new("a/b").unwrap(),
            payload: payload.into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            is_repeated: false,
            packet_id: None,
            properties: Properties::default(),
            subscriptions: subscriptions.to_vec(),
        }
    }

    /// Messages with their identifiers, after how many milliseconds each came, and whether it is
    /// passed on.
    fn check(copies: &mut Copies, matching: usize, messages: &[(&'static str, &[u32], u64, bool)]) {
        let mut at = crate::time::now();
        for (index, (payload, subscriptions, millis, goes_on)) in messages.iter().enumerate() {
            at += Duration::from_millis(*millis);
            assert_eq!(
                !copies.is_copy(&received(payload, subscriptions), matching, at),
                *goes_on,
                "message {index}: {payload}"
            );
        }
    }

    #[test]
    fn with_identifiers_a_message_for_another_subscription_is_a_copy() {
        check(
            &mut Copies::default(),
            2,
            &[
                ("on", &[1], 0, true),
                ("on", &[2], 0, false),
                ("on", &[1], 0, true),
                ("on", &[2], 0, false),
            ],
        );
        // Queue by queue, and late.
        check(
            &mut Copies::default(),
            2,
            &[
                ("on", &[1], 0, true),
                ("on", &[1], 9, true),
                ("on", &[2], 9000, false),
                ("on", &[2], 9, false),
            ],
        );
        // One with all of them, as often as it is published.
        check(
            &mut Copies::default(),
            2,
            &[("on", &[1, 2], 0, true), ("on", &[1, 2], 0, true)],
        );
        check(
            &mut Copies::default(),
            3,
            &[
                ("on", &[1], 0, true),
                ("off", &[2], 0, true),
                ("on", &[2], 0, false),
                ("on", &[3], 0, false),
            ],
        );
        check(
            &mut Copies::default(),
            1,
            &[("on", &[1], 0, true), ("on", &[2], 0, true)],
        );
    }

    #[test]
    fn a_message_without_identifiers_is_never_a_copy() {
        let mut copies = Copies::default();
        check(
            &mut copies,
            2,
            &[
                ("on", &[], 0, true),
                ("on", &[], 0, true),
                ("on", &[1], 0, true),
                ("on", &[], 0, true),
                ("on", &[2], 0, false),
            ],
        );
    }

    #[test]
    fn it_remembers_a_bounded_number() {
        let mut copies = Copies::default();
        let at = crate::time::now();
        for number in 0..2 * MOST {
            let message = Received {
                payload: number.to_string().into(),
                ..received("", &[1])
            };
            assert!(!copies.is_copy(&message, 2, at));
        }
        assert_eq!(copies.firsts.len(), MOST);
    }
}
