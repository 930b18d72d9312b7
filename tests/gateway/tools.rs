//! The tools of the first hour: `scan`, `peek`, `read` and `write`, against simulated instruments,
//! with a gateway that owns the line and without one; in a pipe and in a terminal.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::{Gateway, Process, free_port, run, wait_for, wellhead};

pub(super) struct Bench {
    pub(super) folder: tempfile::TempDir,
    _simulator: Process,
    port: String,
}

/// Two instruments on a pseudo-terminal, one of them with an odd byte order, and one on TCP; nobody
/// polls them yet.
pub(super) fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let port = folder.path().join("port").display().to_string();
    let (tcp, broker) = (free_port(), free_port());
    let yaml = format!(
        "site: x
lines:
  - {{ name: bus, serial: {port}, speed: 19200 8E1 }}
  - {{ name: plc, modbus_tcp: '127.0.0.1:{tcp}' }}
devices:
  - name: meter
    line: bus
    unit: 7
    points:
      voltage: {{ holding: 10, type: f32, byte_order: CDAB, every: 200ms, simulate: {{ shape: constant, from: 229.4 }} }}
      temp: {{ holding: 20, type: i16, scale: 0.1, every: 200ms, simulate: {{ shape: constant, from: -21.5 }} }}
      setpoint: {{ holding: 30, type: u16, every: 200ms, simulate: {{ shape: constant, from: 5 }}, write: {{ min: 0, max: 50, read_back: true }} }}
      twice: {{ expression: 'setpoint * 2' }}
  - {{ name: valve, line: bus, unit: 9, points: {{ state: {{ coil: 3, simulate: {{ shape: constant, from: 1 }} }} }} }}
  - {{ name: inverter, line: plc, unit: 3, profile: sunspec-1, base: 40002 }}
  - {{ name: other, line: plc, unit: 4, points: {{ mark: {{ holding: 40000, type: u32, simulate: {{ shape: constant, from: 0x53756E53 }} }} }} }}
broker: {{ listen: [ 'mqtt://127.0.0.1:{broker}' ], anonymous: {{ read: [ '#' ], write: [ '#', 'x/meter/setpoint/set' ] }} }}
"
    );
    fs::write(
        folder.path().join("gateway.yaml"),
        format!("{yaml}outbox: {{ folder: data }}\n"),
    )
    .unwrap();
    let mut simulate = wellhead();
    simulate
        .arg("simulate")
        .arg(folder.path().join("gateway.yaml"));
    let simulator = Process::start(&mut simulate, &folder.path().join("simulator.log"));
    simulator.wait_for_output("line plc: Modbus TCP on");
    simulator.wait_for_output("line bus: Modbus RTU on");
    Bench {
        folder,
        _simulator: simulator,
        port,
    }
}

impl Bench {
    fn file(&self) -> String {
        self.folder
            .path()
            .join("gateway.yaml")
            .display()
            .to_string()
    }

    pub(super) fn ask(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        run(wellhead().args(arguments).args(["--file", &self.file()]))
    }

    pub(super) fn gateway(&self) -> Gateway {
        let gateway = Gateway::restart(self.folder.path());
        gateway
            .process
            .wait_for_event("device.online", &["line=bus", "device=meter"]);
        gateway
    }

    fn value(&self, point: &str) -> serde_json::Value {
        let (code, out, error) = self.ask(&["read", "meter", point]);
        assert_eq!(code, Some(0), "{error}");
        serde_json::from_str::<serde_json::Value>(&out).unwrap_or_else(|_| panic!("{out}"))["v"]
            .clone()
    }
}

