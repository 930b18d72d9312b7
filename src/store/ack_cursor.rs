//! The settled numbers: everything up to a low-water mark, and ranges above it. Pure.
//!
//! Invariant: the ranges are disjoint, do not touch each other, and lie above `low + 1`.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};

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

    /// Appends it to `out`, in at most 64 KiB + 12 bytes.
    pub fn encode(&self, out: &mut impl BufMut) {
        let kept = self.above.len().min(MAX_RANGES_ON_DISK);
        out.put_u64(self.low);
        out.put_u32(u32::try_from(kept).unwrap_or(0));
        for (first, last) in self.above.iter().take(kept) {
            out.put_u64(*first);
            out.put_u64(*last);
        }
    }

    /// The inverse of [`AckCursor::encode`]; `None` for bytes that are no cursor.
    pub fn decode(bytes: &mut Bytes) -> Option<Self> {
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
                let mut bytes = Vec::new();
                cursor.encode(&mut bytes);
                prop_assert_eq!(AckCursor::decode(&mut bytes.into()), Some(cursor.clone()));
            }
        }
    }
}
