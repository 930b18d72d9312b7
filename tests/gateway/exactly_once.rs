//! The uplink to mosquitto while it is killed and disconnected, and the broker restarted: QoS 2
//! arrives once and in order, QoS 1 at least once.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use wellhead::message::{Lane, SessionLost};
use wellhead::mqtt::{Properties, QoS, TopicName};
use wellhead::outbox::{self, Outgoing, Stored};
use wellhead::reading::Timestamp;
use wellhead::tasks::stop_token;
use wellhead::time::unix_ms;
use wellhead::uplink::{self, UplinkChannels};

use super::support::{Link, Mosquitto, Pem, Process, peer, python, run};

const FILE: &str = "WELLHEAD_EXACT_FILE";
const FROM: &str = "WELLHEAD_EXACT_FROM";
const LIVE: &str = "far/number";
const ALARM: &str = "far/alarm";
/// Printed by the child before it opens anything.
const READY: &str = "ready";
/// Messages that may wait in the outbox of the child.
const AHEAD: u64 = 1500;

/// Not a test of its own: the process that is killed. An outbox and its uplink as in a gateway, and
/// an appender that prints which numbers it tries and which are stored. Without a number to begin
/// with it appends none.
#[test]
fn child_that_sends_until_it_is_killed() {
    let Some(file) = std::env::var_os(FILE) else {
        return;
    };
    let from: Option<u64> = std::env::var(FROM).ok().map(|from| from.parse().unwrap());
    let config = wellhead::config::load(Path::new(&file)).unwrap();
    let qos = QoS::from_bits(config.uplinks[0].routes.send[0].qos.unwrap() as u8).unwrap();
    println!("\n{READY}");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (outbox, _closed) = outbox::open("cloud", &config.folder, config.outbox).unwrap();
        let (_switch, stop) = stop_token();
        let ends = UplinkChannels {
            status: None,
            inbound: None,
            is_up: tokio::sync::watch::channel(false).0,
            routes: tokio::sync::watch::channel(std::sync::Arc::default()).1,
            primary: None,
        };
        let uplink =
            uplink::prepare(config.uplinks[0].settings.clone(), outbox.clone(), ends).unwrap();
        wellhead::tasks::detach(uplink.run(stop.clone(), stop, Duration::ZERO));
        let Some(mut next) = from else {
            return std::future::pending().await;
        };
        loop {
            if outbox.waiting() > AHEAD {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            let batch = next..next + 40;
            // Alarms overtake the others, and keep their own order.
            let (lane, topic) = if (next / 40).is_multiple_of(5) {
                (Lane::Alarm, ALARM)
            } else {
                (Lane::Live, LIVE)
            };
            next = batch.end;
            println!("try {}", next - 1);
            let mut receipts = Vec::new();
            for number in batch {
                let message = Outgoing {
                    topic: TopicName::new(topic).unwrap(),
                    qos,
                    retain: false,
                    if_session_lost: SessionLost::Resend,
                    enqueued: Timestamp::at(unix_ms()),
                    properties: Properties::default(),
                    payload: number.to_string().into(),
                    rated: None,
                    source: None,
                };
                receipts.push((number, outbox.append(lane, &message).await.unwrap()));
            }
            wellhead::tasks::detach(async move {
                for (number, receipt) in receipts {
                    assert!(matches!(receipt.stored().await, Ok(Stored::Safe(_))));
                    println!("stored {number}");
                }
            });
        }
    });
}

/// The numbers that the child reported before it was killed.
#[derive(Default)]
struct Reported {
    tried: u64,
    stored: BTreeSet<u64>,
}

