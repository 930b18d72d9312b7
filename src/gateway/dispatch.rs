//! Messages about lines, uplinks and losses on their way to local clients and into the outboxes.
//!
//! Invariants:
//! * A message that an outlet cannot take, or whose uplink is down, waits as the newest of its
//!   topic: at most one per topic.
//! * Losses of an uplink go into its outbox although it is down: they are counted since the start,
//!   and a crash would forget them.
//! * Messages for a backup uplink wait while its outbox is closed, because the other uplink is up.
//! * The state of an uplink does not go over the uplink itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::sleep_until;

use super::bulletin::{Bulletin, Fact, HealthValue};
use super::paced::Paced;
use super::task::{TaskId, TaskKind};
use crate::config::HealthMessages;
use crate::message::{GatewayMessage, Message, Origin};
use crate::mqtt::TopicName;
use crate::outbox::{OfferError, OfferedState, OutboxSink, Receipt};
use crate::payload::json;
use crate::tasks::{Stop, Tasks};
use crate::time::{moment, now};

/// Messages that may be on their way into an outbox; beyond it they wait by topic.
const QUEUE: usize = 16;

/// Publishes what is due.
#[derive(Debug)]
pub(super) struct Dispatch {
    settings: HealthMessages,
    bulletin: Bulletin,
    /// Local clients; `None` without a broker.
    live: Option<Outlet>,
    /// By uplink.
    uplinks: Vec<Outlet>,
}

/// One destination and its waiting messages, each with a flag: it is sent although the link is
/// down.
#[derive(Debug)]
struct Outlet {
    queue: mpsc::Sender<GatewayMessage>,
    /// Where the messages go; `None` for local clients.
    sink: Option<OutboxSink>,
    waiting: BTreeMap<TopicName, (bool, GatewayMessage)>,
}

impl Outlet {
    fn new(queue: mpsc::Sender<GatewayMessage>, sink: Option<OutboxSink>) -> Self {
        Self {
            queue,
            sink,
            waiting: BTreeMap::new(),
        }
    }

    /// Sends the waiting messages that may go.
    fn flush(&mut self, is_up: bool) {
        if self.sink.as_ref().is_some_and(|sink| !sink.is_open()) {
            return;
        }
        let may_go = |_: &TopicName, (goes_when_down, _): &mut (bool, GatewayMessage)| {
            is_up || *goes_when_down
        };
        let ready: Vec<_> = self.waiting.extract_if(.., may_go).collect();
        for (topic, (goes_when_down, message)) in ready {
            // A closed queue ends with its task, which the gateway notices.
            if let Err(TrySendError::Full(message)) = self.queue.try_send(message) {
                self.waiting.insert(topic, (goes_when_down, message));
            }
        }
    }
}

impl Dispatch {
    /// Starts a task for each outbox. They end when this is dropped, or must hurry.
    pub(super) fn start(
        settings: HealthMessages,
        sinks: &[OutboxSink],
        live: Option<mpsc::Sender<GatewayMessage>>,
        hurry: &Stop,
        tasks: &mut Tasks<TaskId>,
    ) -> Self {
        let outlet = |(number, sink): (usize, &OutboxSink)| {
            let (queue, messages) = mpsc::channel(QUEUE);
            let task = TaskKind::Health.of(number);
            tasks.start_until(hurry.clone(), task, offer(messages, sink.clone()));
            Outlet::new(queue, Some(sink.clone()))
        };
        let uplinks = sinks.iter().enumerate().map(outlet).collect();
        Self {
            bulletin: Bulletin::new(settings.every, now()),
            settings,
            live: live.map(|queue| Outlet::new(queue, None)),
            uplinks,
        }
    }

    /// Publishes the facts that are due; `is_up` by uplink.
    pub(super) fn publish(&mut self, facts: Vec<Fact>, is_up: &[bool]) {
        let due = self.bulletin.due(facts, now());
        self.send(due, is_up);
    }

    /// Publishes the last losses before the end.
    pub(super) fn end(mut self, facts: Vec<Fact>, is_up: &[bool]) {
        let due = self.bulletin.last_losses(facts);
        self.send(due, is_up);
    }

    fn send(&mut self, facts: Vec<Fact>, is_up: &[bool]) {
        for fact in facts {
            let Ok(topic) = TopicName::new(format!("{}/{}", self.settings.topic, fact.topic))
            else {
                continue;
            };
            // An empty payload takes back what is retained.
            let payload = fact.said.as_ref().map_or_else(String::new, json::text);
            let message = Message::new(topic.clone(), payload, Origin::Field).retained();
            let message = message
                .with_qos(self.settings.qos)
                .in_class(self.settings.class);
            if let Some(live) = &mut self.live {
                live.waiting
                    .insert(topic.clone(), (true, message.clone().into()));
            }
            let goes_when_down = matches!(fact.said, Some(HealthValue::Losses(_)));
            for (number, uplink) in self.uplinks.iter_mut().enumerate() {
                if fact.origin != Origin::Uplink(number) {
                    uplink
                        .waiting
                        .insert(topic.clone(), (goes_when_down, message.clone().into()));
                }
            }
        }
        if let Some(live) = &mut self.live {
            live.flush(true);
        }
        for (uplink, is_up) in self.uplinks.iter_mut().zip(is_up) {
            uplink.flush(*is_up);
        }
    }
}

