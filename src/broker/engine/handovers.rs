//! Hand-overs: how a start knows which outboxes have taken a message that its sender repeats.
//!
//! Two journals commit apart: that of the broker says who has published what, that of an outbox
//! holds the message. A message of a sender that survives a crash goes to outboxes with a receipt,
//! which each of them writes in the commit of the message. It forgets the receipt when the journal
//! of the broker says durably that all of them have the message, or that the sender is gone.
//!
//! Invariant: receipts grow from message to message, over a crash too. Those above the highest one
//! in the journal of the broker belong to messages that this journal does not know.

use std::collections::VecDeque;

use super::{Engine, Lsn};
use crate::outbox::Handover;

/// The receipts that were drawn, and those that outboxes may forget.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    last: u64,
    /// With the batch that has to be durable first, in the order of the batches.
    ending: VecDeque<(Lsn, u64)>,
    ended: Vec<u64>,
}

impl Receipts {
    /// A new one.
    pub(super) fn draw(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The last one that was drawn.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Draws from above `last` from here on.
    pub(super) fn continue_from(&mut self, last: u64) {
        self.last = self.last.max(last);
    }

    /// A receipt is not needed any more once the batch `after` is durable; 0 is no receipt.
    pub(super) fn end(&mut self, receipt: u64, after: Lsn) {
        if receipt != 0 {
            let place = self.ending.partition_point(|(other, _)| *other <= after);
            self.ending.insert(place, (after, receipt));
        }
    }

    /// The batches up to `position` are durable.
    pub(super) fn durable(&mut self, position: Lsn) {
        while let Some((_, receipt)) = self.ending.pop_front_if(|(after, _)| *after <= position) {
            self.ended.push(receipt);
        }
    }

    /// Panics if they are not in the order of their batches, or were never drawn. For tests.
    pub(super) fn check_invariants(&self) {
        assert!(
            self.ending.iter().is_sorted_by_key(|(after, _)| after),
            "receipts in the order of their batches"
        );
        assert!(
            self.ending.iter().all(|(_, receipt)| *receipt <= self.last),
            "receipts that were drawn"
        );
    }
}

impl Engine {
    /// The hand-over of a message whose sender the journal knows, with the receipt that it has
    /// already if it has one.
    pub(super) fn handover(
        &mut self,
        source: u64,
        packet_id: u16,
        receipt: u64,
    ) -> Option<Handover> {
        self.records.is_on().then(|| Handover {
            source,
            packet_id,
            receipt: match receipt {
                0 => self.receipts.draw(),
                known => known,
            },
        })
    }

    /// The receipts that outboxes may forget, since the last call.
    pub fn take_ended_receipts(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.receipts.ended)
    }
}
