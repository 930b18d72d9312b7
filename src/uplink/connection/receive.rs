//! Packets of the remote on a connection: answers, messages, DISCONNECT.

use std::sync::Arc;

use super::RemoteConnection;
use crate::message::Origin;
use crate::mqtt::{PacketId, QoS, ReasonCode};
use crate::outbox::EntryId;
use crate::route::Routes;
use crate::time::now;
use crate::uplink::client::Uplink;
use crate::uplink::failure::LinkError;
use crate::uplink::inbound::Delivery;
use crate::uplink::link::{Command, Incoming, Received};
use crate::uplink::session::{AckOutcome, SCHEMA_ID, STATE_ID};

/// Packets taken from the remote before sending continues.
const RECEIVE_BATCH: usize = 512;

impl RemoteConnection<'_> {
    /// Takes a packet and those that are there already, so that one write and one settling serve
    /// many.
    pub(super) async fn receive(&mut self, first: Incoming) -> Result<(), LinkError> {
        if first == Incoming::Written {
            return Ok(());
        }
        let mut settled = Vec::new();
        let mut outcome = self.take(first, &mut settled).await;
        for _ in 0..RECEIVE_BATCH {
            if outcome.is_err() {
                break;
            }
            let Some(next) = self.link.next_ready() else {
                break;
            };
            outcome = match next {
                Ok(incoming) => self.take(incoming, &mut settled).await,
                Err(error) => Err(error),
            };
        }
        // What was acknowledged is settled even if the connection broke just after.
        self.uplink.settle(&settled);
        outcome
    }

    // A table of the packets.
    async fn take(
        &mut self,
        incoming: Incoming,
        settled: &mut Vec<EntryId>,
    ) -> Result<(), LinkError> {
        if !matches!(incoming, Incoming::Written | Incoming::Disconnect(..)) {
            self.heard()?;
        }
        match self.localized(incoming) {
            Incoming::PubAck(packet_id, reason)
                if packet_id == STATE_ID && self.state.has_identifier() =>
            {
                self.state_answered(reason)?;
            }
            Incoming::PubAck(SCHEMA_ID, reason) if self.uplink.schemas.is_publishing() => {
                self.schema_answered(reason);
            }
            Incoming::PubAck(packet_id, reason) => {
                let verdict = self.uplink.session.acknowledged(packet_id, reason);
                self.judge(verdict, settled);
            }
            Incoming::PubRec(packet_id, reason) => {
                self.uplink.has_shown_qos_2 = true;
                let verdict = self.uplink.session.received(packet_id, reason);
                self.judge(verdict, settled);
            }
            Incoming::PubComp(packet_id) => {
                let verdict = self.uplink.session.completed(packet_id);
                self.judge(verdict, settled);
            }
            Incoming::PubRel(packet_id) => self.uplink.session.released(packet_id),
            Incoming::Publish(publish) => self.publish_here(publish).await?,
            Incoming::QuestionAck(granted) => self.question_granted(&granted)?,
            Incoming::SubAck(granted) => self.subscribed(&granted)?,
            Incoming::Disconnect(reason, what) => {
                return Err(LinkError::Closed {
                    what,
                    reason: Some(reason),
                });
            }
            Incoming::Accepted(_) | Incoming::Refused(..) => {
                return Err(LinkError::Broken("a second CONNACK".to_owned()));
            }
            Incoming::Unusable(packet_id, qos) => {
                self.uplink
                    .status
                    .unusable(self.uplink.settings.why_unusable());
                self.left_out(packet_id, qos)?;
            }
            Incoming::PingResp => {
                self.pinged = None;
                self.uplink.pace.reads();
                self.uplink.session.may_try_alone();
                self.nothing_more_retained()?;
            }
            Incoming::Other | Incoming::Written => {}
        }
        Ok(())
    }

    /// A message of a cloud, at its local topic.
    fn localized(&self, incoming: Incoming) -> Incoming {
        let Some(cloud) = &self.uplink.settings.cloud else {
            return incoming;
        };
        match incoming {
            Incoming::Publish(received) => {
                match cloud.topic_here(&received.topic, received.properties.clone()) {
                    Some((topic, properties)) => Incoming::Publish(Received {
                        topic,
                        properties,
                        ..received
                    }),
                    None => Incoming::Unusable(received.packet_id, received.qos),
                }
            }
            other => other,
        }
    }

    /// Hands a message to the local broker, under its local topic.
    async fn publish_here(&mut self, publish: Received) -> Result<(), LinkError> {
        if self.is_answer(&publish)? {
            return self.left_out(publish.packet_id, publish.qos);
        }
        let routes = Arc::clone(&self.uplink.routes.borrow());
        let Some(arrival) = routes.arrival(&publish.topic, || {
            publish.message(Origin::uplink(self.uplink.settings.index))
        }) else {
            return self.refuse(&publish, &routes);
        };
        let uplink = &mut *self.uplink;
        let Ok(topic) = arrival.topic else {
            uplink
                .status
                .unusable("the rule of `receive` makes no topic of it that is possible here");
            return self.left_out(publish.packet_id, publish.qos);
        };
        let is_new = |packet_id: PacketId| uplink.session.is_new(packet_id);
        if publish.qos == QoS::ExactlyOnce && !publish.packet_id.is_none_or(is_new) {
            return Ok(());
        }
        let matching = uplink.subscriptions.matching(&publish.topic);
        if uplink.copies.is_copy(&publish, matching, now()) {
            return self.left_out(publish.packet_id, publish.qos);
        }
        let mut here = Received {
            topic,
            retain: publish.retain && arrival.keeps_retained,
            ..publish
        };
        uplink.localize_response_topic(&mut here, &routes);
        uplink.hand_over(here).await;
        Ok(())
    }

    /// Drops a message that no `receive` rule takes.
    fn refuse(&mut self, publish: &Received, routes: &Routes) -> Result<(), LinkError> {
        tracing::debug!(event = "uplink.message_unasked", uplink = %self.uplink.settings.name, topic = %publish.topic, "no `receive` rule takes this message of the remote; it is dropped");
        if routes.inward(&publish.topic).is_none() {
            // Of a filter that is not in the file any more, or never asked for.
            self.end_stray(&publish.topic)?;
        }
        self.left_out(publish.packet_id, publish.qos)
    }

    fn judge(&mut self, verdict: AckOutcome, settled: &mut Vec<EntryId>) {
        self.uplink.pace.answered(&verdict, now());
        match verdict {
            AckOutcome::Delivered(place) => {
                tracing::debug!(event = "uplink.message_acknowledged", uplink = %self.uplink.settings.name, seq = place.seq, "message acknowledged");
                self.has_taken(place);
                if !self.uplink.session.has_refused() {
                    self.hold.reset();
                }
                settled.push(place);
            }
            AckOutcome::Refused {
                place,
                reason,
                message: Some(message),
            } => self.uplink.bury(place, message, reason.to_string()),
            AckOutcome::Refused {
                place,
                message: None,
                ..
            } => settled.push(place),
            AckOutcome::Later(_, reason) => {
                if reason == ReasonCode::PACKET_IDENTIFIER_IN_USE {
                    self.uplink.found_other_identifiers();
                }
                if self.hold_until.is_none() {
                    let pause = self.hold.next_delay();
                    self.uplink.status.held(&reason.to_string(), pause);
                    self.hold_until = Some(now() + pause);
                }
            }
            AckOutcome::AwaitingPubcomp => {}
            AckOutcome::Unknown => {
                tracing::debug!(event = "uplink.answer_unexpected", uplink = %self.uplink.settings.name, "the remote acknowledged a message that is not in flight; ignored");
            }
        }
    }

    /// A message of the remote that is not handed on is answered like the others.
    fn left_out(&mut self, packet_id: Option<PacketId>, qos: QoS) -> Result<(), LinkError> {
        let Some(packet_id) = packet_id else {
            return Ok(());
        };
        let is_exact = qos == QoS::ExactlyOnce;
        if is_exact && !self.uplink.session.is_new(packet_id) {
            return Ok(());
        }
        // The broker does not know it: it needs no number.
        let exact = is_exact.then_some(0);
        self.delivered(Delivery {
            packet_id,
            exact,
            is_safe: true,
        })
    }

    /// The broker has a message of the remote safe, or never will.
    pub(super) fn delivered(&mut self, delivery: Delivery) -> Result<(), LinkError> {
        let Delivery {
            packet_id,
            exact,
            is_safe,
        } = delivery;
        if !is_safe {
            return Ok(());
        }
        if let Some(number) = exact {
            self.uplink.session.taken(packet_id, number);
            return Ok(());
        }
        self.link.feed(Command::PubAck(packet_id)).map(drop)
    }
}

impl Uplink {
    async fn hand_over(&mut self, publish: Received) {
        self.status.counters.received.count();
        let bytes = publish.payload.len();
        tracing::debug!(event = "uplink.message_received", uplink = %self.settings.name, topic = %publish.topic, qos = ?publish.qos, bytes, "message received");
        let exact = publish
            .packet_id
            .filter(|_| publish.qos == QoS::ExactlyOnce)
            .map(|packet_id| self.session.inbound(packet_id, publish.is_repeated));
        self.deliveries.hand_over(publish, exact).await;
    }

    /// A response topic of the remote becomes the local one whose messages go there; without a
    /// `send` rule for it, it is left out.
    fn localize_response_topic(&self, publish: &mut Received, routes: &Routes) {
        let Some(there) = &publish.properties.response_topic else {
            return;
        };
        let local = routes.answers_to(there);
        if local.is_none() {
            tracing::debug!(event = "uplink.response_topic_dropped", uplink = %self.settings.name, response_topic = %there, "no `send` rule sends answers to this response topic: the message comes in without it");
        }
        publish.properties.edit().response_topic = local;
    }
}
