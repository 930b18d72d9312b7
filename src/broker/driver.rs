//! The task that owns the engine. In each turn it gives the engine everything that waits, and hands
//! out what the engine has for others.
//!
//! Invariants: a connection is woken once a turn, and gets all that the turn has for it; records of
//! a turn are one batch.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::access::{Hash, Workspace};
use super::admission::Admission;
use super::client_log::ClientLog;
use super::durable::Durable;
use super::engine::{ConnectionId, Engine, ForwardAnswer, Input, Lsn, Output, Peer, Ticket};
use super::forward_queue::{ForwardQueues, ForwardSenders};
use super::inbox::{ConnectionHandle, Inbox, InboxEvent};
use super::login_queue::{Claim, LoginQueue};
use crate::heartbeat::{BEAT_INTERVAL, Heartbeat};
use crate::message::{GatewayMessage, InboundMessage, Message};
use crate::reading::Timestamp;
use crate::route::RouteTarget;
use crate::tasks::{Stop, detach};
use crate::time::{known_unix_ms, moment, now};

/// Messages of the gateway taken in one turn.
const BATCH: usize = 256;
const CLOCK_EVERY: Duration = Duration::from_secs(1);

/// Passwords are compared one at a time, in the same memory: logins take one core, and as much
/// memory as the hash that needs most, however many come. `wellhead passwd` makes hashes that need
/// 19 MiB.
#[derive(Debug, Default)]
struct Logins {
    waiting: LoginQueue<(Hash, Bytes)>,
    /// The login whose password is being compared.
    current: Option<Claim>,
    /// Locked by the one comparison that runs.
    workspace: Arc<Mutex<Workspace>>,
}

/// The queues between the gateway and the broker.
#[derive(Debug)]
pub(super) struct Queues {
    /// Messages of this gateway to local clients.
    pub(super) live: mpsc::Receiver<GatewayMessage>,
    /// Messages of remote brokers, each answered when it is safe here.
    pub(super) inbound: mpsc::Receiver<(InboundMessage, oneshot::Sender<()>)>,
    pub(super) forwards: ForwardSenders,
}

/// The inputs that wait for the engine; emptied once a turn.
#[derive(Debug, Default)]
struct Turn {
    events: Vec<InboxEvent>,
    messages: Vec<GatewayMessage>,
    inbound: Vec<(InboundMessage, oneshot::Sender<()>)>,
}

/// The task that owns the engine.
#[derive(Debug)]
pub struct BrokerDriver {
    engine: Engine,
    durable: Option<Durable>,
    inbox: Arc<Inbox>,
    live: mpsc::Receiver<GatewayMessage>,
    inbound: mpsc::Receiver<(InboundMessage, oneshot::Sender<()>)>,
    replies: HashMap<u64, oneshot::Sender<()>>,
    next_reply: u64,
    connections: HashMap<ConnectionId, Arc<ConnectionHandle>>,
    /// `None` once the broker stops.
    forwards: Option<ForwardQueues>,
    admission: Arc<Admission>,
    logins: Logins,
    log: Arc<ClientLog>,
    clock_at: Instant,
    heartbeat: Heartbeat,
    is_stopping: bool,
}

impl BrokerDriver {
    pub(super) fn new(
        mut engine: Engine,
        durable: Option<Durable>,
        broker: &super::Broker,
        queues: Queues,
        heartbeat: Heartbeat,
    ) -> Self {
        engine.count_bytes_in(Arc::clone(&broker.inbox.bytes_received));
        Self {
            engine,
            durable,
            inbox: broker.inbox.clone(),
            live: queues.live,
            inbound: queues.inbound,
            replies: HashMap::new(),
            next_reply: 0,
            connections: HashMap::new(),
            forwards: Some(ForwardQueues::new(queues.forwards)),
            admission: broker.admission.clone(),
            logins: Logins::default(),
            log: broker.log.clone(),
            clock_at: now(),
            heartbeat,
            is_stopping: false,
        }
    }

