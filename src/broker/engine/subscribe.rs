//! SUBSCRIBE and UNSUBSCRIBE.

use std::collections::BTreeMap;
use std::time::Instant;

use bytestring::ByteString;

use super::record::Record;
use super::session::Subscription;
use super::{ConnectionId, Engine, SessionKey};
use crate::mqtt::{Grants, Packet, Properties, ReasonCode, RetainHandling, Subscribe, TopicFilter, Unsubscribe};

impl Engine {
    pub(super) fn subscribe(&mut self, id: ConnectionId, session: SessionKey, subscribe: Subscribe, now: Instant) {
        let identifier = subscribe.properties.subscription_identifiers.first().copied();
        let recorded = self.records.len();
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        let mut replays = BTreeMap::new();
        let mut properties = Properties::default();
        let is_bridge = self.connections.get(&id).is_some_and(|connection| connection.is_bridge);
        for (filter, mut options) in subscribe.filters {
            if is_bridge {
                options.no_local = !filter.is_shared();
                options.retain_as_published = true;
            }
            match self.add_subscription(session, &filter, Subscription { options, identifier }) {
                Ok(is_new) => {
                    reasons.push(ReasonCode(options.qos as u8));
                    let wanted =
                        options.retain_handling == RetainHandling::Always || (options.retain_handling == RetainHandling::IfNew && is_new);
                    // Shared subscriptions get none [MQTT 5.0, 4.8.2]. A filter that stands twice in one packet is one subscription, with
                    // the later options.
                    if wanted && !filter.is_shared() {
                        replays.insert(filter, options);
                    }
                }
                Err((reason, why)) => {
                    reasons.push(reason);
                    properties.edit().reason_string = Some(ByteString::from_static(why));
                }
            }
        }
        let after = if self.records.len() > recorded { self.records.next_position() } else { 0 };
        self.send(id, &Packet::SubAck(Grants { packet_id: subscribe.packet_id, reasons, properties }), after);
        for (filter, options) in replays {
            for message in self.retained.matching(&filter, now) {
                self.replay(session, message, options.qos, identifier);
            }
            self.pump(session, now);
        }
    }

    /// True if the subscription is new, false if it replaces one [MQTT-3.8.4-3].
    fn add_subscription(&mut self, key: SessionKey, filter: &TopicFilter, new: Subscription) -> Result<bool, (ReasonCode, &'static str)> {
        let session = self.sessions.get_mut(key).ok_or((ReasonCode::UNSPECIFIED, "no session"))?;
        if !session.rights.may_subscribe(filter) {
            self.traffic.refused += 1;
            return Err((ReasonCode::NOT_AUTHORIZED, "no permission to subscribe to this filter"));
        }
        let is_new = !session.has_subscription(filter);
        if is_new && session.subscriptions().len() >= self.limits.max_subscriptions {
            return Err((ReasonCode::QUOTA_EXCEEDED, "too many subscriptions"));
        }
        session.subscribe(filter, new);
        self.subscriptions.insert(filter, key, new);
        if session.is_kept() {
            let (options, identifier) = (new.options, new.identifier);
            self.records.put(&Record::Subscribed { session: session.number, filter, options, identifier }, self.clock);
        }
        Ok(is_new)
    }

    pub(super) fn unsubscribe(&mut self, id: ConnectionId, key: SessionKey, unsubscribe: Unsubscribe) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let mut reasons = Vec::with_capacity(unsubscribe.filters.len());
        let mut after = 0;
        for filter in &unsubscribe.filters {
            let existed = session.unsubscribe(filter);
            if existed {
                self.subscriptions.remove(filter, key);
                if session.is_kept() {
                    after = self.records.put(&Record::Unsubscribed { session: session.number, filter }, self.clock);
                }
            }
            reasons.push(if existed { ReasonCode::SUCCESS } else { ReasonCode::NO_SUBSCRIPTION_EXISTED });
        }
        let answer = Grants { packet_id: unsubscribe.packet_id, reasons, properties: Properties::default() };
        self.send(id, &Packet::UnsubAck(answer), after);
    }
}
