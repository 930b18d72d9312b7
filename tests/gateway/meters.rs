//! Meters: captured telegrams of M-Bus and SML meters, and simulated ones read end to end.
//!
//! `tests/telegrams/mbus/<meter>.hex` is a telegram, beside it `<meter>.values` has what another
//! parser makes of it: `index|function|storage|tariff|subunit|quantity|unit|value`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use wellhead::config;
use wellhead::field::counts::LineCounts;
use wellhead::field::mbus::frame::{MbusFrame, MbusFramer};
use wellhead::field::mbus::telegram::{Telegram, telegram};
use wellhead::field::mbus::{MeterRecord, RawValue};
use wellhead::field::meter_units::MeterUnit;
use wellhead::field::sml::SmlFramer;
use wellhead::field::sml::list::{EntryValue, ListEntry, Obis, entries};
use wellhead::field::{LineTask, PlayedDevices};
use wellhead::reading::{Event, Quality, Value};
use wellhead::tasks::{detach, stop_token};
use wellhead::time::now;

pub(super) fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/telegrams")
        .join(folder);
    let entries = fs::read_dir(root).unwrap();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

fn bytes_of(text: &str) -> Vec<u8> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

pub(super) fn decoded(path: &Path) -> Telegram {
    let mut framer = MbusFramer::default();
    framer.push(&bytes_of(&fs::read_to_string(path).unwrap()));
    match framer.next_frame() {
        Some(MbusFrame::Long { data, .. }) => telegram(&data).unwrap(),
        other => panic!("{}: {other:?}", path.display()),
    }
}

/// The number of a record in the unit of the other parser; `None` if it has no number there.
pub(super) fn number(record: &MeterRecord, unit: &str) -> Option<f64> {
    let unit = &unit.replace("^3", "3");
    match (&record.value, record.unit) {
        (RawValue::Number(number), Some(own)) => number.converted(own, MeterUnit::named(unit)?),
        (RawValue::Number(number), None) => Some(number.value()),
        _ => None,
    }
}

#[test]
fn captured_telegrams_of_meters_mean_what_another_parser_reads() {
    let (mut compared, mut wrong) = (0, Vec::new());
    let files = files("mbus", "hex");
    for path in &files {
        let name = path.file_stem().unwrap().to_string_lossy();
        let read = decoded(path);
        let expected = fs::read_to_string(path.with_extension("values")).unwrap();
        for row in expected.lines().filter(|row| row.contains('|')) {
            let parts: Vec<&str> = row.split('|').collect();
            let [index, function, storage, tariff, subunit, _, unit, value] = parts[..] else {
                panic!("{name}: {row}");
            };
            let Ok(value) = value.parse::<f64>() else {
                continue;
            };
            let is_unit = MeterUnit::named(&unit.replace("^3", "3")).is_some();
            if !is_unit || function == "Manufacturer specific" {
                continue;
            }
            let Some(record) = read.records.list.get(index.parse::<usize>().unwrap()) else {
                wrong.push(format!("{name}: no record {index}"));
                continue;
            };
            let occasion = match function {
                "Maximum value" => "maximum",
                "Minimum value" => "minimum",
                "Value during error state" => "error",
                _ => "instantaneous",
            };
            let place = [
                record.storage.to_string(),
                record.tariff.to_string(),
                record.subunit.to_string(),
            ];
            let is_same = number(record, unit)
                .is_some_and(|number| (number - value).abs() <= 1e-5 * value.abs().max(0.1));
            // What a meter does not have is no number, and the time of a maximum no temperature.
            let is_time =
                matches!(record.value, RawValue::Text(_)) && !record.qualifiers.is_empty();
            let is_invalid = matches!(record.value, RawValue::Invalid(_)) || is_time;
            if record.occasion.name() != occasion
                || place != [storage, tariff, subunit]
                || !(is_same || is_invalid)
            {
                wrong.push(format!("{name}: {row} is {record}"));
            }
            compared += usize::from(is_same);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(files.len() >= 70 && compared >= 500, "{compared} values");
}

/// What a line reports, of a gateway whose YAML has one line `l` on a TCP address `{wire}`, played
/// by the simulator: point and value, until every point has one.
fn read_from_simulator(devices: &str) -> Vec<(String, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), simulated(devices))
            .await
            .expect("every point is read in time")
    })
}

