//! Files that the YAML names and that are not what they should be: pipes, devices, other people's
//! files, secrets with marks and blanks, files of a hundred thousand lines.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use rustix::time::{ClockId, clock_gettime};
use wellhead::config;

use super::support::{run, wellhead};

const LINES: &str = "site: x\nlines: [ { name: l, simulated: {} } ]\n";

/// A YAML file for each key that names a file; each of them names `odd`.
fn naming(key: &str) -> String {
    let uplink = |more: &str| {
        format!("{LINES}uplinks: [ {{ name: c, to: 'mqtts://127.0.0.1', send: [], {more} }} ]\n")
    };
    let broker = |tls: &str| {
        format!("site: x\nbroker: {{ listen: [ 'mqtts://127.0.0.1:0' ], tls: {{ {tls} }} }}\n")
    };
    match key {
        "include" => format!("{LINES}include: odd\n"),
        "include *" => format!("{LINES}include: od*\n"),
        "password_file" => uplink("user: u, password_file: odd"),
        "ca" => uplink("ca: odd"),
        "cert" => uplink("cert: odd, key: odd"),
        "credential" => uplink("user: '${credential:odd}', password: x"),
        "tls" => broker("cert: odd, key: odd"),
        "client_ca" => broker("cert: odd, key: odd, client_ca: odd, crl: odd"),
        "profile" => format!("{LINES}devices: [ {{ name: d, line: l, profile: odd }} ]\n"),
        other => panic!("{other}"),
    }
}

const KEYS: [&str; 9] = [
    "include",
    "include *",
    "password_file",
    "ca",
    "cert",
    "credential",
    "tls",
    "client_ca",
    "profile",
];

/// Checks a file; what it says, and true if it found fault with it.
fn check(file: &Path) -> (bool, String) {
    let (code, out, error) = run(wellhead().arg("check").arg(file));
    assert!(
        matches!(code, Some(0 | 78)),
        "{}: {code:?} {out}{error}",
        file.display()
    );
    (code == Some(78), format!("{out}{error}"))
}

