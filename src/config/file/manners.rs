//! Needs of some devices and gateways beyond the standard, as typed.

use serde::Deserialize;

use crate::units::Span;

/// Silence before a request.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct PauseConfig {
    /// Silence before each request, at most 10s. Default what the standard requires.
    pub(in crate::config) between: Option<Span>,
    /// Silence after the line was opened, at most 60s. Default none.
    pub(in crate::config) after_connect: Option<Span>,
    /// Keys that are taken away from the profile.
    #[serde(default, rename = "(taken away)")]
    #[schemars(skip)]
    pub(in crate::config) removed: Vec<String>,
}

impl PauseConfig {
    /// `own` where it says something, `base` where it does not.
    pub(in crate::config) fn over(own: Option<&Self>, base: Option<&Self>) -> Self {
        let is_kept =
            |key: &str| own.is_none_or(|own| !own.removed.iter().any(|removed| removed == key));
        let either = |key: &str, of: fn(&Self) -> Option<Span>| {
            own.and_then(of)
                .or(base.filter(|_| is_kept(key)).and_then(of))
        };
        Self {
            between: either("between", |pause| pause.between),
            after_connect: either("after_connect", |pause| pause.after_connect),
            removed: Vec::new(),
        }
    }
}

/// How an identifier of an answer is compared with that of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Compared {
    /// It must be the same.
    #[default]
    Same,
    /// It may be any.
    Any,
}

/// Answers under other identifiers.
#[derive(Debug, Clone, Copy, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct AcceptConfig {
    /// The unit of an answer: same (default) or any.
    #[serde(default)]
    pub(in crate::config) unit: Compared,
    /// The transaction identifier of an answer of Modbus TCP: same (default) or any.
    #[serde(default)]
    pub(in crate::config) transaction: Compared,
}