/// Offers messages to an outbox. Those that come faster than a rate allows wait as the newest of
/// their topic.
async fn offer(
    mut messages: mpsc::Receiver<GatewayMessage>,
    sink: OutboxSink,
) -> Result<(), String> {
    let mut waiting = Paced::new(Duration::ZERO, "", now());
    loop {
        let next = waiting.next();
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => waiting.take(Arc::new(message.into_message(moment().into()))),
                None => break,
            },
            () = async { sleep_until(next.unwrap_or_else(now).into()).await }, if next.is_some() => {}
        }
        while let Some(message) = waiting.due(now()) {
            match sink.offer_state(&message).await {
                OfferedState::Later(until) => waiting.hold(&message.topic, until, now()),
                OfferedState::Done(offered) => {
                    waiting.sent(&message.topic, now());
                    note(&message, offered)?;
                }
            }
        }
    }
    for message in waiting.rest() {
        note(&message, sink.offer(&message).await)?;
    }
    Ok(())
}

/// Logs a refusal; the error is that of a closed outbox. The receipt is not awaited: what changes
/// later is published again.
fn note(message: &Message, offered: Result<Option<Receipt>, OfferError>) -> Result<(), String> {
    match offered {
        Ok(_) => {}
        Err(OfferError::Closed) => return Err(OfferError::Closed.to_string()),
        Err(error) => {
            tracing::error!(event = "health.message_refused", topic = %message.topic, %error, "cannot queue a health message for the uplink");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::super::bulletin::Losses;
    use super::*;
    use crate::message::{Class, Lane};
    use crate::mqtt::{Mapping, QoS, TopicFilter};
    use crate::outbox::{self, Outbox, Routes, Rule, WhenFull};
    use crate::tasks::{StopSwitch, stop_token};

    /// An outbox, and the way into it for the messages about losses, beside which no rule wants
    /// anything.
    fn backup(
        folder: &std::path::Path,
        rate: &str,
        primary: Option<watch::Receiver<bool>>,
    ) -> (Outbox, OutboxSink) {
        let settings = outbox::Settings {
            save_every: Duration::from_millis(1),
            total_bytes: 1 << 30,
            age: None,
            when_full: WhenFull::DropOldest,
        };
        let (outbox, closed) = outbox::open("backup", folder, settings).unwrap();
        crate::tasks::detach(async { drop(closed.await) });
        let filter = if primary.is_some() {
            "x/gateway/uplink/backup/losses"
        } else {
            "#"
        };
        let rule = Rule {
            mapping: Mapping::prefix(TopicFilter::new(filter).unwrap(), "", "").unwrap(),
            only: Vec::new(),
            class: None,
            qos: None,
            most: QoS::ExactlyOnce,
            keeps_retained: true,
            rate: rate.parse().ok(),
            lanes: Vec::new(),
        };
        let (_, routes) = watch::channel(Arc::new(Routes::new(
            vec![rule],
            Vec::new(),
            false,
            Arc::default(),
        )));
        (outbox.clone(), OutboxSink::new(outbox, routes, 0, primary))
    }

    /// What runs until it is dropped.
    type Kept = (Tasks<TaskId>, StopSwitch);

    fn dispatch(qos: QoS, sink: OutboxSink) -> (Dispatch, Kept) {
        let mut tasks = Tasks::default();
        let settings = HealthMessages {
            topic: "x/gateway".to_owned(),
            class: Class::default(),
            qos,
            every: Duration::ZERO,
        };
        let (switch, hurry) = stop_token();
        let dispatch = Dispatch::start(settings, &[sink], None, &hurry, &mut tasks);
        (dispatch, (tasks, switch))
    }

    fn losses(topic: &str) -> Fact {
        let said = HealthValue::Losses(Losses {
            lost: 1,
            dead: 0,
            dropped: 0,
            since: None,
            gap: None,
            gaps: Vec::new(),
        });
        Fact {
            topic: topic.to_owned(),
            said: Some(said),
            origin: Origin::Field,
        }
    }

    /// Publishes until the outbox has so many messages.
    async fn publish_until(dispatch: &mut Dispatch, facts: &[Fact], outbox: &Outbox, count: usize) {
        let has_all = async {
            loop {
                dispatch.publish(facts.to_vec(), &[true]);
                let read = outbox.read(Lane::Live, 0, 100).await.unwrap();
                if read.is_some_and(|(_, messages)| messages.len() == count) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), has_all)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn losses_of_a_backup_wait_while_the_other_uplink_is_up() {
        let folder = tempfile::tempdir().unwrap();
        let (is_up, primary) = watch::channel(true);
        let (outbox, sink) = backup(folder.path(), "", Some(primary));
        let (mut dispatch, _running) = dispatch(QoS::AtLeastOnce, sink);
        let facts = [losses("uplink/backup/losses")];
        dispatch.publish(facts.to_vec(), &[true]);
        assert_eq!(dispatch.uplinks[0].waiting.len(), 1);
        is_up.send_replace(false);
        publish_until(&mut dispatch, &facts, &outbox, 1).await;
        assert!(dispatch.uplinks[0].waiting.is_empty());
    }

    #[tokio::test]
    async fn a_rate_drops_no_message_about_health() {
        let folder = tempfile::tempdir().unwrap();
        let (outbox, sink) = backup(folder.path(), "10/s", None);
        let (mut dispatch, _running) = dispatch(QoS::AtMostOnce, sink);
        let facts: Vec<Fact> = (0..20)
            .map(|number| losses(&format!("uplink/{number}/losses")))
            .collect();
        publish_until(&mut dispatch, &facts, &outbox, 20).await;
        assert_eq!(outbox.counts().rate_dropped.value(), 0);
    }
}
