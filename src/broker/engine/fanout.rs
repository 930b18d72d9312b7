//! One message on its way to many: kept once, written once per protocol version.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::Position;
use super::connection::{Connection, Lane};
use super::output::SHARED_FROM;
use super::session::{Delivery, Kept, packet_id};
use crate::message::Message;
use crate::mqtt::{Extras, PublishTemplate, QoS, Version};

/// What a topic alias takes in a packet, at most: it may make the length of the properties and of the packet longer.
const ALIAS_BYTES: usize = 5;

/// A message on its way to many: kept once, written once per protocol version.
pub(super) struct Fanout {
    pub(super) message: Message,
    /// It was put among the retained messages.
    pub(super) is_retained: bool,
    kept: Option<Arc<Kept>>,
    pub(super) expiry: Option<u32>,
    /// By version (5 or not) and QoS (0 or not).
    templates: [Option<PublishTemplate>; 4],
}

impl Fanout {
    pub(super) fn new(message: Message, now: Instant) -> Self {
        let expiry = message.seconds_left(now);
        Self {
            message,
            is_retained: false,
            kept: None,
            expiry,
            templates: [const { None }; 4],
        }
    }

    pub(super) fn message(&self) -> &Message {
        &self.message
    }

    pub(super) fn into_message(self) -> Message {
        self.message
    }

    pub(super) fn keep(&mut self, next_id: &mut u64, total: &Arc<AtomicUsize>) -> &Arc<Kept> {
        let message = &self.message;
        self.kept.get_or_insert_with(|| {
            *next_id += 1;
            Kept::new(message, *next_id, total)
        })
    }

    pub(super) fn template(&mut self, version: Version, has_id: bool) -> &PublishTemplate {
        let (message, expiry) = (&self.message, self.expiry);
        let [plain, with_id, plain_5, with_id_5] = &mut self.templates;
        let slot = match (version == Version::V5, has_id) {
            (false, false) => plain,
            (false, true) => with_id,
            (true, false) => plain_5,
            (true, true) => with_id_5,
        };
        slot.get_or_insert_with(|| {
            template(
                message,
                Extras {
                    message_expiry: expiry,
                    ..Extras::default()
                },
                version,
                has_id,
            )
        })
    }
}

fn template(
    message: &Message,
    extras: Extras<'_>,
    version: Version,
    has_id: bool,
) -> PublishTemplate {
    let topic = (message.topic.as_str(), &message.payload);
    PublishTemplate::new(
        topic,
        &message.properties,
        extras,
        (version, has_id),
        SHARED_FROM,
    )
}

/// A PUBLISH to one connection.
pub(super) struct Item<'a> {
    pub(super) message: &'a Message,
    pub(super) expiry: Option<u32>,
    pub(super) identifiers: &'a [NonZeroU32],
    pub(super) flags: (bool, QoS, bool),
    pub(super) number: u64,
    /// The batch it waits for.
    pub(super) after: Position,
}

impl Item<'_> {
    /// Writes it; its length, or `None` if it is more than the client takes [MQTT-3.1.2-24].
    pub(super) fn write(&self, connection: &mut Connection, durable: Position) -> Option<usize> {
        let extras = Extras {
            message_expiry: self.expiry,
            topic_alias: None,
            subscription_identifiers: self.identifiers,
        };
        let has_id = self.number > 0;
        let whole = template(self.message, extras, connection.version, has_id);
        if whole.packet_len() > connection.max_packet {
            return None;
        }
        let aliases = connection
            .aliases
            .as_mut()
            .filter(|_| whole.packet_len() + ALIAS_BYTES <= connection.max_packet);
        let alias = aliases.and_then(|aliases| aliases.assign(&self.message.topic));
        let Some((alias, is_known)) = alias else {
            return put(
                &whole,
                self.flags,
                self.number,
                connection,
                (self.after, durable),
            );
        };
        let topic = if is_known {
            ""
        } else {
            self.message.topic.as_str()
        };
        let extras = Extras {
            topic_alias: Some(alias),
            ..extras
        };
        let version = (connection.version, has_id);
        let short = PublishTemplate::new(
            (topic, &self.message.payload),
            &self.message.properties,
            extras,
            version,
            SHARED_FROM,
        );
        put(
            &short,
            self.flags,
            self.number,
            connection,
            (self.after, durable),
        )
    }
}

/// Writes a PUBLISH that waits for a batch; its length, or `None` if it is more than the client takes [MQTT-3.1.2-24].
pub(super) fn put(
    template: &PublishTemplate,
    flags: (bool, QoS, bool),
    number: u64,
    connection: &mut Connection,
    (after, durable): (Position, Position),
) -> Option<usize> {
    let length = template.packet_len();
    if length > connection.max_packet {
        return None;
    }
    let buffer = connection.out.buffer(Lane::Messages, after, durable);
    let shared = template
        .write(flags, packet_id(number), buffer.tail())
        .cloned();
    if let Some(payload) = shared {
        buffer.share(payload);
    }
    connection.out.count(length);
    Some(length)
}

pub(super) fn item(
    delivery: &Delivery,
    is_repeated: bool,
    after: Position,
    now: Instant,
) -> Item<'_> {
    Item {
        message: &delivery.message,
        expiry: delivery.message.seconds_left(now),
        identifiers: &delivery.identifiers,
        flags: (is_repeated, delivery.qos, delivery.retain),
        number: delivery.number,
        after,
    }
}
