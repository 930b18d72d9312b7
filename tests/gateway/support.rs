//! What the tests share: processes that die with their test, free ports, waiting for something to
//! become true.

pub mod client;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
    date_time_ymd,
};

/// How long anything may take; generous, because machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `ready` gives something; panics with `what` if it never does.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(
            Instant::now() < give_up,
            "waited {} s in vain: {what}",
            PATIENCE.as_secs()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port nobody has at the moment, and that no other test of this run was given. It is below those
/// that the kernel gives to connections: none of them can have it before the program that it is
/// for. For programs of others, for several that must know it before they start, and for what
/// comes back to its port; a gateway listens at port 0, and [`Gateway::port`] is what it was given.
pub fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id()
            .wrapping_mul(7919)
            .wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + u16::try_from(number % 20_000).unwrap();
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// A class for alarms, as a section of a file.
pub const ALARM: &str = "classes: { alarm: { qos: 2, lane: alarm } }";

/// A port of this machine at which nobody listens.
pub const NOBODY: u16 = 1;

/// A gateway of a site with a broker and an uplink with these keys, each line of which is indented
/// by four blanks.
pub fn gateway_with_uplink(folder: &Path, site: &str, uplink: &str) -> Gateway {
    let yaml = format!(
        "site: {site}\nbroker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}\noutbox: {{ folder: state }}\nuplinks:\n  - name: cloud\n{uplink}\n"
    );
    Gateway::start(folder, &yaml)
}

/// Waits until somebody listens.
pub fn wait_for_port(port: u16) {
    wait_for(&format!("somebody listens on {port}"), || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
}

/// A process that is killed when its test ends; its output is collected in a file.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let out = fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let program = command.get_program().to_string_lossy().into_owned();
        // Open, because some listen to it; what is never written to it stays empty.
        command
            .stdin(Stdio::piped())
            .stdout(out.try_clone().unwrap())
            .stderr(out);
        // A group of its own: what it starts dies with it.
        let child = command.process_group(0).spawn().unwrap_or_else(|error| {
            panic!("{program}: {error}; `tests/run` installs what the tests need")
        });
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Gives a simulator a fault, and waits until it has it.
    pub fn inject(&mut self, fault: &str) {
        let order = format!("fault {fault}");
        self.order(&order, &order);
    }

    /// Ends the faults of a simulator, and waits until it has none.
    pub fn clear_faults(&mut self) {
        self.order("clear", "no faults");
    }

    /// Types a line, and waits until `answer` is printed once more than before.
    fn order(&mut self, line: &str, answer: &str) {
        let answers = |process: &Self| {
            process
                .output()
                .lines()
                .filter(|line| *line == answer)
                .count()
        };
        let before = answers(self);
        self.type_line(line);
        wait_for(
            &format!("the simulator does {line:?}: {}", self.output()),
            || (answers(self) > before).then_some(()),
        );
    }

    /// Everything it has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The lines of its log about an event that have all of these parts: fields, as `name=value`,
    /// or pieces of their values.
    pub fn events(&self, event: &str, parts: &[&str]) -> Vec<String> {
        let field = format!("event={event}");
        let has_all = |line: &&str| {
            line.split(' ').any(|word| word == field)
                && parts.iter().all(|part| line.contains(part))
        };
        let output = self.output();
        // The last line may be on its way.
        let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().filter(has_all).map(str::to_owned).collect()
    }

    /// Waits for such a line, and returns the first.
    pub fn wait_for_event(&self, event: &str, parts: &[&str]) -> String {
        wait_for(
            &format!("{event} with {parts:?} in the log: {}", self.output()),
            || self.events(event, parts).into_iter().next(),
        )
    }

    /// Waits until it has printed `text`. For other programs, and for what wellhead prints; its log
    /// is asked for events.
    pub fn wait_for_output(&self, text: &str) {
        wait_for(
            &format!("{text:?} in the output: {}", self.output()),
            || self.output().contains(text).then_some(()),
        );
    }

    pub fn id(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// To it and to everything it has started.
    pub fn signal_group(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process_group(
            rustix::process::Pid::from_raw(self.id()).unwrap(),
            signal,
        )
        .unwrap();
    }

    /// SIGKILL.
    pub fn kill_9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the status it ended with.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let log = self.log.clone();
        let child = &mut self.child;
        wait_for(
            &format!("the end of the process that wrote {}", log.display()),
            || child.try_wait().unwrap(),
        )
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.id()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.output());
        }
    }
}

/// The program under test.
pub fn wellhead() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wellhead"));
    command.env("WELLHEAD_LOG", "info");
    command
}

/// Runs a command to its end, and returns status, stdout and stderr. One that does not end is
/// killed (status 137).
pub fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let mut limited = Command::new("timeout");
    limited
        .args(["-s", "KILL", "120"])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    let output = limited.output().unwrap();
    assert_ne!(
        output.status.code(),
        Some(127),
        "{:?} is not there; `tests/run` installs what the tests need",
        command.get_program()
    );
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A gateway running on a file in `folder`.
pub struct Gateway {
    pub process: Process,
    folder: PathBuf,
}

