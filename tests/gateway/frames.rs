//! Readings in frames and in compressed payloads, as programs of others read them.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use wellhead::time::parse_rfc3339;

use super::support::{Gateway, Mosquitto, Process, mosquitto_sub, python, wait_for};

/// Time in milliseconds, topic and value.
type Seen = (i64, String, String);

/// A gateway with three devices, each in a format of its own.
fn yaml(remote: u16) -> String {
    let device = |name: &str| {
        format!(
            "  - name: {name}
    line: bench
    points:
      flow: {{ at: 40001, type: i16, scale: 0.1, every: 100ms, simulate: {{ shape: sine, from: 0, to: 90, period: 7s }} }}
      count: {{ at: 40002, type: u16, every: 100ms, simulate: {{ shape: counter, period: 1s }} }}
      mode: {{ at: 40003, words: {{ 1: 'au\"to' }}, every: 300ms, simulate: {{ shape: constant, from: 1 }} }}\n"
        )
    };
    let devices = ["pump", "valve", "tank"].map(device).concat();
    format!(
        "site: s7
health: false
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
lines: [ {{ name: bench, simulated: {{}} }} ]
devices:
{devices}uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:{remote}
    presence: false
    send:
      - {{ filter: 's7/pump/+', where: known(q), to: far/columns, format: {{ kind: columns, every: 1s, compress: deflate }} }}
      - {{ filter: 's7/valve/+', where: known(q), to: far/scan, format: {{ kind: scan, every: 1s, compress: brotli }} }}
      - {{ filter: 's7/tank/+', where: known(q), to: far/object, format: object }}
"
    )
}

fn subscribe(folder: &Path, port: u16, topic: &str, format: &str) -> Process {
    let port = port.to_string();
    let mut command = mosquitto_sub();
    command.args(["-d", "-q", "1", "-p", &port, "-t", topic, "-F", format]);
    let log = format!("{}.log", topic.replace(['/', '+'], "_"));
    let reader = Process::start(&mut command, &folder.join(log));
    reader.wait_for_output("Subscribed");
    reader
}

/// The payloads that a subscriber wrote in hexadecimal.
fn payloads(reader: &Process) -> Vec<String> {
    let output = reader.output();
    let lines = output.lines().filter_map(|line| line.strip_prefix("got "));
    lines.map(str::to_owned).collect()
}

pub fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).unwrap();
    (0..hexadecimal.len()).step_by(2).map(digits).collect()
}

/// What local clients of a device got.
fn near(reader: &Process, device: &str) -> BTreeSet<Seen> {
    let output = reader.output();
    let lines = output.lines().filter_map(|line| line.strip_prefix("near "));
    let of_device = lines.filter(|line| line.contains(&format!("/{device}/")));
    let seen = |line: &str| {
        let (topic, payload) = line.split_once(' ').unwrap();
        let json: Value = serde_json::from_str(payload).ok()?;
        let time = parse_rfc3339(json["t"].as_str()?).unwrap();
        Some((time, topic.to_owned(), number(&json["v"])))
    };
    of_device.filter_map(seen).collect()
}

/// 12 and 12.0 are one number.
fn number(value: &Value) -> String {
    value
        .as_f64()
        .map_or_else(|| value.to_string(), |float| float.to_string())
}

fn columns(payloads: &[String]) -> Vec<Seen> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/decoders/columns.py");
    let mut decoder = python();
    let decoder = decoder
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut decoder = decoder.spawn().unwrap();
    let mut input = decoder.stdin.take().unwrap();
    input.write_all(payloads.join("\n").as_bytes()).unwrap();
    drop(input);
    let output = String::from_utf8(decoder.wait_with_output().unwrap().stdout).unwrap();
    let seen = |line: &str| {
        let json: Value = serde_json::from_str(line).unwrap();
        assert_eq!(json["q"], "good");
        let topic = json["topic"].as_str().unwrap().to_owned();
        (json["ts"].as_i64().unwrap(), topic, number(&json["v"]))
    };
    output.lines().map(seen).collect()
}

fn members(time: i64, device: &str, values: &Value) -> Vec<Seen> {
    let values = values.as_object().unwrap().iter();
    let values = values.filter(|(name, _)| *name != "ts");
    values
        .map(|(name, value)| (time, format!("s7/{device}/{name}"), number(value)))
        .collect()
}

fn scans(payloads: &[String]) -> Vec<Seen> {
    let mut found = Vec::new();
    for payload in payloads {
        let mut text = Vec::new();
        brotli::BrotliDecompress(&mut bytes(payload).as_slice(), &mut text).unwrap();
        let objects: Vec<Value> = serde_json::from_slice(&text).unwrap();
        for object in objects {
            found.extend(members(
                object["ts"].as_i64().unwrap(),
                "valve",
                &object["values"],
            ));
        }
    }
    found
}

fn objects(payloads: &[String]) -> Vec<Seen> {
    let each = |payload: &String| {
        let object: Value = serde_json::from_slice(&bytes(payload)).unwrap();
        members(object["ts"].as_i64().unwrap(), "tank", &object)
    };
    payloads.iter().flat_map(each).collect()
}

#[test]
fn programs_of_others_read_frames_and_compressed_payloads() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let names = ["columns", "scan", "object"];
    let far =
        names.map(|name| subscribe(folder.path(), remote.port, &format!("far/{name}"), "got %x"));
    let mut gateway = Gateway::start(folder.path(), &yaml(remote.port));
    let local = subscribe(folder.path(), gateway.port(), "s7/+/+", "near %t %p");
    wait_for("frames arrive", || {
        far.iter()
            .all(|reader| payloads(reader).len() >= 3)
            .then_some(())
    });
    assert!(gateway.process.terminate().success());

    type Decode = fn(&[String]) -> Vec<Seen>;
    let decoders: [(&str, Decode); 3] = [("pump", columns), ("valve", scans), ("tank", objects)];
    for (reader, (device, decode)) in far.iter().zip(decoders) {
        let seen = near(&local, device);
        let arrived = wait_for("what local clients saw arrives", || {
            let arrived = decode(&payloads(reader));
            seen.iter()
                .all(|own| arrived.contains(own))
                .then_some(arrived)
        });
        assert!(seen.len() > 30, "{device}: {} readings", seen.len());
        let different: BTreeSet<&Seen> = arrived.iter().collect();
        assert_eq!(different.len(), arrived.len(), "each once");
    }
    // Three points of one time, and two of most times.
    let counts = payloads(&far[2])
        .iter()
        .map(|payload| objects(std::slice::from_ref(payload)).len())
        .collect::<Vec<_>>();
    assert!(
        counts.iter().all(|count| (1..=3).contains(count)),
        "{counts:?}"
    );
    assert!(
        counts.iter().filter(|count| **count >= 2).count() * 2 > counts.len(),
        "{counts:?}"
    );
}
