//! Mistakes and faults: one line that names place and remedy, the right exit code, nothing lost.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use wellhead::mqtt::{Publish, QoS, Version};

use super::support::client::{Client, hello, message};
use super::support::{
    Gateway, Mosquitto, NOBODY, Process, free_port, mosquitto_sub, run, subscriber, wait_for,
    wellhead,
};

/// `wellhead run` on a file that cannot work.
fn refused(folder: &Path, yaml: &str) -> (Option<i32>, String) {
    let file = folder.join("refused.yaml");
    fs::write(&file, yaml).unwrap();
    let (code, _, error) = run(wellhead().env("WELLHEAD_LOG", "off").arg("run").arg(&file));
    assert!(
        !error.contains("panicked") && !error.contains("stack"),
        "{error}"
    );
    (code, error)
}

fn check(outcome: &(Option<i32>, String), code: i32, parts: &[&str]) {
    assert_eq!(outcome.0, Some(code), "{}", outcome.1);
    // One message; below it at most the line of the file that is meant.
    assert_eq!(
        outcome
            .1
            .trim()
            .lines()
            .filter(|line| !line.contains(" | "))
            .count(),
        1,
        "{}",
        outcome.1
    );
    for part in parts {
        assert!(outcome.1.contains(part), "{part:?} is not in {}", outcome.1);
    }
}

fn with_uplink(folder: &str, remote: u16) -> String {
    format!(
        "site: x\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\noutbox: {{ folder: '{folder}' }}\nuplinks: [ {{ name: cloud, to: 'mqtt://127.0.0.1:{remote}', send: [ {{ filter: '#' }} ] }} ]\n"
    )
}

#[test]
fn a_port_in_use_is_named_with_its_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let outcome = refused(
        folder.path(),
        &format!("site: x\nbroker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ] }}\n"),
    );
    check(
        &outcome,
        1,
        &[&format!("127.0.0.1:{port}"), "in use", "broker.listen"],
    );
    let outcome = refused(
        folder.path(),
        "site: x\nbroker: { listen: [ 'mqtt://192.0.2.1:1883' ], allow_anonymous: true }\n",
    );
    check(&outcome, 1, &["192.0.2.1:1883", "broker.listen"]);
}

#[test]
fn a_second_gateway_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = with_uplink("state", NOBODY);
    let _first = Gateway::start(folder.path(), &yaml);
    check(
        &refused(folder.path(), &yaml),
        1,
        &["state", "in use by another wellhead", "outbox.folder"],
    );
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "in the way").unwrap();
    check(
        &refused(folder.path(), &with_uplink("file/state", NOBODY)),
        1,
        &["file/state", "Not a directory"],
    );
}

#[test]
fn certificates_that_are_missing_or_wrong_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = |ca: &str| {
        format!(
            "site: x\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\noutbox: {{ folder: state }}\nuplinks: [ {{ name: c, to: 'mqtts://127.0.0.1:1', ca: {ca}, send: [ {{ filter: '#' }} ] }} ]\n"
        )
    };
    check(
        &refused(folder.path(), &yaml("absent.pem")),
        78,
        &["refused.yaml:4:", "absent.pem"],
    );
    fs::write(folder.path().join("wrong.pem"), "no certificate\n").unwrap();
    check(
        &refused(folder.path(), &yaml("wrong.pem")),
        1,
        &["wrong.pem", "holds no certificate"],
    );
}

#[test]
fn a_serial_device_that_is_absent_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "site: x
lines: [ { name: bus, serial: /dev/serial/by-id/nothing }, { name: bench, simulated: {} } ]
devices:
  - { name: gone, line: bus, unit: 1, points: { p: { holding: 0, type: u16, every: 100ms } } }
  - { name: here, line: bench, points: { p: { every: 100ms } } }
