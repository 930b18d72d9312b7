//! Who gets a message: the outboxes of the uplinks whose rules take it, the service that writes to
//! instruments, and local clients. Nobody else compares messages with rules.
//!
//! Messages of local clients and of remotes pass the broker, which asks the [`RouteTable`] and
//! holds back its acknowledgement until each [`Destination`] has answered. What the gateway itself
//! publishes goes through a [`Router`].
//!
//! Invariants:
//! * Local clients never hold up a reading; a full outbox makes its sender wait.
//! * A rule that cannot be evaluated does not take a message.

mod bucket;
mod catch_up;
mod condition;
mod formats;
mod local_view;
mod outlet;
mod paced;
mod routes;
mod rule;
mod states;
mod table;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

pub use bucket::{Bucket, EVENLY};
pub use catch_up::{CatchUp, CatchUpOrder, LinkShare};
pub use condition::{Condition, Subject};
pub use formats::{JoinTerms, WrittenAt};
pub use outlet::{OfferError, Outlet};
pub use paced::StateKind;
pub use routes::{Arrival, Inward, Points, Routes, SET, is_of_broker};
pub use rule::Rule;
pub use states::{StateSender, StateTask};
pub use table::{DESTINATION_BITS, Destination, MOST_UPLINKS, RouteTable, RouteTarget, SendTerms};

use local_view::LocalView;
use paced::Paced;
use states::StateQueue;

use crate::message::{GatewayMessage, Message};
use crate::time::now;

/// One uplink, as messages get there.
#[derive(Debug, Clone)]
pub struct RoutedUplink {
    /// Its name.
    pub name: String,
    /// The way into its outbox.
    pub outlet: Outlet,
    /// Whether it is up.
    pub is_up: watch::Receiver<bool>,
}

/// The way of what the gateway itself publishes; cheap to clone.
#[derive(Debug, Clone)]
pub struct Router {
    /// Replaced when the configuration is reloaded.
    table: watch::Receiver<Arc<RouteTable>>,
    outlets: Arc<[Outlet]>,
    states: StateSender,
}

/// What became of a message of the gateway itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteReceipt {
    /// Local clients get it later, or a newer one of its topic in its place: the broker is busy.
    pub is_delayed: bool,
    /// Outboxes that had no room for it.
    pub refused: u64,
}

impl Router {
    /// Of these uplinks, in the order of the table. `live` takes messages to local clients; `None`
    /// without a broker. `status_every` is the least time between two messages of a topic below
    /// `$SYS` to a remote. The tasks are to be run, one for each uplink.
    pub fn new(
        uplinks: Vec<RoutedUplink>,
        table: watch::Receiver<Arc<RouteTable>>,
        live: Option<mpsc::Sender<GatewayMessage>>,
        status_every: Duration,
    ) -> (Self, Vec<StateTask>) {
        let task = |(index, uplink): (usize, &RoutedUplink)| StateTask {
            queue: StateQueue::new(Paced::new(status_every, &uplink.name, now())),
            outlet: uplink.outlet.clone(),
            uplink: index,
            table: table.clone(),
            is_up: uplink.is_up.clone(),
        };
        let tasks: Vec<StateTask> = uplinks.iter().enumerate().map(task).collect();
        let queues = tasks.iter().map(|task| task.queue.clone()).collect();
        let router = Self {
            outlets: uplinks.into_iter().map(|uplink| uplink.outlet).collect(),
            states: StateSender { live, queues },
            table,
        };
        (router, tasks)
    }

    /// Without uplinks.
    pub fn of_local_clients(live: mpsc::Sender<GatewayMessage>) -> Self {
        let (_, table) = watch::channel(Arc::default());
        Self::new(Vec::new(), table, Some(live), Duration::ZERO).0
    }

    /// For one publisher whose messages replace each other.
    pub fn publisher(&self) -> RoutePublisher {
        RoutePublisher {
            view: self.states.live.clone().map(LocalView::new),
            router: self.clone(),
        }
    }

    /// The way of states, which keeps no outbox open.
    pub fn states(&self) -> StateSender {
        self.states.clone()
    }

    /// Publishes a message, each of which counts; waits while the broker is busy, and while too
    /// many bytes wait for the disk. The error is that of an outbox that closed too early.
    pub async fn publish(&self, message: &GatewayMessage) -> Result<RouteReceipt, OfferError> {
        if let Some(live) = &self.states.live {
            // A broker that has ended has no clients.
            let _ = live.send(message.clone()).await;
        }
        let refused = self.send(message).await?;
        Ok(RouteReceipt {
            is_delayed: false,
            refused,
        })
    }

    /// Puts a message into every outbox whose rules take it; returns how many had no room.
    async fn send(&self, message: &GatewayMessage) -> Result<u64, OfferError> {
        let subject = Subject::of_gateway(message);
        let mut refused = 0;
        for (index, outlet) in self.outlets.iter().enumerate() {
            let terms = self.table.borrow().to_uplink(index, &subject);
            let Some(terms) = terms else {
                continue;
            };
            // What its commit may take is the setting `outbox.save.every`.
            let offered = outlet.take(&subject, terms).await;
            refused += u64::from(outlet.count_refused(&offered));
            if let Err(closed @ OfferError::Closed) = offered {
                return Err(closed);
            }
        }
        Ok(refused)
    }
}

/// A publisher whose messages replace each other by topic, so that a busy broker holds up nothing.
#[derive(Debug)]
pub struct RoutePublisher {
    router: Router,
    /// `None` without a broker.
    view: Option<LocalView>,
}

impl RoutePublisher {
    /// Publishes a message; waits while too many bytes wait for the disk. The error is that of an
    /// outbox that closed too early.
    pub async fn publish(&mut self, message: &GatewayMessage) -> Result<RouteReceipt, OfferError> {
        let view = self.view.as_mut();
        let is_delayed = view.is_some_and(|view| view.show(message.clone()));
        let refused = self.router.send(message).await?;
        Ok(RouteReceipt {
            is_delayed,
            refused,
        })
    }

    /// Publishes a state; it waits where it cannot go at once. The remote of the uplink `except`
    /// does not get it.
    pub fn publish_state(&mut self, message: Message, kind: StateKind, except: Option<usize>) {
        if let Some(view) = &mut self.view {
            view.show(message.clone().into());
        }
        self.router.states.put(message, kind, except);
    }

    /// Publishes what had to wait for local clients, as far as there is room.
    pub fn catch_up(&mut self) {
        if let Some(view) = &mut self.view {
            view.catch_up();
        }
    }
}