impl Gateway {
    pub fn start(folder: &Path, yaml: &str) -> Self {
        // The usual folder is one for all.
        let folder_of_its_own = if yaml.contains("outbox:") {
            ""
        } else {
            "\noutbox: { folder: data }\n"
        };
        fs::write(
            folder.join("gateway.yaml"),
            format!("{yaml}{folder_of_its_own}"),
        )
        .unwrap();
        Self::restart(folder)
    }

    /// On the file that is there already.
    pub fn restart(folder: &Path) -> Self {
        // What an earlier one has said must not be taken for this one.
        let _ = fs::rename(
            folder.join("gateway.log"),
            folder.join("gateway.log.before"),
        );
        let process = Process::start(
            wellhead().arg("run").arg(folder.join("gateway.yaml")),
            &folder.join("gateway.log"),
        );
        let mut gateway = Self {
            process,
            folder: folder.to_owned(),
        };
        wait_for("the gateway starts", || {
            assert!(
                gateway.process.is_running(),
                "the gateway ended: {}",
                gateway.process.output()
            );
            let started = gateway.process.events("gateway.started", &[]);
            (!started.is_empty()).then_some(())
        });
        gateway
    }

    /// The port of its only listener, as the system gave it to `listen: ...:0`. After a restart it
    /// is another one.
    pub fn port(&self) -> u16 {
        let line = self.process.wait_for_event("broker.listening", &[]);
        let (_, port) = line.rsplit_once(':').unwrap();
        port.trim_end().parse().unwrap()
    }

    /// kill -9, and start again on the same file.
    pub fn kill_and_restart(mut self) -> Self {
        self.process.kill_9();
        Self::restart(&self.folder)
    }
}

/// The Python with the packages of `tests/peers/requirements.txt`, as installed by `tests/run`.
pub fn python() -> Command {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/python");
    let path = std::env::var_os("WELLHEAD_PYTHON").map_or(own, PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing; `tests/run` installs it",
        path.display()
    );
    Command::new(path)
}

/// A script of `tests/peers`.
pub fn peer(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peers")
        .join(script)
}

/// A mosquitto broker that can be stopped and started again.
pub struct Mosquitto {
    pub port: u16,
    folder: PathBuf,
    process: Option<Process>,
}

impl Mosquitto {
    /// `extra` is added to its configuration.
    pub fn start(folder: &Path, extra: &str) -> Self {
        Self::start_with(folder, "allow_anonymous true\n", extra)
    }

    pub fn start_with(folder: &Path, listener: &str, extra: &str) -> Self {
        let port = free_port();
        let folder = folder.join(format!("mosquitto-{port}"));
        fs::create_dir_all(&folder).unwrap();
        let user = if rustix::process::geteuid().is_root() {
            "user root\n"
        } else {
            ""
        };
        let text = format!(
            "{user}persistence true\npersistence_location {}/\nlog_dest stderr\nlog_type all\nmax_queued_messages 100000\nlistener {port} 127.0.0.1\n{listener}{extra}",
            folder.display()
        );
        fs::write(folder.join("mosquitto.conf"), text).unwrap();
        let mut broker = Self {
            port,
            folder,
            process: None,
        };
        broker.resume();
        broker
    }

    pub fn resume(&mut self) {
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .unwrap_or("mosquitto");
        let process = Process::start(
            Command::new(program)
                .arg("-c")
                .arg(self.folder.join("mosquitto.conf")),
            &self.folder.join("log"),
        );
        self.process = Some(process);
        wait_for_port(self.port);
    }

    /// An orderly stop: it keeps its sessions and queues.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.terminate();
        }
    }

    /// While it is stopped: it loses its sessions, and what it retained.
    pub fn forget(&self) {
        fs::remove_file(self.folder.join("mosquitto.db")).unwrap();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        self.process.as_ref().unwrap().signal(signal);
    }

    /// Everything it has logged.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

fn serial(name: &str) -> SerialNumber {
    SerialNumber::from(name.len() as u64)
}

/// Throw-away certificates.
pub struct Pem {
    folder: PathBuf,
}

