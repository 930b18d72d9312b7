//! Outbox and uplink as their user sees them: lanes, limits of the remote, refusals, policies,
//! gaps, the command `outbox`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::remote::{Remote, Wire};
use super::support::{
    Gateway, Mosquitto, NOBODY, PATIENCE, free_port, run, subscriber, wait_for, wait_for_port,
    wellhead,
};

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;

struct Site {
    gateway: Gateway,
    port: u16,
    folder: tempfile::TempDir,
}

/// A gateway with three classes by topic, whose uplink goes to `remote`. `extra` and `outbox` are
/// added to its file.
fn site(remote: u16, extra: &str, outbox: &str) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "site: x
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ], max_packet: 1MB }}
outbox: {{ folder: state{outbox} }}
classes:
  alarm: {{ qos: 2, lane: alarm }}
  once: {{ qos: 2, lane: alarm, if_session_lost: drop }}
  bulk: {{ qos: 1, lane: backlog }}
  loose: {{ qos: 0 }}
uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:{remote}
    retry: {{ first: 50ms, longest: 200ms }}
    {extra}
    send:
      - {{ filter: 'alarm/#', class: alarm }}
      - {{ filter: 'once/#', class: once }}
      - {{ filter: 'bulk/#', class: bulk }}
      - {{ filter: 'loose/#', class: loose }}
      - {{ filter: '#' }}
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

impl Site {
    fn publish(&self, topic: &str, payload: &str) {
        self.publish_with(topic, payload, &[]);
    }

    fn publish_with(&self, topic: &str, payload: &str, more: &[&str]) {
        let port = self.port.to_string();
        let mut command = Command::new("mosquitto_pub");
        command
            .args([
                "-V", "5", "-p", &port, "-q", "1", "-t", topic, "-m", payload,
            ])
            .args(more);
        let (code, _, error) = run(&mut command);
        assert_eq!(code, Some(0), "{error}");
    }

    /// The retained message of one of the gateway's own topics.
    fn told(&self, topic: &str) -> String {
        run(Command::new("mosquitto_sub").args([
            "-p",
            &self.port.to_string(),
            "-t",
            topic,
            "-C",
            "1",
            "-W",
            "10",
        ]))
        .1
    }

    fn wait_until_told(&self, topic: &str, text: &str) -> String {
        wait_for(&format!("{text} on {topic}"), || {
            Some(self.told(topic)).filter(|told| told.contains(text))
        })
    }

    fn outbox(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        run(wellhead()
            .arg("outbox")
            .args(arguments)
            .arg(self.folder.path().join("gateway.yaml")))
    }
}

const STATUS: &str = "$SYS/wellhead/uplink/cloud";
const GAP: &str = "$SYS/wellhead/uplink/cloud/gap";

/// Ends a QoS 2 message.
fn complete(wire: &mut Wire, id: u16) {
    wire.answer(PUBREC, id, 0);
    let release = wire.read();
    assert_eq!(
        (release.first, &release.body[..2]),
        (0x62, &id.to_be_bytes()[..])
    );
    wire.answer(PUBCOMP, id, 0);
}

#[test]
fn alarms_go_first_and_the_backlog_last() {
    let remote = Remote::listen();
    let site = site(NOBODY, "", "");
    for number in 0..3 {
        site.publish("bulk/x", &format!("bulk {number}"));
        site.publish("live/x", &format!("live {number}"));
    }
    site.publish("alarm/x", "alarm");
    // The link comes only after everything waits.
    let yaml = fs::read_to_string(site.folder.path().join("gateway.yaml")).unwrap();
    let Site {
        mut gateway,
        folder,
        ..
    } = site;
    assert!(gateway.process.terminate().success());
    fs::write(
        folder.path().join("gateway.yaml"),
        yaml.replace(&format!(":{NOBODY}\n"), &format!(":{}\n", remote.port)),
    )
    .unwrap();
    let _gateway = Gateway::restart(folder.path());
    let mut wire = remote.accept(false, &[]);
    let mut got = Vec::new();
    while got.len() < 7 {
        let publish = wire.publish();
        wire.answer(
            if publish.qos == 2 { PUBREC } else { PUBACK },
            publish.id,
            0,
        );
        got.push(publish.payload);
    }
    assert_eq!(
        got,
        [
            "alarm", "live 0", "live 1", "live 2", "bulk 0", "bulk 1", "bulk 2"
        ]
    );
}