/// The first column of the rows of a table.
fn units(table: &str) -> Vec<u8> {
    table
        .lines()
        .skip(1)
        .filter_map(|row| row.split_whitespace().next()?.parse().ok())
        .collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn a_scan_finds_who_is_on_a_line_and_writes_down_what_it_found() {
    let bench = bench();
    let (code, out, error) = bench.ask(&["scan", "bus", "--units", "5-10", "--within", "150ms"]);
    assert_eq!((code, units(&out)), (Some(0), vec![7, 9]), "{out}{error}");
    assert!(
        out.contains("19200 8E1") && out.contains("wellhead meter"),
        "{out}"
    );
    // By its device, too, at a speed that nobody has written down.
    let at = [
        "scan",
        &bench.port,
        "--units",
        "7,9",
        "--within",
        "150ms",
        "--json",
    ];
    let (_, out, error) = run(wellhead()
        .args(at)
        .args(["--speed", "9600 8N1", "--speed", "19200 8E1"])
        .current_dir("/"));
    let found: serde_json::Value =
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}"));
    assert!(
        found
            .as_array()
            .unwrap()
            .iter()
            .any(|found| found["unit"] == 9 && found["speed"] == "19200 8E1"),
        "{found}"
    );
    // As an instrument is delivered.
    fs::create_dir(bench.folder.path().join("profiles")).unwrap();
    let profile = "factory: { speed: 19200 8E1, unit: [ 7, 8, 9 ] }\npoints: { flow: { holding: 0, type: u16 } }\n";
    fs::write(bench.folder.path().join("profiles/my-meter.yaml"), profile).unwrap();
    let at = [
        "scan",
        &bench.port,
        "--profile",
        "my-meter",
        "--within",
        "150ms",
    ];
    let (code, out, error) = run(wellhead().args(at).current_dir(bench.folder.path()));
    assert_eq!((code, units(&out)), (Some(0), vec![7, 9]), "{out}{error}");
    assert!(out.contains("19200 8E1"), "{out}");
    let (code, _, error) = run(wellhead()
        .args(["scan", &bench.port, "--profile", "my-metre"])
        .current_dir(bench.folder.path()));
    assert!(
        code == Some(2) && error.contains("there is no profile"),
        "{error}"
    );
    // SunSpec, and a block that is correct as it is.
    let (_, out, _) = bench.ask(&[
        "scan", "plc", "--units", "1-5", "--within", "150ms", "--json",
    ]);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    let found: Vec<(u64, Option<u64>)> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["unit"].as_u64().unwrap(), one["sunspec"].as_u64()))
        .collect();
    assert_eq!(found, [(3, Some(40_000)), (4, Some(40_000))]);
    let (_, out, _) = bench.ask(&["scan", "plc", "--units", "4", "--within", "150ms", "--yaml"]);
    assert!(
        out.contains("unit: 4, profile: sunspec-1, base: 40002 }"),
        "{out}"
    );
    let (_, out, _) = bench.ask(&[
        "scan", "bus", "--units", "5-10", "--within", "150ms", "--yaml",
    ]);
    let file = bench.folder.path().join("found.yaml");
    fs::write(&file, format!("site: y\n{out}")).unwrap();
    let (code, plan, error) = run(wellhead().arg("check").arg(&file));
    assert!(
        code == Some(0) && plan.contains("1 line, 2 devices, 2 points"),
        "{out}{plan}{error}"
    );
    // A link in this folder, named without a path.
    std::os::unix::fs::symlink(
        fs::canonicalize(&bench.port).unwrap(),
        bench.folder.path().join("link"),
    )
    .unwrap();
    for typed in [
        "link",
        "./link",
        &fs::canonicalize(&bench.port).unwrap().display().to_string(),
    ] {
        let at = [
            "scan",
            typed,
            "--units",
            "7",
            "--within",
            "150ms",
            "--speed",
            "19200 8E1",
            "--quick",
        ];
        let (code, out, error) = run(wellhead().args(at).current_dir(bench.folder.path()));
        assert_eq!(
            (code, units(&out)),
            (Some(0), vec![7]),
            "{typed}: {out}{error}"
        );
    }
    let (code, out, error) = bench.ask(&["scan", "bus", "--units", "100-101", "--within", "50ms"]);
    assert!(
        code == Some(0)
            && out.is_empty()
            && error.contains("no device answered; check the A/B wiring"),
        "{out}{error}"
    );
    for (typed, told) in [
        ("buss", "did you mean \"bus\"?"),
        ("/dev/none", "/dev/none does not exist"),
    ] {
        let (code, _, error) = bench.ask(&["scan", typed]);
        assert!(code == Some(1) && error.contains(told), "{error}");
    }
}

#[test]
fn a_gateway_that_owns_the_line_asks_for_whoever_scans_and_goes_on() {
    let bench = bench();
    let gateway = bench.gateway();
    let troubles = || {
        ["line.down", "device.offline", "device.still_offline"]
            .map(|event| gateway.process.events(event, &[]).len())
    };
    let before = troubles();
    let (code, out, error) = bench.ask(&["scan", "bus", "--units", "1-12", "--within", "100ms"]);
    assert_eq!((code, units(&out)), (Some(0), vec![7, 9]), "{out}{error}");
    let (_, by_device, _) = bench.ask(&["scan", &bench.port, "--units", "7", "--within", "100ms"]);
    assert_eq!(units(&by_device), [7], "{by_device}");
    let (code, _, error) = bench.ask(&["scan", "bus", "--speed", "all"]);
    assert!(
        code == Some(1) && error.contains("stop it to try other speeds"),
        "{error}"
    );
    let (code, out, _) = bench.ask(&["peek", "meter", "--expect", "229.4"]);
    assert!(
        code == Some(0) && out.contains("name: { holding: 10, type: f32, byte_order: CDAB }"),
        "{out}"
    );
    assert_eq!(bench.value("voltage"), 229.4);
    assert_eq!(troubles(), before, "{}", gateway.process.output());
    let socket = bench.folder.path().join("data/control.sock");
    assert!(socket.exists());
    drop(gateway);
    // Killed: the socket is left behind, and in nobody's way.
    assert!(socket.exists());
    let (code, out, error) = bench.ask(&["scan", "bus", "--units", "7", "--within", "150ms"]);
    assert_eq!((code, units(&out)), (Some(0), vec![7]), "{error}");
    let mut gateway = bench.gateway();
    assert!(gateway.process.terminate().success() && !socket.exists());
}

