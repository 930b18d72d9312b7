//! Topics on both sides of an uplink: rules that write them differently, response topics, commands
//! to instruments, copies.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::remote::{Remote, Wire};
use super::support::{
    Gateway, Mosquitto, NOBODY, Process, gateway_with_uplink, mosquitto_sub, run, simulated,
    wait_for, wellhead,
};

struct Site {
    gateway: Gateway,
    port: u16,
    folder: tempfile::TempDir,
}

/// A gateway whose uplink to `remote` has these keys.
fn site(remote: u16, uplink: &str) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let keys = format!(
        "    to: mqtt://127.0.0.1:{remote}\n    retry: {{ first: 50ms, longest: 200ms }}\n    presence: false\n{uplink}"
    );
    let gateway = gateway_with_uplink(folder.path(), "seven", &keys);
    let port = gateway.port();
    Site {
        gateway,
        port,
        folder,
    }
}

fn publish(port: u16, arguments: &[&str]) {
    let (code, _, error) = run(Command::new("mosquitto_pub")
        .args(["-V", "5", "-q", "1", "-p", &port.to_string()])
        .args(arguments));
    assert_eq!(code, Some(0), "{arguments:?}: {error}");
}

/// A subscriber that prints `got <topic> [<response topic>] <payload>`.
fn reader(site: &Site, port: u16, filter: &str, name: &str) -> Process {
    let mut command = mosquitto_sub();
    command.args([
        "-d",
        "-V",
        "5",
        "-q",
        "1",
        "-p",
        &port.to_string(),
        "-t",
        filter,
        "-F",
        "got %t [%R] %p",
    ]);
    let reader = Process::start(&mut command, &site.folder.path().join(name));
    reader.wait_for_output("Subscribed");
    reader
}

/// Asks on one topic with a response topic; whoever listens on the other side sees both as
/// expected, and the answer comes back.
fn ask(site: &Site, from: u16, to: u16, request: [&str; 2], seen: [&str; 2]) {
    let name = request[1].replace('/', "-");
    let listener = reader(site, to, seen[0], &format!("{name}-listener"));
    let mut command = Command::new("mosquitto_rr");
    command.args([
        "-d",
        "-V",
        "5",
        "-q",
        "1",
        "-p",
        &from.to_string(),
        "-t",
        request[0],
        "-e",
        request[1],
        "-m",
        "how much?",
        "-W",
        "25",
    ]);
    let mut requester = Process::start(
        &mut command,
        &site.folder.path().join(format!("{name}-requester")),
    );
    listener.wait_for_output(&format!("got {} [{}] how much?", seen[0], seen[1]));
    publish(to, &["-t", seen[1], "-m", "enough"]);
    assert!(requester.wait().success(), "{}", requester.output());
    assert!(
        requester.output().contains("enough"),
        "{}",
        requester.output()
    );
}

#[test]
fn a_question_with_a_response_topic_is_answered_across_the_uplink_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let site = site(
        remote.port,
        "    send: [ { filter: '#', prefix: oilco/ } ]
    receive: [ { filter: 'oilco/ask/#', strip: oilco/ }, { filter: 'replies/+/seven', to: 'answers/+' } ]",
    );
    site.gateway.process.wait_for_event("uplink.up", &[]);
    // A client of the remote asks; the answer goes out under the name that it was asked for.
    ask(
        &site,
        remote.port,
        site.port,
        ["oilco/ask/pump", "oilco/answers/7"],
        ["ask/pump", "answers/7"],
    );
    // A local client asks.
    ask(
        &site,
        site.port,
        remote.port,
        ["far/question", "answers/9"],
        ["oilco/far/question", "replies/9/seven"],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn a_command_under_the_name_that_a_point_has_at_the_remote_reaches_it_and_its_result_goes_back_there()
 {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let yaml = format!(
        "site: x
lines: [ {{ name: bus, modbus_tcp: '127.0.0.1:0', answer_within: 200ms }} ]
devices:
  - name: d
    line: bus
    points:
      level: {{ holding: 0, type: u16, every: 100ms, deadband: 0, simulate: {{ shape: constant, from: 20 }}, write: {{ min: 0, max: 50 }} }}
      fixed: {{ holding: 1, type: u16, every: 100ms, deadband: 0, simulate: {{ shape: constant, from: 3 }} }}
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ], anonymous: {{ read: [ '#' ], write: [ 'x/#' ] }} }}
uplinks:
  - name: one
    to: mqtt://127.0.0.1:{0}
    commands: true
    send: [ {{ filter: '#', prefix: oilco/ }} ]
  - name: two
    to: mqtt://127.0.0.1:{0}
    client_id: two
    protocol: 3.1.1
    send: [ {{ filter: 'x/+/+', to: 'meters/{{2}}/of-{{1}}/{{site}}', retain: false }} ]
    receive: [ {{ filter: 'meters/+/+/x/set' }} ]