    /// Runs until the stop order was given and every connection is closed.
    pub async fn run(mut self, mut stop: Stop) {
        let mut turn = Turn::default();
        let mut alarm = pin!(tokio::time::sleep_until(now().into()));
        while !(self.is_stopping && self.connections.is_empty()) {
            let deadline = self.deadline().into();
            if alarm.deadline() != deadline {
                alarm.as_mut().reset(deadline);
            }
            let has_work =
                self.engine.has_work() || self.durable.as_ref().is_some_and(Durable::wants_turns);
            tokio::select! {
                () = self.inbox.ready.notified() => {}
                _ = self.live.recv_many(&mut turn.messages, BATCH), if !self.live.is_closed() || !self.live.is_empty() => {}
                _ = self.inbound.recv_many(&mut turn.inbound, BATCH), if !self.inbound.is_closed() || !self.inbound.is_empty() => {}
                () = alarm.as_mut() => {}
                () = std::future::ready(()), if has_work => {}
                () = stop.wait(), if !self.is_stopping => {
                    self.is_stopping = true;
                    self.inbox.close();
                    self.engine.shut_down(now());
                }
            }
            self.take_turn(&mut turn, now());
        }
    }

    /// When the engine has something to do, or the heartbeat is due.
    fn deadline(&self) -> Instant {
        let heartbeat = now() + BEAT_INTERVAL;
        self.engine
            .next_deadline()
            .map_or(heartbeat, |deadline| deadline.min(heartbeat))
    }

    /// Gives the engine everything that waits, and hands out what it has for others.
    fn take_turn(&mut self, turn: &mut Turn, at: Instant) {
        self.heartbeat.beat(at);
        self.set_clock(at);
        self.inbox.take(&mut turn.events);
        for event in turn.events.drain(..) {
            self.process_event(event, at);
        }
        let wall_clock = Timestamp::from(moment());
        for message in turn.messages.drain(..) {
            let message = message.into_message(wall_clock);
            self.engine.handle(Input::Publish(message), at);
        }
        for (inbound, safe) in turn.inbound.drain(..) {
            self.next_reply += 1;
            self.replies.insert(self.next_reply, safe);
            let input = Input::Inbound {
                reply: self.next_reply,
                message: inbound.message,
                exact: inbound.exact,
            };
            self.engine.handle(input, at);
        }
        self.engine.tick(at);
        self.engine.fetch_retained(at);
        self.dispatch(at);
        if self.is_stopping {
            // Nothing is published any more, wills included: the forwarders see the end of their
            // queues.
            self.forwards = None;
        }
    }

    /// Wall time, and what only the driver can measure.
    fn set_clock(&mut self, at: Instant) {
        if at >= self.clock_at {
            self.clock_at = at + CLOCK_EVERY;
            self.log.settle(at);
            self.engine.settle_notices(at);
            self.engine.set_clock(at, known_unix_ms());
            let memory = crate::metrics::resident_bytes().unwrap_or(0);
            self.engine.set_memory(memory);
        }
    }

    /// Hands an event to the engine, or does what it asks for.
    fn process_event(&mut self, event: InboxEvent, at: Instant) {
        let input = match event {
            InboxEvent::Opened(wire, peer) => self.opened(wire, peer),
            InboxEvent::Packet(id, packet) => Some(Input::Packet(id, packet)),
            InboxEvent::Invalid(id, error) => Some(Input::Invalid(id, error)),
            InboxEvent::Closed(id) => {
                self.connections.remove(&id);
                self.logins.waiting.remove(id);
                Some(Input::Closed(id))
            }
            InboxEvent::Written(id, bytes) => Some(Input::Written(id, bytes)),
            InboxEvent::Stored(ticket, answer) => Some(Input::Stored { ticket, answer }),
            InboxEvent::Verified(id, is_right) => {
                self.verified(id, is_right, at);
                Some(Input::Verified(id, is_right))
            }
            InboxEvent::Durable(position) => self.reported(position),
            InboxEvent::Changed(change) => {
                self.engine.change(*change, at);
                None
            }
            InboxEvent::EndSession(client_id, reply) => {
                // The command may have given up waiting.
                let _ = reply.send(self.engine.end_session(&client_id, at));
                None
            }
            InboxEvent::Measure(reply) => {
                // The command may have given up waiting.
                let _ = reply.send(self.engine.measure());
                None
            }
            InboxEvent::DiskWorks => {
                if let Some(durable) = &mut self.durable {
                    durable.recovered(&mut self.engine);
                }
                None
            }
        };
        if let Some(input) = input {
            self.engine.handle(input, at);
        }
    }

