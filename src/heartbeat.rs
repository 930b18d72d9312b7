//! Liveness: each loop that must keep running beats on every iteration, and a loop that hangs is
//! known by name.
//!
//! Invariants:
//! * A loop beats where it makes progress, never from a timer of its own: one that hangs is silent.
//! * A loop that waits for another one ([`Heartbeat::through`]) is not unresponsive: the other one
//!   has a heartbeat too.
//! * A loop that has ended is not unresponsive: [`crate::tasks`] notices its end.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;

/// An idle loop beats at least this often.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Inner {
    name: String,
    patience: Duration,
    born: Instant,
    /// Of the last beat, since `born`.
    beat_ms: AtomicU64,
}

impl Inner {
    fn ms_since_birth(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX)
    }
}

/// The heartbeat of one loop; cheap to clone. It is watched until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Heartbeat(Arc<Inner>);

/// A loop that hangs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresponsive {
    /// The name of its heartbeat.
    pub name: String,
    /// Since its last beat.
    pub silent_for: Duration,
}

impl Heartbeat {
    /// Of a loop that beats at least every `patience`, which must be longer than [`BEAT_INTERVAL`]
    /// and than its longest iteration.
    pub fn new(name: impl Into<String>, patience: Duration, now: Instant) -> Self {
        Self(Arc::new(Inner {
            name: name.into(),
            patience,
            born: now,
            beat_ms: AtomicU64::new(0),
        }))
    }

    /// Called on every iteration.
    pub fn beat(&self, now: Instant) {
        self.0
            .beat_ms
            .store(self.0.ms_since_birth(now), Ordering::Relaxed);
    }

    /// Waits for another loop, which has a heartbeat of its own, and beats meanwhile; needs a
    /// runtime.
    pub async fn through<T>(&self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        // Usually there is nothing to wait for, and a timer is not free.
        if let Some(done) = wait.as_mut().now_or_never() {
            return done;
        }
        let mut beats = tokio::time::interval(BEAT_INTERVAL);
        loop {
            tokio::select! {
                biased;
                done = wait.as_mut() => return done,
                at = beats.tick() => self.beat(at.into_std()),
            }
        }
    }
}

/// All heartbeats that are watched.
#[derive(Debug, Default)]
pub struct Heartbeats(Vec<Weak<Inner>>);

impl Heartbeats {
    /// Adds a heartbeat.
    pub fn watch(&mut self, heartbeat: &Heartbeat) {
        self.0.push(Arc::downgrade(&heartbeat.0));
    }

    /// The loops that have been silent for longer than their patience.
    pub fn unresponsive(&self, now: Instant) -> Vec<Unresponsive> {
        let alive = self.0.iter().filter_map(Weak::upgrade);
        let silent = alive.map(|heartbeat| {
            let ms = heartbeat
                .ms_since_birth(now)
                .saturating_sub(heartbeat.beat_ms.load(Ordering::Relaxed));
            (Duration::from_millis(ms), heartbeat)
        });
        let late = silent.filter(|(silent_for, heartbeat)| *silent_for > heartbeat.patience);
        late.map(|(silent_for, heartbeat)| Unresponsive {
            name: heartbeat.name.clone(),
            silent_for,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_silent_loop_is_unresponsive_until_it_beats_or_is_gone() {
        let (start, second) = (start(), Duration::from_secs(1));
        let mut heartbeats = Heartbeats::default();
        let (quick, slow) = (
            Heartbeat::new("quick", second, start),
            Heartbeat::new("slow", 10 * second, start),
        );
        heartbeats.watch(&quick);
        heartbeats.watch(&slow);
        assert_eq!(heartbeats.unresponsive(start + second), []);
        let late = Unresponsive {
            name: "quick".to_owned(),
            silent_for: 2 * second,
        };
        assert_eq!(heartbeats.unresponsive(start + 2 * second), [late]);
        quick.beat(start + 2 * second);
        assert_eq!(heartbeats.unresponsive(start + 3 * second), []);
        assert_eq!(heartbeats.unresponsive(start + 11 * second).len(), 2);
        drop((quick, slow));
        assert_eq!(heartbeats.unresponsive(start + 11 * second), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_waits_for_another_one_is_not_unresponsive() {
        let start = tokio::time::Instant::now().into_std();
        let mut heartbeats = Heartbeats::default();
        let heartbeat = Heartbeat::new("patient", 2 * BEAT_INTERVAL, start);
        heartbeats.watch(&heartbeat);
        heartbeat
            .through(tokio::time::sleep(10 * BEAT_INTERVAL))
            .await;
        assert_eq!(heartbeats.unresponsive(start + 11 * BEAT_INTERVAL), []);
        assert_eq!(heartbeats.unresponsive(start + 13 * BEAT_INTERVAL).len(), 1);
    }
}
