//! `format:` of an uplink or a `send` rule, as typed.

use serde::{Deserialize, de};

use crate::units::{Size, Span};

/// A word, or how.
#[derive(Debug, Clone)]
pub(in crate::config) struct FormatConfig(pub(in crate::config) HowFormatted);

#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HowFormatted {
    /// json (value, time and quality), value (the bare value), template, scan (values by time, as
    /// ThingsBoard takes them), object (the values of a device at one time), columns (by point, as
    /// differences), pack (the same in the fewest bytes, binary), line (line protocol of InfluxDB)
    /// or senml (RFC 8428). Default json, or template where there is one.
    pub(in crate::config) kind: Option<FormatKind>,
    /// The payload, with {value}, {quality}, {reason}, {age}, {time}, {time_s}, {time_ms},
    /// {time_ns}, {topic}, {site}, {line}, {device}, {point} and {unit}.
    pub(in crate::config) template: Option<String>,
    /// The longest time that a reading waits for others with which it shares a message; for scan,
    /// object, columns, pack, line and senml. Default 10s for scan, columns and pack, 1s for
    /// object; others share none unless this, `up_to` or `compress` is set.
    pub(in crate::config) every: Option<Span>,
    /// The largest payload of such a message while nothing is late, 200B to 128kB. Default 8kB.
    pub(in crate::config) up_to: Option<Size>,
    /// none (default), deflate (as in HTTP: with the head of zlib) or brotli: what is done to the
    /// payload of readings that share a message.
    pub(in crate::config) compress: Option<CompressionConfig>,
    /// For pack: adaptive (default; as the readings before let expect) or rice (simple to read).
    pub(in crate::config) coder: Option<CoderConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum FormatKind {
    Json,
    Value,
    Template,
    Scan,
    Object,
    Columns,
    Pack,
    Line,
    Senml,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum CompressionConfig {
    None,
    Deflate,
    Brotli,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum CoderConfig {
    Adaptive,
    Rice,
}

impl<'de> Deserialize<'de> for FormatConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let typed = match serde_json::Value::deserialize(deserializer)? {
            word @ serde_json::Value::String(_) => {
                serde_json::from_value(word).map(|kind| HowFormatted {
                    kind: Some(kind),
                    template: None,
                    every: None,
                    up_to: None,
                    compress: None,
                    coder: None,
                })
            }
            details => serde_json::from_value(details),
        };
        typed.map(Self).map_err(de::Error::custom)
    }
}