#[test]
fn peek_shows_every_type_and_order_and_finds_what_the_display_shows() {
    let bench = bench();
    let (code, out, error) = bench.ask(&["peek", "meter", "--from", "8", "--count", "16"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let row = out
        .lines()
        .find(|line| line.trim_start().starts_with("10 ") && line.contains("229.4*"))
        .unwrap_or_else(|| panic!("{out}"));
    let head = out.lines().find(|line| line.contains("f32 CDAB")).unwrap();
    assert_eq!(
        row.find("229.4*").map(|at| at + 6),
        head.find("f32 CDAB").map(|at| at + 8),
        "below its head\n{out}"
    );
    assert!(out.contains("65321") && out.contains("-215*"), "{out}");
    assert!(
        error.contains("holding 8-9: exception 2") && error.contains("holding 12-19: "),
        "{error}"
    );
    // The line to copy is right: the value stands there.
    for (expected, line) in [
        ("229.4", "{ holding: 10, type: f32, byte_order: CDAB }"),
        ("-21.5", "{ holding: 20, type: i16, scale: 0.1 }"),
    ] {
        let (_, out, _) = bench.ask(&["peek", "meter", "--count", "40", "--expect", expected]);
        assert!(
            out.lines()
                .next()
                .is_some_and(|first| first.ends_with(line)),
            "{out}"
        );
    }
    let (_, out, _) = bench.ask(&["peek", "meter", "--expect", "1234.5"]);
    assert!(out.starts_with("no register shows 1234.5"), "{out}");
    let (_, out, _) = bench.ask(&["peek", "bus/9", "--table", "coil", "--count", "4"]);
    assert_eq!(out.trim(), "3  1");
    let (_, out, _) = bench.ask(&["peek", "meter", "--from", "10", "--count", "2", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&out).unwrap();
    let found = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["type"] == "f32" && row["byte_order"] == "CDAB")
        .unwrap();
    assert!(
        found["plausible"] == true && (found["value"].as_f64().unwrap() - 229.4).abs() < 0.001,
        "{found}"
    );
    let (code, _, error) = bench.ask(&["peek", "bus/8", "--within", "50ms"]);
    assert!(
        code == Some(1) && error.contains("unit 8 does not answer"),
        "{error}"
    );
    let (code, _, error) = bench.ask(&["peek", "meter", "--table", "registers"]);
    assert!(
        code == Some(2) && error.contains("choose one of: holding, input, coil, discrete"),
        "{error}"
    );
}

#[test]
fn without_a_gateway_a_point_is_read_and_written_from_here() {
    let bench = bench();
    assert_eq!(bench.value("voltage"), 229.4);
    assert_eq!(bench.value("twice"), 10.0);
    let (code, out, error) = bench.ask(&["write", "meter", "setpoint", "41"]);
    assert!(
        code == Some(0) && out.contains("\"status\":\"ok\""),
        "{out}{error}"
    );
    assert_eq!(
        (bench.value("setpoint"), bench.value("twice")),
        (41.into(), 82.0.into())
    );
    let (code, out, error) = bench.ask(&["write", "meter", "setpoint", "51"]);
    assert!(
        code == Some(1) && out.contains("rejected") && error == "not written: rejected\n",
        "{out}{error}"
    );
    assert_eq!(bench.value("setpoint"), 41);
    // Whoever names a broker means that one.
    let (code, _, error) = bench.ask(&[
        "read",
        "meter",
        "voltage",
        "--to",
        &format!("mqtt://127.0.0.1:{}", free_port()),
    ]);
    assert!(
        code == Some(1) && error.contains("is the gateway running?"),
        "{error}"
    );
}

/// A command in a terminal of its own; what it showed.
fn in_terminal(folder: &Path, command: &str) -> String {
    let mut terminal = Command::new("script");
    terminal.args([
        "-qefc",
        &format!("stty cols 100 rows 20; exec {command}"),
        "/dev/null",
    ]);
    let mut terminal = Process::start(&mut terminal, &folder.join("terminal.log"));
    wait_for("the end of the command", || {
        (!terminal.is_running()).then_some(())
    });
    terminal.output()
}

#[test]
fn in_a_terminal_a_scan_tells_how_long_it_still_takes() {
    let bench = bench();
    let program = env!("CARGO_BIN_EXE_wellhead");
    let shown = in_terminal(
        bench.folder.path(),
        &format!(
            "{program} scan bus --units 1-40 --within 60ms --file {}",
            bench.file()
        ),
    );
    assert!(
        shown.contains("scanning 19200 8E1") && shown.contains("/40, ") && shown.contains(" left"),
        "{shown}"
    );
    assert!(
        shown.contains("unit  speed") && shown.contains("   7  19200 8E1"),
        "{shown}"
    );
    let shown = in_terminal(
        bench.folder.path(),
        &format!(
            "{program} peek meter --count 40 --expect 229.4 --file {}",
            bench.file()
        ),
    );
    assert!(shown.contains("byte_order: CDAB"), "{shown}");
}

#[test]
fn scan_does_not_look_for_a_plain_instrument_and_says_how_it_is_delivered() {
    let (code, _, error) = run(wellhead().args(["scan", "/dev/null", "--profile", "iec62056-21"]));
    assert!(
        code == Some(2) && error.contains("plain instrument") && error.contains("300 7E1"),
        "{error}"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn init_writes_a_file_that_is_correct_out_of_flags_or_answers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let typed = file.display().to_string();
    let init = |arguments: &[&str]| run(wellhead().arg("init").arg(&typed).args(arguments));
    let flags = [
        "--site",
        "well-7",
        "--serial",
        "/dev/null",
        "--speed",
        "19200 8E1",
        "--profile",
        "eastron-sdm120",
        "--unit",
        "3",
        "--name",
        "grid",
    ];
    let (code, out, error) = init(
        &[
            &flags[..],
            &["--uplink", "mqtts://cloud.example.net", "--yes"],
        ]
        .concat(),
    );
    assert!(
        code == Some(0) && out.contains(&format!("wellhead check {typed}")),
        "{out}{error}"
    );
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.starts_with("# yaml-language-server: $schema=") && text.contains("version: 1\n"),
        "{text}"
    );
    let (code, plan, error) = run(wellhead().arg("check").arg(&file));
    assert!(
        code == Some(0)
            && plan.contains("grid: ")
            && plan.contains("uplink cloud to mqtts://cloud.example.net:8883 as well-7"),
        "{plan}{error}"
    );
    // It is not written over.
    let (code, _, error) = init(&["--yes"]);
    assert!(
        code == Some(1)
            && error.contains("exists already")
            && fs::read_to_string(&file).unwrap() == text,
        "{error}"
    );
    let link = folder.path().join("link.yaml");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let (code, _, error) = run(wellhead().args(["init", "--yes", "--force"]).arg(&link));
    assert!(
        code == Some(1)
            && error.contains("link.yaml")
            && fs::read_to_string(&file).unwrap() == text,
        "{error}"
    );
    let (code, _, _) = init(&["--yes", "--force", "--modbus-tcp", "192.168.1.20"]);
    let (_, plan, _) = run(wellhead().arg("check").arg(&file));
    assert!(
        code == Some(0) && plan.contains("line bus (192.168.1.20:502)"),
        "{plan}"
    );
    let (code, _, error) = init(&[
        "--yes",
        "--force",
        "--serial",
        "/dev/null",
        "--profile",
        "toledo",
    ]);
    let (_, plan, _) = run(wellhead().arg("check").arg(&file));
    assert!(
        code == Some(0)
            && plan.contains("1 device")
            && !fs::read_to_string(&file).unwrap().contains("unit:"),
        "{plan}{error}"
    );
    // What is not given is as the instrument is delivered, over serial lines and over TCP.
    let (code, _, error) = init(&[
        "--yes",
        "--force",
        "--serial",
        "/dev/null",
        "--profile",
        "siemens-pac2200",
    ]);
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        code == Some(0) && text.contains("speed: 19200 8N2 }") && text.contains("unit: 126,"),
        "{text}{error}"
    );
    let (_, plan, _) = run(wellhead().arg("check").arg(&file));
    assert!(!plan.contains("delivered"), "{plan}");
    let (code, _, error) = init(&[
        "--yes",
        "--force",
        "--modbus-tcp",
        "192.168.1.20",
        "--profile",
        "solaredge-inverter",
    ]);
    let (_, plan, _) = run(wellhead().arg("check").arg(&file));
    assert!(
        code == Some(0) && plan.contains("line bus (192.168.1.20:1502)"),
        "{plan}{error}"
    );
    let (code, _, error) = init(&[
        "--yes",
        "--force",
        "--serial",
        "/dev/null",
        "--profile",
        "vaisala",
    ]);
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        code == Some(0) && text.contains("speed: 4800 7E1 }") && text.contains("address: '0' }"),
        "{text}{error}"
    );
    let (code, _, error) = init(&[
        "--yes",
        "--force",
        "--serial",
        "/dev/null",
        "--profile",
        "dlt645-2007",
    ]);
    assert!(
        code == Some(2) && error.contains("add --address"),
        "{error}"
    );
    let (code, _, error) = init(&[
        "--yes",
        "--force",
        "--serial",
        "/dev/null",
        "--profile",
        "dlt645-2007",
        "--address",
        "123456789012",
    ]);
    let (_, plan, _) = run(wellhead().arg("check").arg(&file));
    assert!(
        code == Some(0) && plan.contains("1 device") && !plan.contains("delivered"),
        "{plan}{error}"
    );
    let (code, _, error) = init(&[
        "--yes",
        "--force",
        "--modbus-tcp",
        "192.168.1.20",
        "--profile",
        "sunspec-103",
    ]);
    let (_, plan, _) = run(wellhead().arg("check").arg(&file));
    assert!(
        code == Some(0) && plan.contains("line bus (192.168.1.20:502)"),
        "{plan}{error}"
    );
    let (code, _, error) = init(&["--yes", "--force", "--profile", "toledo"]);
    assert!(
        code == Some(2) && error.contains("--profile is for an instrument on a line"),
        "{error}"
    );
    // Nothing is written for a wrong answer.
    fs::remove_file(&file).unwrap();
    for (wrong, told) in [
        (
            ["--profile", "eastron-sdm121", "--unit", "1"],
            "did you mean \"eastron-sdm12",
        ),
        (
            ["--unit", "250", "--profile", "eastron-sdm120"],
            "a Modbus unit is a number from 1 to 247",
        ),
        (["--speed", "fast", "--site", "x"], "is not a serial speed"),
    ] {
        let (code, _, error) = init(&[&["--yes", "--serial", "/dev/null"], &wrong[..]].concat());
        assert!(
            code == Some(2) && error.contains(told) && !file.exists(),
            "{error}"
        );
    }
}

