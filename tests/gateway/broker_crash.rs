//! kill -9 of the broker in the middle of traffic, again and again: what was acknowledged arrives,
//! QoS 2 once, sessions and retained values are as promised.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use wellhead::mqtt::{Connect, Properties, QoS, ReasonCode, TopicName, Version, Will};

use super::far_side::subscribe;
use super::returning_client::ReturningClient;
use super::support::client::{Client, hello};
use super::support::{Gateway, NOBODY, gateway_with_uplink, run, wait_for, wellhead};

const WINDOW: usize = 20;

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn kill_9_in_the_middle_of_traffic_loses_nothing_acknowledged_and_doubles_no_qos_2() {
    let rounds = if std::env::var_os("WELLHEAD_LONG").is_some() {
        250
    } else {
        12
    };
    let folder = tempfile::tempdir().unwrap();
    let limits = "max_queued: 1000000, max_queued_size: 100MB, max_queued_total: 200MB";
    let mut gateway = Gateway::start(
        folder.path(),
        &format!("broker: {{ listen: [ 'mqtt://127.0.0.1:0' ], {limits} }}\n"),
    );
    let port = gateway.port();
    let (mut publisher, mut subscriber) = (
        ReturningClient::new("publisher", port),
        ReturningClient::new("subscriber", port),
    );
    while !subscriber.is_connected() {}
    let granted = subscriber
        .client
        .as_mut()
        .unwrap()
        .subscribe(&["numbers/#"], QoS::ExactlyOnce);
    assert_eq!(granted, [ReasonCode::GRANTED_QOS_2]);
    let mut random = fastrand::Rng::with_seed(3);
    let mut next = 1;
    for round in 0..rounds {
        let end = Instant::now() + Duration::from_millis(random.u64(20..250));
        // Some rounds long the subscriber is away, so that queues grow.
        let is_away = round > 0 && round % 4 == 3;
        if is_away {
            subscriber.client = None;
        }
        while Instant::now() < end {
            while publisher.is_connected() && publisher.far.in_flight() < WINDOW {
                let qos = if next % 2 == 0 {
                    QoS::ExactlyOnce
                } else {
                    QoS::AtLeastOnce
                };
                let packet = publisher
                    .far
                    .publish(&format!("numbers/{}", next % 5), next, qos);
                publisher.send(&packet);
                next += 1;
            }
            publisher.turn();
            if !is_away {
                subscriber.turn();
            }
        }
        gateway = gateway.kill_and_restart();
        for peer in [&mut publisher, &mut subscriber] {
            (peer.client, peer.port) = (None, gateway.port());
        }
    }
    let end = Instant::now() + Duration::from_secs(60);
    let wanted = |odd: u64| {
        (1..next)
            .filter(|number| number % 2 == odd)
            .collect::<Vec<u64>>()
    };
    let (exact, at_least) = (wanted(0), wanted(1));
    while Instant::now() < end {
        publisher.turn();
        subscriber.turn();
        let has_all = subscriber.far.got[2].len() >= exact.len()
            && subscriber.far.numbers(QoS::AtLeastOnce).len() >= at_least.len();
        if publisher.far.is_done() && has_all {
            break;
        }
    }
    assert_eq!(
        publisher.far.acknowledged.len() as u64,
        next - 1,
        "everything is acknowledged in the end"
    );
    let got: Vec<u64> = subscriber.far.got[2]
        .iter()
        .map(|(_, number)| *number)
        .collect();
    assert!(
        got == exact,
        "QoS 2: {} of {}, each once, in order",
        got.len(),
        exact.len()
    );
    assert!(
        subscriber.far.numbers(QoS::AtLeastOnce) == at_least,
        "QoS 1: all, in the order of their first arrival"
    );
    let newest = (1..next)
        .rev()
        .find(|number| number % 10 == 0)
        .unwrap()
        .to_string();
    let (_, kept, _) = run(std::process::Command::new("mosquitto_sub").args([
        "-p",
        &gateway.port().to_string(),
        "-t",
        "numbers/0",
        "-C",
        "1",
        "-W",
        "10",
    ]));
    assert_eq!(kept.trim(), newest, "the last retained value");
    let repeated = subscriber.far.got[1].len() - at_least.len();
    println!(
        "{} messages, {rounds} kills: 0 lost, 0 doubled, {repeated} repeated at QoS 1",
        next - 1
    );
    drop(gateway);
}