",
        remote.port
    );
    let (_simulator, gateway) = simulated(folder.path(), &yaml);
    let port = gateway.port();
    wait_for("both links", || {
        (gateway.process.events("uplink.up", &[]).len() >= 2).then_some(())
    });
    let site = Site {
        gateway,
        port,
        folder,
    };
    let far = reader(&site, remote.port, "#", "far");
    far.wait_for_output("got oilco/x/d/level [] {\"v\":20");
    publish(
        remote.port,
        &[
            "-t",
            "oilco/x/d/level/set",
            "-m",
            "{\"value\":30,\"id\":\"a\"}",
        ],
    );
    far.wait_for_output("got oilco/x/d/level/set/result [] {\"id\":\"a\",\"status\":\"ok\"");
    far.wait_for_output("got meters/level/of-d/x [] {\"v\":30");
    publish(
        remote.port,
        &[
            "-t",
            "meters/level/of-d/x/set",
            "-m",
            "{\"value\":40,\"id\":\"b\"}",
        ],
    );
    far.wait_for_output("got meters/level/of-d/x/set/result [] {\"id\":\"b\",\"status\":\"ok\"");
    far.wait_for_output("got oilco/x/d/level [] {\"v\":40");
    // What may not be written is refused as ever, and a response topic is used in its own name.
    publish(
        remote.port,
        &[
            "-t",
            "oilco/x/d/level/set",
            "-m",
            "99",
            "-D",
            "publish",
            "response-topic",
            "oilco/answers/1",
        ],
    );
    far.wait_for_output("got oilco/answers/1 [] {\"status\":\"rejected\"");
    publish(remote.port, &["-t", "meters/fixed/of-d/x/set", "-m", "1"]);
    far.wait_for_output("got meters/fixed/of-d/x/set/result [] {\"status\":\"rejected\"");
    // A command of a local client stays here, and its result goes out.
    publish(
        port,
        &["-t", "x/d/level/set", "-m", "{\"value\":10,\"id\":\"c\"}"],
    );
    far.wait_for_output("got oilco/x/d/level/set/result [] {\"id\":\"c\",\"status\":\"ok\"");
    publish(port, &["-t", "x/last", "-m", "last"]);
    far.wait_for_output("got oilco/x/last [] last");
    assert_eq!(
        far.output().matches("got oilco/x/d/level/set [").count(),
        2,
        "{}",
        far.output()
    );
}

#[test]
fn a_client_is_told_that_its_topic_is_too_deep_at_the_remote() {
    let site = site(NOBODY, "    send: [ { filter: '#', prefix: oil/co/ } ]");
    let deep = ["x"; 200].join("/");
    for qos in ["1", "2"] {
        let (_, output, error) = run(Command::new("mosquitto_pub").args([
            "-d",
            "-V",
            "5",
            "-q",
            qos,
            "-p",
            &site.port.to_string(),
            "-t",
            &deep,
            "-m",
            "1",
        ]));
        assert!(error.contains("Topic Name invalid"), "{output}{error}");
    }
    publish(site.port, &["-t", "x", "-m", "1"]);
}

/// The next message of the gateway, which is acknowledged: its topic and payload.
fn next(wire: &mut Wire) -> (String, String) {
    let publish = wire.publish();
    wire.answer(0x40, publish.id, 0);
    (publish.topic, publish.payload)
}

