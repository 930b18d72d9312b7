//! Clouds that take MQTT and are no common brokers: AWS IoT Core and Azure IoT Hub, as their public
//! documents describe them. Pure.
//!
//! Invariants:
//! * Neither takes QoS 2, and Azure IoT Hub keeps no retained messages: messages go with what the
//!   cloud takes. A topic that is too long for AWS IoT Core, which would close the connection, is
//!   never sent.
//! * Every message to Azure IoT Hub goes to the one topic of its device; its own topic, number and
//!   properties are in the property bag behind that, each name once, and messages of the hub come
//!   to the topic that their bag names. Topic and number are those of the gateway: no user property
//!   replaces them.
//! * A token is made of the key for each connection, and the connection ends before the token does,
//!   also if the clock is set meanwhile.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;
use serde::Deserialize;

use super::link::Accepted;
use super::{Receive, RemoteSecret};
use crate::mqtt::{Properties, QoS, TopicError, TopicFilter, TopicName};
use crate::outbox::Outgoing;

/// How long a token is valid. The connection that used it is made again when a 24th part of that is
/// left.
pub const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
const LEFT_AT_RENEWAL: u32 = 24;
const READY_TOKEN: &str = "SharedAccessSignature ";
/// Levels and bytes of a topic of AWS IoT Core.
const MOST_LEVELS: usize = 8;
const MOST_TOPIC_BYTES: usize = 256;
/// A number that names a message, for an estimate.
const USUAL_NUMBER: &str = "0123abcd:1234567";
/// Where Azure has its hubs: worldwide, in China, and for the authorities of the United States.
const HUBS: [&str; 3] = [
    ".azure-devices.net",
    ".azure-devices.cn",
    ".azure-devices.us",
];

/// The cloud that an uplink goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cloud {
    /// AWS IoT Core.
    AwsIot,
    /// Azure IoT Hub, as one of its devices.
    AzureIotHub(HubDevice),
}

/// A device of an Azure IoT Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubDevice {
    /// The host name of the hub.
    pub hub: String,
    /// The identifier of the device; also the client identifier.
    pub id: String,
    /// How long a token is valid that is made of its key.
    pub token_life: Duration,
}

/// The name of a cloud in the YAML.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CloudName {
    /// AWS IoT Core.
    AwsIot,
    /// Azure IoT Hub.
    AzureIotHub,
}

impl CloudName {
    /// As people call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::AwsIot => "AWS IoT Core",
            Self::AzureIotHub => "Azure IoT Hub",
        }
    }

    /// The cloud that a host belongs to. Other services of AWS end in `amazonaws.com`, too.
    pub fn of_host(host: &str) -> Option<Self> {
        let host = host.to_ascii_lowercase();
        let amazon = [".amazonaws.com", ".amazonaws.com.cn"]
            .iter()
            .find_map(|suffix| host.strip_suffix(suffix));
        let is_iot_core = amazon.is_some_and(|rest| {
            rest.rsplit('.').nth(1) == Some("iot") && rest.split('.').count() > 2
        });
        let is_hub = HUBS.iter().any(|suffix| {
            host.strip_suffix(suffix)
                .is_some_and(|name| !name.is_empty())
        });
        is_iot_core
            .then_some(Self::AwsIot)
            .or(is_hub.then_some(Self::AzureIotHub))
    }
}

/// Why a message has no topic in a cloud.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TopicThereError {
    #[error(transparent)]
    Impossible(#[from] TopicError),
    #[error("{0}")]
    TooLong(String),
}

/// Why a password cannot be that of a device of Azure IoT Hub.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongPassword {
    /// Neither key, connection string nor token.
    #[error(
        "this is no key of a device in Azure IoT Hub; take its primary key or its connection string from the portal, or a SharedAccessSignature"
    )]
    NoKey,
    /// The connection string of a shared access policy, which is for services.
    #[error(
        "this is the connection string of the shared access policy {0}, not of a device; take that of the device from the portal"
    )]
    Policy(String),
    /// Of a module of a device.
    #[error(
        "this is the connection string of the module {0}, not of a device; take that of the device from the portal"
    )]
    Module(String),
    /// Of a device of another hub.
    #[error(
        "this password is for the hub {0}, and `to` names another; change `to`, or take the password of the device in this hub"
    )]
    Hub(String),
    /// Of another device.
    #[error(
        "this password is for the device {0}; write `client_id: {0}`, or take the password of this device"
    )]
    HubDevice(String),
}

