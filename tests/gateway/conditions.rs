//! Rules that look into messages: `where:`.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use super::support::{Gateway, Mosquitto, Process, run, subscriber, wait_for};

/// What the remote and local clients get of a gateway whose rules look into messages.
struct Site {
    remote: Mosquitto,
    gateway: Gateway,
    reader: Process,
    folder: TempDir,
}

impl Site {
    fn new(rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let remote = Mosquitto::start(folder.path(), "");
        let yaml = format!(
            "site: seven
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
health: false
classes: {{ alarm: {{ qos: 2, lane: alarm }} }}
lines: [ {{ name: bench, simulated: {{}} }} ]
devices:
  - name: tank
    line: bench
    points:
      high: {{ simulate: {{ shape: constant, from: 81 }}, every: 100ms }}
      low: {{ simulate: {{ shape: constant, from: 79 }}, every: 100ms }}
uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:{}
    retry: {{ first: 50ms, longest: 200ms }}
    presence: false
{rules}",
            remote.port
        );
        let reader = subscriber(folder.path(), remote.port, "#");
        let gateway = Gateway::start(folder.path(), &yaml);
        gateway.process.wait_for_event("uplink.up", &[]);
        Self {
            remote,
            gateway,
            reader,
            folder,
        }
    }

    /// Publishes to the gateway, with arguments of MQTT 5 properties.
    fn publish(&self, topic: &str, payload: &str, properties: &[[&str; 3]]) {
        publish(self.gateway.port(), topic, payload, properties);
    }

    /// What the remote got, once it has all of these.
    fn got(&self, words: &[&str]) -> String {
        wait_for(&format!("{words:?}"), || {
            let output = self.reader.output();
            words
                .iter()
                .all(|word| output.contains(word))
                .then_some(output)
        })
    }
}

fn publish(port: u16, topic: &str, payload: &str, properties: &[[&str; 3]]) {
    let port = port.to_string();
    let mut arguments = vec![
        "-V", "5", "-q", "1", "-p", &port, "-t", topic, "-m", payload,
    ];
    for [kind, name, value] in properties {
        arguments.extend(["-D", "publish", kind, name]);
        arguments.extend(Some(*value).filter(|value| !value.is_empty()));
    }
    let (code, _, error) = run(Command::new("mosquitto_pub").args(&arguments));
    assert_eq!(code, Some(0), "{arguments:?}: {error}");
}

const PLAIN: [&str; 3] = ["content-type", "text/plain", ""];

#[test]
fn readings_and_messages_go_by_the_first_rule_whose_condition_is_true_of_them() {
    let site = Site::new(
        r#"    send:
      - { filter: 'seven/#', where: 'v > 80 and q == "good"', to: 'alarms/#', class: alarm }
      - { filter: 'seven/tank/low', where: 'v < 0' }
      - { filter: 'meteo/#', where: 'temperature > 30', prefix: hot/ }
      - { filter: 'meteo/#', where: 'user.kind == "text" and content_type contains "plain"', prefix: text/ }
"#,
    );
    site.publish("meteo/a", r#"{"temperature":30}"#, &[]);
    site.publish("meteo/b", r#"{"temperature":30.5}"#, &[]);
    site.publish("meteo/c", "no json", &[]);
    site.publish(
        "meteo/d",
        "rain",
        &[PLAIN, ["user-property", "kind", "text"]],
    );
    site.publish(
        "meteo/e",
        "rain",
        &[PLAIN, ["user-property", "kind", "other"]],
    );
    site.publish("meteo/last", r#"{"temperature":99}"#, &[]);
    let lines = site.got(&["hot/meteo/last", "alarms/tank/high"]);
    for (part, is_there) in [
        ("hot/meteo/a ", false),
        ("hot/meteo/b ", true),
        ("meteo/c ", false),
        ("text/meteo/d rain", true),
        ("meteo/e ", false),
        ("tank/low", false),
        ("seven/tank", false),
    ] {
        assert_eq!(lines.contains(part), is_there, "{part}: {lines}");
    }
    // A reload with another condition.
    let file = site.folder.path().join("gateway.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("v < 0", "v < 80")).unwrap();
    site.gateway.process.signal(rustix::process::Signal::HUP);
    site.got(&["seven/tank/low"]);
}

#[test]
fn messages_of_the_remote_come_in_if_the_condition_of_a_rule_is_true_of_them() {
    let site = Site::new(
        r#"    send: [ { filter: 'none/#' } ]
    receive: [ { filter: 'cmd/#', where: 'user.site == "seven"' } ]
"#,
    );
    let folder = tempfile::tempdir().unwrap();
    let here = subscriber(folder.path(), site.gateway.port(), "cmd/#");
    for (topic, wanted) in [("cmd/a", "six"), ("cmd/b", "seven")] {
        let property = ["user-property", "site", wanted];
        publish(site.remote.port, topic, "1", &[property]);
    }
    let lines = wait_for("the command for this site", || {
        let output = here.output();
        output.contains("cmd/b 1").then_some(output)
    });
    assert!(!lines.contains("cmd/a"), "{lines}");
}
