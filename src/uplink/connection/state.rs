//! The state that the remote has of this gateway on a connection: `online` before anything else,
//! `offline` before DISCONNECT.
//!
//! The state is at QoS 1 under a packet identifier of its own, and counts for the Receive Maximum
//! of the remote until it is answered; it goes at QoS 0 when the remote takes nothing more at QoS
//! 1. It is never repeated: the next connection says the state of then.
//!
//! If an earlier connection ended at the state, or a message is suspected, everything else waits
//! for the answer: otherwise a close would not show what caused it.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::RemoteConnection;
use crate::message::SessionLost;
use crate::mqtt::{Properties, QoS, ReasonCode};
use crate::outbox::Outgoing;
use crate::reading::Timestamp;
use crate::time::{moment, now};
use crate::uplink::cloud::Cloud;
use crate::uplink::connection::Done;
use crate::uplink::failure::LinkError;
use crate::uplink::link::{Accepted, Command};
use crate::uplink::presence::{StateAnswer, offline, online, unsupervised};
use crate::uplink::session::STATE_ID;
use crate::uplink::suspicion::speaks_of_itself;

/// How long the answer to the last state is waited for.
pub(super) const LAST_ANSWER: Duration = Duration::from_secs(2);

/// The state as published on one connection.
#[derive(Debug)]
pub(super) struct PresenceState {
    qos: QoS,
    is_said: bool,
    /// The remote has said anything after CONNACK.
    is_heard: bool,
    /// Since when the remote owes the answer.
    unanswered: Option<Instant>,
    /// Its identifier is in use at the remote, perhaps longer than the answer is waited for.
    has_identifier: bool,
    /// The remote could not take it at that moment.
    is_for_later: bool,
    /// Subscriptions and messages wait for the answer.
    holds: Option<Accepted>,
}

impl PresenceState {
    /// For a remote that takes messages up to a QoS.
    pub(super) fn new(max_qos: QoS) -> Self {
        let qos = max_qos.min(QoS::AtLeastOnce);
        Self {
            qos,
            is_said: false,
            is_heard: false,
            unanswered: None,
            has_identifier: false,
            is_for_later: false,
            holds: None,
        }
    }

    /// Of messages of the uplink itself.
    pub(super) fn qos(&self) -> QoS {
        self.qos
    }

    pub(super) fn has_identifier(&self) -> bool {
        self.has_identifier
    }

    /// True if the remote has not shown that it has read the state.
    fn is_unanswered(&self) -> bool {
        self.unanswered.is_some() || self.is_said && self.qos == QoS::AtMostOnce && !self.is_heard
    }
}

