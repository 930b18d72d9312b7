//! The next message: of the lane that continues an earlier run, else of the highest lane that has
//! any, or of the backlog where that has its turn; each lane in its order. Pure.
//!
//! Messages of a rule whose rate is used up are passed over, and keep their order: a few stay in
//! memory, the others are read again in their turn. The outbox notes in pieces what is settled, and
//! keeps a limited number of pieces over a crash; so a limited number of messages may overtake
//! others. After a change of the rules everything that was passed over is read again.

use std::collections::{HashSet, VecDeque};

use crate::message::Lane;
use crate::mqtt::QoS;
use crate::outbox::{EntryId, LANES, Waiting};

/// Messages of a rule that are kept in memory when they are passed over,
const MOST_PASSED_OVER: usize = 64;
/// and bytes of all rules of a lane; one message of each rule may exceed it.
const MOST_BYTES_PASSED_OVER: usize = 1 << 20;
/// Pieces of a lane that are settled between messages that wait, for a message that must not come
/// twice after a crash,
const MOST_PIECES_EXACT: usize = 2000;
/// and for others.
const MOST_PIECES: usize = 100_000;

/// Reads of the outbox between two looks at the link.
const MOST_READS: u32 = 8;

/// Where the next message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The highest lane that has one which may go.
    Any,
    /// One lane.
    Only(usize),
    /// The lane that continues an earlier run: everything that has to wait for a rate is passed
    /// over, although its rate may leave room.
    GoesOn(usize),
}

/// Messages that may not be sent now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Blocked {
    /// The rules whose rates are used up: their messages are passed over.
    pub(super) rules: HashSet<u32>,
    /// The remote takes no more QoS 2 messages: a lane waits with such a message, the other lanes
    /// go on.
    pub(super) is_exact: bool,
    /// What becomes of the backlog.
    pub(super) backlog: BacklogPlace,
}

/// The place of the backlog among the lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum BacklogPlace {
    /// It gets what the others leave.
    #[default]
    Last,
    /// It goes before what is live.
    BeforeLive,
    /// It has to wait.
    Waits,
}

impl BacklogPlace {
    /// The lanes in the order in which they are looked at.
    fn order(self) -> &'static [Lane] {
        match self {
            Self::Last => &LANES,
            Self::BeforeLive => &[Lane::Alarm, Lane::Backlog, Lane::Live],
            Self::Waits => &[Lane::Alarm, Lane::Live],
        }
    }
}

impl Blocked {
    /// True if the next message of a lane has to wait.
    fn holds(&self, next: Option<&Ready>) -> bool {
        self.is_exact && next.is_some_and(|ready| ready.waiting.message.qos == QoS::ExactlyOnce)
    }
}

/// A message that was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ready {
    pub(super) waiting: Waiting,
    /// The rule whose rate it has to wait for.
    pub(super) rule: Option<u32>,
}

#[derive(Debug, Default)]
struct Ahead {
    /// Read from the outbox and not taken yet.
    messages: VecDeque<Ready>,
    /// The last number that was read.
    read: u64,
    /// The last number that was taken or passed over.
    passed: u64,
    /// There may be more in the outbox.
    may_have_more: bool,
    /// Messages that were passed over, by rule.
    behind: Vec<Behind>,
    /// The last one was passed over.
    has_skipped: bool,
    /// The first numbers that were taken behind some that were passed over and still wait.
    pieces: VecDeque<u64>,
}

/// Messages of a rule that wait for its rate.
#[derive(Debug)]
struct Behind {
    rule: u32,
    messages: VecDeque<Ready>,
    /// All of it has a higher number.
    after: u64,
    /// The last number that is or was in `messages`.
    read: u64,
    /// There are more in the outbox, up to `passed` of the lane.
    has_more: bool,
}

/// A read that is needed before the next message is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadRequest {
    pub(super) lane: Lane,
    /// The number after which.
    pub(super) after: u64,
    /// Only what was passed over of this rule counts.
    pub(super) rule: Option<u32>,
}

/// The state of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// A message that may go.
    Ready,
    /// It is to be read first.
    Read(ReadRequest),
    /// Nothing that may go now.
    Nothing,
}

/// The messages read ahead, by lane.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: [Ahead; LANES.len()],
    /// How often the outbox was read since the last look at the link.
    reads: u32,
    /// The reads of this look are used up, and it is not known yet which message is next.
    reads_on: bool,
}

impl Ahead {
    /// The next message that may go.
    fn next(&mut self, closed: &Blocked) -> Option<Ready> {
        let ready = self
            .behind
            .iter_mut()
            .find(|behind| behind.is_ready(closed));
        if let Some(behind) = ready {
            let next = behind.messages.pop_front();
            behind.after = next
                .as_ref()
                .map_or(behind.after, |ready| ready.waiting.seq);
            self.behind
                .retain(|behind| behind.has_more || !behind.messages.is_empty());
            return next;
        }
        self.pass_over_waiting(|rule| closed.rules.contains(&rule));
        if self.may_take(closed) {
            self.take()
        } else {
            None
        }
    }