#[test]
fn what_the_remote_refuses_for_good_is_kept_as_a_dead_letter_and_what_it_cannot_take_now_comes_again()
 {
    let remote = Remote::listen();
    let mut site = site(remote.port, "", "");
    let mut wire = remote.accept(false, &[]);
    site.publish("a/refused", "for ever");
    let publish = wire.publish();
    wire.answer(PUBACK, publish.id, 0x87);
    site.publish("alarm/refused", "exactly never");
    let publish = wire.publish();
    wire.answer(PUBREC, publish.id, 0x99);
    site.publish("a/later", "not now");
    let first = wire.publish();
    wire.answer(PUBACK, first.id, 0x97);
    assert!(
        wire.read_within(Duration::from_millis(400)).is_none(),
        "not at once"
    );
    let again = wire.publish();
    assert_eq!((again.payload.as_str(), again.dup), ("not now", false));
    assert_ne!(again.id, first.id, "a new attempt, not a repetition");
    wire.answer(PUBACK, again.id, 0);
    site.publish("a/last", "last");
    let last = wire.publish();
    assert_eq!(last.payload, "last", "nothing refused comes again");
    wire.answer(PUBACK, last.id, 0);
    let told = site.wait_until_told(STATUS, "\"waiting\":0");
    assert!(
        told.contains("\"dead\":2")
            && told.contains("\"refused\":2")
            && told.contains("\"lost\":0"),
        "{told}"
    );

    let (code, out, error) = site.outbox(&["show"]);
    assert!(code == Some(0) && out.contains("running"), "{out}{error}");
    wait_for("both are on disk", || {
        (site.outbox(&["export"]).1.lines().count() == 2).then_some(())
    });
    assert!(site.gateway.process.terminate().success());
    let (code, out, error) = site.outbox(&["show", "--json"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(
        out.lines()
            .any(|line| line.contains("\"queue\":\"dead\",\"waiting\":2")),
        "{out}"
    );
    let (code, out, error) = site.outbox(&["export", "--queue", "dead"]);
    assert_eq!(code, Some(0), "{error}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines.len() == 2
            && lines[0].contains("\"payload\":\"for ever\"")
            && lines[0].contains("0x87"),
        "{out}"
    );
    let (code, _, error) = site.outbox(&["purge", "--queue", "dead"]);
    assert!(
        code == Some(1) && error.contains("2 messages") && error.contains("--yes"),
        "{error}"
    );
    let (code, _, error) = site.outbox(&["purge", "--queue", "dead", "--yes"]);
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(site.outbox(&["export", "--queue", "dead"]).1, "");
}

#[test]
fn qos_2_messages_that_are_not_finished_hold_back_no_message_of_another_lane() {
    let remote = Remote::listen();
    let site = site(remote.port, "protocol: 3.1.1", "");
    let mut wire = remote.accept_v4(false);
    for number in 0..10 {
        site.publish("alarm/x", &format!("alarm {number}"));
    }
    site.publish("live/x", "live");
    let next = |wire: &mut Wire| loop {
        let packet = wire.read();
        if packet.kind() == 3 {
            return packet.publish_v4();
        }
    };
    let got: Vec<_> = (0..9).map(|_| next(&mut wire)).collect();
    assert_eq!(got[8].payload, "live", "the last two alarms wait");
    let [high, low] = got[0].id.to_be_bytes();
    wire.write(&[PUBREC, 2, high, low]);
    assert_eq!(wire.read().first, 0x62);
    wire.write(&[PUBCOMP, 2, high, low]);
    assert_eq!(next(&mut wire).payload, "alarm 8");
}

#[test]
fn refusals_take_no_room_on_the_link() {
    let remote = Remote::listen();
    let site = site(remote.port, "", "");
    let mut wire = remote.accept(false, &[]);
    let payload = "x".repeat(1000);
    // More bytes than may be on their way.
    for _ in 0..20 {
        site.publish("a/refused", &payload);
        let publish = wire.publish();
        wire.answer(PUBACK, publish.id, 0x87);
    }
    for payload in ["1", "2", "3"] {
        site.publish("a/x", payload);
    }
    for payload in ["1", "2", "3"] {
        assert_eq!(
            wire.publish().payload,
            payload,
            "it does not wait for the answer to the one before"
        );
    }
}

#[test]
fn a_purge_does_not_send_a_second_time_what_is_being_written() {
    let remote = Remote::listen();
    let site = site(remote.port, "", "");
    let mut wire = remote.accept(false, &[]);
    site.gateway.process.wait_for_event("uplink.up", &[]);
    site.publish("a/x", "removed");
    // More than the link takes while the remote does not read.
    let file = site.folder.path().join("large");
    for number in 10..40 {
        fs::write(&file, format!("{number}{}", "x".repeat(900_000))).unwrap();
        let (port, file) = (site.port.to_string(), file.display().to_string());
        assert_eq!(
            run(Command::new("mosquitto_pub")
                .args(["-p", &port, "-q", "1", "-t", "loose/x", "-f", &file]))
            .0,
            Some(0)
        );
    }
    let (code, _, error) = site.outbox(&["purge", "--topic", "a/x", "--yes"]);
    assert_eq!(code, Some(0), "{error}");
    site.publish("loose/x", "last");
    let mut got = Vec::new();
    while got.last().is_none_or(|last| last != "last") {
        got.push(wire.publish().payload.chars().take(4).collect::<String>());
    }
    let expected: Vec<String> = (10..40)
        .map(|number| format!("{number}xx"))
        .chain(["last".to_owned()])
        .collect();
    got.retain(|payload| payload != "remo");
    assert_eq!(got, expected, "each once");
}

#[test]
fn what_the_remote_says_it_can_do_is_obeyed() {
    let remote = Remote::listen();
    let site = site(
        remote.port,
        "receive: [ { filter: 'cmd/#' }, { filter: cmd } ]",
        "",
    );
    // Maximum QoS 1, retain not available, two topic aliases, packets of 300 bytes, keep alive 5 s,
    // no wildcards.
    let mut wire = remote.accept(
        false,
        &[
            0x24, 1, 0x25, 0, 0x22, 0, 2, 0x27, 0, 0, 1, 44, 0x13, 0, 5, 0x28, 0,
        ],
    );
    let subscribe = wire.read();
    assert_eq!(subscribe.kind(), 8);
    assert!(
        !subscribe.body.windows(5).any(|part| part == b"cmd/#"),
        "{subscribe:?}"
    );
    site.gateway
        .process
        .wait_for_event("uplink.wildcard_refused", &["filter=cmd/#"]);
    let mut send = |topic: &str, payload: &str, more: &[&str]| {
        site.publish_with(topic, payload, more);
        let publish = wire.publish();
        wire.answer(PUBACK, publish.id, 0);
        publish
    };
    let alarm = send("alarm/x", "1", &["-r"]);
    assert_eq!(
        (alarm.qos, alarm.retain, alarm.topic.as_str()),
        (1, false, "alarm/x")
    );
    assert!(
        alarm.properties.windows(3).any(|part| part == [0x23, 0, 1]),
        "it sets an alias: {alarm:?}"
    );
    let second = send("alarm/x", "2", &[]);
    assert_eq!(second.topic, "", "the alias stands for it");
    assert!(
        second
            .properties
            .windows(3)
            .any(|part| part == [0x23, 0, 1]),
        "{second:?}"
    );
    assert_eq!(send("b/x", "3", &[]).topic, "b/x");
    let third = send("c/x", "4", &[]);
    assert!(
        third.topic == "c/x" && third.properties.first() != Some(&0x23),
        "there are two aliases only: {third:?}"
    );
    site.publish("large/x", &"x".repeat(400));
    assert_eq!(
        send("alarm/x", "5", &[]).topic,
        "",
        "the large one was left out"
    );
    site.wait_until_told(STATUS, "\"dead\":1");
    let ping = std::iter::from_fn(|| wire.read_within(Duration::from_secs(12)))
        .find(|packet| packet.kind() == 12);
    assert!(ping.is_some(), "the remote wants a sign of life every 5 s");
    wire.write(&[0xD0, 0]);
    // The short form of DISCONNECT: a reason and nothing else.
    wire.write(&[0xE0, 1, 0x8B]);
    site.gateway
        .process
        .wait_for_event("uplink.down", &["0x8b"]);
}

#[test]
fn a_forgotten_session_follows_the_class_and_is_told() {
    let remote = Remote::listen();
    let site = site(remote.port, "", "");
    let mut wire = remote.accept(false, &[]);
    site.publish("alarm/x", "resend");
    site.publish("once/x", "never twice");
    site.publish("alarm/y", "confirmed");
    let mut last = 0;
    for _ in 0..3 {
        last = wire.publish().id;
    }
    wire.answer(PUBREC, last, 0);
    assert_eq!(wire.read().first, 0x62);
    drop(wire);
    let mut wire = remote.accept(false, &[]);
    let again = wire.publish();
    assert_eq!(
        (again.payload.as_str(), again.dup),
        ("resend", false),
        "new to a new session"
    );
    complete(&mut wire, again.id);
    assert!(
        wire.read_within(Duration::from_millis(500)).is_none(),
        "nothing else comes"
    );
    let gap = site.wait_until_told(GAP, "session-lost");
    assert!(
        gap.contains("\"count\":1") && gap.contains("\"lane\":\"alarm\""),
        "{gap}"
    );
    let told = site.wait_until_told(STATUS, "\"waiting\":0");
    assert!(
        told.contains("\"resent\":1") && told.contains("\"lost\":1"),
        "{told}"
    );
}

#[test]
fn expiry_is_counted_down_and_what_has_expired_is_told_as_a_gap() {
    let remote = Remote::listen();
    let site = site(remote.port, "", "");
    site.publish_with(
        "a/short",
        "gone",
        &["-D", "publish", "message-expiry-interval", "1"],
    );
    site.publish_with(
        "a/long",
        "kept",
        &["-D", "publish", "message-expiry-interval", "100"],
    );
    std::thread::sleep(Duration::from_millis(2500));
    let mut wire = remote.accept(false, &[]);
    let publish = wire.publish();
    assert_eq!(publish.payload, "kept");
    let left = publish
        .properties
        .iter()
        .position(|byte| *byte == 2)
        .map(|at| publish.properties[at + 4])
        .unwrap();
    assert!((90..=98).contains(&left), "{left} s are left");
    wire.answer(PUBACK, publish.id, 0);
    let gap = site.wait_until_told(GAP, "expired");
    assert!(gap.contains("\"first\":1,\"last\":1,\"count\":1"), "{gap}");
}

/// Publishes 1 kB messages numbered from 0, as fast as it goes; returns the exit code.
fn flood(site: &Site, count: u32, size: usize) -> Option<i32> {
    let lines: String = (0..count)
        .map(|number| format!("{number} {}\n", "x".repeat(size)))
        .collect();
    let file = site.folder.path().join("lines");
    fs::write(&file, lines).unwrap();
    run(Command::new("sh").args([
        "-c",
        &format!(
            "mosquitto_pub -V 5 -p {} -q 1 -t n -l < {}",
            site.port,
            file.display()
        ),
    ]))
    .0
}

#[test]
fn over_its_size_an_outbox_drops_the_oldest_and_tells_the_gap() {
    let site = site(NOBODY, "", ", keep: { size: 16MB }");
    let gaps = subscriber(site.folder.path(), site.port, GAP);
    assert_eq!(flood(&site, 300, 100_000), Some(0));
    let gap = site.wait_until_told(GAP, "\"reason\":\"full\"");
    let told = wait_for("the first gap", || {
        gaps.output().lines().next().map(str::to_owned)
    });
    assert!(
        told.contains("\"first\":1,"),
        "the oldest went first: {told}"
    );
    assert!(
        gap.contains("\"first\":")
            && gap.contains("\"series\":\"")
            && gap.contains("\"from\":\"20"),
        "{gap}"
    );
    let told = site.wait_until_told(STATUS, "\"lost\":");
    assert!(!told.contains("\"lost\":0,"), "{told}");
    // What is left is the newest.
    let Site {
        mut gateway,
        folder,
        ..
    } = site;
    assert!(gateway.process.terminate().success());
    let used = run(Command::new("du")
        .args(["-sm"])
        .arg(folder.path().join("state")))
    .1;
    let used: u32 = used.split_whitespace().next().unwrap().parse().unwrap();
    assert!(
        used <= 16 + 8 + 4,
        "{used} MB with the reserve and a partition made ahead"
    );
    let (code, out, error) = run(wellhead()
        .args(["outbox", "export", "--folder"])
        .arg(folder.path().join("state")));
    assert_eq!(code, Some(0), "{error}");
    assert!(
        out.lines().last().unwrap().contains("\"payload\":\"299 x"),
        "the newest is there"
    );
}

#[test]
fn over_its_size_an_outbox_refuses_or_drops_the_newest_as_told() {
    let refusing = site(NOBODY, "", ", keep: { size: 16MB }, when_full: refuse");
    flood(&refusing, 300, 100_000);
    refusing.gateway.process.wait_for_event("outbox.full", &[]);
    let port = refusing.port.to_string();
    let reason = wait_for("a refusal", || {
        let (_, out, error) = run(Command::new("mosquitto_pub").args([
            "-V", "5", "-d", "-p", &port, "-q", "1", "-t", "n", "-m", "one more",
        ]));
        Some(out + &error).filter(|told| {
            told.contains("rc:151") || told.contains("RC:151") || told.contains("uota")
        })
    });
    assert!(!reason.is_empty());
    let told = refusing.wait_until_told(STATUS, "\"full\":true");
    assert!(
        told.contains("\"lost\":0,"),
        "what was refused was never taken: {told}"
    );

    let dropping = site(NOBODY, "", ", keep: { size: 16MB }, when_full: drop-newest");
    assert_eq!(flood(&dropping, 300, 100_000), Some(0));
    let gap = dropping.wait_until_told(GAP, "full-newest");
    assert!(!gap.contains("\"first\":1,"), "the oldest are kept: {gap}");
}

#[test]
fn a_backup_is_used_after_its_time_carries_its_classes_and_rests_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Mosquitto::start(folder.path(), "");
    let second = Mosquitto::start(folder.path(), "");
    let reader = subscriber(folder.path(), second.port, "#");
    let yaml = format!(
        "site: x
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
classes: {{ alarm: {{ qos: 2, lane: alarm }} }}
lines: [ {{ name: bench, simulated: {{}} }} ]
devices:
  - {{ name: d, line: bench, points: {{ quiet: {{ every: 100ms }}, loud: {{ every: 100ms, class: alarm }} }} }}
uplinks:
  - {{ name: cloud, to: 'mqtt://127.0.0.1:{}', retry: {{ first: 100ms, longest: 200ms }}, send: [ {{ filter: '#' }} ] }}
  - {{ name: satellite, to: 'mqtt://127.0.0.1:{}', use_when: cloud down for 2s, client_id: sat, send: [ {{ filter: '#', only: [ alarm ] }} ] }}
",
        first.port, second.port
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    let state = |uplink: &str| {
        run(Command::new("mosquitto_sub").args([
            "-p",
            &port.to_string(),
            "-t",
            &format!("$SYS/broker/connection/{uplink}/state"),
            "-C",
            "1",
            "-W",
            "10",
        ]))
        .1
    };
    wait_for("the first link is up", || {
        (state("cloud").trim() == "1").then_some(())
    });
    std::thread::sleep(Duration::from_millis(2500));
    assert!(reader.output().is_empty(), "the backup rests");
    first.stop();
    wait_for("alarms over the backup", || {
        (reader.output().matches("x/d/loud").count() > 10).then_some(())
    });
    assert!(!reader.output().contains("x/d/quiet"), "its classes only");
    first.resume();
    gateway.process.wait_for_event("uplink.standby", &[]);
    let before = reader.output().len();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(reader.output().len(), before, "it rests again");
}

#[test]
fn a_backup_that_only_its_rate_holds_back_rests_as_soon_as_the_other_link_is_up() {
    let (first, second) = (Remote::listen(), Remote::listen());
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "site: x
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
uplinks:
  - {{ name: cloud, to: 'mqtt://127.0.0.1:{}', presence: false, send: [ {{ filter: '#' }} ] }}
  - {{ name: satellite, to: 'mqtt://127.0.0.1:{}', presence: false, use_when: cloud down for 1s, client_id: sat, rate: 1/min, send: [ {{ filter: '#' }} ] }}
",
        first.port, second.port
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    let mut backup = second.accept(false, &[]);
    let site = Site {
        gateway,
        port,
        folder,
    };
    for payload in ["1", "2", "3"] {
        site.publish("a/x", payload);
    }
    let publish = backup.publish();
    backup.answer(PUBACK, publish.id, 0);
    assert!(backup.read_within(Duration::from_millis(300)).is_none());
    let _primary = first.accept(false, &[]);
    assert_eq!(backup.read().kind(), 14, "two messages wait for the rate");
    site.gateway.process.wait_for_event("uplink.standby", &[]);
}

#[test]
fn several_addresses_are_tried_in_order_and_an_interface_can_be_named() {
    let remote = Remote::listen();
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "site: x\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\noutbox: {{ folder: state }}\nuplinks: [ {{ name: cloud, to: [ 'mqtt://127.0.0.1:{NOBODY}', 'mqtt://127.0.0.1:{}' ], tcp: {{ interface: lo, nodelay: false }}, send: [ {{ filter: '#' }} ] }} ]\n",
        remote.port
    );
    let _gateway = Gateway::start(folder.path(), &yaml);
    let _wire = remote.accept(false, &[]);
    let place = folder.path().join("absent");
    fs::create_dir(&place).unwrap();
    let gateway = Gateway::start(
        &place,
        &yaml
            .replace("interface: lo", "interface: nowhere0")
            .replace(&format!("'mqtt://127.0.0.1:{NOBODY}', "), ""),
    );
    gateway
        .process
        .wait_for_event("uplink.down", &["network interface nowhere0"]);
}

#[test]
fn messages_of_the_remote_arrive_once_although_the_link_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "max_queued_messages 0\n");
    let link = super::support::Link::to(remote.port);
    let yaml = format!(
        "site: x
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
uplinks: [ {{ name: cloud, to: 'mqtt://127.0.0.1:{}', retry: {{ first: 50ms, longest: 100ms }}, receive: [ {{ filter: 'cmd/#', qos: 2 }} ], send: [ {{ filter: 'up/#' }} ] }} ]
",
        link.port
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    gateway.process.wait_for_event("uplink.up", &[]);
    let mut command = super::support::mosquitto_sub();
    command.args([
        "-d",
        "-p",
        &port.to_string(),
        "-t",
        "cmd/#",
        "-q",
        "2",
        "-F",
        "got %p",
    ]);
    let reader = super::support::Process::start(&mut command, &folder.path().join("reader"));
    reader.wait_for_output("Subscribed");
    let count = 3000;
    let lines: String = (0..count).map(|number| format!("{number}\n")).collect();
    fs::write(folder.path().join("lines"), lines).unwrap();
    let script = format!(
        "mosquitto_pub -p {} -q 2 -t cmd/n -l < {}",
        remote.port,
        folder.path().join("lines").display()
    );
    let mut publisher = super::support::Process::start(
        Command::new("sh").args(["-c", &script]),
        &folder.path().join("publisher"),
    );
    for _ in 0..6 {
        std::thread::sleep(Duration::from_millis(150));
        link.cut();
        std::thread::sleep(Duration::from_millis(60));
        link.restore();
    }
    assert!(publisher.wait().success());
    let got = || -> Vec<u32> {
        reader
            .output()
            .lines()
            .filter_map(|line| line.strip_prefix("got ")?.parse().ok())
            .collect()
    };
    wait_for("all of them", || {
        (got().len() >= count as usize).then_some(())
    });
    assert_eq!(got(), (0..count).collect::<Vec<u32>>(), "once, in order");
    assert!(
        remote.output().matches(" as x (p5").count() > 3,
        "the link was cut"
    );
}

