//! Readings in each format, as a mosquitto at the other end gets them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use super::support::{
    Gateway, Mosquitto, NOBODY, Process, mosquitto_sub, peer, python, run, wait_for, wellhead,
};

/// The formats, each with its `send` rule.
const RULES: &str = r#"
      - { filter: '+/value/#', to: 'far/value/#', format: value }
      - { filter: '+/template/#', where: known(q), to: far/template, format: { template: '{"{point}": {value}, "q": {quality}, "of": "{device} {unit}"}' } }
      - { filter: '+/line/#', where: known(q), to: far/line, format: line }
      - { filter: '+/senml/#', where: known(q), to: far/senml, format: { kind: senml } }
      - { filter: '+/#', to: 'far/#' }
"#;

const POINTS: &str = "
      temp: { at: 40001, type: i16, scale: 0.1, unit: degC, every: 200ms, simulate: { shape: constant, from: 21.5 } }
      count: { at: 40002, type: u16, every: 200ms, simulate: { shape: constant, from: 7 } }
      mode: { at: 40003, words: { 1: 'au\"to' }, every: 200ms, simulate: { shape: constant, from: 1 } }
      broken: { at: 40004, type: u16, broken_value: 5, every: 200ms, simulate: { shape: constant, from: 5 } }";

/// A gateway with a device for each of these names, and a broker at port 0.
fn yaml(devices: &[&str], remote: u16, rules: &str) -> String {
    let device = |name: &&str| format!("  - {{ name: {name}, line: bench, profile: meter }}\n");
    let devices: String = devices.iter().map(device).collect();
    format!(
        "site: s 7
health: false
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
lines: [ {{ name: bench, simulated: {{}} }} ]
profiles:
  meter:
    points: {POINTS}
devices:
{devices}uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:{remote}
    retry: {{ first: 50ms, longest: 200ms }}
    presence: false
{rules}"
    )
}

/// A subscriber at the remote that writes `<topic> <payload>` for each message.
fn reader(folder: &Path, port: u16) -> Process {
    let mut command = mosquitto_sub();
    command.args(["-d", "-q", "1", "-p", &port.to_string(), "-t", "far/#"]);
    let reader = Process::start(
        command.args(["-F", "got %t %p"]),
        &folder.join("reader.log"),
    );
    reader.wait_for_output("Subscribed");
    reader
}

/// The different payloads on a topic so far.
fn payloads(reader: &Process, topic: &str) -> Vec<String> {
    let begin = format!("got {topic} ");
    let output = reader.output();
    let lines = output.lines().filter_map(|line| line.strip_prefix(&begin));
    let mut found: Vec<String> = lines.map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}

/// JSON payloads without their times.
fn timeless(payloads: &[String]) -> Vec<Value> {
    let mut found = Vec::new();
    for payload in payloads {
        let mut json: Value = serde_json::from_str(payload).unwrap();
        let record = if json.is_array() {
            &mut json[0]
        } else {
            &mut json
        };
        record.as_object_mut().unwrap().remove("t");
        if !found.contains(&json) {
            found.push(json);
        }
    }
    found
}

fn wait_for_kinds(reader: &Process, topic: &str, kinds: usize) -> Vec<Value> {
    wait_for(&format!("{kinds} kinds of payload on {topic}"), || {
        let found = timeless(&payloads(reader, topic));
        (found.len() >= kinds).then_some(found)
    })
}

