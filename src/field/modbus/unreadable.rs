//! Address ranges that a device refuses to read across, learned from its refusals. Pure.
//!
//! A request that is refused although it covers several fields is cut at its widest gap; the halves
//! are read alone from then on.
//!
//! Invariants:
//! * What is learned of refused addresses is kept, over restarts too, only when another part of the
//!   device has been answered since: a device that refuses everything (it starts, it sleeps) is no
//!   map. Then all is forgotten, and learning pauses for longer each time.
//! * Silence teaches only if the device answered something else between two silences, and only for
//!   1, 2, 4, ... minutes, up to an hour: then the whole request is tried again. Other refusals
//!   (busy, failed) teach nothing.
//! * A place is learned once.
//! * A point that is refused by itself is tried again after 1, 2, 4, ... minutes, up to an hour;
//!   after a restart at once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::block::Block;
use crate::field::decode::Table;
use crate::reading::PointId;

/// When a point is tried again that the device refuses, or a request that it was silent about; it
/// may be starting, or asleep. Each further refusal or silence doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(60);
const LONGEST_RETRY: Duration = Duration::from_secs(3600);
/// Silences about one request, while others are answered, until it is cut.
const STRIKES: u32 = 2;
/// The pause in learning after a device refused everything.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// A place that no request may cross: none begins before `start` and ends behind `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableRange {
    /// `holding`, `input`, `coil` or `discrete`.
    pub table: Table,
    /// The first address that nothing needs.
    pub start: u32,
    /// The first address behind it that something needs.
    pub end: u32,
}

/// The unreadable ranges and the missing points of one device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UnreadableRanges {
    kept: Vec<UnreadableRange>,
    /// Found by refusals, with how often a part beside it was refused, too.
    tentative: Vec<(UnreadableRange, u8)>,
    /// Found by silence.
    trial: Vec<Trial>,
    /// Points that the device does not have.
    absent: Vec<Absent>,
    /// Refused alone.
    suspects: Vec<Suspect>,
    /// A request that was not answered, until the device is heard again.
    silent: Option<Block>,
    strikes: HashMap<(Table, u16), u32>,
    /// The device refused everything: nothing is learned before then.
    learn_again_at: Option<Instant>,
    pauses: u32,
}

/// A barrier that was found by silence.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Trial {
    range: UnreadableRange,
    /// Until when it holds; then the whole request is tried again.
    until: Instant,
    /// The last time for which it held.
    pause: Duration,
    /// Its time is over, and the whole request was not answered yet.
    is_over: bool,
}

/// A point that the device refused again and again.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Absent {
    point: PointId,
    /// The time until it is tried again.
    pause: Duration,
}

/// A point that was refused alone. Refused again, with answers to others in between, it is not
/// there.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Suspect {
    point: PointId,
    /// The device has answered something since.
    others_answered: bool,
}

/// The verdict on a point that was refused alone.
enum Suspicion {
    /// Refused for the first time.
    New,
    /// Refused again, without answers to others in between.
    Open,
    /// It is not there.
    Absent,
}

impl UnreadableRange {
    /// True if a request runs over it.
    fn is_inside(&self, block: &Block) -> bool {
        let end = u32::from(block.start) + u32::from(block.count);
        self.table == block.table && u32::from(block.start) < self.start && end > self.end
    }

    /// True if a request begins or ends here.
    fn borders(&self, block: &Block) -> bool {
        let end = u32::from(block.start) + u32::from(block.count);
        self.table == block.table && (end == self.start || u32::from(block.start) == self.end)
    }
}

impl UnreadableRanges {
    /// Starts with the ranges of the YAML or of an earlier run.
    pub fn known(kept: Vec<UnreadableRange>) -> Self {
        Self {
            kept,
            ..Self::default()
        }
    }

    /// The ranges for the next run.
    pub fn to_keep(&self) -> &[UnreadableRange] {
        &self.kept
    }

    fn all(&self) -> impl Iterator<Item = &UnreadableRange> {
        let tentative = self.tentative.iter().map(|(range, _)| range);
        let trial = self
            .trial
            .iter()
            .filter(|trial| !trial.is_over)
            .map(|trial| &trial.range);
        self.kept.iter().chain(tentative).chain(trial)
    }

