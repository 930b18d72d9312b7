//! The task that owns the engine: takes everything that waits, lets the engine handle it, hands out what came of it. A turn.
//!
//! Invariants: a connection is woken once a turn, and gets all that the turn has for it; records of a turn are one batch.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::access::{Hash, Workspace};
use super::admission::Admission;
use super::client_log::ClientLog;
use super::durable::Durable;
use super::engine::{ConnectionId, Engine, Input, Output, TapAnswer, Ticket};
use super::inbox::{Event, Inbox, Wire};
use super::login_queue::{Claim, LoginQueue};
use crate::heartbeat::{BEAT_INTERVAL, Heartbeat};
use crate::message::Message;
use crate::metrics::Counter;
use crate::mqtt::QoS;
use crate::tasks::{Stop, detach};
use crate::time::{known_unix_ms, now};

/// Bytes of messages that may be on their way to one tap.
const TAP_BYTES: usize = 8 << 20;
/// Messages of the gateway taken in one turn.
const BATCH: usize = 256;
const CLOCK_EVERY: Duration = Duration::from_secs(1);

/// A message for a tap, in the order the broker accepted it.
#[derive(Debug)]
pub struct Forward {
    /// The message.
    pub message: Arc<Message>,
    /// To be reported with [`super::Broker::stored`].
    pub ticket: Option<Ticket>,
    /// Its share of the bytes that may be on the way.
    pub(super) _room: OwnedSemaphorePermit,
}

/// The end of the way to a tap that the broker holds.
#[derive(Debug, Clone)]
pub struct Way {
    /// Takes what the tap is to store.
    pub sender: mpsc::Sender<Forward>,
    /// Counts messages that nobody waits for and that found no room.
    pub dropped: Arc<Counter>,
}

/// The way to one tap, bounded in messages and in bytes.
#[derive(Debug)]
pub(super) struct TapQueue {
    sender: mpsc::Sender<Forward>,
    dropped: Arc<Counter>,
    room: Arc<Semaphore>,
}

impl TapQueue {
    pub(super) fn new(Way { sender, dropped }: Way) -> Self {
        Self {
            sender,
            dropped,
            room: Arc::new(Semaphore::new(TAP_BYTES)),
        }
    }

    /// False if there is no room. QoS 0 may use half of the queue only: it must never push out what is promised.
    fn offer(&self, message: Arc<Message>, ticket: Option<Ticket>) -> bool {
        let may_be_lost = ticket.is_none() && message.qos == QoS::AtMostOnce;
        if may_be_lost
            && (self.sender.capacity() < self.sender.max_capacity() / 2
                || self.room.available_permits() < TAP_BYTES / 2)
        {
            return false;
        }
        let size = message.weight().clamp(1, TAP_BYTES / 2);
        let Ok(room) = self
            .room
            .clone()
            .try_acquire_many_owned(u32::try_from(size).unwrap_or(u32::MAX))
        else {
            return false;
        };
        self.sender
            .try_send(Forward {
                message,
                ticket,
                _room: room,
            })
            .is_ok()
    }
}

/// Passwords are compared one at a time, each in the same memory: one core, and as much memory as the hash that needs most, are what
/// logins may take, however many come. `wellhead passwd` makes hashes that need 19 MiB.
#[derive(Debug, Default)]
pub(super) struct Logins {
    waiting: LoginQueue<(Hash, Bytes)>,
    /// Whose password is being compared.
    current: Option<Claim>,
    /// Locked by the one comparison that runs.
    workspace: Arc<Mutex<Workspace>>,
}

/// The task that owns the engine.
#[derive(Debug)]
pub struct Driver {
    pub(super) engine: Engine,
    pub(super) durable: Option<Durable>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) live: mpsc::Receiver<Message>,
    pub(super) inbound: mpsc::Receiver<(Message, oneshot::Sender<()>)>,
    pub(super) receipts: HashMap<u64, oneshot::Sender<()>>,
    pub(super) next_receipt: u64,
    pub(super) connections: HashMap<ConnectionId, Arc<Wire>>,
    pub(super) taps: Vec<TapQueue>,
    pub(super) admission: Arc<Admission>,
    pub(super) logins: Logins,
    pub(super) log: Arc<ClientLog>,
    pub(super) clock_at: Instant,
    pub(super) heartbeat: Heartbeat,
    pub(super) is_stopping: bool,
}

