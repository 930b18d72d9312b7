//! M-Bus from end to end: a gateway and `scan` beside simulated meters on a terminal and on TCP,
//! with damaged telegrams, collisions and silence; and captured telegrams read by pyMeterBus.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use wellhead::field::mbus::RawValue;

use super::meters::{decoded, files, number};
use super::support::{ANY, Gateway, Process, beside, peer, python, run, wait_for, wellhead};

/// Meters as the simulator has them: two with identifications that begin alike.
const METERS: &str = "
  - name: heat
    line: bus
    mbus: { address: 5 }
    points: { energy: { mbus: { kind: energy }, every: 100ms, simulate: { shape: constant, from: 1234.5 } } }
  - name: water
    line: bus
    mbus: { identification: '12345678', manufacturer: PAD, version: 1, medium: 7 }
    points: { volume: { mbus: { kind: volume }, every: 100ms, simulate: { shape: constant, from: 12.5 } } }
  - name: gas
    line: bus
    mbus: { identification: '12340000', manufacturer: PAD, version: 1, medium: 3 }
    points: { volume: { mbus: { kind: volume }, every: 100ms, simulate: { shape: constant, from: 7 } } }
";

/// A meter that both of those answer to.
const EITHER: &str = "  - name: either
    line: bus
    mbus: { identification: '1234FFFF' }
    points: { volume: { mbus: { kind: volume }, every: 100ms } }
";

struct Plant {
    simulator: Process,
    gateway: Gateway,
    port: String,
    folder: tempfile::TempDir,
}