/// Runs the child for so long after it has begun. It appends numbers from `from` on.
fn run_and_kill(file: &Path, after: Duration, from: Option<u64>, reported: &mut Reported) {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(file.with_file_name("child.log"))
        .unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    if let Some(from) = from {
        command.env(FROM, from.to_string());
    }
    let mut child = command
        .args([
            "--exact",
            "exactly_once::child_that_sends_until_it_is_killed",
            "--nocapture",
        ])
        .env(FILE, file)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Its time begins when it runs, however busy the machine is.
    assert!(
        lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line == READY),
        "the child did not start"
    );
    let killer = std::thread::spawn(move || {
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    for line in lines.map_while(Result::ok) {
        if let Some(number) = line.strip_prefix("try ").and_then(|text| text.parse().ok()) {
            reported.tried = number;
        }
        reported.stored.extend(
            line.strip_prefix("stored ")
                .and_then(|text| text.parse::<u64>().ok()),
        );
    }
    killer.join().unwrap();
}

struct Plan {
    qos: u8,
    protocol: &'static str,
    tls: bool,
    mosquitto: &'static str,
    kills: u64,
    cuts: u32,
    restarts: u32,
    messages: u64,
}

/// Arrivals by packet identifier: those the broker repeated to its subscriber under the same
/// identifier are not the uplink's.
struct Arrivals {
    /// Numbers in their order, and whether they were alarms.
    numbers: Vec<(u64, bool)>,
    repeated_by_broker: usize,
}

fn arrivals(subscriber: &Process) -> Arrivals {
    let mut found = Arrivals {
        numbers: Vec::new(),
        repeated_by_broker: 0,
    };
    let mut recent: std::collections::VecDeque<(u64, u64)> = std::collections::VecDeque::new();
    for line in subscriber.output().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [mid, dup, topic @ (LIVE | ALARM), number] = words.as_slice() else {
            continue;
        };
        let (mid, number): (u64, u64) = (mid.parse().unwrap(), number.parse().unwrap());
        if *dup == "1" && recent.contains(&(mid, number)) {
            found.repeated_by_broker += 1;
            continue;
        }
        recent.push_back((mid, number));
        if recent.len() > 5000 {
            recent.pop_front();
        }
        found.numbers.push((number, *topic == ALARM));
    }
    found
}

fn check(plan: &Plan) {
    let folder = tempfile::tempdir().unwrap();
    let extra = format!("max_queued_messages 0\n{}", plan.mosquitto);
    let plain = super::support::free_port();
    let (mut remote, pem) = if plan.tls {
        let pem = Pem::make(folder.path());
        (
            Mosquitto::start_with(
                folder.path(),
                &pem.listener(),
                &format!("listener {plain} 127.0.0.1\nallow_anonymous true\n{extra}"),
            ),
            Some(pem),
        )
    } else {
        (Mosquitto::start(folder.path(), &extra), None)
    };
    let subscriber_port = if plan.tls { plain } else { remote.port };
    let mut command = python();
    command
        .arg("-u")
        .arg(peer("subscriber.py"))
        .args([&subscriber_port.to_string(), "far/#", "2"]);
    let subscriber = Process::start(&mut command, &folder.path().join("subscriber"));
    subscriber.wait_for_output("subscribed");
    let link = Link::to(remote.port);
    let scheme = if plan.tls { "mqtts" } else { "mqtt" };
    let certificates = pem.map(|pem| pem.yaml()).unwrap_or_default();
    let yaml = format!(
        "site: exact
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state, save: {{ every: 20ms }} }}
classes: {{ c: {{ qos: {} }} }}
uplinks:
  - name: cloud
    to: {scheme}://127.0.0.1:{}
    protocol: {}
    retry: {{ first: 20ms, longest: 100ms }}
    send: [ {{ filter: '#', class: c }} ]
    {certificates}
",
        plan.qos, link.port, plan.protocol
    );
    let file = folder.path().join("gateway.yaml");
    fs::write(&file, yaml).unwrap();

    let reported = disturb(plan, &file, &mut remote, &link);
    // The rest is delivered undisturbed.
    let give_up = Instant::now() + Duration::from_secs(120);
    while Instant::now() < give_up {
        let nothing = &mut Reported::default();
        run_and_kill(&file, Duration::from_millis(2500), None, nothing);
        let got: BTreeSet<u64> = arrivals(&subscriber)
            .numbers
            .into_iter()
            .map(|(number, _)| number)
            .collect();
        if reported.stored.is_subset(&got) {
            break;
        }
    }
    // The subscriber gets it behind everything else.
    let port = subscriber_port.to_string();
    let (code, _, error) =
        run(Command::new("mosquitto_pub")
            .args(["-p", &port, "-q", "2", "-t", "far/end", "-m", "end"]));
    assert_eq!(code, Some(0), "{error}");
    subscriber.wait_for_output(" far/end end");
    compare(
        plan,
        &reported,
        &arrivals(&subscriber),
        &folder.path().join("child.log"),
    );
}

