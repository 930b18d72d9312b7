//! The section `uplinks` as typed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, de};

use super::FormatConfig;
use crate::mqtt::TopicFilter;
use crate::report::template::TopicTemplate;
use crate::route::{CatchUpOrder, LinkShare};
use crate::units::{Price, Rate, Size, Span};
use crate::uplink::cloud::CloudName;
use crate::uplink::{Protocol, Proxy, Remote, RemoteSecret, Resolve};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct UplinkConfig {
    /// Name of the uplink: a folder of the outbox, and a topic level below $SYS.
    pub(in crate::config) name: String,
    /// False disables the uplink. Default true.
    #[serde(default = "super::yes")]
    pub(in crate::config) enabled: bool,
    /// The address of the remote broker, or several: the one that worked last is tried first, then
    /// the others in order, 250 ms apart.
    pub(in crate::config) to: Remotes,
    /// Settings for a cloud: aws-iot or azure-iot-hub. Default none.
    pub(in crate::config) profile: Option<CloudName>,
    /// Which addresses of a name are used: any (default; IPv6 and IPv4 in turn, 250 ms apart, the
    /// first that connects wins), ipv4 or ipv6.
    #[serde(default)]
    pub(in crate::config) resolve: Resolve,
    /// HTTP proxy (CONNECT). Default none.
    pub(in crate::config) proxy: Option<Proxy>,
    /// Makes this uplink a backup: it connects when another uplink has been down for some time,
    /// such as `cloud down for 10m`.
    pub(in crate::config) use_when: Option<UseWhenConfig>,
    /// The MQTT version: 5 (default) or 3.1.1.
    #[serde(default)]
    pub(in crate::config) protocol: Protocol,
    /// Client identifier. The session at the remote depends on it, so it must stay the same.
    /// Default: the site.
    pub(in crate::config) client_id: Option<String>,
    /// The authority that signed the certificate of the remote (PEM). Default: the authorities of
    /// this machine.
    pub(in crate::config) ca: Option<PathBuf>,
    /// The certificate of this gateway (PEM), with `key`.
    pub(in crate::config) cert: Option<PathBuf>,
    /// The key of the certificate (PEM). These files are read at each connection.
    pub(in crate::config) key: Option<PathBuf>,
    /// The name in the certificate of the remote, where `to` is an address. Default the host of
    /// `to`.
    pub(in crate::config) server_name: Option<String>,
    /// Headers of the request that opens a WebSocket, each with its value. Default none.
    #[serde(default)]
    pub(in crate::config) headers: BTreeMap<String, RemoteSecret>,
    /// How long the remote keeps the session while there is no link, at least 1m; MQTT 5 only.
    /// Default 30d.
    pub(in crate::config) max_session_expiry: Option<Span>,
    /// Protocols named in the TLS handshake. Default none.
    #[serde(default)]
    pub(in crate::config) alpn: Vec<String>,
    /// The user name at the remote.
    pub(in crate::config) user: Option<String>,
    /// The password; better in a file, see `password_file`.
    pub(in crate::config) password: Option<RemoteSecret>,
    /// The password: the first line of a file, or a systemd credential; read at each connection.
    pub(in crate::config) password_file: Option<PathBuf>,
    /// The password: the first line that a command prints, which is run at each connection; a text
    /// for the shell, or a list of program and arguments. For tokens that expire.
    pub(in crate::config) password_command: Option<PasswordCommand>,
    /// Idle time after which the link is tested, 5s to 18h. Each test costs bytes. Default 4m.
    pub(in crate::config) keep_alive: Option<Span>,
    /// How long TCP, TLS and MQTT may take together. Default 30s.
    pub(in crate::config) connect_within: Option<Span>,
    /// How long connecting to one address may take. Default 8s.
    pub(in crate::config) dial_within: Option<Span>,
    /// Reconnect when the remote does not respond for this long. Default 30s.
    pub(in crate::config) answer_within: Option<Span>,
    /// Reconnect when the link accepts no data for this long. Default 30s.
    pub(in crate::config) write_within: Option<Span>,
    /// Options of the TCP connection.
    #[serde(default)]
    pub(in crate::config) tcp: TcpConfig,
    /// The pause between attempts. Default 1s, doubling up to 60s; up to 30m while the remote does
    /// not answer at all, 90m on a slow or unknown link.
    pub(in crate::config) retry: Option<Retry>,
    /// Largest packet to send. Default the limit that the remote announces.
    pub(in crate::config) max_packet: Option<Size>,
    /// Messages in flight. Default 500.
    #[schemars(range(min = 1))]
    pub(in crate::config) window: Option<u16>,
    /// Every message carries the user property `seq`, which is the same for every copy of it. MQTT
    /// 5 only. Default true.
    #[serde(default = "super::yes")]
    pub(in crate::config) number_messages: bool,
    /// Highest QoS to send: 0, 1 or 2. Default 2.
    #[schemars(range(max = 2))]
    pub(in crate::config) qos: Option<u8>,
    /// False sends everything without the retain flag. Default true.
    #[serde(default = "super::yes")]
    pub(in crate::config) retain: bool,
    /// How fast messages go out, such as 10/s or 10kB/s, or a list of both: those of QoS 1 and 2
    /// wait, those of QoS 0 that come faster are dropped and counted. Default as fast as the link.
    pub(in crate::config) rate: Option<Rate>,
    /// How readings are written: json (default), value, object, scan, columns, pack, line, senml,
    /// or { template: ... }. Messages of local clients stay as they are.
    pub(in crate::config) format: Option<FormatConfig>,
    /// What is sent first when the link is back.
    #[serde(default)]
    pub(in crate::config) catch_up: CatchUpConfig,
    /// Accept commands from the remote: a message on the name of a point at the remote with /set
    /// behind it writes to the point, if it has `write`. Default false: only where `receive` covers
    /// that topic.
    #[serde(default)]
    pub(in crate::config) commands: bool,
    /// Price of the link, for the estimate of `wellhead check` only.
    pub(in crate::config) tariff: Option<TariffConfig>,
    /// Local topics to send to the remote. The first rule that matches decides.
    #[serde(default)]
    pub(in crate::config) send: Vec<SendConfig>,
    /// Remote topics to subscribe to. The first rule that matches decides.
    #[serde(default)]
    pub(in crate::config) receive: Vec<ReceiveConfig>,
    /// Tells the remote whether this gateway is alive, with a will and a retained message. False
    /// turns both off. Default on.
    #[serde(default)]
    pub(in crate::config) presence: PresenceConfig,
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct CatchUpConfig {
    /// newest-first (default): fresh readings do not wait for those of the outage, which fill the
    /// pauses between them. alternate: both in turn, by `share`. oldest-first: as they were taken.
    #[serde(default)]
    pub(in crate::config) order: CatchUpOrder,
    /// The most of the link's bytes that the backlog takes while fresh messages wait, 1% to 99%;
    /// with `order: alternate`. Default 50%.
    pub(in crate::config) share: Option<LinkShare>,
    /// How fast the backlog goes at most, such as 2kB/s or 10/s, or a list of both. Default as fast
    /// as the link.
    pub(in crate::config) max_rate: Option<Rate>,
    /// After an outage the backlog begins up to this time later, by chance, so that gateways behind
    /// one link do not begin together; at most a twentieth of the outage. Default 10s.
    pub(in crate::config) spread: Option<Span>,
}

/// `false`, `true`, or how.
#[derive(Debug)]
pub(in crate::config) struct PresenceConfig(pub(in crate::config) Option<HowPresent>);

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HowPresent {
    /// The topic at the remote. Default `{site}/gateway/state`, as `send` maps it; of a backup
    /// `{site}/gateway/<name>/state`.
    pub(in crate::config) topic: Option<TopicTemplate>,
    /// How long the remote waits after a lost connection before it publishes `offline`; with MQTT
    /// 3.1.1 it does so at once. Default 1m.
    pub(in crate::config) offline_after: Option<Span>,
}

impl Default for PresenceConfig {
    fn default() -> Self {
        Self(Some(HowPresent::default()))
    }
}

impl<'de> Deserialize<'de> for PresenceConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Bool(is_wanted) => Ok(Self(is_wanted.then(HowPresent::default))),
            details => serde_json::from_value(details)
                .map(|how| Self(Some(how)))
                .map_err(de::Error::custom),
        }
    }
}

