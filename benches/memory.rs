//! Memory of the running program, beside mosquitto and beside another build of wellhead, in one
//! run: idle with uplinks, with queued messages, and while everything around it comes and goes.
//!
//! ```text
//! cargo bench --bench memory                            # every case; the churn takes 3 minutes a program
//! cargo bench --bench memory -- idle queued backlog     # cases by their names
//! cargo bench --bench memory -- churn 20                # 20 minutes of churn
//! cargo bench --bench memory -- idle /tmp/old/wellhead  # beside another build
//! ```
//!
//! Needs mosquitto, which is also the remote broker.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

#[expect(dead_code, reason = "other benches use the rest")]
#[path = "support/brokers.rs"]
mod brokers;
#[expect(dead_code, reason = "tests use the rest")]
#[path = "../tests/gateway/support/client.rs"]
mod client;
#[path = "support/remote.rs"]
mod remote;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use brokers::{Broker, free_port, launch, mosquitto};
use client::{Client, hello, message};
use remote::remote;
use wellhead::mqtt::{Connect, Disconnect, Packet, Publish, QoS, ReasonCode, Version};

/// Uplinks of the idle program.
const UPLINKS: [usize; 5] = [0, 1, 2, 4, 8];
/// How long a program is left alone before its memory is measured.
const SETTLE: Duration = Duration::from_secs(10);
/// Messages that wait for a client that is away, and their payload.
const QUEUED: u64 = 50_000;
/// Messages that wait for each of four remotes that are away, and their payload.
const BACKLOG: u64 = 6_000;
const LARGE_PAYLOAD: usize = 4000;
const PAYLOAD: usize = 64;
/// How long a backlog may take to be sent.
const DRAIN: Duration = Duration::from_secs(30);
/// The churn: what happens, and how often.
const RETAINED: u64 = 10_000;
const VISITORS: u64 = 4;
const CONNECT_EVERY: Duration = Duration::from_millis(10);
const RELOAD_EVERY: Duration = Duration::from_secs(1);
const RESTART_EVERY: Duration = Duration::from_secs(4);
const SAMPLE_EVERY: Duration = Duration::from_secs(15);
const REST: Duration = Duration::from_secs(30);

/// A program under test.
struct Program {
    name: String,
    path: PathBuf,
}

impl Program {
    fn is_mosquitto(&self) -> bool {
        self.name == "mosquitto"
    }

    /// Starts it with uplinks (bridges) to a broker at the port `remote`.
    fn start(&self, uplinks: usize, remote: u16) -> (Broker, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (file, port) = (folder.path().join("gateway.yaml"), free_port());
        let mut command = Command::new(&self.path);
        if self.is_mosquitto() {
            fs::write(&file, bridges(port, uplinks, remote)).unwrap();
            command.arg("-c").arg(&file);
        } else {
            fs::write(&file, gateway(port, uplinks, remote, "plant")).unwrap();
            command.arg("run").arg(&file);
        }
        (launch(command, port, folder), file)
    }
}

/// The file of a gateway whose uplinks send what is below `topics`.
fn gateway(port: u16, uplinks: usize, remote: u16, topics: &str) -> String {
    let mut yaml = format!(
        "site: bench\nbroker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ], connection_rate: 10000, max_queued: 100000, max_queued_size: 256MiB, max_queued_total: 256MiB, max_session_size: 256MiB, max_user_size: 256MiB, max_sessions_size: 256MiB }}\noutbox: {{ folder: data }}\nclasses: {{ alarm: {{ lane: alarm }} }}\n"
    );
    if uplinks > 0 {
        yaml.push_str("uplinks:\n");
    }
    for number in 0..uplinks {
        let _ = writeln!(
            yaml,
            "  - {{ name: far{number}, to: 'mqtt://127.0.0.1:{remote}', client_id: far{number}, send: [ {{ filter: 'alarm/#', class: alarm }}, {{ filter: '{topics}/#' }} ] }}"
        );
    }
    yaml
}

fn bridges(port: u16, uplinks: usize, remote: u16) -> String {
    let mut config = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nlog_type none\n"
    );
    for number in 0..uplinks {
        let _ = write!(
            config,
            "connection far{number}\naddress 127.0.0.1:{remote}\nrestart_timeout 1\ntopic alarm/# out 1\ntopic plant/# out 1\n"
        );
    }
    config
}

fn connect(port: u16, id: &str, clean_start: bool) -> Client {
    let hello = Connect {
        clean_start,
        ..hello(Version::V311, id)
    };
    Client::accepted(port, hello)
}

