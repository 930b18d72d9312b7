//! Messages about lines, uplinks and losses on their way to local clients and into the outboxes.
//!
//! Invariants:
//! * Whatever an end cannot take, or an uplink that is down, waits as the newest message of its topic: no more than a message per topic.
//! * Losses of an uplink go into its outbox although it is down: they are counted since the start, and a crash would forget them.
//! * The state of an uplink does not go over the uplink itself.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::bulletin::{Bulletin, Fact, Said};
use crate::config::HealthMessages;
use crate::message::{Message, Origin};
use crate::mqtt::TopicName;
use crate::outbox::{Intake, OfferError};
use crate::payload::json;
use crate::tasks::{Stop, Tasks};
use crate::time::now;

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

/// One end, with what waits for it: whether it goes although the link is down, and the message.
#[derive(Debug)]
struct Outlet {
    queue: mpsc::Sender<Message>,
    waiting: BTreeMap<TopicName, (bool, Message)>,
}

impl Outlet {
    fn new(queue: mpsc::Sender<Message>) -> Self {
        Self { queue, waiting: BTreeMap::new() }
    }

    /// Sends what waits and may go.
    fn flush(&mut self, is_up: bool) {
        let may_go = |_: &TopicName, (goes_when_down, _): &mut (bool, Message)| is_up || *goes_when_down;
        let ready: Vec<_> = self.waiting.extract_if(.., may_go).collect();
        for (topic, (goes_when_down, message)) in ready {
            // One that is closed ends with its task, which is noticed by the gateway.
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
        intakes: &[Intake],
        live: Option<mpsc::Sender<Message>>,
        hurry: &Stop,
        tasks: &mut Tasks,
    ) -> Self {
        let outlet = |(number, intake): (usize, &Intake)| {
            let (queue, messages) = mpsc::channel(QUEUE);
            let (intake, mut hurry) = (intake.clone(), hurry.clone());
            tasks.start(format!("health:{number}"), async move {
                tokio::select! {
                    done = offer(messages, intake) => done,
                    () = hurry.wait() => Ok(()),
                }
            });
            Outlet::new(queue)
        };
        let uplinks = intakes.iter().enumerate().map(outlet).collect();
        Self { bulletin: Bulletin::new(settings.every, now()), settings, live: live.map(Outlet::new), uplinks }
    }

    /// Publishes what is due of all facts; `is_up` says of each uplink whether it is.
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
            let Ok(topic) = TopicName::new(format!("{}/{}", self.settings.topic, fact.topic)) else { continue };
            // An empty payload takes back what is retained.
            let payload = fact.said.as_ref().map_or_else(String::new, json::text);
            let message = Message::new(topic.clone(), payload, Origin::Field).retained();
            let message = message.with_qos(self.settings.qos).in_class(self.settings.class);
            if let Some(live) = &mut self.live {
                live.waiting.insert(topic.clone(), (true, message.clone()));
            }
            let goes_when_down = matches!(fact.said, Some(Said::Losses(_)));
            for (number, uplink) in self.uplinks.iter_mut().enumerate() {
                if fact.origin != Origin::Uplink(number) {
                    uplink.waiting.insert(topic.clone(), (goes_when_down, message.clone()));
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

/// Offers messages to an outbox.
async fn offer(mut messages: mpsc::Receiver<Message>, intake: Intake) -> Result<(), String> {
    while let Some(message) = messages.recv().await {
        // The receipt is not awaited: what changes later is published again.
        match intake.offer(&message).await {
            Ok(_) => {}
            Err(OfferError::Closed) => return Err(OfferError::Closed.to_string()),
            Err(error) => tracing::error!(topic = %message.topic, %error, "a message about the gateway's health cannot go north"),
        }
    }
    Ok(())
}