#[test]
fn init_puts_a_plain_instrument_behind_a_terminal_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let init = |arguments: &[&str]| run(wellhead().arg("init").arg(&file).args(arguments));
    let (code, _, error) = init(&[
        "--yes",
        "--modbus-tcp",
        "192.168.1.20",
        "--profile",
        "toledo",
    ]);
    assert!(
        code == Some(2) && error.contains("--modbus-tcp 192.168.1.20:4001"),
        "{error}"
    );
    let (code, _, error) = init(&[
        "--yes",
        "--modbus-tcp",
        "192.168.1.20:4001",
        "--profile",
        "toledo",
    ]);
    let (checked, plan, told) = run(wellhead().arg("check").arg(&file));
    assert!(
        code == Some(0) && checked == Some(0) && plan.contains("1 device"),
        "{plan}{error}{told}"
    );
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .contains("tcp: '192.168.1.20:4001'")
    );
}

#[test]
fn init_asks_in_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let typed = file.display().to_string();
    let mut terminal = Command::new("script");
    terminal.args([
        "-qefc",
        &format!("{} init {typed}", env!("CARGO_BIN_EXE_wellhead")),
        "/dev/null",
    ]);
    let mut terminal = Process::start(&mut terminal, &folder.path().join("terminal.log"));
    for (question, answer) in [
        ("Name of this site", "pump#1"),
        ("Name of this site", "pump-1"),
        ("Serial device", "/dev/not-there"),
        ("there is no such device", "/dev/null"),
        ("Look for Modbus devices", "perhaps"),
        ("type y or n", "n"),
        ("What is on it?", "pac22"),
        ("there is siemens-pac2200", "siemens-pac2200"),
        ("Speed [19200 8N2]", "fast"),
        ("is not a serial speed", ""),
        ("Its Modbus address [126]", "250"),
        ("a number from 1 to 247", "4"),
        ("Its name", "a#b"),
        ("Its name", ""),
        ("Remote broker", "cloud.example.net"),
        ("Remote broker", ""),
    ] {
        terminal.wait_for_output(question);
        terminal.type_line(answer);
    }
    assert!(terminal.wait().success(), "{}", terminal.output());
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("site: pump-1 ")
            && text.contains("{ name: meter, line: bus, unit: 4, profile: siemens-pac2200 }"),
        "{text}"
    );
    assert!(
        text.contains("serial: /dev/null, speed: 19200 8N2"),
        "{text}"
    );
    let (code, _, error) = run(wellhead().arg("check").arg(&file));
    assert_eq!((code, error.as_str()), (Some(0), ""));
}

