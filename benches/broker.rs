//! The broker beside mosquitto and rumqttd, in one run: CPU time of the broker per delivery,
//! memory, and whether anything was lost or came out of order. One thread of load over raw sockets
//! on one core, the broker on another. The floor is a relay in C that only moves bytes
//! (`benches/floor.c`); it has no QoS 2.
//!
//! ```text
//! cargo bench --bench broker                       # all cases, all brokers that are installed
//! cargo bench --bench broker -- fan-in wellhead    # cases and brokers by part of their name
//! cargo bench --bench broker -- fan-in wellhead /tmp/old/wellhead      # beside another build
//! cargo install --root target/peers/rumqttd rumqttd@0.20.0     # the peer that apt does not have
//! ```
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::panic
)]

#[path = "support/brokers.rs"]
mod brokers;
#[expect(dead_code, reason = "the load writes and reads bytes of its own")]
#[path = "../tests/gateway/support/client.rs"]
mod client;
#[path = "support/load.rs"]
mod load;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use brokers::{is_build, median, start};
use client::{Client, hello};
use rustix::event::epoll;
use wellhead::mqtt::{Connect, QoS, ReasonCode, Version};

const WINDOW: u64 = 10;
const PAYLOAD: usize = 64;
const WARM_UP: Duration = Duration::from_millis(500);
const RUN: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;
const IDLE: usize = 2000;
const FLOOR: &str = "floor";

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    publishers: usize,
    subscribers: usize,
    qos: u8,
}

const CASES: [Case; 6] = [
    Case {
        name: "fan-in QoS 0",
        publishers: 50,
        subscribers: 1,
        qos: 0,
    },
    Case {
        name: "fan-in QoS 1",
        publishers: 50,
        subscribers: 1,
        qos: 1,
    },
    Case {
        name: "fan-in QoS 2",
        publishers: 50,
        subscribers: 1,
        qos: 2,
    },
    Case {
        name: "fan-out QoS 0",
        publishers: 1,
        subscribers: 100,
        qos: 0,
    },
    Case {
        name: "fan-out QoS 1",
        publishers: 1,
        subscribers: 100,
        qos: 1,
    },
    Case {
        name: "fan-out QoS 2",
        publishers: 1,
        subscribers: 100,
        qos: 2,
    },
];

/// One connection of the load.
struct Connection {
    client: Client,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: u64,
    acked: u64,
    delivered: u64,
    /// Of a subscriber: the next number of each publisher.
    expected: Vec<u64>,
    next_id: u16,
}

fn connect(port: u16, id: &str) -> Connection {
    // rumqttd refuses a keep alive of 0.
    let hello = Connect {
        keep_alive: 240,
        ..hello(Version::V311, id)
    };
    Connection {
        client: Client::accepted(port, hello),
        input: Vec::new(),
        output: Vec::new(),
        sent: 0,
        acked: 0,
        delivered: 0,
        expected: Vec::new(),
        next_id: 0,
    }
}

fn subscribe(connection: &mut Connection, filter: &str, qos: u8) {
    let granted = connection
        .client
        .subscribe(&[filter], QoS::from_bits(qos).unwrap());
    assert_eq!(granted, [ReasonCode(qos)]);
}

#[derive(Default)]
struct Counts {
    deliveries: u64,
    reordered: u64,
}

struct Load {
    case: Case,
    clients: Vec<Connection>,
    epoll: std::os::fd::OwnedFd,
    counts: Counts,
}