broker: { listen: [ 'mqtt://127.0.0.1:0' ] }
";
    let gateway = Gateway::start(folder.path(), yaml);
    let port = gateway.port();
    let value = |topic: &str, count: &str| {
        run(Command::new("mosquitto_sub").args([
            "-p",
            &port.to_string(),
            "-t",
            topic,
            "-C",
            count,
            "-W",
            "20",
        ]))
    };
    let (code, out, _) = value("x/here/p", "5");
    assert!(code == Some(0) && out.contains("\"q\":\"good\""), "{out}");
    let (_, out, _) = value("x/gone/p", "1");
    assert!(
        out.contains("\"q\":\"bad\"") && out.contains("/dev/serial/by-id/nothing does not exist"),
        "{out}"
    );
    gateway
        .process
        .wait_for_event("line.down", &["/dev/serial/by-id/nothing"]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn a_remote_that_refuses_the_password_is_told_once_with_its_remedy_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let passwords = folder.path().join("passwords");
    let (code, _, error) = run(Command::new("mosquitto_passwd").args([
        "-b",
        "-c",
        passwords.to_str().unwrap(),
        "site",
        "right",
    ]));
    assert_eq!(code, Some(0), "{error}");
    let secret = folder.path().join("secret");
    fs::write(&secret, "wrong\n").unwrap();
    for protocol in ["5", "3.1.1"] {
        let listener = format!(
            "allow_anonymous false\npassword_file {}\n",
            passwords.display()
        );
        let remote = Mosquitto::start_with(folder.path(), &listener, "");
        let yaml = format!(
            "site: x
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state-{protocol} }}
uplinks:
  - {{ name: cloud, to: 'mqtt://127.0.0.1:{}', protocol: {protocol}, user: site, password_file: secret, retry: {{ first: 50ms, longest: 200ms }}, send: [ {{ filter: '#' }} ] }}
",
            remote.port
        );
        fs::write(&secret, "wrong\n").unwrap();
        let mut gateway = Gateway::start(folder.path(), &yaml);
        let local = gateway.port();
        gateway
            .process
            .wait_for_event("uplink.down", &["`user`", "`password`"]);
        let publish = |payload: &str| {
            run(Command::new("mosquitto_pub").args([
                "-p",
                &local.to_string(),
                "-q",
                "1",
                "-t",
                "t",
                "-m",
                payload,
            ]))
            .0
        };
        assert_eq!(publish("one"), Some(0));
        let (_, status, _) = run(Command::new("mosquitto_sub").args([
            "-p",
            &local.to_string(),
            "-t",
            "$SYS/wellhead/uplink/cloud",
            "-C",
            "1",
            "-W",
            "10",
        ]));
        assert!(
            status.contains("\"state\":\"disconnected\"") && status.contains("refuses"),
            "{status}"
        );
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert_eq!(
            gateway.process.events("uplink.down", &[]).len(),
            1,
            "{}",
            gateway.process.output()
        );
        assert!(
            !gateway.process.output().contains("wrong"),
            "no secret in the log"
        );
        assert!(gateway.process.terminate().success());

        fs::write(&secret, "right\n").unwrap();
        let mut reader = Command::new("mosquitto_sub");
        reader.args([
            "-p",
            &remote.port.to_string(),
            "-u",
            "site",
            "-P",
            "right",
            "-t",
            "t",
            "-C",
            "1",
            "-W",
            "20",
            "-q",
            "1",
        ]);
        let mut reader = Process::start(
            &mut reader,
            &folder.path().join(format!("reader-{protocol}")),
        );
        wait_for("the reader is there", || {
            remote.output().contains("Sending SUBACK").then_some(())
        });
        let _gateway = Gateway::restart(folder.path());
        assert!(reader.wait().success());
        assert_eq!(reader.output(), "one\n");
    }
}

/// A file system of a few megabytes.
struct SmallDisk(std::path::PathBuf);

fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("-n").arg(program);
    command
}

impl SmallDisk {
    fn mount(at: &Path, megabytes: u32) -> Self {
        fs::create_dir_all(at).unwrap();
        let (code, _, error) = run(as_root("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={megabytes}m,mode=1777"),
                "tmpfs",
            ])
            .arg(at));
        assert_eq!(
            code,
            Some(0),
            "a small file system is needed for this test, and mounting one needs root: {error}"
        );
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(as_root("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn a_full_disk_acknowledges_nothing_says_so_and_recovers_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&folder.path().join("disk"), 26);
    let mut gateway = Gateway::start(folder.path(), &with_uplink("disk/state", NOBODY));
    let local = gateway.port();
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![1; 13 << 20]).unwrap();
    let payload = "x".repeat(20_000);
    let publish = |number: u32| {
        let text = format!("{number} {payload}");
        run(Command::new("timeout").args([
            "5",
            "mosquitto_pub",
            "-p",
            &local.to_string(),
            "-q",
            "1",
            "-t",
            "t",
            "-m",
            &text,
        ]))
        .0 == Some(0)
    };
    let acknowledged = (0..400)
        .find(|number| !publish(*number))
        .expect("the disk is full some time");
    assert!(acknowledged > 10, "{acknowledged}");
    assert_eq!(
        gateway.process.events("outbox.write_failed", &[]).len(),
        1,
        "told once: {}",
        gateway.process.output()
    );
    assert!(gateway.process.is_running());
    fs::remove_file(&ballast).unwrap();
    wait_for("it takes messages again", || publish(1000).then_some(()));
    assert!(gateway.process.terminate().success());

    // Everything that was acknowledged is delivered.
    let remote = Mosquitto::start(folder.path(), "");
    let reader = subscriber(folder.path(), remote.port, "t");
    let _gateway = Gateway::start(folder.path(), &with_uplink("disk/state", remote.port));
    let numbers = || -> Vec<u32> {
        reader
            .output()
            .lines()
            .filter_map(|line| line.split(' ').nth(2)?.parse().ok())
            .collect()
    };
    wait_for("the last message arrives", || {
        numbers().contains(&1000).then_some(())
    });
    for number in 0..acknowledged {
        assert!(
            numbers().contains(&number),
            "{number} of {acknowledged} is lost"
        );
    }
}

