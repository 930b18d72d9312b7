//! What log and status say of a link: ups and downs in pairs, copies that were sent, messages that
//! never came into the outbox, and what is probably wrong.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;

use wellhead::mqtt::{Packet, QoS, Version};

use super::remote::{Remote, Wire};
use super::support::client::{Client, bytes_of, hello, message};
use super::support::{Gateway, Mosquitto, NOBODY, Pem, run, wait_for};

const STATUS: &str = "$SYS/wellhead/uplink/cloud";
const UP: &str = "event=uplink.up ";
const DOWN: &str = "event=uplink.down ";

struct Site {
    gateway: Gateway,
    port: u16,
    folder: tempfile::TempDir,
}

fn site(remote: u16, prefix: &str, extra: &str) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "site: x
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ], max_packet: 1MB }}
outbox: {{ folder: state }}
uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:{remote}
    retry: {{ first: 20ms, longest: 100ms }}
    {extra}
    send: [ {{ filter: '#', prefix: '{prefix}' }} ]
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
    fn publish(&self, topic: &str, payload: &str) -> (Option<i32>, String) {
        let port = self.port.to_string();
        let (code, out, error) = run(Command::new("mosquitto_pub").args([
            "-d", "-V", "5", "-p", &port, "-q", "1", "-t", topic, "-m", payload,
        ]));
        (code, out + &error)
    }

    fn number(&self, name: &str) -> u64 {
        let status = run(Command::new("mosquitto_sub").args([
            "-p",
            &self.port.to_string(),
            "-t",
            STATUS,
            "-C",
            "1",
            "-W",
            "10",
        ]))
        .1;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
        status[name].as_u64().unwrap_or(u64::MAX)
    }
}

fn acknowledge(wire: &mut Wire, id: u16) {
    let [high, low] = id.to_be_bytes();
    wire.write(&[0x40, 2, high, low]);
}

#[test]
fn a_flapping_link_is_told_in_pairs() {
    let remote = Remote::listen();
    let site = site(remote.port, "", "");
    for round in 0..8 {
        let mut wire = remote.accept(round > 0, &[]);
        assert!(wire.read_any().publish().payload.contains("online"));
        wire.write(&[0x40, 2, 0xFF, 0x7F]);
        wire.close();
    }
    drop(remote);
    site.gateway
        .process
        .wait_for_event("uplink.down", &["cannot be reached"]);
    let log = site.gateway.process.output();
    let told: Vec<&str> = log
        .lines()
        .filter_map(|line| [UP, DOWN].into_iter().find(|event| line.contains(event)))
        .collect();
    assert!(told.windows(2).all(|pair| pair != [UP, UP]), "{log}");
    assert_eq!(
        (told.first(), told.last()),
        (Some(&UP), Some(&DOWN)),
        "{log}"
    );
    let counted = [UP, DOWN].map(|event| {
        log.lines()
            .filter(|line| line.contains(event) && line.contains("cuts="))
            .count()
    });
    assert!(
        counted.iter().sum::<usize>() > 0,
        "what was not told is counted: {log}"
    );
}

#[test]
fn copies_are_counted_when_they_are_sent() {
    let remote = Remote::listen();
    let site = site(remote.port, "", "");
    let mut wire = remote.accept(false, &[]);
    for payload in ["a", "b", "c"] {
        site.publish("n", payload);
        assert_eq!(wire.publish().payload, payload);
    }
    wire.close();
    // The remote has forgotten the session, and takes one message at a time.
    let mut wire = remote.accept(false, &[0x21, 0, 1]);
    assert_eq!(wire.publish().payload, "a");
    wire.close();
    let mut wire = remote.accept(false, &[]);
    for payload in ["a", "b", "c"] {
        let copy = wire.publish();
        assert_eq!((copy.payload.as_str(), copy.dup), (payload, false));
        acknowledge(&mut wire, copy.id);
    }
    wait_for("all are acknowledged", || {
        (site.number("acknowledged") == 3).then_some(())
    });
    assert_eq!((site.number("resent"), site.number("repeated")), (4, 0));
}

#[test]
fn messages_that_do_not_come_into_the_outbox_are_counted_and_told() {
    const COUNT: u64 = 30_000;
    let site = site(NOBODY, &"p".repeat(300), "");
    let mut client = Client::accepted(site.port, hello(Version::V311, "c"));
    let message = Packet::Publish(message("n", QoS::AtMostOnce, "1"));
    let bytes = bytes_of(&message, Version::V311);
    client.send_bytes(&bytes.repeat(COUNT as usize)).unwrap();
    wait_for("every message is counted", || {
        (site.number("waiting") + site.number("dropped") == COUNT).then_some(())
    });
    let dropped = site.number("dropped");
    assert!(dropped > 0, "nothing was too much");
    site.gateway.process.wait_for_event("uplink.dropped", &[]);
    // With its prefix this topic is none.
    let (_, said) = site.publish(&"t".repeat(65_400), "x");
    assert!(said.contains("PUBACK") && said.contains("RC:144"), "{said}");
    wait_for("it is counted", || {
        (site.number("dropped") == dropped + 1).then_some(())
    });
    drop(site.folder);
}

