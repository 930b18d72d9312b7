//! SUBSCRIBE and UNSUBSCRIBE.

use std::collections::BTreeMap;
use std::time::Instant;

use super::session::Delivery;
use super::{ConnectionId, Engine, SessionKey};
use crate::mqtt::{Grants, Packet, Properties, ReasonCode, RetainHandling, Subscribe, SubscribeOptions, TopicFilter, Unsubscribe};

impl Engine {
    pub(super) fn subscribe(&mut self, id: ConnectionId, session: SessionKey, subscribe: Subscribe, now: Instant) {
        if !subscribe.properties.subscription_identifiers.is_empty() {
            self.refuse(id, ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED, now);
            return;
        }
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        let mut replays = BTreeMap::new();
        for (filter, options) in subscribe.filters {
            match self.add_subscription(session, &filter, options) {
                Ok(is_new) => {
                    reasons.push(ReasonCode(options.qos as u8));
                    let wanted =
                        options.retain_handling == RetainHandling::Always || (options.retain_handling == RetainHandling::IfNew && is_new);
                    // A filter that stands twice in one packet is one subscription, with the later options.
                    if wanted {
                        replays.insert(filter, options);
                    }
                }
                Err(reason) => reasons.push(reason),
            }
        }
        self.send(id, Packet::SubAck(Grants { packet_id: subscribe.packet_id, reasons, properties: Properties::default() }));
        for (filter, options) in replays {
            self.replay_retained(session, &filter, options, now);
        }
    }

    /// True if the subscription is new, false if it replaces one [MQTT-3.8.4-3].
    fn add_subscription(&mut self, key: SessionKey, filter: &TopicFilter, options: SubscribeOptions) -> Result<bool, ReasonCode> {
        if filter.is_shared() {
            return Err(ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED);
        }
        let session = self.sessions.get_mut(key).ok_or(ReasonCode::UNSPECIFIED)?;
        let is_new = !session.subscriptions.contains(filter);
        if is_new && session.subscriptions.len() >= self.limits.max_subscriptions {
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        session.subscriptions.insert(filter.clone());
        self.subscriptions.insert(filter, key, options);
        Ok(is_new)
    }

    fn replay_retained(&mut self, session: SessionKey, filter: &TopicFilter, options: SubscribeOptions, now: Instant) {
        for message in self.retained.matching(filter, now) {
            let qos = message.qos.min(options.qos);
            self.hand_over(session, Delivery { message, qos, retain: true, is_replay: true });
        }
        self.pump(session, now);
    }

    pub(super) fn unsubscribe(&mut self, id: ConnectionId, key: SessionKey, unsubscribe: Unsubscribe) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let mut reasons = Vec::with_capacity(unsubscribe.filters.len());
        for filter in &unsubscribe.filters {
            let existed = session.subscriptions.remove(filter);
            if existed {
                self.subscriptions.remove(filter, key);
            }
            reasons.push(if existed { ReasonCode::SUCCESS } else { ReasonCode::NO_SUBSCRIPTION_EXISTED });
        }
        self.send(id, Packet::UnsubAck(Grants { packet_id: unsubscribe.packet_id, reasons, properties: Properties::default() }));
    }
}
