//! The file as typed: one struct per mapping, every key once. `gateway.yaml` explains the keys.

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, de};

use crate::field::decode::{ByteOrder, Table};
use crate::field::modbus::unreadable::UnreadableRange;
use crate::field::serial::{Rs485, Speed};
use crate::field::text::script::Pattern;
use crate::log::Format;
use crate::message::{Lane, SessionLost};
use crate::outbox::WhenFull;
use crate::report::template::TopicTemplate;
use crate::units::{Size, Span};
use point_defaults::with_point_defaults;

mod broker;
mod format;
mod health;
mod manners;
mod meter;
mod point;
mod point_defaults;
mod text;
mod uplink;
mod value;

pub(super) use broker::{
    BrokerConfig, BrokerKeep, Deny, LoginMethod, RulesConfig, TlsConfig, UserConfig,
};
pub(super) use format::{CoderConfig, CompressionConfig, FormatConfig, FormatKind, HowFormatted};
pub(super) use health::{Health, HowHealthy};
pub(super) use manners::{AcceptConfig, Compared, PauseConfig};
pub(super) use meter::{MbusConfig, RecordConfig, SmlConfig};
pub(super) use point::{BitOrder, HowReadBack, PointConfig, ReadBackConfig, Writable, WriteConfig};
pub(super) use point_defaults::{Defaults, POINT_DEFAULTS, PointDefaults};
pub(super) use text::TextConfig;
pub(super) use uplink::{
    CatchUpConfig, HowPresent, PasswordCommand, PresenceConfig, ReceiveConfig, Remotes, SendConfig,
    UplinkConfig, UseWhenConfig,
};
pub(super) use value::{
    BrokenValue, DeadbandConfig, Factor, FromZero, OneOrMore, Printed, RawWord, Several,
};

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// The version of the file format. Default 1.
    #[serde(rename = "version")]
    #[schemars(range(min = 1))]
    pub(super) _version: Option<u32>,
    #[schemars(length(min = 1))]
    /// More files with lines, devices, profiles, classes and uplinks: a path or several, with `*`
    /// in the last part of a path.
    #[serde(rename = "include")]
    pub(super) _include: Option<OneOrMore<String>>,
    /// The name of the site: `{site}` in topics, and the client identifier of uplinks. Letters,
    /// digits and dashes.
    pub(super) site: Option<String>,
    /// Serial ports, Modbus TCP devices and terminal servers.
    #[serde(default)]
    pub(super) lines: Vec<LineConfig>,
    /// Descriptions of instruments, each usable by several devices.
    #[serde(default)]
    pub(super) profiles: IndexMap<String, Profile>,
    /// Default settings for points. A point, its device, its profile or its line can override them.
    pub(super) defaults: Option<Defaults>,
    /// The instruments on the lines.
    #[serde(default)]
    pub(super) devices: Vec<DeviceConfig>,
    /// The topics of values. Default `{site}/{device}/{point}`; `{line}` can be used too.
    pub(super) topics: Option<TopicTemplate>,
    /// The topics of the retained messages `online` and `offline` of each device. Default
    /// `{site}/{device}/availability`.
    pub(super) availability: Option<TopicTemplate>,
    /// The local MQTT broker. Without this key there is none.
    pub(super) broker: Option<BrokerConfig>,
    /// Where and how long messages for remote brokers are stored.
    #[serde(default)]
    pub(super) outbox: OutboxConfig,
    /// Classes of messages by name: their QoS and lane. Messages without a class get `normal`.
    #[serde(default)]
    pub(super) classes: IndexMap<String, ClassConfig>,
    /// Remote brokers.
    #[serde(default)]
    pub(super) uplinks: Vec<UplinkConfig>,
    /// Messages about lines, uplinks and losses on `{site}/gateway/...`, which `send` rules match.
    /// Losses are sent to the remote even without a rule. False turns them off. Default on.
    #[serde(default)]
    pub(super) health: Health,
    /// How long a stop may take to send queued messages. Default 10s.
    pub(super) shutdown_grace: Option<Span>,
    /// How the log is written.
    #[serde(default)]
    pub(super) log: Log,
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    /// text (default): lines on stderr, or entries of the journal; json: one object per line on
    /// stderr.
    #[serde(default)]
    pub(super) format: Format,
}

