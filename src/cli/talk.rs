//! `wellhead sub`, `pub`, `read` and `write`: what a person asks of a gateway that runs, through its broker.

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value as Json;

use super::client::Access;
use super::{CONFIG, Failure, put};
use crate::config;
use crate::mqtt::{Publish, TopicFilter, TopicName};
use crate::time::now;

/// How long a value or a result may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Prints messages until enough have come.
pub(super) fn sub(access: &Access, filters: &[TopicFilter], count: Option<u64>, only_payload: bool) -> Result<(), Failure> {
    let mut client = access.connect()?;
    client.subscribe(filters)?;
    let mut seen = 0;
    while count.is_none_or(|count| seen < count) {
        let Some(message) = client.message(None)? else { continue };
        seen += 1;
        if !print(&message, only_payload)? {
            break;
        }
    }
    Ok(())
}

/// False if nobody reads any more.
fn print(message: &Publish, only_payload: bool) -> Result<bool, Failure> {
    let mut line = Vec::new();
    if let Some(topic) = message.topic.as_ref().filter(|_| !only_payload) {
        line.extend_from_slice(topic.as_str().as_bytes());
        line.push(b' ');
    }
    line.extend_from_slice(&message.payload);
    line.push(b'\n');
    put(&line)
}

/// Publishes a message, or what comes from a pipe.
pub(super) fn publish(access: &Access, topic: TopicName, message: Option<String>, retain: bool) -> Result<(), Failure> {
    let payload = match message {
        Some(text) => text.into_bytes(),
        None => {
            let mut bytes = Vec::new();
            io::stdin().read_to_end(&mut bytes).map_err(Failure::runtime)?;
            bytes
        }
    };
    access.connect()?.publish(topic, Bytes::from(payload), retain)
}

/// The topic of a point, and whether it can be written.
fn topic_of(access: &Access, device: &str, point: &str) -> Result<(TopicName, bool), Failure> {
    let file = access.file().ok_or_else(|| Failure {
        code: CONFIG,
        message: "neither ./gateway.yaml nor /etc/wellhead/gateway.yaml exists; name the gateway's with --file".to_owned(),
    })?;
    let config = config::load(&file)?;
    let devices: Vec<_> = config.lines.iter().flat_map(|line| &line.devices).collect();
    let wrong = |what: &str, name: &str, known: Vec<&str>| {
        Failure::runtime(format!("there is no {what} \"{name}\" in {}; {}", file.display(), config::suggestion(name, known)))
    };
    let Some(found) = devices.iter().find(|own| own.name == device) else {
        return Err(wrong("device", device, devices.iter().map(|own| own.name.as_str()).collect()));
    };
    let Some(own) = found.points.iter().find(|own| &*own.name == point) else {
        return Err(wrong("point", point, found.points.iter().map(|own| &*own.name).collect()));
    };
    let report = config.points.get(own.id.0 as usize).ok_or_else(|| Failure::runtime("a point without a topic"))?;
    let topic = report.topics().next().unwrap_or(&report.topic).clone();
    Ok((topic, own.write.is_some()))
}

/// Prints the value of a point as the gateway shows it.
pub(super) fn read(access: &Access, device: &str, point: &str) -> Result<(), Failure> {
    let (topic, _) = topic_of(access, device, point)?;
    let mut client = access.connect()?;
    client.subscribe(&[TopicFilter::new(topic.as_str()).map_err(Failure::runtime)?])?;
    match client.message(Some(now() + PATIENCE))? {
        Some(message) => print(&message, true).map(drop),
        None => Err(Failure::runtime(format!(
            "nothing on {topic} in {} s: the gateway does not run, or has not read it yet",
            PATIENCE.as_secs()
        ))),
    }
}

/// Writes a value, and prints how that ended; anything but `ok` is a failure.
pub(super) fn write(access: &Access, device: &str, point: &str, value: &str) -> Result<(), Failure> {
    let (topic, is_writable) = topic_of(access, device, point)?;
    if !is_writable {
        return Err(Failure::runtime(format!("{device}.{point} has no `write:` in the YAML, so nothing is written to it")));
    }
    // A number or true; anything else is a word.
    let value = serde_json::from_str(value).ok().filter(|value: &Json| !value.is_null()).unwrap_or_else(|| Json::String(value.to_owned()));
    let id = format!("cli-{:08x}", fastrand::u32(..));
    let (set, result) = (format!("{topic}/set"), format!("{topic}/set/result"));
    let mut client = access.connect()?;
    client.subscribe(&[TopicFilter::new(result).map_err(Failure::runtime)?])?;
    let command = serde_json::json!({ "value": value, "id": id }).to_string();
    client.publish(TopicName::new(set).map_err(Failure::runtime)?, Bytes::from(command), false)?;
    let deadline = now() + PATIENCE;
    while let Some(message) = client.message(Some(deadline))? {
        let told: Json = serde_json::from_slice(&message.payload).unwrap_or_default();
        let told = |key: &str| told.get(key).and_then(Json::as_str).unwrap_or_default();
        if told("id") == id {
            print(&message, true)?;
            return if told("status") == "ok" { Ok(()) } else { Err(Failure::runtime(format!("not written: {}", told("status")))) };
        }
    }
    Err(Failure::runtime(format!("nobody said how the write ended in {} s", PATIENCE.as_secs())))
}
