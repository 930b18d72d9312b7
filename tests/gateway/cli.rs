//! The program as people use it: commands, exit codes, the demo.

use std::fs;
use std::path::Path;

use super::support::{Gateway, run, wellhead};

#[test]
fn help_names_every_command_and_a_wrong_word_is_exit_2() {
    let (code, out, _) = run(wellhead().arg("--help"));
    assert_eq!(code, Some(0));
    for command in ["run", "check", "simulate", "demo"] {
        assert!(out.contains(&format!("\n  {command} ")), "{out}");
    }
    let (code, _, error) = run(wellhead().arg("chek"));
    assert!(code == Some(2) && error.contains("check"), "{error}");
    assert_eq!(
        run(wellhead().arg("--version")).1,
        format!("wellhead {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn check_prints_the_plan_or_every_fault_with_exit_78() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (code, out, error) = run(wellhead().arg("check").arg(root.join("gateway.yaml")));
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(
        out.contains(": OK (1 line, 3 devices, 32 points, 0 uplinks)"),
        "{out}"
    );
    let case = root.join("tests/config/many-faults");
    let (code, out, error) = run(wellhead().arg("check").arg(case.join("gateway.yaml")));
    assert_eq!((code, out.as_str()), (Some(78), ""));
    let messages: String = error
        .lines()
        .filter(|line| !line.contains(" | "))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(
        messages,
        fs::read_to_string(case.join("errors.txt")).unwrap()
    );
    // Each with its line, and a mark below the place.
    let first = "\n   3 | ";
    assert!(error.contains(first) && error.contains("^\n"), "{error}");
    let (code, _, error) = run(wellhead().args(["check", "/does/not/exist.yaml"]));
    assert!(
        code == Some(78) && error.lines().count() == 1 && error.contains("/does/not/exist.yaml"),
        "{error}"
    );
    let (code, _, error) = run(wellhead().arg("run").arg(case.join("gateway.yaml")));
    assert!(code == Some(78) && error.contains("3:59"), "{error}");
}

#[test]
fn check_shows_the_load_of_a_serial_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let text = "site: x\nlines: [ { name: bus, serial: /dev/ttyUSB0, speed: 9600 8N1 } ]\ndevices: [ { name: d, line: bus, unit: 1, points: { a: { holding: 0, type: f32, every: 100ms }, b: { holding: 2, type: u16, every: 100ms } } } ]\n";
    fs::write(&file, text).unwrap();
    let (code, out, _) = run(wellhead().arg("check").arg(&file));
    assert_eq!(code, Some(0));
    assert!(
        out.contains("line bus (/dev/ttyUSB0): 1 request, load 28 %"),
        "{out}"
    );
    assert!(
        out.contains("d: 3 holding from 0 every 100ms, 2 points, "),
        "{out}"
    );
    assert!(
        out.contains("load 28 %, spare 72 %") && out.contains("ms of the bus"),
        "{out}"
    );
}

#[test]
fn points_take_what_their_device_profile_line_or_file_says_and_the_nearest_wins() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let text = "site: x
defaults: { every: 1m, stale_after: 10m, class: slow, deadband: 1%, decimals: 3 }
classes: { slow: {}, alarm: { lane: alarm }, quick: {} }
lines:
  - { name: bus, modbus_tcp: '127.0.0.1:502', every: 30s, at_least_every: 1h }
  - { name: other, modbus_tcp: '127.0.0.1:503' }
profiles:
  meter:
    class: quick
    points:
      flow: { holding: 0, type: f32 }
      total: { holding: 2, type: u32, every: 5m }
      mode: { holding: 4, words: { 0: stop } }
      pump: { coil: 0, class: alarm }
      sum: { expression: flow * 2 }
devices:
  - { name: a, line: bus, profile: meter, every: 10s, deadband: 0.5, points: { flow: { deadband: 2 } } }
  - { name: b, line: bus, unit: 2, profile: meter }
  - { name: c, line: other, points: { level: { holding: 0, type: i16 }, depth: { holding: 1, type: i16, scale: 0.5 } } }
";
    fs::write(&file, text).unwrap();
    let (code, out, error) = run(wellhead().args(["check", "--points"]).arg(&file));
    assert_eq!(code, Some(0), "{error}");
    let table: Vec<String> = out
        .lines()
        .skip_while(|line| !line.starts_with("point "))
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect::<Vec<_>>()
                .join(" | ")
        })
        .collect();
    let expected = [
        "point | every | deadband | at_least_every | stale_after | class | decimals",
        "a.flow | 10s (device) | 2 | 1h (line) | 10m (defaults) | quick (profile) | 3 (defaults)",
        "a.total | 5m (profile's point) | 0.5 (device) | 1h (line) | 10m (defaults) | quick (profile) | -",
        "a.mode | 10s (device) | 0 (device) | 1h (line) | 10m (defaults) | quick (profile) | -",
        "a.pump | 10s (device) | 0 (device) | 1h (line) | 10m (defaults) | alarm (profile's point) | -",
        "a.sum | - | 0.5 (device) | 1h (line) | - | quick (profile) | 3 (defaults)",
        "b.flow | 30s (line) | 1% (defaults) | 1h (line) | 10m (defaults) | quick (profile) | 3 (defaults)",
        "b.total | 5m (profile's point) | 1% (defaults) | 1h (line) | 10m (defaults) | quick (profile) | -",
        "b.mode | 30s (line) | 0 (defaults) | 1h (line) | 10m (defaults) | quick (profile) | -",
        "b.pump | 30s (line) | 0 (defaults) | 1h (line) | 10m (defaults) | alarm (profile's point) | -",
        "b.sum | - | 1% (defaults) | 1h (line) | - | quick (profile) | 3 (defaults)",
        "c.level | 1m (defaults) | 1% (defaults) | - | 10m (defaults) | slow (defaults) | -",
        "c.depth | 1m (defaults) | 1% (defaults) | - | 10m (defaults) | slow (defaults) | 3 (defaults)",
    ];
    assert_eq!(table, expected);
    // The plan reads them so, and scripts learn the same.
    assert!(
        out.contains("a: 5 holding from 0 every 10s, 3 points")
            && out.contains("b: 1 coil from 0 every 30s, 1 point"),
        "{out}"
    );
    let (_, out, _) = run(wellhead().args(["check", "--json"]).arg(&file));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let depth = report["plan"]["settings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["point"] == "depth")
        .unwrap();
    assert_eq!(
        depth["every"],
        serde_json::json!({ "value": "1m", "set_by": "defaults" })
    );
}

