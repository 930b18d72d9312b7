//! Clients we did not write on our broker: mosquitto_pub and mosquitto_sub, paho.

use std::path::Path;
use std::process::Command;

use super::support::{Gateway, Mosquitto, Process, mosquitto_sub, peer, python, run, wait_for};

fn broker(folder: &Path) -> (Gateway, String) {
    let yaml = "site: yard\nbroker: { listen: [ 'mqtt://127.0.0.1:0' ], sys_every: 100ms }\n";
    let gateway = Gateway::start(folder, yaml);
    let port = gateway.port().to_string();
    (gateway, port)
}

fn publish(port: &str, arguments: &[&str]) {
    let (code, _, error) = run(Command::new("mosquitto_pub")
        .args(["-p", port])
        .args(arguments));
    assert_eq!(code, Some(0), "{arguments:?}: {error}");
}

/// Everything a subscriber gets within a second or until it has `count` messages.
fn subscribe(port: &str, count: &str, arguments: &[&str]) -> String {
    let (_, out, _) = run(Command::new("mosquitto_sub")
        .args(["-p", port, "-C", count, "-W", "10", "-F", "%t %p q%q r%r"])
        .args(arguments));
    out
}

#[test]
fn mosquitto_clients_of_every_version_and_qos_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let (_gateway, port) = broker(folder.path());
    for version in ["31", "311", "5"] {
        for qos in ["0", "1", "2"] {
            let topic = format!("v{version}/q{qos}");
            let log = folder.path().join(format!("{version}-{qos}"));
            let mut command = mosquitto_sub();
            command.args([
                "-d",
                "-p",
                &port,
                "-V",
                version,
                "-q",
                qos,
                "-t",
                &format!("v{version}/+"),
                "-C",
                "3",
                "-F",
                "got %t %p q%q",
            ]);
            let mut subscriber = Process::start(&mut command, &log);
            subscriber.wait_for_output("Subscribed");
            for payload in ["one", "two", "three"] {
                publish(
                    &port,
                    &["-V", version, "-q", qos, "-t", &topic, "-m", payload],
                );
            }
            assert!(subscriber.wait().success());
            let got: Vec<String> = subscriber
                .output()
                .lines()
                .filter(|line| line.starts_with("got "))
                .map(str::to_owned)
                .collect();
            let expected: Vec<String> = ["one", "two", "three"]
                .iter()
                .map(|payload| format!("got {topic} {payload} q{qos}"))
                .collect();
            assert_eq!(got, expected);
        }
    }
}

#[test]
fn retained_wills_and_sys_reach_mosquitto_clients() {
    let folder = tempfile::tempdir().unwrap();
    let (_gateway, port) = broker(folder.path());
    publish(&port, &["-t", "kept/a", "-m", "stays", "-r", "-q", "1"]);
    assert_eq!(
        subscribe(&port, "1", &["-t", "kept/#", "-q", "1"]),
        "kept/a stays q1 r1\n"
    );
    publish(&port, &["-t", "kept/a", "-n", "-r"]);
    publish(&port, &["-t", "kept/b", "-m", "next", "-r"]);
    assert_eq!(
        subscribe(&port, "1", &["-t", "kept/#"]),
        "kept/b next q0 r1\n"
    );
    assert!(subscribe(&port, "1", &["-t", "$SYS/broker/version"]).contains("wellhead version"));

    let log = folder.path().join("watcher");
    let mut watcher = Process::start(
        mosquitto_sub().args(["-d", "-p", &port, "-t", "will", "-C", "1", "-F", "got %p"]),
        &log,
    );
    watcher.wait_for_output("Subscribed");
    let mut mortal = mosquitto_sub();
    mortal.args([
        "-d",
        "-p",
        &port,
        "-t",
        "x",
        "--will-topic",
        "will",
        "--will-payload",
        "gone",
    ]);
    let mut mortal = Process::start(&mut mortal, &folder.path().join("mortal"));
    mortal.wait_for_output("Subscribed");
    mortal.kill_9();
    assert!(watcher.wait().success());
    assert!(watcher.output().contains("got gone"));
}

#[test]
fn a_message_of_half_a_megabyte_passes_and_one_over_the_limit_ends_its_publisher_only() {
    let folder = tempfile::tempdir().unwrap();
    let (_gateway, port) = broker(folder.path());
    let large = folder.path().join("large");
    std::fs::write(&large, vec![b'x'; 500_000]).unwrap();
    let log = folder.path().join("subscriber");
    let mut subscriber = Process::start(
        mosquitto_sub().args(["-d", "-p", &port, "-t", "big", "-C", "2", "-F", "got %l"]),
        &log,
    );
    subscriber.wait_for_output("Subscribed");
    publish(
        &port,
        &["-t", "big", "-q", "2", "-f", large.to_str().unwrap()],
    );
    std::fs::write(&large, vec![b'x'; 2_000_000]).unwrap();
    let (code, _, _) = run(Command::new("timeout").args([
        "10",
        "mosquitto_pub",
        "-p",
        &port,
        "-t",
        "big",
        "-q",
        "1",
        "-f",
        large.to_str().unwrap(),
    ]));
    assert_ne!(code, Some(0));
    publish(&port, &["-t", "big", "-m", "small"]);
    assert!(subscriber.wait().success());
    let got: Vec<String> = subscriber
        .output()
        .lines()
        .filter(|line| line.starts_with("got "))
        .map(str::to_owned)
        .collect();
    assert_eq!(got, ["got 500000", "got 5"]);
}

#[test]
fn paho_keeps_its_session_in_every_version() {
    let folder = tempfile::tempdir().unwrap();
    let (_gateway, port) = broker(folder.path());
    for version in ["31", "311", "5"] {
        let (code, out, error) = run(python().arg(peer("paho_session.py")).args([&port, version]));
        assert_eq!(
            (code, out.trim()),
            (Some(0), "ok 21"),
            "MQTT {version}: {error}"
        );
    }
}

