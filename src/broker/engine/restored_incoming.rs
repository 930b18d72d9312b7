//! QoS 2 messages on their way in, as the records tell, and what the outboxes have taken of them.

use super::SessionKey;
use super::qos_2_records::{InboundRecord, ReceivedProgress, ReceivedRecord};
use super::record::Record;
use super::restore::Restore;
use super::session::{Incoming, IncomingState, Rest};
use crate::mqtt::PacketId;
use crate::outbox::Handover;
use crate::route::Destination;

/// The hand-overs that the outboxes have, as they were found at the start.
#[derive(Debug, Clone, Default)]
pub struct FoundHandovers {
    /// By uplink.
    pub by_uplink: Vec<Vec<Handover>>,
    /// The journal of the broker was read whole: what is not in it was never written.
    pub is_journal_whole: bool,
}

impl Restore {
    /// A QoS 2 message. No record says which destinations may not have it: the outboxes do.
    fn incoming(&mut self, progress: ReceivedProgress) -> Incoming {
        let ReceivedProgress {
            is_held,
            is_delivered,
            receipt,
        } = progress;
        self.known_receipts.name(receipt);
        Incoming {
            state: if is_held {
                IncomingState::Partial(Rest {
                    missing: u64::MAX,
                    is_delivered,
                })
            } else {
                IncomingState::Received
            },
            connection: 0,
            receipt: if is_held { receipt } else { 0 },
        }
    }

    pub(super) fn received(&mut self, record: ReceivedRecord) {
        let ReceivedRecord {
            session: number,
            packet_id,
            progress,
        } = record;
        let incoming = self.incoming(progress);
        let Some((key, session)) = self.of(number) else {
            return;
        };
        let more = usize::from(!session.incoming.contains_key(&packet_id));
        if self.engine.charge_received(key, more).is_err() {
            self.left_out.received += 1;
        } else if let Some((_, session)) = self.of(number) {
            session.incoming.insert(packet_id, incoming);
        }
    }

    /// A message of a remote.
    pub(super) fn inbound(&mut self, record: InboundRecord) {
        let incoming = self.incoming(record.progress);
        self.engine.remotes.restore(record, incoming);
    }

    pub(super) fn freed(&mut self, number: u64, packet_id: PacketId) {
        self.engine.remotes.restore_freed(number, packet_id);
        if let Some((key, _)) = self.of(number) {
            self.engine.forget_received(key, packet_id);
        }
    }

    /// Takes over what the outboxes have. To be called when all batches are read.
    pub fn hand_over(&mut self, found: &FoundHandovers) {
        self.engine.doubts_restored = !found.is_journal_whole;
        let by_uplink = found.by_uplink.iter().enumerate();
        let mut all: Vec<(Handover, u64)> = by_uplink
            .flat_map(|(uplink, handovers)| {
                let bit = Destination::Uplink(uplink).bit();
                handovers.iter().map(move |handover| (*handover, bit))
            })
            .collect();
        // Of two under one packet identifier the newer one counts.
        all.sort_by_key(|(handover, _)| std::cmp::Reverse(handover.receipt));
        let last = all.first().map_or(0, |(handover, _)| handover.receipt);
        let last = last.max(self.known_receipts.last());
        self.engine.receipts.continue_from(last);
        let mut any_is_new = false;
        for (handover, bit) in all {
            let is_new = !self.known_receipts.knows(handover.receipt);
            any_is_new |= is_new;
            let is_unknown = is_new && found.is_journal_whole;
            if !self.has_taken(handover, bit, is_unknown) {
                self.engine.receipts.end(handover.receipt, 0);
            }
        }
        self.engine.receipts.durable(0);
        self.known_receipts.know_up_to(last);
        if any_is_new {
            // From here on they are known: they are for no later message.
            self.engine.records.put(Record::Receipts { last });
        }
    }

    /// A destination has taken a message. False if nobody will repeat it. `is_unknown` says that
    /// the records have never named it.
    fn has_taken(&mut self, handover: Handover, bit: u64, is_unknown: bool) -> bool {
        let Handover {
            source,
            packet_id,
            receipt,
        } = handover;
        if let Some(will) = self.late_wills.get_mut(&receipt) {
            will.missing &= !bit;
            return true;
        }
        let Some(packet_id) = PacketId::new(packet_id) else {
            return is_unknown && self.has_taken_will(source, receipt, bit);
        };
        if let Some(remote) = self.engine.remotes.of_source(source) {
            if note_taken(remote.incoming_mut(packet_id), receipt, bit) {
                return true;
            }
            let unknown = is_unknown.then(|| taken_only(receipt, bit));
            let record = unknown.and_then(|unknown| remote.restore_unknown(packet_id, unknown));
            let is_restored = record.is_some();
            record.map(|record| self.engine.records.put(Record::Inbound(record)));
            return is_restored;
        }
        let Some((key, session)) = self.of(source) else {
            return false;
        };
        let known = session.incoming.known();
        let known = known.and_then(|incoming| incoming.get_mut(&packet_id));
        note_taken(known, receipt, bit)
            || is_unknown && self.restore_unknown(key, packet_id, taken_only(receipt, bit))
    }

    /// A destination has the will of a session whose end is not in the records.
    fn has_taken_will(&mut self, source: u64, receipt: u64, bit: u64) -> bool {
        let session = self.of(source);
        let Some(will) = session.and_then(|(_, session)| session.will.as_mut()) else {
            return false;
        };
        will.receipt = receipt;
        will.missing &= !bit;
        true
    }

    /// A message of a session that no record names: only a destination has it. False if there is
    /// another one with its identifier.
    fn restore_unknown(&mut self, key: SessionKey, packet_id: PacketId, known: Incoming) -> bool {
        let session = self.engine.sessions.get(key);
        let is_free = session.is_some_and(|session| !session.incoming.contains_key(&packet_id));
        if !is_free || self.engine.charge_received(key, 1).is_err() {
            return false;
        }
        if let Some(session) = self.engine.sessions.get_mut(key) {
            session.incoming.insert(packet_id, known);
            // Before any later receipt is in the records.
            self.engine.records.put(Record::Received(ReceivedRecord {
                session: session.number,
                packet_id,
                progress: known.progress(),
            }));
        }
        true
    }
}

/// A message that only one destination has.
fn taken_only(receipt: u64, bit: u64) -> Incoming {
    let rest = Rest {
        missing: !bit,
        is_delivered: false,
    };
    Incoming::on_none(IncomingState::Partial(rest), receipt)
}

/// Notes that a destination has a message. False if it is another message, or every destination
/// has it.
fn note_taken(known: Option<&mut Incoming>, receipt: u64, bit: u64) -> bool {
    let known = known.filter(|known| known.receipt == receipt);
    let Some(IncomingState::Partial(rest)) = known.map(|known| &mut known.state) else {
        return false;
    };
    rest.missing &= !bit;
    true
}
