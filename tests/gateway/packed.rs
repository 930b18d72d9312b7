//! Packed frames over the whole way: the gateway, mosquitto, and `wellhead expand` at the far side.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::support::{Gateway, Mosquitto, NOBODY, Process, mosquitto_sub, run, wait_for, wellhead};

/// The first byte of a packed frame, in hexadecimal, and that of columns that zlib has compressed.
const PACKED: &str = "01";
const COLUMNS: &str = "78";

fn yaml(remote: u16, every: &str, decimals: u8) -> String {
    let point = |number| {
        format!(
            "      p{number}: {{ every: {every}, decimals: {decimals}, simulate: {{ shape: sine, from: 0, to: 100, period: 7s }} }}\n"
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
    presence: false
    send: [ {{ filter: 's7/pump/+', where: known(q), to: far/frames, qos: 1, format: {{ kind: pack, every: 500ms }} }} ]
"
    )
}

/// `wellhead expand` that keeps its session and what it has seen.
fn expand(folder: &Path, remote: u16) -> Process {
    let mut command = wellhead();
    command
        .args(["expand", "far/+", "--session", "expander", "--state"])
        .arg(folder.join("seen"))
        .args(["--to", &format!("mqtt://127.0.0.1:{remote}")]);
    Process::start(&mut command, &folder.join("expanded"))
}

/// The readings that were printed.
fn expanded(process: &Process) -> Vec<Value> {
    let output = process.output();
    let whole = output.rfind('\n').map_or("", |end| &output[..end]);
    let reading = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    whole.lines().map(reading).collect()
}

/// The numbers of readings, each of which came once.
fn numbers(readings: &[Value]) -> BTreeSet<u64> {
    let mut seen = BTreeSet::new();
    for reading in readings {
        let number = reading["number"].as_u64().unwrap();
        let is_new = seen.insert((reading["series"].as_u64(), number));
        assert!(is_new, "twice: {reading}");
        assert_eq!(reading["q"], "good");
    }
    seen.into_iter().map(|(_, number)| number).collect()
}

/// The numbers of the readings in the outbox.
fn waiting(folder: &Path) -> BTreeSet<u64> {
    let file = folder.join("gateway.yaml");
    let (code, out, error) = run(wellhead().args(["outbox", "export"]).arg(file));
    assert_eq!(code, Some(0), "{error}");
    let number = |line: &str| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64();
    out.lines().map(|line| number(line).unwrap()).collect()
}

#[test]
fn readings_come_once_over_kills_and_another_schema_in_a_backlog() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let expander = expand(folder.path(), remote.port);
    let mut gateway = Gateway::start(folder.path(), &yaml(remote.port, "20ms", 1));
    wait_for("frames arrive", || {
        (expanded(&expander).len() > 500).then_some(())
    });
    for _ in 0..3 {
        gateway = gateway.kill_and_restart();
        let before = expanded(&expander).len();
        wait_for("more frames arrive", || {
            (expanded(&expander).len() > before + 300).then_some(())
        });
    }
    // A backlog, whose values have more digits than the schema knows.
    gateway.process.kill_9();
    fs::write(folder.path().join("gateway.yaml"), yaml(NOBODY, "20ms", 3)).unwrap();
    gateway = Gateway::restart(folder.path());
    wait_for("readings wait", || {
        (waiting(folder.path()).len() > 3000).then_some(())
    });
    gateway.process.kill_9();
    let backlog = waiting(folder.path());
    fs::write(
        folder.path().join("gateway.yaml"),
        yaml(remote.port, "1h", 3),
    )
    .unwrap();
    gateway = Gateway::restart(folder.path());
    for _ in 0..3 {
        gateway = gateway.kill_and_restart();
    }
    wait_for("everything is sent", || {
        waiting(folder.path()).is_empty().then_some(())
    });
    let all = wait_for("everything is expanded", || {
        let all = expanded(&expander);
        backlog.is_subset(&numbers(&all)).then_some(all)
    });
    let is_long = |own: &Value| own["v"].to_string().len() > 5;
    assert!(all.iter().filter(|own| is_long(own)).count() > 1000);
    drop(gateway);
}

