//! The embedded MQTT broker: a pure engine, one task that drives it, a journal, listeners and connections.
//!
//! Invariants:
//! * One task owns the [`engine::Engine`]; everybody else reaches it through one bounded inbox.
//! * Nothing a connection does makes another one wait: what the engine has for it is bounded, and a connection that does not take it
//!   is closed.
//! * The broker never waits for an outbox or a disk: a client of whom much waits for one is read no further, everybody else goes on.
//!   What a full queue to an outbox cannot take is not acknowledged (QoS 1 and 2) or dropped and counted (QoS 0).
//!
//! What it does not do: it does not know what an uplink or an instrument is.

pub mod access;
pub mod admission;
mod client_log;
mod driver;
pub mod durable;
pub mod engine;
mod hash;
mod inbox;
mod lockout;
mod login_queue;
pub mod net;
pub mod scram;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::heartbeat::Heartbeat;
use crate::message::Message;
use crate::store::StoreError;
use crate::time::now;
use admission::Admission;
use client_log::ClientLog;
use driver::TapQueue;
pub use driver::{Driver, Forward, Way};
pub use engine::TapAnswer;
use engine::{Change, Engine, Ticket};
use inbox::{Event, Inbox};

/// The driver never waits for anybody.
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
    /// Says that a forwarded message is stored, or why it could not be.
    pub fn stored(&self, ticket: Ticket, answer: TapAnswer) {
        self.inbox.push(Event::Stored(ticket, answer));
    }

    /// Ends the session of a client identifier, and its connection. False if there is none; an error if the broker is stopping.
    pub async fn end_session(&self, client_id: &str) -> Result<bool, oneshot::error::RecvError> {
        let (reply, told) = oneshot::channel();
        self.inbox.push(Event::EndSession(client_id.into(), reply));
        told.await
    }

    /// Tells what is different from here on.
    pub fn change(&self, change: Change) {
        self.inbox.push(Event::Changed(Box::new(change)));
    }
}

/// What makes up a running broker.
#[derive(Debug)]
pub struct Parts {
    /// For listeners and forwarders.
    pub broker: Broker,
    /// Takes the messages of this gateway to local clients.
    pub live: mpsc::Sender<Message>,
    /// Takes the messages of remote brokers; answered when they are safe here.
    pub inbound: mpsc::Sender<(Message, oneshot::Sender<()>)>,
    /// The task that must run.
    pub driver: Driver,
    /// Of the driver, and of the thread of its journal.
    pub heartbeats: Vec<Heartbeat>,
    /// Tells when the journal is closed.
    pub closed: Option<oneshot::Receiver<()>>,
}

/// Where the engine of a broker comes from.
#[derive(Debug)]
pub enum Source {
    /// Nothing survives it.
    Memory(Box<Engine>),
    /// From its journal.
    Disk(Box<durable::Opened>),
}

/// A broker. `taps` stand in the order of the engine's taps.
pub fn broker(source: Source, admission: Admission, taps: Vec<Way>) -> Result<Parts, StoreError> {
    let inbox = Arc::new(Inbox::default());
    let (admission, log) = (Arc::new(admission), Arc::new(ClientLog::default()));
    let (live_sender, live) = mpsc::channel(INPUT_QUEUE);
    let (inbound_sender, inbound) = mpsc::channel(INPUT_QUEUE);
    let (engine, durable, closed) = match source {
        Source::Memory(engine) => (*engine, None, None),
        Source::Disk(opened) => {
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
    let driver = Driver {
        engine,
        durable,
        inbox: inbox.clone(),
        live,
        inbound,
        receipts: HashMap::new(),
        next_receipt: 0,
        connections: HashMap::new(),
        taps: taps.into_iter().map(TapQueue::new).collect(),
        admission: admission.clone(),
        logins: driver::Logins::default(),
        log: log.clone(),
        clock_at: now(),
        heartbeat,
        is_stopping: false,
    };
    Ok(Parts {
        broker: Broker {
            inbox,
            admission,
            log,
        },
        live: live_sender,
        inbound: inbound_sender,
        driver,
        heartbeats,
        closed,
    })
}
