//! Uplinks with a `profile`: settings that AWS IoT Core and Azure IoT Hub need are filled in, and
//! those they refuse are faults. Typed keys win.

use std::time::Duration;

use super::credentials::secret_of;
use super::{Check, at};
use crate::config::{UplinkSetup, file};
use crate::mqtt::TopicName;
use crate::units::Rate;
use crate::uplink::cloud::{Cloud, CloudName, HubDevice, TOKEN_LIFE, too_long};
use crate::uplink::{Protocol, RemoteLogin, Scheme, UplinkSettings};

const ALPN: &str = "x-amzn-mqtt-ca";
/// The port where AWS IoT Core wants no ALPN.
const AWS_PLAIN_PORT: u16 = 8883;
const AZURE_WEB_SOCKET: &str = "/$iothub/websocket";
/// Messages in flight, and the pause before another connection: AWS takes 100, and one connection a
/// second.
const WINDOW: u16 = 100;
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const MOST_SUBSCRIPTIONS: usize = 50;
const MOST_ID_BYTES: usize = 128;
/// Messages a second that AWS takes of a connection,
const MOST_A_SECOND: u64 = 100;
/// and messages an hour so that it never gets more: some go at once after a pause, and the state of
/// the gateway goes in between.
const AWS_RATE: u64 = 3600 * (MOST_A_SECOND - MOST_A_SECOND / 10);
/// The largest message, in bytes.
const AWS_PACKET: u32 = 128 * 1024;
const AZURE_PACKET: u32 = 256 * 1024;

/// Fills in what the cloud of an uplink needs, and checks what it does not take.
pub(super) fn apply(
    check: &mut Check<'_>,
    index: usize,
    uplink: &file::UplinkConfig,
    settings: &mut UplinkSettings,
) {
    let Some(name) = uplink.profile else {
        return;
    };
    settings.window = uplink.window.unwrap_or(WINDOW);
    if uplink.retry.is_none() {
        settings.retry.0 = FIRST_PAUSE;
    }
    common(check, index, name, settings);
    match name {
        CloudName::AwsIot => aws(check, index, uplink, settings),
        CloudName::AzureIotHub => azure(check, index, uplink, settings),
    }
}

/// How fast everything may go to the remote.
pub(super) fn rate(
    check: &mut Check<'_>,
    index: usize,
    uplink: &file::UplinkConfig,
) -> Option<Rate> {
    if uplink.profile != Some(CloudName::AwsIot) {
        return uplink.rate;
    }
    let typed = uplink.rate.unwrap_or_default();
    if typed
        .messages
        .is_some_and(|an_hour| an_hour > 3600 * MOST_A_SECOND)
    {
        check.warn(
            &at!["uplinks", index, "rate"],
            format!("AWS IoT Core takes {MOST_A_SECOND} messages a second of a connection, and the uplink sends no more; write at most {MOST_A_SECOND}/s"),
        );
    }
    Some(Rate {
        messages: Some(typed.messages.unwrap_or(AWS_RATE).min(AWS_RATE)),
        ..typed
    })
}

/// A hub has one topic for a device; that of the state is in the bag. It keeps nothing.
fn presence(
    check: &mut Check<'_>,
    index: usize,
    device: &HubDevice,
    settings: &mut UplinkSettings,
) {
    let Some(presence) = &mut settings.presence else {
        return;
    };
    presence.retained = false;
    match device.fixed_topic(&presence.topic) {
        Ok(topic) => presence.topic = topic,
        Err(error) => check.fault(
            &at!["uplinks", index, "presence"],
            format!("not a topic: {error}; write a shorter `topic`"),
        ),
    }
}

/// Limits of both clouds.
fn common(check: &mut Check<'_>, index: usize, name: CloudName, settings: &UplinkSettings) {
    let cloud = name.title();
    if settings.remotes.iter().any(|remote| !remote.is_tls()) {
        check.fault(
            &at!["uplinks", index, "to"],
            format!("{cloud} speaks TLS only; write mqtts:// or wss://"),
        );
    }
    let (seconds, written) = match name {
        CloudName::AwsIot => (30..=1200, "30s to 20m"),
        CloudName::AzureIotHub => (5..=1177, "5s to 19m"),
    };
    let path = at!["uplinks", index, "keep_alive"];
    if !seconds.contains(&settings.keep_alive.as_secs()) && !check.is_faulty(&path) {
        check.fault(
            &path,
            format!("{cloud} takes a keep alive of {written}; write one, such as 4m"),
        );
    }
    if settings.client_id.len() > MOST_ID_BYTES {
        check.fault(
            &at!["uplinks", index],
            format!("{cloud} takes client identifiers of at most {MOST_ID_BYTES} bytes; shorten `client_id`"),
        );
    }
    no_exactly_once(check, index, cloud);
}

