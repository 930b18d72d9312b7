//! Messages to destinations inside the gateway, which store them, and say so before the sender gets
//! its acknowledgement.

use std::sync::Arc;
use std::time::Instant;

use super::held::{ForwardAnswer, ForwardRefusals, HeldFor, HeldPublish};
use super::publish::ReceivedPublish;
use super::session::{IncomingState, Rest};
use super::{Client, Engine, Output, Ticket};
use crate::message::Message;
use crate::mqtt::QoS;
use crate::outbox::Handover;
use crate::route::{DESTINATION_BITS, RouteTarget};

impl Engine {
    /// Hands a message to these targets. The ticket is there if something waits until the
    /// destinations have stored it.
    pub(super) fn forward(
        &mut self,
        targets: Vec<RouteTarget>,
        message: Message,
        held: Option<HeldFor>,
    ) -> Option<Ticket> {
        if targets.is_empty() {
            return None;
        }
        let number = held
            .filter(|_| message.qos != QoS::AtMostOnce)
            .map(|waiter| {
                let destinations = targets.iter().map(|target| target.to().bit());
                self.held
                    .hold(waiter, destinations.fold(0, |bits, bit| bits | bit))
            });
        let handover = number.and_then(|_| held?.handover());
        let message = Arc::new(message.detached());
        for target in targets {
            let target = target.handed_over(handover);
            let ticket =
                number.map(|number| number << DESTINATION_BITS | target.to().number() as Ticket);
            self.outputs.push(Output::Forward {
                target,
                message: Arc::clone(&message),
                ticket,
            });
        }
        number
    }

    /// A destination has stored a message, or refused it.
    pub(super) fn stored(&mut self, ticket: Ticket, answer: ForwardAnswer, now: Instant) {
        let (number, bit) = (ticket >> DESTINATION_BITS, 1_u64 << (ticket & 63));
        let Some((waiter, refusals)) = self.held.note(number, bit, answer) else {
            return;
        };
        match waiter {
            HeldFor::Inbound(inbound) => self.inbound_stored(number, inbound, refusals),
            HeldFor::Will(will) => self.will_stored(will.number, refusals.full(), now),
            HeldFor::Session(publish) => {
                // The session may have ended meanwhile, and its key be another one's.
                let session = self.sessions.get(publish.key);
                if session.is_some_and(|session| session.number == publish.number) {
                    self.all_answered(number, publish, refusals, now);
                } else {
                    self.end_handover(publish.handover);
                }
            }
        }
    }

    /// Nobody repeats a message any more.
    fn end_handover(&mut self, handover: Option<Handover>) {
        let receipt = handover.map_or(0, |handover| handover.receipt);
        self.receipts.end(receipt, self.records.newest());
    }

    /// Every destination has a message of a client, or some refused it: it can be acknowledged.
    fn all_answered(
        &mut self,
        ticket: Ticket,
        publish: HeldPublish,
        refusals: ForwardRefusals,
        now: Instant,
    ) {
        let HeldPublish {
            key,
            packet_id,
            handover,
            ..
        } = publish;
        let mut after = 0;
        let waits = self
            .sessions
            .get(key)
            .filter(|_| publish.is_qos_2)
            .and_then(|session| session.incoming.get(&packet_id))
            .copied();
        if let Some(incoming) = waits.filter(|known| known.state == IncomingState::Held(ticket)) {
            let received = ReceivedPublish {
                client: Client {
                    connection: incoming.connection,
                    session: key,
                },
                packet_id,
                is_qos_2: true,
            };
            let state = match refusals.all() {
                0 => IncomingState::Received,
                missing => IncomingState::Partial(Rest::to_destinations(missing)),
            };
            after = self.remember_incoming(received, state, incoming.receipt);
        } else {
            self.end_handover(handover);
        }
        let Some(id) = self.connection_of(key) else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.acks.ready(ticket, refusals.outcome(), after);
        }
        self.send_ready_acks(id, now);
        self.pace(id, now);
    }
}
