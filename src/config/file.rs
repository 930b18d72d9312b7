//! The file as typed: one struct per mapping, every key once. What a key means is told in `gateway.yaml`.

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, de};

use crate::field::decode::{ByteOrder, Table};
use crate::field::modbus::barriers::Barrier;
use crate::field::serial::{Rs485, Speed};
use crate::field::text::bytes::Template;
use crate::field::text::checksum::Checksum;
use crate::field::text::frame::Framing as TextFraming;
use crate::field::text::parse::Subtract;
use crate::field::text::script::{Pattern, Step as ScriptStep, TypedPattern};
use crate::message::{Lane, SessionLost};
use crate::mqtt::TopicFilter;
use crate::outbox::WhenFull;
use crate::report::template::Template as TopicTemplate;
use crate::units::{Price, Size, Span};
use crate::uplink::{Protocol, Proxy, Remote, Secret};

mod broker;
mod point;

pub(super) use point::{BitOrder, Deadband, OneOrMore, Point, Printed};

pub(super) use broker::{Broker, Keep as BrokerKeep, Login, Rules, Tls};

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) site: Option<String>,
    #[serde(default)]
    pub(super) lines: Vec<Line>,
    #[serde(default)]
    pub(super) profiles: IndexMap<String, Profile>,
    #[serde(default)]
    pub(super) devices: Vec<Device>,
    pub(super) topics: Option<TopicTemplate>,
    pub(super) availability: Option<TopicTemplate>,
    pub(super) broker: Option<Broker>,
    #[serde(default)]
    pub(super) outbox: Outbox,
    #[serde(default)]
    pub(super) classes: IndexMap<String, Class>,
    #[serde(default)]
    pub(super) uplinks: Vec<Uplink>,
    pub(super) shutdown_grace: Option<Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) name: String,
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    pub(super) modbus_tcp: Option<String>,
    pub(super) rtu_over_tcp: Option<String>,
    pub(super) ascii_over_tcp: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) tcp: Option<String>,
    #[serde(default)]
    pub(super) framing: Framing,
    pub(super) speed: Option<Speed>,
    pub(super) rs485: Option<Rs485>,
    pub(super) simulated: Option<Simulated>,
    pub(super) answer_within: Option<AnswerWithin>,
}

/// How a plain instrument talks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Text {
    pub(super) request: Option<OneOrMore<Template>>,
    pub(super) script: Option<Vec<ScriptStep>>,
    pub(super) every: Option<Span>,
    pub(super) silent_after: Option<Span>,
    pub(super) frame: Option<TextFraming>,
    pub(super) checksum: Option<Checksum>,
    pub(super) subtract: Option<Subtract>,
    #[serde(rename = "match")]
    pub(super) pattern: Option<TypedPattern>,
    pub(super) simulate: Option<Template>,
}

impl Text {
    /// This where it says something, `base` where it does not.
    pub(super) fn over(&self, base: &Self) -> Self {
        let own = self.clone();
        let base = base.clone();
        Self {
            request: own.request.or(base.request),
            script: own.script.or(base.script),
            every: own.every.or(base.every),
            silent_after: own.silent_after.or(base.silent_after),
            frame: own.frame.or(base.frame),
            checksum: own.checksum.or(base.checksum),
            subtract: own.subtract.or(base.subtract),
            pattern: own.pattern.or(base.pattern),
            simulate: own.simulate.or(base.simulate),
        }
    }
}

/// How Modbus looks on a serial device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Framing {
    #[default]
    Rtu,
    Ascii,
}

/// `300ms`, or `{ least: 50ms, most: 2s }`.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerWithin {
    pub(super) least: Option<Span>,
    pub(super) most: Span,
}

impl<'de> Deserialize<'de> for AnswerWithin {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let typed = serde_json::Value::deserialize(deserializer)?;
        let span = |value: &serde_json::Value| Span::deserialize(value).map_err(de::Error::custom);
        let Some(bounds) = typed.as_object() else { return Ok(Self { least: None, most: span(&typed)? }) };
        let known = bounds.keys().all(|key| key == "least" || key == "most");
        match (bounds.get("least"), bounds.get("most")) {
            (Some(least), Some(most)) if known => Ok(Self { least: Some(span(least)?), most: span(most)? }),
            _ => Err(de::Error::custom("write a duration such as 300ms, or both bounds: { least: 50ms, most: 2s }")),
        }
    }
}

/// Registers that no request may cover, such as `holding 100-120`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hole(pub(super) Barrier);

impl<'de> Deserialize<'de> for Hole {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hole = || {
            let (table, places) = text.split_once(' ')?;
            let table = [Table::Holding, Table::Input, Table::Coil, Table::Discrete].into_iter().find(|known| known.name() == table)?;
            let (first, last) = places.split_once('-').unwrap_or((places, places));
            let (start, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (start <= last).then_some(Barrier { table, start: u32::from(start), end: u32::from(last) + 1 })
        };
        hole().map(Self).ok_or_else(|| {
            de::Error::custom(format!(
                "`{text}` is no range of registers; write it as `holding 100-120` (or input, coil, discrete), from zero"
            ))
        })
    }
}

