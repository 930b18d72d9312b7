//! Readings that have waited for the link, beside those that are taken meanwhile.

use std::time::{Duration, Instant};

use serde_json::Value as Json;
use wellhead::message::Lane;

use super::client::{Arrival, watch};
use super::gateway::{Gateway, LIVE, runtime};
use super::lab::Lab;
use super::plant::PlantColumn;
use super::profile::LinkProfile;
use super::relay::WayCount;

/// A run ends after that time; what it would have taken is estimated.
const LONGEST: Duration = Duration::from_secs(150);

/// A remote broker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RemoteKind {
    pub(crate) name: &'static str,
    /// Lines of mosquitto's file.
    pub(crate) lines: &'static str,
}

pub(crate) const REMOTES: [RemoteKind; 2] = [
    RemoteKind {
        name: "no-limits",
        lines: "max_inflight_messages 0\nmax_topic_alias 1000\n",
    },
    RemoteKind {
        name: "defaults",
        lines: "",
    },
];

/// How readings are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FormatKind {
    pub(crate) name: &'static str,
    /// Of the `send` rule.
    pub(crate) yaml: &'static str,
}

pub(crate) const FORMATS: [FormatKind; 3] = [
    FormatKind {
        name: "json",
        yaml: "format: json",
    },
    FormatKind {
        name: "scan",
        yaml: "to: plant-7/scan, format: { kind: scan, every: 10s }",
    },
    FormatKind {
        name: "columns",
        yaml: "to: plant-7/columns, format: { kind: columns, every: 10s, compress: deflate }",
    },
];

/// What one run showed.
struct CatchUp {
    /// Readings that were to come, those that were acknowledged, and the time for it.
    wanted: u64,
    acknowledged: u64,
    time: Duration,
    up: WayCount,
    down: WayCount,
    live: Vec<Duration>,
    /// Readings that came more than once.
    repeated: u64,
}

/// The head of the table.
pub(crate) fn print_head() {
    println!(
        "{:>7} {:>9} {:>8} {:>9} {:>11} {:>9} {:>6} {:>15} {:>19} {:>6} {:>8} {:>8}",
        "link",
        "remote",
        "format",
        "readings",
        "readings/s",
        "time, s",
        "link,%",
        "B up / down",
        "live p50/p95/max, s",
        "drops",
        "resent,%",
        "repeated",
    );
}

/// One combination.
pub(crate) struct CatchUpCase<'a> {
    pub(crate) profile: LinkProfile,
    pub(crate) remote: RemoteKind,
    pub(crate) format: FormatKind,
    pub(crate) plant: &'a [PlantColumn],
    /// Readings that wait.
    pub(crate) readings: usize,
    /// More keys of the uplink.
    pub(crate) keys: &'a str,
}

/// Measures one combination and prints its line.
pub(crate) fn run(case: &CatchUpCase<'_>) {
    let CatchUpCase {
        profile,
        remote,
        format,
        ..
    } = *case;
    let mut result = measure(case);
    let (count, seconds) = (result.acknowledged as f64, result.time.as_secs_f64());
    let rate = count / seconds;
    let is_whole = result.acknowledged >= result.wanted;
    let whole = if is_whole {
        seconds
    } else {
        result.wanted as f64 / rate
    };
    result.live.sort();
    let live = |part: f64| {
        let last = result.live.len().saturating_sub(1) as f64;
        let found = result.live.get((last * part).ceil() as usize);
        found.map_or_else(
            || "-".to_owned(),
            |latency| format!("{:.1}", latency.as_secs_f64()),
        )
    };
    println!(
        "{:>7} {:>9} {:>8} {:>9} {rate:>11.0} {:>9} {:>6.0} {:>15} {:>19} {:>6} {:>8.1} {:>8}",
        profile.name,
        remote.name,
        format.name,
        result.wanted,
        format!("{}{whole:.1}", if is_whole { "" } else { "~" }),
        100.0 * result.up.bytes as f64 / seconds / profile.bytes_up(),
        format!(
            "{:.2} / {:.2}",
            result.up.bytes as f64 / count,
            result.down.bytes as f64 / count
        ),
        format!("{} / {} / {}", live(0.5), live(0.95), live(1.0)),
        result.up.dropped + result.down.dropped,
        100.0 * result.up.resent as f64 / result.up.payload.max(1) as f64,
        result.repeated,
    );
}

