//! The uplink with remotes as they are: they close without a word, have no QoS 2, allow one
//! connection a second, refuse subscriptions.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::remote::{Remote, SilentPort, Wire};
use super::support::{Gateway, Link, Mosquitto, Pem, free_port, run, wait_for, wellhead};

const PUBACK: u8 = 0x40;
const STATUS: &str = "$SYS/wellhead/uplink/cloud";

struct Site {
    gateway: Gateway,
    port: u16,
    folder: tempfile::TempDir,
}

/// A gateway with alarms at QoS 2 whose uplink goes to `remote`; `extra` is added to the uplink.
fn site(remote: u16, extra: &str) -> Site {
    site_that_sends("#", remote, extra)
}

fn site_that_sends(filter: &str, remote: u16, extra: &str) -> Site {
    site_to(&format!("mqtt://127.0.0.1:{remote}"), filter, extra)
}

fn site_to(to: &str, filter: &str, extra: &str) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "site: x
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ], max_packet: 1MB }}
outbox: {{ folder: state }}
classes: {{ alarm: {{ qos: 2, lane: alarm }} }}
uplinks:
  - name: cloud
    to: {to}
    {extra}
    send: [ {{ filter: 'alarm/#', class: alarm }}, {{ filter: '{filter}' }} ]
"
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    Site {
        gateway,
        port,
        folder,
    }
}

const QUICK: &str = "retry: { first: 50ms, longest: 200ms }";

impl Site {
    fn publish(&self, topic: &str, payload: &str) {
        let port = self.port.to_string();
        let (code, _, error) = run(Command::new("mosquitto_pub")
            .args(["-p", &port, "-q", "1", "-t", topic, "-m", payload]));
        assert_eq!(code, Some(0), "{error}");
    }

    /// Publishes so many numbers from 0 on `n`.
    fn publish_numbers(&self, count: u32) {
        let lines: String = (0..count).map(|number| format!("{number:050}\n")).collect();
        let file = self.folder.path().join("lines");
        fs::write(&file, lines).unwrap();
        let script = format!(
            "mosquitto_pub -p {} -q 1 -t n -l < {}",
            self.port,
            file.display()
        );
        assert_eq!(run(Command::new("sh").args(["-c", &script])).0, Some(0));
    }

    fn told(&self) -> String {
        run(Command::new("mosquitto_sub").args([
            "-p",
            &self.port.to_string(),
            "-t",
            STATUS,
            "-C",
            "1",
            "-W",
            "10",
        ]))
        .1
    }

    fn wait_until_told(&self, text: &str) -> String {
        wait_for(&format!("{text} in the status"), || {
            Some(self.told()).filter(|told| told.contains(text))
        })
    }

    fn dead_letters(&mut self) -> Vec<String> {
        assert!(self.gateway.process.terminate().success());
        let file = self.folder.path().join("gateway.yaml");
        let (code, out, error) = run(wellhead()
            .args(["outbox", "export", "--queue", "dead"])
            .arg(file));
        assert_eq!(code, Some(0), "{error}");
        out.lines().map(str::to_owned).collect()
    }
}

/// Reads what comes until a payload is `stop`, and acknowledges what is before it. Returns the
/// payloads with `stop`.
fn until(wire: &mut Wire, stop: &str) -> Vec<String> {
    let mut got = Vec::new();
    loop {
        let packet = wire.read();
        if packet.kind() == 6 {
            wire.write(&[0x70, 2, packet.body[0], packet.body[1]]);
        }
        if packet.kind() == 12 {
            wire.write(&[0xD0, 0]);
        }
        if packet.kind() != 3 {
            continue;
        }
        let publish = packet.publish_v4();
        got.push(publish.payload.clone());
        if publish.payload == stop {
            return got;
        }
        wire.write(&[
            if publish.qos == 2 { 0x50 } else { PUBACK },
            2,
            (publish.id >> 8) as u8,
            publish.id as u8,
        ]);
    }
}

/// The remote closes so many more connections when it gets `poison`. Then that is a dead letter,
/// and `behind` is delivered.
fn closes_until_poison_is_dead(remote: &Remote, site: &mut Site, closes: usize) {
    for _ in 0..closes {
        let mut wire = remote.accept_v4(true);
        assert_eq!(until(&mut wire, "poison"), ["poison"]);
        wire.close();
    }
    let mut wire = remote.accept_v4(true);
    assert_eq!(until(&mut wire, "behind"), ["behind"]);
    site.wait_until_told("\"dead\":1");
    let dead = site.dead_letters();
    assert!(
        dead.len() == 1 && dead[0].contains("poison") && dead[0].contains("closes the connection"),
        "{dead:?}"
    );
}

#[test]
fn a_message_that_is_answered_by_closing_becomes_a_dead_letter_and_holds_back_no_alarm() {
    let remote = Remote::listen();
    let mut site = site(remote.port, &format!("protocol: 3.1.1\n    {QUICK}"));
    let mut wire = remote.accept_v4(false);
    for payload in ["good", "poison", "behind"] {
        site.publish("a/x", payload);
    }
    assert_eq!(until(&mut wire, "poison"), ["good", "poison"]);
    site.publish("alarm/x", "alarm");
    wire.close();
    let mut wire = remote.accept_v4(true);
    assert_eq!(
        until(&mut wire, "poison"),
        ["alarm", "poison"],
        "the alarm does not wait for it"
    );
    assert!(
        wire.read_within(Duration::from_millis(300)).is_none(),
        "it is alone"
    );
    wire.close();
    closes_until_poison_is_dead(&remote, &mut site, 2);
}

