//! Where a device refuses to be read on, and how that is found out. Pure.
//!
//! A request that is refused although it covers several fields is cut at its widest gap; the halves are read alone from then on. What
//! is learned of refused addresses is kept over restarts for the same map of registers; what was learned from silence only for an
//! hour, because a device may have been busy.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::plan::Block;
use crate::field::decode::Table;
use crate::reading::PointId;

/// How often a point is tried that the device does not have.
pub(super) const RETRY_UNSUPPORTED: Duration = Duration::from_secs(3600);
/// Refusals and silences in a row, of a request while others are answered, until it is cut.
const STRIKES: u32 = 2;

/// A place that no request may cross: none begins before `start` and ends behind `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    /// `holding`, `input`, `coil` or `discrete`.
    pub table: Table,
    /// The first address that nothing needs.
    pub start: u32,
    /// The first address behind it that something needs.
    pub end: u32,
}

/// What is known of one device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Barriers {
    kept: Vec<Barrier>,
    /// With when they are forgotten.
    trial: Vec<(Barrier, Instant)>,
    unsupported: Vec<PointId>,
    strikes: HashMap<(Table, u16), u32>,
}

/// Why a request brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Exception 2 or 3: some address of it does not exist.
    Address,
    /// Another exception, silence, or garbage.
    Other,
}

impl Barriers {
    /// What the YAML or an earlier run knows.
    pub fn known(kept: Vec<Barrier>) -> Self {
        Self { kept, ..Self::default() }
    }

    /// What is to be known by the next run.
    pub fn to_keep(&self) -> &[Barrier] {
        &self.kept
    }

    /// True if a request would run over a barrier.
    pub(super) fn crosses(&self, table: Table, start: u32, end: u32) -> bool {
        let all = self.kept.iter().chain(self.trial.iter().map(|(barrier, _)| barrier));
        all.into_iter().any(|barrier| barrier.table == table && start < barrier.start && end > barrier.end)
    }

    pub(super) fn is_unsupported(&self, point: PointId) -> bool {
        self.unsupported.contains(&point)
    }

    /// A request was answered: what was held against it is forgotten. True if the plan changes.
    pub(super) fn answered(&mut self, block: &Block) -> bool {
        self.strikes.remove(&(block.table, block.start));
        let before = self.unsupported.len();
        self.unsupported.retain(|point| !block.points.iter().any(|read| read.id == *point));
        self.unsupported.len() != before
    }

    /// A request failed while its device lives. True if the plan changes.
    pub(super) fn failed(&mut self, block: &Block, failure: Failure, now: Instant) -> bool {
        if failure == Failure::Other {
            let strikes = self.strikes.entry((block.table, block.start)).or_default();
            *strikes += 1;
            if *strikes < STRIKES {
                return false;
            }
            *strikes = 0;
        }
        let Some((start, end)) = widest_gap(block) else {
            // One field: nothing to cut. The device does not have it.
            let new: Vec<PointId> = block.points.iter().map(|point| point.id).filter(|id| !self.is_unsupported(*id)).collect();
            let is_new = failure == Failure::Address && !new.is_empty();
            if is_new {
                self.unsupported.extend(new);
            }
            return is_new;
        };
        let barrier = Barrier { table: block.table, start, end };
        match failure {
            Failure::Address => self.kept.push(barrier),
            Failure::Other => self.trial.push((barrier, now + RETRY_UNSUPPORTED)),
        }
        true
    }

    /// Forgets what was learned from silence. True if the plan changes.
    pub(super) fn forget(&mut self, now: Instant) -> bool {
        let before = self.trial.len();
        self.trial.retain(|(_, until)| *until > now);
        self.trial.len() != before
    }
}

