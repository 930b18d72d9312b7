//! A folder that version 0.1 left with messages in it, as it was when that version was stopped.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::support::{Gateway, Mosquitto, subscriber, wait_for, wellhead};

/// What version 0.1 itself exported from the folder.
const EXPORTED: &str = include_str!("early_outbox/exported.ndjson");

const SITE: &str =
    "site: fixture\noutbox: { folder: data }\nbroker: { listen: [ 'mqtt://127.0.0.1:0' ] }\n";

fn unpack(folder: &Path) {
    let outbox = folder.join("data/outbox");
    fs::create_dir_all(&outbox).unwrap();
    let archive =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/early_outbox/sat.tar.gz");
    let unpacked = Command::new("tar")
        .arg("-xzf")
        .arg(archive)
        .current_dir(&outbox)
        .status();
    assert!(unpacked.unwrap().success());
}

#[test]
fn it_is_exported_as_the_version_exported_it_that_wrote_it() {
    let folder = tempfile::tempdir().unwrap();
    unpack(folder.path());
    let yaml = folder.path().join("gateway.yaml");
    fs::write(&yaml, SITE).unwrap();
    let exported = wellhead()
        .args(["outbox", "export"])
        .arg(&yaml)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(exported.stdout).unwrap(),
        EXPORTED,
        "{}",
        String::from_utf8_lossy(&exported.stderr)
    );
}

/// The messages of each topic, in their order.
fn by_topic(mut messages: Vec<String>) -> Vec<String> {
    messages.sort_by_key(|message| message.split(' ').next().unwrap().to_owned());
    messages
}

#[test]
fn it_drains_in_its_order_with_every_byte_as_it_was_queued() {
    let folder = tempfile::tempdir().unwrap();
    unpack(folder.path());
    let remote = Mosquitto::start(folder.path(), "");
    let subscriber = subscriber(folder.path(), remote.port, "#");
    let gateway = Gateway::start(
        folder.path(),
        &format!(
            "{SITE}uplinks: [ {{ name: sat, to: 'mqtt://127.0.0.1:{}', client_id: fixture, send: [ {{ filter: 'none' }} ] }} ]\n",
            remote.port
        ),
    );
    let wanted: Vec<Value> = EXPORTED
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // Before the topic are the user properties: the number, and what the publisher gave.
    let arrived = || -> Vec<String> {
        let output = subscriber.output();
        let topics = [" fixture/pump/", " plant/note "];
        let begins = |line: &str| topics.iter().find_map(|topic| line.find(topic));
        let lines = output.lines().filter(|line| line.contains("seq:"));
        lines
            .filter_map(|line| line.get(begins(line)? + 1..))
            .map(str::to_owned)
            .collect()
    };
    let arrived = wait_for("everything arrives", || {
        Some(arrived()).filter(|arrived| arrived.len() >= wanted.len())
    });
    let wanted: Vec<String> = wanted
        .iter()
        .map(|message| {
            format!(
                "{} {}",
                message["topic"].as_str().unwrap(),
                message["payload"].as_str().unwrap()
            )
        })
        .collect();
    // The remote hands on a message of QoS 2 a little later than one of QoS 1 behind it.
    assert_eq!(by_topic(arrived), by_topic(wanted));
    drop(gateway);
}