fn measure(case: &CatchUpCase<'_>) -> CatchUp {
    let CatchUpCase {
        profile,
        remote,
        format,
        plant,
        ..
    } = *case;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (lab, meter, _cleaner) = Lab::new(profile);
    let _broker = lab.mosquitto(folder, remote.lines);
    let arrivals = watch(&lab);
    let inside = || {
        let runtime = runtime(&lab);
        runtime.block_on(async {
            let gateway = Gateway::open(folder, format.yaml, case.keys);
            // The remote knows the gateway from before the outage.
            gateway.start(folder).await.stop().await;
            let scans = case.readings / plant.len();
            gateway.fill(Lane::Backlog, plant, scans, 5_000).await;
            let wanted = gateway.outbox.waiting();
            let uplink = gateway.start(folder).await;
            let (start, before) = (Instant::now(), (meter.up(), meter.down()));
            let mut taken = Vec::new();
            let mut waiting = wanted;
            while waiting > 0 && start.elapsed() < LONGEST {
                if start.elapsed() >= profile.live_every * taken.len() as u32 {
                    taken.push(Instant::now());
                    gateway.take_live(taken.len() as u64 - 1).await;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                let lately = live_waiting(&taken, profile);
                waiting = gateway.outbox.waiting().saturating_sub(lately);
            }
            let time = start.elapsed();
            let (up, down) = (meter.up() - before.0, meter.down() - before.1);
            assert!(uplink.is_up(), "the link has broken");
            // Those on their way arrive.
            tokio::time::sleep(profile.round_trip() * 3).await;
            uplink.stop().await;
            let acknowledged = wanted.saturating_sub(waiting);
            (wanted, acknowledged, time, up, down, taken)
        })
    };
    let (wanted, acknowledged, time, up, down, taken) =
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap());
    let (mut arrived, mut live) = (0, Vec::new());
    for arrival in arrivals.try_iter() {
        match number_of_live(&arrival) {
            Some(number) => live.push(arrival.at - taken[number]),
            None => arrived += readings_in(&arrival),
        }
    }
    CatchUp {
        wanted,
        acknowledged,
        time,
        up,
        down,
        live,
        repeated: arrived.saturating_sub(wanted),
    }
}

/// Readings that were taken so lately that they may be on their way.
fn live_waiting(taken: &[Instant], profile: LinkProfile) -> u64 {
    let lately = profile.round_trip() * 3;
    taken.iter().filter(|at| at.elapsed() < lately).count() as u64
}

fn number_of_live(arrival: &Arrival) -> Option<usize> {
    if arrival.topic != LIVE {
        return None;
    }
    let payload: Json = serde_json::from_slice(&arrival.payload).unwrap();
    payload["v"].as_u64().map(|number| number as usize)
}

fn readings_in(arrival: &Arrival) -> u64 {
    let json = |bytes: &[u8]| -> Json { serde_json::from_slice(bytes).unwrap() };
    let objects = |json: Json| json.as_array().cloned().unwrap_or_default();
    match arrival.topic.as_str() {
        "plant-7/scan" => {
            let scans = objects(json(&arrival.payload));
            let values = scans.iter().filter_map(|scan| scan["values"].as_object());
            values.map(|values| values.len() as u64).sum()
        }
        "plant-7/columns" => {
            let text = miniz_oxide::inflate::decompress_to_vec_zlib(&arrival.payload).unwrap();
            let frames = objects(json(&text));
            let columns = frames.iter().filter_map(|frame| frame["values"].as_array());
            let cells = columns.flatten().filter_map(Json::as_array).flatten();
            cells.filter(|cell| !cell.is_null()).count() as u64
        }
        other => u64::from(other.starts_with("plant-7/pump/")),
    }
}
