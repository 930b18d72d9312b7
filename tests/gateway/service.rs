//! What systemd is told, played by this test; what the .deb does under a real one is shown by
//! `tests/pi`.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::Signal;

use super::support::{Process, run, wait_for, wellhead};

const YAML: &str = "site: x\n\
    lines: [ { name: bench, simulated: {} } ]\n\
    devices: [ { name: d, line: bench, points: { p: { every: 100ms } } } ]\n\
    broker: { listen: [ 'unix://FOLDER/broker.sock' ] }\n\
    uplinks: [ { name: cloud, to: 'mqtt://127.0.0.1:9', send: [ { filter: '#' } ] } ]\n\
    outbox: { folder: data }\n";

/// The end of systemd.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(folder: &Path) -> Self {
        let socket = UnixDatagram::bind(folder.join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            heard: Vec::new(),
        }
    }

    /// `wellhead run` as this manager starts it.
    fn start(&self, folder: &Path, watchdog: Duration) -> Process {
        fs::write(
            folder.join("gateway.yaml"),
            YAML.replace("FOLDER", &folder.display().to_string()),
        )
        .unwrap();
        let _ = fs::remove_file(folder.join("broker.sock"));
        let mut command = wellhead();
        command.arg("run").arg("gateway.yaml").current_dir(folder);
        command
            .env("NOTIFY_SOCKET", folder.join("notify"))
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        command.env("RUNTIME_DIRECTORY", folder);
        Process::start(&mut command, &folder.join("gateway.log"))
    }

    fn listen(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            self.heard
                .push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }

    /// Waits for a message with `text`, and forgets it and everything before.
    fn hear(&mut self, text: &str) -> String {
        wait_for(&format!("systemd hears {text}"), || {
            self.listen();
            let index = self.heard.iter().position(|heard| heard.contains(text))?;
            self.heard.drain(..=index).next_back()
        })
    }
}

#[test]
fn systemd_hears_ready_status_signs_of_life_reloads_and_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let mut manager = Manager::new(folder.path());
    let mut gateway = manager.start(folder.path(), Duration::from_secs(2));
    let first = manager.hear("READY=1");
    assert_eq!(first, "READY=1\n");
    manager.hear("STATUS=1 of 1 lines up; cloud down, ");
    manager.hear("WATCHDOG=1");
    manager.hear("WATCHDOG=1");
    gateway.signal(Signal::HUP);
    let reloading = manager.hear("RELOADING=1");
    let time: u64 = reloading
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="))
        .unwrap()
        .parse()
        .unwrap();
    assert!(time > 0);
    manager.hear("READY=1");
    gateway.signal(Signal::TERM);
    assert!(manager.hear("STOPPING=1").contains("EXTEND_TIMEOUT_USEC="));
    assert!(gateway.wait().success());
    assert!(
        !folder.path().join("starts").exists(),
        "an orderly stop is no failed start"
    );
}

#[test]
fn a_thread_that_hangs_is_told_by_name_and_ends_the_signs_of_life() {
    let folder = tempfile::tempdir().unwrap();
    let hang = folder.path().join("hang");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/hang.c");
    let built = run(Command::new("gcc")
        .args(["-O1", "-Wall", "-Werror", "-o"])
        .arg(&hang)
        .arg(source));
    assert_eq!(built.0, Some(0), "{}", built.2);
    let mut manager = Manager::new(folder.path());
    let gateway = manager.start(folder.path(), Duration::from_secs(4));
    manager.hear("WATCHDOG=1");
    let hanging = Process::start(
        Command::new(&hang)
            .arg(gateway.id().to_string())
            .arg("broker"),
        &folder.path().join("hang.log"),
    );
    hanging.wait_for_output("hangs");
    // Longer than the patience for a broker, which never waits for anybody.
    let give_up = Instant::now() + Duration::from_secs(90);
    while !manager
        .heard
        .iter()
        .any(|heard| heard.contains("STATUS=broker hangs"))
    {
        assert!(
            Instant::now() < give_up,
            "nobody notices: {:?}",
            manager.heard
        );
        thread::sleep(Duration::from_millis(50));
        manager.listen();
    }
    gateway.wait_for_event("gateway.task_hangs", &["task=broker"]);
    manager.heard.clear();
    // Three times as long as signs of life are apart.
    thread::sleep(Duration::from_secs(3));
    manager.listen();
    assert!(
        !manager
            .heard
            .iter()
            .any(|heard| heard.contains("WATCHDOG=1")),
        "{:?}",
        manager.heard
    );
    drop(hanging);
    manager.hear("WATCHDOG=1");
}