/// An HTTP proxy in the fewest lines.
fn proxy(login: &'static str) -> u16 {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut near in listener.incoming().flatten() {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && near.read(&mut byte).is_ok_and(|n| n > 0) {
                request.push(byte[0]);
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            if !request.contains(login) {
                let _ = near.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
                continue;
            }
            let target = request.split(' ').nth(1).unwrap().to_owned();
            let mut far = std::net::TcpStream::connect(target).unwrap();
            near.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
                .unwrap();
            let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || std::io::copy(&mut far, &mut near));
        }
    });
    port
}

#[test]
fn a_proxy_is_used_with_its_login_and_its_refusal_is_told() {
    let remote = Remote::listen();
    // site:secret
    let port = proxy("Basic c2l0ZTpzZWNyZXQ=");
    let through = site(
        remote.port,
        &format!("proxy: 'http://site:secret@127.0.0.1:{port}'"),
        "",
    );
    let mut wire = remote.accept(false, &[]);
    through.publish("a/x", "through");
    assert_eq!(wire.publish().payload, "through");
    let refused = site(
        remote.port,
        &format!("proxy: 'http://site:wrong@127.0.0.1:{port}'"),
        "",
    );
    refused
        .gateway
        .process
        .wait_for_event("uplink.down", &["407 Proxy Authentication Required"]);
    assert!(
        !refused.gateway.process.output().contains("wrong"),
        "no secret in the log"
    );
}

