//! What the engine has for the log, one constant sentence a kind. Texts of peers are printed escaped.

use super::engine::{Notice, NoticeKind};

/// Writes a notice down.
pub(super) fn write(notice: &Notice) {
    let Notice { kind, client_id, user, address, topic, why, left_out } = notice;
    let (client, topic) = (client_id.as_deref(), topic.as_ref().map(crate::mqtt::TopicName::as_str));
    macro_rules! warn {
        ($event:literal, $sentence:literal) => {
            tracing::warn!(event = $event, ?client, ?user, ?address, ?topic, why, left_out, $sentence)
        };
    }
    match kind {
        NoticeKind::RefusedMessage => {
            warn!("broker.message_refused", "a message is refused and dropped; clients before MQTT 5, and at QoS 0, cannot be told");
        }
        NoticeKind::RefusedWill => {
            warn!("broker.will_refused", "a will is refused and dropped; give its user a `write` rule for the topic, or change the will");
        }
        NoticeKind::RetainedCommand => {
            warn!(
                "broker.retained_command",
                "a command to an instrument came with the retain flag and is not retained; publish commands without it"
            );
        }
        NoticeKind::NotRetained => warn!("broker.not_retained", "a message is delivered but not retained, because there is no room"),
        NoticeKind::FullQueue => warn!("broker.queue_full", "a message for a client is dropped, because a queue is full"),
        NoticeKind::WrongAcknowledgement => {
            warn!(
                "broker.wrong_acknowledgement",
                "a client is disconnected, because its acknowledgement does not fit its message; update the client"
            );
        }
    }
}
