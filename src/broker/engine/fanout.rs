//! One message on its way to many: kept once, written once per protocol version.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::connection::{Connection, DurabilityBarrier, OutputStream};
use super::delivery::{Delivery, SharedMessage, packet_id};
use super::kept::KeptMessages;
use super::output::SHARED_FROM;
use crate::message::Message;
use crate::mqtt::{Extras, PublishContent, PublishFlags, PublishTemplate, SizedPublish, Version};

/// Bytes of a topic alias in a packet, at most: it may make the length of the properties and of the
/// packet longer.
const ALIAS_BYTES: usize = 5;

/// A message on its way to many: kept once, written once per protocol version.
pub(super) struct Fanout {
    pub(super) message: Message,
    /// It was put among the retained messages.
    pub(super) is_retained: bool,
    kept: Option<Arc<SharedMessage>>,
    pub(super) expiry: Option<u32>,
    /// By version (5 or not) and QoS (0 or not).
    templates: [Form; 4],
}

/// How a message is written to clients of one kind.
enum Form {
    Unused,
    /// To one client, straight to its buffer.
    WrittenOnce,
    /// To several.
    Template(PublishTemplate),
}

impl Fanout {
    pub(super) fn new(message: Message, now: Instant) -> Self {
        let expiry = message.seconds_left(now);
        Self {
            message,
            is_retained: false,
            kept: None,
            expiry,
            templates: [const { Form::Unused }; 4],
        }
    }

    pub(super) fn message(&self) -> &Message {
        &self.message
    }

    pub(super) fn into_message(self) -> Message {
        self.message
    }

    pub(super) fn keep(&mut self, kept: &mut KeptMessages) -> &Arc<SharedMessage> {
        let message = &self.message;
        self.kept.get_or_insert_with(|| {
            let id = kept.draw_id();
            kept.keep(message, id)
        })
    }

    /// Writes the message, without anything of one subscription, to a connection; its length, or
    /// `None` if it is more than the client takes. Most messages have one receiver of a kind: only
    /// the second one makes a template.
    pub(super) fn write(
        &mut self,
        flags: PublishFlags,
        number: u64,
        connection: &mut Connection,
        barrier: DurabilityBarrier,
    ) -> Option<usize> {
        let extras = Extras {
            message_expiry: self.expiry,
            ..Extras::default()
        };
        let message = &self.message;
        let content = content(message, message.topic.as_str(), extras);
        let (version, has_id) = (connection.version, number > 0);
        let [plain, with_id, plain_5, with_id_5] = &mut self.templates;
        let form = match (version == Version::V5, has_id) {
            (false, false) => plain,
            (false, true) => with_id,
            (true, false) => plain_5,
            (true, true) => with_id_5,
        };
        match form {
            Form::Unused => {
                *form = Form::WrittenOnce;
                let sized = content.sized(version, has_id);
                return put_sized(&sized, flags, number, connection, barrier);
            }
            Form::WrittenOnce => {
                let sized = content.sized(version, has_id);
                *form = Form::Template(PublishTemplate::new(&sized, SHARED_FROM));
            }
            Form::Template(_) => {}
        }
        let Form::Template(template) = form else {
            return None;
        };
        put(template.packet_len(), connection, barrier, |tail| {
            template.write(flags, packet_id(number), tail).cloned()
        })
    }
}

/// The content of a PUBLISH; `topic` is empty where an alias stands for it.
fn content<'a>(message: &'a Message, topic: &'a str, extras: Extras<'a>) -> PublishContent<'a> {
    PublishContent {
        topic,
        payload: &message.payload,
        properties: &message.properties,
        extras,
    }
}

/// A PUBLISH to one connection.
pub(super) struct OutgoingPublish<'a> {
    pub(super) message: &'a Message,
    /// Seconds until the message expires.
    pub(super) expiry: Option<u32>,
    pub(super) identifiers: &'a [NonZeroU32],
    pub(super) flags: PublishFlags,
    /// The number of the delivery; 0 at QoS 0.
    pub(super) number: u64,
}

impl<'a> OutgoingPublish<'a> {
    pub(super) fn of(delivery: &'a Delivery, dup: bool, now: Instant) -> Self {
        Self {
            message: &delivery.message,
            expiry: delivery.message.seconds_left(now),
            identifiers: delivery.grounds.identifiers(),
            flags: PublishFlags {
                dup,
                qos: delivery.qos,
                retain: delivery.retain,
            },
            number: delivery.number,
        }
    }

    /// Writes it, with a topic alias if the client takes one; its length, or `None` if it is more
    /// than the client takes [MQTT-3.1.2-24].
    pub(super) fn write(
        &self,
        connection: &mut Connection,
        barrier: DurabilityBarrier,
    ) -> Option<usize> {
        let (version, has_id) = (connection.version, self.number > 0);
        let extras = Extras {
            message_expiry: self.expiry,
            topic_alias: None,
            subscription_identifiers: self.identifiers,
        };
        let topic = self.message.topic.as_str();
        let whole = content(self.message, topic, extras).sized(version, has_id);
        if whole.packet_len() > connection.max_packet {
            return None;
        }
        let aliases = connection
            .aliases
            .as_mut()
            .filter(|_| whole.packet_len() + ALIAS_BYTES <= connection.max_packet);
        let alias = aliases.and_then(|aliases| aliases.assign(&self.message.topic));
        let Some((alias, is_known)) = alias else {
            return put_sized(&whole, self.flags, self.number, connection, barrier);
        };
        let topic = if is_known { "" } else { topic };
        let extras = Extras {
            topic_alias: Some(alias),
            ..extras
        };
        let short = content(self.message, topic, extras).sized(version, has_id);
        put_sized(&short, self.flags, self.number, connection, barrier)
    }
}

/// Writes a PUBLISH for one receiver.
fn put_sized(
    publish: &SizedPublish<'_>,
    flags: PublishFlags,
    number: u64,
    connection: &mut Connection,
    barrier: DurabilityBarrier,
) -> Option<usize> {
    put(publish.packet_len(), connection, barrier, |tail| {
        let id = packet_id(number);
        publish.write(flags, id, SHARED_FROM, tail).cloned()
    })
}

/// Writes a PUBLISH of `length` bytes that waits for a batch; its length, or `None` if it is more
/// than the client takes [MQTT-3.1.2-24]. `write` returns the payload if that is shared.
fn put(
    length: usize,
    connection: &mut Connection,
    barrier: DurabilityBarrier,
    write: impl FnOnce(&mut BytesMut) -> Option<Bytes>,
) -> Option<usize> {
    if length > connection.max_packet {
        return None;
    }
    let buffer = connection.out.buffer(OutputStream::Messages, barrier);
    if let Some(payload) = write(buffer.tail()) {
        buffer.share(payload);
    }
    connection.out.count(length);
    Some(length)
}
