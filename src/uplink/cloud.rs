//! Clouds that take MQTT and are no common brokers: AWS IoT Core and Azure IoT Hub, as their public documents describe them. Pure.
//!
//! Invariants:
//! * Neither takes QoS 2, and Azure IoT Hub keeps no retained messages: what it would close the connection for is never sent.
//! * Every message to Azure IoT Hub goes to the one topic of its device; its own topic, number and properties are in the property bag
//!   behind that, and messages of the hub come to the topic that their bag names.
//! * A token is made of the key for each connection, and the connection ends before the token does.

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;
use serde::Deserialize;

use super::link::Accepted;
use super::{Receive, Secret};
use crate::mqtt::{Properties, QoS, TopicError, TopicFilter, TopicName};
use crate::outbox::Outgoing;

/// How long a token is valid, and when the connection that used it is made again.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);
const RENEW_AFTER: Duration = Duration::from_secs(23 * 3600);
const READY_TOKEN: &str = "SharedAccessSignature ";

/// The cloud that an uplink goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cloud {
    /// AWS IoT Core.
    AwsIot,
    /// Azure IoT Hub, as one of its devices.
    AzureIotHub(Device),
}

/// A device of an Azure IoT Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The host name of the hub.
    pub hub: String,
    /// The identifier of the device; also the client identifier.
    pub id: String,
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
}

impl Cloud {
    /// What the cloud allows, which it does not tell everybody.
    pub(super) fn limit(&self, mut accepted: Accepted) -> Accepted {
        accepted.max_qos = accepted.max_qos.min(QoS::AtLeastOnce);
        accepted.retain_available &= self.keeps_retained();
        accepted
    }

    /// True if it keeps retained messages.
    pub(super) fn keeps_retained(&self) -> bool {
        *self == Self::AwsIot
    }

    /// User name and password for a connection that begins at this time (seconds since 1970). `typed` is what the file says; an empty
    /// user is none.
    pub(super) fn login(&self, typed: Option<(String, Secret)>, unix_s: i64) -> Option<(String, Secret)> {
        let Self::AzureIotHub(device) = self else { return typed };
        let (user, password) = typed.unwrap_or_else(|| (String::new(), Secret(String::new())));
        let user = if user.is_empty() { format!("{}/{}/?api-version=2021-04-12", device.hub, device.id) } else { user };
        let password = match key_of(&password) {
            Some(key) => device.token(&key, unix_s + i64::try_from(TOKEN_LIFE.as_secs()).unwrap_or(i64::MAX)),
            None => password.0,
        };
        Some((user, Secret(password)))
    }

    /// How long a connection with this password may last.
    pub(super) fn renew_after(&self, password: Option<&Secret>) -> Option<Duration> {
        let is_made_here = matches!(self, Self::AzureIotHub(_)) && password.is_some_and(|password| key_of(password).is_some());
        is_made_here.then_some(RENEW_AFTER)
    }

    /// The topic that a message has in the cloud. `number` is what names it at the far end.
    pub(super) fn topic_there(&self, message: &Outgoing, number: Option<&str>) -> Result<TopicName, TopicError> {
        match self {
            Self::AwsIot => Ok(message.topic.clone()),
            Self::AzureIotHub(device) => device.topic_there(message, number),
        }
    }

    /// The local topic of a message of the cloud, and what its topic said besides. `None` if it names none.
    pub(super) fn topic_here(&self, topic: &TopicName, properties: Properties) -> Option<(TopicName, Properties)> {
        match self {
            Self::AwsIot => Some((topic.clone(), properties)),
            Self::AzureIotHub(device) => device.topic_here(topic, properties),
        }
    }

    /// What the cloud is to be asked for, if these messages are to come in.
    pub(super) fn filters(&self, receive: &[Receive]) -> Vec<Receive> {
        let limited = |receive: &Receive| Receive { qos: receive.qos.min(QoS::AtLeastOnce), ..receive.clone() };
        match self {
            Self::AwsIot => receive.iter().map(limited).collect(),
            Self::AzureIotHub(device) => {
                let qos = receive.iter().map(|receive| receive.qos.min(QoS::AtLeastOnce)).max();
                let filter = TopicFilter::new(format!("{}#", device.inbox())).ok();
                qos.zip(filter).map(|(qos, filter)| Receive { filter, qos }).into_iter().collect()
            }
        }
    }
}

/// True if it is a key of a device, a connection string with one, or a token that is ready.
pub fn is_key_or_token(password: &Secret) -> bool {
    password.0.starts_with(READY_TOKEN) || key_of(password).is_some()
}

/// The key that a password is: in base64, by itself or in the connection string of the device.
fn key_of(password: &Secret) -> Option<Vec<u8>> {
    let text = password.0.trim();
    let key = text.split(';').find_map(|part| part.strip_prefix("SharedAccessKey=")).unwrap_or(text);
    BASE64.decode(key).ok().filter(|key| !key.is_empty())
}

impl Device {
    fn events(&self) -> String {
        format!("devices/{}/messages/events/", self.id)
    }

    /// The topic of a JSON message that is always at the same local topic.
    pub fn fixed_topic(&self, topic: &TopicName) -> Result<TopicName, TopicError> {
        if topic.as_str().starts_with(&self.events()) {
            return Ok(topic.clone());
        }
        TopicName::new(format!("{}topic={}&$.ct=application%2Fjson&$.ce=utf-8", self.events(), percent_encoded(topic.as_str())))
    }

    fn inbox(&self) -> String {
        format!("devices/{}/messages/devicebound/", self.id)
    }

