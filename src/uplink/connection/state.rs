//! What the remote is told of this gateway's presence on a connection: `online` before anything else, `offline` before an orderly end.
//!
//! The state is at QoS 1 under a packet identifier of its own, and counts for the Receive Maximum of the remote until it is answered. It
//! is never repeated: the next connection says the state of then.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Connection;
use crate::message::SessionLost;
use crate::mqtt::{Properties, QoS, ReasonCode};
use crate::outbox::Outgoing;
use crate::reading::Timestamp;
use crate::time::{moment, now};
use crate::uplink::cloud::Cloud;
use crate::uplink::connection::Done;
use crate::uplink::link::{Command, LinkError};
use crate::uplink::presence::{Shown, offline, online};
use crate::uplink::session::STATE_ID;
use crate::uplink::suspicion::speaks_of_itself;

/// How long the answer to the last state is waited for.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// What was said on one connection.
#[derive(Debug)]
pub(super) struct State {
    qos: QoS,
    is_said: bool,
    /// The remote has said anything after CONNACK.
    is_heard: bool,
    /// Since when the remote owes the answer.
    unanswered: Option<Instant>,
}

impl State {
    /// For a remote that takes messages up to a QoS.
    pub(super) fn new(max_qos: QoS) -> Self {
        Self { qos: max_qos.min(QoS::AtLeastOnce), is_said: false, is_heard: false, unanswered: None }
    }

    pub(super) fn is_unanswered(&self) -> bool {
        self.unanswered.is_some()
    }
}

impl Connection<'_> {
    /// Says that this gateway is online.
    pub(super) fn say_online(&mut self) -> Result<(), LinkError> {
        let current = self.uplink.current;
        if self.uplink.settings.presence.is_none() || !self.uplink.presence.wants_state(current, now()) {
            return Ok(());
        }
        self.say(online(moment()))
    }

    fn say(&mut self, state: String) -> Result<(), LinkError> {
        let Some(presence) = &self.uplink.settings.presence else { return Ok(()) };
        // One that is not answered still has the identifier.
        let qos = if self.state.is_unanswered() { QoS::AtMostOnce } else { self.state.qos };
        let message = Outgoing {
            topic: presence.topic.clone(),
            qos,
            retain: self.uplink.presence.retains(self.uplink.current),
            if_session_lost: SessionLost::Drop,
            enqueued: Timestamp::from(moment()),
            properties: Properties::default(),
            payload: state.into(),
            is_reading: false,
        };
        let packet_id = Some(STATE_ID).filter(|_| qos != QoS::AtMostOnce);
        if !self.link.feed(Command::State { packet_id, message })? {
            tracing::debug!(uplink = %self.uplink.settings.name, "the state of this gateway is larger than the remote takes");
            return Ok(());
        }
        self.state.is_said = true;
        if packet_id.is_some() {
            self.state.unanswered = Some(now());
            self.uplink.session.reserve(1);
        }
        Ok(())
    }

    /// PUBACK for the state.
    pub(super) fn state_answered(&mut self, reason: ReasonCode) -> Result<(), LinkError> {
        self.state.unanswered = None;
        self.uplink.session.reserve(0);
        let current = self.uplink.current;
        match self.uplink.presence.state_answered(current, reason.is_error(), now()) {
            Shown::Nothing => {}
            Shown::NotAsItWas => {
                if self.uplink.settings.cloud == Some(Cloud::AwsIot) {
                    self.link.retain_nothing();
                }
                return if self.ending.is_none() { self.say(online(moment())) } else { Ok(()) };
            }
            Shown::NotRetained => self.uplink.retained_refused(),
            Shown::Refused => {
                let remedy = self.uplink.settings.presence_remedy();
                let why = format!(
                    "the remote does not take the state of this gateway ({reason}): it shows an old one or none; {remedy}, or write `presence: false`"
                );
                self.uplink.presence_limited(&why);
            }
        }
        Ok(())
    }

    /// Looks after a state that the remote does not answer, and after one that was left out for long.
    pub(super) fn check_state(&mut self) -> Result<(), LinkError> {
        if self.state.unanswered.is_some_and(|since| now() >= since + self.uplink.settings.answer_within) {
            // It answers other packets: messages do not wait for it any longer.
            self.state.unanswered = None;
            self.uplink.session.reserve(0);
        }
        let is_due = !self.state.is_said && self.ending.is_none() && self.uplink.presence.tries_state_again(self.uplink.current, now());
        if is_due { self.say_online() } else { Ok(()) }
    }

    /// The remote ended the connection. True if the state was what it had not answered.
    pub(super) fn blame_state(&mut self, reason: Option<ReasonCode>) -> bool {
        let current = self.uplink.current;
        if self.state.is_unanswered() {
            if !reason.is_some_and(speaks_of_itself) {
                self.uplink.presence.ended_at_state(current, now());
            }
            return true;
        }
        if !self.state.is_said && !self.state.is_heard {
            self.uplink.presence.fails_without_state(current);
        }
        false
    }

    /// The remote has answered something. If the state was left out, that was why connections ended.
    pub(super) fn works_without_state(&mut self) {
        if std::mem::replace(&mut self.state.is_heard, true) || self.state.is_said {
            return;
        }
        let current = self.uplink.current;
        if self.uplink.presence.works_without_state(current, now()) {
            let why = format!(
                "the remote closes the connection when it gets the state of this gateway: the state is left out, for an hour at first and a day at last; {}, or write `presence: false`",
                self.uplink.settings.presence_remedy()
            );
            self.uplink.presence_limited(&why);
        }
    }

    /// Says why this gateway will be offline, and waits a moment until the remote has it.
    pub(super) async fn say_offline(&mut self, done: Done) -> Result<(), LinkError> {
        let reason = match done {
            Done::Stopped => "stopped",
            Done::NotNeeded => "standby",
            Done::Changed if self.moves_presence() => "moved",
            Done::Changed | Done::Renewed => return Ok(()),
        };
        if !self.state.is_said {
            return Ok(());
        }
        self.say(offline(reason, moment()))?;
        let answered = async {
            while self.state.is_unanswered() {
                let incoming = self.link.next().await?;
                self.receive(incoming).await?;
            }
            Ok::<(), LinkError>(())
        };
        // Whoever does not answer in time gets DISCONNECT all the same.
        timeout(LAST_ANSWER, answered).await.unwrap_or(Ok(()))
    }

    /// True if the settings to come have the state elsewhere, or none.
    fn moves_presence(&self) -> bool {
        self.uplink.next_presence() != self.uplink.settings.presence.as_ref().map(|presence| presence.topic.clone())
    }
}
