//! What a reading takes on disk in an outbox: scans of 50 points, each scan a commit of its own.

use std::path::Path;
use std::time::Duration;

use wellhead::message::{Lane, SessionLost};
use wellhead::mqtt::{Properties, QoS, TopicName};
use wellhead::outbox::{self, Outgoing, Settings, WhenFull};
use wellhead::payload::Payload;
use wellhead::reading::{PointId, Quality, Reading, Timestamp, Value};
use wellhead::time::moment;

const POINTS: u32 = 50;
const SCANS: u32 = 2_000;

/// The kinds of instruments, each with the values of its points.
type MakeValue = fn(u32, &mut fastrand::Rng) -> Value;

const PLANTS: [(&str, MakeValue); 3] = [
    ("16-bit registers with a scale", |_, random| scaled(random)),
    ("32-bit floats", |_, random| float(random)),
    ("both, counters and coils", |point, random| {
        match point % 10 {
            0..6 => scaled(random),
            6..8 => float(random),
            8 => Value::UInt(4_000_000_000 + u64::from(random.u32(..1_000))),
            _ => Value::Bool(random.bool()),
        }
    }),
];

fn scaled(random: &mut fastrand::Rng) -> Value {
    Value::F64(f64::from(random.u16(..)) / 10.0)
}

fn float(random: &mut fastrand::Rng) -> Value {
    Value::F32(random.f32() * 400.0)
}

/// Prints the bytes of a reading for each kind, `disk_use` being the size of a folder.
pub(crate) fn readings(disk_use: impl Fn(&Path) -> u64) {
    println!("\nreadings waiting in an outbox, {SCANS} scans of {POINTS} points, a commit a scan");
    println!(
        "{:>32} {:>16} {:>22}",
        "points", "B a reading", "readings in 1 GB, M"
    );
    for (name, value) in PLANTS {
        let bytes = bytes_per_reading(value, &disk_use);
        println!("{name:>32} {bytes:>16.2} {:>22.0}", 1e3 / bytes);
    }
}

fn bytes_per_reading(value: MakeValue, disk_use: &impl Fn(&Path) -> u64) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let partitions = runtime.block_on(async {
        let settings = Settings {
            save_every: Duration::from_millis(1),
            total_bytes: 1 << 30,
            age: None,
            when_full: WhenFull::DropOldest,
        };
        let (outbox, _closed) = outbox::open("bench", folder.path(), settings).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        for scan in 0..=SCANS {
            let mut receipts = Vec::new();
            for point in 0..POINTS {
                let reading = reading(scan, point, value(point, &mut random));
                receipts.push(outbox.append(Lane::Live, &reading).await.unwrap());
            }
            for receipt in receipts {
                receipt.stored().await.unwrap();
            }
            if scan == 0 {
                // Until their columns are durable, readings are stored as messages.
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        disk_use(&folder.path().join("live"))
    });
    // A partition is made ahead of need: it holds nothing yet.
    let ahead: u64 = std::fs::read_dir(folder.path().join("live"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("new-"))
        .map(|entry| disk_use(&entry.path()))
        .sum();
    (partitions - ahead) as f64 / f64::from(SCANS * POINTS)
}

/// A scan takes five requests of ten points, 20 ms apart.
fn reading(scan: u32, point: u32, value: Value) -> Outgoing {
    let now = moment();
    let later = i64::from(scan) * 10_000 + i64::from(point / 10) * 20;
    let mut time = Timestamp::from(now);
    time.unix_ms = 1_769_847_330_250 + later;
    if let Some(since_boot) = &mut time.since_boot {
        since_boot.ms = 60_000 + later;
    }
    Outgoing {
        topic: TopicName::new(format!("plant/pump-7/point-{point}")).unwrap(),
        qos: QoS::AtLeastOnce,
        retain: true,
        if_session_lost: SessionLost::Resend,
        enqueued: time,
        properties: Properties::default(),
        payload: Payload::Reading(Box::new(Reading {
            point: PointId(point),
            value: Some(value),
            time,
            quality: Quality::Good,
            age: Duration::ZERO,
        })),
        rated: None,
        source: None,
    }
}
