//! Peers that mean harm: whatever they send ends their own connection and nothing else.

use std::process::Command;
use std::time::{Duration, Instant};

use super::packets::connect;
use super::support::client::{Client, bytes_of, hello, message};
use super::support::{Gateway, Process, mosquitto_sub, wait_for};
use wellhead::mqtt::{Packet, QoS, ReasonCode, Version};

fn attack(port: u16, bytes: &[u8]) {
    let mut client = Client::dial(port).expect("the broker is there");
    client.set_patience(Duration::from_millis(1));
    let _ = client.send_bytes(bytes);
    let _ = client.read_bytes(1);
}

/// Memory of a process in KiB.
pub fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn random_bytes_and_broken_packets_disturb_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(
        folder.path(),
        "broker: { listen: [ 'mqtt://127.0.0.1:0' ], connection_rate: 100000 }\n",
    );
    let port = gateway.port();
    let honest = folder.path().join("honest");
    let numbers = "i=0; while [ $i -lt 4000 ]; do echo $i; i=$((i+1)); sleep 0.01; done";
    let mut subscriber = Process::start(
        mosquitto_sub().args(["-d", "-p", &port.to_string(), "-q", "1", "-t", "honest"]),
        &honest,
    );
    subscriber.wait_for_output("Subscribed");
    let script = format!("({numbers}) | mosquitto_pub -p {port} -q 1 -t honest -l");
    let _publisher = Process::start(
        Command::new("sh").args(["-c", &script]),
        &folder.path().join("publisher"),
    );
    let mut random = fastrand::Rng::with_seed(7);
    let rounds = if std::env::var_os("WELLHEAD_LONG").is_some() {
        10_000
    } else {
        1_500
    };
    for round in 0..rounds {
        let version = [Version::V31, Version::V311, Version::V5][round % 3];
        let mut bytes = if round % 4 == 0 {
            Vec::new()
        } else {
            connect(version)
        };
        for _ in 0..random.usize(1..4) {
            let kind = random.u8(..);
            let body: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
            bytes.push(kind);
            match random.u8(..8) {
                0 => bytes.extend([0xFF, 0xFF, 0xFF, 0x7F]),
                1 => bytes.push(random.u8(..)),
                _ => bytes.push(u8::try_from(body.len()).unwrap()),
            }
            bytes.extend(body);
        }
        attack(port, &bytes);
    }
    let before = subscriber.output().lines().count();
    wait_for("the honest client still gets its messages", || {
        (subscriber.output().lines().count() > before + 20).then_some(())
    });
    assert!(subscriber.is_running());
    drop(gateway);
}

#[test]
fn connections_that_say_nothing_and_a_reader_that_never_reads_cost_a_bounded_amount() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "site: yard\nbroker: { listen: [ 'mqtt://127.0.0.1:0' ], max_connections: 100 }\n";
    let gateway = Gateway::start(folder.path(), yaml);
    let port = gateway.port();
    let pid = gateway.process.id();
    let idle: Vec<Client> = (0..150).map(|_| Client::dial(port).unwrap()).collect();
    drop(idle);
    // Subscribes to everything, then never reads again.
    let mut deaf = wait_for("there is room again", || {
        let (client, answer) = Client::connect(port, hello(Version::V311, "deaf")).ok()?;
        (answer.reason == ReasonCode::SUCCESS).then_some(client)
    });
    deaf.subscribe(&["#"], QoS::AtMostOnce);
    let before = resident(pid);
    let mut loud = Client::accepted(port, hello(Version::V311, "loud"));
    // 200 MB of QoS 0 messages of 10 kB.
    let message = Packet::Publish(message("t", QoS::AtMostOnce, vec![b'x'; 10_000]));
    let bytes = bytes_of(&message, Version::V311);
    for _ in 0..20_000 {
        loud.send_bytes(&bytes).unwrap();
    }
    let grown = resident(pid).saturating_sub(before);
    assert!(
        grown < 64 * 1024,
        "{grown} KiB for one client that does not read"
    );
}