#[test]
fn check_says_what_an_uplink_carries_and_costs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let text = "site: x
lines: [ { name: bus, modbus_tcp: 127.0.0.1:502 } ]
devices:
  - name: d
    line: bus
    points:
      often: { holding: 0, type: u16, every: 10s }
      seldom: { holding: 1, type: u16, every: 10s, deadband: 1, at_least_every: 100s }
      local: { holding: 2, type: u16, every: 1s, topic: here/only }
uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:1
    number_messages: false
    send: [ { filter: 'x/#' } ]
    tariff: { per_month: 50MB, price: 2 EUR/MB }
";
    fs::write(&file, text).unwrap();
    let (code, out, error) = run(wellhead().arg("check").arg(&file));
    assert_eq!(code, Some(0), "{error}");
    assert!(
        out.contains("gateway.yaml:15:26 warning: if every reading is sent, ")
            && out.contains("50.0 MB are meant"),
        "{out}"
    );
    assert!(
        out.contains("a day ") && out.contains("(nothing changes) to ") && out.contains(" EUR"),
        "{out}"
    );
    let (_, out, _) = run(wellhead().args(["check", "--json"]).arg(&file));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let uplink = &report["plan"]["uplinks"][0];
    // 8640 readings each; at least all of one point and 864 of the other.
    assert_eq!(
        uplink["messages_per_day"],
        serde_json::json!([9504.0, 17280.0])
    );
    let [least, most] = [0, 1].map(|index| uplink["bytes_per_day"][index].as_f64().unwrap());
    // A message that goes alone costs 136 bytes, topic and payload.
    assert!(
        (9504.0 * 180.0..9504.0 * 220.0).contains(&least)
            && (17280.0 * 180.0..17280.0 * 220.0).contains(&most),
        "{uplink}"
    );
    // Two that leave together share the headers.
    let [least, both] =
        [0, 1].map(|index| uplink["bytes_per_day_together"][index].as_f64().unwrap());
    assert!(
        (0.9 * 9504.0 * 180.0..9504.0 * 220.0).contains(&least)
            && (17280.0 * 120.0..17280.0 * 160.0).contains(&both),
        "{uplink}"
    );
    let cost = uplink["cost_per_month"]["most"].as_f64().unwrap();
    assert!(
        (cost - most * 30.0 * 2e-6).abs() < 0.01 && uplink["cost_per_month"]["currency"] == "EUR",
        "{uplink}"
    );
    assert_eq!(report["warnings"].as_array().unwrap().len(), 1);
}

