//! Messages of remote brokers. Those at QoS 2 are remembered from when they are handed in until
//! their uplink remembers them itself.
//!
//! An uplink acknowledges a message of its remote when the message is safe here and its own memory
//! of it is durable. A crash in between makes the remote repeat a message that the broker has: it
//! is known here by its packet identifier, and goes only where it is missing.
//!
//! Invariant: messages of a remote have numbers that grow. Those up to the number that the uplink
//! names as known are forgotten: their packet identifiers may come again with other messages.

use std::time::Instant;

use super::held::{ForwardRefusals, HeldFor, HeldInbound};
use super::qos_2_records::InboundRecord;
use super::record::Record;
use super::session::{Incoming, IncomingState, Rest};
use super::{ByNumber, Engine, Lsn, Output, Ticket};
use crate::message::{ExactInbound, Message, Origin};
use crate::mqtt::PacketId;
use crate::outbox::Handover;

/// The number of a message of which only an outbox knows. Its uplink will say its own.
const UNKNOWN: u64 = u64::MAX;

/// A message, and its number.
#[derive(Debug)]
struct Numbered {
    number: u64,
    incoming: Incoming,
}

/// The messages of one remote.
#[derive(Debug, Default)]
pub(super) struct RemoteMessages {
    /// Names its uplink in records.
    source: u64,
    messages: ByNumber<PacketId, Numbered>,
}

impl RemoteMessages {
    pub(super) fn incoming_mut(&mut self, packet_id: PacketId) -> Option<&mut Incoming> {
        let numbered = self.messages.get_mut(&packet_id);
        numbered.map(|numbered| &mut numbered.incoming)
    }

    /// Adds a message of which the journal has never heard. False if there is another one with its
    /// identifier.
    pub(super) fn restore_unknown(&mut self, packet_id: PacketId, incoming: Incoming) -> bool {
        let is_free = !self.messages.contains_key(&packet_id);
        if is_free {
            let number = UNKNOWN;
            self.messages
                .insert(packet_id, Numbered { number, incoming });
        }
        is_free
    }

    /// Forgets the messages up to a number; returns their receipts.
    fn forget(&mut self, known: u64) -> Vec<u64> {
        let forgotten = self
            .messages
            .extract_if(|_, message| message.number <= known);
        forgotten
            .map(|(_, message)| message.incoming.receipt)
            .collect()
    }
}

/// The messages of all remotes, by uplink.
#[derive(Debug, Default)]
pub(super) struct Remotes(Vec<RemoteMessages>);

impl Remotes {
    /// Those of uplinks with these names in records.
    pub(super) fn new(sources: Vec<u64>) -> Self {
        let remote = |source| RemoteMessages {
            source,
            ..RemoteMessages::default()
        };
        Self(sources.into_iter().map(remote).collect())
    }

    pub(super) fn of_source(&mut self, source: u64) -> Option<&mut RemoteMessages> {
        self.0.iter_mut().find(|remote| remote.source == source)
    }

    fn of(&mut self, origin: Origin) -> Option<&mut RemoteMessages> {
        match origin {
            Origin::Uplink(index) => self.0.get_mut(index),
            Origin::Field | Origin::Client | Origin::Own => None,
        }
    }

    /// As a record says.
    pub(super) fn restore(&mut self, source: u64, exact: ExactInbound, incoming: Incoming) {
        if let Some(remote) = self.of_source(source) {
            remote.forget(exact.known);
            let number = exact.number;
            remote
                .messages
                .insert(exact.packet_id, Numbered { number, incoming });
        }
    }

    /// Writes all of them.
    pub(super) fn record(&self, mut put: impl FnMut(Record<'_>)) {
        for remote in &self.0 {
            for (packet_id, Numbered { number, incoming }) in &remote.messages {
                let exact = ExactInbound {
                    packet_id: *packet_id,
                    number: *number,
                    known: 0,
                    is_repeated: false,
                };
                put(record(remote.source, exact, *incoming));
            }
        }
    }
}

fn record(source: u64, exact: ExactInbound, incoming: Incoming) -> Record<'static> {
    Record::Inbound(InboundRecord {
        source,
        exact,
        progress: incoming.progress(),
    })
}

