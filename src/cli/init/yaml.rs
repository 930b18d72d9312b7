//! The text of the file, and checks of its parts.

use std::path::Path;

use super::Sections;
use crate::config;
use crate::uplink::Remote;
use crate::uplink::cloud::CloudName;

/// Lines and devices of a gateway without instruments, as comments.
const NO_LINES: &str = "# lines:                            # serial ports; `wellhead scan /dev/ttyUSB0` finds the devices on one\n#   - { name: bus, serial: /dev/ttyUSB0, speed: 9600 8N1 }\n# devices:                          # what is on them; `wellhead profiles` shows the instruments that are known\n#   - { name: meter, line: bus, unit: 1, profile: eastron-sdm120 }\n\n";

/// The whole file; without `uplinks` if `remote` is empty.
pub(super) fn file(site: &str, sections: Option<&Sections>, folder: &str, remote: &str) -> String {
    let mut out = format!(
        "# yaml-language-server: $schema=/usr/share/wellhead/gateway.schema.json\n\
         # `wellhead check` lists every mistake in this file, or shows what it will do. All settings: the gateway.yaml that comes with wellhead.\n\
         version: {}\n\nsite: {}                       # {{site}} in topics, and the client identifier at the remote broker\n\n",
        config::VERSION,
        quoted(site)
    );
    match sections {
        Some(Sections { line, device }) => out.push_str(&format!("lines:                              # serial ports, Modbus TCP devices\n  - {{ name: bus, {line} }}\n\ndevices:                            # the instruments on them\n{device}\n")),
        None => out.push_str(NO_LINES),
    }
    out.push_str(
        "topics: '{site}/{device}/{point}'   # topics of values; writes arrive on <topic>/set\n\n",
    );
    out.push_str(
        "broker:                             # for local clients: mosquitto_sub -t '#' -v\n  listen: [ 'mqtt://127.0.0.1:1883' ]\n\n",
    );
    out.push_str(&format!(
        "outbox: {{ folder: {} }}   # what must survive: messages for remote brokers, sessions, retained messages\n",
        quoted(folder)
    ));
    if !remote.is_empty() {
        out.push_str(&uplinks(remote));
    }
    out
}

/// The section `uplinks`, with one remote broker.
pub(super) fn uplinks(address: &str) -> String {
    let host = address
        .parse::<Remote>()
        .map(|remote| remote.host)
        .unwrap_or_default();
    let send = "    send: [ { filter: '#' } ]       # local topics to send\n";
    let cloud = match address {
        "aws-iot" => Some(CloudName::AwsIot),
        "azure-iot-hub" => Some(CloudName::AzureIotHub),
        _ => CloudName::of_host(&host),
    };
    let Some(cloud) = cloud else {
        let to = quoted(address);
        return format!(
            "\nuplinks:\n  - name: cloud\n    to: {to}\n    # user: me                      # the first line of this file is the password:\n    # password_file: cloud.password\n{send}"
        );
    };
    let (profile, example, rest) = match cloud {
        CloudName::AwsIot => (
            "aws-iot",
            "mqtts://ENDPOINT-ats.iot.REGION.amazonaws.com",
            "    # client_id: pump-7             # the name of the thing; without it that of the site\n    cert: thing.pem.crt             # from AWS IoT Core\n    key: thing.pem.key\n",
        ),
        CloudName::AzureIotHub => (
            "azure-iot-hub",
            "mqtts://HUB.azure-devices.net",
            "    # client_id: pump-7             # the device in the hub; without it that of the site\n    password_file: device.key       # the primary key of the device in its first line\n",
        ),
    };
    let to = if host.is_empty() { example } else { address };
    format!(
        "\nuplinks:\n  - name: cloud\n    profile: {profile}\n    enabled: false                  # true when the files below are there\n    to: {to}\n{rest}{send}"
    )
}

/// The first fault of a piece of a file, in the words of `wellhead check`.
pub(super) fn checked(yaml: &str) -> Result<(), String> {
    let first = |faults: Vec<config::Diagnostic>| {
        faults.first().map_or_else(
            || "this cannot be".to_owned(),
            |fault| fault.message.clone(),
        )
    };
    config::parse("answer", yaml, Path::new("."))
        .map(drop)
        .map_err(first)
}

/// A text as a YAML scalar, in quotes if it needs them.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = !text.is_empty()
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_lowercase().as_str());
    if is_plain {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}