/// True if this mosquitto speaks WebSocket.
fn web_socket_listener(folder: &Path, tls: &str) -> (Mosquitto, u16) {
    let port = free_port();
    let remote = Mosquitto::start(
        folder,
        &format!("listener {port} 127.0.0.1\nprotocol websockets\nallow_anonymous true\n{tls}"),
    );
    wait_for_port(port);
    (remote, port)
}

#[test]
fn web_socket_and_web_socket_over_tls_carry_messages() {
    for is_tls in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let pem = super::support::Pem::make(folder.path());
        let tls = if is_tls {
            format!(
                "certfile {}\nkeyfile {}\n",
                pem.path("server.pem"),
                pem.path("server.key")
            )
        } else {
            String::new()
        };
        let (remote, port) = web_socket_listener(folder.path(), &tls);
        let reader = subscriber(folder.path(), remote.port, "#");
        let (scheme, ca) = if is_tls {
            (
                "wss",
                format!("ca: {}, alpn: [ mqtt ], ", pem.path("ca.pem")),
            )
        } else {
            ("ws", String::new())
        };
        let yaml = format!(
            "site: x\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\noutbox: {{ folder: state }}\nuplinks: [ {{ name: cloud, to: '{scheme}://127.0.0.1:{port}/mqtt', {ca}send: [ {{ filter: '#' }} ] }} ]\n"
        );
        let gateway = Gateway::start(folder.path(), &yaml);
        let local = gateway.port();
        let lines: String = (0..200)
            .map(|number| format!("{number} {}\n", "x".repeat(3000)))
            .collect();
        fs::write(folder.path().join("lines"), lines).unwrap();
        let script = format!(
            "mosquitto_pub -p {local} -q 2 -t n -l < {}",
            folder.path().join("lines").display()
        );
        assert_eq!(run(Command::new("sh").args(["-c", &script])).0, Some(0));
        wait_for("all of them", || {
            (reader.output().matches(" n ").count() >= 200).then_some(())
        });
    }
}

