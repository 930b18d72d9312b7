//! The fault table: whatever goes wrong on a wire, a published value always is what the register
//! holds.
//!
//! Every register encodes its unit, its table and its address, so that a value taken from another
//! answer cannot hide.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use super::support::{
    Gateway, Process, free_port, mosquitto_sub, run, simulated, wait_for, wellhead,
};

/// Faults on RTU and ASCII wires, as the simulator takes them.
const ON_THE_WIRE: [&str; 48] = [
    "delay=180ms for 1",
    "delay=180ms unit 1 for 1",
    "delay=180ms unit 1 for 4",
    "delay=180ms every 2 for 4",
    "delay=400ms for 2",
    "delay=140ms unit 2 for 12",
    "silence for 1",
    "silence for 3",
    "silence unit 2 for 6",
    "noise-before=1 for 1",
    "noise-before=30 for 1",
    "noise-before=300 for 1",
    "noise-before=2 every 2 for 8",
    "noise=40 for 1",
    "noise=40 for 3",
    "noise=700 for 1",
    "truncate=1 for 1",
    "truncate=4 for 1",
    "truncate=6 for 3",
    "crc for 1",
    "crc for 5",
    "crc every 2 for 5",
    "bit-flip for 1",
    "bit-flip every 3 for 5",
    "wrong-unit for 1",
    "wrong-unit for 4",
    "wrong-function for 1",
    "wrong-function for 4",
    "wrong-length=-1 for 1",
    "wrong-length=1 for 1",
    "wrong-length=1 unit 1 for 6",
    "twice for 1",
    "twice for 8",
    "twice unit 1 every 2 for 6",
    "zeros-after=2 for 8",
    "zeros-after=40 for 3",
    "echo for 1",
    "echo for 12",
    "echo-only for 2",
    "slowly=15ms for 1",
    "pieces=3 for 10",
    "exception=1 for 1",
    "exception=2 for 1",
    "exception=2 unit 1 for 40",
    "exception=4 for 2",
    "exception=6 for 2",
    "exception=11 for 2",
    "exception=128 for 2",
];

/// Faults on Modbus TCP.
const ON_TCP: [&str; 18] = [
    "delay=180ms for 1",
    "delay=180ms unit 1 for 4",
    "delay=180ms every 2 for 4",
    "delay=140ms unit 2 for 12",
    "silence for 1",
    "silence for 5",
    "noise=7 for 1",
    "noise=40 for 2",
    "truncate=5 for 1",
    "truncate=9 for 1",
    "twice for 6",
    "wrong-transaction for 2",
    "wrong-header for 2",
    "wrong-length=-1 for 2",
    "wrong-length=1 for 2",
    "unplug for 1",
    "unplug unit 1",
    "exception=2 for 40",
];

/// What a register of a unit holds.
fn held(unit: u32, table: &str, address: u32) -> String {
    let table_number = ["coil", "discrete", "input", "holding"]
        .iter()
        .position(|known| *known == table)
        .unwrap();
    if table_number < 2 {
        (unit + address).is_multiple_of(2).to_string()
    } else {
        (unit * 10_000 + table_number as u32 * 1000 + address).to_string()
    }
}

/// Points all over a device, in requests of the same and of other lengths.
fn points(unit: u32) -> String {
    let places = [
        ("holding", 0),
        ("holding", 1),
        ("holding", 40),
        ("holding", 41),
        ("holding", 90),
        ("holding", 140),
        ("input", 0),
        ("input", 1),
        ("input", 60),
        ("coil", 0),
        ("coil", 1),
        ("discrete", 4),
    ];
    places
        .iter()
        .map(|(table, address)| {
            let value = held(unit, table, *address).replace("true", "1").replace("false", "0");
            let kind = if ["coil", "discrete"].contains(table) { "" } else { "type: u16, " };
            format!(
                "      {table}-{address}: {{ {table}: {address}, {kind}every: 40ms, simulate: {{ shape: constant, from: {value} }} }}\n"
            )
        })
        .collect()
}

struct Bench {
    simulator: Process,
    gateway: Gateway,
    subscriber: Process,
    folder: tempfile::TempDir,
}