/// Bytes of the files below a folder.
fn size_of(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            if entry.path().is_dir() {
                size_of(&entry.path())
            } else {
                entry.metadata().map_or(0, |found| found.len())
            }
        })
        .sum()
}

#[test]
fn what_is_done_with_leaves_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(
        folder.path(),
        "broker: { listen: [ 'mqtt://127.0.0.1:0' ] }\n",
    );
    let port = gateway.port();
    let (mut publisher, mut subscriber) = (
        ReturningClient::new("publisher", port),
        ReturningClient::new("subscriber", port),
    );
    assert!(subscriber.is_connected());
    subscriber.send(&subscribe("many/#", QoS::AtLeastOnce));
    let (mut next, mut most, mut turns) = (1, 0, 0);
    // Topics of 1 kB: about 20 MB of records.
    let topic = format!("many/{}", "x".repeat(1000));
    while next <= 20_000 || !publisher.far.is_done() {
        while publisher.is_connected() && publisher.far.in_flight() < 60 && next <= 20_000 {
            let packet = publisher.far.publish(&topic, next, QoS::AtLeastOnce);
            publisher.send(&packet);
            next += 1;
        }
        publisher.turn();
        subscriber.turn();
        turns += 1;
        if turns % 100 == 0 {
            most = most.max(size_of(&folder.path().join("data/broker")));
        }
    }
    while subscriber.far.got[1].len() < 20_000 {
        subscriber.turn();
    }
    // Two partitions, a spare one and a checkpoint that has just begun.
    assert!(
        most > 8 << 20 && most < 48 << 20,
        "{most} bytes for a session that keeps up"
    );
    println!("{most} bytes at most");
    let gateway = gateway.kill_and_restart();
    (subscriber.client, subscriber.port) = (None, gateway.port());
    assert!(subscriber.is_connected(), "the session is still there");
}

/// The topics of wills that wait in the outbox of the uplink, one for each message.
fn wills_in(folder: &std::path::Path) -> Vec<String> {
    let (code, out, error) = run(wellhead()
        .args(["outbox", "export"])
        .arg(folder.join("gateway.yaml")));
    assert_eq!(code, Some(0), "{error}");
    let topic = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        message["topic"].as_str().unwrap().to_owned()
    };
    out.lines()
        .map(topic)
        .filter(|topic| topic.starts_with("last/"))
        .collect()
}

#[test]
fn a_will_for_the_remote_survives_a_kill_9_at_any_moment() {
    let rounds = if std::env::var_os("WELLHEAD_LONG").is_some() {
        150
    } else {
        8
    };
    let folder = tempfile::tempdir().unwrap();
    let uplink = format!(
        "    to: mqtt://127.0.0.1:{NOBODY}\n    presence: false\n    send: [ {{ filter: 'last/#' }} ]"
    );
    let mut gateway = gateway_with_uplink(folder.path(), "seven", &uplink);
    let mut random = fastrand::Rng::with_seed(5);
    let mut expected = BTreeSet::new();
    for round in 0..rounds {
        let topic = format!("last/{round}");
        let will = Will {
            topic: TopicName::new(topic.clone()).unwrap(),
            payload: "gone".into(),
            qos: QoS::ExactlyOnce,
            retain: false,
            properties: Properties::default(),
        };
        let hello = Connect {
            will: Some(will),
            ..hello(Version::V311, &format!("client-{round}"))
        };
        drop(Client::accepted(gateway.port(), hello));
        expected.insert(topic);
        std::thread::sleep(Duration::from_micros(random.u64(0..100_000)));
        gateway = gateway.kill_and_restart();
    }
    let found = wait_for("the wills", || {
        let found = wills_in(folder.path());
        let topics: BTreeSet<String> = found.iter().cloned().collect();
        (topics == expected).then_some(found)
    });
    let doubled = found.len() - expected.len();
    println!(
        "{rounds} kills, {} wills: {doubled} doubled",
        expected.len()
    );
    assert_eq!(doubled, 0, "{found:?}");
}