/// A text for the shell, or program and arguments.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(
    untagged,
    expecting = "write a command, or a list of a program and its arguments"
)]
pub(in crate::config) enum PasswordCommand {
    Text(String),
    List(Vec<String>),
}

/// One address, or several that are tried in order.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::config) struct Remotes(pub(in crate::config) Vec<Remote>);

impl<'de> Deserialize<'de> for Remotes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RemotesVisitor;
        impl<'de> de::Visitor<'de> for RemotesVisitor {
            type Value = Remotes;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an address such as mqtts://cloud.example.net, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Remotes, E> {
                text.parse()
                    .map(|remote| Remotes(vec![remote]))
                    .map_err(E::custom)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Remotes, A::Error> {
                let mut remotes = Vec::new();
                while let Some(remote) = seq.next_element()? {
                    remotes.push(remote);
                }
                Ok(Remotes(remotes))
            }
        }
        deserializer.deserialize_any(RemotesVisitor)
    }
}

/// `<uplink> down for <duration>`
#[derive(Debug)]
pub(in crate::config) struct UseWhenConfig(
    pub(in crate::config) String,
    pub(in crate::config) Span,
);

impl<'de> Deserialize<'de> for UseWhenConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || {
            de::Error::custom("write <uplink> down for <duration>, such as `cloud down for 10m`")
        };
        let (uplink, span) = text.split_once(" down for ").ok_or_else(wrong)?;
        let span: de::value::StrDeserializer<'_, D::Error> =
            de::IntoDeserializer::into_deserializer(span.trim());
        Ok(Self(uplink.trim().to_owned(), Span::deserialize(span)?))
    }
}

