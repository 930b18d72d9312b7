//! The uplink with its durable outbox beside rumqttc's client without any, to the same mosquitto:
//! messages a second from the first append to the last acknowledgement. Both send the same packets:
//! messages are not numbered.
//!
//! `cargo bench --bench uplink`; `cargo bench --bench uplink -- 100000` for so many messages a run.
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

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS as ClientQoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use wellhead::message::{Lane, SessionLost};
use wellhead::mqtt::{Properties, QoS, TopicName};
use wellhead::outbox::{self, Outgoing};
use wellhead::reading::Timestamp;
use wellhead::tasks::{detach, stop_token};
use wellhead::time::unix_ms;
use wellhead::uplink::{self, UplinkChannels};

const ROUNDS: usize = 5;
const PAYLOAD: usize = 64;

struct Mosquitto(Child);

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
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

fn main() {
    let count = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(60_000);
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
