//! The uplink against brokers that we did not write: every QoS, what is retained, what comes in,
//! kill -9 of either side with messages in flight. `docs/remotes.md` holds what is seen here.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::brokers::{Broker, Kind};
use super::support::{Gateway, Link, Process, mosquitto_sub, run, wait_for};

/// Messages of each QoS that are in flight when a side is killed.
const BATCH: usize = 30;

/// What a remote makes of QoS 2.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Qos2 {
    /// It answers it as QoS 1, or closes the connection.
    Missing,
    /// It forgets with the connection what it has, so that a message in flight can come twice.
    OfConnection,
    ExactlyOnce,
    /// It never answers a message that is repeated.
    Once,
}

impl Qos2 {
    /// The QoS of messages that are in flight when a side is killed.
    fn in_flight(self) -> &'static [usize] {
        if self == Self::Once { &[1] } else { &[1, 2] }
    }
}

#[derive(Clone, Copy)]
struct Expected {
    kind: Kind,
    protocol: &'static str,
    qos_2: Qos2,
    /// Killed, it knows the session no more, or does not say that it does.
    forgets: bool,
}

struct Site {
    gateway: Option<Gateway>,
    broker: Broker,
    link: Link,
    local: u16,
    folder: tempfile::TempDir,
    expected: Expected,
    readers: u32,
}

fn publish(port: u16, arguments: &[&str]) {
    let (code, _, error) = run(Command::new("mosquitto_pub")
        .args(["-V", "311", "-i", "publisher", "-p", &port.to_string()])
        .args(arguments));
    assert_eq!(code, Some(0), "{arguments:?}: {error}");
}

/// Prints `got <retained> <topic> <payload> q<qos>` for each message.
fn start_reader(port: u16, arguments: &[&str], log: &Path) -> Process {
    let mut command = mosquitto_sub();
    command
        .args([
            "-V",
            "311",
            "-d",
            "-p",
            &port.to_string(),
            "-q",
            "2",
            "-F",
            "got %r %t %p q%q",
        ])
        .args(arguments);
    let process = Process::start(&mut command, log);
    process.wait_for_output("Subscribed");
    process
}

/// How often each message came, `topic payload qos`.
fn counts(reader: &Process) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in reader
        .output()
        .lines()
        .filter_map(|line| line.strip_prefix("got "))
    {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts
}

