//! Readings that share messages: live ones, a backlog in large frames, kill -9 in the middle of it,
//! remotes that refuse them or take small packets only.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use wellhead::time::parse_rfc3339;

use super::remote::{Publish, Remote, Wire};
use super::support::{Gateway, Mosquitto, NOBODY, Process, mosquitto_sub, run, wait_for, wellhead};

const PUBACK: u8 = 0x40;
/// No such thing is allowed, ever.
const NOT_AUTHORIZED: u8 = 0x87;

/// A reading: its time in milliseconds, and its point.
type Key = (i64, String);

/// A gateway that reads ten points of a device this often.
fn yaml(remote: u16, every: &str, format: &str) -> String {
    let point = |number| {
        format!(
            "      p{number}: {{ every: {every}, simulate: {{ shape: counter, period: 1s }} }}\n"
        )
    };
    let points: String = (0..10).map(point).collect();
    format!(
        "site: s7
health: false
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
lines: [ {{ name: bench, simulated: {{}} }} ]
devices:
  - name: pump
    line: bench
    points:
{points}uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:{remote}
    retry: {{ first: 50ms, longest: 200ms }}
    catch_up: {{ order: oldest-first }}
    presence: false
    send: [ {{ filter: 's7/pump/+', where: known(q), to: far/pump, format: {format} }} ]
"
    )
}

