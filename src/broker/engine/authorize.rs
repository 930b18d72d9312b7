//! Whether a client may publish a message.

use std::time::Instant;

use super::notice::NoticeKind;
use super::refusal::Refusal;
use super::retained::bridge_of;
use super::session::Session;
use super::{Engine, SessionKey};
use crate::message::Message;
use crate::mqtt::{Publish, ReasonCode, TopicName, Version};

/// For a client whose bridge state is not retained.
pub(super) const TOO_MANY_STATES: &str = "at most 1000 states of bridge connections are retained, and no more than a tenth of `broker.max_retained`";

/// The parts of a message that permissions depend on.
#[derive(Clone, Copy)]
struct Publication<'a> {
    topic: &'a TopicName,
    payload: &'a [u8],
    retain: bool,
    /// An instrument is written to on its topic.
    is_guarded: bool,
}

impl Engine {
    /// Lets a message in, or tells its sender and the log why not. A command to an instrument is
    /// not retained: it must not be carried out again when it is next read.
    pub(super) fn authorize(
        &mut self,
        session: SessionKey,
        topic: &TopicName,
        publish: &mut Publish,
        now: Instant,
    ) -> Result<(), Refusal> {
        let authorized = self.check_publish(session, topic, publish);
        if let Err(Refusal { why, .. }) = authorized {
            self.traffic.refused += 1;
            let kind = NoticeKind::RefusedMessage;
            self.notice(kind, Some(session), Some(topic), why, now);
        } else if publish.retain && !publish.payload.is_empty() && self.routes.is_command(topic) {
            publish.retain = false;
            let kind = NoticeKind::RetainedCommand;
            self.notice(kind, Some(session), Some(topic), "", now);
        }
        authorized
    }

    fn check_publish(
        &self,
        session: SessionKey,
        topic: &TopicName,
        publish: &Publish,
    ) -> Result<(), Refusal> {
        let session = self
            .sessions
            .get(session)
            .ok_or(Refusal::new(ReasonCode::UNSPECIFIED, "no session"))?;
        if topic.is_too_deep() {
            let why = "a topic may have at most 201 levels";
            return Err(Refusal::new(ReasonCode::TOPIC_NAME_INVALID, why));
        }
        let content = Publication {
            topic,
            payload: &publish.payload,
            retain: publish.retain,
            is_guarded: self.routes.is_command(topic),
        };
        may_publish(session, content)?;
        self.check_room_for_state(session, content)?;
        self.check_response_topic(session, content, publish)?;
        let is_text = publish.properties.payload_is_text == Some(true);
        if is_text && std::str::from_utf8(&publish.payload).is_err() {
            let why = "the payload is not valid UTF-8";
            return Err(Refusal::new(ReasonCode::PAYLOAD_FORMAT_INVALID, why));
        }
        Ok(())
    }

    /// A state of a bridge has a place among the retained ones. Clients before MQTT 5 get no reason
    /// codes: their state reaches its subscribers and is not retained.
    fn check_room_for_state(
        &self,
        session: &Session,
        content: Publication<'_>,
    ) -> Result<(), Refusal> {
        let is_kept = content.retain && !content.payload.is_empty();
        if !is_kept || self.retained.has_room_for_state(content.topic) {
            return Ok(());
        }
        let connection = session.connection.and_then(|id| self.connections.get(&id));
        if connection.is_some_and(|connection| connection.version == Version::V5) {
            return Err(Refusal::new(ReasonCode::QUOTA_EXCEEDED, TOO_MANY_STATES));
        }
        Ok(())
    }

    /// The answer of an instrument goes to topics only that the sender of the command may read or
    /// write.
    fn check_response_topic(
        &self,
        session: &Session,
        content: Publication<'_>,
        publish: &Publish,
    ) -> Result<(), Refusal> {
        let Some(topic) = publish.properties.response_topic.as_ref() else {
            return Ok(());
        };
        let rights = &session.rights;
        if content.is_guarded
            && !rights.may_read(topic)
            && !rights.may_write(topic, self.routes.is_command(topic))
        {
            let why = "no permission for the response topic";
            return Err(Refusal::new(ReasonCode::NOT_AUTHORIZED, why));
        }
        Ok(())
    }

    /// Whether the will of a session may be published.
    pub(super) fn may_publish_will(
        &self,
        session: &Session,
        will: &Message,
    ) -> Result<(), Refusal> {
        let content = Publication {
            topic: &will.topic,
            payload: &will.payload,
            retain: will.retain,
            is_guarded: self.routes.is_command(&will.topic),
        };
        may_publish(session, content)
    }
}

/// Topics that begin with `$` are the broker's; but a bridge publishes whether its connection is
/// up, as mosquitto's do ([`may_publish_state`]).
fn may_publish(session: &Session, content: Publication<'_>) -> Result<(), Refusal> {
    let refused = |why| Err(Refusal::new(ReasonCode::NOT_AUTHORIZED, why));
    if content.topic.is_reserved() {
        return match bridge_of(content.topic) {
            Some(bridge) => may_publish_state(session, bridge, content),
            None => refused("topics that begin with $ belong to the broker"),
        };
    }
    if session.rights.may_write(content.topic, content.is_guarded) {
        Ok(())
    } else {
        refused("no permission to publish to this topic")
    }
}

/// Whether a session may publish the state of a bridge. A user whose rules list topics to write
/// needs one that covers this topic; any other may publish the state of the own client identifier.
/// mosquitto's bridges send `1` when they connect, and `0` as their will; an empty payload with the
/// retain flag removes the retained state.
fn may_publish_state(
    session: &Session,
    bridge: &str,
    content: Publication<'_>,
) -> Result<(), Refusal> {
    let is_own = *bridge == *session.client_id;
    if !session.rights.may_write_state(content.topic, is_own) {
        let why = "no permission to publish the state of this bridge connection";
        return Err(Refusal::new(ReasonCode::NOT_AUTHORIZED, why));
    }
    let removes = content.retain && content.payload.is_empty();
    if content.payload != b"0" && content.payload != b"1" && !removes {
        let why = "the state of a bridge connection is 0 or 1";
        return Err(Refusal::new(ReasonCode::IMPLEMENTATION_SPECIFIC, why));
    }
    Ok(())
}
