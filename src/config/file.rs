//! The file as typed: one struct per mapping, every key once. What a key means is told in `gateway.yaml`.

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, de};

use crate::field::modbus::decode::{ByteOrder, Kind};
use crate::field::serial::Speed;
use crate::field::wave::Wave;
use crate::message::{Lane, SessionLost};
use crate::mqtt::TopicFilter;
use crate::outbox::WhenFull;
use crate::report::template::Template;
use crate::units::{Size, Span};
use crate::uplink::{Protocol, Proxy, Remote, Secret};

mod broker;

pub(super) use broker::{Broker, Keep as BrokerKeep, Login, Rules, Tls};

fn yes() -> bool {
    true
}

/// A register number as manuals print it; leading zeros make YAML take it for text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Printed(pub(super) u32);

impl<'de> Deserialize<'de> for Printed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok()).and_then(|number| u32::try_from(number).ok());
        number
            .map(Self)
            .ok_or_else(|| de::Error::custom(format!("{value} is not a register number; type it as the manual prints it, such as 40001")))
    }
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
    pub(super) topics: Option<Template>,
    pub(super) availability: Option<Template>,
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
    pub(super) serial: Option<String>,
    pub(super) speed: Option<Speed>,
    pub(super) simulated: Option<Simulated>,
    pub(super) answer_within: Option<Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Simulated {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    pub(super) byte_order: Option<ByteOrder>,
    #[serde(default)]
    pub(super) points: IndexMap<String, Point>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) line: String,
    pub(super) unit: Option<u8>,
    pub(super) profile: Option<String>,
    pub(super) byte_order: Option<ByteOrder>,
    #[serde(default)]
    pub(super) points: IndexMap<String, Point>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Point {
    pub(super) at: Option<Printed>,
    pub(super) holding: Option<u16>,
    pub(super) input: Option<u16>,
    pub(super) coil: Option<u16>,
    pub(super) discrete: Option<u16>,
    #[serde(rename = "type")]
    pub(super) kind: Option<Kind>,
    pub(super) byte_order: Option<ByteOrder>,
    pub(super) bit: Option<u8>,
    pub(super) scale: Option<f64>,
    pub(super) offset: Option<f64>,
    pub(super) broken_value: Option<f64>,
    pub(super) words: Option<IndexMap<i64, String>>,
    pub(super) unit: Option<String>,
    pub(super) every: Option<Span>,
    pub(super) deadband: Option<f64>,
    pub(super) at_least_every: Option<Span>,
    pub(super) class: Option<String>,
    pub(super) topic: Option<Template>,
    pub(super) simulate: Option<Wave>,
}

impl Point {
    /// This point where it says something, `base` where it does not.
    pub(super) fn over(&self, base: &Self) -> Self {
        let own = self.clone();
        let base = base.clone();
        let own_place =
            [own.at.is_some(), own.holding.is_some(), own.input.is_some(), own.coil.is_some(), own.discrete.is_some()].contains(&true);
        // A place given here replaces the whole place of the base, whichever key it used.
        let place = if own_place { &own } else { &base };
        Self {
            at: place.at,
            holding: place.holding,
            input: place.input,
            coil: place.coil,
            discrete: place.discrete,
            kind: own.kind.or(base.kind),
            byte_order: own.byte_order.or(base.byte_order),
            bit: own.bit.or(base.bit),
            scale: own.scale.or(base.scale),
            offset: own.offset.or(base.offset),
            broken_value: own.broken_value.or(base.broken_value),
            words: own.words.or(base.words),
            unit: own.unit.or(base.unit),
            every: own.every.or(base.every),
            deadband: own.deadband.or(base.deadband),
            at_least_every: own.at_least_every.or(base.at_least_every),
            class: own.class.or(base.class),
            topic: own.topic.or(base.topic),
            simulate: own.simulate.or(base.simulate),
        }
    }
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