impl Driver {
    /// Runs until the stop order was given and every connection is closed.
    pub async fn run(mut self, mut stop: Stop) {
        let mut events = Vec::new();
        let mut messages = Vec::with_capacity(BATCH);
        let mut inbound = Vec::with_capacity(BATCH);
        let mut alarm = pin!(tokio::time::sleep_until(now().into()));
        while !(self.is_stopping && self.connections.is_empty()) {
            let come_round = now() + BEAT_INTERVAL;
            let deadline = self
                .engine
                .next_deadline()
                .map_or(come_round, |deadline| deadline.min(come_round))
                .into();
            if alarm.deadline() != deadline {
                alarm.as_mut().reset(deadline);
            }
            let goes_on =
                self.engine.has_work() || self.durable.as_ref().is_some_and(Durable::wants_turns);
            tokio::select! {
                () = self.inbox.ready.notified() => {}
                _ = self.live.recv_many(&mut messages, BATCH), if !self.live.is_closed() || !self.live.is_empty() => {}
                _ = self.inbound.recv_many(&mut inbound, BATCH), if !self.inbound.is_closed() || !self.inbound.is_empty() => {}
                () = alarm.as_mut() => {}
                () = std::future::ready(()), if goes_on => {}
                () = stop.wait(), if !self.is_stopping => {
                    self.is_stopping = true;
                    self.inbox.close();
                    self.engine.shut_down(now());
                }
            }
            let at = now();
            self.heartbeat.beat(at);
            self.set_clock(at);
            self.inbox.take(&mut events);
            for event in events.drain(..) {
                self.take(event, at);
            }
            for message in messages.drain(..) {
                self.engine.handle(Input::Publish(message), at);
            }
            for (message, safe) in inbound.drain(..) {
                self.next_receipt += 1;
                self.receipts.insert(self.next_receipt, safe);
                self.engine
                    .handle(Input::Inbound(self.next_receipt, message), at);
            }
            self.engine.tick(at);
            self.engine.go_on(at);
            self.dispatch(at);
            if self.is_stopping {
                // Nobody can publish any more, wills included: the forwarders see the end of their queues.
                self.taps.clear();
            }
        }
    }

    /// Wall time, and what only the driver can count.
    fn set_clock(&mut self, at: Instant) {
        if at >= self.clock_at {
            self.clock_at = at + CLOCK_EVERY;
            self.log.settle(at);
            self.engine.settle_notices(at);
            self.engine.set_clock(at, known_unix_ms());
            let traffic = self.engine.traffic_mut();
            traffic.bytes_received = self
                .inbox
                .bytes_received
                .load(std::sync::atomic::Ordering::Relaxed);
            traffic.memory = crate::metrics::resident_bytes().unwrap_or(0);
            traffic.memory_maximum = traffic.memory_maximum.max(traffic.memory);
        }
    }

    fn take(&mut self, event: Event, at: Instant) {
        let input = match event {
            Event::Opened(wire, _) if self.is_stopping => {
                wire.order(|orders| orders.closes = true);
                return;
            }
            Event::Opened(wire, peer) => {
                let id = wire.id;
                self.connections.insert(id, wire);
                Input::Opened(id, peer)
            }
            Event::Packet(id, packet) => Input::Packet(id, packet),
            Event::Invalid(id, error) => Input::Invalid(id, error),
            Event::Closed(id) => {
                self.connections.remove(&id);
                self.logins.waiting.remove(id);
                Input::Closed(id)
            }
            Event::Written(id, bytes) => Input::Written(id, bytes),
            Event::Stored(ticket, answer) => Input::Stored { ticket, answer },
            Event::Verified(id, is_right) => {
                let claim = self.logins.current.take();
                self.verify_next();
                if let Some(claim) = claim.filter(|_| !is_right && !self.engine.has_connection(id))
                {
                    // Who does not wait for the answer has tried all the same.
                    self.admission.login_failed(claim.address, at);
                }
                Input::Verified(id, is_right)
            }
            Event::Durable(position) => match self
                .durable
                .as_mut()
                .and_then(|durable| durable.reported(position))
            {
                Some(position) => Input::Durable(position),
                None => return,
            },
            Event::Changed(change) => {
                self.engine.change(*change, at);
                return;
            }
            Event::EndSession(client_id, reply) => {
                // Whoever asked may be gone.
                let _ = reply.send(self.engine.end_session(&client_id, at));
                return;
            }
            Event::DiskWorks => {
                if let Some(durable) = &mut self.durable {
                    durable.works_again(&mut self.engine);
                }
                return;
            }
        };
        self.engine.handle(input, at);
    }

