//! The watchers of a line, and the events that they get: bytes as they travel, and the outcome of
//! each request.
//!
//! Invariants: without watchers nothing is copied, and one flag is read; a slow watcher loses
//! events, which are counted for it, and never makes the line wait; a line has at most
//! [`MOST_WATCHERS`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::time::now;

/// Watchers of a line.
pub const MOST_WATCHERS: usize = 8;
/// Events that wait for a watcher.
pub const QUEUE: usize = 1024;

/// The framing of a line, as far as watchers need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// Modbus RTU, on a serial line or through TCP.
    Rtu,
    /// Modbus ASCII.
    Ascii,
    /// Modbus TCP.
    Tcp,
    /// Plain instruments.
    Plain,
    /// Meters.
    Meter,
}

/// Something that happened on a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// The wire was opened.
    Opened,
    /// Bytes left.
    Sent(Vec<u8>),
    /// Bytes came.
    Received(Vec<u8>),
    /// A request is over: its outcome, for people.
    Ended(String),
}

/// The same with its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traced {
    /// Microseconds since the watcher came.
    pub at_us: u64,
    /// The event.
    pub what: Happening,
    /// Events that this watcher has lost before it.
    pub lost: u64,
}

#[derive(Debug)]
struct Watcher {
    queue: mpsc::Sender<Traced>,
    since: Instant,
    lost: u64,
}

/// The watchers of one line.
#[derive(Debug, Default)]
pub struct Watchers {
    is_watched: AtomicBool,
    list: Mutex<Vec<Watcher>>,
}

impl Watchers {
    /// Shows a watcher what happens from here on, until the other end of its queue is dropped;
    /// false if there are too many.
    pub fn add(&self, queue: mpsc::Sender<Traced>) -> bool {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|watcher| !watcher.queue.is_closed());
        if list.len() >= MOST_WATCHERS {
            return false;
        }
        list.push(Watcher {
            queue,
            since: now(),
            lost: 0,
        });
        self.is_watched.store(true, Ordering::Relaxed);
        true
    }

    /// Shows every watcher what happened; made only if there is one.
    pub fn tell(&self, what: impl FnOnce() -> Happening) {
        if !self.is_watched.load(Ordering::Relaxed) {
            return;
        }
        let (what, at) = (what(), now());
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain_mut(|watcher| {
            let at_us = u64::try_from(at.saturating_duration_since(watcher.since).as_micros())
                .unwrap_or(u64::MAX);
            match watcher.queue.try_send(Traced {
                at_us,
                what: what.clone(),
                lost: watcher.lost,
            }) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    watcher.lost = watcher.lost.saturating_add(1);
                    true
                }
                Err(TrySendError::Closed(_)) => false,
            }
        });
        self.is_watched.store(!list.is_empty(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::field::counts::LineCounts;
    use crate::field::traced_stream::TracedStream;

    #[tokio::test]
    async fn watchers_see_what_travels_and_the_slow_one_loses_with_a_count() {
        let counts = Arc::new(LineCounts::new("bus", std::iter::empty()));
        let (near, mut far) = duplex(64);
        let mut stream = TracedStream::new(near, &counts);
        stream.write_all(b"nobody watches").await.unwrap();
        let ((quick, mut seen), (slow, mut late)) = (mpsc::channel(QUEUE), mpsc::channel(1));
        assert!(counts.watchers.add(quick) && counts.watchers.add(slow));
        stream.write_all(b"ask").await.unwrap();
        far.write_all(b"answer").await.unwrap();
        stream.read_exact(&mut [0; 6]).await.unwrap();
        counts.watchers.tell(|| Happening::Ended("fine".to_owned()));
        let mut all = Vec::new();
        (0..3).for_each(|_| all.push(seen.try_recv().unwrap().what));
        assert_eq!(
            all,
            [
                Happening::Sent(b"ask".to_vec()),
                Happening::Received(b"answer".to_vec()),
                Happening::Ended("fine".to_owned())
            ]
        );
        assert_eq!(late.try_recv().unwrap().lost, 0);
        counts.watchers.tell(|| Happening::Opened);
        assert_eq!(late.try_recv().unwrap().lost, 2);
        drop((seen, late));
        counts.watchers.tell(|| Happening::Opened);
        counts
            .watchers
            .tell(|| unreachable!("made although nobody watches"));
    }

    #[test]
    fn watchers_are_bounded_and_those_that_went_make_room() {
        let watchers = Watchers::default();
        let mut ends: Vec<_> = (0..MOST_WATCHERS).map(|_| mpsc::channel(1)).collect();
        assert!(ends.iter().all(|(queue, _)| watchers.add(queue.clone())));
        assert!(!watchers.add(mpsc::channel(1).0));
        ends.pop();
        assert!(watchers.add(mpsc::channel(1).0));
    }
}