#[test]
fn a_burst_is_delivered_whole_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (_gateway, port) = broker(folder.path());
    let numbers: String = (0..5000).map(|n| format!("{n}\n")).collect();
    let file = folder.path().join("numbers");
    std::fs::write(&file, &numbers).unwrap();
    let log = folder.path().join("subscriber");
    let mut subscriber = Process::start(
        mosquitto_sub().args(["-p", &port, "-q", "1", "-t", "burst", "-t", "ready"]),
        &log,
    );
    wait_for("the subscriber is there", || {
        publish(&port, &["-t", "ready", "-m", "ready"]);
        subscriber.output().contains("ready").then_some(())
    });
    let script = format!(
        "mosquitto_pub -p {port} -q 1 -t burst -l < {}",
        file.display()
    );
    let (code, _, error) = run(Command::new("sh").args(["-c", &script]));
    assert_eq!(code, Some(0), "{error}");
    wait_for("all 5000 arrive", || {
        subscriber.output().contains("\n4999\n").then_some(())
    });
    let got: Vec<String> = subscriber
        .output()
        .lines()
        .filter(|line| *line != "ready")
        .map(str::to_owned)
        .collect();
    let expected: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    assert!(got == expected, "{} messages, or out of order", got.len());
    let _ = subscriber.is_running();
}

#[test]
fn a_mosquitto_that_is_a_bridge_to_us_carries_messages_both_ways_and_none_in_circles() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, port) = broker(folder.path());
    for version in ["mqttv311", "mqttv50"] {
        let bridge = format!(
            "connection to-us-{version}\naddress 127.0.0.1:{port}\nbridge_protocol_version {version}\ntopic # both 1 {version}/ {version}/\nremote_clientid bridge-{version}\ncleansession false\nrestart_timeout 1\nnotifications true\n"
        );
        let far = Mosquitto::start(folder.path(), &bridge);
        // What mosquitto says of its bridge, and what is left of it in its will.
        let state = format!("$SYS/broker/connection/bridge-{version}/state");
        let shows = |expected: &str| {
            wait_for(&format!("the bridge is {expected}"), || {
                let arguments = ["-p", &port, "-t", &state, "-C", "1", "-W", "2"];
                let (_, shown, _) = run(Command::new("mosquitto_sub").args(arguments));
                (shown.trim() == expected).then_some(())
            });
        };
        shows("1");
        let ours = folder.path().join(format!("ours-{version}"));
        let theirs = folder.path().join(format!("theirs-{version}"));
        let far_port = far.port.to_string();
        let filter = format!("{version}/#");
        let here = Process::start(
            mosquitto_sub().args(["-p", &port, "-q", "1", "-t", &filter, "-F", "%t %p"]),
            &ours,
        );
        let there = Process::start(
            mosquitto_sub().args(["-p", &far_port, "-q", "1", "-t", &filter, "-F", "%t %p"]),
            &theirs,
        );
        wait_for("both directions work", || {
            publish(
                &port,
                &["-q", "1", "-t", &format!("{version}/north"), "-m", "n"],
            );
            publish(
                &far_port,
                &["-q", "1", "-t", &format!("{version}/south"), "-m", "s"],
            );
            (there.output().contains("/north n") && here.output().contains("/south s"))
                .then_some(())
        });
        // Nothing goes round in circles: one more of each comes once.
        publish(
            &port,
            &["-q", "1", "-t", &format!("{version}/north"), "-m", "last"],
        );
        publish(
            &far_port,
            &["-q", "1", "-t", &format!("{version}/south"), "-m", "last"],
        );
        wait_for("the last ones arrive", || {
            (there.output().contains("/north last") && here.output().contains("/south last"))
                .then_some(())
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        for output in [there.output(), here.output()] {
            assert_eq!(
                output.matches("/north last").count() + output.matches("/south last").count(),
                2,
                "{output}"
            );
        }
    }
    drop(gateway);
}

#[tokio::test]
async fn rumqttc_is_served() {
    use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
    let folder = tempfile::tempdir().unwrap();
    let (_gateway, port) = broker(folder.path());
    let mut options = MqttOptions::new("rumqttc", "127.0.0.1", port.parse().unwrap());
    options.set_clean_session(false);
    let (client, mut events) = AsyncClient::new(options, 100);
    client.subscribe("r/+", QoS::ExactlyOnce).await.unwrap();
    let mut got = Vec::new();
    let mut is_subscribed = false;
    while got.len() < 30 {
        let event = tokio::time::timeout(std::time::Duration::from_secs(20), events.poll())
            .await
            .unwrap()
            .unwrap();
        match event {
            Event::Incoming(Packet::SubAck(_)) if !is_subscribed => {
                is_subscribed = true;
                let client = client.clone();
                tokio::spawn(async move {
                    for number in 0..30 {
                        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][number % 3];
                        client
                            .publish(format!("r/{}", number % 3), qos, false, number.to_string())
                            .await
                            .unwrap();
                    }
                });
            }
            Event::Incoming(Packet::Publish(publish)) => {
                got.push((
                    publish.qos as usize,
                    String::from_utf8(publish.payload.to_vec()).unwrap(),
                ));
            }
            _ => {}
        }
    }
    for qos in 0..3 {
        let expected: Vec<String> = (0..30)
            .filter(|number| number % 3 == qos)
            .map(|number| number.to_string())
            .collect();
        let own: Vec<String> = got
            .iter()
            .filter(|(own, _)| *own == qos)
            .map(|(_, payload)| payload.clone())
            .collect();
        assert_eq!(own, expected);
    }
}
