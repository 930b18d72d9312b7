//! The uplink over a long way: a relay that delays each direction by 300 ms and passes 1 Mbit/s up
//! and 4 Mbit/s down, without loss.
//!
//! `cargo bench --bench satellite` measures messages a second beside window / round trip, and the
//! time from the end of a cut of 90 s to the first acknowledgement; `-- 300` cuts for 300 s. Needs
//! mosquitto. A relay is no radio link: it shows what the protocol and the window allow, not what
//! loss and congestion control make of it.

// A bench that cannot go on stops with what it met; its figures are estimates.
#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    missing_docs
)]

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use wellhead::message::{Lane, SessionLost};
use wellhead::mqtt::{Properties, QoS, TopicName};
use wellhead::outbox::{self, Outbox, Outgoing};
use wellhead::reading::Timestamp;
use wellhead::tasks::{detach, stop_token};
use wellhead::time::unix_ms;
use wellhead::uplink::{self, UplinkChannels};

const DELAY: Duration = Duration::from_millis(300);
const WINDOW: u16 = 1000;
const PAYLOAD: usize = 64;
const MEASURED: Duration = Duration::from_secs(30);

/// What has left one end and not reached the other.
#[derive(Default)]
struct Way {
    queue: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    changed: Condvar,
}

/// One direction of one connection. Nothing passes while the link is down.
fn pass(mut from: TcpStream, mut to: TcpStream, bytes_a_second: f64, down: &Arc<AtomicBool>) {
    let way = Arc::new(Way::default());
    let (ended, end) = sync_channel::<()>(1);
    let far = way.clone();
    let is_down = down.clone();
    std::thread::spawn(move || {
        loop {
            let mut queue = far.queue.lock().unwrap();
            while queue.front().is_none_or(|(due, _)| *due > Instant::now()) {
                if queue.is_empty() && end.try_recv().is_ok() {
                    let _ = to.shutdown(std::net::Shutdown::Both);
                    return;
                }
                queue = far
                    .changed
                    .wait_timeout(queue, Duration::from_millis(2))
                    .unwrap()
                    .0;
            }
            let piece = queue
                .pop_front()
                .map(|(_, piece)| piece)
                .unwrap_or_default();
            drop(queue);
            while is_down.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if to.write_all(&piece).is_err() {
                return;
            }
        }
    });
    let mut space = [0; 4096];
    let mut free_at = Instant::now();
    while let Ok(count) = from.read(&mut space) {
        if count == 0 {
            break;
        }
        // The way is as fast as it is: what comes faster waits where it came from.
        free_at =
            free_at.max(Instant::now()) + Duration::from_secs_f64(count as f64 / bytes_a_second);
        way.queue.lock().unwrap().push_back((
            free_at + DELAY,
            space.get(..count).unwrap_or_default().to_vec(),
        ));
        way.changed.notify_one();
        std::thread::sleep(free_at.saturating_duration_since(Instant::now()));
    }
    let _ = ended.try_send(());
}

struct Relay {
    port: u16,
    down: Arc<AtomicBool>,
}

impl Relay {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self {
            port: listener.local_addr().unwrap().port(),
            down: Arc::default(),
        };
        let down = relay.down.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let (up, back) = (
                    (near.try_clone().unwrap(), far.try_clone().unwrap()),
                    (far, near),
                );
                let (down_up, down_back) = (down.clone(), down.clone());
                std::thread::spawn(move || pass(up.0, up.1, 1e6 / 8.0, &down_up));
                std::thread::spawn(move || pass(back.0, back.1, 4e6 / 8.0, &down_back));
            }
        });
        relay
    }
}

struct Mosquitto(Child);

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mosquitto(folder: &Path) -> (Mosquitto, u16) {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let file = folder.join("mosquitto.conf");
    fs::write(&file, format!("listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest none\nmax_inflight_messages {WINDOW}\n")).unwrap();
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
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    (Mosquitto(child), port)
}

async fn uplink(folder: &Path, port: u16) -> Outbox {
    let yaml = format!(
        "site: bench\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\noutbox: {{ folder: state }}\nuplinks:\n  - {{ name: cloud, to: 'mqtt://127.0.0.1:{port}', window: {WINDOW}, send: [ {{ filter: '#' }} ] }}\n"
    );
    let config = wellhead::config::parse("gateway.yaml", &yaml, folder).unwrap();
    let (outbox, _closed) = outbox::open("cloud", &config.folder, config.outbox).unwrap();
    let (switch, stop) = stop_token();
    // It runs until the bench ends.
    std::mem::forget(switch);
    let (is_up, mut up) = tokio::sync::watch::channel(false);
    let settings = config.uplinks.into_iter().next().unwrap().settings;
    let uplink = uplink::prepare(
        settings,
        outbox.clone(),
        UplinkChannels {
            status: None,
            inbound: None,
            is_up,
            routes: tokio::sync::watch::channel(Arc::default()).1,
            primary: None,
        },
    )
    .unwrap();
    detach(uplink.run(stop.clone(), stop, Duration::ZERO));
    up.wait_for(|up| *up).await.unwrap();
    outbox
}

fn message(qos: u8) -> Outgoing {
    Outgoing {
        topic: TopicName::new("plant/pump-7/flow").unwrap(),
        qos: QoS::from_bits(qos).unwrap(),
        retain: false,
        if_session_lost: SessionLost::Resend,
        enqueued: Timestamp::at(unix_ms()),
        properties: Properties::default(),
        payload: vec![7; PAYLOAD].into(),
        rated: None,
        source: None,
    }
}

async fn rate(qos: u8) {
    let workshop = tempfile::tempdir().unwrap();
    let (_broker, port) = mosquitto(workshop.path());
    let outbox = uplink(workshop.path(), Relay::to(port).port).await;
    for _ in 0..60_000 {
        outbox.append(Lane::Live, &message(qos)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(8)).await;
    let (before, start) = (outbox.waiting(), Instant::now());
    tokio::time::sleep(MEASURED).await;
    let rate = (before - outbox.waiting()) as f64 / start.elapsed().as_secs_f64();
    let limit = f64::from(WINDOW) / (2.0 * DELAY.as_secs_f64() * f64::from(qos));
    println!(
        "QoS {qos}: {rate:.0} messages/s, {:.0} % of window / round trip{}",
        100.0 * rate / limit,
        if qos == 2 { "s" } else { "" }
    );
}

async fn cut(length: Duration) {
    let workshop = tempfile::tempdir().unwrap();
    let (_broker, port) = mosquitto(workshop.path());
    let relay = Relay::to(port);
    let outbox = uplink(workshop.path(), relay.port).await;
    let sender = outbox.clone();
    detach(async move {
        loop {
            sender.append(Lane::Live, &message(1)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    relay.down.store(true, SeqCst);
    tokio::time::sleep(length).await;
    let (before, start) = (outbox.waiting(), Instant::now());
    relay.down.store(false, SeqCst);
    let mut most = before;
    while outbox.waiting() + 2 > most {
        most = most.max(outbox.waiting());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!(
        "first acknowledgement {:.1} s after the end of a cut of {} s ({before} messages waited)",
        start.elapsed().as_secs_f64(),
        length.as_secs()
    );
}

fn main() {
    let length = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(90);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    println!(
        "round trip {} ms, window {WINDOW}, {PAYLOAD} B a message",
        2 * DELAY.as_millis()
    );
    runtime.block_on(async {
        rate(1).await;
        rate(2).await;
        cut(Duration::from_secs(length)).await;
    });
    std::process::exit(0);
}
