//! Messages that a sender repeats until it is told that they arrived, as the store that took them
//! knows them after a crash. Pure.
//!
//! ```text
//! 0xFF | how many | how many x (highest number that is written less that of the entry, source, packet identifier, receipt)
//! ```
//! Numbers are LEB128. Without any, and if what follows does not begin with 0xFF, nothing is
//! written.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use crate::leb128;

/// Hand-overs that a queue remembers: they share a record with the state of its user.
pub(super) const MOST_HANDOVERS: usize = 1000;
const MARK: u8 = 0xFF;

/// A message handed over by a sender that repeats it under the same packet identifier.
///
/// It is written in the commit of its entry and outlives the entry: until it is forgotten, a start
/// finds that this store has taken the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handover {
    /// The session that the sender has with this gateway.
    pub source: u64,
    /// The packet identifier; 0 is the will of the session.
    pub packet_id: u16,
    /// Grows from message to message, over all sources, also over a crash.
    pub receipt: u64,
}

/// Finds the hand-over in the bytes of an entry.
pub type FindHandover = fn(&Bytes) -> Option<Handover>;

impl Handover {
    /// Writes it.
    pub fn put(&self, out: &mut BytesMut) {
        leb128::put(self.source, out);
        leb128::put(u64::from(self.packet_id), out);
        leb128::put(self.receipt, out);
    }

    /// The inverse of [`Handover::put`]; what follows it stays in `bytes`.
    pub fn take(bytes: &mut Bytes) -> Option<Self> {
        Some(Self {
            source: leb128::take(bytes)?,
            packet_id: u16::try_from(leb128::take(bytes)?).ok()?,
            receipt: leb128::take(bytes)?,
        })
    }
}

/// The hand-overs of a queue, each with the number of its entry, from the oldest to the newest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Handovers(VecDeque<(u64, Handover)>);

impl Handovers {
    /// Adds the one of the newest entry. The oldest makes room for it.
    pub(super) fn push(&mut self, seq: u64, handover: Handover) {
        if self.0.len() >= MOST_HANDOVERS {
            self.0.pop_front();
        }
        self.0.push_back((seq, handover));
    }

    /// Forgets those of entries that are not there.
    pub(super) fn forget_entries(&mut self, first: u64, last: u64) {
        self.0.retain(|(seq, _)| !(first..=last).contains(seq));
    }

    /// Forgets the ones with these receipts, which are sorted. True if there were any.
    pub(super) fn forget(&mut self, sorted: &[u64]) -> bool {
        let before = self.0.len();
        self.0
            .retain(|(_, handover)| sorted.binary_search(&handover.receipt).is_err());
        self.0.len() < before
    }

    pub(super) fn list(&self) -> impl Iterator<Item = Handover> {
        self.0.iter().map(|(_, handover)| *handover)
    }

    /// Writes those of entries up to a number, and `rest` behind them.
    pub(super) fn encode(&self, written: u64, rest: &[u8], out: &mut BytesMut) {
        let known = self.0.iter().filter(|(seq, _)| *seq <= written);
        let count = known.clone().count();
        if count > 0 || rest.first() == Some(&MARK) {
            out.extend_from_slice(&[MARK]);
            leb128::put(count as u64, out);
        }
        for (seq, handover) in known {
            leb128::put(written - seq, out);
            handover.put(out);
        }
        out.extend_from_slice(rest);
    }

    /// The inverse of [`Handovers::encode`]; the rest stays in `bytes`.
    pub(super) fn decode(written: u64, bytes: &mut Bytes) -> Option<Self> {
        if bytes.first() != Some(&MARK) {
            return Some(Self::default());
        }
        bytes.advance(1);
        let count = usize::try_from(leb128::take(bytes)?).ok()?;
        let mut found = VecDeque::with_capacity(count.min(MOST_HANDOVERS));
        for _ in 0..count {
            let seq = written.checked_sub(leb128::take(bytes)?)?;
            found.push_back((seq, Handover::take(bytes)?));
        }
        Some(Self(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn handover(receipt: u64) -> Handover {
        Handover {
            source: 7,
            packet_id: 3,
            receipt,
        }
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn they_come_back_as_they_were_written(list in prop::collection::vec((any::<u64>(), any::<u16>(), any::<u64>()), 0..40), rest in prop::collection::vec(prop_oneof![Just(MARK), any::<u8>()], 0..5)) {
            let mut handovers = Handovers::default();
            for ((source, packet_id, receipt), seq) in list.into_iter().zip(500..) {
                handovers.push(seq, Handover { source, packet_id, receipt });
            }
            let mut out = BytesMut::new();
            handovers.encode(600, &rest, &mut out);
            let mut bytes = out.freeze();
            prop_assert_eq!(Handovers::decode(600, &mut bytes), Some(handovers));
            prop_assert_eq!(&bytes[..], &rest[..]);
        }

        #[test]
        fn damaged_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Handovers::decode(7, &mut [vec![MARK], bytes].concat().into());
        }
    }

    #[test]
    fn those_of_entries_that_are_not_written_yet_are_left_out() {
        let mut handovers = Handovers::default();
        for seq in 1..=4 {
            handovers.push(seq, handover(10 * seq));
        }
        assert!(handovers.forget(&[20]) && !handovers.forget(&[20]));
        let mut out = BytesMut::new();
        handovers.encode(3, b"state", &mut out);
        let mut found = Handovers::decode(3, &mut out.freeze()).unwrap();
        assert_eq!(
            found.list().collect::<Vec<_>>(),
            [handover(10), handover(30)]
        );
        found.forget_entries(2, 3);
        assert_eq!(found.list().collect::<Vec<_>>(), [handover(10)]);
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut handovers = Handovers::default();
        for seq in 0..=MOST_HANDOVERS as u64 {
            handovers.push(seq, handover(seq));
        }
        assert_eq!(handovers.list().next(), Some(handover(1)));
        assert_eq!(handovers.list().count(), MOST_HANDOVERS);
    }
}
