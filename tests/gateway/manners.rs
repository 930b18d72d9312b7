//! What some devices need beyond the standard: pauses, one client at a time, patience with a first
//! answer and with a busy device. The simulator needs what its file says: a request that comes too
//! soon is lost, a second client is turned away.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::support::{Gateway, Process, beside, free_port, run, wait_for, wellhead};

struct Bench {
    _simulator: Process,
    _gateway: Gateway,
    port: String,
    _folder: tempfile::TempDir,
}

/// A line in the simulator's file and in the gateway's, a device in both, and faults from the
/// start.
struct Plan<'a> {
    simulator: &'a str,
    gateway: &'a str,
    device: &'a str,
    faults: &'a [&'a str],
}

fn file(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

impl Bench {
    fn start(plan: &Plan<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let yaml = |line: &str| {
            format!(
                "site: x\nlines: [ {{ name: bus, {line} }} ]\ndevices: [ {{ name: d, line: bus, unit: 1, {} }} ]\n",
                plan.device
            )
        };
        let path = file(folder.path(), "simulator.yaml", &yaml(plan.simulator));
        let mut command = wellhead();
        command.arg("simulate").arg(path);
        command.args(plan.faults.iter().flat_map(|fault| ["--fault", fault]));
        let simulator = Process::start(&mut command, &folder.path().join("simulator.log"));
        let text = format!(
            "{}broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\n",
            beside(&simulator, &yaml(plan.gateway))
        );
        let gateway = Gateway::start(folder.path(), &text);
        Self {
            _simulator: simulator,
            port: gateway.port().to_string(),
            _gateway: gateway,
            _folder: folder,
        }
    }

    fn shown(&self, topic: &str) -> serde_json::Value {
        let (_, out, _) = run(Command::new("mosquitto_sub")
            .args(["-p", &self.port, "-t", topic, "-C", "1", "-W", "15"]));
        serde_json::from_str(&out).unwrap_or_default()
    }

    fn wait_for_value(&self, value: u32) {
        wait_for("the value", || {
            (self.shown("x/d/p")["v"] == value).then_some(())
        });
    }

    /// A counter of the line once it is at least `least`; they are told from time to time.
    fn counted(&self, counter: &str, least: u64) -> u64 {
        wait_for(counter, || {
            self.shown("$SYS/wellhead/line/bus")[counter]
                .as_u64()
                .filter(|count| *count >= least)
        })
    }
}

const POINT: &str =
    "points: { p: { holding: 0, type: u16, every: 50ms, simulate: { shape: constant, from: 7 } } }";

#[test]
fn a_device_that_needs_silence_gets_it() {
    let pause = "pause: { between: 60ms, after_connect: 300ms }";
    for wire in ["modbus_tcp: '127.0.0.1:0'", "rtu_over_tcp: '127.0.0.1:0'"] {
        let line = format!("{wire}, {pause}");
        // A busy machine may show the device a connection, or the end of its own answer, later than
        // the gateway.
        let device = format!("{wire}, pause: {{ between: 15ms, after_connect: 75ms }}");
        let bench = Bench::start(&Plan {
            simulator: &device,
            gateway: &line,
            device: POINT,
            faults: &[],
        });
        bench.wait_for_value(7);
        bench.counted("answers", 20);
        assert_eq!(bench.counted("timeouts", 0), 0, "{line}");
    }
}

#[test]
fn a_device_that_needs_silence_is_not_heard_without_it() {
    let wire = "modbus_tcp: '127.0.0.1:0', answer_within: 100ms";
    let simulator = format!("{wire}, pause: {{ between: 5s }}");
    let bench = Bench::start(&Plan {
        simulator: &simulator,
        gateway: wire,
        device: POINT,
        faults: &[],
    });
    bench.counted("timeouts", 1);
}

#[test]
fn what_a_device_says_of_pauses_goes_before_its_line() {
    let line = "modbus_tcp: '127.0.0.1:0', answer_within: 100ms, pause: { between: 10s, after_connect: 60s }";
    let device = format!("pause: {{ between: 0ms, after_connect: 0ms }}, {POINT}");
    let bench = Bench::start(&Plan {
        simulator: line,
        gateway: line,
        device: &device,
        faults: &[],
    });
    bench.wait_for_value(7);
    bench.counted("answers", 20);
}

#[test]
fn a_device_with_one_client_is_left_to_others_in_between() {
    let address = format!("127.0.0.1:{}", free_port());
    let line = format!("modbus_tcp: '{address}', close_when_idle: 20ms");
    let device = POINT.replace("50ms", "400ms");
    let bench = Bench::start(&Plan {
        simulator: &line,
        gateway: &line,
        device: &device,
        faults: &[],
    });
    bench.wait_for_value(7);
    let other = || -> Option<[u8; 11]> {
        let mut stream = TcpStream::connect(&address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream
            .write_all(&[0, 1, 0, 0, 0, 6, 1, 3, 0, 0, 0, 1])
            .ok()?;
        let mut answer = [0; 11];
        stream.read_exact(&mut answer).ok()?;
        Some(answer)
    };
    let answer = wait_for("another client gets its turn", other);
    assert_eq!(answer, [0, 1, 0, 0, 0, 5, 1, 3, 2, 0, 7]);
    bench.counted("opened", 3);
    bench.wait_for_value(7);
}

#[test]
fn a_busy_device_is_asked_again_within_the_interval() {
    let line = "modbus_tcp: '127.0.0.1:0'";
    let device = POINT.replace("50ms", "1h");
    let bench = Bench::start(&Plan {
        simulator: line,
        gateway: line,
        device: &device,
        faults: &["exception=6 for 2", "exception=5 after 2 for 1"],
    });
    // The next interval begins in an hour.
    bench.wait_for_value(7);
    let exceptions = wait_for("the counters", || {
        let line = bench.shown("$SYS/wellhead/line/bus");
        Some((
            line["exceptions"]["6"].as_u64()?,
            line["exceptions"]["5"].as_u64()?,
        ))
    });
    assert_eq!(exceptions, (2, 1));
}

#[test]
fn a_first_answer_may_be_slower_than_the_rest() {
    let line = "modbus_tcp: '127.0.0.1:0', answer_within: 300ms, first_answer_within: 10s";
    let device = POINT.replace("50ms", "1h");
    let bench = Bench::start(&Plan {
        simulator: line,
        gateway: line,
        device: &device,
        faults: &["delay=1500ms for 1"],
    });
    bench.wait_for_value(7);
    assert_eq!(bench.counted("timeouts", 0), 0);
}

/// Each record encodes its file and its number.
#[test]
fn records_of_files_are_read_on_every_wire() {
    let folder = tempfile::tempdir().unwrap();
    let serial = |framing: &str| {
        format!(
            "serial: '{}', speed: 115200 8N1, framing: {framing}",
            folder.path().join(framing).display()
        )
    };
    let wires = [
        "modbus_tcp: '127.0.0.1:0'".to_owned(),
        serial("rtu"),
        serial("ascii"),
    ];
    let point = |file: u32, record: u32| {
        let value = file * 1000 + record;
        format!(
            "f{file}-{record}: {{ file: {file}, record: {record}, type: u16, every: 100ms, simulate: {{ shape: constant, from: {value} }} }}"
        )
    };
    let places = [(4, 1), (4, 2), (5, 0), (5, 120)];
    let points: Vec<String> = places
        .iter()
        .map(|(file, record)| point(*file, *record))
        .collect();
    let device = format!(
        "points: {{ {}, p: {{ file: 9, record: 0, type: u16, every: 100ms, simulate: {{ shape: constant, from: 7 }} }} }}",
        points.join(", ")
    );
    for line in wires {
        let bench = Bench::start(&Plan {
            simulator: &line,
            gateway: &line,
            device: &device,
            faults: &["exception=2 for 3"],
        });
        bench.wait_for_value(7);
        for (file, record) in places {
            let topic = format!("x/d/f{file}-{record}");
            wait_for(&topic, || {
                (bench.shown(&topic)["v"] == file * 1000 + record).then_some(())
            });
        }
    }
}

#[test]
fn a_file_that_a_device_does_not_have_is_told() {
    let line = "modbus_tcp: '127.0.0.1:0'";
    let device = "points: { p: { file: 4, record: 0, type: u16, every: 100ms } }";
    let bench = Bench::start(&Plan {
        simulator: line,
        gateway: line,
        device,
        faults: &["exception=2"],
    });
    wait_for("the refusal", || {
        bench.shown("x/d/p")["reason"]
            .as_str()?
            .contains("exception 2")
            .then_some(())
    });
}