/// When a connection must be made again, because its token ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Renewal {
    at: Instant,
    /// The same by the clock of the machine, which may be set meanwhile.
    unix_s: i64,
}

impl Renewal {
    pub(super) fn is_due(&self, now: Instant, unix_s: i64) -> bool {
        now >= self.at || unix_s >= self.unix_s
    }
}

impl Cloud {
    /// Limits of the cloud that CONNACK does not show.
    pub(super) fn limit(&self, mut accepted: Accepted) -> Accepted {
        accepted.max_qos = accepted.max_qos.min(QoS::AtLeastOnce);
        accepted.retain_available &= self.keeps_retained();
        accepted
    }

    /// True if it keeps retained messages.
    pub(super) fn keeps_retained(&self) -> bool {
        *self == Self::AwsIot
    }

    /// User name and password for a connection that begins at this time (seconds since 1970).
    /// `typed` is what the file says; an empty user is none.
    pub(super) fn login(
        &self,
        typed: Option<(String, RemoteSecret)>,
        unix_s: i64,
    ) -> Option<(String, RemoteSecret)> {
        let Self::AzureIotHub(device) = self else {
            return typed;
        };
        let (user, password) =
            typed.unwrap_or_else(|| (String::new(), RemoteSecret(String::new())));
        let user = if user.is_empty() {
            format!("{}/{}/?api-version=2021-04-12", device.hub, device.id)
        } else {
            user
        };
        let password = match key_of(&password) {
            Some(key) => device.token(&key, unix_s.saturating_add(seconds(device.token_life))),
            None => password.0,
        };
        Some((user, RemoteSecret(password)))
    }

    /// When a connection with this password must be made again, if its token was made at this time
    /// (and in seconds since 1970).
    pub(super) fn renewal(
        &self,
        password: Option<&RemoteSecret>,
        now: Instant,
        unix_s: i64,
    ) -> Option<Renewal> {
        let Self::AzureIotHub(device) = self else {
            return None;
        };
        password.and_then(key_of)?;
        let after = device
            .token_life
            .saturating_sub(device.token_life / LEFT_AT_RENEWAL);
        Some(Renewal {
            at: now.checked_add(after)?,
            unix_s: unix_s.saturating_add(seconds(after)),
        })
    }

    /// The topic that a message has in the cloud. `number` is what names it at the far end.
    pub(super) fn topic_there(
        &self,
        message: &Outgoing,
        number: Option<&str>,
    ) -> Result<TopicName, TopicThereError> {
        match self {
            Self::AwsIot => match too_long(message.topic.as_str()) {
                Some(what) => Err(TopicThereError::TooLong(format!("it has {what}"))),
                None => Ok(message.topic.clone()),
            },
            Self::AzureIotHub(device) => Ok(device.topic_there(message, number)?),
        }
    }

    /// About how many bytes the topic of a JSON message has in the cloud.
    pub(crate) fn bytes_of_topic(&self, topic: &TopicName, is_numbered: bool) -> usize {
        match self {
            Self::AwsIot => topic.as_str().len(),
            Self::AzureIotHub(device) => {
                let number = Some(USUAL_NUMBER).filter(|_| is_numbered);
                let bag = device.bag(topic, number, &Properties::default(), b"{}");
                bag.map_or(topic.as_str().len(), |topic| topic.as_str().len())
            }
        }
    }