impl Plant {
    fn start(wire: impl Fn(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let line = format!(
            "site: x\nlines: [ {{ name: bus, {}, answer_within: 150ms }} ]\ndevices:{METERS}",
            wire(folder.path())
        );
        let file = folder.path().join("simulator.yaml");
        fs::write(&file, &line).unwrap();
        let simulator = Process::start(
            wellhead().arg("simulate").arg(&file),
            &folder.path().join("simulator.log"),
        );
        let line = beside(&simulator, &line);
        let gateway = Gateway::start(
            folder.path(),
            &format!(
                "{line}{EITHER}broker: {{ listen: [ 'mqtt://127.0.0.1:0' ], anonymous: {{ read: [ '#', '$SYS/#' ] }} }}\n"
            ),
        );
        Self {
            simulator,
            port: gateway.port().to_string(),
            gateway,
            folder,
        }
    }

    fn retained(&self, topic: &str) -> String {
        let arguments = ["-p", &self.port, "-t", topic, "-C", "1", "-W", "12"];
        run(Command::new("mosquitto_sub").args(arguments)).1
    }

    fn shown(&self, point: &str) -> Value {
        serde_json::from_str(&self.retained(&format!("x/{point}"))).unwrap_or_default()
    }

    fn wait_for_value(&self, point: &str, expected: f64) {
        wait_for(&format!("{point} shows {expected}"), || {
            let shown = self.shown(point);
            (shown["v"] == expected && shown["q"] == "good").then_some(())
        });
    }

    fn wait_for_all(&self) {
        self.wait_for_value("heat/energy", 1234.5);
        self.wait_for_value("water/volume", 12.5);
        self.wait_for_value("gas/volume", 7.0);
    }

    /// Waits until a point is not good, for a reason with this in it.
    fn wait_for_reason(&self, point: &str, reason: &str) {
        wait_for(&format!("{point} is not good: {reason}"), || {
            let shown = self.shown(point);
            (shown["q"] != "good" && shown["reason"].as_str()?.contains(reason)).then_some(())
        });
    }

    fn count(&self, device: &str, key: &str) -> u64 {
        let text = self.retained(&format!("$SYS/wellhead/line/bus/{device}"));
        let counts: Value = serde_json::from_str(&text).unwrap_or_default();
        counts[key].as_u64().unwrap_or_default()
    }
}

/// What meters send wrongly, and what their points say then.
fn check_faults(plant: &mut Plant) {
    let heard = Process::start(
        Command::new("mosquitto_sub").args(["-p", &plant.port, "-v", "-t", "x/#"]),
        &plant.folder.path().join("heard"),
    );
    plant.wait_for_all();
    plant.wait_for_reason("either/volume", "two meters with one address");
    for (fault, reason) in [
        ("crc", "no right telegram"),
        ("bit-flip", "no right telegram"),
        ("truncate=9", "no right telegram"),
        ("silence", "no answer"),
    ] {
        plant.simulator.inject(fault);
        plant.wait_for_reason("heat/energy", reason);
        plant.wait_for_reason("water/volume", "");
        plant.simulator.clear_faults();
        plant.wait_for_all();
    }
    wait_for("damaged telegrams are counted", || {
        (plant.count("heat", "bad_checksums") > 0).then_some(())
    });
    // Noise before an answer, and an answer that comes twice, cost nothing.
    for fault in ["noise-before=5", "twice"] {
        plant.simulator.inject(fault);
        plant.wait_for_all();
        plant.simulator.clear_faults();
    }
    plant.simulator.inject("silence");
    wait_for("the meters are offline", || {
        (plant.retained("x/gas/availability").trim() == "offline").then_some(())
    });
    plant.simulator.clear_faults();
    wait_for("the meters are back", || {
        (plant.retained("x/gas/availability").trim() == "online").then_some(())
    });
    plant.wait_for_all();
    // Whatever was damaged, no other number was ever good.
    for line in heard.output().lines() {
        let (topic, payload) = line.split_once(' ').unwrap();
        let shown: Value = serde_json::from_str(payload).unwrap_or_default();
        let expected = match topic {
            "x/heat/energy" => 1234.5,
            "x/water/volume" => 12.5,
            "x/gas/volume" => 7.0,
            "x/either/volume" => f64::NAN,
            _ => continue,
        };
        let is_right = shown["q"] != "good" || shown["v"] == expected;
        assert!(is_right, "{line}");
    }
}

#[test]
fn meters_on_tcp_are_read_through_faults() {
    check_faults(&mut Plant::start(|_| ANY.to_owned()));
}

#[test]
fn meters_on_a_terminal_are_read_through_faults_and_found_by_scan() {
    let mut plant = Plant::start(|folder| {
        format!(
            "serial: '{}', speed: 2400 8E1",
            folder.join("bus").display()
        )
    });
    check_faults(&mut plant);
    // The gateway holds the line.
    let file = plant.folder.path().join("gateway.yaml");
    let scan = || {
        let mut scan = wellhead();
        scan.args(["scan", "bus", "--mbus", "--units", "4-6", "--file"])
            .arg(&file);
        scan
    };
    let (code, _, error) = run(&mut scan());
    assert!(
        code == Some(1) && error.contains("the running gateway holds this line"),
        "{error}"
    );
    assert!(plant.gateway.process.terminate().success());
    let (code, out, error) = run(scan().arg("--json"));
    assert_eq!(code, Some(0), "{error}");
    let found: Vec<Value> = serde_json::from_str(&out).unwrap();
    let by_identification = |digits: &str| {
        let mut rows = found.iter();
        rows.find(|row| row["identification"] == digits && row["manufacturer"] == "PAD")
            .unwrap_or_else(|| panic!("{out}"))
    };
    assert!(found.iter().any(|row| row["address"] == 5), "{out}");
    assert_eq!(by_identification("12345678")["medium"], "water");
    assert_eq!(by_identification("12340000")["medium"], "gas");
    let (_, out, _) = run(scan().arg("--yaml"));
    assert!(
        out.contains("mbus: { address: 5 }") && out.contains("identification: '12345678'"),
        "{out}"
    );
}

/// The unit of the other parser as ours; `None` for one that only it has.
fn unit(theirs: &str) -> Option<&'static str> {
    Some(match theirs {
        "Wh" => "Wh",
        "J" => "J",
        "W" => "W",
        "m^3" => "m3",
        "m^3/h" => "m3/h",
        "C" => "\u{b0}C",
        "K" => "K",
        "seconds" => "s",
        "V" => "V",
        "A" => "A",
        "none" => "",
        _ => return None,
    })
}

#[test]
fn py_meter_bus_reads_the_same_numbers_in_captured_telegrams() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/telegrams/mbus");
    let (code, out, error) = run(python().arg(peer("mbus_values.py")).arg(&folder));
    assert_eq!(code, Some(0), "{error}");
    let mut wrong = Vec::new();
    let mut compared = 0;
    for path in files("mbus", "hex") {
        let meter = path.file_stem().unwrap().to_string_lossy().into_owned();
        let read = decoded(&path);
        let rows = out
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        for row in rows.filter(|row| row["meter"] == meter && row["value"].is_number()) {
            let index = usize::try_from(row["index"].as_u64().unwrap()).unwrap();
            let (Some(unit), Some(record)) = (
                unit(row["unit"].as_str().unwrap()),
                read.records.list.get(index),
            ) else {
                continue;
            };
            let theirs = row["value"].as_f64().unwrap();
            match number(record, unit) {
                Some(own) if (own - theirs).abs() <= 1e-5 * theirs.abs().max(0.1) => compared += 1,
                // What a meter marks as invalid, the time of a maximum and bytes without a meaning
                // are numbers for the other parser.
                _ if matches!(record.value, RawValue::Invalid(_) | RawValue::Text(_)) => {}
                own => wrong.push(format!("{meter}: {row} is {own:?}: {record}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared >= 500, "{compared} numbers");
}