/// The remote hangs at one message: it answers every other message, and never that one.
#[test]
fn a_message_that_others_overtake_on_each_connection_becomes_a_dead_letter() {
    let remote = Remote::listen();
    let mut site = site(
        remote.port,
        &format!("protocol: 3.1.1\n    {QUICK}\n    answer_within: 1s"),
    );
    let mut wire = remote.accept_v4(false);
    site.publish("a/x", "poison");
    for payload in ["one", "two", "three"] {
        assert_eq!(until(&mut wire, "poison"), ["poison"]);
        site.publish("a/x", payload);
        let message = wire.read().publish_v4();
        assert_eq!(message.payload, payload, "it is not held back");
        wire.write(&[PUBACK, 2, (message.id >> 8) as u8, message.id as u8]);
        wire = remote.accept_v4(true);
    }
    site.publish("a/x", "last");
    assert_eq!(until(&mut wire, "last"), ["last"]);
    site.wait_until_told("\"dead\":1");
    let dead = site.dead_letters();
    assert!(
        dead.len() == 1 && dead[0].contains("poison") && dead[0].contains("never this one"),
        "{dead:?}"
    );
}

/// What a remote does that answers at most so many PUBLISH packets a second, and is silent about
/// the others: the payloads that it has answered, and how many packets it left unanswered. Until
/// there are `enough` in `got`, or the gateway disconnects.
fn answers_at_most(
    per_second: usize,
    wire: &mut Wire,
    got: &mut BTreeSet<String>,
    enough: usize,
) -> usize {
    let (mut began, mut count, mut unanswered) = (Instant::now(), 0, 0);
    while got.len() < enough {
        let packet = wire.read();
        match packet.kind() {
            12 => wire.write(&[0xD0, 0]),
            14 => break,
            3 => {
                let publish = packet.publish_v4();
                if began.elapsed() >= Duration::from_secs(1) {
                    (began, count) = (Instant::now(), 0);
                }
                count += 1;
                if count > per_second {
                    unanswered += 1;
                    continue;
                }
                wire.write(&[PUBACK, 2, (publish.id >> 8) as u8, publish.id as u8]);
                got.insert(publish.payload);
            }
            _ => {}
        }
    }
    unanswered
}

#[test]
fn messages_that_a_remote_drops_because_they_come_too_fast_are_sent_again_more_slowly() {
    let remote = Remote::listen();
    let mut site = site(
        remote.port,
        &format!("protocol: 3.1.1\n    {QUICK}\n    answer_within: 1s\n    presence: false"),
    );
    site.publish_numbers(90);
    let (mut got, mut unanswered) = (BTreeSet::new(), Vec::new());
    while got.len() < 90 {
        let mut wire = remote.accept_v4(true);
        unanswered.push(answers_at_most(40, &mut wire, &mut got, 90));
        if got.len() == 90 {
            site.wait_until_told("\"waiting\":0");
        }
    }
    assert_eq!(unanswered, [50, 0], "the second connection is paced");
    let told = site.told();
    assert!(
        told.contains("\"pace\":20") && told.contains("\"dead\":0"),
        "{told}"
    );
    assert_eq!(site.gateway.process.events("uplink.paced", &[]).len(), 1);
    assert!(site.dead_letters().is_empty());
}

/// The remote reads nothing more once it has got a certain message.
#[test]
fn a_remote_that_hangs_at_a_message_gets_alarms_before_it() {
    let remote = Remote::listen();
    let site = site(
        remote.port,
        &format!("protocol: 3.1.1\n    {QUICK}\n    answer_within: 1s"),
    );
    let mut wire = remote.accept_v4(false);
    site.publish("a/x", "poison");
    for _ in 0..3 {
        assert_eq!(until(&mut wire, "poison"), ["poison"]);
        wire = remote.accept_v4(true);
    }
    site.publish("alarm/x", "alarm");
    assert_eq!(
        until(&mut wire, "poison"),
        ["poison"],
        "the connection had begun before"
    );
    let mut wire = remote.accept_v4(true);
    assert_eq!(until(&mut wire, "poison"), ["alarm", "poison"]);
}

/// A WebSocket in front of `remote`; a connection that the remote ends breaks off without a close
/// frame.
fn web_socket_before(remote: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            thread::spawn(move || carry(near, TcpStream::connect(("127.0.0.1", remote)).unwrap()));
        }
    });
    port
}

/// Carries packets between a WebSocket and a byte stream; those to the WebSocket have fewer than
/// 126 bytes.
fn carry(mut near: TcpStream, mut far: TcpStream) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        near.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    let key = request
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
        .unwrap();
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    near.write_all(answer.as_bytes()).unwrap();
    let (mut frames, mut packets) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    thread::spawn(move || {
        let mut head = [0; 2];
        while frames.read_exact(&mut head).is_ok() {
            let mut length = [0, head[1] & 0x7F];
            let is_long = length[1] == 126;
            let mut mask = [0; 4];
            if is_long && frames.read_exact(&mut length).is_err()
                || frames.read_exact(&mut mask).is_err()
            {
                break;
            }
            let mut payload = vec![0; usize::from(u16::from_be_bytes(length))];
            if frames.read_exact(&mut payload).is_err() {
                break;
            }
            payload
                .iter_mut()
                .zip(mask.iter().cycle())
                .for_each(|(byte, mask)| *byte ^= mask);
            if packets.write_all(&payload).is_err() {
                break;
            }
        }
        let _ = packets.shutdown(Shutdown::Both);
    });
    let mut space = [0; 125];
    while let Ok(count @ 1..) = far.read(&mut space) {
        let frame = [&[0x82, u8::try_from(count).unwrap()], &space[..count]].concat();
        if near.write_all(&frame).is_err() {
            break;
        }
    }
    let _ = near.shutdown(Shutdown::Both);
    let _ = far.shutdown(Shutdown::Both);
}