#[test]
fn what_was_not_asked_for_does_not_come_in_and_a_quiet_sender_is_pinged() {
    let remote = Remote::listen();
    let site = site(
        remote.port,
        "keep_alive: 5s, receive: [ { filter: 'cmd/#' } ]"
            .replace(", ", "\n    ")
            .as_str(),
        "",
    );
    let mut wire = remote.accept(false, &[]);
    let mut reader = super::support::mosquitto_sub();
    reader.args([
        "-d",
        "-p",
        &site.port.to_string(),
        "-t",
        "#",
        "-F",
        "got %t",
    ]);
    let reader = super::support::Process::start(&mut reader, &site.folder.path().join("reader"));
    reader.wait_for_output("Subscribed");
    // QoS 1, identifier 7, to a topic that no filter covers; it is acknowledged all the same.
    wire.write(&[0x32, 8, 0, 1, b'o', 0, 7, 0, b'1', b'2']);
    let answer = std::iter::from_fn(|| wire.read_within(Duration::from_secs(10)))
        .find(|packet| packet.kind() == 4)
        .unwrap();
    assert_eq!(answer.body[..2], [0, 7]);
    // The remote speaks all the time, this side has nothing to say: it must ping nevertheless.
    let mut is_pinged = false;
    for _ in 0..80 {
        wire.write(&[0x30, 8, 0, 5, b'c', b'm', b'd', b'/', b'x', 0]);
        is_pinged |= wire
            .read_within(Duration::from_millis(100))
            .is_some_and(|packet| packet.kind() == 12);
    }
    assert!(is_pinged, "the keep alive is for what is sent");
    assert!(
        reader.output().contains("got cmd/x") && !reader.output().contains("got o"),
        "{}",
        reader.output()
    );
}