with_point_defaults! {
    #[derive(Debug, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub(in crate::config) struct LineConfig {
        #[schemars(length(min = 1))]
        /// Name of the line: `line` of devices, and `{line}` in topics.
        pub(in crate::config) name: String,
        /// False disables the line and its devices. Default true.
        #[serde(default = "yes")]
        pub(in crate::config) enabled: bool,
        /// Modbus TCP: host, or host:port. Default port 502.
        pub(in crate::config) modbus_tcp: Option<String>,
        /// RTU frames through a terminal server: host:port.
        pub(in crate::config) rtu_over_tcp: Option<String>,
        /// ASCII frames through a terminal server: host:port.
        pub(in crate::config) ascii_over_tcp: Option<String>,
        /// A serial device; paths below /dev/serial/by-id survive replugging.
        pub(in crate::config) serial: Option<String>,
        /// Plain instruments through a terminal server: host:port.
        pub(in crate::config) tcp: Option<String>,
        /// Modbus frames of a serial line: rtu (default) or ascii.
        #[serde(default)]
        pub(in crate::config) framing: FramingConfig,
        /// Baud rate, data bits, parity (N, E, O) and stop bits of a serial line. Default 9600 8N1.
        pub(in crate::config) speed: Option<Speed>,
        /// A transceiver that the kernel switches. Default none; adapters on USB do it themselves.
        pub(in crate::config) rs485: Option<Rs485>,
        /// Simulated values, no hardware: `{}`.
        pub(in crate::config) simulated: Option<SimulatedConfig>,
        /// How long a device may take to answer, or the bounds of the time that is learned from it.
        /// Default 1s.
        pub(in crate::config) answer_within: Option<AnswerWithinConfig>,
        /// How long the first answer of a device may take, after the line was opened or the device
        /// was not heard for a minute; at most 60s. Default as long as any other.
        pub(in crate::config) first_answer_within: Option<Span>,
        /// Silence before a request. Default what the standard requires.
        pub(in crate::config) pause: Option<PauseConfig>,
        /// Close a connection that was idle for this long until the next request; for devices that
        /// accept one client at a time. Default never.
        pub(in crate::config) close_when_idle: Option<Span>,
        /// Accept answers with other identifiers than those of the request. Default none.
        pub(in crate::config) accept: Option<AcceptConfig>,
    }
}

/// How Modbus looks on a serial device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum FramingConfig {
    #[default]
    Rtu,
    Ascii,
}

/// `300ms`, or `{ least: 50ms, most: 2s }`.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerWithinConfig {
    pub(super) least: Option<Span>,
    pub(super) most: Span,
}

impl<'de> Deserialize<'de> for AnswerWithinConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let typed = serde_json::Value::deserialize(deserializer)?;
        let span = |value: &serde_json::Value| Span::deserialize(value).map_err(de::Error::custom);
        let Some(bounds) = typed.as_object() else {
            return Ok(Self {
                least: None,
                most: span(&typed)?,
            });
        };
        let known = bounds.keys().all(|key| key == "least" || key == "most");
        match (bounds.get("least"), bounds.get("most")) {
            (Some(least), Some(most)) if known => Ok(Self {
                least: Some(span(least)?),
                most: span(most)?,
            }),
            _ => Err(de::Error::custom(
                "write a duration such as 300ms, or both bounds: { least: 50ms, most: 2s }",
            )),
        }
    }
}

/// Registers that no request may cover, such as `holding 100-120`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hole(pub(super) UnreadableRange);

impl<'de> Deserialize<'de> for Hole {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hole = || {
            let (table, places) = text.split_once(' ')?;
            let table = [Table::Holding, Table::Input, Table::Coil, Table::Discrete]
                .into_iter()
                .find(|known| known.name() == table)?;
            let (first, last) = places.split_once('-').unwrap_or((places, places));
            let (start, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (start <= last).then_some(UnreadableRange {
                table,
                start: u32::from(start),
                end: u32::from(last) + 1,
            })
        };
        hole().map(Self).ok_or_else(|| {
            de::Error::custom(format!(
                "`{text}` is not a range of registers; write it as `holding 100-120` (or input, coil, discrete), from zero"
            ))
        })
    }
}