impl Pem {
    /// An authority, a server and a client that it signed; a list that revokes nothing, and one
    /// that revokes the client.
    pub fn make(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Without names of their own OpenSSL takes every certificate for its own issuer.
        params
            .distinguished_name
            .push(DnType::CommonName, "authority of the test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&authority_key).unwrap();
        fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
        let issuer = Issuer::new(params, authority_key);
        for (name, usage) in [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let key = KeyPair::generate().unwrap();
            let mut params =
                CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])
                    .unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            params.serial_number = Some(serial(name));
            let certificate = params.signed_by(&key, &issuer).unwrap();
            fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        for (list, revoked) in [
            ("none-revoked.pem", Vec::new()),
            ("client-revoked.pem", vec!["client"]),
        ] {
            let revoked = revoked.into_iter().map(|name| RevokedCertParams {
                serial_number: serial(name),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            });
            let params = CertificateRevocationListParams {
                this_update: date_time_ymd(2020, 1, 1),
                next_update: date_time_ymd(2120, 1, 1),
                crl_number: SerialNumber::from(1_u64),
                issuing_distribution_point: None,
                revoked_certs: revoked.collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            fs::write(
                folder.join(list),
                params.signed_by(&issuer).unwrap().pem().unwrap(),
            )
            .unwrap();
        }
        Self {
            folder: folder.to_owned(),
        }
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// A listener of mosquitto that asks clients for certificates.
    pub fn listener(&self) -> String {
        format!(
            "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\nallow_anonymous true\n",
            self.path("ca.pem"),
            self.path("server.pem"),
            self.path("server.key")
        )
    }

    /// The keys of an uplink that fit it.
    pub fn yaml(&self) -> String {
        format!(
            "ca: {}\n    cert: {}\n    key: {}",
            self.path("ca.pem"),
            self.path("client.pem"),
            self.path("client.key")
        )
    }
}

/// Where a line of a file is served by a simulator that was told to take any port.
pub const ANY: &str = "tcp: '127.0.0.1:0'";

/// The file for a gateway beside a simulator that serves the line `bus` of it: its port is there
/// instead of [`ANY`].
pub fn beside(simulator: &Process, yaml: &str) -> String {
    let output = wait_for("the line bus", || {
        let output = simulator.output();
        let (_, line) = output.split_once("line bus: ")?;
        Some(line.split_once('\n')?.0.to_owned())
    });
    let (_, port) = output.rsplit_once(':').unwrap_or_default();
    yaml.replacen(ANY, &format!("tcp: '127.0.0.1:{port}'"), 1)
}

/// A simulator and a gateway on the same file, which has a line named `bus`.
pub fn simulated(folder: &Path, yaml: &str) -> (Process, Gateway) {
    let file = folder.join("simulator.yaml");
    fs::write(&file, yaml).unwrap();
    let simulator = Process::start(
        wellhead().arg("simulate").arg(&file),
        &folder.join("simulator.log"),
    );
    let yaml = beside(&simulator, yaml);
    let gateway = Gateway::start(folder, &yaml);
    (simulator, gateway)
}

/// `mosquitto_sub`, with what it prints visible at once.
pub fn mosquitto_sub() -> Command {
    let mut command = Command::new("stdbuf");
    command.args(["-oL", "mosquitto_sub"]);
    command
}

/// A subscriber that keeps its session and writes what it gets, a line a message:
/// `seq:<n> <topic> <payload>`.
pub fn subscriber(folder: &Path, port: u16, filter: &str) -> Process {
    let arguments = [
        "-V",
        "5",
        "-q",
        "1",
        "-c",
        "-x",
        "3600",
        "-i",
        "subscriber",
        "-F",
        "%P %t %p",
        "-k",
        "10",
    ];
    let mut command = mosquitto_sub();
    command
        .args(["-p", &port.to_string(), "-t", filter])
        .args(arguments);
    // Registers the session first, so that nothing can be missed.
    let (code, _, error) = run(Command::new("mosquitto_sub")
        .args(["-p", &port.to_string(), "-t", filter, "-E"])
        .args(arguments));
    assert_eq!(code, Some(0), "{error}");
    Process::start(&mut command, &folder.join("subscriber.log"))
}

/// A TCP link that can be cut, between a port of its own and another.
pub struct Link {
    pub port: u16,
    up: std::sync::Arc<std::sync::atomic::AtomicBool>,
    sent: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Link {
    pub fn to(port: u16) -> Self {
        use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sent = std::sync::Arc::new(AtomicUsize::new(0));
        let link = Self {
            port: listener.local_addr().unwrap().port(),
            up: std::sync::Arc::new(AtomicBool::new(true)),
            sent,
        };
        let (up, sent) = (link.up.clone(), link.sent.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if !up.load(SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
                for ((from, to), count) in [
                    ((near, far), sent.clone()),
                    (back, std::sync::Arc::default()),
                ] {
                    let up = up.clone();
                    std::thread::spawn(move || relay(from, to, &up, &count));
                }
            }
        });
        link
    }

    /// Bytes that have gone from the near side to the far one.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    pub fn cut(&self) {
        self.up.store(false, Ordering::SeqCst);
    }

    pub fn restore(&self) {
        self.up.store(true, Ordering::SeqCst);
    }
}

fn relay(
    mut from: TcpStream,
    mut to: TcpStream,
    up: &std::sync::atomic::AtomicBool,
    sent: &std::sync::atomic::AtomicUsize,
) {
    from.set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let mut space = [0; 4096];
    while up.load(Ordering::SeqCst) {
        match from.read(&mut space) {
            Ok(0) => break,
            Ok(count) => {
                if to.write_all(&space[..count]).is_err() {
                    break;
                }
                sent.fetch_add(count, Ordering::SeqCst);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}