impl Load {
    fn new(port: u16, case: Case) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let mut clients = Vec::new();
        for index in 0..case.subscribers {
            let mut client = connect(port, &format!("s{index}"));
            client.expected = vec![0; case.publishers];
            subscribe(&mut client, "bench/+/load", case.qos);
            clients.push(client);
        }
        clients.extend((0..case.publishers).map(|index| connect(port, &format!("p{index}"))));
        for (index, client) in clients.iter().enumerate() {
            client.client.stream.set_nonblocking(true).unwrap();
            epoll::add(
                &epoll,
                &client.client.stream,
                epoll::EventData::new_u64(index as u64),
                epoll::EventFlags::IN,
            )
            .unwrap();
        }
        Self {
            case,
            clients,
            epoll,
            counts: Counts::default(),
        }
    }

    fn publish(&mut self) {
        let case = self.case;
        for index in 0..case.publishers {
            let delivered = self.clients[..case.subscribers]
                .iter()
                .map(|subscriber| subscriber.expected[index])
                .min()
                .unwrap();
            let client = &mut self.clients[case.subscribers + index];
            let done = if case.qos == 0 {
                delivered
            } else {
                delivered.min(client.acked)
            };
            while client.sent - done < WINDOW {
                put_publish(client, index, case.qos);
            }
        }
    }

    fn flush(&mut self) {
        for client in self
            .clients
            .iter_mut()
            .filter(|client| !client.output.is_empty())
        {
            match client.client.stream.write(&client.output) {
                Ok(count) => drop(client.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn turn(&mut self, space: &mut [u8]) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
        let wait = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&wait),
        )
        .unwrap();
        for event in events {
            let index = event.data.u64() as usize;
            let client = &mut self.clients[index];
            match client.client.stream.read(space) {
                Ok(0) => panic!("the broker closed a connection"),
                Ok(count) => client.input.extend_from_slice(&space[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            take_packets(client, &mut self.counts);
        }
    }

    fn run(&mut self, time: Duration, space: &mut [u8]) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.publish();
            self.flush();
            self.turn(space);
        }
    }

    /// Waits for what is on its way; returns what never came.
    fn drain(&mut self, space: &mut [u8]) -> u64 {
        let end = Instant::now() + Duration::from_secs(5);
        let sent: u64 = self.clients[self.case.subscribers..]
            .iter()
            .map(|client| client.sent)
            .sum();
        let wanted = sent * self.case.subscribers as u64;
        loop {
            let came: u64 = self.clients[..self.case.subscribers]
                .iter()
                .map(|client| client.delivered)
                .sum();
            if came >= wanted || Instant::now() > end {
                return wanted.saturating_sub(came);
            }
            self.flush();
            self.turn(space);
        }
    }
}

fn put_publish(client: &mut Connection, index: usize, qos: u8) {
    let topic = format!("bench/{index:03}/load");
    let id = if qos > 0 { 2 } else { 0 };
    client.output.extend([
        0x30 | qos << 1,
        (2 + topic.len() + id + PAYLOAD) as u8,
        0,
        topic.len() as u8,
    ]);
    client.output.extend_from_slice(topic.as_bytes());
    if qos > 0 {
        client.next_id = client.next_id.checked_add(1).unwrap_or(1);
        client.output.extend(client.next_id.to_be_bytes());
    }
    let mut payload = [b'x'; PAYLOAD];
    payload[..2].copy_from_slice(&(index as u16).to_be_bytes());
    payload[2..10].copy_from_slice(&client.sent.to_be_bytes());
    client.output.extend_from_slice(&payload);
    client.sent += 1;
}

fn take_packets(client: &mut Connection, counts: &mut Counts) {
    let input = std::mem::take(&mut client.input);
    let mut rest = &input[..];
    while let [first, length, body @ ..] = rest {
        // Nothing here is longer than 127 bytes.
        let Some((packet, behind)) = body.split_at_checked(usize::from(*length)) else {
            break;
        };
        rest = behind;
        match first >> 4 {
            3 => took_publish(client, *first, packet, counts),
            4 | 7 => client.acked += 1,
            5 => client.output.extend([0x62, 2, packet[0], packet[1]]),
            6 => client.output.extend([0x70, 2, packet[0], packet[1]]),
            other => panic!("packet type {other}"),
        }
    }
    client.input = rest.to_vec();
}

fn took_publish(client: &mut Connection, first: u8, packet: &[u8], counts: &mut Counts) {
    let topic = usize::from(packet[1]);
    let mut body = &packet[2 + topic..];
    match (first >> 1) & 3 {
        0 => {}
        qos => {
            client
                .output
                .extend([if qos == 1 { 0x40 } else { 0x50 }, 2, body[0], body[1]]);
            body = &body[2..];
        }
    }
    let publisher = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let number = u64::from_be_bytes(body[2..10].try_into().unwrap());
    if number != client.expected[publisher] {
        counts.reordered += 1;
    }
    client.expected[publisher] = number + 1;
    client.delivered += 1;
    counts.deliveries += 1;
}

#[derive(Clone, Copy, Default)]
struct Measured {
    rate: f64,
    cpu_us: f64,
    memory: u64,
    lost: u64,
    reordered: u64,
}

fn measure(name: &str, case: Case) -> Option<Measured> {
    if name == FLOOR && case.qos == 2 {
        return None;
    }
    let broker = start(name, "")?;
    let mut space = vec![0; 256 * 1024];
    let mut load = Load::new(broker.port, case);
    // The peak counts from here on.
    broker.forget_peak();
    load.run(WARM_UP, &mut space);
    let (cpu, began, before) = (broker.cpu(), Instant::now(), load.counts.deliveries);
    load.run(RUN, &mut space);
    let (cpu, took) = (broker.cpu() - cpu, began.elapsed());
    let deliveries = load.counts.deliveries - before;
    let lost = load.drain(&mut space);
    Some(Measured {
        rate: deliveries as f64 / took.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / deliveries as f64,
        memory: broker.memory("VmHWM"),
        lost,
        reordered: load.counts.reordered,
    })
}

fn idle(name: &str) -> Option<(u64, f64)> {
    let broker = start(name, "")?;
    std::thread::sleep(Duration::from_millis(500));
    let before = broker.memory("VmRSS");
    let mut clients = VecDeque::new();
    for index in 0..IDLE {
        let mut client = connect(broker.port, &format!("idle-{index}"));
        subscribe(&mut client, &format!("idle/{index}/topic"), 1);
        clients.push_back(client);
    }
    std::thread::sleep(Duration::from_millis(500));
    let after = broker.memory("VmRSS");
    Some((after, (after - before) as f64 * 1024.0 / IDLE as f64))
}

/// The brokers that the command line names, or all; and other builds, by their paths.
fn chosen(words: &[String]) -> Vec<&str> {
    let has = |broker: &&str| words.iter().any(|word| word == broker);
    let all = ["wellhead", "mosquitto", "rumqttd", FLOOR];
    let mut brokers: Vec<&str> = all.into_iter().filter(has).collect();
    if brokers.is_empty() {
        brokers.extend(all);
    }
    brokers.extend(
        words
            .iter()
            .map(String::as_str)
            .filter(|word| is_build(word)),
    );
    brokers
}

fn main() {
    let words = load::words();
    let brokers = chosen(&words);
    let wanted: Vec<&String> = words
        .iter()
        .filter(|word| !brokers.contains(&word.as_str()))
        .collect();
    load::stay_on_the_first_core();
    println!(
        "| case | broker | msg/s | CPU us/delivery | x fewer than mosquitto | x the floor | RSS max KiB | lost | reordered |\n|---|---|---|---|---|---|---|---|---|"
    );
    for case in CASES {
        if !wanted.is_empty() && !wanted.iter().any(|word| case.name.contains(word.as_str())) {
            continue;
        }
        // Brokers take turns, so that a noisy neighbour hits all of them.
        let mut runs: Vec<Vec<Measured>> = vec![Vec::new(); brokers.len()];
        for _ in 0..ROUNDS {
            for (place, name) in brokers.iter().enumerate() {
                runs[place].extend(measure(name, case));
            }
        }
        let cpu = |runs: &[Measured]| median(runs.iter().map(|run| run.cpu_us).collect());
        let cpu_of = |wanted: &str| {
            let place = brokers.iter().position(|name| *name == wanted)?;
            (!runs[place].is_empty()).then(|| cpu(&runs[place]))
        };
        let (base, floor) = (cpu_of("mosquitto"), cpu_of(FLOOR));
        for (name, runs) in brokers.iter().zip(&runs) {
            if runs.is_empty() {
                println!("| {} | {name} | not there | | | | | | |", case.name);
                continue;
            }
            let rate = median(runs.iter().map(|run| run.rate).collect());
            let ratio = |ratio: Option<f64>| {
                ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.1}"))
            };
            let fewer = ratio(base.map(|base| base / cpu(runs)));
            let above = ratio(floor.map(|floor| cpu(runs) / floor));
            let memory = runs.iter().map(|run| run.memory).max().unwrap();
            let (lost, reordered) = (
                runs.iter().map(|run| run.lost).sum::<u64>(),
                runs.iter().map(|run| run.reordered).sum::<u64>(),
            );
            println!(
                "| {} | {name} | {rate:.0} | {:.2} | {fewer} | {above} | {memory} | {lost} | {reordered} |",
                case.name,
                cpu(runs)
            );
        }
    }
    if wanted.is_empty() || wanted.iter().any(|word| word.contains("idle")) {
        println!("\n| broker | RSS at {IDLE} idle clients KiB | bytes per client |\n|---|---|---|");
        for name in brokers.into_iter().filter(|name| *name != FLOOR) {
            if let Some((memory, each)) = idle(name) {
                println!("| {name} | {memory} | {each:.0} |");
            }
        }
    }
}
