//! `wellhead trace` and `status`, and the log as it can be asked for: what somebody sees who looks
//! into a gateway that runs.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;

use serde_json::Value as Json;

use super::support::{Gateway, NOBODY, Process, run, wait_for, wellhead};
use super::tools::bench;

/// No line is wider than a terminal of 80 columns.
fn check_width(text: &str) {
    let wide: Vec<&str> = text
        .lines()
        .filter(|line| line.chars().count() > 80)
        .collect();
    assert!(wide.is_empty(), "{wide:#?}");
}

fn trace(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    run(wellhead().arg("trace").args(arguments).current_dir(folder))
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn a_trace_shows_requests_and_answers_with_the_names_of_the_file() {
    let bench = bench();
    let folder = bench.folder.path();
    let gateway = bench.gateway();
    let (code, out, error) = trace(folder, &["bus", "-n", "6", "--raw"]);
    assert_eq!(code, Some(0), "{error}");
    check_width(&out);
    assert!(
        out.contains("> meter (unit 7) function 3: read holding 10-11 (2);")
            && out.contains("voltage 229.4"),
        "{out}"
    );
    assert!(
        out.contains("07 03 00 0a 00 02") && out.contains("(after "),
        "{out}"
    );
    // Modbus TCP, for programs.
    let (code, out, error) = trace(folder, &["plc", "-n", "3", "--json"]);
    let lines: Vec<Json> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    assert_eq!((code, lines.len()), (Some(0), 3), "{error}");
    for line in &lines {
        assert!(
            line["line"] == "plc"
                && line["event"] == "exchange"
                && line["outcome"] == "answered"
                && line["time"].is_string(),
            "{line}"
        );
        assert!(
            line["took_ms"].as_f64().unwrap() >= 0.0 && line["sent"].as_str().unwrap().len() > 20,
            "{line}"
        );
    }
    assert!(
        lines
            .iter()
            .any(|line| !line["values"].as_object().unwrap().is_empty()),
        "{lines:#?}"
    );
    // Several watch at once, and see what others ask for.
    let first = Process::start(
        wellhead().args(["trace", "bus"]).current_dir(folder),
        &folder.join("first.log"),
    );
    let mut second = Process::start(
        wellhead().args(["trace", "bus"]).current_dir(folder),
        &folder.join("second.log"),
    );
    for process in [&first, &second] {
        process.wait_for_output("voltage 229.4");
    }
    let (code, _, error) = bench.ask(&["write", "meter", "setpoint", "41"]);
    assert_eq!(code, Some(0), "{error}");
    let _ = bench.ask(&[
        "peek", "bus/9", "--table", "input", "--from", "77", "--count", "1",
    ]);
    for process in [&first, &second] {
        process.wait_for_output("write holding 30 = 41; setpoint");
        process.wait_for_output("valve (unit 9) function 4: read input 77");
        process.wait_for_output("exception 2: no such register");
    }
    // A reader that has read enough, a time that is over, a line that is not there.
    let (code, _, error) = run(std::process::Command::new("bash")
        .current_dir(folder)
        .args([
            "-o",
            "pipefail",
            "-c",
            &format!(
                "{} trace bus | head -n 2 > /dev/null",
                env!("CARGO_BIN_EXE_wellhead")
            ),
        ]));
    assert!(code == Some(0) && error.is_empty(), "{error}");
    let (code, out, error) = trace(folder, &["bus", "--for", "300ms"]);
    assert!(code == Some(0) && !out.is_empty(), "{error}");
    let (code, _, error) = trace(folder, &["buss"]);
    assert!(
        code == Some(1)
            && error.contains("did you mean \"bus\"?")
            && error.contains("the lines are bus, plc"),
        "{error}"
    );
    let (code, _, error) = trace(folder, &[]);
    assert!(code == Some(2) && error.contains("bus, plc"), "{error}");
    drop(gateway);
    assert_eq!(second.wait().code(), Some(1), "the gateway is gone");
}

#[test]
fn a_trace_shows_what_plain_instruments_say_and_refuses_lines_without_a_wire() {
    let folder = tempfile::tempdir().unwrap();
    let scale = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = scale.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in scale.incoming().flatten() {
            std::thread::spawn(move || {
                while stream.write_all(b"\x02+12.5 kg\x1b\r\n").is_ok() {
                    std::thread::sleep(std::time::Duration::from_millis(30));
                }
            });
        }
    });
    let yaml = format!(
        "site: x\nlines: [ {{ name: scale, tcp: '127.0.0.1:{port}' }}, {{ name: bench, simulated: {{}} }} ]\ndevices:\n  - {{ name: lorries, line: scale, each_line: '(?P<weight>[+-]\\d+\\.\\d+) kg', points: {{ weight: {{ unit: kg }} }} }}\n  - {{ name: tank, line: bench, points: {{ level: {{ simulate: {{}} }} }} }}\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\n",
    );
    let gateway = Gateway::start(folder.path(), &yaml);
    gateway
        .process
        .wait_for_event("device.online", &["line=scale"]);
    let (code, out, error) = trace(folder.path(), &["scale", "-n", "3", "--raw"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(
        out.contains("< \"\\x02+12.5 kg\\x1b\\r\\n\"") && out.contains("02 2b 31 32 2e 35"),
        "{out}"
    );
    check_width(&out);
    let (code, out, _) = trace(folder.path(), &["scale", "-n", "1", "--json"]);
    let line: Json = serde_json::from_str(&out).unwrap();
    assert!(
        code == Some(0)
            && line["event"] == "received"
            && line["text"] == "\\x02+12.5 kg\\x1b\\r\\n",
        "{line}"
    );
    let (code, _, error) = trace(folder.path(), &["bench"]);
    assert!(code == Some(1) && error.contains("is simulated"), "{error}");
}

#[test]
fn status_says_what_the_service_manager_shows_and_its_exit_code_says_whether_that_is_well() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "site: x\nlines: [ {{ name: bench, simulated: {{}} }}, {{ name: gone, serial: {} }} ]\ndevices:\n  - {{ name: tank, line: bench, points: {{ level: {{ every: 100ms, simulate: {{}} }} }} }}\n  - {{ name: far, line: gone, unit: 1, points: {{ z: {{ holding: 0, type: u16 }} }} }}\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\nuplinks: [ {{ name: cloud, to: 'mqtt://127.0.0.1:{NOBODY}', send: [ {{ filter: '#' }} ] }} ]\n",
        folder.path().join("gone").display(),
    );
    let status = |arguments: &[&str]| {
        run(wellhead()
            .arg("status")
            .args(arguments)
            .current_dir(folder.path()))
    };
    let gateway = Gateway::start(folder.path(), &yaml);
    let out = wait_for("one line is up", || {
        let (code, out, error) = status(&[]);
        assert!(
            code == Some(1) && error.contains("line gone is down, uplink cloud is down"),
            "{out}{error}"
        );
        out.contains("1 of 2 lines up; cloud down, ").then_some(out)
    });
    check_width(&out);
    let row = |name: &str| {
        out.lines()
            .find(|line| line.starts_with(name))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        (row("bench"), row("gone"), row("cloud")),
        ("up".to_owned(), "down".to_owned(), "down".to_owned())
    );
    assert!(
        out.contains("1 of 1 answer") && out.contains("0 of 1 answer"),
        "{out}"
    );
    let (code, out, _) = status(&["--json"]);
    let object: Json = serde_json::from_str(&out).unwrap();
    assert!(
        code == Some(1) && object["is_well"] == false && object["lines"][0]["is_up"] == true,
        "{object}"
    );
    assert!(
        object["text"]
            .as_str()
            .unwrap()
            .starts_with("1 of 2 lines up; cloud down, "),
        "{object}"
    );
    drop(gateway);
    let (code, _, error) = status(&[]);
    assert!(
        code == Some(3) && error.contains("no gateway runs"),
        "{error}"
    );
    // With everything up.
    let yaml = "site: x\nlines: [ { name: bench, simulated: {} } ]\ndevices: [ { name: tank, line: bench, points: { level: { every: 100ms, simulate: {} } } } ]\nbroker: { listen: [ 'mqtt://127.0.0.1:0' ] }\n";
    let _gateway = Gateway::start(folder.path(), yaml);
    wait_for("all is well", || (status(&[]).0 == Some(0)).then_some(()));
}