impl Bench {
    /// A gateway and a simulator on the same file; the line is `wire`.
    fn start(wire: impl Fn(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let devices: String = [1, 2]
            .iter()
            .map(|unit| {
                format!(
                    "  - name: '{unit}'\n    line: bus\n    unit: {unit}\n    max_registers: 20\n    max_bits: 20\n    points:\n{}",
                    points(*unit)
                )
            })
            .collect();
        let yaml = format!(
            "site: x\nlines:\n  - {{ name: bus, {}, answer_within: 150ms }}\ndevices:\n{devices}broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\n",
            wire(folder.path())
        );
        let (simulator, gateway) = simulated(folder.path(), &yaml);
        let port = gateway.port();
        let subscriber = Process::start(
            mosquitto_sub().args(["-p", &port.to_string(), "-t", "x/#", "-v"]),
            &folder.path().join("subscriber.log"),
        );
        let bench = Self {
            simulator,
            gateway,
            subscriber,
            folder,
        };
        bench.wait_until_all_is_good("the start");
        bench
    }

    /// Everything published since `from`, in characters.
    fn published(&self, from: usize) -> String {
        self.subscriber.output()[from..].to_owned()
    }

    fn wait_until_all_is_good(&self, what: &str) {
        let from = self.subscriber.output().len();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let published = self.published(from);
            let all = [1, 2].iter().all(|unit| {
                let topics = points(*unit);
                topics.lines().all(|line| {
                    let name = line.trim().split(':').next().unwrap();
                    let newest = published
                        .lines()
                        .rev()
                        .find(|line| line.starts_with(&format!("x/{unit}/{name} ")));
                    newest.is_some_and(|line| line.contains("\"q\":\"good\""))
                })
            });
            if all {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: not every point came back: {}\n{}",
                self.gateway.process.output(),
                published
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Checks every published value, whatever its quality.
    fn check(&self, scenario: &str, from: usize) -> usize {
        let mut checked = 0;
        for line in self.published(from).lines() {
            let Some((topic, payload)) = line.split_once(' ') else {
                continue;
            };
            let levels: Vec<&str> = topic.split('/').collect();
            let (Ok(unit), Some((table, address))) = (levels[1].parse(), levels[2].split_once('-'))
            else {
                continue;
            };
            // The last line may not be whole yet.
            let Ok(json) = serde_json::from_str::<serde_json::Value>(payload) else {
                continue;
            };
            if json["v"].is_null() {
                continue;
            }
            assert_eq!(
                json["v"].to_string(),
                held(unit, table, address.parse().unwrap()),
                "{scenario}: {line}"
            );
            checked += 1;
        }
        checked
    }

    fn play(&mut self, scenarios: &[&str]) {
        self.play_over(&[], scenarios);
    }

    /// Scenarios on top of faults that never end.
    fn play_over(&mut self, always: &[&str], scenarios: &[&str]) {
        let type_always =
            |simulator: &mut Process| always.iter().for_each(|fault| simulator.inject(fault));
        type_always(&mut self.simulator);
        for scenario in scenarios {
            let from = self.subscriber.output().len();
            self.simulator.inject(scenario);
            std::thread::sleep(Duration::from_millis(700));
            self.simulator.clear_faults();
            type_always(&mut self.simulator);
            self.wait_until_all_is_good(scenario);
            let checked = self.check(scenario, from);
            assert!(checked > 20, "{scenario}: {checked} values");
        }
    }
}

#[test]
fn on_rtu_no_fault_makes_a_wrong_value() {
    let mut bench = Bench::start(|folder| {
        format!(
            "serial: '{}', speed: 115200 8N1",
            folder.join("bus").display()
        )
    });
    bench.play(&ON_THE_WIRE);
    assert!(bench.folder.path().exists());
}

#[test]
fn on_rtu_over_tcp_no_fault_makes_a_wrong_value() {
    let mut bench = Bench::start(|_| "rtu_over_tcp: '127.0.0.1:0'".to_owned());
    bench.play(&ON_THE_WIRE);
}

#[test]
fn on_ascii_no_fault_makes_a_wrong_value() {
    let mut bench = Bench::start(|folder| {
        format!(
            "serial: '{}', framing: ascii, speed: 115200 8N1",
            folder.join("bus").display()
        )
    });
    bench.play(&ON_THE_WIRE);
}

#[test]
fn on_modbus_tcp_no_fault_makes_a_wrong_value() {
    let mut bench = Bench::start(|_| "modbus_tcp: '127.0.0.1:0'".to_owned());
    bench.play(&ON_TCP);
}

/// Nothing but the order of answers tells which request they belong to: the barrier holds all the
/// same.
#[test]
fn with_any_identifier_accepted_no_fault_makes_a_wrong_value() {
    let mut bench = Bench::start(|_| {
        "modbus_tcp: '127.0.0.1:0', accept: { unit: any, transaction: any }".to_owned()
    });
    bench.play_over(&["wrong-transaction", "wrong-unit"], &ON_TCP);
}

#[test]
fn with_any_unit_accepted_on_rtu_no_fault_makes_a_wrong_value() {
    let mut bench = Bench::start(|folder| {
        format!(
            "serial: '{}', speed: 115200 8N1, accept: {{ unit: any }}",
            folder.join("bus").display()
        )
    });
    bench.play_over(&["wrong-unit"], &ON_THE_WIRE);
}

#[test]
fn what_happened_on_a_line_can_be_subscribed_to() {
    let mut bench = Bench::start(|folder| {
        format!(
            "serial: '{}', speed: 115200 8N1",
            folder.join("bus").display()
        )
    });
    bench.play(&[
        "crc for 3",
        "delay=180ms unit 1 for 2",
        "echo for 2",
        "exception=6 for 1",
    ]);
    let port = bench.gateway.port().to_string();
    let status = |topic: &str| -> serde_json::Value {
        let (_, out, _) = run(std::process::Command::new("mosquitto_sub")
            .args(["-p", &port, "-t", topic, "-C", "1", "-W", "20"]));
        serde_json::from_str(&out).unwrap_or_default()
    };
    wait_for("the counters are told", || {
        (status("$SYS/wellhead/line/bus")["bad_checksums"].as_u64()? >= 1).then_some(())
    });
    let line = status("$SYS/wellhead/line/bus");
    for (counter, least) in [
        ("requests", 50),
        ("answers", 50),
        ("timeouts", 1),
        ("stale", 1),
        ("echoes", 1),
        ("opened", 1),
    ] {
        assert!(
            line[counter].as_u64().is_some_and(|count| count >= least),
            "{counter}: {line}"
        );
    }
    assert_eq!(line["up"], true);
    assert!(
        line["exceptions"]["6"]
            .as_u64()
            .is_some_and(|count| count >= 1),
        "{line}"
    );
    let device = status("$SYS/wellhead/line/bus/1");
    assert!(
        device["requests"].as_u64().is_some_and(|count| count > 20)
            && device["turnaround_ms"].is_number(),
        "{device}"
    );
}

/// Faults at random, several at a time, for a while; an hour with `WELLHEAD_LONG`.
#[test]
fn a_soak_with_random_faults_publishes_nothing_wrong() {
    let time = Duration::from_secs(if std::env::var_os("WELLHEAD_LONG").is_some() {
        3600
    } else {
        15
    });
    let mut bench = Bench::start(|folder| {
        format!(
            "serial: '{}', speed: 115200 8N1",
            folder.join("bus").display()
        )
    });
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let began = Instant::now();
    let mut checked = 0;
    // A crowded machine takes longer for as many.
    while began.elapsed() < time || checked <= 500 {
        let from = bench.subscriber.output().len();
        let faults: Vec<&str> = (0..random.usize(1..4))
            .map(|_| ON_THE_WIRE[random.usize(..ON_THE_WIRE.len())])
            .collect();
        faults
            .iter()
            .for_each(|fault| bench.simulator.inject(fault));
        std::thread::sleep(Duration::from_millis(random.u64(50..1500)));
        bench.simulator.clear_faults();
        checked += bench.check(&format!("seed {seed}: {faults:?}"), from);
        // An hour of readings would not fit into memory twice a second.
        if bench.subscriber.output().len() > 50_000_000 {
            fs::write(bench.folder.path().join("subscriber.log"), "").unwrap();
        }
    }
    bench.wait_until_all_is_good("the end");
    println!(
        "{checked} values checked in {} s",
        began.elapsed().as_secs()
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn what_a_device_refuses_is_learned_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let (server, port) = (free_port(), free_port());
    // Registers that no point covers do not exist in the simulator, so every hole is one.
    let points: String = [0, 3, 8, 20, 21, 40]
        .iter()
        .map(|address| {
            format!("p{address}: {{ holding: {address}, type: u16, every: 100ms, simulate: {{ shape: constant, from: {address} }} }}, ")
        })
        .collect();
    let device = |points: &str| {
        format!(
            "site: x\nlines: [ {{ name: bus, modbus_tcp: '127.0.0.1:{server}' }} ]\ndevices: [ {{ name: d, line: bus, unit: 1, points: {{ {points} }} }} ]\n"
        )
    };
    let file = folder.path().join("simulator.yaml");
    fs::write(&file, device(&points)).unwrap();
    let simulator = Process::start(
        wellhead().arg("simulate").arg(&file),
        &folder.path().join("simulator.log"),
    );
    simulator.wait_for_output("line bus:");
    let with_missing = format!("{points}missing: {{ holding: 30, type: u16, every: 100ms }}");
    let mut gateway = Gateway::start(
        folder.path(),
        &format!(
            "{}broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ] }}\n",
            device(&with_missing)
        ),
    );
    let port = port.to_string();
    let shown = |topic: &str| -> serde_json::Value {
        let (_, out, _) = run(std::process::Command::new("mosquitto_sub")
            .args(["-p", &port, "-t", topic, "-C", "1", "-W", "15"]));
        serde_json::from_str(&out).unwrap_or_default()
    };
    let all_good = || {
        for address in [0, 3, 8, 20, 21, 40] {
            wait_for(&format!("register {address}"), || {
                (shown(&format!("x/d/p{address}"))["v"] == address).then_some(())
            });
        }
        wait_for("the missing one is told", || {
            shown("x/d/missing")["reason"]
                .as_str()?
                .contains("exception 2")
                .then_some(())
        });
    };
    all_good();
    let kept = folder.path().join("data/field/bus.json");
    wait_for("it is kept", || {
        fs::read_to_string(&kept)
            .ok()?
            .matches("holding")
            .nth(3)
            .map(|_| ())
    });
    // Four holes cost at least as many refusals; the counters are told from time to time.
    let first = wait_for("the counters", || {
        shown("$SYS/wellhead/line/bus")["exceptions"]["2"]
            .as_u64()
            .filter(|count| *count >= 4)
    });
    assert!(gateway.process.terminate().success());
    let _gateway = Gateway::restart(folder.path());
    all_good();
    // The point that is not there costs two requests; the holes are known.
    let again = wait_for("the counters", || {
        shown("$SYS/wellhead/line/bus")["exceptions"]["2"].as_u64()
    });
    assert!(
        first > again && again <= 3,
        "{first} exceptions before, {again} after"
    );
}

/// The newest good values of a topic since the subscriber had written `from` characters.
fn good_values(subscriber: &Process, topic: &str, from: usize) -> usize {
    let output = subscriber.output();
    let newer = output.get(from..).unwrap_or_default();
    newer
        .lines()
        .filter(|line| line.starts_with(&format!("{topic} ")) && line.contains("\"q\":\"good\""))
        .count()
}

#[test]
fn a_register_that_is_refused_for_a_moment_is_read_again_at_its_own_pace() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "site: x
lines: [ { name: bus, modbus_tcp: '127.0.0.1:0' } ]
devices:
  - name: d
    line: bus
    unit: 1
    points:
      alone: { holding: 0, type: u16, every: 100ms, simulate: { shape: constant, from: 7 } }
      other: { input: 0, type: u16, every: 100ms, simulate: { shape: constant, from: 8 } }
broker: { listen: [ 'mqtt://127.0.0.1:0' ] }
";
    let (mut simulator, gateway) = simulated(folder.path(), yaml);
    let port = gateway.port();
    let subscriber = Process::start(
        mosquitto_sub().args(["-p", &port.to_string(), "-t", "x/#", "-v"]),
        &folder.path().join("subscriber.log"),
    );
    let is_read = |what: &str, from: usize| {
        wait_for(what, || {
            (good_values(&subscriber, "x/d/alone", from) > 5
                && good_values(&subscriber, "x/d/other", from) > 5)
                .then_some(())
        });
    };
    is_read("the start", 0);
    // More than one cost a minute's pause, and more.
    let is_long = std::env::var_os("WELLHEAD_LONG").is_some();
    for refusals in if is_long { 1..=3 } else { 1..=1 } {
        let from = subscriber.output().len();
        simulator.inject(&format!("exception=2 function 3 for {refusals}"));
        wait_for("the refusal is shown", || {
            subscriber
                .output()
                .get(from..)?
                .contains("exception 2")
                .then_some(())
        });
        // The second refusal costs a minute, the third two.
        let back = Instant::now() + Duration::from_secs(if refusals > 1 { 200 } else { 0 });
        let from = subscriber.output().len();
        while good_values(&subscriber, "x/d/alone", from) < 2 && Instant::now() < back {
            std::thread::sleep(Duration::from_millis(200));
        }
        is_read(
            &format!("after {refusals} refusals"),
            subscriber.output().len(),
        );
    }
}

impl Bench {
    /// Waits until a value says why it is not good in these words, and until all is well again.
    fn says(&mut self, fault: &str, words: &[&str]) {
        let from = self.subscriber.output().len();
        self.simulator.inject(fault);
        wait_for(
            &format!("{fault}: {words:?}: {}", self.published(from)),
            || {
                let published = self.published(from);
                let reasons = published
                    .lines()
                    .filter_map(|line| line.split_once("\"reason\":\""));
                reasons
                    .map(|(_, reason)| reason)
                    .any(|reason| words.iter().any(|word| reason.contains(word)))
                    .then_some(())
            },
        );
        self.simulator.clear_faults();
        self.wait_until_all_is_good(fault);
    }
}

#[test]
fn on_rtu_the_reason_says_what_came_instead_of_an_answer() {
    let mut bench = Bench::start(|folder| {
        format!(
            "serial: '{}', speed: 115200 8N1",
            folder.join("bus").display()
        )
    });
    bench.says("crc", &["telegrams with a wrong checksum"]);
    bench.says("wrong-unit", &["answered instead"]);
    bench.says("wrong-function", &["another function"]);
    bench.says("wrong-length=1", &["another length"]);
    bench.says("truncate=4", &["broke off"]);
    bench.says("noise=40", &["bytes that are not an answer"]);
    bench.says("echo-only", &["echo"]);
    bench.says("delay=190ms", &["too late"]);
    bench.says("exception=10", &["exception 10"]);
    bench.says("exception=11", &["exception 11"]);
    bench.says("silence", &["no answer"]);
    bench.simulator.inject("crc");
    let gateway = &bench.gateway.process;
    gateway.wait_for_event("device.offline", &["wrong checksum"]);
}

#[test]
fn on_rtu_over_tcp_the_reason_says_what_came_instead_of_an_answer() {
    let mut bench = Bench::start(|_| "rtu_over_tcp: '127.0.0.1:0'".to_owned());
    bench.says("crc", &["telegrams with a wrong checksum"]);
    bench.says("wrong-unit", &["answered instead"]);
    bench.says("exception=11", &["exception 11"]);
    bench.says("unplug", &["closed"]);
}

#[test]
fn on_ascii_the_reason_says_what_came_instead_of_an_answer() {
    let mut bench = Bench::start(|folder| {
        format!(
            "serial: '{}', framing: ascii, speed: 115200 8N1",
            folder.join("bus").display()
        )
    });
    bench.says("crc", &["telegrams with a wrong checksum"]);
    bench.says("wrong-unit", &["answered instead"]);
    bench.says("truncate=5", &["broke off", "bytes that are not an answer"]);
    bench.says("noise=40", &["bytes that are not an answer"]);
    bench.says("exception=11", &["exception 11"]);
}

#[test]
fn on_modbus_tcp_the_reason_says_what_came_instead_of_an_answer() {
    let mut bench = Bench::start(|_| "modbus_tcp: '127.0.0.1:0'".to_owned());
    bench.says("wrong-transaction", &["transaction id"]);
    bench.says("wrong-unit", &["answered instead"]);
    bench.says("wrong-function", &["another function"]);
    bench.says("wrong-length=1", &["values instead of"]);
    bench.says("truncate=9", &["broke off"]);
    bench.says("wrong-header", &["not a Modbus TCP header"]);
    bench.says("unplug", &["closed"]);
    bench.says("delay=190ms", &["too late"]);
    bench.says("exception=11", &["exception 11"]);
}

/// What comes at once from a wire, before the answer.
#[derive(Debug, Clone, Copy)]
enum AtOnce {
    /// The request, from an adapter with echo.
    Echo,
    /// Bytes that are none of an answer.
    Noise,
}

/// Serves one client after the other as a slave on RTU: unit 1, each register 7 but number 5, which
/// is 99 and takes longer than anybody waits. Like every slave it answers in order.
fn slow_slave(at_once: AtOnce) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 8];
            while stream.read_exact(&mut request).is_ok() {
                let [unit, function, 0, start, 0, count, ..] = request else {
                    panic!("{request:?}")
                };
                let values = (start..start + count)
                    .flat_map(|register| [0, if register == 5 { 99 } else { 7 }]);
                let mut answer: Vec<u8> = [unit, function, 2 * count]
                    .into_iter()
                    .chain(values)
                    .collect();
                let sum = crc::Crc::<u16>::new(&crc::CRC_16_MODBUS).checksum(&answer);
                answer.extend(sum.to_le_bytes());
                let is_slow = start == 5;
                // The client may be gone: the next one.
                let mut sent = match at_once {
                    AtOnce::Echo => stream.write_all(&request),
                    AtOnce::Noise if is_slow => stream.write_all(&[0xFF; 3]),
                    AtOnce::Noise => Ok(()),
                };
                if is_slow {
                    std::thread::sleep(Duration::from_millis(300));
                }
                sent = sent.and_then(|()| stream.write_all(&answer));
                if sent.is_err() {
                    break;
                }
            }
        }
    });
    port
}