    /// Why a message of the cloud has no topic here.
    pub(super) fn why_unusable(&self) -> Option<&'static str> {
        matches!(self, Self::AzureIotHub(_)).then_some(
            "its property bag names no topic that is possible here; send it with one, as in `az iot device c2d-message send --props topic=cmd/pump/set`",
        )
    }

    /// The remedy where the cloud refuses will or state.
    pub(super) fn presence_remedy(&self) -> Option<&'static str> {
        (*self == Self::AwsIot).then_some(
            "allow `iot:Publish` and `iot:RetainPublish` on this topic, and `LastWill` among the `iot:ConnectAttributes` of `iot:Connect` (docs/clouds.md)",
        )
    }

    /// The local topic of a message of the cloud, and what its topic said besides. `None` if it
    /// names none.
    pub(super) fn topic_here(
        &self,
        topic: &TopicName,
        properties: Properties,
    ) -> Option<(TopicName, Properties)> {
        match self {
            Self::AwsIot => Some((topic.clone(), properties)),
            Self::AzureIotHub(device) => device.topic_here(topic, properties),
        }
    }

    /// The subscriptions at the cloud behind these filters.
    pub(super) fn filters(&self, receive: &[Receive]) -> Vec<Receive> {
        let limited = |receive: &Receive| Receive {
            qos: receive.qos.min(QoS::AtLeastOnce),
            ..receive.clone()
        };
        match self {
            Self::AwsIot => receive.iter().map(limited).collect(),
            Self::AzureIotHub(device) => {
                let qos = receive
                    .iter()
                    .map(|receive| receive.qos.min(QoS::AtLeastOnce))
                    .max();
                let filter = TopicFilter::new(format!("{}#", device.inbox())).ok();
                qos.zip(filter)
                    .map(|(qos, filter)| Receive { filter, qos })
                    .into_iter()
                    .collect()
            }
        }
    }
}

fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

/// The limit of AWS IoT Core that a topic or a filter exceeds, if any.
pub fn too_long(topic: &str) -> Option<String> {
    // What goes straight to a rule is counted without its beginning.
    let counted = topic
        .strip_prefix("$aws/rules/")
        .and_then(|rest| rest.split_once('/'))
        .map_or(topic, |(_, rest)| rest);
    let levels = counted.split('/').count();
    if levels > MOST_LEVELS {
        return Some(format!(
            "{levels} levels, and AWS IoT Core takes at most {MOST_LEVELS}"
        ));
    }
    (counted.len() > MOST_TOPIC_BYTES).then(|| {
        format!(
            "{} bytes, and AWS IoT Core takes at most {MOST_TOPIC_BYTES}",
            counted.len()
        )
    })
}

/// A part of a connection string.
fn part_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.trim()
        .split(';')
        .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
}

/// The key that a password is: in base64, by itself or in the connection string of the device.
fn key_of(password: &RemoteSecret) -> Option<Vec<u8>> {
    let text = password.0.trim();
    let key = part_of(text, "SharedAccessKey").unwrap_or(text);
    BASE64.decode(key).ok().filter(|key| !key.is_empty())
}

impl HubDevice {
    fn events(&self) -> String {
        format!("devices/{}/messages/events/", self.id)
    }

    /// Whether a password can be that of this device: a key, a connection string, or a token that
    /// is ready.
    pub fn takes(&self, password: &RemoteSecret) -> Result<(), WrongPassword> {
        let text = password.0.trim();
        if let Some(token) = text.strip_prefix(READY_TOKEN) {
            return self.takes_token(token);
        }
        let named = |name, wrong: fn(String) -> WrongPassword| {
            part_of(text, name).map(|value| wrong(value.to_owned()))
        };
        let foreign = named("SharedAccessKeyName", WrongPassword::Policy)
            .or(named("ModuleId", WrongPassword::Module));
        if let Some(wrong) = foreign {
            return Err(wrong);
        }
        if let Some(hub) =
            part_of(text, "HostName").filter(|hub| !hub.eq_ignore_ascii_case(&self.hub))
        {
            return Err(WrongPassword::Hub(hub.to_owned()));
        }
        if let Some(id) = part_of(text, "DeviceId").filter(|id| *id != self.id) {
            return Err(WrongPassword::HubDevice(id.to_owned()));
        }
        key_of(password).map(drop).ok_or(WrongPassword::NoKey)
    }