impl Site {
    fn start(expected: Expected) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::start(expected.kind, folder.path());
        let link = Link::to(broker.port);
        let yaml = format!(
            "site: x
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:{}
    protocol: {}
    retry: {{ first: 100ms, longest: 500ms }}
    answer_within: 5s
    presence: {{ offline_after: 0s }}
    send: [ {{ filter: '+/up', prefix: far/ }} ]
    receive: [ {{ filter: 'cmd/#', qos: 2 }} ]
",
            link.port, expected.protocol
        );
        let gateway = Gateway::start(folder.path(), &yaml);
        let local = gateway.port();
        gateway.process.wait_for_event("uplink.up", &[]);
        Self {
            gateway: Some(gateway),
            broker,
            link,
            local,
            folder,
            expected,
            readers: 0,
        }
    }

    fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    /// What a message that was kept is marked with.
    fn retain_flag(&self) -> &'static str {
        if self.expected.kind == Kind::Moquette {
            "0"
        } else {
            "1"
        }
    }

    /// Someone at the remote who reads what the gateway sends.
    fn far_reader(&mut self) -> Process {
        self.readers += 1;
        let log = self
            .folder
            .path()
            .join(format!("far-reader-{}", self.readers));
        start_reader(
            self.broker.port,
            &["-t", "far/#", "-i", &format!("far-reader-{}", self.readers)],
            &log,
        )
    }

    /// Someone at the site who gets commands; the session is kept.
    fn local_reader(&mut self) -> Process {
        self.readers += 1;
        let log = self
            .folder
            .path()
            .join(format!("local-reader-{}", self.readers));
        start_reader(self.local, &["-t", "cmd/#", "-i", "local", "-c"], &log)
    }

    /// What the gateway says of its uplink.
    fn status(&self) -> String {
        let port = self.local.to_string();
        run(Command::new("mosquitto_sub").args([
            "-p",
            &port,
            "-t",
            "$SYS/wellhead/uplink/cloud",
            "-C",
            "1",
            "-W",
            "5",
        ]))
        .1
    }

    /// Waits until nothing waits any more, and nothing was given up.
    fn wait_until_delivered(&self) {
        wait_for(
            &format!(
                "nothing waits for {:?}: {}",
                self.expected.kind,
                self.gateway().process.output()
            ),
            || {
                let status = self.status();
                assert!(
                    status.is_empty() || status.contains("\"dead\":0,\"lost\":0"),
                    "{status}"
                );
                status.contains("\"waiting\":0").then_some(())
            },
        );
    }

    /// A batch of each QoS while the remote is frozen, so that all of it is in flight and none of
    /// it read.
    fn send_to_frozen(&self, name: &str) {
        self.broker.freeze();
        let before = self.link.sent();
        for qos in self.expected.qos_2.in_flight() {
            let lines: String = (0..BATCH)
                .map(|number| format!("{name}-{qos}-{number}\n"))
                .collect();
            let file = self.folder.path().join("lines");
            std::fs::write(&file, lines).unwrap();
            let script = format!(
                "mosquitto_pub -p {} -q {qos} -t {name}/up -l < {}",
                self.local,
                file.display()
            );
            assert_eq!(run(Command::new("sh").args(["-c", &script])).0, Some(0));
        }
        wait_for("messages in flight", || {
            (self.link.sent() > before + BATCH * 10).then_some(())
        });
    }

    /// Every message of a batch has come; with QoS 2 only once, where the remote has it.
    fn check_batch(&self, reader: &Process, name: &str) {
        let came = |qos: usize, number: usize| -> usize {
            let text = format!(" far/{name}/up {name}-{qos}-{number} q");
            counts(reader)
                .iter()
                .filter(|(line, _)| line.contains(&text))
                .map(|(_, count)| count)
                .sum()
        };
        wait_for(
            &format!(
                "the batch {name} at {:?}: {:?}",
                self.expected.kind,
                counts(reader)
            ),
            || {
                self.expected
                    .qos_2
                    .in_flight()
                    .iter()
                    .all(|qos| (0..BATCH).all(|number| came(*qos, number) > 0))
                    .then_some(())
            },
        );
        self.wait_until_delivered();
        if self.expected.qos_2 == Qos2::ExactlyOnce {
            assert!(
                (0..BATCH).all(|number| came(2, number) == 1),
                "{:?}",
                counts(reader)
            );
        }
    }

    fn every_qos_arrives(&mut self) {
        let reader = self.far_reader();
        for qos in ["0", "1", "2"] {
            publish(self.local, &["-q", qos, "-t", "a/up", "-m", qos]);
            wait_for(&format!("QoS {qos} at {:?}", self.expected.kind), || {
                reader
                    .output()
                    .contains(&format!("far/a/up {qos} "))
                    .then_some(())
            });
        }
        let got: Vec<String> = counts(&reader).into_keys().collect();
        let last = if self.expected.qos_2 == Qos2::Missing {
            "0 far/a/up 2 q1"
        } else {
            "0 far/a/up 2 q2"
        };
        assert_eq!(got, ["0 far/a/up 0 q0", "0 far/a/up 1 q1", last]);
    }

    fn the_last_value_is_retained(&mut self) {
        publish(self.local, &["-q", "1", "-r", "-t", "kept/up", "-m", "old"]);
        publish(self.local, &["-q", "1", "-r", "-t", "kept/up", "-m", "new"]);
        self.wait_until_delivered();
        let log = self.folder.path().join("retained");
        let reader = start_reader(
            self.broker.port,
            &["-t", "far/kept/up", "-i", "late-reader"],
            &log,
        );
        let got = format!("got {} far/kept/up new q1", self.retain_flag());
        wait_for("the retained message", || {
            reader.output().contains(&got).then_some(())
        });
        assert!(!reader.output().contains("old"), "{}", reader.output());
    }

    /// Commands of every QoS reach the site.
    fn commands_arrive(&mut self, name: &str) {
        let reader = self.local_reader();
        for qos in ["0", "1", "2"] {
            publish(
                self.broker.port,
                &[
                    "-q",
                    qos.min(self.most_qos()),
                    "-t",
                    "cmd/x",
                    "-m",
                    &format!("{name}{qos}"),
                ],
            );
            wait_for(
                &format!("{name}{qos} from {:?}", self.expected.kind),
                || {
                    reader
                        .output()
                        .contains(&format!("cmd/x {name}{qos} "))
                        .then_some(())
                },
            );
        }
        let twice: Vec<_> = counts(&reader)
            .into_iter()
            .filter(|(_, count)| *count > 1)
            .collect();
        assert!(twice.is_empty(), "{twice:?}");
    }

    fn most_qos(&self) -> &'static str {
        if self.expected.qos_2 == Qos2::Missing {
            "1"
        } else {
            "2"
        }
    }

    fn kill_9_of_the_gateway_loses_nothing(&mut self) {
        let reader = self.far_reader();
        drop(self.local_reader());
        let log = self.folder.path().join("watcher");
        let watcher = start_reader(
            self.broker.port,
            &["-t", "x/gateway/state", "-i", "watcher"],
            &log,
        );
        watcher.wait_for_output(&format!(
            "got {} x/gateway/state {{\"state\":\"online\"",
            self.retain_flag()
        ));
        self.send_to_frozen("g");
        self.gateway.as_mut().unwrap().process.kill_9();
        self.broker.thaw();
        watcher.wait_for_output("got 0 x/gateway/state {\"state\":\"offline\"");
        // It comes with the session.
        publish(
            self.broker.port,
            &["-q", "1", "-t", "cmd/x", "-m", "meanwhile"],
        );
        let gateway = Gateway::restart(self.folder.path());
        self.local = gateway.port();
        self.gateway = Some(gateway);
        self.check_batch(&reader, "g");
        let reader = self.local_reader();
        wait_for("what came meanwhile", || {
            reader.output().contains("cmd/x meanwhile").then_some(())
        });
    }

    fn kill_9_of_the_remote_loses_nothing(&mut self) {
        self.send_to_frozen("r");
        self.broker.kill_9();
        self.link.cut();
        self.broker.resume();
        let reader = self.far_reader();
        self.link.restore();
        self.check_batch(&reader, "r");
        assert_eq!(
            !self.status().contains("\"resent\":0"),
            self.expected.forgets,
            "{}",
            self.status()
        );
        self.wait_for_subscription();
        self.commands_arrive("after");
    }

    /// A remote that has forgotten the session has the subscription again.
    fn wait_for_subscription(&mut self) {
        let reader = self.local_reader();
        wait_for("a command after the kill", || {
            publish(
                self.broker.port,
                &["-q", "0", "-t", "cmd/x", "-m", "there?"],
            );
            reader.output().contains("there?").then_some(())
        });
    }
}