/// Several Modbus addresses: `1-20`, or `1-4, 7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Units(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Units {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let typed = serde_json::Value::deserialize(deserializer)?;
        let words: Vec<String> = match &typed {
            serde_json::Value::Array(list) => list.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect(),
            one => one.as_str().map_or_else(|| one.to_string(), str::to_owned).split(',').map(str::to_owned).collect(),
        };
        let range = |word: &String| -> Option<std::ops::RangeInclusive<u8>> {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (1..=last).contains(&first).then_some(first..=last)
        };
        let ranges: Option<Vec<_>> = words.iter().map(range).collect();
        let wrong = || de::Error::custom(format!("{typed} says no Modbus addresses; write a range such as 1-20, or several: '1-4, 7'"));
        ranges.map(|ranges| Self(ranges.into_iter().flatten().collect())).ok_or_else(wrong)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Simulated {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    pub(super) text: Option<Text>,
    pub(super) byte_order: Option<ByteOrder>,
    pub(super) identify: Option<bool>,
    pub(super) max_registers: Option<u16>,
    pub(super) max_bits: Option<u16>,
    pub(super) max_hold: Option<Span>,
    pub(super) holes: Option<Vec<Hole>>,
    #[serde(default)]
    pub(super) points: IndexMap<String, Point>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) line: String,
    pub(super) unit: Option<u8>,
    pub(super) units: Option<Units>,
    pub(super) base: Option<u16>,
    pub(super) only: Option<Vec<String>>,
    pub(super) except: Option<Vec<String>>,
    pub(super) profile: Option<String>,
    pub(super) each_line: Option<Pattern>,
    pub(super) text: Option<Text>,
    pub(super) address: Option<String>,
    pub(super) byte_order: Option<ByteOrder>,
    pub(super) identify: Option<bool>,
    pub(super) max_registers: Option<u16>,
    pub(super) max_bits: Option<u16>,
    pub(super) max_hold: Option<Span>,
    pub(super) holes: Option<Vec<Hole>>,
    #[serde(default)]
    pub(super) points: IndexMap<String, Point>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Outbox {
    pub(super) folder: Option<PathBuf>,
    #[serde(default)]
    pub(super) keep: Keep,
    #[serde(default)]
    pub(super) when_full: WhenFull,
    #[serde(default)]
    pub(super) save: Save,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keep {
    pub(super) size: Option<Size>,
    pub(super) age: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Save {
    pub(super) every: Option<Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Class {
    pub(super) qos: Option<u8>,
    #[serde(default)]
    pub(super) lane: Lane,
    #[serde(default)]
    pub(super) if_session_lost: SessionLost,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Uplink {
    pub(super) name: String,
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    pub(super) to: Remotes,
    pub(super) proxy: Option<Proxy>,
    pub(super) use_when: Option<UseWhen>,
    #[serde(default)]
    pub(super) protocol: Protocol,
    pub(super) client_id: Option<String>,
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    #[serde(default)]
    pub(super) alpn: Vec<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) keep_alive: Option<Span>,
    pub(super) connect_within: Option<Span>,
    pub(super) dial_within: Option<Span>,
    pub(super) answer_within: Option<Span>,
    pub(super) write_within: Option<Span>,
    #[serde(default)]
    pub(super) tcp: Tcp,
    pub(super) retry: Option<Retry>,
    pub(super) max_packet: Option<Size>,
    pub(super) window: Option<u16>,
    #[serde(default = "yes")]
    pub(super) number_messages: bool,
    pub(super) tariff: Option<Tariff>,
    #[serde(default)]
    pub(super) send: Vec<Send>,
    #[serde(default)]
    pub(super) receive: Vec<Receive>,
}

/// One address, or several that are tried in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remotes(pub(super) Vec<Remote>);

impl<'de> Deserialize<'de> for Remotes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Remotes;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an address such as mqtts://cloud.example.net, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Remotes, E> {
                text.parse().map(|remote| Remotes(vec![remote])).map_err(E::custom)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Remotes, A::Error> {
                let mut remotes = Vec::new();
                while let Some(remote) = seq.next_element()? {
                    remotes.push(remote);
                }
                Ok(Remotes(remotes))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// `<uplink> down for <duration>`
#[derive(Debug)]
pub(super) struct UseWhen(pub(super) String, pub(super) Span);

impl<'de> Deserialize<'de> for UseWhen {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || de::Error::custom("write <uplink> down for <duration>, such as `cloud down for 10m`");
        let (uplink, span) = text.split_once(" down for ").ok_or_else(wrong)?;
        let span: de::value::StrDeserializer<'_, D::Error> = de::IntoDeserializer::into_deserializer(span.trim());
        Ok(Self(uplink.trim().to_owned(), Span::deserialize(span)?))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tcp {
    pub(super) nodelay: Option<bool>,
    pub(super) user_timeout: Option<Span>,
    pub(super) interface: Option<String>,
    pub(super) congestion: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tariff {
    pub(super) per_month: Option<Size>,
    pub(super) price: Option<Price>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retry {
    pub(super) first: Span,
    pub(super) longest: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Send {
    pub(super) filter: TopicFilter,
    #[serde(default)]
    pub(super) prefix: String,
    pub(super) class: Option<String>,
    #[serde(default)]
    pub(super) only: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Receive {
    pub(super) filter: TopicFilter,
    pub(super) qos: Option<u8>,
}
