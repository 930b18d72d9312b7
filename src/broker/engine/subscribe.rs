//! SUBSCRIBE and UNSUBSCRIBE [MQTT 5.0, 3.8.4 and 3.10.4].

use std::collections::BTreeSet;
use std::time::Instant;

use bytestring::ByteString;

use super::budget::BudgetPart;
use super::delivery::Subscription;
use super::note::Noted;
use super::record::Record;
use super::refusal::Refusal;
use super::{Client, ConnectionId, Engine, SessionKey, filters};
use crate::mqtt::{
    Grants, Packet, Properties, ReasonCode, RetainHandling, Subscribe, TopicFilter, Unsubscribe,
};

/// True if a subscription is followed by the retained messages [MQTT-3.3.1-9], [MQTT-3.3.1-10],
/// [MQTT-3.3.1-11].
fn wants_retained(handling: RetainHandling, is_new: bool) -> bool {
    match handling {
        RetainHandling::Always => true,
        RetainHandling::IfNew => is_new,
        RetainHandling::Never => false,
    }
}

impl Engine {
    /// SUBSCRIBE: each filter is granted or refused on its own [MQTT-3.8.4-6], then the retained
    /// messages of new ones follow.
    pub(super) fn process_subscribe(&mut self, client: Client, subscribe: Subscribe, now: Instant) {
        let id = client.connection;
        let identifier = subscribe
            .properties
            .subscription_identifiers
            .first()
            .copied();
        let recorded = self.records.len();
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        let mut replays = BTreeSet::new();
        let mut properties = Properties::default();
        let is_bridge = self.is_bridge(id);
        for (filter, mut options) in subscribe.filters {
            if is_bridge {
                options.no_local = !filter.is_shared();
                options.retain_as_published = true;
            }
            let subscription = Subscription::new(options, identifier);
            match self.add_subscription(client.session, &filter, subscription) {
                Ok(is_new) => {
                    reasons.push(ReasonCode(options.qos as u8));
                    // Shared subscriptions get none [MQTT 5.0, 4.8.2]. A filter that is there twice
                    // is one subscription.
                    if wants_retained(options.retain_handling, is_new) && !filter.is_shared() {
                        replays.insert(filter);
                    }
                }
                Err(refusal) => {
                    let topic = Some(filter.as_str().into());
                    self.note_topic(id, Noted::SubscribeRefused, topic, refusal);
                    reasons.push(refusal.reason);
                    properties.edit().reason_string = Some(ByteString::from_static(refusal.why));
                }
            }
        }
        let suback = Packet::SubAck(Grants {
            packet_id: subscribe.packet_id,
            reasons,
            properties,
        });
        let after = self.records.since(recorded);
        self.send(id, &suback, after);
        self.begin_replays(client.session, replays.into_iter(), now);
    }

    /// True for a client that must not get back its own messages.
    fn is_bridge(&self, id: ConnectionId) -> bool {
        let connection = self.connections.get(&id);
        connection.is_some_and(|connection| connection.is_bridge)
    }

    /// True if the subscription is new, false if it replaces one [MQTT-3.8.4-3].
    fn add_subscription(
        &mut self,
        key: SessionKey,
        filter: &TopicFilter,
        new: Subscription,
    ) -> Result<bool, Refusal> {
        let is_new = self.admit_subscription(key, filter)?;
        let Some(session) = self.sessions.get_mut(key) else {
            return Ok(is_new);
        };
        session.filters.insert(filter, new);
        self.subscriptions.insert(filter, key, new);
        if filter.is_shared() {
            self.subscriptions
                .classify(filter, key, session.class_for(key, filter));
        }
        if session.is_kept() {
            self.records.put(Record::Subscribed {
                session: session.number,
                filter,
                options: new.options,
                identifier: new.identifier,
            });
        }
        Ok(is_new)
    }

    /// True if a session has no subscription with this filter, and may have one: it has the
    /// permission, a place and memory for it.
    fn admit_subscription(
        &mut self,
        key: SessionKey,
        filter: &TopicFilter,
    ) -> Result<bool, Refusal> {
        let session = self
            .sessions
            .get(key)
            .ok_or(Refusal::new(ReasonCode::UNSPECIFIED, "no session"))?;
        if filter.is_too_deep() {
            self.traffic.refused += 1;
            let why = "a filter may have at most 201 levels";
            return Err(Refusal::new(ReasonCode::TOPIC_FILTER_INVALID, why));
        }
        if !session.rights.may_subscribe(filter) {
            self.traffic.refused += 1;
            let why = "no permission to subscribe to this filter";
            return Err(Refusal::new(ReasonCode::NOT_AUTHORIZED, why));
        }
        if session.filters.contains(filter) {
            return Ok(false);
        }
        if session.filters.list().len() >= self.limits.max_subscriptions {
            let why = "too many subscriptions";
            return Err(Refusal::new(ReasonCode::QUOTA_EXCEEDED, why));
        }
        let bytes = session.filters.bytes() + filters::cost(filter);
        self.charge(key, BudgetPart::Filters, bytes)?;
        Ok(true)
    }

    /// UNSUBSCRIBE: messages that wait for a shared subscription go to its other members.
    pub(super) fn process_unsubscribe(
        &mut self,
        client: Client,
        unsubscribe: Unsubscribe,
        now: Instant,
    ) {
        let key = client.session;
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let mut reasons = Vec::with_capacity(unsubscribe.filters.len());
        let mut after = 0;
        let mut left_behind = Vec::new();
        for filter in &unsubscribe.filters {
            let existed = session.filters.remove(filter);
            if existed {
                self.subscriptions.remove(filter, key);
                session.replays.forget(filter);
                let queue = session.queue.known();
                left_behind.extend(
                    queue
                        .into_iter()
                        .flat_map(|queue| queue.take_shared(filter)),
                );
                if session.is_kept() {
                    after = self.records.put(Record::Unsubscribed {
                        session: session.number,
                        filter,
                    });
                }
            }
            reasons.push(match existed {
                true => ReasonCode::SUCCESS,
                false if filter.is_too_deep() => ReasonCode::TOPIC_FILTER_INVALID,
                false => ReasonCode::NO_SUBSCRIPTION_EXISTED,
            });
        }
        let (filters, replays) = (session.filters.bytes(), session.replays.bytes());
        self.refund(key, BudgetPart::Filters, filters);
        self.refund(key, BudgetPart::Replays, replays);
        for delivery in &left_behind {
            self.record_done(key, delivery);
        }
        let answer = Grants {
            packet_id: unsubscribe.packet_id,
            reasons,
            properties: Properties::default(),
        };
        self.send(client.connection, &Packet::UnsubAck(answer), after);
        self.redistribute_deliveries(left_behind, now);
    }
}