    /// True if the message in front may go.
    fn may_take(&mut self, closed: &Blocked) -> bool {
        !closed.holds(self.messages.front()) && self.may_overtake()
    }

    /// False if too many have overtaken those that wait.
    fn may_overtake(&mut self) -> bool {
        if self.pieces.is_empty() {
            return true;
        }
        let oldest = self
            .behind
            .iter()
            .map(|behind| behind.after)
            .min()
            .unwrap_or(u64::MAX);
        while self.pieces.front().is_some_and(|first| *first <= oldest) {
            self.pieces.pop_front();
        }
        let is_exact = self
            .messages
            .front()
            .is_some_and(|ready| ready.waiting.message.qos == QoS::ExactlyOnce);
        self.pieces.len()
            < if is_exact {
                MOST_PIECES_EXACT
            } else {
                MOST_PIECES
            }
    }

    fn take(&mut self) -> Option<Ready> {
        let next = self.pop()?;
        if std::mem::take(&mut self.has_skipped) {
            self.pieces.push_back(next.waiting.seq);
        }
        Some(next)
    }

    fn pop(&mut self) -> Option<Ready> {
        let next = self.messages.pop_front()?;
        self.passed = next.waiting.seq;
        Some(next)
    }

    /// Passes over the messages that wait for the rate of their rule, up to the first one that does
    /// not.
    fn pass_over_waiting(&mut self, is_closed: impl Fn(u32) -> bool) {
        while let Some(rule) = self.messages.front().and_then(|ready| ready.rule) {
            let waits = is_closed(rule) || self.behind.iter().any(|behind| behind.rule == rule);
            if !waits {
                return;
            }
            self.has_skipped = true;
            if let Some(ready) = self.pop() {
                self.pass_over(rule, ready);
            }
        }
    }

    fn pass_over(&mut self, rule: u32, ready: Ready) {
        let seq = ready.waiting.seq;
        let place = self
            .behind
            .iter()
            .position(|behind| behind.rule == rule)
            .unwrap_or_else(|| {
                self.behind.push(Behind {
                    rule,
                    messages: VecDeque::new(),
                    after: seq.saturating_sub(1),
                    read: seq,
                    has_more: false,
                });
                self.behind.len() - 1
            });
        let is_full = self
            .behind
            .get(place)
            .is_some_and(|behind| behind.has_more || !behind.has_place(self.bytes_passed_over()));
        let Some(behind) = self.behind.get_mut(place) else {
            return;
        };
        behind.has_more = is_full;
        if !behind.has_more {
            behind.read = seq;
            behind.messages.push_back(ready);
        }
    }

    fn bytes_passed_over(&self) -> usize {
        self.behind
            .iter()
            .flat_map(|behind| &behind.messages)
            .map(|ready| ready.waiting.message.weight())
            .sum()
    }

    /// Everything that was not taken is read again.
    fn read_again(&mut self) {
        let first = self.behind.iter().map(|behind| behind.after).min();
        let Some(first) = first else { return };
        *self = Self {
            read: first,
            passed: first,
            may_have_more: true,
            pieces: std::mem::take(&mut self.pieces),
            ..Self::default()
        };
    }

    /// Whether this lane has a message that may go, or needs a read first.
    fn look(&mut self, lane: Lane, closed: &Blocked) -> Look {
        // Otherwise everything that waits would be read into memory.
        self.pass_over_waiting(|rule| closed.rules.contains(&rule));
        if let Some(Behind { rule, read, .. }) = self.wants(closed) {
            return Look::Read(ReadRequest {
                lane,
                after: *read,
                rule: Some(*rule),
            });
        }
        if self.behind.iter().any(|behind| behind.is_ready(closed)) {
            return Look::Ready;
        }
        if self.messages.is_empty() {
            let wanted = ReadRequest {
                lane,
                after: self.read,
                rule: None,
            };
            return if self.may_have_more {
                Look::Read(wanted)
            } else {
                Look::Nothing
            };
        }
        // A lane that has to wait, or that too many have overtaken, does not stop the lanes below
        // it.
        if self.may_take(closed) {
            Look::Ready
        } else {
            Look::Nothing
        }
    }

    /// A rule whose messages are to be read again.
    fn wants(&self, closed: &Blocked) -> Option<&Behind> {
        self.behind.iter().find(|behind| {
            behind.messages.is_empty() && behind.has_more && !closed.rules.contains(&behind.rule)
        })
    }
}

