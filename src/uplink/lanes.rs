//! What comes next: the lane that goes on with an earlier run, else the highest that has anything; each lane in order. Pure.

use std::collections::VecDeque;

use crate::message::Lane;
use crate::outbox::{LANES, Place, Waiting};

#[derive(Debug, Default)]
struct Ahead {
    /// Read from the outbox and not taken yet.
    messages: VecDeque<Waiting>,
    /// The last number that was read.
    read: u64,
    /// There may be more in the outbox.
    may_have_more: bool,
}

/// The messages read ahead, by lane.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: [Ahead; LANES.len()],
}

impl Lanes {
    pub(super) fn new() -> Self {
        Self { lanes: std::array::from_fn(|_| Ahead { may_have_more: true, ..Ahead::default() }) }
    }

    /// Something new may be in the outbox.
    pub(super) fn look_again(&mut self) {
        for lane in &mut self.lanes {
            lane.may_have_more = true;
        }
    }

    /// The lane to be read before the next message is taken, and the number after which; `None` if [`Lanes::next`] knows the answer.
    /// The lane `first` is read before higher ones, whether it may have more or not.
    pub(super) fn wants(&self, first: Option<usize>) -> Option<(Lane, u64)> {
        let mut lanes = LANES.iter().zip(&self.lanes);
        let open = match first {
            Some(first) => lanes.nth(first),
            None => lanes.find(|(_, ahead)| !ahead.messages.is_empty() || ahead.may_have_more),
        };
        open.filter(|(_, ahead)| ahead.messages.is_empty()).map(|(lane, ahead)| (*lane, ahead.read))
    }

    /// What was read from a lane, up to `last`; `None` if there was nothing.
    pub(super) fn fill(&mut self, lane: Lane, read: Option<(u64, Vec<Waiting>)>) {
        let Some(ahead) = self.lanes.get_mut(lane as usize) else { return };
        match read {
            Some((last, messages)) => {
                ahead.read = last;
                ahead.messages.extend(messages);
            }
            None => ahead.may_have_more = false,
        }
    }

    /// Drops the messages that were read and are not wanted any more; what was read is not read again.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(Place) -> bool) {
        for lane in &mut self.lanes {
            lane.messages.retain(|waiting| is_wanted(waiting.place()));
        }
    }

    /// The next message, of the lane `first` if one is named.
    pub(super) fn next(&mut self, first: Option<usize>) -> Option<Waiting> {
        let mut lanes = self.lanes.iter_mut();
        match first {
            Some(first) => lanes.nth(first)?.messages.pop_front(),
            None => lanes.find_map(|ahead| ahead.messages.pop_front()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::SessionLost;
    use crate::mqtt::{Properties, QoS, TopicName};
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
            payload: bytes::Bytes::new(),
            is_reading: false,
        };
        Waiting { lane, seq, message }
    }

    fn fill(lanes: &mut Lanes, lane: Lane, seqs: &[u64]) {
        lanes.fill(lane, seqs.last().map(|last| (*last, seqs.iter().map(|seq| waiting(lane, *seq)).collect())));
    }

    #[test]
    fn alarms_overtake_and_each_lane_keeps_its_order() {
        let mut lanes = Lanes::new();
        assert_eq!(lanes.wants(None), Some((Lane::Alarm, 0)));
        fill(&mut lanes, Lane::Alarm, &[]);
        assert_eq!(lanes.wants(None), Some((Lane::Live, 0)));
        fill(&mut lanes, Lane::Live, &[1, 2, 3]);
        assert_eq!(lanes.wants(None), None);
        assert_eq!(lanes.next(None).map(|next| next.seq), Some(1));
        lanes.look_again();
        assert_eq!(lanes.wants(None), Some((Lane::Alarm, 0)), "an alarm may have come meanwhile");
        fill(&mut lanes, Lane::Alarm, &[1]);
        assert_eq!(lanes.next(None), Some(waiting(Lane::Alarm, 1)));
        fill(&mut lanes, Lane::Alarm, &[]);
        assert_eq!(lanes.next(None).map(|next| next.seq), Some(2));
        assert_eq!(lanes.next(None).map(|next| next.seq), Some(3));
        assert_eq!(lanes.wants(None), Some((Lane::Live, 3)));
        fill(&mut lanes, Lane::Live, &[]);
        assert_eq!(lanes.wants(None), Some((Lane::Backlog, 0)));
        fill(&mut lanes, Lane::Backlog, &[]);
        assert!(lanes.wants(None).is_none() && lanes.next(None).is_none());
    }

    #[test]
    fn what_is_not_wanted_any_more_is_dropped_and_nothing_is_read_twice() {
        let mut lanes = Lanes::new();
        fill(&mut lanes, Lane::Alarm, &[]);
        fill(&mut lanes, Lane::Live, &[1, 2, 3]);
        assert_eq!(lanes.next(None).map(|next| next.seq), Some(1));
        lanes.retain(|place| place.seq != 2);
        assert_eq!(lanes.next(None).map(|next| next.seq), Some(3));
        assert_eq!(lanes.wants(None), Some((Lane::Live, 3)));
    }

    #[test]
    fn the_lane_that_goes_on_with_an_earlier_run_is_first() {
        let mut lanes = Lanes::new();
        let live = Some(Lane::Live as usize);
        assert_eq!(lanes.wants(live), Some((Lane::Live, 0)));
        fill(&mut lanes, Lane::Alarm, &[1]);
        fill(&mut lanes, Lane::Live, &[1, 2]);
        assert_eq!(lanes.wants(live), None);
        assert_eq!(lanes.next(live), Some(waiting(Lane::Live, 1)));
        assert_eq!(lanes.next(None), Some(waiting(Lane::Alarm, 1)));
    }
}
