//! Bytes of the payload for a reading, by format and by how many readings share a message: a plant
//! of 50 points that is read every 10 s. Topics, headers and acknowledgements come on top, once a
//! message.
//!
//! `cargo bench --bench formats`

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss)]

use std::time::Duration;

use wellhead::mqtt::TopicName;
use wellhead::payload::{
    BatchTerms, NamedReading, PayloadFormat, PayloadTemplate, PointNames, ReadingFormat,
};
use wellhead::reading::{PointId, Quality, Reading, Timestamp, Value};

/// Points by kind: scaled registers, counters, 32-bit floats, words of status.
const POINTS: [(Kind, usize); 4] = [
    (Kind::Scaled, 34),
    (Kind::Counter, 5),
    (Kind::Float, 3),
    (Kind::Status, 8),
];
const EVERY_MS: i64 = 10_000;
const START_MS: i64 = 1_800_000_000_000;
/// Scans that share a message: those of 10 s, 1 min, 200 s and 10 min.
const SCANS: [usize; 4] = [1, 6, 20, 60];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Scaled,
    Counter,
    Float,
    Status,
}

/// One point on its way.
struct Point {
    kind: Kind,
    names: PointNames,
    raw: i64,
}

impl Point {
    fn next(&mut self, random: &mut fastrand::Rng) -> Value {
        match self.kind {
            Kind::Scaled => {
                self.raw += random.i64(-3..=3);
                Value::F64(self.raw as f64 / 10.0)
            }
            Kind::Counter => {
                self.raw += random.i64(0..20);
                Value::UInt(self.raw.unsigned_abs())
            }
            Kind::Float => {
                self.raw += random.i64(-50..=50);
                #[allow(clippy::cast_possible_truncation)]
                Value::F32(self.raw as f32 / 997.0)
            }
            Kind::Status => Value::UInt(self.raw.unsigned_abs() % 4),
        }
    }
}

fn plant(random: &mut fastrand::Rng) -> Vec<Point> {
    let kinds = POINTS
        .iter()
        .flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count));
    let point = |(number, kind): (usize, Kind)| {
        let topic = TopicName::new(format!("plant-7/pump/sensor{number:02}")).unwrap();
        Point {
            kind,
            names: PointNames::of_topic(&topic),
            raw: random.i64(200..100_000),
        }
    };
    kinds.enumerate().map(point).collect()
}

fn reading(scan: usize, value: Value) -> Reading {
    Reading {
        point: PointId(0),
        value: Some(value),
        time: Timestamp::at(START_MS + EVERY_MS * i64::try_from(scan).unwrap()),
        quality: Quality::Good,
        age: Duration::ZERO,
    }
}

fn formats() -> Vec<(&'static str, PayloadFormat)> {
    let template = PayloadTemplate::new(r#"{"{point}": {value}, "ts": {time_ms}}"#).unwrap();
    vec![
        ("json", PayloadFormat::Json),
        ("value", PayloadFormat::Value),
        ("template", PayloadFormat::Template(template)),
        ("line", PayloadFormat::Line),
        ("senml", PayloadFormat::Senml),
        ("scan", PayloadFormat::Scan),
    ]
}

fn main() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut points = plant(&mut random);
    let most = SCANS.into_iter().max().unwrap();
    let mut readings: Vec<(Reading, PointNames)> = Vec::new();
    for scan in 0..most {
        for point in &mut points {
            let value = point.next(&mut random);
            readings.push((reading(scan, value), point.names.clone()));
        }
    }
    println!("payload bytes a reading, {} points", points.len());
    print!("{:>10} {:>8}", "format", "alone");
    for scans in SCANS {
        print!(" {:>8}", format!("{scans} x {}", points.len()));
    }
    println!();
    for (name, payload) in formats() {
        row(name, payload, &readings, points.len());
    }
}

fn row(name: &str, payload: PayloadFormat, readings: &[(Reading, PointNames)], points: usize) {
    let takes_several = payload.takes_several();
    let format = ReadingFormat {
        payload,
        batch: Some(BatchTerms {
            every: Duration::from_secs(10),
            up_to: 8_000,
        }),
    };
    let named: Vec<NamedReading<'_>> = readings
        .iter()
        .map(|(reading, names)| NamedReading {
            reading,
            time: reading.time,
            names,
        })
        .collect();
    let bytes = |together: usize| {
        let payloads = named
            .chunks(together)
            .filter_map(|some| format.encode_all(some));
        let total: usize = payloads.map(|payload| payload.len()).sum();
        total as f64 / named.len() as f64
    };
    print!("{name:>10} {:>8.1}", bytes(1));
    for scans in SCANS {
        if takes_several {
            print!(" {:>8.2}", bytes(scans * points));
        }
    }
    println!();
}