impl RemoteConnection<'_> {
    /// Says that this gateway is online.
    pub(super) fn say_online(&mut self) -> Result<(), LinkError> {
        let current = self.uplink.current;
        if self.uplink.settings.presence.is_none()
            || !self.uplink.presence.wants_state(current, now())
        {
            return Ok(());
        }
        self.say_here()?;
        if self.state.is_said && self.state.qos == QoS::AtMostOnce && self.pinged.is_none() {
            // The answer shows that the remote has read the state.
            self.ping()?;
        }
        Ok(())
    }

    /// The state of a gateway that is connected.
    fn say_here(&mut self) -> Result<(), LinkError> {
        let has_will = self.uplink.presence.has_will(self.uplink.current);
        let mark = self.uplink.rivals.mark();
        self.say(if has_will {
            online(moment(), mark)
        } else {
            unsupervised(moment(), mark)
        })
    }

    /// True if subscriptions and messages are to wait for the answer to the state.
    pub(super) fn waits_for_answer_to_state(&mut self, accepted: Accepted) -> bool {
        let is_doubtful = self.uplink.presence.doubts_state(self.uplink.current)
            || self.uplink.suspicion.suspect().is_some();
        self.state.holds =
            Some(accepted).filter(|_| is_doubtful && self.state.unanswered.is_some());
        self.waits_for_state()
    }

    /// True while they wait.
    pub(super) fn waits_for_state(&self) -> bool {
        self.state.holds.is_some()
    }

    /// Sends what waited for the answer.
    fn stop_waiting(&mut self) -> Result<(), LinkError> {
        match self.state.holds.take() {
            Some(accepted) if self.ending.is_none() => self.subscribe(accepted),
            _ => Ok(()),
        }
    }

    fn say(&mut self, state: String) -> Result<(), LinkError> {
        let Some(presence) = &self.uplink.settings.presence else {
            return Ok(());
        };
        let has_place = !self.state.has_identifier && self.uplink.session.has_place();
        let qos = if has_place {
            self.state.qos
        } else {
            QoS::AtMostOnce
        };
        let message = Outgoing {
            topic: presence.topic.clone(),
            qos,
            retain: self.uplink.presence.retains(self.uplink.current),
            if_session_lost: SessionLost::Drop,
            enqueued: Timestamp::from(moment()),
            properties: Properties::default(),
            payload: state.into(),
            rated: None,
            source: None,
        };
        let packet_id = Some(STATE_ID).filter(|_| qos != QoS::AtMostOnce);
        if !self.link.feed(Command::Own { packet_id, message })? {
            tracing::debug!(event = "uplink.state_too_large", uplink = %self.uplink.settings.name, "the state of this gateway is larger than the remote takes");
            return Ok(());
        }
        self.state.is_said = true;
        if packet_id.is_some() {
            self.state.has_identifier = true;
            self.state.unanswered = Some(now());
            self.uplink.session.reserve();
        }
        Ok(())
    }

    /// PUBACK for the state.
    pub(super) fn state_answered(&mut self, reason: ReasonCode) -> Result<(), LinkError> {
        self.state.unanswered = None;
        self.state.has_identifier = false;
        self.uplink.session.give_back();
        let current = self.uplink.current;
        if reason == ReasonCode::QUOTA_EXCEEDED {
            // That says nothing about the state.
            self.state.is_for_later = true;
            return self.stop_waiting();
        }
        self.has_said(reason);
        match self
            .uplink
            .presence
            .state_answered(current, reason.is_error(), now())
        {
            StateAnswer::Nothing => {}
            StateAnswer::NotAsItWas => {
                if self.uplink.settings.cloud == Some(Cloud::AwsIot) {
                    self.link.retain_nothing();
                }
                return if self.ending.is_none() {
                    self.say_here()
                } else {
                    Ok(())
                };
            }
            StateAnswer::NotRetained => self.uplink.retained_refused(),
            StateAnswer::Refused => {
                let remedy = self.uplink.settings.presence_remedy();
                let why = format!(
                    "the remote does not take the state of this gateway ({reason}): it shows an old one or none; {remedy}, or write `presence: false`"
                );
                self.uplink.presence_limited(&why);
            }
        }
        self.stop_waiting()
    }

    /// The remote has read the state.
    fn has_said(&mut self, reason: ReasonCode) {
        if !reason.is_error()
            && self.ending.is_none()
            && self.uplink.presence.retains(self.uplink.current)
        {
            self.uplink.rivals.said();
        }
    }

    /// Looks after a state that the remote does not answer, and after one that was left out for
    /// long.
    pub(super) fn check_state(&mut self) -> Result<(), LinkError> {
        if self
            .state
            .unanswered
            .is_some_and(|since| now() >= since + self.uplink.settings.answer_within)
        {
            self.give_up_answer()?;
        }
        if self.ending.is_none() && std::mem::take(&mut self.state.is_for_later) {
            return self.say_here();
        }
        let is_due = !self.state.is_said
            && self.ending.is_none()
            && self
                .uplink
                .presence
                .tries_state_again(self.uplink.current, now());
        if is_due { self.say_online() } else { Ok(()) }
    }

    /// The remote does not answer the state in time. Messages do not wait for it any longer, but
    /// its place with the remote stays taken.
    fn give_up_answer(&mut self) -> Result<(), LinkError> {
        self.state.unanswered = None;
        if self.uplink.session.is_blocked() {
            self.uplink
                .presence
                .ended_at_state(self.uplink.current, now());
            let what = "the remote takes one message at a time, and does not answer the state of this gateway";
            return Err(LinkError::Broken(what.to_owned()));
        }
        if self.pinged.is_none() {
            // Whether it lives is judged by this.
            self.ping()?;
        }
        self.stop_waiting()
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

    /// The remote has answered something. If the state was left out, that was why connections
    /// ended.
    pub(super) fn works_without_state(&mut self) {
        let current = self.uplink.current;
        if std::mem::replace(&mut self.state.is_heard, true) {
            return;
        }
        if self.state.is_said {
            if self.state.qos == QoS::AtMostOnce {
                self.has_said(ReasonCode::SUCCESS);
                self.uplink.presence.state_answered(current, false, now());
            }
            return;
        }
        if self.uplink.presence.works_without_state(current) {
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
            Done::Changed if self.uplink.moves_presence() => "moved",
            // The next connection may fail for long, and no will is left then.
            Done::Changed | Done::Renewed | Done::TriesWill | Done::Repeats => "reconnecting",
        };
        if !self.state.is_said && !self.is_asking() {
            return Ok(());
        }
        self.say(offline(reason, moment()))?;
        let answered = async {
            while self.state.unanswered.is_some() {
                let incoming = self.link.next().await?;
                self.receive(incoming).await?;
            }
            Ok::<(), LinkError>(())
        };
        // DISCONNECT follows even if the answer does not come in time.
        timeout(LAST_ANSWER, answered).await.unwrap_or(Ok(()))
    }
}