/// A client that publishes to itself at QoS 1, and how long that takes.
struct Honest(Client);

impl Honest {
    fn connect(port: u16) -> Self {
        let mut client = Client::accepted(port, hello(Version::V311, "honest"));
        client.subscribe(&["h"], QoS::AtMostOnce);
        Self(client)
    }

    /// The median of so many round trips.
    fn round_trip(&mut self, count: usize) -> Duration {
        let mut times = Vec::new();
        for _ in 0..count {
            let began = Instant::now();
            self.0.publish(message("h", QoS::AtLeastOnce, "x"));
            // In either order.
            let mut came = [(); 2].map(|()| self.0.read_packet().unwrap().name());
            times.push(began.elapsed());
            came.sort_unstable();
            assert_eq!(came, ["PUBACK", "PUBLISH"]);
        }
        times.sort();
        times[count / 2]
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn floods_slow_writers_and_giant_lengths_do_not_disturb_an_honest_client() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let folder = tempfile::tempdir().unwrap();
    let yaml = "broker: { listen: [ 'mqtt://127.0.0.1:0' ], connection_rate: 2000 }\n";
    let gateway = Gateway::start(folder.path(), yaml);
    let port = gateway.port();
    let mut honest = Honest::connect(port);
    let calm = honest.round_trip(300);
    let before = resident(gateway.process.id());
    let (go_on, attacks) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let mut attackers = Vec::new();
    for kind in 0..4 {
        let (go_on, attacks) = (go_on.clone(), attacks.clone());
        attackers.push(std::thread::spawn(move || {
            let mut held = Vec::new();
            while go_on.load(Ordering::Relaxed) {
                attacks.fetch_add(1, Ordering::Relaxed);
                let Ok(mut client) = Client::dial(port) else {
                    continue;
                };
                let _ = match kind {
                    // A flood of CONNECT, each with another session that is to be kept.
                    0 => client.send_bytes(
                        format!(
                            "\x10\x12\x00\x04MQTT\x04\x00\x00\x00\x00\x06{:06}",
                            fastrand::u32(..999_999)
                        )
                        .as_bytes(),
                    ),
                    // A byte now and then.
                    1 => client.send_bytes(b"\x10"),
                    // Half open: nothing at all, or CONNECT and then half a packet.
                    2 => client.send_bytes(&[&connect(Version::V5)[..], b"\x30\x7f\x00"].concat()),
                    // Lengths of 256 MB, before CONNECT and after.
                    _ => client.send_bytes(
                        &[
                            &connect(Version::V311)[..],
                            b"\x30\xff\xff\xff\x7f",
                            &[b'x'; 9000],
                        ]
                        .concat(),
                    ),
                };
                if kind == 1 || kind == 2 {
                    held.push(client);
                    if held.len() > 60 {
                        held.remove(0);
                    }
                }
                for client in held.iter_mut().filter(|_| kind == 1) {
                    let _ = client.send_bytes(b"\x20");
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }));
    }
    wait_for("the attack is under way", || {
        (attacks.load(Ordering::Relaxed) > 20).then_some(())
    });
    let rounds = if std::env::var_os("WELLHEAD_LONG").is_some() {
        20_000
    } else {
        1500
    };
    let stormy = honest.round_trip(rounds);
    go_on.store(false, Ordering::Relaxed);
    attackers
        .into_iter()
        .for_each(|attacker| attacker.join().unwrap());
    let grown = resident(gateway.process.id()).saturating_sub(before);
    let attacks = attacks.load(Ordering::Relaxed);
    println!(
        "{attacks} attacks; an honest round trip took {calm:?} before and {stormy:?} meanwhile; {grown} KiB more"
    );
    assert!(attacks > 100, "{attacks} attacks");
    assert!(
        stormy < calm * 200,
        "an honest round trip took {calm:?} before and {stormy:?} meanwhile"
    );
    assert!(
        grown < 48 * 1024,
        "{grown} KiB more after {attacks} attacks"
    );
}