    /// True if a request would run over a barrier.
    pub(super) fn crosses(&self, table: Table, start: u32, end: u32) -> bool {
        self.all()
            .any(|range| range.table == table && start < range.start && end > range.end)
    }

    /// The interval of a point that the device refuses.
    pub(super) fn retry_of(&self, point: PointId) -> Option<Duration> {
        self.absent
            .iter()
            .find(|absent| absent.point == point)
            .map(|absent| absent.pause)
    }

    /// A request was answered. True if the plan changes, or what is to be kept.
    pub(in crate::field) fn answered(&mut self, block: &Block, now: Instant) -> bool {
        // It refused everything until now, and may have been starting.
        let is_awake = std::mem::take(&mut self.pauses) > 0 && !self.absent.is_empty();
        self.strikes.remove(&(block.table, block.start));
        if self
            .silent
            .as_ref()
            .is_some_and(|silent| (silent.table, silent.start) == (block.table, block.start))
        {
            self.silent = None;
        }
        // It was silent about the whole request, and is not any more.
        self.trial
            .retain(|trial| !(trial.is_over && trial.range.is_inside(block)));
        let is_back = is_awake
            || self
                .absent
                .iter()
                .any(|absent| block.points.iter().any(|read| read.id == absent.point));
        if is_back {
            // Other missing points may be back, too.
            self.absent.clear();
        }
        self.suspects
            .retain(|suspect| !block.points.iter().any(|read| read.id == suspect.point));
        self.suspects
            .iter_mut()
            .for_each(|suspect| suspect.others_answered = true);
        // One side answers: the other, or what is between, was refused. If both were, the device
        // refused whatever was asked.
        let mut settled = false;
        for (range, doubts) in std::mem::take(&mut self.tentative) {
            match (range.borders(block), doubts) {
                (true, 0 | 1) => self.kept.push(range),
                (true, _) => {}
                (false, _) => {
                    self.tentative.push((range, doubts));
                    continue;
                }
            }
            settled = true;
        }
        self.heard(now) | is_back | settled
    }

    /// The device answered: an earlier silence was the fault of that request. True if the plan
    /// changes.
    pub(in crate::field) fn heard(&mut self, now: Instant) -> bool {
        let Some(block) = self.silent.take() else {
            return false;
        };
        let strikes = self.strikes.entry((block.table, block.start)).or_default();
        *strikes += 1;
        if *strikes < STRIKES {
            return false;
        }
        *strikes = 0;
        let Some(range) = widest_gap(&block) else {
            return false;
        };
        if self.all().any(|known| *known == range) {
            return false;
        }
        let before = self
            .trial
            .iter()
            .position(|trial| trial.range == range)
            .map(|index| self.trial.swap_remove(index).pause);
        let pause = before.map_or(FIRST_RETRY, |pause| (pause * 2).min(LONGEST_RETRY));
        self.trial.push(Trial {
            range,
            until: now + pause,
            pause,
            is_over: false,
        });
        true
    }

    /// A request was not answered, or not understandably.
    pub(in crate::field) fn not_answered(&mut self, block: &Block) {
        if block.points.len() > 1 {
            self.silent = Some(block.clone());
        }
    }

    /// Some address of a request does not exist (exceptions 2 and 3). True if the plan changes.
    pub(in crate::field) fn refused(&mut self, block: &Block, now: Instant) -> bool {
        if self.learn_again_at.is_some_and(|at| now < at) {
            return false;
        }
        for (_, doubts) in self
            .tentative
            .iter_mut()
            .filter(|(range, _)| range.borders(block))
        {
            *doubts = doubts.saturating_add(1);
        }
        if let Some(range) = widest_gap(block)
            && !self.all().any(|known| *known == range)
        {
            self.tentative.push((range, 0));
            return true;
        }
        let open: Vec<PointId> = block
            .points
            .iter()
            .map(|point| point.id)
            .filter(|point| self.retry_of(*point).is_none())
            .collect();
        if open.is_empty() {
            return self.still_absent(block);
        }
        let (mut is_new, mut is_guilty) = (false, false);
        for point in open {
            match self.suspect(point) {
                Suspicion::New => is_new = true,
                Suspicion::Absent => is_guilty = true,
                Suspicion::Open => {}
            }
        }
        if is_guilty || is_new {
            return is_guilty;
        }
        // Once around, and nothing of the device was answered: it refuses everything.
        self.pause_learning(now)
    }