async fn simulated(devices: &str) -> Vec<(String, String)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let wire = listener.local_addr().unwrap();
    let yaml = format!(
        "site: x\nlines: [ {{ name: l, tcp: '{wire}', answer_within: 300ms }} ]\ndevices:\n{devices}"
    );
    let mut gateway = config::parse("gateway.yaml", &yaml, Path::new("/"))
        .unwrap_or_else(|faults| panic!("{faults:#?}"));
    let line = gateway.lines.pop().unwrap();
    let played = PlayedDevices::new(line.devices.clone());
    detach(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let faults = Arc::default();
            drop(played.play(&faults, stream).await);
        }
    });
    let mut names = std::collections::BTreeMap::new();
    for device in &line.devices {
        for point in &device.points {
            names.insert(point.id, format!("{}.{}", device.name, point.name));
        }
    }
    let (events, mut reported) = mpsc::channel(64);
    let (_orders, orders) = mpsc::channel(1);
    let (_diagnostics, diagnostics) = mpsc::channel(1);
    let (_switch, stop) = stop_token();
    let devices = line.devices.iter().map(|device| device.name.clone());
    let counts = Arc::new(LineCounts::new(&line.name, devices));
    let heartbeat = line.heartbeat(now());
    let task = LineTask {
        line,
        events,
        counts,
        folder: None,
        orders,
        diagnostics,
        heartbeat,
        stop,
    };
    detach(task.run());
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < names.len() {
        let Some(event) = reported.recv().await else {
            panic!("the line ended");
        };
        let Event::Reading(reading) = event else {
            continue;
        };
        let unit = gateway.points[reading.point.0 as usize].unit.clone();
        let unit = unit.map_or_else(String::new, |unit| format!(" {unit}"));
        let shown = match (reading.value, reading.quality) {
            (Some(Value::F64(number)), Quality::Good) => format!("{number}{unit}"),
            (Some(value), Quality::Good) => format!("{value}{unit}"),
            (_, quality) => format!("! {}", quality.reason().unwrap_or_default()),
        };
        seen.insert(names[&reading.point].clone(), shown);
    }
    seen.into_iter().collect()
}

fn check(devices: &str, expected: &[(&str, &str)]) {
    let seen = read_from_simulator(devices);
    for ((point, shown), (name, wanted)) in seen.iter().zip(expected) {
        assert_eq!(point, name);
        assert!(shown.contains(wanted), "{point}: {shown}");
    }
    assert_eq!(seen.len(), expected.len(), "{seen:?}");
}

const CONSTANT: &str = "every: 200ms, simulate: { shape: constant, from: ";

#[test]
fn a_simulated_m_bus_is_read_by_both_kinds_of_address() {
    let many: String = (1..=30)
        .map(|storage| {
            format!("    kept-{storage:02}: {{ mbus: {{ kind: energy, storage: {storage} }}, {CONSTANT}{storage} }} }}\n")
        })
        .collect();
    let yaml = format!(
        r"- name: heat
  line: l
  mbus: {{ address: 5 }}
  points:
    energy: {{ mbus: {{ kind: energy }}, {CONSTANT}1234.5 }} }}
    energy-mj: {{ mbus: {{ kind: energy, tariff: 1 }}, unit: MJ, {CONSTANT}36 }} }}
    flow: {{ mbus: {{ kind: volume_flow, function: maximum }}, unit: l/h, {CONSTANT}113 }} }}
