//! The main promise against a remote we did not write: an outage and a kill -9 in between lose
//! nothing.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::support::{
    Gateway, Link, Mosquitto, Process, free_port, peer, python, subscriber, wait_for,
};

/// What the subscriber got: sequence number, topic, payload.
fn arrivals(subscriber: &Process) -> Vec<(u64, String, String)> {
    let text = subscriber.output();
    let lines = text.lines().filter(|line| line.starts_with("seq:"));
    lines
        .filter_map(|line| {
            let mut words = line.splitn(3, ' ');
            // seq:<series>:<number>
            let number = words.next()?.rsplit(':').next()?.parse().ok()?;
            Some((number, words.next()?.to_owned(), words.next()?.to_owned()))
        })
        .collect()
}

/// Waits until the subscriber has printed all that the remote has taken so far.
fn wait_for_the_last(subscriber: &Process, remote: u16) {
    let sent = Command::new("mosquitto_pub")
        .args(["-p", &remote.to_string(), "-q", "1", "-t", "far/marker"])
        .args(["-m", "last"])
        .status();
    assert!(sent.unwrap().success());
    wait_for("the marker arrives", || {
        subscriber
            .output()
            .contains("far/marker last")
            .then_some(())
    });
}

/// Every number from 1 on is there, and each came for the first time after the one before it; at
/// every kill some are skipped. Returns how many different ones there are.
fn check_sequence(arrivals: &[(u64, String, String)], kills: usize) -> usize {
    let mut firsts: Vec<u64> = Vec::new();
    for (number, _, _) in arrivals {
        if !firsts.contains(number) {
            assert!(
                firsts.last().is_none_or(|last| number > last),
                "number {number} came too late"
            );
            firsts.push(*number);
        }
    }
    let skips: Vec<_> = firsts
        .windows(2)
        .filter(|pair| pair[1] != pair[0] + 1)
        .collect();
    assert!(firsts[0] == 1 && skips.len() <= kills, "{skips:?}");
    firsts.len()
}

/// Publishes numbers at QoS 1 and returns those that were acknowledged. Ends when `mosquitto_pub`
/// loses the gateway.
fn publish_numbers(port: u16, from: u64, count: u64) -> u64 {
    let mut acknowledged = from;
    for number in from..from + count {
        let status = Command::new("timeout")
            .args([
                "10",
                "mosquitto_pub",
                "-p",
                &port.to_string(),
                "-q",
                "1",
                "-t",
                "local/number",
                "-m",
                &number.to_string(),
            ])
            .stderr(Stdio::null())
            .status()
            .unwrap();
        if !status.success() {
            break;
        }
        acknowledged = number + 1;
    }
    acknowledged
}

fn yaml(modbus: u16, remote: u16) -> String {
    format!(
        "site: x
lines: [ {{ name: tcp, modbus_tcp: '127.0.0.1:{modbus}', answer_within: 2s }} ]
devices:
  - {{ name: meter, line: tcp, unit: 1, points: {{ counter: {{ at: 40001, type: u32, every: 20ms }}, fixed: {{ holding: 10, type: u16, every: 100ms, deadband: 0 }} }} }}
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:{remote}
    retry: {{ first: 100ms, longest: 500ms }}
    catch_up: {{ order: oldest-first }}
    send: [ {{ filter: '#', prefix: far/ }} ]
"
    )
}

fn start_server(folder: &Path, port: u16) -> Process {
    let server = Process::start(
        python()
            .arg("-u")
            .arg(peer("modbus_server.py"))
            .arg(port.to_string()),
        &folder.join("server.log"),
    );
    server.wait_for_output("ready");
    server
}

