//! Events from connections to the engine, and its orders to each of them. Locks are held for a few
//! instructions, or while the packets of one read are decoded.
//!
//! Invariants: connections stop reading while the inbox is full; what the engine has for a
//! connection is bounded by the engine.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytestring::ByteString;
use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, oneshot};

use super::engine::{Change, ConnectionId, ForwardAnswer, Lsn, OutputBuffer, Peer, Ticket};
use crate::metrics::{Counter, MetricSet};
use crate::mqtt::{DecodeError, Packet};

/// Events that may wait for the engine; beyond it connections stop reading.
const MOST_EVENTS: usize = 16 * 1024;

/// An event for the engine.
#[derive(Debug)]
pub(super) enum InboxEvent {
    Opened(Arc<ConnectionHandle>, Peer),
    Packet(ConnectionId, Packet),
    Invalid(ConnectionId, DecodeError),
    Closed(ConnectionId),
    Written(ConnectionId, usize),
    Stored(Ticket, ForwardAnswer),
    Verified(ConnectionId, bool),
    Durable(Lsn),
    /// The disk takes records again after a long time.
    DiskWorks,
    Changed(Box<Change>),
    /// To be answered with whether there was one.
    EndSession(ByteString, oneshot::Sender<bool>),
    /// To be answered with what can be measured.
    Measure(oneshot::Sender<MetricSet>),
}

#[derive(Debug, Default)]
struct InboxQueue {
    events: Vec<InboxEvent>,
    /// Of connections that want to read.
    wakers: Vec<Waker>,
    /// Times the engine has taken everything.
    turn: u64,
}

/// The way to the engine.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: Mutex<InboxQueue>,
    is_closed: AtomicBool,
    pub(super) ready: Notify,
    next_connection: AtomicU64,
    pub(super) bytes_received: Arc<Counter>,
    /// Of large packets that are not complete.
    pub(super) partial_bytes: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole between statements, whatever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    pub(super) fn push(&self, event: InboxEvent) {
        let mut waiting = lock(&self.waiting);
        let is_first = waiting.events.is_empty();
        waiting.events.push(event);
        drop(waiting);
        if is_first {
            self.ready.notify_one();
        }
    }

    /// Lets a connection append all that one read has brought. The turn of the engine before it
    /// takes that; `None` if it is nothing.
    pub(super) fn push_all(&self, append: impl FnOnce(&mut Vec<InboxEvent>)) -> Option<u64> {
        let mut waiting = lock(&self.waiting);
        let before = waiting.events.len();
        append(&mut waiting.events);
        let is_more = waiting.events.len() > before;
        let turn = waiting.turn;
        drop(waiting);
        if is_more && before == 0 {
            self.ready.notify_one();
        }
        is_more.then_some(turn)
    }

    /// The turn of the engine if it has taken what was pushed at `turn`.
    pub(super) fn turn_after(&self, turn: u64) -> Option<u64> {
        Some(lock(&self.waiting).turn).filter(|now| *now > turn)
    }

    /// Ready when the engine has taken what was pushed at `turn`.
    pub(super) fn poll_turn(&self, cx: &Context<'_>, turn: u64) -> Poll<u64> {
        let mut waiting = lock(&self.waiting);
        if waiting.turn > turn {
            return Poll::Ready(waiting.turn);
        }
        waiting.wakers.push(cx.waker().clone());
        Poll::Pending
    }

    /// Ready when there is room for what a read brings.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut waiting = lock(&self.waiting);
        if waiting.events.len() < MOST_EVENTS {
            return Poll::Ready(());
        }
        waiting.wakers.push(cx.waker().clone());
        Poll::Pending
    }

    /// Everything that waits, into `events`, which must be empty.
    pub(super) fn take(&self, events: &mut Vec<InboxEvent>) {
        let mut waiting = lock(&self.waiting);
        std::mem::swap(&mut waiting.events, events);
        waiting.turn += 1;
        let wakers = std::mem::take(&mut waiting.wakers);
        drop(waiting);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The engine is gone, or does not take connections any more.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    /// Tells the engine of a connection; `None` if it is gone.
    pub(super) fn open(&self, peer: Peer) -> Option<Arc<ConnectionHandle>> {
        if self.is_closed.load(Ordering::Acquire) {
            return None;
        }
        let id = 1 + self.next_connection.fetch_add(1, Ordering::Relaxed);
        let wire = Arc::new(ConnectionHandle {
            id,
            state: Mutex::default(),
            task: AtomicWaker::new(),
        });
        self.push(InboxEvent::Opened(wire.clone(), peer));
        Some(wire)
    }
}

/// The engine's end of one connection.
#[derive(Debug)]
pub(super) struct ConnectionHandle {
    pub(super) id: ConnectionId,
    state: Mutex<ConnectionOrders>,
    task: AtomicWaker,
}

/// The orders of the engine to a connection.
#[derive(Debug, Default)]
pub(super) struct ConnectionOrders {
    pub(super) output: OutputBuffer,
    pub(super) is_paused: bool,
    /// Write what is there, then close.
    pub(super) closes: bool,
}

impl ConnectionHandle {
    /// Changes the orders and wakes the connection.
    pub(super) fn order(&self, change: impl FnOnce(&mut ConnectionOrders)) {
        change(&mut lock(&self.state));
        self.task.wake();
    }

    /// Moves what is to be written behind `output`. Returns whether nothing may be read, and
    /// whether it is over.
    pub(super) fn collect(&self, output: &mut OutputBuffer) -> (bool, bool) {
        let mut state = lock(&self.state);
        output.append(&mut state.output);
        (state.is_paused, state.closes)
    }

    /// The connection's task is woken when the orders change.
    pub(super) fn register(&self, cx: &Context<'_>) {
        self.task.register(cx.waker());
    }
}