#[test]
fn a_remote_that_owes_answers_and_says_nothing_is_given_up() {
    let remote = Remote::listen();
    let site = site(remote.port, "answer_within: 1s", "");
    let mut wire = remote.accept(false, &[]);
    site.publish("a/x", "unanswered");
    let first = wire.publish();
    site.gateway
        .process
        .wait_for_event("uplink.down", &["silent"]);
    let mut wire = remote.accept(true, &[]);
    let again = wire.publish();
    assert_eq!(
        (again.payload.as_str(), again.dup, again.id),
        ("unanswered", true, first.id)
    );
    assert!(PATIENCE > Duration::from_secs(1));
}

#[test]
fn a_message_that_makes_the_remote_disconnect_is_taken_out_in_the_end() {
    let remote = Remote::listen();
    let site = site(remote.port, "", "");
    site.publish("a/poison", "poison");
    site.publish("a/good", "good");
    for round in 0..3 {
        let mut wire = remote.accept(round > 0, &[]);
        assert_eq!(wire.publish().payload, "poison");
        wire.write(&[0xE0, 1, 0x99]);
    }
    let mut wire = remote.accept(true, &[]);
    let good = wire.publish();
    assert_eq!(good.payload, "good");
    wire.answer(PUBACK, good.id, 0);
    let told = site.wait_until_told(STATUS, "\"dead\":1");
    assert!(told.contains("\"lost\":0"), "{told}");
}

#[test]
fn a_qos_2_message_that_makes_the_remote_close_takes_qos_2_from_no_other_message() {
    let remote = Remote::listen();
    let site = site(remote.port, "", "");
    site.publish("once/poison", "once");
    let closed = |count: u32, payload: &str, qos: u8| {
        for _ in 0..count {
            let mut wire = remote.accept(true, &[]);
            let publish = wire.publish();
            assert_eq!((publish.payload.as_str(), publish.qos), (payload, qos));
            wire.close();
        }
    };
    closed(4, "once", 2);
    // After one message taken out it takes twice as many closes, until one is acknowledged.
    let mut wire = remote.accept(true, &[]);
    site.wait_until_told(STATUS, "\"dead\":1");
    site.publish("a/x", "good");
    let good = wire.publish();
    assert_eq!(
        good.payload, "good",
        "what must not come twice is not sent with QoS 1"
    );
    wire.answer(PUBACK, good.id, 0);
    site.publish("alarm/poison", "poison");
    assert_eq!(wire.publish().payload, "poison");
    wire.close();
    closed(3, "poison", 2);
    closed(1, "poison", 1);
    let mut wire = remote.accept(true, &[]);
    site.wait_until_told(STATUS, "\"dead\":2");
    site.publish("alarm/x", "alarm");
    let alarm = wire.publish();
    assert_eq!(
        (alarm.payload.as_str(), alarm.qos),
        ("alarm", 2),
        "it was the message, not the QoS"
    );
}

