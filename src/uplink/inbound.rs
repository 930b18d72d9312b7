//! Messages of the remote for this site: handed to the local broker, and acknowledged when they are
//! safe there.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::{mpsc, oneshot};

use super::link::Received;
use crate::message::{Class, ExactInbound, InboundMessage, Message, Origin};
use crate::mqtt::PacketId;
use crate::time::now;

/// Takes a message to the local broker, which answers when it has it safe.
pub type Inbound = mpsc::Sender<(InboundMessage, oneshot::Sender<()>)>;

/// A message of the remote that the broker has, or never will have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) packet_id: PacketId,
    /// Its number, at QoS 2.
    pub(super) exact: Option<u64>,
    pub(super) is_safe: bool,
}

/// Messages on their way to the broker, in the order in which they came.
pub(super) struct Deliveries {
    broker: Option<Inbound>,
    origin: Origin,
    waiting: FuturesOrdered<Pin<Box<dyn Future<Output = Delivery> + Send>>>,
}

impl Deliveries {
    pub(super) fn new(broker: Option<Inbound>, origin: Origin) -> Self {
        Self {
            broker,
            origin,
            waiting: FuturesOrdered::new(),
        }
    }

    /// Hands a message to the broker, under its local topic; waits while that is busy.
    /// `exact` is there at QoS 2.
    pub(super) async fn hand_over(&mut self, received: Received, exact: Option<ExactInbound>) {
        let Received {
            topic,
            payload,
            qos,
            retain,
            packet_id,
            mut properties,
            ..
        } = received;
        let expires_at = properties
            .message_expiry
            .map(|seconds| now() + Duration::from_secs(u64::from(seconds)));
        if expires_at.is_some() {
            properties.edit().message_expiry = None;
        }
        let (origin, class) = (self.origin, Class::default());
        let message = Message {
            topic,
            payload,
            qos,
            retain,
            properties,
            expires_at,
            origin,
            class,
            publisher: None,
        };
        let (safe, answer) = oneshot::channel();
        let is_sent = match &self.broker {
            Some(broker) => {
                let inbound = InboundMessage { message, exact };
                broker.send((inbound, safe)).await.is_ok()
            }
            None => false,
        };
        let Some(packet_id) = packet_id else { return };
        // During a stop the broker is gone first: the message is not acknowledged, and comes again
        // after the next start.
        self.waiting.push_back(Box::pin(async move {
            Delivery {
                packet_id,
                exact: exact.map(|exact| exact.number),
                is_safe: is_sent && answer.await.is_ok(),
            }
        }));
    }

    /// The next one whose fate is known; waits for ever if there is none.
    pub(super) async fn next(&mut self) -> Delivery {
        match self.waiting.next().await {
            Some(delivery) => delivery,
            None => std::future::pending().await,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