    /// A shared access signature, valid until a time in seconds since 1970.
    fn token(&self, key: &[u8], until: i64) -> String {
        let resource = percent_encoded(&format!("{}/devices/{}", self.hub, self.id));
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let signature = BASE64.encode(hmac::sign(&key, format!("{resource}\n{until}").as_bytes()));
        format!("{READY_TOKEN}sr={resource}&sig={}&se={until}", percent_encoded(&signature))
    }

    fn topic_there(&self, message: &Outgoing, number: Option<&str>) -> Result<TopicName, TopicError> {
        let topic = message.topic.as_str();
        if topic.starts_with(&self.events()) {
            return Ok(message.topic.clone());
        }
        let properties = &message.properties;
        let mut bag = vec![("topic".to_owned(), topic.to_owned())];
        bag.extend(number.map(|number| ("$.mid".to_owned(), number.to_owned())));
        let correlation = properties.correlation_data.as_ref().and_then(|data| std::str::from_utf8(data).ok());
        bag.extend(correlation.map(|data| ("$.cid".to_owned(), data.to_owned())));
        let looks_like_json = matches!(message.payload.first(), Some(b'{' | b'[')) && std::str::from_utf8(&message.payload).is_ok();
        match &properties.content_type {
            Some(content_type) => bag.push(("$.ct".to_owned(), content_type.to_string())),
            // The hub looks into messages only if it is told that they are JSON.
            None if looks_like_json => {
                bag.push(("$.ct".to_owned(), "application/json".to_owned()));
                bag.push(("$.ce".to_owned(), "utf-8".to_owned()));
            }
            None => {}
        }
        bag.extend(properties.user.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        let encoded = |(name, value): &(String, String)| format!("{}={}", name_encoded(name), percent_encoded(value));
        let bag: Vec<String> = bag.iter().map(encoded).collect();
        TopicName::new(format!("{}{}", self.events(), bag.join("&")))
    }

    fn topic_here(&self, topic: &TopicName, mut properties: Properties) -> Option<(TopicName, Properties)> {
        let bag = topic.as_str().strip_prefix(&self.inbox())?;
        let mut here = None;
        for part in bag.trim_start_matches(['/', '?']).split('&').filter(|part| !part.is_empty()) {
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
    name.strip_prefix("$.").map_or_else(|| percent_encoded(name), |rest| format!("$.{}", percent_encoded(rest)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::SessionLost;
    use crate::reading::Timestamp;

    fn device() -> Device {
        Device { hub: "contoso.azure-devices.net".to_owned(), id: "pump-7".to_owned() }
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
            is_reading: false,
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
            let typed = typed.map(|(user, password)| (user.to_owned(), Secret(password.to_owned())));
            cloud().login(typed, 1_700_000_000).map(|(user, password)| (user, password.0)).unwrap()
        };
        let user = "contoso.azure-devices.net/pump-7/?api-version=2021-04-12";
        let token = device().token(b"0123456789abcdef", 1_700_000_000 + 86_400);
        assert_eq!(login(Some(("", &key))), (user.to_owned(), token.clone()));
        let string = format!("HostName=contoso.azure-devices.net;DeviceId=pump-7;SharedAccessKey={key}");
        assert_eq!(login(Some(("", &string))), (user.to_owned(), token.clone()));
        assert_eq!(login(Some(("me", &token))), ("me".to_owned(), token.clone()));
        assert_eq!(login(None), (user.to_owned(), String::new()), "a certificate needs no password");
        let renewed = |password: &str| cloud().renew_after(Some(&Secret(password.to_owned()))).is_some();
        assert!(renewed(&key) && renewed(&string) && !renewed(&token) && cloud().renew_after(None).is_none());
        assert!(RENEW_AFTER < TOKEN_LIFE);
    }

    #[test]
    fn a_message_has_its_topic_number_and_properties_in_the_bag() {
        let topic = |message: &Outgoing, number| cloud().topic_there(message, number).unwrap().to_string();
        let mut plain = message("plant/pump 7/flow", "12");
        assert_eq!(topic(&plain, None), "devices/pump-7/messages/events/topic=plant%2Fpump%207%2Fflow");
        plain.properties.edit().user.push(("unit".into(), "m³/h".into()));
        assert_eq!(topic(&plain, Some("a:7")), "devices/pump-7/messages/events/topic=plant%2Fpump%207%2Fflow&$.mid=a%3A7&unit=m%C2%B3%2Fh");
        let json = message("a", "{\"v\":1}");
        assert_eq!(topic(&json, None), "devices/pump-7/messages/events/topic=a&$.ct=application%2Fjson&$.ce=utf-8");
        let fixed = device().fixed_topic(&TopicName::new("x/gateway/state").unwrap()).unwrap();
        assert_eq!(fixed.as_str(), "devices/pump-7/messages/events/topic=x%2Fgateway%2Fstate&$.ct=application%2Fjson&$.ce=utf-8");
        let own = message("devices/pump-7/messages/events/a=b", "1");
        assert_eq!(topic(&own, Some("a:7")), "devices/pump-7/messages/events/a=b");
    }

    #[test]
    fn a_message_of_the_hub_comes_to_the_topic_that_its_bag_names() {
        let here = |topic: &str| {
            let topic = TopicName::new(format!("devices/pump-7/messages/devicebound/{topic}")).unwrap();
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
        let receive = |filter: &str, qos| Receive { filter: TopicFilter::new(filter.to_owned()).unwrap(), qos };
        let asked = cloud().filters(&[receive("cmd/#", QoS::AtMostOnce), receive("other", QoS::ExactlyOnce)]);
        assert_eq!(asked, [receive("devices/pump-7/messages/devicebound/#", QoS::AtLeastOnce)]);
        assert!(cloud().filters(&[]).is_empty());
        assert_eq!(Cloud::AwsIot.filters(&[receive("cmd/#", QoS::ExactlyOnce)]), [receive("cmd/#", QoS::AtLeastOnce)]);
    }
}