#[test]
fn a_limit_can_be_set_for_a_remote_that_tells_none() {
    let folder = tempfile::tempdir().unwrap();
    // It closes the connection on larger packets.
    let remote = Mosquitto::start(folder.path(), "max_packet_size 2000\n");
    let reader = subscriber(folder.path(), remote.port, "#");
    let site = site(remote.port, "protocol: 3.1.1\n    max_packet: 2kB", "");
    site.gateway.process.wait_for_event("uplink.up", &[]);
    site.publish("a/large", &"x".repeat(5000));
    site.publish("a/small", "small");
    wait_for("the small one", || {
        reader.output().contains("a/small small").then_some(())
    });
    site.wait_until_told(STATUS, "\"dead\":1");
    assert_eq!(site.gateway.process.events("uplink.up", &[]).len(), 1);
}

#[test]
fn a_repetition_of_the_remote_is_recognised_after_a_kill_9() {
    let remote = Remote::listen();
    let site = site(remote.port, "receive: [ { filter: 'cmd/#', qos: 2 } ]", "");
    let mut wire = remote.accept(false, &[]);
    let publish = |dup: u8| {
        [
            0x34 | dup << 3,
            11,
            0,
            5,
            b'c',
            b'm',
            b'd',
            b'/',
            b'x',
            0,
            7,
            0,
            b'!',
        ]
    };
    wire.write(&publish(0));
    let kinds = |wire: &mut Wire, kind| {
        std::iter::from_fn(|| wire.read_within(Duration::from_secs(10)))
            .find(|packet| packet.kind() == kind)
            .map(|packet| packet.body)
    };
    assert_eq!(kinds(&mut wire, 5).as_deref(), Some(&[0, 7][..]), "PUBREC");
    let Site {
        gateway, folder, ..
    } = site;
    let gateway = gateway.kill_and_restart();
    let port = gateway.port();
    let mut reader = super::support::mosquitto_sub();
    reader.args(["-d", "-p", &port.to_string(), "-t", "cmd/#", "-F", "got %p"]);
    let reader = super::support::Process::start(&mut reader, &folder.path().join("reader"));
    reader.wait_for_output("Subscribed");
    let mut wire = remote.accept(true, &[]);
    wire.write(&publish(1));
    assert_eq!(
        kinds(&mut wire, 5).as_deref(),
        Some(&[0, 7][..]),
        "PUBREC again"
    );
    wire.write(&[0x62, 2, 0, 7]);
    assert_eq!(kinds(&mut wire, 7).as_deref(), Some(&[0, 7][..]), "PUBCOMP");
    // The identifier is free now: what comes under it is new.
    wire.write(&publish(0));
    assert_eq!(kinds(&mut wire, 5).as_deref(), Some(&[0, 7][..]));
    reader.wait_for_output("got !");
    assert_eq!(
        reader.output().matches("got !").count(),
        1,
        "the repetition was not handed on"
    );
}

/// The answer may have been lost, and with it that the session is a new one, which knows no
/// subscription.
#[test]
fn after_an_answer_that_never_came_subscriptions_are_asked_for_again() {
    let remote = Remote::listen();
    let _site = site(remote.port, "receive: [ { filter: 'cmd/a' } ]", "");
    let mut wire = remote.accept(false, &[]);
    assert_eq!(wire.read().kind(), 8);
    wire.write(&[0x90, 4, 0xFF, 0xFF, 0, 1]);
    // What is known to be there is not paid for twice.
    drop(wire);
    let mut wire = remote.accept(true, &[]);
    assert!(
        wire.read_within(Duration::from_secs(2))
            .is_none_or(|packet| packet.kind() != 8)
    );
    drop(wire);
    drop(remote.connect());
    let mut wire = remote.accept(true, &[]);
    assert_eq!(wire.read().kind(), 8);
}

#[test]
fn a_filter_that_is_taken_out_of_the_file_is_unsubscribed() {
    let remote = Remote::listen();
    let site = site(
        remote.port,
        "receive: [ { filter: 'cmd/a' }, { filter: 'cmd/b' } ]",
        "",
    );
    let mut wire = remote.accept(false, &[]);
    assert_eq!(wire.read().kind(), 8);
    // SUBACK; what was asked for is noted.
    wire.write(&[0x90, 5, 0xFF, 0xFF, 0, 1, 1]);
    let Site {
        mut gateway,
        folder,
        ..
    } = site;
    assert!(gateway.process.terminate().success());
    let file = folder.path().join("gateway.yaml");
    let yaml = fs::read_to_string(&file).unwrap();
    fs::write(&file, yaml.replace(", { filter: 'cmd/b' }", "")).unwrap();
    let _gateway = Gateway::restart(folder.path());
    let mut wire = remote.accept(true, &[]);
    let unsubscribe = wire.read();
    assert_eq!(unsubscribe.kind(), 10);
    assert!(
        unsubscribe.body.ends_with(b"\0\x05cmd/b")
            && !unsubscribe.body.windows(5).any(|part| part == b"cmd/a"),
        "{unsubscribe:?}"
    );
    let subscribe = wire.read();
    assert!(
        subscribe.kind() == 8 && !subscribe.body.windows(5).any(|part| part == b"cmd/b"),
        "{subscribe:?}"
    );
}

