//! The settled numbers: everything up to a low-water mark, and ranges above it. Pure.
//!
//! Invariant: the ranges are disjoint, do not touch each other, and lie above `low + 1`.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};

use crate::leb128;

/// Ranges kept on disk; ranges beyond that count as unsettled after a crash and are delivered
/// again.
const MAX_RANGES_ON_DISK: usize = 4096;

/// The settled part of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AckCursor {
    low: u64,
    /// first -> last, inclusive.
    above: BTreeMap<u64, u64>,
}

impl AckCursor {
    /// Every sequence number up to this one is settled.
    pub fn low(&self) -> u64 {
        self.low
    }

    /// True if `seq` is settled.
    pub fn is_settled(&self, seq: u64) -> bool {
        seq <= self.low
            || self
                .above
                .range(..=seq)
                .next_back()
                .is_some_and(|(_, last)| seq <= *last)
    }

    /// How many numbers in `first..=last` are not settled.
    pub fn unsettled_in(&self, first: u64, last: u64) -> u64 {
        let first = first.max(self.low + 1);
        if first > last {
            return 0;
        }
        let settled: u64 = self
            .above
            .range(..=last)
            .map(|(from, to)| (*to.min(&last) + 1).saturating_sub(*from.max(&first)))
            .sum();
        last - first + 1 - settled
    }

    /// The runs in `first..=last` that are not settled.
    pub fn holes_in(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut holes = Vec::new();
        let mut next = first.max(self.low + 1);
        for (from, to) in self.above.range(..=last) {
            if *from > next {
                holes.push((next, from - 1));
            }
            next = next.max(to + 1);
        }
        if next <= last {
            holes.push((next, last));
        }
        holes
    }

    /// Marks `first..=last` as settled.
    pub fn settle(&mut self, first: u64, last: u64) {
        let mut first = first.max(self.low + 1);
        let mut last = last;
        if first > last {
            return;
        }
        if let Some((from, to)) = self
            .above
            .range(..=first)
            .next_back()
            .map(|(f, t)| (*f, *t))
            && to + 1 >= first
        {
            first = from;
            last = last.max(to);
            self.above.remove(&from);
        }
        while let Some((from, to)) = self.above.range(first..).next().map(|(f, t)| (*f, *t))
            && from <= last + 1
        {
            last = last.max(to);
            self.above.remove(&from);
        }
        if first == self.low + 1 {
            self.low = last;
        } else {
            self.above.insert(first, last);
        }
    }

    /// Appends it to `out`: the mark, how many ranges there are, and for each how far it begins
    /// behind what comes before it, and its length. LEB128, at most 64 KiB.
    pub fn encode(&self, out: &mut BytesMut) {
        let kept = self.above.len().min(MAX_RANGES_ON_DISK);
        leb128::put(self.low, out);
        leb128::put(kept as u64, out);
        let mut before = self.low;
        for (first, last) in self.above.iter().take(kept) {
            leb128::put(first - before, out);
            leb128::put(last - first, out);
            before = *last;
        }
    }

    /// The inverse of [`AckCursor::encode`]; `None` for bytes that are no cursor.
    pub fn decode(bytes: &mut Bytes) -> Option<Self> {
        let mut cursor = Self {
            low: leb128::take(bytes)?,
            above: BTreeMap::new(),
        };
        let mut before = cursor.low;
        for _ in 0..leb128::take(bytes)? {
            let first = before.checked_add(leb128::take(bytes)?)?;
            let last = first.checked_add(leb128::take(bytes)?)?;
            // Nothing lies behind the last number there is.
            before = Some(last).filter(|last| *last < u64::MAX)?;
            cursor.settle(first, last);
        }
        Some(cursor)
    }

    /// From the bytes of a version before 3: low 8, count 4, count x (first 8, last 8).
    pub fn decode_early(bytes: &mut Bytes) -> Option<Self> {
        let mut cursor = Self {
            low: bytes.try_get_u64().ok()?,
            above: BTreeMap::new(),
        };
        for _ in 0..bytes.try_get_u32().ok()? {
            let (first, last) = (bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
            cursor.settle(first, last);
        }
        Some(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn it_behaves_like_a_set_of_numbers(steps in prop::collection::vec((1_u64..60, 0_u64..5), 0..60)) {
            let mut cursor = AckCursor::default();
            let mut model = BTreeSet::new();
            for (first, more) in steps {
                cursor.settle(first, first + more);
                model.extend(first..=first + more);
                for seq in 1..70 {
                    prop_assert_eq!(cursor.is_settled(seq), model.contains(&seq));
                }
                let low = (1..).take_while(|seq| model.contains(seq)).count() as u64;
                prop_assert_eq!(cursor.low(), low);
                prop_assert_eq!(cursor.unsettled_in(5, 40), (5..=40).filter(|seq| !model.contains(seq)).count() as u64);
                let holes: u64 = cursor.holes_in(5, 40).iter().map(|(first, last)| last - first + 1).sum();
                prop_assert_eq!(holes, cursor.unsettled_in(5, 40));
                prop_assert!(cursor.holes_in(5, 40).iter().all(|(first, last)| (*first..=*last).all(|seq| !model.contains(&seq))));
                let mut bytes = BytesMut::new();
                cursor.encode(&mut bytes);
                prop_assert_eq!(AckCursor::decode(&mut bytes.freeze()), Some(cursor.clone()));
            }
        }
    }
}