fn check(expected: Expected) {
    let mut site = Site::start(expected);
    site.every_qos_arrives();
    site.the_last_value_is_retained();
    site.commands_arrive("first");
    site.kill_9_of_the_gateway_loses_nothing();
    site.kill_9_of_the_remote_loses_nothing();
}

/// In the long form (`tests/remotes`) also brokers in Java, whose libraries are many.
#[test]
fn mosquitto_and_those_of_the_long_form_get_and_send_everything() {
    let is_long = std::env::var_os("WELLHEAD_JAVA_REMOTES").is_some();
    let all = [
        Expected {
            kind: Kind::Mosquitto,
            protocol: "5",
            qos_2: Qos2::ExactlyOnce,
            forgets: true,
        },
        Expected {
            kind: Kind::HiveMq,
            protocol: "5",
            qos_2: Qos2::ExactlyOnce,
            forgets: false,
        },
        Expected {
            kind: Kind::HiveMq,
            protocol: "3.1.1",
            qos_2: Qos2::ExactlyOnce,
            forgets: false,
        },
        Expected {
            kind: Kind::Moquette,
            protocol: "3.1.1",
            qos_2: Qos2::Once,
            forgets: true,
        },
    ];
    all.into_iter()
        .filter(|expected| is_long || !expected.kind.is_of_the_long_form())
        .for_each(check);
}

#[test]
fn aedes_gets_and_sends_everything() {
    check(Expected {
        kind: Kind::Aedes,
        protocol: "3.1.1",
        qos_2: Qos2::ExactlyOnce,
        forgets: false,
    });
}

#[test]
fn nats_gets_and_sends_everything() {
    check(Expected {
        kind: Kind::Nats,
        protocol: "3.1.1",
        qos_2: Qos2::Missing,
        forgets: false,
    });
}

#[test]
fn rabbitmq_gets_and_sends_everything() {
    check(Expected {
        kind: Kind::RabbitMq,
        protocol: "3.1.1",
        qos_2: Qos2::Missing,
        forgets: false,
    });
}

#[test]
fn activemq_gets_and_sends_everything() {
    check(Expected {
        kind: Kind::ActiveMq,
        protocol: "3.1.1",
        qos_2: Qos2::OfConnection,
        forgets: true,
    });
}
