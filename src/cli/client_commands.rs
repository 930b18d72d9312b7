//! `wellhead sub`, `pub`, `read` and `write`: MQTT clients of the local broker, for use at a
//! terminal.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::Value as Json;

use super::client::{BrokerAccess, Client};
use super::{CONFIG, Failure, USAGE, direct, filter, or_all, put};
use crate::config;
use crate::log::Printable;
use crate::mqtt::{Publish, TopicFilter, TopicName};
use crate::payload::json;
use crate::reading::PointId;
use crate::status::control;
use crate::time::now;

/// How long other sites of a broker may take to show a point of the same name.
const OTHERS_WITHIN: Duration = Duration::from_secs(1);

/// How long a value or a result may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The arguments of the command.
#[derive(Debug, Args)]
pub(super) struct SubArguments {
    #[command(flatten)]
    access: BrokerAccess,
    /// Topics, with + and # [default: #]
    #[arg(value_parser = filter)]
    filters: Vec<TopicFilter>,
    /// Exit after this many messages
    #[arg(long, short = 'n')]
    count: Option<u64>,
    /// Print payloads only
    #[arg(long)]
    payload: bool,
}

/// The arguments of the command.
#[derive(Debug, Args)]
pub(super) struct PubArguments {
    #[command(flatten)]
    access: BrokerAccess,
    /// The topic
    topic: String,
    /// The message [default: standard input]
    message: Option<String>,
    /// Set the retain flag
    #[arg(long)]
    retain: bool,
}

/// The arguments of the command.
#[derive(Debug, Args)]
pub(super) struct ReadArguments {
    #[command(flatten)]
    access: BrokerAccess,
    /// The device, as in the YAML
    device: String,
    /// The point
    point: String,
}

/// The arguments of the command.
#[derive(Debug, Args)]
pub(super) struct WriteArguments {
    #[command(flatten)]
    access: BrokerAccess,
    /// The device, as in the YAML
    device: String,
    /// The point; it needs `write:`
    point: String,
    /// The value
    #[arg(allow_hyphen_values = true)]
    value: String,
}

/// Prints messages, up to the number that was asked for.
pub(super) fn sub(arguments: SubArguments) -> Result<(), Failure> {
    let SubArguments {
        access,
        filters,
        count,
        payload,
    } = arguments;
    let mut client = access.connect()?;
    client.subscribe(&or_all(filters))?;
    let mut printed = 0;
    while count.is_none_or(|count| printed < count) {
        let Some(message) = client.message(None)? else {
            continue;
        };
        printed += 1;
        if !print(&message, payload)? {
            break;
        }
    }
    Ok(())
}

/// False if the reader has closed the pipe.
fn print(message: &Publish, only_payload: bool) -> Result<bool, Failure> {
    put(&line(message, only_payload, io::stdout().is_terminal()))
}

/// A message as it is printed. Topics are always escaped, for otherwise one could look like the
/// start of another line; payloads only for a terminal: programs behind a pipe want the bytes.
fn line(message: &Publish, only_payload: bool, is_terminal: bool) -> Vec<u8> {
    let mut line = Vec::new();
    if let Some(topic) = message.topic.as_ref().filter(|_| !only_payload) {
        line.extend_from_slice(Printable(topic.as_str()).to_string().as_bytes());
        line.push(b' ');
    }
    if is_terminal {
        line.extend_from_slice(Printable::bytes(&message.payload).as_bytes());
    } else {
        line.extend_from_slice(&message.payload);
    }
    line.push(b'\n');
    line
}

/// Publishes a message, or standard input.
pub(super) fn publish(arguments: PubArguments) -> Result<(), Failure> {
    let topic = TopicName::new(arguments.topic).map_err(|error| Failure {
        code: USAGE,
        message: format!("invalid topic: {error}"),
    })?;
    let payload = match arguments.message {
        Some(text) => text.into_bytes(),
        None => {
            let mut bytes = Vec::new();
            io::stdin()
                .read_to_end(&mut bytes)
                .map_err(Failure::runtime)?;
            bytes
        }
    };
    let mut client = arguments.access.connect()?;
    client.publish(topic, Bytes::from(payload), arguments.retain)
}

/// A point of the file.
struct NamedPoint {
    config: config::Gateway,
    id: PointId,
    topic: TopicName,
    is_writable: bool,
    /// It is a command, without a value that could be read.
    is_only_written: bool,
}

