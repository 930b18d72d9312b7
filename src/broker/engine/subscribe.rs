//! SUBSCRIBE and UNSUBSCRIBE.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Instant;

use bytestring::ByteString;

use super::budget::Part;
use super::note::Noted;
use super::record::Record;
use super::retained::Matching;
use super::session::{Session, Subscription};
use super::{ConnectionId, Engine, SessionKey, filters};
use crate::mqtt::{
    Grants, Packet, Properties, QoS, ReasonCode, RetainHandling, Subscribe, SubscribeOptions, TopicFilter, TopicName, Unsubscribe,
};

/// Retained messages that are looked at in a turn.
const REPLAY_PIECE: usize = 20_000;
/// Of these, for one subscription before the next one has its turn.
const FAIR_PIECE: usize = 4_000;

/// Retained messages on their way to a new subscription.
#[derive(Debug)]
pub(super) struct Replay {
    session: SessionKey,
    /// The session's: its key may be another one's by now.
    number: u64,
    filter: TopicFilter,
    qos: QoS,
    identifier: Option<NonZeroU32>,
    /// The last topic that was looked at.
    after: Option<TopicName>,
}

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
                    self.note_topic(id, Noted::SubscribeRefused, Some(filter.as_str().into()), (reason, why));
                    reasons.push(reason);
                    properties.edit().reason_string = Some(ByteString::from_static(why));
                }
            }
        }
        let after = if self.records.len() > recorded { self.records.next_position() } else { 0 };
        self.send(id, &Packet::SubAck(Grants { packet_id: subscribe.packet_id, reasons, properties }), after);
        let Some(number) = self.sessions.get(session).map(|session| session.number) else { return };
        let replay = |(filter, options): (TopicFilter, SubscribeOptions)| Replay {
            session,
            number,
            // A copy: the packet it came in is not to be kept for it.
            filter: filter.detached(),
            qos: options.qos,
            identifier,
            after: None,
        };
        // A filter that is subscribed to again begins again.
        self.replays.retain(|known| known.session != session || !replays.contains_key(&known.filter));
        self.replays.extend(replays.into_iter().map(replay));
        self.go_on(now);
    }

    /// Goes on with retained messages for new subscriptions, a bounded piece of work.
    pub fn go_on(&mut self, now: Instant) {
        let mut left = REPLAY_PIECE;
        while left > 0
            && let Some(mut replay) = self.replays.pop_front()
        {
            let is_wanted = |session: &Session| session.number == replay.number && session.filters.contains(&replay.filter);
            if !self.sessions.get(replay.session).is_some_and(is_wanted) {
                continue;
            }
            let piece = left.min(FAIR_PIECE);
            let Matching { found, seen, last: after } = self.retained.matching(&replay.filter, replay.after.as_ref(), piece, now);
            left -= seen.clamp(1, left);
            for message in found {
                self.replay(replay.session, message, replay.qos, replay.identifier, now);
            }
            self.pump(replay.session, now);
            if after.is_some() {
                replay.after = after;
                self.replays.push_back(replay);
            }
        }
    }

    /// True if [`Engine::go_on`] has something to do.
    pub fn has_work(&self) -> bool {
        !self.replays.is_empty()
    }

    /// True if the subscription is new, false if it replaces one [MQTT-3.8.4-3].
    fn add_subscription(&mut self, key: SessionKey, filter: &TopicFilter, new: Subscription) -> Result<bool, (ReasonCode, &'static str)> {
        let session = self.sessions.get_mut(key).ok_or((ReasonCode::UNSPECIFIED, "no session"))?;
        if filter.is_too_deep() {
            self.traffic.refused += 1;
            return Err((ReasonCode::TOPIC_FILTER_INVALID, "a filter may have at most 201 levels"));
        }
        if !session.rights.may_subscribe(filter) {
            self.traffic.refused += 1;
            return Err((ReasonCode::NOT_AUTHORIZED, "no permission to subscribe to this filter"));
        }
        let is_new = !session.filters.contains(filter);
        if is_new && session.filters.list().len() >= self.limits.max_subscriptions {
            return Err((ReasonCode::QUOTA_EXCEEDED, "too many subscriptions"));
        }
        if is_new {
            let bytes = session.filters.bytes() + filters::cost(filter);
            self.charge(key, Part::Filters, bytes).map_err(|over| (ReasonCode::QUOTA_EXCEEDED, over.why()))?;
        }
        let session = self.sessions.get_mut(key).ok_or((ReasonCode::UNSPECIFIED, "no session"))?;
        session.filters.insert(filter, new);
        self.subscriptions.insert(filter, key, new);
        if session.is_kept() {
            let (options, identifier) = (new.options, new.identifier);
            self.records.put(&Record::Subscribed { session: session.number, filter, options, identifier }, self.clock);
        }
        Ok(is_new)
    }

    pub(super) fn unsubscribe(&mut self, id: ConnectionId, key: SessionKey, unsubscribe: Unsubscribe, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let mut reasons = Vec::with_capacity(unsubscribe.filters.len());
        let mut after = 0;
        let mut left_behind = Vec::new();
        for filter in &unsubscribe.filters {
            let existed = session.filters.remove(filter);
            if existed {
                self.subscriptions.remove(filter, key);
                left_behind.extend(session.queue.take_shared(filter));
                if session.is_kept() {
                    after = self.records.put(&Record::Unsubscribed { session: session.number, filter }, self.clock);
                }
            }
            reasons.push(match existed {
                true => ReasonCode::SUCCESS,
                false if filter.is_too_deep() => ReasonCode::TOPIC_FILTER_INVALID,
                false => ReasonCode::NO_SUBSCRIPTION_EXISTED,
            });
        }
        let bytes = session.filters.bytes();
        self.refund(key, Part::Filters, bytes);
        for delivery in &left_behind {
            self.record_done(key, delivery);
        }
        let answer = Grants { packet_id: unsubscribe.packet_id, reasons, properties: Properties::default() };
        self.send(id, &Packet::UnsubAck(answer), after);
        self.hand_to_others(left_behind, now);
    }
}