#[test]
fn a_schema_is_retained_before_the_first_frame_that_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let arguments = ["-d", "-q", "1", "-t", "far/#", "-F", "got %t %r %x", "-p"];
    let mut command = mosquitto_sub();
    command.args(arguments).arg(remote.port.to_string());
    let reader = Process::start(&mut command, &folder.path().join("reader"));
    reader.wait_for_output("Subscribed");
    let gateway = Gateway::start(folder.path(), &yaml(remote.port, "50ms", 1));
    reader.wait_for_output(&format!("got far/frames 0 {PACKED}"));
    let output = reader.output();
    let messages: Vec<&str> = output
        .lines()
        .filter(|line| line.starts_with("got "))
        .collect();
    let position = |start: &str| messages.iter().position(|line| line.starts_with(start));
    let schema = position("got far/frames/meta/").unwrap();
    let frame = position(&format!("got far/frames 0 {PACKED}")).unwrap();
    assert!(schema < frame, "{output}");
    let before = messages[..frame]
        .iter()
        .filter(|line| line.starts_with("got far/frames "));
    for message in before {
        assert!(
            message.starts_with(&format!("got far/frames 0 {COLUMNS}")),
            "{message}"
        );
    }
    drop(gateway);
    // A receiver that comes later.
    let (_, retained, _) = run(mosquitto_sub().args([
        "-p",
        &remote.port.to_string(),
        "-t",
        "far/frames/meta/+",
        "-C",
        "1",
        "-W",
        "10",
    ]));
    let schema: Value = serde_json::from_str(&retained).unwrap();
    assert_eq!(schema["base"], "s7/pump/");
    assert_eq!(schema["types"][0], "decimal");
}

#[test]
fn where_the_remote_takes_no_schema_readings_come_in_columns() {
    let folder = tempfile::tempdir().unwrap();
    let rights = folder.path().join("rights");
    fs::write(&rights, "topic write far/frames\ntopic read far/#\n").unwrap();
    let remote = Mosquitto::start(folder.path(), &format!("acl_file {}\n", rights.display()));
    let expander = expand(folder.path(), remote.port);
    let gateway = Gateway::start(folder.path(), &yaml(remote.port, "20ms", 1));
    gateway
        .process
        .wait_for_event("uplink.schema_refused", &["far/frames/meta/+"]);
    wait_for("readings arrive", || {
        (expanded(&expander).len() > 1000).then_some(())
    });
    drop(gateway);
    let all = expanded(&expander);
    assert!(all.len() > 1000 && !numbers(&all).is_empty());
}

#[test]
fn a_remote_that_has_lost_everything_gets_the_schema_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut remote = Mosquitto::start(folder.path(), "");
    let gateway = Gateway::start(folder.path(), &yaml(remote.port, "50ms", 1));
    let retained = |remote: &Mosquitto| {
        let port = remote.port.to_string();
        let (code, _, _) = run(mosquitto_sub().args([
            "-p",
            &port,
            "-t",
            "far/frames/meta/+",
            "-C",
            "1",
            "-W",
            "1",
        ]));
        (code == Some(0)).then_some(())
    };
    wait_for("the schema is retained", || retained(&remote));
    remote.stop();
    remote.forget();
    assert!(retained(&remote).is_none());
    remote.resume();
    wait_for("the schema is retained again", || retained(&remote));
    drop(gateway);
}

#[test]
fn readings_are_published_on_plain_topics_again() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let mut command = wellhead();
    let command = command.args(["expand", "far/+", "--publish", "plain/", "--to"]);
    let address = format!("mqtt://127.0.0.1:{}", remote.port);
    let _expander = Process::start(command.arg(address), &folder.path().join("expander"));
    let gateway = Gateway::start(folder.path(), &yaml(remote.port, "50ms", 1));
    let port = remote.port.to_string();
    let topic = "plain/s7/pump/p3";
    let (code, out, _) =
        run(mosquitto_sub().args(["-p", &port, "-t", topic, "-C", "20", "-W", "60"]));
    assert_eq!(code, Some(0));
    let times: Vec<String> = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["t"].to_string())
        .collect();
    assert!(times.is_sorted() && times.len() == 20, "{out}");
    drop(gateway);
    // The newest one is retained.
    let (_, retained, _) = run(mosquitto_sub().args([
        "-p", &port, "-t", topic, "-C", "1", "-W", "10", "-F", "%r %p",
    ]));
    assert!(retained.starts_with("1 {\"v\":"), "{retained}");
}