fn find(access: &BrokerAccess, device: &str, point: &str) -> Result<NamedPoint, Failure> {
    let file = access.file().ok_or_else(|| Failure {
        code: CONFIG,
        message: "neither ./gateway.yaml nor /etc/wellhead/gateway.yaml exists; name the gateway's with --file".to_owned(),
    })?;
    let config = config::load(&file)?;
    let devices = || config.lines.iter().flat_map(|line| &line.devices);
    let Some(own) = devices().find(|own| own.name == device) else {
        let known = devices().map(|own| own.name.as_str());
        return Err(unknown("device", device, &file, known));
    };
    let Some(own) = own.points.iter().find(|own| &*own.name == point) else {
        let known = own.points.iter().map(|own| &*own.name);
        return Err(unknown("point", point, &file, known));
    };
    let report = config
        .points
        .get(own.id.0 as usize)
        .ok_or_else(|| Failure::runtime("a point without a topic"))?;
    let topic = report.topics().next().unwrap_or(&report.topic).clone();
    let (id, is_writable) = (own.id, own.write.is_some());
    let is_only_written = !own.is_read() && !own.is_derived();
    Ok(NamedPoint {
        config,
        id,
        topic,
        is_writable,
        is_only_written,
    })
}

fn unknown<'a>(
    what: &str,
    name: &str,
    file: &Path,
    known: impl Iterator<Item = &'a str>,
) -> Failure {
    let hint = config::suggestion(name, known);
    let file = file.display();
    Failure::runtime(format!("there is no {what} \"{name}\" in {file}; {hint}"))
}

/// The newest message of a point at a named broker, found by the usual topics, without the YAML
/// file.
fn first_message(
    access: &BrokerAccess,
    device: &str,
    point: &str,
) -> Result<(Client, Publish), Failure> {
    let filter = usual_topics(device, point)?;
    let mut client = access.connect()?;
    client.subscribe(std::slice::from_ref(&filter))?;
    let Some(first) = client.message(Some(now() + ANSWER_TIMEOUT))? else {
        return Err(Failure::runtime(format!(
            "nothing on {filter} in {} s; if the point has another topic, name the YAML file of the gateway with --file",
            ANSWER_TIMEOUT.as_secs()
        )));
    };
    let mut topics: BTreeSet<TopicName> = first.topic.iter().cloned().collect();
    let deadline = now() + OTHERS_WITHIN;
    while let Some(message) = client.message(Some(deadline))? {
        topics.extend(message.topic);
    }
    only_one(&topics)?;
    Ok((client, first))
}

/// The usual topics of a point, at any site.
fn usual_topics(device: &str, point: &str) -> Result<TopicFilter, Failure> {
    if let Some(name) = [device, point]
        .into_iter()
        .find(|name| name.contains(['+', '#', '/']))
    {
        return Err(Failure::runtime(format!(
            "\"{name}\" is not one name; write those of one device and one of its points, without +, # and /"
        )));
    }
    TopicFilter::new(format!("+/{device}/{point}")).map_err(Failure::runtime)
}

/// An error if several sites have such a point: a command could reach the wrong instrument.
fn only_one(topics: &BTreeSet<TopicName>) -> Result<(), Failure> {
    if topics.len() < 2 {
        return Ok(());
    }
    let all: Vec<String> = topics
        .iter()
        .map(|topic| Printable(topic.as_str()).to_string())
        .collect();
    Err(Failure::runtime(format!(
        "several sites have this point: {}; name the YAML file of the one that is meant with --file",
        all.join(", ")
    )))
}

/// The broker of the running gateway; `None` if no gateway runs.
fn broker(access: &BrokerAccess, found: &NamedPoint) -> Result<Option<Client>, Failure> {
    match access.connect() {
        Ok(client) => Ok(Some(client)),
        // A named broker must answer.
        Err(failure) if access.is_named() || control::is_running(&found.config.folder) => {
            Err(failure)
        }
        Err(_) => Ok(None),
    }
}

/// Prints the value of a point: from the gateway, or read directly if none runs.
pub(super) fn read(arguments: &ReadArguments) -> Result<(), Failure> {
    let ReadArguments {
        access,
        device,
        point,
    } = arguments;
    if access.is_without_file() {
        return print_value(&first_message(access, device, point)?.1.payload);
    }
    let found = find(access, device, point)?;
    if found.is_only_written {
        return Err(Failure::runtime(format!(
            "{device}.{point} is only written, and has no value; carry it out with `wellhead write {device} {point} 1`"
        )));
    }
    let Some(mut client) = broker(access, &found)? else {
        let reading = direct::read(found.config, device, found.id)?;
        return print_value(&json::encode(&reading));
    };
    let topic = found.topic;
    client.subscribe(&[TopicFilter::new(topic.as_str()).map_err(Failure::runtime)?])?;
    match client.message(Some(now() + ANSWER_TIMEOUT))? {
        Some(message) => print_value(&message.payload),
        None => Err(Failure::runtime(format!(
            "nothing on {topic} in {} s: the gateway does not run, or has not read it yet",
            ANSWER_TIMEOUT.as_secs()
        ))),
    }
}