/// Somebody who answers with these bytes whatever comes, and closes.
fn stranger(says: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut space = [0; 1024];
            if stream.read(&mut space).is_ok() && stream.write_all(says).is_ok() {
                let _ = stream.shutdown(std::net::Shutdown::Write);
                while stream.read(&mut space).is_ok_and(|count| count > 0) {}
            }
        }
    });
    port
}

#[test]
fn what_is_probably_wrong_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let pem = Pem::make(folder.path());
    let strict = Mosquitto::start_with(folder.path(), &pem.listener(), "");
    let plain = Mosquitto::start(folder.path(), "");
    let ca = pem.path("ca.pem");
    let cases = [
        (
            "mqtt",
            stranger(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "a web server (HTTP) answers there",
        ),
        (
            "mqtt",
            stranger(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
            "an SSH server answers there",
        ),
        (
            "mqtt",
            stranger(&[0x15, 3, 1, 0, 2, 2, 70]),
            "expects TLS there; write mqtts://",
        ),
        (
            "mqtts",
            stranger(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "speaks no TLS",
        ),
        ("mqtts", plain.port, "speaks no TLS"),
        (
            "mqtts",
            strict.port,
            "does not accept the certificate of this gateway",
        ),
    ];
    let uplinks: String = cases
        .iter()
        .enumerate()
        .map(|(number, (scheme, port, _))| {
            let ca = if *scheme == "mqtts" { format!("ca: {ca}, ") } else { String::new() };
            format!("  - {{ name: u{number}, client_id: u{number}, to: '{scheme}://localhost:{port}', {ca}send: [] }}\n")
        })
        .collect();
    let yaml = format!(
        "site: x\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\noutbox: {{ folder: state }}\nuplinks:\n{uplinks}"
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    for (number, (_, _, words)) in cases.iter().enumerate() {
        let uplink = format!("uplink=u{number}");
        let told = gateway.process.wait_for_event("uplink.down", &[&uplink]);
        assert!(told.contains(words) && !told.contains("https://"), "{told}");
    }
}

#[test]
fn what_a_remote_says_of_its_reasons_is_shown_within_bounds() {
    let remote = Remote::listen();
    let site = site(remote.port, "", "");
    let text = |id: u8, text: &str| [&[id, 0, text.len() as u8], text.as_bytes()].concat();
    let said = [
        text(0x1F, "moved\u{1b}[31m"),
        text(0x1C, "b.example.net:1883"),
    ]
    .concat();
    loop {
        let (mut wire, connect) = remote.connect();
        if connect.body[7] & 2 != 0 {
            wire.write(&[0x20, 3, 0, 0, 0]);
            wire.read();
            continue;
        }
        let head = [0x20, said.len() as u8 + 3, 0, 0x9D, said.len() as u8];
        wire.write(&[&head[..], &said].concat());
        wire.close();
        break;
    }
    let line = site
        .gateway
        .process
        .wait_for_event("uplink.down", &["server moved (0x9d)"]);
    assert!(
        line.contains("b.example.net:1883")
            && line.contains("\\u{1b}[31m")
            && !line.contains('\u{1b}'),
        "{line}"
    );
    let mut wire = remote.accept(false, &[]);
    wire.read_any();
    wire.write(&[0x40, 2, 0xFF, 0x7F]);
    // Longer than a line has room for, and than one byte of length tells.
    let long = "y".repeat(300);
    let property = [&[0x1F, 1, 44], long.as_bytes()].concat();
    let body = [&[0x8B, 0xAF, 2], property.as_slice()].concat();
    wire.write(
        &[
            &[
                0xE0,
                0x80 | (body.len() % 128) as u8,
                (body.len() / 128) as u8,
            ],
            body.as_slice(),
        ]
        .concat(),
    );
    let line = site
        .gateway
        .process
        .wait_for_event("uplink.down", &["server shutting down (0x8b)"]);
    assert!(
        line.contains(&"y".repeat(100)) && !line.contains(&"y".repeat(200)),
        "{line}"
    );
    fs::remove_dir_all(site.folder.path().join("state")).ok();
}
