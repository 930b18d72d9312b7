//! `format:` of an uplink or a `send` rule, as typed.

use serde::{Deserialize, de};

/// A word, or how.
#[derive(Debug, Clone)]
pub(in crate::config) struct FormatConfig(pub(in crate::config) HowFormatted);

#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HowFormatted {
    /// json (value, time and quality), value (the bare value), template, line (line protocol of
    /// InfluxDB) or senml (RFC 8428). Default json, or template where there is one.
    pub(in crate::config) kind: Option<FormatKind>,
    /// The payload, with {value}, {quality}, {reason}, {age}, {time}, {time_s}, {time_ms},
    /// {time_ns}, {topic}, {site}, {line}, {device}, {point} and {unit}.
    pub(in crate::config) template: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum FormatKind {
    Json,
    Value,
    Template,
    Line,
    Senml,
}

impl<'de> Deserialize<'de> for FormatConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let typed = match serde_json::Value::deserialize(deserializer)? {
            word @ serde_json::Value::String(_) => {
                serde_json::from_value(word).map(|kind| HowFormatted {
                    kind: Some(kind),
                    template: None,
                })
            }
            details => serde_json::from_value(details),
        };
        typed.map(Self).map_err(de::Error::custom)
    }
}
