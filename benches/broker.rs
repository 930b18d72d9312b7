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
#[path = "support/traffic.rs"]
mod traffic;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use brokers::{is_build, median, start};
use traffic::{Case, Load, connect, subscribe};

const WARM_UP: Duration = Duration::from_millis(500);
const RUN: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;
const IDLE: usize = 2000;
const FLOOR: &str = "floor";

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
    let mut load = Load::new(broker.port, broker.port, case);
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
