//! What a message costs the broker that holds much for others, beside mosquitto, in one run: CPU
//! time per operation as sessions, retained topics, subscriptions, members of a shared subscription
//! and messages in flight to a remote become more. Where a cost does not grow, a row has about the
//! same number in each column.
//!
//! ```text
//! cargo bench --bench growth                   # every case
//! cargo bench --bench growth -- shared         # cases by part of their name
//! cargo bench --bench growth -- million        # also with a million retained topics
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
#[path = "support/packets.rs"]
mod packets;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use brokers::{Broker, median, start, start_with};
use packets::{packet, text};

const ROUNDS: usize = 3;
/// Payload of the messages that fill queues.
const FILLING: usize = 1000;
/// Messages to a remote at a time.
const PIECE: usize = 50;

/// One synchronous connection, MQTT 3.1.1.
struct Client {
    stream: TcpStream,
    id: u16,
}

/// The type and flags of the next packet, and its body; `None` at the end of the connection.
fn read_packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let (mut byte, mut length, mut shift) = ([0; 1], 0_usize, 0);
    stream.read_exact(&mut byte).ok()?;
    let first = byte[0];
    loop {
        stream.read_exact(&mut byte).ok()?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((first, body))
}

impl Client {
    fn connect(port: u16, id: &str, clean: bool) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .write_all(&packets::connect(id, if clean { 2 } else { 0 }))
            .unwrap();
        let mut client = Self { stream, id: 0 };
        client.await_packet(2);
        client
    }

    /// Reads packets until one of this type.
    fn await_packet(&mut self, kind: u8) -> Vec<u8> {
        loop {
            let (first, body) = read_packet(&mut self.stream).unwrap();
            if first >> 4 == kind {
                return body;
            }
        }
    }

    fn subscribe(&mut self, filter: &str, qos: u8) {
        self.id = self.id % 60_000 + 1;
        self.stream
            .write_all(&packets::subscribe(self.id, filter, qos))
            .unwrap();
        self.await_packet(9);
    }

    fn unsubscribe(&mut self, filter: &str) {
        self.id = self.id % 60_000 + 1;
        let mut body = self.id.to_be_bytes().to_vec();
        body.extend(text(filter));
        self.stream.write_all(&packet(0xa2, &body)).unwrap();
        self.await_packet(11);
    }

    /// Everything before it has been worked on when the answer is there.
    fn ping(&mut self) {
        self.stream.write_all(&[0xc0, 0]).unwrap();
        self.await_packet(13);
    }

    fn publish(&mut self, topic: &str, payload: &[u8], first: u8) {
        let mut body = text(topic);
        if first & 6 != 0 {
            self.id = self.id % 60_000 + 1;
            body.extend(self.id.to_be_bytes());
        }
        body.extend_from_slice(payload);
        self.stream.write_all(&packet(first, &body)).unwrap();
    }
}

/// CPU time of the broker for each of `times` turns of `work`, in microseconds, and its memory at
/// the peak, in KiB.
fn cost(broker: &Broker, times: u32, mut work: impl FnMut(u32)) -> (f64, u64) {
    broker.forget_peak();
    let before = broker.cpu();
    (0..times).for_each(&mut work);
    (
        (broker.cpu() - before).as_secs_f64() * 1e6 / f64::from(times),
        broker.memory("VmHWM"),
    )
}

/// `count` retained topics, a hundred sites.
fn retain(broker: &Broker, count: usize) -> Client {
    let mut client = Client::connect(broker.port, "keeper", true);
    for number in 0..count {
        client.publish(
            &format!("site{}/device{number}/value", number % 100),
            b"12.5",
            0x31,
        );
        if number % 500 == 0 {
            client.ping();
        }
    }
    client.ping();
    client
}

