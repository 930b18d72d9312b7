//! The section `health` as typed.

use serde::{Deserialize, de};

use crate::units::Span;

/// `false`, `true`, or how.
#[derive(Debug)]
pub(in crate::config) struct Health(pub(in crate::config) Option<HowHealthy>);

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HowHealthy {
    /// Class of these messages. Default normal.
    pub(in crate::config) class: Option<String>,
    /// Shortest time between two messages on a topic, 1s to 1d; also on a `$SYS/wellhead/` topic
    /// that is sent. Default 1m.
    pub(in crate::config) every: Option<Span>,
}

impl Default for Health {
    fn default() -> Self {
        Self(Some(HowHealthy::default()))
    }
}

impl<'de> Deserialize<'de> for Health {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Bool(is_wanted) => Ok(Self(is_wanted.then(HowHealthy::default))),
            details => serde_json::from_value(details)
                .map(|how| Self(Some(how)))
                .map_err(de::Error::custom),
        }
    }
}