#[test]
fn starts_that_fail_in_a_row_wait_longer_and_longer_and_can_be_stopped_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let mut manager = Manager::new(folder.path());
    for waits in [None, Some("waits 1 s"), Some("waits 2 s")] {
        let mut gateway = manager.start(folder.path(), Duration::from_secs(30));
        if let Some(waits) = waits {
            manager.hear("EXTEND_TIMEOUT_USEC=");
            manager.hear(waits);
        }
        manager.hear("READY=1");
        gateway.kill_9();
    }
    let mut gateway = manager.start(folder.path(), Duration::from_secs(30));
    manager.hear("waits 4 s, because 3 starts in a row ended early");
    let asked = Instant::now();
    assert!(gateway.terminate().success());
    assert!(asked.elapsed() < Duration::from_secs(4));
}

#[test]
fn credentials_of_the_service_are_found_by_the_names_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "site: x\nbroker: { listen: [ 'mqtt://127.0.0.1:1883' ] }\nuplinks: [ { name: cloud, to: 'mqtt://127.0.0.1:9', user: u, password_file: cloud.password, send: [ { filter: '#' } ] } ]\n";
    fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let credentials = folder.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    let check = |name: Option<&str>| {
        if let Some(name) = name {
            fs::write(credentials.join(name), "secret\n").unwrap();
        }
        let mut command = wellhead();
        command
            .arg("check")
            .arg(folder.path().join("gateway.yaml"))
            .env("CREDENTIALS_DIRECTORY", &credentials);
        let (code, out, err) = run(&mut command);
        if let Some(name) = name {
            fs::remove_file(credentials.join(name)).unwrap();
        }
        (code, format!("{out}{err}"))
    };
    // As one `LoadCredential=` of its own, and as one file of the folder that the unit loads.
    assert_eq!(check(Some("cloud.password")).0, Some(0));
    assert_eq!(check(Some("wellhead_cloud.password")).0, Some(0));
    let (code, text) = check(None);
    assert!(
        code == Some(78) && text.contains("cloud.password: No such file"),
        "{text}"
    );
}

/// Every file and folder below this one whose mode is not what it should be.
fn exposed(folder: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Spare partitions come and go.
        let Ok(found) = fs::symlink_metadata(&path) else {
            continue;
        };
        let (mode, name) = (
            found.permissions().mode() & 0o777,
            path.file_name().unwrap().to_string_lossy().into_owned(),
        );
        let allowed = match name.as_str() {
            "data" | "outbox" => 0o750,
            "control.sock" | "control.lock" | "broker.sock" => 0o660,
            _ if found.is_dir() => 0o700,
            _ => 0o600,
        };
        if mode & !allowed != 0 {
            wrong.push(format!("{} is {mode:o}", path.display()));
        }
        if found.is_dir() {
            wrong.extend(exposed(&path));
        }
    }
    wrong
}

#[test]
fn whatever_the_umask_says_nobody_else_reads_what_a_gateway_writes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let home = folder.join("home");
    for made in [&home, &folder.join("run")] {
        fs::create_dir(made).unwrap();
        fs::set_permissions(made, fs::Permissions::from_mode(0o700)).unwrap();
    }
    fs::write(
        home.join("gateway.yaml"),
        YAML.replace("FOLDER", &home.display().to_string()),
    )
    .unwrap();
    fs::set_permissions(home.join("gateway.yaml"), fs::Permissions::from_mode(0o600)).unwrap();
    let openly = |arguments: &str, log: &str| {
        let command = format!(
            "umask 000; exec {} {arguments}",
            env!("CARGO_BIN_EXE_wellhead")
        );
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &command])
            .current_dir(&home)
            .env("RUNTIME_DIRECTORY", folder.join("run"));
        Process::start(&mut shell, &folder.join(log))
    };
    let mut gateway = openly("run gateway.yaml", "first.log");
    gateway.wait_for_event("gateway.started", &[]);
    let database = || {
        fs::read_dir(home.join("data/outbox/cloud/live"))
            .ok()?
            .map(|entry| entry.unwrap().path())
            .find(|path| path.join("db").exists())
    };
    let database = wait_for("a database", database).join("db");
    assert_eq!(exposed(&home), Vec::<String>::new());
    gateway.kill_9();
    // What is damaged goes to quarantine, what is foreign is set aside.
    let length = fs::metadata(&database).unwrap().len();
    fs::write(&database, vec![0; usize::try_from(length).unwrap()]).unwrap();
    fs::create_dir(
        database
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("p-2-backup"),
    )
    .unwrap();
    let mut gateway = openly("run gateway.yaml", "second.log");
    gateway.wait_for_event("gateway.started", &[]);
    let live = home.join("data/outbox/cloud/live");
    assert!(live.join("quarantine").exists() && live.join("set-aside").exists());
    // What was foreign keeps its mode, behind a folder that is closed.
    fs::remove_dir(live.join("set-aside/p-2-backup")).unwrap();
    assert_eq!(exposed(&home), Vec::<String>::new());
    assert_eq!(exposed(&folder.join("run")), Vec::<String>::new());
    assert!(gateway.terminate().success());
    assert!(
        openly("outbox export --output exported gateway.yaml", "export.log")
            .wait()
            .success()
    );
    assert!(home.join("exported").exists());
    assert_eq!(exposed(&home), Vec::<String>::new());
}
