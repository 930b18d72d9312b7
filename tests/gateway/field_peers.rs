//! Modbus both ways against software we did not write: pymodbus as server and client, libmodbus
//! (mbpoll) as client.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::{Gateway, Process, free_port, peer, python, run, wait_for, wellhead};

const REGISTERS: &str = "
profiles:
  server:
    points:
      counter: { at: 40001, type: u32, every: 50ms }
      first:   { holding: 10, type: u16, every: 100ms }
      last:    { holding: 14, type: u16, every: 100ms }
      float:   { holding: 16, type: f32, every: 100ms }
      swapped: { holding: 16, type: f32, byte_order: CDAB, every: 100ms }
      nine:    { input: 2, type: u16, scale: 0.1, every: 100ms }
      coil0:   { coil: 0, every: 100ms }
      coil1:   { coil: 1, every: 100ms }
      bit1:    { discrete: 1, every: 100ms }
      absent:  { holding: 100, type: u16, every: 100ms }
      busy:    { holding: 30, type: u16, every: 100ms }
      record:  { file: 4, record: 1, type: string, length: 10, every: 100ms }
";

/// The retained value of a topic.
fn value(port: u16, topic: &str) -> String {
    let (_, out, _) = run(Command::new("mosquitto_sub").args([
        "-p",
        &port.to_string(),
        "-t",
        topic,
        "-C",
        "1",
        "-W",
        "10",
    ]));
    let json = out.trim();
    json.to_owned()
}

fn check_values(port: u16, device: &str, unit: u32) {
    let starts = |topic: &str, expected: &str| {
        wait_for(&format!("{device}/{topic} is {expected}"), || {
            value(port, &format!("x/{device}/{topic}"))
                .starts_with(expected)
                .then_some(())
        });
    };
    starts("availability", "online");
    starts("first", &format!("{{\"v\":{},\"t\":\"20", unit * 100));
    starts("last", &format!("{{\"v\":{},", unit * 100 + 4));
    starts("float", "{\"v\":-1.5,");
    starts("swapped", "{\"v\":6.87");
    starts("nine", "{\"v\":0.9,");
    starts("coil0", "{\"v\":true,");
    starts("coil1", "{\"v\":false,");
    starts("bit1", "{\"v\":true,");
    // What pymodbus answers to function 20, whichever file is asked for.
    starts("record", "{\"v\":\"SERVER DUMMY RECORD.\",");
    let absent = value(port, &format!("x/{device}/absent"));
    assert!(
        absent.starts_with("{\"v\":null,")
            && absent.contains("\"q\":\"bad\"")
            && absent.contains("exception 2"),
        "{absent}"
    );
    let busy = value(port, &format!("x/{device}/busy"));
    assert!(
        busy.contains("\"q\":\"bad\"") && busy.contains("exception 6"),
        "{busy}"
    );
}

fn start_server(folder: &Path, place: &str) -> Process {
    let server = Process::start(
        python().arg("-u").arg(peer("modbus_server.py")).arg(place),
        &folder.join("server.log"),
    );
    server.wait_for_output("ready");
    server
}

#[test]
fn a_pymodbus_tcp_server_is_read_right_and_an_absent_device_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (server_port, dead_port) = (free_port(), free_port());
    let _server = start_server(folder.path(), &server_port.to_string());
    let yaml = format!(
        "site: x
lines:
  - {{ name: tcp, modbus_tcp: '127.0.0.1:{server_port}', answer_within: 2s }}
  - {{ name: dead, modbus_tcp: '127.0.0.1:{dead_port}' }}
{REGISTERS}
devices:
  - {{ name: one, line: tcp, unit: 1, profile: server }}
  - {{ name: two, line: tcp, unit: 2, profile: server }}
  - {{ name: gone, line: dead, unit: 1, points: {{ p: {{ holding: 0, type: u16 }} }} }}
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
"
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    check_values(port, "one", 1);
    check_values(port, "two", 2);
    assert_eq!(value(port, "x/gone/availability"), "offline");
    let gone = value(port, "x/gone/p");
    assert!(
        gone.contains("\"q\":\"bad\"") && gone.contains("cannot be reached"),
        "{gone}"
    );
    let said = gateway.process.events("line.down", &[]).len();
    assert_eq!(
        said,
        1,
        "told once per change: {}",
        gateway.process.output()
    );
}