#[test]
fn a_pipe_a_device_a_folder_and_a_huge_file_end_a_check_with_a_message() {
    let root = tempfile::tempdir().unwrap();
    let mut kinds = 0;
    for (kind, told) in [
        ("pipe", "a pipe, not a regular file"),
        ("zero", "a device, not"),
        ("folder", "a folder, not"),
        ("huge", "larger than"),
    ] {
        let folder = root.path().join(kind);
        fs::create_dir_all(folder.join("profiles")).unwrap();
        let odd = folder.join("odd");
        match kind {
            "pipe" => mknodat(CWD, &odd, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
            "zero" => symlink("/dev/zero", &odd).unwrap(),
            "folder" => fs::create_dir(&odd).unwrap(),
            _ => File::create(&odd).unwrap().set_len(1 << 34).unwrap(),
        }
        symlink(&odd, folder.join("profiles/odd.yaml")).unwrap();
        let (is_wrong, said) = check(&odd);
        assert!(is_wrong && said.contains(told), "{kind} itself: {said}");
        for key in KEYS {
            let file = folder.join("gateway.yaml");
            fs::write(&file, naming(key)).unwrap();
            let (is_wrong, said) = check(&file);
            // A wildcard stands for regular files only. Certificates are read by the gateway; a
            // check opens them.
            let expected = if key.starts_with("include") && kind != "huge" {
                "no file matches"
            } else {
                told
            };
            let is_opened_only =
                kind == "huge" && ["ca", "cert", "tls", "client_ca"].contains(&key);
            assert!(
                is_opened_only || (is_wrong && said.contains(expected)),
                "{kind} as {key}: {said}"
            );
            kinds += 1;
        }
    }
    assert_eq!(kinds, 4 * KEYS.len());
}

/// What no message may hold, and files that hold it.
const SECRET: &str = "hunter2";
const OTHERS: [(&str, &str); 7] = [
    (
        "shadow",
        "root:$y$hunter2$hunter2:19000:0:99999:7:::\nhunter2:*:19000::::::\n",
    ),
    (
        "users",
        "root:$y$hunter2$hunter2:19000:0:99999:7:::\nbroker:$y$hunter2:19000::::::\nuplink:$y$hunter2:19000::::::\npoints:hunter2:1:\n",
    ),
    ("colons", "hunter2: hunter2\nhunter2 : x\n"),
    ("broken", "hunter2: [ hunter2\n hunter2: }\n"),
    ("columns", "x: 1\nhunter2:\n    hunter2: 1\n   hunter2: 2\n"),
    ("list", "- hunter2\n- hunter2: hunter2\n"),
    (
        "key",
        "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END hunter2 KEY-----\n",
    ),
];

#[test]
fn nothing_of_a_file_that_is_not_ours_is_printed() {
    let root = tempfile::tempdir().unwrap();
    for (name, content) in OTHERS {
        let folder = root.path().join(name);
        fs::create_dir_all(folder.join("profiles")).unwrap();
        fs::write(folder.join("odd"), content).unwrap();
        symlink(folder.join("odd"), folder.join("profiles/odd.yaml")).unwrap();
        for key in KEYS {
            let file = folder.join("gateway.yaml");
            fs::write(&file, naming(key)).unwrap();
            for json in [false, true] {
                let mut command = wellhead();
                command.arg("check").arg(&file);
                if json {
                    command.arg("--json");
                }
                let (code, out, error) = run(&mut command);
                assert!(
                    !out.contains(SECRET) && !error.contains(SECRET),
                    "{name} as {key}: {out}{error}"
                );
                let must_be_wrong = key.starts_with("include") || key == "profile";
                assert!(
                    !must_be_wrong || code == Some(78),
                    "{name} as {key}: {out}{error}"
                );
            }
        }
    }
    // A part of ours is shown with its line.
    fs::write(root.path().join("part"), "devices: [ { nam: d } ]\n").unwrap();
    fs::write(
        root.path().join("gateway.yaml"),
        format!("{LINES}include: part\n"),
    )
    .unwrap();
    let (_, said) = check(&root.path().join("gateway.yaml"));
    assert!(said.contains("devices: [ { nam: d } ]"), "{said}");
}

#[test]
fn secrets_of_the_environment_and_of_files_are_in_no_message_even_where_they_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("odd"), "hunter2 one\nhunter2 \"two\"\n").unwrap();
    let file = folder.path().join("gateway.yaml");
    for place in [
        "every: '${credential:odd}'",
        "class: '${credential:odd}'",
        "topic: '${credential:odd}'",
        "unit: 1, type: '${credential:odd}'",
    ] {
        fs::write(
            &file,
            format!("{LINES}devices: [ {{ name: d, line: l, points: {{ p: {{ {place} }} }} }} ]\n"),
        )
        .unwrap();
        let (_, said) = check(&file);
        assert!(!said.contains(SECRET), "{place}: {said}");
    }
}