    /// A batch is durable, if the engine may rely on it.
    fn reported(&mut self, position: Lsn) -> Option<Input> {
        let reported = self.durable.as_mut()?.reported(position)?;
        Some(Input::Durable(reported))
    }

    /// A connection that was opened after the stop order is closed at once.
    fn opened(&mut self, wire: Arc<ConnectionHandle>, peer: Peer) -> Option<Input> {
        if self.is_stopping {
            wire.order(|orders| orders.closes = true);
            return None;
        }
        let id = wire.id;
        self.connections.insert(id, wire);
        Some(Input::Opened(id, peer))
    }

    /// A password was compared: the next one has its turn. A wrong one counts also if its client
    /// has not waited for the answer.
    fn verified(&mut self, id: ConnectionId, is_right: bool, at: Instant) {
        let claim = self.logins.current.take();
        self.verify_next();
        if let Some(claim) = claim.filter(|_| !is_right && !self.engine.has_connection(id)) {
            self.admission.login_failed(claim.address, at);
        }
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
                self.carry_out(output, at);
            }
        }
        if let Some(durable) = &mut self.durable {
            durable.take(&mut self.engine);
        }
        let mut ended = self.engine.take_ended_receipts();
        if let Some(forwards) = self.forwards.as_ref().filter(|_| !ended.is_empty()) {
            forwards.forget(&mut ended);
        }
    }

    fn carry_out(&mut self, output: Output, at: Instant) {
        match output {
            Output::Pause(id) => self.order(id, |orders| orders.is_paused = true),
            Output::Resume(id) => self.order(id, |orders| orders.is_paused = false),
            Output::Close(id, mut rest) => self.order(id, |orders| {
                orders.output.append(&mut rest);
                orders.closes = true;
            }),
            Output::Forward {
                target,
                message,
                ticket,
            } => self.forward(target, message, ticket, at),
            Output::Verify {
                connection,
                address,
                user,
                hash,
                password,
            } => {
                let claim = Claim {
                    connection,
                    address,
                    user,
                };
                self.verify(claim, hash, password, at);
            }
            Output::Notice(notice) => super::client_log::notice(&notice),
            Output::LeftOut { event, count } => super::client_log::left_out(event, count),
            Output::Note(note) => self.log.note(&note, at),
            Output::LoginFailed(address) => self.admission.login_failed(address, at),
            Output::Safe(reply) => {
                // An uplink that is gone asks its remote again.
                self.replies.remove(&reply).map(|safe| safe.send(()));
            }
            Output::NotSafe(reply) => drop(self.replies.remove(&reply)),
        }
    }

    fn order(&self, id: ConnectionId, change: impl FnOnce(&mut super::inbox::ConnectionOrders)) {
        if let Some(wire) = self.connections.get(&id) {
            wire.order(change);
        }
    }

    /// Lets a login wait for its turn; where there is no room, a client gets "server busy".
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
            inbox.push(InboxEvent::Verified(id, is_right));
        });
    }

    fn forward(
        &mut self,
        target: RouteTarget,
        message: Arc<Message>,
        ticket: Option<Ticket>,
        at: Instant,
    ) {
        let forwards = self.forwards.as_ref();
        let queue = forwards.and_then(|forwards| forwards.to(target.to()));
        if queue.is_some_and(|queue| queue.offer(message, target, ticket)) {
            return;
        }
        if let Some(ticket) = ticket {
            let answer = ForwardAnswer::Full;
            self.engine.handle(Input::Stored { ticket, answer }, at);
        } else {
            queue.into_iter().for_each(|queue| queue.dropped.count());
            self.engine.count_dropped();
        }
    }
}