#[test]
fn init_looks_for_devices_and_takes_over_what_it_finds() {
    let bench = bench();
    let file = bench.folder.path().join("found.yaml");
    let mut terminal = Command::new("script");
    terminal.args([
        "-qefc",
        &format!(
            "{} init {} --site x",
            env!("CARGO_BIN_EXE_wellhead"),
            file.display()
        ),
        "/dev/null",
    ]);
    let mut terminal = Process::start(&mut terminal, &bench.folder.path().join("terminal.log"));
    for (question, answer) in [
        ("Serial device", bench.port.as_str()),
        ("Look for Modbus devices", "y"),
        ("At which speed", "19200 8E1"),
        ("Which addresses", "6-7"),
        ("   7  19200 8E1", ""),
        ("What is on it?", ""),
        ("Speed [19200 8E1]", ""),
        ("Its Modbus address [7]", ""),
        ("Its name", ""),
        ("Remote broker", ""),
    ] {
        terminal.wait_for_output(question);
        if !question.starts_with(' ') {
            terminal.type_line(answer);
        }
    }
    assert!(terminal.wait().success(), "{}", terminal.output());
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("speed: 19200 8E1") && text.contains("unit: 7 "),
        "{text}"
    );
}

#[test]
fn a_scan_says_which_profile_a_silent_meter_looks_like() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let yaml = format!(
        "site: x\nlines: [ {{ name: bus, modbus_tcp: '127.0.0.1:{port}' }} ]\ndevices:\n  - {{ name: grid, line: bus, unit: 1, profile: eastron-sdm120 }}\n  - {{ name: tank, line: bus, unit: 2, points: {{ level: {{ holding: 0, type: u16, simulate: {{ shape: constant, from: 50 }} }} }} }}\n"
    );
    fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let simulator = Process::start(
        wellhead()
            .arg("simulate")
            .arg(folder.path().join("gateway.yaml")),
        &folder.path().join("simulator.log"),
    );
    simulator.wait_for_output("line bus:");
    let scan = |arguments: &[&str]| {
        run(wellhead()
            .args(["scan", "bus", "--units", "1-2"])
            .args(arguments)
            .current_dir(folder.path()))
    };
    let (code, out, error) = scan(&["--json"]);
    let found: serde_json::Value =
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}"));
    assert!(
        code == Some(0)
            && found[0]["looks_like"]
                .as_array()
                .unwrap()
                .contains(&"eastron-sdm120".into()),
        "{found}"
    );
    assert!(found[1].get("looks_like").is_none(), "{found}");
    let (_, out, error) = scan(&[]);
    assert!(
        out.contains("unit 1 looks like ")
            && out.contains("compare its values")
            && !out.contains("unit 2 looks"),
        "{out}{error}"
    );
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let (_, out, _) = scan(&["--quick"]);
    assert!(!out.contains("looks like"), "{out}");
}

