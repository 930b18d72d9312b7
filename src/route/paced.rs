//! States of the gateway on their way to a remote: the newest of each topic, those below `$SYS` at
//! most once per interval. A state that a rate has no room for is not dropped but waits; the one
//! that has waited longest is first. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::message::Message;
use crate::mqtt::TopicName;

/// The factor by which the status of the uplink itself has a longer interval: each copy that is
/// sent changes it.
const OWN_STATUS: u32 = 15;

/// The longest that a rate holds a message back, unless an interval is longer: the rate may change
/// meanwhile.
const SHORTEST_HOLD: Duration = Duration::from_secs(10);

/// When a state may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    /// A topic below `$SYS`: while the link is up, at most once per interval.
    Status,
    /// While the link is up.
    Health,
    /// At once: it is counted since the start, and a crash would forget it.
    Losses,
}

#[derive(Debug)]
struct WaitingState {
    message: Arc<Message>,
    kind: StateKind,
}

impl WaitingState {
    /// True if it may go over a link that is up, or not.
    fn may_go(&self, is_up: bool) -> bool {
        is_up || self.kind == StateKind::Losses
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Paced {
    /// The least time between two messages of a topic below `$SYS`.
    every: Duration,
    /// The status of the uplink that carries the messages.
    own: String,
    /// When it was made: topics that were never sent are due since then.
    began: Instant,
    sent: HashMap<TopicName, Instant>,
    /// Topics that a rate holds back, and until when.
    held: HashMap<TopicName, Instant>,
    /// The newest of each topic; a few per line, device and uplink at most.
    waiting: HashMap<TopicName, WaitingState>,
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
    pub(super) fn put(&mut self, message: Arc<Message>, kind: StateKind) {
        let topic = message.topic.clone();
        self.waiting.insert(topic, WaitingState { message, kind });
    }

    /// When the next waiting message is due, which may have been long ago; `None` if none may go.
    pub(super) fn next(&self, is_up: bool) -> Option<Instant> {
        let ready = self.waiting.iter().filter(|(_, state)| state.may_go(is_up));
        ready
            .map(|(topic, state)| self.may_go_at(topic, state))
            .min()
    }

    /// A message that is due; of several, the one that has waited longest.
    pub(super) fn due(&self, is_up: bool, now: Instant) -> Option<Arc<Message>> {
        let ready = self
            .waiting
            .iter()
            .filter(|(topic, state)| state.may_go(is_up) && self.may_go_at(topic, state) <= now);
        let longest = ready.min_by_key(|(topic, state)| self.is_due_at(topic, state));
        longest.map(|(_, state)| Arc::clone(&state.message))
    }

    /// A message goes nowhere; a newer one of its topic that came meanwhile waits for its turn.
    pub(super) fn forget(&mut self, message: &Arc<Message>) {
        let topic = &message.topic;
        if let Some(state) = self.waiting.get(topic)
            && Arc::ptr_eq(&state.message, message)
        {
            self.waiting.remove(topic);
        }
        self.held.remove(topic);
    }

    /// A message was sent; a newer one of its topic that came meanwhile waits for its turn.
    pub(super) fn sent(&mut self, message: &Arc<Message>, now: Instant) {
        self.forget(message);
        self.sent.insert(message.topic.clone(), now);
    }

    /// The message of a topic comes too fast for a rate: it waits until then.
    pub(super) fn hold(&mut self, topic: &TopicName, until: Instant, now: Instant) {
        self.held.insert(
            topic.clone(),
            until.min(now + self.every.max(SHORTEST_HOLD)),
        );
    }

    /// The waiting messages that may go now, at the end: those below `$SYS` say nothing new.
    pub(super) fn rest(&mut self, is_up: bool) -> Vec<Arc<Message>> {
        let rest = std::mem::take(&mut self.waiting).into_values();
        let goes = |state: &WaitingState| state.may_go(is_up) && state.kind != StateKind::Status;
        rest.filter(goes).map(|state| state.message).collect()
    }

    fn may_go_at(&self, topic: &TopicName, state: &WaitingState) -> Instant {
        let due = self.is_due_at(topic, state);
        self.held.get(topic).map_or(due, |held| due.max(*held))
    }

    /// When its interval is over.
    fn is_due_at(&self, topic: &TopicName, state: &WaitingState) -> Instant {
        let pause = match state.kind {
            StateKind::Status if topic.as_str() == self.own => self.every * OWN_STATUS,
            StateKind::Status => self.every,
            StateKind::Health | StateKind::Losses => Duration::ZERO,
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
            let message = paced.due(true, now)?;
            paced.sent(&message, now);
            Some(message)
        };
        let due = |paced: &mut Paced, now: Instant| {
            send(paced, now).map(|message| message.payload.clone())
        };
        assert_eq!((paced.next(true), send(&mut paced, start)), (None, None));
        paced.put(message("$SYS/wellhead/report", "1"), StateKind::Status);
        assert_eq!(
            (paced.next(true), due(&mut paced, start).as_deref()),
            (Some(start), Some(b"1".as_slice()))
        );
        paced.put(message("$SYS/wellhead/report", "2"), StateKind::Status);
        paced.put(message("$SYS/wellhead/report", "3"), StateKind::Status);
        assert_eq!(
            (paced.next(true), due(&mut paced, start)),
            (Some(start + EVERY), None)
        );
        assert_eq!(
            due(&mut paced, start + EVERY).as_deref(),
            Some(b"3".as_slice())
        );
        assert!(paced.next(true).is_none());
        let of_uplink = |paced: &mut Paced, name: &'static str| {
            (0..3600)
                .filter(|second| {
                    paced.put(message(name, "x"), StateKind::Status);
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
    fn while_the_link_is_down_only_losses_go() {
        let start = now();
        let mut paced = Paced::new(EVERY, "cloud", start);
        for (topic, kind) in [
            ("$SYS/wellhead/report", StateKind::Status),
            ("x/gateway/line/bus", StateKind::Health),
            ("x/gateway/uplink/cloud/losses", StateKind::Losses),
        ] {
            let topic = TopicName::new(topic).unwrap();
            paced.put(Arc::new(Message::new(topic, "1", Origin::Field)), kind);
        }
        let losses = paced.due(false, start).unwrap();
        assert_eq!(losses.topic.as_str(), "x/gateway/uplink/cloud/losses");
        paced.sent(&losses, start);
        assert_eq!((paced.due(false, start), paced.next(false)), (None, None));
        assert_eq!(paced.next(true), Some(start));
        let rest = paced.rest(true);
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].topic.as_str(), "x/gateway/line/bus");
        assert_eq!(paced.next(true), None);
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
                let message =
                    Message::new(topic.clone(), second.to_string(), Origin::Own).retained();
                paced.put(Arc::new(message), StateKind::Status);
            }
            while let Some(message) = paced.due(true, now) {
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
                paced.sent(&message, now);
                sent.push(message.topic.clone());
            }
            assert!(paced.next(true).is_some_and(|next| next > now));
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
        let message = Message::new(topic.clone(), "1", Origin::Own);
        paced.put(Arc::new(message), StateKind::Status);
        paced.hold(&topic, start + EVERY * 1440, start);
        assert_eq!(paced.next(true), Some(start + EVERY));
    }
}
