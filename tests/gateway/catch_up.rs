//! After an outage: fresh readings do not wait for those that waited, nothing is missing, and the
//! remote retains what is newest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::remote::Remote;
use super::support::{
    Gateway, Link, Mosquitto, Process, free_port, peer, python, run, subscriber, wait_for, wellhead,
};

/// Of each queue of the outbox.
const QUEUED: &str = "wellhead_outbox_queued_messages{";

/// A reading as it came: its series and number, its topic, when it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Arrival {
    series: String,
    number: u64,
    topic: String,
    time: String,
}

fn arrivals(subscriber: &Process) -> Vec<Arrival> {
    let text = subscriber.output();
    // A line may still be being written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let reading = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (series, number) = words.next()?.strip_prefix("seq:")?.rsplit_once(':')?;
        let topic = words.next()?.to_owned();
        let payload: Value = serde_json::from_str(words.next()?).ok()?;
        Some(Arrival {
            series: series.to_owned(),
            number: number.parse().ok()?,
            topic,
            time: payload.get("t")?.as_str()?.to_owned(),
        })
    };
    // What was in flight when the link was cut comes again.
    let mut seen = BTreeSet::new();
    let is_first = |one: &Arrival| seen.insert((one.series.clone(), one.number));
    whole.lines().filter_map(reading).filter(is_first).collect()
}

fn yaml(modbus: u16, remote: u16, uplink: &str) -> String {
    format!(
        "site: x
health: false
lines: [ {{ name: tcp, modbus_tcp: '127.0.0.1:{modbus}', answer_within: 2s }} ]
devices:
  - {{ name: meter, line: tcp, unit: 1, points: {{ counter: {{ at: 40001, type: u32, every: 20ms }} }} }}
outbox: {{ folder: state }}
uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:{remote}
    retry: {{ first: 100ms, longest: 500ms }}
    {uplink}
    send: [ {{ filter: 'x/meter/counter', prefix: far/ }} ]
"
    )
}

/// Messages that wait in the outbox of the gateway that runs in a folder.
fn waiting(folder: &Path) -> f64 {
    let mut status = wellhead();
    let status = status
        .args(["status", "--metrics"])
        .current_dir(folder)
        .output();
    let text = String::from_utf8(status.unwrap().stdout).unwrap();
    let lines = text.lines().filter(|line| line.starts_with(QUEUED));
    let values = lines.map(|line| line.rsplit_once(' ').unwrap().1);
    values.map(|value| value.parse::<f64>().unwrap()).sum()
}

/// The readings over an outage in which 600 have to wait, in the order in which they came, and
/// what the remote retains in the end.
fn over_an_outage(folder: &Path, uplink: &str) -> (Vec<Arrival>, String) {
    over_an_outage_with(folder, uplink, || {})
}

/// The same; `when_back` is called when the link is back.
fn over_an_outage_with(
    folder: &Path,
    uplink: &str,
    when_back: impl FnOnce(),
) -> (Vec<Arrival>, String) {
    let modbus = free_port();
    let mut server = python();
    server.arg("-u").arg(peer("modbus_server.py"));
    let server = Process::start(server.arg(modbus.to_string()), &folder.join("server.log"));
    server.wait_for_output("ready");
    let remote = Mosquitto::start(folder, "");
    let subscriber = subscriber(folder, remote.port, "far/#");
    let link = Link::to(remote.port);
    let mut gateway = Gateway::start(folder, &yaml(modbus, link.port, uplink));
    wait_for("readings arrive", || {
        (arrivals(&subscriber).len() > 20).then_some(())
    });
    link.cut();
    gateway.process.wait_for_event("uplink.down", &[]);
    wait_for("600 readings wait", || {
        (waiting(folder) > 600.0).then_some(())
    });
    let before = arrivals(&subscriber).len();
    link.restore();
    when_back();
    wait_for("all have come", || {
        let came = arrivals(&subscriber).len() - before;
        (came > 900 && waiting(folder) < 5.0).then_some(())
    });
    assert!(gateway.process.terminate().success());
    let (_, retained, _) = run(Command::new("mosquitto_sub")
        .args(["-p", &remote.port.to_string(), "-t", "far/x/meter/counter"])
        .args(["-C", "1", "-W", "10"]));
    let last = wait_for("the last readings arrive", || {
        let found = arrivals(&subscriber);
        let newest = found.iter().map(|one| one.time.as_str()).max()?;
        retained.contains(newest).then(|| found.clone())
    });
    (last, retained)
}

/// Each series has every number from its first one on.
fn check_complete(arrivals: &[Arrival]) {
    let mut numbers: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for arrival in arrivals {
        let series = numbers.entry(&arrival.series).or_default();
        series.insert(arrival.number);
    }
    for (series, numbers) in numbers {
        let (first, last) = (numbers.first().unwrap(), numbers.last().unwrap());
        assert_eq!((*first, *last), (1, numbers.len() as u64), "{series}");
    }
}