#[test]
fn a_level_that_is_none_is_refused_and_names_those_there_are() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("gateway.yaml"),
        "site: x\nbroker: { listen: [ 'mqtt://127.0.0.1:0' ] }\n",
    )
    .unwrap();
    let (code, _, error) = run(wellhead()
        .arg("run")
        .current_dir(folder.path())
        .env("WELLHEAD_LOG", "debugg"));
    assert_eq!(code, Some(78), "{error}");
    assert!(
        error.contains("did you mean \"debug\"?")
            && error.contains("off, error, warn, info, debug, trace"),
        "{error}"
    );
    let (code, _, error) = run(wellhead()
        .arg("run")
        .current_dir(folder.path())
        .env("WELLHEAD_LOG_FORMAT", "xml"));
    assert!(
        code == Some(2) && error.contains("choose one of: text, json"),
        "{error}"
    );
    for page in [["help", "run"], ["man", "run"]] {
        let (_, out, _) = run(wellhead().args(page));
        assert!(
            out.contains("WELLHEAD_LOG") && !out.contains("RUST_LOG"),
            "{out}"
        );
    }
}

/// The log of a gateway that writes objects.
fn objects(gateway: &Process) -> Vec<Json> {
    gateway
        .output()
        .split_inclusive('\n')
        // The last line may be on its way.
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect()
}

