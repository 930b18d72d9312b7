//! The embedded MQTT broker: a pure engine, one task that drives it, listeners and connections.
//!
//! Invariants:
//! * One task owns the [`engine::Engine`]; everybody else reaches it through one bounded queue.
//! * Nothing a connection does makes another one wait: what the engine sends is bounded by credits, and a connection that does
//!   not take it is closed.
//! * The broker never waits for an outbox: a client of whom much waits for one is read no further, everybody else goes on. What a
//!   full queue to an outbox cannot take is not acknowledged (QoS 1 and 2) or dropped and counted (QoS 0).
//!
//! What it does not do: it does not know what an uplink or an instrument is.

pub mod engine;
pub mod net;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::message::Message;
use crate::mqtt::{Packet, QoS};
use crate::tasks::Stop;
use crate::time::now;
use engine::{ConnectionId, Engine, Input, Output, Ticket};

/// Inputs that may wait for the engine; beyond it connections stop reading.
const INPUT_QUEUE: usize = 1024;
/// Packets that may wait for one connection: its credits, and an answer to everything it can have sent meanwhile.
const CONNECTION_QUEUE: usize = 2048;
/// Bytes of messages that may be on their way to one tap.
const TAP_BYTES: usize = 8 << 20;
/// Inputs taken in one turn.
const BATCH: usize = 256;

/// What the engine has for a connection.
#[derive(Debug)]
pub(crate) enum ToConnection {
    Packet(Packet),
    Pause,
    Resume,
    Close,
}

#[derive(Debug)]
pub(crate) enum Event {
    Opened(ConnectionId, mpsc::Sender<ToConnection>),
    Input(Input),
}

/// A message for a tap, in the order the broker accepted it.
#[derive(Debug)]
pub struct Forward {
    /// The message.
    pub message: Arc<Message>,
    /// To be reported with [`Broker::stored`].
    pub ticket: Option<Ticket>,
    /// Its share of the bytes that may be on the way.
    pub(crate) _room: OwnedSemaphorePermit,
}

/// The handle of a running broker; cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker {
    events: mpsc::Sender<Event>,
    next_connection: Arc<AtomicU64>,
}

impl Broker {
    /// Tells that a forwarded message is stored, or could not be.
    pub async fn stored(&self, ticket: Ticket, accepted: bool) {
        // A broker that is gone has nobody left to acknowledge to.
        let _ = self.events.send(Event::Input(Input::Stored { ticket, accepted })).await;
    }

    pub(crate) async fn opened(&self) -> Option<(ConnectionId, mpsc::Receiver<ToConnection>)> {
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(CONNECTION_QUEUE);
        self.events.send(Event::Opened(id, sender)).await.ok()?;
        Some((id, receiver))
    }

    pub(crate) async fn input(&self, input: Input) -> bool {
        self.events.send(Event::Input(input)).await.is_ok()
    }
}

/// The task that owns the engine.
#[derive(Debug)]
pub struct Driver {
    engine: Engine,
    events: mpsc::Receiver<Event>,
    live: mpsc::Receiver<Message>,
    inbound: mpsc::Receiver<(Message, oneshot::Sender<()>)>,
    connections: HashMap<ConnectionId, mpsc::Sender<ToConnection>>,
    taps: Vec<TapQueue>,
    stopping: bool,
}

/// The way to one tap, bounded in messages and in bytes.
#[derive(Debug)]
struct TapQueue {
    sender: mpsc::Sender<Forward>,
    room: Arc<Semaphore>,
}

/// What makes up a running broker.
#[derive(Debug)]
pub struct Parts {
    /// For listeners and forwarders.
    pub broker: Broker,
    /// Takes the messages of this gateway to local clients.
    pub live: mpsc::Sender<Message>,
    /// Takes the messages of remote brokers; answered when the engine has them.
    pub inbound: mpsc::Sender<(Message, oneshot::Sender<()>)>,
    /// The task that must run.
    pub driver: Driver,
}

/// A broker. `taps` stand in the order of the engine's taps.
pub fn broker(engine: Engine, taps: Vec<mpsc::Sender<Forward>>) -> Parts {
    let (sender, events) = mpsc::channel(INPUT_QUEUE);
    let (live_sender, live) = mpsc::channel(INPUT_QUEUE);
    let (inbound_sender, inbound) = mpsc::channel(INPUT_QUEUE);
    let broker = Broker { events: sender, next_connection: Arc::default() };
    let taps = taps.into_iter().map(|sender| TapQueue { sender, room: Arc::new(Semaphore::new(TAP_BYTES)) }).collect();
    let driver = Driver { engine, events, live, inbound, connections: HashMap::new(), taps, stopping: false };
    Parts { broker, live: live_sender, inbound: inbound_sender, driver }
}

