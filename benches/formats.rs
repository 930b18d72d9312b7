//! Bytes of the payload for a reading, by format and by how many readings share a message: a plant
//! of 50 points that is read every 10 s. Topics, headers and acknowledgements come on top, once a
//! message.
//!
//! `cargo bench --bench formats`; with `-- FILE.csv` the registers of another plant.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use wellhead::mqtt::TopicName;
use wellhead::payload::{
    Compression, NamedReading, PayloadFormat, PayloadTemplate, PointNames, ReadingFormat,
};
use wellhead::reading::{PointId, Quality, Reading, Timestamp, Value};

use packed::Known;
use plant::{PlantColumn, RegisterKind};

#[path = "support/packed.rs"]
mod packed;
#[path = "support/plant.rs"]
mod plant;

const EVERY_MS: i64 = 10_000;
const START_MS: i64 = 1_800_000_000_000;
/// Scans that share a message: those of 10 s, 1 min, 200 s, 10 min and 1 h.
const SCANS: [usize; 5] = [1, 6, 20, 60, 360];
/// The scans that are written, after those from which a format may learn.
const WRITTEN: std::ops::Range<usize> = 2160..2880;

/// The names of a column and its readings.
struct PointReadings {
    names: PointNames,
    readings: Vec<Reading>,
}

impl PointReadings {
    fn of(column: &PlantColumn) -> Self {
        let topic = TopicName::new(format!("plant-7/pump/{}", column.name)).unwrap();
        Self {
            names: PointNames::of_topic(&topic),
            readings: (0..)
                .zip(&column.raw)
                .map(|(scan, raw)| reading(scan, value(column, *raw)))
                .collect(),
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn value(column: &PlantColumn, raw: f64) -> Value {
    match column.kind {
        RegisterKind::Scaled => Value::F64(raw / 10_f64.powi(column.decimals.into())),
        RegisterKind::Counter | RegisterKind::Status => Value::UInt(raw as u64),
        RegisterKind::Float => Value::F32(raw as f32),
    }
}

fn reading(scan: i64, value: Value) -> Reading {
    Reading {
        point: PointId(0),
        value: Some(value),
        time: Timestamp::at(START_MS + EVERY_MS * scan),
        quality: Quality::Good,
        age: Duration::ZERO,
    }
}

fn formats() -> Vec<(&'static str, ReadingFormat)> {
    let template = PayloadTemplate::new(r#"{"{point}": {value}, "ts": {time_ms}}"#).unwrap();
    let compressed = |payload: PayloadFormat, compression| ReadingFormat {
        compression,
        ..payload.into()
    };
    vec![
        ("json", PayloadFormat::Json.into()),
        ("value", PayloadFormat::Value.into()),
        ("template", PayloadFormat::Template(template).into()),
        ("line", PayloadFormat::Line.into()),
        ("senml", PayloadFormat::Senml.into()),
        ("object", PayloadFormat::Object.into()),
        ("scan", PayloadFormat::Scan.into()),
        (
            "scan + deflate",
            compressed(PayloadFormat::Scan, Compression::Deflate),
        ),
        (
            "scan + brotli",
            compressed(PayloadFormat::Scan, Compression::Brotli),
        ),
        ("columns", PayloadFormat::Columns.into()),
        (
            "columns + deflate",
            compressed(PayloadFormat::Columns, Compression::Deflate),
        ),
        (
            "columns + brotli",
            compressed(PayloadFormat::Columns, Compression::Brotli),
        ),
    ]
}

fn main() {
    let file = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"));
    let columns = match file {
        Some(file) => plant::from_csv(&PathBuf::from(file)),
        None => plant::plant(7),
    };
    let points: Vec<PointReadings> = columns.iter().map(PointReadings::of).collect();
    let by_scan = |scan: usize| points.iter().map(move |point| named(point, scan));
    let mut all: Vec<NamedReading<'_>> = (0..WRITTEN.end).flat_map(by_scan).collect();
    for (number, reading) in (1..).zip(&mut all) {
        reading.number = number;
    }
    let (before, readings) = all.split_at(WRITTEN.start * points.len());
    println!("payload bytes a reading, {} points", points.len());
    print!("{:>18} {:>8}", "format", "alone");
    for scans in SCANS {
        print!(" {:>8}", format!("{scans} x {}", points.len()));
    }
    println!(" {:>12}", "ns a reading");
    for (name, format) in formats() {
        row(name, &format, readings, points.len());
    }
    for known in Known::ALL {
        row_of_pack(known, before, readings, points.len());
    }
}

fn row_of_pack(
    known: Known,
    before: &[NamedReading<'_>],
    readings: &[NamedReading<'_>],
    points: usize,
) {
    let schema = known.schema(before);
    print!("{:>18} {:>8}", known.name(), "");
    for scans in SCANS {
        print!(" {:>8.3}", packed::bytes(&schema, readings, scans * points));
    }
    let start = Instant::now();
    packed::bytes(&schema, readings, 20 * points);
    println!(" {:>12.0}", nanoseconds_each(start, readings.len()));
}

#[allow(clippy::cast_precision_loss)]
fn nanoseconds_each(start: Instant, readings: usize) -> f64 {
    start.elapsed().as_nanos() as f64 / readings as f64
}

fn named(point: &PointReadings, scan: usize) -> NamedReading<'_> {
    let reading = &point.readings[scan];
    NamedReading {
        reading,
        time: reading.time,
        names: &point.names,
        number: 0,
    }
}

#[allow(clippy::cast_precision_loss)]
fn row(name: &str, format: &ReadingFormat, readings: &[NamedReading<'_>], points: usize) {
    let bytes = |together: usize| {
        let payloads = readings.chunks(together);
        let payloads = payloads.filter_map(|some| format.encode(some));
        let total: usize = payloads.map(|payload| payload.len()).sum();
        total as f64 / readings.len() as f64
    };
    print!("{name:>18} {:>8.1}", bytes(1));
    let most = if format.payload.is_of_one_time() {
        1
    } else {
        SCANS.len()
    };
    for scans in SCANS.into_iter().take(most) {
        if format.payload.takes_several() {
            print!(" {:>8.3}", bytes(scans * points));
        }
    }
    if format.payload.takes_several() && most > 1 {
        let start = Instant::now();
        bytes(20 * points);
        print!(" {:>12.0}", nanoseconds_each(start, readings.len()));
    }
    println!();
}