#[test]
fn a_password_file_with_a_mark_or_blanks_is_told_and_an_empty_one_refused() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "{LINES}uplinks: [ {{ name: c, to: 'mqtts://127.0.0.1', send: [], user: u, password_file: odd }} ]\n"
    );
    let load = |content: &[u8]| {
        fs::write(folder.path().join("odd"), content).unwrap();
        config::parse("gateway.yaml", &yaml, folder.path())
    };
    for (content, password, told) in [
        (&b"secret\r\n"[..], "secret", None),
        (
            "\u{feff}secret\n".as_bytes(),
            "secret",
            Some("byte order mark"),
        ),
        (b"secret \n", "secret ", Some("ends with a blank")),
        (b"\tsecret\n", "\tsecret", Some("begins with a blank")),
    ] {
        let gateway = load(content).unwrap_or_else(|faults| panic!("{faults:?}"));
        let login = gateway.uplinks[0].settings.login.as_ref().unwrap();
        // It is read at each connection.
        assert_eq!(
            login.password,
            wellhead::uplink::Password::File(folder.path().join("odd"))
        );
        assert_eq!(
            wellhead::files::first_line(&folder.path().join("odd"))
                .unwrap()
                .text,
            password
        );
        let said: Vec<&str> = gateway
            .warnings
            .iter()
            .map(|warning| warning.message.as_str())
            .collect();
        assert_eq!(said.len(), usize::from(told.is_some()), "{said:?}");
        assert!(
            told.is_none_or(|told| said[0].contains(told) && said[0].contains("remove")
                || said[0].contains("save it as")),
            "{said:?}"
        );
    }
    for content in [&b""[..], b"\n", b"\r\n\r\n", b" \n", &[0xFF, 0xFE, b'a', 0]] {
        let faults = load(content).unwrap_err();
        assert!(
            faults.len() == 1 && (faults[0].line, faults[0].column) == (3, 82),
            "{faults:?}"
        );
    }
}

/// What a member of the service's group sees: the folder of the credentials is root's alone.
#[test]
fn a_secret_that_only_root_can_read_is_no_fault_for_who_checks_and_one_for_who_runs() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let credentials = folder.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("cloud.password"), "secret\n").unwrap();
    let file = folder.path().join("gateway.yaml");
    fs::write(
        &file,
        format!("{LINES}uplinks: [ {{ name: c, to: 'mqtts://127.0.0.1', send: [], user: u, password_file: cloud.password }} ]\n"),
    )
    .unwrap();
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o000)).unwrap();
    let found = std::thread::spawn(move || {
        if geteuid().is_root() {
            // Of this thread alone.
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(
                Gid::from_raw(65_534),
                Gid::from_raw(65_534),
                Gid::from_raw(65_534),
            )
            .unwrap();
            set_thread_res_uid(
                Uid::from_raw(65_534),
                Uid::from_raw(65_534),
                Uid::from_raw(65_534),
            )
            .unwrap();
        }
        (config::load(&file), config::load_to_run(&file))
    });
    let (checked, run) = found.join().unwrap();
    let checked = checked.unwrap_or_else(|error| panic!("{error}"));
    assert!(
        checked.warnings.len() == 1 && checked.warnings[0].message.contains("sudo wellhead check"),
        "{:?}",
        checked.warnings
    );
    assert!(
        run.unwrap_err()
            .to_string()
            .contains("cloud.password is not checked")
    );
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o700)).unwrap();
}

