//! What `check` says of the bytes of an uplink beside what the kernel counts on its connection.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::support::{Gateway, Mosquitto, run, subscriber, wait_for, wellhead};

/// How long answers are on their way: as over a radio link, those to messages that came together
/// come together.
const WAY_BACK: Duration = Duration::from_millis(100);
/// IP and TCP headers of a segment.
const HEADERS: u64 = 40;

/// A relay whose way back takes its time.
fn far(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near_port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut near in listener.incoming().flatten() {
            let Ok(mut remote) = TcpStream::connect(("127.0.0.1", port)) else {
                continue;
            };
            let (mut up, mut back) = (near.try_clone().unwrap(), remote.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut up, &mut remote));
            std::thread::spawn(move || {
                let mut space = [0; 65_536];
                loop {
                    // The first byte sets off; what follows on the way comes with it.
                    match back.peek(&mut space) {
                        Ok(0) | Err(_) => break,
                        Ok(_) => std::thread::sleep(WAY_BACK),
                    }
                    let Ok(count) = back.read(&mut space) else {
                        break;
                    };
                    if near.write_all(&space[..count]).is_err() {
                        break;
                    }
                }
                let _ = near.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    near_port
}

/// What the kernel has counted on the connection to a port.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Counted {
    /// Both ways, without headers.
    bytes: u64,
    segments: u64,
}

impl Counted {
    fn on(port: u16) -> Option<Self> {
        let (_, out, _) = run(Command::new("ss").args([
            "-tinOH",
            "state",
            "established",
            "dport",
            "=",
            &format!(":{port}"),
        ]));
        let number = |name: &str| -> Option<u64> {
            out.split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix(':')?.parse().ok())
        };
        let bytes = number("bytes_sent")? + number("bytes_received").unwrap_or(0);
        Some(Self {
            bytes,
            segments: number("segs_out")? + number("segs_in")?,
        })
    }

    fn billed_since(self, before: Self) -> u64 {
        self.bytes - before.bytes + HEADERS * (self.segments - before.segments)
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
fn the_bytes_that_check_expects_are_those_that_the_kernel_counts() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Mosquitto::start(folder.path(), "");
    let (many, one) = (far(remote.port), far(remote.port));
    let points: String = (0..20)
        .map(|i| {
            format!(
                "      p{i}: {{ every: 400ms, simulate: {{ from: 0, to: 100, period: 97s }} }}\n"
            )
        })
        .collect();
    let yaml = format!(
        "site: pump-station-7
lines: [ {{ name: bench, simulated: {{}} }}, {{ name: other, simulated: {{}} }} ]
devices:
  - name: inlet
    line: bench
    points:
{points}  - {{ name: outlet, line: other, points: {{ flow: {{ every: 400ms, simulate: {{ from: 0, to: 100, period: 97s }} }} }} }}
outbox: {{ folder: state }}
uplinks:
  - {{ name: many, to: 'mqtt://127.0.0.1:{many}', client_id: many, send: [ {{ filter: 'pump-station-7/inlet/#' }} ] }}
  - {{ name: one, to: 'mqtt://127.0.0.1:{one}', client_id: one, send: [ {{ filter: 'pump-station-7/outlet/flow' }} ] }}
"
    );
    let _gateway = Gateway::start(folder.path(), &yaml);
    let (_, out, error) = run(wellhead()
        .args(["check", "--json"])
        .arg(folder.path().join("gateway.yaml")));
    let report: serde_json::Value =
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{error}"));
    let expected = |index: usize, kind: &str| {
        let uplink = &report["plan"]["uplinks"][index];
        uplink[kind][1].as_f64().unwrap() / uplink["messages_per_day"][1].as_f64().unwrap()
    };
    for (topic, port, expected) in [
        (
            "pump-station-7/inlet/#",
            many,
            expected(0, "bytes_per_day_together"),
        ),
        (
            "pump-station-7/outlet/flow",
            one,
            expected(1, "bytes_per_day"),
        ),
    ] {
        let arrived = subscriber(folder.path(), remote.port, topic);
        let own = topic.trim_end_matches('#');
        let messages = || {
            arrived
                .output()
                .lines()
                .filter(|line| line.contains(own))
                .count() as u64
        };
        // Between two ticks nothing is on its way: the same is seen twice.
        let mut last = None;
        let mut quiet = |least: u64| {
            wait_for("a moment without traffic", || {
                let seen = (messages(), Counted::on(port)?);
                let is_quiet = last.replace(seen) == Some(seen) && seen.0 >= least;
                is_quiet.then_some(seen)
            })
        };
        let mut measured = || {
            let before = quiet(1);
            let after = quiet(before.0 + 10);
            after.1.billed_since(before.1) as f64 / (after.0 - before.0) as f64
        };
        // On a crowded machine several ticks may travel together, which costs less, never more:
        // that alone is measured again.
        let is_expected = |measured: &f64| (0.75 * measured..1.25 * measured).contains(&expected);
        let mut all = vec![measured()];
        while all.len() < 6 && all.last().is_some_and(|last| expected >= 1.25 * last) {
            all.push(measured());
        }
        println!("{topic}: {all:.0?} bytes a message are measured, {expected:.0} expected");
        assert!(
            all.last().is_some_and(is_expected),
            "{topic}: measured {all:.0?}, expected {expected:.0}"
        );
    }
}