#[test]
fn what_waits_keeps_its_topic_and_new_rules_are_for_new_messages() {
    let remote = Remote::listen();
    let site = site(
        NOBODY,
        "    send: [ { filter: 'plant/#', to: 'oilco/{site}/#', qos: 1 } ]",
    );
    publish(site.port, &["-q", "2", "-t", "plant/a//b", "-m", "1"]);
    publish(site.port, &["-t", "plant", "-m", "2"]);
    let file = site.folder.path().join("gateway.yaml");
    let yaml = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        yaml.replace(
            "to: 'oilco/{site}/#', qos: 1",
            "strip: plant/, prefix: later/, retain: false",
        ),
    )
    .unwrap();
    let (code, _, error) = run(wellhead().arg("reload").arg(&file));
    assert_eq!(code, Some(0), "{error}");
    publish(site.port, &["-t", "plant/c", "-m", "3", "-r"]);
    // kill -9, and a link at last: what was acknowledged is there, under the topic that it was
    // taken with.
    let yaml = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        yaml.replace(&format!(":{NOBODY}\n"), &format!(":{}\n", remote.port)),
    )
    .unwrap();
    let site = Site {
        gateway: site.gateway.kill_and_restart(),
        ..site
    };
    let mut wire = remote.accept(false, &[]);
    let first = wire.publish();
    assert_eq!((first.topic.as_str(), first.qos), ("oilco/seven/a//b", 1));
    wire.answer(0x40, first.id, 0);
    assert_eq!(next(&mut wire), ("oilco/seven".to_owned(), "2".to_owned()));
    let third = wire.publish();
    assert_eq!((third.topic.as_str(), third.retain), ("later/c", false));
    wire.answer(0x40, third.id, 0);
    assert!(!site.gateway.process.events("uplink.up", &[]).is_empty());
}

#[test]
fn a_message_that_several_receive_filters_match_comes_in_once_in_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    // With MQTT 3.1.1 where one of them, at the highest QoS, covers the others.
    for (protocol, filters) in [
        ("5", "{ filter: 'a/+' }, { filter: '+/b', qos: 2 }"),
        ("3.1.1", "{ filter: 'a/+' }, { filter: 'a/b', qos: 2 }"),
    ] {
        let site = site(
            remote.port,
            &format!(
                "    protocol: {protocol}\n    client_id: 'seven-{protocol}'\n    send: []\n    receive: [ {filters}, {{ filter: 'a/#', qos: 0 }} ]"
            ),
        );
        site.gateway.process.wait_for_event("uplink.up", &[]);
        let near = reader(&site, site.port, "#", "near");
        // The subscriptions are there when something comes.
        wait_for("a first message", || {
            publish(remote.port, &["-t", "a/first", "-m", "first"]);
            near.output().contains("got a/first").then_some(())
        });
        for payload in ["1", "2", "3"] {
            publish(remote.port, &["-q", "2", "-t", "a/b", "-m", payload]);
        }
        publish(remote.port, &["-q", "2", "-t", "a/c", "-m", "last"]);
        near.wait_for_output("got a/c [] last");
        let got: Vec<String> = near
            .output()
            .lines()
            .filter(|line| line.starts_with("got a/b"))
            .map(str::to_owned)
            .collect();
        assert_eq!(
            got,
            ["got a/b [] 1", "got a/b [] 2", "got a/b [] 3"],
            "MQTT {protocol}"
        );
    }
}