#[test]
fn a_pymodbus_rtu_server_is_read_right_and_survives_being_unplugged() {
    let folder = tempfile::tempdir().unwrap();
    let (near, far) = (folder.path().join("near"), folder.path().join("far"));
    let plug = |near: &Path, far: &Path| {
        let mut socat = Command::new("socat");
        socat
            .arg(format!("pty,raw,echo=0,link={}", near.display()))
            .arg(format!("pty,raw,echo=0,link={}", far.display()));
        let socat = Process::start(&mut socat, &folder.path().join("socat.log"));
        wait_for("the pair of terminals", || {
            (near.exists() && far.exists()).then_some(())
        });
        socat
    };
    let mut cable = plug(&near, &far);
    let mut server = start_server(folder.path(), far.to_str().unwrap());
    let yaml = format!(
        "site: x
lines: [ {{ name: bus, serial: '{}', speed: 19200 8N1, answer_within: 1s }} ]
{REGISTERS}
devices:
  - {{ name: one, line: bus, unit: 1, profile: server }}
  - {{ name: two, line: bus, unit: 2, profile: server }}
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
",
        near.display()
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    let port = gateway.port();
    check_values(port, "one", 1);
    check_values(port, "two", 2);
    server.kill_9();
    cable.terminate();
    drop(cable);
    wait_for("the loss is told", || {
        (value(port, "x/one/availability") == "offline").then_some(())
    });
    let _cable = plug(&near, &far);
    let _server = start_server(folder.path(), far.to_str().unwrap());
    wait_for("it is back", || {
        (value(port, "x/one/availability") == "online").then_some(())
    });
    wait_for("values are good again", || {
        value(port, "x/two/last")
            .starts_with("{\"v\":204,")
            .then_some(())
    });
    assert!(
        gateway.process.events("line.down", &[]).len() <= 3,
        "{}",
        gateway.process.output()
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn mbpoll_and_pymodbus_read_the_simulator() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let bus = folder.path().join("bus");
    let yaml = format!(
        "site: x
lines:
  - {{ name: tcp, modbus_tcp: '127.0.0.1:{port}' }}
  - {{ name: bus, serial: '{}', speed: 19200 8N1 }}
profiles:
  all:
    points:
      a: {{ holding: 10, type: u16, simulate: {{ shape: constant, from: 555 }} }}
      b: {{ holding: 11, type: i16, scale: 0.1, simulate: {{ shape: constant, from: -2.5 }} }}
      f: {{ holding: 12, type: f32, simulate: {{ shape: constant, from: -1.5 }} }}
      i: {{ input: 0, type: u16, simulate: {{ shape: constant, from: 7 }} }}
      c: {{ coil: 3, simulate: {{ shape: constant, from: 1 }} }}
      d: {{ discrete: 0, simulate: {{ shape: constant, from: 1 }} }}
      x: {{ holding: 20, bit: 0, simulate: {{ shape: constant, from: 1 }} }}
      r: {{ file: 4, record: 1, type: u32, simulate: {{ shape: constant, from: 65543 }} }}
      y: {{ holding: 20, bit: 4, topic: 'x/y', simulate: {{ shape: constant, from: 1 }} }}
devices:
  - {{ name: one, line: tcp, unit: 1, profile: all, points: {{ y: {{ topic: 'x/y1' }} }} }}
  - {{ name: two, line: bus, unit: 5, profile: all }}
",
        bus.display()
    );
    let file = folder.path().join("gateway.yaml");
    fs::write(&file, yaml).unwrap();
    let mut simulator = Process::start(
        wellhead().arg("simulate").arg(&file),
        &folder.path().join("simulator.log"),
    );
    simulator.wait_for_output("line tcp: Modbus TCP on");
    simulator.wait_for_output("line bus: Modbus RTU on the pseudo-terminal");
    let tcp = ["-m", "tcp", "-p", &port.to_string(), "-0", "-1", "-o", "5"]
        .map(str::to_owned)
        .to_vec();
    let rtu = [
        "-m", "rtu", "-b", "19200", "-P", "none", "-0", "-1", "-o", "5",
    ]
    .map(str::to_owned)
    .to_vec();
    for (base, place, unit) in [(&tcp, "127.0.0.1", "1"), (&rtu, bus.to_str().unwrap(), "5")] {
        let poll = |arguments: &[&str]| {
            let (code, out, error) = run(Command::new("mbpoll")
                .args(base)
                .args(["-a", unit])
                .args(arguments)
                .arg(place));
            let values: Vec<String> = out
                .lines()
                .filter(|line| line.starts_with('['))
                .map(|line| {
                    line.split_whitespace()
                        .skip(1)
                        .collect::<Vec<_>>()
                        .join(" ")
                })
                .collect();
            (code, values.join(","), error)
        };
        assert_eq!(
            poll(&["-t", "4", "-r", "10", "-c", "2"]).1,
            "555,65511 (-25)"
        );
        assert_eq!(poll(&["-t", "4:float", "-B", "-r", "12"]).1, "-1.5");
        assert_eq!(poll(&["-t", "3", "-r", "0"]).1, "7");
        assert_eq!(poll(&["-t", "0", "-r", "3"]).1, "1");
        assert_eq!(poll(&["-t", "1", "-r", "0"]).1, "1");
        assert_eq!(poll(&["-t", "4", "-r", "20"]).1, "17");
        let (code, _, error) = poll(&["-t", "4", "-r", "14"]);
        assert!(
            code == Some(1) && error.contains("Illegal data address"),
            "{error}"
        );
    }
    for (place, unit) in [(port.to_string(), "1"), (bus.display().to_string(), "5")] {
        let read = |arguments: &[&str]| {
            let (code, out, error) = run(python()
                .arg(peer("modbus_client.py"))
                .args([&place, unit])
                .args(arguments));
            assert_eq!(code, Some(0), "{error}");
            out.trim().to_owned()
        };
        assert_eq!(read(&["holding", "10", "2"]), "555 65511");
        assert_eq!(read(&["discrete", "0", "1"]), "1");
        assert_eq!(read(&["holding", "30", "1"]), "exception 2");
        assert_eq!(read(&["file:4", "1", "2"]), "1 7");
        assert_eq!(read(&["file:5", "1", "2"]), "exception 2");
    }
    let (_, silent, _) = run(python().arg(peer("modbus_client.py")).args([
        &port.to_string(),
        "9",
        "holding",
        "10",
        "1",
    ]));
    assert_eq!(
        silent.trim(),
        "silent",
        "a unit that is not there does not answer"
    );
    assert!(simulator.terminate().success());
    assert!(!bus.exists(), "the link of the pseudo-terminal is removed");
}

/// Compiles a C file of `tests/peers`.
fn compiled(folder: &Path, source: &str, arguments: &[&str]) -> std::path::PathBuf {
    let out = folder.join(source).with_extension("out");
    let (code, _, error) = run(Command::new("gcc")
        .arg("-O1")
        .arg("-o")
        .arg(&out)
        .arg(peer(source))
        .args(arguments));
    assert_eq!(code, Some(0), "{error}");
    out
}

const LIBMODBUS: &str = "
      first: { holding: 0, type: u16, every: 50ms, write: { read_back: true } }
      far: { holding: 150, type: u32, every: 50ms }
      input: { input: 7, type: u16, every: 50ms }
      coil: { coil: 3, every: 50ms, write: {} }
      bit: { discrete: 4, every: 50ms }
      beyond: { holding: 205, type: u16, every: 50ms }
      mask: { holding: 9, bit: 2, every: 50ms, write: {} }
";

fn check_libmodbus(folder: &Path, line: &str, port: u16) {
    let yaml = format!(
        "site: x\nlines: [ {{ name: bus, {line}, answer_within: 1s }} ]\ndevices:\n  - name: d\n    line: bus\n    unit: 1\n    points:{LIBMODBUS}\
         broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ], anonymous: {{ read: [ '#' ], write: [ '#' ] }} }}\n"
    );
    let _gateway = Gateway::start(folder, &yaml);
    let shows = |point: &str, expected: &str| {
        wait_for(&format!("{point} is {expected}"), || {
            value(port, &format!("x/d/{point}"))
                .starts_with(&format!("{{\"v\":{expected},"))
                .then_some(())
        });
    };
    shows("first", "1000");
    shows("far", &(1150 * 65_536 + 1151).to_string());
    shows("input", "2007");
    shows("coil", "true");
    shows("bit", "false");
    let beyond = value(port, "x/d/beyond");
    assert!(
        beyond.contains("\"q\":\"bad\"") && beyond.contains("exception 2"),
        "{beyond}"
    );
    let set = |point: &str, payload: &str| {
        let topic = format!("x/d/{point}/set");
        let arguments = [
            "-V",
            "5",
            "-p",
            &port.to_string(),
            "-t",
            &topic,
            "-e",
            "answer",
            "-m",
            payload,
            "-q",
            "1",
            "-W",
            "20",
        ];
        run(Command::new("mosquitto_rr").args(arguments)).1
    };
    assert!(set("first", "77").contains("\"status\":\"ok\""));
    shows("first", "77");
    assert!(set("coil", "off").contains("\"status\":\"ok\""));
    shows("coil", "false");
    assert!(set("mask", "true").contains("\"status\":\"ok\""));
    shows("mask", "true");
}

#[test]
fn a_libmodbus_tcp_server_is_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let server = compiled(
        folder.path(),
        "libmodbus_server.c",
        &["-I/usr/include/modbus", "-lmodbus"],
    );
    let (server_port, port) = (free_port(), free_port());
    let server = Process::start(
        Command::new(server).arg(server_port.to_string()),
        &folder.path().join("server.log"),
    );
    server.wait_for_output("ready");
    check_libmodbus(
        folder.path(),
        &format!("modbus_tcp: '127.0.0.1:{server_port}'"),
        port,
    );
}

/// A pair of terminals by socat, and the process that joins them.
fn terminals(folder: &Path) -> (std::path::PathBuf, std::path::PathBuf, Process) {
    let (near, far) = (folder.join("near"), folder.join("far"));
    let mut socat = Command::new("socat");
    socat
        .arg(format!("pty,raw,echo=0,link={}", near.display()))
        .arg(format!("pty,raw,echo=0,link={}", far.display()));
    let socat = Process::start(&mut socat, &folder.join("socat.log"));
    wait_for("the pair of terminals", || {
        (near.exists() && far.exists()).then_some(())
    });
    (near, far, socat)
}

#[test]
fn a_libmodbus_rtu_server_is_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let server = compiled(
        folder.path(),
        "libmodbus_server.c",
        &["-I/usr/include/modbus", "-lmodbus"],
    );
    let (near, far, _socat) = terminals(folder.path());
    let server = Process::start(
        Command::new(server).arg(&far),
        &folder.path().join("server.log"),
    );
    server.wait_for_output("ready");
    check_libmodbus(
        folder.path(),
        &format!("serial: '{}', speed: 19200 8N1", near.display()),
        free_port(),
    );
}

