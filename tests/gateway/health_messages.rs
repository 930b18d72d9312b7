//! What local clients and remotes learn of lines, uplinks and losses.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::support::{Gateway, Link, Mosquitto, Process, mosquitto_sub, run, wait_for};

/// A Modbus TCP instrument that answers every request with the register 7, or hangs up.
struct Instrument {
    port: u16,
    answers: Arc<AtomicBool>,
}

impl Instrument {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, answers) = (
            listener.local_addr().unwrap().port(),
            Arc::new(AtomicBool::new(true)),
        );
        let is_on = Arc::clone(&answers);
        std::thread::spawn(move || {
            listener
                .incoming()
                .flatten()
                .for_each(|stream| serve(stream, &is_on));
        });
        Self { port, answers }
    }

    fn turn(&self, on: bool) {
        self.answers.store(on, Ordering::SeqCst);
    }
}

/// Until somebody hangs up; the gateway has one connection.
fn serve(mut stream: TcpStream, is_on: &AtomicBool) {
    let mut request = [0; 12];
    while stream.read_exact(&mut request).is_ok() && is_on.load(Ordering::SeqCst) {
        let [high, low, .., unit] = request[..7] else {
            return;
        };
        if stream
            .write_all(&[high, low, 0, 0, 0, 5, unit, 3, 2, 0, 7])
            .is_err()
        {
            return;
        }
    }
}

/// What a subscriber gets, a line a message: `got <retained> <topic> <payload>`.
struct Reader(Process);

impl Reader {
    fn start(folder: &Path, port: u16, filters: &[&str]) -> Self {
        let mut command = mosquitto_sub();
        command.args([
            "-d",
            "-p",
            &port.to_string(),
            "-q",
            "1",
            "-F",
            "got %r %t %p",
        ]);
        for filter in filters {
            command.args(["-t", filter]);
        }
        let reader = Process::start(
            &mut command,
            &folder.join(format!("reader-{port}-{}", filters.len())),
        );
        reader.wait_for_output("Subscribed");
        Self(reader)
    }

    /// The messages that hold all these words.
    fn got(&self, words: &[&str]) -> Vec<String> {
        let output = self.0.output();
        let has_all =
            |line: &&str| line.starts_with("got ") && words.iter().all(|word| line.contains(word));
        output.lines().filter(has_all).map(str::to_owned).collect()
    }

    /// The same without copies: a message whose acknowledgement was lost with the link comes again.
    fn got_once(&self, words: &[&str]) -> BTreeSet<String> {
        self.got(words).into_iter().collect()
    }

    fn wait_for(&self, words: &[&str]) -> String {
        wait_for(&format!("{words:?} in {}", self.0.output()), || {
            self.got(words).pop()
        })
    }
}

/// One message that a broker retains.
fn retained(port: u16, topic: &str) -> String {
    run(Command::new("mosquitto_sub").args([
        "-p",
        &port.to_string(),
        "-t",
        topic,
        "-C",
        "1",
        "-W",
        "10",
    ]))
    .1
}

fn publish(port: u16, topic: &str, payload: &str) {
    let (code, _, error) = run(Command::new("mosquitto_pub").args([
        "-p",
        &port.to_string(),
        "-q",
        "1",
        "-t",
        topic,
        "-m",
        payload,
    ]));
    assert_eq!(code, Some(0), "{error}");
}

fn yaml(instrument: u16, remote: u16, send: &str) -> String {
    format!(
        "site: x
lines: [ {{ name: bus, modbus_tcp: '127.0.0.1:{instrument}', answer_within: 100ms }} ]
devices: [ {{ name: d, line: bus, unit: 1, points: {{ p: {{ holding: 0, type: u16, every: 100ms }} }} }} ]
broker: {{ listen: [ 'mqtt://127.0.0.1:0' ] }}
outbox: {{ folder: state }}
health: {{ every: 1s }}
uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:{remote}
    retry: {{ first: 50ms, longest: 200ms }}
    send: [ {send} ]
"
    )
}