#[test]
fn over_a_web_socket_that_breaks_off_a_message_that_is_answered_by_closing_becomes_a_dead_letter() {
    let remote = Remote::listen();
    let mut site = site_to(
        &format!("ws://127.0.0.1:{}/mqtt", web_socket_before(remote.port)),
        "#",
        &format!("protocol: 3.1.1\n    {QUICK}"),
    );
    let mut wire = remote.accept_v4(false);
    for payload in ["good", "poison", "behind"] {
        site.publish("a/x", payload);
    }
    assert_eq!(until(&mut wire, "poison"), ["good", "poison"]);
    wire.close();
    closes_until_poison_is_dead(&remote, &mut site, 3);
}

#[test]
fn a_link_that_is_cut_before_the_remote_has_answered_anything_blames_no_message() {
    let remote = Remote::listen();
    let site = site(remote.port, QUICK);
    site.publish("a/x", "data");
    let mut wire = remote.accept(false, &[]);
    assert_eq!(wire.publish().payload, "data");
    wire.close();
    // PINGREQ; after three closes the question what state is retained, which has a PINGREQ of its
    // own, until it was asked three times.
    for expected in [12, 12, 8, 8, 8, 12] {
        let mut wire = remote.accept(true, &[]);
        let first = wire.read_unanswered();
        assert_eq!(
            first.kind(),
            expected,
            "the message waits until the remote shows that it reads: {first:?}"
        );
        wire.close();
    }
    let mut wire = remote.accept(true, &[]);
    let publish = wire.publish();
    assert_eq!((publish.payload.as_str(), publish.dup), ("data", true));
    wire.answer(PUBACK, publish.id, 0);
    let told = site.wait_until_told("\"waiting\":0");
    assert!(told.contains("\"dead\":0"), "{told}");
}

#[test]
fn a_link_that_is_cut_while_messages_are_acknowledged_makes_no_dead_letters() {
    let remote = Remote::listen();
    let site = site(remote.port, &format!("protocol: 3.1.1\n    {QUICK}"));
    site.publish_numbers(12);
    for number in 0..12_u8 {
        let mut wire = remote.accept_v4(number > 0);
        let first = loop {
            let packet = wire.read();
            match packet.kind() {
                3 => break packet.publish_v4(),
                12 => wire.write(&[0xD0, 0]),
                _ => {}
            }
        };
        assert_eq!(first.payload, format!("{number:050}"));
        // Acknowledged, and the next one in flight when the connection ends.
        wire.write(&[PUBACK, 2, (first.id >> 8) as u8, first.id as u8]);
        wire.close();
    }
    let told = site.wait_until_told("\"acknowledged\":12");
    assert!(
        told.contains("\"dead\":0") && told.contains("\"waiting\":0"),
        "{told}"
    );
}

/// EMQX with `acl_deny_action = disconnect`.
#[test]
fn a_remote_that_disconnects_because_of_a_subscription_gets_the_data_all_the_same() {
    let remote = Remote::listen();
    let mut site = site(
        remote.port,
        &format!("{QUICK}\n    receive: [ {{ filter: 'good/#' }}, {{ filter: 'bad/#' }} ]"),
    );
    site.publish("a/x", "data");
    let mut connections = 0;
    let mut wire = loop {
        let mut wire = remote.accept(connections > 0, &[]);
        connections += 1;
        let packet = loop {
            let packet = wire.read();
            if packet.kind() != 8 || packet.body.windows(3).any(|part| part == b"bad") {
                break packet;
            }
            wire.write(&[0x90, 4, packet.body[0], packet.body[1], 0, 1]);
        };
        if packet.kind() == 3 {
            assert_eq!(packet.publish().payload, "data");
            wire.answer(PUBACK, packet.publish().id, 0);
            break wire;
        }
        wire.write(&[0xE0, 1, 0x87]);
        wire.close();
    };
    assert_eq!(connections, 4, "left out after three tries");
    let told = site.wait_until_told("\"waiting\":0");
    assert!(
        told.contains("\"dead\":0") && told.contains("\"filters_refused\":[\"bad/#\"]"),
        "{told}"
    );
    let left_out = site
        .gateway
        .process
        .events("uplink.filter_left_out", &["ERROR", "filter=bad/#"]);
    assert_eq!(left_out.len(), 1, "{}", site.gateway.process.output());
    // What is granted comes in.
    wire.write(&[0x30, 9, 0, 6, b'g', b'o', b'o', b'd', b'/', b'x', 0]);
    site.wait_until_told("\"received\":1");
    assert!(site.dead_letters().is_empty());
}

/// EMQX and others close without a word over MQTT 3.1.1; a link that is cut looks the same.
#[test]
fn a_link_that_is_cut_at_subscriptions_leaves_out_no_filter() {
    let remote = Remote::listen();
    let mut site = site_that_sends(
        "a/#",
        remote.port,
        &format!(
            "protocol: 3.1.1\n    {QUICK}\n    presence: false\n    receive: [ {{ filter: 'cmd/a' }} ]"
        ),
    );
    let mut wire = remote.accept_v4(false);
    assert_eq!(wire.read().kind(), 8);
    wire.close();
    for _ in 0..6 {
        let mut wire = remote.accept_v4(true);
        assert_eq!(
            wire.read().kind(),
            12,
            "PINGREQ: only a remote that answers it can be the one that closes"
        );
        wire.close();
    }
    let mut wire = remote.accept_v4(true);
    assert_eq!(wire.read().kind(), 12);
    wire.write(&[0xD0, 0]);
    grant(&mut wire, b"cmd/a");
    wire.write(&message("cmd/a"));
    let told = site.wait_until_told("\"received\":1");
    assert!(!told.contains("filters_refused"), "{told}");
    assert!(site.dead_letters().is_empty());
}