- name: water
  line: l
  mbus: {{ identification: '12345678', manufacturer: PAD, version: 1, medium: 7 }}
  points:
    volume: {{ mbus: {{ kind: volume }}, {CONSTANT}12.565 }} }}
{many}- name: other
  line: l
  mbus: {{ identification: '8765FFFF' }}
  points:
    volume: {{ mbus: {{ kind: volume }}, {CONSTANT}7 }} }}
- name: absent
  line: l
  mbus: {{ address: 6 }}
  points:
    power: {{ mbus: {{ kind: power, index: 3 }}, {CONSTANT}1 }} }}
"
    );
    let mut expected = vec![
        ("absent.power".to_owned(), "6".to_owned()),
        ("heat.energy".to_owned(), "1234.5 kWh".to_owned()),
        ("heat.energy-mj".to_owned(), "36 MJ".to_owned()),
        ("heat.flow".to_owned(), "113 l/h".to_owned()),
        ("other.volume".to_owned(), "7 m3".to_owned()),
    ];
    expected.extend((1..=30).map(|n| (format!("water.kept-{n:02}"), format!("{n} kWh"))));
    expected.push(("water.volume".to_owned(), "12.565 m3".to_owned()));
    expected[0].1 = "records, none with index 3".to_owned();
    let rows: Vec<(&str, &str)> = expected
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    check(&yaml, &rows);
}

/// Expected rows are `code|unit|value`, as another parser reads them.
#[test]
fn captured_streams_of_sml_meters_mean_what_another_parser_reads() {
    let (mut compared, mut wrong) = (0, Vec::new());
    for path in files("sml", "hex") {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let stream = bytes_of(&fs::read_to_string(&path).unwrap());
        let entries = first_list(&stream);
        let expected = fs::read_to_string(path.with_extension("values")).unwrap();
        for row in expected.lines() {
            let parts: Vec<&str> = row.split('|').collect();
            let [code, unit, value] = parts[..] else {
                panic!("{name}: {row}");
            };
            let value: f64 = value.parse().unwrap();
            let code: Obis = code.parse().unwrap();
            let entry = entries.iter().find(|entry| entry.obis == code);
            let read = entry.and_then(|entry| match (&entry.value, entry.unit) {
                (EntryValue::Number(number), Some(own)) => {
                    number.converted(own, MeterUnit::named(unit)?)
                }
                (EntryValue::Number(number), None) => Some(number.value()),
                _ => None,
            });
            let is_same = read.is_some_and(|read| (read - value).abs() <= 1e-9 * value.abs());
            if !is_same {
                wrong.push(format!("{name}: {row} is {read:?}"));
            }
            compared += usize::from(is_same);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared >= 45, "{compared} values");
}

/// The values of the first frame that has any.
fn first_list(stream: &[u8]) -> Vec<ListEntry> {
    let mut framer = SmlFramer::default();
    // In pieces, as a serial port gives them.
    for piece in stream.chunks(7) {
        framer.push(piece);
        while let Some(frame) = framer.next_frame() {
            let entries = entries(&frame);
            if !entries.is_empty() {
                return entries;
            }
        }
    }
    Vec::new()
}

#[test]
fn a_simulated_meter_that_sends_sml_is_heard() {
    let yaml = format!(
        r"- name: grid
  line: l
  sml: {{ silent_after: 5s }}
  points:
    import: {{ obis: '1-0:1.8.0*255', {CONSTANT}4321.5 }} }}
    power: {{ obis: 1-0:16.7.0, unit: kW, {CONSTANT}-1.25 }} }}
    missing: {{ obis: 1-0:2.8.0, every: 1s, unit: MWh, {CONSTANT2} }}
",
        CONSTANT2 = "simulate: { shape: constant, from: 2 }"
    );
    check(
        &yaml,
        &[
            ("grid.import", "4321.5 kWh"),
            ("grid.missing", "2 MWh"),
            ("grid.power", "-1.25 kW"),
        ],
    );
}
