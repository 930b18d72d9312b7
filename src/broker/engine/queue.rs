//! The deliveries that wait for one session, together with their totals.
//!
//! Invariants: `held_bytes` is what all deliveries take, `counted_bytes` the same without the
//! `replays` retained messages among them, which are at most [`MOST_WAITING`]; nothing expires
//! before `first_expiry`. A queue that is empty holds no memory worth speaking of.

use std::collections::VecDeque;
use std::time::Instant;

use super::delivery::{Delivery, OVERHEAD};
use super::rare::Shareable;
use super::{BrokerLimits, QueueFull};
use crate::mqtt::{QoS, TopicFilter};

/// More places than this are given back when the queue is empty.
const SPARE: usize = 64;

/// Retained messages on their way to new subscriptions that may wait in one queue.
pub(super) const MOST_WAITING: usize = 64;

/// A delivery that left its queue without having been sent.
#[derive(Debug)]
pub(super) struct Dropped {
    pub(super) delivery: Delivery,
    /// It was too late for it; otherwise another one needed its room.
    pub(super) is_expired: bool,
}

/// The deliveries that wait for one session.
#[derive(Debug, Default)]
pub(super) struct SessionQueue {
    deliveries: VecDeque<Delivery>,
    counted_bytes: usize,
    held_bytes: usize,
    replays: usize,
    first_expiry: Option<Instant>,
}

/// Bytes a delivery counts in its queue.
fn size(delivery: &Delivery) -> usize {
    OVERHEAD + delivery.message.weight()
}

impl Shareable for SessionQueue {
    fn none() -> &'static Self {
        static NONE: SessionQueue = SessionQueue::new();
        &NONE
    }
}

impl SessionQueue {
    const fn new() -> Self {
        Self {
            deliveries: VecDeque::new(),
            counted_bytes: 0,
            held_bytes: 0,
            replays: 0,
            first_expiry: None,
        }
    }

    /// Deliveries.
    pub(super) fn len(&self) -> usize {
        self.deliveries.len()
    }