#[test]
fn what_is_peeked_at_leaves_no_answer_behind_for_the_next_poll_whatever_came_instead() {
    for at_once in [AtOnce::Noise, AtOnce::Echo] {
        let folder = tempfile::tempdir().unwrap();
        let wire = slow_slave(at_once);
        let yaml = format!(
            "site: x\nlines: [ {{ name: bus, rtu_over_tcp: '127.0.0.1:{wire}', answer_within: 1s }} ]\n\
             devices: [ {{ name: d, line: bus, unit: 1, points: {{ p: {{ holding: 0, type: u16, every: 20ms }} }} }} ]\n\
             broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\n"
        );
        let gateway = Gateway::start(folder.path(), &yaml);
        let port = gateway.port();
        let log = folder.path().join("subscriber.log");
        let subscriber = Process::start(
            mosquitto_sub().args(["-p", &port.to_string(), "-t", "x/d/p", "-v"]),
            &log,
        );
        for _ in 0..4 {
            wait_for("a value before", || {
                (good_values(&subscriber, "x/d/p", 0) > 0).then_some(())
            });
            let from = subscriber.output().len();
            let file = folder.path().join("gateway.yaml");
            let (_, out, error) = run(wellhead()
                .args([
                    "peek", "d", "--from", "5", "--count", "1", "--within", "100ms", "--file",
                ])
                .arg(&file));
            assert!(
                !out.contains("99"),
                "it was to be given up before it answers: {out}{error}"
            );
            wait_for("values after", || {
                (good_values(&subscriber, "x/d/p", from) > 5).then_some(())
            });
        }
        let shown = subscriber.output();
        assert!(
            shown.contains("\"v\":7,") && !shown.contains("\"v\":99"),
            "{at_once:?}: the answer to a person was taken for that of a poll: {shown}"
        );
    }
}