/// Prints a value or a result; a failure if its `key` is not `right`.
fn print_checked(payload: &[u8], key: &str, right: &str, wrong: &str) -> Result<(), Failure> {
    put(format!("{}\n", Printable::bytes(payload)).as_bytes())?;
    let json: Json = serde_json::from_slice(payload).unwrap_or_default();
    match json.get(key).and_then(Json::as_str).unwrap_or_default() {
        said if said == right => Ok(()),
        said => Err(Failure::runtime(format!("{wrong}: {said}"))),
    }
}

/// Prints a value; one that is not good is a failure.
fn print_value(payload: &[u8]) -> Result<(), Failure> {
    print_checked(payload, "q", "good", "the value is not good")
}

/// Prints the result of a write; anything but `ok` is a failure.
fn print_result(result: &[u8]) -> Result<(), Failure> {
    print_checked(result, "status", "ok", "not written")
}

/// Writes a value, and prints the result; anything but `ok` is a failure.
pub(super) fn write(arguments: &WriteArguments) -> Result<(), Failure> {
    let WriteArguments {
        access,
        device,
        point,
        value,
    } = arguments;
    // A number or true; anything else is a word.
    let value = serde_json::from_str(value)
        .ok()
        .filter(|value: &Json| !value.is_null())
        .unwrap_or_else(|| Json::String(value.to_owned()));
    let id = format!("cli-{:08x}", fastrand::u32(..));
    let command = serde_json::json!({ "value": value, "id": id }).to_string();
    if access.is_without_file() {
        let (client, message) = first_message(access, device, point)?;
        let topic = message
            .topic
            .ok_or_else(|| Failure::runtime("the broker sent a message without a topic"))?;
        return send(client, &topic, command, &id);
    }
    let found = find(access, device, point)?;
    if !found.is_writable {
        return Err(Failure::runtime(format!(
            "{device}.{point} has no `write:` in the YAML, so nothing is written to it"
        )));
    }
    let Some(client) = broker(access, &found)? else {
        let result = direct::write(found.config, device, &found.topic, command)?;
        return print_result(&result.payload);
    };
    send(client, &found.topic, command, &id)
}

/// Sends a command to a point, and waits for its result.
fn send(mut client: Client, topic: &TopicName, command: String, id: &str) -> Result<(), Failure> {
    let (set, result) = (format!("{topic}/set"), format!("{topic}/set/result"));
    client.subscribe(&[TopicFilter::new(result).map_err(Failure::runtime)?])?;
    client.publish(
        TopicName::new(set).map_err(Failure::runtime)?,
        Bytes::from(command),
        false,
    )?;
    let deadline = now() + ANSWER_TIMEOUT;
    while let Some(message) = client.message(Some(deadline))? {
        let json: Json = serde_json::from_slice(&message.payload).unwrap_or_default();
        if json.get("id").and_then(Json::as_str) == Some(id) {
            return print_result(&message.payload);
        }
    }
    Err(Failure::runtime(format!(
        "timed out after {} s waiting for the write result",
        ANSWER_TIMEOUT.as_secs()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{Properties, QoS};

    #[test]
    fn a_name_is_no_wildcard_and_a_point_of_several_sites_is_refused_with_their_topics() {
        assert_eq!(
            usual_topics("pump", "level").unwrap().as_str(),
            "+/pump/level"
        );
        for (device, point) in [
            ("+", "level"),
            ("pump", "#"),
            ("pump", "a/level"),
            ("pu+mp", "level"),
        ] {
            assert!(usual_topics(device, point).is_err(), "{device} {point}");
        }
        let topics = |names: &[&'static str]| {
            names
                .iter()
                .map(|name| TopicName::new(*name).unwrap())
                .collect::<BTreeSet<_>>()
        };
        assert!(only_one(&topics(&["a/pump/level"])).is_ok());
        let message = only_one(&topics(&["b/pump/level", "a/pump/level"]))
            .unwrap_err()
            .message;
        assert!(message.contains("a/pump/level, b/pump/level"), "{message}");
    }

    #[test]
    fn a_terminal_gets_no_escape_sequences_and_a_pipe_gets_the_bytes() {
        let message = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: Some(TopicName::new("a\x1b[2J\nb").unwrap()),
            packet_id: None,
            properties: Properties::default(),
            payload: Bytes::from_static(b"\x1b]0;x\x07\xff 21.5 \xc2\xb0C"),
        };
        let shown = String::from_utf8(line(&message, false, true)).unwrap();
        assert_eq!(shown, "a\\u{1b}[2J\\u{a}b \\u{1b}]0;x\\u{7}\\xff 21.5 °C\n");
        assert_eq!(
            line(&message, true, false),
            b"\x1b]0;x\x07\xff 21.5 \xc2\xb0C\n"
        );
        assert!(line(&message, false, false).starts_with(b"a\\u{1b}[2J\\u{a}b \x1b]0;x"));
    }
}