/// The commands of a chapter of the README, without their remarks.
fn commands_of(chapter: &str) -> Vec<String> {
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let chapter = readme.split(&format!("## {chapter}\n")).nth(1).unwrap();
    let block = chapter
        .split("```sh\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    block
        .lines()
        .map(|line| line.split("  #").next().unwrap().trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn the_first_hour_of_the_readme_goes_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let port = folder.path().join("ttyUSB0").display().to_string();
    // The meter: what its display shows is on the wire.
    let meter = format!(
        "site: bench\nlines: [ {{ name: bus, serial: {port}, speed: 9600 8N1 }} ]\ndevices: [ {{ name: meter, line: bus, unit: 1, profile: eastron-sdm120, points: {{ voltage: {{ simulate: {{ shape: constant, from: 229.4 }} }} }} }} ]\n"
    );
    let simulated = folder.path().join("simulated.yaml");
    fs::write(&simulated, meter).unwrap();
    let simulator = Process::start(
        wellhead().arg("simulate").arg(&simulated),
        &folder.path().join("simulator.log"),
    );
    simulator.wait_for_output("line bus:");
    let remote = super::support::Mosquitto::start(folder.path(), "");
    let local = free_port();
    let commands = commands_of("The first hour");
    assert!(commands.len() < 10, "{commands:?}");
    let program = Path::new(env!("CARGO_BIN_EXE_wellhead"))
        .parent()
        .unwrap()
        .display()
        .to_string();
    let path = format!("{program}:{}", std::env::var("PATH").unwrap());
    let mut running = None;
    let mut said = Vec::new();
    for command in &commands {
        let typed = command
            .replace("/dev/ttyUSB0", &port)
            .replace(
                "mqtt://broker.example.net",
                &format!("mqtt://127.0.0.1:{}", remote.port),
            )
            .replace(
                "-h broker.example.net",
                &format!("-h 127.0.0.1 -p {}", remote.port),
            );
        let mut shell = Command::new("sh");
        shell
            .current_dir(folder.path())
            .env("PATH", &path)
            .env_remove("RUST_LOG");
        if let Some(in_background) = typed.strip_suffix('&') {
            let gateway = Process::start(
                shell.args(["-c", &format!("exec {in_background}")]),
                &folder.path().join("gateway.log"),
            );
            gateway.wait_for_event("device.online", &[]);
            running = Some(gateway);
            continue;
        }
        let (code, out, error) = run(shell.args(["-c", &typed]));
        assert_eq!(code, Some(0), "{typed}\n{out}{error}");
        // Two tests at a time cannot share a port.
        if typed.starts_with("wellhead init") {
            let file = folder.path().join("gateway.yaml");
            fs::write(
                &file,
                fs::read_to_string(&file)
                    .unwrap()
                    .replace("127.0.0.1:1883", &format!("127.0.0.1:{local}")),
            )
            .unwrap();
        }
        said.push((
            command
                .split_whitespace()
                .take(2)
                .collect::<Vec<_>>()
                .join(" "),
            out,
        ));
    }
    let said = |command: &str| {
        said.iter().find(|(own, _)| own == command).map_or_else(
            || panic!("no {command} in {commands:?}"),
            |(_, out)| out.as_str(),
        )
    };
    assert!(
        said("wellhead scan").contains("   1  9600 8N1"),
        "{}",
        said("wellhead scan")
    );
    assert!(
        said("wellhead peek").contains("229.4   name: { input: 0, type: f32 }"),
        "{}",
        said("wellhead peek")
    );
    assert!(
        said("wellhead profiles").contains("eastron-sdm120"),
        "{}",
        said("wellhead profiles")
    );
    assert!(
        said("wellhead check").contains("gateway.yaml: OK (")
            && said("wellhead check").contains("a month "),
        "{}",
        said("wellhead check")
    );
    assert!(
        said("wellhead read").contains("\"v\":229.4"),
        "{}",
        said("wellhead read")
    );
    assert_eq!(said("wellhead watch").lines().count(), 3);
    assert!(
        said("mosquitto_sub -h").contains("\"v\":229.4"),
        "{}",
        said("mosquitto_sub -h")
    );
    assert!(running.unwrap().terminate().success());
}

#[test]
fn every_command_shows_examples_in_its_help() {
    let (_, help, _) = run(wellhead().arg("help"));
    let commands: Vec<&str> = help
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("Options:")
        .next()
        .unwrap()
        .lines()
        .filter_map(|line| {
            line.strip_prefix("  ")?
                .split_whitespace()
                .next()
                .filter(|_| !line.starts_with("   "))
        })
        .collect();
    assert!(commands.len() >= 18, "{commands:?}");
    for command in commands.iter().filter(|command| **command != "help") {
        let nested = [
            ("outbox", "show"),
            ("points", "export"),
            ("sessions", "end"),
        ]
        .into_iter()
        .find(|(own, _)| own == command);
        let help = if let Some((_, action)) = nested {
            run(wellhead().args([*command, action, "--help"])).1
        } else {
            run(wellhead().args([command, "--help"])).1
        };
        let examples: Vec<&str> = help
            .split("Examples:")
            .nth(1)
            .unwrap_or_else(|| panic!("{command} has no examples"))
            .lines()
            .collect();
        assert!(
            examples
                .iter()
                .any(|line| line.contains(&format!("wellhead {command}"))),
            "{command}: {examples:?}"
        );
    }
}

#[test]
fn points_go_to_a_spreadsheet_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let csv = folder.path().join("points.csv");
    let (code, out, error) = run(wellhead()
        .args(["points", "export", "eastron-sdm120"])
        .current_dir(folder.path()));
    assert!(
        code == Some(0)
            && out.starts_with("name,input,type,unit")
            && out.contains("voltage,0,f32,V"),
        "{out}{error}"
    );
    fs::write(&csv, &out).unwrap();
    let (code, points, error) = run(wellhead().args(["points", "import"]).arg(&csv));
    assert!(
        code == Some(0) && points.contains("  voltage: { input: 0, type: f32, unit: V"),
        "{points}{error}"
    );
    // What comes out is a profile.
    fs::create_dir(folder.path().join("profiles")).unwrap();
    fs::write(folder.path().join("profiles/mine.yaml"), &points).unwrap();
    let yaml = "site: x\nlines: [ { name: bus, modbus_tcp: 10.0.0.5 } ]\ndevices: [ { name: d, line: bus, unit: 1, profile: mine } ]\n";
    fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let (code, plan, error) = run(wellhead().arg("check").current_dir(folder.path()));
    assert!(
        code == Some(0) && plan.contains("1 device, 18 points"),
        "{plan}{error}"
    );
    let (_, again, _) = run(wellhead()
        .args(["points", "export", "d"])
        .current_dir(folder.path()));
    assert_eq!(
        again, out,
        "the points of the device are those of its profile"
    );
    // As spreadsheets of other countries write it, with mistakes.
    fs::write(
        &csv,
        "\u{feff}name;holding;type;unit\r\nflow;0;f32;m3/h\r\ntemp;x;i61;\r\n;;;\r\n",
    )
    .unwrap();
    let (code, _, error) = run(wellhead().args(["points", "import"]).arg(&csv));
    assert_eq!(code, Some(78));
    assert!(
        error.contains("points.csv: row 3, column 2 (holding): ")
            && error.contains("row 3, column 3 (type): \"i61\" is not possible here"),
        "{error}"
    );
    let (code, _, error) = run(wellhead()
        .args(["points", "export", "eastron-sdm12"])
        .current_dir(folder.path()));
    assert!(
        code == Some(1) && error.contains("did you mean \"eastron-sdm120\"?"),
        "{error}"
    );
}

/// What a shell makes of a command whose reader goes away.
fn in_shell(folder: &Path, command: &str) -> (Option<i32>, String, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_wellhead"))
        .parent()
        .unwrap()
        .display()
        .to_string();
    let path = format!("{program}:{}", std::env::var("PATH").unwrap());
    run(Command::new("bash")
        .current_dir(folder)
        .env("PATH", path)
        .args(["-o", "pipefail", "-c", command]))
}

#[test]
fn every_command_says_the_same_in_a_terminal_and_in_a_pipe() {
    let bench = bench();
    let folder = bench.folder.path();
    let _gateway = bench.gateway();
    fs::write(folder.join("points.csv"), "name,holding,type\nflow,0,u16\n").unwrap();
    let commands = [
        "check",
        "check --json",
        "schema",
        "schema --profile",
        "profiles",
        "profiles eastron-sdm120",
        "points export meter",
        "points import points.csv",
        "man",
        "man scan",
        "completions bash",
        "help",
        "reload",
        "scan bus --units 7-9 --within 100ms --json",
        "peek meter --count 40 --expect 229.4",
        "pub some/topic hello",
    ];
    // A terminal ends lines in its own way, and progress moves its mark.
    let marks = regex::Regex::new("\u{1b}\\[[0-9;?]*[A-Za-z]|\r").unwrap();
    for command in commands {
        let (code, piped, _) = in_shell(folder, &format!("wellhead {command}"));
        assert_eq!(code, Some(0), "{command}");
        let log = folder.join("terminal.log");
        // The log of the command before.
        let _ = fs::remove_file(&log);
        let typed = format!(
            "cd {} && stty cols 100 rows 50 && exec {} {command}",
            folder.display(),
            env!("CARGO_BIN_EXE_wellhead")
        );
        let mut terminal = Process::start(
            Command::new("script").args(["-qefc", &typed, "/dev/null"]),
            &log,
        );
        assert!(
            terminal.wait().success(),
            "{command}: {}",
            terminal.output()
        );
        let plain = |text: &str| -> Vec<String> {
            let text = marks.replace_all(text, "\n");
            text.lines()
                .map(|line| line.trim_end().to_owned())
                .filter(|line| !line.is_empty())
                .collect()
        };
        let shown = plain(&terminal.output());
        let missing: Vec<String> = plain(&piped)
            .into_iter()
            .filter(|line| !shown.contains(line))
            .collect();
        assert!(
            missing.is_empty(),
            "{command}: not in the terminal: {missing:?}"
        );
        // Whoever reads may have read enough.
        let (code, _, error) = in_shell(
            folder,
            &format!("wellhead {command} | head -c 1 > /dev/null"),
        );
        assert!(
            code == Some(0) && !error.contains("ipe"),
            "{command}: {error}"
        );
    }
}
