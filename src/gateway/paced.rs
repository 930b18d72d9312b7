//! States of the gateway on `$SYS` topics on their way to a remote: only the newest of each counts, and each goes at most once per
//! interval. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::message::Message;
use crate::mqtt::TopicName;

/// How much longer than others the status of the uplink itself waits: each copy that is sent changes it.
pub(super) const OWN_STATUS: u32 = 15;

#[derive(Debug)]
pub(super) struct Paced {
    /// The least time between two messages of a topic.
    every: Duration,
    /// The status of the uplink that carries the messages.
    own: String,
    /// When it was made: what was never sent may go since then.
    began: Instant,
    sent: HashMap<TopicName, Instant>,
    /// The newest of each topic; one per line, device and uplink at most.
    waiting: HashMap<TopicName, Arc<Message>>,
}

impl Paced {
    /// For messages that go over the uplink of a name.
    pub(super) fn new(every: Duration, uplink: &str, began: Instant) -> Self {
        Self { every, own: format!("$SYS/wellhead/uplink/{uplink}"), began, sent: HashMap::new(), waiting: HashMap::new() }
    }

    /// Keeps a message until it may go; the one of its topic that waited is forgotten.
    pub(super) fn take(&mut self, message: Arc<Message>) {
        self.waiting.insert(message.topic.clone(), message);
    }

    /// True if a message waits.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When the next message that waits may go, which may have been long ago; `None` if none waits.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.keys().map(|topic| self.may_go_at(topic)).min()
    }

    /// A message that waited and may go now.
    pub(super) fn due(&mut self, now: Instant) -> Option<Arc<Message>> {
        let topic = self.waiting.keys().find(|topic| self.may_go_at(topic) <= now)?.clone();
        self.sent.insert(topic.clone(), now);
        self.waiting.remove(&topic)
    }

    fn may_go_at(&self, topic: &TopicName) -> Instant {
        let pause = if topic.as_str() == self.own { self.every * OWN_STATUS } else { self.every };
        self.sent.get(topic).map_or(self.began, |sent| *sent + pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Origin;
    use crate::time::now;

    const EVERY: Duration = Duration::from_secs(60);

    #[test]
    fn the_newest_of_a_topic_goes_once_per_interval_and_the_status_of_the_uplink_itself_less_often() {
        let start = now();
        let mut paced = Paced::new(EVERY, "cloud", start);
        let message =
            |topic: &'static str, text: &'static str| Arc::new(Message::new(TopicName::new(topic).unwrap(), text, Origin::Own).retained());
        let due = |paced: &mut Paced, now: Instant| paced.due(now).map(|message| message.payload.clone());
        assert_eq!((paced.next(), paced.due(start)), (None, None));
        paced.take(message("$SYS/wellhead/report", "1"));
        assert_eq!((paced.next(), due(&mut paced, start).as_deref()), (Some(start), Some(b"1".as_slice())));
        paced.take(message("$SYS/wellhead/report", "2"));
        paced.take(message("$SYS/wellhead/report", "3"));
        assert_eq!((paced.next(), due(&mut paced, start)), (Some(start + EVERY), None));
        assert_eq!(due(&mut paced, start + EVERY).as_deref(), Some(b"3".as_slice()));
        assert!(!paced.is_waiting() && paced.next().is_none());
        let of_uplink = |paced: &mut Paced, name: &'static str| {
            (0..3600)
                .filter(|second| {
                    paced.take(message(name, "x"));
                    paced.due(start + Duration::from_secs(*second)).is_some()
                })
                .count()
        };
        assert_eq!(of_uplink(&mut Paced::new(EVERY, "cloud", start), "$SYS/wellhead/uplink/cloud"), 4, "every 15 minutes");
        assert_eq!(of_uplink(&mut Paced::new(EVERY, "cloud", start), "$SYS/wellhead/uplink/other"), 60, "every minute");
    }
}