#[test]
fn nothing_ever_waits_for_a_terminal_to_drain() {
    let folder = tempfile::tempdir().unwrap();
    let library = compiled(folder.path(), "tcdrain.c", &["-shared", "-fPIC"]);
    let mark = folder.path().join("drained");
    let preloaded = |command: &mut Command| {
        command
            .env("LD_PRELOAD", &library)
            .env("TCDRAIN_MARK", &mark);
    };
    // That the mark is left where somebody drains.
    let mut other = python();
    other.args([
        "-c",
        "import os, pty, termios; master, slave = pty.openpty(); termios.tcdrain(slave)",
    ]);
    preloaded(&mut other);
    assert_eq!(run(&mut other).0, Some(0));
    assert!(mark.exists());
    fs::remove_file(&mark).unwrap();
    let (bus, port) = (folder.path().join("bus"), free_port());
    let yaml = format!(
        "site: x
lines: [ {{ name: bus, serial: '{}', speed: 19200 8N1 }} ]
devices: [ {{ name: d, line: bus, unit: 1, points: {{ p: {{ holding: 0, type: u16, every: 20ms, simulate: {{ shape: constant, from: 5 }}, write: {{}} }} }} }} ]
broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ], anonymous: {{ read: [ '#' ], write: [ '#' ] }} }}
outbox: {{ folder: data }}
",
        bus.display()
    );
    let file = folder.path().join("gateway.yaml");
    fs::write(&file, yaml).unwrap();
    let simulator = Process::start(
        wellhead().arg("simulate").arg(&file),
        &folder.path().join("simulator.log"),
    );
    simulator.wait_for_output("line bus");
    let mut gateway = wellhead();
    gateway.arg("run").arg(&file);
    preloaded(&mut gateway);
    let gateway = Process::start(&mut gateway, &folder.path().join("gateway.log"));
    gateway.wait_for_event("line.up", &[]);
    let arguments = [
        "-V",
        "5",
        "-p",
        &port.to_string(),
        "-t",
        "x/d/p/set",
        "-e",
        "answer",
        "-m",
        "6",
        "-q",
        "1",
        "-W",
        "20",
    ];
    assert!(
        run(Command::new("mosquitto_rr").args(arguments))
            .1
            .contains("\"status\":\"ok\"")
    );
    wait_for("the value is read again", || {
        value(port, "x/d/p").starts_with("{\"v\":6,").then_some(())
    });
    assert!(
        !mark.exists(),
        "a thread of the runtime waited for the terminal to drain"
    );
}
