//! The uplink with its durable outbox beside rumqttc's client without any, to the same mosquitto:
//! messages a second from the first append to the last acknowledgement. Both send the same packets:
//! messages are not numbered.
//!
//! And the whole way, from local clients to a subscriber at the remote: CPU time of the gateway a
//! message, beside a bridge of mosquitto, which keeps nothing on disk. The gateway has the second
//! core to itself.
//!
//! ```text
//! cargo bench --bench uplink                              # both
//! cargo bench --bench uplink -- client 100000             # so many messages a run
//! cargo bench --bench uplink -- way                       # the whole way
//! cargo bench --bench uplink -- way /tmp/old/wellhead     # beside another build
//! ```
//!
//! Needs mosquitto.

// A bench that cannot go on stops with what it met; its figures are estimates.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::too_many_lines
)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

#[expect(dead_code, reason = "other benches use the rest")]
#[path = "support/brokers.rs"]
mod brokers;
#[expect(dead_code, reason = "tests use the rest")]
#[path = "../tests/gateway/support/client.rs"]
mod client;
#[path = "support/load.rs"]
mod load;
#[path = "support/remote.rs"]
mod remote;
#[path = "support/traffic.rs"]
mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brokers::{Broker, free_port, is_build, launch, median};
use remote::remote;
use rumqttc::v5::mqttbytes::QoS as ClientQoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use traffic::{Case, Load};
use wellhead::message::{Lane, SessionLost};
use wellhead::mqtt::{Properties, QoS, TopicName};
use wellhead::outbox::{self, Outgoing};
use wellhead::reading::Timestamp;
use wellhead::tasks::{detach, stop_token};
use wellhead::time::unix_ms;
use wellhead::uplink::{self, UplinkChannels};

const ROUNDS: usize = 5;
const PAYLOAD: usize = 64;
const WARM_UP: Duration = Duration::from_secs(2);
const RUN: Duration = Duration::from_secs(5);

struct Mosquitto(Child);

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mosquitto(folder: &Path, window: u16) -> (Mosquitto, u16) {
    let port = free_port();
    let file = folder.join(format!("mosquitto-{port}.conf"));
    fs::write(
        &file,
        format!("listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest none\nmax_inflight_messages {window}\nset_tcp_nodelay true\n"),
    )
    .unwrap();
    let program = if Path::new("/usr/sbin/mosquitto").exists() {
        "/usr/sbin/mosquitto"
    } else {
        "mosquitto"
    };
    let child = Command::new(program)
        .arg("-c")
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto is needed");
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    (Mosquitto(child), port)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// rumqttc as its documentation shows it.
fn client(port: u16, qos: u8, window: u16, count: u64) -> f64 {
    runtime().block_on(async {
        let mut options = MqttOptions::new("client", "127.0.0.1", port);
        options
            .set_keep_alive(Duration::from_secs(30))
            .set_outgoing_inflight_upper_limit(window);
        let (client, mut events) = AsyncClient::new(options, 10);
        while !matches!(
            events.poll().await.unwrap(),
            Event::Incoming(Packet::ConnAck(_))
        ) {}
        let start = Instant::now();
        let qos = if qos == 2 {
            ClientQoS::ExactlyOnce
        } else {
            ClientQoS::AtLeastOnce
        };
        let publisher = client.clone();
        detach(async move {
            for _ in 0..count {
                publisher
                    .publish("plant/pump-7/flow", qos, false, vec![7; PAYLOAD])
                    .await
                    .unwrap();
            }
        });
        let mut done = 0;
        while done < count {
            if let Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) =
                events.poll().await.unwrap()
            {
                done += 1;
            }
        }
        count as f64 / start.elapsed().as_secs_f64()
    })
}

struct Ours {
    rate: f64,
    commits: u64,
    written: u64,
}

fn ours(folder: &Path, port: u16, qos: u8, window: u16, count: u64) -> Ours {
    let yaml = format!(
        "site: bench\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\noutbox: {{ folder: state }}\nuplinks:\n  - {{ name: cloud, to: 'mqtt://127.0.0.1:{port}', window: {window}, number_messages: false, send: [ {{ filter: '#' }} ] }}\n"
    );
    let config = wellhead::config::parse("gateway.yaml", &yaml, folder).unwrap();
    runtime().block_on(async {
        let (outbox, closed) = outbox::open("cloud", &config.folder, config.outbox).unwrap();
        let (switch, stop) = stop_token();
        let (is_up, mut up) = tokio::sync::watch::channel(false);
        let uplink = uplink::prepare(
            config.uplinks[0].settings.clone(),
            outbox.clone(),
            UplinkChannels {
                status: None,
                inbound: None,
                is_up,
                routes: tokio::sync::watch::channel(std::sync::Arc::default()).1,
                primary: None,
            },
        )
        .unwrap();
        detach(uplink.run(stop.clone(), stop, Duration::ZERO));
        up.wait_for(|up| *up).await.unwrap();
        let start = Instant::now();
        let message = Outgoing {
            topic: TopicName::new("plant/pump-7/flow").unwrap(),
            qos: QoS::from_bits(qos).unwrap(),
            retain: false,
            if_session_lost: SessionLost::Resend,
            enqueued: Timestamp::at(unix_ms()),
            properties: Properties::default(),
            payload: vec![7; PAYLOAD].into(),
            rated: None,
            source: None,
        };
        for _ in 0..count {
            outbox.append(Lane::Live, &message).await.unwrap();
        }
        while outbox.waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let rate = count as f64 / start.elapsed().as_secs_f64();
        let (commits, written) = (
            outbox.counts().store.commits.value(),
            outbox.counts().store.written.value(),
        );
        switch.stop();
        drop(outbox);
        let _ = closed.await;
        Ours {
            rate,
            commits,
            written,
        }
    })
}

