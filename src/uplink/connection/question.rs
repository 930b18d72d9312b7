//! The question which state of this gateway the remote has retained, before this gateway publishes
//! its own: one of another run shows that another client uses its client identifier (`rivals`).
//!
//! SUBSCRIBE at QoS 0, and PINGREQ, whose answer shows that nothing more is retained. Everything
//! else waits for that. The subscription is noted with the others of the session, and ends with
//! UNSUBSCRIBE on this connection or the next one. Its messages do not reach local clients, and no
//! message, filter or state is blamed for a connection that ends here.

use std::time::Instant;

use super::RemoteConnection;
use crate::mqtt::{QoS, TopicName};
use crate::time::now;
use crate::uplink::failure::LinkError;
use crate::uplink::link::Received;
use crate::uplink::link::{Accepted, Command};
use crate::uplink::presence::mark_of;

/// The question of one connection.
#[derive(Debug)]
pub(super) struct Question {
    accepted: Accepted,
    asked: Instant,
    awaits_suback: bool,
    /// The state has come, or the answer to PINGREQ.
    has_come: bool,
    /// Everything else waits.
    is_open: bool,
}

impl RemoteConnection<'_> {
    /// Asks, if it is time to. False if it is not, or the remote cannot be asked.
    pub(super) fn asks_for_state(&mut self, accepted: Accepted) -> Result<bool, LinkError> {
        let current = self.uplink.current;
        let uplink = &mut *self.uplink;
        let Some(presence) = uplink
            .settings
            .presence
            .as_ref()
            .filter(|_| uplink.settings.cloud.is_none())
        else {
            return Ok(false);
        };
        let is_retained = accepted.retain_available && uplink.presence.retains(current);
        if !uplink.rivals.asks() || !is_retained || !uplink.presence.wants_state(current, now()) {
            return Ok(false);
        }
        let topic = presence.topic.clone();
        if uplink
            .settings
            .asked_for()
            .iter()
            .any(|receive| receive.filter.as_str() == topic.as_str())
        {
            // The end of the question would end that subscription.
            return Ok(false);
        }
        if !self.link.feed(Command::AskForState(topic.clone()))? {
            return Ok(false);
        }
        self.uplink.session.subscribe(topic.as_str());
        let asked = now();
        self.ping()?;
        self.question = Some(Question {
            accepted,
            asked,
            awaits_suback: true,
            has_come: false,
            is_open: true,
        });
        Ok(true)
    }

    /// True while everything else waits for the answer.
    pub(super) fn is_asking(&self) -> bool {
        self.question
            .as_ref()
            .is_some_and(|question| question.is_open)
    }

    /// SUBACK for the question.
    pub(super) fn question_granted(&mut self, granted: &[Option<QoS>]) -> Result<(), LinkError> {
        let Some(question) = &mut self.question else {
            return Ok(());
        };
        question.awaits_suback = false;
        if granted.iter().any(Option::is_none) {
            self.uplink.rivals.refused();
            return self.stop_asking();
        }
        self.end_question()
    }

    /// PINGRESP.
    pub(super) fn nothing_more_retained(&mut self) -> Result<(), LinkError> {
        if let Some(question) = &mut self.question {
            question.has_come = true;
        }
        self.end_question()
    }

    /// Looks at a message. True if it came because of the question only.
    pub(super) fn is_answer(&mut self, publish: &Received) -> Result<bool, LinkError> {
        let is_state = self
            .uplink
            .settings
            .presence
            .as_ref()
            .is_some_and(|presence| presence.topic == publish.topic);
        if !is_state || !publish.retain {
            return Ok(false);
        }
        let Some(question) = &mut self.question else {
            return Ok(false);
        };
        question.has_come = true;
        if mark_of(&publish.payload).is_some_and(|mark| self.uplink.rivals.retained(&mark)) {
            self.uplink.found_rival();
        }
        self.end_question()?;
        Ok(true)
    }

    /// Ends a subscription that an earlier connection, or another client, has left behind in the
    /// session.
    pub(super) fn end_stray(&mut self, topic: &TopicName) -> Result<(), LinkError> {
        let is_state = self
            .uplink
            .settings
            .presence
            .as_ref()
            .is_some_and(|presence| presence.topic == *topic);
        if !is_state
            || self.question.is_some()
            || std::mem::replace(&mut self.has_ended_stray, true)
        {
            return Ok(());
        }
        self.unsubscribe(&[topic.to_string()])
    }

    /// Ends the question if everything that belongs to the answer has come.
    fn end_question(&mut self) -> Result<(), LinkError> {
        let is_whole = self
            .question
            .as_ref()
            .is_some_and(|question| question.has_come && !question.awaits_suback);
        if !is_whole || !self.is_asking() {
            return Ok(());
        }
        self.uplink.rivals.answered();
        self.stop_asking()
    }

    /// Does not wait any longer for a remote that does not answer.
    pub(super) fn check_question(&mut self) -> Result<(), LinkError> {
        let is_late = self
            .question
            .as_ref()
            .is_some_and(|question| now() >= question.asked + self.uplink.settings.answer_within);
        if !is_late || !self.is_asking() {
            return Ok(());
        }
        self.uplink.rivals.refused();
        self.stop_asking()
    }

    fn stop_asking(&mut self) -> Result<(), LinkError> {
        let Some(question) = self.question.as_mut().filter(|question| question.is_open) else {
            return Ok(());
        };
        question.is_open = false;
        let accepted = question.accepted;
        if self.ending.is_none() {
            self.introduce(accepted)
        } else {
            Ok(())
        }
    }
}