#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct TcpConfig {
    /// Small packets leave at once; false saves bytes and costs a round trip. Default true.
    pub(in crate::config) nodelay: Option<bool>,
    /// How long the kernel may wait for an acknowledgement, at least 1s. Default 60s.
    pub(in crate::config) user_timeout: Option<Span>,
    /// The network interface to use. Default any.
    pub(in crate::config) interface: Option<String>,
    /// Congestion control, such as bbr or cubic. Default that of the system.
    pub(in crate::config) congestion: Option<String>,
}

#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct TariffConfig {
    /// Data volume planned for a month.
    pub(in crate::config) per_month: Option<Size>,
    /// Price of the data.
    pub(in crate::config) price: Option<Price>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Retry {
    /// The first pause, at least 10ms.
    pub(in crate::config) first: Span,
    /// The longest pause.
    pub(in crate::config) longest: Span,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct SendConfig {
    /// Local topics, with + and #; one filter or a list.
    pub(in crate::config) filter: TopicFilter,
    /// The topic at the remote: + for each + of the filter in order, or {1} and {2} for them by
    /// number, # at the end for the rest, {site}; without them one topic for all. Default the local
    /// topic.
    pub(in crate::config) to: Option<String>,
    /// Removed from the beginning of the local topic; write the slash too. Default nothing.
    #[serde(default)]
    pub(in crate::config) strip: String,
    /// Added before the topic at the remote; write the slash too. Default none.
    #[serde(default)]
    pub(in crate::config) prefix: String,
    /// Highest QoS to send: 0, 1 or 2. Default that of the uplink.
    #[schemars(range(max = 2))]
    pub(in crate::config) qos: Option<u8>,
    /// False sends without the retain flag. Default that of the uplink.
    pub(in crate::config) retain: Option<bool>,
    /// How fast messages of this rule go out, such as 10/s or 10kB/s; others overtake them. Default
    /// none: the rate of the uplink is for all its messages together.
    pub(in crate::config) rate: Option<Rate>,
    /// How readings are written: json, value, object, scan, columns, pack, line, senml, or
    /// { template: ... }. Default that of the uplink.
    pub(in crate::config) format: Option<FormatConfig>,
    /// Class of the messages. Default that of the point, or the QoS with which the client
    /// published.
    pub(in crate::config) class: Option<String>,
    /// Limits the rule to these classes. Default all.
    #[serde(default)]
    pub(in crate::config) only: Vec<String>,
    /// Limits the rule to messages of which this is true, such as v > 80 and q == "good"; the next
    /// rules decide on the others. Default all.
    #[serde(rename = "where")]
    pub(in crate::config) condition: Option<String>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ReceiveConfig {
    /// Remote topics, with + and #; one filter or a list.
    pub(in crate::config) filter: TopicFilter,
    /// The local topic: + for each + of the filter in order, or {1} and {2} for them by number, #
    /// at the end for the rest, {site}; without them one topic for all. Default the topic of the
    /// remote.
    pub(in crate::config) to: Option<String>,
    /// Removed from the beginning of the remote topic; write the slash too. Default nothing.
    #[serde(default)]
    pub(in crate::config) strip: String,
    /// Added before the local topic; write the slash too. Default none.
    #[serde(default)]
    pub(in crate::config) prefix: String,
    /// 0, 1 or 2. Default 1.
    #[schemars(range(max = 2))]
    pub(in crate::config) qos: Option<u8>,
    /// False removes the retain flag, so that the local broker does not retain messages. Default
    /// true.
    #[serde(default = "super::yes")]
    pub(in crate::config) retain: bool,
    /// Limits the rule to messages of which this is true, such as temperature > 30; the next rules
    /// decide on the others, and what none takes stays out. Default all.
    #[serde(rename = "where")]
    pub(in crate::config) condition: Option<String>,
}