/// Several Modbus addresses: `1-20`, or `1-4, 7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnitList(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for UnitList {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let typed = serde_json::Value::deserialize(deserializer)?;
        let words: Vec<String> = match &typed {
            serde_json::Value::Array(list) => list
                .iter()
                .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
                .collect(),
            one => one
                .as_str()
                .map_or_else(|| one.to_string(), str::to_owned)
                .split(',')
                .map(str::to_owned)
                .collect(),
        };
        let range = |word: &String| -> Option<std::ops::RangeInclusive<u8>> {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (1..=last).contains(&first).then_some(first..=last)
        };
        let ranges: Option<Vec<_>> = words.iter().map(range).collect();
        let wrong = || {
            de::Error::custom(format!(
                "{typed} is not a list of Modbus addresses; write a range such as 1-20, or several: '1-4, 7'"
            ))
        };
        ranges
            .map(|ranges| Self(ranges.into_iter().flatten().collect()))
            .ok_or_else(wrong)
    }
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SimulatedConfig {}

/// How a device leaves its factory. Where makers or sources name several settings, the usual one is
/// the first.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FactoryConfig {
    /// Speed of a serial line: one or a list.
    pub(super) speed: Option<OneOrMore<Speed>>,
    /// Modbus address: one or a list.
    pub(super) unit: Option<OneOrMore<u8>>,
    /// Address of a plain instrument: one or a list.
    pub(super) address: Option<OneOrMore<String>>,
    /// TCP port: one or a list.
    pub(super) port: Option<OneOrMore<u16>>,
}

with_point_defaults! {
    #[derive(Debug, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub(in crate::config) struct Profile {
        /// Factory settings of the device: `init` and `scan` suggest them, `check` compares with
        /// them. Default unknown.
        pub(in crate::config) factory: Option<FactoryConfig>,
        /// Protocol of a plain serial instrument.
        pub(in crate::config) text: Option<TextConfig>,
        /// Byte and word order of all points. Default ABCD.
        pub(in crate::config) byte_order: Option<ByteOrder>,
        /// Ask the device once for its identification (functions 43/14 and 17). Default false.
        pub(in crate::config) identify: Option<bool>,
        /// Most registers in one request, 1 to 125. Default 125.
        #[schemars(range(min = 1, max = 125))]
        pub(in crate::config) max_registers: Option<u16>,
        /// Most coils or discrete inputs in one request, 1 to 2000. Default 2000.
        #[schemars(range(min = 1, max = 2000))]
        pub(in crate::config) max_bits: Option<u16>,
        /// How long one request may occupy the line. Default unlimited.
        pub(in crate::config) max_hold: Option<Span>,
        /// Registers that no request may cover. Registers that the device refuses are found out by
        /// themselves. Default none.
        pub(in crate::config) holes: Option<Vec<Hole>>,
        /// Silence before a request. Default that of the line.
        pub(in crate::config) pause: Option<PauseConfig>,
        /// How long the first answer may take. Default that of the line.
        pub(in crate::config) first_answer_within: Option<Span>,
        /// Points by name.
        #[serde(default)]
        pub(in crate::config) points: IndexMap<String, PointConfig>,
    }
}

