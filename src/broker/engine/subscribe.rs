//! SUBSCRIBE and UNSUBSCRIBE.

use std::collections::BTreeSet;
use std::time::Instant;

use bytestring::ByteString;

use super::budget::Part;
use super::note::Noted;
use super::record::Record;
use super::session::Subscription;
use super::{ConnectionId, Engine, SessionKey, filters};
use crate::mqtt::{
    Grants, Packet, Properties, ReasonCode, RetainHandling, Subscribe, TopicFilter, Unsubscribe,
};

impl Engine {
    pub(super) fn subscribe(
        &mut self,
        id: ConnectionId,
        session: SessionKey,
        subscribe: Subscribe,
        now: Instant,
    ) {
        let identifier = subscribe
            .properties
            .subscription_identifiers
            .first()
            .copied();
        let recorded = self.records.len();
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        let mut replays = BTreeSet::new();
        let mut properties = Properties::default();
        let is_bridge = self
            .connections
            .get(&id)
            .is_some_and(|connection| connection.is_bridge);
        for (filter, mut options) in subscribe.filters {
            if is_bridge {
                options.no_local = !filter.is_shared();
                options.retain_as_published = true;
            }
            match self.add_subscription(
                session,
                &filter,
                Subscription {
                    options,
                    identifier,
                },
            ) {
                Ok(is_new) => {
                    reasons.push(ReasonCode(options.qos as u8));
                    let wanted = options.retain_handling == RetainHandling::Always
                        || (options.retain_handling == RetainHandling::IfNew && is_new);
                    // Shared subscriptions get none [MQTT 5.0, 4.8.2]. A filter that is there twice is one subscription.
                    if wanted && !filter.is_shared() {
                        replays.insert(filter);
                    }
                }
                Err((reason, why)) => {
                    self.note_topic(
                        id,
                        Noted::SubscribeRefused,
                        Some(filter.as_str().into()),
                        (reason, why),
                    );
                    reasons.push(reason);
                    properties.edit().reason_string = Some(ByteString::from_static(why));
                }
            }
        }
        let after = if self.records.len() > recorded {
            self.records.next_position()
        } else {
            0
        };
        self.send(
            id,
            &Packet::SubAck(Grants {
                packet_id: subscribe.packet_id,
                reasons,
                properties,
            }),
            after,
        );
        self.begin_replays(session, replays.into_iter(), now);
    }

    /// True if the subscription is new, false if it replaces one [MQTT-3.8.4-3].
    fn add_subscription(
        &mut self,
        key: SessionKey,
        filter: &TopicFilter,
        new: Subscription,
    ) -> Result<bool, (ReasonCode, &'static str)> {
        let session = self
            .sessions
            .get_mut(key)
            .ok_or((ReasonCode::UNSPECIFIED, "no session"))?;
        if filter.is_too_deep() {
            self.traffic.refused += 1;
            return Err((
                ReasonCode::TOPIC_FILTER_INVALID,
                "a filter may have at most 201 levels",
            ));
        }
        if !session.rights.may_subscribe(filter) {
            self.traffic.refused += 1;
            return Err((
                ReasonCode::NOT_AUTHORIZED,
                "no permission to subscribe to this filter",
            ));
        }
        let is_new = !session.filters.contains(filter);
        if is_new && session.filters.list().len() >= self.limits.max_subscriptions {
            return Err((ReasonCode::QUOTA_EXCEEDED, "too many subscriptions"));
        }
        if is_new {
            let bytes = session.filters.bytes() + filters::cost(filter);
            self.charge(key, Part::Filters, bytes)
                .map_err(|over| (ReasonCode::QUOTA_EXCEEDED, over.why()))?;
        }
        let session = self
            .sessions
            .get_mut(key)
            .ok_or((ReasonCode::UNSPECIFIED, "no session"))?;
        session.filters.insert(filter, new);
        self.subscriptions.insert(filter, key, new);
        if filter.is_shared() {
            self.subscriptions
                .classify(filter, key, session.class_for(key, filter));
        }
        if session.is_kept() {
            let (options, identifier) = (new.options, new.identifier);
            self.records.put(
                &Record::Subscribed {
                    session: session.number,
                    filter,
                    options,
                    identifier,
                },
                self.clock,
            );
        }
        Ok(is_new)
    }

    pub(super) fn unsubscribe(
        &mut self,
        id: ConnectionId,
        key: SessionKey,
        unsubscribe: Unsubscribe,
        now: Instant,
    ) {
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
                left_behind.extend(session.queue.take_shared(filter));
                if session.is_kept() {
                    after = self.records.put(
                        &Record::Unsubscribed {
                            session: session.number,
                            filter,
                        },
                        self.clock,
                    );
                }
            }
            reasons.push(match existed {
                true => ReasonCode::SUCCESS,
                false if filter.is_too_deep() => ReasonCode::TOPIC_FILTER_INVALID,
                false => ReasonCode::NO_SUBSCRIPTION_EXISTED,
            });
        }
        let (filters, replays) = (session.filters.bytes(), session.replays.bytes());
        self.refund(key, Part::Filters, filters);
        self.refund(key, Part::Replays, replays);
        for delivery in &left_behind {
            self.record_done(key, delivery);
        }
        let answer = Grants {
            packet_id: unsubscribe.packet_id,
            reasons,
            properties: Properties::default(),
        };
        self.send(id, &Packet::UnsubAck(answer), after);
        self.hand_to_others(left_behind, now);
    }
}