#[test]
fn a_filter_that_ends_a_connection_which_answered_before_is_left_out() {
    let remote = Remote::listen();
    let site = site_that_sends(
        "a/#",
        remote.port,
        &format!(
            "protocol: 3.1.1\n    {QUICK}\n    presence: false\n    receive: [ {{ filter: 'cmd/a' }} ]"
        ),
    );
    site.publish("a/x", "data");
    for round in 0..4 {
        let mut wire = remote.accept_v4(round > 0);
        if round > 0 {
            assert_eq!(wire.read().kind(), 12);
            wire.write(&[0xD0, 0]);
        }
        while wire.read().kind() != 8 {}
        wire.close();
    }
    assert_eq!(until(&mut remote.accept_v4(true), "data"), ["data"]);
    site.wait_until_told("\"filters_refused\":[\"cmd/a\"]");
}

#[test]
fn the_first_connections_are_a_second_apart_and_the_old_session_is_ended_once() {
    let remote = Remote::listen();
    let site = site(remote.port, QUICK);
    let (mut wire, connect) = remote.connect();
    assert_eq!(connect.body[7] & 2, 2, "Clean Start");
    wire.write(&[0x20, 3, 0, 0, 0]);
    assert_eq!(wire.read().kind(), 14);
    let mut last = Instant::now();
    // Closed, as AWS IoT Core does with what comes too soon; it is tried again later, and without
    // Clean Start.
    for least in [Duration::from_millis(900), Duration::from_millis(1900)] {
        let (wire, connect) = remote.connect();
        assert_eq!(connect.body[7] & 2, 0, "the old session is ended already");
        assert!(last.elapsed() >= least, "{:?}", last.elapsed());
        last = Instant::now();
        wire.close();
    }
    let mut wire = remote.accept(false, &[]);
    site.publish("a/x", "data");
    assert_eq!(wire.publish().payload, "data");
}

/// RabbitMQ up to 3.12, Mosca.
#[test]
fn puback_for_qos_2_is_an_acknowledgement_and_said_once() {
    let remote = Remote::listen();
    let site = site(remote.port, QUICK);
    let mut wire = remote.accept(false, &[]);
    site.publish("alarm/x", "first");
    let first = wire.publish();
    assert_eq!(first.qos, 2);
    wire.answer(PUBACK, first.id, 0);
    site.wait_until_told("\"waiting\":0");
    wire.close();
    let mut wire = remote.accept(true, &[]);
    for payload in ["second", "third"] {
        site.publish("alarm/x", payload);
        let publish = wire.publish();
        assert_eq!((publish.payload.as_str(), publish.qos), (payload, 1));
        wire.answer(PUBACK, publish.id, 0);
    }
    let told = site.wait_until_told("\"acknowledged\":3");
    assert!(
        told.contains("\"waiting\":0") && told.contains("\"repeated\":0"),
        "{told}"
    );
    assert_eq!(site.gateway.process.events("uplink.no_qos_2", &[]).len(), 1);
}

/// NATS up to 2.9: each QoS 2 message ends the connection.
#[test]
fn a_remote_that_closes_at_qos_2_finds_out_once_and_not_with_every_message() {
    let remote = Remote::listen();
    let site = site(remote.port, &format!("protocol: 3.1.1\n    {QUICK}"));
    let mut wire = remote.accept_v4(false);
    for payload in ["one", "two", "three", "four", "five"] {
        site.publish("alarm/x", payload);
    }
    let mut came = vec![];
    let mut connections = 1;
    while came.len() < 5 {
        let packet = wire.read();
        if packet.kind() == 12 {
            wire.write(&[0xD0, 0]);
            continue;
        }
        let publish = packet.publish_v4();
        if publish.qos == 2 {
            // The others are on their way too.
            while connections == 1 && wire.read().publish_v4().payload != "five" {}
            wire.close();
            wire = remote.accept_v4(true);
            connections += 1;
            continue;
        }
        wire.write(&[PUBACK, 2, (publish.id >> 8) as u8, publish.id as u8]);
        came.push(publish.payload);
    }
    assert_eq!(came, ["one", "two", "three", "four", "five"]);
    assert!(connections <= 5, "{connections} connections");
    assert_eq!(site.gateway.process.events("uplink.no_qos_2", &[]).len(), 1);
    site.wait_until_told("\"waiting\":0,\"dead\":0");
}

/// RabbitMQ up to 3.12, ActiveMQ.
#[test]
fn a_remote_that_closes_instead_of_answering_connect_may_speak_the_other_version() {
    for (protocol, other) in [("5", "protocol: 3.1.1"), ("3.1.1", "protocol: 5")] {
        let remote = Remote::listen();
        let site = site(remote.port, &format!("protocol: {protocol}\n    {QUICK}"));
        let (wire, _) = remote.connect();
        wire.close();
        site.gateway.process.wait_for_event("uplink.down", &[other]);
        site.wait_until_told(other);
    }
}

