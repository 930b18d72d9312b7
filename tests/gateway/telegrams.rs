//! Telegrams as instruments send them, mostly from the test sets of other people's parsers, through
//! the text engine and the profiles.
//!
//! `tests/telegrams/<profile>/<name>.txt` is a telegram; beside it `<name>.values` names every
//! point that it brings: `point = value unit`, or `point = bad`. A point that is not named must not
//! be brought. In the telegram `\xHH` is a byte, and a line ends in CR LF. Lines that begin with
//! `#` say where it comes from, or:
//!
//! * `# ends: LF` lines end in LF alone; `# ends: none` the line end is no part of it.
//! * `# wrap: STX ETX BCC` it stands between these.
//! * `# device: <yaml>` keys of the device.
//! * `# address: <text>` its address, else 1.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use wellhead::config;
use wellhead::field::LineTask;
use wellhead::field::counts::LineCounts;
use wellhead::reading::{Event, Quality, Reading};
use wellhead::tasks::{detach, stop_token};
use wellhead::time::now;

const ENOUGH: u32 = 12;

/// A telegram with what it must mean.
struct Case {
    name: String,
    profile: String,
    device: String,
    address: String,
    bytes: Vec<u8>,
    /// Point and value with unit, or `bad`.
    expected: BTreeMap<String, String>,
}

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/telegrams");
    let folders = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = folders.flat_map(|folder| {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
    });
    let mut telegrams: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    telegrams.sort();
    telegrams.iter().map(|path| case(path)).collect()
}

fn case(path: &Path) -> Case {
    let text = fs::read_to_string(path).unwrap();
    let (notes, body): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with('#'));
    let note = |key: &str| {
        notes
            .iter()
            .find_map(|line| line.strip_prefix(&format!("# {key}: ")))
            .unwrap_or_default()
    };
    let end = match note("ends") {
        "none" => "",
        "LF" => "\n",
        _ => "\r\n",
    };
    let mut bytes: Vec<u8> = body
        .iter()
        .flat_map(|line| unescaped(&format!("{line}{end}")))
        .collect();
    if note("wrap") == "STX ETX BCC" {
        bytes.push(3);
        let sum = bytes.iter().fold(0, |sum, byte| sum ^ byte);
        bytes.insert(0, 2);
        bytes.push(sum);
    }
    let values = fs::read_to_string(path.with_extension("values")).unwrap();
    let expected = values.lines().map(|line| {
        line.split_once(" = ")
            .unwrap_or_else(|| panic!("{}: {line}", path.display()))
    });
    let profile = path
        .parent()
        .unwrap()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    Case {
        name: format!("{profile}/{}", path.file_stem().unwrap().to_str().unwrap()),
        profile,
        device: note("device").to_owned(),
        address: if note("address").is_empty() {
            "1"
        } else {
            note("address")
        }
        .to_owned(),
        bytes,
        expected: expected
            .map(|(point, value)| (point.to_owned(), value.to_owned()))
            .collect(),
    }
}

/// `\xHH` as a byte; nothing else is special.
fn unescaped(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line;
    while let Some((before, behind)) = rest.split_once("\\x") {
        bytes.extend(before.bytes());
        let (digits, after) = behind.split_at_checked(2).unwrap();
        bytes.push(u8::from_str_radix(digits, 16).unwrap());
        rest = after;
    }
    bytes.extend(rest.bytes());
    bytes
}

/// Every value that a telegram brings, by point.
#[expect(clippy::too_many_lines, reason = "a story in its order, or a table")]
async fn read(case: &Case) -> BTreeMap<String, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let wire = listener.local_addr().unwrap();
    let device = if case.device.is_empty() {
        String::new()
    } else {
        format!(", {}", case.device)
    };
    let yaml = format!(
        "site: x\nlines: [ {{ name: l, tcp: '{wire}' }} ]\ndevices: [ {{ name: d, line: l, profile: {}, address: '{}'{device} }} ]\n",
        case.profile, case.address
    );
    let mut gateway = config::parse("gateway.yaml", &yaml, Path::new("/"))
        .unwrap_or_else(|faults| panic!("{}: {faults:#?}", case.name));
    let line = gateway.lines.pop().unwrap();
    let names: BTreeMap<_, _> = line.devices[0]
        .points
        .iter()
        .map(|point| (point.id, point.name.to_string()))
        .collect();
    let bytes = case.bytes.clone();
    let speaker = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Until nobody listens any more: what comes twice has come whole before.
        while stream.write_all(&bytes).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    let (events, mut reported) = mpsc::channel(64);
    let (_orders, asked) = mpsc::channel(1);
    let (_inquirers, diagnostics) = mpsc::channel(1);
    let (switch, stop) = stop_token();
    let counts = Arc::new(LineCounts::new(
        &line.name,
        line.devices.iter().map(|device| device.name.clone()),
    ));
    let heartbeat = line.heartbeat(now());
    detach(
        LineTask {
            line,
            events,
            counts,
            folder: None,
            orders: asked,
            diagnostics,
            heartbeat,
            stop,
        }
        .run(),
    );
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    // A telegram of several messages may bring a point several times; after so many of one point,
    // all have come.
    let mut rounds: BTreeMap<String, u32> = BTreeMap::new();
    while let Some(event) = reported.recv().await {
        let Event::Reading(Reading {
            point,
            value,
            quality,
            ..
        }) = event
        else {
            continue;
        };
        let unit = gateway.points[point.0 as usize]
            .unit
            .clone()
            .map_or_else(String::new, |unit| format!(" {unit}"));
        let shown = match (quality, value) {
            (Quality::Good, Some(value)) => format!("{value}{unit}"),
            (Quality::Bad(_), None) => "bad".to_owned(),
            other => format!("{other:?}"),
        };
        let name = names[&point].clone();
        let round = rounds.entry(name.clone()).or_default();
        *round += 1;
        if *round == ENOUGH {
            break;
        }
        seen.insert(name, shown);
    }
    switch.stop();
    speaker.abort();
    seen
}

/// True if both are the same but for digits that were rounded.
fn is_same(seen: &str, expected: &str) -> bool {
    let parts = |text: &str| {
        let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
        (number.parse::<f64>().ok(), unit.to_owned())
    };
    match (parts(seen), parts(expected)) {
        ((Some(one), unit), (Some(other), expected)) if unit == expected => {
            (one - other).abs() <= 1e-6 * other.abs().max(1.0)
        }
        _ => seen == expected,
    }
}

#[test]
fn published_telegrams_mean_what_their_instruments_measured() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let cases = cases();
    let mut wrong: Vec<String> = Vec::new();
    for case in &cases {
        let seen = runtime.block_on(async {
            tokio::time::timeout(std::time::Duration::from_secs(20), read(case)).await
        });
        let Ok(seen) = seen else {
            wrong.push(format!("{}: silence", case.name));
            continue;
        };
        for (point, expected) in &case.expected {
            let shown = seen.get(point).map_or("nothing", String::as_str);
            if !is_same(shown, expected) {
                wrong.push(format!(
                    "{}: {point} is {shown} and not {expected}",
                    case.name
                ));
            }
        }
        wrong.extend(
            seen.iter()
                .filter(|(point, _)| !case.expected.contains_key(*point))
                .map(|(point, value)| format!("{}: {point} is {value}", case.name)),
        );
    }
    assert!(cases.len() >= 75, "{} telegrams", cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
