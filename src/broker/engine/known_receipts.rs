//! The receipts that the records of a start know.
//!
//! A checkpoint ends with the last receipt that was drawn: all up to it are known. Until then a
//! receipt is known only if it was named. A checkpoint that a crash interrupts after the disk had
//! refused batches names some receipts and not those between them.

use std::collections::HashSet;

/// Receipts that records have named, whether or not they are still needed.
#[derive(Debug, Default)]
pub(super) struct KnownReceipts {
    up_to: u64,
    named: HashSet<u64>,
    last: u64,
}

impl KnownReceipts {
    /// A record names it; 0 is no receipt.
    pub(super) fn name(&mut self, receipt: u64) {
        self.last = self.last.max(receipt);
        if receipt > self.up_to {
            self.named.insert(receipt);
        }
    }

    /// All up to `last` are known.
    pub(super) fn know_up_to(&mut self, last: u64) {
        self.up_to = self.up_to.max(last);
        self.last = self.last.max(last);
        self.named.retain(|receipt| *receipt > last);
    }

    /// True if a record has named it.
    pub(super) fn knows(&self, receipt: u64) -> bool {
        receipt <= self.up_to || self.named.contains(&receipt)
    }

    /// The highest one.
    pub(super) fn last(&self) -> u64 {
        self.last
    }
}