#[test]
fn an_acknowledgement_resets_the_pause_between_connections() {
    let remote = Remote::listen();
    let site = site(remote.port, "retry: { first: 100ms, longest: 1h }");
    site.publish_numbers(12);
    for number in 0..12 {
        let mut wire = remote.accept(number > 0, &[]);
        let publish = wire.publish();
        assert_eq!(publish.payload, format!("{number:050}"));
        wire.answer(PUBACK, publish.id, 0);
        wire.close();
    }
    site.wait_until_told("\"waiting\":0");
}

#[test]
fn after_a_cut_only_so_much_is_repeated_as_the_link_took_before() {
    let remote = Remote::listen();
    let site = site(remote.port, QUICK);
    site.publish_numbers(400);
    let mut wire = remote.accept(false, &[]);
    let first = wire.publish();
    wire.answer(PUBACK, first.id, 0);
    wire.close();
    let mut wire = remote.accept(true, &[]);
    // It was first when the connection ended, so it goes alone.
    let second = wire.publish();
    wire.answer(PUBACK, second.id, 0);
    let mut count = 0;
    while wire.read_within(Duration::from_millis(500)).is_some() {
        count += 1;
    }
    assert!(
        (1..=60).contains(&count),
        "{count} messages at once on a link that took one"
    );
}

#[test]
fn subscriptions_go_eight_a_packet_and_what_another_one_covers_is_left_out() {
    let remote = Remote::listen();
    let filters: Vec<String> = (0..19)
        .map(|number| format!("{{ filter: 'cmd/{number}/#' }}"))
        .collect();
    let _site = site(
        remote.port,
        &format!(
            "{QUICK}\n    receive: [ {}, {{ filter: 'cmd/3/x' }}, {{ filter: 'cmd/4/+' }} ]",
            filters.join(", ")
        ),
    );
    let mut wire = remote.accept(false, &[]);
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 19 {
        let subscribe = wire.read();
        assert_eq!(subscribe.kind(), 8);
        assert!(
            !subscribe
                .body
                .windows(7)
                .any(|part| part == b"cmd/3/x" || part == b"cmd/4/+"),
            "it would come twice"
        );
        let count = subscribe
            .body
            .windows(4)
            .filter(|part| part == b"cmd/")
            .count();
        sizes.push(count);
        let mut answer = vec![
            0x90,
            3 + count as u8,
            subscribe.body[0],
            subscribe.body[1],
            0,
        ];
        answer.extend(std::iter::repeat_n(1, count));
        wire.write(&answer);
    }
    assert_eq!(sizes, [8, 8, 3]);
}

#[test]
fn over_mqtt_3_1_1_what_the_session_has_is_not_asked_for_again() {
    let remote = Remote::listen();
    let site = site_that_sends(
        "a/#",
        remote.port,
        &format!("protocol: 3.1.1\n    {QUICK}\n    receive: [ {{ filter: 'cmd/a', qos: 2 }} ]"),
    );
    let mut wire = remote.accept_v4(false);
    let subscribe = wire.read();
    assert_eq!(subscribe.kind(), 8);
    wire.write(&[0x90, 3, subscribe.body[0], subscribe.body[1], 1]);
    site.gateway
        .process
        .wait_for_event("uplink.subscription_lowered", &["filter=cmd/a"]);
    let Site {
        mut gateway,
        folder,
        ..
    } = site;
    assert!(gateway.process.terminate().success());
    let gateway = Gateway::restart(folder.path());
    let port = gateway.port();
    let mut wire = remote.accept_v4(true);
    let site = Site {
        gateway,
        folder,
        port,
    };
    site.publish("a/x", "data");
    assert_eq!(
        wire.read().publish_v4().payload,
        "data",
        "no SUBSCRIBE before it"
    );
    // The remote has forgotten everything: now it is asked.
    wire.close();
    let mut wire = remote.accept_v4(false);
    // The message that the connection ended at is on trial, which begins with a PINGREQ.
    assert_eq!([wire.read().kind(), wire.read().kind()], [12, 8]);
}

/// The remote was started again without its sessions, and its answer was lost: it has a new
/// session, which knows no subscription.
#[test]
fn over_mqtt_3_1_1_subscriptions_are_asked_for_again_after_an_answer_that_never_came() {
    let remote = Remote::listen();
    let site = site_that_sends(
        "a/#",
        remote.port,
        &format!("protocol: 3.1.1\n    {QUICK}\n    receive: [ {{ filter: 'cmd/a' }} ]"),
    );
    let mut wire = remote.accept_v4(false);
    grant(&mut wire, b"cmd/a");
    wire.write(&message("cmd/a"));
    site.wait_until_told("\"received\":1");
    wire.close();
    drop(remote.connect());
    grant(&mut remote.accept_v4(true), b"cmd/a");
}

#[test]
fn over_mqtt_3_1_1_a_filter_that_the_session_has_covers_others() {
    let remote = Remote::listen();
    let site = site_that_sends(
        "a/#",
        remote.port,
        &format!(
            "protocol: 3.1.1\n    {QUICK}\n    receive: [ {{ filter: 'cmd/x' }}, {{ filter: 'cmd/#' }} ]"
        ),
    );
    let mut wire = remote.accept_v4(false);
    grant(&mut wire, b"cmd/#");
    wire.write(&message("cmd/y"));
    site.wait_until_told("\"received\":1");
    let Site {
        mut gateway,
        folder,
        ..
    } = site;
    assert!(gateway.process.terminate().success());
    let gateway = Gateway::restart(folder.path());
    let port = gateway.port();
    let mut wire = remote.accept_v4(true);
    let site = Site {
        gateway,
        folder,
        port,
    };
    site.publish("a/x", "data");
    assert_eq!(
        wire.read().publish_v4().payload,
        "data",
        "no SUBSCRIBE before it"
    );
}

