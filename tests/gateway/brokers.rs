//! Brokers that we did not write, as remotes: each on a port and in a folder of its own, as a child
//! that can be frozen and killed.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use wellhead::mqtt::{Connect, Disconnect, Packet, ReasonCode, Version};

use super::support::client::{Client, hello};
use super::support::{Process, free_port, peer, wait_for};

/// How long a broker may take to start; some need ten seconds of processor time for it.
const START_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Mosquitto,
    Aedes,
    Nats,
    RabbitMq,
    ActiveMq,
    /// Of the long form.
    HiveMq,
    Moquette,
}

impl Kind {
    /// True for those whose libraries `tests/remotes` fetches.
    pub fn is_of_the_long_form(self) -> bool {
        matches!(self, Self::HiveMq | Self::Moquette)
    }
}

pub struct Broker {
    kind: Kind,
    pub port: u16,
    folder: PathBuf,
    process: Option<Process>,
    /// The port mapper of Erlang, and the ports it is asked at and tells.
    mapper: Option<Process>,
    erlang: [u16; 2],
}

impl Broker {
    pub fn start(kind: Kind, folder: &Path) -> Self {
        let folder = folder.join(format!("{kind:?}"));
        fs::create_dir(&folder).unwrap();
        let mut broker = Self {
            kind,
            port: free_port(),
            folder,
            process: None,
            mapper: None,
            erlang: [free_port(), free_port()],
        };
        broker.write_settings();
        broker.resume();
        broker
    }