    /// A token is for all that begins with its resource: the hub, or one device.
    fn takes_token(&self, token: &str) -> Result<(), WrongPassword> {
        let resource = token
            .split('&')
            .find_map(|part| part.strip_prefix("sr="))
            .and_then(percent_decoded);
        let resource = resource.ok_or(WrongPassword::NoKey)?;
        let (hub, rest) = resource.split_once('/').unwrap_or((&resource, ""));
        if !hub.eq_ignore_ascii_case(&self.hub) {
            return Err(WrongPassword::Hub(hub.to_owned()));
        }
        match rest.strip_prefix("devices/") {
            Some(id) if !id.is_empty() && id != self.id => {
                Err(WrongPassword::HubDevice(id.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// The topic of a JSON message that is always at the same local topic.
    pub fn fixed_topic(&self, topic: &TopicName) -> Result<TopicName, TopicError> {
        if topic.as_str().starts_with(&self.events()) {
            return Ok(topic.clone());
        }
        TopicName::new(format!(
            "{}topic={}&$.ct=application%2Fjson&$.ce=utf-8",
            self.events(),
            percent_encoded(topic.as_str())
        ))
    }

    fn inbox(&self) -> String {
        format!("devices/{}/messages/devicebound/", self.id)
    }

    /// A shared access signature, valid until a time in seconds since 1970.
    fn token(&self, key: &[u8], until: i64) -> String {
        let resource = percent_encoded(&format!("{}/devices/{}", self.hub, self.id));
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let signature = BASE64.encode(hmac::sign(&key, format!("{resource}\n{until}").as_bytes()));
        format!(
            "{READY_TOKEN}sr={resource}&sig={}&se={until}",
            percent_encoded(&signature)
        )
    }

    fn topic_there(
        &self,
        message: &Outgoing,
        number: Option<&str>,
    ) -> Result<TopicName, TopicError> {
        if message.topic.as_str().starts_with(&self.events()) {
            return Ok(message.topic.clone());
        }
        self.bag(
            &message.topic,
            number,
            &message.properties,
            &message.payload.encode(),
        )
    }

    /// The topic of the device with everything in its bag, each name once: what the hub makes of a
    /// name that comes twice is not known, and what the gateway says of a message is not for
    /// clients to replace.
    fn bag(
        &self,
        topic: &TopicName,
        number: Option<&str>,
        properties: &Properties,
        payload: &[u8],
    ) -> Result<TopicName, TopicError> {
        let mut bag = vec![("topic", topic.as_str())];
        bag.extend(number.map(|number| ("$.mid", number)));
        let correlation = properties
            .correlation_data
            .as_ref()
            .and_then(|data| std::str::from_utf8(data).ok());
        bag.extend(correlation.map(|data| ("$.cid", data)));
        let looks_like_json =
            matches!(payload.first(), Some(b'{' | b'[')) && std::str::from_utf8(payload).is_ok();
        match &properties.content_type {
            Some(content_type) => bag.push(("$.ct", content_type)),
            // The hub looks into messages only if they are declared as JSON.
            None if looks_like_json => {
                bag.extend([("$.ct", "application/json"), ("$.ce", "utf-8")]);
            }
            None => {}
        }
        for (name, value) in &properties.user {
            // Queries of the hub do not tell capitals from small letters.
            let is_same = |(known, _): &(&str, &str)| known.eq_ignore_ascii_case(name);
            if !name.starts_with("$.") && !bag.iter().any(is_same) {
                bag.push((name, value));
            }
        }
        TopicName::new(format!("{}{}", self.events(), encoded(&bag)))
    }

    fn topic_here(
        &self,
        topic: &TopicName,
        mut properties: Properties,
    ) -> Option<(TopicName, Properties)> {
        let bag = topic.as_str().strip_prefix(&self.inbox())?;
        let mut here = None;
        for part in bag
            .trim_start_matches(['/', '?'])
            .split('&')
            .filter(|part| !part.is_empty())
        {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (percent_decoded(name)?, percent_decoded(value)?);
            match name.as_str() {
                "topic" => here = TopicName::new(value).ok(),
                "$.cid" => properties.edit().correlation_data = Some(value.into_bytes().into()),
                "$.ct" => properties.edit().content_type = Some(value.into()),
                _ if name.starts_with("$.") => {}
                _ => properties.edit().user.push((name.into(), value.into())),
            }
        }
        Some((here?, properties))
    }
}

/// RFC 3986, section 2.1; everything but the unreserved characters.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The names of system properties begin with a `$` that stays what it is.
fn name_encoded(name: &str) -> String {
    name.strip_prefix("$.").map_or_else(
        || percent_encoded(name),
        |rest| format!("$.{}", percent_encoded(rest)),
    )
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Names and values as they are written in a topic of the hub.
fn encoded(bag: &[(&str, &str)]) -> String {
    let pair =
        |(name, value): &(&str, &str)| format!("{}={}", name_encoded(name), percent_encoded(value));
    bag.iter().map(pair).collect::<Vec<String>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::SessionLost;
    use crate::reading::Timestamp;
    use crate::time::now;

    fn device() -> HubDevice {
        HubDevice {
            hub: "contoso.azure-devices.net".to_owned(),
            id: "pump-7".to_owned(),
            token_life: TOKEN_LIFE,
        }
    }

    fn cloud() -> Cloud {
        Cloud::AzureIotHub(device())
    }

    fn message(topic: &str, payload: &str) -> Outgoing {
        Outgoing {
            topic: TopicName::new(topic.to_owned()).unwrap(),
            qos: QoS::AtLeastOnce,
            retain: false,
            if_session_lost: SessionLost::default(),
            enqueued: Timestamp::from(crate::time::moment()),
            properties: Properties::default(),
            payload: payload.to_owned().into(),
            rated: None,
            source: None,
        }
    }

    /// The signature was made with Python's hmac and base64.
    #[test]
    fn a_token_is_what_the_documents_say() {
        let token = device().token(b"0123456789abcdef", 1_700_000_000);
        assert_eq!(
            token,
            "SharedAccessSignature sr=contoso.azure-devices.net%2Fdevices%2Fpump-7&sig=loAjXpFq9B5m0SlwpRqVAoRbEsEYYiYRixvQ7HdApyw%3D&se=1700000000"
        );
    }

    #[test]
    fn the_login_is_made_of_a_key_or_taken_as_it_is() {
        let key = BASE64.encode("0123456789abcdef");
        let login = |typed: Option<(&str, &str)>| {
            let typed =
                typed.map(|(user, password)| (user.to_owned(), RemoteSecret(password.to_owned())));
            cloud()
                .login(typed, 1_700_000_000)
                .map(|(user, password)| (user, password.0))
                .unwrap()
        };
        let user = "contoso.azure-devices.net/pump-7/?api-version=2021-04-12";
        let token = device().token(b"0123456789abcdef", 1_700_000_000 + 86_400);
        assert_eq!(login(Some(("", &key))), (user.to_owned(), token.clone()));
        let string =
            format!("HostName=contoso.azure-devices.net;DeviceId=pump-7;SharedAccessKey={key}");
        assert_eq!(login(Some(("", &string))), (user.to_owned(), token.clone()));
        assert_eq!(
            login(Some(("me", &token))),
            ("me".to_owned(), token.clone())
        );
        assert_eq!(
            login(None),
            (user.to_owned(), String::new()),
            "a certificate needs no password"
        );
        let renewed = |password: &str| {
            cloud()
                .renewal(Some(&RemoteSecret(password.to_owned())), now(), 0)
                .is_some()
        };
        assert!(
            renewed(&key)
                && renewed(&string)
                && !renewed(&token)
                && cloud().renewal(None, now(), 0).is_none()
        );
    }

    #[test]
    fn a_token_is_replaced_before_it_ends_also_if_the_clock_was_behind_when_it_was_made() {
        let (at, unix_s) = (now(), 1_700_000_000);
        let key = RemoteSecret(BASE64.encode("0123456789abcdef"));
        let renewal = cloud().renewal(Some(&key), at, unix_s).unwrap();
        let hours = |hours: u64| {
            (
                at + Duration::from_secs(hours * 3600),
                unix_s + seconds(Duration::from_secs(hours * 3600)),
            )
        };
        for (hour, is_due) in [(0, false), (22, false), (23, true), (30, true)] {
            let (now, unix_s) = hours(hour);
            assert_eq!(renewal.is_due(now, unix_s), is_due, "after {hour} h");
        }
        assert!(
            renewal.is_due(hours(13).0, hours(23).1),
            "the clock was set ten hours forward"
        );
        assert!(
            renewal.is_due(hours(23).0, hours(13).1),
            "the clock was set back"
        );
        let short = Cloud::AzureIotHub(HubDevice {
            token_life: Duration::from_secs(24),
            ..device()
        });
        let renewal = short.renewal(Some(&key), at, unix_s).unwrap();
        assert!(
            !renewal.is_due(at + Duration::from_secs(22), unix_s)
                && renewal.is_due(at + Duration::from_secs(23), unix_s)
        );
    }

    #[test]
    fn a_password_that_is_for_somebody_else_is_refused() {
        let key = BASE64.encode("0123456789abcdef");
        let check = |password: &str, expected: Result<(), WrongPassword>| {
            assert_eq!(
                device().takes(&RemoteSecret(password.to_owned())),
                expected,
                "{password}"
            );
        };
        let own = "HostName=Contoso.azure-devices.net;DeviceId=pump-7";
        check(&key, Ok(()));
        check(&format!("{own};SharedAccessKey={key}\n"), Ok(()));
        check(
            &format!("HostName=other.azure-devices.net;DeviceId=pump-7;SharedAccessKey={key}"),
            Err(WrongPassword::Hub("other.azure-devices.net".to_owned())),
        );
        check(
            &format!("HostName=contoso.azure-devices.net;DeviceId=Pump-7;SharedAccessKey={key}"),
            Err(WrongPassword::HubDevice("Pump-7".to_owned())),
        );
        let service = format!(
            "HostName=contoso.azure-devices.net;SharedAccessKeyName=iothubowner;SharedAccessKey={key}"
        );
        check(
            &service,
            Err(WrongPassword::Policy("iothubowner".to_owned())),
        );
        check(
            &format!("{own};ModuleId=m;SharedAccessKey={key}"),
            Err(WrongPassword::Module("m".to_owned())),
        );
        check(&format!("{own};x509=true"), Err(WrongPassword::NoKey));
        check("no key", Err(WrongPassword::NoKey));
        let token = |resource: &str| format!("SharedAccessSignature sr={resource}&sig=a&se=1");
        check(
            &token("contoso.azure-devices.net%2fdevices%2Fpump-7"),
            Ok(()),
        );
        check(&token("contoso.azure-devices.net"), Ok(()));
        check(
            &token("contoso.azure-devices.net%2Fdevices%2Fpump-8"),
            Err(WrongPassword::HubDevice("pump-8".to_owned())),
        );
        check(
            &token("other.azure-devices.net%2Fdevices%2Fpump-7"),
            Err(WrongPassword::Hub("other.azure-devices.net".to_owned())),
        );
        check(
            "SharedAccessSignature sig=a&se=1",
            Err(WrongPassword::NoKey),
        );
    }

    #[test]
    fn aws_iot_core_never_gets_a_topic_that_it_closes_the_connection_for() {
        let there = |topic: &str| {
            Cloud::AwsIot
                .topic_there(&message(topic, "1"), None)
                .map(|topic| topic.to_string())
        };
        for topic in [
            "1/2/3/4/5/6/7/8",
            &"x".repeat(256),
            &format!("$aws/rules/pump/{}", "x".repeat(256)),
        ] {
            assert_eq!(there(topic), Ok(topic.to_owned()));
        }
        for topic in [
            "1/2/3/4/5/6/7/8/9",
            &"x".repeat(257),
            "$aws/rules/pump/1/2/3/4/5/6/7/8/9",
        ] {
            assert!(
                matches!(there(topic), Err(TopicThereError::TooLong(_))),
                "{topic}"
            );
        }
    }

    #[test]
    fn the_host_of_a_cloud_is_known_everywhere_and_that_of_another_service_is_none() {
        for (host, expected) in [
            (
                "a1b2-ats.iot.eu-west-1.amazonaws.com",
                Some(CloudName::AwsIot),
            ),
            (
                "A1B2-ats.IoT.eu-west-1.AmazonAWS.com",
                Some(CloudName::AwsIot),
            ),
            (
                "a1b2.ats.iot.cn-north-1.amazonaws.com.cn",
                Some(CloudName::AwsIot),
            ),
            ("plant.azure-devices.net", Some(CloudName::AzureIotHub)),
            ("plant.azure-devices.cn", Some(CloudName::AzureIotHub)),
            ("Plant.azure-devices.us", Some(CloudName::AzureIotHub)),
            ("ec2-3-120-1-2.eu-central-1.compute.amazonaws.com", None),
            ("b-1234-1.mq.eu-west-1.amazonaws.com", None),
            ("iot.eu-west-1.amazonaws.com", None),
            ("a1-ats.iot.eu-west-1.amazonaws.com.example.net", None),
            (".azure-devices.net", None),
            ("azure-devices.net", None),
            ("global.azure-devices-provisioning.net", None),
            ("", None),
        ] {
            assert_eq!(CloudName::of_host(host), expected, "{host}");
        }
    }

    #[test]
    fn a_message_has_its_topic_number_and_properties_in_the_bag() {
        let topic =
            |message: &Outgoing, number| cloud().topic_there(message, number).unwrap().to_string();
        let mut plain = message("plant/pump 7/flow", "12");
        assert_eq!(
            topic(&plain, None),
            "devices/pump-7/messages/events/topic=plant%2Fpump%207%2Fflow"
        );
        plain
            .properties
            .edit()
            .user
            .push(("unit".into(), "m³/h".into()));
        assert_eq!(
            topic(&plain, Some("a:7")),
            "devices/pump-7/messages/events/topic=plant%2Fpump%207%2Fflow&$.mid=a%3A7&unit=m%C2%B3%2Fh"
        );
        let json = message("a", "{\"v\":1}");
        assert_eq!(
            topic(&json, None),
            "devices/pump-7/messages/events/topic=a&$.ct=application%2Fjson&$.ce=utf-8"
        );
        let fixed = device()
            .fixed_topic(&TopicName::new("x/gateway/state").unwrap())
            .unwrap();
        assert_eq!(
            fixed.as_str(),
            "devices/pump-7/messages/events/topic=x%2Fgateway%2Fstate&$.ct=application%2Fjson&$.ce=utf-8"
        );
        let long = cloud().bytes_of_topic(&TopicName::new("plant/pump-7/flow").unwrap(), true);
        let json = message("plant/pump-7/flow", "{\"v\":1}");
        assert_eq!(long, topic(&json, Some("0123abcd:7654321")).len());
        let own = message("devices/pump-7/messages/events/a=b", "1");
        assert_eq!(
            topic(&own, Some("a:7")),
            "devices/pump-7/messages/events/a=b"
        );
    }

    #[test]
    fn no_user_property_replaces_what_the_gateway_says_and_each_name_is_there_once() {
        let mut json = message("plant/a", "{}");
        let user = [
            ("topic", "forged"),
            ("Topic", "forged"),
            ("$.mid", "0:0"),
            ("$.exp", "1"),
            ("unit", "bar"),
            ("Unit", "psi"),
        ];
        json.properties
            .edit()
            .user
            .extend(user.map(|(name, value)| (name.into(), value.into())));
        assert_eq!(
            cloud().topic_there(&json, None).unwrap().as_str(),
            "devices/pump-7/messages/events/topic=plant%2Fa&$.ct=application%2Fjson&$.ce=utf-8&unit=bar"
        );
    }

    #[test]
    fn a_message_of_the_hub_comes_to_the_topic_that_its_bag_names() {
        let here = |topic: &str| {
            let topic =
                TopicName::new(format!("devices/pump-7/messages/devicebound/{topic}")).unwrap();
            cloud().topic_here(&topic, Properties::default())
        };
        let (topic, properties) = here("%24.mid=4&%24.cid=77&topic=cmd%2Fx%2Fset&who=me").unwrap();
        assert_eq!(topic.as_str(), "cmd/x/set");
        assert_eq!(properties.correlation_data.as_deref(), Some(&b"77"[..]));
        assert_eq!(properties.user, [("who".into(), "me".into())]);
        for nameless in ["", "a=b", "topic=", "topic=a%2", "topic=%23", "topic=%FF"] {
            assert_eq!(here(nameless), None, "{nameless}");
        }
        let strange = TopicName::new("devices/pump-8/messages/devicebound/topic=a").unwrap();
        assert_eq!(cloud().topic_here(&strange, Properties::default()), None);
    }

    #[test]
    fn the_hub_is_asked_for_the_one_filter_that_it_knows() {
        let receive = |filter: &str, qos| Receive {
            filter: TopicFilter::new(filter.to_owned()).unwrap(),
            qos,
        };
        let asked = cloud().filters(&[
            receive("cmd/#", QoS::AtMostOnce),
            receive("other", QoS::ExactlyOnce),
        ]);
        assert_eq!(
            asked,
            [receive(
                "devices/pump-7/messages/devicebound/#",
                QoS::AtLeastOnce
            )]
        );
        assert!(cloud().filters(&[]).is_empty());
        assert_eq!(
            Cloud::AwsIot.filters(&[receive("cmd/#", QoS::ExactlyOnce)]),
            [receive("cmd/#", QoS::AtLeastOnce)]
        );
    }
}