#[test]
fn what_a_new_filter_covers_is_unsubscribed_when_the_new_one_is_granted() {
    let remote = Remote::listen();
    let site = site_that_sends(
        "a/#",
        remote.port,
        &format!("protocol: 3.1.1\n    {QUICK}\n    receive: [ {{ filter: 'cmd/x' }} ]"),
    );
    let mut wire = remote.accept_v4(false);
    grant(&mut wire, b"cmd/x");
    wire.write(&message("cmd/x"));
    site.wait_until_told("\"received\":1");
    let Site {
        mut gateway,
        folder,
        ..
    } = site;
    assert!(gateway.process.terminate().success());
    let file = folder.path().join("gateway.yaml");
    let yaml = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        yaml.replace(
            "{ filter: 'cmd/x' }",
            "{ filter: 'cmd/x' }, { filter: 'cmd/#' }",
        ),
    )
    .unwrap();
    let _gateway = Gateway::restart(folder.path());
    let mut wire = remote.accept_v4(true);
    grant(&mut wire, b"cmd/#");
    let unsubscribe = wire.read();
    assert!(
        unsubscribe.kind() == 10 && unsubscribe.body.ends_with(b"\0\x05cmd/x"),
        "{unsubscribe:?}"
    );
}

#[test]
fn what_a_refused_filter_covers_is_asked_for_at_once() {
    let remote = Remote::listen();
    let site = site_that_sends(
        "a/#",
        remote.port,
        &format!(
            "protocol: 3.1.1\n    {QUICK}\n    receive: [ {{ filter: 'plant/#' }}, {{ filter: 'plant/cmd/+' }} ]"
        ),
    );
    let mut wire = remote.accept_v4(false);
    let subscribe = wire.read();
    assert!(
        subscribe.kind() == 8 && subscribe.body.ends_with(b"\0\x07plant/#\x01"),
        "{subscribe:?}"
    );
    wire.write(&[0x90, 3, subscribe.body[0], subscribe.body[1], 0x80]);
    grant(&mut wire, b"plant/cmd/+");
    site.wait_until_told("\"filters_refused\":[\"plant/#\"]");
}

/// Reads a SUBSCRIBE of MQTT 3.1.1 for one filter, and grants it with QoS 1.
fn grant(wire: &mut Wire, filter: &[u8]) {
    let subscribe = wire.read();
    assert_eq!(subscribe.kind(), 8, "{subscribe:?}");
    assert_eq!(
        subscribe.body[4..].strip_suffix(&[1]),
        Some(filter),
        "{subscribe:?}"
    );
    wire.write(&[0x90, 3, subscribe.body[0], subscribe.body[1], 1]);
}

/// A message of MQTT 3.1.1 at QoS 0.
fn message(topic: &str) -> Vec<u8> {
    let length = u8::try_from(topic.len()).unwrap();
    [&[0x30, length + 3, 0, length], topic.as_bytes(), b"!"].concat()
}

#[test]
fn limits_that_are_forbidden_or_too_small_are_refused_and_nothing_becomes_a_dead_letter() {
    let remote = Remote::listen();
    let site = site(remote.port, QUICK);
    site.publish("a/x", "data");
    for (properties, told) in [
        (&[0x27, 0, 0, 0, 0][..], "Maximum Packet Size of 0"),
        (&[0x27, 0, 0, 0, 1], "packets of at most 1 bytes"),
        (&[0x21, 0, 0], "Receive Maximum of 0"),
        (&[0x24, 2], "Maximum QoS above 1"),
    ] {
        // The first one ends an old session.
        let (mut wire, _) = remote.connect();
        let length = properties.len() as u8;
        wire.write(&[&[0x20, length + 3, 0, 0, length][..], properties].concat());
        site.gateway.process.wait_for_event("uplink.down", &[told]);
        drop(wire);
    }
    let mut wire = remote.accept(false, &[]);
    assert_eq!(wire.publish().payload, "data");
    assert!(site.told().contains("\"dead\":0"));
}

#[test]
fn two_gateways_with_one_client_identifier_do_not_fight_and_say_why() {
    let remote = Remote::listen();
    let site = site(remote.port, QUICK);
    let mut wire = remote.accept(false, &[]);
    site.publish("alarm/x", "data");
    let first = wire.publish();
    assert_eq!(first.payload, "data");
    // Session taken over.
    wire.write(&[0xE0, 1, 0x8E]);
    wire.close();
    let taken_over = Instant::now();
    site.gateway
        .process
        .wait_for_event("uplink.taken_over", &["client_id=x"]);
    assert!(
        site.told().contains("its own `client_id`"),
        "{}",
        site.told()
    );
    // The session is gone on with, and nothing in it is given up or sent as new.
    let mut wire = remote.accept(true, &[]);
    assert!(taken_over.elapsed() > Duration::from_secs(5), "not at once");
    let again = wire.publish();
    assert_eq!(
        (again.payload.as_str(), again.dup, again.id),
        ("data", true, first.id),
        "it is repeated under its identifier"
    );
    wire.answer(0x50, again.id, 0);
    loop {
        let packet = wire.read();
        if packet.kind() == 6 {
            break wire.answer(0x70, first.id, 0);
        }
    }
    site.wait_until_told("\"waiting\":0");
}