#[test]
fn check_tells_scripts_the_plan_or_the_faults_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        let (code, out, error) = run(wellhead().args(["check", "--json"]).arg(&file));
        assert_eq!(error.trim(), "");
        (
            code,
            serde_json::from_str::<serde_json::Value>(&out).unwrap(),
        )
    };
    let device = "devices: [ { name: d, line: bus, unit: 1, points: { a: { holding: 0, type: f32, every: 100ms } } } ]\n";
    let (code, report) = check(&format!(
        "site: x\nlines: [ {{ name: bus, serial: /dev/ttyUSB0, speed: 1200 8N1 }} ]\n{device}"
    ));
    assert_eq!(
        (
            code,
            &report["ok"],
            report["faults"].as_array().unwrap().len()
        ),
        (Some(0), &true.into(), 0)
    );
    let line = &report["plan"]["lines"][0];
    assert!(
        line["name"] == "bus" && line["load"].as_f64().unwrap() > 1.0,
        "{report}"
    );
    let request = &line["requests"][0];
    let expected = serde_json::json!({ "device": "d", "table": "holding", "start": 0, "count": 2, "every_seconds": 0.1, "points": 1, "bus_seconds": 0.1758 });
    assert_eq!(*request, expected);
    assert!(
        line["spare"] == 0.0
            && report["warnings"]
                .to_string()
                .contains("every interval will be stretched"),
        "{report}"
    );
    let (code, report) = check(&format!(
        "site: x\nlines: [ {{ name: bus, serial: /dev/ttyUSB0, sped: 1200 8N1 }} ]\n{device}"
    ));
    assert_eq!((code, &report["ok"]), (Some(78), &false.into()));
    let fault = &report["faults"][0];
    assert!(
        fault["line"] == 2
            && fault["column"] == 45
            && fault["message"]
                .as_str()
                .unwrap()
                .contains("did you mean \"speed\""),
        "{report}"
    );
}

#[test]
fn the_shipped_file_runs_as_it_is_and_stops_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("gateway.yaml")).unwrap();
    // The one thing that two tests at a time cannot share.
    let mut gateway = Gateway::start(
        folder.path(),
        &text.replace("127.0.0.1:1883", "127.0.0.1:0"),
    );
    let status = gateway.process.terminate();
    assert!(status.success(), "{}", gateway.process.output());
    let mut gateway = Gateway::restart(folder.path());
    gateway.process.signal(rustix::process::Signal::INT);
    assert!(
        gateway.process.wait().success(),
        "{}",
        gateway.process.output()
    );
}

#[test]
fn the_demo_ends_with_nothing_lost() {
    let (code, out, error) = run(wellhead().arg("demo"));
    assert_eq!(code, Some(0), "{out}{error}");
    assert!(
        out.contains("lost 0 ") && out.contains("the link is restored"),
        "{out}"
    );
    assert!(
        out.contains("kill -9") && out.contains("link is cut"),
        "{out}"
    );
}