#[test]
fn a_full_disk_with_a_backlog_can_be_restarted_and_drains() {
    drains_on_a_full_disk(1);
}

#[test]
fn a_full_disk_with_a_backlog_of_qos_2_drains_too() {
    drains_on_a_full_disk(2);
}

#[test]
fn a_full_disk_drains_while_a_publisher_waits_for_room() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&folder.path().join("disk"), 64);
    let remote = Mosquitto::start(folder.path(), "");
    let link = super::support::Link::to(remote.port);
    let reader = subscriber(folder.path(), remote.port, "t");
    let yaml = with_uplink("disk/state", link.port).replace(
        "name: cloud,",
        "name: cloud, retry: { first: 100ms, longest: 200ms },",
    );
    link.cut();
    let gateway = Gateway::start(folder.path(), &yaml);
    let mut publisher = publish_90_mb(folder.path(), gateway.port());
    gateway.process.wait_for_event("outbox.write_failed", &[]);
    // It stays full for a while: the publisher tries on and on.
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(publisher.is_running());
    link.restore();
    assert!(
        publisher.wait().success(),
        "it is let in as the disk drains"
    );
    let numbers = || -> Vec<u32> {
        reader
            .output()
            .lines()
            .filter_map(|line| line.split(' ').nth(2)?.parse().ok())
            .collect()
    };
    wait_for("all of them", || numbers().contains(&899).then_some(()));
    let mut first = Vec::new();
    for number in numbers() {
        if !first.contains(&number) {
            first.push(number);
        }
    }
    assert_eq!(first, (0..900).collect::<Vec<u32>>());
    drop(gateway);
    drop(disk);
}

/// 900 numbered messages of 100 kB at QoS 1, under way.
fn publish_90_mb(folder: &Path, port: u16) -> Process {
    let lines: String = (0..900)
        .map(|number| format!("{number} {}\n", "x".repeat(100_000)))
        .collect();
    let file = folder.join("lines");
    fs::write(&file, lines).unwrap();
    let script = format!(
        "exec mosquitto_pub -p {port} -q 1 -t t -l < {}",
        file.display()
    );
    Process::start(
        Command::new("sh").args(["-c", &script]),
        &folder.join("publisher"),
    )
}

fn drains_on_a_full_disk(qos: u8) {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&folder.path().join("disk"), 64);
    let yaml = |remote: u16| {
        with_uplink("disk/state", remote).replace("filter: '#'", "filter: '#', class: c")
            + &format!("classes: {{ c: {{ qos: {qos} }} }}\n")
    };
    let mut gateway = Gateway::start(folder.path(), &yaml(NOBODY));
    let mut publisher = publish_90_mb(folder.path(), gateway.port());
    gateway.process.wait_for_event("outbox.write_failed", &[]);
    publisher.kill_9();
    // A restart on a full disk: the reserve lets it open what waits.
    gateway.process.kill_9();
    let remote = Mosquitto::start(folder.path(), "");
    let reader = subscriber(folder.path(), remote.port, "t");
    let gateway = Gateway::start(folder.path(), &yaml(remote.port));
    let local = gateway.port();
    let number = |line: &str| {
        line.split(' ')
            .nth(2)
            .and_then(|word| word.parse::<u32>().ok())
    };
    wait_for("the backlog is delivered", || {
        (reader.output().lines().filter_map(number).count() > 400).then_some(())
    });
    wait_for("it takes messages again", || {
        let sent = run(Command::new("timeout").args([
            "5",
            "mosquitto_pub",
            "-p",
            &local.to_string(),
            "-q",
            "1",
            "-t",
            "t",
            "-m",
            "5000 end",
        ]));
        (sent.0 == Some(0)).then_some(())
    });
    wait_for("the last message arrives", || {
        reader
            .output()
            .lines()
            .filter_map(number)
            .any(|number| number == 5000)
            .then_some(())
    });
    let got: Vec<u32> = reader
        .output()
        .lines()
        .filter_map(number)
        .filter(|number| *number < 5000)
        .collect();
    let mut first: Vec<u32> = got.clone();
    first.dedup();
    assert!(
        got.len() > 400 && first.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{} messages, or a gap",
        got.len()
    );
    drop(gateway);
    drop(disk);
}