/// The outbox by `wellhead outbox export`, with these arguments.
fn exported(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let (code, out, error) = run(wellhead()
        .args(["outbox", "export"])
        .args(arguments)
        .arg(folder.join("gateway.yaml")));
    assert_eq!(code, Some(0), "{error}");
    out.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A reading that local clients get as `payload` on `topic`.
fn key(topic: &str, payload: &str) -> Key {
    let json: Value = serde_json::from_str(payload).unwrap();
    let time = parse_rfc3339(json["t"].as_str().unwrap()).unwrap();
    (time, topic.rsplit('/').next().unwrap().to_owned())
}

/// The readings of a payload.
fn scanned(payload: &str) -> Vec<Key> {
    let objects: Vec<Value> = serde_json::from_str(payload).unwrap();
    let mut keys = Vec::new();
    for object in &objects {
        let time = object["ts"].as_i64().unwrap();
        let values = object["values"].as_object().unwrap();
        keys.extend(values.keys().map(|name| (time, name.clone())));
    }
    keys
}

/// A folder with the outbox of a gateway that could not send at least so many readings. The file in
/// it is for a gateway that sends them to `remote` and reads nothing new but one value a point.
fn backlog(remote: u16, least: usize, format: &str) -> (tempfile::TempDir, usize) {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(folder.path(), &yaml(NOBODY, "20ms", format));
    wait_for("readings wait", || {
        (exported(folder.path(), &[]).len() >= least).then_some(())
    });
    gateway.process.kill_9();
    let waiting = exported(folder.path(), &[]).len();
    fs::write(
        folder.path().join("gateway.yaml"),
        yaml(remote, "1h", format),
    )
    .unwrap();
    (folder, waiting)
}

/// Takes messages and acknowledges them until so many different readings are there.
fn take(wire: &mut Wire, got: &mut BTreeSet<Key>, wanted: usize) -> Vec<Publish> {
    let mut messages = Vec::new();
    while got.len() < wanted {
        let publish = wire.publish();
        got.extend(scanned(&publish.payload));
        wire.answer(PUBACK, publish.id, 0);
        messages.push(publish);
    }
    messages
}

fn wait_until_settled(folder: &Path) {
    wait_for("everything is settled", || {
        exported(folder, &[]).is_empty().then_some(())
    });
}

#[test]
fn a_backlog_goes_in_large_frames_and_a_kill_9_in_the_middle_of_it_loses_nothing() {
    let remote = Remote::listen();
    let (folder, waiting) = backlog(remote.port, 3000, "{ kind: scan, every: 1s }");
    let gateway = Gateway::restart(folder.path());
    let mut wire = remote.accept(false, &[]);
    let first = wire.publish();
    assert_eq!(
        (first.qos, first.retain, first.topic.as_str()),
        (1, false, "far/pump")
    );
    assert!(
        first.properties.is_empty(),
        "no number is that of all its readings"
    );
    assert!(
        (8_000..=16_000).contains(&first.payload.len()),
        "{}",
        first.payload.len()
    );
    wire.answer(PUBACK, first.id, 0);
    let second = wire.publish();
    wait_for("the readings of the first are settled", || {
        let left = exported(folder.path(), &[]).len();
        (left <= waiting + 10 - scanned(&first.payload).len()).then_some(())
    });
    // The second is not acknowledged.
    let gateway = gateway.kill_and_restart();
    let mut wire = remote.accept(false, &[]);
    let mut got: BTreeSet<Key> = scanned(&first.payload).into_iter().collect();
    let frames = take(&mut wire, &mut got, waiting);
    assert!(
        scanned(&second.payload).iter().all(|key| got.contains(key)),
        "what was not acknowledged came again"
    );
    assert!(
        frames.len() <= 3 + waiting * 45 / 8_000,
        "{} frames",
        frames.len()
    );
    drop(gateway);
}

#[test]
fn a_frame_that_is_refused_becomes_dead_letters_reading_by_reading() {
    let remote = Remote::listen();
    let (folder, waiting) = backlog(remote.port, 2000, "scan");
    let _gateway = Gateway::restart(folder.path());
    let mut wire = remote.accept(false, &[]);
    let refused = wire.publish();
    wire.answer(PUBACK, refused.id, NOT_AUTHORIZED);
    let dead = wait_for("its readings are dead letters", || {
        let dead = exported(folder.path(), &["--queue", "dead"]);
        (dead.len() == scanned(&refused.payload).len()).then_some(dead)
    });
    let mut got = BTreeSet::new();
    for letter in &dead {
        assert_eq!(letter["topic"], "far/pump");
        let json: Value = serde_json::from_str(letter["payload"].as_str().unwrap()).unwrap();
        got.insert(json["t"].as_str().unwrap().to_owned());
    }
    let mut others = BTreeSet::new();
    take(&mut wire, &mut others, waiting - dead.len());
    assert!(
        scanned(&refused.payload)
            .iter()
            .all(|key| !others.contains(key))
    );
}

#[test]
fn a_remote_that_takes_small_packets_gets_small_frames() {
    let remote = Remote::listen();
    let (folder, waiting) = backlog(remote.port, 500, "scan");
    let _gateway = Gateway::restart(folder.path());
    let largest = 2_000;
    // Maximum Packet Size.
    let mut wire = remote.accept(false, &[0x27, 0, 0, 7, 208]);
    let mut got = BTreeSet::new();
    let frames = take(&mut wire, &mut got, waiting);
    assert!(frames.iter().all(|frame| frame.payload.len() < largest));
    assert!(frames.len() >= waiting * 10 / largest);
    wait_until_settled(folder.path());
}

#[test]
fn live_readings_wait_for_others_for_the_time_that_the_file_says_and_no_longer_at_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let subscribe = |port: u16, topic: &str, name: &str| {
        let mut command = mosquitto_sub();
        command.args([
            "-d",
            "-q",
            "1",
            "-p",
            &port.to_string(),
            "-t",
            topic,
            "-F",
            "got %t %p",
        ]);
        let reader = Process::start(&mut command, &folder.path().join(name));
        reader.wait_for_output("Subscribed");
        reader
    };
    let far = subscribe(remote.port, "far/#", "far.log");
    let format = "{ kind: scan, every: 1s, up_to: 20kB }";
    let mut gateway = Gateway::start(folder.path(), &yaml(remote.port, "100ms", format));
    let near = subscribe(gateway.port(), "s7/pump/+", "near.log");
    let messages = || {
        let output = far.output();
        let payloads = output
            .lines()
            .filter_map(|line| line.strip_prefix("got far/pump "));
        payloads.map(str::to_owned).collect::<Vec<_>>()
    };
    wait_for("several messages", || (messages().len() >= 4).then_some(()));
    assert!(gateway.process.terminate().success());
    wait_for("the rest arrives", || {
        (far.output().matches("got far/pump ").count() == messages().len()).then_some(())
    });
    let seen: BTreeSet<Key> = near
        .output()
        .lines()
        .filter_map(|line| line.strip_prefix("got ")?.split_once(' '))
        .filter(|(_, payload)| payload.starts_with('{'))
        .map(|(topic, payload)| key(topic, payload))
        .collect();
    let arrived = wait_for("every reading that local clients saw arrives", || {
        let arrived: Vec<Key> = messages().iter().flat_map(|text| scanned(text)).collect();
        seen.iter()
            .all(|key| arrived.contains(key))
            .then_some(arrived)
    });
    let different: BTreeSet<&Key> = arrived.iter().collect();
    assert_eq!(different.len(), arrived.len(), "each once");
    // Ten points, ten times a second.
    let in_full: Vec<usize> = messages().iter().map(|text| scanned(text).len()).collect();
    let middle = in_full.get(1..in_full.len() - 1).unwrap();
    assert!(
        middle.iter().all(|count| (50..=300).contains(count)),
        "{in_full:?}"
    );
}