    fn dispatch(&mut self, at: Instant) {
        loop {
            let outputs: Vec<Output> = self.engine.take_outputs().collect();
            while let Some((id, bytes)) = self.engine.take_output() {
                if let Some(wire) = self.connections.get(&id) {
                    wire.order(|orders| orders.output.append(bytes));
                }
            }
            if outputs.is_empty() {
                break;
            }
            for output in outputs {
                self.obey(output, at);
            }
        }
        if let Some(durable) = &mut self.durable {
            durable.take(&mut self.engine);
        }
    }

    fn obey(&mut self, output: Output, at: Instant) {
        match output {
            Output::Pause(id) => self.order(id, |orders| orders.is_paused = true),
            Output::Resume(id) => self.order(id, |orders| orders.is_paused = false),
            Output::Close(id, mut rest) => self.order(id, |orders| {
                orders.output.append(&mut rest);
                orders.closes = true;
            }),
            Output::Forward {
                tap,
                message,
                ticket,
            } => self.forward(tap, message, ticket, at),
            Output::Verify {
                connection,
                address,
                user,
                hash,
                password,
            } => {
                self.verify(
                    Claim {
                        connection,
                        address,
                        user,
                    },
                    hash,
                    password,
                    at,
                );
            }
            Output::Notice(notice) => super::client_log::notice(&notice),
            Output::LeftOut { event, count } => super::client_log::left_out(event, count),
            Output::Note(note) => self.log.note(&note, at),
            Output::LoginFailed(address) => self.admission.login_failed(address, at),
            Output::Safe(receipt) => {
                // An uplink that is gone asks its remote again.
                self.receipts.remove(&receipt).map(|safe| safe.send(()));
            }
            Output::NotSafe(receipt) => drop(self.receipts.remove(&receipt)),
        }
    }

    fn order(&self, id: ConnectionId, change: impl FnOnce(&mut super::inbox::Orders)) {
        if let Some(wire) = self.connections.get(&id) {
            wire.order(change);
        }
    }

    /// Lets a login wait for its turn; where there is no room, somebody is told that the broker is busy.
    fn verify(&mut self, claim: Claim, hash: Hash, password: Bytes, at: Instant) {
        if let Some(busy) = self.logins.waiting.push(claim, (hash, password)) {
            self.engine.handle(Input::Busy(busy), at);
        }
        self.verify_next();
    }

    fn verify_next(&mut self) {
        if self.logins.current.is_some() {
            return;
        }
        let Some((claim, (hash, password))) = self.logins.waiting.pop() else {
            return;
        };
        let (inbox, workspace, id) = (
            self.inbox.clone(),
            self.logins.workspace.clone(),
            claim.connection,
        );
        self.logins.current = Some(claim);
        detach(async move {
            let compare = move || {
                hash.matches(
                    &password,
                    &mut workspace.lock().unwrap_or_else(PoisonError::into_inner),
                )
            };
            let is_right = tokio::task::spawn_blocking(compare).await.unwrap_or(false);
            inbox.push(Event::Verified(id, is_right));
        });
    }

    fn forward(&mut self, tap: usize, message: Arc<Message>, ticket: Option<Ticket>, at: Instant) {
        let taken = self
            .taps
            .get(tap)
            .is_some_and(|queue| queue.offer(message, ticket));
        match (taken, ticket) {
            (true, _) => {}
            (false, Some(ticket)) => self.engine.handle(
                Input::Stored {
                    ticket,
                    answer: TapAnswer::Full,
                },
                at,
            ),
            (false, None) => {
                self.engine.count_dropped();
                self.taps
                    .get(tap)
                    .into_iter()
                    .for_each(|queue| queue.dropped.count());
            }
        }
    }
}
