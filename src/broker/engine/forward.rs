//! Messages to taps: consumers inside the gateway that store them, and say so before the sender
//! gets its acknowledgement.

use std::sync::Arc;
use std::time::Instant;

use super::publish::ReceivedPublish;
use super::session::IncomingState;
use super::taps::{HeldFor, HeldMessage, HeldPublish, TAP_BITS, TapAnswer, TapRefusals, tap_bit};
use super::{Client, Engine, Output, Ticket};
use crate::message::{Message, Origin};
use crate::mqtt::QoS;

impl Engine {
    /// Hands a message to these taps, but the one it came from. The ticket is there if something
    /// waits until they have stored it.
    pub(super) fn forward(
        &mut self,
        taps: &[usize],
        message: Message,
        held: Option<HeldFor>,
    ) -> Option<Ticket> {
        // Field readings reach the outbox on their own way; of the `$` topics only those of the
        // gateway may leave.
        let stays = message.topic.is_reserved() && !message.is_status();
        if stays || message.origin == Origin::Field {
            return None;
        }
        let wants = |index: &usize| {
            self.taps
                .get(*index)
                .is_some_and(|tap| tap.not_from != message.origin)
        };
        let taps: Vec<usize> = taps.iter().copied().filter(wants).collect();
        if taps.is_empty() {
            return None;
        }
        let number = held
            .filter(|_| message.qos != QoS::AtMostOnce)
            .map(|waiter| {
                self.next_ticket += 1;
                let held = HeldMessage {
                    waiter,
                    waiting: taps.iter().fold(0, |bits, tap| bits | tap_bit(*tap)),
                    refusals: TapRefusals::default(),
                };
                self.held.insert(self.next_ticket, held);
                self.next_ticket
            });
        let message = Arc::new(message.detached());
        for tap in taps {
            self.outputs.push(Output::Forward {
                tap,
                message: message.clone(),
                ticket: number.map(|number| number << TAP_BITS | tap.min(63) as u64),
            });
        }
        number
    }

    /// A tap has stored a message, or refused it.
    pub(super) fn stored(&mut self, ticket: Ticket, answer: TapAnswer, now: Instant) {
        let (number, bit) = (ticket >> TAP_BITS, 1_u64 << (ticket & 63));
        let Some(held) = self.held.get_mut(&number) else {
            return;
        };
        held.waiting &= !bit;
        held.refusals.note(bit, answer);
        if held.waiting != 0 {
            return;
        }
        let (waiter, refusals) = (held.waiter, held.refusals);
        self.held.remove(&number);
        match waiter {
            HeldFor::Inbound { receipt, .. } if refusals.taps() != 0 => {
                self.outputs.push(Output::NotSafe(receipt));
            }
            HeldFor::Inbound { receipt, after } => self.promise(receipt, after),
            HeldFor::Will { number } => self.will_stored(number, refusals.full(), now),
            HeldFor::Session(publish) => {
                // The session may have ended meanwhile, and its key be another one's.
                let session = self.sessions.get(publish.key);
                if session.is_some_and(|session| session.number == publish.number) {
                    self.all_taps_answered(number, publish, refusals, now);
                }
            }
        }
    }

    /// Every tap has a message of a client, or some refused it: it can be acknowledged.
    fn all_taps_answered(
        &mut self,
        ticket: Ticket,
        publish: HeldPublish,
        refusals: TapRefusals,
        now: Instant,
    ) {
        let HeldPublish { key, packet_id, .. } = publish;
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
            let state = match refusals.taps() {
                0 => IncomingState::Received,
                taps => IncomingState::Refused { taps },
            };
            after = self.remember_incoming(received, state);
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
