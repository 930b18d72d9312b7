//! Brokers under test: started beside each other, their CPU time and memory.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A broker under test, on a core of its own.
pub(crate) struct Broker {
    child: Child,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of this machine that nothing listens on.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn rumqttd() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/rumqttd/bin/rumqttd");
    std::env::var_os("WELLHEAD_RUMQTTD").map_or(own, PathBuf::from)
}

/// The program of mosquitto; an empty path if it is not installed.
pub(crate) fn mosquitto() -> PathBuf {
    ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .unwrap_or_default()
}

/// Compiles and starts the relay of `benches/floor.c`. `None` without a C compiler.
fn start_floor() -> Option<Broker> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/floor.c");
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let program = folder.path().join("floor");
    let compiled = Command::new("cc")
        .args(["-O2", "-o"])
        .args([&program, &source])
        .status()
        .ok()?;
    assert!(compiled.success(), "{}", source.display());
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(program).arg(port.to_string());
    Some(launch(command, port, folder))
}

/// True for the path of another build of wellhead.
pub(crate) fn is_build(name: &str) -> bool {
    name.contains('/')
}

/// Starts a broker, or another build of wellhead by its path; `more` is added to the `broker:`
/// section of wellhead, in one line. `None` if the program is not installed.
pub(crate) fn start(name: &str, more: &str) -> Option<Broker> {
    start_with(name, more, "")
}

/// The same with more `sections` in the file of wellhead.
pub(crate) fn start_with(name: &str, more: &str, sections: &str) -> Option<Broker> {
    if name == "floor" {
        return start_floor();
    }
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let (program, config, arguments): (PathBuf, String, &[&str]) = match name {
        build if build == "wellhead" || is_build(build) => (
            if is_build(build) {
                build.into()
            } else {
                env!("CARGO_BIN_EXE_wellhead").into()
            },
            format!(
                "broker: {{ listen: [ 'mqtt://127.0.0.1:{port}' ], max_connections: 10000, max_connections_per_address: 10000, connection_rate: 10000, max_sessions: 10000{more} }}\noutbox: {{ folder: data }}\n{sections}"
            ),
            &["run"],
        ),
        "mosquitto" => (
            mosquitto(),
            format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 64\nset_tcp_nodelay true\nlog_type none\n"
            ),
            &["-c"],
        ),
        _ => (
            rumqttd(),
            format!(
                "id = 0\n[router]\nid = 0\nmax_connections = 10010\nmax_outgoing_packet_count = 200\nmax_segment_size = 104857600\nmax_segment_count = 10\n[v4.1]\nname = \"v4-1\"\nlisten = \"127.0.0.1:{port}\"\nnext_connection_delay_ms = 1\n[v4.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 20480\nmax_inflight_count = 100\ndynamic_filters = true\n"
            ),
            &["-c"],
        ),
    };
    if !program.exists() {
        return None;
    }
    // rumqttd goes by the end of the name.
    let file = folder.path().join(if name == "rumqttd" {
        "config.toml"
    } else {
        "config"
    });
    fs::write(&file, config).unwrap();
    let mut command = Command::new("taskset");
    command
        .args(["-c", "1"])
        .arg(program)
        .args(arguments)
        .arg(&file);
    Some(launch(command, port, folder))
}

/// Runs a program that keeps its files in `folder`, and waits until it listens.
pub(crate) fn launch(mut command: Command, port: u16, folder: tempfile::TempDir) -> Broker {
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let child = command
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let broker = Broker {
        child,
        port,
        _folder: folder,
    };
    for _ in 0..1000 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return broker;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{command:?} does not listen");
}

impl Broker {
    /// CPU time so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// Forgets the peak of its memory.
    pub(crate) fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    /// A line of `/proc/<pid>/status`, in KiB.
    pub(crate) fn memory(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