fn mb(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}

/// Nothing to do, after an outage in which an alarm and a message waited on disk for each uplink.
fn idle(programs: &[Program]) {
    println!("\nresident MB, idle, by uplinks\n");
    let columns = UPLINKS.map(|uplinks| format!("{uplinks} |")).join(" ");
    println!("| program | {columns} each after the first | threads of the last |");
    println!("|---|{}---|---|", "---|".repeat(UPLINKS.len()));
    for program in programs {
        let mut row = Vec::new();
        let mut threads = 0;
        for uplinks in UPLINKS {
            let far = free_port();
            let (broker, _) = program.start(uplinks, far);
            let mut publisher = connect(broker.port, "publisher", true);
            for topic in ["alarm/1", "plant/1"] {
                publisher.publish(message(topic, QoS::AtLeastOnce, "12.5"));
                publisher.await_puback();
            }
            let _far = remote(far, "");
            std::thread::sleep(SETTLE);
            row.push(mb(broker.memory("VmRSS")));
            threads = broker.memory("Threads");
        }
        let each = match (row.get(1), row.get(3)) {
            (Some(one), Some(four)) => (four - one) / 3.0,
            _ => f64::NAN,
        };
        let cells: String = row.iter().map(|cell| format!(" {cell:.1} |")).collect();
        println!("| {} |{cells} {each:.1} | {threads} |", program.name);
    }
}

/// Messages of QoS 1 for a session whose client is away.
fn queued(programs: &[Program]) {
    println!(
        "\n{QUEUED} messages of {PAYLOAD} bytes that wait for a client\n\n| program | bytes each |\n|---|---|"
    );
    let payload = vec![b'x'; PAYLOAD];
    for program in programs {
        let (broker, _) = program.start(0, 0);
        connect(broker.port, "away", false).subscribe(&["queue/#"], QoS::AtLeastOnce);
        let mut publisher = connect(broker.port, "publisher", true);
        std::thread::sleep(Duration::from_secs(2));
        let before = broker.memory("VmRSS");
        publish(&mut publisher, "queue", QUEUED, &payload);
        std::thread::sleep(SETTLE);
        let each = (broker.memory("VmRSS") - before) as f64 * 1024.0 / QUEUED as f64;
        println!("| {} | {each:.0} |", program.name);
    }
}

/// Messages of QoS 1 below `root`, a few at a time.
fn publish(publisher: &mut Client, root: &str, count: u64, payload: &[u8]) {
    for number in 0..count {
        let topic = format!("{root}/{}", number % 100);
        publisher.publish(message(&topic, QoS::AtLeastOnce, payload.to_vec()));
        if number % 50 == 49 {
            (0..50).for_each(|_| publisher.await_puback());
        }
    }
}

/// Messages on disk for four remotes that are away, and after all were sent.
fn backlog(programs: &[Program]) {
    println!(
        "\nresident MB, {BACKLOG} messages of {LARGE_PAYLOAD} bytes for each of four remotes\n"
    );
    println!("| program | waiting | sent |\n|---|---|---|");
    let payload = vec![b'x'; LARGE_PAYLOAD];
    for program in programs {
        let far = free_port();
        let (broker, _) = program.start(4, far);
        let mut publisher = connect(broker.port, "publisher", true);
        publish(&mut publisher, "plant", BACKLOG, &payload);
        std::thread::sleep(SETTLE);
        let waiting = mb(broker.memory("VmRSS"));
        let _far = remote(far, "");
        std::thread::sleep(DRAIN);
        let sent = mb(broker.memory("VmRSS"));
        println!("| {} | {waiting:.1} | {sent:.1} |", program.name);
    }
}

/// What the churn has done.
#[derive(Default)]
struct Counts {
    connects: AtomicU64,
    reloads: AtomicU64,
    restarts: AtomicU64,
}

