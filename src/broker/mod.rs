//! The embedded MQTT broker: a pure engine, one task that drives it, a journal, listeners and
//! connections.
//!
//! Invariants:
//! * One task owns the [`engine::Engine`]; all others reach it through one bounded inbox.
//! * Nothing a connection does makes another one wait: its output is bounded, and a connection that
//!   does not take it is closed.
//! * The broker never waits for an outbox or a disk: a client with much that waits for one is read
//!   no further, all others are served. Messages that a full queue to an outbox cannot take are not
//!   acknowledged (QoS 1 and 2), or dropped and counted (QoS 0).
//!
//! It knows nothing of uplinks and instruments.

pub mod access;
pub mod admission;
mod client_log;
mod driver;
pub mod durable;
pub mod engine;
mod forward_queue;
mod hash;
mod inbox;
mod journal_writer;
mod lockout;
mod login_queue;
pub mod net;
pub mod scram;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::heartbeat::Heartbeat;
use crate::message::{GatewayMessage, InboundMessage};
use crate::metrics::MetricSet;
use crate::store::StoreError;
use crate::time::now;
use admission::Admission;
use client_log::ClientLog;
pub use driver::BrokerDriver;
use driver::Queues;
pub use engine::ForwardAnswer;
use engine::{Change, Engine, Ticket};
pub use forward_queue::{Forward, ForwardSender, ForwardSenders};
use inbox::{Inbox, InboxEvent};

/// The driver waits for nothing but its inputs: longer silence means that it hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages of the gateway that may wait for the engine.
const INPUT_QUEUE: usize = 1024;

/// The handle of a running broker; cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker {
    inbox: Arc<Inbox>,
    admission: Arc<Admission>,
    log: Arc<ClientLog>,
}

impl Broker {
    /// Reports that a forwarded message is stored, or why it could not be.
    pub fn stored(&self, ticket: Ticket, answer: ForwardAnswer) {
        self.inbox.push(InboxEvent::Stored(ticket, answer));
    }

    /// Ends the session of a client identifier, and its connection. False if there is none; an
    /// error if the broker is stopping.
    pub async fn end_session(&self, client_id: &str) -> Result<bool, oneshot::error::RecvError> {
        let (reply, told) = oneshot::channel();
        self.inbox
            .push(InboxEvent::EndSession(client_id.into(), reply));
        told.await
    }

    /// Its counters and its state; an error if it is stopping.
    pub async fn measure(&self) -> Result<MetricSet, oneshot::error::RecvError> {
        let (reply, measured) = oneshot::channel();
        self.inbox.push(InboxEvent::Measure(reply));
        measured.await
    }

    /// Applies a change of permissions and routes.
    pub fn change(&self, change: Change) {
        self.inbox.push(InboxEvent::Changed(Box::new(change)));
    }
}

/// The parts of a running broker.
#[derive(Debug)]
pub struct Parts {
    /// For listeners and forwarders.
    pub broker: Broker,
    /// For messages of this gateway to local clients.
    pub live: mpsc::Sender<GatewayMessage>,
    /// For messages of remote brokers; each is answered when it is safe here.
    pub inbound: mpsc::Sender<(InboundMessage, oneshot::Sender<()>)>,
    /// The task that must run.
    pub driver: BrokerDriver,
    /// Of the driver, and of the thread of its journal.
    pub heartbeats: Vec<Heartbeat>,
    /// Ready when the journal is closed.
    pub closed: Option<oneshot::Receiver<()>>,
}

/// The origin of the engine of a broker.
#[derive(Debug)]
pub enum EngineSource {
    /// Nothing survives it.
    Memory(Box<Engine>),
    /// From its journal.
    Disk(Box<durable::RestoredEngine>),
}

/// Builds a broker. `forwards` are the ways to the destinations of its routes.
pub fn broker(
    source: EngineSource,
    admission: Admission,
    forwards: ForwardSenders,
) -> Result<Parts, StoreError> {
    let inbox = Arc::new(Inbox::default());
    let (live_sender, live) = mpsc::channel(INPUT_QUEUE);
    let (inbound_sender, inbound) = mpsc::channel(INPUT_QUEUE);
    let (engine, durable, closed) = match source {
        EngineSource::Memory(engine) => (*engine, None, None),
        EngineSource::Disk(opened) => {
            let (engine, durable, closed) = opened.start(inbox.clone())?;
            (engine, Some(durable), Some(closed))
        }
    };
    let heartbeat = Heartbeat::new("broker", PATIENCE, now());
    let heartbeats = durable
        .iter()
        .map(|durable| &durable.heartbeat)
        .chain([&heartbeat])
        .cloned()
        .collect();
    let broker = Broker {
        inbox,
        admission: Arc::new(admission),
        log: Arc::default(),
    };
    let queues = Queues {
        live,
        inbound,
        forwards,
    };
    let driver = BrokerDriver::new(engine, durable, &broker, queues, heartbeat);
    Ok(Parts {
        broker,
        live: live_sender,
        inbound: inbound_sender,
        driver,
        heartbeats,
        closed,
    })
}
