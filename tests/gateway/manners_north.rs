//! Limits and names of an uplink: rates, how long a session is kept, the name in a certificate,
//! headers of a WebSocket.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::process::Command;

use super::remote::Remote;
use super::support::{Gateway, Mosquitto, PATIENCE, Pem, gateway_with_uplink, run, wait_for};

/// A gateway whose uplink goes to `to`, with these keys.
fn site(to: &str, uplink: &str) -> (Gateway, u16, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let keys = format!(
        "    to: {to}\n    presence: false\n    retry: {{ first: 50ms, longest: 200ms }}\n    {uplink}"
    );
    let gateway = gateway_with_uplink(folder.path(), "seven", &keys);
    let port = gateway.port();
    (gateway, port, folder)
}

fn publish(port: u16, arguments: &[&str]) {
    let (code, _, error) = run(Command::new("mosquitto_pub")
        .args(["-p", &port.to_string()])
        .args(arguments));
    assert_eq!(code, Some(0), "{arguments:?}: {error}");
}

#[test]
fn messages_of_a_rule_wait_for_its_rate_and_others_overtake_them_and_qos_0_is_dropped_and_counted()
{
    let remote = Remote::listen();
    let (gateway, port, folder) = site(
        &format!("mqtt://127.0.0.1:{}", remote.port),
        "send: [ { filter: 'slow/#', rate: [ 5/s, 1MB/s ] }, { filter: '#' } ]",
    );
    for number in 1..=8 {
        publish(
            port,
            &["-q", "1", "-t", "slow/x", "-m", &number.to_string()],
        );
    }
    publish(port, &["-q", "1", "-t", "fast/x", "-m", "fast"]);
    // Everything waits until here.
    let mut wire = remote.accept(false, &[]);
    let mut got = Vec::new();
    while got.len() < 9 {
        let publish = wire.publish();
        wire.answer(0x40, publish.id, 0);
        got.push(publish.payload);
    }
    let place = |payload: &str| got.iter().position(|other| other == payload).unwrap();
    assert!(place("fast") < place("6"), "{got:?}");
    got.retain(|payload| payload != "fast");
    assert_eq!(
        got,
        (1..=8).map(|number| number.to_string()).collect::<Vec<_>>()
    );
    let lines = folder.path().join("lines");
    fs::write(&lines, "x\n".repeat(100)).unwrap();
    assert_eq!(
        run(Command::new("sh").args([
            "-c",
            &format!(
                "mosquitto_pub -p {port} -q 0 -t slow/x -l < {}",
                lines.display()
            )
        ]))
        .0,
        Some(0)
    );
    gateway.process.wait_for_event("outbox.rate_exceeded", &[]);
    let told = || {
        run(Command::new("mosquitto_sub").args([
            "-p",
            &port.to_string(),
            "-t",
            "$SYS/wellhead/uplink/cloud",
            "-C",
            "1",
            "-W",
            "10",
        ]))
        .1
    };
    let dropped = wait_for("the dropped messages in the status", || {
        let status: serde_json::Value = serde_json::from_str(&told()).ok()?;
        status["rate_dropped"].as_u64().filter(|count| *count > 0)
    });
    assert!(dropped <= 95, "a second passes at once: {dropped}");
}

/// The rest of an uplink with a rate, QoS 2 and a class of alarms.
const SLOW: &str = "rate: 4/s\n    send: [ { filter: 'alarm/#', class: urgent }, { filter: '#' } ]\nclasses: { urgent: { lane: alarm, qos: 2 } }";

#[test]
fn an_alarm_overtakes_messages_that_wait_for_the_rate_of_the_uplink() {
    let remote = Remote::listen();
    let (_gateway, port, _folder) = site(&format!("mqtt://127.0.0.1:{}", remote.port), SLOW);
    for number in 1..=20 {
        publish(port, &["-q", "2", "-t", "x", "-m", &number.to_string()]);
    }
    let mut wire = remote.accept(false, &[]);
    let mut got = vec![wire.publish().payload];
    publish(port, &["-q", "2", "-t", "alarm/x", "-m", "alarm"]);
    while got.last().is_some_and(|last| last != "alarm") {
        got.push(wire.publish().payload);
    }
    assert!(got.len() < 10, "{got:?}");
}

#[test]
fn a_pubrel_does_not_wait_for_the_rate_of_the_uplink() {
    let remote = Remote::listen();
    let (_gateway, port, _folder) = site(
        &format!("mqtt://127.0.0.1:{}", remote.port),
        "rate: 1/h\n    send: [ { filter: '#' } ]",
    );
    publish(port, &["-q", "2", "-t", "x", "-m", "1"]);
    let mut wire = remote.accept(false, &[]);
    let first = wire.publish();
    wire.answer(0x50, first.id, 0);
    let release = wire.read();
    assert_eq!(
        (release.kind(), &release.body[..2]),
        (6, &first.id.to_be_bytes()[..])
    );
    publish(port, &["-q", "2", "-t", "x", "-m", "2"]);
    wire.close();
    // On a session that goes on it is the first packet, and another message is far from its turn.
    let mut wire = remote.accept(true, &[]);
    assert_eq!(wire.read(), release);
    wire.answer(0x70, first.id, 0);
}

#[test]
fn the_remote_is_told_how_long_to_keep_the_session() {
    let remote = Remote::listen();
    let (_gateway, _port, _folder) = site(
        &format!("mqtt://127.0.0.1:{}", remote.port),
        "max_session_expiry: 1h\n    send: []",
    );
    let connect = loop {
        let (mut wire, connect) = remote.connect();
        if connect.body[7] & 2 == 0 {
            break connect;
        }
        // It ends an older session.
        wire.write(&[0x20, 3, 0, 0, 0]);
        wire.close();
    };
    assert!(
        connect
            .body
            .windows(5)
            .any(|window| window == [0x11, 0, 0, 0x0E, 0x10]),
        "{connect:?}"
    );
}

#[test]
fn the_certificate_is_checked_for_the_server_name_where_the_remote_is_an_address() {
    let folder = tempfile::tempdir().unwrap();
    let pem = Pem::make(folder.path());
    let remote = Mosquitto::start_with(folder.path(), &pem.listener(), "");
    let to = format!("mqtts://127.0.0.1:{}", remote.port);
    let (gateway, _port, _folder) = site(
        &to,
        &format!("{}\n    server_name: localhost\n    send: []", pem.yaml()),
    );
    gateway.process.wait_for_event("uplink.up", &[]);
    let (gateway, _port, _other_folder) = site(
        &to,
        &format!(
            "{}\n    server_name: other.example.net\n    client_id: other\n    send: []",
            pem.yaml()
        ),
    );
    gateway.process.wait_for_event("uplink.down", &[]);
    assert!(gateway.process.events("uplink.up", &[]).is_empty());
}

#[test]
fn a_web_socket_is_opened_with_the_headers_of_the_file() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (_gateway, _port, _folder) = site(
        &format!("ws://127.0.0.1:{port}/mqtt"),
        "headers: { X-Site: '7', Authorization: Bearer hunter2 }\n    send: []",
    );
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1);
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap().to_lowercase();
    assert!(
        request.contains("x-site: 7\r\n") && request.contains("authorization: bearer hunter2\r\n"),
        "{request}"
    );
}
