//! Limits how often the `$SYS` states of the gateway are sent to a remote: the newest of each
//! topic, at most once per interval. A state that a rate has no room for is not dropped but waits;
//! the one that has waited longest is first. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::message::Message;
use crate::mqtt::TopicName;

/// The factor by which the status of the uplink itself has a longer interval: each copy that is
/// sent changes it.
pub(super) const OWN_STATUS: u32 = 15;

/// The longest that a rate holds a message back, unless an interval is longer: the rate may change
/// meanwhile.
const SHORTEST_HOLD: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Paced {
    /// The least time between two messages of a topic.
    every: Duration,
    /// The status of the uplink that carries the messages.
    own: String,
    /// When it was made: topics that were never sent are due since then.
    began: Instant,
    sent: HashMap<TopicName, Instant>,
    /// Topics that a rate holds back, and until when.
    held: HashMap<TopicName, Instant>,
    /// The newest of each topic; one per line, device and uplink at most.
    waiting: HashMap<TopicName, Arc<Message>>,
}

impl Paced {
    /// For messages that go over the uplink of a name.
    pub(super) fn new(every: Duration, uplink: &str, began: Instant) -> Self {
        Self {
            every,
            own: format!("$SYS/wellhead/uplink/{uplink}"),
            began,
            sent: HashMap::new(),
            held: HashMap::new(),
            waiting: HashMap::new(),
        }
    }

    /// Keeps a message until it is due; it replaces a waiting one of its topic.
    pub(super) fn take(&mut self, message: Arc<Message>) {
        self.waiting.insert(message.topic.clone(), message);
    }

    /// True if a message waits.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When the next waiting message is due, which may have been long ago; `None` if none waits.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.keys().map(|topic| self.may_go_at(topic)).min()
    }

    /// A message that is due; of several, the one that has waited longest.
    pub(super) fn due(&self, now: Instant) -> Option<Arc<Message>> {
        let ready = self
            .waiting
            .iter()
            .filter(|(topic, _)| self.may_go_at(topic) <= now);
        let longest = ready.min_by_key(|(topic, _)| self.is_due_at(topic))?;
        Some(Arc::clone(longest.1))
    }

    /// The message of a topic was sent.
    pub(super) fn sent(&mut self, topic: &TopicName, now: Instant) {
        self.waiting.remove(topic);
        self.held.remove(topic);
        self.sent.insert(topic.clone(), now);
    }

    /// The message of a topic comes too fast for a rate: it waits until then.
    pub(super) fn hold(&mut self, topic: &TopicName, until: Instant, now: Instant) {
        self.held.insert(
            topic.clone(),
            until.min(now + self.every.max(SHORTEST_HOLD)),
        );
    }

    /// All waiting messages, at the end.
    pub(super) fn rest(self) -> impl Iterator<Item = Arc<Message>> {
        self.waiting.into_values()
    }

    fn may_go_at(&self, topic: &TopicName) -> Instant {
        let due = self.is_due_at(topic);
        self.held.get(topic).map_or(due, |held| due.max(*held))
    }

    /// When its interval is over.
    fn is_due_at(&self, topic: &TopicName) -> Instant {
        let pause = if topic.as_str() == self.own {
            self.every * OWN_STATUS
        } else {
            self.every
        };
        self.sent
            .get(topic)
            .map_or(self.began, |sent| *sent + pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Origin;
    use crate::time::now;

    const EVERY: Duration = Duration::from_secs(60);

    #[test]
    fn the_newest_of_a_topic_goes_once_per_interval_and_the_status_of_the_uplink_itself_less_often()
    {
        let start = now();
        let mut paced = Paced::new(EVERY, "cloud", start);
        let message = |topic: &'static str, text: &'static str| {
            Arc::new(Message::new(TopicName::new(topic).unwrap(), text, Origin::Own).retained())
        };
        let send = |paced: &mut Paced, now: Instant| {
            paced
                .due(now)
                .inspect(|message| paced.sent(&message.topic, now))
        };
        let due = |paced: &mut Paced, now: Instant| {
            send(paced, now).map(|message| message.payload.clone())
        };
        assert_eq!((paced.next(), send(&mut paced, start)), (None, None));
        paced.take(message("$SYS/wellhead/report", "1"));
        assert_eq!(
            (paced.next(), due(&mut paced, start).as_deref()),
            (Some(start), Some(b"1".as_slice()))
        );
        paced.take(message("$SYS/wellhead/report", "2"));
        paced.take(message("$SYS/wellhead/report", "3"));
        assert_eq!(
            (paced.next(), due(&mut paced, start)),
            (Some(start + EVERY), None)
        );
        assert_eq!(
            due(&mut paced, start + EVERY).as_deref(),
            Some(b"3".as_slice())
        );
        assert!(!paced.is_waiting() && paced.next().is_none());
        let of_uplink = |paced: &mut Paced, name: &'static str| {
            (0..3600)
                .filter(|second| {
                    paced.take(message(name, "x"));
                    send(paced, start + Duration::from_secs(*second)).is_some()
                })
                .count()
        };
        assert_eq!(
            of_uplink(
                &mut Paced::new(EVERY, "cloud", start),
                "$SYS/wellhead/uplink/cloud"
            ),
            4,
            "every 15 minutes"
        );
        assert_eq!(
            of_uplink(
                &mut Paced::new(EVERY, "cloud", start),
                "$SYS/wellhead/uplink/other"
            ),
            60,
            "every minute"
        );
    }

    #[test]
    fn a_rate_drops_no_state_and_each_topic_has_its_turn() {
        let start = now();
        let mut paced = Paced::new(EVERY, "cloud", start);
        let topics: Vec<TopicName> = (0..90)
            .map(|number| TopicName::new(format!("$SYS/wellhead/device/{number}")).unwrap())
            .collect();
        let (mut sent, mut free_at): (Vec<TopicName>, _) = (Vec::new(), start);
        // One message a second, and each topic changes all the time.
        for second in 0..180 {
            let now = start + Duration::from_secs(second);
            for topic in &topics {
                paced.take(Arc::new(
                    Message::new(topic.clone(), second.to_string(), Origin::Own).retained(),
                ));
            }
            while let Some(message) = paced.due(now) {
                if now < free_at {
                    paced.hold(&message.topic, free_at, now);
                    continue;
                }
                assert_eq!(
                    *message.payload,
                    *second.to_string().as_bytes(),
                    "the newest"
                );
                free_at = now + Duration::from_secs(1);
                paced.sent(&message.topic, now);
                sent.push(message.topic.clone());
            }
            assert!(paced.next().is_some_and(|next| next > now));
        }
        for topic in &topics {
            assert_eq!(
                sent.iter().filter(|other| *other == topic).count(),
                2,
                "{topic}"
            );
        }
        // A rate that allows one a day may be another one soon.
        let topic = TopicName::new("$SYS/wellhead/report").unwrap();
        let mut paced = Paced::new(EVERY, "cloud", start);
        paced.take(Arc::new(Message::new(topic.clone(), "1", Origin::Own)));
        paced.hold(&topic, start + EVERY * 1440, start);
        assert_eq!(paced.next(), Some(start + EVERY));
    }
}
