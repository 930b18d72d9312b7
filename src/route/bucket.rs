//! A token bucket for a rate of messages and bytes: a short burst at once, then the rate. Pure: the
//! caller passes the time.
//!
//! Invariants:
//! * In any span of time no more passes than the rate allows for it, plus the rate of the time
//!   `burst` (at least one message), plus the end of one message: a message larger than the rest
//!   passes whole, and is paid for afterwards.

use std::time::{Duration, Instant};

use crate::units::Rate;

/// Burst of messages that wait for their rate: the link is used evenly, and a remote that counts by
/// the second is content.
pub const EVENLY: Duration = Duration::from_millis(100);
/// Burst of messages that are dropped beyond their rate: the readings of a cycle come together.
pub(super) const BY_THE_SECOND: Duration = Duration::from_secs(1);
/// The longest wait before the bucket is asked again.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The part of a rate that is left.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: Rate,
    burst: Duration,
    messages: f64,
    bytes: f64,
    /// When it was filled last.
    at: Option<Instant>,
}

fn per_second(per_hour: u64) -> f64 {
    per_hour as f64 / 3600.0
}

/// A part of a rate after `seconds`, when `left` was left of it: no more than the time `burst`
/// brings, but at least one message.
fn filled(left: f64, per_hour: Option<u64>, seconds: f64, burst: Duration) -> f64 {
    let Some(per_hour) = per_hour else {
        return f64::INFINITY;
    };
    let rate = per_second(per_hour);
    (left + rate * seconds).min((rate * burst.as_secs_f64()).max(1.0))
}

impl Bucket {
    /// A full bucket, which lets pass at once the rate of the time `burst`.
    pub fn new(rate: Rate, burst: Duration) -> Self {
        let full = |per_hour| filled(f64::MAX, per_hour, 0.0, burst);
        Self {
            rate,
            burst,
            messages: full(rate.messages),
            bytes: full(rate.bytes),
            at: None,
        }
    }

    /// Its rate.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    fn fill(&mut self, at: Instant) {
        let seconds = self.at.map_or(0.0, |before| {
            at.saturating_duration_since(before).as_secs_f64()
        });
        self.messages = filled(self.messages, self.rate.messages, seconds, self.burst);
        self.bytes = filled(self.bytes, self.rate.bytes, seconds, self.burst);
        self.at = Some(at);
    }

    /// True if a message may pass.
    pub fn has_room(&mut self, at: Instant) -> bool {
        self.has_room_behind(0, 0, at)
    }

    /// True if a message may pass after `messages` others, of `bytes` together, have passed.
    pub fn has_room_behind(&mut self, messages: usize, bytes: usize, at: Instant) -> bool {
        self.fill(at);
        self.messages - messages as f64 > 1.0 - 1e-9 && self.bytes - bytes as f64 > 0.0
    }

    /// Takes off a message of `bytes`.
    pub fn take(&mut self, bytes: usize, at: Instant) {
        self.fill(at);
        self.messages -= 1.0;
        self.bytes -= bytes as f64;
    }

    /// When the next message may pass.
    pub fn ready_at(&mut self, at: Instant) -> Instant {
        self.fill(at);
        let wait = |missing: f64, per_hour: Option<u64>| {
            per_hour.map_or(0.0, |per_hour| missing.max(0.0) / per_second(per_hour))
        };
        let seconds =
            wait(1.0 - self.messages, self.rate.messages).max(wait(-self.bytes, self.rate.bytes));
        // A little later, so that it is true then. Waits beyond a day are asked again.
        let wait = Duration::try_from_secs_f64(seconds + 1e-3)
            .unwrap_or(LONGEST_WAIT)
            .min(LONGEST_WAIT);
        at.checked_add(wait).unwrap_or(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(text: &str) -> Bucket {
        Bucket::new(text.parse().unwrap(), BY_THE_SECOND)
    }

    /// How many messages of so many bytes pass in ten seconds.
    fn passed(mut bucket: Bucket, bytes: usize) -> usize {
        let start = crate::time::now();
        let mut count = 0;
        for millis in 0..10_000 {
            let at = start + Duration::from_millis(millis);
            while bucket.has_room(at) {
                bucket.take(bytes, at);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_second_passes_at_once_and_the_rest_in_its_time() {
        assert_eq!(passed(bucket("10/s"), 5_000), 109);
        assert_eq!(passed(bucket("1kB/s"), 100), 110);
        assert_eq!(passed(bucket("60/min"), 1), 10);
        assert_eq!(passed(bucket("6/min"), 1), 1);
        // What is larger than a second passes, and is paid for.
        assert_eq!(passed(bucket("100B/s"), 450), 3);
    }

    #[test]
    fn what_waits_passes_evenly_and_never_more_than_a_second_and_a_tenth_bring_in_a_second() {
        for (text, most) in [("1/s", 1), ("10/s", 10), ("90/s", 99), ("1000/s", 1100)] {
            let mut bucket = Bucket::new(text.parse().unwrap(), EVENLY);
            let start = crate::time::now();
            let mut passed: Vec<u64> = Vec::new();
            // It has nothing to do in the fourth second.
            for millis in (0..3_000).chain(4_000..10_000) {
                let at = start + Duration::from_millis(millis);
                while bucket.has_room(at) {
                    bucket.take(1, at);
                    passed.push(millis);
                }
            }
            let in_a_second = |first: &u64| {
                passed
                    .iter()
                    .filter(|millis| (*first..first + 1000).contains(millis))
                    .count()
            };
            let busiest = passed.iter().map(in_a_second).max().unwrap();
            // It is asked once a millisecond only.
            assert!(
                busiest <= most && busiest + most / 50 >= most,
                "{text}: {busiest}"
            );
        }
    }

    #[test]
    fn what_is_on_its_way_is_counted_before_it_has_passed() {
        let at = crate::time::now();
        let mut bucket = Bucket::new(
            Rate {
                messages: Some(36_000),
                bytes: Some(3_600_000),
            },
            BY_THE_SECOND,
        );
        for ((messages, bytes), may) in [
            ((0, 0), true),
            ((9, 999), true),
            ((10, 0), false),
            ((1, 1000), false),
        ] {
            assert_eq!(
                bucket.has_room_behind(messages, bytes, at),
                may,
                "{messages}, {bytes}"
            );
        }
    }

    #[test]
    fn it_says_when_the_next_one_passes() {
        let at = crate::time::now();
        for text in ["2/s", "1kB/s", "1/h", "3MB/d"] {
            let mut bucket = bucket(text);
            while bucket.has_room(at) {
                bucket.take(700, at);
            }
            let ready = bucket.ready_at(at);
            assert!(
                ready > at
                    && !bucket.has_room(ready - Duration::from_millis(2))
                    && bucket.has_room(ready),
                "{text}"
            );
        }
    }
}