    /// A point was refused alone.
    fn suspect(&mut self, point: PointId) -> Suspicion {
        let known = self.suspects.iter().position(|known| known.point == point);
        let Some(index) = known else {
            self.suspects.push(Suspect {
                point,
                others_answered: false,
            });
            return Suspicion::New;
        };
        let is_absent = self
            .suspects
            .get(index)
            .is_some_and(|suspect| suspect.others_answered);
        if !is_absent {
            return Suspicion::Open;
        }
        self.suspects.remove(index);
        self.absent.push(Absent {
            point,
            pause: FIRST_RETRY,
        });
        Suspicion::Absent
    }

    /// Forgets what a device that refuses everything has taught, and learns nothing for a while.
    /// True if the plan changes.
    fn pause_learning(&mut self, now: Instant) -> bool {
        self.suspects.clear();
        if self.tentative.is_empty() {
            return false;
        }
        self.tentative.clear();
        self.learn_again_at =
            Some(now + (FIRST_PAUSE * 2_u32.saturating_pow(self.pauses)).min(LONGEST_PAUSE));
        self.pauses = self.pauses.saturating_add(1);
        true
    }

    /// Missing points are refused again. True if their interval changes.
    fn still_absent(&mut self, block: &Block) -> bool {
        let mut is_longer = false;
        for absent in self
            .absent
            .iter_mut()
            .filter(|absent| block.points.iter().any(|read| read.id == absent.point))
        {
            let pause = (absent.pause * 2).min(LONGEST_RETRY);
            is_longer |= pause > absent.pause;
            absent.pause = pause;
        }
        is_longer
    }

    /// Ends ranges that were learned from silence and have expired. True if the plan changes.
    pub(in crate::field) fn forget(&mut self, now: Instant) -> bool {
        let mut is_any_over = false;
        for trial in self
            .trial
            .iter_mut()
            .filter(|trial| !trial.is_over && trial.until <= now)
        {
            trial.is_over = true;
            is_any_over = true;
        }
        is_any_over
    }
}

/// The widest gap between the fields of a block, from the end of one to the beginning of the next;
/// `None` if there is one field. Points that must be read together are one field.
fn widest_gap(block: &Block) -> Option<UnreadableRange> {
    let spans = spans(block);
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
    widest.map(|(start, end)| UnreadableRange {
        table: block.table,
        start,
        end,
    })
}