#[test]
fn the_class_normal_lowers_qos_2_without_a_section_that_says_so() {
    let remote = Remote::listen();
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "site: x\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\nuplinks: [ {{ name: cloud, to: 'mqtt://127.0.0.1:{}', send: [ {{ filter: '#', class: normal }} ] }} ]\n",
        remote.port
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    let mut wire = remote.accept(false, &[]);
    for (qos, expected) in [("2", 1), ("1", 1), ("0", 0)] {
        let (code, _, error) = run(Command::new("mosquitto_pub").args([
            "-p",
            &port.to_string(),
            "-q",
            qos,
            "-t",
            "a",
            "-m",
            qos,
        ]));
        assert_eq!(code, Some(0), "{error}");
        let publish = wire.publish();
        assert_eq!((publish.payload.as_str(), publish.qos), (qos, expected));
        if publish.qos > 0 {
            wire.answer(PUBACK, publish.id, 0);
        }
    }
}

/// Two gateways that send everything to each other.
#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn two_gateways_that_are_joined_to_each_other_send_each_message_once() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let ports = [free_port(), free_port()];
    let start = |index: usize| {
        let yaml = format!(
            "site: s{index}\nbroker: {{ listen: [ 'mqtt://127.0.0.1:{}' ] }}\noutbox: {{ folder: state }}\nuplinks: [ {{ name: other, to: 'mqtt://127.0.0.1:{}', {QUICK}, send: [ {{ filter: 'x/#' }} ] }} ]\n",
            ports[index],
            ports[1 - index]
        );
        Gateway::start(folders[index].path(), &yaml)
    };
    let gateways = [start(0), start(1)];
    for gateway in &gateways {
        gateway.process.wait_for_event("uplink.up", &[]);
    }
    let mut reader = super::support::mosquitto_sub();
    reader.args([
        "-V",
        "5",
        "-d",
        "-p",
        &ports[1].to_string(),
        "-t",
        "#",
        "-q",
        "1",
        "-F",
        "got %t %p %P",
    ]);
    let reader = super::support::Process::start(&mut reader, &folders[1].path().join("reader"));
    reader.wait_for_output("Subscribed");
    let publish = |topic: &str, payload: &str| {
        let port = ports[0].to_string();
        let arguments = [
            "-V",
            "5",
            "-p",
            &port,
            "-q",
            "1",
            "-t",
            topic,
            "-m",
            payload,
            "-D",
            "publish",
            "user-property",
            "seq",
            "foreign:7",
        ];
        assert_eq!(
            run(Command::new("mosquitto_pub").args(arguments)).0,
            Some(0)
        );
    };
    publish("x/a", "first");
    reader.wait_for_output("got x/a first");
    publish("x/a", "last");
    reader.wait_for_output("got x/a last");
    wait_for("nothing waits", || {
        let told = |port: u16| {
            run(Command::new("mosquitto_sub").args([
                "-p",
                &port.to_string(),
                "-t",
                "$SYS/wellhead/uplink/other",
                "-C",
                "1",
                "-W",
                "10",
            ]))
            .1
        };
        ports
            .iter()
            .all(|port| told(*port).contains("\"waiting\":0"))
            .then_some(())
    });
    let output = reader.output();
    let got: Vec<&str> = output
        .lines()
        .filter(|line| line.starts_with("got x/a"))
        .collect();
    assert_eq!(got.len(), 2, "once each: {output}");
    assert!(
        got[0].contains("via:foreign:7") && !got[0].contains("seq:foreign"),
        "a foreign number is not ours: {output}"
    );
}

