//! Two gateways with one client identifier, and links that only look so.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::remote::{Publish, Remote, Wire};
use super::support::{
    ALARM, Gateway, Link, Mosquitto, PATIENCE, Process, gateway_with_uplink, mosquitto_sub, run,
    wait_for,
};

const QUICK: &str = "retry: { first: 50ms, longest: 200ms }";

struct Site {
    gateway: Gateway,
    local: u16,
}

fn site(folder: &Path, remote: u16, extra: &str) -> Site {
    let keys = format!(
        "    to: mqtt://127.0.0.1:{remote}\n    {QUICK}\n    {extra}\n    send: [ {{ filter: 'alarm/#', class: alarm }} ]\n{ALARM}"
    );
    let gateway = gateway_with_uplink(folder, "x", &keys);
    let local = gateway.port();
    Site { gateway, local }
}

impl Site {
    fn publish(&self, topic: &str, payload: &str) {
        let port = self.local.to_string();
        let (code, _, error) = run(Command::new("mosquitto_pub")
            .args(["-p", &port, "-q", "1", "-t", topic, "-m", payload]));
        assert_eq!(code, Some(0), "{error}");
    }

    fn status(&self) -> String {
        let port = self.local.to_string();
        run(Command::new("mosquitto_sub").args([
            "-p",
            &port,
            "-t",
            "$SYS/wellhead/uplink/cloud",
            "-C",
            "1",
            "-W",
            "10",
        ]))
        .1
    }

    fn log(&self) -> String {
        self.gateway.process.output()
    }

    fn events(&self, event: &str) -> Vec<String> {
        self.gateway.process.events(event, &[])
    }
}

/// Prints `got <topic> <payload>` for each message.
fn reader(port: u16, filter: &str, folder: &Path) -> Process {
    let mut command = mosquitto_sub();
    // With QoS 2 mosquitto_sub (2.0.11) may stop to complete messages.
    command.args([
        "-V",
        "5",
        "-d",
        "-p",
        &port.to_string(),
        "-t",
        filter,
        "-q",
        "1",
        "-F",
        "got %t %p",
    ]);
    let reader = Process::start(&mut command, &folder.join("reader"));
    reader.wait_for_output("Subscribed");
    reader
}

fn got(reader: &Process) -> HashSet<String> {
    reader
        .output()
        .lines()
        .filter(|line| line.starts_with("got "))
        .map(str::to_owned)
        .collect()
}

/// Each connection of one gateway ends that of the other: what both send arrives, both say what is
/// wrong, and both stop to fight.
fn checks_two_gateways(protocol: &str) {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let remote = Mosquitto::start(folders[0].path(), "");
    let reader = reader(remote.port, "alarm/#", folders[0].path());
    let extra = format!("protocol: {protocol}");
    let sites = [
        site(folders[0].path(), remote.port, &extra),
        site(folders[1].path(), remote.port, &extra),
    ];
    let each = 60;
    let file = folders[0].path().join("lines");
    fs::write(
        &file,
        (0..each)
            .map(|number| format!("{number}\n"))
            .collect::<String>(),
    )
    .unwrap();
    for (index, site) in sites.iter().enumerate() {
        let script = format!(
            "mosquitto_pub -p {} -q 1 -t alarm/{index} -l < {}",
            site.local,
            file.display()
        );
        assert_eq!(run(Command::new("sh").args(["-c", &script])).0, Some(0));
    }
    for site in &sites {
        site.gateway
            .process
            .wait_for_event("uplink.client_id_taken", &[]);
        wait_for("the status says so", || {
            site.status()
                .contains("\"client_id_taken\":\"certain\"")
                .then_some(())
        });
        assert_eq!(
            site.events("uplink.client_id_taken").len(),
            1,
            "{}",
            site.log()
        );
    }
    wait_for("both pause", || {
        let pauses = sites
            .iter()
            .map(|site| site.events("uplink.taken_over").len());
        (pauses.sum::<usize>() >= 1).then_some(())
    });
    wait_for("what one has sent", || {
        (got(&reader).len() >= each).then_some(())
    });
    wait_for("what both have sent", || {
        (got(&reader).len() == 2 * each).then_some(())
    });
    for site in &sites {
        assert!(
            site.status().contains("\"dead\":0") && site.status().contains("\"lost\":0"),
            "{}",
            site.status()
        );
    }
}

#[test]
fn two_gateways_with_one_client_id_lose_nothing() {
    checks_two_gateways("5");
}

#[test]
fn two_gateways_with_one_client_id_lose_nothing_in_mqtt_3_1_1() {
    checks_two_gateways("3.1.1");
}

#[test]
fn a_link_that_is_cut_again_and_again_is_never_taken_for_another_client() {
    let folders = ["5", "3.1.1"].map(|protocol| (protocol, tempfile::tempdir().unwrap()));
    let far = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(far.path(), "");
    for (protocol, folder) in &folders {
        let link = Link::to(remote.port);
        let id = format!("c{protocol}");
        let site = site(
            folder.path(),
            link.port,
            &format!("protocol: {protocol}\n    client_id: {id}"),
        );
        let reader = reader(remote.port, "alarm/#", folder.path());
        let connects = || remote.output().matches(&format!(" as {id} ")).count();
        for cut in 0..14 {
            site.publish("alarm/x", &format!("{protocol}-{cut}"));
            let line = format!("got alarm/x {protocol}-{cut}");
            wait_for(&line, || got(&reader).contains(&line).then_some(()));
            let before = connects();
            link.cut();
            wait_for("the gateway has seen the cut", || {
                site.status()
                    .contains("\"state\":\"disconnected\"")
                    .then_some(())
            });
            link.restore();
            wait_for("it connects at once", || {
                (connects() > before).then_some(())
            });
        }
        for event in ["uplink.client_id_taken", "uplink.taken_over"] {
            assert_eq!(site.events(event), Vec::<String>::new());
        }
        assert!(!site.status().contains("certain"), "{}", site.status());
    }
}

