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
#[expect(dead_code, reason = "tests use the rest")]
#[path = "../tests/gateway/support/client.rs"]
mod client;
#[path = "support/load.rs"]
mod load;

use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use brokers::{Broker, median, start, start_with};
use bytes::Bytes;
use client::{Client, Incoming, bytes_of, hello, message};
use wellhead::mqtt::{
    Ack, ConnAck, Connect, Decoder, Packet, PacketId, Properties, Publish, QoS, ReasonCode,
    TopicFilter, Unsubscribe, Version,
};

const ROUNDS: usize = 3;
/// Payload of the messages that fill queues.
const FILLING: usize = 1000;
/// Messages to a remote at a time.
const PIECE: usize = 50;

fn connect(port: u16, id: &str, clean_start: bool) -> Client {
    let hello = Connect {
        clean_start,
        keep_alive: 240,
        ..hello(Version::V311, id)
    };
    Client::accepted(port, hello)
}

fn unsubscribe(client: &mut Client, filter: &str) {
    client.send(&Packet::Unsubscribe(Unsubscribe {
        packet_id: PacketId::MAX,
        filters: vec![TopicFilter::new(filter).unwrap()],
        properties: Properties::default(),
    }));
    client.await_packet(|packet| matches!(packet, Packet::UnsubAck(_)).then_some(()));
}

fn retained(message: Publish) -> Publish {
    Publish {
        retain: true,
        ..message
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
    let mut client = connect(broker.port, "keeper", true);
    for number in 0..count {
        let topic = format!("site{}/device{number}/value", number % 100);
        client.publish(retained(message(&topic, QoS::AtMostOnce, "12.5")));
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
        client.subscribe(&["+/device7/unknown"], QoS::AtMostOnce);
        client.ping();
        unsubscribe(&mut client, "+/device7/unknown");
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
        let topic = format!("new/{turn}");
        client.publish(retained(message(&topic, QoS::AtLeastOnce, "12.5")));
        client.await_puback();
    }))
}

/// A message that has to wait while the queues of others are full.
fn full_queues(name: &str, count: usize) -> Option<(f64, u64)> {
    let total = count.max(100) * FILLING * 4;
    let broker = start(
        name,
        &format!(", max_queued_total: {total}B, max_queued: 100000"),
    )?;
    let mut publisher = connect(broker.port, "publisher", true);
    for number in 0..count {
        connect(broker.port, &format!("away{number}"), false)
            .subscribe(&[format!("queue/{number}")], QoS::AtLeastOnce);
    }
    let payload = Bytes::from_static(&[b'x'; FILLING]);
    for round in 0..8 * (100 / count.max(1)).max(1) {
        for number in 0..count {
            let topic = format!("queue/{number}");
            publisher.publish(message(&topic, QoS::AtLeastOnce, payload.clone()));
            if (round + number) % 50 == 0 {
                publisher.ping();
            }
        }
    }
    publisher.ping();
    let mut publisher = connect(broker.port, "second", true);
    Some(cost(&broker, 2000, |turn| {
        let topic = format!("queue/{}", turn as usize % count);
        publisher.publish(message(&topic, QoS::AtLeastOnce, payload.clone()));
        publisher.await_puback();
    }))
}

/// A message for one of so many members.
fn shared(name: &str, count: usize) -> Option<(f64, u64)> {
    let broker = start(name, "")?;
    let mut members: Vec<Client> = (0..count)
        .map(|number| connect(broker.port, &format!("member{number}"), true))
        .collect();
    for member in &mut members {
        member.subscribe(&["$share/workers/jobs"], QoS::AtMostOnce);
    }
    let mut publisher = connect(broker.port, "publisher", true);
    Some(cost(&broker, 4000, |turn| {
        publisher.publish(message("jobs", QoS::AtMostOnce, "job"));
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
    let mut client = connect(broker.port, "collector", true);
    for number in 0..count {
        let filter = format!("site{}/device{number}/+", number % 100);
        client.subscribe(&[filter], QoS::AtMostOnce);
    }
    Some(cost(&broker, 2000, |turn| {
        let filter = format!("more/{turn}/+");
        client.subscribe(&[&filter], QoS::AtMostOnce);
        unsubscribe(&mut client, &filter);
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
            let mut incoming = Incoming::new(Decoder::server(1 << 20));
            while let Ok(packet) = incoming.read_packet(&mut stream) {
                let answer = match packet {
                    Packet::Connect(_) => Some(Packet::ConnAck(ConnAck {
                        session_present: false,
                        reason: ReasonCode::SUCCESS,
                        properties: Properties::default(),
                    })),
                    Packet::Publish(publish) => {
                        waiting.extend(publish.packet_id);
                        counter.fetch_add(1, Ordering::Release);
                        let oldest = (waiting.len() > window).then(|| waiting.pop_front());
                        let success = |id| Packet::PubAck(Ack::new(id, ReasonCode::SUCCESS));
                        oldest.flatten().map(success)
                    }
                    Packet::PingReq => Some(Packet::PingResp),
                    _ => None,
                };
                let bytes = answer.map(|packet| bytes_of(&packet, Version::V5));
                // Whoever has gone away connects again.
                if bytes.is_some_and(|bytes| stream.write_all(&bytes).is_err()) {
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
    let mut publisher = connect(broker.port, "publisher", true);
    let mut sent = 0;
    // In pieces that fit into the publisher's window, so that they share writes to the disk.
    let mut publish = |_| {
        for _ in 0..PIECE {
            publisher.publish(message("plant/flow", QoS::AtLeastOnce, "12.5"));
        }
        (0..PIECE).for_each(|_| publisher.await_puback());
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
    let words = load::words();
    let is_large = words.iter().any(|word| word == "million");
    load::stay_on_the_first_core();
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