/// The widest gap between the fields of a block, from the end of one to the beginning of the next; `None` if there is one field.
fn widest_gap(block: &Block) -> Option<(u32, u32)> {
    let mut spans: Vec<(u32, u32)> = block
        .points
        .iter()
        .map(|point| {
            let registers = [Some(&point.register), point.exponent.as_ref()];
            let span = registers.into_iter().flatten().map(|register| {
                let start = u32::from(register.address);
                (start, start + u32::from(register.width()))
            });
            span.fold((u32::MAX, 0), |all, one| (all.0.min(one.0), all.1.max(one.1)))
        })
        .collect();
    spans.sort_unstable();
    let mut widest: Option<(u32, u32)> = None;
    let mut reached = spans.first()?.1;
    let middle = u32::from(block.start) + u32::from(block.count) / 2;
    for (start, end) in spans.into_iter().skip(1) {
        if start >= reached {
            let gap = (reached, start);
            // Of equal gaps the one nearest the middle halves the search.
            let rank = |gap: (u32, u32)| (gap.1 - gap.0, u32::MAX - gap.0.abs_diff(middle));
            if widest.is_none_or(|best| rank(gap) > rank(best)) {
                widest = Some(gap);
            }
        }
        reached = reached.max(end);
    }
    widest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::decode::{Kind, Register};
    use crate::field::modbus::plan::{Costs, TURNAROUND, plan};
    use crate::field::wave::Wave;
    use crate::field::{Device, Point, Source};
    use crate::reading::DeviceId;

    fn device(addresses: &[u16]) -> Device {
        let points = addresses.iter().zip(0..).map(|(address, n)| Point {
            id: PointId(n),
            every: Duration::from_secs(1),
            source: Source::Register { register: std::sync::Arc::new(Register::new(Table::Holding, *address, Kind::U16)), exponent: None },
            ..Point::made(format!("p{n}"), Wave::default())
        });
        Device { points: points.collect(), ..Device::new(DeviceId(0), "d", 1) }
    }

    /// Reads cycle after cycle until the plan is stable; gives the cycles, the exceptions, and the barriers.
    fn learn(device: &Device, missing: impl Fn(u32) -> bool) -> (usize, usize, Barriers) {
        let costs = Costs::serial("9600 8E1".parse().unwrap(), TURNAROUND);
        let now = crate::time::now();
        let mut barriers = Barriers::default();
        let mut exceptions = 0;
        for cycle in 0..50 {
            let mut changed = false;
            let mut queue = plan(0, device, costs, &barriers);
            while let Some(block) = queue.pop() {
                let refused = (u32::from(block.start)..u32::from(block.start) + u32::from(block.count)).any(&missing);
                let replan = if refused {
                    exceptions += 1;
                    barriers.failed(&block, Failure::Address, now)
                } else {
                    barriers.answered(&block)
                };
                if replan {
                    changed = true;
                    // The halves are tried at once.
                    let again = plan(0, device, costs, &barriers);
                    let inside =
                        |half: &Block| half.start >= block.start && half.start + half.count <= block.start + block.count && half != &block;
                    queue.extend(again.into_iter().filter(inside));
                }
            }
            if !changed {
                return (cycle, exceptions, barriers);
            }
        }
        panic!("never stable");
    }

    #[test]
    fn holes_are_found_and_a_point_that_is_not_there_is_named() {
        let device = device(&[0, 1, 2, 6, 7, 12, 13, 20, 21]);
        let (cycles, exceptions, barriers) = learn(&device, |address| address == 4 || address == 13);
        assert!(cycles <= 3 && exceptions <= 12, "{cycles} cycles, {exceptions} exceptions");
        assert_eq!(barriers.unsupported, [PointId(6)], "only the point at 13");
        assert!(barriers.crosses(Table::Holding, 0, 8), "the hole at 4");
        assert!(!barriers.crosses(Table::Holding, 6, 8));
        assert!(!barriers.crosses(Table::Input, 0, 8), "another table");
    }

    #[test]
    fn silence_cuts_after_the_second_time_and_is_forgotten() {
        let now = crate::time::now();
        let device = device(&[0, 4]);
        let costs = Costs::serial("9600 8E1".parse().unwrap(), TURNAROUND);
        let mut barriers = Barriers::default();
        let block = plan(0, &device, costs, &barriers).remove(0);
        assert!(!barriers.failed(&block, Failure::Other, now));
        assert!(barriers.failed(&block, Failure::Other, now));
        assert_eq!(plan(0, &device, costs, &barriers).len(), 2);
        assert!(barriers.to_keep().is_empty());
        assert!(!barriers.forget(now) && barriers.forget(now + RETRY_UNSUPPORTED));
        assert_eq!(plan(0, &device, costs, &barriers).len(), 1);
    }
}