/// A connection of MQTT 5 up to the state of the gateway, which is acknowledged. True if the
/// gateway asked before, what is `retained`.
fn connection(remote: &Remote, retained: Option<&str>) -> (Wire, bool, Publish) {
    let mut wire = remote.accept(true, &[]);
    let mut asked = false;
    loop {
        let packet = wire
            .read_raw_within(PATIENCE)
            .expect("the state of the gateway");
        if wire.answer_question(&packet, retained) {
            asked = true;
            continue;
        }
        if let Some(state) = packet.state() {
            let [high, low] = state.id.to_be_bytes();
            wire.write(&[0x40, 2, high, low]);
            return (wire, asked, state);
        }
    }
}

/// Closes after everything was acknowledged, until the gateway asks. Returns the last state.
fn close_until_asked(remote: &Remote) -> String {
    let mut last = String::new();
    for _ in 0..3 {
        let (mut wire, asked, state) = connection(remote, None);
        assert!(!asked);
        // The acknowledgement is read before the end.
        wire.write(&[0xD0, 0]);
        wire.close();
        last = state.payload;
    }
    assert!(last.contains("\"client\":\""), "it has a mark: {last}");
    last
}

#[test]
fn the_state_of_another_run_shows_another_client_and_is_seen_by_no_local_one() {
    let (folder, remote) = (tempfile::tempdir().unwrap(), Remote::listen());
    let site = site(
        folder.path(),
        remote.port,
        "receive: [ { filter: 'cmd/#' } ]",
    );
    let reader = reader(site.local, "#", folder.path());
    let own = close_until_asked(&remote);
    let (before, run) = own.split_at(own.find("\"}").unwrap() - 8);
    let other = format!("{before}{}", if run.starts_with('0') { "1" } else { "0" }) + &run[1..];
    let (mut wire, asked, _) = connection(&remote, Some(&other));
    assert!(asked);
    site.gateway
        .process
        .wait_for_event("uplink.client_id_taken", &[]);
    wait_for("the status says so", || {
        site.status()
            .contains("\"client_id_taken\":\"certain\"")
            .then_some(())
    });
    // The connection is used as long as it lives.
    site.publish("alarm/x", "one");
    assert_eq!(wire.publish().payload, "one");
    wire.close();
    site.gateway
        .process
        .wait_for_event("uplink.taken_over", &[]);
    let status = site.status();
    assert!(
        status.contains("its own `client_id`")
            && status.contains("\"waiting\":1")
            && status.contains("\"dead\":0"),
        "{status}"
    );
    assert!(
        got(&reader)
            .iter()
            .all(|line| !line.contains("gateway/state")),
        "{}",
        reader.output()
    );
}

#[test]
fn a_remote_that_closes_often_is_worth_one_warning_and_slows_nothing_down() {
    let (folder, remote) = (tempfile::tempdir().unwrap(), Remote::listen());
    let site = site(folder.path(), remote.port, "");
    let mut own = close_until_asked(&remote);
    let mut asked = 0;
    for _ in 0..10 {
        let (mut wire, has_asked, state) = connection(&remote, Some(&own));
        asked += usize::from(has_asked);
        wire.write(&[0xD0, 0]);
        wire.close();
        own = state.payload;
    }
    assert_eq!(asked, 4);
    assert_eq!(
        (
            site.events("uplink.closed_often").len(),
            site.events("uplink.client_id_taken").len()
        ),
        (1, 0),
        "{}",
        site.log()
    );
    assert!(
        site.status().contains("\"client_id_taken\":\"possible\""),
        "{}",
        site.status()
    );
    let (mut wire, _, _) = connection(&remote, Some(&own));
    site.publish("alarm/x", "one");
    assert_eq!(wire.publish().payload, "one");
}

#[test]
fn a_remote_that_closes_at_the_question_gets_the_messages_all_the_same() {
    let (folder, remote) = (tempfile::tempdir().unwrap(), Remote::listen());
    let site = site(folder.path(), remote.port, "");
    close_until_asked(&remote);
    site.publish("alarm/x", "one");
    for _ in 0..3 {
        let mut wire = remote.accept(true, &[]);
        let packet = wire.read_raw_within(PATIENCE).expect("the question");
        assert_eq!(packet.kind(), 8, "{packet:?}");
        wire.write(&[0xE0, 1, 0x87]);
        wire.close();
    }
    let (mut wire, asked, _) = connection(&remote, None);
    assert!(!asked);
    let message = wire.publish();
    assert_eq!(message.payload, "one");
    assert!(
        wire.read_within(Duration::from_millis(1))
            .is_none_or(|packet| packet.kind() != 3)
    );
    for event in ["uplink.message_refused", "uplink.dead_letter_lost"] {
        assert_eq!(site.events(event), Vec::<String>::new());
    }
}
