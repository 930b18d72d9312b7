//! kill -9 of the broker in the middle of traffic, again and again: what was acknowledged arrives,
//! QoS 2 once, sessions and retained values are as promised.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use wellhead::mqtt::{Decoder, Packet, Progress, QoS, ReasonCode, Version};

use super::far_side::{FarSide, connect, subscribe};
use super::stage::bytes_of;
use super::support::{Gateway, free_port, run};

const WINDOW: usize = 20;

/// A client on a socket, connected again whenever it is not.
struct Peer {
    name: &'static str,
    port: u16,
    stream: Option<TcpStream>,
    input: BytesMut,
    was_here: bool,
    far: FarSide,
}

impl Peer {
    fn new(name: &'static str, port: u16) -> Self {
        Self {
            name,
            port,
            stream: None,
            input: BytesMut::new(),
            was_here: false,
            far: FarSide::default(),
        }
    }

    fn next_packet(&mut self) -> Option<Packet> {
        match Decoder::client(Version::V5, 1 << 20)
            .decode(&mut self.input)
            .unwrap()
        {
            Progress::Packet(packet) => Some(packet),
            Progress::NeedMore => None,
        }
    }

    /// True if there is a connection with a session now.
    fn is_connected(&mut self) -> bool {
        self.stream.is_some() || self.dial().is_some()
    }

    fn dial(&mut self) -> Option<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream
            .write_all(&bytes_of(&connect(self.name), Version::V5))
            .ok()?;
        self.input.clear();
        let connack = loop {
            if let Some(packet) = self.next_packet() {
                break packet;
            }
            let mut space = [0; 4096];
            let count = stream.read(&mut space).ok().filter(|count| *count > 0)?;
            self.input.extend_from_slice(&space[..count]);
        };
        let Packet::ConnAck(connack) = connack else {
            panic!("{connack:?}")
        };
        assert_eq!(connack.reason, ReasonCode::SUCCESS);
        assert!(
            connack.session_present || !self.was_here,
            "{} has lost its session",
            self.name
        );
        self.was_here = true;
        stream.set_nonblocking(true).ok()?;
        self.stream = Some(stream);
        for packet in self.far.resume() {
            self.send(&packet);
        }
        Some(())
    }

    fn send(&mut self, packet: &Packet) {
        let bytes = bytes_of(packet, Version::V5);
        let Some(stream) = &mut self.stream else {
            return;
        };
        let mut rest = VecDeque::from(bytes.to_vec());
        while !rest.is_empty() {
            match stream.write(rest.make_contiguous()) {
                Ok(count) => drop(rest.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(_) => return self.stream = None,
            }
        }
    }

    /// Reads what is there, and answers.
    fn turn(&mut self) {
        if !self.is_connected() {
            return;
        }
        let Some(stream) = &mut self.stream else {
            return;
        };
        let mut space = [0; 16 * 1024];
        match stream.read(&mut space) {
            Ok(0) => self.stream = None,
            Ok(count) => self.input.extend_from_slice(&space[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_micros(100));
            }
            Err(_) => self.stream = None,
        }
        while let Some(packet) = self.next_packet() {
            if let Some(answer) = self.far.take(packet) {
                self.send(&answer);
            }
        }
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn kill_9_in_the_middle_of_traffic_loses_nothing_acknowledged_and_doubles_no_qos_2() {
    let rounds = if std::env::var_os("WELLHEAD_LONG").is_some() {
        250
    } else {
        12
    };
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let limits = "max_queued: 1000000, max_queued_size: 100MB, max_queued_total: 200MB";
    let mut gateway = Gateway::start(
        folder.path(),
        &format!("broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ], {limits} }}\n"),
    );
    let (mut publisher, mut subscriber) =
        (Peer::new("publisher", port), Peer::new("subscriber", port));
    while !subscriber.is_connected() {}
    subscriber.send(&subscribe("numbers/#", QoS::ExactlyOnce));
    while subscriber.next_packet().is_none() {
        subscriber.turn();
        std::thread::sleep(Duration::from_millis(5));
        if subscriber.input.is_empty() {
            break;
        }
    }
    let mut random = fastrand::Rng::with_seed(3);
    let mut next = 1;
    for round in 0..rounds {
        let end = Instant::now() + Duration::from_millis(random.u64(20..250));
        // Some rounds long the subscriber is away, so that queues grow.
        let is_away = round > 0 && round % 4 == 3;
        if is_away {
            subscriber.stream = None;
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
        publisher.stream = None;
        subscriber.stream = None;
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
        &port.to_string(),
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
    let port = free_port();
    let gateway = Gateway::start(
        folder.path(),
        &format!("broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ] }}\n"),
    );
    let (mut publisher, mut subscriber) =
        (Peer::new("publisher", port), Peer::new("subscriber", port));
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
    let _gateway = gateway.kill_and_restart();
    subscriber.stream = None;
    assert!(subscriber.is_connected(), "the session is still there");
}
