//! Schemas of packed frames on their way to the remote: retained, at QoS 1, under a packet
//! identifier of their own, and one at a time.

use super::RemoteConnection;
use crate::message::SessionLost;
use crate::mqtt::{Properties, QoS, ReasonCode, TopicName};
use crate::outbox::{LANES, Outgoing, Waiting};
use crate::payload::{Payload, numbered_columns};
use crate::reading::Timestamp;
use crate::route::{Routes, WrittenAt};
use crate::time::{moment, now};
use crate::uplink::batch::Batch;
use crate::uplink::client::Uplink;
use crate::uplink::failure::LinkError;
use crate::uplink::link::Command;
use crate::uplink::session::{SCHEMA_ID, Send};

impl RemoteConnection<'_> {
    /// Sends the next schema that the remote lacks.
    pub(super) fn publish_schema(&mut self) -> Result<(), LinkError> {
        if self.is_held() || !self.uplink.session.has_place() {
            return Ok(());
        }
        let Some((topic, schema)) = self.uplink.schemas.publish(now()) else {
            return Ok(());
        };
        if !self.link.retains() {
            self.uplink.schema_refused("it keeps no retained messages");
            return Ok(());
        }
        let Some(message) = self.uplink.schema_message(topic, schema) else {
            self.uplink
                .schema_refused("its topic is not possible there");
            return Ok(());
        };
        let message = Outgoing {
            qos: self.state.qos(),
            ..message
        };
        let packet_id = Some(SCHEMA_ID).filter(|_| message.qos != QoS::AtMostOnce);
        if !self.link.feed(Command::Own { packet_id, message })? {
            let why = "it is larger than the remote takes";
            self.uplink.schema_refused(why);
        } else if packet_id.is_some() {
            self.uplink.session.reserve();
        } else {
            // Nothing answers it; it comes before the frames.
            self.uplink.schemas.acknowledged();
        }
        Ok(())
    }

    /// PUBACK for a schema.
    pub(super) fn schema_answered(&mut self, reason: ReasonCode) {
        self.uplink.session.give_back();
        if reason.is_error() {
            self.uplink.schema_refused(&reason.to_string());
            return;
        }
        self.uplink.schemas.acknowledged();
    }
}

impl Uplink {
    /// Saves what the remote has got since the last time.
    pub(super) fn save_schemas(&mut self) {
        let Some(schemas) = self.schemas.save() else {
            return;
        };
        if let Err(error) = self.outbox.save_schemas(&schemas) {
            tracing::warn!(event = "uplink.schemas_unsaved", uplink = %self.settings.name, "the schemas of packed frames cannot be saved: they are made again after a restart; {error}");
        }
    }

    fn schema_message(&self, topic: String, schema: String) -> Option<Outgoing> {
        let message = Outgoing {
            topic: TopicName::new(topic).ok()?,
            qos: QoS::AtLeastOnce,
            retain: true,
            if_session_lost: SessionLost::Drop,
            enqueued: Timestamp::from(moment()),
            properties: Properties::default(),
            payload: Payload::Bytes(schema.into()),
            rated: None,
            source: None,
        };
        let topic = self.topic_there(&message, None).ok()?;
        Some(Outgoing { topic, ..message })
    }

    pub(super) fn schema_refused(&mut self, why: &str) {
        if let Some(topic) = self.schemas.refused(now()) {
            tracing::warn!(event = "uplink.schema_refused", uplink = %self.settings.name, %topic, "the remote does not take the schema of packed frames on {topic}/meta/+: {why}. Readings go there in the format `columns`, which takes more bytes; allow the topic, or choose another format");
        }
    }

    /// A batch is to be sent: its frames will need a schema.
    pub(super) fn prepare_schema(&mut self, head: &Waiting) {
        let Some(batch) = self.batches.sent(head.place()) else {
            return;
        };
        let Some(coder) = batch.format().payload.pack() else {
            return;
        };
        let routes = self.routes.borrow();
        let (schemas, topic) = (&mut self.schemas, &head.message.topic);
        routes.with_names(batch.members(), WrittenAt::AsTaken, |readings| {
            schemas.prepare(topic, readings, coder, now());
        });
    }

    /// The payload of readings that are sent together.
    pub(super) fn payload_of_batch(
        &self,
        batch: &Batch,
        send: &Send,
        at: WrittenAt,
        routes: &Routes,
    ) -> Option<bytes::Bytes> {
        let format = batch.format();
        if format.payload.pack().is_none() {
            return routes.payload_of_all(format, batch.members(), at);
        }
        let lane = LANES.get(send.place.queue)?;
        let series = crc32c::crc32c(self.outbox.identity(*lane).as_bytes());
        let topic = &send.message.topic;
        routes.with_names(batch.members(), at, |readings| {
            let packed = self.schemas.encode(topic, series.into(), readings);
            let numbered = || numbered_columns(series.into(), readings);
            (!readings.is_empty()).then(|| packed.unwrap_or_else(numbered))
        })
    }
}