#[test]
fn lines_losses_and_the_status_of_the_gateway_go_north() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "max_packet_size 2000\n");
    let reader = Reader::start(folder.path(), remote.port, &["far/#"]);
    let instrument = Instrument::start();
    let send = "{ filter: '#', prefix: far/ }, { filter: '$SYS/wellhead/#', prefix: far/ }";
    let gateway = Gateway::start(folder.path(), &yaml(instrument.port, remote.port, send));
    let local = gateway.port();
    reader.wait_for(&[
        "far/x/gateway/line/bus",
        "\"state\":\"up\"",
        "\"since\":\"2",
    ]);
    instrument.turn(false);
    reader.wait_for(&["far/x/gateway/line/bus", "\"state\":\"down\""]);
    reader.wait_for(&[
        "far/x/gateway/uplink/cloud/losses",
        "\"lost\":0,\"dead\":0,\"dropped\":0",
    ]);
    // Larger than the remote takes: a dead letter.
    publish(local, "a", &"x".repeat(5000));
    reader.wait_for(&["far/x/gateway/uplink/cloud/losses", "\"dead\":1"]);
    reader.wait_for(&["far/$SYS/wellhead/line/bus {"]);
    reader.wait_for(&["far/$SYS/wellhead/uplink/cloud {"]);
    assert!(
        reader.got(&["far/x/gateway/uplink/cloud {"]).is_empty(),
        "its own state is of no use over itself"
    );
    assert!(
        reader.got(&["far/$SYS/broker"]).is_empty(),
        "{}",
        reader.0.output()
    );
    assert!(
        retained(local, "x/gateway/uplink/cloud").contains("\"state\":\"up\""),
        "local clients see it"
    );
    // A remote keeps it for who comes later.
    assert!(retained(remote.port, "far/x/gateway/line/bus").contains("\"state\":\"down\""));
    assert!(retained(remote.port, "far/x/gateway/uplink/cloud/losses").contains("\"dead\":1"));
}

#[test]
fn losses_reach_the_remote_without_a_rule_and_a_status_goes_below_the_site() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "max_packet_size 2000\n");
    let reader = Reader::start(folder.path(), remote.port, &["#"]);
    let instrument = Instrument::start();
    let send = "{ filter: [ 'plant/#', '$SYS/wellhead/#' ] }";
    let gateway = Gateway::start(folder.path(), &yaml(instrument.port, remote.port, send));
    let local = gateway.port();
    publish(local, "plant/a", &"x".repeat(5000));
    reader.wait_for(&[" x/gateway/uplink/cloud/losses ", "\"dead\":1"]);
    reader.wait_for(&[" x/wellhead/report "]);
    assert!(
        reader.got(&["x/gateway/line"]).is_empty(),
        "no rule wants it: {}",
        reader.0.output()
    );
    assert!(retained(local, "x/gateway/line/bus").contains("\"state\":\"up\""));
    // A client that publishes on that topic does not get there.
    publish(local, "x/gateway/uplink/cloud/losses", "mine");
    publish(local, "plant/b", "later");
    reader.wait_for(&["plant/b later"]);
    assert!(reader.got(&["mine"]).is_empty(), "{}", reader.0.output());
}

#[test]
fn what_happens_while_the_link_is_down_costs_one_message_a_topic_and_a_line_that_is_gone_is_taken_back()
 {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let link = Link::to(remote.port);
    let reader = Reader::start(folder.path(), remote.port, &["x/#"]);
    let instrument = Instrument::start();
    let text = yaml(instrument.port, link.port, "{ filter: '#' }");
    let gateway = Gateway::start(folder.path(), &text);
    let local = gateway.port();
    let here = Reader::start(
        folder.path(),
        local,
        &["x/gateway/line/bus", "$SYS/broker/connection/cloud/state"],
    );
    reader.wait_for(&["x/gateway/line/bus", "up"]);
    link.cut();
    here.wait_for(&["connection/cloud/state 0"]);
    for (count, state) in [(1, "down"), (2, "up")] {
        instrument.turn(state == "up");
        let local_messages = || here.got(&["line/bus", state]).len();
        wait_for(&format!("line {state} in {}", here.0.output()), || {
            (local_messages() >= count).then_some(())
        });
    }
    link.restore();
    wait_for("what is true in the end", || {
        (reader.got_once(&["x/gateway/line/bus"]).len() == 2).then_some(())
    });
    publish(local, "x/after", "now");
    reader.wait_for(&["x/after now"]);
    assert_eq!(
        reader
            .got_once(&["x/gateway/line/bus", "\"state\":\"up\""])
            .len(),
        2,
        "{}",
        reader.0.output()
    );
    assert_eq!(
        reader.got_once(&["x/gateway/line/bus"]).len(),
        2,
        "{}",
        reader.0.output()
    );
    // A reload without the line.
    let without = text
        .lines()
        .filter(|line| !line.starts_with("lines") && !line.starts_with("devices"))
        .collect::<Vec<_>>()
        .join("\n");
    fs::write(folder.path().join("gateway.yaml"), without).unwrap();
    gateway.process.signal(rustix::process::Signal::HUP);
    wait_for(
        &format!("an empty payload in {}", reader.0.output()),
        || {
            reader
                .got(&["x/gateway/line/bus"])
                .iter()
                .any(|line| line.trim_end().ends_with("line/bus"))
                .then_some(())
        },
    );
}
