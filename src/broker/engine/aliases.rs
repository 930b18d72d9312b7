//! The topic aliases of one MQTT 5 connection, both ways.
//!
//! Invariants: `incoming_bytes` is what the aliases of the client take; those to the client take no
//! more than their allowance, which was charged when the client connected.

use std::collections::HashMap;
use std::num::NonZeroU16;

use crate::mqtt::TopicName;

/// Bytes of an alias besides its topic, about.
const OVERHEAD: usize = 80;
/// Bytes that an alias to the client may take on average; with more, fewer topics get one.
const AVERAGE: usize = 160;

/// The aliases of one MQTT 5 connection.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    /// Of the client; the index is the alias less one.
    incoming: Vec<Option<TopicName>>,
    incoming_bytes: usize,
    outgoing: HashMap<TopicName, NonZeroU16>,
    outgoing_bytes: usize,
    /// The client's Topic Alias Maximum, as far as it is used.
    maximum: u16,
}

fn weight(topic: &TopicName) -> usize {
    OVERHEAD + topic.as_str().len()
}

impl Aliases {
    /// For a client that takes `maximum` aliases.
    pub(super) fn of_client(maximum: u16) -> Self {
        Self {
            maximum,
            ..Self::default()
        }
    }

    /// Bytes that `maximum` aliases to a client may take.
    pub(super) fn allowance(maximum: u16) -> usize {
        usize::from(maximum) * AVERAGE
    }

    /// True if the client takes any.
    pub(super) fn are_wanted(&self) -> bool {
        self.maximum > 0
    }

    /// Bytes that all aliases may take.
    pub(super) fn bytes(&self) -> usize {
        Self::allowance(self.maximum) + self.incoming_bytes
    }

    fn known(&self, alias: NonZeroU16) -> Option<&TopicName> {
        self.incoming
            .get(usize::from(alias.get() - 1))
            .and_then(Option::as_ref)
    }

    /// Bytes of all aliases if the client gives one of its own this topic.
    pub(super) fn bytes_with(&self, topic: &TopicName, alias: NonZeroU16) -> usize {
        let places = usize::from(alias.get()).saturating_sub(self.incoming.len())
            * size_of::<Option<TopicName>>();
        self.bytes() + places + weight(topic) - self.known(alias).map_or(0, weight)
    }

    /// Gives an alias of the client a topic.
    pub(super) fn give(&mut self, topic: &TopicName, alias: NonZeroU16) {
        let bytes = self.bytes_with(topic, alias);
        let index = usize::from(alias.get() - 1);
        if self.incoming.len() <= index {
            self.incoming.reserve_exact(index + 1 - self.incoming.len());
            self.incoming.resize(index + 1, None);
        }
        if let Some(slot) = self.incoming.get_mut(index) {
            *slot = Some(topic.detached());
        }
        self.incoming_bytes = bytes - Self::allowance(self.maximum);
    }

    /// The topic of an alias of the client; `None` if it has none [MQTT-3.3.2-8..9].
    pub(super) fn resolve(&self, alias: NonZeroU16) -> Option<TopicName> {
        self.known(alias).cloned()
    }

    /// The alias of a topic to the client, and whether the client knows it. The first topics get
    /// one, as long as there is room.
    pub(super) fn assign(&mut self, topic: &TopicName) -> Option<(NonZeroU16, bool)> {
        if let Some(alias) = self.outgoing.get(topic) {
            return Some((*alias, true));
        }
        let next = u16::try_from(self.outgoing.len())
            .ok()
            .filter(|used| *used < self.maximum)?;
        let alias = NonZeroU16::new(next + 1)?;
        let bytes = self.outgoing_bytes + weight(topic);
        if bytes > Self::allowance(self.maximum) {
            return None;
        }
        self.outgoing_bytes = bytes;
        self.outgoing.insert(topic.detached(), alias);
        Some((alias, false))
    }

    /// Panics if a total is not what the aliases say. For tests.
    pub(super) fn check_invariants(&self) {
        let topics: usize = self.incoming.iter().flatten().map(weight).sum();
        let places = self.incoming.len() * size_of::<Option<TopicName>>();
        assert_eq!(
            self.incoming_bytes,
            topics + places,
            "bytes of the client's aliases"
        );
        assert_eq!(
            self.outgoing_bytes,
            self.outgoing.keys().map(weight).sum::<usize>(),
            "bytes of aliases to the client"
        );
        assert!(
            self.outgoing_bytes <= Self::allowance(self.maximum),
            "aliases to the client take their allowance"
        );
    }
}
