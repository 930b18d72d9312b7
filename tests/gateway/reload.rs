//! The file read again while the gateway runs: what differs is restarted, everything else goes on.

use std::fs;
use std::process::Command;

use super::support::{
    Gateway, Mosquitto, NOBODY, Process, free_port, run, subscriber, wait_for, wellhead,
};

struct Site {
    folder: tempfile::TempDir,
    gateway: Gateway,
    yaml: String,
    port: u16,
    _simulator: Process,
}

/// Two lines to a simulator, a broker and an uplink to `remote`.
fn site(remote: u16) -> Site {
    let folder = tempfile::tempdir().unwrap();
    // The commands find the broker by the port in the file.
    let (one, two, port) = (free_port(), free_port(), free_port());
    let yaml = format!(
        "site: x
lines:
  - {{ name: one, modbus_tcp: '127.0.0.1:{one}' }}
  - {{ name: two, modbus_tcp: '127.0.0.1:{two}' }}
devices:
  - {{ name: a, line: one, points: {{ level: {{ holding: 0, type: u16, every: 100ms, simulate: {{ shape: counter, period: 100ms }} }} }} }}
  - {{ name: b, line: two, points: {{ flow: {{ holding: 0, type: u16, every: 100ms, simulate: {{ shape: constant, from: 50 }} }} }} }}
broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ], anonymous: {{ read: [ '#', '$SYS/#' ], write: [ 'up/#', 'also/#', 'news/#' ] }} }}
uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:{remote}
    retry: {{ first: 100ms, longest: 200ms }}
    send: [ {{ filter: 'up/#' }} ]
"
    );
    let simulated = folder.path().join("simulator.yaml");
    fs::write(&simulated, &yaml).unwrap();
    let simulator = Process::start(
        wellhead().arg("simulate").arg(&simulated),
        &folder.path().join("simulator.log"),
    );
    simulator.wait_for_output("line two:");
    let gateway = Gateway::start(
        folder.path(),
        &format!("{yaml}outbox: {{ folder: state }}\n"),
    );
    for device in ["a", "b"] {
        let device = format!("device={device}");
        gateway.process.wait_for_event("device.online", &[&device]);
    }
    let yaml = format!("{yaml}outbox: {{ folder: state }}\n");
    Site {
        folder,
        gateway,
        yaml,
        port,
        _simulator: simulator,
    }
}

impl Site {
    /// Changes the file and lets the gateway read it.
    fn reload(&mut self, from: &str, to: &str) -> (Option<i32>, String, String) {
        assert!(self.yaml.contains(from), "{from}");
        self.yaml = self.yaml.replace(from, to);
        fs::write(self.folder.path().join("gateway.yaml"), &self.yaml).unwrap();
        run(wellhead()
            .arg("reload")
            .arg(self.folder.path().join("gateway.yaml")))
    }

    fn retained(&self, topic: &str) -> String {
        run(Command::new("mosquitto_sub").args([
            "-p",
            &self.port.to_string(),
            "-t",
            topic,
            "-C",
            "1",
            "-W",
            "2",
        ]))
        .1
    }

    fn value(&self, topic: &str) -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&self.retained(topic)).unwrap_or_default()["v"]
            .clone()
    }

    fn publish(&self, topic: &str, payload: &str) {
        let (code, _, error) = run(Command::new("mosquitto_pub").args([
            "-p",
            &self.port.to_string(),
            "-q",
            "1",
            "-t",
            topic,
            "-m",
            payload,
        ]));
        assert_eq!(code, Some(0), "{error}");
    }

    fn waiting(&self) -> String {
        let told = self.retained("$SYS/wellhead/uplink/cloud");
        serde_json::from_str::<serde_json::Value>(&told).unwrap_or_default()["waiting"].to_string()
    }
}

#[test]
fn a_changed_device_restarts_its_line_and_nothing_else() {
    let mut site = site(NOBODY);
    // A client with its session, and messages that wait for a remote that is not there.
    let client = subscriber(site.folder.path(), site.port, "x/a/level");
    for number in 0..5 {
        site.publish("up/x", &number.to_string());
    }
    wait_for(
        &format!(
            "five that wait, not {}",
            site.retained("$SYS/wellhead/uplink/cloud")
        ),
        || (site.waiting() == "5").then_some(()),
    );
    wait_for("a value", || (site.value("x/b/flow") == 50).then_some(()));
    let before = client.output().lines().count();
    let (code, out, error) = site.reload(
        "flow: { holding: 0, type: u16,",
        "flow: { holding: 0, type: u16, scale: 0.1,",
    );
    assert_eq!(
        (code, out.as_str(), error.as_str()),
        (Some(0), "line two: changed: b\n", "")
    );
    wait_for("the new scale", || {
        (site.value("x/b/flow").as_f64() == Some(5.0)).then_some(())
    });
    wait_for("more of the other line", || {
        (client.output().lines().count() > before + 5).then_some(())
    });
    let log = site.gateway.process.output();
    assert_eq!(log.matches("event=line.up line=two").count(), 2, "{log}");
    assert_eq!(log.matches("event=line.up line=one").count(), 1, "{log}");
    assert!(
        log.contains("event=gateway.reloaded change=\"line two: changed: b")
            && !log.contains("event=gateway.stopping"),
        "{log}"
    );
    assert_eq!(site.waiting(), "5", "the outbox is as it was");
    // The counter was read without a gap: nobody stopped.
    let numbers: Vec<u64> = client
        .output()
        .lines()
        .filter_map(|line| line.split("\"v\":").nth(1)?.split(',').next()?.parse().ok())
        .collect();
    assert!(
        numbers
            .windows(2)
            .all(|pair| pair[1] >= pair[0] && pair[1] - pair[0] < 30),
        "{numbers:?}"
    );
    let (_, out, _) = run(wellhead()
        .arg("reload")
        .arg(site.folder.path().join("gateway.yaml")));
    assert_eq!(out, "configuration reloaded: no changes\n");
}

