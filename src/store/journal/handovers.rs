//! The hand-overs of a journal.

use super::Journal;
use crate::store::handover::Handovers;

impl Journal {
    /// The hand-overs as of the last commit or [`Journal::set_handovers`].
    pub(in crate::store) fn handovers(&self) -> &Handovers {
        &self.record.handovers
    }

    /// Replaces the hand-overs. Those that are new are durable with the commit of their entries.
    pub(in crate::store) fn set_handovers(&mut self, handovers: Handovers) {
        self.record.handovers = handovers;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;

    use super::*;
    use crate::store::chunk::Chunk;
    use crate::store::emergency_reserve::EmergencyReserve;
    use crate::store::handover::Handover;
    use crate::store::journal::JournalTerms;
    use crate::store::{Entry, PartitionBytes, purge};

    fn handover(entry: &Bytes) -> Option<Handover> {
        Handover::take(&mut entry.clone())
    }

    fn open(folder: &Path) -> Journal {
        let terms = JournalTerms {
            reserve: EmergencyReserve::of(folder),
            handover,
        };
        Journal::open_with(folder, PartitionBytes::of(0), &terms).unwrap()
    }

    /// Writes an entry as a commit does that a power cut tears: the record does not know of it.
    fn write_unfinished(journal: &mut Journal, handover: Handover) {
        let mut bytes = bytes::BytesMut::new();
        handover.put(&mut bytes);
        let entry = Entry {
            seq: journal.next_seq(),
            bytes: bytes.freeze(),
        };
        let chunks = Chunk::split(&[entry]);
        let record = &journal.record;
        journal.tail_partition.commit(&chunks, record).unwrap();
    }

    #[test]
    fn those_of_an_unfinished_commit_outlive_further_power_cuts_and_a_purge() {
        let folder = tempfile::tempdir().unwrap();
        let queue = folder.path().join("live");
        let found = |receipt| Handover {
            source: 5,
            packet_id: 9,
            receipt,
        };
        write_unfinished(&mut open(&queue), found(1));
        // Nothing is committed before the next cut.
        write_unfinished(&mut open(&queue), found(2));
        let removed = purge(folder.path(), "live", handover, |_| {}).unwrap();
        assert_eq!(removed, 2);
        let journal = open(&queue);
        let list: Vec<Handover> = journal.handovers().list().collect();
        assert_eq!(list, [found(1), found(2)]);
    }
}