#[test]
fn every_message_reaches_mosquitto_over_an_outage_and_a_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let modbus = free_port();
    let _server = start_server(folder.path(), modbus);
    let mut remote = Mosquitto::start(folder.path(), "");
    let subscriber = subscriber(folder.path(), remote.port, "far/#");
    let link = Link::to(remote.port);
    let mut gateway = Gateway::start(folder.path(), &yaml(modbus, link.port));
    wait_for("the first readings arrive", || {
        (arrivals(&subscriber).len() > 20).then_some(())
    });
    let mut acknowledged = publish_numbers(gateway.port(), 0, 10);

    link.cut();
    gateway.process.wait_for_event("uplink.down", &[]);
    acknowledged = publish_numbers(gateway.port(), acknowledged, 20);
    gateway = gateway.kill_and_restart();
    acknowledged = publish_numbers(gateway.port(), acknowledged, 20);
    remote.stop();
    link.restore();
    acknowledged = publish_numbers(gateway.port(), acknowledged, 10);
    gateway = gateway.kill_and_restart();
    remote.resume();
    acknowledged = publish_numbers(gateway.port(), acknowledged, 10);
    assert_eq!(acknowledged, 70, "local life goes on without a link");

    let wanted: BTreeSet<String> = (0..acknowledged).map(|number| number.to_string()).collect();
    wait_for("every acknowledged number arrives", || {
        let got: BTreeSet<String> = arrivals(&subscriber)
            .into_iter()
            .filter(|(_, topic, _)| topic == "far/local/number")
            .map(|(_, _, payload)| payload)
            .collect();
        wanted.is_subset(&got).then_some(())
    });
    assert!(gateway.process.terminate().success());
    wait_for_the_last(&subscriber, remote.port);
    let arrivals = arrivals(&subscriber);
    let count = check_sequence(&arrivals, 2);
    assert!(count > 200, "{count} messages");
    // pymodbus counts the reads: they come in order too.
    let mut newest = 0;
    for (number, _, payload) in arrivals
        .iter()
        .filter(|(_, topic, _)| topic == "far/x/meter/counter")
    {
        let value: u64 = payload
            .trim_start_matches("{\"v\":")
            .split(',')
            .next()
            .unwrap()
            .parse()
            .unwrap_or(newest);
        assert!(
            value >= newest
                || arrivals
                    .iter()
                    .filter(|(other, _, _)| other == number)
                    .count()
                    > 1,
            "{value} after {newest}"
        );
        newest = newest.max(value);
    }
}

#[test]
fn a_remote_that_hangs_without_closing_is_noticed_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let modbus = free_port();
    let _server = start_server(folder.path(), modbus);
    let remote = Mosquitto::start(folder.path(), "");
    let subscriber = subscriber(folder.path(), remote.port, "far/#");
    let yaml = yaml(modbus, remote.port).replace("    retry:", "    keep_alive: 5s\n    retry:");
    let mut gateway = Gateway::start(folder.path(), &yaml);
    wait_for("the first readings arrive", || {
        (arrivals(&subscriber).len() > 20).then_some(())
    });
    remote.signal(rustix::process::Signal::STOP);
    gateway.process.wait_for_event("uplink.down", &["silent"]);
    remote.signal(rustix::process::Signal::CONT);
    let before = arrivals(&subscriber).len();
    wait_for("it goes on", || {
        (arrivals(&subscriber).len() > before + 100).then_some(())
    });
    assert!(gateway.process.terminate().success());
    wait_for_the_last(&subscriber, remote.port);
    check_sequence(&arrivals(&subscriber), 0);
}

#[test]
fn what_waits_is_sent_while_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let subscriber = subscriber(folder.path(), remote.port, "far/#");
    let yaml = format!(
        "site: x
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
uplinks: [ {{ name: cloud, to: 'mqtt://127.0.0.1:{}', send: [ {{ filter: '#', prefix: far/ }} ] }} ]
",
        remote.port
    );
    let mut gateway = Gateway::start(folder.path(), &yaml);
    let local = gateway.port();
    let mut publisher = Command::new("mosquitto_pub")
        .args(["-p", &local.to_string(), "-q", "1", "-t", "n", "-l"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = publisher.stdin.take().unwrap();
    for number in 0..2000 {
        writeln!(input, "{number}").unwrap();
    }
    drop(input);
    assert!(publisher.wait().unwrap().success());
    assert!(gateway.process.terminate().success());
    wait_for("all 2000 are at the remote", || {
        (arrivals(&subscriber).len() >= 2000).then_some(())
    });
    assert_eq!(check_sequence(&arrivals(&subscriber), 0), 2000);
}