#[test]
fn a_disk_that_is_full_at_the_start_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&folder.path().join("disk"), 4);
    // Fills it to the last byte.
    let mut ballast = fs::File::create(disk.0.join("ballast")).unwrap();
    while Write::write(&mut ballast, &[1; 4096]).is_ok() {}
    check(
        &refused(folder.path(), &with_uplink("disk/state", NOBODY)),
        1,
        &["no space left", "disk/state", "outbox.folder"],
    );
    drop(disk);
}

/// Publishes retained messages of 60 kB at QoS 0 from one connection.
fn retain_many(port: u16, count: usize) {
    let mut client = Client::accepted(port, hello(Version::V311, "a"));
    for number in 0..count {
        let topic = format!("kept/{number:03}");
        client.publish(Publish {
            retain: true,
            ..message(&topic, QoS::AtMostOnce, vec![b'x'; 60_000])
        });
    }
    // Everything is read before the end.
    client.ping();
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn a_disk_that_is_full_for_long_stops_no_local_life_and_the_broker_writes_everything_down_when_it_can()
 {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&folder.path().join("disk"), 120);
    let port = free_port();
    let yaml = format!(
        "broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ], max_packet: 100kB }}\noutbox: {{ folder: disk/state }}\n"
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let session = [
        "-p",
        &port.to_string(),
        "-q",
        "1",
        "-c",
        "-i",
        "away",
        "-t",
        "t/#",
    ]
    .map(str::to_owned);
    assert_eq!(
        run(Command::new("mosquitto_sub").args(&session).arg("-E")).0,
        Some(0)
    );
    let ballast = disk.0.join("ballast");
    let free = rustix::fs::statvfs(&disk.0).unwrap();
    let room = (free.f_bavail * free.f_frsize).saturating_sub(3 << 20);
    fs::write(&ballast, vec![1; usize::try_from(room).unwrap()]).unwrap();
    let payload = "x".repeat(20_000);
    let publish = |topic: &str, number: u32| {
        let text = format!("{number} {payload}");
        run(Command::new("timeout").args([
            "3",
            "mosquitto_pub",
            "-p",
            &port.to_string(),
            "-q",
            "1",
            "-t",
            topic,
            "-m",
            &text,
        ]))
        .0 == Some(0)
    };
    let acknowledged = (0..1000)
        .find(|number| !publish("t/a", *number))
        .expect("the disk is full some time");
    assert!(acknowledged > 10, "{acknowledged}");
    // Who needs no disk does not notice.
    assert!(publish("live", 1), "nobody keeps this");
    // More than may wait for a disk.
    retain_many(port, 300);
    assert!(!publish("t/a", 5000), "still nothing is promised");
    assert!(publish("live", 2));
    assert_eq!(
        gateway.process.events("broker.journal_refused", &[]).len(),
        1,
        "{}",
        gateway.process.output()
    );
    fs::remove_file(&ballast).unwrap();
    wait_for("it promises again", || publish("t/a", 9000).then_some(()));
    let _gateway = gateway.kill_and_restart();
    let log = folder.path().join("away.log");
    let reader = Process::start(mosquitto_sub().args(&session), &log);
    let numbers = || -> Vec<u32> {
        reader
            .output()
            .lines()
            .filter_map(|line| line.split(' ').next()?.parse().ok())
            .collect()
    };
    wait_for("the last message arrives", || {
        numbers().contains(&9000).then_some(())
    });
    for number in 0..acknowledged {
        assert!(
            numbers().contains(&number),
            "{number} of {acknowledged} is lost"
        );
    }
    let kept = run(Command::new("mosquitto_sub").args([
        "-p",
        &port.to_string(),
        "-t",
        "kept/#",
        "-C",
        "300",
        "-W",
        "20",
        "-F",
        "%t",
    ]))
    .1;
    assert_eq!(kept.lines().count(), 300, "retained messages");
}