/// Shapes of files, by what is repeated.
fn large(shape: &str, count: usize) -> String {
    let all = |line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let devices = |line: &dyn Fn(usize) -> String| format!("{LINES}devices:\n{}", all(line));
    match shape {
        "points" => {
            format!(
                "{LINES}devices:\n  - name: d\n    line: l\n    points:\n{}",
                all(&|i| format!("      p{i}: {{ every: 10s }}\n"))
            )
        }
        "points with faults" => {
            format!(
                "{LINES}devices:\n  - name: d\n    line: l\n    points:\n{}",
                all(&|i| format!("      p{i}: {{ every: 0s }}\n"))
            )
        }
        "expressions" => format!(
            "{LINES}devices:\n  - name: d\n    line: l\n    points:\n      a: {{ every: 1s }}\n{}",
            all(&|i| format!("      p{i}: {{ expression: 'a + 1' }}\n"))
        ),
        "devices" => devices(&|i| {
            format!("  - {{ name: d{i}, line: l, points: {{ p: {{ every: 10s }} }} }}\n")
        }),
        "devices on no line" => devices(&|i| {
            format!("  - {{ name: d{i}, line: x{i}, points: {{ p: {{ every: 10s }} }} }}\n")
        }),
        "devices of no profile" => {
            devices(&|i| format!("  - {{ name: d{i}, line: l, profile: x{i} }}\n"))
        }
        "devices of one name" => {
            devices(&|_| "  - { name: d, line: l, points: { p: { every: 10s } } }\n".to_owned())
        }
        "twins" => format!(
            "site: x\nlines: [ {{ name: l, modbus_tcp: 10.0.0.1 }} ]\ndevices:\n{}",
            all(&|i| format!(
                "  - {{ name: d{i}, line: l, unit: {}, points: {{ p: {{ holding: {i}, type: u16 }} }} }}\n",
                1 + i % 4
            ))
        ),
        "lines" => format!(
            "site: x\nlines:\n{}",
            all(&|i| format!("  - {{ name: l{i}, modbus_tcp: '10.0.0.1:{}' }}\n", i + 1))
        ),
        "ports that are not there" => format!(
            "site: x\nlines:\n{}",
            all(&|i| format!("  - {{ name: l{i}, serial: /dev/ttyX{i} }}\n"))
        ),
        "keys without a value" => format!(
            "site: x\nlines:\n{}",
            all(&|i| format!("  - {{ name: l{i}, modbus_tcp: }}\n"))
        ),
        "keys twice" => format!("site: x\n{}", "site: y\n".repeat(count)),
        "unknown keys" => format!("site: x\n{}", all(&|i| format!("k{i}: 1\n"))),
        "users" => format!(
            "broker:\n  listen: [ 'mqtt://127.0.0.1:1883' ]\n  users:\n{}",
            all(&|i| format!("    - {{ name: u{i}, password: plain{i} }}\n"))
        ),
        "profiles" => format!(
            "{LINES}profiles:\n{}",
            all(&|i| format!("  c{i}: {{ points: {{ p: {{ holding: 1, type: u16 }} }} }}\n"))
        ),
        "rules" => format!(
            "{LINES}broker: {{ listen: [ 'mqtt://127.0.0.1:1883' ] }}\nuplinks:\n  - name: c\n    to: mqtts://127.0.0.1\n    send:\n{}",
            all(&|i| format!("      - {{ filter: 'a/b{i}' }}\n"))
        ),
        other => panic!("{other}"),
    }
}

/// The time of this thread's processor that reading a text takes.
fn cost(text: &str) -> Duration {
    let used = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let before = used();
    let read = config::parse("gateway.yaml", text, Path::new("/"));
    let cost = used() - before;
    drop(read);
    cost
}

#[test]
fn reading_a_file_takes_time_linear_in_its_lines() {
    let shapes = [
        "points",
        "points with faults",
        "expressions",
        "devices",
        "devices on no line",
        "devices of no profile",
        "devices of one name",
        "twins",
        "lines",
        "ports that are not there",
        "keys without a value",
        "keys twice",
        "unknown keys",
        "users",
        "profiles",
        "rules",
    ];
    for shape in shapes {
        let (small, large) = (large(shape, 125), large(shape, 2000));
        let least = (0..3).map(|_| cost(&small)).min().unwrap();
        let most = cost(&large);
        // Sixteen times as many lines; what grows with their square would take 256 times as long.
        assert!(
            most < least * 64,
            "{shape}: {least:?} for 125, {most:?} for 2000"
        );
    }
}

#[test]
fn who_names_a_broker_needs_no_file_nor_the_right_to_read_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("gateway.yaml"), "nonsense\n").unwrap();
    // Nobody listens there: the command comes as far as the network.
    for arguments in [
        &["watch", "-n", "1"][..],
        &["sub", "-n", "1"],
        &["read", "d", "p"],
        &["pub", "t", "m"],
        &["write", "d", "p", "1"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wellhead"));
        let (code, _, error) = run(command
            .current_dir(folder.path())
            .args(arguments)
            .args(["--to", "mqtt://127.0.0.1:1"]));
        assert!(
            code == Some(1) && error.contains("127.0.0.1:1: "),
            "{arguments:?}: {code:?} {error}"
        );
    }
}