/// How many readings came behind one that was taken later.
fn overtaken(arrivals: &[Arrival]) -> usize {
    let (mut newest, mut count) = ("", 0);
    for arrival in arrivals {
        count += usize::from(arrival.time.as_str() < newest);
        newest = newest.max(&arrival.time);
    }
    count
}

#[test]
fn fresh_readings_do_not_wait_for_those_of_an_outage() {
    let folder = tempfile::tempdir().unwrap();
    let (arrivals, _) = over_an_outage(folder.path(), "rate: 150/s");
    check_complete(&arrivals);
    let overtaken = overtaken(&arrivals);
    assert!(overtaken > 300, "{overtaken} readings were overtaken");
    // Those that waited keep their order.
    let late: Vec<&Arrival> = arrivals
        .iter()
        .filter(|one| one.series.ends_with('b'))
        .collect();
    let mut pairs = late.iter().zip(late.iter().skip(1));
    let wrong = pairs.find(|(one, next)| one.time > next.time);
    assert_eq!(wrong, None);
}

#[test]
fn readings_come_as_they_were_taken_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let order = "catch_up: { order: oldest-first }\n    rate: 150/s";
    let (arrivals, _) = over_an_outage(folder.path(), order);
    check_complete(&arrivals);
    assert_eq!(overtaken(&arrivals), 0);
}

/// The part of what came while the backlog was being sent that was backlog.
fn part_of_backlog(arrivals: &[Arrival]) -> f64 {
    let is_late = |one: &Arrival| one.series.ends_with('b');
    let late = || arrivals.iter().enumerate().filter(|(_, one)| is_late(one));
    let (first, _) = late().next().unwrap();
    let (last, _) = late().next_back().unwrap();
    let count = u32::try_from(late().count()).unwrap();
    let all = u32::try_from(last - first + 1).unwrap();
    f64::from(count) / f64::from(all)
}

#[test]
fn the_backlog_gets_its_share_of_a_link_of_which_fresh_readings_would_take_more() {
    let folder = tempfile::tempdir().unwrap();
    // 50 readings are taken in a second: going first, they would leave 44 % to the backlog.
    let rules = "catch_up: { order: alternate, share: 70% }\n    rate: 90/s";
    let (arrivals, _) = over_an_outage(folder.path(), rules);
    check_complete(&arrivals);
    let part = part_of_backlog(&arrivals);
    assert!(
        (0.6..0.8).contains(&part),
        "{part} of what came was backlog"
    );
}

#[test]
fn the_backlog_goes_no_faster_than_it_may_and_a_reload_lets_it_go_faster() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let reload = || {
        let yaml = fs::read_to_string(&file).unwrap();
        fs::write(&file, yaml.replace("max_rate: 1/h", "max_rate: 50/s")).unwrap();
        let (code, _, error) = run(wellhead().arg("reload").arg(&file));
        assert_eq!(code, Some(0), "{error}");
    };
    let rules = "catch_up: { max_rate: 1/h, spread: 0s }";
    let (arrivals, _) = over_an_outage_with(folder.path(), rules, reload);
    check_complete(&arrivals);
    let part = part_of_backlog(&arrivals);
    assert!(
        (0.4..0.6).contains(&part),
        "{part} of what came was backlog"
    );
}

#[test]
fn no_retained_reading_takes_the_place_of_a_newer_one() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::listen();
    let points: String = (0..10)
        .map(|number| {
            format!("p{number}: {{ every: 20ms, simulate: {{ shape: counter, period: 1s }} }}, ")
        })
        .collect();
    let yaml = format!(
        "site: x
health: false
lines: [ {{ name: bench, simulated: {{}} }} ]
devices: [ {{ name: pump, line: bench, points: {{ {points} }} }} ]
outbox: {{ folder: state }}
uplinks:
  - name: cloud
    to: mqtt://127.0.0.1:{}
    presence: false
    rate: 700/s
    send: [ {{ filter: 'x/pump/+', where: known(q) }} ]
",
        remote.port
    );
    let _gateway = Gateway::start(folder.path(), &yaml);
    // Nobody answers CONNECT yet.
    wait_for("readings wait", || {
        (waiting(folder.path()) > 600.0).then_some(())
    });
    let mut wire = remote.accept(false, &[]);
    let mut newest: BTreeMap<String, String> = BTreeMap::new();
    let mut overtaken = 0;
    while overtaken < 100 {
        let publish = wire.publish();
        wire.answer(0x40, publish.id, 0);
        let payload: Value = serde_json::from_str(&publish.payload).unwrap();
        let time = payload["t"].as_str().unwrap().to_owned();
        let known = newest.entry(publish.topic.clone()).or_default();
        let is_late = time < *known;
        assert!(
            !(is_late && publish.retain),
            "{} at {time} behind {known}",
            publish.topic
        );
        overtaken += usize::from(is_late);
        *known = std::mem::take(known).max(time);
    }
}