/// A subscription that begins with a wildcard and matches nothing.
fn wildcard(name: &str, count: usize) -> Option<(f64, u64)> {
    let broker = start(
        name,
        &format!(", max_retained: {}, max_retained_size: 1GiB", count + 10),
    )?;
    let mut client = retain(&broker, count);
    Some(cost(&broker, 200, |_| {
        client.subscribe("+/device7/unknown", 0);
        client.ping();
        client.unsubscribe("+/device7/unknown");
    }))
}

/// A retained message for a store that is full (mosquitto has no limit).
fn full_store(name: &str, count: usize) -> Option<(f64, u64)> {
    let broker = start(
        name,
        &format!(", max_retained: {count}, max_retained_size: 1GiB"),
    )?;
    let mut client = retain(&broker, count);
    Some(cost(&broker, 2000, |turn| {
        client.publish(&format!("new/{turn}"), b"12.5", 0x33);
        client.await_packet(4);
    }))
}

/// A message that has to wait while the queues of others are full.
fn full_queues(name: &str, count: usize) -> Option<(f64, u64)> {
    let total = count.max(100) * FILLING * 4;
    let broker = start(
        name,
        &format!(", max_queued_total: {total}B, max_queued: 100000"),
    )?;
    let mut publisher = Client::connect(broker.port, "publisher", true);
    for number in 0..count {
        Client::connect(broker.port, &format!("away{number}"), false)
            .subscribe(&format!("queue/{number}"), 1);
    }
    let payload = [b'x'; FILLING];
    for round in 0..8 * (100 / count.max(1)).max(1) {
        for number in 0..count {
            publisher.publish(&format!("queue/{number}"), &payload, 0x32);
            if (round + number) % 50 == 0 {
                publisher.ping();
            }
        }
    }
    publisher.ping();
    let mut publisher = Client::connect(broker.port, "second", true);
    Some(cost(&broker, 2000, |turn| {
        publisher.publish(&format!("queue/{}", turn as usize % count), &payload, 0x32);
        publisher.await_packet(4);
    }))
}

/// A message for one of so many members.
fn shared(name: &str, count: usize) -> Option<(f64, u64)> {
    let broker = start(name, "")?;
    let mut members: Vec<Client> = (0..count)
        .map(|number| Client::connect(broker.port, &format!("member{number}"), true))
        .collect();
    members
        .iter_mut()
        .for_each(|member| member.subscribe("$share/workers/jobs", 0));
    let mut publisher = Client::connect(broker.port, "publisher", true);
    Some(cost(&broker, 4000, |turn| {
        publisher.publish("jobs", b"job", 0x30);
        if turn % 100 == 99 {
            publisher.ping();
        }
    }))
}

/// A subscription of somebody who has so many, and its end.
fn filters(name: &str, count: usize) -> Option<(f64, u64)> {
    let broker = start(
        name,
        ", max_subscriptions: 100000, max_session_size: 512MiB, max_user_size: 512MiB, max_sessions_size: 1GiB",
    )?;
    let mut client = Client::connect(broker.port, "collector", true);
    (0..count)
        .for_each(|number| client.subscribe(&format!("site{}/device{number}/+", number % 100), 0));
    Some(cost(&broker, 2000, |turn| {
        client.subscribe(&format!("more/{turn}/+"), 0);
        client.unsubscribe(&format!("more/{turn}/+"));
    }))
}

/// A remote broker of MQTT 5 that leaves `window` messages unacknowledged; how many it has got.
fn slow_remote(window: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, came) = (
        listener.local_addr().unwrap().port(),
        Arc::new(AtomicUsize::new(0)),
    );
    let counter = came.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut waiting) = (stream.unwrap(), VecDeque::new());
            while let Some((first, body)) = read_packet(&mut stream) {
                let answer = match first >> 4 {
                    1 => vec![0x20, 3, 0, 0, 0],
                    3 => {
                        let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                        waiting.push_back([body[2 + topic], body[3 + topic]]);
                        counter.fetch_add(1, Ordering::Release);
                        let oldest = if waiting.len() > window {
                            waiting.pop_front()
                        } else {
                            None
                        };
                        oldest.map_or_else(Vec::new, |[high, low]| vec![0x40, 2, high, low])
                    }
                    12 => vec![0xd0, 0],
                    _ => Vec::new(),
                };
                // Whoever has gone away connects again.
                if stream.write_all(&answer).is_err() {
                    break;
                }
            }
        }
    });
    (port, came)
}

