//! What the log says of clients, on the real program: who came, who was refused, who left; and that
//! nobody can flood or forge it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use wellhead::mqtt::{ConnAck, Connect, Disconnect, Packet, Properties, QoS, ReasonCode, Version};

use super::logins::user;
use super::remote::Remote;
use super::support::client::{Client, bytes_of, hello, message};
use super::support::{Gateway, Process, run, wait_for, wellhead};

/// A client of MQTT 5; the reason in the CONNACK.
fn connect(port: u16, client_id: &str, user: Option<(&str, &str)>) -> (Client, ReasonCode) {
    let hello = Connect {
        username: user.map(|(name, _)| name.into()),
        password: user.map(|(_, password)| password.to_owned().into()),
        ..hello(Version::V5, client_id)
    };
    let (client, answer) = Client::connect(port, hello).unwrap();
    (client, answer.reason)
}

fn publish(client: &mut Client, topic: &str, payload: impl Into<Bytes>) {
    client.publish(message(topic, QoS::AtMostOnce, payload));
}

fn gateway(folder: &Path, more: &str) -> (Gateway, u16) {
    let rules = "      read: [ 'plant/#' ]\n      write: [ 'plant/#' ]\n";
    let yaml = format!(
        "broker:\n  listen: [ 'mqtt://127.0.0.1:0' ]\n  max_packet: 2kB\n  allow_anonymous: true\n{more}  users:\n{}{rules}",
        user("anna")
    );
    let gateway = Gateway::start(folder, &yaml);
    let port = gateway.port();
    (gateway, port)
}

#[test]
fn who_comes_is_refused_and_leaves_is_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, port) = gateway(folder.path(), "");
    let from = "address=127.0.0.1";
    let (_, reason) = connect(port, "hmi-1", Some(("anna", "wrong")));
    assert_eq!(reason, ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    gateway.process.wait_for_event(
        "broker.login_failed",
        &[from, "user=anna", "client_id=hmi-1", "0x86"],
    );

    let (mut anna, _) = connect(port, "hmi-2", Some(("anna", "secret")));
    gateway.process.wait_for_event(
        "broker.client_connected",
        &[from, "user=anna", "client_id=hmi-2"],
    );
    publish(&mut anna, "secret/door", Bytes::from_static(b"open"));
    gateway.process.wait_for_event(
        "broker.message_refused",
        &[
            from,
            "user=anna",
            "client_id=hmi-2",
            "topic=secret/door",
            "permission",
        ],
    );
    assert_eq!(
        anna.subscribe(&["secret/#"], QoS::AtMostOnce),
        [ReasonCode::NOT_AUTHORIZED]
    );
    gateway.process.wait_for_event(
        "broker.subscribe_refused",
        &["user=anna", "client_id=hmi-2", "topic=secret/#", "0x87"],
    );
    publish(&mut anna, "plant/a", Bytes::from(vec![0; 4000]));
    gateway.process.wait_for_event(
        "broker.client_dropped",
        &[from, "user=anna", "client_id=hmi-2", "0x95"],
    );

    let (mut one, _) = connect(port, "hmi-3", None);
    one.send(&Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS)));
    gateway
        .process
        .wait_for_event("broker.client_disconnected", &[from, "client_id=hmi-3"]);
    let (two, _) = connect(port, "hmi-4", None);
    drop(two);
    gateway
        .process
        .wait_for_event("broker.client_disconnected", &["client_id=hmi-4", "lost"]);
    let (_three, _) = connect(port, "hmi-5", None);
    let (_four, _) = connect(port, "hmi-5", None);
    gateway
        .process
        .wait_for_event("broker.client_dropped", &["client_id=hmi-5", "0x8e"]);
    let mut browser = Client::dial(port).unwrap();
    browser.send_bytes(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    gateway
        .process
        .wait_for_event("broker.client_refused", &[from]);
}

#[test]
fn a_flood_of_refusals_is_cut_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, port) = gateway(folder.path(), "");
    let (mut anna, _) = connect(port, "hmi", Some(("anna", "secret")));
    for _ in 0..3000 {
        publish(&mut anna, "secret/door", Bytes::new());
    }
    anna.ping();
    wait_until_counted(&gateway, "broker.message_refused", 3000);
}