fn churn(program: &Program, minutes: u64) {
    let far = remote(free_port(), "");
    let (broker, file) = program.start(2, far.port);
    std::thread::sleep(SETTLE);
    let start = broker.memory("VmRSS");
    let (counts, is_over) = (Counts::default(), AtomicBool::new(false));
    let mut samples = Vec::new();
    std::thread::scope(|scope| {
        let until = |every: Duration, work: &mut dyn FnMut(u64)| {
            for turn in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                work(turn);
                std::thread::sleep(every);
            }
        };
        let (counts, port, far_port) = (&counts, broker.port, far.port);
        for visitor in 0..VISITORS {
            scope.spawn(move || {
                until(CONNECT_EVERY, &mut |turn| {
                    visit(port, turn * VISITORS + visitor);
                    counts.connects.fetch_add(1, Ordering::Relaxed);
                });
            });
        }
        scope.spawn(move || until(Duration::ZERO, &mut |turn| keep(port, turn)));
        scope.spawn(move || {
            until(RELOAD_EVERY, &mut |turn| {
                let topics = ["plant", "site"][usize::from(turn % 2 == 0)];
                reload(program, &file, &gateway(port, 2, far_port, topics));
                counts.reloads.fetch_add(1, Ordering::Relaxed);
            });
        });
        scope.spawn(move || {
            let mut running = Some(far);
            until(RESTART_EVERY, &mut |_| {
                drop(running.take());
                running = Some(remote(far_port, ""));
                counts.restarts.fetch_add(1, Ordering::Relaxed);
            });
        });
        let end = Instant::now() + Duration::from_secs(60 * minutes);
        while Instant::now() < end {
            std::thread::sleep(SAMPLE_EVERY);
            samples.push(mb(broker.memory("VmRSS")));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    std::thread::sleep(REST);
    let [connects, reloads, restarts] = [&counts.connects, &counts.reloads, &counts.restarts]
        .map(|count| count.load(Ordering::Relaxed));
    let course: String = samples.iter().map(|rss| format!(" {rss:.0}")).collect();
    println!(
        "\n{}: {connects} connects, {RETAINED} retained topics, {reloads} reloads, {restarts} restarts of the remote",
        program.name
    );
    println!(
        "resident MB: {:.1} before; every {} s:{course}; {:.1} after {} s of rest, {} threads",
        mb(start),
        SAMPLE_EVERY.as_secs(),
        mb(broker.memory("VmRSS")),
        REST.as_secs(),
        broker.memory("Threads"),
    );
}

/// A client that comes, says something, and goes: every third one keeps its session, under one of a
/// few names.
fn visit(port: u16, turn: u64) {
    let (id, is_clean) = match turn % 3 {
        0 => (format!("regular{}", turn % 120), false),
        _ => (format!("guest{turn}"), true),
    };
    let mut client = connect(port, &id, is_clean);
    client.subscribe(&[format!("plant/{}/+", turn % 50)], QoS::AtMostOnce);
    let topic = format!("plant/{}/visits", turn % 50);
    client.publish(message(&topic, QoS::AtLeastOnce, vec![b'x'; PAYLOAD]));
    client.await_puback();
    client.send(&Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS)));
}

/// Sets a hundred retained topics.
fn keep(port: u16, turn: u64) {
    let mut client = connect(port, "keeper", true);
    for number in 0..100 {
        let topic = format!("site/device{}/value", (turn * 100 + number) % RETAINED);
        client.publish(Publish {
            retain: true,
            ..message(&topic, QoS::AtMostOnce, turn.to_string())
        });
    }
    client.ping();
    std::thread::sleep(Duration::from_millis(50));
}

/// Changes the file and has it read again.
fn reload(program: &Program, file: &Path, yaml: &str) {
    fs::write(file, yaml).unwrap();
    let status = Command::new(&program.path)
        .arg("reload")
        .arg(file)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "the file could not be read again");
}

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let wants = |case: &str| {
        let cases: Vec<_> = words.iter().filter(|word| is_case(word)).collect();
        cases.is_empty() || cases.iter().any(|word| *word == case)
    };
    let minutes = words.iter().find_map(|word| word.parse().ok()).unwrap_or(3);
    let mut programs = vec![Program {
        name: "wellhead".to_owned(),
        path: env!("CARGO_BIN_EXE_wellhead").into(),
    }];
    let others = words.iter().filter(|word| word.contains('/'));
    programs.extend(others.map(|path| Program {
        name: path.clone(),
        path: path.into(),
    }));
    let builds = programs.len();
    programs.push(Program {
        name: "mosquitto".to_owned(),
        path: mosquitto(),
    });
    if wants("idle") {
        idle(&programs);
    }
    if wants("queued") {
        queued(&programs);
    }
    if wants("backlog") {
        backlog(&programs);
    }
    if wants("churn") {
        programs.truncate(builds);
        for program in &programs {
            churn(program, minutes);
        }
    }
}

fn is_case(word: &str) -> bool {
    ["idle", "queued", "backlog", "churn"].contains(&word)
}