/// Neither of them has QoS 2.
fn no_exactly_once(check: &mut Check<'_>, index: usize, cloud: &str) {
    let file = check.file;
    let exact: Vec<&str> = file
        .classes
        .iter()
        .filter(|(_, class)| class.qos == Some(2))
        .map(|(name, _)| name.as_str())
        .collect();
    if !exact.is_empty() {
        let classes = format!(
            "{} {}",
            if exact.len() > 1 { "classes" } else { "class" },
            exact.join(", ")
        );
        check.warn(
            &at!["uplinks", index, "profile"],
            format!("{cloud} has no QoS 2: messages of the {classes} go there with QoS 1, and may come twice after a cut"),
        );
    }
    let receive = file.uplinks.get(index).map(|uplink| &uplink.receive);
    for (place, receive) in receive.into_iter().flatten().enumerate() {
        if receive.qos == Some(2) {
            check.warn(
                &at!["uplinks", index, "receive", place, "qos"],
                format!("{cloud} has no QoS 2; these messages come with QoS 1"),
            );
        }
    }
}

fn aws(
    check: &mut Check<'_>,
    index: usize,
    uplink: &file::UplinkConfig,
    settings: &mut UplinkSettings,
) {
    settings.cloud = Some(Cloud::AwsIot);
    settings.max_packet = settings.max_packet.or(Some(AWS_PACKET));
    let mut remotes = settings.remotes.iter();
    if uplink.alpn.is_empty()
        && remotes.any(|to| to.scheme == Scheme::Mqtts && to.port != AWS_PLAIN_PORT)
    {
        settings.alpn = vec![ALPN.to_owned()];
    }
    if settings.login.is_none() && !has_certificate(uplink, settings) {
        check.fault(
            &at!["uplinks", index],
            "AWS IoT Core knows its things by certificates; add `cert` and `key`",
        );
    }
    if let Some((topic, what)) = settings
        .presence
        .as_ref()
        .and_then(|presence| Some((&presence.topic, too_long(presence.topic.as_str())?)))
    {
        check.fault(
            &at!["uplinks", index, "presence"],
            format!("the state of the gateway goes to {topic}, which has {what}; write a shorter one, `presence: {{ topic: '{{site}}/gateway/state' }}`"),
        );
    }
    largest(
        check,
        index,
        settings,
        AWS_PACKET,
        "AWS IoT Core takes messages of at most 128 kB; write at most 131kB",
    );
    aws_subscriptions(check, index, settings);
}

fn aws_subscriptions(check: &mut Check<'_>, index: usize, settings: &UplinkSettings) {
    if settings.receive.len() > MOST_SUBSCRIPTIONS {
        check.fault(
            &at!["uplinks", index, "receive"],
            format!("AWS IoT Core takes at most {MOST_SUBSCRIPTIONS} subscriptions of a connection; use filters with + and #"),
        );
    }
    for (place, receive) in settings.receive.iter().enumerate() {
        if let Some(what) = too_long(receive.filter.plain()) {
            check.fault(
                &at!["uplinks", index, "receive", place, "filter"],
                format!("this filter has {what}; shorten it"),
            );
        }
    }
}

fn azure(
    check: &mut Check<'_>,
    index: usize,
    uplink: &file::UplinkConfig,
    settings: &mut UplinkSettings,
) {
    let hub = settings.remotes.first().map(|remote| remote.host.clone());
    let device = HubDevice {
        hub: hub.unwrap_or_default(),
        id: settings.client_id.clone(),
        token_life: TOKEN_LIFE,
    };
    presence(check, index, &device, settings);
    if settings.login.is_some() || !has_certificate(uplink, settings) {
        device_key(check, index, uplink, &device, settings.login.as_ref());
    }
    settings.cloud = Some(Cloud::AzureIotHub(device));
    settings.max_packet = settings.max_packet.or(Some(AZURE_PACKET));
    for remote in &mut settings.remotes {
        if remote.scheme == Scheme::Wss && remote.path.len() < 2 {
            AZURE_WEB_SOCKET.clone_into(&mut remote.path);
        }
    }
    let protocol = at!["uplinks", index, "protocol"];
    if check.document.has_at(&protocol) && settings.protocol == Protocol::V5 {
        check.fault(
            &protocol,
            "Azure IoT Hub speaks MQTT 3.1.1; write 3.1.1 or remove `protocol`",
        );
    }
    settings.protocol = Protocol::V311;
    if settings.client_id.contains(['/', ' ']) {
        check.fault(
            &at!["uplinks", index],
            "the client identifier is that of the device in the hub, without a slash or a blank; add `client_id`",
        );
    }
    largest(
        check,
        index,
        settings,
        AZURE_PACKET,
        "Azure IoT Hub takes messages of at most 256 kB; write at most 262kB",
    );
}