#[test]
fn lines_devices_and_points_come_and_go_with_their_topics() {
    let mut site = site(NOBODY);
    wait_for("a value", || (site.value("x/b/flow") == 50).then_some(()));
    let (code, out, error) = site.reload(
        "name: b, line: two, points: { flow:",
        "name: c, line: two, points: { stream:",
    );
    assert!(
        code == Some(0) && out == "line two: without b\nline two: with c\n",
        "{out}{error}"
    );
    wait_for("the new point", || {
        (site.value("x/c/stream") == 50).then_some(())
    });
    wait_for("its state", || {
        (site.retained("x/c/availability").trim() == "online").then_some(())
    });
    assert_eq!(
        (site.retained("x/b/flow"), site.retained("x/b/availability")),
        (String::new(), String::new()),
        "what is gone is not shown any more"
    );
    // A line that is switched off, and another one for its device.
    let (code, out, error) = site.reload(
        "{ name: two, modbus_tcp:",
        "{ name: two, enabled: false, modbus_tcp:",
    );
    assert!(
        code == Some(0) && out == "line two is gone\n",
        "{out}{error}"
    );
    wait_for("nothing of it", || {
        site.retained("x/c/stream").is_empty().then_some(())
    });
    let (code, out, _) = site.reload("name: c, line: two, ", "name: c, line: one, unit: 9, ");
    assert!(code == Some(0) && out.contains("line one: with c"), "{out}");
    let (code, out, error) = site.reload("enabled: false, ", "");
    assert!(
        code == Some(0) && out.contains("line two is new"),
        "{out}{error}"
    );
    wait_for("still the first", || {
        site.value("x/a/level").is_number().then_some(())
    });
    // Topics alone.
    let (code, out, _) = site.reload("site: x\n", "site: x\ntopics: 'z/{device}/{point}'\n");
    assert!(
        code == Some(0)
            && out.contains("points are reported in another way")
            && !out.contains("line one"),
        "{out}"
    );
    wait_for("the new topic", || {
        site.value("z/a/level").is_number().then_some(())
    });
    wait_for("the old topic", || {
        site.retained("x/a/level").is_empty().then_some(())
    });
    assert!(
        site.gateway.process.terminate().success(),
        "{}",
        site.gateway.process.output()
    );
}

#[test]
fn writes_reach_what_the_file_says_now() {
    let mut site = site(NOBODY);
    let write = |site: &Site, point: &str, value: &str| {
        run(wellhead()
            .args(["write", "b", point, value, "--file"])
            .arg(site.folder.path().join("gateway.yaml")))
    };
    let (code, _, error) = site.reload(
        "flow: { holding: 0, type: u16,",
        "flow: { holding: 0, type: u16, write: { min: 0, max: 100, read_back: true },",
    );
    assert_eq!(code, Some(0), "{error}");
    // Nobody gets to an instrument without a rule that names it.
    let (code, out, _) = write(&site, "flow", "60");
    assert!(code == Some(1), "{out}");
    let (code, out, error) = site.reload("'news/#' ]", "'news/#', 'x/b/flow/set' ]");
    assert!(
        code == Some(0) && out.contains("broker: users or what they may do"),
        "{out}{error}"
    );
    let (code, out, error) = write(&site, "flow", "60");
    assert!(
        code == Some(0) && out.contains("\"status\":\"ok\""),
        "{out}{error}"
    );
    wait_for("the new value", || {
        (site.value("x/b/flow") == 60).then_some(())
    });
    let (_, _, _) = site.reload("max: 100", "max: 70");
    let (code, out, _) = write(&site, "flow", "80");
    assert!(code == Some(1) && out.contains("rejected"), "{out}");
}