impl Lanes {
    pub(super) fn new() -> Self {
        let lanes = std::array::from_fn(|_| Ahead {
            may_have_more: true,
            ..Ahead::default()
        });
        Self {
            lanes,
            reads: 0,
            reads_on: false,
        }
    }

    /// The link was looked at: the outbox may be read again.
    pub(super) fn has_looked(&mut self) {
        self.reads = 0;
        self.reads_on = false;
    }

    /// True if the outbox is to be read further as soon as the link was looked at.
    pub(super) fn reads_on(&self) -> bool {
        self.reads_on
    }

    /// True if nothing more of a lane is known to wait.
    pub(super) fn is_dry(&self, lane: Lane) -> bool {
        let ahead = self.lanes.get(lane as usize);
        ahead.is_none_or(|ahead| ahead.messages.is_empty() && !ahead.may_have_more)
    }

    /// Something new may be in the outbox.
    pub(super) fn look_again(&mut self) {
        for lane in &mut self.lanes {
            lane.may_have_more = true;
        }
    }

    /// The rules are others: what was passed over belongs to them. What is read then must leave out
    /// what was taken.
    pub(super) fn read_again(&mut self) {
        self.lanes.iter_mut().for_each(Ahead::read_again);
    }

    /// True if messages wait for the rate of their rule.
    pub(super) fn holds_back(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.behind.is_empty())
    }

    /// The read that is needed before the next message is taken; `None` if [`Lanes::next`] knows
    /// the answer, or if it was read often enough for this look.
    pub(super) fn wants(&mut self, choice: Choice, closed: &Blocked) -> Option<ReadRequest> {
        let wanted = self.wanted(choice, closed)?;
        self.reads_on = self.reads >= MOST_READS;
        (!self.reads_on).then_some(wanted)
    }

    fn wanted(&mut self, choice: Choice, closed: &Blocked) -> Option<ReadRequest> {
        let mut lanes = LANES.iter().zip(&mut self.lanes);
        match choice {
            Choice::Any => {
                for lane in closed.backlog.order() {
                    let ahead = self.lanes.get_mut(*lane as usize)?;
                    match ahead.look(*lane, closed) {
                        Look::Read(wanted) => return Some(wanted),
                        Look::Ready => return None,
                        Look::Nothing => {}
                    }
                }
                None
            }
            Choice::Only(number) => {
                let (lane, ahead) = lanes.nth(number)?;
                if let Look::Read(wanted) = ahead.look(*lane, closed) {
                    Some(wanted)
                } else {
                    None
                }
            }
            Choice::GoesOn(number) => {
                let (lane, ahead) = lanes.nth(number)?;
                ahead.pass_over_waiting(|_| true);
                // It is read whether it may have more or not.
                ahead.messages.is_empty().then_some(ReadRequest {
                    lane: *lane,
                    after: ahead.read,
                    rule: None,
                })
            }
        }
    }

    /// Takes the result of a read that [`Lanes::wants`] asked for, up to `last`; `None` if there
    /// was nothing.
    pub(super) fn fill(&mut self, wanted: ReadRequest, read: Option<(u64, Vec<Ready>)>) {
        self.reads += 1;
        let Some(ahead) = self.lanes.get_mut(wanted.lane as usize) else {
            return;
        };
        if let Some(rule) = wanted.rule {
            ahead.fill_behind(rule, read);
            return;
        }
        match read {
            Some((last, messages)) => {
                ahead.read = last;
                ahead.messages.extend(messages);
            }
            None => ahead.may_have_more = false,
        }
    }

    /// Drops the messages that were read and are not wanted any more; what was read is not read
    /// again.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(EntryId) -> bool) {
        for lane in &mut self.lanes {
            lane.messages
                .retain(|ready| is_wanted(ready.waiting.place()));
            lane.behind.iter_mut().for_each(|behind| {
                behind
                    .messages
                    .retain(|ready| is_wanted(ready.waiting.place()));
            });
            lane.behind
                .retain(|behind| behind.has_more || !behind.messages.is_empty());
        }
    }

    /// The next message.
    pub(super) fn next(&mut self, choice: Choice, closed: &Blocked) -> Option<Ready> {
        if self.reads_on {
            return None;
        }
        let mut lanes = self.lanes.iter_mut();
        match choice {
            Choice::Any => closed.backlog.order().iter().find_map(|lane| {
                let ahead = self.lanes.get_mut(*lane as usize)?;
                ahead.next(closed)
            }),
            Choice::Only(lane) => lanes.nth(lane)?.next(closed),
            Choice::GoesOn(lane) => {
                let lane = lanes.nth(lane)?;
                lane.pass_over_waiting(|_| true);
                lane.take()
            }
        }
    }
}