/// Line protocol as a parser of others reads it, by field.
fn parsed(lines: &[String]) -> BTreeMap<String, Value> {
    let mut parser = python()
        .arg(peer("line_protocol.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = lines.join("\n");
    parser
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = parser.wait_with_output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.lines().count(), lines.len(), "{lines:?}");
    let mut fields = BTreeMap::new();
    for line in output.lines() {
        let point: Value = serde_json::from_str(line).unwrap();
        assert_eq!(point["measurement"], "line");
        assert_eq!(point["tags"], json!({ "site": "s 7" }));
        assert!(point["time"].as_u64().unwrap() > 1_700_000_000_000_000_000);
        let own = point["fields"].as_object().unwrap().clone();
        fields.extend(own);
    }
    fields
}

#[test]
fn each_rule_writes_readings_in_its_format_and_messages_of_clients_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let reader = reader(folder.path(), remote.port);
    let devices = ["json", "value", "template", "line", "senml"];
    let rules = format!("    send:{RULES}");
    let gateway = Gateway::start(folder.path(), &yaml(&devices, remote.port, &rules));
    let port = gateway.port().to_string();
    let (code, _, error) = run(std::process::Command::new("mosquitto_pub").args([
        "-q",
        "1",
        "-p",
        &port,
        "-t",
        "x/value/note",
        "-m",
        "as it is",
    ]));
    assert_eq!(code, Some(0), "{error}");
    reader.wait_for_output("got far/value/note as it is");

    assert_eq!(wait_for_kinds(&reader, "far/json/broken", 1)[0]["q"], "bad");
    assert_eq!(
        wait_for_kinds(&reader, "far/json/temp", 1),
        [json!({ "v": 21.5, "q": "good" })]
    );

    reader.wait_for_output("got far/value/temp 21.5");
    reader.wait_for_output("got far/value/count 7");
    reader.wait_for_output("got far/value/mode au\"to");

    let template = wait_for_kinds(&reader, "far/template", 4);
    for expected in [
        json!({ "temp": 21.5, "q": "good", "of": "template degC" }),
        json!({ "count": 7, "q": "good", "of": "template " }),
        json!({ "mode": "au\"to", "q": "good", "of": "template " }),
        json!({ "broken": null, "q": "bad", "of": "template " }),
    ] {
        assert!(template.contains(&expected), "{expected} in {template:?}");
    }

    let senml = wait_for_kinds(&reader, "far/senml", 3);
    for expected in [
        json!([{ "n": "s_7/senml/temp", "u": "Cel", "v": 21.5 }]),
        json!([{ "n": "s_7/senml/count", "v": 7 }]),
        json!([{ "n": "s_7/senml/mode", "vs": "au\"to" }]),
    ] {
        assert!(senml.contains(&expected), "{expected} in {senml:?}");
    }

    let fields = wait_for("every point is in a line", || {
        let fields = parsed(&payloads(&reader, "far/line"));
        (fields.len() >= 5).then_some(fields)
    });
    assert_eq!(fields["temp"], 21.5);
    assert_eq!(fields["count"], 7);
    assert_eq!(fields["mode"], "au\"to");
    assert_eq!(fields["broken_quality"], "bad");
    assert!(fields["broken_reason"].is_string());

    // What is not good has no place in a bare value and in SenML: it is counted, and not sent.
    wait_for("readings are left out", || {
        let (_, metrics, _) = run(wellhead()
            .args(["status", "--metrics"])
            .current_dir(folder.path()));
        let count = metrics.lines().find_map(|line| {
            line.strip_prefix("wellhead_uplink_left_out_readings_total{uplink=\"cloud\"} ")
        })?;
        (count.parse::<f64>().ok()? >= 2.0).then_some(())
    });
    assert_eq!(payloads(&reader, "far/value/broken"), [""; 0]);
    assert_eq!(timeless(&payloads(&reader, "far/senml")).len(), 3);
}

/// Readings that the outbox holds, by `wellhead outbox export`.
fn queued(folder: &Path) -> usize {
    let (code, out, error) = run(wellhead()
        .args(["outbox", "export"])
        .arg(folder.join("gateway.yaml")));
    assert_eq!(code, Some(0), "{error}");
    out.lines().filter(|line| line.contains("far/all")).count()
}

#[test]
fn another_format_is_that_of_everything_that_waits_with_the_names_of_its_points() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let reader = reader(folder.path(), remote.port);
    let rule =
        "send: [ { filter: '+/+/temp', to: far/all }, { filter: '+/+/count', to: far/all } ]";
    let before = yaml(&["first", "second"], NOBODY, &format!("    {rule}\n"));
    let gateway = Gateway::start(folder.path(), &before);
    wait_for("readings wait", || {
        (queued(folder.path()) >= 20).then_some(())
    });
    let mut gateway = gateway;
    gateway.process.kill_9();
    let waiting = queued(folder.path());
    assert!(waiting >= 20);

    let format = "format: { template: '{device}.{point}={value} at {time_ms}' }";
    // Nothing is measured any more: what comes is what waited.
    let after = yaml(
        &["first", "second"],
        remote.port,
        &format!("    {format}\n    {rule}\n"),
    )
    .replace("every: 200ms", "every: 1h");
    fs::write(folder.path().join("gateway.yaml"), after).unwrap();
    let _gateway = Gateway::restart(folder.path());
    wait_for("everything that waited arrives", || {
        let count = reader.output().matches("got far/all ").count();
        (count >= waiting).then_some(())
    });
    let output = reader.output();
    let mut texts: Vec<&str> = output
        .lines()
        .filter_map(|line| line.strip_prefix("got far/all ")?.split_once(" at "))
        .map(|(text, _)| text)
        .collect();
    assert!(texts.len() >= waiting, "{output}");
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(
        texts,
        [
            "first.count=7",
            "first.temp=21.5",
            "second.count=7",
            "second.temp=21.5"
        ]
    );
}
