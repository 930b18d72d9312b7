//! States of the gateway on their way into one outbox: nobody who publishes one waits for it.
//!
//! Invariants:
//! * A state waits as the newest of its topic while its link is down, while the outbox of a backup
//!   is closed, and while it comes faster than a rate allows.
//! * Which rule takes it is decided when it goes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep_until;

use super::outlet::OfferedState;
use super::paced::Paced;
use super::{OfferError, Outlet, RouteTable, SendTerms, StateKind, Subject};
use crate::message::{GatewayMessage, Message};
use crate::time::now;

#[derive(Debug)]
struct StateBoard {
    states: Paced,
    is_ended: bool,
}

/// The states that wait for one outbox; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct StateQueue {
    waiting: Arc<Mutex<StateBoard>>,
    changed: Arc<Notify>,
}

impl StateQueue {
    pub(super) fn new(states: Paced) -> Self {
        let waiting = StateBoard {
            states,
            is_ended: false,
        };
        Self {
            waiting: Arc::new(Mutex::new(waiting)),
            changed: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, StateBoard> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the state of a topic.
    pub(super) fn put(&self, message: Arc<Message>, kind: StateKind) {
        self.lock().states.put(message, kind);
        self.changed.notify_one();
    }

    /// No state comes any more: its task sends the rest, and ends.
    pub(super) fn end(&self) {
        self.lock().is_ended = true;
        self.changed.notify_one();
    }
}

/// The way of states to local clients and remotes; cheap to clone, and keeps no outbox open.
#[derive(Debug, Clone)]
pub struct StateSender {
    /// Local clients; `None` without a broker.
    pub(super) live: Option<mpsc::Sender<GatewayMessage>>,
    pub(super) queues: Arc<[StateQueue]>,
}

impl StateSender {
    /// True if there are local clients.
    pub fn has_local_clients(&self) -> bool {
        self.live.is_some()
    }

    /// Publishes a topic below `$SYS` for local clients, and for the remotes whose rules take it.
    /// False if the broker is busy: it is to be published again.
    pub fn status(&self, message: Message) -> bool {
        let Some(live) = &self.live else {
            return true;
        };
        let is_shown = live.try_send(message.clone().into()).is_ok();
        if is_shown {
            self.put(message, StateKind::Status, None);
        }
        is_shown
    }

    /// Hands a state to the remotes whose rules take it, but not to that of the uplink `except`.
    pub(super) fn put(&self, message: Message, kind: StateKind, except: Option<usize>) {
        let message = Arc::new(message);
        for (index, queue) in self.queues.iter().enumerate() {
            if Some(index) != except {
                queue.put(Arc::clone(&message), kind);
            }
        }
    }

    /// No state comes any more: the tasks end when they have sent the rest.
    pub fn end(&self) {
        self.queues.iter().for_each(StateQueue::end);
    }
}

/// The way of states into one outbox.
#[derive(Debug)]
pub struct StateTask {
    pub(super) queue: StateQueue,
    pub(super) outlet: Outlet,
    /// The index of its uplink.
    pub(super) uplink: usize,
    pub(super) table: watch::Receiver<Arc<RouteTable>>,
    /// Whether the uplink is up.
    pub(super) is_up: watch::Receiver<bool>,
}

impl StateTask {
    /// Runs until [`StateSender::end`]; the error is that of an outbox that closed too
    /// early.
    pub async fn run(mut self) -> Result<(), String> {
        loop {
            let is_up = *self.is_up.borrow_and_update();
            let may_go = self.outlet.is_open();
            if may_go {
                self.send_due(is_up).await?;
            }
            if self.queue.lock().is_ended {
                return self.send_rest(is_up).await;
            }
            let next = self.queue.lock().states.next(is_up).filter(|_| may_go);
            tokio::select! {
                () = wait_until(next), if next.is_some() => {}
                // It fails when the uplink ends, which is noticed elsewhere.
                Ok(()) = self.is_up.changed() => {}
                () = self.outlet.changed() => {}
                () = self.queue.changed.notified() => {}
            }
        }
    }

    async fn send_due(&self, is_up: bool) -> Result<(), String> {
        loop {
            let Some(message) = self.queue.lock().states.due(is_up, now()) else {
                return Ok(());
            };
            let outcome = self.send(&message).await?;
            let mut waiting = self.queue.lock();
            match outcome {
                Some(OfferedState::Later(until)) => {
                    waiting.states.hold(&message.topic, until, now());
                }
                Some(OfferedState::Done(_)) => waiting.states.sent(&message, now()),
                // It waits until the backup is in use again.
                Some(OfferedState::Shut) => return Ok(()),
                None => waiting.states.forget(&message),
            }
        }
    }

    /// At the end nothing waits for a rate any longer: what exceeds it is dropped, and counted.
    async fn send_rest(&self, is_up: bool) -> Result<(), String> {
        if !self.outlet.is_open() {
            return Ok(());
        }
        let rest = self.queue.lock().states.rest(is_up);
        for message in rest {
            let subject = Subject::of(&message);
            let Some(terms) = self.terms(&subject) else {
                continue;
            };
            let offered = self.outlet.take(&subject, terms).await;
            self.outlet.count_refused(&offered);
            if let Err(closed @ OfferError::Closed) = offered {
                return Err(closed.to_string());
            }
        }
        Ok(())
    }

    fn terms(&self, subject: &Subject<'_>) -> Option<SendTerms> {
        self.table.borrow().to_uplink(self.uplink, subject)
    }

    /// Offers a state to the outbox; `None` if no rule takes it. The receipt is not awaited: what
    /// changes later is published again.
    async fn send(&self, message: &Message) -> Result<Option<OfferedState>, String> {
        let subject = Subject::of(message);
        let Some(terms) = self.terms(&subject) else {
            return Ok(None);
        };
        let offered = self.outlet.take_state(&subject, terms).await;
        if let OfferedState::Done(done) = &offered {
            self.outlet.count_refused(done);
            if let Err(closed @ OfferError::Closed) = done {
                return Err(closed.to_string());
            }
        }
        Ok(Some(offered))
    }
}

async fn wait_until(time: Option<Instant>) {
    sleep_until(time.unwrap_or_else(now).into()).await;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;
    use crate::message::{Lane, Origin};
    use crate::mqtt::{QoS, TopicFilter, TopicName};
    use crate::outbox::{self, Outbox, Settings, WhenFull};
    use crate::route::{RoutedUplink, Router, Routes, Rule};

    const LOSSES: &str = "x/gateway/uplink/backup/losses";

    /// A router with one outbox, whose rule takes what `filter` matches.
    struct Stage {
        router: Router,
        outbox: Outbox,
        is_up: watch::Sender<bool>,
    }

    impl Stage {
        fn new(
            folder: &std::path::Path,
            rule: Rule,
            primary: Option<watch::Receiver<bool>>,
        ) -> Self {
            let settings = Settings {
                save_every: Duration::from_millis(1),
                total_bytes: 1 << 30,
                age: None,
                when_full: WhenFull::DropOldest,
            };
            let (outbox, closed) = outbox::open("backup", folder, settings).unwrap();
            crate::tasks::detach(async { drop(closed.await) });
            let routes = Routes::new(vec![rule], Vec::new(), false, Arc::default());
            let table = RouteTable::new(vec![Arc::new(routes)], HashSet::new());
            let (is_up, up) = watch::channel(true);
            let uplink = RoutedUplink {
                name: "backup".to_owned(),
                outlet: Outlet::new(outbox.clone(), up.clone(), primary),
                is_up: up,
            };
            let (_, table) = watch::channel(Arc::new(table));
            let (router, tasks) = Router::new(vec![uplink], table, None, Duration::ZERO);
            for task in tasks {
                crate::tasks::detach(async { task.run().await.unwrap() });
            }
            Self {
                router,
                outbox,
                is_up,
            }
        }

        fn publish(&self, topic: &str, qos: QoS, kind: StateKind) {
            let topic = TopicName::new(topic.to_owned()).unwrap();
            let message = Message::new(topic, "1", Origin::Field).with_qos(qos);
            self.router.states().put(message, kind, None);
        }

        async fn stored(&self) -> usize {
            let read = self.outbox.read(Lane::Live, 0, 100).await.unwrap();
            read.map_or(0, |(_, messages)| messages.len())
        }

        /// Waits until the outbox has so many messages.
        async fn wait_for(&self, count: usize) {
            let has_all = async {
                while self.stored().await != count {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), has_all)
                .await
                .unwrap();
        }
    }

    fn rule(filter: &str) -> Rule {
        Rule::keep(TopicFilter::new(filter.to_owned()).unwrap())
    }

    #[tokio::test]
    async fn losses_of_a_backup_wait_while_the_other_uplink_is_up() {
        let folder = tempfile::tempdir().unwrap();
        let (is_up, primary) = watch::channel(true);
        let stage = Stage::new(folder.path(), rule(LOSSES), Some(primary));
        stage.publish(LOSSES, QoS::AtLeastOnce, StateKind::Losses);
        stage.publish("not/of/a/rule", QoS::AtLeastOnce, StateKind::Losses);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(stage.stored().await, 0);
        is_up.send_replace(false);
        stage.wait_for(1).await;
        assert_eq!(stage.outbox.counts().dropped.value(), 0);
    }

    #[tokio::test]
    async fn the_newest_health_waits_for_the_link_and_the_last_losses_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(folder.path(), rule("#"), None);
        stage.is_up.send_replace(false);
        for _ in 0..3 {
            stage.publish("x/gateway/line/bus", QoS::AtLeastOnce, StateKind::Health);
        }
        stage.publish(LOSSES, QoS::AtLeastOnce, StateKind::Losses);
        stage.wait_for(1).await;
        stage.is_up.send_replace(true);
        stage.wait_for(2).await;
        stage.is_up.send_replace(false);
        stage.publish("x/gateway/line/bus", QoS::AtLeastOnce, StateKind::Health);
        stage.publish(LOSSES, QoS::AtLeastOnce, StateKind::Losses);
        stage.router.states().end();
        stage.wait_for(3).await;
    }

    #[tokio::test]
    async fn a_rate_drops_no_message_about_health() {
        let folder = tempfile::tempdir().unwrap();
        let rule = Rule {
            rate: "10/s".parse().ok(),
            ..rule("#")
        };
        let stage = Stage::new(folder.path(), rule, None);
        for number in 0..20 {
            let topic = format!("x/gateway/uplink/{number}/losses");
            stage.publish(&topic, QoS::AtMostOnce, StateKind::Losses);
        }
        stage.wait_for(20).await;
        assert_eq!(stage.outbox.counts().rate_dropped.value(), 0);
    }
}