/// PUBLISH of `payload` on `a/b` with QoS 1 and these properties; without a list in MQTT 3.1.1.
fn publish_here(wire: &mut Wire, id: u8, properties: Option<&[u8]>, payload: &str) {
    let mut body = vec![0, 3, b'a', b'/', b'b', 0, id];
    if let Some(properties) = properties {
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    body.extend(payload.as_bytes());
    wire.write(&[&[0x32, body.len() as u8][..], &body].concat());
    // Each copy is acknowledged.
    let answer = wire.read();
    assert_eq!((answer.kind(), answer.body[1]), (4, id));
}

/// Reads a SUBSCRIBE packet, grants its filters, and returns what is behind its packet identifier.
fn grant(wire: &mut Wire, filters: usize, has_properties: bool) -> Vec<u8> {
    let packet = wire.read();
    assert_eq!(packet.kind(), 8);
    let mut answer = vec![
        0x90,
        (2 + usize::from(has_properties) + filters) as u8,
        packet.body[0],
        packet.body[1],
    ];
    if has_properties {
        answer.push(0);
    }
    answer.extend(vec![1; filters]);
    wire.write(&answer);
    packet.body[2..].to_vec()
}

#[test]
fn copies_are_told_from_messages_that_were_published_again_by_their_identifiers() {
    let remote = Remote::listen();
    let site = site(
        remote.port,
        "    send: []\n    receive: [ { filter: 'a/+' }, { filter: '+/b' }, { filter: 'a/b' } ]",
    );
    let near = reader(&site, site.port, "#", "near");
    let mut wire = remote.accept(false, &[]);
    // A filter that another one covers is not asked for; these two have an identifier each.
    assert_eq!(grant(&mut wire, 1, true)[..3], [2, 0x0B, 1]);
    assert_eq!(grant(&mut wire, 1, true)[..3], [2, 0x0B, 2]);
    publish_here(&mut wire, 1, Some(&[0x0B, 1]), "on");
    publish_here(&mut wire, 2, Some(&[0x0B, 2]), "on");
    publish_here(&mut wire, 3, Some(&[0x0B, 1]), "on");
    publish_here(&mut wire, 4, Some(&[0x0B, 2]), "on");
    // All in one, as a server may send it, with a property behind them.
    publish_here(&mut wire, 5, Some(&[0x0B, 1, 0x0B, 2, 0x01, 1]), "both");
    publish_here(&mut wire, 6, Some(&[0x0B, 1, 0x0B, 2, 0x01, 1]), "both");
    publish_here(&mut wire, 7, Some(&[]), "last");
    near.wait_for_output("last");
    let got: Vec<String> = near
        .output()
        .lines()
        .filter(|line| line.starts_with("got"))
        .map(str::to_owned)
        .collect();
    assert_eq!(
        got,
        [
            "got a/b [] on",
            "got a/b [] on",
            "got a/b [] both",
            "got a/b [] both",
            "got a/b [] last"
        ]
    );
}

#[test]
fn without_identifiers_no_message_is_taken_for_a_copy() {
    let remote = Remote::listen();
    let site = site(
        remote.port,
        "    protocol: 3.1.1\n    send: []\n    receive: [ { filter: 'a/+' }, { filter: '+/b' } ]",
    );
    let near = reader(&site, site.port, "#", "near");
    let mut wire = remote.accept_v4(false);
    grant(&mut wire, 2, false);
    for (id, payload) in [
        (1, "on"),
        (2, "on"),
        (3, "off"),
        (4, "off"),
        (5, "on"),
        (6, "on"),
        (7, "last"),
    ] {
        publish_here(&mut wire, id, None, payload);
    }
    near.wait_for_output("last");
    let got: Vec<String> = near
        .output()
        .lines()
        .filter(|line| line.starts_with("got"))
        .map(str::to_owned)
        .collect();
    assert_eq!(
        got,
        ["on", "on", "off", "off", "on", "on", "last"]
            .map(|payload| format!("got a/b [] {payload}"))
    );
    assert!(wire.read_within(Duration::from_millis(100)).is_none());
}

#[test]
fn check_shows_an_example_of_each_rule_and_what_is_subscribed_to_for_commands() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let text = "site: seven
broker: { listen: [ 'mqtt://127.0.0.1:1883' ] }
lines: [ { name: bus, modbus_tcp: '127.0.0.1:502' } ]
devices:
  - name: pump
    line: bus
    points: { level: { holding: 0, type: u16 }, valve: { holding: 1, type: u16, write: { min: 0, max: 1 } } }
uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:1
    commands: true
    send: [ { filter: 'seven/+/valve', to: 'valves/{site}/+' }, { filter: 'seven/#', strip: seven/, prefix: oilco/ } ]
    receive: [ { filter: 'cmd/+/#', to: 'here/+/#' } ]
";
    fs::write(&file, text).unwrap();
    let (code, out, error) = run(wellhead().arg("check").arg(&file));
    assert_eq!(code, Some(0), "{error}");
    for line in [
        "  sends seven/+/valve: seven/pump/valve as valves/seven/pump\n",
        "  sends seven/#: seven/pump/level as oilco/pump/level\n",
        "  receives cmd/+/#: cmd/a/x/y as here/a/x/y\n",
        "  subscribes to commands: valves/seven/pump/set\n",
        "  a command on oilco/pump/level/set is for seven/pump/level, and its result goes to oilco/pump/level/set/result\n",
    ] {
        assert!(out.contains(line), "{line}{out}");
    }
}
