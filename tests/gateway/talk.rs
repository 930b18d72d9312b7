//! `wellhead sub`, `pub`, `read` and `write` beside the clients of mosquitto, against a simulated
//! instrument.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::{Process, free_port, run, simulated, wait_for, wellhead};

fn yaml(server: u16, port: u16) -> String {
    format!(
        "site: x\nlines: [ {{ name: bus, modbus_tcp: '127.0.0.1:{server}' }} ]\ndevices:\n  - name: d\n    line: bus\n    unit: 1\n    points:\n\
         \x20     level: {{ holding: 0, type: u16, every: 100ms, simulate: {{ shape: constant, from: 42 }} }}\n\
         \x20     target: {{ holding: 1, type: i16, every: 100ms, simulate: {{ shape: constant, from: 5 }}, write: {{ min: -10, max: 50, read_back: true }} }}\n\
         broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ], anonymous: {{ read: [ '#' ], write: [ '#', 'x/d/target/set' ] }} }}\n"
    )
}

fn ask(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    run(wellhead()
        .args(arguments)
        .arg("--file")
        .arg(folder.join("gateway.yaml")))
}

#[test]
fn a_person_without_other_clients_reads_writes_subscribes_and_publishes() {
    let folder = tempfile::tempdir().unwrap();
    let (server, port) = (free_port(), free_port());
    let (_simulator, _gateway) = simulated(folder.path(), &yaml(server, port));
    let folder = folder.path();
    let value = |text: &str| {
        serde_json::from_str::<serde_json::Value>(text).unwrap_or_default()["v"].clone()
    };
    wait_for("the value", || {
        (value(&ask(folder, &["read", "d", "level"]).1) == 42).then_some(())
    });

    // Written, read back, and refused where the limits say so.
    let (code, out, error) = ask(folder, &["write", "d", "target", "-7"]);
    assert!(
        code == Some(0) && out.contains("\"status\":\"ok\"") && error.is_empty(),
        "{out}{error}"
    );
    wait_for("the new value", || {
        (value(&ask(folder, &["read", "d", "target"]).1) == -7).then_some(())
    });
    let (code, out, error) = ask(folder, &["write", "d", "target", "51"]);
    assert!(
        code == Some(1) && out.contains("rejected") && error == "not written: rejected\n",
        "{out}{error}"
    );
    let (code, _, error) = ask(folder, &["write", "d", "level", "1"]);
    assert!(
        code == Some(1) && error.contains("d.level has no `write:`"),
        "{error}"
    );
    let (code, _, error) = ask(folder, &["read", "d", "levl"]);
    assert!(
        code == Some(1) && error.contains("did you mean \"level\"?"),
        "{error}"
    );
    let (_, _, error) = ask(folder, &["read", "e", "level"]);
    assert!(error.contains("there is no device \"e\""), "{error}");

    // Ours and theirs hear each other.
    let mut ours = wellhead();
    ours.args(["sub", "talk/#", "-n", "2", "--file"])
        .arg(folder.join("gateway.yaml"));
    let mut ours = Process::start(&mut ours, &folder.join("sub.log"));
    let port = port.to_string();
    wait_for("a message for a subscriber", || {
        run(Command::new("mosquitto_pub").args(["-p", &port, "-t", "talk/theirs", "-m", "hello"]));
        ours.output().contains("talk/theirs hello").then_some(())
    });
    // One more ends it.
    run(Command::new("mosquitto_pub").args(["-p", &port, "-t", "talk/theirs", "-m", "hello"]));
    assert!(ours.wait().success());
    let (code, _, error) = ask(folder, &["pub", "talk/ours", "kept", "--retain"]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let (_, out, _) = run(Command::new("mosquitto_sub").args([
        "-p",
        &port,
        "-t",
        "talk/ours",
        "-v",
        "-C",
        "1",
        "-W",
        "10",
    ]));
    assert_eq!(out, "talk/ours kept\n");
    let (_, out, _) = ask(folder, &["sub", "talk/ours", "-n", "1", "--payload"]);
    assert_eq!(out, "kept\n");
}

#[test]
fn watch_is_a_table_in_a_terminal_and_lines_in_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let (server, port) = (free_port(), free_port());
    let (_simulator, _gateway) = simulated(
        folder.path(),
        &yaml(server, port).replace("holding: 0, type: u16,", "holding: 0, type: u16, unit: m,"),
    );
    let command = format!(
        "{} watch x/d/level --file {}/gateway.yaml",
        env!("CARGO_BIN_EXE_wellhead"),
        folder.path().display()
    );
    let piped = Process::start(
        Command::new("sh").args(["-c", &command]),
        &folder.path().join("watch.log"),
    );
    piped.wait_for_output("x/d/level 42 m good\n");
    let mut terminal = Command::new("script");
    terminal.args([
        "-qefc",
        &format!("stty cols 100 rows 20; exec {command}"),
        "/dev/null",
    ]);
    let terminal = Process::start(&mut terminal, &folder.path().join("terminal.log"));
    wait_for("a row with its picture", || {
        let shown = terminal.output();
        ["x/d/level", "42", "\u{2581}", "good"]
            .iter()
            .all(|part| shown.contains(part))
            .then_some(())
    });
}

#[test]
fn who_may_not_and_who_finds_nobody_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let (code, _, error) =
        run(wellhead().args(["pub", "a", "b", "--to", &format!("mqtt://127.0.0.1:{port}")]));
    assert!(
        code == Some(1) && error.contains("is the gateway running?"),
        "{error}"
    );
    let (code, _, error) = run(wellhead().args(["pub", "a/#", "b"]));
    assert!(
        code == Some(2) && error.contains("invalid topic"),
        "{error}"
    );
    let (_, hash, _) = run(Command::new("sh").args([
        "-c",
        &format!(
            "echo secret | {} passwd hmi",
            env!("CARGO_BIN_EXE_wellhead")
        ),
    ]));
    let hash = hash
        .split('\'')
        .find(|part| part.starts_with("$argon2id"))
        .unwrap_or_else(|| panic!("{hash}"))
        .to_owned();
    let yaml = format!(
        "site: x\nbroker:\n  listen: [ 'unix://{0}/broker.sock' ]\n  users: [ {{ name: hmi, password: '{hash}', read: [ 'a/#' ], write: [ 'a/#' ] }} ]\n",
        folder.path().display()
    );
    let _gateway = super::support::Gateway::start(folder.path(), &yaml);
    let (code, _, error) = ask(folder.path(), &["pub", "a/b", "c"]);
    assert!(
        code == Some(1) && error.contains("the connection was refused") && error.contains("--user"),
        "{error}"
    );
    fs::write(folder.path().join("pw"), "secret\n").unwrap();
    let file = folder.path().join("pw");
    let login = ["--user", "hmi", "--password-file", file.to_str().unwrap()];
    let (code, _, error) = ask(
        folder.path(),
        &[&["pub", "a/b", "c", "--retain"], &login[..]].concat(),
    );
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let (_, out, _) = ask(
        folder.path(),
        &[&["sub", "a/b", "-n", "1"], &login[..]].concat(),
    );
    assert_eq!(out, "a/b c\n");
    let (code, _, error) = ask(folder.path(), &[&["pub", "b/b", "c"], &login[..]].concat());
    assert!(
        code == Some(1) && error.contains("the message was refused"),
        "{error}"
    );
}
