//! Who gets a message beside local clients: the uplinks whose rules take it, and the service that
//! writes to instruments. Pure.
//!
//! Invariants:
//! * Nobody else compares a message with rules, and it is compared once: what was decided travels
//!   with it.
//! * A message goes to no uplink that it came from, and of the topics that begin with `$` only
//!   those of the gateway itself leave it.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Routes, Rule, SET, Subject};
use crate::message::{Class, Origin};
use crate::mqtt::{QoS, TopicError, TopicName};
use crate::outbox::Handover;
use crate::units::Rate;

/// Bits of a number that names a destination.
pub const DESTINATION_BITS: u32 = 6;

/// Uplinks that a gateway may have: each destination has a bit of its own.
pub const MOST_UPLINKS: usize = (1 << DESTINATION_BITS) - 1;

/// A receiver of messages inside the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The service that writes to instruments.
    Writes,
    /// The outbox of an uplink, by its index.
    Uplink(usize),
}

impl Destination {
    /// Its number, less than `1 << DESTINATION_BITS`.
    pub fn number(self) -> usize {
        match self {
            Self::Writes => 0,
            Self::Uplink(index) => {
                debug_assert!(index < MOST_UPLINKS, "every uplink has a number of its own");
                index.min(MOST_UPLINKS - 1) + 1
            }
        }
    }

    /// Its bit among all destinations.
    pub fn bit(self) -> u64 {
        1 << self.number()
    }
}

/// A rate that a message has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RateLimit {
    /// Its rule; `None` for the rate of the uplink.
    pub(super) rule: Option<u32>,
    pub(super) rate: Rate,
}

/// How a message goes to an uplink.
#[derive(Debug, Clone)]
pub struct SendTerms {
    /// Its topic at the remote; the error says why there is none.
    pub topic: Result<TopicName, TopicError>,
    /// How important it is.
    pub class: Class,
    /// With which QoS.
    pub qos: QoS,
    /// Whether it is retained there.
    pub retain: bool,
    /// By which the outbox knows it after a crash, if its sender repeats it.
    pub handover: Option<Handover>,
    /// The identifier of its rule.
    pub(super) rule: u32,
    /// The rate of its rule.
    pub(super) limit: Option<RateLimit>,
    /// The rules that decided.
    pub(super) routes: Arc<Routes>,
}

impl SendTerms {
    /// True if its receiver can tell when a reading was taken.
    pub(super) fn tells_time(&self) -> bool {
        let format = self.routes.format(self.routes.rule_by_id(self.rule));
        format.payload.tells_time()
    }

    fn new(
        subject: &Subject<'_>,
        rule: &Rule,
        topic: Result<TopicName, TopicError>,
        routes: &Arc<Routes>,
    ) -> Self {
        let message = subject.message();
        let id = routes.id_of(rule);
        let limit = |rate| RateLimit {
            rule: Some(id),
            rate,
        };
        Self {
            topic,
            class: rule.class.unwrap_or(message.class),
            qos: rule.qos.unwrap_or(message.qos).min(rule.most),
            retain: message.retain && rule.keeps_retained,
            handover: None,
            rule: id,
            limit: rule.rate.map(limit),
            routes: Arc::clone(routes),
        }
    }
}

/// One way of a message.
#[derive(Debug, Clone)]
pub enum RouteTarget {
    /// It asks for a write.
    Writes,
    /// It goes to an uplink.
    Uplink {
        /// The index of the uplink.
        index: usize,
        /// How it goes there.
        terms: SendTerms,
    },
}

impl RouteTarget {
    /// Where it leads.
    pub fn to(&self) -> Destination {
        match self {
            Self::Writes => Destination::Writes,
            Self::Uplink { index, .. } => Destination::Uplink(*index),
        }
    }

    /// The same for a message that its sender repeats.
    #[must_use]
    pub fn handed_over(mut self, handover: Option<Handover>) -> Self {
        if let Self::Uplink { terms, .. } = &mut self {
            terms.handover = handover;
        }
        self
    }
}