/// How many lines of an event there are, and how many more are told as left out.
fn counted(output: &str, event: &str) -> (usize, u64) {
    let suppressed = |line: &str| {
        line.split(" suppressed=")
            .nth(1)
            .and_then(|rest| rest.split(' ').next()?.trim().parse::<u64>().ok())
            .unwrap_or(0)
    };
    let of_these = |line: &&str| {
        line.contains(&format!("event={event} ")) || line.contains(&format!("of={event} "))
    };
    let written = output
        .lines()
        .filter(|line| line.contains(&format!("event={event} ")))
        .count();
    (
        written,
        output.lines().filter(of_these).map(suppressed).sum(),
    )
}

/// Waits until that many are written or told as left out; few of them are written.
fn wait_until_counted(gateway: &Gateway, event: &str, all: u64) {
    wait_for(&format!("every {event} is written or counted"), || {
        let (written, left_out) = counted(&gateway.process.output(), event);
        assert!(written < 100, "{written} lines of {event}");
        (written as u64 + left_out == all).then_some(())
    });
}

#[test]
fn client_identifiers_without_end_cause_neither_many_lines_nor_long_ones() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "broker: { listen: [ 'mqtt://127.0.0.1:0' ], connection_rate: 100000, max_connect: 256kB, max_packet: 256kB }\n";
    let gateway = Gateway::start(folder.path(), yaml);
    let port = gateway.port();
    for number in 0..300 {
        let name = "\u{85}\u{e0001}name of a peer ".repeat(2800);
        let (mut client, reason) = connect(port, &format!("{number} {name}"), None);
        assert_eq!(reason, ReasonCode::SUCCESS);
        publish(
            &mut client,
            &format!("$other/{}", "t".repeat(60_000)),
            Bytes::new(),
        );
        client.ping();
    }
    for event in [
        "broker.message_refused",
        "broker.client_connected",
        "broker.client_disconnected",
    ] {
        wait_until_counted(&gateway, event, 300);
    }
    let output = gateway.process.output();
    let longest = output.lines().map(str::len).max().unwrap();
    assert!(longest < 3000, "a line of {longest} bytes");
    assert!(output.contains('…'), "what was cut is shown as cut");
}

#[test]
fn writes_that_are_rejected_flood_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "site: x\nlines: [ { name: bench, simulated: {} } ]\ndevices: [ { name: d, line: bench, points: { p: { holding: 0, type: u16, every: 100ms, write: { max: 5 } } } } ]\n\
         broker: { listen: [ 'mqtt://127.0.0.1:0' ], anonymous: { write: [ '#' ] } }\n";
    let gateway = Gateway::start(folder.path(), yaml);
    let port = gateway.port();
    let (mut client, _) = connect(port, "hmi", None);
    // In blocks, so that no queue is full: this is about lines.
    for _ in 0..12 {
        for _ in 0..100 {
            publish(&mut client, "x/d/p/set", Bytes::from_static(b"1000"));
        }
        client.ping();
    }
    publish(&mut client, "x/d/p/set", Bytes::from("9".repeat(60_000)));
    wait_until_counted(&gateway, "write.failed", 1201);
    assert!(
        gateway
            .process
            .output()
            .lines()
            .all(|line| line.len() < 1500)
    );
}

#[test]
fn a_gateway_out_of_descriptors_writes_one_line_and_serves_again() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, port) = gateway(folder.path(), "");
    let pid = rustix::process::Pid::from_raw(gateway.process.id());
    let limit = |most: u64| {
        let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let new = rustix::process::Rlimit {
            current: Some(most),
            maximum,
        };
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, new).unwrap();
    };
    let open = fs::read_dir(format!("/proc/{}/fd", gateway.process.id()))
        .unwrap()
        .count() as u64;
    limit(open + 2);
    let held: Vec<Client> = (0..20).map(|_| Client::dial(port).unwrap()).collect();
    gateway
        .process
        .wait_for_event("broker.accept_failed", &["LimitNOFILE"]);
    // Long enough for twenty more attempts.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(
        counted(&gateway.process.output(), "broker.accept_failed").0,
        1
    );
    limit(open + 100);
    assert_eq!(connect(port, "hmi", None).1, ReasonCode::SUCCESS);
    drop(held);
}