/// A gateway that sends everything on to a remote at a port: wellhead, another build of it by its
/// path, or mosquitto with a bridge.
fn gateway(name: &str, remote: u16) -> Broker {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let (program, argument, config) = if name == "mosquitto" {
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\nlog_type none\nconnection far\naddress 127.0.0.1:{remote}\nrestart_timeout 1\ntopic # out 2\n"
        );
        (brokers::mosquitto(), "-c", config)
    } else {
        let config = format!(
            "site: bench\nbroker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ] }}\noutbox: {{ folder: data }}\nuplinks:\n  - {{ name: far, to: 'mqtt://127.0.0.1:{remote}', send: [ {{ filter: '#' }} ] }}\n"
        );
        let own = env!("CARGO_BIN_EXE_wellhead");
        let program = PathBuf::from(if is_build(name) { name } else { own });
        (program, "run", config)
    };
    let file = folder.path().join("config");
    fs::write(&file, config).unwrap();
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(program);
    command.arg(argument).arg(&file);
    launch(command, port, folder)
}

struct Way {
    rate: f64,
    cpu_us: f64,
    lost: u64,
}

fn way(name: &str, case: Case) -> Way {
    let far = remote(
        free_port(),
        "max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n",
    );
    let gateway = gateway(name, far.port);
    let mut space = vec![0; 256 * 1024];
    let mut load = Load::new(gateway.port, far.port, case);
    load.run(WARM_UP, &mut space);
    let (cpu, began, before) = (gateway.cpu(), Instant::now(), load.counts.deliveries);
    load.run(RUN, &mut space);
    let (cpu, took) = (gateway.cpu() - cpu, began.elapsed());
    let deliveries = load.counts.deliveries - before;
    Way {
        rate: deliveries as f64 / took.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / deliveries as f64,
        lost: load.drain(&mut space),
    }
}

/// The whole way, beside other builds.
fn whole_way(builds: &[&str]) {
    load::stay_on_the_first_core();
    println!("| case | gateway | msg/s | CPU us/message | lost |\n|---|---|---|---|---|");
    let names: Vec<&str> = ["wellhead"]
        .iter()
        .chain(builds)
        .chain(&["mosquitto"])
        .copied()
        .collect();
    for (name, qos) in [("QoS 0", 0), ("QoS 1", 1), ("QoS 2", 2)] {
        let case = Case {
            name,
            publishers: 50,
            subscribers: 1,
            qos,
        };
        let mut runs: Vec<Vec<Way>> = names.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for (name, runs) in names.iter().zip(&mut runs) {
                runs.push(way(name, case));
            }
        }
        for (name, runs) in names.iter().zip(&runs) {
            let rate = median(runs.iter().map(|run| run.rate).collect());
            let cpu = median(runs.iter().map(|run| run.cpu_us).collect());
            let lost: u64 = runs.iter().map(|run| run.lost).sum();
            println!("| {} | {name} | {rate:.0} | {cpu:.1} | {lost} |", case.name);
        }
    }
}

/// The uplink beside the client of rumqttc.
fn beside_a_client(count: u64) {
    println!(
        "{count} messages of {PAYLOAD} B a run, median of {ROUNDS} in turn, the same mosquitto"
    );
    println!(
        "{:>4} {:>7} {:>16} {:>16} {:>7} {:>16} {:>9}",
        "QoS", "window", "rumqttc msg/s", "wellhead msg/s", "ratio", "to disk first, %", "commits"
    );
    for (qos, window) in [(1, 100), (1, 1000), (2, 100), (2, 1000)] {
        let mut runs = Vec::new();
        for _ in 0..ROUNDS {
            let workshop = tempfile::tempdir().unwrap();
            let (_broker, port) = mosquitto(workshop.path(), window);
            runs.push((
                client(port, qos, window, count),
                ours(workshop.path(), port, qos, window, count),
            ));
        }
        let median = |value: &dyn Fn(&(f64, Ours)) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[ROUNDS / 2]
        };
        println!(
            "{qos:>4} {window:>7} {:>16.0} {:>16.0} {:>7.2} {:>16.1} {:>9.0}",
            median(&|(client, _)| *client),
            median(&|(_, ours)| ours.rate),
            median(&|(client, ours)| ours.rate / client),
            median(&|(_, ours)| 100.0 * ours.written as f64 / count as f64),
            median(&|(_, ours)| ours.commits as f64),
        );
    }
}

fn main() {
    let words = load::words();
    let wants = |part: &str| {
        let has = |part: &str| words.iter().any(|word| word == part);
        has(part) || !["client", "way"].iter().any(|part| has(part))
    };
    if wants("client") {
        let count = words.iter().find_map(|word| word.parse().ok());
        beside_a_client(count.unwrap_or(60_000));
    }
    // Last: it binds this program to one core.
    if wants("way") {
        let builds: Vec<&str> = words
            .iter()
            .map(String::as_str)
            .filter(|word| is_build(word))
            .collect();
        whole_way(&builds);
    }
}