    /// True if nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// Bytes of all deliveries, about.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// From the oldest to the newest.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.deliveries.iter()
    }

    /// The oldest.
    pub(super) fn front(&self) -> Option<&Delivery> {
        self.deliveries.front()
    }

    /// Retained messages among the deliveries.
    pub(super) fn replays(&self) -> usize {
        self.replays
    }

    /// The bytes of the retained messages among the deliveries.
    pub(super) fn replay_bytes(&self) -> usize {
        self.held_bytes - self.counted_bytes
    }

    /// Lets a retained message wait; false if as many wait as may. They have a bound of their own:
    /// a subscriber counts on getting all of them, and they must not push out what is new.
    pub(super) fn enqueue_replay(&mut self, delivery: Delivery) -> bool {
        debug_assert!(
            delivery.is_replay,
            "a retained message for a new subscription"
        );
        let fits = self.replays < MOST_WAITING;
        if fits {
            self.push(delivery);
        }
        fits
    }

    /// Lets a new message wait; false if there is no room for it. What had to go for it is added to
    /// `dropped`.
    pub(super) fn enqueue(
        &mut self,
        delivery: Delivery,
        limits: &BrokerLimits,
        now: Instant,
        dropped: &mut Vec<Dropped>,
    ) -> bool {
        debug_assert!(!delivery.is_replay, "a new message");
        let size = size(&delivery);
        if !self.has_room(size, limits) {
            self.drop_expired(now, dropped);
        }
        while !self.has_room(size, limits) {
            let oldest = if limits.queue_full == QueueFull::DropOldest {
                self.dequeue_counted()
            } else {
                None
            };
            let Some(delivery) = oldest else { return false };
            dropped.push(Dropped {
                delivery,
                is_expired: false,
            });
        }
        self.push(delivery);
        true
    }

    fn has_room(&self, size: usize, limits: &BrokerLimits) -> bool {
        let few = self.deliveries.len() - self.replays < limits.max_queued;
        self.deliveries.is_empty() || (few && self.counted_bytes + size <= limits.max_queued_bytes)
    }

    fn drop_expired(&mut self, now: Instant, dropped: &mut Vec<Dropped>) {
        if self.first_expiry.is_none_or(|at| at > now) {
            return;
        }
        for delivery in self.take() {
            if delivery.message.is_expired(now) {
                dropped.push(Dropped {
                    delivery,
                    is_expired: true,
                });
            } else {
                self.push(delivery);
            }
        }
    }

    /// Puts a delivery behind the others, whatever the limits say.
    pub(super) fn push(&mut self, delivery: Delivery) {
        if delivery.is_replay {
            self.replays += 1;
        } else {
            self.counted_bytes += size(&delivery);
        }
        self.held_bytes += size(&delivery);
        delivery.message.hold();
        self.first_expiry = [self.first_expiry, delivery.message.expires_at]
            .into_iter()
            .flatten()
            .min();
        self.deliveries.push_back(delivery);
    }

    /// Everything that waits, in its order; nothing is left.
    pub(super) fn take(&mut self) -> Vec<Delivery> {
        let taken = std::iter::from_fn(|| self.dequeue()).collect();
        self.first_expiry = None;
        taken
    }

    /// Removes QoS 0 messages: they are not kept for a client that is away. Returns them.
    pub(super) fn forget_qos_0(&mut self) -> Vec<Delivery> {
        let is_lost = |delivery: &Delivery| delivery.qos == QoS::AtMostOnce;
        if !self.deliveries.iter().any(is_lost) {
            return Vec::new();
        }
        let (lost, kept): (Vec<Delivery>, Vec<Delivery>) =
            self.take().into_iter().partition(is_lost);
        kept.into_iter().for_each(|delivery| self.push(delivery));
        lost
    }

    /// Takes the deliveries of a shared subscription out.
    pub(super) fn take_shared(&mut self, filter: &TopicFilter) -> Vec<Delivery> {
        let is_of = |delivery: &Delivery| {
            delivery
                .grounds
                .share()
                .is_some_and(|share| **share == *filter)
        };
        if !self.deliveries.iter().any(is_of) {
            return Vec::new();
        }
        let (shared, kept): (Vec<Delivery>, Vec<Delivery>) =
            self.take().into_iter().partition(is_of);
        kept.into_iter().for_each(|delivery| self.push(delivery));
        shared
    }

    /// Takes the oldest.
    pub(super) fn dequeue(&mut self) -> Option<Delivery> {
        self.take_out(0)
    }

    /// The oldest that is no replay: those do not count. They are few, so it is not far from the
    /// front.
    fn dequeue_counted(&mut self) -> Option<Delivery> {
        let place = self
            .deliveries
            .iter()
            .position(|delivery| !delivery.is_replay)?;
        self.take_out(place)
    }

    fn take_out(&mut self, place: usize) -> Option<Delivery> {
        let delivery = self.deliveries.remove(place)?;
        if delivery.is_replay {
            self.replays -= 1;
        } else {
            self.counted_bytes -= size(&delivery);
        }
        self.held_bytes -= size(&delivery);
        delivery.message.let_go();
        if self.deliveries.is_empty() && self.deliveries.capacity() > SPARE {
            self.deliveries = VecDeque::new();
        }
        Some(delivery)
    }

    /// Panics if a total is not what the deliveries say. For tests.
    pub(super) fn check_invariants(&self) {
        let bytes = |counts: fn(&Delivery) -> bool| {
            self.deliveries
                .iter()
                .filter(|one| counts(one))
                .map(size)
                .sum::<usize>()
        };
        assert_eq!(self.held_bytes, bytes(|_| true), "bytes of what waits");
        assert_eq!(
            self.counted_bytes,
            bytes(|one| !one.is_replay),
            "bytes of what waits and counts"
        );
        assert_eq!(
            self.replays,
            self.deliveries.iter().filter(|one| one.is_replay).count(),
            "replays that wait"
        );
        assert!(
            self.replays <= MOST_WAITING,
            "{} replays wait",
            self.replays
        );
        let first = self
            .deliveries
            .iter()
            .filter_map(|one| one.message.expires_at)
            .min();
        assert!(
            first.is_none_or(|first| self.first_expiry.is_some_and(|known| known <= first)),
            "the first expiry"
        );
    }
}