/// The rules of all uplinks, and the topics on which instruments are written to.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    uplinks: Vec<Arc<Routes>>,
    commands: HashSet<TopicName>,
}

impl RouteTable {
    /// `uplinks` are the rules of each, in their order; `commands` the topics on which points and
    /// groups are written.
    pub fn new(uplinks: Vec<Arc<Routes>>, commands: HashSet<TopicName>) -> Self {
        assert!(
            uplinks.len() <= MOST_UPLINKS,
            "the configuration allows no more uplinks"
        );
        Self { uplinks, commands }
    }

    /// How many uplinks there are.
    pub fn uplinks(&self) -> usize {
        self.uplinks.len()
    }

    /// True if a message on this topic asks for a write, whether its point can be written or not.
    pub fn is_command(&self, topic: &TopicName) -> bool {
        topic.as_str().ends_with(SET) && self.commands.contains(topic)
    }

    /// The ways of a message that came from a client of the local broker, or from a remote.
    pub fn targets(&self, subject: &Subject<'_>) -> Vec<RouteTarget> {
        let uplinks = 0..self.uplinks.len();
        let to_uplink = |index| {
            let terms = self.to_uplink(index, subject)?;
            Some(RouteTarget::Uplink { index, terms })
        };
        let mut targets: Vec<RouteTarget> = uplinks.filter_map(to_uplink).collect();
        if self.is_command(&subject.message().topic) {
            targets.push(RouteTarget::Writes);
        }
        targets
    }

    /// How a message goes to an uplink; `None` if it does not.
    pub fn to_uplink(&self, index: usize, subject: &Subject<'_>) -> Option<SendTerms> {
        let message = subject.message();
        let stays = message.topic.is_reserved() && !message.is_status();
        if stays || message.origin == Origin::uplink(index) {
            return None;
        }
        let routes = self.uplinks.get(index)?;
        let (rule, topic) = routes.outward(subject)?;
        Some(SendTerms::new(subject, rule, topic, routes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::mqtt::TopicFilter;
    use crate::route::Points;

    fn name(text: &str) -> TopicName {
        TopicName::new(text.to_owned()).unwrap()
    }

    fn routes(filters: &[&str]) -> Arc<Routes> {
        let rule = |text: &&str| Rule::keep(TopicFilter::new((*text).to_owned()).unwrap());
        let points: Arc<Points> = Arc::default();
        let send = filters.iter().map(rule).collect();
        Arc::new(Routes::new(send, Vec::new(), false, points))
    }

    #[test]
    fn each_destination_that_takes_a_message_is_a_way_and_has_a_bit() {
        let table = RouteTable::new(
            vec![routes(&["a/#"]), routes(&[]), routes(&["#"])],
            HashSet::from([name("a/set")]),
        );
        let targets = |topic: &str, origin| {
            let message = Message::new(name(topic), "", origin);
            let targets = table.targets(&Subject::of(&message));
            targets.iter().map(RouteTarget::to).collect::<Vec<_>>()
        };
        let uplink = Destination::Uplink;
        assert_eq!(targets("a/x", Origin::Client), [uplink(0), uplink(2)]);
        assert_eq!(targets("b", Origin::Client), [uplink(2)]);
        assert_eq!(targets("b", Origin::Uplink(2)), []);
        assert_eq!(
            targets("a/set", Origin::Uplink(0)),
            [uplink(2), Destination::Writes]
        );
        assert_eq!(targets("$SYS/broker/uptime", Origin::Own), []);
        assert_eq!(targets("$other/x", Origin::Client), []);
        let all = (0..MOST_UPLINKS)
            .map(uplink)
            .chain([Destination::Writes])
            .fold(0, |bits: u64, one| {
                assert_eq!(bits & one.bit(), 0, "{one:?} has a bit of its own");
                bits | one.bit()
            });
        assert_eq!(all, u64::MAX);
    }
}