/// What a subscriber of the broker at `port` gets on `x/#`, with user properties, until `last`
/// comes.
fn copies_until(port: u16, folder: &std::path::Path, publish: &[&str], last: &str) -> Vec<String> {
    let mut reader = super::support::mosquitto_sub();
    reader.args([
        "-V",
        "5",
        "-d",
        "-p",
        &port.to_string(),
        "-t",
        "x/#",
        "-q",
        "1",
        "-F",
        "got %t %p %P",
    ]);
    let reader = super::support::Process::start(&mut reader, &folder.join("reader"));
    reader.wait_for_output("Subscribed");
    for payload in publish {
        let port = port.to_string();
        let arguments = [
            "-V", "5", "-p", &port, "-q", "1", "-t", "x/a", "-m", payload,
        ];
        assert_eq!(
            run(Command::new("mosquitto_pub").args(arguments)).0,
            Some(0)
        );
    }
    reader.wait_for_output(last);
    reader
        .output()
        .lines()
        .filter(|line| line.starts_with("got"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn an_uplink_that_leads_back_to_its_own_broker_sends_each_message_once() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    // Its address does not show where it leads.
    let link = Link::to(port);
    let yaml = format!(
        "site: s\nbroker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ] }}\noutbox: {{ folder: state }}\nuplinks: [ {{ name: other, client_id: c, to: 'mqtt://127.0.0.1:{}', {QUICK}, send: [ {{ filter: 'x/#' }} ] }} ]\n",
        link.port
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    gateway.process.wait_for_event("uplink.up", &[]);
    let got = copies_until(port, folder.path(), &["first", "last"], "last seq:");
    assert_eq!(
        got.iter().filter(|line| line.contains("first")).count(),
        2,
        "itself and the copy that came back: {got:?}"
    );
    gateway
        .process
        .wait_for_event("outbox.message_in_circle", &[]);
}

#[test]
fn dead_addresses_before_the_right_one_cost_a_moment() {
    let dead = [SilentPort::open(), SilentPort::open(), SilentPort::open()];
    let remote = Remote::listen();
    let address = |port: u16| format!("'mqtt://127.0.0.1:{port}'");
    let to: Vec<String> = dead
        .iter()
        .map(|dead| dead.port)
        .chain([remote.port])
        .map(address)
        .collect();
    let began = Instant::now();
    let site = site_to(
        &format!("[ {} ]", to.join(", ")),
        "#",
        "dial_within: 25s\n    protocol: 3.1.1",
    );
    let mut wire = remote.accept_v4(false);
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "no dead address was waited for"
    );
    site.publish("x", "here");
    assert_eq!(until(&mut wire, "here"), ["here"]);
    // The one that worked is the first from then on.
    wire.close();
    let (mut wire, _) = remote.connect();
    wire.write(&[0x20, 2, 1, 0]);
    assert_eq!(until(&mut wire, "here"), ["here"]);
}

/// The password in a CONNECT of MQTT 3.1.1.
fn password_in(connect: &super::remote::Packet) -> String {
    let mut rest = &connect.body[10..];
    let mut last = "";
    // Client identifier, user name, password.
    while let [high, low, behind @ ..] = rest {
        let (field, after) = behind.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        last = std::str::from_utf8(field).unwrap();
        rest = after;
    }
    last.to_owned()
}

/// An uplink whose password is in `token`, as `how` says; it is another one at each connection.
fn checks_that_the_password_is_read_at_each_connection(how: &str) {
    let token = tempfile::tempdir().unwrap();
    let token = token.path().join("token");
    fs::write(&token, "token-0\n").unwrap();
    let remote = Remote::listen();
    let how = how.replace("TOKEN", &token.display().to_string());
    let site = site(
        remote.port,
        &format!("protocol: 3.1.1\n    user: me\n    {how}\n    {QUICK}"),
    );
    let (mut wire, connect) = remote.connect();
    assert_eq!(password_in(&connect), "token-0");
    fs::write(&token, "token-1\nanother line\n").unwrap();
    wire.write(&[0x20, 2, 0, 0]);
    wire.close();
    let (wire, connect) = remote.connect();
    assert_eq!(password_in(&connect), "token-1");
    fs::remove_file(&token).unwrap();
    wire.close();
    site.gateway
        .process
        .wait_for_event("uplink.down", &["WARN", "password_"]);
    fs::write(&token, "token-2\n").unwrap();
    let (_wire, connect) = remote.connect();
    assert_eq!(password_in(&connect), "token-2");
    assert!(
        !site.gateway.process.output().contains("token-"),
        "{}",
        site.gateway.process.output()
    );
}

#[test]
fn a_password_file_is_read_at_each_connection() {
    checks_that_the_password_is_read_at_each_connection("password_file: TOKEN");
}

#[test]
fn a_password_command_is_run_at_each_connection() {
    checks_that_the_password_is_read_at_each_connection("password_command: [ /bin/cat, TOKEN ]");
}

#[test]
fn a_renewed_certificate_is_used_without_restart_and_reload_tells_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (used, good, other) = (
        folder.path().join("used"),
        folder.path().join("good"),
        folder.path().join("other"),
    );
    [&used, &good, &other]
        .into_iter()
        .for_each(|folder| fs::create_dir(folder).unwrap());
    let (used, good, _) = (Pem::make(&used), Pem::make(&good), Pem::make(&other));
    let remote = Mosquitto::start_with(folder.path(), &good.listener(), "");
    let site = site_to(
        &format!("mqtts://127.0.0.1:{}", remote.port),
        "#",
        &format!("{}\n    {QUICK}", used.yaml()),
    );
    let gateway = &site.gateway.process;
    gateway.wait_for_event("uplink.down", &["TLS failed"]);
    fs::remove_file(used.path("client.key")).unwrap();
    gateway.wait_for_event("uplink.down", &["client.key"]);
    for name in ["ca.pem", "client.pem", "client.key"] {
        fs::copy(good.path(name), used.path(name)).unwrap();
    }
    gateway.wait_for_event("uplink.up", &[]);
    let file = site.folder.path().join("gateway.yaml");
    let reload = || run(wellhead().arg("reload").arg(&file));
    assert!(
        reload().1.contains("certificates"),
        "what was started with is not what is there"
    );
    fs::copy(
        folder.path().join("other/client.key"),
        used.path("client.key"),
    )
    .unwrap();
    fs::copy(
        folder.path().join("other/client.pem"),
        used.path("client.pem"),
    )
    .unwrap();
    let (code, out, error) = reload();
    assert!(
        code == Some(0) && out.contains("its certificates or its password file"),
        "{out}{error}"
    );
}

/// With its default settings mosquitto drops the 21st QoS 2 message of a session, which MQTT 3.1.1
/// cannot say.
#[test]
fn a_burst_of_qos_2_messages_over_mqtt_3_1_1_arrives_whole() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let mut reader = super::support::mosquitto_sub();
    reader.args([
        "-V",
        "5",
        "-d",
        "-p",
        &remote.port.to_string(),
        "-t",
        "alarm/#",
        "-q",
        "1",
        "-F",
        "got %p",
    ]);
    let reader = super::support::Process::start(&mut reader, &folder.path().join("reader"));
    reader.wait_for_output("Subscribed");
    let site = site(remote.port, &format!("protocol: 3.1.1\n    {QUICK}"));
    site.gateway.process.wait_for_event("uplink.up", &[]);
    let file = folder.path().join("lines");
    fs::write(
        &file,
        (0..150)
            .map(|number| format!("{number}\n"))
            .collect::<String>(),
    )
    .unwrap();
    let script = format!(
        "mosquitto_pub -p {} -q 1 -t alarm/x -l < {}",
        site.port,
        file.display()
    );
    assert_eq!(run(Command::new("sh").args(["-c", &script])).0, Some(0));
    let got = || {
        reader
            .output()
            .lines()
            .filter(|line| line.starts_with("got "))
            .count()
    };
    wait_for("all messages", || (got() == 150).then_some(()));
}