with_point_defaults! {
    #[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub(in crate::config) struct DeviceConfig {
        #[schemars(length(min = 1))]
        /// Its name: `{device}` in topics. With `units`, `{unit}` in it stands for the address.
        pub(in crate::config) name: String,
        /// The line to which the device is connected.
        pub(in crate::config) line: String,
        /// Modbus address, 1 to 247; 0 is the broadcast address, for writing only.
        pub(in crate::config) unit: Option<u8>,
        /// Modbus addresses of several devices of the same kind: `1-20`, or `1-4, 7`.
        pub(in crate::config) units: Option<UnitList>,
        /// Added to every register number. Default 0.
        pub(in crate::config) base: Option<u16>,
        /// Points of the profile to use. Default all.
        pub(in crate::config) only: Option<Vec<String>>,
        /// Points of the profile to leave out. Default none.
        pub(in crate::config) except: Option<Vec<String>>,
        /// Its profile: of this file, of profiles/<name>.yaml beside it, or one that comes with the
        /// program (`wellhead profiles`).
        pub(in crate::config) profile: Option<String>,
        /// A plain instrument that sends lines: a regular expression whose named groups are values.
        pub(in crate::config) each_line: Option<Pattern>,
        /// Protocol of a plain serial instrument. It overrides that of the profile key by key.
        pub(in crate::config) text: Option<TextConfig>,
        /// A meter on an M-Bus: its address.
        pub(in crate::config) mbus: Option<MbusConfig>,
        /// A meter that sends SML by itself; `{}` if there is nothing to say about it.
        pub(in crate::config) sml: Option<SmlConfig>,
        /// The address of a plain instrument: `{address}` in requests.
        pub(in crate::config) address: Option<String>,
        /// Byte and word order of all points. Default ABCD.
        pub(in crate::config) byte_order: Option<ByteOrder>,
        /// Ask the device once for its identification (functions 43/14 and 17). Default false.
        pub(in crate::config) identify: Option<bool>,
        /// Most registers in one request, 1 to 125. Default 125.
        #[schemars(range(min = 1, max = 125))]
        pub(in crate::config) max_registers: Option<u16>,
        /// Most coils or discrete inputs in one request, 1 to 2000. Default 2000.
        #[schemars(range(min = 1, max = 2000))]
        pub(in crate::config) max_bits: Option<u16>,
        /// How long one request may occupy the line. Default unlimited.
        pub(in crate::config) max_hold: Option<Span>,
        /// Registers that no request may cover. Registers that the device refuses are found out by
        /// themselves. Default none.
        pub(in crate::config) holes: Option<Vec<Hole>>,
        /// Silence before a request. Default that of the line.
        pub(in crate::config) pause: Option<PauseConfig>,
        /// How long the first answer may take. Default that of the line.
        pub(in crate::config) first_answer_within: Option<Span>,
        /// Points by name. They override those of the profile key by key.
        #[serde(default)]
        pub(in crate::config) points: IndexMap<String, PointConfig>,
        /// Keys that are taken away from the profile.
        #[serde(default, rename = "(taken away)")]
        #[schemars(skip)]
        pub(in crate::config) removed: Vec<String>,
    }
}

impl DeviceConfig {
    /// True if it takes away what its profile says of this.
    pub(super) fn takes_away(&self, key: &str) -> bool {
        self.removed.iter().any(|removed| removed == key)
    }
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OutboxConfig {
    /// Folder for everything that must survive a restart. Default /var/lib/wellhead.
    pub(super) folder: Option<PathBuf>,
    /// Limits on size and age.
    #[serde(default)]
    pub(super) keep: OutboxKeep,
    /// What happens at the size limit: drop-oldest (default), drop-newest or refuse.
    #[serde(default)]
    pub(super) when_full: WhenFull,
    /// When messages are written to the disk.
    #[serde(default)]
    pub(super) save: Save,
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OutboxKeep {
    /// Size of the outbox of each uplink, at least 16MB. Default 1GB.
    pub(super) size: Option<Size>,
    /// Older messages are dropped; at least 1m. Default unlimited.
    pub(super) age: Option<Span>,
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Save {
    /// How long messages may wait to share a write to the disk. A power cut can take the readings
    /// of this time. Default 50ms, at most 60s.
    pub(super) every: Option<Span>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClassConfig {
    /// 0: may be lost on the way; 1: at least once; 2: exactly once. Default that of the message.
    #[schemars(range(max = 2))]
    pub(super) qos: Option<u8>,
    /// Priority: alarm before live (default) before backlog.
    #[serde(default)]
    pub(super) lane: Lane,
    /// What happens to a message in flight when the remote has lost the session: resend (default),
    /// which may deliver it twice, or, for qos 2, drop.
    #[serde(default)]
    pub(super) if_session_lost: SessionLost,
}