#[test]
fn texts_of_clients_forge_no_line_and_no_field() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, port) = gateway(folder.path(), "");
    let forged = "x login failed event=broker.login_failed address=192.0.2.66\r\n2026-01-01T00:00:00Z ERROR login failed event=broker.login_failed address=192.0.2.66 \u{1b}[2J\u{202e}";
    let (_, reason) = connect(port, forged, Some((forged, "wrong")));
    assert_eq!(reason, ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    let line = gateway
        .process
        .wait_for_event("broker.login_failed", &["address=127.0.0.1"]);
    assert!(
        !gateway
            .process
            .output()
            .contains(['\u{1b}', '\r', '\u{202e}']),
        "{}",
        gateway.process.output()
    );
    assert!(line.contains("user=\"x login failed"), "{line}");

    // What the shipped filter of fail2ban makes of it, in a file and as the journal hands it over.
    let filter =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/fail2ban.conf"))
            .unwrap();
    let pattern = filter
        .lines()
        .find_map(|line| line.strip_prefix("failregex = "))
        .unwrap();
    let pattern =
        regex::Regex::new(&pattern.replace("<ADDR>", r"(?P<address>[0-9a-fA-F:.]+)")).unwrap();
    let output = gateway.process.output();
    let hosts = |prefix: &str| {
        // Its date is taken off a line first.
        let bare = output.lines().map(|line| {
            format!(
                "{prefix}{}",
                line.split_once('Z').map_or(line, |(_, rest)| rest)
            )
        });
        bare.filter_map(|line| Some(pattern.captures(&line)?["address"].to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(hosts(""), ["127.0.0.1"]);
    assert_eq!(hosts("gateway wellhead[123]: ").len(), 1);
    assert!(pattern.is_match("gateway wellhead[123]: login failed event=broker.login_failed address=2001:db8::7 user=anna"));
    assert!(
        !pattern.is_match(
            " INFO client refused event=broker.client_refused address=192.0.2.1 user=anna"
        )
    );
}

/// No control character, however it is written, but the ends of lines.
fn is_harmless(output: &str) -> bool {
    !output
        .contains(|c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c))
}

#[test]
fn the_reason_of_a_hostile_remote_forges_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::listen();
    let yaml = format!(
        "site: x\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\n\
         uplinks: [ {{ name: cloud, to: 'mqtt://127.0.0.1:{}', retry: {{ first: 50ms, longest: 100ms }}, send: [ {{ filter: '#' }} ] }} ]\n",
        remote.port
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    for number in 0..5 {
        let reason = format!(
            "bye {number}\r\n2026-01-01T00:00:00Z ERROR forged \u{1b}[31m\u{9b}2J\u{202e}{}",
            "z".repeat(3000)
        );
        let mut properties = Properties::default();
        properties.edit().reason_string = Some(reason.into());
        let connack = ConnAck {
            session_present: false,
            reason: ReasonCode::NOT_AUTHORIZED,
            properties,
        };
        let (mut wire, _) = remote.connect();
        wire.write(&bytes_of(&Packet::ConnAck(connack), Version::V5));
    }
    let line = gateway.process.wait_for_event("uplink.down", &["bye"]);
    let output = gateway.process.output();
    assert!(is_harmless(&output), "{output:?}");
    assert!(
        output.lines().all(
            |line| !line.starts_with("2026-01-01T00:00:00Z ERROR forged") && line.len() < 1500
        ),
        "{output}"
    );
    assert!(line.contains("\\u{1b}") && line.contains('…'), "{line}");
}

#[test]
fn topics_and_payloads_move_no_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let (_gateway, port) = gateway(folder.path(), "");
    // A pipe gets payloads as they are; a terminal must not.
    let command = format!(
        "{} sub t/# -n 1 --to mqtt://127.0.0.1:{port}",
        env!("CARGO_BIN_EXE_wellhead")
    );
    let mut terminal = Command::new("script");
    let mut sub = Process::start(
        terminal.args(["-qefc", &command, "/dev/null"]),
        &folder.path().join("sub.log"),
    );
    let (mut client, _) = connect(port, "hmi", None);
    wait_for("it is shown", || {
        publish(
            &mut client,
            "t/\u{1b}[2J\u{202e}x",
            Bytes::from_static(b"\x1b]0;title\x07 \xc2\x9b31m \xff\r\nnext"),
        );
        sub.output().contains("title").then_some(())
    });
    assert!(sub.wait().success());
    let shown = sub.output().replace("\r\n", "\n");
    assert!(is_harmless(&shown), "{shown:?}");
    assert!(
        shown.contains("\\u{1b}[2J\\u{202e}x") && shown.contains("\\xff"),
        "{shown:?}"
    );
}

#[test]
fn an_administrator_ends_a_session_that_keeps_a_client_identifier() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, port) = gateway(folder.path(), "");
    let (mut squatter, reason) = connect(port, "pump", Some(("anna", "secret")));
    assert_eq!(reason, ReasonCode::SUCCESS);
    assert_eq!(
        connect(port, "pump", None).1,
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID
    );
    let end = || {
        run(wellhead()
            .args(["sessions", "end", "pump", "--file"])
            .arg(folder.path().join("gateway.yaml"))
            .current_dir(folder.path()))
    };
    let (code, out, error) = end();
    assert_eq!((code, out.as_str(), error.as_str()), (Some(0), "", ""));
    assert!(
        matches!(squatter.read_packet(), Some(Packet::Disconnect(end)) if end.reason == ReasonCode::ADMINISTRATIVE_ACTION)
    );
    gateway
        .process
        .wait_for_event("broker.session_ended", &["user=anna", "client_id=pump"]);
    let (code, _, error) = end();
    assert!(code == Some(1) && error.contains("pump"), "{error}");
    assert_eq!(connect(port, "pump", None).1, ReasonCode::SUCCESS);
}

