//! The hand-overs of a journal.

use bytes::Bytes;

use super::Journal;
use crate::store::StoreError;
use crate::store::handover::{Handover, Handovers};

/// Entries that one read brings while hand-overs are looked for.
const READ_ENTRIES: usize = 256;
const READ_BYTES: usize = 1 << 20;

impl Journal {
    /// The hand-overs as of the last commit or [`Journal::set_handovers`].
    pub(in crate::store) fn handovers(&self) -> &Handovers {
        &self.record.handovers
    }

    /// Replaces the hand-overs. Those that are new are durable with the commit of their entries.
    pub(in crate::store) fn set_handovers(&mut self, handovers: Handovers) {
        self.record.handovers = handovers;
    }

    /// Finds the hand-overs of entries that a commit wrote without finishing, and makes them
    /// durable. To be called once, before anything is appended.
    pub(in crate::store) fn recover_handovers(
        &mut self,
        handover: fn(&Bytes) -> Option<Handover>,
    ) -> Result<(), StoreError> {
        let mut after = self.recorded;
        while after < self.record.written {
            let entries = self.read(after, READ_ENTRIES, READ_BYTES)?;
            let Some(last) = entries.last() else { break };
            after = last.seq;
            for entry in &entries {
                if let Some(found) = handover(&entry.bytes) {
                    self.record.handovers.push(entry.seq, found);
                    self.is_saved = false;
                }
            }
        }
        self.save()
    }
}