#[test]
fn rules_of_uplinks_and_rights_of_clients_change_without_anybody_being_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let mut site = site(remote.port);
    let far = subscriber(folder.path(), remote.port, "#");
    let near = subscriber(site.folder.path(), site.port, "news/#");
    site.publish("up/first", "1");
    far.wait_for_output("up/first 1");
    let (code, out, error) = site.reload(
        "send: [ { filter: 'up/#' } ]",
        "send: [ { filter: 'also/#', prefix: site/ } ]",
    );
    assert!(
        code == Some(0) && out.contains("uplink cloud: other send rules"),
        "{out}{error}"
    );
    site.publish("up/second", "2");
    site.publish("also/third", "3");
    far.wait_for_output("site/also/third 3");
    assert!(!far.output().contains("up/second"), "{}", far.output());
    // The subscriber of the local broker stays, and loses what it may not read any more.
    site.publish("news/open", "1");
    near.wait_for_output("news/open 1");
    let (code, _, error) = site.reload(
        "'$SYS/#' ]",
        "'$SYS/#' ], deny: { read: [ 'news/secret' ] }",
    );
    assert_eq!(code, Some(0), "{error}");
    site.publish("news/secret", "2");
    site.publish("news/open", "3");
    near.wait_for_output("news/open 3");
    assert!(!near.output().contains("news/secret"), "{}", near.output());
    // One connection ends an older session, the other one is still the first.
    assert_eq!(
        remote.output().matches(" as x (p5").count(),
        2,
        "{}",
        remote.output()
    );
}

#[test]
fn a_bad_file_changes_nothing_and_what_cannot_change_is_named() {
    let mut site = site(NOBODY);
    wait_for("a value", || (site.value("x/b/flow") == 50).then_some(()));
    let good = site.yaml.clone();
    let (code, _, error) = site.reload(
        "type: u16, every: 100ms, simulate: { shape: constant",
        "type: u61, every: 100ms, simulate: { shape: constant",
    );
    assert!(
        code == Some(78) && error.contains("\"u61\" is not possible here; did you mean \"u16\"?"),
        "{error}"
    );
    site.gateway.process.signal(rustix::process::Signal::HUP);
    site.gateway.process.wait_for_event("config.invalid", &[]);
    assert_eq!(site.value("x/b/flow"), 50);
    site.yaml = good;
    for (from, to, part) in [
        ("site: x\n", "site: y\n", "site"),
        (
            "retry: { first: 100ms",
            "connect_within: 7s\n    retry: { first: 100ms",
            "use_when, connect_within and client_id of uplink cloud",
        ),
        ("folder: state", "folder: other", ""),
        (
            "broker: { listen: [ ",
            "broker: { max_connections: 7, listen: [ ",
            "limits of the broker",
        ),
    ] {
        let before = site.yaml.clone();
        let (code, out, error) = site.reload(from, to);
        // A gateway of another folder is another gateway.
        let told = if part.is_empty() {
            "no gateway runs with this file".to_owned()
        } else {
            format!("a restart is needed for {part}")
        };
        assert!(
            code != Some(0) && error.contains(&told),
            "{part}: {out}{error}"
        );
        site.yaml = before;
    }
    assert_eq!(site.value("x/b/flow"), 50);
}

#[test]
fn an_uplink_goes_to_its_new_address_with_everything_that_waits() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let far = subscriber(folder.path(), remote.port, "up/#");
    let mut site = site(NOBODY);
    for number in 0..20 {
        site.publish("up/x", &number.to_string());
    }
    let (code, out, error) = site.reload(
        &format!("to: mqtt://127.0.0.1:{NOBODY}"),
        &format!("to: mqtt://127.0.0.1:{}", remote.port),
    );
    assert!(
        code == Some(0) && out == "uplink cloud connects anew\n",
        "{out}{error}"
    );
    far.wait_for_output("up/x 19");
    // While it is connected: a new user property, or none; nobody else is cut off, and nothing
    // comes twice.
    let (code, out, error) = site.reload("retry:", "number_messages: false\n    retry:");
    assert!(
        code == Some(0) && out == "uplink cloud connects anew\n",
        "{out}{error}"
    );
    site.publish("up/x", "20");
    far.wait_for_output("up/x 20");
    let numbers: Vec<u32> = far
        .output()
        .lines()
        .filter_map(|line| line.split("up/x ").nth(1)?.trim().parse().ok())
        .collect();
    assert_eq!(numbers, (0..=20).collect::<Vec<u32>>());
    assert_eq!(
        site.gateway
            .process
            .output()
            .matches("event=line.up line=one")
            .count(),
        1
    );
    // An authority that is none changes nothing.
    fs::write(site.folder.path().join("ca.pem"), "no certificate").unwrap();
    let (code, _, error) = site.reload("to: mqtt://", "ca: ca.pem\n    to: mqtts://");
    assert!(
        code == Some(78) && error.contains("reload rejected") && error.contains("ca.pem"),
        "{error}"
    );
    site.publish("up/x", "21");
    far.wait_for_output("up/x 21");
}