/// Kills, cuts and restarts, until there were enough of them and of messages.
fn disturb(plan: &Plan, file: &Path, remote: &mut Mosquitto, link: &Link) -> Reported {
    let running = AtomicBool::new(true);
    let done = AtomicU32::new(0);
    let mut reported = Reported::default();
    std::thread::scope(|scope| {
        let trouble = scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(7);
            let (mut cuts, mut restarts) = (0, 0);
            while running.load(SeqCst) || cuts < plan.cuts || restarts < plan.restarts {
                std::thread::sleep(Duration::from_millis(random.u64(100..700)));
                if restarts < plan.restarts
                    && (cuts >= plan.cuts || random.u32(..plan.cuts) < plan.restarts)
                {
                    remote.stop();
                    std::thread::sleep(Duration::from_millis(random.u64(0..300)));
                    remote.resume();
                    restarts += 1;
                    done.fetch_add(1, SeqCst);
                } else if cuts < plan.cuts {
                    link.cut();
                    std::thread::sleep(Duration::from_millis(random.u64(40..100)));
                    link.restore();
                    cuts += 1;
                    done.fetch_add(1, SeqCst);
                }
            }
            (cuts, restarts)
        });
        let mut random = fastrand::Rng::with_seed(8);
        let mut kills = 0;
        // Every child gets further than the last one, until one stores something: the machine may
        // be busy.
        let mut patience = 0;
        let enough = |stored: usize| {
            stored as u64 >= plan.messages && done.load(SeqCst) >= plan.cuts + plan.restarts
        };
        while kills < plan.kills || !enough(reported.stored.len()) {
            let before = reported.stored.len();
            run_and_kill(
                file,
                Duration::from_millis(random.u64(50..700) + patience),
                Some(reported.tried + 1),
                &mut reported,
            );
            patience = if reported.stored.len() > before {
                0
            } else {
                patience + 200
            };
            kills += 1;
            if kills >= 20 * plan.kills {
                running.store(false, SeqCst);
                panic!(
                    "no progress: {} stored of {}",
                    reported.stored.len(),
                    reported.tried
                );
            }
        }
        running.store(false, SeqCst);
        let (cuts, restarts) = trouble.join().unwrap();
        println!(
            "qos {} {}: {kills} kills, {cuts} cuts, {restarts} restarts of the broker, {} stored",
            plan.qos,
            plan.protocol,
            reported.stored.len()
        );
    });
    reported
}

fn compare(plan: &Plan, reported: &Reported, arrivals: &Arrivals, log: &Path) {
    let mut seen = BTreeSet::new();
    let (mut duplicates, mut disordered) = (Vec::new(), Vec::new());
    let mut newest = [0; 2];
    for (number, is_alarm) in &arrivals.numbers {
        let newest = &mut newest[usize::from(*is_alarm)];
        if number < newest && !seen.contains(number) {
            disordered.push(*number);
        }
        *newest = (*newest).max(*number);
        if !seen.insert(*number) {
            duplicates.push(*number);
        }
    }
    let lost: Vec<&u64> = reported
        .stored
        .iter()
        .filter(|number| !seen.contains(number))
        .collect();
    println!(
        "lost {}, duplicates {}, out of order {}, repeated by the broker {}",
        lost.len(),
        duplicates.len(),
        disordered.len(),
        arrivals.repeated_by_broker
    );
    let log = fs::read_to_string(log).unwrap_or_default();
    let tail: String = log.lines().rev().take(20).collect::<Vec<_>>().join("\n");
    assert!(
        lost.is_empty() && disordered.is_empty(),
        "lost {lost:?}, out of order {disordered:?}\n{tail}"
    );
    assert!(
        plan.qos < 2 || duplicates.is_empty(),
        "duplicates {duplicates:?}\n{tail}"
    );
}

fn is_long() -> bool {
    std::env::var_os("WELLHEAD_LONG").is_some()
}

/// Short by default; with `WELLHEAD_LONG` at full scale.
fn plan(qos: u8, protocol: &'static str) -> Plan {
    let mosquitto = "max_inflight_messages 1000\n";
    if is_long() {
        Plan {
            qos,
            protocol,
            tls: false,
            mosquitto,
            kills: 300,
            cuts: 100,
            restarts: 10,
            messages: 100_000,
        }
    } else {
        Plan {
            qos,
            protocol,
            tls: false,
            mosquitto,
            kills: 10,
            cuts: 3,
            restarts: 2,
            messages: 2000,
        }
    }
}

#[test]
fn qos_2_arrives_exactly_once_and_in_order() {
    check(&plan(2, "5"));
}

#[test]
fn qos_2_arrives_exactly_once_over_mqtt_3_1_1() {
    let long = plan(2, "3.1.1");
    check(&Plan {
        kills: long.kills / 3,
        messages: long.messages / 4,
        ..long
    });
}

#[test]
fn qos_1_arrives_at_least_once_and_in_order() {
    let long = plan(1, "5");
    check(&Plan {
        kills: long.kills / 3,
        messages: long.messages / 4,
        ..long
    });
}

#[test]
fn qos_2_arrives_exactly_once_within_tight_limits_and_over_tls() {
    let long = plan(2, "5");
    let mosquitto = "max_inflight_messages 10\nmax_packet_size 131072\n";
    check(&Plan {
        tls: true,
        mosquitto,
        kills: long.kills / 3,
        messages: long.messages / 20,
        ..long
    });
}