/// Waits for an object about an event, with such fields.
fn wait_for_object(gateway: &Process, event: &str, fits: impl Fn(&Json) -> bool) -> Json {
    wait_for(event, || {
        objects(gateway)
            .into_iter()
            .find(|object| object["fields"]["event"] == event && fits(&object["fields"]))
    })
}

#[test]
fn a_log_of_objects_says_at_debug_what_is_asked_and_answered() {
    let bench = bench();
    let folder = bench.folder.path();
    let file = folder.join("gateway.yaml");
    fs::write(
        &file,
        format!(
            "{}log: {{ format: json }}\n",
            fs::read_to_string(&file).unwrap()
        ),
    )
    .unwrap();
    let mut command = wellhead();
    command.arg("run").arg(&file).env("WELLHEAD_LOG", "debug");
    let mut gateway = Process::start(&mut command, &folder.join("gateway.log"));
    wait_for_object(&gateway, "gateway.started", |_| true);
    wait_for_object(&gateway, "device.points_read", |fields| {
        fields["points"].as_str().unwrap().starts_with("voltage")
    });
    let (code, _, error) = bench.ask(&["write", "meter", "setpoint", "7"]);
    assert_eq!(code, Some(0), "{error}");
    wait_for_object(&gateway, "device.points_written", |_| true);
    wait_for_object(&gateway, "broker.client_terms", |fields| {
        fields["keep_alive"] == 0 && fields["session"] == "new"
    });
    let read = wait_for_object(&gateway, "device.points_read", |fields| {
        fields["device"] == "meter"
    });
    assert!(gateway.terminate().success());
    // The last one, too, is whole.
    assert!(objects(&gateway).len() > 4);
    assert!(
        read["level"] == "DEBUG"
            && read["fields"]["line"] == "bus"
            && read["fields"]["ms"].as_f64().unwrap() > 0.0,
        "{read}"
    );
    assert!(
        read["target"]
            .as_str()
            .unwrap()
            .starts_with("wellhead::field")
            && read["time"].as_str().unwrap().ends_with('Z'),
        "{read}"
    );
    // The same by a flag, over what the file says.
    let mut command = wellhead();
    command.args(["run", "--log-format", "text"]).arg(&file);
    let mut gateway = Process::start(&mut command, &folder.join("text.log"));
    gateway.wait_for_event("gateway.started", &["INFO"]);
    assert!(gateway.terminate().success());
}