/// Two devices with an alarm each, and their readings in lines.
fn yaml_with_alarms(remote: u16) -> String {
    let device = |name: &str| {
        format!(
            "  - name: {name}
    line: bench
    points:
      flow: {{ every: 50ms, simulate: {{ shape: constant, from: 7 }} }}
      high: {{ every: 400ms, deadband: 0, class: alarm, simulate: {{ shape: square, from: 0, to: 1, period: 1s }} }}\n"
        )
    };
    let devices: String = ["first", "second"].map(device).concat();
    let rule = |filter: &str, qos: u8| {
        format!(
            "      - {{ filter: '{filter}', where: known(q), to: far/{qos}, qos: {qos}, format: {{ kind: line, every: 30s, up_to: 1kB }} }}\n"
        )
    };
    let rules = [rule("+/+/high", 1), rule("+/+/flow", 0)].concat();
    format!(
        "site: s7
health: false
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
classes: {{ alarm: {{ qos: 1, lane: alarm }} }}
lines: [ {{ name: bench, simulated: {{}} }} ]
devices:
{devices}uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:{remote}
    presence: false
    send:
{rules}"
    )
}

#[test]
fn an_alarm_goes_at_once_and_devices_share_a_message_of_lines() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::listen();
    let yaml = yaml_with_alarms(remote.port);
    let _gateway = Gateway::start(folder.path(), &yaml);
    let mut wire = remote.accept(false, &[]);
    let (mut alarms, mut live) = (Vec::new(), Vec::new());
    while live.len() < 3 {
        let publish = wire.publish();
        if publish.qos == 0 {
            live.push(publish.payload);
        } else {
            wire.answer(PUBACK, publish.id, 0);
            alarms.push(publish.payload);
        }
    }
    // Of 40 readings a second 25 fit into a message, which others than alarms wait for. The first
    // message has what waited for the connection.
    assert!(alarms.len() >= 3, "{alarms:?}");
    assert!(
        alarms
            .iter()
            .skip(1)
            .all(|alarm| alarm.lines().count() <= 2),
        "{alarms:?}"
    );
    for payload in live {
        assert!((500..=1_000).contains(&payload.len()), "{payload}");
        for device in ["first", "second"] {
            let begin = format!("{device},site=s7 flow=7 ");
            assert!(
                payload.lines().any(|line| line.starts_with(&begin)),
                "{payload}"
            );
        }
    }
    wait_for(
        "live readings are settled although nobody acknowledges them",
        || {
            let waiting = exported(folder.path(), &[]);
            let live = waiting.iter().filter(|entry| entry["topic"] == "far/0");
            (live.count() < 60).then_some(())
        },
    );
}

#[test]
fn readings_that_wait_for_others_can_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::listen();
    let format = "{ kind: scan, every: 1h }";
    let gateway = Gateway::start(folder.path(), &yaml(remote.port, "1h", format));
    let mut wire = remote.accept(false, &[]);
    gateway.process.wait_for_event("uplink.up", &[]);
    wait_for("readings wait", || {
        (exported(folder.path(), &[]).len() == 10).then_some(())
    });
    let (code, out, error) = run(wellhead()
        .args(["outbox", "purge", "--topic", "far/pump", "--yes"])
        .arg(folder.path().join("gateway.yaml")));
    assert_eq!(code, Some(0), "{out}{error}");
    wait_until_settled(folder.path());
    let mut gateway = gateway;
    gateway.process.signal(rustix::process::Signal::TERM);
    // Nothing is left to be sent at the stop.
    while let Some(packet) = wire.read_within(std::time::Duration::from_secs(10)) {
        assert_ne!(packet.kind(), 3, "{packet:?}");
        if packet.kind() == 14 {
            break;
        }
    }
    assert!(gateway.process.wait().success());
}