/// Changes the file of a site and lets its gateway read it again.
fn reload(site: &Site, from: &str, to: &str) {
    let file = site.folder.path().join("gateway.yaml");
    let yaml = fs::read_to_string(&file).unwrap();
    assert!(yaml.contains(from), "{from}");
    fs::write(&file, yaml.replace(from, to)).unwrap();
    let (code, out, error) = run(wellhead().arg("reload").arg(&file));
    assert!(
        code == Some(0) && out == "uplink cloud connects anew\n",
        "{out}{error}"
    );
}

#[test]
fn a_reload_waits_for_acknowledgements_that_are_on_their_way_and_sends_nothing_new_meanwhile() {
    let remote = Remote::listen();
    let site = site(remote.port, "", "");
    let mut wire = remote.accept(false, &[]);
    site.publish("a/x", "once");
    site.publish("alarm/x", "exactly once");
    let (first, second) = (wire.publish(), wire.publish());
    assert_eq!(
        (first.payload.as_str(), second.payload.as_str()),
        ("once", "exactly once")
    );
    reload(&site, "retry:", "number_messages: false\n    retry:");
    site.publish("a/x", "new");
    // The answers are late: until they are here there is neither an end nor anything new.
    assert!(
        wire.read_within(Duration::from_millis(500)).is_none(),
        "it waits for the acknowledgements"
    );
    wire.answer(PUBACK, first.id, 0);
    complete(&mut wire, second.id);
    assert_eq!(
        wire.read().kind(),
        14,
        "DISCONNECT, and nothing else before it"
    );
    let mut wire = remote.accept(true, &[]);
    let new = wire.publish();
    assert_eq!(
        (new.payload.as_str(), new.dup),
        ("new", false),
        "nothing comes a second time"
    );
    wire.answer(PUBACK, new.id, 0);
}

#[test]
fn a_reload_does_not_wait_for_a_remote_that_never_acknowledges() {
    let remote = Remote::listen();
    let site = site(remote.port, "", "");
    let mut wire = remote.accept(false, &[]);
    site.publish("a/x", "unanswered");
    let first = wire.publish();
    reload(&site, "retry:", "number_messages: false\n    retry:");
    assert_eq!(wire.read().kind(), 14, "DISCONNECT");
    let mut wire = remote.accept(true, &[]);
    let again = wire.publish();
    assert_eq!(
        (again.payload.as_str(), again.dup, again.id),
        ("unanswered", true, first.id)
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn messages_are_exported_and_purged_by_number_topic_and_age_while_the_gateway_runs() {
    let remote = Remote::listen();
    let mut site = site(remote.port, "window: 1", "");
    let mut wire = remote.accept(false, &[]);
    for (topic, payload) in [
        ("a/poison", "0"),
        ("a/x", "1"),
        ("b/x", "2"),
        ("a/y", "3"),
        ("a/z", "4"),
    ] {
        site.publish(topic, payload);
    }
    assert_eq!(
        wire.publish().payload,
        "0",
        "it is in flight and never answered"
    );
    let payloads = |site: &Site, selection: &[&str]| -> Vec<String> {
        let mut arguments = vec!["export"];
        arguments.extend(selection);
        let (code, out, error) = site.outbox(&arguments);
        assert_eq!(code, Some(0), "{error}");
        let payload = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["payload"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        out.lines().map(payload).collect()
    };
    wait_for("everything is on disk", || {
        (payloads(&site, &[]).len() == 5).then_some(())
    });
    assert_eq!(
        payloads(&site, &["--topic", "a/+", "--number", "2..4"]),
        ["1", "3"]
    );
    assert!(payloads(&site, &["--older-than", "1h"]).is_empty());
    let (code, _, error) = site.outbox(&["purge", "--topic", "a/x"]);
    assert!(
        code == Some(1) && error.contains("live (1 messages)") && error.contains("--yes"),
        "{error}"
    );
    for selection in [["--topic", "a/poison"], ["--number", "4"]] {
        let (code, _, error) = site.outbox(&["purge", selection[0], selection[1], "--yes"]);
        assert!(
            code == Some(0) && error.contains("cloud live: 1 messages removed"),
            "{error}"
        );
    }
    // What was in flight is gone, and what is behind it goes on.
    for payload in ["1", "2", "4"] {
        let publish = wire.publish();
        assert_eq!(publish.payload, payload);
        wire.answer(PUBACK, publish.id, 0);
    }
    let told = site.wait_until_told(STATUS, "\"waiting\":0");
    assert!(
        told.contains("\"lost\":2") && told.contains("\"acknowledged\":3"),
        "{told}"
    );
    assert!(site.wait_until_told(GAP, "purged").contains("\"count\":1"));
    // And without a gateway.
    drop(wire);
    drop(remote);
    for payload in ["5", "6"] {
        site.publish("c/x", payload);
    }
    assert!(site.gateway.process.terminate().success());
    assert_eq!(payloads(&site, &[]), ["5", "6"]);
    let (code, _, error) = site.outbox(&["purge", "--number", "6", "--yes"]);
    assert!(
        code == Some(0) && error.contains("cloud live: 1 messages removed"),
        "{error}"
    );
    assert_eq!(payloads(&site, &[]), ["6"]);
}