impl Engine {
    /// A message of a remote broker: it is safe when it is durable and every destination has it.
    /// `exact` is there at QoS 2.
    pub(super) fn inbound(
        &mut self,
        reply: u64,
        message: Message,
        exact: Option<ExactInbound>,
        now: Instant,
    ) {
        let origin = message.origin;
        let known = exact.and_then(|exact| self.known_inbound(origin, exact));
        let (rest, receipt) = match known.map(|known| (known.state, known.receipt)) {
            None => (Rest::ALL, 0),
            Some((IncomingState::Partial(rest), receipt)) => (rest, receipt),
            Some((IncomingState::Received, _)) => {
                return self.promise(reply, self.records.newest());
            }
            Some((IncomingState::Held(ticket), _)) => return self.wait_instead(ticket, reply),
        };
        let waiter = HeldInbound {
            reply,
            after: 0,
            origin,
            exact,
            handover: exact.and_then(|exact| self.inbound_handover(origin, exact, receipt)),
        };
        let held = Some(HeldFor::Inbound(waiter));
        let (ticket, reached) = self.route(message, None, held, rest, now);
        let state = ticket.map_or(IncomingState::Received, IncomingState::Held);
        let is_receipt_used = ticket.is_some() || receipt != 0;
        let receipt = waiter.receipt().filter(|_| is_receipt_used).unwrap_or(0);
        let mut after = reached.after;
        if let Some(exact) = exact {
            after = after.max(self.remember_inbound(origin, exact, state, receipt));
        }
        let held = ticket.and_then(|ticket| self.held.get_mut(&ticket));
        match held.map(|held| &mut held.waiter) {
            Some(HeldFor::Inbound(waiter)) => waiter.after = after,
            _ => self.promise(reply, after),
        }
    }

    /// What is known of a message that may be a repetition. One that is sent for the first time is
    /// none, whatever its packet identifier.
    fn known_inbound(&mut self, origin: Origin, exact: ExactInbound) -> Option<Incoming> {
        let newest = self.records.newest();
        let remote = self.remotes.of(origin)?;
        for receipt in remote.forget(exact.known) {
            self.receipts.end(receipt, newest);
        }
        if exact.is_repeated {
            return remote.incoming_mut(exact.packet_id).copied();
        }
        if let Some(other) = remote.messages.remove(&exact.packet_id) {
            self.receipts.end(other.incoming.receipt, newest);
        }
        None
    }

    /// The hand-over of a message of a remote, with the receipt that it has already if it has one.
    fn inbound_handover(
        &mut self,
        origin: Origin,
        exact: ExactInbound,
        receipt: u64,
    ) -> Option<Handover> {
        let source = self.remotes.of(origin)?.source;
        self.handover(source, exact.packet_id.get(), receipt)
    }

    /// Remembers a QoS 2 message of a remote. Returns the batch that says so.
    fn remember_inbound(
        &mut self,
        origin: Origin,
        exact: ExactInbound,
        state: IncomingState,
        receipt: u64,
    ) -> Lsn {
        let Some(remote) = self.remotes.of(origin) else {
            return 0;
        };
        let mut incoming = Incoming {
            state,
            connection: 0,
            receipt,
        };
        let after = self.records.put(record(remote.source, exact, incoming));
        if state == IncomingState::Received {
            self.receipts.end(receipt, after);
            incoming.receipt = 0;
        }
        let number = exact.number;
        remote
            .messages
            .insert(exact.packet_id, Numbered { number, incoming });
        after
    }

    /// The repetition of a message that waits for its destinations takes the place of the first.
    fn wait_instead(&mut self, ticket: Ticket, reply: u64) {
        let held = self.held.get_mut(&ticket);
        if let Some(HeldFor::Inbound(waiter)) = held.map(|held| &mut held.waiter) {
            let earlier = std::mem::replace(&mut waiter.reply, reply);
            self.outputs.push(Output::NotSafe(earlier));
        }
    }

    /// Every destination has a message of a remote, or some refused it.
    pub(super) fn inbound_stored(
        &mut self,
        ticket: Ticket,
        waiter: HeldInbound,
        refusals: ForwardRefusals,
    ) {
        let HeldInbound {
            reply,
            mut after,
            origin,
            exact,
            ..
        } = waiter;
        let remote = self.remotes.of(origin);
        let known = exact
            .zip(remote)
            .and_then(|(exact, remote)| remote.incoming_mut(exact.packet_id))
            .filter(|known| known.state == IncomingState::Held(ticket));
        match (known, exact, refusals.all()) {
            (Some(known), Some(exact), 0) => {
                let receipt = known.receipt;
                let state = IncomingState::Received;
                after = after.max(self.remember_inbound(origin, exact, state, receipt));
            }
            (Some(known), _, missing) => {
                known.state = IncomingState::Partial(Rest::to_destinations(missing));
            }
            _ => {
                let newest = self.records.newest();
                self.receipts.end(waiter.receipt().unwrap_or(0), newest);
            }
        }
        if refusals.all() == 0 {
            self.promise(reply, after);
        } else {
            self.outputs.push(Output::NotSafe(reply));
        }
    }

    /// Says that a message of a remote is safe when the batch `after` is durable.
    fn promise(&mut self, reply: u64, after: Lsn) {
        if after <= self.durable {
            self.outputs.push(Output::Safe(reply));
        } else {
            let place = self.inbound.partition_point(|(other, _)| *other <= after);
            self.inbound.insert(place, (after, reply));
        }
    }
}