impl Behind {
    /// True if its next message is in memory and may go.
    fn is_ready(&self, closed: &Blocked) -> bool {
        let next = self.messages.front();
        next.is_some() && !closed.rules.contains(&self.rule) && !closed.holds(next)
    }

    /// True if one more of its messages may be kept in memory, beside messages of `bytes`.
    fn has_place(&self, bytes: usize) -> bool {
        self.messages.is_empty()
            || (self.messages.len() < MOST_PASSED_OVER && bytes < MOST_BYTES_PASSED_OVER)
    }

    /// Keeps what belongs to it of messages that were read up to `last`, beside messages of
    /// `bytes`.
    fn fill(&mut self, last: u64, messages: Vec<Ready>, passed: u64, mut bytes: usize) {
        for ready in messages
            .into_iter()
            .filter(|ready| ready.rule == Some(self.rule) && ready.waiting.seq <= passed)
        {
            if !self.has_place(bytes) {
                return;
            }
            bytes += ready.waiting.message.weight();
            self.read = ready.waiting.seq;
            self.messages.push_back(ready);
        }
        self.read = last.min(passed);
        self.has_more = last < passed;
    }
}

impl Ahead {
    fn fill_behind(&mut self, rule: u32, read: Option<(u64, Vec<Ready>)>) {
        let (passed, bytes) = (self.passed, self.bytes_passed_over());
        let Some(behind) = self.behind.iter_mut().find(|behind| behind.rule == rule) else {
            return;
        };
        match read {
            Some((last, messages)) => behind.fill(last, messages, passed, bytes),
            None => behind.has_more = false,
        }
        self.behind
            .retain(|behind| behind.has_more || !behind.messages.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::SessionLost;
    use crate::mqtt::{Properties, TopicName};
    use crate::outbox::Outgoing;
    use crate::reading::Timestamp;

    fn waiting(lane: Lane, seq: u64) -> Waiting {
        let message = Outgoing {
            topic: TopicName::new("t").unwrap(),
            qos: QoS::AtLeastOnce,
            retain: false,
            if_session_lost: SessionLost::Resend,
            enqueued: Timestamp::at(0),
            properties: Properties::default(),
            payload: bytes::Bytes::new().into(),
            rated: None,
            source: None,
        };
        Waiting { lane, seq, message }
    }

    fn ready(lane: Lane, seq: u64) -> Ready {
        Ready {
            waiting: waiting(lane, seq),
            rule: None,
        }
    }

    fn closed<const N: usize>(rules: [u32; N]) -> Blocked {
        Blocked {
            rules: HashSet::from(rules),
            is_exact: false,
            ..Blocked::default()
        }
    }

    fn of(lane: Lane) -> ReadRequest {
        ReadRequest {
            lane,
            after: 0,
            rule: None,
        }
    }

    fn fill(lanes: &mut Lanes, lane: Lane, seqs: &[u64]) {
        lanes.fill(
            of(lane),
            seqs.last()
                .map(|last| (*last, seqs.iter().map(|seq| ready(lane, *seq)).collect())),
        );
    }

    fn wants(lanes: &mut Lanes, choice: Choice) -> Option<(Lane, u64)> {
        lanes
            .wants(choice, &Blocked::default())
            .map(|wanted| (wanted.lane, wanted.after))
    }

    fn next(lanes: &mut Lanes, choice: Choice) -> Option<Waiting> {
        lanes
            .next(choice, &Blocked::default())
            .map(|ready| ready.waiting)
    }

    /// The read that is needed after a look at the link.
    fn wants_after_a_look(lanes: &mut Lanes, closed: &Blocked) -> Option<ReadRequest> {
        lanes.has_looked();
        lanes.wants(Choice::Any, closed)
    }

    #[test]
    fn alarms_overtake_and_each_lane_keeps_its_order() {
        let mut lanes = Lanes::new();
        assert_eq!(wants(&mut lanes, Choice::Any), Some((Lane::Alarm, 0)));
        fill(&mut lanes, Lane::Alarm, &[]);
        assert_eq!(wants(&mut lanes, Choice::Any), Some((Lane::Live, 0)));
        fill(&mut lanes, Lane::Live, &[1, 2, 3]);
        assert_eq!(wants(&mut lanes, Choice::Any), None);
        assert_eq!(next(&mut lanes, Choice::Any).map(|next| next.seq), Some(1));
        lanes.look_again();
        assert_eq!(
            wants(&mut lanes, Choice::Any),
            Some((Lane::Alarm, 0)),
            "an alarm may have come meanwhile"
        );
        fill(&mut lanes, Lane::Alarm, &[1]);
        assert_eq!(next(&mut lanes, Choice::Any), Some(waiting(Lane::Alarm, 1)));
        fill(&mut lanes, Lane::Alarm, &[]);
        assert_eq!(next(&mut lanes, Choice::Any).map(|next| next.seq), Some(2));
        assert_eq!(next(&mut lanes, Choice::Any).map(|next| next.seq), Some(3));
        assert_eq!(wants(&mut lanes, Choice::Any), Some((Lane::Live, 3)));
        fill(&mut lanes, Lane::Live, &[]);
        assert_eq!(wants(&mut lanes, Choice::Any), Some((Lane::Backlog, 0)));
        fill(&mut lanes, Lane::Backlog, &[]);
        assert!(
            wants(&mut lanes, Choice::Any).is_none() && next(&mut lanes, Choice::Any).is_none()
        );
    }

    #[test]
    fn what_is_not_wanted_any_more_is_dropped_and_nothing_is_read_twice() {
        let mut lanes = Lanes::new();
        fill(&mut lanes, Lane::Alarm, &[]);
        fill(&mut lanes, Lane::Live, &[1, 2, 3]);
        assert_eq!(next(&mut lanes, Choice::Any).map(|next| next.seq), Some(1));
        lanes.retain(|place| place.seq != 2);
        assert_eq!(next(&mut lanes, Choice::Any).map(|next| next.seq), Some(3));
        assert_eq!(wants(&mut lanes, Choice::Any), Some((Lane::Live, 3)));
    }

    #[test]
    fn the_lane_that_goes_on_with_an_earlier_run_is_first() {
        let mut lanes = Lanes::new();
        let live = Choice::GoesOn(Lane::Live as usize);
        assert_eq!(wants(&mut lanes, live), Some((Lane::Live, 0)));
        fill(&mut lanes, Lane::Alarm, &[1]);
        fill(&mut lanes, Lane::Live, &[1, 2]);
        assert_eq!(wants(&mut lanes, live), None);
        assert_eq!(next(&mut lanes, live), Some(waiting(Lane::Live, 1)));
        assert_eq!(next(&mut lanes, Choice::Any), Some(waiting(Lane::Alarm, 1)));
    }

    /// A lane of the outbox with messages of rule 7 at even numbers up to `last`, and of no rule at
    /// odd ones.
    fn stored(last: u64, taken: &[u64], after: u64) -> Option<(u64, Vec<Ready>)> {
        let rule = |seq: u64| seq.is_multiple_of(2).then_some(7);
        let left = (after + 1..=last)
            .filter(|seq| !taken.contains(seq))
            .take(100);
        let messages: Vec<Ready> = left
            .map(|seq| Ready {
                rule: rule(seq),
                ..ready(Lane::Live, seq)
            })
            .collect();
        messages
            .last()
            .map(|ready| ready.waiting.seq)
            .map(|last| (last, messages))
    }

    #[test]
    fn a_rule_without_rate_left_holds_back_its_own_messages_only_and_they_keep_their_order() {
        let last = 1000;
        let (mut lanes, mut taken) = (Lanes::new(), Vec::new());
        let (open, closed) = (Blocked::default(), closed([7]));
        let mut take = |lanes: &mut Lanes, closed: &Blocked| {
            while let Some(wanted) = wants_after_a_look(lanes, closed) {
                let read = if wanted.lane == Lane::Live {
                    stored(last, &taken, wanted.after)
                } else {
                    None
                };
                lanes.fill(wanted, read);
            }
            let next = lanes.next(Choice::Any, closed).map(|next| next.waiting.seq);
            taken.extend(next);
            next
        };
        // Every tenth message the rate lets one of the rule pass.
        let mut got = Vec::new();
        for turn in 0..100 {
            got.extend(take(
                &mut lanes,
                if turn % 10 == 9 { &open } else { &closed },
            ));
        }
        let of = |got: &[u64], even: u64| {
            got.iter()
                .copied()
                .filter(|seq| seq % 2 == even)
                .collect::<Vec<u64>>()
        };
        assert_eq!(
            of(&got, 0),
            (1..=10).map(|number| number * 2).collect::<Vec<u64>>()
        );
        assert_eq!(
            of(&got, 1),
            (0..90).map(|number| number * 2 + 1).collect::<Vec<u64>>()
        );
        assert!(lanes.holds_back());
        // All others go, then nothing does, then all of the rule in their order.
        while let Some(seq) = take(&mut lanes, &closed) {
            got.push(seq);
        }
        assert_eq!(of(&got, 1).len(), 500);
        let memory: usize = lanes
            .lanes
            .iter()
            .flat_map(|lane| &lane.behind)
            .map(|behind| behind.messages.len())
            .sum();
        assert!(memory <= MOST_PASSED_OVER, "{memory}");
        while let Some(seq) = take(&mut lanes, &open) {
            got.push(seq);
        }
        assert_eq!(
            of(&got, 0),
            (1..=500).map(|number| number * 2).collect::<Vec<u64>>()
        );
        assert!(!lanes.holds_back());
    }

    #[test]
    fn large_messages_that_wait_for_a_rate_stay_in_the_outbox_and_lose_neither_order_nor_any_of_them()
     {
        const SIZE: usize = 100_000;
        let (mut lanes, open, closed) = (Lanes::new(), Blocked::default(), closed([0, 1, 2, 3]));
        let last = 400;
        let stored = |taken: &[u64], after: u64| {
            let large = |seq: u64| {
                let mut ready = Ready {
                    rule: u32::try_from(seq % 5).ok().filter(|rule| *rule < 4),
                    ..ready(Lane::Live, seq)
                };
                ready.waiting.message.payload = vec![0; SIZE].into();
                ready
            };
            let messages: Vec<Ready> = (after + 1..=last)
                .filter(|seq| !taken.contains(seq))
                .take(3)
                .map(large)
                .collect();
            messages
                .last()
                .map(|ready| ready.waiting.seq)
                .map(|last| (last, messages))
        };
        let mut taken: Vec<u64> = Vec::new();
        for turn in 0.. {
            let closed = if turn < 50 || turn % 3 == 0 {
                &closed
            } else {
                &open
            };
            while let Some(wanted) = wants_after_a_look(&mut lanes, closed) {
                let read = if wanted.lane == Lane::Live {
                    stored(&taken, wanted.after)
                } else {
                    None
                };
                lanes.fill(wanted, read);
            }
            let kept: usize = lanes.lanes.iter().map(Ahead::bytes_passed_over).sum();
            assert!(
                kept < MOST_BYTES_PASSED_OVER + 5 * (SIZE + 1000),
                "{kept} bytes"
            );
            match lanes.next(Choice::Any, closed) {
                Some(next) => taken.push(next.waiting.seq),
                None if taken.len() as u64 == last => break,
                None => assert!(lanes.holds_back(), "{} messages", taken.len()),
            }
        }
        for rule in 0..5 {
            let of_rule: Vec<u64> = taken
                .iter()
                .copied()
                .filter(|seq| seq % 5 == rule)
                .collect();
            assert_eq!(
                of_rule,
                (1..=last).filter(|seq| seq % 5 == rule).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn messages_that_were_passed_over_are_read_again_for_other_rules() {
        let mut lanes = Lanes::new();
        let (open, closed) = (Blocked::default(), closed([7]));
        let rated = |seq| Ready {
            rule: Some(7),
            ..ready(Lane::Live, seq)
        };
        let seq = |ready: Option<Ready>| ready.map(|ready| ready.waiting.seq);
        fill(&mut lanes, Lane::Alarm, &[]);
        lanes.fill(
            of(Lane::Live),
            Some((
                4,
                vec![
                    rated(1),
                    rated(2),
                    ready(Lane::Live, 3),
                    ready(Lane::Live, 4),
                ],
            )),
        );
        assert_eq!(seq(lanes.next(Choice::Any, &open)), Some(1));
        assert_eq!(seq(lanes.next(Choice::Any, &closed)), Some(3));
        lanes.read_again();
        // Message 1 may have been taken long ago.
        assert_eq!(
            lanes.wants(Choice::GoesOn(Lane::Live as usize), &open),
            Some(ReadRequest {
                lane: Lane::Live,
                after: 1,
                rule: None
            })
        );
        fill(&mut lanes, Lane::Live, &[2, 4]);
        assert_eq!(
            (
                seq(lanes.next(Choice::Any, &open)),
                seq(lanes.next(Choice::Any, &open))
            ),
            (Some(2), Some(4))
        );
        // Without any there is nothing to be read again.
        lanes.read_again();
        assert_eq!(
            lanes.wants(Choice::GoesOn(Lane::Live as usize), &open),
            Some(ReadRequest {
                lane: Lane::Live,
                after: 4,
                rule: None
            })
        );
    }

    #[test]
    fn only_so_many_overtake_as_the_outbox_notes_and_more_when_those_that_wait_are_through() {
        let mut lanes = Lanes::new();
        let (open, closed) = (Blocked::default(), closed([7]));
        let message = |seq: u64| {
            let mut ready = Ready {
                rule: (seq % 2 == 1).then_some(7),
                ..ready(Lane::Live, seq)
            };
            ready.waiting.message.qos = QoS::ExactlyOnce;
            ready
        };
        let stored = |taken: &HashSet<u64>, after: u64| {
            let messages: Vec<Ready> = (after + 1..=10_000)
                .filter(|seq| !taken.contains(seq))
                .take(256)
                .map(message)
                .collect();
            messages
                .last()
                .map(|last| last.waiting.seq)
                .map(|last| (last, messages))
        };
        let mut taken = HashSet::new();
        let mut take_all = |lanes: &mut Lanes, closed: &Blocked, most: usize| {
            let mut count = 0;
            while count < most {
                while let Some(wanted) = wants_after_a_look(lanes, closed) {
                    let read = if wanted.lane == Lane::Live {
                        stored(&taken, wanted.after)
                    } else {
                        None
                    };
                    lanes.fill(wanted, read);
                }
                let Some(next) = lanes.next(Choice::Any, closed) else {
                    break;
                };
                assert!(taken.insert(next.waiting.seq));
                count += 1;
            }
            count
        };
        assert_eq!(take_all(&mut lanes, &closed, usize::MAX), MOST_PIECES_EXACT);
        assert_eq!(take_all(&mut lanes, &open, 500), 500);
        assert_eq!(take_all(&mut lanes, &closed, usize::MAX), 499);
        assert_eq!(
            take_all(&mut lanes, &open, usize::MAX),
            10_000 - MOST_PIECES_EXACT - 999
        );
        assert!(
            lanes
                .lanes
                .iter()
                .all(|lane| lane.pieces.len() <= MOST_PIECES_EXACT)
        );
    }

    #[test]
    fn messages_of_an_earlier_run_go_before_those_that_wait_for_a_rate() {
        let mut lanes = Lanes::new();
        let (live, open) = (Choice::GoesOn(Lane::Live as usize), Blocked::default());
        let rated = |seq| Ready {
            rule: Some(7),
            ..ready(Lane::Live, seq)
        };
        lanes.fill(
            of(Lane::Live),
            Some((3, vec![rated(1), rated(2), ready(Lane::Live, 3)])),
        );
        assert_eq!(lanes.wants(live, &open), None);
        assert_eq!(lanes.next(live, &open), Some(ready(Lane::Live, 3)));
        fill(&mut lanes, Lane::Alarm, &[]);
        assert_eq!(lanes.next(Choice::Any, &open), Some(rated(1)));
        assert_eq!(lanes.next(Choice::Any, &open), Some(rated(2)));
    }

    /// A lane that is read message by message as it is asked for, up to `last`, all of rule 7.
    fn rated(after: u64, last: u64) -> Option<(u64, Vec<Ready>)> {
        let messages: Vec<Ready> = (after + 1..=last)
            .take(256)
            .map(|seq| Ready {
                rule: Some(7),
                ..ready(Lane::Live, seq)
            })
            .collect();
        messages
            .last()
            .map(|ready| ready.waiting.seq)
            .map(|last| (last, messages))
    }

    #[test]
    fn the_link_is_looked_at_while_a_long_queue_of_a_rated_rule_is_read() {
        let last = 100_000;
        let (mut lanes, closed) = (Lanes::new(), closed([7]));
        let mut alarms = VecDeque::new();
        let (mut looks, mut got) = (0, None);
        while got.is_none() {
            lanes.has_looked();
            looks += 1;
            if looks == 10 {
                alarms.push_back(ready(Lane::Alarm, 1));
                lanes.look_again();
            }
            let mut reads = 0;
            while let Some(wanted) = lanes.wants(Choice::Any, &closed) {
                reads += 1;
                let read = match wanted.lane {
                    Lane::Alarm => alarms.pop_front().map(|alarm| (1, vec![alarm])),
                    Lane::Live => rated(wanted.after, last),
                    Lane::Backlog => None,
                };
                lanes.fill(wanted, read);
            }
            got = lanes.next(Choice::Any, &closed);
            assert!(
                reads <= MOST_READS && (got.is_some() || lanes.reads_on()),
                "{reads} reads at look {looks}"
            );
        }
        assert_eq!(
            (looks, got),
            (10, Some(ready(Lane::Alarm, 1))),
            "an alarm that comes meanwhile goes at the next look"
        );
        let mut reads = 0;
        while let Some(wanted) = wants_after_a_look(&mut lanes, &closed) {
            reads += 1;
            lanes.fill(
                wanted,
                if wanted.lane == Lane::Live {
                    rated(wanted.after, last)
                } else {
                    None
                },
            );
        }
        assert!(
            reads > 200 && !lanes.reads_on(),
            "all of it is read, and then it ends: {reads}"
        );
    }

    #[test]
    fn alarms_of_a_rated_rule_go_before_a_suspect_as_long_as_the_rate_has_room() {
        let (mut lanes, alarms) = (Lanes::new(), Choice::Only(Lane::Alarm as usize));
        let (open, closed) = (Blocked::default(), closed([7]));
        let rated = |seq| Ready {
            rule: Some(7),
            ..ready(Lane::Alarm, seq)
        };
        lanes.fill(of(Lane::Alarm), Some((2, vec![rated(1), rated(2)])));
        fill(&mut lanes, Lane::Live, &[1]);
        assert_eq!(
            (lanes.wants(alarms, &open), lanes.next(alarms, &open)),
            (None, Some(rated(1)))
        );
        assert_eq!(
            lanes.wants(alarms, &closed),
            Some(ReadRequest {
                lane: Lane::Alarm,
                after: 2,
                rule: None
            })
        );
        fill(&mut lanes, Lane::Alarm, &[]);
        assert_eq!(
            (lanes.wants(alarms, &closed), lanes.next(alarms, &closed)),
            (None, None),
            "no other lane is taken from"
        );
        assert_eq!(lanes.next(alarms, &open), Some(rated(2)));
    }

    #[test]
    fn a_lane_that_too_many_have_overtaken_does_not_stop_the_lanes_below_it() {
        let (mut lanes, closed) = (Lanes::new(), closed([7]));
        let message = |seq: u64| {
            let mut ready = Ready {
                rule: (seq % 2 == 1).then_some(7),
                ..ready(Lane::Live, seq)
            };
            ready.waiting.message.qos = QoS::ExactlyOnce;
            ready
        };
        let (mut of_live, mut of_backlog) = (0, Vec::new());
        loop {
            while let Some(wanted) = wants_after_a_look(&mut lanes, &closed) {
                let read = match wanted.lane {
                    Lane::Alarm => None,
                    Lane::Live => {
                        let messages: Vec<Ready> =
                            (wanted.after + 1..=10_000).take(256).map(message).collect();
                        messages
                            .last()
                            .map(|last| last.waiting.seq)
                            .map(|last| (last, messages))
                    }
                    Lane::Backlog if wanted.after < 500 => Some((
                        wanted.after + 1,
                        vec![ready(Lane::Backlog, wanted.after + 1)],
                    )),
                    Lane::Backlog => None,
                };
                lanes.fill(wanted, read);
            }
            match lanes.next(Choice::Any, &closed) {
                Some(next) if next.waiting.lane == Lane::Live => of_live += 1,
                Some(next) => of_backlog.push(next.waiting.seq),
                None => break,
            }
        }
        assert_eq!(
            (of_live, of_backlog),
            (MOST_PIECES_EXACT, (1..=500).collect())
        );
    }

    #[test]
    fn the_backlog_goes_before_what_is_live_in_its_turn_and_never_before_alarms() {
        let (mut lanes, place) = (Lanes::new(), |backlog| Blocked {
            backlog,
            ..Blocked::default()
        });
        fill(&mut lanes, Lane::Alarm, &[1]);
        fill(&mut lanes, Lane::Live, &[1, 2]);
        fill(&mut lanes, Lane::Backlog, &[1, 2]);
        let mut next = |backlog| {
            let blocked = place(backlog);
            lanes
                .next(Choice::Any, &blocked)
                .map(|next| next.waiting.lane)
        };
        assert_eq!(next(BacklogPlace::BeforeLive), Some(Lane::Alarm));
        assert_eq!(next(BacklogPlace::BeforeLive), Some(Lane::Backlog));
        assert_eq!(next(BacklogPlace::Last), Some(Lane::Live));
        assert_eq!(next(BacklogPlace::Waits), Some(Lane::Live));
        assert_eq!(next(BacklogPlace::Waits), None, "the rest is backlog");
        assert_eq!(next(BacklogPlace::Last), Some(Lane::Backlog));
    }

    #[test]
    fn a_lane_that_waits_with_a_qos_2_message_does_not_stop_the_others() {
        let (mut lanes, open) = (Lanes::new(), Blocked::default());
        let full = Blocked {
            is_exact: true,
            ..Blocked::default()
        };
        let mut exact = ready(Lane::Live, 1);
        exact.waiting.message.qos = QoS::ExactlyOnce;
        fill(&mut lanes, Lane::Alarm, &[]);
        lanes.fill(
            of(Lane::Live),
            Some((2, vec![exact.clone(), ready(Lane::Live, 2)])),
        );
        assert_eq!(lanes.wants(Choice::Any, &full), Some(of(Lane::Backlog)));
        fill(&mut lanes, Lane::Backlog, &[1]);
        assert_eq!(lanes.wants(Choice::Any, &full), None);
        assert_eq!(
            lanes.next(Choice::Any, &full),
            Some(ready(Lane::Backlog, 1))
        );
        assert_eq!(
            lanes.next(Choice::Any, &full),
            None,
            "a lane keeps its order"
        );
        assert_eq!(lanes.next(Choice::Any, &open), Some(exact));
        assert_eq!(lanes.next(Choice::Any, &full), Some(ready(Lane::Live, 2)));
    }
}