impl TapQueue {
    /// False if there is no room. QoS 0 may use half of the queue only: it must never push out what is promised.
    fn offer(&self, message: Arc<Message>, ticket: Option<Ticket>) -> bool {
        let may_be_lost = ticket.is_none() && message.qos == QoS::AtMostOnce;
        if may_be_lost && (self.sender.capacity() < self.sender.max_capacity() / 2 || self.room.available_permits() < TAP_BYTES / 2) {
            return false;
        }
        let size = message.payload.len().clamp(1, TAP_BYTES / 2);
        let Ok(room) = self.room.clone().try_acquire_many_owned(u32::try_from(size).unwrap_or(u32::MAX)) else { return false };
        self.sender.try_send(Forward { message, ticket, _room: room }).is_ok()
    }
}

impl Driver {
    /// Runs until the stop order was given, every connection is closed and every handle is gone.
    pub async fn run(mut self, mut stop: Stop) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut messages = Vec::with_capacity(BATCH);
        let mut inbound = Vec::with_capacity(BATCH);
        loop {
            let deadline = self.engine.next_deadline().unwrap_or_else(|| now() + std::time::Duration::from_secs(3600));
            tokio::select! {
                count = self.events.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                }
                _ = self.live.recv_many(&mut messages, BATCH), if !self.live.is_closed() || !self.live.is_empty() => {}
                _ = self.inbound.recv_many(&mut inbound, BATCH), if !self.inbound.is_closed() || !self.inbound.is_empty() => {}
                () = tokio::time::sleep_until(deadline.into()) => {}
                () = stop.wait(), if !self.stopping => {
                    self.stopping = true;
                    self.engine.shut_down();
                }
            }
            let at = now();
            for event in batch.drain(..) {
                self.take(event, at);
            }
            for message in messages.drain(..) {
                self.engine.handle(Input::Publish(Arc::new(message)), at);
            }
            for (message, safe) in inbound.drain(..) {
                self.engine.handle(Input::Publish(Arc::new(message)), at);
                // An uplink that is gone asks its remote again.
                let _ = safe.send(());
            }
            self.engine.tick(at);
            self.dispatch(at);
            if self.stopping {
                // Nobody can publish any more: the forwarders see the end of their queues.
                self.taps.clear();
            }
        }
    }

    fn take(&mut self, event: Event, at: std::time::Instant) {
        let input = match event {
            // Too late: its task sees the end of the channel and closes the socket.
            Event::Opened(..) if self.stopping => return,
            Event::Opened(id, sender) => {
                self.connections.insert(id, sender);
                Input::Opened(id)
            }
            Event::Input(input) => input,
        };
        if let Input::Closed(id) = input {
            self.connections.remove(&id);
        }
        self.engine.handle(input, at);
    }

    fn dispatch(&mut self, at: std::time::Instant) {
        loop {
            let outputs: Vec<Output> = self.engine.take_outputs().collect();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    Output::Pause(id) => self.send(id, ToConnection::Pause),
                    Output::Resume(id) => self.send(id, ToConnection::Resume),
                    Output::Send(id, packet) => self.send(id, ToConnection::Packet(packet)),
                    Output::Close(id) => {
                        self.send(id, ToConnection::Close);
                        self.connections.remove(&id);
                    }
                    Output::Forward { tap, message, ticket } => self.forward(tap, message, ticket, at),
                }
            }
        }
    }

    fn send(&mut self, id: ConnectionId, what: ToConnection) {
        let refused = self.connections.get(&id).is_some_and(|connection| connection.try_send(what).is_err());
        if refused {
            // Its task sees the end of the channel and closes the socket; the engine hears of it as Closed.
            self.connections.remove(&id);
            self.engine.count_dropped();
        }
    }

    fn forward(&mut self, tap: usize, message: Arc<Message>, ticket: Option<Ticket>, at: std::time::Instant) {
        let taken = self.taps.get(tap).is_some_and(|queue| queue.offer(message, ticket));
        match (taken, ticket) {
            (true, _) => {}
            (false, Some(ticket)) => self.engine.handle(Input::Stored { ticket, accepted: false }, at),
            (false, None) => self.engine.count_dropped(),
        }
    }
}
