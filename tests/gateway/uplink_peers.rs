//! The uplink against mosquitto: both protocol versions, TLS with client certificates, small
//! windows, what comes in.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::{
    Gateway, Mosquitto, Pem, Process, free_port, mosquitto_sub, run, subscriber, wait_for,
};

fn publish(port: u16, arguments: &[&str]) {
    let (code, _, error) = run(Command::new("mosquitto_pub")
        .args(["-p", &port.to_string()])
        .args(arguments));
    assert_eq!(code, Some(0), "{arguments:?}: {error}");
}

fn gateway(folder: &Path, remote: &str, extra: &str) -> Gateway {
    let yaml = format!(
        "site: x
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
classes: {{ cheap: {{ qos: 0 }} }}
uplinks:
  - name: cloud
    to: {remote}
    retry: {{ first: 100ms, longest: 500ms }}
    send:
      - {{ filter: 'cheap/#', prefix: far/, class: cheap }}
      - {{ filter: '+/up', prefix: far/ }}
      - {{ filter: 'cmd/#', prefix: far/ }}
    receive: [ {{ filter: 'cmd/#', qos: 2 }} ]
    {extra}
"
    );
    let gateway = Gateway::start(folder, &yaml);
    gateway.process.wait_for_event("uplink.up", &[]);
    gateway
}

#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn messages_both_ways(folder: &Path, local: u16, remote_port: u16) {
    let reader = {
        let mut command = mosquitto_sub();
        command.args([
            "-d",
            "-p",
            &remote_port.to_string(),
            "-t",
            "far/#",
            "-q",
            "2",
            "-F",
            "got %t %p q%q",
        ]);
        Process::start(&mut command, &folder.join("reader"))
    };
    reader.wait_for_output("Subscribed");
    for qos in ["0", "1", "2"] {
        publish(local, &["-q", qos, "-t", "a/up", "-m", qos]);
    }
    // mosquitto hands QoS 2 on when it is released; what comes later must not overtake it.
    wait_for("three messages at the remote", || {
        (reader.output().matches("got ").count() >= 3).then_some(())
    });
    publish(local, &["-q", "1", "-t", "cheap/x", "-m", "c"]);
    publish(local, &["-q", "1", "-t", "a/down", "-m", "not for there"]);
    wait_for("four messages at the remote", || {
        (reader.output().matches("got ").count() >= 4).then_some(())
    });
    let got: Vec<String> = reader
        .output()
        .lines()
        .filter(|line| line.starts_with("got "))
        .map(str::to_owned)
        .collect();
    assert_eq!(
        got,
        [
            "got far/a/up 0 q0",
            "got far/a/up 1 q1",
            "got far/a/up 2 q2",
            "got far/cheap/x c q0"
        ]
    );

    let mut command = mosquitto_sub();
    command.args([
        "-d",
        "-p",
        &local.to_string(),
        "-t",
        "cmd/#",
        "-q",
        "2",
        "-C",
        "3",
        "-F",
        "got %t %p q%q",
    ]);
    let mut local_reader = Process::start(&mut command, &folder.join("local-reader"));
    local_reader.wait_for_output("Subscribed");
    publish(remote_port, &["-q", "1", "-t", "cmd/x/open", "-m", "1"]);
    publish(remote_port, &["-q", "0", "-t", "cmd/x/open", "-m", "2"]);
    publish(remote_port, &["-q", "2", "-t", "cmd/x/open", "-m", "3"]);
    assert!(local_reader.wait().success());
    let got: Vec<String> = local_reader
        .output()
        .lines()
        .filter(|line| line.starts_with("got "))
        .map(str::to_owned)
        .collect();
    assert_eq!(
        got,
        [
            "got cmd/x/open 1 q1",
            "got cmd/x/open 2 q0",
            "got cmd/x/open 3 q2"
        ]
    );
    // `cmd/#` is sent too: what came from the remote must not go back to it.
    publish(local, &["-q", "1", "-t", "a/up", "-m", "last"]);
    wait_for("the last message", || {
        reader.output().contains("last").then_some(())
    });
    assert!(!reader.output().contains("far/cmd"), "{}", reader.output());
}

#[test]
fn both_protocol_versions_carry_messages_both_ways_and_nothing_goes_in_circles() {
    for protocol in ["5", "3.1.1"] {
        let folder = tempfile::tempdir().unwrap();
        let remote = Mosquitto::start(folder.path(), "");
        let gateway = gateway(
            folder.path(),
            &format!("mqtt://127.0.0.1:{}", remote.port),
            &format!("protocol: {protocol}"),
        );
        let local = gateway.port();
        messages_both_ways(folder.path(), local, remote.port);
    }
}

#[test]
fn tls_with_client_certificates_carries_messages_and_a_foreign_authority_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pem = Pem::make(folder.path());
    let plain = free_port();
    let remote = Mosquitto::start_with(
        folder.path(),
        &pem.listener(),
        &format!("listener {plain} 127.0.0.1\nallow_anonymous true\n"),
    );
    for protocol in ["5", "3.1.1"] {
        let place = folder.path().join(protocol);
        fs::create_dir(&place).unwrap();
        let extra = format!("protocol: {protocol}\n    {}", pem.yaml());
        let gateway = gateway(
            &place,
            &format!("mqtts://127.0.0.1:{}", remote.port),
            &extra,
        );
        let local = gateway.port();
        messages_both_ways(&place, local, plain);
    }
    let place = folder.path().join("foreign");
    fs::create_dir(&place).unwrap();
    let foreign = Pem::make(&place);
    let yaml = format!(
        "site: x\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\noutbox: {{ folder: state }}\nuplinks: [ {{ name: cloud, to: 'mqtts://127.0.0.1:{}', ca: {}, send: [ {{ filter: '#' }} ] }} ]\n",
        remote.port,
        foreign.path("ca.pem")
    );
    let gateway = Gateway::start(&place, &yaml);
    gateway
        .process
        .wait_for_event("uplink.down", &["TLS failed"]);
}

#[test]
fn a_small_receive_maximum_and_packet_size_are_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(
        folder.path(),
        "max_inflight_messages 3\nmax_packet_size 2000\n",
    );
    let reader = subscriber(folder.path(), remote.port, "far/#");
    let gateway = gateway(
        folder.path(),
        &format!("mqtt://127.0.0.1:{}", remote.port),
        "",
    );
    let local = gateway.port();
    publish(local, &["-q", "1", "-t", "a/up", "-m", &"x".repeat(5000)]);
    let numbers: String = (0..500).map(|number| format!("{number}\n")).collect();
    let file = folder.path().join("numbers");
    fs::write(&file, numbers).unwrap();
    let (code, _, error) = run(Command::new("sh").args([
        "-c",
        &format!(
            "mosquitto_pub -p {local} -q 1 -t a/up -l < {}",
            file.display()
        ),
    ]));
    assert_eq!(code, Some(0), "{error}");
    wait_for("the last number arrives", || {
        reader.output().contains(" 499\n").then_some(())
    });
    let got: Vec<String> = reader
        .output()
        .lines()
        .filter_map(|line| Some(line.split(' ').nth(2)?.to_owned()))
        .collect();
    let expected: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    assert_eq!(got, expected);
    let count = |event: &str| gateway.process.events(event, &[]).len();
    assert_eq!(
        (count("uplink.message_refused"), count("uplink.up")),
        (1, 1),
        "{}",
        gateway.process.output()
    );
}