/// True if a certificate is typed, even one with a fault.
fn has_certificate(uplink: &file::UplinkConfig, settings: &UplinkSettings) -> bool {
    settings.identity.is_some() || uplink.cert.is_some() || uplink.key.is_some()
}

/// The key of a device in a hub; needed where it has no certificate.
fn device_key(
    check: &mut Check<'_>,
    index: usize,
    uplink: &file::UplinkConfig,
    device: &HubDevice,
    login: Option<&RemoteLogin>,
) {
    let key = if uplink.password.is_some() {
        "password"
    } else {
        "password_file"
    };
    match login {
        // The secret of an uplink that is switched off may not exist yet.
        Some(login) if uplink.enabled => {
            if let Some(Err(wrong)) = secret_of(&login.password).map(|secret| device.takes(&secret)) {
                check.fault(&at!["uplinks", index, key], wrong.to_string());
            }
        }
        Some(_) => {}
        None => check.fault(
            &at!["uplinks", index],
            "Azure IoT Hub knows its devices by a key or by a certificate; add `password_file:` with the primary key of the device, or `cert` and `key`",
        ),
    }
}

fn largest(
    check: &mut Check<'_>,
    index: usize,
    settings: &UplinkSettings,
    most: u32,
    message: &str,
) {
    if settings.max_packet.is_some_and(|size| size > most) {
        check.fault(&at!["uplinks", index, "max_packet"], message);
    }
}

/// Filters of commands that AWS IoT Core does not take.
fn commands(check: &mut Check<'_>, index: usize, uplink: &UplinkSetup) {
    let path = at!["uplinks", index, "commands"];
    let all = uplink.settings.receive.len();
    if all > MOST_SUBSCRIPTIONS
        && !uplink.commands.is_empty()
        && !check.is_faulty(&at!["uplinks", index, "receive"])
    {
        check.fault(
            &path,
            format!("with `receive` these are {all} subscriptions, and AWS IoT Core takes at most {MOST_SUBSCRIPTIONS} of a connection; use fewer filters in `receive`"),
        );
    }
    let long = uplink
        .commands
        .iter()
        .find_map(|command| Some((command.filter.as_str(), too_long(command.filter.plain())?)));
    if let Some((filter, what)) = long {
        check.fault(
            &path,
            format!(
                "commands come in by {filter}, which has {what}; shorten `topics` or the prefix"
            ),
        );
    }
}

/// Topics that AWS IoT Core does not take.
pub(super) fn topics<'t>(
    check: &mut Check<'_>,
    index: usize,
    uplink: &UplinkSetup,
    topics: impl Iterator<Item = &'t TopicName>,
) {
    if uplink.settings.cloud != Some(Cloud::AwsIot) {
        return;
    }
    commands(check, index, uplink);
    if let Some((number, there, what)) = first_too_long(uplink, topics) {
        return check.fault(
            &at!["uplinks", index, "send", number],
            format!("{there} has {what}; shorten `topics` or the prefix"),
        );
    }
    if let Some((number, there, what)) =
        first_too_long(uplink, uplink.own.iter().map(|own| &own.topic))
    {
        check.warn(
            &at!["uplinks", index, "send", number],
            format!("{there} has {what}, so messages about the health of the gateway become dead letters; shorten the prefix, or write `health: false`"),
        );
    }
}

/// The first topic that AWS IoT Core does not take: the number of its rule, what it is there, and
/// why.
fn first_too_long<'t>(
    uplink: &UplinkSetup,
    mut topics: impl Iterator<Item = &'t TopicName>,
) -> Option<(usize, TopicName, String)> {
    let rules = &uplink.routes.send;
    topics.find_map(|topic| {
        let number = rules
            .iter()
            .position(|rule| rule.mapping.filter().matches(topic))?;
        let there = rules.get(number)?.mapping.apply(topic)?.ok()?;
        let what = too_long(there.as_str())?;
        Some((number, there, what))
    })
}