#[test]
fn a_client_identifier_goes_to_the_user_whose_rule_names_it_even_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = |rule: &str| {
        let (anna, berta) = (user("anna"), user("berta"));
        format!(
            "broker:\n  listen: [ 'mqtt://127.0.0.1:0' ]\n  users:\n{anna}{rule}{berta}outbox: {{ folder: data }}\n"
        )
    };
    let gateway = Gateway::start(folder.path(), &yaml(""));
    let kept = |gateway: &Gateway, name: &str| {
        let hello = Connect {
            clean_start: false,
            username: Some(name.into()),
            password: Some("secret".into()),
            ..hello(Version::V311, "hmi-anna-1")
        };
        let (_, answer) = Client::connect(gateway.port(), hello).unwrap();
        (answer.session_present, answer.reason)
    };
    const FREE: ReasonCode = ReasonCode::SUCCESS;
    const TAKEN: ReasonCode = ReasonCode::CLIENT_IDENTIFIER_NOT_VALID;
    assert_eq!(kept(&gateway, "berta"), (false, FREE));
    assert_eq!(kept(&gateway, "anna"), (false, TAKEN));
    // The session has its user again after a kill -9.
    let mut gateway = gateway.kill_and_restart();
    assert_eq!(kept(&gateway, "anna"), (false, TAKEN));
    assert_eq!(kept(&gateway, "berta"), (true, FREE));
    gateway.process.terminate();
    drop(gateway);
    // With a rule it is anna's; what berta had is gone, and berta cannot have it again.
    let gateway = Gateway::start(folder.path(), &yaml("      client_ids: [ 'hmi-%u-#' ]\n"));
    assert_eq!(kept(&gateway, "berta"), (false, TAKEN));
    assert_eq!(kept(&gateway, "anna"), (false, FREE));
    assert_eq!(kept(&gateway, "anna"), (true, FREE));
}