/// A message to a remote with so many in flight (mosquitto's bridge is not measured).
fn uplink_window(name: &str, count: usize) -> Option<(f64, u64)> {
    if name != "wellhead" {
        return None;
    }
    let (remote, came) = slow_remote(count);
    let more = format!(
        "site: bench\nuplinks:\n  - {{ name: far, to: 'mqtt://127.0.0.1:{remote}', window: {}, send: [ {{ filter: '#' }} ] }}\n",
        count + 100
    );
    let broker = start_with(name, "", &more)?;
    let mut publisher = Client::connect(broker.port, "publisher", true);
    let mut sent = 0;
    // In pieces that fit into the publisher's window, so that they share writes to the disk.
    let mut publish = |_| {
        (0..PIECE).for_each(|_| publisher.publish("plant/flow", b"12.5", 0x32));
        (0..PIECE).for_each(|_| drop(publisher.await_packet(4)));
        sent += PIECE;
        while came.load(Ordering::Acquire) < sent {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    (0..count.div_ceil(PIECE)).for_each(|_| publish(0));
    let (each, memory) = cost(&broker, 20, publish);
    Some((each / PIECE as f64, memory))
}

/// A name, the sizes to measure at, and what measures one.
type Case = (
    &'static str,
    &'static [usize],
    fn(&str, usize) -> Option<(f64, u64)>,
);

const CASES: [Case; 6] = [
    (
        "subscription that begins with a wildcard, by retained topics",
        &[1_000, 10_000, 100_000],
        wildcard,
    ),
    (
        "retained publish to a full store, by retained topics",
        &[1_000, 10_000, 100_000],
        full_store,
    ),
    (
        "QoS 1 message while all queues are full, by sessions",
        &[10, 100, 1_000, 4_000],
        full_queues,
    ),
    (
        "message to a shared subscription, by members",
        &[4, 64, 1_000, 4_000],
        shared,
    ),
    (
        "SUBSCRIBE and UNSUBSCRIBE, by subscriptions of the session",
        &[10, 1_000, 10_000],
        filters,
    ),
    (
        "QoS 1 message to a remote, by messages in flight to it",
        &[10, 100, 1_000, 10_000],
        uplink_window,
    ),
];

fn main() {
    let words = packets::words();
    let is_large = words.iter().any(|word| word == "million");
    packets::stay_on_the_first_core();
    for (name, sizes, measure) in CASES {
        if words.iter().any(|word| word != "million")
            && !words.iter().any(|word| name.contains(word.as_str()))
        {
            continue;
        }
        let million = if is_large && name.contains("retained topics") {
            &[1_000_000][..]
        } else {
            &[]
        };
        let sizes: Vec<usize> = sizes.iter().chain(million).copied().collect();
        println!(
            "\nCPU us per {name}\n\n| broker | {} | RSS max KiB |",
            sizes
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" | ")
        );
        println!("|---|{}---|", "---|".repeat(sizes.len()));
        for broker in ["wellhead", "mosquitto"] {
            let mut peak = 0;
            let cells = sizes.iter().map(|size| {
                let runs: Vec<(f64, u64)> =
                    (0..ROUNDS).filter_map(|_| measure(broker, *size)).collect();
                peak = runs
                    .iter()
                    .map(|(_, memory)| *memory)
                    .max()
                    .unwrap_or(0)
                    .max(peak);
                let costs: Vec<f64> = runs.iter().map(|(cost, _)| *cost).collect();
                if costs.is_empty() {
                    "not measured".to_owned()
                } else {
                    format!("{:.1}", median(costs))
                }
            });
            let cells = cells.collect::<Vec<_>>().join(" | ");
            println!("| {broker} | {cells} | {peak} |");
        }
    }
}