/// The first address of each field of a block and the one behind it, in the order of the addresses.
fn spans(block: &Block) -> Vec<(u32, u32)> {
    let mut fields: HashMap<u16, (u32, u32)> = HashMap::new();
    for point in &block.points {
        let registers = [Some(&point.register), point.exponent.as_ref()];
        for register in registers.into_iter().flatten() {
            let start = u32::from(register.address);
            let end = start + u32::from(register.width());
            let field = fields.entry(point.field).or_insert((u32::MAX, 0));
            *field = (field.0.min(start), field.1.max(end));
        }
    }
    let mut spans: Vec<(u32, u32)> = fields.into_values().collect();
    spans.sort_unstable();
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::decode::{DataType, Register};
    use crate::field::modbus::plan::{Costs, TURNAROUND, plan};
    use crate::field::signal::Signal;
    use crate::field::{Device, Point, PointSource};
    use crate::reading::DeviceId;

    fn device(addresses: &[u16]) -> Device {
        let points = addresses.iter().zip(0..).map(|(address, n)| Point {
            id: PointId(n),
            every: Duration::from_secs(1),
            source: PointSource::Register {
                register: std::sync::Arc::new(Register::new(
                    Table::Holding,
                    *address,
                    DataType::U16,
                )),
                exponent: None,
            },
            ..Point::simulated(format!("p{n}"), Signal::default())
        });
        Device {
            points: points.collect(),
            ..Device::new(DeviceId(0), "d", 1)
        }
    }

    fn absent(unreadable: &UnreadableRanges) -> Vec<PointId> {
        unreadable
            .absent
            .iter()
            .map(|absent| absent.point)
            .collect()
    }

    /// Reads cycle after cycle until the plan is stable; gives the cycles, the exceptions, and the
    /// barriers.
    fn learn(device: &Device, missing: impl Fn(u32) -> bool) -> (usize, usize, UnreadableRanges) {
        let costs = Costs::serial("9600 8E1".parse().unwrap(), TURNAROUND);
        let now = crate::time::now();
        let mut unreadable = UnreadableRanges::default();
        let mut exceptions = 0;
        let known =
            |unreadable: &UnreadableRanges| (unreadable.all().count(), unreadable.absent.len());
        for cycle in 0..50 {
            let before = known(&unreadable);
            let mut queue = plan(0, device, costs, &unreadable);
            while let Some(block) = queue.pop() {
                let refused = (u32::from(block.start)
                    ..u32::from(block.start) + u32::from(block.count))
                    .any(&missing);
                let replan = if refused {
                    exceptions += 1;
                    unreadable.refused(&block, now)
                } else {
                    unreadable.answered(&block, now)
                };
                if replan {
                    // The halves are tried at once.
                    let again = plan(0, device, costs, &unreadable);
                    let inside = |half: &Block| {
                        half.start >= block.start
                            && half.start + half.count <= block.start + block.count
                            && (half.start, half.count) != (block.start, block.count)
                    };
                    queue.extend(again.into_iter().filter(inside));
                }
            }
            if known(&unreadable) == before {
                return (cycle, exceptions, unreadable);
            }
        }
        panic!("never stable");
    }

    #[test]
    fn holes_are_found_and_a_point_that_is_not_there_is_named() {
        let device = device(&[0, 1, 2, 6, 7, 12, 13, 20, 21]);
        let (cycles, exceptions, unreadable) =
            learn(&device, |address| address == 4 || address == 13);
        assert!(
            cycles <= 3 && exceptions <= 12,
            "{cycles} cycles, {exceptions} exceptions"
        );
        assert_eq!(absent(&unreadable), [PointId(6)], "only the point at 13");
        assert!(unreadable.crosses(Table::Holding, 0, 8), "the hole at 4");
        assert!(!unreadable.crosses(Table::Holding, 6, 8));
        assert!(!unreadable.crosses(Table::Input, 0, 8), "another table");
    }

    #[test]
    fn a_device_that_refuses_everything_is_no_map() {
        let now = crate::time::now();
        let device = device(&[0, 4, 9, 13]);
        let costs = Costs::serial("9600 8E1".parse().unwrap(), TURNAROUND);
        let whole = plan(0, &device, costs, &UnreadableRanges::default());
        let mut unreadable = UnreadableRanges::default();
        for second in 0..3600 {
            for block in plan(0, &device, costs, &unreadable) {
                unreadable.refused(&block, now + Duration::from_secs(second));
            }
        }
        assert!(
            unreadable.to_keep().is_empty() && unreadable.absent.is_empty(),
            "{unreadable:?}"
        );
        assert!(
            unreadable.pauses > 3 && unreadable.pauses < 20,
            "{} pauses in an hour",
            unreadable.pauses
        );
        // While learning pauses it is asked as before; the first answer makes that last.
        unreadable.tentative.clear();
        assert_eq!(plan(0, &device, costs, &unreadable), whole);
    }

    #[test]
    fn a_refused_point_is_tried_again_after_growing_pauses_until_it_answers() {
        let now = crate::time::now();
        let device = device(&[0, 500, 900]);
        let costs = Costs::serial("9600 8E1".parse().unwrap(), TURNAROUND);
        let mut unreadable = UnreadableRanges::default();
        let block = |unreadable: &UnreadableRanges, start: u16| {
            plan(0, &device, costs, unreadable)
                .into_iter()
                .find(|block| block.start == start)
                .unwrap()
        };
        for _ in 0..2 {
            unreadable.refused(&block(&unreadable, 500), now);
            unreadable.answered(&block(&unreadable, 0), now);
        }
        let mut minutes = Vec::new();
        for _ in 0..8 {
            let again = block(&unreadable, 500);
            minutes.push(again.every.as_secs() / 60);
            unreadable.refused(&again, now);
            assert_eq!(
                block(&unreadable, 0).every,
                Duration::from_secs(1),
                "the others keep their pace"
            );
        }
        assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(unreadable.answered(&block(&unreadable, 500), now));
        assert_eq!(block(&unreadable, 500).every, Duration::from_secs(1));
    }

    #[test]
    fn a_device_that_refused_everything_is_asked_for_everything_once_it_answers() {
        let now = crate::time::now();
        let device = device(&[0, 4, 500]);
        let costs = Costs::serial("9600 8E1".parse().unwrap(), TURNAROUND);
        let mut unreadable = UnreadableRanges::default();
        let blocks = |unreadable: &UnreadableRanges| plan(0, &device, costs, unreadable);
        for _ in 0..2 {
            unreadable.refused(&blocks(&unreadable)[1], now);
            unreadable.answered(&blocks(&unreadable)[0], now);
        }
        assert_eq!(absent(&unreadable), [PointId(2)]);
        for _ in 0..9 {
            for block in blocks(&unreadable) {
                unreadable.refused(&block, now);
            }
        }
        assert!(unreadable.pauses > 0, "{unreadable:?}");
        assert!(
            unreadable.answered(&blocks(&unreadable)[0], now) && absent(&unreadable).is_empty()
        );
    }

    #[test]
    fn a_group_that_is_refused_is_told_once() {
        let now = crate::time::now();
        let mut device = device(&[10, 11, 30]);
        device.points[0].group = Some("pair".into());
        device.points[1].group = Some("pair".into());
        let costs = Costs::serial("9600 8E1".parse().unwrap(), TURNAROUND);
        let mut unreadable = UnreadableRanges::default();
        for _ in 0..20 {
            for block in plan(0, &device, costs, &unreadable) {
                if block.start <= 10 {
                    unreadable.refused(&block, now);
                } else {
                    unreadable.answered(&block, now);
                }
            }
        }
        assert_eq!(absent(&unreadable), [PointId(0), PointId(1)]);
        assert!(unreadable.to_keep().len() <= 1, "{unreadable:?}");
    }

    #[test]
    fn silence_cuts_after_the_second_time_and_only_between_answers() {
        let now = crate::time::now();
        let device = device(&[0, 4, 90]);
        let costs = Costs::serial("9600 8E1".parse().unwrap(), TURNAROUND);
        let mut unreadable = UnreadableRanges::default();
        let blocks = plan(0, &device, costs, &unreadable);
        let (silent, other) = (&blocks[0], &blocks[1]);
        for _ in 0..9 {
            unreadable.not_answered(silent);
        }
        assert!(!unreadable.answered(other, now), "the device was away");
        unreadable.not_answered(silent);
        assert!(unreadable.answered(other, now));
        assert_eq!(plan(0, &device, costs, &unreadable).len(), 3);
        assert!(unreadable.to_keep().is_empty());
        assert!(!unreadable.forget(now) && unreadable.forget(now + FIRST_RETRY));
        assert_eq!(plan(0, &device, costs, &unreadable).len(), 2);
    }

    #[test]
    fn a_request_that_was_not_answered_is_tried_again_after_growing_pauses_until_it_is() {
        let mut now = crate::time::now();
        let device = device(&[0, 4, 90]);
        let costs = Costs::serial("9600 8E1".parse().unwrap(), TURNAROUND);
        let mut unreadable = UnreadableRanges::default();
        let blocks = plan(0, &device, costs, &unreadable);
        let (silent, other) = (&blocks[0], &blocks[1]);
        let strike = |unreadable: &mut UnreadableRanges, now: Instant| {
            (0..STRIKES).for_each(|_| {
                unreadable.not_answered(silent);
                unreadable.answered(other, now);
            });
            assert_eq!(plan(0, &device, costs, unreadable).len(), 3);
        };
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            strike(&mut unreadable, now);
            let pause = Duration::from_secs(60 * minutes);
            assert!(
                !unreadable.forget(now + pause - Duration::from_secs(1)),
                "{minutes} minutes"
            );
            now += pause;
            assert!(unreadable.forget(now), "{minutes} minutes");
            assert_eq!(
                plan(0, &device, costs, &unreadable).len(),
                2,
                "the whole request is tried again"
            );
        }
        unreadable.answered(silent, now);
        strike(&mut unreadable, now);
        assert!(
            unreadable.forget(now + FIRST_RETRY),
            "after an answer it begins with a minute again"
        );
    }
}