    /// Starts it again, on what it has kept.
    pub fn resume(&mut self) {
        let mut command = self.command();
        let mut process = Process::start(&mut command, &self.folder.join("log"));
        let give_up = Instant::now() + START_WITHIN;
        while !accepts_clients(self.port) {
            assert!(
                process.is_running(),
                "{:?} ended; `tests/run` installs what the tests need: {}",
                self.kind,
                process.output()
            );
            assert!(
                Instant::now() < give_up,
                "{:?} does not start: {}",
                self.kind,
                process.output()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        self.process = Some(process);
    }

    /// It reads and answers nothing until [`Broker::thaw`].
    pub fn freeze(&self) {
        self.process.as_ref().unwrap().signal_group(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.process.as_ref().unwrap().signal_group(Signal::CONT);
    }

    pub fn kill_9(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal_group(Signal::KILL);
        process.wait();
        // What a script has started is not waited for with it.
        wait_for("its end", || {
            TcpStream::connect(("127.0.0.1", self.port))
                .is_err()
                .then_some(())
        });
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn write_settings(&mut self) {
        let port = self.port;
        match self.kind {
            Kind::Aedes => {}
            Kind::HiveMq | Kind::Moquette => fs::create_dir(self.path("store")).unwrap(),
            Kind::Mosquitto => {
                let user = if rustix::process::geteuid().is_root() {
                    "user root\n"
                } else {
                    ""
                };
                let text = format!(
                    "{user}persistence true\npersistence_location {}/\nmax_queued_messages 100000\nlistener {port} 127.0.0.1\nallow_anonymous true\n",
                    self.folder.display()
                );
                fs::write(self.path("mosquitto.conf"), text).unwrap();
            }
            Kind::Nats => {
                let text = format!(
                    "listen: 127.0.0.1:-1\nserver_name: remote\njetstream {{ store_dir: \"{}\" }}\nmqtt {{ listen: \"127.0.0.1:{port}\" }}\n",
                    self.path("store")
                );
                fs::write(self.path("nats.conf"), text).unwrap();
            }
            Kind::RabbitMq => {
                fs::write(self.path("plugins"), "[rabbitmq_mqtt].").unwrap();
                let text = format!(
                    "[{{rabbit, [{{tcp_listeners, []}}]}}, {{rabbitmq_mqtt, [{{tcp_listeners, [{{\"127.0.0.1\", {port}}}]}}, {{retained_message_store, rabbit_mqtt_retained_msg_store_dets}}]}}]."
                );
                fs::write(self.path("advanced.config"), text).unwrap();
                let [mapper, _] = self.erlang;
                let mut command = Command::new("epmd");
                command.args(["-port", &mapper.to_string(), "-address", "127.0.0.1"]);
                self.mapper = Some(Process::start(&mut command, &self.folder.join("epmd.log")));
            }
            Kind::ActiveMq => {
                let schemas = "http://www.springframework.org/schema/beans http://www.springframework.org/schema/beans/spring-beans-2.0.xsd \
                               http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd";
                let text = format!(
                    "<beans xmlns='http://www.springframework.org/schema/beans' xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance' xsi:schemaLocation='{schemas}'>
                     <broker xmlns='http://activemq.apache.org/schema/core' useJmx='false' brokerName='remote' dataDirectory='{}'>
                     <persistenceAdapter><kahaDB directory='{}'/></persistenceAdapter>
                     <transportConnectors><transportConnector name='mqtt' uri='mqtt://127.0.0.1:{port}'/></transportConnectors>
                     </broker></beans>",
                    self.path("data"),
                    self.path("kahadb")
                );
                fs::write(self.path("activemq.xml"), text).unwrap();
                fs::create_dir(self.path("lib")).unwrap();
                // The package leaves them out of the folder that its start script looks in.
                for library in ["mqtt-client.jar", "hawtdispatch.jar"] {
                    std::os::unix::fs::symlink(
                        format!("/usr/share/java/{library}"),
                        self.folder.join("lib").join(library),
                    )
                    .unwrap();
                }
            }
        }
    }

    fn command(&self) -> Command {
        match self.kind {
            Kind::Mosquitto => {
                let mut command = Command::new("mosquitto");
                command
                    .args(["-c", &self.path("mosquitto.conf")])
                    .env("PATH", with_sbin());
                command
            }
            Kind::Aedes => {
                let mut command = Command::new("node");
                let modules =
                    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/node/node_modules");
                command
                    .arg(peer("aedes.js"))
                    .args([self.port.to_string(), self.path("store")])
                    .env("NODE_PATH", modules);
                command
            }
            Kind::Nats => {
                let mut command = Command::new("nats-server");
                command
                    .args(["-c", &self.path("nats.conf")])
                    .env("PATH", with_sbin());
                command
            }
            Kind::RabbitMq => self.rabbitmq(),
            Kind::HiveMq | Kind::Moquette => {
                let mut command = Command::new("java");
                let libraries =
                    std::env::var("WELLHEAD_JAVA_REMOTES").expect("tests/remotes sets it");
                command.args([
                    "-Xmx512m",
                    "-XX:TieredStopAtLevel=1",
                    "-cp",
                    &format!("{libraries}/*"),
                ]);
                command
                    .arg(peer(&format!("java/{:?}.java", self.kind)))
                    .args([self.port.to_string(), self.path("store")]);
                command
            }
            Kind::ActiveMq => {
                let mut command = Command::new("java");
                // Little work for the compiler of a machine that does not run for long.
                command.args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
                command.args([
                    "-Dactivemq.home=/usr/share/activemq",
                    &format!("-Dactivemq.base={}", self.folder.display()),
                ]);
                command.args(["-jar", "/usr/share/activemq/bin/activemq.jar", "start"]);
                command.arg(format!("xbean:file:{}", self.path("activemq.xml")));
                command
            }
        }
    }

    fn rabbitmq(&self) -> Command {
        let [mapper, distribution] = self.erlang;
        let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
        command
            .env("HOME", &self.folder)
            .env("ERL_EPMD_PORT", mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env(
                "RABBITMQ_NODENAME",
                format!("remote{}@localhost", self.port),
            )
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 2:2 +sbwt none")
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_CONFIG_FILE", self.path("none"))
            .env(
                "RABBITMQ_ADVANCED_CONFIG_FILE",
                self.path("advanced.config"),
            )
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.path("plugins"))
            .env("RABBITMQ_MNESIA_BASE", self.path("data"))
            .env("RABBITMQ_LOG_BASE", self.path("logs"))
            .env("RABBITMQ_LOGS", "-");
        command
    }
}

/// True if CONNECT is answered as it should be; a port may be open before that.
fn accepts_clients(port: u16) -> bool {
    let hello = Packet::Connect(Box::new(Connect {
        keep_alive: 10,
        ..hello(Version::V311, "ready")
    }));
    let answer = || -> std::io::Result<Vec<u8>> {
        let mut client = Client::dial(port)?;
        client.set_patience(Duration::from_secs(5));
        client.send(&hello);
        // Whatever it says, it is not under test.
        let connack = client.read_bytes(4)?;
        client.send(&Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS)));
        Ok(connack)
    };
    answer().is_ok_and(|connack| connack == [0x20, 2, 0, 0])
}

/// Debian keeps servers where users do not look.
fn with_sbin() -> String {
    format!(
        "{}:/usr/sbin:/usr/local/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}
