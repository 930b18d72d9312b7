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
mod condition;
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
pub use condition::{Condition, Subject};
pub use local_view::LocalView;
pub use outlet::{OfferError, Outlet};
pub use paced::StateKind;
pub use routes::{Arrival, Inward, Points, Routes, SET, is_of_broker};
pub use rule::Rule;
pub use states::StateTask;
pub use table::{DESTINATION_BITS, Destination, MOST_UPLINKS, RouteTable, RouteTarget, SendTerms};

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
    states: Arc<[StateQueue]>,
    /// Local clients; `None` without a broker.
    live: Option<mpsc::Sender<GatewayMessage>>,
}

impl Router {
    /// Of these uplinks, in the order of the table. `status_every` is the least time between two
    /// messages of a topic below `$SYS` to a remote. The tasks are to be run, one for each uplink.
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
        let router = Self {
            outlets: uplinks.into_iter().map(|uplink| uplink.outlet).collect(),
            states: tasks.iter().map(|task| task.queue.clone()).collect(),
            table,
            live,
        };
        (router, tasks)
    }

    /// Without uplinks.
    pub fn of_local_clients(live: mpsc::Sender<GatewayMessage>) -> Self {
        let (_, table) = watch::channel(Arc::default());
        Self::new(Vec::new(), table, Some(live), Duration::ZERO).0
    }

    /// The view of local clients for one publisher; `None` without a broker.
    pub fn local_view(&self) -> Option<LocalView> {
        self.live.clone().map(LocalView::new)
    }

    /// Publishes a message for local clients; waits while the broker is busy.
    pub async fn show(&self, message: GatewayMessage) {
        if let Some(live) = &self.live {
            // A broker that has ended has no clients.
            let _ = live.send(message).await;
        }
    }

    /// Puts a message into every outbox whose rules take it; waits while too many bytes wait for
    /// the disk. Returns how many had no room for it; the error is that of an outbox that closed
    /// too early.
    pub async fn send(&self, message: &GatewayMessage) -> Result<u64, OfferError> {
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

    /// Publishes a topic below `$SYS` for local clients, and for the remotes whose rules take it.
    /// False if the broker is busy: it is to be published again.
    pub fn status(&self, message: Message) -> bool {
        let Some(live) = &self.live else {
            return true;
        };
        let is_shown = live.try_send(message.clone().into()).is_ok();
        if is_shown {
            self.state(message, StateKind::Status, None);
        }
        is_shown
    }

    /// Hands a state to the remotes whose rules take it, but not to the one of the uplink
    /// `except`; it waits where it cannot go at once.
    pub fn state(&self, message: Message, kind: StateKind, except: Option<usize>) {
        let message = Arc::new(message);
        for (index, queue) in self.states.iter().enumerate() {
            if Some(index) != except {
                queue.put(Arc::clone(&message), kind);
            }
        }
    }

    /// True if there are local clients.
    pub fn has_local_clients(&self) -> bool {
        self.live.is_some()
    }

    /// Ends the tasks of states; it keeps no outbox open.
    pub fn states_end(&self) -> StatesEnd {
        StatesEnd(Arc::clone(&self.states))
    }
}

/// See [`Router::states_end`].
#[derive(Debug)]
pub struct StatesEnd(Arc<[StateQueue]>);

impl StatesEnd {
    /// No state comes any more: the tasks of states end when they have sent the rest.
    pub fn end(&self) {
        self.0.iter().for_each(StateQueue::end);
    }
}
